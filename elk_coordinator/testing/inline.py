"""run_inline: plan and process everything in the calling thread, for unit tests of a processor and a planner.

The real planner guard, explorer, allocator, strategy and runner do it, over a MemoryDataStore and a clock that moves
only when somebody waits. So a test sees what a worker would do, without a server, a thread or a real second: back-off
between attempts and ``ctx.wait()`` pass at once.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Optional, Sequence

import attr

from elk_coordinator.config import CoordinatorConfig, CoordinatorOptions, check_options
from elk_coordinator.errors import ConfigError, PlannerError, TaskInterrupted
from elk_coordinator.leader.allocator import Allocator
from elk_coordinator.leader.election import LOCK, Leadership
from elk_coordinator.leader.planner import GuardedPlanner
from elk_coordinator.model import (
    CancelReason,
    CreatePartition,
    Partition,
    PartitionFilter,
    PartitionStats,
    PartitionStatus,
    Range,
    StrategyType,
    Sweep,
)
from elk_coordinator.partition.factory import create_strategy
from elk_coordinator.protocols import AnyPlanner, AnyProcessor, Event
from elk_coordinator.runtime.events import Events
from elk_coordinator.store.memory_store import MemoryDataStore
from elk_coordinator.testing.clock import ManualClock
from elk_coordinator.worker.context import Task
from elk_coordinator.worker.runner import Runner, processor_function

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: Nobody renews here, so leases must outlast what a processor may wait on the manual clock (some 300 years).
_LEASE = 1e9 * 10
#: What ends a test run and must not be taken for a failed attempt (``pytest.fail`` is a BaseException too).
_OURS = (Exception, TaskInterrupted, SystemExit, GeneratorExit)


class InlineFailure(AssertionError):
    """:func:`run_inline` ended with failed partitions, or would not have ended. :attr:`result` tells what was done."""

    def __init__(self, message: str, result: "InlineResult") -> None:
        super().__init__(message)
        self.result = result


@attr.s(auto_attribs=True, frozen=True, slots=True)
class InlineError:
    """One attempt that ended by an exception."""

    partition_id: int
    #: Which attempt, from 1.
    attempt: int
    #: The exception itself, with its traceback.
    error: BaseException


@attr.s(auto_attribs=True, frozen=True, slots=True)
class InlineResult:
    """What :func:`run_inline` did."""

    stats: PartitionStats
    #: Every partition, ordered by id, as it is at the end.
    partitions: Sequence[Partition]
    #: Every attempt that ended by an exception, in order; those that a later attempt made good too.
    errors: Sequence[InlineError]
    #: IDs the planner said hold no data.
    skipped: Sequence[Range]

    @property
    def processed(self) -> int:
        """Items counted, of all partitions together."""
        return sum(partition.processed for partition in self.partitions)

    @property
    def failed(self) -> List[Partition]:
        """Partitions that rest as failed."""
        return [partition for partition in self.partitions if partition.status is PartitionStatus.FAILED]


def run_inline(
    processor: AnyProcessor,
    planner: Optional[AnyPlanner] = None,
    *,
    partitions: Iterable[CreatePartition] = (),
    check: bool = True,
    max_partitions: int = 1000,
    interrupt_after_checkpoints: Optional[int] = None,
    namespace: str = "inline",
    **options: Unpack[CoordinatorOptions],
) -> InlineResult:
    """Plan and process everything in this thread, one partition after the other; return what came of it.

    Deterministic: highest priority first, then lowest id; failed attempts follow when nothing else is left. The circuit
    breaker is off, and nothing is ever lost to another worker.

    :param planner: may be left out when *partitions* are given: those are processed first.
    :param check: raise when partitions rest as failed. With False look at :attr:`InlineResult.failed`.
    :param max_partitions: more than so many partitions are an error: the planner never says "nothing new".
    :param interrupt_after_checkpoints: stop the first attempt at every partition after so many durable checkpoints, as
        a stopping worker would (``ctx.cancelled`` with STOP); it comes back and should go on behind the checkpoint.
    :param options: of :class:`~elk_coordinator.CoordinatorConfig`, checked as there. ``max_attempts``, ``listeners``,
        ``task_timeout`` (time passes by ``ctx.wait`` alone) and what concerns planning have their effect.
    :raises InlineFailure: an AssertionError, see *check* and *max_partitions*; its cause is the user's exception.
    :raises PlannerError: the planner raised or answered nonsense.
    :raises ConfigError: as from :class:`~elk_coordinator.Coordinator`.
    """
    whole = {"max_partitions": max_partitions, "interrupt_after_checkpoints": interrupt_after_checkpoints}
    for name, value in whole.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError("%s: must be a whole number from 1 on, not %r" % (name, value))
    if "strategy" in options or "circuit_breaker" in options:
        raise ConfigError("run_inline: strategy and circuit_breaker cannot be chosen here")
    check_options(list(options))
    given = list(partitions)
    if planner is None and not given:
        raise ConfigError("planner: needed, unless partitions=[CreatePartition(...), ...] are given")
    options["max_pending_partitions"] = min(options.get("max_pending_partitions", 1000), max_partitions)
    options["circuit_breaker"] = None
    config = CoordinatorConfig(**options)
    inline = _Inline(processor, planner, namespace, config, max_partitions, interrupt_after_checkpoints)
    try:
        if given:
            inline.strategy.create_partitions_if_not_exist(given)
        inline.run()
        result = inline.result()
    finally:
        inline.close()
    if check and result.failed:
        first = result.failed[0]
        causes = [error.error for error in result.errors if error.partition_id == first.partition_id]
        raise InlineFailure(
            "%d of %d partitions failed; the first is %d [%d, %d]: %s"
            % (len(result.failed), len(result.partitions), first.partition_id, first.min_id, first.max_id, first.error),
            result,
        ) from (causes[-1] if causes else None)
    return result


class _Ear:
    """Hears what the allocator has to say."""

    error: Optional[PlannerError] = None

    def on_planner_error(self, event: Event) -> None:
        self.error = event.error


class _Inline:
    """The parts of a coordinator that do the work, turned by hand."""

    def __init__(
        self,
        processor: AnyProcessor,
        planner: Optional[AnyPlanner],
        namespace: str,
        config: CoordinatorConfig,
        limit: int,
        interrupt_after: Optional[int],
    ) -> None:
        self._process = processor_function(processor)
        self._limit = limit
        self._interrupt_after = interrupt_after
        self._worker_id = config.worker_id or "inline"
        self._clock = clock = ManualClock(auto_advance=True)
        logger = logging.getLogger("elk_coordinator") if config.logger is None else config.logger
        self._store = MemoryDataStore(clock)
        self.strategy = create_strategy(
            StrategyType.SIMPLE, namespace, self._store, partition_lock_expiry=_LEASE,
            max_attempts=config.max_attempts, max_deliveries=config.max_deliveries, logger=logger,
        )  # fmt: skip
        self._ear = _Ear()
        events = Events(namespace, self._worker_id, clock, logger, own=[self._ear, *config.listeners])
        self._runner = Runner(
            self._recorded, namespace, self._worker_id, config, clock, events, self._save, None, logger
        )
        self._events = events
        self._allocator: Optional[Allocator] = None
        if planner is not None:
            leadership = Leadership(clock)
            term = self.strategy.store.acquire_lock(LOCK, self._worker_id, _LEASE, 0)
            assert term is not None
            leadership.grant(term, clock.monotonic() + _LEASE)
            guarded = GuardedPlanner(planner, clock, logger)
            self._allocator = Allocator(
                self.strategy, guarded, leadership, config, clock, events, logger, lambda reason: None
            )
        self._errors: List[InlineError] = []
        self._task: Optional[Task] = None
        self._saves = 0
        self._interrupted: "set[int]" = set()
        self._ends: Optional[BaseException] = None

    def run(self) -> None:
        """Turn until there is nothing new and nothing left to do."""
        while True:
            planned = self._plan()
            worked = self._work()
            if not planned and not worked:
                return

    def _plan(self) -> bool:
        """Do one round of planning; whether it found something new."""
        if self._allocator is None:
            return False
        self._allocator.on_sweep(Sweep(asked=True))
        outcome = self._allocator.run_once()
        if self._ear.error is not None:
            raise self._ear.error
        if self.strategy.get_partition_stats().total > self._limit:
            raise InlineFailure(
                "the planner made more than %d partitions (max_partitions), up to ID %s: does get_next_max_id ever "
                "answer start_id?" % (self._limit, self.strategy.plan_state().last_id),
                self.result(),
            )
        return outcome is not None and bool(outcome.created or outcome.skipped_ids)

    def _work(self) -> bool:
        """Process what is pending, retries included; whether there was any."""
        worked = False
        while True:
            claimed = self.strategy.claim_partitions(self._worker_id)
            if claimed:
                worked = True
                self._run_one(claimed[0])
                continue
            waiting = self.strategy.get_filtered_partitions(PartitionFilter(statuses=[PartitionStatus.PENDING]))
            if not waiting:
                return worked
            # All of them become due at once, so that the jitter of their back-off does not decide the order.
            due = max(partition.retry_at or 0.0 for partition in waiting)
            self._clock.advance(max(0.001, due - self._clock.time() + 0.001))

    def _run_one(self, partition: Partition) -> None:
        task = self._task = Task(partition, self._clock.monotonic() + _LEASE, self._clock)
        self._saves = 0
        try:
            report = self._runner.run(task)
        finally:
            self._task = None
        if self._ends is not None:
            raise self._ends
        result = self.strategy.report_partitions(self._worker_id, [report])[0]
        kind = "retried" if report.error else "released"
        if result.status in (PartitionStatus.COMPLETED, PartitionStatus.FAILED):
            kind = result.status.value
        facts: Dict[str, Any] = {"partition_id": report.partition_id, "token": report.token}
        if kind == "completed":
            facts["processed"] = report.processed
        elif kind != "released":
            facts["error"] = report.error
        if kind == "retried":
            facts.update(attempt=partition.attempt + 1, delay=report.delay)
        self._events.emit("partition_" + kind, **facts)

    def _recorded(self, ctx: Any, min_id: int, max_id: int, options: Dict[str, Any]) -> Optional[int]:
        try:
            return self._process(ctx, min_id, max_id, options)
        except BaseException as exc:
            if not isinstance(exc, _OURS):
                # Ctrl-C, pytest.fail() in a double: the test's own end, not an attempt's.
                self._ends = exc
            elif not (isinstance(exc, TaskInterrupted) and ctx.cancelled):
                self._errors.append(InlineError(ctx.partition.partition_id, ctx.attempt, exc))
            raise

    def _save(self, partition_id: int, token: int, checkpoint: int, processed: int) -> bool:
        durable = self.strategy.save_checkpoint(partition_id, token, checkpoint, processed)
        if durable and self._interrupt_after is not None and partition_id not in self._interrupted:
            self._saves += 1
            if self._saves >= self._interrupt_after and self._task is not None:
                self._interrupted.add(partition_id)
                self._task.cancel(CancelReason.STOP)
        return durable

    def result(self) -> InlineResult:
        """Return how things stand."""
        return InlineResult(
            self.strategy.get_partition_stats(),
            tuple(self.strategy.get_all_partitions()),
            tuple(self._errors),
            tuple(self.strategy.skipped_intervals()),
        )

    def close(self) -> None:
        """Close the store."""
        self._store.close()
