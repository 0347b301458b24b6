"""The archive of the SIMPLE strategy: each chunk is a document of its own, named by the mark in its line.

A chunk document is written before the document of the namespace names it, and dropped after that no longer does: a
crash in between costs an unused chunk and never a partition.
"""

from __future__ import annotations

import abc
from typing import Callable, Dict, Iterable, List, Optional, Sequence, Set, Tuple, TypeVar

from elk_coordinator.errors import LeaseLost, StoreUnavailable
from elk_coordinator.model import MAX_BATCH, Partition, PartitionStatus, Range
from elk_coordinator.partition.archive import ChunkChange, DamagedChunk, DuePage
from elk_coordinator.partition.archive_codec import BUCKET, Row, row_of_partition
from elk_coordinator.partition.document import Document
from elk_coordinator.partition.strategy import PartitionStrategy
from elk_coordinator.partition.survey import OpenWork, of_partitions

T = TypeVar("T")

#: Completed partitions that stay in the document before they move to chunks, however young they are.
MAX_RECENT = 256
#: Chunks whose size is asked for at one look for monitoring; those seen before are remembered.
CHUNKS_A_LOOK = 3
#: Looks at the document until all chunks that it names were there at once.
_TRIES = 50


def _name(line: str) -> str:
    return "chunk-" + line.partition(" ")[0].replace(":", "-")


