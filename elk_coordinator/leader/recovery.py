"""Recovery: once a second the leader takes back partitions whose lease ran out, and hears who runs low on work."""

from __future__ import annotations

import logging
from typing import Callable, List, Optional

from elk_coordinator.leader.fleet_watch import FleetWatch
from elk_coordinator.leader.surveyor import Surveyor
from elk_coordinator.model import PartitionStats, PartitionStatus, Survey, Sweep, WorkerInfo
from elk_coordinator.partition.requests import SHORT_BATCH
from elk_coordinator.partition.strategy import PartitionStrategy
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.runtime.events import Events
from elk_coordinator.runtime.logs import about
from elk_coordinator.runtime.threads import Role

#: Seconds between two looks; part of the recovery bound that is logged at start.
INTERVAL = 1.0
#: Seconds between two readings of the counts, for metrics and status.
COUNT_INTERVAL = 5.0


class Recovery(Role):
    """Rate policy: a fixed delay of one second while leading.

    Apart from planning, so that a slow planner delays no recovery. The counts are read every five seconds, the fleet
    also then, or three times in a lease when that is shorter.
    """

    name = "recovery"

    def __init__(
        self,
        strategy: PartitionStrategy,
        term: Callable[[], Optional[int]],
        clock: Clock,
        on_sweep: Callable[[Sweep], None],
        events: Events,
        logger: logging.Logger,
        stuck_after: float,
    ) -> None:
        super().__init__()
        self._strategy = strategy
        self._term = term
        self._clock = clock
        self._counted_at: Optional[float] = None
        #: The last counts and number of live workers; None while not leading.
        self.stats: Optional[PartitionStats] = None
        self.active_workers: Optional[int] = None
        self.survey: Optional[Survey] = None
        self._surveyor = Surveyor(strategy, clock, logger)
        self._fleet = FleetWatch(min(COUNT_INTERVAL, stuck_after / 3), clock, events, logger)
        self._fleet_at: Optional[float] = None
        self._workers: List[WorkerInfo] = []
        self._on_sweep = on_sweep
        self._events = events
        self._logger = logger
        self.stuck_after = stuck_after

    def run_once(self) -> Optional[Sweep]:
        """Look once, if this worker leads."""
        term = self._term()
        if term is None:
            self.stats = self.active_workers = self.survey = self._counted_at = self._fleet_at = None
            self._surveyor.forget()
            self._fleet.forget()
            return None
        now = self._clock.monotonic()
        if self._fleet_at is None or now - self._fleet_at >= self._fleet.interval:
            self._workers = self._strategy.workers()
            self._fleet.see(self._workers)
            self.active_workers = len(self._workers)
            self._fleet_at = now
        if self._counted_at is None or now - self._counted_at >= COUNT_INTERVAL:
            self.stats = self._strategy.get_partition_stats()
            self.survey = self._surveyor.look(self.stats, self._workers)
            self._counted_at = now
        sweep = self._strategy.sweep(SHORT_BATCH, term)
        for item in sweep.reclaimed:
            self._logger.warning(
                "partition %d came back from %s (lease ran out, delivery %d): %s",
                item.partition_id, item.worker_id, item.deliveries, item.status.value,
                extra=about("partition_reclaimed", partition_id=item.partition_id, token=item.token),
            )  # fmt: skip
            self._events.emit(
                "partition_reclaimed", partition_id=item.partition_id, token=item.token, owner=item.worker_id,
                deliveries=item.deliveries, status=item.status, error=item.error,
            )  # fmt: skip
            if item.status is PartitionStatus.FAILED:
                self._events.emit(
                    "partition_failed", partition_id=item.partition_id, token=item.token, error=item.error
                )
        self._on_sweep(sweep)
        return sweep

    def pause(self, did: Optional[Sweep]) -> float:
        return 0.0 if did is not None and did.more else INTERVAL
