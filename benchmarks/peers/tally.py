"""What every job does, and how it is counted: the same code and the same cost for every contestant.

A count on the server per job would add a round trip to each, and would hide what is being compared. So a process notes
the time of each job in a list (some 50 ns), and a thread writes count, first and last time to the server every 50 ms
while something happens. The times are CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import os
import threading
import time

import redis

TALLY = "bench:tally"
STARTED = "bench:started"
FLUSH = 0.05
#: Instead of a duration: the first to start this job hangs, the next returns.
HANG = -1.0


class _Tally:
    def __init__(self, url):
        self.pid = os.getpid()
        self.times = []
        self.client = redis.Redis.from_url(url)
        threading.Thread(target=self._flush, name="tally", daemon=True).start()

    def _flush(self):
        told = 0
        while True:
            time.sleep(FLUSH)
            count = len(self.times)
            if count != told:
                self.client.hset(TALLY, self.pid, "%d %r %r" % (count, self.times[0], self.times[count - 1]))
                told = count


_lock = threading.Lock()
_tally = None


def begin():
    """Connect now instead of in the first job. Knows its server from the environment, as workers may fork."""
    global _tally
    with _lock:
        if _tally is None or _tally.pid != os.getpid():
            _tally = _Tally(os.environ["BENCH_URL"])
    return _tally


def _here():
    return _tally if _tally is not None and _tally.pid == os.getpid() else begin()


def job(seconds):
    """Do nothing, or sleep. Noted at its end; the first one of a process at its beginning, too."""
    here = _here()
    if seconds == HANG:
        if here.client.rpush(STARTED, repr(time.monotonic())) == 1:
            time.sleep(100000)
    if not here.times:
        here.times.append(time.monotonic())
    if seconds:
        time.sleep(seconds)
    here.times.append(time.monotonic())


async def async_job(seconds, sleep):
    """The same for event loops; *sleep* is the sleep of the loop."""
    here = _here()
    if seconds == HANG:
        if here.client.rpush(STARTED, repr(time.monotonic())) == 1:
            await sleep(100000)
    if not here.times:
        here.times.append(time.monotonic())
    if seconds:
        await sleep(seconds)
    here.times.append(time.monotonic())


def read(client):
    """Return what all processes have done: jobs, first start, last end; (0, None, None) before the first."""
    rows = [row.split() for row in client.hvals(TALLY)]
    if not rows:
        return 0, None, None
    # The start of a process is in its list, too.
    done = sum(int(row[0]) - 1 for row in rows)
    return done, min(float(row[1]) for row in rows), max(float(row[2]) for row in rows)
