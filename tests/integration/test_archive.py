"""The archive under a running coordinator: the leader compresses and shortens it while work goes on."""

from __future__ import annotations

from typing import Any

import pytest

from elk_coordinator import Coordinator, PartitionFilter, PartitionStatus, RedisDataStore, StrategyType
from elk_coordinator.partition.audit import verify
from elk_coordinator.store.memory_store import MemoryDataStore
from elk_coordinator.testing import wait_until
from tests.integration.conftest import QUICK, Counting, Numbers, once_each


@pytest.mark.parametrize("kind", [StrategyType.HASH, StrategyType.SIMPLE])
def test_the_leader_archives_and_keeps_the_newest(redis_url: str, namespace: str, kind: Any) -> None:
    store = RedisDataStore.from_url(redis_url) if kind is StrategyType.HASH else MemoryDataStore()
    work = Counting()
    coordinator = Coordinator(namespace, store, work, Numbers(4000), strategy=kind, archive_keep=100, **QUICK)
    role = coordinator._parts.leader.archiver  # type: ignore[union-attr]
    role.age = 0.0
    with coordinator:
        assert coordinator.wait_idle(30.0)
        assert work.seen == once_each(4000)
        role._look_at = None
        role.wake.set()
        wait_until(lambda: coordinator.strategy.get_partition_stats().pruned == 300, 20.0, "nothing was dropped")
        kept = coordinator.strategy.get_filtered_partitions(PartitionFilter(statuses=[PartitionStatus.COMPLETED]))
        assert len(kept) == 100 and sorted(coordinator.strategy.archived_ids()) == [p.partition_id for p in kept]
        assert coordinator.strategy.get_partition_stats().completed == 400
        assert verify(coordinator.strategy).problems == []
    store.close()
