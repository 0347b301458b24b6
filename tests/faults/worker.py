"""One worker process of a fault test. Configured by one line of JSON on stdin, then obeys words, one a line.

Words: ``stop`` (drain and end), ``go`` (open the gate), ``data`` (the planner may find something), ``step -3600`` (of
the injected wall clock). The end of stdin means that the test is gone. Tells what happens on stdout, one JSON document
a line, each with the time ``t`` of the machine's boot time clock; its log goes to stderr.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import threading
from typing import Any, Dict, Iterator, List, Optional, cast

from elk_coordinator import Coordinator, RedisDataStore, TaskInterrupted
from elk_coordinator.leader.election import Leadership
from elk_coordinator.leader.planner import GuardedPlanner
from elk_coordinator.model import CancelReason
from elk_coordinator.partition.strategy import PartitionStrategy
from elk_coordinator.protocols import EVENT_KINDS, Event, Listener
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.worker.context import Task
from tests.faults import crash_points, network_guards
from tests.faults.clocks import HostClock
from tests.faults.journal import Journal, StaleToken
from tests.faults.odd import odd_answer, odd_plan

CLOCK = Clock()
LOG_FORMAT = "%(asctime)s %(levelname)-7s %(threadName)s %(message)s"
_PR_SET_PDEATHSIG = 1
#: Not told unless asked for: there are too many of them.
QUIET = {"heartbeat", "claimed", "task_started", "task_finished"}


def tell(kind: str, **facts: Any) -> None:
    """Write one line; a line shorter than PIPE_BUF comes out in one piece."""
    line = json.dumps(dict(facts, event=kind, t=CLOCK.monotonic()), default=_text)
    os.write(1, (line if len(line) < 3900 else _short(kind, facts)).encode("utf-8") + b"\n")


def _short(kind: str, facts: Dict[str, Any]) -> str:
    cut = {key: value[-800:] if isinstance(value, str) else value for key, value in facts.items()}
    return json.dumps(dict(cut, event=kind, t=CLOCK.monotonic()), default=_text)


def _text(value: Any) -> str:
    return str(getattr(value, "value", value))


class Teller(Listener):
    """Passes events on to the test."""


def _pass_on(kind: str) -> Any:
    def handler(self: Teller, event: Event) -> None:
        tell(kind, **event.facts)

    return handler


class Numbers:
    """A planner over the given blocks of IDs, without gaps inside a block.

    ``gate``: the first question waits for ``go`` and tells ``asked``. ``dry``: finds nothing before ``data``.
    ``odd``, ``odd_plans``: names of what the first questions get, before it behaves (see ``odd.py``).
    """

    def __init__(self, config: Dict[str, Any], gate: threading.Event, data: threading.Event) -> None:
        self._blocks = [tuple(block) for block in config["blocks"]]
        self._size = config.get("size", 10)
        self._gated = config.get("gate", False)
        self._dry = config.get("dry", False)
        self._pause = config.get("pause", 0.0)
        self._gate = gate
        self._data = data
        self._odd = list(config.get("odd", ()))
        self._odd_plans = list(config.get("odd_plans", ()))
        if config.get("sees_data"):
            self.has_data = self._has_data
        if self._odd_plans:
            self.plan = self._plan

    def partition_size(self, ctx: Any) -> int:
        return self._size

    def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> int:
        if self._gated or self._dry or self._pause:
            tell("asked", start=start_id, term=ctx.term)
        if self._gated:
            self._gated = False
            self._gate.wait()
            tell("answered")
        if self._pause:
            ctx.wait(self._pause)
        if self._dry and not self._data.is_set():
            return start_id
        if self._odd:
            return cast(int, odd_answer(self._odd.pop(0), start_id))
        end = start_id + range_size
        return max([min(high, end) for low, high in self._blocks if low <= end] + [start_id])

    def _plan(self, ctx: Any, start_id: int, limit: int) -> Iterator[Any]:
        if self._odd_plans:
            return odd_plan(self._odd_plans.pop(0), start_id)
        (low, high), first = self._blocks[0], start_id + 1
        starts = range(max(low, first), high + 1, self._size)
        return iter([(at, min(at + self._size - 1, high)) for at in starts[:limit]])

    def _has_data(self, ctx: Any, min_id: int, max_id: int) -> bool:
        return any(low <= max_id and high >= min_id for low, high in self._blocks)


class Work:
    """The processor: ``steps`` fenced writes a partition, ``pause`` seconds before each.

    ``look``: "raise" (TaskInterrupted), "return" (breaks off and returns normally) or "never".
    ``hold``: keep at the gate: "first" the first partition of this process, "redelivered" those lost before.
    ``gap``: a held one also goes on when the process stood still for so many seconds.
    ``special``: by the first ID of a partition: "die", "hang", each only the first time in a process.
    """

    def __init__(self, config: Dict[str, Any], journal: Optional[Journal], gate: threading.Event) -> None:
        self._config = config
        self._journal = journal
        self._gate = gate
        self._fenced = config.get("fenced", True)
        self._held = False
        self._hung = False

    def process(self, ctx: Any, min_id: int, max_id: int, options: Dict[str, Any]) -> int:
        journal = self._journal
        if journal is None:
            return max_id - min_id + 1
        config, lo, hi, token = self._config, ctx.partition.min_id, ctx.partition.max_id, ctx.fencing_token
        journal.attempt(ctx, CLOCK.monotonic())
        done_to = journal.take(lo, hi, token, self._fenced)
        special = config.get("special", {}).get(str(lo))
        if special == "die":
            os._exit(23)
        if special == "hang" and not self._hung:
            self._hung = True
            self.hang_for_ever()
        if self._holds(ctx):
            self._hold(ctx)
        steps = config.get("steps", 1)
        pause = config.get("pause", 0.0)
        width = -(-(hi - lo + 1) // steps)
        first = done_to + 1
        while first <= hi:
            last = min(hi, lo + ((first - lo) // width + 1) * width - 1)
            if not self._go_on(ctx, pause):
                return 0
            at = CLOCK.monotonic()
            journal.unguarded(first, last, token, ctx.worker_id, at)
            try:
                journal.apply(lo, hi, token, first, last, ctx.worker_id, at, self._fenced)
            except StaleToken:
                if config.get("look") != "never":
                    raise
                # Does not look and does not care: goes on to claim that it is complete.
                return hi - lo + 1
            if config.get("checkpoint"):
                tell("checkpoint", partition_id=ctx.partition.partition_id, durable=ctx.checkpoint(last))
            first = last + 1
        return hi - lo + 1

    def _go_on(self, ctx: Any, pause: float) -> bool:
        look = self._config.get("look", "raise")
        if look == "never":
            if pause:
                threading.Event().wait(pause)
            return True
        if not (ctx.wait(pause) if pause else ctx.cancelled.is_set()):
            return True
        assert self._journal is not None
        self._journal.look(ctx, True, _text(ctx.cancel_reason), CLOCK.monotonic())
        if look == "raise":
            ctx.raise_if_cancelled()
        return False

    def _holds(self, ctx: Any) -> bool:
        hold = self._config.get("hold")
        if hold == "first" and not self._held:
            self._held = True
            return True
        return hold == "all" or (hold == "redelivered" and ctx.partition.deliveries > 0)

    def _hold(self, ctx: Any) -> None:
        gap, last = self._config.get("gap"), CLOCK.monotonic()
        tell("holding", partition_id=ctx.partition.partition_id, token=ctx.fencing_token)
        while not self._gate.wait(0.002):
            now = CLOCK.monotonic()
            if gap is not None and now - last > gap:
                self._after_freeze(ctx, now - last)
                return
            last = now

    def _after_freeze(self, ctx: Any, seconds: float) -> None:
        """The first thing the user's code does after it stood still."""
        assert self._journal is not None
        if self._config.get("look") != "never":
            cancelled = ctx.cancelled.is_set()
            self._journal.look(ctx, cancelled, _text(ctx.cancel_reason), CLOCK.monotonic())
            try:
                answer = str(ctx.checkpoint(ctx.partition.min_id))
            except TaskInterrupted:
                answer = "interrupted"
            tell("after_freeze", seconds=seconds, cancelled=cancelled, checkpoint=answer)
            # Believes in itself all the same: what it writes now is for the fence to judge.
            self._config = dict(self._config, look="never")
        else:
            tell("after_freeze", seconds=seconds)

    def hang_for_ever(self) -> None:
        """Hang until the test opens the gate; a name to find in a stack."""
        tell("hanging")
        self._gate.wait()


