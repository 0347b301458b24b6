"""The heartbeat: proves the worker alive, renews all it holds, and learns what was lost and what is wanted of it."""

from __future__ import annotations

import logging
from typing import Any, Callable, Dict, List, Optional, Sequence

import attr

from elk_coordinator.config import CoordinatorConfig, lease_margin
from elk_coordinator.errors import StoreError
from elk_coordinator.model import MAX_BATCH, Beat, CancelReason
from elk_coordinator.partition.requests import BeatRequest, Claim
from elk_coordinator.partition.strategy import PartitionStrategy
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.runtime.events import Events
from elk_coordinator.runtime.logs import about
from elk_coordinator.runtime.threads import Role
from elk_coordinator.worker.context import Task
from elk_coordinator.worker.window import TaskWindow

#: A longer round trip says nothing of the store's clock: the time was spent waiting for the send or for the reply, and
#: nobody knows on which side of the middle the store read its clock.
CLOCK_WITHIN = 1.0


class Heartbeat(Role):
    """Rate policy: a fixed rate against the lease; after a failure again at once, with a short growing pause."""

    name = "heartbeat"

    def __init__(
        self,
        strategy: PartitionStrategy,
        worker_id: str,
        config: CoordinatorConfig,
        clock: Clock,
        events: Events,
        window: TaskWindow,
        info: Callable[[], Dict[str, Any]],
        claimer_turn_at: Callable[[], Optional[float]],
        on_wish: Callable[[int, CancelReason, str], None],
        on_beat: Callable[[Beat], None],
        logger: logging.Logger,
    ) -> None:
        super().__init__()
        self._strategy = strategy
        self._worker_id = worker_id
        self._config = config
        self._clock = clock
        self._events = events
        self._window = window
        self._info = info
        self._claimer_turn_at = claimer_turn_at
        self._on_wish = on_wish
        self._on_beat = on_beat
        self._logger = logger
        self._stream = strategy.stream("beat")
        self._due: Optional[float] = None
        #: This host's wall clock minus the store's, as the last beat saw it; for people, nothing is decided by it.
        self._offset: Optional[float] = None
        self.stuck_after = config.lease
        self.error_pause = (0.1, min(1.0, config.beat_interval))

    @property
    def interval(self) -> float:
        """Seconds between two beats."""
        return self._config.beat_interval

    def run_once(self) -> Beat:
        """Beat once; return what was learned."""
        began = self._clock.monotonic()
        lateness = 0.0 if self._due is None else max(0.0, began - self._due)
        tasks = self._renewable(began)
        try:
            beat = self._beat(tasks)
        except StoreError as exc:
            self._watch()
            self._events.emit(
                "heartbeat", ok=False, seconds=self._clock.monotonic() - began, lateness=lateness,
                held=len(tasks), error=str(exc), clock_offset=None,
            )  # fmt: skip
            raise
        self._due = began + self.interval
        self._events.emit(
            "heartbeat", ok=True, seconds=self._clock.monotonic() - began, lateness=lateness, held=len(tasks),
            error="", clock_offset=self._offset,
        )  # fmt: skip
        for partition_id, (reason, who) in beat.cancels.items():
            self._on_wish(partition_id, reason, who)
        self._watch()
        self._on_beat(beat)
        return beat

    def pause(self, did: Beat) -> float:
        return max(0.0, (self._due or 0.0) - self._clock.monotonic())

    def _renewable(self, now: float) -> List[Task]:
        tasks = self._window.held()
        turned = self._claimer_turn_at()
        if turned is not None and now - turned > self._config.lease:
            # The claimer is stuck: nobody will start what waits, so its leases may run out for others to take.
            tasks = [task for task in tasks if task.started_at is not None]
        return tasks

    def request(self, claims: Sequence[Claim] = ()) -> BeatRequest:
        """Return the next beat to send; the very first one is sent by ``start()``."""
        return BeatRequest(
            worker_id=self._worker_id,
            stream=self._stream,
            sequence=self._strategy.next_sequence(self._stream),
            ttl=self._config.effective_worker_ttl,
            lease=self._strategy.lease,
            info=self._info(),
            claims=claims,
        )

    def _beat(self, tasks: List[Task]) -> Beat:
        lost: "set[Any]" = set()
        cancels: Dict[int, Any] = {}
        beat = Beat()
        # At most 500 claims a script; without any there is one beat all the same.
        for start in range(0, max(len(tasks), 1), MAX_BATCH):
            page = tasks[start : start + MAX_BATCH]
            lease = self._strategy.lease
            sent = self._clock.monotonic()
            beat = self._strategy.beat(self.request([(task.partition.partition_id, task.token) for task in page]))
            took = self._clock.monotonic() - sent
            if beat.now is not None and took <= CLOCK_WITHIN:
                # The store read its clock somewhere between send and answer: the middle is off by half of that.
                self._offset = self._clock.time() - took / 2 - beat.now
            for task in page:
                if (task.partition.partition_id, task.token) in beat.lost:
                    task.cancel(CancelReason.LEASE_LOST, "the store")
                else:
                    # From before the send: the store may have set the deadline at any moment after it.
                    task.trust(sent + lease - lease_margin(lease))
            lost |= beat.lost
            cancels.update(beat.cancels)
        return attr.evolve(beat, lost=frozenset(lost), cancels=cancels)

    def _watch(self) -> None:
        """Say which leases were lost and which tasks hang."""
        for task in self._window.running():
            task.tell_loss(self._events.emit, self._logger)
        for task, seconds, stack in self._window.find_hung(self._config.lease):
            partition_id = task.partition.partition_id
            self._logger.error(
                "partition %d hangs: still running %.1f s after it was cancelled; its slot is replaced. Its stack:\n%s",
                partition_id, seconds, stack, extra=about("task_hung", partition_id=partition_id, token=task.token),
            )  # fmt: skip
            self._events.emit("task_hung", partition_id=partition_id, token=task.token, seconds=seconds, stack=stack)
