"""Bytes on the server: per partition in each state, per completed one in the archive, and per worker."""

from __future__ import annotations

import contextlib
import random
import time
from typing import Any, List

from benchmarks.figures import Curve, Picture, Section, percentile
from benchmarks.harness import Bench, create, steady
from benchmarks.latency import beat
from benchmarks.planted import plant, simulated_done
from elk_coordinator import RedisDataStore, StrategyType, create_strategy
from elk_coordinator.model import Outcome, Report


def per_state(bench: Bench) -> Section:
    """Pending, then held, then completed ones."""
    section, count = Section("memory", "Memory of the server"), bench.sizes["memory"]
    held_count = min(count, 20000)
    pending, held, done, worker, connection = [], [], [], [], []
    for _ in range(1 if bench.scale == "full" else bench.sizes["slow"]):
        with bench.space() as strategy:
            begin = bench.memory()
            create(strategy, 1, count)
            full = bench.memory()
            pending.append((full - begin) / count)
            granted: List[Any] = []
            while len(granted) < held_count:
                granted += strategy.claim_partitions("host-1.example.com-12345-abcdef", 500)
            held.append(pending[-1] + (bench.memory() - full) / held_count)
            before = bench.memory()
            for start in range(0, held_count, 500):
                strategy.report_partitions(
                    "host-1.example.com-12345-abcdef",
                    [Report(p.partition_id, p.fencing_token, Outcome.COMPLETED, 10)
                     for p in granted[start : start + 500]],
                )  # fmt: skip
            done.append(held[-1] + (bench.memory() - before) / held_count)
        with bench.space() as strategy:
            fleet = bench.sizes["fleet"]
            strategy.get_partition_stats()
            stores = [RedisDataStore.from_url(bench.server.url, timeout=20.0) for _ in range(fleet)]
            crew = [create_strategy(StrategyType.HASH, strategy.namespace, store) for store in stores]
            # The first one brings the scripts and keys with it.
            beat(crew[0], "host-0.example.com-10000-abcdef")
            before, keys = _whole(bench), _registry(bench, strategy)
            for i, one in enumerate(crew[1:], 1):
                beat(one, "host-%d.example.com-%d-abcdef" % (i, 10000 + i))
            worker.append((_registry(bench, strategy) - keys) / (fleet - 1))
            connection.append((_whole(bench) - before) / (fleet - 1) - worker[-1])
            for one in crew:
                one.stop()
            for store in stores:
                store.close()
    note = "of {:,}; tables double at powers of two, so it depends a little on their number".format(count)
    section.add("pending", pending, "B", "<= 200", note=note)
    section.add("held (claimed or running)", held, "B")
    section.add("completed less than ten minutes ago", done, "B")
    section.add("a worker's registration", worker, "B")
    section.add("a connection (each worker has two or three)", connection, "B")
    return section


def _whole(bench: Bench) -> int:
    return int(bench.raw.info("memory")["used_memory"])  # type: ignore[index]


def _registry(bench: Bench, strategy: Any) -> int:
    keys = [strategy.store.keys[name] for name in ("workers", "worker_info", "streams")]
    return sum(int(bench.raw.memory_usage(key, samples=0) or 0) for key in keys)  # type: ignore[arg-type]


def archive(bench: Bench) -> Section:
    """What the archive makes of completions as a fleet leaves them, and how long it takes to find one there."""
    section = Section("archive", "The archive")
    count = 4000 if bench.scale == "quick" else 50000
    size, speed, p50, p99 = [], [], [], []
    for _ in range(bench.sizes["slow"]):
        with bench.space() as strategy:
            ids = simulated_done(bench, strategy, count)
            began = time.perf_counter()
            term = strategy.store.acquire_lock("leader", "bench", 600.0, 0)
            for page in sorted({i // 500 for i in ids}):
                strategy.archive_page(term, page, 2**62)
            speed.append(count / (time.perf_counter() - began))
            names = [strategy.store.keys[name] for name in ("archive", "archive_index")]  # type: ignore[attr-defined]
            size.append(sum(bench.raw.memory_usage(name, samples=0) or 0 for name in names) / count)
            took = []
            for i in random.Random(bench.seed).sample(ids, 200):
                began = time.perf_counter()
                strategy.get_partition(i)
                took.append((time.perf_counter() - began) * 1000)
            p50.append(percentile(took, 0.5))
            p99.append(percentile(took, 0.99))
    section.add("per archived partition", size, "B", "<= 5",
                note="{:,}: bounds, status, worker, attempt, deliveries, processed, times".format(count))  # fmt: skip
    section.add("archiving", speed, "partitions/s")
    section.add("finding one, p50", p50, "ms")
    section.add("finding one, p99", p99, "ms", note="of random ones; a chunk of 2,000 is fetched and read")
    return section


def completed(bench: Bench) -> Section:
    """The rate at which partitions are drained while ever more completed ones lie in the archive."""
    section, seconds = Section("completed", "Drain against the number of completed partitions"), bench.sizes["seconds"]
    curve, levels = Curve("window 64"), bench.sizes["completed"]
    with contextlib.ExitStack() as stack:
        cases = {level: Planted(bench, stack.enter_context(bench.space()), level, seconds) for level in levels}
        found = bench.rounds({str(level): case for level, case in cases.items()}, slow=True)
    rates = {level: found[str(level)] for level in levels}
    for level in levels:
        curve.add(level, rates[level])
        section.add("{:,} completed".format(level), rates[level], "partitions/s")
    if len(levels) > 1:
        name = "{:,} against {:,} completed".format(levels[-1], levels[0])
        section.add(name, [a / b for a, b in zip(rates[levels[-1]], rates[levels[0]])], "x", ">= 0.9")
        cost = [a / b for a, b in zip(cases[levels[-1]].server, cases[levels[0]].server)]
        section.add(name + ", server CPU per partition", cost, "x")
    section.pictures.append(
        Picture("bench-completed", "Rate against what is completed", "completed partitions", "partitions/s", [curve])
    )
    return section


class Planted:
    """Drains in a namespace where so many partitions were completed before."""

    def __init__(self, bench: Bench, strategy: Any, level: int, seconds: float) -> None:
        self._bench, self._strategy, self._seconds = bench, strategy, seconds
        self._next = plant(bench, strategy, level) + 1
        #: Microseconds of the server per partition, of each round.
        self.server: List[float] = []

    def __call__(self) -> float:
        bench, strategy = self._bench, self._strategy
        backlog = int(50_000 * (self._seconds + min(0.3, self._seconds)))
        create(strategy, self._next, backlog)
        self._next += backlog
        with bench.workers(strategy.namespace, 1, window=64, options={}) as crew:
            cpu, before = bench.server_cpu(), strategy.get_partition_stats().completed
            rate = steady(strategy, self._seconds, crew)
            done = strategy.get_partition_stats().completed - before
            self.server.append((bench.server_cpu() - cpu) * 1e6 / done)
        return rate
