"""The archive: completed partitions leave the active layer at once, and later become compressed chunks.

A chunk holds the partitions of one range of ``BUCKET`` ids (archive_codec.py), so the chunk of an id is found by a
division and no two overlap, whatever order partitions end in. What completes later joins its chunk, which is written
anew, by compare-and-set. Each chunk has a line in an index, "mark count oldest newest first last"; the mark is drawn
for each writing and never repeats, so equal lines mean an unchanged chunk; the rest is what is known without decoding.
"""

from __future__ import annotations

import abc
import bisect
import threading
from typing import Callable, Dict, FrozenSet, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

import attr

from elk_coordinator.errors import StoreError, StoreUnavailable
from elk_coordinator.model import MAX_BATCH, Outcome, Partition, PartitionStatus, Range, Turn
from elk_coordinator.partition import intervals
from elk_coordinator.partition.archive_codec import BUCKET, Row, decode, encode
from elk_coordinator.partition.requests import TurnRequest
from elk_coordinator.partition.steps import Steps

#: Decoded chunks that are remembered; a chunk of 2,000 rows takes about a megabyte.
_REMEMBERED = 4
#: Chunks fetched in one round trip while listing.
_FETCHED = 4
#: Chunks opened at once for dropping details; each takes some 25 ms to read and write.
_OPENED = 8


class DamagedChunk(StoreError):
    """A chunk that cannot be read, with its number in :attr:`bucket`."""

    def __init__(self, bucket: int, reason: object) -> None:
        super().__init__("%s is damaged: %s; 'elk verify' names such chunks" % (chunk_name(bucket), reason))
        self.bucket = bucket


@attr.s(auto_attribs=True, frozen=True, slots=True)
class ChunkLine:
    """One line of the index."""

    mark: str
    count: int
    #: Versions, that is instants of completion in microseconds.
    oldest: int
    newest: int
    #: Ids.
    first: int
    last: int

    @classmethod
    def parse(cls, bucket: int, text: str) -> "ChunkLine":
        """Read a line. :raises DamagedChunk: when it is none."""
        try:
            mark, *numbers = text.split(" ")
            count, oldest, newest, first, last = (int(number) for number in numbers)
            return cls(mark, count, oldest, newest, first, last)
        except ValueError as exc:
            raise DamagedChunk(bucket, "its index line is %r" % text) from exc


class ChunkChange(NamedTuple):
    """A chunk written anew: its line in the index before and after ("" = no chunk), and its bytes."""

    bucket: int
    before: str
    after: str
    blob: bytes
    #: How many partitions more it holds than before.
    growth: int


class DuePage(NamedTuple):
    """What a look at part of the recently completed partitions found."""

    #: Where to go on; "0" at the end.
    cursor: str
    #: The store's clock, microseconds.
    now: int
    #: How many completed partitions are recent, and how many are in chunks.
    recent: int
    archived: int
    #: Pages of :data:`MAX_BATCH` ids with partitions that are due.
    due: Set[int]
    #: Whether some were not due yet.
    young: bool


def chunk_name(bucket: int) -> str:
    """Return how messages call a chunk."""
    return "archive chunk %d (partitions %d to %d)" % (bucket, bucket * BUCKET, bucket * BUCKET + BUCKET - 1)


def field(bucket: int) -> str:
    """Return a chunk's field in the hashes that hold it."""
    return "%014d" % bucket


