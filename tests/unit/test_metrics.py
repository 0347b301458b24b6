"""The exposition: exact names and labels, what is counted by which event, and what a bad answer must not break."""

from __future__ import annotations

import os
import pathlib
import platform
import re
import signal
import subprocess
import sys
import textwrap
import threading
from typing import Any, Dict, FrozenSet, Iterator, List, Optional, Set, Tuple

import attr
import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from elk_coordinator.errors import ConfigError, PermanentError, StoreError, StoreUnavailable
from elk_coordinator.model import Outcome, PartitionStats, PartitionStatus, Survey, WorkerInfo
from elk_coordinator.observability import merged
from elk_coordinator.observability.families import (
    BREAKER_STATES,
    ELECTION_FAILURES,
    ERROR_LABELS,
    FAMILIES,
    GONE,
    RECLAIM_REASONS,
    REFUSED,
    WORKER_STATES,
    error_type,
)
from elk_coordinator.observability.gauges import fingerprint, worker_state
from elk_coordinator.observability.metrics import MAX_STARTED, Metrics
from elk_coordinator.protocols import EVENT_KINDS, Event, Health
from elk_coordinator.testing import ManualClock
from elk_coordinator.version import __version__

ROOT = pathlib.Path(__file__).resolve().parents[2]
P = "elk_coordinator_"
#: The original's 15: name -> (type, labels). Its table is the reference; python_version stands for go_version.
ORIGINAL: Dict[str, Tuple[str, FrozenSet[str]]] = {
    "is_leader": ("gauge", frozenset({"node_id"})),
    "partitions_total": ("gauge", frozenset()),
    "partitions_assigned_total": ("counter", frozenset()),
    "partitions_assignment_duration_seconds": ("histogram", frozenset()),
    "active_workers_count": ("gauge", frozenset()),
    "node_heartbeat_timestamp_seconds": ("gauge", frozenset({"worker_id"})),
    "node_heartbeat_errors_total": ("counter", frozenset({"worker_id"})),
    "node_info": ("gauge", frozenset({"worker_id", "version", "python_version", "os_type"})),
    "node_task_queue_active_tasks": ("gauge", frozenset({"worker_id"})),
    "node_tasks_processed_total": ("counter", frozenset({"worker_id"})),
    "node_tasks_processed_items_total": ("counter", frozenset({"worker_id"})),
    "node_tasks_errors_total": ("counter", frozenset({"worker_id", "error_type"})),
    "node_task_processing_duration_seconds": ("histogram", frozenset({"worker_id"})),
    "node_task_processor_duration_seconds": ("histogram", frozenset({"worker_id"})),
    "node_circuit_breaker_tripped_total": ("counter", frozenset({"worker_id", "breaker_name"})),
}
C = frozenset({"coordinator"})
OURS: Dict[str, Tuple[str, FrozenSet[str]]] = {
    "partitions": ("gauge", C | {"status"}),
    "partitions_pending": ("gauge", C | {"priority"}),
    "workers": ("gauge", C | {"state"}),
    "backlog_items": ("gauge", C),
    "oldest_pending_timestamp_seconds": ("gauge", C),
    "planned_upper_bound": ("gauge", C),
    "completed_watermark": ("gauge", C),
    "gaps": ("gauge", C),
    "gap_items": ("gauge", C),
    "archive_partitions": ("gauge", C),
    "archive_bytes": ("gauge", C),
    "estimated_completion_timestamp_seconds": ("gauge", C),
    "commands_queued": ("gauge", C),
    "report_duration_seconds": ("histogram", C),
    "store_op_duration_seconds": ("histogram", C | {"op"}),
    "store_clock_offset_seconds": ("gauge", C | {"worker_id"}),
    "last_success_timestamp_seconds": ("gauge", C | {"worker_id"}),
    "leader_election_attempts_total": ("counter", C),
    "leader_election_failures_total": ("counter", C | {"reason"}),
    "config_fingerprint": ("gauge", C | {"worker_id"}),
    "lease_seconds": ("gauge", C | {"worker_id"}),
    "worker_ttl_seconds": ("gauge", C | {"worker_id"}),
    "stopping": ("gauge", C | {"worker_id"}),
    "notifications_total": ("counter", C | {"outcome"}),
    "partitions_planned_total": ("counter", C),
    "planner_errors_total": ("counter", C),
    "reclaims_total": ("counter", C | {"reason"}),
    "leader_changes_total": ("counter", C),
    "leader_term": ("gauge", C),
    "partition_attempts_total": ("counter", C | {"outcome"}),
    "lease_lost_total": ("counter", C | {"reason"}),
    "writes_refused_total": ("counter", C | {"what"}),
    "store_up": ("gauge", C),
    "store_errors_total": ("counter", C | {"kind"}),
    "heartbeat_lateness_seconds": ("histogram", C),
    "claim_duration_seconds": ("histogram", C),
    "node_task_window_size": ("gauge", C | {"worker_id"}),
    "node_tasks_active_processing": ("gauge", C | {"worker_id"}),
    "node_tasks_prefetched": ("gauge", C | {"worker_id"}),
    "node_tasks_hung": ("gauge", C | {"worker_id"}),
    "node_circuit_breaker_state": ("gauge", C | {"worker_id", "breaker_name"}),
    "paused": ("gauge", C),
    "build_info": ("gauge", C | {"version", "python_version"}),
    "http_requests_total": ("counter", C | {"route", "code"}),
    "collector_errors_total": ("counter", C),
}
FROM_STATS = {"partitions_total", "partitions", "planned_upper_bound"}
FROM_SURVEY = {
    "partitions_pending",
    "workers",
    "backlog_items",
    "oldest_pending_timestamp_seconds",
    "completed_watermark",
    "gaps",
    "gap_items",
    "archive_partitions",
    "archive_bytes",
    "estimated_completion_timestamp_seconds",
    "commands_queued",
}
LEADER_ONLY = FROM_STATS | FROM_SURVEY | {"active_workers_count", "leader_term"}
#: Shown from the first event of their kind on.
LATER = {"store_op_duration_seconds", "store_clock_offset_seconds", "last_success_timestamp_seconds"}
SETTINGS = {"config_fingerprint": 4000000000, "lease_seconds": 30.0, "worker_ttl_seconds": 30.0}