class SimpleArchive(PartitionStrategy):
    """The atomic steps of :class:`~elk_coordinator.partition.archive.Archive`, by compare-and-set of the document."""

    _chunk_sizes: Dict[str, int] = {}

    @abc.abstractmethod
    def look(self) -> Document:
        """Return the present document."""

    @abc.abstractmethod
    def change(self, move: Callable[[Document], Tuple[T, bool]]) -> T:
        """Make a move on the document."""

    @abc.abstractmethod
    def leads(self, term: int) -> bool:
        """Return whether the term is the present one."""

    def _read_recent(self, partition_ids: Sequence[int]) -> Dict[int, Partition]:
        records = self.look().records
        return {i: records[i].p for i in partition_ids if i in records}

    def _archive_index(self) -> Dict[int, str]:
        return dict(self.look().chunks)

    def _archive_chunks(self, buckets: Sequence[int]) -> Dict[int, Tuple[str, bytes]]:
        out: Dict[int, Tuple[str, bytes]] = {}
        before: Dict[int, str] = {}
        for _ in range(_TRIES):
            lines = {b: line for b, line in self.look().chunks.items() if b in set(buckets)}
            # One that the document still names after it was looked for in vain is missing for good.
            missing = {b for b, (line, blob) in out.items() if not blob and line == lines.get(b)}
            for bucket, line in lines.items():
                if before.get(bucket) != line:
                    out[bucket] = (line, self.store.get(_name(line)).data or b"")
            out = {b: out[b] for b in lines}
            if all(blob or b in missing for b, (_, blob) in out.items()):
                break
            before = lines
        return out

    def open_work(self) -> OpenWork:
        document = self.look()
        lines = list(document.chunks.values())
        # Chunks are never written twice under one name: each is looked at once, a few at a time.
        sizes = self._chunk_sizes = {line: self._chunk_sizes[line] for line in lines if line in self._chunk_sizes}
        for line in [line for line in lines if line not in sizes][:CHUNKS_A_LOOK]:
            sizes[line] = len(self.store.get(_name(line)).data or b"")
        size = round(sum(sizes.values()) / len(sizes) * len(lines)) if sizes else 0
        commands = sum(row[4] in ("queued", "running") for row in document.commands.values())
        records = [record.p for record in document.records.values()]
        return of_partitions(document.now, records, int(document.meta.get("archived", 0)), size, commands)

    def due_page(self, cursor: str, age: float) -> DuePage:
        document = self.look()
        done = [r.p for r in document.records.values() if r.p.status is PartitionStatus.COMPLETED]
        now = int(document.now * 1e6)
        old = [p for p in done if p.version <= now - int(age * 1e6)]
        due = {p.partition_id // MAX_BATCH for p in old}
        return DuePage("0", now, len(done), int(document.meta.get("archived", 0)), due, len(old) < len(done))

    def _due(self, page: int, cutoff: int) -> Tuple[str, bytes, List[Row]]:
        rows = [
            row_of_partition(r.p)
            for i, r in self.look().records.items()
            if r.p.status is PartitionStatus.COMPLETED and i // MAX_BATCH == page and r.p.version <= cutoff
        ]
        bucket = page * MAX_BATCH // BUCKET
        line, blob = self._archive_chunks([bucket]).get(bucket, ("", b"")) if rows else ("", b"")
        return line, blob, rows

    def _archive_swap(
        self,
        term: Optional[int],
        change: ChunkChange,
        leaving: Sequence[Row],
        pruned: int = 0,
        ranges: Tuple[Sequence[Range], Sequence[Range]] = ((), ()),
    ) -> bool:
        self.write_chunks([change])

        def move(document: Document) -> Tuple[bool, bool]:
            if term is not None and (term < document.meta.get("term", 0) or not self.leads(term)):
                raise LeaseLost(0, term, "the archiving of this leader's term")
            there = [document.records.get(row.partition_id) for row in leaving]
            if any(r is None or r.p.version != row.version for r, row in zip(there, leaving)):
                return False, False
            if not set(ranges[0]) <= set(document.pruned) or not self.exchange(document, [change]):
                return False, False
            for row in leaving:
                del document.records[row.partition_id]
            document.pruned[:] = sorted((set(document.pruned) - set(ranges[0])) | set(ranges[1]))
            document.meta["pruned"] = int(document.meta.get("pruned", 0)) + pruned
            if term is not None:
                document.meta["term"] = term
            return True, True

        # Not dropped when the term is over: an earlier sending of this step may still arrive and name the new chunk.
        done = self.change(move)
        self.settle_chunks([change], done)
        return done

    def write_chunks(self, changes: Iterable[ChunkChange]) -> None:
        for change in changes:
            if not change.after:
                continue
            try:
                written = self.store.compare_and_set(_name(change.after), 0, change.blob) is not None
            except StoreUnavailable:
                written = False
            # Marks are never drawn twice: only this request, its reply lost, can have written it already.
            if not written and self.store.get(_name(change.after)).data != change.blob:
                raise StoreUnavailable("a chunk of completed partitions could not be written; nothing was changed")

    def settle_chunks(self, changes: Sequence[ChunkChange], done: bool) -> None:
        """Drop those chunks of a change that the document does not name: the former ones when it is *done*.

        When it is not, the document is asked: a change can have arrived unheard, with others writing behind it, and
        look like one that came too late. No earlier sending of it can arrive from then on.
        """
        try:
            named: Set[str] = set() if done else set(self.look().chunks.values())
        except StoreUnavailable:
            # They cost their space; what is named must not go.
            return
        for change in changes:
            lines = (change.before,) if done else (change.before, change.after)
            self.drop_chunks(line for line in lines if line not in named)

    def drop_chunks(self, lines: Iterable[str]) -> None:
        for line in lines:
            if line:
                try:
                    self.store.compare_and_set(_name(line), self.store.get(_name(line)).version, None)
                except StoreUnavailable:
                    # Nothing names it any more: it costs its space, and the step was made.
                    self.logger.warning("the unused document %r stays in the store", _name(line))

    def exchange(self, document: Document, changes: Iterable[ChunkChange]) -> bool:
        """Let the document name other chunks; False when it does not name those that were read."""
        changes = list(changes)
        if any(document.chunks.get(change.bucket, "") != change.before for change in changes):
            return False
        for change in changes:
            document.chunks.pop(change.bucket, None)
            if change.after:
                document.chunks[change.bucket] = change.after
            document.meta["archived"] = int(document.meta.get("archived", 0)) + change.growth
        return True

    def _keep_small(self) -> None:
        """Move completed partitions to chunks when many have gathered in the document."""
        done = [r.p for r in self.look().records.values() if r.p.status is PartitionStatus.COMPLETED]
        if len(done) <= MAX_RECENT:
            return
        cutoff = max(p.version for p in done)
        pages: Set[int] = {p.partition_id // MAX_BATCH for p in done}
        for page in sorted(pages):
            try:
                self.archive_page(None, page, cutoff)
            except DamagedChunk as exc:
                self.tell_damage(exc)
            except StoreUnavailable:
                # The turn that brought us here was made; the next one tries again.
                return
