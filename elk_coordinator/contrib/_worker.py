"""Run one worker in the main thread of a process until it is told to stop: what ``elk run`` and the commands for Django
and Flask have in common."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Callable, NoReturn, Optional

from elk_coordinator import Coordinator, create_strategy
from elk_coordinator.errors import ElkError, StateError
from elk_coordinator.model import HELD, MAX_BATCH, Outcome, PartitionFilter, PartitionStats, Report
from elk_coordinator.runtime.signals import StopSignals, on_stop
from elk_coordinator.runtime.threads import spawn

#: Exit codes (contract, section 7).
OK = 0
ERROR = 1
SOME_FAILED = 3
#: Seconds for the store to answer at the start: with what Python needs to start itself, an error comes within 5 s.
START_WITHIN = 3.5
#: Seconds per call while giving back what is held, when a second signal came.
GIVE_BACK_WITHIN = 1.0
#: What errands put among the signals.
IDLE, DRAINED = 0, -1

#: Is given one line for people.
Note = Callable[[str], None]


class Errand:
    """One blocking call in a thread of its own, so that the main thread hears signals meanwhile.

    A signal handler runs in the main thread; raising out of it into a call to the store could leave a connection with
    half an answer in it.

    :param ended: called in that thread when the call has ended.
    """

    def __init__(self, name: str, call: Callable[[], bool], ended: Callable[[], None]) -> None:
        self._call = call
        self._ended = ended
        self.result: Optional[bool] = None
        self.error: Optional[Exception] = None
        # Not "elk-...": threads of that name belong to a coordinator, which does not wait for itself.
        spawn("run-" + name, self._run)

    def _run(self) -> None:
        try:
            self.result = self._call()
        except Exception as exc:
            self.error = exc
        finally:
            self._ended()


def run_worker(
    coordinator: Coordinator,
    until_done: bool = False,
    note: Optional[Note] = None,
    done: Optional[Callable[[PartitionStats], None]] = None,
) -> int:
    """Start *coordinator*, run it until a signal or (*until_done*) until nothing is left, drain; return an exit code.

    The first SIGTERM or SIGINT claims nothing more and finishes what runs, up to ``stop_timeout``; a second one gives
    back what is held and leaves the process at once, without returning. Main thread only; the handlers found are put
    back at the end.

    :param note: is told in one line each what happens; default: stderr.
    :param done: is given the last counts when the work was done.
    :return: 0; 1 when not everything ended in time; 3 when the work is done and partitions failed; 128 + the signal's
        number when *until_done* was broken off.
    :raises ElkError: the coordinator could not start, or under *until_done* whether all is done could not be found out;
        nothing runs.
    :raises StateError: called from another thread than the main one.
    """
    say = _never_raising(note or _to_stderr)
    signals = StopSignals()
    with on_stop(signals.put):
        coordinator.start()
        say("%s: worker %s runs; %s" % (coordinator.namespace, coordinator.worker_id, _where(coordinator)))
        wait = Errand("wait", coordinator.wait_idle, lambda: signals.put(IDLE)) if until_done else None
        signum = signals.wait() or IDLE
        stats: Optional[PartitionStats] = None
        try:
            if wait is not None and signum == IDLE:
                # It may have ended without an answer, and then nothing is known to be done.
                if wait.error is not None:
                    raise wait.error
                if not wait.result:
                    raise StateError("the coordinator was stopped before the work was done")
                stats = coordinator.strategy.get_partition_stats()
            else:
                say("signal %d: finishing what runs; another signal stops at once" % signum)
        finally:
            clean = _drain(coordinator, signals, say)
    if stats is None:
        # A stop is what a service is for; under until_done it means that the work is not done.
        return 128 + signum if until_done else OK if clean else ERROR
    if done is not None:
        done(stats)
    return SOME_FAILED if stats.failed else OK


def _to_stderr(text: str) -> None:
    sys.stderr.write("elk: %s\n" % text)
    sys.stderr.flush()


def _never_raising(note: Note) -> Note:
    """Return *note* for a worker whose terminal may be gone, or whose disk may be full: what it says ends no work."""

    def say(text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            note(text)

    return say


def _where(coordinator: Coordinator) -> str:
    address = coordinator.http_address
    return "metrics and health on http://%s" % address if address else "no metrics and health over HTTP"


def _drain(coordinator: Coordinator, signals: StopSignals, say: Note) -> bool:
    """Stop the coordinator while listening for a second signal; return whether everything ended in time."""
    stop = Errand("stop", coordinator.stop, lambda: signals.put(DRAINED))
    while True:
        heard = signals.wait()
        if heard == DRAINED:
            break
        if heard is not None and heard > 0:
            _exit_now(coordinator, heard, say)
    if stop.error is not None:
        raise stop.error
    if not stop.result:
        say("not everything ended within stop_timeout; what still ran is left to its lease and done again elsewhere")
    return bool(stop.result)


def _exit_now(coordinator: Coordinator, signum: int, say: Note) -> NoReturn:
    """Give back what is held if the store answers quickly, then leave without waiting for anybody."""
    say = _never_raising(say)
    say("signal %d again: stopping at once" % signum)
    strategy = coordinator.strategy
    try:
        # Connections of our own: those of the coordinator may be in the middle of something.
        with contextlib.closing(strategy.store.with_deadline(GIVE_BACK_WITHIN)) as store:
            own = create_strategy(strategy.strategy_type, coordinator.namespace, store)
            me = coordinator.worker_id
            held = own.get_filtered_partitions(PartitionFilter(worker_id=me, statuses=HELD))
            reports = [Report(p.partition_id, p.fencing_token, Outcome.RELEASED) for p in held]
            for start in range(0, len(reports), MAX_BATCH):
                own.report_partitions(me, reports[start : start + MAX_BATCH])
            leader = own.leader()
            if leader is not None and leader[0] == me:
                own.store.release_lock("leader", leader[1])
            own.store.forget(me)
            say("gave back %d partition%s" % (len(held), "" if len(held) == 1 else "s"))
    except ElkError as exc:
        say("could not give back what is held, its leases will run out: %s" % " ".join(str(exc).split()))
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # closed, or None
                stream.flush()
        os._exit(128 + signum)
