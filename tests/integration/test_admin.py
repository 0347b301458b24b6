"""Operator commands, as real coordinators carry them out: both strategies, over a real server."""

from __future__ import annotations

import threading
from typing import Any, Callable

import pytest

from elk_coordinator import AdminClient, Coordinator, StrategyType, create_strategy
from elk_coordinator.model import PartitionStatus
from elk_coordinator.testing import wait_until
from tests.integration.conftest import QUICK, Counting, Numbers, once_each


@pytest.fixture(params=[StrategyType.HASH, StrategyType.SIMPLE], ids=["hash", "simple"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_pause_stops_claims_on_every_worker_and_resume_goes_on(
    build: Callable[..., Coordinator], kind: StrategyType
) -> None:
    processor = Counting(lambda ctx: ctx.wait(0.02))
    one = build(processor, Numbers(600), strategy=kind)
    two = build(processor, None, strategy=kind)
    with one, two:
        wait_until(lambda: sum(processor.seen.values()) >= 30)
        status = one.admin.wait(two.admin.pause())
        assert (status.state, status.result["changed"]) == ("done", 1)
        assert one.strategy.claim_partitions("by-hand", 5) == []
        # The bound that is promised, and a little for a busy machine.
        wait_until(lambda: one.health().paused and two.health().paused, timeout=QUICK["heartbeat_interval"] + 2.0)
        wait_until(lambda: one.strategy.get_partition_stats().held == 0)
        at_rest = one.strategy.get_partition_stats()
        assert at_rest.pending > 0
        # Several beats later nothing has moved.
        assert not one.wait_idle(1.5)
        assert one.strategy.get_partition_stats().completed == at_rest.completed
        one.admin.resume()
        assert one.wait_idle(30.0)
        assert not two.health().paused
    assert dict(processor.seen) == once_each(600)


def test_pause_and_resume_reach_a_worker_with_its_next_beat(
    build: Callable[..., Coordinator], kind: StrategyType, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever waits for the claimer's next poll takes too long.
    monkeypatch.setattr("elk_coordinator.worker.claimer.IDLE_POLL", 300.0)
    processor = Counting()
    with build(processor, Numbers(100), strategy=kind) as one:
        assert one.wait_idle(20.0)
        one.admin.wait(one.admin.pause())
        wait_until(lambda: one.health().paused)
        one.admin.wait(one.admin.create([(1001, 1010)]))
        one.admin.wait(one.admin.resume())
        wait_until(lambda: one.strategy.get_partition_stats().completed == 11, timeout=10.0)


def test_a_running_partition_is_cancelled_released_and_retried(
    build: Callable[..., Coordinator], kind: StrategyType, store: Any, namespace: str
) -> None:
    entered, let_go = threading.Semaphore(0), threading.Event()

    def hold(ctx: Any) -> None:
        entered.release()
        while not let_go.is_set():
            ctx.wait(0.02)
            ctx.raise_if_cancelled()

    processor = Counting(hold)
    with build(processor, Numbers(10), strategy=kind):
        admin = AdminClient(namespace, store, by="eve")
        assert entered.acquire(timeout=10.0)
        assert admin.wait(admin.release(1)).result["outcome"] == "asked"
        assert entered.acquire(timeout=10.0), "it went back and was claimed again"
        again = admin.strategy.get_partition(1)
        assert (again.attempt, again.deliveries, again.error) == (0, 0, None)
        assert admin.wait(admin.cancel(1)).result["outcome"] == "asked"
        wait_until(lambda: admin.strategy.get_partition(1).status is PartitionStatus.FAILED)
        assert (admin.strategy.get_partition(1).error or "").startswith("cancelled by eve")
        let_go.set()
        assert admin.wait(admin.retry_failed()).result["changed"] == 1
        wait_until(lambda: admin.strategy.get_partition(1).status is PartitionStatus.COMPLETED)
    assert dict(processor.seen) == once_each(10)


def test_a_command_outlives_the_leader_it_was_sent_to(
    build: Callable[..., Coordinator], kind: StrategyType, store: Any, namespace: str
) -> None:
    first = build(None, Numbers(10), strategy=kind)
    with first:
        assert first.wait_idle(20.0)
    admin = AdminClient(namespace, store)
    name = admin.create([(1001, 1010)])
    assert admin.wait(name, 0.0).state == "queued"
    processor = Counting()
    with build(processor, Numbers(10), strategy=kind) as second:
        assert admin.wait(name, 20.0).result == {"changed": 1, "created": [[2, 2]]}
        wait_until(lambda: second.strategy.get_partition_stats().completed == 2)
    assert sorted(processor.seen) == list(range(1001, 1011))
    assert create_strategy(kind, namespace, store).get_partition_stats().total == 2
