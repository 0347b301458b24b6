"""Name every family of series, and hold what their values need: labels, buckets, kinds of errors, histograms.

Nothing here knows prometheus_client; :mod:`elk_coordinator.observability.metrics` fills and exports the families.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Any, List, Mapping, Sequence, Tuple

import attr

from elk_coordinator.model import Outcome

Labels = Tuple[str, ...]

PREFIX = "elk_coordinator_"
BREAKER_NAME = "process_breaker"
#: Seconds, up to an hour: partitions that are database batches run for minutes.
DURATION_BUCKETS = (0.001, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
ROUND_TRIP_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LATENESS_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
#: Values of ``node_circuit_breaker_state``.
BREAKER_STATES = {"closed": 0, "half_open": 1, "half-open": 1, "open": 2}
#: Values of the label ``outcome``.
OUTCOMES: Mapping[Any, str] = {outcome: outcome.name.lower() for outcome in Outcome}
#: What became of a partition whose lease ran out: pending again, failed after too many deliveries, or cancelled.
RECLAIM_REASONS = ("expired", "deliveries", "cancelled")
#: The store said it is gone, or it could not be renewed in time.
LOSS_REASONS = ("gone", "not_renewed")
GONE = "gone from the store"
#: Values of the label ``what``: the report's outcome, or a checkpoint.
REFUSED: Labels = ("checkpoint", *OUTCOMES.values())
#: No answer in time, not reached or cannot serve now, and refused for good.
STORE_ERROR_KINDS = ("timeout", "unavailable", "error")
#: Another worker leads, or the store did not answer.
ELECTION_FAILURES = ("held", "store")
#: Accepted by the other side, given up after the last attempt, and never tried since too many waited.
NOTIFICATION_OUTCOMES = ("sent", "failed", "dropped")
#: Values of the label ``state``; the first that fits (:func:`worker_state`).
WORKER_STATES = ("stopping", "starting", "breaker_open", "busy", "idle")
#: Class name of an exception, lower case -> value of ``error_type``. Everything else is "other": user code may raise
#: classes without end, labels may not grow without end.
ERROR_TYPES: Mapping[str, str] = {
    name: label
    for label, names in {
        "timeout": "timeout timeouterror taskinterrupted readtimeout connecttimeout readtimeouterror "
        "connecttimeouterror querycancelederror querycanceled softtimelimitexceeded",
        "connection": "connectionerror connectionrefusederror connectionreseterror connectionabortederror "
        "brokenpipeerror gaierror sslerror maxretryerror newconnectionerror storeunavailable",
        "database": "databaseerror operationalerror interfaceerror integrityerror dataerror programmingerror "
        "internalerror notsupportederror dberror dbapierror sqlalchemyerror",
        "http": "httperror httpstatuserror urlerror",
        "os": "oserror ioerror environmenterror filenotfounderror permissionerror fileexistserror isadirectoryerror "
        "blockingioerror interruptederror",
        "value": "valueerror unicodeerror unicodedecodeerror unicodeencodeerror jsondecodeerror validationerror "
        "overflowerror zerodivisionerror arithmeticerror floatingpointerror invalidoperation",
        "type": "typeerror attributeerror nameerror unboundlocalerror notimplementederror assertionerror",
        "lookup": "keyerror indexerror lookuperror doesnotexist objectdoesnotexist",
        "memory": "memoryerror recursionerror",
        "permanent": "permanenterror",
    }.items()
    for name in names.split()
}
ERROR_LABELS: Labels = tuple(sorted(set(ERROR_TYPES.values()))) + ("other",)


def error_type(error: Any) -> str:
    """Return the label value for an exception, its class, or its class's name; "other" for what we do not know."""
    if isinstance(error, BaseException):
        error = type(error)
    if isinstance(error, type):
        names = [cls.__name__ for cls in error.__mro__]
    else:
        names = [str(error).rpartition(".")[2]]
    known = (ERROR_TYPES.get(name.lower()) for name in names)
    return next((label for label in known if label), "other")


