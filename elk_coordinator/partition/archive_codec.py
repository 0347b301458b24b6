"""The archive's chunks: completed partitions of one range of ids as compressed columns, without loss.

Rows are coded in the order of their completion, because what follows from that order need not be stored:

* a version (the instant of completion, microseconds) costs only its distance to the one before;
* which id completed costs its place among the ids still open, a small number, however out of order they end;
* a worker reports and claims in one round trip, so a token is mostly the version of some completion of the same worker
  plus one: stored is how far that completion lies from the one expected, and a zero for "the same worker";
* ranges follow each other, and ``processed`` is mostly the length of the range.

Each column becomes bytes of equal width, is split into its low bytes, next bytes and so on, and each of these is kept
in the shortest of four forms. Exact for every int, and for text that is UTF-8.
"""

from __future__ import annotations

import json
import struct
import zlib
from bisect import bisect_left
from typing import Dict, List, NamedTuple, Sequence, Tuple

from elk_coordinator.errors import StoreError
from elk_coordinator.model import Partition, PartitionStatus
from elk_coordinator.partition.codec import read_head

#: Ids per chunk: the chunk of a partition is ``partition_id // BUCKET``, so no index is needed to find it.
BUCKET = 2000

_MAGIC = b"ELK1"
#: magic, crc of everything after it
_HEAD = struct.Struct("<4sI")


class Row(NamedTuple):
    """One completed partition, all in whole numbers; times are microseconds of the store's clock."""

    partition_id: int
    low: int
    span: int
    created: int
    token: int
    version: int
    deliveries: int
    attempt: int
    priority: int
    processed: int
    worker: str
    #: JSON, "" for none.
    options: str

    def partition(self) -> Partition:
        """Return it as the public sees it."""
        high = self.low + self.span
        return Partition(
            partition_id=self.partition_id,
            min_id=self.low,
            max_id=high,
            status=PartitionStatus.COMPLETED,
            worker_id=self.worker,
            priority=self.priority,
            options=json.loads(self.options) if self.options else {},
            attempt=self.attempt,
            deliveries=self.deliveries,
            version=self.version,
            fencing_token=self.token,
            checkpoint=high,
            processed=self.processed,
            created_at=self.created / 1e6,
            updated_at=self.version / 1e6,
            completed_at=self.version / 1e6,
        )


def row_of_done(partition_id: int, record: bytes) -> Row:
    """Return the row of a record in ``done``, as work.lua writes it.

    :raises StoreError: when it cannot be read.
    """
    try:
        parts = record.split(b" ", 10)
        low, span, created = read_head(*parts[:3])
        token, version, deliveries, attempt, priority, processed = (int(part) for part in parts[3:9])
        options = parts[10].decode("utf-8") if len(parts) > 10 else ""
        worker = parts[9].decode("utf-8", "replace")
    except (ValueError, IndexError, TypeError) as exc:
        raise StoreError("the record of partition %d cannot be read (%s)" % (partition_id, exc)) from exc
    return Row(
        partition_id, low, span, created, token, version, deliveries, attempt, priority, processed, worker, options
    )


def row_of_partition(p: Partition) -> Row:
    """Return the row of a completed partition."""
    return Row(
        p.partition_id, p.min_id, p.max_id - p.min_id, round(p.created_at * 1e6), p.fencing_token, p.version,
        p.deliveries, p.attempt, p.priority, p.processed, p.worker_id,
        json.dumps(p.options, separators=(",", ":")) if p.options else "",
    )  # fmt: skip


# -- columns ---------------------------------------------------------------------------------------------------------


def _put_int(out: bytearray, value: int) -> None:
    """Append a non-negative int, seven bits a byte."""
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)


def _zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


def _unzigzag(value: int) -> int:
    return value >> 1 if not value & 1 else -((value + 1) >> 1)


def _deflate(data: bytes) -> bytes:
    """Return the shortest of: one byte repeated, as it is, two ways of deflating; the first byte says which."""
    if data.count(data[:1]) == len(data):
        return b"\x00" + data[:1]
    forms = [b"\x01" + data]
    for method in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY):
        packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, method)
        forms.append(b"\x02" + packer.compress(data) + packer.flush())
    return min(forms, key=len)


def _put_bytes(out: bytearray, data: bytes) -> None:
    """Append bytes with their length, compressed."""
    _put_int(out, len(data))
    if data:
        packed = _deflate(data)
        _put_int(out, len(packed))
        out += packed


def _put_column(out: bytearray, values: Sequence[int]) -> None:
    """Append ints, as many as there are rows."""
    codes = [_zigzag(value) for value in values]
    width = (max(codes).bit_length() + 7) // 8
    _put_int(out, width)
    if width <= 1:
        planes = [bytes(codes)] if width else []
    else:
        flat = b"".join([code.to_bytes(width, "little") for code in codes])
        planes = [flat[place::width] for place in range(width)]
    for plane in planes:
        packed = _deflate(plane)
        _put_int(out, len(packed))
        out += packed


