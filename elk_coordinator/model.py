"""The nouns of the library: partitions and their life, workers, reports. Plain values, no behaviour that waits.

All IDs are exact signed 64-bit integers, all ranges include both ends, all instants are float epoch seconds by the
store's clock and all durations float seconds.
"""

from __future__ import annotations

import enum
import math
from typing import Any, Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple, Union

import attr

from elk_coordinator.errors import ConfigError

#: The smallest ID a planner may start from: one below it must still be a signed 64-bit number.
MIN_ID = -(2**63) + 1
MAX_ID = 2**63 - 1
#: Partition ids and tokens stay exact in a double (Lua's only number).
MAX_PARTITION_ID = 2**53 - 1
MAX_PRIORITY = 1000
#: Partitions per script call: keeps the longest script far below 5 ms.
MAX_BATCH = 500
#: Bytes of a partition's options as JSON.
MAX_OPTIONS_BYTES = 16 * 1024
#: Bytes of an error text kept with a partition (the last frames of a traceback).
MAX_ERROR_BYTES = 4 * 1024
#: From so many deliveries on a partition is a suspect: claimed singly, one at a time per worker.
SUSPECT_DELIVERIES = 2


class StrategyType(enum.Enum):
    """How partitions are kept in the store."""

    #: Redis hashes and sorted sets changed by Lua; the recommended one; needs a ``RedisDataStore``.
    HASH = "hash"
    #: One document with compare-and-set, on any ``DataStore``; up to some 2,000 active partitions.
    SIMPLE = "simple"


class PartitionStatus(enum.Enum):
    """Where a partition stands; the legal moves are the table :data:`MOVES`."""

    #: Waits for a worker, at once or from ``retry_at`` on.
    PENDING = "pending"
    #: Leased to a worker that has not started it yet (prefetched).
    CLAIMED = "claimed"
    #: Leased to a worker whose processor runs.
    RUNNING = "running"
    #: Done; one completion was accepted. Never planned or claimed again.
    COMPLETED = "completed"
    #: Rests until somebody retries it by command.
    FAILED = "failed"


#: Statuses under a lease.
HELD: FrozenSet[PartitionStatus] = frozenset((PartitionStatus.CLAIMED, PartitionStatus.RUNNING))

#: The legal moves, each with what makes it happen. The Lua scripts implement exactly these.
MOVES: Mapping[Tuple[PartitionStatus, PartitionStatus], str] = {
    (PartitionStatus.PENDING, PartitionStatus.CLAIMED): "a claim beyond the worker's free slots (prefetch)",
    (PartitionStatus.PENDING, PartitionStatus.RUNNING): "a claim for a free slot",
    (PartitionStatus.CLAIMED, PartitionStatus.RUNNING): "its start rides on the worker's next round trip",
    (PartitionStatus.CLAIMED, PartitionStatus.COMPLETED): "started and finished between two round trips",
    (PartitionStatus.CLAIMED, PartitionStatus.FAILED): "started and failed for good between two round trips",
    (PartitionStatus.CLAIMED, PartitionStatus.PENDING): "given back, or its lease ran out",
    (PartitionStatus.RUNNING, PartitionStatus.COMPLETED): "the processor returned",
    (PartitionStatus.RUNNING, PartitionStatus.FAILED): "no attempt or delivery left, PermanentError, cancelled",
    (PartitionStatus.RUNNING, PartitionStatus.PENDING): "another attempt is due, given back, or its lease ran out",
    (PartitionStatus.FAILED, PartitionStatus.PENDING): "retried by command",
}


class CancelReason(enum.Enum):
    """Why a running processor's ``ctx.cancelled`` is set."""

    #: The coordinator stops, or an operator's ``release`` wants this partition back: pending again at once.
    STOP = "stop"
    #: The lease can no longer be proved; somebody else may take the partition from now on.
    LEASE_LOST = "lease_lost"
    #: An operator cancelled the partition.
    CANCELLED = "cancelled"
    #: ``task_timeout`` passed.
    TIMEOUT = "timeout"


