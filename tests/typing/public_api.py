"""What an editor knows of the public API. Never run: ``make lint`` checks it by mypy --strict.

A line that must be an error carries ``type: ignore`` with the kind of error; where there is none (any more), mypy's
``warn_unused_ignores`` reports that.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Optional, Tuple

from flask import Flask
from typing_extensions import assert_type

from elk_coordinator import (
    AdminClient,
    CircuitBreakerConfig,
    Coordinator,
    CoordinatorConfig,
    Partition,
    PartitionPlanner,
    PartitionStats,
    PlannerContext,
    ProcessContext,
    Processor,
    RedisDataStore,
    StrategyType,
)
from elk_coordinator.contrib.flask import Elk
from elk_coordinator.contrib.per_process import PerProcess
from elk_coordinator.contrib.sql import (
    Database,
    DenseKeyPlanner,
    OpenTransactions,
    RangeFence,
    RowGuard,
    Session,
    SettleTime,
    SparseKeyPlanner,
    SqlBatchProcessor,
)
from elk_coordinator.testing import run_inline

store = RedisDataStore.from_url("redis://localhost:6379/0")


class Work:
    def process(self, ctx: ProcessContext, min_id: int, max_id: int, options: Dict[str, Any]) -> Optional[int]:
        assert_type(ctx.fencing_token, int)
        assert_type(ctx.partition, Partition)
        assert_type(ctx.checkpoint(min_id, processed=1), bool)
        assert_type(ctx.cancelled.is_set(), bool)
        assert_type(ctx.wait(1.0), bool)
        ctx.checkpoint("7")  # type: ignore[arg-type]
        return None


class Plan:
    def partition_size(self, ctx: PlannerContext) -> int:
        return 10

    def get_next_max_id(self, ctx: PlannerContext, start_id: int, range_size: int) -> int:
        assert_type(ctx.term, int)
        return start_id


class Sparse(Plan):
    def plan(self, ctx: PlannerContext, start_id: int, limit: int) -> Iterator[Tuple[int, int]]:
        yield start_id + 1, start_id + 10


def work(ctx: ProcessContext, min_id: int, max_id: int, options: Dict[str, Any]) -> int:
    return max_id - min_id + 1


def without_count(ctx: ProcessContext, min_id: int, max_id: int, options: Dict[str, Any]) -> None:
    pass


def too_few(ctx: ProcessContext, min_id: int) -> int:
    return 0


def text_result(ctx: ProcessContext, min_id: int, max_id: int, options: Dict[str, Any]) -> str:
    return "done"


class HalfAPlanner:
    def partition_size(self, ctx: PlannerContext) -> int:
        return 10


# -- a processor is an object or a plain function, and nothing else
one: Processor = Work()
plan: PartitionPlanner = Sparse()
Coordinator("orders", store, Work(), Plan())
Coordinator("orders", store, work, Sparse(), strategy=StrategyType.HASH, task_window_size=5)
Coordinator("orders", store, without_count)
Coordinator("orders", store, lambda ctx, min_id, max_id, options: max_id - min_id)
Coordinator("orders", store, Work(), config=CoordinatorConfig(circuit_breaker=CircuitBreakerConfig(open_timeout=1.0)))
Coordinator("orders", store, too_few)  # type: ignore[arg-type]
Coordinator("orders", store, text_result)  # type: ignore[arg-type]
Coordinator("orders", store, Work)  # type: ignore[arg-type]
Coordinator("orders", store, Work(), HalfAPlanner())  # type: ignore[arg-type]
Coordinator("orders", "redis://localhost", Work())  # type: ignore[arg-type]
Coordinator("orders", store, Work(), task_window_size="8")  # type: ignore[arg-type]
Coordinator("orders", store, Work(), task_window=8)  # type: ignore[call-arg]
Coordinator("orders", store, Work(), strategy="simple", circuit_breaker={"open_timeout": 5.0}, retry_backoff=(0.1, 1.0))
Coordinator(7, store, Work())  # type: ignore[arg-type]
CoordinatorConfig(task_window_size="8")  # type: ignore[arg-type]
CoordinatorConfig(task_window=8)  # type: ignore[call-arg]

# -- what comes back
with Coordinator("orders", store, work, Plan()) as coordinator:
    assert_type(coordinator, Coordinator)
    assert_type(coordinator.wait_idle(10.0), bool)
    assert_type(coordinator.http_address, Optional[str])
    assert_type(coordinator.is_leader, bool)
    assert_type(coordinator.health().ready, bool)
    assert_type(coordinator.admin.retry_failed([1, 2]), str)
    assert_type(coordinator.strategy.get_partition(1), Partition)
    assert_type(coordinator.strategy.get_partition_stats(), PartitionStats)
    assert_type(coordinator.strategy.get_partition_stats().completion_rate, float)
    assert_type(coordinator.stop(), bool)

admin = AdminClient("orders", store)
assert_type(admin.partitions(), List[Partition])
admin.cancel("7")  # type: ignore[arg-type]

assert_type(run_inline(work, Plan()).processed, int)
run_inline(Work(), Sparse(), max_attempts=1, interrupt_after_checkpoints=2)
run_inline(too_few, Plan())  # type: ignore[arg-type]
run_inline(work, Plan(), max_attempt=1)  # type: ignore[call-arg]


# -- databases: what contrib.sql makes is a planner, a processor
def double(session: Session, ctx: ProcessContext, lo: int, hi: int) -> int:
    assert_type(session.execute("UPDATE orders SET total = 2 * total WHERE id BETWEEN :lo AND :hi", {"lo": lo}), int)
    return RowGuard("orders").update(session, ctx, "total = 1", "id = :lo", {"lo": lo})


def without_session(ctx: ProcessContext, lo: int, hi: int) -> int:
    return 0


database = Database.from_connect(lambda: None)
fence = RangeFence(database)
batches = SqlBatchProcessor(database, double, batch_ids=100, fence=fence, statement_timeout=5.0, throttle=lambda: False)
Coordinator("orders", store, batches, DenseKeyPlanner(database, "orders", edge=OpenTransactions()))
Coordinator("orders", store, batches, SparseKeyPlanner(database, "orders", edge=SettleTime(60.0)))
SqlBatchProcessor(database, without_session, batch_ids=100)  # type: ignore[arg-type]
SqlBatchProcessor(database, double, batch_ids=100, fence="elk_fence")  # type: ignore[arg-type]
assert_type(PerProcess(lambda: Coordinator("orders", store, batches))(), Coordinator)
PerProcess(work)  # type: ignore[arg-type]

# -- Flask: decorators keep what they decorate
elk = Elk(processor=work, planner=Plan())
elk.init_app(Flask(__name__))
assert_type(elk.coordinator(), Coordinator)


@elk.processor
def decorated(ctx: ProcessContext, min_id: int, max_id: int, options: Dict[str, Any]) -> int:
    return 1


@elk.planner
class Decorated(Plan):
    pass


@elk.processor
class DecoratedWork(Work):
    pass


@elk.processor  # type: ignore[type-var]
def decorated_wrongly(ctx: ProcessContext, min_id: int) -> int:
    return 1


elk.planner(HalfAPlanner())  # type: ignore[type-var]


Elk(namespace="orders", redis_url="redis://localhost", task_window_size=5)
Elk(task_window=5)  # type: ignore[call-arg]
Elk(processor=too_few)  # type: ignore[arg-type]


decorated("7")  # type: ignore[call-arg, arg-type]
assert_type(Decorated(), Decorated)
