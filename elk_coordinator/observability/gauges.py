"""What a coordinator is asked when somebody scrapes: the present values of the gauges. Nothing here asks the store."""

from __future__ import annotations

import json
import zlib
from typing import Any, Callable, Dict, List, Mapping, Tuple

from elk_coordinator.model import PartitionStatus, WorkerInfo
from elk_coordinator.observability.families import BREAKER_STATES, WORKER_STATES, Labels
from elk_coordinator.protocols import DRAINING, FORKED, RUNNING, STOPPED, CoordinatorView

#: Values of the labels that are not fixed -> value of the series.
Series = Dict[Labels, Any]
Answer = Dict[str, Series]


def single(value: Any) -> Series:
    """Return the one series of a family, or none for None."""
    return {} if value is None else {(): value}


def fingerprint(settings: Mapping[str, Any]) -> int:
    """Return 32 bits of *settings*: equal settings have equal numbers, on every host and Python."""
    # 30 and 30.0 are one setting: from Python it may be an int, from the environment or a default it is a float.
    alike = {name: float(value) if type(value) is int else value for name, value in settings.items()}
    return zlib.crc32(json.dumps(alike, sort_keys=True).encode("ascii"))


def worker_state(info: Mapping[str, Any]) -> str:
    """Return the label of a worker by what it says of itself: the first of WORKER_STATES that fits."""
    state = info.get("state")
    if state in (DRAINING, STOPPED):
        return "stopping"
    if state != RUNNING:
        return "starting"
    if info.get("breaker") not in (None, "closed"):
        return "breaker_open"
    return "busy" if info.get("in_flight") else "idle"


def by_state(workers: List[WorkerInfo]) -> Series:
    """Return how many workers are in each state; the sum is the number of live workers."""
    out: Series = {(state,): 0 for state in WORKER_STATES}
    for worker in workers:
        out[(worker_state(worker.info),)] += 1
    return out


def _leading(view: CoordinatorView) -> Answer:
    return {"is_leader": {(): int(view.is_leader)}}


def _stats(view: CoordinatorView) -> Answer:
    stats = view.cached_stats()
    if stats is None:
        return {}
    return {
        "partitions_total": {(): stats.total},
        "partitions": {(status.value,): getattr(stats, status.value) for status in PartitionStatus},
        "planned_upper_bound": single(stats.last_allocated_id),
    }


def _workers(view: CoordinatorView) -> Answer:
    return {"active_workers_count": single(view.cached_workers())}


def _survey(view: CoordinatorView) -> Answer:
    survey = view.cached_survey()
    if survey is None:
        return {}
    out: Answer = {name: single(getattr(survey, name)) for name in _PLAIN}
    out["partitions_pending"] = {(label,): count for label, count in survey.pending.items()}
    out["workers"] = by_state(list(survey.workers))
    return out


#: Families whose only series is the field of the same name of a survey.
_PLAIN = (
    "backlog_items",
    "oldest_pending_timestamp_seconds",
    "completed_watermark",
    "gaps",
    "gap_items",
    "archive_partitions",
    "archive_bytes",
    "estimated_completion_timestamp_seconds",
    "commands_queued",
)


def _health(view: CoordinatorView) -> Answer:
    health = view.health()
    breaker = None if health.breaker is None else BREAKER_STATES.get(health.breaker)
    return {
        "leader_term": single(health.term),
        "node_task_queue_active_tasks": {(): health.prefetched},
        "node_task_window_size": {(): health.window_size},
        "node_tasks_active_processing": {(): health.in_flight},
        "node_tasks_prefetched": {(): health.prefetched},
        "node_tasks_hung": {(): health.hung},
        "node_circuit_breaker_state": single(breaker),
        "paused": {(): int(health.paused)},
        "stopping": {(): int(health.state in (DRAINING, STOPPED, FORKED))},
    }


#: Each is asked by itself: one bad answer must not cost the rest of the scrape.
QUESTIONS: Tuple[Callable[[CoordinatorView], Answer], ...] = (_leading, _health, _stats, _workers, _survey)
