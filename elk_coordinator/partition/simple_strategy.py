"""SimplePartitionStrategy: everything active in one document, changed by read, compute, compare-and-set.

Runs on any DataStore. Two round trips a move, and more when several workers move at once; meant for up to some 2,000
active partitions. A reply that was lost is settled by reading: the document names the operation that wrote it.
Completed partitions leave for chunk documents, which are written before the document drops them, so a crash in between
costs an unused chunk and never a partition.
"""

from __future__ import annotations

import uuid
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple, TypeVar

from elk_coordinator.errors import (
    ConfigError,
    IllegalTransition,
    LeaseLost,
    PartitionNotFound,
    StateError,
    StoreUnavailable,
    VersionConflict,
)
from elk_coordinator.model import (
    HELD,
    MAX_BATCH,
    Beat,
    CreatePartition,
    IdleState,
    Partition,
    PartitionStats,
    PartitionStatus,
    PlanState,
    Range,
    ReportResult,
    StrategyType,
    Sweep,
    Turn,
)
from elk_coordinator.partition.archive import ChunkChange, answer_again
from elk_coordinator.partition.codec import clip_error
from elk_coordinator.partition.document import Document, Record
from elk_coordinator.partition.requests import BeatRequest, Memory, TurnRequest
from elk_coordinator.partition.simple_archive import SimpleArchive
from elk_coordinator.store.base import DataStore

T = TypeVar("T")

DOCUMENT = "simple"
#: Active partitions beyond which creating is refused.
MAX_ACTIVE = 10_000
#: Attempts of one compare-and-set against other writers.
_TRIES = 200

#: Answers to a report; '-' is a claim that is gone.
_CODE = {PartitionStatus.COMPLETED: "C", PartitionStatus.PENDING: "P", PartitionStatus.FAILED: "F", None: "-"}
_STATUS_OF_CODE = {code: status for status, code in _CODE.items()}


