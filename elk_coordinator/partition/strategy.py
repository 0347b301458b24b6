"""PartitionStrategy: the public face of the partitions of a namespace, the same on every way of keeping them."""

from __future__ import annotations

import heapq
import math
from typing import Any, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

import attr

from elk_coordinator.errors import (
    ConfigError,
    IllegalTransition,
    LeaseLost,
    NotOwner,
    PartitionNotFound,
    VersionConflict,
)
from elk_coordinator.model import (
    HELD,
    MAX_BATCH,
    MOVES,
    CreatePartition,
    Outcome,
    Partition,
    PartitionFilter,
    PartitionStatus,
    Report,
    ReportResult,
    Turn,
    WorkerInfo,
    check_partition_id,
    check_priority,
)
from elk_coordinator.partition import codec
from elk_coordinator.partition.event_log import EventLog, LoggedEvent
from elk_coordinator.partition.planning import Planning
from elk_coordinator.partition.requests import (
    BeatRequest,
    Claim,
    TurnRequest,
    check_checkpoint,
    check_claim,
    check_error,
    check_processed,
    check_report,
    check_worker_id,
)
from elk_coordinator.partition.selection import indexes, matches

#: Facts that update_partition leaves to the moves.
_FIXED = (
    "min_id", "max_id", "status", "worker_id", "attempt", "deliveries", "fencing_token", "checkpoint", "processed",
    "retry_at", "created_at", "completed_at",
)  # fmt: skip
#: What a public status update reports.
_OUTCOMES = {
    PartitionStatus.COMPLETED: Outcome.COMPLETED,
    PartitionStatus.FAILED: Outcome.PERMANENT,
    PartitionStatus.PENDING: Outcome.RELEASED,
}


