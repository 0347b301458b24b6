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
import os
import platform
import threading
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, TypeVar, Union

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from elk_coordinator.errors import StoreUnavailable
from elk_coordinator.model import Outcome, PartitionStatus
from elk_coordinator.observability.families import (
    BREAKER_NAME,
    ELECTION_FAILURES,
    FAMILIES,
    FORESEEN,
    GONE,
    OUTCOMES,
    PREFIX,
    REFUSED,
    Family,
    Histogram,
    Labels,
    error_type,
)
from elk_coordinator.observability.gauges import QUESTIONS, Series
from elk_coordinator.protocols import CoordinatorView, Event, Listener
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.version import __version__

_log = logging.getLogger("elk_coordinator")

#: The text format 0.0.4, which every Prometheus reads; newer clients would announce 1.0.0 for the same bytes.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: Started tasks remembered for their duration; more than any window, so it bounds only what a lost event leaves.
MAX_STARTED = 20000
#: No single amount is larger; keeps every sum a number that a float can hold.
MAX_AMOUNT = 2.0**63

_BUCKETS = {family.name: family.buckets for family in FAMILIES}
_Handler = TypeVar("_Handler", bound=Callable[..., None])
_AnyFamily = Union[CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily]


def _amount(value: Any) -> float:
    """Return *value* as what a counter or histogram may take, from 0 to MAX_AMOUNT; anything else counts as 0."""
    if isinstance(value, (int, float)) and 0 <= value <= MAX_AMOUNT:
        return value
    return 0


