"""Archiver: in the background the leader compresses what completed some time ago, and drops what is not to be kept."""

from __future__ import annotations

import logging
from typing import Callable, List, Optional, Set

from elk_coordinator.errors import LeaseLost
from elk_coordinator.partition.archive import DamagedChunk, DuePage
from elk_coordinator.partition.strategy import PartitionStrategy
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.runtime.threads import Role

#: Seconds that a completed partition stays as it is: long enough for any report of it that is sent again.
AGE = 600.0
#: Seconds between two looks; one command each while nothing has completed.
INTERVAL = 60.0
#: Seconds between two turns while there is something to do. A turn compresses at most 500 partitions, in some 10 ms.
BUSY_PAUSE = 0.02
#: Pages of 500 recent partitions looked at in one turn.
PAGES = 5


class Archiver(Role):
    """Rate policy: a look a minute; while something is due, turns of bounded work with short pauses.

    A look reads all that completed recently. Behind one that found young ones the next comes after half of :attr:`age`,
    so that in the long run each partition is looked at about three times.
    """

    name = "archiver"

    def __init__(
        self,
        strategy: PartitionStrategy,
        term: Callable[[], Optional[int]],
        keep: Optional[int],
        clock: Clock,
        logger: logging.Logger,
    ) -> None:
        super().__init__()
        #: Seconds after which a completed partition is compressed.
        self.age = AGE
        #: Details of completed partitions kept; None = all.
        self.keep = keep
        self._strategy = strategy
        self._term = term
        self._clock = clock
        self._logger = logger
        self._cursor: Optional[str] = None
        self._found: Set[int] = set()
        self._todo: List[int] = []
        self._cutoff = 0
        self._young = False
        self._prune = False
        self._look_at: Optional[float] = None
        self._damaged: Set[int] = set()

    def run_once(self) -> bool:
        """Do a bounded piece of work, if this worker leads; return whether there is more."""
        term = self._term()
        if term is None:
            self._cursor, self._look_at, self._prune = None, None, False
            self._found.clear()
            self._todo.clear()
            return False
        try:
            return self._turn(term)
        except LeaseLost:
            # The term ended under this turn; the next leader goes on.
            return False

    def _turn(self, term: int) -> bool:
        now = self._clock.monotonic()
        if self._todo:
            self._compress(term)
            return True
        if self._prune:
            # Without waiting for the next look: whoever lowers the number does not wait for all of them.
            self._prune = self._shorten(term)
            return self._prune
        if self._cursor is None and self._look_at is not None and now < self._look_at:
            return False
        return self._look(now)

    def _look(self, now: float) -> bool:
        cursor = self._cursor
        for _ in range(PAGES):
            if cursor is None:
                self._young = False
                self._found.clear()
            page: DuePage = self._strategy.due_page(cursor or "0", self.age)
            if cursor is None:
                # Everything due by the first page's clock; what becomes due meanwhile waits for the next look.
                self._cutoff = page.now - int(self.age * 1e6)
            self._found |= page.due
            self._young = self._young or page.young
            cursor = page.cursor
            if cursor == "0":
                break
        if cursor != "0":
            self._cursor = cursor
            return True
        self._cursor = None
        self._look_at = now + (max(INTERVAL, self.age / 2) if self._young else INTERVAL) - 1.0
        self._todo = sorted(self._found, reverse=True)
        self._found.clear()
        kept = page.recent + page.archived
        self._prune = self.keep is not None and page.archived + len(self._todo) > 0 and kept > self.keep
        return bool(self._todo) or self._prune

    def _compress(self, term: int) -> None:
        page = self._todo.pop()
        try:
            self._strategy.archive_page(term, page, self._cutoff)
        except DamagedChunk as damage:
            self._strategy.tell_damage(damage)

    def _shorten(self, term: int) -> bool:
        assert self.keep is not None
        try:
            return self._strategy.prune(term, self.keep, frozenset(self._damaged)) > 0
        except DamagedChunk as damage:
            self._strategy.tell_damage(damage)
            self._damaged.add(damage.bucket)
            return True

    def pause(self, did: bool) -> float:
        return BUSY_PAUSE if did else INTERVAL