class SimplePartitionStrategy(SimpleArchive):
    """The strategy for small jobs and for stores that are not Redis; just as safe as HASH."""

    strategy_type = StrategyType.SIMPLE

    def __init__(self, namespace: str, store: DataStore, **options: Any) -> None:
        if not isinstance(store, DataStore):
            raise ConfigError("store: must be a DataStore, not %r" % (store,))
        super().__init__(namespace, store.namespaced(namespace), **options)
        #: The highest ``last`` read from a document. Apart from the memory of tokens: the locks of a DataStore draw
        #: theirs from another sequence, so a token above the document's last one proves nothing.
        self._known = Memory()

    # ---------------------------------------------------------------- read, compute, compare-and-set

    def look(self) -> Document:
        value = self.store.get(DOCUMENT)
        document = Document(value.data, value.version, value.now, self._known.floor)
        self._known.saw(document.last)
        return document

    def change(self, move: Callable[[Document], Tuple[T, bool]]) -> T:
        """Make *move* on the present document until it is stored; *move* returns its answer and whether it wrote."""
        operation = "%s:%s" % (self.nonce, uuid.uuid4().hex)
        sent: List[T] = []
        for _ in range(_TRIES):
            document = self.look()
            if sent and document.meta.get("operation") == operation:
                # Our write arrived, only its reply did not (or the store's own retry found it done).
                return sent[0]
            answer, wrote = move(document)
            if not wrote:
                return answer
            sent = [answer]
            try:
                stored = self.store.compare_and_set(DOCUMENT, document.stored_version, document.dump(operation))
            except StoreUnavailable:
                # Whether it was written is unknown: read again. A store that is gone says so there.
                continue
            if stored is not None:
                return answer
        raise StoreUnavailable("namespace %r: too many workers write at once; use StrategyType.HASH" % self.namespace)

    # ---------------------------------------------------------------- the atomic steps

    def turn(self, request: TurnRequest) -> Turn:
        newly_hungry: List[bool] = []

        def move(document: Document) -> Tuple[Turn, bool]:
            previous = document.streams.get(request.stream)
            if previous is not None and previous[0] > request.sequence:
                raise StateError("a turn of this worker instance was overtaken by a later one (a fork after start?)")
            if previous is not None and previous[0] == request.sequence:
                return self._again(document, request, previous), False
            lost_data = document.lost_data
            stamp = document.draw(self.memory.floor)
            results, letters = [], ""
            for report in request.reports:
                status = document.report(report, stamp, self.max_attempts, self.max_deliveries)
                results.append(ReportResult(report.partition_id, report.token, status))
                letters += _CODE[status]
            for partition_id, token in request.starts:
                document.start(partition_id, token, stamp)
            wanted = request.free + request.prefetch
            granted: List[Record] = []
            if wanted > 0 and not document.meta.get("paused"):
                granted = document.claim(request, stamp + 1, MAX_BATCH)
            left = len(document.claimable(False)) if wanted else 0
            if wanted and not document.meta.get("paused"):
                if len(granted) < wanted or left < int(document.meta.get("low_water", 0)):
                    newly_hungry.append(not document.meta.get("hungry"))
                    document.meta["hungry"] = True
            ids = [record.p.partition_id for record in granted]
            document.remember(request, letters, stamp + 1, ids)
            expired = any(r.p.status in HELD and r.deadline <= document.now for r in document.records.values())
            due_in = document.due_in() if len(granted) < wanted else None
            turn = Turn(results, [r.p for r in granted], left, bool(wanted) and expired, lost_data, due_in)
            return turn, True

        turn = answer_again(request, self.change(move), self.archived, self.logger.error)
        if newly_hungry and newly_hungry[-1]:
            self.store.notify("hungry")
        if request.returns_work:
            self.store.notify("work")
        if turn.granted:
            self.memory.saw(max(partition.fencing_token for partition in turn.granted))
        if sum(result.status is PartitionStatus.COMPLETED for result in turn.results):
            self._keep_small()
        return turn

    def _again(self, document: Document, request: TurnRequest, previous: Sequence[Any]) -> Turn:
        results = [
            ReportResult(report.partition_id, report.token, _STATUS_OF_CODE[code])
            for report, code in zip(request.reports, previous[1])
        ]
        granted = []
        for offset, partition_id in enumerate(previous[3]):
            record = document.records.get(partition_id)
            if record is not None and record.p.fencing_token == previous[2] + offset and record.p.status in HELD:
                granted.append(record.p)
        return Turn(results, granted)

    def beat(self, request: BeatRequest) -> Beat:
        def move(document: Document) -> Tuple[Beat, bool]:
            schema, strategy = document.meta.get("schema"), document.meta.get("strategy")
            if schema is not None and (
                strategy != self.strategy_type.value or not document.SCHEMA - 1 <= schema <= document.SCHEMA
            ):
                raise ConfigError(
                    "strategy: namespace %r runs strategy %r with schema %s, this worker %r with %d"
                    % (self.namespace, strategy, schema, self.strategy_type.value, document.SCHEMA)
                )
            previous = document.streams.get(request.stream)
            if previous is not None and previous[0] > request.sequence:
                raise StateError("a heartbeat of this worker instance was overtaken by a later one")
            wrote = schema is None or bool(request.claims)
            document.meta.update(schema=document.SCHEMA, strategy=self.strategy_type.value)
            if document.lost_data:
                document.draw(self.memory.floor)
                wrote = True
            lost = [claim for claim in request.claims if not document.renew(claim[0], claim[1], request.lease)]
            if request.claims:
                document.streams[request.stream] = [request.sequence, "", 0, []]
            meta = document.meta
            # As the script does: whoever lost a partition is not asked for it, another one may hold it by now.
            wishes = document.wishes([claim for claim in request.claims if claim not in lost])
            return Beat(
                frozenset(lost), wishes, bool(meta.get("paused")), int(meta.get("config_version", 0)),
                int(meta.get("lost", 0)), document.now,
            ), wrote  # fmt: skip

        answer = self.change(move)
        if request.ttl > 0:
            # After the namespace accepted this worker, as the scripts do.
            self.store.beat(request.worker_id, request.ttl, dict(request.info))
        return answer

    def save_checkpoint(self, partition_id: int, token: int, checkpoint: int, processed: int) -> bool:
        def move(document: Document) -> Tuple[bool, bool]:
            moved = document.checkpoint(partition_id, token, checkpoint, processed, self.memory.floor)
            return moved is not False, moved is True

        return self.change(move)

    def sweep(self, limit: int = MAX_BATCH, term: Optional[int] = None) -> Sweep:
        def move(document: Document) -> Tuple[Sweep, bool]:
            reclaimed, changed = document.sweep(limit, self.max_deliveries, self.memory.floor, self.longest_retry)
            counts = document.count()
            hungry, asked = bool(document.meta.get("hungry")), bool(document.meta.get("asked"))
            clear = term is not None and asked and self.leads(term)
            if clear:
                document.meta.pop("asked", None)
            sweep = Sweep(
                reclaimed, len(reclaimed) == limit, hungry, asked, counts[PartitionStatus.PENDING],
                counts[PartitionStatus.CLAIMED] + counts[PartitionStatus.RUNNING], document.waits,
            )  # fmt: skip
            return sweep, changed or clear

        return self.change(move)

    # ---------------------------------------------------------------- plan

    def plan_state(self, calls_heard: bool = False) -> PlanState:
        def move(document: Document) -> Tuple[Document, bool]:
            return document, document.meta.pop("hungry", None) is not None

        document = self.change(move) if calls_heard else self.look()
        counts = document.count()
        return PlanState(
            int(document.meta.get("planned_version", 0)),
            document.planned[-1] if document.planned else None,
            int(document.meta.get("max_id", 0)),
            counts[PartitionStatus.PENDING],
            counts[PartitionStatus.CLAIMED] + counts[PartitionStatus.RUNNING],
            document.now,
        )

    def leads(self, term: int) -> bool:
        return self.store.read_lock("leader")[1] == term

    def note_round(self, term: int, low_water: int, exhausted_version: Optional[int], began: float) -> bool:
        def move(document: Document) -> Tuple[bool, bool]:
            if term < document.meta.get("term", 0) or not self.leads(term):
                return False, False
            document.meta.update(term=term, low_water=low_water)
            if exhausted_version is not None:
                document.meta.update(exhausted_at=began, exhausted_version=exhausted_version)
            return True, True

        return self.change(move)

    def ask_for_round(self) -> None:
        def move(document: Document) -> Tuple[None, bool]:
            document.meta["asked"] = True
            return None, True

        self.change(move)
        self.store.notify("asked")

    def idle_state(self) -> IdleState:
        document = self.look()
        counts, meta = document.count(), document.meta
        open_ = sum(counts[s] for s in (PartitionStatus.PENDING, PartitionStatus.CLAIMED, PartitionStatus.RUNNING))
        exhausted = meta.get("exhausted_version", -1) == meta.get("planned_version", 0)
        return IdleState(document.now, open_, exhausted, float(meta.get("exhausted_at", 0.0)))

    def _plan(
        self,
        expected_version: int,
        term: Optional[int],
        partitions: Sequence[CreatePartition],
        planned: Tuple[Sequence[Range], Sequence[Range]],
        skipped: Tuple[Sequence[Range], Sequence[Range]],
    ) -> int:
        def move(document: Document) -> Tuple[int, bool]:
            meta = document.meta
            if term is not None and not self.leads(term):
                raise LeaseLost(0, term, "the plan of this leader's term")
            found = int(meta.get("planned_version", 0))
            if term is not None and term < meta.get("term", 0):
                raise LeaseLost(0, term, "the plan of this leader's term")
            if found != expected_version:
                raise VersionConflict("the plan of %r" % self.namespace, expected_version, found)
            active = sum(1 for r in document.records.values() if r.p.status is not PartitionStatus.COMPLETED)
            if active + len(partitions) > MAX_ACTIVE:
                raise ConfigError(
                    "StrategyType.SIMPLE keeps at most %d active partitions, there are %d; use StrategyType.HASH"
                    % (MAX_ACTIVE, active)
                )
            stamp = document.draw(self.memory.floor)
            for removed, added, ranges in ((*planned, document.planned), (*skipped, document.skipped)):
                kept = set(ranges) - set(removed)
                ranges[:] = sorted(kept | set(added))
            for item in partitions:
                document.records[item.partition_id] = Record(
                    Partition(
                        item.partition_id, item.min_id, item.max_id, priority=item.priority,
                        options=dict(item.options or {}), version=stamp, created_at=stamp / 1e6, updated_at=stamp / 1e6,
                    )
                )  # fmt: skip
                meta["max_id"] = max(int(meta.get("max_id", 0)), item.partition_id)
            meta["planned_version"] = stamp
            if term is not None:
                # Once a later leader has written, an earlier one is known to be late.
                meta["term"] = term
            return stamp, True

        version = self.change(move)
        self.memory.saw(version)
        if partitions:
            self.store.notify("work")
        return version

    def _acquire(
        self, partition_id: int, worker_id: str, sequence: int, preempt: bool, force: bool
    ) -> Optional[Partition]:
        def move(document: Document) -> Tuple[Optional[Partition], bool]:
            stream = self.stream("acquire")
            record = document.records.get(partition_id)
            previous = document.streams.get(stream)
            if previous is not None and previous[0] == sequence:
                same = record is not None and previous[3] == [partition_id] and record.p.fencing_token == previous[2]
                return (record.p if same and record is not None else None), False
            if record is None:
                raise PartitionNotFound(partition_id)
            if document.meta.get("paused") and not force:
                return None, False
            stamp = document.draw(self.memory.floor)
            granted = document.acquire(record, worker_id, self.lease, stamp, preempt, force, self.max_deliveries)
            document.streams[stream] = [sequence, "", stamp, [partition_id] if granted else []]
            return (record.p if granted else None), True

        found = self.change(move)
        if found is not None:
            self.memory.saw(found.fencing_token)
        return found

    def _update(self, wanted: Partition, expected_version: Optional[int]) -> int:
        def move(document: Document) -> Tuple[int, bool]:
            record = document.records.get(wanted.partition_id)
            if record is None or record.p.status is PartitionStatus.COMPLETED:
                raise PartitionNotFound(wanted.partition_id)
            if expected_version is not None and expected_version != record.p.version:
                raise VersionConflict("partition %d" % wanted.partition_id, expected_version, record.p.version)
            if wanted.priority != record.p.priority and record.p.status is not PartitionStatus.PENDING:
                raise IllegalTransition("partition %d: its priority changes only while pending" % wanted.partition_id)
            stamp = document.draw(self.memory.floor)
            error = clip_error(wanted.error) or None
            record.change(stamp, options=dict(wanted.options), error=error, priority=wanted.priority)
            return stamp, True

        return self.change(move)

    def _delete(
        self,
        partition_ids: Sequence[int],
        expected_version: int,
        planned: Tuple[Sequence[Range], Sequence[Range]],
        chunks: Sequence[ChunkChange] = (),
    ) -> List[int]:
        # Written before the document names them, so that no partition is ever in neither.
        self.write_chunks(chunks)

        def move(document: Document) -> Tuple[List[int], bool]:
            found = int(document.meta.get("planned_version", 0))
            if found != expected_version:
                raise VersionConflict("the plan of %r" % self.namespace, expected_version, found)
            held = [i for i in partition_ids if i in document.records and document.records[i].p.status in HELD]
            if held:
                return held, False
            if any(i not in document.records for i in partition_ids) or not self.exchange(document, chunks):
                raise VersionConflict("the archive of %r" % self.namespace, None, None)
            for partition_id in partition_ids:
                del document.records[partition_id]
            document.planned[:] = sorted((set(document.planned) - set(planned[0])) | set(planned[1]))
            document.meta["planned_version"] = document.draw(self.memory.floor)
            return [], True

        try:
            held = self.change(move)
        except VersionConflict:
            self.settle_chunks(chunks, False)
            raise
        self.settle_chunks(chunks, not held)
        return held

    def _interval_page(self, which: str, first: Optional[int], limit: int) -> Tuple[int, List[Range]]:
        document = self.look()
        ranges = {"planned": document.planned, "skipped": document.skipped, "pruned": document.pruned}[which]
        page = [item for item in ranges if first is None or item[1] >= first][:limit]
        return int(document.meta.get("planned_version", 0)), page

    # ---------------------------------------------------------------- questions

    def _scan_ids(self, index: str) -> Iterator[int]:
        document = self.look()
        done = PartitionStatus.COMPLETED
        for i, record in document.records.items():
            status = record.p.status
            chosen = {
                "active": status is not done,
                "done": status is done,
                "held": status in HELD,
                "failed": status is PartitionStatus.FAILED,
            }[index]
            if chosen:
                yield i

    def indexed_ids(self, wrong: Optional[List[str]] = None) -> Iterator[int]:
        if wrong is not None:
            wrong += ["partition %s: its record in the document cannot be read" % i for i in self.look().unreadable]
        yield from self._scan_ids("active")
        yield from self._scan_ids("done")
        yield from self.archived_ids()

    def inspect(self, partition_ids: Sequence[int]) -> List[Tuple[int, Optional[Partition], List[str]]]:
        # Records are their own indexes here: there is nothing that could disagree.
        found = self.readable(partition_ids)
        found.update(self._read_recent(partition_ids))
        return [(i, partition, []) for i, partition in found.items()]

    def get_partition_stats(self) -> PartitionStats:
        document = self.look()
        counts = document.count()
        pruned = int(document.meta.get("pruned", 0))
        completed, failed = counts[PartitionStatus.COMPLETED] + pruned, counts[PartitionStatus.FAILED]
        total = sum(counts.values()) + pruned
        return PartitionStats(
            total=total,
            pending=counts[PartitionStatus.PENDING],
            claimed=counts[PartitionStatus.CLAIMED],
            running=counts[PartitionStatus.RUNNING],
            completed=completed,
            failed=failed,
            completion_rate=completed / total if total else 0.0,
            failure_rate=failed / total if total else 0.0,
            max_partition_id=int(document.meta.get("max_id", 0)),
            last_allocated_id=document.planned[-1][1] if document.planned else None,
            pruned=pruned,
        )

    def is_paused(self) -> bool:
        return bool(self.look().meta.get("paused"))
