"""What a worker asks of a strategy in one round trip, and what a process remembers between them."""

from __future__ import annotations

import math
import threading
from typing import Any, Mapping, Optional, Sequence, Tuple

import attr

from elk_coordinator.errors import ConfigError
from elk_coordinator.model import Outcome, Partition, Report, check_partition_id

#: (partition_id, token)
Claim = Tuple[int, int]

#: Affinity: so many partitions with ids one after the other are one area, and areas share so many buckets.
AREA = 4
BUCKETS = 512
#: How far one look at the head of the queue goes for partitions of one's own.
LOOK = 256
#: At most so many are reported, and so many claimed, in one turn of a worker, and taken back in one sweep: the scripts
#: parse and write every record, and none shall hold the server for 5 ms (at 500 and 500 it was 8.5 ms).
SHORT_BATCH = 200


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


def check_claim(partition_id: Any, token: Any) -> Claim:
    """Refuse what can be no claim: ids and tokens are ints below 2**53."""
    if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < 2**53:
        raise ConfigError("a fencing token must be an int from 0 to 2**53 - 1, not %.200r" % (token,))
    return check_partition_id(partition_id), token


def check_error(error: Any) -> Optional[str]:
    """Refuse an error text that is none."""
    if error is not None and not isinstance(error, str):
        raise ConfigError("error must be a text or None, not %.200r" % (error,))
    return error


def check_processed(processed: Any) -> int:
    """Refuse anything but an int from 0 to 2**53 - 1; return it."""
    if isinstance(processed, bool) or not isinstance(processed, int) or not 0 <= processed < 2**53:
        raise ConfigError("processed must be an int from 0 to 2**53 - 1, not %.200r" % (processed,))
    return processed


def check_checkpoint(checkpoint: Any, partition: Partition) -> int:
    """Refuse a checkpoint outside the partition: the next attempt would begin behind work that nobody did."""
    low, high = partition.min_id - 1, partition.max_id
    if isinstance(checkpoint, bool) or not isinstance(checkpoint, int) or not low <= checkpoint <= high:
        raise ConfigError("checkpoint must be an int in [%d, %d], not %.200r" % (low, high, checkpoint))
    return checkpoint


def check_report(report: Any) -> Report:
    """Refuse a report that could not be read again."""
    if not isinstance(report, Report) or not isinstance(report.outcome, Outcome):
        raise ConfigError("reports must be Report objects with an Outcome, not %.200r" % (report,))
    check_claim(report.partition_id, report.token)
    check_error(report.error)
    check_processed(report.processed)
    delay = report.delay
    if isinstance(delay, bool) or not isinstance(delay, (int, float)) or not 0 <= delay < math.inf:
        raise ConfigError("delay must be seconds of at least 0, not %.200r" % (delay,))
    return report
