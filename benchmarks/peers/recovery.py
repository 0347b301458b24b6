"""How long until the job of a killed worker runs again, with default settings.

One job, two processes. The first has the job in hand and is killed with signal 9, with its children; the second was
started meanwhile and is idle. All contestants at the same time, each in its own database of the server.
"""

from __future__ import annotations

import contextlib
import time

import redis

from benchmarks.peers import rounds, tally

#: Not measured twice: what differs between windows and pools is not the recovery.
WHO = ("elk, window 8", "Huey", "taskiq", "Dramatiq", "Celery prefork", "RQ")
START_LIMIT = 60.0


def measure(contestants, url, cap, say):
    """Return {name: seconds, None when it did not come back within *cap* seconds}.

    None is only said of those whose second process then runs another job: it was there and could have.
    """
    measured = [each for each in contestants if each.name in WHO]
    found, waiting = {}, {}
    with contextlib.ExitStack() as stack:
        for number, each in enumerate(measured):
            name, own_url = each.code.NAME, "%s/%d" % (url.rsplit("/", 1)[0], number + 1)
            client = stack.enter_context(contextlib.closing(redis.Redis.from_url(own_url)))
            rounds.enqueue(each, own_url, 1, tally.HANG)
            first, second = stack.enter_context(rounds.workers(each, own_url, 2, each.width, defaults=True))
            rounds.go(first)
            _until(lambda client=client: client.llen(tally.STARTED) == 1, name)
            rounds.go(second)
            waiting[name] = (client, first, each, own_url)
        time.sleep(5)  # the second processes settle; the jobs would hang for a day
        killed_at = {}
        for name, (_, first, _, _) in waiting.items():
            rounds.kill(first)
            killed_at[name] = time.monotonic()
        give_up = time.monotonic() + cap
        while waiting and time.monotonic() < give_up:
            time.sleep(0.05)
            for name, (client, *_) in list(waiting.items()):
                starts = client.lrange(tally.STARTED, 0, -1)
                if len(starts) > 1:
                    found[name] = float(starts[1]) - killed_at[name]
                    say("recovery, %s: %.1f s" % (name, found[name]))
                    del waiting[name]
        for name, (client, _, each, own_url) in waiting.items():
            rounds.enqueue(each, own_url, 1, tally.HANG)  # which returns, as another was started before
            _until(lambda client=client: client.llen(tally.STARTED) > 1, name)
            say("recovery, %s: not within %d s; the other process runs the next job" % (name, cap))
    return {each.code.NAME: found.get(each.code.NAME) for each in measured}


def _until(condition, name):
    give_up = time.monotonic() + START_LIMIT
    while not condition():
        if time.monotonic() > give_up:
            raise RuntimeError("%s: the job was not started within %d s" % (name, START_LIMIT))
        time.sleep(0.02)
