"""PartitionStrategy: what every way of keeping partitions must do, and what all of them do alike.

The abstract methods are the atomic steps; a strategy implements exactly those. The public methods below are built on
them once, so that all strategies behave the same. Everything is safe from any thread.
"""

from __future__ import annotations

import abc
import logging
import math
import threading
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

import attr

from elk_coordinator.config import check_namespace, new_nonce
from elk_coordinator.errors import (
    ConfigError,
    IllegalTransition,
    LeaseLost,
    NotOwner,
    PartitionNotFound,
    RangeConflict,
    VersionConflict,
)
from elk_coordinator.model import (
    HELD,
    MAX_BATCH,
    MOVES,
    Beat,
    CreatePartition,
    IdleState,
    Outcome,
    Partition,
    PartitionFilter,
    PartitionStats,
    PartitionStatus,
    PlanState,
    Range,
    Report,
    ReportResult,
    StrategyType,
    Sweep,
    Turn,
    WorkerInfo,
    check_partition_id,
)
from elk_coordinator.partition import intervals
from elk_coordinator.partition.requests import BeatRequest, Claim, Memory, TurnRequest, check_worker_id
from elk_coordinator.partition.selection import checked_input, indexes, matches, new_partition
from elk_coordinator.store.base import DataStore

_PLAN_TRIES = 50