class Histogram:
    """Counts per bucket, not cumulative. Not thread-safe: the caller holds a lock."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count *value* in its bucket and add it to the sum."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> Tuple[List[Tuple[str, float]], float]:
        """Return ([(le, count of observations up to it)], sum of all)."""
        out: List[Tuple[str, float]] = []
        running = 0
        for bound, count in zip(self.bounds + (math.inf,), self.counts):
            running += count
            out.append(("+Inf" if bound == math.inf else repr(bound), float(running)))
        return out, self.total


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Family:
    """One family of series as we document and export it."""

    #: Without :data:`PREFIX`; a counter's ends with ``_total``.
    name: str
    #: "counter", "gauge" or "histogram".
    kind: str
    help: str
    labels: Labels = ()
    buckets: Tuple[float, ...] = ()
    #: Present only while this worker leads, so that a sum over workers never counts twice.
    leader_only: bool = False


_WORKER = ("worker_id",)
_OURS = ("coordinator",)
_NODE = _OURS + _WORKER


def _leader(name: str, help: str, *labels: str) -> Family:
    return Family(name, "gauge", help, _OURS + labels, leader_only=True)


#: Every family, in the order of the exposition. The first 15 keep names and labels of the system we replace.
FAMILIES: Tuple[Family, ...] = (
    Family("is_leader", "gauge", "Whether this worker leads (1) or not (0).", ("node_id",)),
    Family("partitions_total", "gauge", "Partitions of every status, as the leader last saw them.", leader_only=True),
    Family("partitions_assigned_total", "counter", "Allocation rounds of this worker that created partitions."),
    Family(
        "partitions_assignment_duration_seconds",
        "histogram",
        "Length of allocation rounds that created partitions.",
        buckets=DURATION_BUCKETS,
    ),
    Family("active_workers_count", "gauge", "Live workers, as the leader last saw them.", leader_only=True),
    Family(
        "node_heartbeat_timestamp_seconds",
        "gauge",
        "Epoch seconds of the last heartbeat that the store answered; 0 before the first.",
        _WORKER,
    ),
    Family("node_heartbeat_errors_total", "counter", "Heartbeats that the store did not answer.", _WORKER),
    Family(
        "node_info", "gauge", "What this worker runs on; always 1.", _WORKER + ("version", "python_version", "os_type")
    ),
    Family(
        "node_task_queue_active_tasks",
        "gauge",
        "Partitions claimed by this worker and waiting for a free slot.",
        _WORKER,
    ),
    Family(
        "node_tasks_processed_total", "counter", "Partitions whose completion by this worker was accepted.", _WORKER
    ),
    Family(
        "node_tasks_processed_items_total",
        "counter",
        "Items counted by the processor in completed partitions.",
        _WORKER,
    ),
    Family(
        "node_tasks_errors_total",
        "counter",
        "Failed attempts on this worker, by the kind of exception.",
        _WORKER + ("error_type",),
    ),
    Family(
        "node_task_processing_duration_seconds",
        "histogram",
        "From the start of a processor to the store's answer to the report.",
        _WORKER,
        DURATION_BUCKETS,
    ),
    Family(
        "node_task_processor_duration_seconds", "histogram", "Running time of the processor.", _WORKER, DURATION_BUCKETS
    ),
    Family(
        "node_circuit_breaker_tripped_total",
        "counter",
        "Times the circuit breaker opened.",
        _WORKER + ("breaker_name",),
    ),
    # -- what the original did not have
    Family(
        "partitions",
        "gauge",
        "Partitions by status, as the leader last saw them.",
        _OURS + ("status",),
        leader_only=True,
    ),
    Family("partitions_planned_total", "counter", "Partitions created by this worker while it led.", _OURS),
    Family("planner_errors_total", "counter", "Calls of the planner that raised or answered with no plan.", _OURS),
    Family(
        "reclaims_total",
        "counter",
        "Partitions taken back, by this worker, from leases that ran out; by what became of them.",
        _OURS + ("reason",),
    ),
    Family("leader_changes_total", "counter", "Times this worker became leader.", _OURS),
    Family("leader_term", "gauge", "Token of the leader's lease.", _OURS, leader_only=True),
    Family(
        "partition_attempts_total", "counter", "Attempts that ended on this worker, by outcome.", _OURS + ("outcome",)
    ),
    Family("lease_lost_total", "counter", "Claims of this worker that were lost, by reason.", _OURS + ("reason",)),
    Family(
        "writes_refused_total",
        "counter",
        "Reports and checkpoints of this worker that the store refused because the claim was gone.",
        _OURS + ("what",),
    ),
    Family("store_up", "gauge", "Whether the store answered when it was last asked (1) or not (0).", _OURS),
    Family("store_errors_total", "counter", "Requests to the store that failed, by kind.", _OURS + ("kind",)),
    Family(
        "heartbeat_lateness_seconds",
        "histogram",
        "How far behind schedule a heartbeat began; large values mean a starved process (GIL, CPU, suspended).",
        _OURS,
        LATENESS_BUCKETS,
    ),
    Family("claim_duration_seconds", "histogram", "Round trips that brought partitions.", _OURS, ROUND_TRIP_BUCKETS),
    Family("node_task_window_size", "gauge", "Partitions this worker may run at the same time.", _NODE),
    Family("node_tasks_active_processing", "gauge", "Partitions whose processor runs now.", _NODE),
    Family("node_tasks_prefetched", "gauge", "Partitions claimed beyond the free slots.", _NODE),
    Family("node_tasks_hung", "gauge", "Processors still running one lease after their cancellation.", _NODE),
    Family(
        "node_circuit_breaker_state",
        "gauge",
        "0 closed, 1 half-open, 2 open; absent when switched off.",
        _NODE + ("breaker_name",),
    ),
    Family("paused", "gauge", "Whether the namespace is paused (1) or not (0).", _OURS),
    Family("build_info", "gauge", "Version of the library; always 1.", _OURS + ("version", "python_version")),
    Family("http_requests_total", "counter", "Answers of the HTTP application.", _OURS + ("route", "code")),
    Family("collector_errors_total", "counter", "Questions to the coordinator that failed while being scraped.", _OURS),
    # -- the plan and the fleet, as the leader last saw them
    _leader("partitions_pending", "Pending partitions by priority; delayed wait for a retry.", "priority"),
    _leader("workers", "Live workers by state.", "state"),
    _leader("backlog_items", "IDs in partitions neither completed nor failed; estimated beyond 2,000 partitions."),
    _leader("oldest_pending_timestamp_seconds", "Epoch seconds at which the oldest pending partition was created."),
    _leader("planned_upper_bound", "The largest planned ID."),
    _leader("completed_watermark", "The largest ID up to which all that is planned is completed."),
    _leader("gaps", "Holes between planned ranges; the first 1,000 ranges are looked at."),
    _leader("gap_items", "IDs in those holes."),
    _leader("archive_partitions", "Completed partitions in the compressed archive."),
    _leader("archive_bytes", "Size of the compressed archive; estimated from some of its chunks."),
    _leader("estimated_completion_timestamp_seconds", "Epoch seconds when all open work is done at the present rate."),
    _leader("commands_queued", "Operators' commands that have not ended."),
    # -- this worker
    Family("report_duration_seconds", "histogram", "From sending reports to their answer.", _OURS, ROUND_TRIP_BUCKETS),
    Family(
        "store_op_duration_seconds",
        "histogram",
        "Round trips to the store that were answered, by operation.",
        _OURS + ("op",),
        ROUND_TRIP_BUCKETS,
    ),
    Family(
        "store_clock_offset_seconds",
        "gauge",
        "This host's wall clock minus the store's at the last heartbeat; for people, nothing is decided by it.",
        _NODE,
    ),
    Family(
        "last_success_timestamp_seconds",
        "gauge",
        "Epoch seconds of this worker's last accepted completion; absent before the first.",
        _NODE,
    ),
    Family("leader_election_attempts_total", "counter", "Times this worker stood for election.", _OURS),
    Family(
        "leader_election_failures_total",
        "counter",
        "Times it stood and was not elected, by reason.",
        _OURS + ("reason",),
    ),
    Family(
        "config_fingerprint",
        "gauge",
        "A 32-bit number of the options that should be equal on all workers of a namespace.",
        _NODE,
    ),
    Family("lease_seconds", "gauge", "Length of a partition's lease on this worker.", _NODE),
    Family("worker_ttl_seconds", "gauge", "After how long without a heartbeat this worker counts as dead.", _NODE),
    Family("stopping", "gauge", "Whether this worker is draining or stopped (1) or not (0).", _NODE),
    Family("notifications_total", "counter", "Notifications of this worker, by outcome.", _OURS + ("outcome",)),
)
#: Counters with a label that is not fixed for the worker -> the children of it that can be foreseen.
FORESEEN: Mapping[str, Sequence[Labels]] = {
    "node_tasks_errors_total": [(label,) for label in ERROR_LABELS],
    "partition_attempts_total": [(label,) for label in OUTCOMES.values()],
    "http_requests_total": [],
    "store_op_duration_seconds": [],
    "reclaims_total": [(reason,) for reason in RECLAIM_REASONS],
    "lease_lost_total": [(reason,) for reason in LOSS_REASONS],
    "writes_refused_total": [(what,) for what in REFUSED],
    "store_errors_total": [(kind,) for kind in STORE_ERROR_KINDS],
    "notifications_total": [(outcome,) for outcome in NOTIFICATION_OUTCOMES],
    "leader_election_failures_total": [(reason,) for reason in ELECTION_FAILURES],
}
