"""The claimer: one I/O thread that reports what ended and claims what comes next, both in one round trip.

While tasks are short, more of them end during one round trip, so the next one carries more: batches make themselves.
Prefetch goes only as far as short partitions need it to bridge a round trip. A request is sent again unchanged until it
is answered, because its first try may have run.
"""

from __future__ import annotations

import logging
import random
from typing import Any, Callable, List, Optional, Tuple

import attr

from elk_coordinator.config import CoordinatorConfig, lease_margin
from elk_coordinator.model import CancelReason, Outcome, PartitionStatus, Report, Turn
from elk_coordinator.partition.requests import SHORT_BATCH, TurnRequest
from elk_coordinator.partition.strategy import PartitionStrategy
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.runtime.events import Events
from elk_coordinator.runtime.logs import about
from elk_coordinator.runtime.threads import Role
from elk_coordinator.worker.affinity import Affinity
from elk_coordinator.worker.circuit_breaker import CircuitBreaker
from elk_coordinator.worker.context import Task, cancelled_text
from elk_coordinator.worker.probes import Probes
from elk_coordinator.worker.window import TaskWindow

#: Seconds between two looks for work when nothing hinted at any; jittered.
IDLE_POLL = 2.0
#: Prefetch bridges so many round trips, but never more work than this many seconds per slot.
BRIDGE_TURNS = 3.0
BRIDGE_SECONDS = 0.05
#: A prefetched task that found no slot for so long goes back: others may be idle. Ten times what prefetch bridges, so
#: that a short hitch does not send it to and fro.
HOARD_SECONDS = 0.5
#: More than ever wait.
MAX_KEPT = 10**9


