"""Count what happens on one worker and show it to Prometheus.

Only this module imports prometheus_client. Ordinary ``Counter`` and ``Gauge`` objects are avoided on purpose: they
add ``_created`` samples, cannot take a name such as the gauge ``partitions_total`` beside others, keep the last value
of leader-only series after a step-down, and write to an application's multiprocess files as soon as
``PROMETHEUS_MULTIPROC_DIR`` is set. So the numbers are plain, guarded by one lock, and one collector per coordinator
turns them into families when somebody scrapes.
"""

from __future__ import annotations

import functools
import logging
import math
import platform
import threading
from bisect import bisect_left
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple, TypeVar, Union

import attr
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from elk_coordinator.model import Outcome, PartitionStatus
from elk_coordinator.protocols import CoordinatorView, Event, Listener
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.version import __version__

_log = logging.getLogger("elk_coordinator")

PREFIX = "elk_coordinator_"
#: The text format 0.0.4, which every Prometheus reads; newer clients would announce 1.0.0 for the same bytes.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BREAKER_NAME = "process_breaker"
#: Seconds, up to an hour: partitions that are database batches run for minutes.
DURATION_BUCKETS = (0.001, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
ROUND_TRIP_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LATENESS_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
#: Values of ``node_circuit_breaker_state``.
BREAKER_STATES = {"closed": 0, "half_open": 1, "halfopen": 1, "open": 2}
#: Started tasks remembered for their duration; more than any window, so it bounds only what a lost event leaves.
MAX_STARTED = 20000
#: No single amount is larger; keeps every sum a number that a float can hold.
MAX_AMOUNT = 2.0**63

#: Class name of an exception, lower case -> value of ``error_type``. Everything else is "other": user code may raise
#: classes without end, labels may not grow without end.
ERROR_TYPES: Mapping[str, str] = {
    name: error_type
    for error_type, names in (
        ("timeout", "timeout timeouterror taskinterrupted readtimeout connecttimeout readtimeouterror "
                    "connecttimeouterror querycancelederror querycanceled softtimelimitexceeded"),
        ("connection", "connectionerror connectionrefusederror connectionreseterror connectionabortederror "
                       "brokenpipeerror gaierror sslerror maxretryerror newconnectionerror storeunavailable"),
        ("database", "databaseerror operationalerror interfaceerror integrityerror dataerror programmingerror "
                     "internalerror notsupportederror dberror dbapierror sqlalchemyerror"),
        ("http", "httperror httpstatuserror urlerror"),
        ("os", "oserror ioerror environmenterror filenotfounderror permissionerror fileexistserror isadirectoryerror "
               "blockingioerror interruptederror"),
        ("value", "valueerror unicodeerror unicodedecodeerror unicodeencodeerror jsondecodeerror validationerror "
                  "overflowerror zerodivisionerror arithmeticerror floatingpointerror invalidoperation"),
        ("type", "typeerror attributeerror nameerror unboundlocalerror notimplementederror assertionerror"),
        ("lookup", "keyerror indexerror lookuperror doesnotexist objectdoesnotexist"),
        ("memory", "memoryerror recursionerror"),
        ("permanent", "permanenterror"),
    )
    for name in names.split()
}
ERROR_LABELS: Tuple[str, ...] = tuple(sorted(set(ERROR_TYPES.values()))) + ("other",)
_OUTCOMES: Mapping[Any, str] = {outcome: outcome.name.lower() for outcome in Outcome}
_FAILED = frozenset((_OUTCOMES[Outcome.ERROR], _OUTCOMES[Outcome.PERMANENT]))

_Labels = Tuple[str, ...]
#: Values of the labels that are not fixed -> value of the series.
_Series = Dict[_Labels, Any]
_Handler = TypeVar("_Handler", bound=Callable[..., None])
_AnyFamily = Union[CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily]


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Family:
    """One family of series as we document and export it."""

    #: Without :data:`PREFIX`; a counter's ends with ``_total``.
    name: str
    #: "counter", "gauge" or "histogram".
    kind: str
    help: str
    labels: _Labels = ()
    buckets: Tuple[float, ...] = ()
    #: Present only while this worker leads, so that a sum over workers never counts twice.
    leader_only: bool = False


_OURS = ("coordinator",)
_NODE = ("coordinator", "worker_id")
#: Every family, in the order of the exposition. The first 15 keep names and labels of the system we replace.
FAMILIES: Tuple[Family, ...] = (
    Family("is_leader", "gauge", "Whether this worker leads (1) or not (0).", ("node_id",)),
    Family("partitions_total", "gauge", "Partitions of every status, as the leader last saw them.", leader_only=True),
    Family("partitions_assigned_total", "counter", "Allocation rounds of this worker that created partitions."),
    Family("partitions_assignment_duration_seconds", "histogram", "Length of allocation rounds that created "
           "partitions.", buckets=DURATION_BUCKETS),
    Family("active_workers_count", "gauge", "Live workers, as the leader last saw them.", leader_only=True),
    Family("node_heartbeat_timestamp_seconds", "gauge", "Epoch seconds of the last heartbeat that the store answered; "
           "0 before the first.", ("worker_id",)),
    Family("node_heartbeat_errors_total", "counter", "Heartbeats that the store did not answer.", ("worker_id",)),
    Family("node_info", "gauge", "What this worker runs on; always 1.",
           ("worker_id", "version", "python_version", "os_type")),
    Family("node_task_queue_active_tasks", "gauge", "Partitions claimed by this worker and waiting for a free slot.",
           ("worker_id",)),
    Family("node_tasks_processed_total", "counter", "Partitions whose completion by this worker was accepted.",
           ("worker_id",)),
    Family("node_tasks_processed_items_total", "counter", "Items counted by the processor in completed partitions.",
           ("worker_id",)),
    Family("node_tasks_errors_total", "counter", "Failed attempts on this worker, by the kind of exception.",
           ("worker_id", "error_type")),
    Family("node_task_processing_duration_seconds", "histogram", "From the start of a processor to the store's answer "
           "to the report.", ("worker_id",), DURATION_BUCKETS),
    Family("node_task_processor_duration_seconds", "histogram", "Running time of the processor.", ("worker_id",),
           DURATION_BUCKETS),
    Family("node_circuit_breaker_tripped_total", "counter", "Times the circuit breaker opened.",
           ("worker_id", "breaker_name")),
    # -- what the original did not have
    Family("partitions", "gauge", "Partitions by status, as the leader last saw them.", _OURS + ("status",),
           leader_only=True),
    Family("partitions_planned_total", "counter", "Partitions created by this worker while it led.", _OURS),
    Family("planner_errors_total", "counter", "Calls of the planner that raised or answered with no plan.", _OURS),
    Family("reclaims_total", "counter", "Partitions taken back, by this worker, from leases that ran out.", _OURS),
    Family("leader_changes_total", "counter", "Times this worker became leader.", _OURS),
    Family("leader_term", "gauge", "Token of the leader's lease.", _OURS, leader_only=True),
    Family("partition_attempts_total", "counter", "Attempts that ended on this worker, by outcome.",
           _OURS + ("outcome",)),
    Family("lease_lost_total", "counter", "Claims of this worker that were lost.", _OURS),
    Family("writes_refused_total", "counter", "Reports and checkpoints of this worker that the store refused because "
           "the claim was gone.", _OURS),
    Family("store_up", "gauge", "Whether the store answered when it was last asked (1) or not (0).", _OURS),
    Family("store_errors_total", "counter", "Times the store stopped answering this worker.", _OURS),
    Family("heartbeat_lateness_seconds", "histogram", "How far behind schedule a heartbeat began; large values mean a "
           "starved process (GIL, CPU, suspended).", _OURS, LATENESS_BUCKETS),
    Family("claim_duration_seconds", "histogram", "Round trips that brought partitions.", _OURS, ROUND_TRIP_BUCKETS),
    Family("node_task_window_size", "gauge", "Partitions this worker may run at the same time.", _NODE),
    Family("node_tasks_active_processing", "gauge", "Partitions whose processor runs now.", _NODE),
    Family("node_tasks_prefetched", "gauge", "Partitions claimed beyond the free slots.", _NODE),
    Family("node_tasks_hung", "gauge", "Processors still running one lease after their cancellation.", _NODE),
    Family("node_circuit_breaker_state", "gauge", "0 closed, 1 half-open, 2 open; absent when switched off.",
           _NODE + ("breaker_name",)),
    Family("paused", "gauge", "Whether the namespace is paused (1) or not (0).", _OURS),
    Family("build_info", "gauge", "Version of the library; always 1.", _OURS + ("version", "python_version")),
    Family("http_requests_total", "counter", "Answers of the HTTP application.", _OURS + ("route", "code")),
    Family("collector_errors_total", "counter", "Questions to the coordinator that failed while being scraped.", _OURS),
)


class _Histogram:
    """Counts per bucket, not cumulative; the caller holds the lock."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
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


def _amount(value: Any) -> float:
    """Return *value* as what a counter or histogram may take, from 0 to MAX_AMOUNT; anything else counts as 0."""
    if isinstance(value, (int, float)) and 0 <= value <= MAX_AMOUNT:
        return value
    return 0


def error_type(error: Any) -> str:
    """Return the label value for an exception, its class, or its class's name; "other" for what we do not know."""
    if isinstance(error, BaseException):
        error = type(error)
    if isinstance(error, type):
        names = [cls.__name__ for cls in error.__mro__]
    else:
        names = [str(error).rpartition(".")[2]]
    for name in names:
        found = ERROR_TYPES.get(name.lower())
        if found is not None:
            return found
    return "other"


def _harmless(handler: _Handler) -> _Handler:
    """Keep an event that is not as expected from reaching the engine, which calls us directly."""

    @functools.wraps(handler)
    def call(self: Metrics, event: Event) -> None:
        try:
            handler(self, event)
        except Exception:
            _log.debug("metrics: event %r could not be counted", getattr(event, "kind", event), exc_info=True)

    return call  # type: ignore[return-value]


class Metrics(Listener):
    """The numbers of one coordinator, and the registry that shows them.

    Called directly from the engine's threads: each ``on_...`` takes one lock for some additions and never raises.
    Everything is safe from any thread.

    :param namespace: value of the label ``coordinator``.
    :param worker_id: value of the labels ``worker_id`` and ``node_id``.
    :param clock: measures how long a task took until the store had its report.
    """

    def __init__(self, namespace: str, worker_id: str, clock: Clock) -> None:
        self.namespace = namespace
        self.worker_id = worker_id
        self._clock = clock
        self._lock = threading.Lock()
        self._view: Optional[CoordinatorView] = None
        self._store_up = False
        self._last_beat = 0.0
        self._term: Optional[int] = None
        self._breaker: Optional[str] = None
        #: token -> monotonic seconds of the start; tokens are unique in the namespace.
        self._started: Dict[int, float] = {}
        self._counters: Dict[str, Dict[_Labels, float]] = {
            family.name: {} for family in FAMILIES if family.kind == "counter"
        }
        self._histograms: Dict[str, _Histogram] = {
            family.name: _Histogram(family.buckets) for family in FAMILIES if family.kind == "histogram"
        }
        self._fixed: Dict[str, str] = {"coordinator": namespace, "worker_id": worker_id, "node_id": worker_id,
                                       "breaker_name": BREAKER_NAME}
        self._start_at_zero()
        self.registry = CollectorRegistry()
        self.registry.register(_Collector(self))

    def _start_at_zero(self) -> None:
        """Give every child that can be foreseen its series, so that a first increment shows in ``rate()``."""
        foreseen: Dict[str, Tuple[str, ...]] = {
            "node_tasks_errors_total": ERROR_LABELS,
            "partition_attempts_total": tuple(_OUTCOMES.values()),
            "http_requests_total": (),
        }
        for name, children in self._counters.items():
            for child in foreseen.get(name, ("",)):
                children[(child,) if child else ()] = 0

    def attach(self, view: CoordinatorView) -> None:
        """Ask *view* from now on for what is read at the time of a scrape."""
        self._view = view

    def exposition(self) -> Tuple[bytes, str]:
        """Return everything as Prometheus text, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE

    # -- HTTP
    def http_route(self, route: str) -> None:
        """Make *route* (a template, never a path as requested) known with no request so far."""
        with self._lock:
            self._counters["http_requests_total"].setdefault((route, "200"), 0)

    def http_request(self, route: str, code: int) -> None:
        """Count one answer. Routes and codes must come from a bounded set."""
        self._add("http_requests_total", 1, (route, str(code)))

    # -- leader
    @_harmless
    def on_became_leader(self, event: Event) -> None:
        self._term = event.facts.get("term")
        self._add("leader_changes_total")

    @_harmless
    def on_stepped_down(self, event: Event) -> None:
        self._term = None

    @_harmless
    def on_planned(self, event: Event) -> None:
        created = _amount(event.facts.get("created"))
        if not created:  # only skipped a hole
            return
        with self._lock:
            self._counters["partitions_assigned_total"][()] += 1
            self._counters["partitions_planned_total"][()] += created
            self._histograms["partitions_assignment_duration_seconds"].observe(_amount(event.facts.get("seconds")))

    @_harmless
    def on_planner_error(self, event: Event) -> None:
        self._add("planner_errors_total")

    @_harmless
    def on_partition_reclaimed(self, event: Event) -> None:
        self._add("reclaims_total")

    # -- worker
    @_harmless
    def on_heartbeat(self, event: Event) -> None:
        facts = event.facts
        good = bool(facts.get("ok"))
        with self._lock:
            self._store_up = good
            if good:
                self._last_beat = float(event.at)
            else:
                self._counters["node_heartbeat_errors_total"][()] += 1
            self._histograms["heartbeat_lateness_seconds"].observe(_amount(facts.get("lateness")))

    @_harmless
    def on_claimed(self, event: Event) -> None:
        with self._lock:
            self._histograms["claim_duration_seconds"].observe(_amount(event.facts.get("seconds")))

    @_harmless
    def on_task_started(self, event: Event) -> None:
        now = self._clock.monotonic()
        with self._lock:
            self._started[event.facts["token"]] = now
            if len(self._started) > MAX_STARTED:  # ends that never came; dicts keep their order, so the oldest goes
                del self._started[next(iter(self._started))]

    @_harmless
    def on_task_finished(self, event: Event) -> None:
        facts = event.facts
        label = _OUTCOMES.get(facts.get("outcome"))
        seconds = _amount(facts.get("seconds"))
        with self._lock:
            self._histograms["node_task_processor_duration_seconds"].observe(seconds)
            if label is not None:
                self._counters["partition_attempts_total"][(label,)] += 1
            if label in _FAILED:
                self._counters["node_tasks_errors_total"][(error_type(facts.get("error_type")),)] += 1

    @_harmless
    def on_partition_completed(self, event: Event) -> None:
        now = self._clock.monotonic()
        with self._lock:
            self._counters["node_tasks_processed_total"][()] += 1
            self._counters["node_tasks_processed_items_total"][()] += _amount(event.facts.get("processed"))
            self._settled(event, now)

    def _reported(self, event: Event) -> None:
        now = self._clock.monotonic()
        with self._lock:
            self._settled(event, now)

    on_partition_retried = on_partition_failed = on_partition_released = _harmless(_reported)

    def _settled(self, event: Event, now: float) -> None:
        started = self._started.pop(event.facts["token"], None)
        if started is not None:  # else it never ran here: released from the prefetch, or failed by another way
            self._histograms["node_task_processing_duration_seconds"].observe(_amount(now - started))

    @_harmless
    def on_lease_lost(self, event: Event) -> None:
        self._add("lease_lost_total")
        with self._lock:  # no report will be accepted any more, so there is no duration to the end
            self._started.pop(event.facts["token"], None)

    @_harmless
    def on_write_refused(self, event: Event) -> None:
        self._add("writes_refused_total")
        with self._lock:
            self._started.pop(event.facts["token"], None)

    @_harmless
    def on_breaker_changed(self, event: Event) -> None:
        self._breaker = event.facts.get("state")
        if _breaker_value(self._breaker) == BREAKER_STATES["open"]:
            self._add("node_circuit_breaker_tripped_total")

    # -- store
    @_harmless
    def on_store_unavailable(self, event: Event) -> None:
        with self._lock:
            self._store_up = False
            self._counters["store_errors_total"][()] += 1

    @_harmless
    def on_store_recovered(self, event: Event) -> None:
        self._store_up = True

    # -- reading
    def _add(self, name: str, amount: float = 1, child: _Labels = ()) -> None:
        with self._lock:
            children = self._counters[name]
            children[child] = children.get(child, 0) + amount

    def _ask(self, question: Callable[[CoordinatorView], Dict[str, _Series]]) -> Dict[str, _Series]:
        """Return the gauges that the coordinator's answer gives; none, and count it, when that fails."""
        view = self._view
        if view is None:
            return {}
        try:
            return question(view)
        except Exception:  # one bad answer must not cost the rest of the scrape
            self._failed()
            return {}

    def _failed(self) -> None:
        _log.debug("metrics: the coordinator could not be asked", exc_info=True)
        self._add("collector_errors_total")

    def _gauges(self) -> Dict[str, _Series]:
        """Return the present values of the gauges; what is absent has no series."""
        python, system = platform.python_version(), platform.system().lower()
        out: Dict[str, _Series] = {
            "is_leader": {(): 0},
            "node_heartbeat_timestamp_seconds": {(): self._last_beat},
            "node_info": {(__version__, python, system): 1},
            "build_info": {(__version__, python): 1},
            "store_up": {(): int(self._store_up)},
            "leader_term": _single(self._term),
            "node_circuit_breaker_state": _single(_breaker_value(self._breaker)),
        }
        for question in (_ask_leading, _ask_health, _ask_stats, _ask_workers):
            out.update(self._ask(question))
        if not out["is_leader"][()]:
            for family in FAMILIES:
                if family.leader_only:
                    out.pop(family.name, None)
        return out

    def _collect(self) -> List[_AnyFamily]:
        gauges = self._gauges()  # before the lock: it asks others, and may count an error
        with self._lock:
            counters = {name: dict(children) for name, children in self._counters.items()}
            histograms = {name: histogram.cumulative() for name, histogram in self._histograms.items()}
        out: List[_AnyFamily] = []
        for family in FAMILIES:
            name = PREFIX + family.name
            if family.kind == "histogram":
                shown = HistogramMetricFamily(name, family.help, labels=family.labels)
                buckets, total = histograms[family.name]
                shown.add_metric(self._values(family, ()), buckets, total)
                out.append(shown)
                continue
            cls = GaugeMetricFamily if family.kind == "gauge" else CounterMetricFamily
            plain = cls(name, family.help, labels=family.labels)
            children = (gauges if family.kind == "gauge" else counters).get(family.name, {})
            for child, value in children.items():
                try:
                    plain.add_metric(self._values(family, child), float(value))
                except (TypeError, ValueError):  # the coordinator answered with no number: only this series is lost
                    self._failed()
            if plain.samples:
                out.append(plain)
        return out

    def _values(self, family: Family, child: _Labels) -> List[str]:
        """Return the label values of one series: the fixed ones by name, the child's own in their order."""
        own = iter(child)
        return [self._fixed[label] if label in self._fixed else next(own) for label in family.labels]


def _ask_leading(view: CoordinatorView) -> Dict[str, _Series]:
    return {"is_leader": {(): int(view.is_leader)}}


def _ask_stats(view: CoordinatorView) -> Dict[str, _Series]:
    stats = view.cached_stats()
    if stats is None:
        return {}
    return {
        "partitions_total": {(): stats.total},
        "partitions": {(status.value,): getattr(stats, status.value) for status in PartitionStatus},
    }


def _ask_workers(view: CoordinatorView) -> Dict[str, _Series]:
    return {"active_workers_count": _single(view.cached_workers())}


def _ask_health(view: CoordinatorView) -> Dict[str, _Series]:
    health = view.health()
    return {
        "leader_term": _single(health.term),
        "node_task_queue_active_tasks": {(): health.prefetched},
        "node_task_window_size": {(): health.window_size},
        "node_tasks_active_processing": {(): health.in_flight},
        "node_tasks_prefetched": {(): health.prefetched},
        "node_tasks_hung": {(): health.hung},
        "node_circuit_breaker_state": _single(_breaker_value(health.breaker)),
        "paused": {(): int(health.paused)},
    }


def _single(value: Any) -> _Series:
    """Return the one series of a family, or none for None."""
    return {} if value is None else {(): value}


def _breaker_value(state: Any) -> Optional[int]:
    if state is None:
        return None
    return BREAKER_STATES.get(str(getattr(state, "value", state)).lower().replace("-", "_"))


class _Collector:
    """What prometheus_client calls. Without ``describe``, so registering it asks nobody for anything."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[_AnyFamily]:
        """Yield the families of this moment."""
        return iter(self._metrics._collect())
