"""Whole coordinators on the SIMPLE strategy, on both stores that ship: the same promises as on HASH."""

from __future__ import annotations

import threading
from typing import Any, Callable, Dict, Iterator, List

import pytest

from elk_coordinator import Coordinator, PartitionStatus, RedisDataStore, StrategyType, create_strategy
from elk_coordinator.partition.audit import verify
from elk_coordinator.store.base import DataStore
from elk_coordinator.store.memory_store import MemoryDataStore
from elk_coordinator.testing import wait_until
from tests.integration.conftest import Counting, Numbers, once_each

Build = Callable[..., Coordinator]


@pytest.fixture(params=["redis", "memory"])
def store(request: pytest.FixtureRequest, redis_url: str) -> Iterator[DataStore]:
    """Return a store that the coordinators of this test share; takes the place of the Redis one of other tests."""
    made: DataStore = RedisDataStore.from_url(redis_url) if request.param == "redis" else MemoryDataStore()
    yield made
    made.close()


@pytest.fixture
def simple(store: DataStore, namespace: str) -> Any:
    return create_strategy(StrategyType.SIMPLE, namespace, store)


def test_workers_share_the_work_and_every_id_is_handled_once(build: Build, simple: Any) -> None:
    everybody = threading.Barrier(3)
    met: Dict[str, bool] = {}

    def meet(ctx: Any) -> None:
        # Nobody goes on until each has got something.
        if not met.setdefault(ctx.worker_id, False):
            met[ctx.worker_id] = True
            everybody.wait(20)

    work = Counting(meet)
    options: Dict[str, Any] = {"strategy": StrategyType.SIMPLE, "task_window_size": 1}
    crew = [build(work, Numbers(600) if i == 0 else None, worker_id="w%d" % i, **options) for i in range(3)]
    for coordinator in crew:
        coordinator.start()
    assert crew[0].wait_idle(30)
    assert work.seen == once_each(600)
    assert set(work.workers) == {"w0", "w1", "w2"}
    assert len(set(work.tokens)) == len(work.tokens) == 60
    for coordinator in crew:
        assert coordinator.stop()
    assert simple.workers() == []
    assert verify(simple).problems == []


def test_failures_are_retried(build: Build, simple: Any) -> None:
    failed: List[int] = []

    def process(ctx: Any, min_id: int, max_id: int, options: Dict[str, Any]) -> None:
        if ctx.attempt == 1:
            failed.append(ctx.partition.partition_id)
            raise ValueError("the first attempt fails")

    with build(process, Numbers(100), strategy=StrategyType.SIMPLE, circuit_breaker=None) as coordinator:
        assert coordinator.wait_idle(30)
    assert sorted(failed) == list(range(1, 11))
    done = simple.get_all_partitions()
    assert {p.status for p in done} == {PartitionStatus.COMPLETED} and {p.attempt for p in done} == {1}


def test_stop_gives_back_its_own_and_nothing_else(build: Build, simple: Any) -> None:
    gate = threading.Event()

    def until_told(ctx: Any) -> None:
        wait_until(lambda: gate.is_set() or ctx.cancelled.is_set(), 50)
        ctx.raise_if_cancelled()

    crew = [
        build(Counting(until_told), planner, strategy=StrategyType.SIMPLE, worker_id=name, task_window_size=2)
        for name, planner in (("stays", Numbers(60)), ("goes", None))
    ]
    for coordinator in crew:
        coordinator.start()
    wait_until(lambda: all(coordinator.health().in_flight == 2 for coordinator in crew))

    def held_by(name: str) -> Dict[int, int]:
        return {
            p.partition_id: p.fencing_token
            for p in simple.get_all_partitions()
            if p.status is PartitionStatus.RUNNING and p.worker_id == name
        }

    before, gone = held_by("stays"), held_by("goes")
    assert len(before) == len(gone) == 2
    assert crew[1].stop()
    assert held_by("stays") == before, "the same partitions under the same tokens"
    back = [simple.get_partition(i) for i in gone]
    assert all((p.status, p.attempt, p.deliveries) == (PartitionStatus.PENDING, 0, 0) for p in back)
    gate.set()
    assert crew[0].wait_idle(30)
    assert simple.get_partition_stats().completed == 6
