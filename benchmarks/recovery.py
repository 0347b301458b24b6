"""How soon others take over, by default settings: a leader that stops, a leader and a worker that are killed."""

from __future__ import annotations

import concurrent.futures
import contextlib
from typing import Any, Callable, List

from benchmarks.figures import Section
from benchmarks.harness import Bench, until
from elk_coordinator import PartitionFilter, PartitionStatus
from elk_coordinator.partition.strategy import PartitionStrategy


def _leader(strategy: PartitionStrategy) -> str:
    return strategy.store.read_lock("leader")[0]


@contextlib.contextmanager
def _fleet(bench: Bench, strategy: PartitionStrategy, work: float) -> Any:
    """Two workers, either of which leads, with more work than they hold."""
    with bench.workers(strategy.namespace, 2, work=work, planned=10000, size=10, options={}) as crew:
        names = [one.ask("go")["worker"] for one in crew]
        until(lambda: _leader(strategy), "a leader")
        until(lambda: len(_held(strategy)) >= 6, "both to be at work")
        yield dict(zip(names, crew))


def _held(strategy: PartitionStrategy, worker: Any = None) -> List[Any]:
    return strategy.get_filtered_partitions(PartitionFilter(statuses=[PartitionStatus.RUNNING], worker_id=worker))


def leader_stops(bench: Bench, strategy: PartitionStrategy) -> float:
    """Return the seconds from the start of its stop until another leads."""
    with _fleet(bench, strategy, 0.05) as crew:
        first = _leader(strategy)
        crew[first].say("stop")
        return until(lambda: _leader(strategy) not in ("", first), "another leader")


def leader_killed(bench: Bench, strategy: PartitionStrategy) -> float:
    """Return the seconds from kill -9 until another leads."""
    with _fleet(bench, strategy, 0.05) as crew:
        first = _leader(strategy)
        crew[first].kill()
        return until(lambda: _leader(strategy) not in ("", first), "another leader", 90.0, 0.02)


def worker_killed(bench: Bench, strategy: PartitionStrategy) -> float:
    """Return the seconds from kill -9 until another has everything it held."""
    with _fleet(bench, strategy, 4.0) as crew:
        (victim,) = [name for name in crew if name != _leader(strategy)]
        until(lambda: _held(strategy, victim), "the victim to be at work")
        crew[victim].kill()
        return until(lambda: not _held(strategy, victim), "its partitions to be taken", 90.0, 0.05)


def _measure(bench: Bench, case: Callable[[Bench, PartitionStrategy], float]) -> float:
    with bench.own_space() as strategy:
        return case(bench, strategy)


def after_stop(bench: Bench) -> Section:
    """A leader that stops gives its place up at once."""
    section = Section("recovery", "A leader stops, by default settings")
    stopped = [_measure(bench, leader_stops) for _ in range(bench.sizes["slow"])]
    section.add("leader stopped: the next one leads after", stopped, "s", "< 1", of="max")
    return section


def after_kill(bench: Bench) -> Section:
    """What was killed is taken over when its lease ends."""
    section = Section("takeover", "kill -9, by default settings (leases of 30 s)")
    # All at once: they wait.
    cases = [leader_killed] * 3 + [worker_killed] * 3
    with concurrent.futures.ThreadPoolExecutor(len(cases)) as pool:
        took = []
        for future in [pool.submit(_measure, bench, case) for case in cases]:
            took.append(future.result())
    section.add("leader killed: the next one leads after", took[:3], "s", "<= 32", of="max")
    section.add("worker killed: its partitions are taken after", took[3:], "s", "<= 35", of="max")
    return section