INFOS: List[Dict[str, Any]] = [
    {"state": "running", "in_flight": 2, "breaker": "closed"},
    {"state": "running", "in_flight": 0, "breaker": None},
    {"state": "running", "in_flight": 1, "breaker": "half_open"},
    {"state": "draining", "in_flight": 1, "breaker": "open"},
    {"state": "starting"},
    {},
]


class View:
    """A coordinator that answers what the test sets; an exception among the answers is raised."""

    namespace = "orders"
    worker_id = "w1"

    def __init__(self) -> None:
        self.leads: Any = True
        self.counts: Any = PartitionStats(
            total=10, pending=1, claimed=2, running=3, completed=4, failed=0, last_allocated_id=-5
        )
        self.seen: Any = Survey(
            pending={"5": 1, "delayed": 0},
            workers=[WorkerInfo("w%d" % i, 9.0, info) for i, info in enumerate(INFOS)],
            backlog_items=600,
            oldest_pending_timestamp_seconds=1.7e9,
            completed_watermark=-700,
            gaps=2,
            gap_items=50,
            archive_partitions=3,
            archive_bytes=70,
            estimated_completion_timestamp_seconds=1.8e9,
            commands_queued=1,
        )
        self.workers: Any = 4
        self.state: Any = Health(
            state="running",
            healthy=True,
            ready=True,
            problems=(),
            namespace="orders",
            worker_id="w1",
            is_leader=True,
            term=1763900123456789,
            accepted=True,
            store_age=0.1,
            store_error=None,
            window_size=8,
            in_flight=5,
            hung=1,
            prefetched=2,
            breaker="closed",
            paused=True,
            roles=(),
            http_address=None,
            uptime=3.0,
        )

    def _answer(self, value: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    @property
    def is_leader(self) -> bool:
        return bool(self._answer(self.leads))

    def health(self) -> Health:
        return self._answer(self.state)  # type: ignore[no-any-return]

    def cached_stats(self) -> Optional[PartitionStats]:
        return self._answer(self.counts)  # type: ignore[no-any-return]

    def cached_workers(self) -> Optional[int]:
        return self._answer(self.workers)  # type: ignore[no-any-return]

    def cached_survey(self) -> Optional[Survey]:
        return self._answer(self.seen)  # type: ignore[no-any-return]

    def stats(self) -> PartitionStats:
        raise AssertionError("a scrape must not ask the store")

    def fleet(self) -> List[Any]:
        raise AssertionError("a scrape must not ask the store")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def view() -> View:
    return View()


@pytest.fixture
def metrics(clock: ManualClock, view: View) -> Metrics:
    made = Metrics("orders", "w1", clock, SETTINGS)
    made.attach(view)
    return made


def event(kind: str, **facts: Any) -> Event:
    return Event(kind, "orders", "w1", 1.7e9, facts)


def tell(metrics: Metrics, kind: str, **facts: Any) -> None:
    getattr(metrics, "on_" + kind)(event(kind, **facts))


def value(metrics: Metrics, name: str, **labels: str) -> Optional[float]:
    """Return the only sample of that name that has these labels, None when there is none."""
    found = [
        sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == P + name and all(sample.labels.get(key) == wanted for key, wanted in labels.items())
    ]
    assert len(found) <= 1, (name, labels, found)
    return found[0] if found else None


def shown(metrics: Metrics) -> Dict[str, Tuple[str, Set[FrozenSet[str]]]]:
    """Return name without prefix -> (type, the sets of label names of its samples), from the text itself."""
    text = metrics.exposition()[0].decode()
    kinds = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name.startswith(P) and name not in kinds, line
            kinds[name] = kind
    out: Dict[str, Tuple[str, Set[FrozenSet[str]]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name
            for suffix in ("_bucket", "_sum", "_count"):
                if name not in kinds and name.endswith(suffix):
                    name = name[: -len(suffix)]
            labels = out.setdefault(name[len(P) :], (kinds[name], set()))[1]
            labels.add(frozenset(sample.labels) - {"le"})
    return out


def begin(metrics: Metrics) -> None:
    """Let happen what the families of LATER wait for."""
    metrics.http_route("/health")
    metrics.store_answered("work", 0.01, None)
    tell(metrics, "heartbeat", ok=True, seconds=0.01, lateness=0.0, held=0, error="", clock_offset=0.25)
    tell(metrics, "partition_completed", partition_id=1, token=1, processed=1)


def test_names_types_and_labels_are_exactly_these(metrics: Metrics) -> None:
    begin(metrics)
    expected = {name: (kind, {labels}) for name, (kind, labels) in {**ORIGINAL, **OURS}.items()}
    assert shown(metrics) == expected
    assert len(ORIGINAL) == 15
    assert [family.name for family in FAMILIES][:15] == list(ORIGINAL)
    assert all(family.help for family in FAMILIES)


def test_everything_that_needs_no_coordinator_is_there_from_the_beginning(clock: ManualClock) -> None:
    names = set(shown(Metrics("orders", "w1", clock)))
    from_health = {
        "node_task_queue_active_tasks",
        "node_task_window_size",
        "node_tasks_active_processing",
        "node_tasks_prefetched",
        "node_tasks_hung",
        "node_circuit_breaker_state",
        "paused",
        "stopping",
        "http_requests_total",
    }
    assert names == (set(ORIGINAL) | set(OURS)) - LEADER_ONLY - LATER - set(SETTINGS) - from_health


def test_exposition_is_plain_text_without_created_samples(metrics: Metrics) -> None:
    body, content_type = metrics.exposition()
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert b"_created" not in body
    assert body.endswith(b"\n")
    assert b"elk_coordinator_partitions_total 10.0\n" in body
    assert b'elk_coordinator_is_leader{node_id="w1"} 1.0\n' in body
    assert (
        'elk_coordinator_build_info{coordinator="orders",python_version="%s",version="%s"} 1.0'
        % (platform.python_version(), __version__)
    ) in body.decode()


def test_foreseen_children_start_at_zero(metrics: Metrics) -> None:
    for label in ERROR_LABELS:
        assert value(metrics, "node_tasks_errors_total", error_type=label) == 0
    for outcome in Outcome:
        assert value(metrics, "partition_attempts_total", outcome=outcome.name.lower()) == 0
    assert value(metrics, "node_circuit_breaker_tripped_total", breaker_name="process_breaker", worker_id="w1") == 0
    metrics.http_route("/health")
    assert value(metrics, "http_requests_total", route="/health", code="200") == 0


def test_leader_only_series_vanish_on_step_down_and_come_back(metrics: Metrics, view: View) -> None:
    assert LEADER_ONLY <= set(shown(metrics))
    assert value(metrics, "leader_term") == 1763900123456789
    assert [value(metrics, "partitions", status=status.value) for status in PartitionStatus] == [1, 2, 3, 4, 0]
    view.leads = False  # the last answers are still cached: they must not be shown
    assert not LEADER_ONLY & set(shown(metrics))
    assert value(metrics, "is_leader", node_id="w1") == 0
    view.leads = True
    view.counts = view.workers = view.seen = None  # leads, and has not looked yet
    assert LEADER_ONLY & set(shown(metrics)) == {"leader_term"}
    assert value(metrics, "is_leader") == 1


@pytest.mark.parametrize(
    "part, lost",
    [
        ("leads", LEADER_ONLY),
        ("counts", FROM_STATS),
        ("seen", FROM_SURVEY),
        ("workers", {"active_workers_count"}),
        (
            "state",
            {
                "node_task_queue_active_tasks",
                "node_task_window_size",
                "node_tasks_active_processing",
                "node_tasks_prefetched",
                "node_tasks_hung",
                "paused",
                "stopping",
                "leader_term",
                "node_circuit_breaker_state",
            },
        ),
    ],
)
def test_a_coordinator_that_raises_costs_only_what_it_was_asked_for(
    metrics: Metrics, view: View, part: str, lost: Set[str]
) -> None:
    begin(metrics)
    setattr(view, part, RuntimeError("boom"))
    assert set(shown(metrics)) == (set(ORIGINAL) | set(OURS)) - lost
    assert value(metrics, "collector_errors_total") == 2  # one scrape above, one here
    assert value(metrics, "is_leader") == (0 if part == "leads" else 1)


def test_a_coordinator_that_answers_nonsense_costs_only_that(metrics: Metrics, view: View) -> None:
    view.counts = PartitionStats(total="many", pending=3)  # type: ignore[arg-type]
    view.workers = view.seen = "some"
    view.state = None
    names = set(shown(metrics))
    assert not {"partitions_total", "active_workers_count", "paused"} & names
    assert value(metrics, "partitions", status="pending") == 3
    assert value(metrics, "collector_errors_total") >= 3  # type: ignore[operator]


def test_events_of_the_leader(metrics: Metrics) -> None:
    tell(metrics, "became_leader", term=7, seconds=0.1)
    tell(metrics, "planned", created=15, skipped_ids=0, last_id=9, seconds=0.2, questions=1)
    tell(metrics, "planned", created=2, skipped_ids=0, last_id=9, seconds=200.0, questions=1)
    tell(metrics, "planned", created=0, skipped_ids=10**12, last_id=9, seconds=5.0, questions=40)  # only a hole
    tell(metrics, "planner_error", error=None, method="get_next_max_id")
    tell(metrics, "partition_reclaimed", partition_id=1, token=2, owner="w2", deliveries=1, status=None)
    tell(metrics, "stepped_down", term=7, reason="stop")
    assert value(metrics, "leader_changes_total", coordinator="orders") == 1
    assert value(metrics, "partitions_assigned_total") == 2
    assert value(metrics, "partitions_planned_total") == 17
    assert value(metrics, "planner_errors_total") == 1
    failed = {"partition_id": 1, "token": 3, "owner": "w2", "deliveries": 5, "status": PartitionStatus.FAILED}
    tell(metrics, "partition_reclaimed", error="lost 5 times by workers that died", **failed)
    tell(metrics, "partition_reclaimed", error="cancelled by http on w1", **failed)
    assert [value(metrics, "reclaims_total", reason=reason) for reason in RECLAIM_REASONS] == [1, 1, 1]
    for failure in ("", "held", "store"):
        tell(metrics, "stood", failure=failure)
    assert value(metrics, "leader_election_attempts_total") == 3
    assert [value(metrics, "leader_election_failures_total", reason=r) for r in ELECTION_FAILURES] == [1, 1]
    name = "partitions_assignment_duration_seconds"
    assert value(metrics, name + "_count") == 2
    assert value(metrics, name + "_sum") == pytest.approx(200.2)
    assert value(metrics, name + "_bucket", le="120.0") == 1
    assert value(metrics, name + "_bucket", le="300.0") == 2
    assert value(metrics, name + "_bucket", le="3600.0") == 2
    assert value(metrics, name + "_bucket", le="+Inf") == 2


def test_events_of_the_heartbeat_and_the_store(metrics: Metrics) -> None:
    assert value(metrics, "store_up") == 0
    assert value(metrics, "node_heartbeat_timestamp_seconds") == 0
    tell(metrics, "heartbeat", ok=True, seconds=0.01, lateness=0.3, held=2, error=None)
    assert value(metrics, "store_up") == 1
    assert value(metrics, "node_heartbeat_timestamp_seconds", worker_id="w1") == 1.7e9
    assert value(metrics, "heartbeat_lateness_seconds_bucket", le="0.25") == 0
    assert value(metrics, "heartbeat_lateness_seconds_bucket", le="0.5") == 1
    tell(metrics, "heartbeat", ok=False, seconds=5.0, lateness=-0.001, held=2, error="timeout")
    assert value(metrics, "node_heartbeat_errors_total") == 1
    assert value(metrics, "heartbeat_lateness_seconds_sum") == pytest.approx(0.3)
    tell(metrics, "store_unavailable", role="claimer", error="timeout")
    assert value(metrics, "store_up") == 0
    tell(metrics, "store_recovered", seconds=3.0)
    assert value(metrics, "store_up") == 1


def test_a_task_is_timed_from_its_start_to_the_answer_of_the_store(metrics: Metrics, clock: ManualClock) -> None:
    for token, end in ((1, "partition_completed"), (2, "partition_retried"), (3, "partition_failed")):
        tell(metrics, "task_started", partition_id=token, token=token, attempt=1)
        clock.advance(2.0)
        tell(
            metrics,
            "task_finished",
            partition_id=token,
            token=token,
            outcome=Outcome.COMPLETED,
            seconds=2.0,
            processed=10,
            error_type=None,
        )
        clock.advance(1.0)
        tell(metrics, end, partition_id=token, token=token, processed=10, attempt=1, delay=1.0, error=None)
    assert value(metrics, "node_task_processor_duration_seconds_sum", worker_id="w1") == pytest.approx(6.0)
    assert value(metrics, "node_task_processing_duration_seconds_sum", worker_id="w1") == pytest.approx(9.0)
    assert value(metrics, "node_task_processing_duration_seconds_count") == 3
    assert value(metrics, "node_tasks_processed_total") == 1
    assert value(metrics, "node_tasks_processed_items_total") == 10
    # Given back from the prefetch: never started here, so there is nothing to time.
    tell(metrics, "partition_released", partition_id=9, token=9)
    assert value(metrics, "node_task_processing_duration_seconds_count") == 3


def test_a_task_whose_claim_is_gone_is_not_timed_to_an_answer(metrics: Metrics, clock: ManualClock) -> None:
    for token, end in ((1, "lease_lost"), (2, "write_refused")):
        tell(metrics, "task_started", partition_id=token, token=token, attempt=1)
        tell(metrics, end, partition_id=token, token=token, reason="expired", what="report")
        tell(metrics, "partition_released", partition_id=token, token=token)
    assert value(metrics, "node_task_processing_duration_seconds_count") == 0
    assert value(metrics, "lease_lost_total", reason="not_renewed") == 1
    assert value(metrics, "writes_refused_total", what="other") == 1
    tell(metrics, "lease_lost", token=3, reason=GONE)
    assert value(metrics, "lease_lost_total", reason="gone") == 1
    for what in REFUSED:
        tell(metrics, "write_refused", token=4, what=what)
        assert value(metrics, "writes_refused_total", what=what) == 1
    assert not metrics._started


def test_starts_without_an_end_are_not_remembered_for_ever(metrics: Metrics) -> None:
    for token in range(MAX_STARTED + 10):
        tell(metrics, "task_started", partition_id=1, token=token, attempt=1)
    assert len(metrics._started) == MAX_STARTED
    assert min(metrics._started) == 10  # the oldest went


def test_outcomes_and_kinds_of_errors(metrics: Metrics) -> None:
    def finish(outcome: Outcome, error: Optional[str]) -> None:
        tell(
            metrics,
            "task_finished",
            partition_id=1,
            token=1,
            outcome=outcome,
            seconds=0.1,
            processed=0,
            error_type=error,
        )

    finish(Outcome.ERROR, "ValueError")
    finish(Outcome.ERROR, "psycopg2.OperationalError")
    finish(Outcome.ERROR, "MyVeryOwnError")
    finish(Outcome.ERROR, "TaskInterrupted")  # by task_timeout
    finish(Outcome.PERMANENT, "PermanentError")
    finish(Outcome.RELEASED, "TaskInterrupted")
    finish(Outcome.LOST, None)
    assert value(metrics, "partition_attempts_total", outcome="error") == 4
    assert value(metrics, "partition_attempts_total", outcome="permanent") == 1
    assert value(metrics, "partition_attempts_total", outcome="released") == 1
    assert value(metrics, "partition_attempts_total", outcome="lost") == 1
    errors = {label: value(metrics, "node_tasks_errors_total", error_type=label) for label in ERROR_LABELS}
    counted = {label: n for label, n in errors.items() if n}
    assert counted == {"value": 1, "database": 1, "other": 1, "timeout": 1, "permanent": 1}


class Special(ConnectionResetError):
    """A user's class: known by what it derives from."""


@pytest.mark.parametrize(
    "error, label",
    [
        (ValueError, "value"),
        (ValueError("x"), "value"),
        ("builtins.KeyError", "lookup"),
        ("TimeoutError", "timeout"),
        (Special(), "connection"),
        (Special, "connection"),
        ("Special", "other"),
        (PermanentError("x"), "permanent"),
        ("redis.exceptions.ConnectionError", "connection"),
        (None, "other"),
        ("", "other"),
        (7, "other"),
        (Exception(), "other"),
        ("x" * 10000, "other"),
    ],
)
def test_error_types_come_from_a_fixed_set(error: Any, label: str) -> None:
    assert error_type(error) == label
    assert label in ERROR_LABELS


def test_the_breaker_shows_its_state_and_counts_its_trips(metrics: Metrics, view: View) -> None:
    labels = {"worker_id": "w1", "breaker_name": "process_breaker"}
    for state, number in BREAKER_STATES.items():
        view.state = _with(view.state, breaker=state)
        assert value(metrics, "node_circuit_breaker_state", coordinator="orders", **labels) == number
    view.state = _with(view.state, breaker="half-open")
    assert value(metrics, "node_circuit_breaker_state") == 1
    view.state = _with(view.state, breaker=None)
    assert value(metrics, "node_circuit_breaker_state") is None
    for state in ("open", "half_open", "open", "half_open", "closed"):
        tell(metrics, "breaker_changed", state=state, previous="", reason="")
    assert value(metrics, "node_circuit_breaker_tripped_total", **labels) == 2


def _with(health: Health, **changes: Any) -> Health:
    return attr.evolve(health, **changes)


def test_gauges_come_from_the_coordinators_health(metrics: Metrics) -> None:
    names = (
        "node_task_window_size",
        "node_tasks_active_processing",
        "node_tasks_prefetched",
        "node_tasks_hung",
        "node_task_queue_active_tasks",
        "paused",
    )
    assert [value(metrics, name) for name in names] == [8, 5, 2, 1, 2, 1]


def test_http_requests_are_counted_by_route_and_code(metrics: Metrics) -> None:
    metrics.http_request("/health", 200)
    metrics.http_request("/health", 503)
    metrics.http_request("/health", 503)
    assert value(metrics, "http_requests_total", coordinator="orders", route="/health", code="503") == 2
    assert value(metrics, "http_requests_total", route="/health", code="200") == 1


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {
            "token": [],
            "outcome": [],
            "seconds": "long",
            "processed": None,
            "created": object(),
            "lateness": float("nan"),
        },
        {"token": 1, "outcome": "C", "seconds": float("inf"), "processed": 10**400, "created": -5, "ok": 1},
        {"token": 1, "outcome": Outcome.ERROR, "seconds": -1.0, "processed": True, "created": True, "state": object()},
    ],
)
def test_no_event_however_odd_raises_or_breaks_the_scrape(metrics: Metrics, facts: Dict[str, Any]) -> None:
    for kind in EVENT_KINDS:
        getattr(metrics, "on_" + kind)(Event(kind, "orders", "w1", 1.0, facts))
        getattr(metrics, "on_" + kind)(None)
    for name, (_, labels) in shown(metrics).items():
        assert labels == {{**ORIGINAL, **OURS}[name][1]}
    for family in metrics.registry.collect():
        for sample in family.samples:
            signed = sample.name in (P + "planned_upper_bound", P + "completed_watermark")
            assert (signed or sample.value >= 0) and sample.value != float("inf"), sample


def test_two_coordinators_in_one_process_do_not_meet(clock: ManualClock) -> None:
    first, second = Metrics("a", "w1", clock), Metrics("b", "w2", clock)
    tell(first, "lease_lost", token=1, reason=GONE)
    assert value(first, "lease_lost_total", coordinator="a", reason="gone") == 1
    assert value(second, "lease_lost_total", coordinator="b", reason="gone") == 0
    assert isinstance(first.registry, CollectorRegistry) and first.registry is not second.registry


def test_label_values_are_escaped(clock: ManualClock) -> None:
    body = Metrics("orders", 'w"1\n\\', clock).exposition()[0]
    assert b'elk_coordinator_is_leader{node_id="w\\"1\\n\\\\"} 0.0' in body


@pytest.fixture
def restless() -> Iterator[None]:
    """Let threads switch as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_counts_from_many_threads_are_exact_while_scraped(metrics: Metrics, restless: None) -> None:
    done = threading.Event()

    def count() -> None:
        for token in range(2000):
            tell(metrics, "partition_completed", partition_id=1, token=token, processed=2)

    def scrape() -> None:
        while not done.is_set():
            metrics.exposition()

    threads = [threading.Thread(target=count) for _ in range(4)]
    scraper = threading.Thread(target=scrape)
    for thread in [*threads, scraper]:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    scraper.join()
    assert value(metrics, "node_tasks_processed_total") == 8000
    assert value(metrics, "node_tasks_processed_items_total") == 16000


def test_an_applications_multiprocess_directory_stays_empty(tmp_path: pathlib.Path) -> None:
    script = textwrap.dedent("""
        import os
        from elk_coordinator.observability.metrics import Metrics
        from elk_coordinator.protocols import Event
        from elk_coordinator.runtime.clock import Clock
        metrics = Metrics("orders", "w1", Clock())
        metrics.on_partition_completed(Event("partition_completed", "orders", "w1", 1.0, {"token": 1, "processed": 7}))
        text = metrics.exposition()[0].decode()
        assert 'elk_coordinator_node_tasks_processed_items_total{worker_id="w1"} 7.0' in text, text
        assert 'elk_coordinator_is_leader{node_id="w1"} 0.0' in text  # no label pid
        # Beside the application's own, in either kind of registry it may have.
        from prometheus_client import REGISTRY, CollectorRegistry, Counter, generate_latest, multiprocess
        from elk_coordinator.observability import merged
        for registry in (REGISTRY, CollectorRegistry()):
            merged.register(metrics, registry)
            shown = generate_latest(registry).decode()
            assert 'items_total{coordinator="orders",worker_id="w1"} 7.0' in shown, shown
        assert os.listdir(os.environ["PROMETHEUS_MULTIPROC_DIR"]) == []
        multiprocess.MultiProcessCollector(registry)
        Counter("own", "The application's.").inc()
        shown = generate_latest(registry).decode()
        assert "own_total 1.0" in shown, shown
        assert shown.count('items_total{coordinator="orders",worker_id="w1"} 7.0') == 1, shown
        print("fine")
    """)
    env = dict(os.environ, PROMETHEUS_MULTIPROC_DIR=str(tmp_path), PYTHONPATH=str(ROOT))
    run = subprocess.run(
        [sys.executable, "-c", script], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60
    )
    assert (run.returncode, run.stdout.decode().strip()) == (0, "fine")


def test_names_follow_the_conventions_but_for_the_two_inherited_ones() -> None:
    inherited = {"partitions_total", "active_workers_count"}
    for family in FAMILIES:
        if family.name in inherited:
            continue
        assert family.name.endswith("_total") == (family.kind == "counter"), family.name
        assert not family.name.endswith(("_count", "_sum", "_bucket", "_created")), family.name
        assert family.kind != "histogram" or family.name.endswith("_seconds"), family.name
        assert list(family.buckets) == sorted(set(family.buckets)), family.name


#: What a label may be called; each comes from a bounded set, a namespace, or a worker.
LABELS = {
    "coordinator", "worker_id", "node_id", "version", "python_version", "os_type", "error_type", "breaker_name",
    "status", "outcome", "route", "code", "priority", "state", "op", "reason", "what", "kind",
}  # fmt: skip


def test_families_use_base_units_timestamps_and_few_labels() -> None:
    for family in FAMILIES:
        assert set(family.labels) <= LABELS, family.name
        assert "le" not in family.labels and len(family.labels) <= 4, family.name
        for wrong in ("_ms", "millis", "minutes", "_age", "_mb", "_kb", "percent"):
            assert wrong not in family.name, family.name
        if "timestamp" in family.name:
            assert family.name.endswith("_timestamp_seconds") and family.kind == "gauge", family.name
        if family.kind == "histogram":
            assert family.buckets[-1] in (10.0, 60.0, 3600.0), family.name
        assert family.help.endswith(".") and "\n" not in family.help, family.name
        assert family.kind == "gauge" or not family.leader_only, family.name


def test_the_documentation_names_every_family_and_no_other() -> None:
    text = (ROOT / "docs" / "metrics.rst").read_text(encoding="utf-8")
    rows = {}
    for row in re.finditer(r"^   \* - ``(\w+)``\n     - (\w+)\n     - (.*)\n     - (.*)\n", text, re.M):
        assert row.group(1) not in rows, row.group(1)
        rows[row.group(1)] = row.groups()[1:]
    assert list(rows) == [family.name for family in FAMILIES]
    for family in FAMILIES:
        kind, labels, when = rows[family.name]
        assert kind == family.kind, family.name
        assert re.findall(r"``(\w+)``", labels) == list(family.labels), family.name
        assert ("leader" in when) == family.leader_only, family.name


def test_workers_are_counted_by_state_and_every_state_is_shown(metrics: Metrics, view: View) -> None:
    counts = {state: value(metrics, "workers", state=state) for state in WORKER_STATES}
    assert counts == {"stopping": 1, "starting": 2, "breaker_open": 1, "busy": 1, "idle": 1}
    assert worker_state({"state": "stopped"}) == "stopping"
    view.seen = attr.evolve(view.seen, workers=[])
    assert {value(metrics, "workers", state=state) for state in WORKER_STATES} == {0}


def test_the_survey_is_shown_and_what_it_does_not_know_is_absent(metrics: Metrics, view: View) -> None:
    assert value(metrics, "partitions_pending", priority="5") == 1
    assert value(metrics, "completed_watermark") == -700
    assert value(metrics, "planned_upper_bound") == -5
    assert value(metrics, "gap_items") == 50
    view.seen = Survey()
    unknown = ("backlog_items", "completed_watermark", "estimated_completion_timestamp_seconds")
    for name in (*unknown, "gaps", "archive_bytes", "commands_queued"):
        assert value(metrics, name) is None


def test_round_trips_to_the_store_are_timed_by_operation_and_failures_counted_by_kind(metrics: Metrics) -> None:
    class TimeoutError(Exception):
        """As the driver calls its own."""

    late, away = StoreUnavailable("late"), StoreUnavailable("away")
    late.__cause__, away.__cause__ = TimeoutError(), ConnectionError()
    metrics.store_answered("work", 0.02, None)
    metrics.store_answered("heartbeat", 0.02, None)
    for error in (late, away, away, StoreError("no")):
        metrics.store_answered("work", 5.0, error)
    assert value(metrics, "store_op_duration_seconds_count", op="work") == 1
    assert value(metrics, "store_op_duration_seconds_bucket", op="heartbeat", le="0.025") == 1
    assert [value(metrics, "store_errors_total", kind=k) for k in ("timeout", "unavailable", "error")] == [1, 2, 1]


def test_what_this_worker_is_and_did_last(metrics: Metrics, view: View) -> None:
    assert value(metrics, "config_fingerprint", worker_id="w1") == 4000000000
    assert value(metrics, "last_success_timestamp_seconds") is None
    begin(metrics)
    assert value(metrics, "last_success_timestamp_seconds", worker_id="w1") == 1.7e9
    assert value(metrics, "store_clock_offset_seconds") == 0.25
    tell(metrics, "heartbeat", ok=False, seconds=0.01, lateness=0.0, held=0, error="x", clock_offset=None)
    assert value(metrics, "store_clock_offset_seconds") == 0.25
    tell(metrics, "reported", count=3, seconds=0.2)
    assert value(metrics, "report_duration_seconds_count") == 1
    assert value(metrics, "stopping") == 0
    view.state = _with(view.state, state="draining")
    assert value(metrics, "stopping") == 1


def test_equal_settings_have_equal_numbers_and_others_do_not() -> None:
    settings = {"lease": 30.0, "strategy": "hash", "archive_keep": None}
    assert fingerprint(settings) == fingerprint(dict(reversed(list(settings.items())))) == 4011856180
    assert fingerprint(dict(settings, lease=31.0)) != fingerprint(settings)
    assert fingerprint(dict(settings, lease=30)) == fingerprint(settings), "seconds given as an int"


def test_an_applications_registry_shows_all_coordinators_each_family_once(clock: ManualClock) -> None:
    first, second = Metrics("a", "w1", clock), Metrics("b", "w2", clock)
    first.attach(View())
    second.attach(View())
    for registry in (CollectorRegistry(), CollectorRegistry(auto_describe=True)):
        Counter("orders", "An application's own.", registry=registry)
        for metrics in (first, second, second):
            merged.register(metrics, registry)
        text = generate_latest(registry).decode()
        kinds = [line for line in text.splitlines() if line.startswith("# TYPE ")]
        assert len(kinds) == len(set(kinds)) and "orders_total 0.0" in text
        series = [line.rpartition(" ")[0] for line in text.splitlines() if line.startswith(P)]
        assert len(series) == len(set(series))
        assert all('coordinator="a"' in line or 'coordinator="b"' in line for line in series)
        assert 'elk_coordinator_partitions_total{coordinator="b"} 10.0' in text
        merged.unregister(first, registry)
        merged.unregister(first, registry)
        text = generate_latest(registry).decode()
        assert 'coordinator="a"' not in text and 'coordinator="b"' in text
        merged.unregister(second, registry)
        assert P not in generate_latest(registry).decode()
    with pytest.raises(ConfigError, match="registry: must be a CollectorRegistry"):
        merged.register(first, "prometheus")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_shows_nothing_of_its_parents_coordinator_and_waits_for_no_lock(clock: ManualClock) -> None:
    registry = CollectorRegistry()
    inherited = Metrics("orders", "w1", clock)
    merged.register(inherited, registry)
    reading, writing = os.pipe()
    with inherited._lock, merged._lock:  # as threads of the parent may hold them at the moment of the fork
        child = os.fork()
        if child == 0:
            try:
                signal.alarm(10)
                merged.register(Metrics("own", "w2", clock), registry)
                os.write(writing, generate_latest(registry)[:60000])
            finally:
                os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read().decode()
    assert os.waitpid(child, 0)[1] == 0, "it hung"
    assert 'coordinator="own"' in text and 'coordinator="orders"' not in text
    assert 'coordinator="orders"' in generate_latest(registry).decode()
