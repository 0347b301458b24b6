"""The archive of the HASH strategy: a hash of chunks and a hash with a line about each."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Tuple

from elk_coordinator.errors import LeaseLost, StoreError
from elk_coordinator.model import MAX_BATCH, Range
from elk_coordinator.partition import codec
from elk_coordinator.partition.archive import ChunkChange, DuePage, field
from elk_coordinator.partition.archive_codec import BUCKET, Row, row_of_done
from elk_coordinator.partition.strategy import PartitionStrategy
from elk_coordinator.partition.survey import MOST, SAMPLE, OpenWork, of_reply
from elk_coordinator.store.redis_store import RedisDataStore

_SURVEY_KEYS = "meta pending suspects delayed failed specs archive archive_index command_queue"


class HashArchive(PartitionStrategy):
    """The atomic steps of :class:`~elk_coordinator.partition.archive.Archive`, each one script."""

    store: RedisDataStore

    def _archive_index(self) -> Dict[int, str]:
        flat = self.store.run("partition/archive_index", self.store.keys.many("archive_index archive"))
        # A field that is no bucket holds nothing of ours; doctor names it.
        lines = {int(flat[i]): flat[i + 1] for i in range(0, len(flat), 2) if flat[i].isdigit()}
        return {bucket: line.decode("utf-8", "replace") for bucket, line in lines.items()}

    def _archive_chunks(self, buckets: Sequence[int]) -> Dict[int, Tuple[str, bytes]]:
        out = {}
        keys = self.store.keys.many("archive archive_index")
        for start in range(0, len(buckets), MAX_BATCH):
            page = buckets[start : start + MAX_BATCH]
            reply = self.store.run("partition/archive_read", keys, [field(bucket) for bucket in page])
            for place, bucket in enumerate(page):
                line, blob = reply[place * 2].decode("utf-8", "replace"), bytes(reply[place * 2 + 1])
                if line or blob:
                    out[bucket] = (line, blob)
        return out

    def open_work(self) -> OpenWork:
        return of_reply(self.store.run("partition/survey", self.store.keys.many(_SURVEY_KEYS), [MOST, SAMPLE]))

    def due_page(self, cursor: str, age: float) -> DuePage:
        args: List[Any] = [cursor, MAX_BATCH, int(age * 1e6)]
        reply = self.store.run("partition/archive_look", self.store.keys.many("done meta"), args)
        due = {codec.unpad(name) // MAX_BATCH for name in reply[5:]}
        return DuePage(reply[0].decode(), int(reply[1]), reply[2], int(reply[3]), due, bool(reply[4]))

    def _due(self, page: int, cutoff: int) -> Tuple[str, bytes, List[Row]]:
        ids = [codec.pad(i) for i in range(page * MAX_BATCH, page * MAX_BATCH + MAX_BATCH)]
        args: List[Any] = [field(page * MAX_BATCH // BUCKET), cutoff, *ids]
        reply = self.store.run("partition/archive_due", self.store.keys.many("done archive archive_index"), args)
        rows = []
        for i in range(2, len(reply), 2):
            try:
                rows.append(row_of_done(codec.unpad(reply[i]), reply[i + 1]))
            except StoreError as exc:
                # It stays where it is; verify names it.
                self.logger.error("%s; it is not archived", exc)
        return reply[0].decode("utf-8", "replace"), bytes(reply[1]), rows

    def _archive_swap(
        self,
        term: Optional[int],
        change: ChunkChange,
        leaving: Sequence[Row],
        pruned: int = 0,
        ranges: Tuple[Sequence[Range], Sequence[Range]] = ((), ()),
    ) -> bool:
        args: List[Any] = [term or 0, field(change.bucket), change.before, change.after, change.blob, change.growth]
        args += [pruned, len(leaving)]
        for row in leaving:
            args += (codec.pad(row.partition_id), row.version)
        for items in ranges:
            args.append(len(items))
            args += [codec.interval(item) for item in items]
        keys = self.store.keys.many("meta lock:leader done archive archive_index pruned")
        reply = self.store.run("partition/archive_swap", keys, args)
        if reply[0] == -2:
            raise LeaseLost(0, term or 0, "the archiving of this leader's term")
        return bool(reply[0] == 1)


def chunk_args(chunks: Sequence[ChunkChange]) -> List[Any]:
    """Return chunks written anew as delete.lua takes them."""
    args: List[Any] = [sum(change.growth for change in chunks), len(chunks)]
    for change in chunks:
        args += (field(change.bucket), change.before, change.after, change.blob)
    return args