class PartitionStrategy(Planning):
    """Partitions of one namespace in a store. Every method is safe from any thread."""

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
        return list(self._public_turn(worker_id, reports=[check_report(report) for report in reports]).results)

    def _public_turn(self, worker_id: str, **what: Any) -> Turn:
        # One at a time: a request that overtook another of the same stream would make that one stale.
        with self._public:
            stream = self.stream("call")
            turn = self.turn(
                TurnRequest(check_worker_id(worker_id), stream, self.next_sequence(stream), self.lease, **what)
            )
            self._own.update({(p.partition_id, p.fencing_token): worker_id for p in turn.granted})
            for result in turn.results:
                self._own.pop((result.partition_id, result.token), None)
            return turn

    def acquire_partition(
        self, partition_id: int, worker_id: str, allow_preemption: bool = True, force: bool = False
    ) -> Optional[Partition]:
        """Claim one partition by its id, as running; None when somebody has it, it is completed or failed, or the
        namespace is paused.

        :param allow_preemption: also when its lease ran out.
        :param force: also while paused, and when its lease did not: this breaks the promise that the old holder sees
            ``cancelled`` first; it learns at its next beat, and what it still sends is refused.
        :raises PartitionNotFound: when there is no such partition.
        """
        check_partition_id(partition_id)
        check_worker_id(worker_id)
        with self._public:
            number = self.next_sequence(self.stream("acquire"))
            try:
                found = self._acquire(partition_id, worker_id, number, allow_preemption, force)
            except PartitionNotFound:
                # Completed ones are there, and nobody can have them.
                self.get_partition(partition_id)
                return None
            if found is not None:
                self._own[(found.partition_id, found.fencing_token)] = worker_id
            return found

    def update_partition(
        self, partition: Partition, expected_version: Optional[int] = None, upsert: bool = False, force: bool = False
    ) -> Partition:
        """Store changed ``options``, ``error`` and, while it is pending, ``priority``; return it as it is now.

        :param expected_version: default the version of *partition*, so that what changed since is not overwritten.
        :param upsert: create it, as pending, when there is none. :param force: whatever its version is.
        :raises VersionConflict: it changed meanwhile. :raises IllegalTransition: anything else differs.
        :raises PartitionNotFound: there is none, or it is completed.
        """
        if not isinstance(partition, Partition) or not isinstance(partition.options, dict):
            raise ConfigError("update_partition takes a Partition, with a dict as options, not %.200r" % (partition,))
        check_priority(partition.priority)
        check_error(partition.error)
        codec.dump_options(partition.options, partition.partition_id)
        try:
            before = self.get_partition(partition.partition_id)
        except PartitionNotFound:
            if not upsert:
                raise
            if partition.status is not PartitionStatus.PENDING:
                raise IllegalTransition(
                    "partition %d: there is none, and one begins as pending, not as %s"
                    % (partition.partition_id, partition.status.value)
                ) from None
            item = CreatePartition(
                partition.partition_id, partition.min_id, partition.max_id, partition.priority, partition.options
            )
            created = self.create_partitions_if_not_exist([item])
            if not created:
                # Somebody else was quicker: then it is an update of theirs.
                return self.update_partition(partition, expected_version, False, force)
            if not partition.error:
                return created[0]
            self._update(attr.evolve(created[0], error=partition.error), created[0].version)
            return self.get_partition(partition.partition_id)
        expected = None if force else (partition.version if expected_version is None else expected_version)
        if expected is not None and expected != before.version:
            raise VersionConflict("partition %d" % partition.partition_id, expected, before.version)
        changed = [name for name in _FIXED if getattr(partition, name) != getattr(before, name)]
        if changed or before.status is PartitionStatus.COMPLETED:
            raise IllegalTransition(
                "partition %d: update_partition changes options, error and, while pending, priority; not %s"
                % (partition.partition_id, ", ".join(changed) or "a completed partition")
            )
        self._update(partition, expected)
        return self.get_partition(partition.partition_id)

    def renew_partitions(self, worker_id: str, claims: Sequence[Claim]) -> List[Claim]:
        """Renew claims by (partition_id, token); return those that are gone."""
        claims = [check_claim(*claim) for claim in claims]
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

        :param metadata: any of ``error``, ``processed``, ``checkpoint`` (from ``min_id - 1`` to ``max_id``).
        :raises IllegalTransition: when no move leads there. :raises ConfigError: for metadata that cannot be.
        """
        facts = dict(metadata or {})
        unknown = set(facts) - {"error", "processed", "checkpoint"}
        if unknown:
            raise ConfigError("metadata may hold error, processed and checkpoint, not %s" % ", ".join(sorted(unknown)))
        error = check_error(facts.get("error"))
        claim = self._claim_of(partition_id, worker_id, token)
        before = self.get_partition(partition_id)
        outcome = _OUTCOMES.get(status) if isinstance(status, PartitionStatus) else None
        running = status is PartitionStatus.RUNNING
        if not (running or outcome) or (before.status, status) not in MOVES and before.status in HELD:
            raise IllegalTransition(
                "partition %d: no move leads from %s to %s" % (partition_id, before.status.value, status)
            )
        processed = check_processed(facts.get("processed", before.processed))
        if "checkpoint" in facts:
            checkpoint = check_checkpoint(facts["checkpoint"], before)
            if not self.save_checkpoint(claim[0], claim[1], checkpoint, processed):
                raise LeaseLost(claim[0], claim[1], "the checkpoint")
        if running:
            self._public_turn(worker_id, starts=[claim])
            there = self.get_partition(partition_id)
            if (there.fencing_token, there.status) != (claim[1], PartitionStatus.RUNNING):
                raise LeaseLost(claim[0], claim[1], "the start")
        else:
            assert outcome is not None
            self._report_one(worker_id, Report(claim[0], claim[1], outcome, processed, error), "the status update")
        return self.get_partition(partition_id)

    def _claim_of(self, partition_id: int, worker_id: str, token: Optional[int]) -> Claim:
        check_partition_id(partition_id)
        if token is not None:
            return check_claim(partition_id, token)
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
        if not isinstance(wanted, PartitionFilter):
            raise ConfigError("partitions are chosen by a PartitionFilter, not %.200r" % (wanted,))
        ids: Set[int] = set()
        for index in indexes(wanted):
            ids.update(self._scan_ids(index))
        low = max(wanted.min_partition_id or 1, (wanted.after or 0) + 1)
        high = math.inf if wanted.max_partition_id is None else wanted.max_partition_id
        chosen = sorted(i for i in ids if low <= i <= high and i not in wanted.exclude_ids)
        archived: Iterator[Partition] = iter(())
        if "done" in indexes(wanted):
            # Looked at after the others: what moves to the archive in between is then seen in at least one of them.
            archived = self.archived_between(low, high)
        now = self.store.now() if wanted.stale_for is not None else 0.0
        out: List[Partition] = []
        last = 0
        for partition in heapq.merge(self._pages(chosen), archived, key=lambda p: p.partition_id):
            if partition.partition_id == last or partition.partition_id in wanted.exclude_ids:
                continue
            last = partition.partition_id
            if matches(partition, wanted, now):
                out.append(partition)
                if wanted.limit is not None and len(out) >= wanted.limit:
                    break
        return out

    def _pages(self, ids: Sequence[int]) -> Iterator[Partition]:
        for start in range(0, len(ids), MAX_BATCH):
            page = self.read(ids[start : start + MAX_BATCH])
            yield from (page[i] for i in sorted(page))

    def workers(self) -> List[WorkerInfo]:
        """Return the live workers of the namespace."""
        return self.store.workers()

    def leader(self) -> Optional[Tuple[str, int, float]]:
        """Return worker id, term and remaining seconds of the leader's lease; None when nobody leads."""
        owner, term, remaining = self.store.read_lock("leader")
        return (owner, term, remaining) if remaining > 0 else None

    def events(self, after: Optional[str] = None, limit: int = 100) -> List[LoggedEvent]:
        """Return what happened in the namespace, oldest first: behind the event *after*, else the newest *limit*."""
        return EventLog(self.store).read(after, limit)

    def stop(self) -> None:
        """End this instance: give back what was claimed through its public methods, and nothing else."""
        for worker_id in sorted(set(self._own.values())):
            claims = [claim for claim, owner in self._own.items() if owner == worker_id]
            for start in range(0, len(claims), MAX_BATCH):
                page = claims[start : start + MAX_BATCH]
                self.report_partitions(worker_id, [Report(i, token, Outcome.RELEASED) for i, token in page])