class _Reader:
    """Reads what was put, in the same order."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def number(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def _packed(self, size: int) -> bytes:
        length = self.number()
        form, body = self.data[self.at], self.data[self.at + 1 : self.at + length]
        self.at += length
        if form == 0:
            return body * size
        # Never more than was announced, whatever the bytes say.
        out = body if form == 1 else zlib.decompressobj(-15).decompress(body, size)
        if len(out) != size:
            raise ValueError("a column of %d bytes instead of %d" % (len(out), size))
        return out

    def text(self) -> bytes:
        size = self.number()
        return self._packed(size) if size else b""

    def column(self, count: int) -> List[int]:
        width = self.number()
        if width == 0:
            return [0] * count
        planes = [self._packed(count) for _ in range(width)]
        if width == 1:
            return [_unzigzag(code) for code in planes[0]]
        flat = bytearray(width * count)
        for place, plane in enumerate(planes):
            flat[place::width] = plane
        read = int.from_bytes
        return [_unzigzag(read(flat[at : at + width], "little")) for at in range(0, len(flat), width)]


def _deltas(values: Sequence[int]) -> List[int]:
    return [values[0]] + [after - before for before, after in zip(values, values[1:])]


def _sums(deltas: Sequence[int]) -> List[int]:
    total, out = 0, []
    for delta in deltas:
        total += delta
        out.append(total)
    return out


# -- chunks ----------------------------------------------------------------------------------------------------------


def encode(rows: Sequence[Row]) -> bytes:
    """Return a chunk; *rows* may come in any order, each id once, at least one."""
    by_id = sorted(rows)
    by_end = sorted(rows, key=lambda row: (row.version, row.partition_id))
    out = bytearray()
    _put_int(out, len(by_id))
    ids = [row.partition_id for row in by_id]
    _put_column(out, _deltas(ids))
    open_ids, places = list(ids), []
    for row in by_end:
        place = bisect_left(open_ids, row.partition_id)
        places.append(place)
        del open_ids[place]
    _put_column(out, places)
    versions = [row.version for row in by_end]
    _put_column(out, _deltas(versions))
    _put_tokens_and_workers(out, by_id, by_end, versions)
    expected, lows = 0, []
    for row in by_id:
        lows.append(row.low - expected)
        expected = row.low + row.span + 1
    _put_column(out, lows)
    _put_column(out, _deltas([row.span for row in by_id]))
    _put_column(out, _deltas([row.created for row in by_id]))
    _put_column(out, [row.span + 1 - row.processed for row in by_id])
    for name in ("attempt", "deliveries", "priority"):
        _put_column(out, [getattr(row, name) for row in by_id])
    options = [row.options.encode("utf-8") for row in by_id]
    if any(options):
        _put_int(out, 1)
        _put_column(out, [len(text) for text in options])
        _put_bytes(out, b"".join(options))
    else:
        _put_int(out, 0)
    body = bytes(out)
    return _HEAD.pack(_MAGIC, zlib.crc32(body)) + body


def _put_tokens_and_workers(
    out: bytearray, by_id: Sequence[Row], by_end: Sequence[Row], versions: Sequence[int]
) -> None:
    # By id, the completion that a grant rode on moves on by about one from partition to partition.
    ranks = [bisect_left(versions, row.token) for row in by_id]
    _put_column(out, _deltas([rank - place for place, rank in enumerate(ranks)]))
    _put_column(out, [row.token - versions[max(rank - 1, 0)] for row, rank in zip(by_id, ranks)])
    rank_of = {row.partition_id: rank for row, rank in zip(by_id, ranks)}
    names = sorted({row.worker for row in by_id})
    numbers = {name: number for number, name in enumerate(names, 1)}
    codes = []
    for place, row in enumerate(by_end):
        before = rank_of[row.partition_id] - 1
        same = 0 <= before < place and by_end[before].worker == row.worker
        codes.append(0 if same else numbers[row.worker])
    _put_bytes(out, json.dumps(names, separators=(",", ":")).encode("ascii"))
    _put_column(out, codes)


def decode(blob: bytes) -> Dict[int, Row]:
    """Return the rows of a chunk by id, in the order of ids.

    :raises ValueError: when it is damaged; never fewer rows instead.
    """
    try:
        magic, crc = _HEAD.unpack_from(blob)
        body = bytes(blob[_HEAD.size :])
        if magic != _MAGIC:
            raise ValueError("it does not begin as a chunk does")
        if zlib.crc32(body) != crc:
            raise ValueError("its checksum is wrong")
        return _decode(_Reader(body))
    except (IndexError, KeyError, TypeError, struct.error, zlib.error) as exc:
        raise ValueError(str(exc)) from exc


def _decode(source: _Reader) -> Dict[int, Row]:
    count = source.number()
    ids = _sums(source.column(count))
    open_ids = list(ids)
    end_ids = [open_ids.pop(place) for place in source.column(count)]
    versions = _sums(source.column(count))
    ranks = [place + shift for place, shift in enumerate(_sums(source.column(count)))]
    tokens = [versions[max(rank - 1, 0)] + delta for rank, delta in zip(ranks, source.column(count))]
    names = json.loads(source.text())
    rank_of = dict(zip(ids, ranks))
    by_end: List[str] = []
    for partition_id, code in zip(end_ids, source.column(count)):
        by_end.append(names[code - 1] if code else by_end[rank_of[partition_id] - 1])
    ended: Dict[int, Tuple[int, str]] = dict(zip(end_ids, zip(versions, by_end)))
    gaps, spans = source.column(count), _sums(source.column(count))
    created, unprocessed = _sums(source.column(count)), source.column(count)
    attempts, deliveries, priorities = (source.column(count) for _ in range(3))
    options = [""] * count
    if source.number():
        ends = _sums(source.column(count))
        text = source.text()
        options = [text[start:end].decode("utf-8") for start, end in zip([0, *ends], ends)]
    out, expected = {}, 0
    for place, partition_id in enumerate(ids):
        low, span = expected + gaps[place], spans[place]
        expected = low + span + 1
        version, worker = ended[partition_id]
        out[partition_id] = Row(
            partition_id, low, span, created[place], tokens[place], version, deliveries[place], attempts[place],
            priorities[place], span + 1 - unprocessed[place], worker, options[place],
        )  # fmt: skip
    return out
