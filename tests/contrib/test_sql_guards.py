"""Guards and batch processor on SQLite, and at work in a real coordinator."""

from __future__ import annotations

import pathlib
import sqlite3
import threading
from typing import Any, Iterator, List

import pytest

from elk_coordinator import Coordinator, CreatePartition, RedisDataStore, StrategyType, create_strategy
from elk_coordinator.contrib.sql import Database, RangeFence, RowGuard, Session, SqlBatchProcessor, replica_lag
from elk_coordinator.errors import ConfigError
from elk_coordinator.testing import wait_until
from tests.contrib.guard_scenes import GuardScenes, apply


@pytest.fixture
def database(tmp_path: pathlib.Path) -> Iterator[Database]:
    path = str(tmp_path / "data.db")
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    made = Database.from_connect(lambda: sqlite3.connect(path))
    yield made
    made.close()


class TestOnSqlite(GuardScenes):
    def test_stop_ends_a_throttled_worker_and_the_next_one_completes_each_effect_once(
        self, redis_url: str, namespace: str
    ) -> None:
        waiting = threading.Event()
        batches: List[int] = []

        def throttle() -> Any:
            if len(batches) >= 3:
                waiting.set()
                return 3600.0
            return False

        def handle(session: Session, ctx: Any, lo: int, hi: int) -> int:
            batches.append(lo)
            return apply(session, ctx, lo, hi)

        store = RedisDataStore.from_url(redis_url)
        options: Any = {"heartbeat_interval": 0.5, "worker_ttl": 2.0, "task_window_size": 2, "metrics_enabled": False}
        slow = Coordinator(
            namespace,
            store,
            self.processor(handle, batch_ids=2, throttle=throttle, throttle_pause=3600.0),
            None,
            **options,
        )
        strategy = create_strategy(StrategyType.HASH, namespace, store)
        slow.start()
        strategy.create_partitions_if_not_exist([CreatePartition(1, 1, 10), CreatePartition(2, 11, 20)])
        assert waiting.wait(20)
        assert slow.stop(timeout=10), "the stop woke the throttle"
        with Coordinator(namespace, store, self.processor(batch_ids=2), None, **options) as quick:
            wait_until(lambda: strategy.get_partition_stats().completed == 2, 20)
            assert quick.strategy.get_partition_stats().failed == 0
        assert self.applied() == {1: 20}
        assert sum(p.processed for p in (strategy.get_partition(1), strategy.get_partition(2))) == 20
        store.close()


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({}, "exactly one"),
        ({"batch_ids": 1, "batch_rows": 1, "table": "t"}, "exactly one"),
        ({"batch_ids": 0}, "batch_ids=0"),
        ({"batch_ids": True}, "batch_ids=True"),
        ({"batch_rows": 5}, "table: needed"),
        ({"batch_rows": 5, "table": "t; DROP"}, "name="),
        ({"batch_ids": 5, "fence": "elk_fence"}, "fence='elk_fence'"),
        ({"batch_ids": 5, "statement_timeout": 0}, "statement_timeout=0"),
        ({"batch_ids": 5, "statement_timeout": float("nan")}, "statement_timeout=nan"),
        ({"batch_ids": 5, "throttle": 3.0}, "throttle=3.0"),
        ({"batch_ids": 5, "throttle_pause": -1}, "throttle_pause=-1"),
        ({"batch_ids": 5, "reconnects": -1}, "reconnects=-1"),
    ],
)
def test_a_bad_option_is_refused_at_once(database: Database, options: Any, complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        SqlBatchProcessor(database, apply, **options)
    assert complaint in str(refused.value)


def test_bad_names_and_values_of_the_helpers_are_refused(database: Database) -> None:
    with pytest.raises(ConfigError, match="handle=5"):
        SqlBatchProcessor(database, 5, batch_ids=1)  # type: ignore[arg-type]
    for make in (lambda: RangeFence(database, "a b"), lambda: RowGuard("t", "x;y"), lambda: replica_lag(database, 0)):
        with pytest.raises(ConfigError):
            make()
    with database.transaction() as session, pytest.raises(ConfigError, match="1 = 1"):
        RowGuard("t").update(session, 5, "a = 1", " ")
    with pytest.raises(ConfigError, match="only a PostgreSQL primary"):
        replica_lag(database, 1.0)()
