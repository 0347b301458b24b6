"""``elk status``: the namespace at one glance."""

from __future__ import annotations

import argparse
from typing import Any, Dict, List, Mapping, Sequence

import attr

from elk_coordinator.cli.common import OK, Command, count, open_admin, print_json, redis_url_of, seconds, table
from elk_coordinator.model import PartitionStats, WorkerInfo
from elk_coordinator.partition.commands import CommandStatus
from elk_coordinator.store.connect import mask

#: Commands shown, the newest ones.
SHOWN_COMMANDS = 5


def configure(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def run(args: argparse.Namespace) -> int:
    """Print counts, leader, workers and what operators asked for."""
    with open_admin(args) as admin:
        state = admin.status()
        workers: Sequence[WorkerInfo] = sorted(admin.workers(), key=lambda worker: worker.worker_id)
        commands = admin.commands(SHOWN_COMMANDS)
        now = admin.strategy.store.now() if commands else 0.0
    url = mask(redis_url_of(args))
    if args.json:
        shown: Dict[str, Any] = dict(
            state,
            redis=url,
            workers=[attr.asdict(worker) for worker in workers],
            newest_commands=[command.to_dict() for command in commands],
        )
        print_json(shown)
        return OK
    leader, stats = state["leader"], PartitionStats(**state["partitions"])
    print("namespace   %s (%s) on %s" % (state["namespace"], state["strategy"], url))
    if state["paused"]:
        print("paused      nothing is claimed until 'elk resume'")
    if leader is None:
        print("leader      none")
    else:
        values = (leader["worker_id"], leader["term"], seconds(max(0.0, leader["lease_remaining"])))
        print("leader      %s (term %d, lease for %s)" % values)
    print("partitions  %s" % describe(stats))
    if stats.last_allocated_id is not None:
        print("planned     up to ID %d" % stats.last_allocated_id)
    print("commands    %s" % waiting(state["commands"], leader is not None))
    for line in table([command_row(command, now) for command in commands]):
        print(line)
    tripped = [worker for worker in workers if worker.info.get("breaker") not in (None, "closed")]
    breakers = ", the circuit breaker of %s is not closed" % count(len(tripped), "worker") if tripped else ""
    print("workers     %d%s" % (len(workers), breakers))
    for line in table(worker_rows(workers)):
        print(line)
    return OK


def waiting(commands: int, led: bool) -> str:
    """Return how many commands wait, and that nobody is there to carry them out."""
    if not commands:
        return "none waiting"
    return "%d waiting%s" % (commands, "" if led else "; they are carried out when there is a leader")


def command_row(command: CommandStatus, now: float) -> List[str]:
    """Return one command as a row: what, how far, by whom, since when."""
    return [
        command.kind,
        command.state,
        "%d changed" % command.done if command.state != "queued" else "",
        "by %s" % command.by,
        "%s ago" % seconds(max(0.0, now - command.submitted_at)),
        command.error.splitlines()[0][:200] if command.error.strip() else "",
    ]


def describe(stats: PartitionStats) -> str:
    """Return the counts as one line."""
    if not stats.total:
        return "none planned"
    names = ("pending", "claimed", "running", "completed", "failed")
    parts = ["{:,} {}".format(getattr(stats, name), name) for name in names]
    return "{:,}: {} ({:.1f} % done)".format(stats.total, ", ".join(parts), 100 * stats.completion_rate)


def why_tripped(info: Mapping[str, Any]) -> str:
    """Return why a worker's circuit breaker is not closed, as the worker says; "" when it is."""
    if info.get("breaker") in (None, "closed") or not info.get("breaker_reason"):
        return ""
    # What workers wrote is not to steer the terminal of whoever reads it.
    reason = "".join(sign if sign.isprintable() else " " for sign in str(info["breaker_reason"]))
    return "%s trips so far: %s" % (info.get("breaker_trips", "?"), " ".join(reason.split())[:200])


def worker_rows(workers: Sequence[WorkerInfo]) -> List[List[str]]:
    """Return one row per worker: name, load, breaker, metrics, how long it counts as alive, why the breaker tripped."""
    rows = []
    for worker in workers:
        info = worker.info
        load = ""
        if info.get("window") is not None:
            load = "%s of %s running" % (info.get("in_flight", "?"), info["window"])
        rows.append(
            [
                worker.worker_id,
                str(info.get("state", "")),
                load,
                "breaker %s" % info["breaker"] if info.get("breaker") else "",
                str(info.get("http") or ""),
                "counts as alive for %s" % seconds(max(0.0, worker.remaining)),
                why_tripped(info),
            ]
        )
    return rows


COMMAND = Command(
    name="status",
    help="show the leader, the live workers, the partition counts and the newest commands of a namespace",
    configure=configure,
    run=run,
)
