"""What every question needs: a real server, worker processes, alternating rounds, and what the run was made on."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pathlib
import platform
import random
import re
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, Sequence

import redis

import elk_coordinator
from elk_coordinator import CreatePartition, RedisDataStore, StrategyType, create_strategy
from elk_coordinator.partition.strategy import PartitionStrategy
from elk_coordinator.testing import EmbeddedServer

ROOT = pathlib.Path(__file__).resolve().parents[1]
BATCH = 500
WAIT = 60.0

#: How much each scale does: seconds of one measurement, rounds (and of slow ones), largest backlog.
SCALES: Dict[str, Dict[str, Any]] = {
    "quick": {"seconds": 0.15, "rounds": 1, "slow": 1, "backlogs": [1000], "completed": [2000], "sleep": 0.3,
              "workers": [1, 3], "load": 0.5, "idle": 1.0, "memory": 2000, "fleet": 5},
    "usual": {"seconds": 0.6, "rounds": 5, "slow": 3, "backlogs": [1000, 10000, 100000], "completed": [20000, 200000],
              "sleep": 1.2, "workers": [1, 10, 100, 500], "load": 2.5, "idle": 15.0, "memory": 50000, "fleet": 200},
    "full": {"seconds": 1.0, "rounds": 5, "slow": 5, "backlogs": [1000, 10000, 100000, 1000000],
             "completed": [10**5, 10**6, 10**7], "sleep": 4.0, "workers": [1, 10, 100, 500], "load": 15.0,
             "idle": 60.0, "memory": 1000000, "fleet": 500},
}  # fmt: skip


class Process:
    """One worker process (``benchmarks/worker.py``): obeys words, answers with a line of JSON each."""

    def __init__(self, config: Dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", json.dumps(config)], cwd=str(ROOT), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def answer(self) -> Dict[str, Any]:
        """Read what it tells next."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("a worker of the benchmark ended with %s" % self.process.wait())
        return dict(json.loads(line.decode("utf-8")))

    def say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word.encode("ascii") + b"\n")
        self.process.stdin.flush()

    def ask(self, word: str) -> Dict[str, Any]:
        """Say a word and return what it answers."""
        self.say(word)
        return self.answer()

    def kill(self) -> None:
        self.process.kill()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class Bench:
    """One run: its server, scale, seed, and the namespaces it uses up."""

    def __init__(self, server: EmbeddedServer, scale: str, seed: int) -> None:
        self.server = server
        self.scale = scale
        self.seed = seed
        self.sizes = SCALES[scale]
        self.chance = random.Random(seed)
        self.store = RedisDataStore.from_url(server.url, timeout=20.0)
        self.raw = redis.Redis.from_url(server.url)
        self._names = ("bench-%d" % i for i in itertools.count())

    def close(self) -> None:
        self.store.close()
        self.raw.close()

    # -- rounds

    def rounds(self, variants: Dict[str, Callable[[], float]], slow: bool = False) -> Dict[str, List[float]]:
        """Measure the variants in turn, every round in another order; return what each gave."""
        found: Dict[str, List[float]] = {name: [] for name in variants}
        for _ in range(self.sizes["slow" if slow else "rounds"]):
            order = list(variants)
            self.chance.shuffle(order)
            for name in order:
                found[name].append(variants[name]())
        return found

    # -- namespaces

    def fresh(self) -> str:
        """Return the name of a namespace that nobody used."""
        return next(self._names)

    @contextlib.contextmanager
    def space(self, pending: int = 0, strategy: StrategyType = StrategyType.HASH) -> Iterator[PartitionStrategy]:
        """A namespace with so many pending partitions; everything on the server goes at the end."""
        made = create_strategy(strategy, self.fresh(), self.store, partition_lock_expiry=300.0)
        try:
            create(made, 1, pending)
            yield made
        finally:
            made.stop()
            self.raw.flushall()

    @contextlib.contextmanager
    def own_space(self) -> Iterator[PartitionStrategy]:
        """A fresh namespace beside others that are measured at the same time."""
        made = create_strategy(StrategyType.HASH, self.fresh(), self.store)
        try:
            yield made
        finally:
            made.stop()

    @contextlib.contextmanager
    def workers(self, namespace: str, count: int, **config: Any) -> Iterator[List[Process]]:
        """Worker processes that are ready to start."""
        config = dict(config, namespace=namespace, url=config.get("url", self.server.url))
        crew = [Process(dict(config, number=i)) for i in range(count)]
        try:
            for one in crew:
                one.answer()
            yield crew
        finally:
            for one in crew:
                one.close()

    # -- what the server did

    def server_cpu(self) -> float:
        """Return the CPU seconds the server has used."""
        info: Any = self.raw.info("cpu")
        return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])

    def memory(self) -> int:
        """Return the bytes of the data, without clients and buffers where the server tells them apart."""
        info: Any = self.raw.info("memory")
        return int(info["used_memory"]) - int(info.get("mem_clients_normal", 0))


def create(strategy: PartitionStrategy, first: int, count: int) -> None:
    """Create *count* partitions of ten IDs, from partition *first* on."""
    for start in range(first, first + count, BATCH):
        strategy.create_partitions_if_not_exist(
            [CreatePartition(i, i * 10, i * 10 + 9) for i in range(start, min(start + BATCH, first + count))]
        )


class Feeder:
    """Holds the number of pending partitions where it is while workers drain them."""

    def __init__(self, strategy: PartitionStrategy, level: int) -> None:
        self._strategy = strategy
        self._level = level
        self._next = level + 1
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bench-feeder", daemon=True)

    def __enter__(self) -> "Feeder":
        self._thread.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            missing = self._level - self._strategy.get_partition_stats().pending
            if missing > 0:
                create(self._strategy, self._next, missing)
                self._next += missing


def until(condition: Callable[[], Any], what: str, timeout: float = WAIT, poll: float = 0.005) -> float:
    """Wait until *condition*; return the seconds that took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > timeout:
            raise RuntimeError("waited %.0f s for %s" % (timeout, what))
        time.sleep(poll)
    return time.monotonic() - began


def steady(strategy: PartitionStrategy, seconds: float, crew: Sequence[Process] = ()) -> float:
    """Start the crew; return how many partitions it completes a second once all are at work."""
    for one in crew:
        one.ask("go")
    begin = strategy.get_partition_stats().completed
    until(lambda: strategy.get_partition_stats().completed > begin, "the first completion")
    time.sleep(min(0.3, seconds))
    first, at = strategy.get_partition_stats(), time.monotonic()
    last, end = first, at
    while end - at < seconds:
        time.sleep(min(0.05, seconds / 3))
        now = strategy.get_partition_stats()
        if now.pending == 0:
            # The end of the backlog is not what is asked about.
            break
        last, end = now, time.monotonic()
    if last is first:
        raise RuntimeError("the backlog was too short: %d done" % first.completed)
    return (last.completed - first.completed) / (end - at)


def machine(bench: Bench) -> Dict[str, Any]:
    """Return what the run was made on, and beside what."""
    cpu = ""
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
        cpu = found.group(1) if found else ""
    try:
        import hiredis

        parser = "hiredis %s" % hiredis.__version__
    except ImportError:
        parser = "no hiredis"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return {
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "cores": cores, "cpu": cpu,
        "system": platform.platform(), "load_before": round(load, 2), "busy": load > 0.5,
        "python": platform.python_version(), "elk_coordinator": elk_coordinator.__version__,
        "redis-py": redis.__version__, "parser": parser, "server": bench.server.label, "seed": bench.seed,
        "scale": bench.scale,
    }  # fmt: skip
