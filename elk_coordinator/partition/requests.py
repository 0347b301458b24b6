"""What a worker asks of a strategy in one round trip, and what a process remembers between them."""

from __future__ import annotations

import threading
from typing import Any, Mapping, Sequence, Tuple

import attr

from elk_coordinator.errors import ConfigError
from elk_coordinator.model import Outcome, Report

#: (partition_id, token)
Claim = Tuple[int, int]

#: Affinity: so many partitions with ids one after the other are one area, and areas share so many buckets.
AREA = 4
BUCKETS = 512
#: How far one look at the head of the queue goes for partitions of one's own.
LOOK = 256


class Memory:
    """The highest stamp this process has seen of a namespace: the floor that proves a store went back in time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._floor = 0

    @property
    def floor(self) -> int:
        """What to send with the next request."""
        return self._floor

    def saw(self, stamp: int) -> None:
        """Remember *stamp* if it is the highest yet."""
        with self._lock:
            if stamp > self._floor:
                self._floor = stamp


@attr.s(auto_attribs=True, frozen=True, slots=True)
class TurnRequest:
    """One round trip of a worker; sent again unchanged until it is answered."""

    worker_id: str
    stream: str
    sequence: int
    #: Seconds.
    lease: float
    reports: Sequence[Report] = ()
    starts: Sequence[Claim] = ()
    free: int = 0
    prefetch: int = 0
    suspects: bool = True
    #: With affinity: a character per bucket, "1" for those that are this worker's. Empty: none are preferred.
    owned: str = ""

    @property
    def returns_work(self) -> bool:
        """Whether it makes something claimable at once by others, who may be idle."""
        return any(r.outcome in (Outcome.RELEASED, Outcome.LOST) and r.delay <= 0 for r in self.reports)


def bucket_of(partition_id: int) -> int:
    """Return the bucket of a partition's area, as the script computes it."""
    return partition_id // AREA % BUCKETS


@attr.s(auto_attribs=True, frozen=True, slots=True)
class BeatRequest:
    """One heartbeat."""

    worker_id: str
    stream: str
    sequence: int
    #: Seconds for the registry (0: do not register) and for the leases.
    ttl: float
    lease: float
    info: Mapping[str, Any] = attr.Factory(dict)
    claims: Sequence[Claim] = ()


def check_worker_id(worker_id: Any) -> str:
    """Refuse a worker id that cannot stand in a record: 1 to 200 printable ASCII characters without spaces."""
    if not isinstance(worker_id, str) or not 1 <= len(worker_id) <= 200 or not all("!" <= c <= "~" for c in worker_id):
        raise ConfigError("worker_id must be 1 to 200 printable ASCII characters without spaces, not %r" % (worker_id,))
    return worker_id