def break_guard(name: str) -> None:
    """Switch off a guard of the library in this process: the control of a test."""
    if name in network_guards.GUARDS:
        network_guards.GUARDS[name]()
        return
    if name == "term":
        # A leader believes in its term until somebody tells it otherwise.
        Leadership.term = property(Leadership.held)  # type: ignore[assignment, method-assign]
        return
    if name == "answers":
        GuardedPlanner._id = lambda self, name, value, low=0: value  # type: ignore[method-assign, assignment]
        return
    if name != "lease":
        raise ValueError(name)
    original = Task.reason

    def never_lost(self: Task) -> Optional[CancelReason]:
        reason = original(self)
        return None if reason is CancelReason.LEASE_LOST else reason

    Task.reason = never_lost  # type: ignore[method-assign]
    Task.lost = lambda self: False  # type: ignore[method-assign]


def die_with(parent: int) -> None:
    """End when the test does, also while frozen."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def tell_plans(die_after: Optional[int] = None) -> None:
    """Tell what became of every plan that is sent; die when so many were accepted."""
    original = PartitionStrategy.plan_partitions
    accepted = []

    def plan(self: Any, state: Any, term: int, partitions: Any, skipped: Any) -> Any:
        try:
            answer = original(self, state, term, partitions, skipped)
        except Exception as exc:
            tell("plan", term=term, error=type(exc).__name__)
            raise
        tell("plan", term=term, error="", count=len(partitions))
        accepted.append(term)
        if len(accepted) == die_after:
            os._exit(24)
        return answer

    PartitionStrategy.plan_partitions = plan  # type: ignore[method-assign]


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = json.loads(sys.stdin.readline())
    die_with(config["parent"])
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=LOG_FORMAT)
    told = set(config["tell"]) if config.get("tell") is not None else set(EVENT_KINDS) - QUIET
    told |= set(config.get("tell_also", ()))
    for kind in told & set(EVENT_KINDS):
        setattr(Teller, "on_" + kind, _pass_on(kind))
    gate, data = threading.Event(), threading.Event()
    journal = Journal(config["journal"], config["namespace"]) if config.get("journal") else None
    planner = Numbers(config["planner"], gate, data) if config.get("planner") else None
    for name in config.get("broken", ()):
        break_guard(name)
    store = RedisDataStore.from_url(config["url"])
    for path, old, new in config.get("scripts", ()):
        store.scripts.replace(path, old, new)
    processor: Any = Work(config.get("work", {}), journal, gate)
    if config.get("crash") and journal is not None:
        processor = crash_points.install(config["crash"], journal, tell)
    clock = HostClock(**config["clock"]) if config.get("clock") else None
    coordinator = Coordinator(
        config["namespace"], store, processor, planner, worker_id=config["name"], listeners=(Teller(),), clock=clock,
        **config["options"],
    )  # fmt: skip
    if "plan" in told:
        tell_plans(config.get("die_after_plans"))
    coordinator.start()
    tell("up", pid=os.getpid())
    for line in sys.stdin:
        word = line.strip()
        if word == "go":
            gate.set()
        elif word == "shut":
            gate.clear()
        elif word == "data":
            data.set()
        elif word.startswith("step ") and clock is not None:
            clock.step(float(word[5:]))
        elif word == "health":
            tell("health", **coordinator.health().to_dict())
        elif word == "stop":
            break
    else:
        os._exit(1)  # the test is gone
    began = CLOCK.monotonic()
    clean = coordinator.stop()
    store.close()
    tell("ended", clean=clean, seconds=CLOCK.monotonic() - began, threads=threads_left())
    return 0 if clean else 1


def threads_left() -> List[str]:
    """Return the library's threads that have not ended within two seconds."""
    until = CLOCK.monotonic() + 2.0
    while True:
        left = [thread for thread in threading.enumerate() if thread.name.startswith("elk-")]
        if not left or CLOCK.monotonic() > until:
            return sorted(thread.name for thread in left)
        left[0].join(0.05)


if __name__ == "__main__":
    sys.exit(main())
