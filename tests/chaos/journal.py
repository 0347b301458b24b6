"""What every process of a chaos run writes down: an append-only file of records of one size. Only the standard library.

One record is one write of 64 bytes, so a process that is killed leaves whole records. It needs no fsync: what is killed
are processes, not the machine. Times are of the machine's monotonic clock, the same in all processes.
"""

from __future__ import annotations

import os
import struct
import time
from typing import Iterator, NamedTuple

_FORM = struct.Struct("<B7xqqqqqqd")
SIZE = _FORM.size

#: What processors write.
START, TAKE, STALE, UNGUARDED, APPLY, END, POISON = 1, 2, 3, 4, 5, 6, 7
#: What the library told, by its events.
ACCEPTED, LOST, REFUSED, RETRIED, FAILED, RELEASED, HUNG, LEADER, STEPPED, LOST_DATA, BREAKER = range(11, 22)
#: ``first`` of an END: how the attempt ended.
COMPLETE, RAISED, INTERRUPTED, GAVE_UP = 0, 1, 2, 3
#: Event of the library -> kind.
EVENTS = {
    "partition_completed": ACCEPTED, "lease_lost": LOST, "write_refused": REFUSED, "partition_retried": RETRIED,
    "partition_failed": FAILED, "partition_released": RELEASED, "task_hung": HUNG, "became_leader": LEADER,
    "stepped_down": STEPPED, "store_lost_data": LOST_DATA, "breaker_changed": BREAKER,
}  # fmt: skip


class Record(NamedTuple):
    """``lo, hi``: the partition's range; ``first, last``: the part of it that this is about."""

    kind: int
    partition_id: int
    lo: int
    hi: int
    token: int
    first: int
    last: int
    t: float


def now() -> float:
    return time.monotonic()


class Writer:
    """Appends records; any number of threads."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def put(self, kind: int, partition_id: int = 0, lo: int = 0, hi: int = 0, token: int = 0, first: int = 0,
            last: int = 0) -> None:  # fmt: skip
        os.write(self._file, _FORM.pack(kind, partition_id, lo, hi, token, first, last, now()))

    def close(self) -> None:
        os.close(self._file)


def read(path: str) -> Iterator[Record]:
    """Yield the records of one file; a torn one at its end is left out."""
    with open(path, "rb") as file:
        data = file.read()
    for at in range(0, len(data) - SIZE + 1, SIZE):
        yield Record(*_FORM.unpack_from(data, at))
