"""The expressions that several dashboards share: which series are meant, rates, quantiles.

The families kept from the system before carry ``worker_id`` but no ``coordinator``. Their series are held to the chosen
coordinators by what stands beside them on the same target: ``and`` is a set operation, so that a process with several
coordinators is no error.
"""

from __future__ import annotations

from monitoring.grafana.model import Text, Variable

CHOSEN = 'job=~"$job", coordinator=~"$coordinator"'
INTERVAL = "[$__rate_interval]"


def ours(name: str, more: str = "") -> str:
    """Select a family that has the label coordinator."""
    return "elk_coordinator_%s{%s}" % (name, ", ".join(filter(None, (CHOSEN, more))))


def rate(name: str, more: str = "") -> str:
    """Return the rate of such a family."""
    return "rate(%s%s)" % (ours(name, more), INTERVAL)


def rise(name: str, more: str = "") -> str:
    """Return by how much a counter rose between two points of the graph."""
    return "increase(%s%s)" % (ours(name, more), INTERVAL)


#: Every worker of the chosen coordinators: labels coordinator and worker_id, always there.
WORKERS = ours("node_task_window_size")
#: The chosen workers of the worker dashboard.
CHOSEN_WORKERS = ours("node_task_window_size", 'worker_id=~"$worker"')


def kept(name: str, more: str = "") -> str:
    """Select a gauge with worker_id, but without coordinator."""
    labels = ", ".join(filter(None, ('job=~"$job"', more)))
    return "(elk_coordinator_%s{%s} and on (job, instance, worker_id) %s)" % (name, labels, WORKERS)


def kept_rate(name: str, more: str = "") -> str:
    """Return the rate of such a counter."""
    labels = ", ".join(filter(None, ('job=~"$job"', more)))
    return "(rate(elk_coordinator_%s{%s}%s) and on (job, instance, worker_id) %s)" % (name, labels, INTERVAL, WORKERS)


def quantile(q: float, rates: str, by: str = "") -> str:
    """Return a quantile of a histogram's bucket rates."""
    return "histogram_quantile(%s, sum by (%s) (%s))" % (q, ", ".join(filter(None, (by, "le"))), rates)


def named(expr: str) -> str:
    """Give series without worker_id the one of the worker they come from, and keep those of the chosen workers."""
    return "%s * on (job, instance, coordinator) group_left (worker_id) (%s >= bool 0)" % (expr, CHOSEN_WORKERS)


def outcome_ratio(bad: str, window: str) -> str:
    """Return which part of the attempts that ended had one of these outcomes; nothing when none ended."""
    of = 'increase(elk_coordinator_partition_attempts_total{%s, outcome=~"%s"}[%s])'
    failed = "sum by (coordinator) (%s)" % (of % (CHOSEN, bad, window))
    ended = "(sum by (coordinator) (%s) > 0)" % (of % (CHOSEN, "completed|" + bad, window))
    return "(%s / %s)" % (failed, ended)


SOURCE = Variable("datasource", Text("Data source", "数据源"))
JOB = Variable("job", Text("Job", "采集任务"), "label_values(elk_coordinator_build_info, job)")
COORDINATOR = Variable(
    "coordinator", Text("Coordinator", "协调器"), 'label_values(elk_coordinator_build_info{job=~"$job"}, coordinator)'
)
WORKER = Variable(
    "worker",
    Text("Worker", "工作节点"),
    "label_values(%s, worker_id)" % WORKERS,
)
COMMON = (SOURCE, JOB, COORDINATOR)
