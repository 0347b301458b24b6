"""Fleets of coordinators in one process: the scenarios of the original's manager, with "nothing twice" as the bar."""

from __future__ import annotations

import itertools
import threading
from typing import Any, Callable, Dict, List

import pytest

from elk_coordinator import Coordinator, CreatePartition, PermanentError, StrategyType
from elk_coordinator.partition.audit import verify
from elk_coordinator.testing import wait_until
from tests.integration.conftest import Counting, Numbers, once_each

Build = Callable[..., Coordinator]
BOTH = pytest.mark.parametrize("strategy", list(StrategyType))


def drained(coordinators: List[Coordinator], total: int) -> None:
    """Wait until all work is done; check that the books agree."""
    assert coordinators[0].wait_idle(40.0)
    view: Any = coordinators[0].strategy
    stats = view.get_partition_stats()
    assert (stats.completed, stats.total) == (total, total)
    assert verify(view).problems == []


@BOTH
def test_five_nodes_share_fifty_partitions_and_none_runs_twice(build: Build, strategy: StrategyType) -> None:
    """The original allowed a fifth to fail and every twentieth to run twice."""
    delays = itertools.cycle([0.0, 0.01, 0.03, 0.002])
    lock = threading.Lock()
    met = threading.Event()

    def work(ctx: Any) -> None:
        with lock:
            seconds = next(delays)
        if len(handled.workers) >= 3:
            met.set()
        assert met.wait(20.0), "three nodes with work at the same time"
        ctx.wait(seconds)

    handled = Counting(work)
    fleet = [
        build(handled, Numbers(500), strategy=strategy, task_window_size=1, worker_id="node-%d" % i) for i in range(5)
    ]
    for node in fleet:
        node.start()
    drained(fleet, 50)
    assert handled.seen == once_each(500)
    assert len(handled.workers) >= 3, handled.workers
    assert len(handled.tokens) == len(set(handled.tokens)) == 50


@BOTH
def test_processors_that_fail_now_and_then_lose_nothing_and_complete_nothing_twice(
    build: Build, strategy: StrategyType
) -> None:
    attempts: Dict[int, int] = {}
    lock = threading.Lock()

    def sometimes(ctx: Any) -> None:
        with lock:
            number = attempts[ctx.partition.partition_id] = attempts.get(ctx.partition.partition_id, 0) + 1
        # Which of them fail, and how often, is fixed: every third once, every fifth twice.
        if number <= (ctx.partition.partition_id % 3 == 0) + (ctx.partition.partition_id % 5 == 0):
            raise OSError("not this time")

    handled = Counting(sometimes)
    fleet = [
        build(handled, Numbers(300), strategy=strategy, worker_id="node-%d" % i, circuit_breaker=None) for i in range(3)
    ]
    for node in fleet:
        node.start()
    drained(fleet, 30)
    assert handled.seen == once_each(300)
    assert {i: n for i, n in attempts.items() if n == 3} == {15: 3, 30: 3}


@BOTH
def test_the_leader_is_stopped_four_times_and_the_work_is_done_once(build: Build, strategy: StrategyType) -> None:
    planner = Numbers(40)
    handled = Counting()
    fleet = [build(handled, planner, strategy=strategy, worker_id="node-%d" % i) for i in range(5)]
    for node in fleet:
        node.start()
    led: List[str] = []
    while len(fleet) > 1:
        wait_until(lambda: any(node.is_leader for node in fleet), 10.0)
        leader = next(node for node in fleet if node.is_leader)
        led.append(leader.worker_id)
        assert leader.stop(10.0)
        fleet.remove(leader)
        planner.last += 40
    drained(fleet, 20)
    assert handled.seen == once_each(200)
    assert len(set(led)) == 4, "four leaders, one after the other"


def test_nodes_with_different_intervals_and_leases_never_have_the_same_work(build: Build) -> None:
    handled = Counting(lambda ctx: ctx.wait(0.01))
    settings: List[Dict[str, Any]] = [
        {"heartbeat_interval": 0.2, "worker_ttl": 1.5, "leader_lock_expiry": 1.5, "task_window_size": 1},
        {"heartbeat_interval": 1.0, "worker_ttl": 6.0, "allocation_interval": 0.3, "task_window_size": 3},
        {"heartbeat_interval": 0.5, "worker_ttl": 3.0, "leader_election_interval": 0.5, "task_window_size": 2},
    ]
    fleet = [build(handled, Numbers(900), **options) for options in settings]
    for node in fleet:
        node.start()
    drained(fleet, 90)
    assert handled.seen == once_each(900)


def test_a_slow_holder_keeps_its_work_whoever_may_preempt(build: Build) -> None:
    """It runs for more than a lease; the original's others took it over and ran it a second time."""
    slow = threading.Event()
    handled = Counting(lambda ctx: slow.wait(30.0) if ctx.partition.partition_id == 1 else None)
    holder = build(handled, Numbers(100), worker_id="slow", worker_ttl=1.2, heartbeat_interval=0.3, task_window_size=1)
    holder.start()
    wait_until(lambda: handled.workers["slow"] == 1, 10.0)
    others = [build(handled, allow_preemption=allow, worker_id="quick-%s" % allow) for allow in (True, False)]
    for node in others:
        node.start()
    view: Any = holder.strategy
    wait_until(lambda: view.get_partition_stats().completed == 9, 20.0)
    began = view.get_partition(1)
    wait_until(lambda: view.get_partition(1).last_heartbeat >= began.last_heartbeat + 2.0, 10.0)
    slow.set()
    drained([holder], 10)
    assert handled.seen == once_each(100)
    done = view.get_partition(1)
    assert (done.worker_id, done.fencing_token, done.deliveries) == ("slow", began.fencing_token, 0)


@pytest.mark.parametrize("allow", [True, False])
def test_the_work_of_an_owner_that_died_is_done_by_others_whether_they_may_preempt_or_not(
    build: Build, partitions: Any, allow: bool
) -> None:
    partitions.create_partitions_if_not_exist([CreatePartition(1, 1, 10)])
    dead = partitions.acquire_partition(1, "dead")
    partitions.renew_partitions("dead", [(1, dead.fencing_token)])
    handled = Counting()
    # Its lease ends by the store's clock; nobody renews it.
    partitions.lease = 0.5
    node = build(handled, Numbers(30), allow_preemption=allow)
    partitions.renew_partitions("dead", [(1, dead.fencing_token)])
    node.start()
    drained([node], 3)
    assert handled.seen == once_each(30)
    done = partitions.get_partition(1)
    assert done.fencing_token > dead.fencing_token and done.deliveries == 1


def test_a_permanent_error_rests_and_everything_around_it_is_done(build: Build) -> None:
    def refuse(ctx: Any) -> None:
        if ctx.partition.partition_id == 4:
            raise PermanentError("never")

    handled = Counting(refuse)
    node = build(handled, Numbers(100))
    node.start()
    assert node.wait_idle(30.0)
    assert handled.seen == {i: 1 for i in range(1, 101) if not 31 <= i <= 40}
    there = node.strategy.get_partition(4)
    assert there.status.value == "failed" and "never" in (there.error or "")


def test_with_metrics_off_no_port_is_opened_and_no_thread_serves(build: Build) -> None:
    node = build(Counting(), Numbers(10), metrics_enabled=False)
    node.start()
    assert node.http_address is None
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("elk-http")]
