"""How fast partitions are created, through the public call and by a leader that asks its planner."""

from __future__ import annotations

import time
from typing import List

from benchmarks.figures import Section
from benchmarks.harness import Bench, create, until


def run(bench: Bench) -> Section:
    section = Section("planning", "Creating partitions")
    count = 2000 if bench.scale == "quick" else 50000
    server: List[float] = []

    def public() -> float:
        with bench.space() as strategy:
            cpu, began = bench.server_cpu(), time.perf_counter()
            create(strategy, 1, count)
            took = time.perf_counter() - began
            server.append((bench.server_cpu() - cpu) * 1e6 / count)
        return count / took

    def leader() -> float:
        # Nothing is processed: one partition sleeps in the only slot while the leader fills the backlog.
        options = {"max_pending_partitions": count, "worker_partition_multiple": count}
        with bench.space() as strategy:
            with bench.workers(
                strategy.namespace, 1, window=1, work=600.0, planned=count * 100, options=options
            ) as crew:
                crew[0].say("go")
                until(lambda: strategy.get_partition_stats().total, "the first plan", poll=0.001)
                began, first = time.perf_counter(), strategy.get_partition_stats().total
                until(lambda: strategy.get_partition_stats().pending >= count * 0.9, "the backlog to be full")
                return (strategy.get_partition_stats().total - first) / (time.perf_counter() - began)

    found = bench.rounds({"public": public, "leader": leader})
    section.add("create_partitions_if_not_exist, batches of 500", found["public"], "partitions/s", ">= 100,000")
    section.add("by a leader's rounds", found["leader"], "partitions/s", ">= 100,000",
                note="while it looks on every 5 ms")  # fmt: skip
    section.add("server CPU per partition created", server, "us")
    return section
