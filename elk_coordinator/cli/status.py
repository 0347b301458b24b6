"""``elk status``: the namespace at one glance."""

from __future__ import annotations

import argparse
from typing import Any, Dict, List, Sequence

import attr

from elk_coordinator.cli.common import (
    OK,
    Command,
    namespace_of,
    open_strategy,
    print_json,
    redis_url_of,
    seconds,
    table,
)
from elk_coordinator.model import PartitionStats, WorkerInfo
from elk_coordinator.store.connect import mask


def configure(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def run(args: argparse.Namespace) -> int:
    """Print counts, leader and workers."""
    with open_strategy(args) as strategy:
        stats: PartitionStats = strategy.get_partition_stats()
        workers: Sequence[WorkerInfo] = sorted(strategy.workers(), key=lambda worker: worker.worker_id)
        leader = strategy.leader()
    namespace, url = namespace_of(args), mask(redis_url_of(args))
    if args.json:
        document: Dict[str, Any] = {
            "namespace": namespace,
            "redis": url,
            "leader": None
            if leader is None
            else {"worker_id": leader[0], "term": leader[1], "lease_remaining": round(leader[2], 3)},
            "workers": [attr.asdict(worker) for worker in workers],
            "partitions": attr.asdict(stats),
        }
        print_json(document)
        return OK
    print("namespace   %s on %s" % (namespace, url))
    if leader is None:
        print("leader      none")
    else:
        print("leader      %s (term %d, lease for %s)" % (leader[0], leader[1], seconds(leader[2])))
    print("partitions  %s" % describe(stats))
    if stats.last_allocated_id is not None:
        print("planned     up to ID %d" % stats.last_allocated_id)
    print("workers     %d" % len(workers))
    for line in table(worker_rows(workers), indent="  "):
        print(line)
    return OK


def describe(stats: PartitionStats) -> str:
    """Return the counts as one line."""
    if not stats.total:
        return "none planned"
    names = ("pending", "claimed", "running", "completed", "failed")
    parts = ["{:,} {}".format(getattr(stats, name), name) for name in names]
    return "{:,}: {} ({:.1f} % done)".format(stats.total, ", ".join(parts), 100 * stats.completion_rate)


def worker_rows(workers: Sequence[WorkerInfo]) -> List[List[str]]:
    """Return one row per worker: name, load, where its metrics are, how long it counts as alive."""
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
                str(info.get("http") or ""),
                "counts as alive for %s" % seconds(max(0.0, worker.remaining)),
            ]
        )
    return rows


COMMAND = Command(
    name="status",
    help="show the leader, the live workers and the partition counts of a namespace",
    configure=configure,
    run=run,
)
