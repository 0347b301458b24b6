"""A worker process whose work goes wrong by its content, or that an operator disturbs: ``worker.py`` with both.

``bad`` of the work: IDs that no attempt gets over; what precedes them is checkpointed in steps of ``stride`` IDs.
A file ``database-down`` in the working directory: the user's database is away. With a number in it, only for that
share of the partitions, chosen by the ``seed`` of the work. ``slow``: the share that takes 2 s longer.
``broken``: guards of the library to switch off (the controls).
"""

from __future__ import annotations

import random
import sys
from typing import Any, Callable, Dict, List

from elk_coordinator import Coordinator
from elk_coordinator.partition import hash_commands
from elk_coordinator.view import View
from elk_coordinator.worker.context import TaskContext
from tests.faults import worker
from tests.faults.worker import CLOCK, Work


class BadRecord(Exception):
    """A row that nobody can read."""


class DatabaseDown(Exception):
    """The user's database does not answer."""


class ContentWork(Work):
    """The processor."""

    def process(self, ctx: Any, min_id: int, max_id: int, options: Dict[str, Any]) -> Any:
        lo, hi = ctx.partition.min_id, ctx.partition.max_id
        bad = [i for i in self._config.get("bad", ()) if lo <= i <= hi]
        if bad:
            self._up_to(ctx, min_id, min(bad))
        if self._chosen(lo, self._away()):
            self._begin(ctx)
            ctx.wait(self._config.get("pause", 0.0))
            raise DatabaseDown("connection refused")
        count = super().process(ctx, min_id, max_id, options)
        if self._chosen(lo, self._config.get("slow", 0.0)) and ctx.wait(2.0):
            ctx.raise_if_cancelled()
        return count

    def _chosen(self, lo: int, share: float) -> bool:
        return random.Random("%s %d" % (self._config.get("seed"), lo)).random() < share

    def _begin(self, ctx: Any) -> None:
        assert self._journal is not None
        p = ctx.partition
        self._journal.attempt(ctx, CLOCK.monotonic())
        self._journal.take(p.min_id, p.max_id, ctx.fencing_token, self._fenced)

    def _up_to(self, ctx: Any, min_id: int, bad: int) -> None:
        self._begin(ctx)
        assert self._journal is not None
        stride = self._config.get("stride", 100)
        for first in range(min_id, bad, stride):
            last = min(first + stride, bad) - 1
            self._journal.unguarded(first, last, ctx.fencing_token, ctx.worker_id, CLOCK.monotonic())
            ctx.checkpoint(last)
        raise BadRecord("ID %d cannot be read" % bad)

    @staticmethod
    def _away() -> float:
        try:
            with open("database-down") as file:
                return float(file.read() or 1.0)
        except OSError:
            return 0.0


# ---------------------------------------------------------------- guards switched off


def checkpoints_are_forgotten() -> None:
    TaskContext.checkpoint = lambda self, last_done_id, processed=0: True  # type: ignore[method-assign]


def pauses_are_not_heard() -> None:
    original = Coordinator.may_claim

    def may_claim(self: Coordinator) -> bool:
        self._paused = False
        return original(self)

    Coordinator.may_claim = may_claim  # type: ignore[method-assign]


def steps_know_no_bound() -> None:
    """Let a command's step touch as many partitions as a script can name at all."""
    hash_commands.MAX_BATCH = 3500  # type: ignore[misc]


def scrapes_ask_the_store() -> None:
    def fresh(self: View) -> Any:
        return self.strategy.get_partition_stats()

    View.cached_stats = fresh  # type: ignore[method-assign]


def leaders_go_on_showing() -> None:
    """Show what the leader saw last, whether this worker still leads or not."""
    seen: List[Any] = [None]
    original = View.cached_stats

    def last_seen(self: View) -> Any:
        seen[0] = original(self) or seen[0]
        return seen[0]

    View.cached_stats = last_seen  # type: ignore[method-assign]
    View.is_leader = property(lambda self: True)  # type: ignore[method-assign, assignment]


BREAKS: Dict[str, Callable[[], None]] = {
    "cache": scrapes_ask_the_store,
    "checkpoint": checkpoints_are_forgotten,
    "ghosts": leaders_go_on_showing,
    "pause": pauses_are_not_heard,
    "steps": steps_know_no_bound,
}


def main() -> int:
    original = worker.break_guard
    worker.break_guard = lambda name: BREAKS[name]() if name in BREAKS else original(name)
    worker.Work = ContentWork  # type: ignore[misc]
    return worker.main()


if __name__ == "__main__":
    sys.exit(main())