class Claimer(Role):
    """Keeps the window full. Rate policy: a turn at once while there is something to report or to get, else a poll."""

    name = "claimer"
    error_pause = (0.05, 1.0)

    def __init__(
        self,
        strategy: PartitionStrategy,
        worker_id: str,
        config: CoordinatorConfig,
        clock: Clock,
        events: Events,
        breaker: Optional[CircuitBreaker],
        may_claim: Callable[[], bool],
        on_lost_data: Callable[[], None],
        on_answer: Callable[[], None],
        logger: logging.Logger,
        affinity: Optional[Affinity] = None,
    ) -> None:
        super().__init__()
        self._strategy = strategy
        self._worker_id = worker_id
        self._config = config
        self._clock = clock
        self._events = events
        self._breaker = breaker
        self._may_claim = may_claim
        self._on_lost_data = on_lost_data
        self._on_answer = on_answer
        self._logger = logger
        self._affinity = affinity
        self._probes = Probes()
        self.window: TaskWindow  # set by the coordinator: the window needs this role's wake event
        self._stream = strategy.stream("work")
        self._sent: Optional[Tuple[TurnRequest, float, List[Task], List[Task]]] = None
        self._turn_seconds = 0.002
        self._turning = False
        #: When (monotonic) the next retry may be claimed, as the last turn that got too little was told.
        self._due_at: Optional[float] = None
        self._suspects: "set[int]" = set()
        self._sweep_next = False
        self.last_turn_at: Optional[float] = None
        self.prefetched = 0

    # ---------------------------------------------------------------- one turn

    def run_once(self) -> Tuple[int, int]:
        """Do one round trip if there is a reason for one; return how much it brought and how much waits."""
        self._turning = True
        try:
            return self._turn()
        finally:
            self._turning = False

    def _turn(self) -> Tuple[int, int]:
        self._due_at = None
        if self._sent is None:
            self._hand_back()
            self._sent = self._request()
        if self._sent is None:
            self.last_turn_at = self._clock.monotonic()
            return 0, 0
        request, first_sent, ended, started = self._sent
        sent = self._clock.monotonic()
        turn = self._strategy.turn(request)
        now = self._clock.monotonic()
        self._sent = None
        self._on_answer()
        self.last_turn_at = now
        self._turn_seconds += 0.2 * (min(now - sent, 1.0) - self._turn_seconds)
        if turn.due_in is not None:
            self._due_at = now + turn.due_in
        if turn.lost_data:
            # The next beat reads the mark that the turn left, as every other worker's will.
            self._on_lost_data()
        for task in started:
            task.marked = True
        self._settle(request, ended, turn)
        self._take(request, turn, first_sent)
        if request.reports:
            self._events.emit("reported", count=len(request.reports), seconds=now - first_sent)
        if turn.granted:
            self._events.emit("claimed", count=len(turn.granted), seconds=now - sent)
        wanted = request.free + request.prefetch
        self._sweep_next = turn.expired and self._config.allow_preemption and len(turn.granted) < wanted
        if self._sweep_next:
            self._sweep()
        if wanted and not turn.granted and self._breaker is not None:
            self._breaker.nothing_left()
        return len(turn.granted) + len(request.reports), self.window.unreported

    def pause(self, did: Tuple[int, int]) -> float:
        brought, waiting = did
        if waiting or self._sweep_next or (brought and self._wanted() != (0, 0)):
            return 0.0
        ends = [self._clock.monotonic() + IDLE_POLL * random.uniform(0.75, 1.0)]
        oldest = self.window.oldest_waiting()
        if oldest is not None:
            # Nothing else may wake it before the tasks that wait have waited for too long.
            ends.append(oldest + HOARD_SECONDS)
        if self._due_at is not None:
            ends.append(self._due_at)
        probes_in = self._breaker.probes_in() if self._breaker is not None else None
        if probes_in is not None:
            ends.append(self._clock.monotonic() + probes_in)
        return max(0.001, min(ends) - self._clock.monotonic())

    def _wanted(self) -> Tuple[int, int]:
        """Return how many to claim for free slots, and how many beyond them."""
        window = self.window
        if not self._may_claim() or window.exhausted:
            return 0, 0
        running, waiting = window.load()
        free = window.size - running - waiting
        allowed = self._breaker.allowance() if self._breaker is not None else None
        if allowed is not None:
            # Probes go singly into free slots; nothing is prefetched while the user's system is in doubt.
            return max(0, min(free, allowed, SHORT_BATCH)), 0
        self.prefetched = self._prefetch()
        wanted = min(window.size + self.prefetched - running - waiting, SHORT_BATCH)
        if wanted <= 0:
            return 0, 0
        now_free = max(0, min(free, wanted))
        if not now_free and wanted * 4 < self.prefetched:
            # Nothing is idle: let the next batch grow instead of fetching it by ones and twos.
            return 0, 0
        return now_free, wanted - now_free

    def _prefetch(self) -> int:
        mean = self.window.mean_seconds()
        if mean is None:
            return 0
        horizon = min(BRIDGE_TURNS * self._turn_seconds, BRIDGE_SECONDS)
        return min(int(self.window.size * horizon / max(mean, 1e-6)), SHORT_BATCH, 8 * self.window.size + 32)

    def _request(self) -> Optional[Tuple[TurnRequest, float, List[Task], List[Task]]]:
        if self._affinity is not None:
            # First, while nothing has been taken that an error could lose.
            self._affinity.refresh()
        ended = self.window.take_reports(SHORT_BATCH)
        started = self.window.unmarked(SHORT_BATCH)
        free, prefetch = self._wanted()
        if not (ended or started or free or prefetch):
            return None
        request = TurnRequest(
            worker_id=self._worker_id,
            stream=self._stream,
            sequence=self._strategy.next_sequence(self._stream),
            lease=self._strategy.lease,
            reports=[report for _, report in ended],
            starts=[(task.partition.partition_id, task.token) for task in started],
            free=free,
            prefetch=prefetch,
            suspects=not self._suspects,
            owned=self._preferred(free),
        )
        return request, self._clock.monotonic(), [task for task, _ in ended], started

    def _preferred(self, free: int) -> str:
        if free and self._breaker is not None and self._breaker.allowance() is not None:
            return self._probes.preferred()
        return self._affinity.owned if self._affinity is not None else ""

    def _take(self, request: TurnRequest, turn: Turn, first_sent: float) -> None:
        """Turn grants into tasks. The lease counts from before the request was first sent, never from the answer."""
        trusted_until = first_sent + request.lease - lease_margin(request.lease)
        tasks = []
        for partition in turn.granted:
            task = Task(partition, trusted_until, self._clock)
            if partition.is_suspect:
                self._suspects.add(task.token)
            if task.lost():
                # The answer came too late to be believed: give it back by its token, never start it.
                self._return(task)
                continue
            if self._breaker is not None:
                task.permit = self._breaker.acquire()
                if task.permit is None:
                    self._return(task)
                    continue
            tasks.append(task)
        for task in self.window.offer(tasks) if tasks else []:
            # The stop overtook the claim.
            self._return(task)

    def _return(self, task: Task) -> None:
        if task.permit is not None and self._breaker is not None:
            self._breaker.give_back(task.permit)
        report = Report(task.partition.partition_id, task.token, Outcome.RELEASED)
        if task.reason() is CancelReason.CANCELLED:
            report = attr.evolve(report, outcome=Outcome.CANCELLED, error=cancelled_text(task))
        self.window.put_back(task, report)

    def _hand_back(self) -> None:
        """Give back waiting tasks this worker should not hold: stopping, paused, breaker open, no slot in sight."""
        closed = not self._may_claim()
        doubtful = self._breaker is not None and self._breaker.allowance() is not None
        now = self._clock.monotonic()
        # A window made smaller keeps no more than it would fetch now, those that waited longest.
        room = [self._room() if self.window.has_shrunk() else MAX_KEPT]

        def keep(task: Task) -> bool:
            if closed or task.reason() is not None or now - task.granted_at >= HOARD_SECONDS:
                return False
            room[0] -= 1
            if room[0] < 0:
                return False
            # A probe is about to get its slot.
            return not doubtful or (task.permit is not None and task.permit.probe)

        for task in self.window.take_waiting(keep):
            self._return(task)
        if self._breaker is not None and self.window.hung:
            self._settle_hung(self._breaker)

    def _room(self) -> int:
        """Return how many waiting tasks the window has a use for: a slot each, and prefetch."""
        return max(0, self.window.size - self.window.load()[0]) + self._prefetch()

    def _settle_hung(self, breaker: CircuitBreaker) -> None:
        """Settle the permits of hung tasks: those may never end, and probes must not wait for them for ever."""
        for task in self.window.running():
            if task.abandoned and task.permit is not None and not task.permit.settled:
                if task.reason() is CancelReason.TIMEOUT:
                    breaker.failure(task.permit, task.partition.partition_id, "timed out and hangs")
                else:
                    breaker.give_back(task.permit)

    def _sweep(self) -> None:
        sweep = self._strategy.sweep(limit=100)
        for item in sweep.reclaimed:
            self._events.emit(
                "partition_reclaimed", partition_id=item.partition_id, token=item.token, owner=item.worker_id,
                deliveries=item.deliveries, status=item.status, error=item.error,
            )  # fmt: skip

    # ---------------------------------------------------------------- what became of reports

    def _settle(self, request: TurnRequest, ended: List[Task], turn: Turn) -> None:
        emit: Callable[..., Any] = self._events.emit
        for task, report, result in zip(ended, request.reports, turn.results):
            partition_id, token = report.partition_id, report.token
            claim = {"partition_id": partition_id, "token": token, "attempt": task.partition.attempt + 1}
            self._suspects.discard(token)
            if report.error is not None:
                self._probes.failed(partition_id)
            if result.refused:
                emit("write_refused", partition_id=partition_id, token=token, what=report.outcome.name.lower())
                self._logger.warning(
                    "partition %d: the report %s of token %d was refused: the claim is gone",
                    partition_id, report.outcome.name, token, extra=about("write_refused", **claim),
                )  # fmt: skip
            elif result.status is PartitionStatus.COMPLETED:
                emit("partition_completed", partition_id=partition_id, token=token, processed=report.processed)
            elif result.status is PartitionStatus.FAILED:
                emit("partition_failed", partition_id=partition_id, token=token, error=report.error)
                trace, _, error = (report.error or "lost too often").rstrip().rpartition("\n")
                self._logger.error(
                    "partition %d [%d, %d] failed for good: %s; 'elk retry %d' tries again%s", partition_id,
                    task.partition.min_id, task.partition.max_id, error, partition_id, trace and "\n" + trace,
                    extra=about("partition_failed", **claim),
                )  # fmt: skip
            elif report.outcome is Outcome.ERROR:
                emit(
                    "partition_retried", partition_id=partition_id, token=token, error=report.error,
                    attempt=task.partition.attempt + 1, delay=report.delay,
                )  # fmt: skip
                self._logger.warning(
                    "partition %d: attempt %d failed, next in %.1f s: %s", partition_id,
                    task.partition.attempt + 1, report.delay, (report.error or "").rstrip().rpartition("\n")[2],
                    extra=about("partition_retried", **claim),
                )  # fmt: skip
            else:
                emit("partition_released", partition_id=partition_id, token=token)
                if report.error is not None:
                    self._logger.warning(
                        "partition %d: failed, which counts as no attempt while the circuit breaker is not closed: %s",
                        partition_id, report.error.rstrip().rpartition("\n")[2],
                        extra=about("partition_released", **claim),
                    )  # fmt: skip

    def cancel(self, partition_id: int, reason: CancelReason, by: str) -> bool:
        """Have a held partition end for *reason*; a waiting one is given back. Whether it was held here."""
        task = self.window.find(partition_id)
        if task is None:
            return False
        task.cancel(reason, by)
        self.wake.set()
        return True

    def idle(self) -> bool:
        """Return whether nothing waits to be reported; never true in the middle of a turn."""
        return not self._turning and self._sent is None and not self.window.unreported