class PartitionStrategy(abc.ABC):
    """Partitions of one namespace in a store."""

    strategy_type: StrategyType

    def __init__(
        self,
        namespace: str,
        store: DataStore,
        partition_lock_expiry: float = 180.0,
        max_attempts: int = 3,
        max_deliveries: int = 5,
        logger: Optional[logging.Logger] = None,
    ) -> None:
        self.namespace = check_namespace(namespace)
        self.store = store
        self.lease = partition_lock_expiry
        self.max_attempts = max_attempts
        self.max_deliveries = max_deliveries
        self.logger = logger or logging.getLogger("elk_coordinator")
        self.memory = Memory()
        #: Names this instance's streams of requests; drawn anew for every instance, so never reused.
        self.nonce = new_nonce()
        self._sequences: Dict[str, int] = {}
        self._sequence_lock = threading.Lock()
        self._public = threading.Lock()

    # ---------------------------------------------------------------- the atomic steps

    @abc.abstractmethod
    def turn(self, request: TurnRequest) -> Turn:
        """Report, mark starts and claim in one atomic step; an equal request gets its first answer."""

    @abc.abstractmethod
    def beat(self, request: BeatRequest) -> Beat:
        """Register the worker and renew its leases in one step.

        :raises ConfigError: when the namespace runs another strategy or a schema this library does not read.
        """

    @abc.abstractmethod
    def save_checkpoint(self, partition_id: int, token: int, checkpoint: int, processed: int) -> bool:
        """Make progress durable; False when the claim is gone or its lease ran out. Never moves back."""

    @abc.abstractmethod
    def sweep(self, limit: int = MAX_BATCH, term: Optional[int] = None) -> Sweep:
        """Take back partitions whose lease ran out; with a *term* also answer and clear the leader's mark."""

    @abc.abstractmethod
    def plan_state(self) -> PlanState:
        """Return where the plan stands."""

    @abc.abstractmethod
    def note_round(self, term: int, low_water: int, exhausted_version: Optional[int]) -> bool:
        """Record below how many pending partitions workers call for more, and the plan's version at which a full
        round found nothing new; False when the term is over."""

    @abc.abstractmethod
    def ask_for_round(self) -> None:
        """Have the leader do a full round soon."""

    @abc.abstractmethod
    def idle_state(self) -> IdleState:
        """Return whether anything is left to do, and what the leader's last full round found."""

    @abc.abstractmethod
    def _plan(
        self,
        expected_version: int,
        term: Optional[int],
        partitions: Sequence[CreatePartition],
        planned: Tuple[Sequence[Range], Sequence[Range]],
        skipped: Tuple[Sequence[Range], Sequence[Range]],
    ) -> int:
        """Create *partitions* and exchange intervals (removed, added); return the new version.

        :raises VersionConflict: when the plan is at another version.
        :raises LeaseLost: when *term* is over.
        """

    @abc.abstractmethod
    def _interval_page(self, which: str, first: Optional[int], limit: int) -> Tuple[int, List[Range]]:
        """Return the plan's version and intervals of ``planned`` or ``skipped`` that end at *first* or later."""

    @abc.abstractmethod
    def read(self, partition_ids: Sequence[int]) -> Dict[int, Partition]:
        """Return those of at most 500 partitions that exist.

        An unreadable record is logged and left out; asked for alone it raises StoreError.
        """

    @abc.abstractmethod
    def _scan_ids(self, index: str) -> Iterator[int]:
        """Return the ids in ``active``, ``done``, ``held`` or ``failed``, unordered, each at least once."""

    @abc.abstractmethod
    def indexed_ids(self) -> Iterator[int]:
        """Return every id that any record or index mentions, unordered; for audits."""

    @abc.abstractmethod
    def inspect(self, partition_ids: Sequence[int]) -> List[Tuple[int, Optional[Partition], List[str]]]:
        """Return, of one moment, at most 500 partitions with what is wrong with their records and indexes."""

    @abc.abstractmethod
    def get_partition_stats(self) -> PartitionStats:
        """Return the counts, in one round trip."""

    @abc.abstractmethod
    def is_paused(self) -> bool:
        """Return whether an operator paused the namespace."""

    # ---------------------------------------------------------------- what all strategies share

    def next_sequence(self, stream: str) -> int:
        """Return the next sequence number of a stream of requests."""
        with self._sequence_lock:
            number = self._sequences[stream] = self._sequences.get(stream, 0) + 1
        return number

    def stream(self, name: str) -> str:
        """Return the full name of one of this instance's streams."""
        return "%s:%s" % (self.nonce, name)

    def create_partitions_if_not_exist(self, partitions: Iterable[CreatePartition]) -> List[Partition]:
        """Create those that do not exist yet; return the new ones, ordered by id.

        Batches of at most 500, each atomic, in id order.

        :raises RangeConflict: a known id with another range, or an overlap with a planned range. Earlier batches are
            kept and listed in the error.
        """
        wanted = checked_input(partitions)
        created: List[Partition] = []
        for start in range(0, len(wanted), MAX_BATCH):
            try:
                created.extend(self._create_batch(wanted[start : start + MAX_BATCH]))
            except RangeConflict as exc:
                raise RangeConflict(exc.requested, exc.existing, "conflicts with", created) from exc
        return created

    def _create_batch(self, batch: Sequence[CreatePartition]) -> List[Partition]:
        for _ in range(_PLAN_TRIES):
            low, high = min(p.min_id for p in batch), max(p.max_id for p in batch)
            version, window = self.planned_window(low - 1, high + 1)
            known = self.read([p.partition_id for p in batch])
            fresh = []
            for item in batch:
                asked = (item.partition_id, item.min_id, item.max_id)
                there = known.get(item.partition_id)
                if there is not None:
                    if (there.min_id, there.max_id) != (item.min_id, item.max_id):
                        raise RangeConflict(asked, (there.min_id, there.max_id), "exists with another range")
                    continue
                clash = intervals.find_overlap(window, (item.min_id, item.max_id))
                if clash is not None:
                    raise RangeConflict(asked, clash, "overlaps the planned range")
                fresh.append(item)
            if not fresh:
                return []
            change = intervals.added(window, [(p.min_id, p.max_id) for p in fresh])
            try:
                stamp = self._plan(version, None, fresh, change, ((), ()))
            except VersionConflict:
                continue
            return [new_partition(item, stamp) for item in fresh]
        raise VersionConflict("the plan kept changing while partitions were created", None, None)

    def plan_partitions(
        self,
        state: PlanState,
        term: int,
        partitions: Sequence[CreatePartition],
        skipped: Sequence[Range],
    ) -> PlanState:
        """Create what the leader planned behind the last planned ID, and record what it skipped; one atomic step.

        :param state: what the plan was made from; refused when it is no longer the present one.
        :return: the state after it.
        :raises VersionConflict: somebody else planned. :raises LeaseLost: the term is over.
        """
        news = intervals.merge([(p.min_id, p.max_id) for p in partitions] + list(skipped))
        if state.last is not None and news and news[0][0] <= state.last[1]:
            raise IllegalTransition("planned ranges must lie behind the last planned ID %d" % state.last[1])
        known = [state.last] if state.last is not None else []
        gone, come = intervals.added(known, news)
        version = self._plan(state.version, term, partitions, (gone, come), ((), intervals.merge(skipped)))
        top = max([state.max_partition_id] + [p.partition_id for p in partitions])
        last = come[-1] if come else state.last
        return attr.evolve(
            state, version=version, last=last, max_partition_id=top, pending=state.pending + len(partitions)
        )

    def planned_window(self, low: int, high: int, which: str = "planned") -> Tuple[int, List[Range]]:
        """Return the plan's version and all its intervals that touch ``[low, high]``, of one moment."""
        while True:
            out: List[Range] = []
            version, page = self._interval_page(which, max(low, -(2**63)), 1000)
            while True:
                out.extend(item for item in page if item[0] <= high)
                if len(page) < 1000 or page[-1][1] >= high:
                    return version, out
                again, page = self._interval_page(which, page[-1][1] + 1, 1000)
                if again != version:
                    break

    def planned_intervals(self) -> List[Range]:
        """Return everything planned, as merged intervals (partitions, skipped and pruned ranges together)."""
        return self.planned_window(-(2**63), 2**63)[1]

    def skipped_intervals(self) -> List[Range]:
        """Return the ranges recorded as holding no data."""
        return self.planned_window(-(2**63), 2**63, "skipped")[1]

    def claim_partitions(self, worker_id: str, limit: int = 1) -> List[Partition]:
        """Claim up to *limit* (at most 500) partitions as running; highest priority first, then lowest id.

        A suspect comes alone. The lease is this strategy's ``partition_lock_expiry``; renew it yourself.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_BATCH:
            raise ConfigError("limit must be from 1 to %d, not %r" % (MAX_BATCH, limit))
        return list(self._public_turn(worker_id, free=limit).granted)

    def report_partitions(self, worker_id: str, reports: Sequence[Report]) -> List[ReportResult]:
        """Report what became of claims; a result with ``refused`` set changed nothing. At most 500."""
        if len(reports) > MAX_BATCH:
            raise ConfigError("at most %d reports at once, not %d" % (MAX_BATCH, len(reports)))
        return list(self._public_turn(worker_id, reports=reports).results)

    def _public_turn(self, worker_id: str, **what: Any) -> Turn:
        # One at a time: a request that overtook another of the same stream would make that one stale.
        with self._public:
            stream = self.stream("call")
            return self.turn(
                TurnRequest(check_worker_id(worker_id), stream, self.next_sequence(stream), self.lease, **what)
            )

    def renew_partitions(self, worker_id: str, claims: Sequence[Claim]) -> List[Claim]:
        """Renew claims by (partition_id, token); return those that are gone."""
        with self._public:
            stream = self.stream("renew")
            beat = self.beat(
                BeatRequest(check_worker_id(worker_id), stream, self.next_sequence(stream), 0.0, self.lease, {}, claims)
            )
        return sorted(beat.lost)

    def maintain_partition_hold(self, partition_id: int, worker_id: str, token: Optional[int] = None) -> None:
        """Renew one claim.

        :raises LeaseLost: with a token, when that claim is gone. :raises NotOwner: without, when the worker holds none.
        """
        claim = self._claim_of(partition_id, worker_id, token)
        if self.renew_partitions(worker_id, [claim]):
            raise LeaseLost(claim[0], claim[1], "the renewal")

    def release_partition(self, partition_id: int, worker_id: str, token: Optional[int] = None) -> None:
        """Give one claim back: pending at once, no attempt counted."""
        claim = self._claim_of(partition_id, worker_id, token)
        self._report_one(worker_id, Report(claim[0], claim[1], Outcome.RELEASED), "the release")

    def update_partition_status(
        self,
        partition_id: int,
        worker_id: str,
        status: PartitionStatus,
        metadata: Optional[Mapping[str, Any]] = None,
        token: Optional[int] = None,
    ) -> Partition:
        """Move a partition this worker holds; FAILED rests at once, without another attempt.

        :param metadata: any of ``error``, ``processed``, ``checkpoint``.
        :raises IllegalTransition: when no move leads there.
        """
        facts = dict(metadata or {})
        unknown = set(facts) - {"error", "processed", "checkpoint"}
        if unknown:
            raise ConfigError("metadata may hold error, processed and checkpoint, not %s" % ", ".join(sorted(unknown)))
        claim = self._claim_of(partition_id, worker_id, token)
        before = self.get_partition(partition_id)
        outcome = {
            PartitionStatus.COMPLETED: Outcome.COMPLETED,
            PartitionStatus.FAILED: Outcome.PERMANENT,
            PartitionStatus.PENDING: Outcome.RELEASED,
        }.get(status)
        running = status is PartitionStatus.RUNNING
        if not (running or outcome) or (before.status, status) not in MOVES and before.status in HELD:
            raise IllegalTransition(
                "partition %d: no move leads from %s to %s" % (partition_id, before.status.value, status)
            )
        processed = int(facts.get("processed", before.processed))
        if "checkpoint" in facts and not self.save_checkpoint(claim[0], claim[1], facts["checkpoint"], processed):
            raise LeaseLost(claim[0], claim[1], "the checkpoint")
        if running:
            self._public_turn(worker_id, starts=[claim])
        else:
            assert outcome is not None
            self._report_one(
                worker_id, Report(claim[0], claim[1], outcome, processed, facts.get("error")), "the status update"
            )
        return self.get_partition(partition_id)

    def _claim_of(self, partition_id: int, worker_id: str, token: Optional[int]) -> Claim:
        check_partition_id(partition_id)
        if token is not None:
            return partition_id, token
        there = self.get_partition(partition_id)
        if there.status not in HELD or there.worker_id != worker_id:
            raise NotOwner(partition_id, worker_id, there.worker_id if there.status in HELD else "")
        return partition_id, there.fencing_token

    def _report_one(self, worker_id: str, report: Report, what: str) -> None:
        if self.report_partitions(worker_id, [report])[0].refused:
            raise LeaseLost(report.partition_id, report.token, what)

    def get_partition(self, partition_id: int) -> Partition:
        """Return one partition, completed ones too.

        :raises PartitionNotFound: when there is none.
        """
        found = self.read([check_partition_id(partition_id)]).get(partition_id)
        if found is None:
            raise PartitionNotFound(partition_id)
        return found

    def get_all_partitions(self) -> List[Partition]:
        """Return every partition, completed ones too, ordered by id. Reads in pages of 500."""
        return self.get_filtered_partitions(PartitionFilter(include_archived=True))

    def get_all_active_partitions(self) -> List[Partition]:
        """Return every partition that is not completed, ordered by id."""
        return self.get_filtered_partitions(PartitionFilter())

    def get_filtered_partitions(self, wanted: PartitionFilter) -> List[Partition]:
        """Return the partitions that match, ordered by id, at most ``wanted.limit``."""
        ids: Set[int] = set()
        for index in indexes(wanted):
            ids.update(self._scan_ids(index))
        low = max(wanted.min_partition_id or 1, (wanted.after or 0) + 1)
        high = math.inf if wanted.max_partition_id is None else wanted.max_partition_id
        chosen = sorted(i for i in ids if low <= i <= high and i not in wanted.exclude_ids)
        now = self.store.now() if wanted.stale_for is not None else 0.0
        out: List[Partition] = []
        for start in range(0, len(chosen), MAX_BATCH):
            page = self.read(chosen[start : start + MAX_BATCH])
            for partition_id in sorted(page):
                if matches(page[partition_id], wanted, now):
                    out.append(page[partition_id])
                    if wanted.limit is not None and len(out) >= wanted.limit:
                        return out
        return out

    def workers(self) -> List[WorkerInfo]:
        """Return the live workers of the namespace."""
        return self.store.workers()

    def leader(self) -> Optional[Tuple[str, int, float]]:
        """Return worker id, term and remaining seconds of the leader's lease; None when nobody leads."""
        owner, term, remaining = self.store.read_lock("leader")
        return (owner, term, remaining) if remaining > 0 else None

    def stop(self) -> None:
        """End this instance. Partitions it claimed through the public methods stay leased until their time is up."""
