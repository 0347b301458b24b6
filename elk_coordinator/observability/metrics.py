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
import platform
import threading
from typing import Any, Callable, Dict, List, Optional, Tuple, TypeVar, Union

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from elk_coordinator.model import Outcome, PartitionStatus
from elk_coordinator.observability.families import (
    BREAKER_NAME,
    BREAKER_STATES,
    FAMILIES,
    FORESEEN,
    OUTCOMES,
    PREFIX,
    Family,
    Histogram,
    Labels,
    error_type,
)
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

#: Values of the labels that are not fixed -> value of the series.
_Series = Dict[Labels, Any]
_Handler = TypeVar("_Handler", bound=Callable[..., None])
_AnyFamily = Union[CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily]


def _amount(value: Any) -> float:
    """Return *value* as what a counter or histogram may take, from 0 to MAX_AMOUNT; anything else counts as 0."""
    if isinstance(value, (int, float)) and 0 <= value <= MAX_AMOUNT:
        return value
    return 0


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
    """

    def __init__(self, namespace: str, worker_id: str, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._view: Optional[CoordinatorView] = None
        self._store_up = False
        self._last_beat = 0.0
        #: token -> monotonic seconds of the start; tokens are unique in the namespace.
        self._started: Dict[int, float] = {}
        # What can be foreseen begins at zero, so that a first increment shows in ``rate()``.
        self._counters: Dict[str, Dict[Labels, float]] = {
            family.name: dict.fromkeys(FORESEEN.get(family.name, [()]), 0.0)
            for family in FAMILIES
            if family.kind == "counter"
        }
        self._histograms: Dict[str, Histogram] = {
            family.name: Histogram(family.buckets) for family in FAMILIES if family.kind == "histogram"
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
        self._add("reclaims_total")

    # -- worker
    @_harmless
    def on_heartbeat(self, event: Event) -> None:
        self._store_up = good = bool(event.facts.get("ok"))
        if good:
            self._last_beat = float(event.at)
        else:
            self._add("node_heartbeat_errors_total")
        self._observe("heartbeat_lateness_seconds", event.facts.get("lateness"))

    @_harmless
    def on_claimed(self, event: Event) -> None:
        self._observe("claim_duration_seconds", event.facts.get("seconds"))

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
        self._settled(event)

    def _settled(self, event: Event) -> None:
        started = self._forget(event)
        if started is not None:  # else it never ran here: released from the prefetch, or failed by another way
            self._observe("node_task_processing_duration_seconds", self._clock.monotonic() - started)

    on_partition_retried = on_partition_failed = on_partition_released = _harmless(_settled)

    @_harmless
    def on_lease_lost(self, event: Event) -> None:
        self._add("lease_lost_total")
        self._forget(event)  # no report will be accepted any more, so there is no duration to the end

    @_harmless
    def on_write_refused(self, event: Event) -> None:
        self._add("writes_refused_total")
        self._forget(event)

    @_harmless
    def on_breaker_changed(self, event: Event) -> None:
        if event.facts.get("state") == "open":
            self._add("node_circuit_breaker_tripped_total")

    # -- store
    @_harmless
    def on_store_unavailable(self, event: Event) -> None:
        self._store_up = False
        self._add("store_errors_total")

    @_harmless
    def on_store_recovered(self, event: Event) -> None:
        self._store_up = True

    # -- under the lock
    def _add(self, name: str, amount: float = 1, child: Labels = ()) -> None:
        with self._lock:
            children = self._counters[name]
            children[child] = children.get(child, 0) + amount

    def _observe(self, name: str, value: Any) -> None:
        with self._lock:
            self._histograms[name].observe(_amount(value))

    def _forget(self, event: Event) -> Optional[float]:
        """Return when the task of *event* started, the first time it is asked for."""
        with self._lock:
            return self._started.pop(event.facts["token"], None)

    # -- reading
    def _gauges(self) -> Dict[str, _Series]:
        """Return the present values of the gauges; what is absent has no series."""
        out: Dict[str, _Series] = {
            "is_leader": {(): 0},
            "node_heartbeat_timestamp_seconds": {(): self._last_beat},
            "node_info": {(): 1},
            "build_info": {(): 1},
            "store_up": {(): int(self._store_up)},
        }
        if self._view is not None:
            for question in (_ask_leading, _ask_health, _ask_stats, _ask_workers):
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
        "node_circuit_breaker_state": _single(None if health.breaker is None else BREAKER_STATES.get(health.breaker)),
        "paused": {(): int(health.paused)},
    }


def _single(value: Any) -> _Series:
    """Return the one series of a family, or none for None."""
    return {} if value is None else {(): value}
