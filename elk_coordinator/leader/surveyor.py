"""The leader's look at plan, fleet and archive, for metrics: four round trips every few seconds, whatever the size,
and none for a minute while nothing is open and no count moves."""

from __future__ import annotations

import collections
import logging
from typing import Deque, List, Optional, Tuple

import attr

from elk_coordinator.errors import StoreError, StoreUnavailable
from elk_coordinator.model import PartitionStats, Survey, WorkerInfo
from elk_coordinator.partition.gaps import holes
from elk_coordinator.partition.strategy import PartitionStrategy
from elk_coordinator.runtime.clock import Clock

#: Planned ranges looked at for holes; there is one unless holes were left.
MOST_RANGES = 1000
#: Seconds of completions that the present rate is taken from, and of which nothing is said yet.
RATE_WINDOW = 600.0
RATE_LEAST = 15.0
#: Seconds for which the last look stands while nothing is open and no count moves: only the archive may, slowly.
IDLE_LOOK = 60.0


class Surveyor:
    """Looks when told to; belongs to the recovery thread of one leader."""

    def __init__(self, strategy: PartitionStrategy, clock: Clock, logger: logging.Logger) -> None:
        self._strategy = strategy
        self._clock = clock
        self._logger = logger
        self._refused = False
        #: (monotonic seconds, completed partitions) of earlier looks.
        self._done: Deque[Tuple[float, int]] = collections.deque()
        #: The last look: monotonic seconds, the counts it was taken beside, what was seen.
        self._last: Optional[Tuple[float, PartitionStats, Survey]] = None

    def forget(self) -> None:
        """Forget the rate: another leads, and what was completed meanwhile is not known."""
        self._done.clear()
        self._last = None

    def look(self, stats: PartitionStats, workers: List[WorkerInfo]) -> Survey:
        """Return what there is to see beside *stats*; of what the store refuses nothing, which is logged once.

        :raises StoreUnavailable: the store does not answer.
        """
        if self._last is not None and not stats.open and stats == self._last[1]:
            if self._clock.monotonic() - self._last[0] < IDLE_LOOK:
                return attr.evolve(self._last[2], workers=workers)
        try:
            work = self._strategy.open_work()
            ranges = self._strategy._interval_page("planned", None, MOST_RANGES)[1]
        except StoreUnavailable:
            raise
        except StoreError as exc:
            # A right that an older rule did not need, say: monitoring may miss something, recovery must not.
            if not self._refused:
                self._logger.warning("some metrics are missing, the store refuses what they are read by: %s", exc)
            self._refused = True
            return Survey(workers=workers)
        gaps = list(holes(ranges))
        survey = Survey(
            pending=work.pending(stats.pending),
            workers=workers,
            backlog_items=work.backlog(stats.open),
            oldest_pending_timestamp_seconds=work.oldest,
            completed_watermark=work.watermark(stats.last_allocated_id),
            gaps=len(gaps),
            gap_items=sum(high - low + 1 for low, high in gaps),
            archive_partitions=work.archived,
            archive_bytes=work.archive_bytes,
            estimated_completion_timestamp_seconds=self._end(stats, work.now),
            commands_queued=work.commands,
        )
        self._last = (self._clock.monotonic(), stats, survey)
        return survey

    def _end(self, stats: PartitionStats, now: float) -> Optional[float]:
        """Return when all that is open now is done, at the rate of the last minutes; None = nobody can say."""
        at = self._clock.monotonic()
        if self._done and stats.completed < self._done[-1][1]:
            self._done.clear()  # the store lost data, or completed ones were deleted
        self._done.append((at, stats.completed))
        while at - self._done[0][0] > RATE_WINDOW:
            self._done.popleft()
        seconds, count = at - self._done[0][0], stats.completed - self._done[0][1]
        if not stats.open or not count or seconds < RATE_LEAST:
            return None
        return now + stats.open * seconds / count
