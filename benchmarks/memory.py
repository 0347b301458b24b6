"""Bytes on the server: per partition in each state, per completed one in the archive, and per worker."""

from __future__ import annotations

import random
import time
from typing import Any, Iterator, List

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
    section.add("pending", pending, "B", "<= 200", note="of %s partitions" % "{:,}".format(count))
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
    curve, levels, rates = Curve("window 64"), bench.sizes["completed"], {}
    for level in levels:
        rates[level] = list(_rates(bench, level, seconds))
        curve.add(level, rates[level])
        section.add("%s completed" % "{:,}".format(level), rates[level], "partitions/s")
    if len(levels) > 1:
        ratio = [a / b for a, b in zip(rates[levels[-1]], rates[levels[0]])]
        name = "{:,} against {:,} completed".format(levels[-1], levels[0])
        section.add(name, ratio, "x", ">= 0.9", note="one after the other, not alternating")
    section.pictures.append(
        Picture("bench-completed", "Rate against what is completed", "completed partitions", "partitions/s", [curve])
    )
    return section


def _rates(bench: Bench, level: int, seconds: float) -> Iterator[float]:
    with bench.space() as strategy:
        first = plant(bench, strategy, level) + 1
        for _ in range(bench.sizes["slow"]):
            backlog = int(50_000 * (seconds + min(0.3, seconds)))
            create(strategy, first, backlog)
            first += backlog
            with bench.workers(strategy.namespace, 1, window=64, options={}) as crew:
                yield steady(strategy, seconds, crew)
