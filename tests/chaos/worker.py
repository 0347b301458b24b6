"""One worker process of a chaos run: configured by a line of JSON on stdin, then told what to suffer, a line each.

Exit codes: 0 clean, 1 not everything ended in time, 3 it could not start, 4 a thread of the library was left.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import pathlib
import random
import signal
import sys
import threading
from typing import Any, Dict

import elk_coordinator
from elk_coordinator import Coordinator, RedisDataStore, StrategyType, TaskInterrupted
from elk_coordinator.errors import ElkError
from elk_coordinator.protocols import Event, Listener
from tests.chaos import journal as j
from tests.chaos.fence import CELL, Fence, Space, StaleToken, steps
from tests.chaos.journal import Writer, now
from tests.faults.worker import LOG_FORMAT, die_with, threads_left

SIZES = (1000, 2000, 3000, 5000)
#: Of 100 attempts so many take so much longer: heirs of an overtaken holder, for one, still run when it comes back.
SLOW, SLOWER = 8, 8.0


class Ordered(Exception):
    """The processor was told to fail."""


class Suffering:
    """What this process was told to suffer, and until when."""

    def __init__(self) -> None:
        self._until: Dict[str, float] = {}
        self._times: Dict[str, int] = {}
        self._lock = threading.Lock()

    def tell(self, what: str, seconds: float, times: int) -> None:
        with self._lock:
            self._until[what] = now() + seconds
            self._times[what] = times

    def of(self, what: str, once: bool = False) -> float:
        """Return the seconds that are left of it; *once*: as often as was told."""
        with self._lock:
            left = max(0.0, self._until.get(what, 0.0) - now())
            if once and left:
                if not self._times.get(what):
                    return 0.0
                self._times[what] -= 1
            return left


class Numbers:
    """Plans all IDs up to where they reach by now."""

    def __init__(self, space: Space, suffering: Suffering, seed: int) -> None:
        self._space = space
        self._suffering = suffering
        self._chance = random.Random(seed)

    def partition_size(self, ctx: Any) -> int:
        return self._chance.choice(SIZES)

    def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> Any:
        if self._suffering.of("planner raises"):
            raise Ordered("the planner was told to fail")
        if self._suffering.of("planner talks nonsense"):
            return self._chance.choice([None, 1.5, True, "7", float("nan"), 2**63])
        hang = self._suffering.of("planner hangs", once=True)
        if hang:
            threading.Event().wait(hang)
        return max(start_id, min(self._space.top, start_id + range_size))

    def has_data(self, ctx: Any, min_id: int, max_id: int) -> bool:
        return min_id <= self._space.top


class Work:
    """The processor: for each cell of its partition an effect without any guard, and one behind the fence."""

    def __init__(self, journal: Writer, fence: Fence, space: Space, suffering: Suffering, pause: float,
                 blind: int) -> None:  # fmt: skip
        self._journal = journal
        self._fence = fence
        self._space = space
        self._suffering = suffering
        self._pause = pause
        #: Of 100 attempts so many never look at ``ctx``: the guards must stop them.
        self._blind = blind

    def process(self, ctx: Any, min_id: int, max_id: int, options: Dict[str, Any]) -> int:
        p, token = ctx.partition, ctx.fencing_token
        who = (p.partition_id, p.min_id, p.max_id, token)
        self._journal.put(j.START, *who, min_id, p.deliveries)
        if self._space.bites(p.min_id, p.max_id):
            self._journal.put(j.POISON, *who)
            os.kill(os.getpid(), signal.SIGKILL)
        how = j.RAISED
        try:
            done = self._run(ctx, who, min_id, max_id)
            how = j.COMPLETE
            return done
        except TaskInterrupted:
            how = j.INTERRUPTED
            raise
        except StaleToken:
            how = j.GAVE_UP
            raise
        finally:
            self._journal.put(j.END, *who, how, ctx.cancelled.is_set())

    def _run(self, ctx: Any, who: Any, min_id: int, max_id: int) -> int:
        chance = random.Random(ctx.fencing_token)
        blind = chance.randrange(100) < self._blind
        pace = self._pause * (SLOWER if chance.randrange(100) < SLOW else 1.0)
        token = ctx.fencing_token
        try:
            self._fence.take(min_id, max_id, token, lambda: self._journal.put(j.TAKE, *who, min_id, max_id))
        except StaleToken:
            self._journal.put(j.STALE, *who, min_id, max_id)
            raise
        for number, (first, last) in enumerate(steps(min_id, max_id)):
            if not self._fence.done(first):
                pause = pace * chance.uniform(0.5, 1.5)
                if blind:
                    threading.Event().wait(pause)
                elif ctx.wait(pause):
                    ctx.raise_if_cancelled()
            self._suffer()
            self._journal.put(j.UNGUARDED, *who, first, last)
            try:
                self._apply(who, first, last, token)
            except StaleToken:
                self._journal.put(j.STALE, *who, first, last)
                if not blind:
                    raise
                # Neither looks nor cares: goes on to claim that it is complete.
            if not blind and number % 4 == 3:
                ctx.checkpoint(last)
        return max_id - min_id + 1

    def _apply(self, who: Any, first: int, last: int, token: int) -> None:
        self._fence.apply(first, last, token, now(), lambda: self._journal.put(j.APPLY, *who, first, last))

    def _suffer(self) -> None:
        if self._suffering.of("processor raises"):
            raise Ordered("the processor was told to fail")
        hang = self._suffering.of("processor hangs", once=True)
        if hang:
            threading.Event().wait(hang)
        hold = self._suffering.of("GIL held", once=True)
        if hold:
            # PyDLL keeps the GIL over the call, as a C extension without care does.
            ctypes.PyDLL(None).usleep(int(hold * 1e6))
        if self._suffering.of("exit in a processor", once=True):
            os._exit(9)


class Teller(Listener):
    """Writes down what the library tells."""

    def __init__(self, journal: Writer) -> None:
        self.journal = journal


def _note(kind: int) -> Any:
    def handler(self: Teller, event: Event) -> None:
        facts = event.facts
        token = facts.get("token", facts.get("term", 0))
        self.journal.put(kind, facts.get("partition_id", 0), token=token or 0)

    return handler


for _event, _kind in j.EVENTS.items():
    setattr(Teller, "on_" + _event, _note(_kind))


def obey(coordinator: Coordinator, suffering: Suffering) -> None:
    """Do what the lines of stdin say, until its end: then the run is gone."""
    for line in sys.stdin:
        order = json.loads(line)
        suffering.tell(order["what"], order.get("seconds", 0.0), order.get("times", 1))
    os._exit(1)


def replace(store: RedisDataStore, path: str, old: str, new: str) -> None:
    """Switch a guard off in one script, or ("*") wherever it stands."""
    if path != "*":
        store.scripts.replace(path, old, new)
        return
    for script in sorted(pathlib.Path(elk_coordinator.__file__).parent.glob("*/lua/*.lua")):
        name = "%s/%s" % (script.parent.parent.name, script.stem)
        with contextlib.suppress(ValueError):  # it does not stand there
            store.scripts.replace(name, old, new)


def main() -> int:
    ending = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    config = json.loads(sys.stdin.readline())
    die_with(config["parent"])
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format=LOG_FORMAT)
    journal = Writer(config["journal"])
    fence = Fence(config["fence"], config["cells"] * CELL, enforced=config["broken"] != "fence")
    space = Space(config["space"])
    suffering = Suffering()
    store = RedisDataStore.from_url(config["url"])
    for path, old, new in config["scripts"]:
        replace(store, path, old, new)
    coordinator = Coordinator(
        config["namespace"], store, Work(journal, fence, space, suffering, config["pause"], config["blind"]),
        Numbers(space, suffering, config["seed"]), worker_id=config["name"], listeners=(Teller(journal),),
        strategy=StrategyType(config["strategy"]), **config["options"],
    )  # fmt: skip
    try:
        coordinator.start(require_store=config["require_store"])
    except ElkError as exc:
        logging.warning("not started: %s", exc)
        return 3
    threading.Thread(target=obey, args=(coordinator, suffering), daemon=True).start()
    while not ending.wait(3600.0):
        pass
    clean = coordinator.stop()
    store.close()
    left = threads_left() if clean else []
    if left:
        logging.error("threads left: %s", left)
    return 4 if left else 0 if clean else 1


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    # A processor that hangs on purpose must not keep the process.
    os._exit(code)