class Archive(Steps):
    """Reading, filling and shortening the archive."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self._decoded: Dict[int, Tuple[bytes, Dict[int, Row]]] = {}
        self._decoded_lock = threading.Lock()
        #: Buckets whose damage was logged: once is enough.
        self._told: Set[int] = set()

    # ---------------------------------------------------------------- the atomic steps of a strategy

    @abc.abstractmethod
    def _read_recent(self, partition_ids: Sequence[int]) -> Dict[int, Partition]:
        """Return those of at most 500 partitions that are not in a chunk.

        An unreadable record is logged and left out; asked for alone it raises StoreError.
        """

    @abc.abstractmethod
    def _archive_index(self) -> Dict[int, str]:
        """Return the line of every chunk, by bucket."""

    @abc.abstractmethod
    def _archive_chunks(self, buckets: Sequence[int]) -> Dict[int, Tuple[str, bytes]]:
        """Return line and bytes, of one moment, of those buckets that have either; "" or b"" for what is missing."""

    @abc.abstractmethod
    def due_page(self, cursor: str, age: float) -> DuePage:
        """Look for completed partitions that are at least *age* seconds old; *cursor* is "0" at the beginning."""

    @abc.abstractmethod
    def _due(self, page: int, cutoff: int) -> Tuple[str, bytes, List[Row]]:
        """Return, of a page of ids, the recent completed partitions with versions up to *cutoff*, and their chunk."""

    @abc.abstractmethod
    def _archive_swap(
        self,
        term: Optional[int],
        change: ChunkChange,
        leaving: Sequence[Row],
        pruned: int = 0,
        ranges: Tuple[Sequence[Range], Sequence[Range]] = ((), ()),
    ) -> bool:
        """Write a chunk anew while the recent records *leaving* go, in one step; False when anything changed meanwhile.

        :param pruned: how many partitions the step drops for good. :param ranges: pruned intervals removed and added.
        :raises LeaseLost: when *term* is over.
        """

    @abc.abstractmethod
    def _delete(
        self,
        partition_ids: Sequence[int],
        expected_version: int,
        planned: Tuple[Sequence[Range], Sequence[Range]],
        chunks: Sequence[ChunkChange] = (),
    ) -> List[int]:
        """Delete recent partitions, write chunks anew and exchange planned intervals (removed, added) in one step.

        Return ids that are held; nothing is deleted when any is.

        :raises VersionConflict: when the plan is at another version, or something moved to its chunk meanwhile.
        """

    # ---------------------------------------------------------------- reading

    def read(self, partition_ids: Sequence[int]) -> Dict[int, Partition]:
        # Recent ones first: one that moves to its chunk in between is then seen in at least one of them.
        out = self._read_recent(partition_ids)
        if len(out) < len(partition_ids):
            out.update(self.archived([i for i in partition_ids if i not in out]))
        return out

    def archived(self, partition_ids: Sequence[int]) -> Dict[int, Partition]:
        """Return those of the partitions that are in chunks.

        :raises DamagedChunk: when a chunk that may hold one cannot be read.
        """
        out: Dict[int, Partition] = {}
        for bucket, (line, blob) in self._archive_chunks(sorted({i // BUCKET for i in partition_ids})).items():
            if line:
                about = ChunkLine.parse(bucket, line)
                if not any(about.first <= i <= about.last for i in partition_ids):
                    continue
            rows = self._rows(bucket, line, blob)
            out.update({i: rows[i].partition() for i in partition_ids if i in rows})
        return out

    def archived_between(self, low: int, high: float) -> Iterator[Partition]:
        """Return the archived partitions with ids from *low* to *high*, in that order, fetched as they are used."""
        buckets = [b for b in sorted(self._archive_index()) if b >= low // BUCKET and b * BUCKET <= high]
        for start in range(0, len(buckets), _FETCHED):
            chunks = self._archive_chunks(buckets[start : start + _FETCHED])
            for bucket in sorted(chunks):
                for partition_id, row in self._rows(bucket, *chunks[bucket]).items():
                    if low <= partition_id <= high:
                        yield row.partition()

    def readable(self, partition_ids: Sequence[int]) -> Dict[int, Partition]:
        """Return what :meth:`archived` does, without what stands in damaged chunks; for audits."""
        out: Dict[int, Partition] = {}
        for bucket in sorted({i // BUCKET for i in partition_ids}):
            try:
                out.update(self.archived([i for i in partition_ids if i // BUCKET == bucket]))
            except DamagedChunk:
                continue
        return out

    def archived_ids(self) -> Iterator[int]:
        """Return the ids in all readable chunks; for audits, which name the others by :meth:`archive_problems`."""
        for bucket in sorted(self._archive_index()):
            for _, (line, blob) in self._archive_chunks([bucket]).items():
                try:
                    yield from self._rows(bucket, line, blob)
                except StoreError:
                    continue

    def archive_problems(self) -> List[str]:
        """Return what is wrong with chunks: each that cannot be read, by its name."""
        out = []
        for bucket in sorted(self._archive_index()):
            for _, (line, blob) in self._archive_chunks([bucket]).items():
                try:
                    self._rows(bucket, line, blob)
                except StoreError as exc:
                    out.append(str(exc))
        return out

    def _rows(self, bucket: int, line: str, blob: bytes) -> Dict[int, Row]:
        """Return the rows of a chunk, by id in order. :raises DamagedChunk: when it cannot be read."""
        if not line or not blob:
            raise DamagedChunk(bucket, "its %s missing" % ("bytes are" if line else "index line is"))
        with self._decoded_lock:
            known = self._decoded.get(bucket)
        if known is not None and known[0] == blob:
            return known[1]
        try:
            rows = decode(blob)
        except ValueError as exc:
            raise DamagedChunk(bucket, exc) from exc
        if len(rows) != ChunkLine.parse(bucket, line).count or any(i // BUCKET != bucket for i in rows):
            raise DamagedChunk(bucket, "it does not hold what its index line says")
        self._remember(bucket, blob, rows)
        return rows

    def tell_damage(self, damage: DamagedChunk) -> None:
        """Log a chunk that cannot be read, once."""
        if damage.bucket not in self._told:
            self._told.add(damage.bucket)
            self.logger.error("%s; it is left as it is, and what belongs to it stays outside", damage)

    def _remember(self, bucket: int, blob: bytes, rows: Dict[int, Row]) -> None:
        with self._decoded_lock:
            self._decoded.pop(bucket, None)
            self._decoded[bucket] = (blob, rows)
            while len(self._decoded) > _REMEMBERED:
                del self._decoded[next(iter(self._decoded))]

    # ---------------------------------------------------------------- changing

    def _changed(self, bucket: int, line: str, before: Mapping[int, Row], after: Dict[int, Row]) -> ChunkChange:
        """Return the change that makes *after* the rows of a chunk."""
        growth = len(after) - len(before)
        if not after:
            return ChunkChange(bucket, line, "", b"", growth)
        stream = self.stream("archive")
        versions = [row.version for row in after.values()]
        about = ChunkLine(
            "%s:%d" % (stream, self.next_sequence(stream)),
            len(after), min(versions), max(versions), min(after), max(after),
        )  # fmt: skip
        text = "%s %d %d %d %d %d" % attr.astuple(about)
        blob = encode(list(after.values()))
        self._remember(bucket, blob, {i: after[i] for i in sorted(after)})
        return ChunkChange(bucket, line, text, blob, growth)

    def _without(self, partition_ids: Sequence[int]) -> Tuple[List[ChunkChange], List[Partition]]:
        """Return the changes that take partitions out of their chunks, and these partitions."""
        changes: List[ChunkChange] = []
        gone: List[Partition] = []
        wanted = set(partition_ids)
        for bucket, (line, blob) in self._archive_chunks(sorted({i // BUCKET for i in wanted})).items():
            rows = self._rows(bucket, line, blob)
            leaving = [i for i in rows if i in wanted]
            if leaving:
                gone += [rows[i].partition() for i in leaving]
                changes.append(
                    self._changed(bucket, line, rows, {i: row for i, row in rows.items() if i not in wanted})
                )
        return changes, gone

    def archive_page(self, term: Optional[int], page: int, cutoff: int) -> int:
        """Move what is due among one page of ids to its chunk; return how many moved.

        :raises LeaseLost: when *term* is over. :raises DamagedChunk: when it cannot be read; nothing is changed then.
        """
        bucket = page * MAX_BATCH // BUCKET
        line, blob, due = self._due(page, cutoff)
        if not due:
            return 0
        rows = self._rows(bucket, line, blob) if line or blob else {}
        # An id that is in both was deleted and created again since: the later one counts.
        after = dict(rows)
        after.update({row.partition_id: row for row in due})
        return len(due) if self._archive_swap(term, self._changed(bucket, line, rows, after), due) else 0

    def prune(self, term: int, keep: int, passed_over: FrozenSet[int] = frozenset()) -> int:
        """Drop the details of the oldest completed partitions in chunks while more than *keep* are kept.

        At most 500 of a chunk and of few chunks, in some tenths of a second. Their number and their ranges stay. Where
        more than :data:`_OPENED` chunks were completed at the same time, the oldest of so many of them go first.

        :param passed_over: buckets that cannot be read.
        :return: how many were dropped. :raises LeaseLost: when *term* is over. :raises DamagedChunk: for a chunk that
            cannot be read.
        """
        stats = self.get_partition_stats()
        excess = stats.completed - stats.pruned - keep
        if excess <= 0:
            return 0
        lines = {b: ChunkLine.parse(b, text) for b, text in self._archive_index().items() if b not in passed_over}
        # The oldest rows of all are found by opening chunks in order of their oldest, until enough rows are older than
        # anything in the chunks not opened.
        pool: List[Tuple[int, int, int]] = []
        opened: Dict[int, Tuple[str, Dict[int, Row]]] = {}
        for bucket in sorted(lines, key=lambda b: (lines[b].oldest, b)):
            sure = bisect.bisect_left(pool, (lines[bucket].oldest, -1, -1))
            if sure >= min(excess, MAX_BATCH):
                del pool[sure:]
                break
            if len(opened) >= _OPENED:
                break
            for _, (line, blob) in self._archive_chunks([bucket]).items():
                opened[bucket] = (line, self._rows(bucket, line, blob))
                pool += [(row.version, bucket, i) for i, row in opened[bucket][1].items()]
            pool.sort()
        # Whatever was opened is written once with all that leaves it, or in no order of completion at all each chunk
        # would be read and written again for a few rows.
        dropped: Dict[int, Set[int]] = {}
        for _, bucket, partition_id in pool[:excess]:
            ids = dropped.setdefault(bucket, set())
            if len(ids) < MAX_BATCH:
                ids.add(partition_id)
        count = 0
        for bucket, ids in dropped.items():
            line, rows = opened[bucket]
            news = intervals.merge((rows[i].low, rows[i].low + rows[i].span) for i in ids)
            known = self._pruned_near(news[0][0] - 1, news[-1][1] + 1)
            change = self._changed(bucket, line, rows, {i: row for i, row in rows.items() if i not in ids})
            if self._archive_swap(term, change, (), len(ids), intervals.added(known, news)):
                count += len(ids)
        return count

    @abc.abstractmethod
    def _pruned_near(self, low: int, high: int) -> List[Range]:
        """Return the pruned intervals that touch ``[low, high]``."""


def answer_again(
    request: TurnRequest, turn: Turn, look: Callable[[Sequence[int]], Mapping[int, Partition]], log: Callable[..., None]
) -> Turn:
    """Give repeated reports of completions that have left for a chunk their first answer again."""
    late = {
        (result.partition_id, result.token)
        for report, result in zip(request.reports, turn.results)
        if result.refused and report.outcome is Outcome.COMPLETED
    }
    if not late:
        return turn
    done = PartitionStatus.COMPLETED
    try:
        found = look(sorted({partition_id for partition_id, _ in late}))
    except StoreUnavailable:
        raise
    except StoreError as exc:
        # The turn itself was made; a damaged chunk must not take its claims from the worker.
        log("a repeated report is refused, since %s", exc)
        return turn
    known = late & {(p.partition_id, p.fencing_token) for p in found.values() if p.status is done}
    results = [
        attr.evolve(result, status=done)
        if report.outcome is Outcome.COMPLETED and (result.partition_id, result.token) in known
        else result
        for report, result in zip(request.reports, turn.results)
    ]
    return attr.evolve(turn, results=results)
