"""Workers side by side on a real server: windows resized while they work, and nobody hoarding while another idles."""

from __future__ import annotations

import collections
import threading
from typing import Any, Callable, Dict, List

import pytest

from elk_coordinator import (
    ConfigError,
    Coordinator,
    CreatePartition,
    PartitionFilter,
    PartitionStatus,
    RedisDataStore,
    StrategyType,
    create_strategy,
)
from elk_coordinator.partition.audit import verify
from elk_coordinator.partition.requests import AREA
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.testing import wait_until
from tests.integration.conftest import Counting, Numbers, Recorder, once_each, turns

Build = Callable[..., Coordinator]


class Gauge:
    """A processor whose tasks wait at a gate, and which knows how many run."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.lock = threading.Lock()
        self.now = 0
        self.most = 0

    def process(self, ctx: Any, min_id: int, max_id: int, options: Dict[str, Any]) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            assert self.gate.wait(50)
        finally:
            with self.lock:
                self.now -= 1

    def wait(self, count: int) -> None:
        wait_until(lambda: self.now == count, 10, lambda: "%d run, not %d" % (self.now, count))


# ---------------------------------------------------------------- resizing


def test_a_running_window_grows_and_shrinks_and_everybody_can_see_it(build: Build, partitions: Any) -> None:
    work = Gauge()
    coordinator = build(work, Numbers(400), task_window_size=2)
    with coordinator:
        work.wait(2)
        coordinator.resize_window(6)
        work.wait(6)
        assert coordinator.health().window_size == 6
        wait_until(lambda: partitions.workers()[0].info["window"] == 6, 10, "the registry to say so")
        coordinator.resize_window(3)
        assert coordinator.health().window_size == 3
        assert work.now == 6, "what runs may end"
        with work.lock:
            work.most = 0
        work.gate.set()
        assert coordinator.wait_idle(30)
        assert work.most <= 3, "nothing started while more than three ran"
        with pytest.raises(ConfigError, match="task_window_size"):
            coordinator.resize_window(0)
        assert coordinator.health().window_size == 3
    assert partitions.get_partition_stats().completed == 40
    assert verify(partitions).problems == []


def test_resizing_again_and_again_under_load_loses_nothing_and_keeps_the_bound(build: Build, partitions: Any) -> None:
    lock = threading.Lock()
    now, most = [0], [0]

    def before(ctx: Any) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        ctx.wait(0.001)
        with lock:
            now[0] -= 1

    work = Counting(before)
    with build(work, Numbers(6000), task_window_size=4) as coordinator:
        size = 0
        while not coordinator.wait_idle(0.02):
            size = (size + 3) % 8
            coordinator.resize_window(size + 1)
        assert most[0] <= 8
    assert work.seen == once_each(6000)
    assert verify(partitions).problems == []


# ---------------------------------------------------------------- affinity


@pytest.mark.parametrize("strategy", list(StrategyType))
def test_with_affinity_neighbours_mostly_go_to_one_worker_and_everything_is_done_once(
    build: Build, store: RedisDataStore, namespace: str, strategy: StrategyType
) -> None:
    lock = threading.Lock()
    areas: Dict[int, List[str]] = collections.defaultdict(list)

    def before(ctx: Any) -> None:
        with lock:
            areas[ctx.partition.partition_id // AREA].append(ctx.worker_id)
        ctx.wait(0.01)

    work, planner = Counting(before), Numbers(0)
    options: Dict[str, Any] = {"affinity": True, "strategy": strategy, "task_window_size": 1}
    crew = [build(work, planner if i == 0 else None, worker_id="w%d" % i, **options) for i in range(3)]
    looked = create_strategy(strategy, namespace, store)
    for coordinator in crew:
        coordinator.start()
    known: Any = [coordinator._claimer._affinity for coordinator in crew]
    wait_until(lambda: all(len(affinity._fleet) == 3 for affinity in known))
    planner.last = 2400
    assert crew[0].wait_idle(60)
    assert work.seen == once_each(2400)
    assert set(work.workers) == {"w0", "w1", "w2"}, "nobody idled"
    mostly = sum(max(collections.Counter(names).values()) for names in areas.values()) / 240
    print("%s: %.2f of the partitions went to the worker of their area" % (strategy.value, mostly))
    assert mostly > 0.65
    assert verify(looked).problems == []


# ---------------------------------------------------------------- balance


def test_long_work_is_spread_evenly_and_nobody_holds_more_than_runs(build: Build, partitions: Any) -> None:
    partitions.create_partitions_if_not_exist([CreatePartition(i, i, i) for i in range(1, 10)])
    works = [Gauge() for _ in range(3)]
    crew = [build(work, task_window_size=2) for work in works]
    for coordinator in crew:
        coordinator.start()
    for work in works:
        work.wait(2)
    for coordinator in crew:
        turns(coordinator, 3)
    stats = partitions.get_partition_stats()
    assert (stats.pending, stats.claimed, stats.running) == (3, 0, 6)
    for work in works:
        work.gate.set()
    wait_until(lambda: partitions.get_partition_stats().completed == 9)


def test_what_a_worker_prefetched_goes_to_one_that_joins_late_when_its_tasks_turn_long(
    build: Build, partitions: Any
) -> None:
    partitions.create_partitions_if_not_exist([CreatePartition(i, i, i) for i in range(1, 501)])
    gate, turn_long = threading.Event(), threading.Event()

    def busy(ctx: Any, *what: Any) -> None:
        # The first ones are so short that it prefetches; then all are long.
        if turn_long.is_set():
            assert gate.wait(50)
        elif ctx.partition.partition_id >= 100:
            turn_long.set()

    hoarder = build(busy, task_window_size=2)
    # As with a slow store: a deep prefetch, whatever this machine's turns take.
    hoarder._claimer._prefetch = lambda: 0 if turn_long.is_set() else 40  # type: ignore[method-assign]
    hoarder.start()
    assert turn_long.wait(30)
    wait_until(lambda: hoarder.health().in_flight == 2)
    helper = Counting()
    late = build(helper, task_window_size=2)
    clock = Clock()
    began = clock.monotonic()
    late.start()
    wait_until(lambda: partitions.get_partition_stats().completed == 498, 10, "all but what runs to be done by others")
    print("%.2f s until all was done but what runs" % (clock.monotonic() - began))
    assert hoarder.health().prefetched == 0
    assert hoarder.health().in_flight == 2
    assert len(helper.seen) > 300
    gate.set()
    wait_until(lambda: partitions.get_partition_stats().completed == 500)
    assert verify(partitions).problems == []


def test_short_work_is_spread_over_all_workers_to_its_end(build: Build, partitions: Any) -> None:
    clock, ended = Clock(), {}

    def busy(ctx: Any) -> None:
        ctx.wait(0.03)
        ended[ctx.worker_id] = clock.monotonic()

    work = Counting(busy)
    crew = [build(work, task_window_size=2, worker_id="w%d" % i) for i in range(4)]
    for coordinator in crew:
        coordinator.start()
    # All are there before there is work, so that what each does is a matter of sharing alone.
    partitions.create_partitions_if_not_exist([CreatePartition(i, i, i) for i in range(1, 241)])
    wait_until(lambda: partitions.get_partition_stats().completed == 240, 30)
    idle = max(ended.values()) - min(ended.values())
    print("240 partitions of 30 ms over four workers: %s; the first was idle for %.3f s" % (dict(work.workers), idle))
    assert all(40 <= work.workers["w%d" % i] <= 80 for i in range(4)), work.workers
    # Who had fetched forty more than it runs would have worked for half a second while others had nothing.
    assert idle < 0.4


# ---------------------------------------------------------------- preemption


def orphan(store: RedisDataStore, namespace: str, partitions: Any) -> None:
    """Leave a partition behind that a worker held when it died; its lease has run out."""
    partitions.create_partitions_if_not_exist([CreatePartition(1, 1, 10)])
    ghost = create_strategy(StrategyType.HASH, namespace, store, partition_lock_expiry=0.1)
    assert ghost.claim_partitions("ghost")
    held = PartitionFilter(statuses=[PartitionStatus.RUNNING], stale_for=0.2)
    wait_until(lambda: partitions.get_filtered_partitions(held))


def test_a_worker_that_may_takes_what_a_dead_one_left_without_any_leader(
    build: Build, store: RedisDataStore, namespace: str, partitions: Any
) -> None:
    orphan(store, namespace, partitions)
    work, recorder = Counting(), Recorder()
    with build(work, listeners=[recorder], allow_preemption=True):
        wait_until(lambda: partitions.get_partition(1).status is PartitionStatus.COMPLETED)
        wait_until(lambda: recorder.of("partition_reclaimed"))
    assert work.seen == once_each(10)
    assert partitions.get_partition(1).deliveries == 1


def test_a_worker_that_may_not_leaves_it_to_the_leaders_recovery(
    build: Build, store: RedisDataStore, namespace: str, partitions: Any
) -> None:
    orphan(store, namespace, partitions)
    work = Counting()
    worker = build(work, allow_preemption=False)
    with worker:
        turns(worker, 5)
        assert partitions.get_partition(1).worker_id == "ghost" and not work.seen
        with build(work, Numbers(10), allow_preemption=False):
            wait_until(lambda: partitions.get_partition(1).status is PartitionStatus.COMPLETED)
    assert work.seen == once_each(10)


# ---------------------------------------------------------------- retries


def test_a_retry_runs_when_it_is_due_and_not_at_the_next_poll(build: Build, partitions: Any) -> None:
    clock, at = Clock(), []

    def process(ctx: Any, *what: Any) -> None:
        at.append(clock.monotonic())
        if ctx.attempt < 6:
            raise ValueError("not yet")

    partitions.create_partitions_if_not_exist([CreatePartition(1, 1, 1)])
    with build(process, retry_backoff=(0.1, 0.1), max_attempts=9, circuit_breaker=None):
        wait_until(lambda: partitions.get_partition(1).status is PartitionStatus.COMPLETED, 20)
    waits = sorted(later - earlier for earlier, later in zip(at, at[1:]))
    print("between attempts: %s" % ", ".join("%.3f s" % wait for wait in waits))
    assert waits[2] < 0.75, "half of a poll and more"
