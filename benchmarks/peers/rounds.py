"""Run one contestant once, or all of them in alternating rounds."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from typing import Optional

import attr

from benchmarks.peers import cpu, tally

POLL = 0.01
START_LIMIT = 30.0


@attr.s(frozen=True, auto_attribs=True)
class Contestant:
    """A module, and how many jobs at once one process of it runs: for no-op jobs what is best for it, for sleeps 8."""

    name: str
    module: str
    width: int
    sleeping_width: int = 8
    ours: bool = False

    @property
    def code(self):
        return importlib.import_module("benchmarks.peers." + self.module)


CONTESTANTS = (
    Contestant("elk, window 8", "with_elk", 8, ours=True),
    Contestant("elk, window 64", "with_elk", 64, 64, ours=True),
    Contestant("Huey", "with_huey", 4),
    Contestant("taskiq", "with_taskiq", 100),
    Contestant("Dramatiq", "with_dramatiq", 8),
    Contestant("Dramatiq bare", "with_dramatiq_bare", 8),
    Contestant("Celery threads", "with_celery", 8),
    Contestant("Celery prefork", "with_celery_prefork", 1),
    Contestant("RQ", "with_rq", 1, 1),
)


@attr.s(frozen=True, auto_attribs=True)
class Drain:
    """One run: *done* jobs in *seconds*; *drained*: that was all of them; CPU time in microseconds per job."""

    done: int
    seconds: float
    drained: bool
    workers_cpu: Optional[float]
    server_cpu: Optional[float]

    @property
    def rate(self):
        return self.done / self.seconds if self.seconds else 0.0


def start(contestant, url, width, defaults=False):
    """Start a worker process up to the point where it waits for a line."""
    given = {"url": url, "width": width, "defaults": defaults}
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.peers.process", contestant.module, "work", json.dumps(given)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if not os.environ.get("BENCH_SHOW") else None,
        env=_environment(url, defaults),
        start_new_session=True,
    )


def _environment(url, defaults):
    return dict(os.environ, BENCH_URL=url, BENCH_FAST="" if defaults else "1", PYTHONWARNINGS="ignore")


def loaded(process):
    if process.stdout.readline().strip() != b"loaded":
        raise RuntimeError("a worker process did not start; BENCH_SHOW=1 shows what it says")


def go(process):
    process.stdin.write(b"go\n")
    process.stdin.flush()


def kill(process):
    """Kill -9 the process and what it forked."""
    for member in cpu.members(process.pid) or [process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(BrokenPipeError):
            pipe.close()


@contextlib.contextmanager
def workers(contestant, url, count, width, defaults=False):
    """Have *count* processes that wait for :func:`go`; kill them at the end."""
    running = []
    try:
        for _ in range(count):
            running.append(start(contestant, url, width, defaults))
        for process in running:
            loaded(process)
        yield running
    finally:
        for process in running:
            kill(process)


def enqueue(contestant, url, count, seconds):
    """Put the jobs there from a process of its own; return the seconds that took, without the start of Python."""
    given = json.dumps({"url": url, "count": count, "seconds": seconds})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers.process", contestant.module, "enqueue", given],
        stdout=subprocess.PIPE,
        env=_environment(url, False),
        check=True,
    )
    return float(done.stdout)


def snapshot(client):
    """Return all keys as they are, so that the same backlog stands there in each round without enqueuing it again."""
    keys = list(client.scan_iter(count=1000))
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.dump(key)
        return list(zip(keys, pipe.execute()))


def restore(client, saved):
    client.flushall()
    with client.pipeline(transaction=False) as pipe:
        for key, value in saved:
            pipe.restore(key, 0, value)
        pipe.execute()


def drain(contestant, client, url, saved, count, seconds, processes, limit):
    """Drain the backlog.

    The clock runs from the start of the first job of the first process that is ready to the moment when all jobs have
    ended and, if the contestant keeps books, none is outstanding by them; or for *limit* seconds.
    """
    restore(client, saved)
    with workers(contestant, url, processes, contestant.sleeping_width if seconds else contestant.width) as running:
        for process in running:
            go(process)
        give_up = time.monotonic() + START_LIMIT
        reported_at = meter = None
        while True:
            time.sleep(POLL)
            outstanding = contestant.code.outstanding(client)
            now = time.monotonic()
            if outstanding:
                reported_at = None
            elif reported_at is None:
                reported_at = now
            # The tally comes up to 50 ms late; what it says does not.
            done, first, last = tally.read(client)
            if meter is None and first is not None:
                meter = cpu.Meter(client, {process.pid for process in running}, done)
            if done >= count and not outstanding:
                end = last if outstanding is None else max(last, reported_at)
                return Drain(count, end - first, True, *meter.per_job(count))
            if first is not None and now - first > limit:
                return Drain(done, last - first, False, *meter.per_job(done))
            if first is None and now > give_up:
                raise RuntimeError("%s: no job was started within %d s" % (contestant.name, START_LIMIT))


def in_rounds(contestants, client, url, cases, rounds, limit, say):
    """Run every case, a round after the other, every contestant in each. Return {case: {name: [Drain]}} and enqueuing.

    *cases*: (label, jobs, seconds, processes). A round begins with the next contestant, so that nobody is always first.
    """
    backlogs, enqueued = {}, {}
    for contestant in contestants:
        for _, count, seconds, _ in cases:
            kind = (contestant.code.enqueue, count, seconds)  # two pools of one system share a backlog
            if kind not in backlogs:
                client.flushall()
                taken = enqueue(contestant, url, count, seconds)
                backlogs[kind] = snapshot(client)
                enqueued.setdefault(contestant.code.NAME, []).append((count, taken))
    say("enqueued: " + ", ".join("%s %.0f/s" % (name, max(n / t for n, t in runs)) for name, runs in enqueued.items()))
    found = {case[0]: {each.name: [] for each in contestants} for case in cases}
    for number in range(rounds):
        turn = number % len(contestants)
        for label, count, seconds, processes in cases:
            for each in contestants[turn:] + contestants[:turn]:
                saved = backlogs[each.code.enqueue, count, seconds]
                run = drain(each, client, url, saved, count, seconds, processes, limit)
                found[label][each.name].append(run)
                cut = "" if run.drained else " *"
                say("round %d, %s: %-15s %8.0f/s%s" % (number + 1, label, each.name, run.rate, cut))
    return found, enqueued