def error_kind(error: Exception) -> str:
    """Return the label value of a failed request to the store."""
    if not isinstance(error, StoreUnavailable):
        return "error"
    cause = error.__cause__
    late = isinstance(cause, TimeoutError) or "timeout" in type(cause).__name__.lower()
    return "timeout" if late else "unavailable"


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

    Called directly from the engine's threads: each ``on_...`` takes a lock for some additions and never raises.
    Everything is safe from any thread.

    :param namespace: value of the label ``coordinator``.
    :param worker_id: value of the labels ``worker_id`` and ``node_id``.
    :param clock: measures how long a task took until the store had its report.
    :param settings: gauges that never change: ``config_fingerprint``, ``lease_seconds``, ``worker_ttl_seconds``.
    """

    def __init__(
        self, namespace: str, worker_id: str, clock: Clock, settings: Optional[Mapping[str, float]] = None
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._view: Optional[CoordinatorView] = None
        self._store_up = False
        self._last_beat = 0.0
        #: Gauges without labels of their own, by family: what is set here stays until it is set again.
        self._set: Dict[str, float] = dict(settings or {})
        self.namespace = namespace
        #: The process that counts.
        self.pid = os.getpid()
        #: token -> monotonic seconds of the start; tokens are unique in the namespace.
        self._started: Dict[int, float] = {}
        # What can be foreseen begins at zero, so that a first increment shows in ``rate()``.
        self._counters: Dict[str, Dict[Labels, float]] = {
            family.name: dict.fromkeys(FORESEEN.get(family.name, [()]), 0.0)
            for family in FAMILIES
            if family.kind == "counter"
        }
        self._histograms: Dict[str, Dict[Labels, Histogram]] = {
            family.name: {child: Histogram(family.buckets) for child in FORESEEN.get(family.name, [()])}
            for family in FAMILIES
            if family.kind == "histogram"
        }
        #: Labels whose value never changes on this worker.
        self._fixed: Dict[str, str] = {
            "coordinator": namespace,
            "worker_id": worker_id,
            "node_id": worker_id,
            "breaker_name": BREAKER_NAME,
            "version": __version__,
            "python_version": platform.python_version(),
            "os_type": platform.system().lower(),
        }
        self.registry = CollectorRegistry()
        self.registry.register(self)  # there is no ``describe``, so this asks for nothing yet

    def attach(self, view: CoordinatorView) -> None:
        """Ask *view* from now on for what is read at the time of a scrape."""
        self._view = view

    def exposition(self) -> Tuple[bytes, str]:
        """Return everything as Prometheus text, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE

    def collect(self) -> List[_AnyFamily]:
        """Return the families of this moment; the registry calls it for a scrape."""
        gauges = self._gauges()  # before the lock: it asks others, and may count an error
        with self._lock:
            counters = {name: dict(children) for name, children in self._counters.items()}
            histograms = {
                name: {child: histogram.cumulative() for child, histogram in children.items()}
                for name, children in self._histograms.items()
            }
        out: List[_AnyFamily] = []
        for family in FAMILIES:
            name = PREFIX + family.name
            if family.kind == "histogram":
                shown = HistogramMetricFamily(name, family.help, labels=family.labels)
                for child, (buckets, total) in histograms[family.name].items():
                    shown.add_metric(self._values(family, child), buckets, total)
                if shown.samples:
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

    # -- HTTP
    def http_route(self, route: str) -> None:
        """Make *route* (a template, never a path as requested) known with no request so far."""
        self._add("http_requests_total", 0, (route, "200"))

    def http_request(self, route: str, code: int) -> None:
        """Count one answer. Routes and codes must come from a bounded set."""
        self._add("http_requests_total", 1, (route, str(code)))

    # -- leader
    @_harmless
    def on_became_leader(self, event: Event) -> None:
        self._add("leader_changes_total")

    @_harmless
    def on_planned(self, event: Event) -> None:
        created = _amount(event.facts.get("created"))
        if created:  # else it only skipped a hole
            self._add("partitions_assigned_total")
            self._add("partitions_planned_total", created)
            self._observe("partitions_assignment_duration_seconds", event.facts.get("seconds"))

    @_harmless
    def on_planner_error(self, event: Event) -> None:
        self._add("planner_errors_total")

    @_harmless
    def on_partition_reclaimed(self, event: Event) -> None:
        reason = "expired"
        if event.facts.get("status") is PartitionStatus.FAILED:
            reason = "cancelled" if str(event.facts.get("error")).startswith("cancelled by ") else "deliveries"
        self._add("reclaims_total", 1, (reason,))

    @_harmless
    def on_stood(self, event: Event) -> None:
        self._add("leader_election_attempts_total")
        if event.facts.get("failure") in ELECTION_FAILURES:
            self._add("leader_election_failures_total", 1, (event.facts["failure"],))

    # -- worker
    @_harmless
    def on_heartbeat(self, event: Event) -> None:
        self._store_up = good = bool(event.facts.get("ok"))
        if good:
            self._last_beat = float(event.at)
        else:
            self._add("node_heartbeat_errors_total")
        self._observe("heartbeat_lateness_seconds", event.facts.get("lateness"))
        offset = event.facts.get("clock_offset")
        if isinstance(offset, float) and abs(offset) < MAX_AMOUNT:
            with self._lock:
                self._set["store_clock_offset_seconds"] = offset

    @_harmless
    def on_claimed(self, event: Event) -> None:
        self._observe("claim_duration_seconds", event.facts.get("seconds"))

    @_harmless
    def on_reported(self, event: Event) -> None:
        self._observe("report_duration_seconds", event.facts.get("seconds"))

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
        self._observe("node_task_processor_duration_seconds", facts.get("seconds"))
        outcome = facts.get("outcome")
        if outcome in OUTCOMES:
            self._add("partition_attempts_total", 1, (OUTCOMES[outcome],))
        if outcome in (Outcome.ERROR, Outcome.PERMANENT):
            self._add("node_tasks_errors_total", 1, (error_type(facts.get("error_type")),))

    @_harmless
    def on_partition_completed(self, event: Event) -> None:
        self._add("node_tasks_processed_total")
        self._add("node_tasks_processed_items_total", _amount(event.facts.get("processed")))
        with self._lock:
            self._set["last_success_timestamp_seconds"] = float(event.at)
        self._settled(event)

    def _settled(self, event: Event) -> None:
        started = self._forget(event)
        if started is not None:  # else it never ran here: released from the prefetch, or failed by another way
            self._observe("node_task_processing_duration_seconds", self._clock.monotonic() - started)

    on_partition_retried = on_partition_failed = on_partition_released = _harmless(_settled)

    @_harmless
    def on_lease_lost(self, event: Event) -> None:
        self._add("lease_lost_total", 1, ("gone" if event.facts.get("reason") == GONE else "not_renewed",))
        self._forget(event)  # no report will be accepted any more, so there is no duration to the end

    @_harmless
    def on_write_refused(self, event: Event) -> None:
        what = event.facts.get("what")
        self._add("writes_refused_total", 1, (what if what in REFUSED else "other",))
        self._forget(event)

    @_harmless
    def on_breaker_changed(self, event: Event) -> None:
        if event.facts.get("state") == "open":
            self._add("node_circuit_breaker_tripped_total")

    # -- store
    @_harmless
    def on_store_unavailable(self, event: Event) -> None:
        self._store_up = False

    @_harmless
    def on_store_recovered(self, event: Event) -> None:
        self._store_up = True

    def store_answered(self, op: str, seconds: float, error: Optional[Exception]) -> None:
        """Count one round trip of the store of this worker's threads (DataStore.observe); never raises."""
        if error is None:
            self._observe("store_op_duration_seconds", seconds, (op,))
        else:
            self._add("store_errors_total", 1, (error_kind(error),))

    def notified(self, outcome: str, amount: int) -> None:
        """Count notifications that ended; outcomes are NOTIFICATION_OUTCOMES."""
        self._add("notifications_total", amount, (outcome,))

    # -- under the lock
    def _add(self, name: str, amount: float = 1, child: Labels = ()) -> None:
        with self._lock:
            children = self._counters[name]
            children[child] = children.get(child, 0) + amount

    def _observe(self, name: str, value: Any, child: Labels = ()) -> None:
        with self._lock:
            children = self._histograms[name]
            if child not in children:
                children[child] = Histogram(_BUCKETS[name])
            children[child].observe(_amount(value))

    def _forget(self, event: Event) -> Optional[float]:
        """Return when the task of *event* started, the first time it is asked for."""
        with self._lock:
            return self._started.pop(event.facts["token"], None)

    # -- reading
    def _gauges(self) -> Dict[str, Series]:
        """Return the present values of the gauges; what is absent has no series."""
        out: Dict[str, Series] = {
            "is_leader": {(): 0},
            "node_heartbeat_timestamp_seconds": {(): self._last_beat},
            "node_info": {(): 1},
            "build_info": {(): 1},
            "store_up": {(): int(self._store_up)},
        }
        with self._lock:
            out.update({name: {(): value} for name, value in self._set.items()})
        if self._view is not None:
            for question in QUESTIONS:
                try:
                    out.update(question(self._view))
                except Exception:  # one bad answer must not cost the rest of the scrape
                    self._failed()
        if not out["is_leader"][()]:
            for family in FAMILIES:
                if family.leader_only:
                    out.pop(family.name, None)
        return out

    def _failed(self) -> None:
        _log.debug("metrics: the coordinator could not be asked", exc_info=True)
        self._add("collector_errors_total")

    def _values(self, family: Family, child: Labels) -> List[str]:
        """Return the label values of one series: the fixed ones by name, the child's own in their order."""
        own = iter(child)
        return [self._fixed[label] if label in self._fixed else next(own) for label in family.labels]
