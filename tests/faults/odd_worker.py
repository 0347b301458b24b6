"""A worker process whose processor does odd things, and that can be wounded: ``worker.py`` with more ways to go wrong.

``deeds`` of the work, by the first ID of a partition: what its processor does there (:meth:`OddWork.process`).
``broken``: guards of the library to switch off (the controls), and ``wounds``: then a file ``kill-<role>`` in the
working directory, with a number in it, ends the thread of that role in so many of its next turns.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import logging
import multiprocessing.util
import os
import subprocess
import sys
import threading
from typing import Any, Callable, Dict, Iterator, List, Type

from elk_coordinator import Coordinator
from elk_coordinator.model import Report
from elk_coordinator.runtime.logs import BoundLogger
from elk_coordinator.runtime.threads import Crew, Role
from elk_coordinator.worker import runner
from elk_coordinator.worker.context import Task
from elk_coordinator.worker.runner import Runner
from elk_coordinator.worker.window import TaskWindow
from tests.faults import worker
from tests.faults.worker import CLOCK, Work, tell

#: So many partitions meet: each waits for the others, so all slots must be alive at the same time.
MEETING = 4


class Vicious(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


def too_much_memory() -> None:
    bytearray(1 << 62)


def without_end(*args: Any) -> None:
    without_end(*args)


def throw(error: BaseException) -> None:
    raise error


#: What a processor may raise; each is a function to find in the traceback.
RAISES: Dict[str, Callable[[], None]] = {
    "MemoryError": too_much_memory,
    "RecursionError": without_end,
    "Vicious": lambda: throw(Vicious()),
}
for _type in (Exception, BaseException, KeyboardInterrupt, SystemExit, GeneratorExit, StopIteration, OSError):
    RAISES[_type.__name__] = lambda error=_type: throw(error("odd"))  # type: ignore[misc]

#: What a processor may return, and what is counted for it: the checkpoint's count, none here, when it is no count.
RETURNS: Dict[str, Any] = {
    "more than there are": 1000, "None": None, "negative": -1, "NaN": float("nan"), "text": "10", "huge": 10**400,
    "just too large": 2**53, "True": True, "a list": [1], "a float": 10.0, "an object": object(),
}  # fmt: skip


class OddWork(Work):
    """The processor."""

    _meeting = threading.Barrier(MEETING)
    _threw = threading.local()
    _again = threading.Event()

    def process(self, ctx: Any, min_id: int, max_id: int, options: Dict[str, Any]) -> Any:
        what, _, how = self._deed(ctx).partition(":")
        first = ctx.attempt == 1 and ctx.partition.deliveries == 0
        if what == "raise":
            self._begin(ctx)
            self._threw.error = None
            try:
                RAISES[how]()
            except BaseException as exc:
                self._threw.error = exc
                raise
        elif what == "hang" and first:
            self._begin(ctx)
            self.hang_for_ever()
            return max_id - min_id + 1
        elif what == "segfault":
            self._begin(ctx)
            ctypes.string_at(0)
        elif what == "exit":
            self._begin(ctx)
            os._exit(23)
        elif what == "meet":
            self._meeting.wait(20.0)
        elif what == "twice" and first:
            # Goes on when the next attempt at the same partition has begun, and claims to have done it all.
            self._begin(ctx)
            tell("first", token=ctx.fencing_token)
            self._again.wait(30.0)
            return max_id - min_id + 1
        elif what == "twice":
            tell("second", token=ctx.fencing_token)
            self._again.set()
            self._gate.wait()
        elif what == "fork" and first and self._fork(how):
            return max_id - min_id + 1  # the child, which goes on as if nothing had happened
        count = super().process(ctx, min_id, max_id, options)
        return RETURNS[how] if what == "return" else count

    def _deed(self, ctx: Any) -> str:
        return str(self._config.get("deeds", {}).get(str(ctx.partition.min_id), ""))

    def _begin(self, ctx: Any) -> None:
        assert self._journal is not None
        self._journal.attempt(ctx, CLOCK.monotonic())
        self._journal.take(ctx.partition.min_id, ctx.partition.max_id, ctx.fencing_token, self._fenced)

    def _fork(self, how: str) -> bool:
        """Fork; return whether this is the child and it comes back from the processor."""
        if how == "multiprocessing":
            child = multiprocessing.get_context("fork").Process(target=int)
            child.start()
            child.join()
        elif how == "subprocess":
            subprocess.run(["true"], check=True)
        else:
            pid = os.fork()
            if pid == 0:
                if how != "return":
                    os._exit(0)
                tell("child", pid=os.getpid())
                return True
            tell("forked", how=how, child=pid, status=os.waitpid(pid, 0)[1])
        return False

    # -- holds the GIL instead of waiting at the gate

    def _holds(self, ctx: Any) -> bool:
        if self._deed(ctx).startswith("gil:"):
            return ctx.partition.deliveries == 0
        return super()._holds(ctx)

    def _hold(self, ctx: Any) -> None:
        deed = self._deed(ctx)
        if not deed.startswith("gil:"):
            super()._hold(ctx)
            return
        seconds = float(deed.partition(":")[2])
        # Just after a beat, so that the lease is fresh; then no other thread runs, as in a bad C extension.
        beats = Beats.count
        while Beats.count == beats:
            threading.Event().wait(0.002)
        tell("holding", partition_id=ctx.partition.partition_id, token=ctx.fencing_token)
        began = CLOCK.monotonic()
        ctypes.PyDLL(None).usleep(int(seconds * 1e6))
        self._after_freeze(ctx, CLOCK.monotonic() - began)


class Beats:
    """Counts the heartbeats of this process that were answered."""

    count = 0


def count_beats() -> None:
    original = Coordinator.on_beat

    def on_beat(self: Coordinator, beat: Any) -> None:
        original(self, beat)
        Beats.count += 1

    Coordinator.on_beat = on_beat  # type: ignore[method-assign]


# ---------------------------------------------------------------- wounds


def bleed(role: str) -> None:
    """End the calling thread, the one of *role*, if the test wants it."""
    with contextlib.suppress(OSError, ValueError):
        with open("kill-" + role) as file:
            left = int(file.read())
        if left > 0:
            with open("kill-" + role, "w") as file:
                file.write("%d" % (left - 1))
            tell("killed", role=role, left=left - 1)
            raise SystemExit("killed by the test")


def every_role() -> Iterator[Type[Role]]:
    waiting: List[Type[Role]] = [Role]
    while waiting:
        for role in waiting.pop().__subclasses__():
            waiting.append(role)
            yield role


def wound_roles() -> None:
    for role in every_role():
        if "run_once" in vars(role):
            role.run_once = wounded(vars(role)["run_once"])


def wounded(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def run_once(self: Any) -> Any:
        bleed(self.name)
        return original(self)

    return run_once


def kill_thread(name: str) -> None:
    """Raise SystemExit in the thread of that name, wherever it is, at its next bytecode."""
    for thread in threading.enumerate():
        if thread.name.startswith(name):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))


# ---------------------------------------------------------------- guards switched off, and things outside that fail


def errors_end_slots() -> None:
    """Catch nothing but Exceptions around the processor."""
    original = Runner.run

    def run(self: Runner, task: Task) -> Report:
        report = original(self, task)
        error = getattr(OddWork._threw, "error", None)
        if error is not None and not isinstance(error, Exception):
            OddWork._threw.error = None
            raise error
        return report

    Runner.run = run  # type: ignore[method-assign]


def count_anything() -> None:
    """Send on as a count whatever the processor returned."""
    Runner._count = lambda self, task, result: result  # type: ignore[method-assign]


def replace_slots_for_ever() -> None:
    TaskWindow._most = lambda self: self.size  # type: ignore[method-assign]
    TaskWindow.exhausted = property(lambda self: False)  # type: ignore[method-assign,assignment]


def nobody_looks_after_the_dead() -> None:
    Crew.supervise = lambda self: None  # type: ignore[method-assign]


def everybody_counts_as_alive() -> None:
    Crew.alive = lambda self, name: True  # type: ignore[method-assign]


def stop_without_draining() -> None:
    """End the threads and leave what is held to its lease."""

    def drain(self: Any, until: float) -> bool:
        self._crew.stop(None, 1.0)
        self._window.close()
        return True

    Coordinator._drain = drain  # type: ignore[method-assign]


def children_go_on_working() -> None:
    runner.end_stray_child = lambda home, logger: None


def log_raises() -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("the log handler is broken")

    logging.getLogger().addHandler(Broken())


def log_errors_go_up() -> None:
    """Let what a handler raises come out of our own calls."""
    BoundLogger.handle = lambda self, record: self.target.handle(record)  # type: ignore[method-assign]


def log_is_full() -> None:
    """Have the log, stdout of the processor and stderr on a full disk."""
    full = open("/dev/full", "w", buffering=1)
    logging.getLogger().addHandler(logging.StreamHandler(full))
    sys.stdout = sys.stderr = full
    # Or the interpreter itself ends with 120: it cannot write what is left.
    atexit.register(lambda: (setattr(sys, "stdout", sys.__stdout__), setattr(sys, "stderr", sys.__stderr__)))


def listeners_raise() -> None:
    original = worker._pass_on

    def pass_on(kind: str) -> Any:
        handler = original(kind)

        def then_raise(self: Any, event: Any) -> None:
            handler(self, event)
            raise SystemExit("a broken listener")

        return then_raise

    worker._pass_on = pass_on


BREAKS: Dict[str, Callable[[], None]] = {
    "alive": everybody_counts_as_alive,
    "child": children_go_on_working,
    "count": count_anything,
    "drain": stop_without_draining,
    "exhausted": replace_slots_for_ever,
    "full": log_is_full,
    "listeners": listeners_raise,
    "log": log_raises,
    "log-guard": log_errors_go_up,
    "slots": errors_end_slots,
    "supervise": nobody_looks_after_the_dead,
    "wounds": wound_roles,
}


def main() -> int:
    original = worker.break_guard
    worker.break_guard = lambda name: BREAKS[name]() if name in BREAKS else original(name)
    worker.Work = OddWork  # type: ignore[misc]
    count_beats()
    # A child would wait for ever to close what the main thread is reading.
    multiprocessing.util._close_stdin = lambda: None  # type: ignore[attr-defined]
    return worker.main()


if __name__ == "__main__":
    sys.exit(main())
