"""Workers side by side on a real server: windows resized while they work, and nobody hoarding while another idles."""

from __future__ import annotations

import threading
from typing import Any, Callable, Dict

import pytest

from elk_coordinator import ConfigError, Coordinator
from elk_coordinator.partition.audit import verify
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
