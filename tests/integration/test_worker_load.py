"""Workers side by side on a real server: windows resized while they work, and nobody hoarding while another idles."""

from __future__ import annotations

import collections
import threading
from typing import Any, Callable, Dict, List

import pytest

from elk_coordinator import ConfigError, Coordinator, RedisDataStore, StrategyType, create_strategy
from elk_coordinator.partition.audit import verify
from elk_coordinator.partition.requests import AREA
from elk_coordinator.testing import wait_until
from tests.integration.conftest import Counting, Numbers, once_each

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