def check_range(what: str, min_id: Any, max_id: Any) -> None:
    """Refuse a range that is not two ordered 64-bit integers.

    :raises ConfigError: naming *what* and the rule.
    """
    for name, value in (("min_id", min_id), ("max_id", max_id)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError("%s: %s must be an int, not %r" % (what, name, value))
        if not MIN_ID <= value <= MAX_ID:
            raise ConfigError("%s: %s=%d is outside [-2**63 + 1, 2**63 - 1]" % (what, name, value))
    if min_id > max_id:
        raise ConfigError("%s: min_id=%d is above max_id=%d" % (what, min_id, max_id))


def check_partition_id(partition_id: Any) -> int:
    """Refuse anything but an int from 1 to 2**53 - 1; return it."""
    if isinstance(partition_id, bool) or not isinstance(partition_id, int):
        raise ConfigError("partition_id must be an int, not %r" % (partition_id,))
    if not 1 <= partition_id <= MAX_PARTITION_ID:
        raise ConfigError("partition_id=%d is outside [1, 2**53 - 1]" % partition_id)
    return partition_id


def check_priority(priority: Any) -> int:
    """Refuse anything but an int from -1000 to 1000; return it."""
    if isinstance(priority, bool) or not isinstance(priority, int) or not -MAX_PRIORITY <= priority <= MAX_PRIORITY:
        raise ConfigError("priority must be an int in [-1000, 1000], not %r" % (priority,))
    return priority


@attr.s(auto_attribs=True, frozen=True, slots=True)
class CreatePartition:
    """A partition to create: its id, its range, and what the processor gets as ``options``."""

    partition_id: int
    min_id: int
    max_id: int
    priority: int = 0
    options: Optional[Dict[str, Any]] = None

    def __attrs_post_init__(self) -> None:
        check_partition_id(self.partition_id)
        check_range("partition %d" % self.partition_id, self.min_id, self.max_id)
        check_priority(self.priority)
        if self.options is not None and not isinstance(self.options, dict):
            raise ConfigError("partition %d: options must be a dict, not %r" % (self.partition_id, self.options))


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Partition:
    """One range of work as the store knows it. A snapshot: changing the store does not change it."""

    partition_id: int
    min_id: int
    max_id: int
    status: PartitionStatus = PartitionStatus.PENDING
    #: Who holds it, or who held it last; "" when nobody ever did.
    worker_id: str = ""
    #: Higher first.
    priority: int = 0
    options: Dict[str, Any] = attr.Factory(dict)
    #: Failed attempts so far (the running one is ``attempt + 1``).
    attempt: int = 0
    #: Times it was lost by a dying worker since a checkpoint last moved.
    deliveries: int = 0
    #: Moves with every change except renewals and never repeats, not even after data loss.
    version: int = 0
    #: Token of the current or last claim; 0 when there never was one.
    fencing_token: int = 0
    #: Last ID durably done, or None.
    checkpoint: Optional[int] = None
    #: Items counted by the processor: durably at the checkpoint, finally at completion.
    processed: int = 0
    #: Text of the last failure, or None.
    error: Optional[str] = None
    #: A failing partition is not claimed before this instant; None = at once.
    retry_at: Optional[float] = None
    created_at: float = 0.0
    updated_at: float = 0.0
    #: When its lease was last granted or renewed; None unless it is held.
    last_heartbeat: Optional[float] = None
    completed_at: Optional[float] = None

    @property
    def is_suspect(self) -> bool:
        """Whether it was lost often enough to be claimed singly."""
        return self.deliveries >= SUSPECT_DELIVERIES

    def to_dict(self) -> Dict[str, Any]:
        """Return a JSON-ready dict. IDs and tokens stay ints: readers in JavaScript must ask for text."""
        out = attr.asdict(self)
        out["status"] = self.status.value
        return out


def _frozen(name: str, value: Any) -> FrozenSet[Any]:
    try:
        return frozenset(value)
    except TypeError as exc:
        raise ConfigError("PartitionFilter.%s must be a collection, not %r" % (name, value)) from exc


def _excluded(value: Any) -> FrozenSet[int]:
    return _frozen("exclude_ids", value)


def _statuses(value: Any) -> FrozenSet[PartitionStatus]:
    if value is None:
        return frozenset()
    if isinstance(value, PartitionStatus):
        return frozenset((value,))
    out = _frozen("statuses", value)
    for status in out:
        if not isinstance(status, PartitionStatus):
            raise ConfigError("statuses must be PartitionStatus members, not %r" % (status,))
    return out


@attr.s(auto_attribs=True, frozen=True, slots=True, kw_only=True)
class PartitionFilter:
    """Which partitions to list; everything given must hold. The answer is ordered by partition id.

    :param statuses: any of these; empty = all. Naming COMPLETED includes the archive.
    :param stale_for: held, and not renewed for so many seconds.
    :param after: only ids above this one (for paging).
    :param limit: at most so many.
    """

    statuses: FrozenSet[PartitionStatus] = attr.ib(default=(), converter=_statuses)
    worker_id: Optional[str] = None
    stale_for: Optional[float] = None
    exclude_worker_id: Optional[str] = None
    min_partition_id: Optional[int] = None
    max_partition_id: Optional[int] = None
    exclude_ids: FrozenSet[int] = attr.ib(default=(), converter=_excluded)
    include_archived: bool = False
    after: Optional[int] = None
    limit: Optional[int] = None

    def __attrs_post_init__(self) -> None:
        for name, least in (("limit", 1), ("after", 0), ("min_partition_id", 0), ("max_partition_id", 0)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ConfigError("PartitionFilter.%s must be an int of at least %d, not %r" % (name, least, value))
        age = self.stale_for
        if age is not None and (isinstance(age, bool) or not isinstance(age, (int, float)) or not 0 <= age < math.inf):
            raise ConfigError("PartitionFilter.stale_for must be seconds of at least 0, not %r" % (age,))
        for name in ("worker_id", "exclude_worker_id"):
            if not isinstance(getattr(self, name), (str, type(None))):
                raise ConfigError("PartitionFilter.%s must be a text, not %.200r" % (name, getattr(self, name)))
        for partition_id in self.exclude_ids:
            check_partition_id(partition_id)


@attr.s(auto_attribs=True, frozen=True, slots=True)
class PartitionStats:
    """Counts at one moment. They are the sizes of the store's indexes, so they cannot drift from them."""

    total: int = 0
    pending: int = 0
    claimed: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0
    #: Share of ``total``; 0.0 when empty.
    completion_rate: float = 0.0
    failure_rate: float = 0.0
    max_partition_id: int = 0
    #: The largest planned ID, or None while nothing is planned.
    last_allocated_id: Optional[int] = None
    #: Completed partitions whose details were dropped by ``archive_keep``; part of ``completed`` and ``total``.
    pruned: int = 0

    @property
    def held(self) -> int:
        """Partitions under a lease."""
        return self.claimed + self.running

    @property
    def open(self) -> int:
        """Partitions that are neither completed nor failed."""
        return self.pending + self.claimed + self.running


@attr.s(auto_attribs=True, frozen=True, slots=True)
class WorkerInfo:
    """One live worker as the registry knows it."""

    worker_id: str
    #: Seconds until the registry forgets it unless it beats again.
    remaining: float
    #: What it says of itself: host, pid, window, capacity, in_flight, started_at, version, http, state.
    info: Dict[str, Any] = attr.Factory(dict)


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Survey:
    """What the leader sees of plan, fleet and archive when it looks; None = unknown. Instants by the store's clock."""

    #: Priority as text -> pending partitions; "delayed" wait for a retry, "other" are beyond ten values.
    pending: Mapping[str, int] = attr.Factory(dict)
    workers: Sequence[WorkerInfo] = ()
    backlog_items: Optional[int] = None
    oldest_pending_timestamp_seconds: Optional[float] = None
    completed_watermark: Optional[int] = None
    gaps: Optional[int] = None
    gap_items: Optional[int] = None
    archive_partitions: Optional[int] = None
    archive_bytes: Optional[int] = None
    estimated_completion_timestamp_seconds: Optional[float] = None
    commands_queued: Optional[int] = None


class Outcome(enum.Enum):
    """What a worker reports of one claim; the single letters travel to the script."""

    COMPLETED = "C"
    #: An attempt failed: pending again after a delay, or failed when none is left.
    ERROR = "E"
    #: Failed for good (PermanentError), counted as an attempt.
    PERMANENT = "F"
    #: Failed by command, not counted as an attempt.
    CANCELLED = "X"
    #: Pending again without burning an attempt: at once, or after a delay (a probe of the breaker).
    RELEASED = "R"
    #: The worker itself believes the lease lost: pending, one delivery more.
    LOST = "L"


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Report:
    """What became of one claim."""

    partition_id: int
    token: int
    outcome: Outcome
    processed: int = 0
    error: Optional[str] = None
    #: Seconds before it may be claimed again.
    delay: float = 0.0


@attr.s(auto_attribs=True, frozen=True, slots=True)
class ReportResult:
    """What the store made of a report: the status the partition has now, or None when the claim was gone."""

    partition_id: int
    token: int
    status: Optional[PartitionStatus]

    @property
    def refused(self) -> bool:
        """Whether the claim was gone, so that nothing was changed."""
        return self.status is None


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Turn:
    """What one round trip of a worker brought: answers to its reports, and new claims."""

    results: Sequence[ReportResult] = ()
    #: Granted partitions; RUNNING for the free slots, CLAIMED beyond them.
    granted: Sequence[Partition] = ()
    #: Pending partitions left that this claim could have had.
    left: int = 0
    #: Leases in the store that have run out and wait to be reclaimed.
    expired: bool = False
    #: The caller remembered a stamp above the store's last: the store went back in time.
    lost_data: bool = False
    #: Seconds until the next retry may be claimed, when less was granted than wanted; None = none waits.
    due_in: Optional[float] = None


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Beat:
    """What a heartbeat learned."""

    #: (partition_id, token) of leases that are gone.
    lost: FrozenSet[Tuple[int, int]] = frozenset()
    #: partition_id -> (reason, by whom) for claims an operator wants back.
    cancels: Mapping[int, Tuple[CancelReason, str]] = attr.Factory(dict)
    paused: bool = False
    config_version: int = 0
    #: Stamp of the last known loss of data by the store; 0 = none.
    lost_mark: int = 0
    #: The store's clock as the beat ran, in epoch seconds; for people.
    now: Optional[float] = attr.ib(default=None, eq=False)


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Reclaimed:
    """One partition taken back from a claim whose lease ran out."""

    partition_id: int
    worker_id: str
    token: int
    deliveries: int
    #: PENDING, or FAILED when the deliveries are used up, or it was cancelled meanwhile.
    status: PartitionStatus
    #: What the partition says of its last failure.
    error: str = ""


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Sweep:
    """What the leader's once-a-second look at the store found."""

    reclaimed: Sequence[Reclaimed] = ()
    #: More expired leases are left than one call takes.
    more: bool = False
    #: Workers ran low since the last look.
    hungry: bool = False
    #: Somebody waits for a full round (wait_idle).
    asked: bool = False
    pending: int = 0
    held: int = 0
    #: Operator commands wait to be carried out.
    commands: bool = False


@attr.s(auto_attribs=True, frozen=True, slots=True)
class PlanState:
    """Where the plan stands, read in one step."""

    #: Version of the planned intervals; a plan is accepted only for the version it was made from.
    version: int
    #: The uppermost planned interval (merged), or None while nothing is planned.
    last: Optional["Range"]
    max_partition_id: int
    pending: int
    held: int
    #: When it was read, by the store's clock, in epoch seconds.
    now: float = attr.ib(default=0.0, eq=False)

    @property
    def last_id(self) -> Optional[int]:
        """The largest planned ID, or None."""
        return None if self.last is None else self.last[1]


@attr.s(auto_attribs=True, frozen=True, slots=True)
class IdleState:
    """Whether anything is left to do, read in one step; instants by the store's clock."""

    now: float
    #: Partitions neither completed nor failed.
    open: int
    #: Whether the leader's last full round found nothing beyond the present plan, and when it ended.
    exhausted: bool
    exhausted_at: float


#: A range of IDs, both ends included.
Range = Tuple[int, int]
JSON = Union[None, bool, int, float, str, List[Any], Dict[str, Any]]
