"""Every family of docs/metrics.rst gets a value from real coordinators: none is only declared."""

from __future__ import annotations

import threading
import urllib.request
from typing import Any, Callable, Set

import pytest
from prometheus_client import CollectorRegistry

from elk_coordinator import Coordinator, CreatePartition, PermanentError, RedisDataStore, StrategyType, create_strategy
from elk_coordinator.leader import recovery, surveyor
from elk_coordinator.observability.families import FAMILIES, PREFIX
from elk_coordinator.testing import wait_until

from .conftest import Counting, Numbers

#: Shown, but rightly 0 in the life below.
ZERO = {"node_tasks_hung"}


class Scraped:
    """A registry of an application, and which families it ever showed with a value other than 0."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.present: Set[str] = set()
        self.moved: Set[str] = set()

    def look(self) -> None:
        for family in self.registry.collect():
            for sample in family.samples:
                name = sample.name[len(PREFIX) :]
                names = {name, name[: -len("_count")] if family.type == "histogram" else name}
                self.present |= names
                if sample.value:
                    self.moved |= names

    def wait(self, *names: str) -> None:
        def seen() -> bool:
            self.look()
            return self.moved >= set(names)

        wait_until(seen, 20, lambda: "values of %s" % sorted(set(names) - self.moved))


class Planner(Numbers):
    """Fails at first, and does not tell whether there is data in a hole before it may."""

    def __init__(self, last: int) -> None:
        super().__init__(last)
        self.failed = False
        self.may_tell = threading.Event()

    def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> int:
        if not self.failed:
            self.failed = True
            raise RuntimeError("no database")
        return super().get_next_max_id(ctx, start_id, range_size)

    def has_data(self, ctx: Any, min_id: int, max_id: int) -> bool:
        self.may_tell.wait(10)
        return True


@pytest.mark.parametrize("strategy", [StrategyType.HASH, StrategyType.SIMPLE])
def test_every_family_moves(
    build: Callable[..., Coordinator],
    store: RedisDataStore,
    namespace: str,
    strategy: StrategyType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recovery, "COUNT_INTERVAL", 0.1)
    monkeypatch.setattr(surveyor, "RATE_LEAST", 0.1)
    hold, held = threading.Event(), threading.Event()

    def work(ctx: Any) -> None:
        number = ctx.partition.partition_id
        if number == 2:
            raise PermanentError("never")
        if number == 1 and not hold.is_set():
            held.set()
            hold.wait(20)
            ctx.checkpoint(ctx.partition.min_id)
        # Short ones have many prefetched; then all slots are taken for a while, and what was prefetched can be seen.
        if number > 3 and number % 40 < 3:
            ctx.wait(0.3)

    outside = create_strategy(strategy, namespace, store, partition_lock_expiry=1.0)
    new = [CreatePartition(1, 1, 10, priority=9), CreatePartition(2, 21, 30, priority=8), CreatePartition(3, 31, 40)]
    outside.create_partitions_if_not_exist(new)
    # Held by one who never renews: it comes back when its lease runs out.
    assert outside.acquire_partition(3, "ghost") is not None

    seen, planner = Scraped(), Planner(2000)
    options = {"strategy": strategy, "heartbeat_interval": 0.2, "worker_ttl": 3.0}
    first = build(Counting(work), planner, task_window_size=2, **dict(
        options, metrics_enabled=True, metrics_addr="127.0.0.1:0", allow_preemption=False
    ))  # fmt: skip
    first.register_metrics(seen.registry)
    first.start()
    wait_until(held.is_set, 20, "the partition that is held")
    # A follower, which is not elected; one whose store is away; one whose processor always fails.
    second = build(Counting(work), planner, **options)
    second.register_metrics(seen.registry)
    second.start()
    lonely = build(namespace="lonely", store=RedisDataStore.from_url("redis://127.0.0.1:1/0", 0.2), **options)
    lonely.register_metrics(seen.registry)
    lonely.start(require_store=False)

    def fail(ctx: Any) -> None:
        raise ValueError("always")

    failing = build(Counting(fail), Numbers(300), namespace="failing", max_attempts=1, **options)
    failing.register_metrics(seen.registry)
    failing.start()
    seen.wait("planner_errors_total", "gaps", "gap_items", "oldest_pending_timestamp_seconds")
    planner.may_tell.set()
    seen.wait("reclaims_total")
    # Somebody takes the held one away by force: its worker hears of it, and what it still writes is refused.
    assert outside.acquire_partition(1, "thief", force=True) is not None
    seen.wait("lease_lost_total")
    hold.set()
    seen.wait("writes_refused_total")
    seen.wait("estimated_completion_timestamp_seconds", "completed_watermark", "backlog_items", "workers")
    seen.wait("leader_election_failures_total", "store_errors_total", "node_heartbeat_errors_total")
    seen.wait("node_circuit_breaker_tripped_total", "node_circuit_breaker_state")
    # Operators and scrapers.
    urllib.request.urlopen("http://%s/metrics" % first.http_address, timeout=5).close()
    first.admin.pause()
    seen.wait("paused", "http_requests_total")
    monkeypatch.setattr(first, "health", lambda: 1 / 0)
    seen.wait("collector_errors_total")
    monkeypatch.undo()
    # Waiting commands and the archive: tests/contract/test_open_work.py. Notifications: test_notify.py beside this.
    for each in (first, second, lonely, failing):
        assert each.stop(10), each.namespace
    seen.look()
    elsewhere = {"archive_partitions", "archive_bytes", "commands_queued", "notifications_total"}
    wanted = {family.name for family in FAMILIES} - elsewhere
    assert wanted - seen.present == set()
    assert wanted - ZERO - seen.moved == set()


def test_a_follower_exports_nothing_that_the_leader_says(
    build: Callable[..., Coordinator], monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, follower = build(planner=Numbers(50)), build()
    seen, other = Scraped(), Scraped()
    leader.register_metrics(seen.registry)
    follower.register_metrics(other.registry)
    leader.start()
    follower.start()
    seen.wait("workers")
    other.wait("store_op_duration_seconds")
    ours = {family.name for family in FAMILIES if family.leader_only}
    assert ours & other.present == set()
    election: Any = leader._parts.leader.election  # type: ignore[union-attr]
    monkeypatch.setattr(election, "_may_stand", lambda: False)
    election.step_down("test")
    now = Scraped()
    leader.unregister_metrics(seen.registry)
    leader.register_metrics(now.registry)
    now.look()
    assert not leader.is_leader
    assert ours & now.present == set()
