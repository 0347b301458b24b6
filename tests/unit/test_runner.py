"""The outcome table of the contract, row by row: from how a processor ends to what the store keeps of it."""

from __future__ import annotations

import logging
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import attr
import fakeredis
import pytest

from elk_coordinator import (
    CircuitBreakerConfig,
    ConfigError,
    CoordinatorConfig,
    CreatePartition,
    Partition,
    PartitionStatus,
    PermanentError,
    RedisDataStore,
    StoreUnavailable,
    StrategyType,
    TaskInterrupted,
    create_strategy,
)
from elk_coordinator.model import CancelReason, Outcome, Report
from elk_coordinator.partition.strategy import PartitionStrategy
from elk_coordinator.protocols import Event
from elk_coordinator.runtime.events import Events
from elk_coordinator.testing import Faulty, ManualClock
from elk_coordinator.worker.circuit_breaker import BreakerState, CircuitBreaker, Permit
from elk_coordinator.worker.context import Task
from elk_coordinator.worker.runner import Runner, processor_function

LOGGER = logging.getLogger("elk_coordinator.test")
WORKER = "worker-1"
TRUST = 27.0
#: Longer than the trust, so that a lease that is not renewed is lost first.
TIMEOUT = 50.0
PENDING, COMPLETED, FAILED = PartitionStatus.PENDING, PartitionStatus.COMPLETED, PartitionStatus.FAILED

Process = Callable[[Any, int, int, Dict[str, Any]], Any]


class SpyBreaker(CircuitBreaker):
    """Remembers how permits were settled."""

    def __init__(self, clock: ManualClock, **options: Any) -> None:
        super().__init__(CircuitBreakerConfig(**options), clock)
        self.settled: List[str] = []

    def success(self, permit: Permit) -> None:
        self.settled.append("success")
        super().success(permit)

    def failure(self, permit: Permit, key: int, what: str) -> None:
        self.settled.append("failure")
        super().failure(permit, key, what)

    def give_back(self, permit: Permit) -> None:
        self.settled.append("nothing")
        super().give_back(permit)


class Recorder:
    """An own listener: told at once."""

    def __init__(self) -> None:
        self.events: List[Event] = []

    def on_task_started(self, event: Event) -> None:
        self.events.append(event)

    on_task_finished = on_write_refused = on_task_started


class Bench:
    """One partition in a real strategy, a runner, and the way from one to the other and back."""

    def __init__(self, server: fakeredis.FakeServer, **options: Any) -> None:
        options.setdefault("task_timeout", TIMEOUT)
        self.config = CoordinatorConfig(**options)
        self.store = RedisDataStore(fakeredis.FakeRedis(server=server))
        self.strategy: PartitionStrategy = create_strategy(
            StrategyType.HASH, "runner", self.store, max_attempts=self.config.max_attempts,
            max_deliveries=self.config.max_deliveries,
        )  # fmt: skip
        self.clock = ManualClock(auto_advance=True)
        self.breaker = SpyBreaker(self.clock)
        self.recorder = Recorder()
        self.task: Task
        self.report: Report
        self.logger: Any = LOGGER
        self.save: Any = self.strategy.save_checkpoint
        self.strategy.create_partitions_if_not_exist([CreatePartition(1, 101, 200, options={"table": "orders"})])

    def close(self) -> None:
        self.store.close()

    def claim(self) -> Task:
        """Claim the partition once more, as the claimer does."""
        # What waits for its next attempt is due at once here.
        client = self.strategy.store._link.client()  # type: ignore[attr-defined]
        for member in client.zrange(self.strategy.store.keys["delayed"], 0, -1):  # type: ignore[attr-defined]
            client.zadd(self.strategy.store.keys["delayed"], {member: 1})  # type: ignore[attr-defined]
        (partition,) = self.strategy.claim_partitions(WORKER)
        self.task = Task(partition, self.clock.monotonic() + TRUST, self.clock)
        self.task.permit = self.breaker.acquire()
        return self.task

    def run(self, process: Process, report: bool = True) -> Partition:
        """Run one attempt to its report; return the partition as the store has it then."""
        task = self.claim()
        events = Events("runner", WORKER, self.clock, LOGGER, own=[self.recorder])
        runner = Runner(
            process, "runner", WORKER, self.config, self.clock, events, self.save, self.breaker, self.logger
        )
        self.report = runner.run(task)
        if report:
            self.send()
        return self.strategy.get_partition(1)

    def send(self) -> Optional[PartitionStatus]:
        return self.strategy.report_partitions(WORKER, [self.report])[0].status

    def lose_to_another(self) -> Partition:
        """Have the lease run out in the store and somebody else take the partition."""
        keys = self.strategy.store.keys  # type: ignore[attr-defined]
        self.strategy.store._link.client().zadd(keys["leases"], {"%014x" % 1: 1})  # type: ignore[attr-defined]
        self.strategy.sweep()
        assert self.strategy.claim_partitions("worker-2")
        return self.strategy.get_partition(1)


@pytest.fixture
def make(fake_server: fakeredis.FakeServer) -> Iterator[Callable[..., Bench]]:
    made: List[Bench] = []

    def build(**options: Any) -> Bench:
        made.append(Bench(fake_server, **options))
        return made[-1]

    yield build
    for bench in made:
        bench.close()


@pytest.fixture
def bench(make: Callable[..., Bench]) -> Bench:
    return make()


def row(partition: Partition, bench: Bench) -> Tuple[Any, ...]:
    """Return the columns of the table: status, whether it waits for its time, attempt, deliveries, breaker."""
    return (
        partition.status,
        partition.retry_at is not None,
        partition.attempt,
        partition.deliveries,
        bench.breaker.settled,
    )


# ---------------------------------------------------------------- how a processor may end


def returns(ctx: Any, *args: Any) -> int:
    return 100


def raises(ctx: Any, *args: Any) -> None:
    raise OSError("the database is down")


def raises_permanent(ctx: Any, *args: Any) -> None:
    raise PermanentError("row 150 is broken")


def returns_interrupted(ctx: Any, *args: Any) -> int:
    assert ctx.cancelled
    return 3


def breaks_off(ctx: Any, *args: Any) -> None:
    ctx.raise_if_cancelled()
    raise AssertionError("it was not cancelled")


def looks_and_raises(ctx: Any, *args: Any) -> None:
    assert ctx.cancelled
    raise OSError("closed")


def after(bench: Bench, reason: Optional[CancelReason], ending: Process) -> Process:
    """Return a processor that is cancelled for *reason* and then ends by *ending*."""

    def process(*args: Any) -> Any:
        if reason is CancelReason.TIMEOUT:
            assert bench.task.trust(bench.clock.monotonic() + 2 * TIMEOUT)
            bench.clock.advance(TIMEOUT)
        elif reason is CancelReason.LEASE_LOST:
            bench.clock.advance(TRUST)
        elif reason is not None:
            bench.task.cancel(reason, "alice")
        return ending(*args)

    return process


INTERRUPTED = [returns_interrupted, breaks_off]


# ---------------------------------------------------------------- the table


def test_row_normal_return(bench: Bench) -> None:
    assert row(bench.run(returns), bench) == (COMPLETED, False, 0, 0, ["success"])
    assert bench.strategy.get_partition_stats().completed == 1


@pytest.mark.parametrize("attempt", [1, 2])
def test_row_exception_with_attempts_left(bench: Bench, attempt: int) -> None:
    for _ in range(attempt):
        bench.breaker.settled.clear()
        partition = bench.run(raises)
    assert row(partition, bench) == (PENDING, True, attempt, 0, ["failure"])
    assert "OSError: the database is down" in (partition.error or "")
    stats = bench.strategy.get_partition_stats()
    assert (stats.pending, stats.failed) == (1, 0), "one that waits for its time is counted as pending"


def test_row_exception_with_none_left(bench: Bench) -> None:
    for _ in range(3):
        bench.breaker.reset()
        bench.breaker.settled.clear()
        partition = bench.run(raises)
    assert row(partition, bench) == (FAILED, False, 3, 0, ["failure"])
    assert "OSError: the database is down" in (partition.error or "")


@pytest.mark.parametrize("ending", [*INTERRUPTED, looks_and_raises, raises])
def test_row_task_timeout_with_attempts_left(bench: Bench, ending: Process) -> None:
    partition = bench.run(after(bench, CancelReason.TIMEOUT, ending))
    assert row(partition, bench) == (PENDING, True, 1, 0, ["failure"])
    if ending in INTERRUPTED:
        assert partition.error == "timed out after 50 s"


@pytest.mark.parametrize("ending", [*INTERRUPTED, looks_and_raises])
def test_row_task_timeout_with_none_left(make: Callable[..., Bench], ending: Process) -> None:
    bench = make(max_attempts=1)
    partition = bench.run(after(bench, CancelReason.TIMEOUT, ending))
    assert row(partition, bench) == (FAILED, False, 1, 0, ["failure"])


@pytest.mark.parametrize("reason", [None, CancelReason.TIMEOUT])
def test_row_permanent_error(bench: Bench, reason: Optional[CancelReason]) -> None:
    partition = bench.run(after(bench, reason, raises_permanent))
    assert row(partition, bench) == (FAILED, False, 1, 0, ["nothing"])
    assert "PermanentError: row 150 is broken" in (partition.error or "")


def half_open(bench: Bench) -> None:
    for _ in range(3):
        permit = bench.breaker.acquire()
        assert permit is not None
        bench.breaker.failure(permit, 9, "down")
    bench.clock.advance(30.0)
    assert bench.breaker.state is BreakerState.HALF_OPEN
    bench.breaker.settled.clear()


@pytest.mark.parametrize("reason, ending", [(None, raises), *((CancelReason.TIMEOUT, e) for e in INTERRUPTED)])
def test_row_exception_in_a_half_open_probe(bench: Bench, reason: Optional[CancelReason], ending: Process) -> None:
    half_open(bench)
    partition = bench.run(after(bench, reason, ending))
    assert row(partition, bench) == (PENDING, True, 0, 0, ["failure"])
    assert partition.error
    assert bench.breaker.state is BreakerState.OPEN


@pytest.mark.parametrize("reason, ending", [(None, raises), *((CancelReason.TIMEOUT, e) for e in INTERRUPTED)])
def test_what_fails_while_the_breaker_is_open_burns_no_attempt(
    bench: Bench, reason: Optional[CancelReason], ending: Process
) -> None:
    def trip_first(ctx: Any, *what: Any) -> Any:
        for _ in range(3):
            permit = bench.breaker.acquire()
            assert permit is not None
            bench.breaker.failure(permit, 9, "down")
        bench.breaker.settled.clear()
        return after(bench, reason, ending)(ctx, *what)

    bench.breaker = SpyBreaker(bench.clock, open_timeout=1e6)
    partition = bench.run(trip_first)
    assert row(partition, bench) == (PENDING, True, 0, 0, ["nothing"])
    assert partition.error and bench.breaker.state is BreakerState.OPEN


def test_a_permanent_error_is_one_also_while_the_breaker_is_open(bench: Bench) -> None:
    def trip_first(ctx: Any, *what: Any) -> Any:
        for _ in range(3):
            bench.breaker.failure(bench.breaker.acquire(), 9, "down")  # type: ignore[arg-type]
        return raises_permanent(ctx, *what)

    assert bench.run(trip_first).status is FAILED


def test_a_probe_that_succeeds_counts_for_closing(bench: Bench) -> None:
    half_open(bench)
    assert row(bench.run(returns), bench) == (COMPLETED, False, 0, 0, ["success"])
    assert bench.breaker.allowance() == 1


@pytest.mark.parametrize("ending", [*INTERRUPTED, looks_and_raises, raises])
@pytest.mark.parametrize("probe", [False, True])
def test_row_stop_and_release(bench: Bench, ending: Process, probe: bool) -> None:
    if probe:
        half_open(bench)
    partition = bench.run(after(bench, CancelReason.STOP, ending))
    assert row(partition, bench) == (PENDING, False, 0, 0, ["nothing"])
    assert partition.error is None
    if probe:
        assert bench.breaker.allowance() == 2


@pytest.mark.parametrize("ending", [*INTERRUPTED, looks_and_raises])
def test_row_cancel(bench: Bench, ending: Process) -> None:
    partition = bench.run(after(bench, CancelReason.CANCELLED, ending))
    assert row(partition, bench) == (FAILED, False, 0, 0, ["nothing"])
    assert partition.error == "cancelled by alice"


@pytest.mark.parametrize("ending", INTERRUPTED)
def test_row_lease_lost_while_running(bench: Bench, ending: Process) -> None:
    partition = bench.run(after(bench, CancelReason.LEASE_LOST, ending))
    assert row(partition, bench) == (PENDING, False, 0, 1, ["nothing"])


@pytest.mark.parametrize("ending", INTERRUPTED)
def test_row_lease_lost_when_deliveries_reach_the_end(make: Callable[..., Bench], ending: Process) -> None:
    bench = make(max_deliveries=3)
    for delivery in (1, 2):
        assert bench.run(after(bench, CancelReason.LEASE_LOST, ending)).deliveries == delivery
    bench.breaker.settled.clear()
    partition = bench.run(after(bench, CancelReason.LEASE_LOST, ending))
    assert row(partition, bench) == (FAILED, False, 0, 3, ["nothing"])


def test_row_lease_lost_while_claimed_and_not_started(bench: Bench) -> None:
    called: List[Any] = []
    bench.claim()
    bench.clock.advance(TRUST)
    events = Events("runner", WORKER, bench.clock, LOGGER)
    save = bench.strategy.save_checkpoint
    runner = Runner(called.append, "runner", WORKER, bench.config, bench.clock, events, save, bench.breaker, LOGGER)
    bench.report = runner.run(bench.task)
    bench.send()
    assert called == [], "somebody else may have it by now"
    assert row(bench.strategy.get_partition(1), bench) == (PENDING, False, 0, 1, ["nothing"])


def test_row_lease_lost_a_checkpoint_that_moved_resets_the_deliveries(bench: Bench) -> None:
    for _ in range(2):
        bench.run(after(bench, CancelReason.LEASE_LOST, breaks_off))

    def saves_and_loses(ctx: Any, *args: Any) -> None:
        assert ctx.checkpoint(150)
        after(bench, CancelReason.LEASE_LOST, breaks_off)(ctx)

    partition = bench.run(saves_and_loses)
    assert (partition.status, partition.deliveries, partition.checkpoint) == (PENDING, 1, 150)


# ---------------------------------------------------------------- the paragraph under it


@pytest.mark.parametrize("reason", list(CancelReason))
def test_a_normal_return_that_never_looked_is_completed(bench: Bench, reason: CancelReason) -> None:
    partition = bench.run(after(bench, reason, returns))
    assert row(partition, bench) == (COMPLETED, False, 0, 0, ["success"])
    assert partition.processed == 100


def test_looking_before_the_cancellation_is_no_interrupted_return(bench: Bench) -> None:
    def process(ctx: Any, *args: Any) -> int:
        assert not ctx.cancelled
        return int(after(bench, CancelReason.STOP, returns)(ctx))

    assert bench.run(process).status is COMPLETED


def test_task_interrupted_without_a_cancellation_is_an_exception(bench: Bench) -> None:
    def process(ctx: Any, *args: Any) -> None:
        raise TaskInterrupted("I do not feel like it")

    partition = bench.run(process)
    assert row(partition, bench) == (PENDING, True, 1, 0, ["failure"])
    assert "TaskInterrupted: I do not feel like it" in (partition.error or "")


@pytest.mark.parametrize("reason", list(CancelReason))
def test_an_interrupted_return_whose_last_checkpoint_is_the_end_is_complete(bench: Bench, reason: CancelReason) -> None:
    def process(ctx: Any, *args: Any) -> int:
        assert ctx.checkpoint(200, 100)
        after(bench, reason, returns_interrupted)(ctx)
        return 100

    partition = bench.run(process)
    assert row(partition, bench) == (COMPLETED, False, 0, 0, ["success"])
    assert partition.processed == 100


def test_an_interrupted_return_resumes_behind_its_last_checkpoint(bench: Bench) -> None:
    def process(ctx: Any, *args: Any) -> int:
        assert ctx.checkpoint(160, 60)
        return int(after(bench, CancelReason.STOP, returns_interrupted)(ctx))

    partition = bench.run(process)
    assert (partition.status, partition.checkpoint, partition.processed) == (PENDING, 160, 60)
    seen: List[Any] = []

    def rest(ctx: Any, min_id: int, max_id: int, options: Dict[str, Any]) -> int:
        seen.append((min_id, max_id, ctx.partition.min_id, ctx.attempt))
        return 40

    partition = bench.run(rest)
    assert seen == [(161, 200, 101, 1)]
    assert (partition.status, partition.processed) == (COMPLETED, 100)


@pytest.mark.parametrize("lost", [False, True])
def test_an_attempt_with_no_id_left_is_completed_without_calling_the_processor(bench: Bench, lost: bool) -> None:
    def saves_all_and_dies(ctx: Any, *args: Any) -> None:
        assert ctx.checkpoint(200, 100)
        raise OSError("closing the file failed")

    assert bench.run(saves_all_and_dies).checkpoint == 200
    bench.breaker.settled.clear()
    called: List[Any] = []
    if lost:
        bench.task.cancel(CancelReason.LEASE_LOST)
    partition = bench.run(lambda *args: called.append(args))
    assert called == []
    assert (partition.status, partition.processed) == (COMPLETED, 100)
    assert bench.breaker.settled[0] == "nothing", "it says nothing about the user's system"


@pytest.mark.parametrize("ending, status", [(returns, COMPLETED), (raises, PENDING), (raises_permanent, FAILED)])
def test_a_token_is_valid_until_the_partition_is_taken(bench: Bench, ending: Process, status: PartitionStatus) -> None:
    def process(ctx: Any, *args: Any) -> Any:
        # The deadline passes here and in the store; nobody takes the partition.
        after(bench, CancelReason.LEASE_LOST, lambda *_: None)(ctx)
        keys = bench.strategy.store.keys  # type: ignore[attr-defined]
        bench.strategy.store._link.client().zadd(keys["leases"], {"%014x" % 1: 1})  # type: ignore[attr-defined]
        return ending(ctx, *args)

    assert bench.run(process).status is status
    assert (bench.strategy.get_partition(1).attempt > 0) == (ending is not returns)


@pytest.mark.parametrize("ending", [returns, raises, raises_permanent])
def test_once_taken_everything_the_old_holder_sends_is_refused(bench: Bench, ending: Process) -> None:
    taken: List[Partition] = []

    def process(ctx: Any, *args: Any) -> Any:
        taken.append(bench.lose_to_another())
        return ending(ctx, *args)

    bench.run(process, report=False)
    assert bench.send() is None
    assert bench.strategy.get_partition(1) == taken[0], "nothing was changed"


def test_a_checkpoint_of_a_claim_that_was_taken_ends_as_a_lost_lease(bench: Bench) -> None:
    def process(ctx: Any, *args: Any) -> None:
        bench.lose_to_another()
        ctx.checkpoint(150)
        raise AssertionError("not reached")

    bench.run(process, report=False)
    assert bench.report.outcome is Outcome.LOST
    assert [(e.kind, e.what) for e in bench.recorder.events if e.kind == "write_refused"] == [
        ("write_refused", "checkpoint")
    ]
    assert bench.send() is None


# ---------------------------------------------------------------- whatever user code raises


class Vicious(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")

    __repr__ = __str__


def endless(*args: Any) -> None:
    endless(*args)


@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), MemoryError(), RecursionError("deep"), BaseException("base"),
     StopIteration(), Vicious(), UnicodeError("\ud800"), Exception("nul \0 and \u20ac")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_whatever_is_raised_fails_the_attempt_and_goes_no_further(bench: Bench, error: BaseException) -> None:
    def process(*args: Any) -> None:
        raise error

    partition = bench.run(process)
    assert row(partition, bench) == (PENDING, True, 1, 0, ["failure"])
    assert type(error).__name__ in (partition.error or "")


def test_a_real_recursion_without_end_fails_the_attempt(bench: Bench) -> None:
    partition = bench.run(endless)
    assert row(partition, bench) == (PENDING, True, 1, 0, ["failure"])
    assert "RecursionError" in (partition.error or "")
    assert len((partition.error or "").encode()) <= 4096


def test_the_traceback_is_kept_without_our_own_frames(bench: Bench) -> None:
    def deeper() -> None:
        raise OSError("the database is down")

    def process(*args: Any) -> None:
        deeper()

    error = bench.run(process).error or ""
    assert error.rstrip().endswith("OSError: the database is down")
    assert "in deeper" in error and "in process" in error and "deeper()" in error
    assert 'runner.py", line' not in error.replace("test_runner.py", "")


@pytest.mark.parametrize("text", ["x" * 10_000, "\u20ac" * 10_000])
def test_of_a_long_error_the_last_4_kib_are_kept(bench: Bench, text: str) -> None:
    def process(*args: Any) -> None:
        raise OSError(text + " the end")

    error = bench.run(process).error or ""
    assert 4000 < len(error.encode()) <= 4096
    assert error.startswith("... ")
    assert error.rstrip().endswith(text[:100] + " the end")


def test_an_error_outlives_a_later_interruption(bench: Bench) -> None:
    bench.run(raises)
    partition = bench.run(after(bench, CancelReason.STOP, breaks_off))
    assert "the database is down" in (partition.error or "")


def test_the_pause_before_the_next_attempt_grows_to_its_limit(make: Callable[..., Bench]) -> None:
    bench = make(max_attempts=9, retry_backoff=(2.0, 20.0))
    bench.breaker = SpyBreaker(bench.clock, consecutive_failures=1000, total_failures=1000)
    delays = []
    for _ in range(6):
        bench.run(raises)
        delays.append(bench.report.delay)
    for delay, most in zip(delays, [2, 4, 8, 16, 20, 20]):
        assert 0.8 * most <= delay <= most


# ---------------------------------------------------------------- what it returns


@pytest.mark.parametrize("result, processed", [(0, 0), (7, 7), (2**53 - 1, 2**53 - 1), (None, 0)])
def test_the_count_is_what_it_returns(bench: Bench, result: Optional[int], processed: int) -> None:
    partition = bench.run(lambda *args: result)
    assert (partition.status, partition.processed) == (COMPLETED, processed)


@pytest.mark.parametrize("result, processed", [(None, 30), (25, 25), ("nonsense", 30)])
def test_the_count_of_the_last_checkpoint_stands_in_for_none(bench: Bench, result: Any, processed: int) -> None:
    def process(ctx: Any, *args: Any) -> Any:
        ctx.checkpoint(130, 30)
        return result

    assert bench.run(process).processed == processed


NONSENSE = [True, False, -1, 2**53, 10**5000, 1.5, float("nan"), "100", b"1", [1] * 1000, {}, object(), OSError(), int]


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no text for you")


@pytest.mark.parametrize("result", [*NONSENSE, Unprintable()], ids=lambda value: type(value).__name__)
def test_a_nonsense_return_value_completes_with_a_warning(
    bench: Bench, result: Any, caplog: pytest.LogCaptureFixture
) -> None:
    partition = bench.run(lambda *args: result)
    assert row(partition, bench) == (COMPLETED, False, 0, 0, ["success"])
    assert partition.processed == 0
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "partition 1: process() returned" in record.getMessage()
    assert len(record.getMessage()) < 300


# ---------------------------------------------------------------- what it is given


def test_the_processor_gets_context_range_and_a_copy_of_the_options(bench: Bench) -> None:
    seen: List[Any] = []

    def process(ctx: Any, min_id: int, max_id: int, options: Dict[str, Any]) -> None:
        seen.append((min_id, max_id, dict(options), ctx.options is options, ctx.namespace, ctx.worker_id))
        assert ctx.fencing_token == bench.task.token == ctx.partition.fencing_token
        options["table"] = "changed"

    bench.run(process)
    options = {"table": "orders", "partition_id": 1, "worker_id": WORKER}
    assert seen == [(101, 200, options, True, "runner", WORKER)]
    assert bench.strategy.get_partition(1).options == {"table": "orders"}
    assert bench.task.partition.options == {"table": "orders"}


def test_tokens_rise_from_attempt_to_attempt_and_attempts_count_from_one(bench: Bench) -> None:
    seen: List[Tuple[int, int]] = []

    def process(ctx: Any, *args: Any) -> None:
        seen.append((ctx.attempt, ctx.fencing_token))
        raise OSError

    for _ in range(3):
        bench.breaker.reset()
        bench.run(process)
    assert [attempt for attempt, _ in seen] == [1, 2, 3]
    assert sorted({token for _, token in seen}) == [token for _, token in seen]


def test_a_processor_is_an_object_with_a_method_or_a_function() -> None:
    class Both:
        def process(self, *args: Any) -> str:
            return "method"

        def __call__(self, *args: Any) -> str:
            return "call"

    assert processor_function(Both())() == "method"  # type: ignore[call-arg]
    assert processor_function(returns) is returns
    for wrong in (Both, object(), None, "process", 7):
        with pytest.raises(ConfigError, match="processor:"):
            processor_function(wrong)


# ---------------------------------------------------------------- around it


def test_events_tell_start_and_end(bench: Bench) -> None:
    def process(*args: Any) -> int:
        bench.clock.advance(2.0)
        return 5

    bench.run(process)
    started, finished = bench.recorder.events
    assert (started.kind, started.partition_id, started.token, started.attempt) == (
        "task_started", 1, bench.task.token, 1
    )  # fmt: skip
    assert (finished.kind, finished.outcome, finished.seconds, finished.processed, finished.error_type) == (
        "task_finished", Outcome.COMPLETED, 2.0, 5, ""
    )  # fmt: skip


def test_events_count_nothing_for_an_attempt_that_was_not_completed(bench: Bench) -> None:
    def process(ctx: Any, *args: Any) -> None:
        ctx.checkpoint(130, 30)
        raise OSError

    bench.run(process)
    bench.run(after(bench, CancelReason.STOP, breaks_off))
    finished = [event for event in bench.recorder.events if event.kind == "task_finished"]
    assert [(event.processed, event.error_type) for event in finished] == [(0, "OSError"), (0, "TaskInterrupted")]


def test_a_task_waiting_when_the_breaker_opens_goes_back_without_having_run(bench: Bench) -> None:
    bench.claim()
    for _ in range(3):
        permit = bench.breaker.acquire()
        assert permit is not None
        bench.breaker.failure(permit, 9, "down")
    bench.breaker.settled.clear()
    called: List[Any] = []
    events = Events("runner", WORKER, bench.clock, LOGGER, own=[bench.recorder])
    save = bench.strategy.save_checkpoint
    runner = Runner(called.append, "runner", WORKER, bench.config, bench.clock, events, save, bench.breaker, LOGGER)
    bench.report = runner.run(bench.task)
    bench.send()
    assert called == [] and bench.recorder.events == []
    assert row(bench.strategy.get_partition(1), bench) == (PENDING, False, 0, 0, ["nothing"])


def test_calls_by_retrying_inside_a_probe_are_part_of_it(bench: Bench) -> None:
    half_open(bench)
    first = bench.breaker.acquire()
    assert first is not None, "leaves one permit, for the task"

    def process(*args: Any) -> int:
        return int(bench.breaker.retrying()(lambda: 9))

    began = bench.clock.monotonic()
    assert bench.run(process).status is COMPLETED
    assert bench.clock.monotonic() == began
    assert getattr(bench.breaker._here, "permit", None) is None


def test_without_a_breaker_all_of_it_works_too(bench: Bench) -> None:
    for process, status in ((raises, PENDING), (returns, COMPLETED)):
        task = bench.claim()
        events = Events("runner", WORKER, bench.clock, LOGGER)
        save = bench.strategy.save_checkpoint
        runner = Runner(process, "runner", WORKER, bench.config, bench.clock, events, save, None, LOGGER)
        bench.report = runner.run(task)
        assert bench.send() is status


class Breaking(logging.Handler):
    """A log handler of the user's that lets its own errors out."""

    def emit(self, record: logging.LogRecord) -> None:
        raise SystemExit("the log is full")


def test_a_broken_log_handler_fails_the_attempt_and_no_thread(bench: Bench) -> None:
    bench.logger = logging.Logger("broken")
    bench.logger.addHandler(Breaking())
    partition = bench.run(lambda *args: "nonsense")
    assert (partition.status, partition.attempt) == (PENDING, 1)
    assert "the log is full" in (partition.error or "")
    assert bench.breaker.settled == ["nothing"]


def test_a_checkpoint_whose_answer_is_lost_is_durable_all_the_same(bench: Bench) -> None:
    faulty = Faulty(bench.strategy)
    bench.save = faulty.save_checkpoint
    faulty.commit_then_lose("save_checkpoint", 1, StoreUnavailable("lost"))

    def process(ctx: Any, *args: Any) -> None:
        assert ctx.checkpoint(150, 50) is False
        raise OSError

    partition = bench.run(process)
    assert (partition.checkpoint, partition.processed) == (150, 50)


def test_reports_are_values_that_can_be_sent_again(bench: Bench) -> None:
    bench.run(returns)
    again = attr.evolve(bench.report)
    assert bench.strategy.report_partitions(WORKER, [again])[0].status is COMPLETED
    assert bench.strategy.get_partition_stats().completed == 1


@pytest.mark.parametrize("reason", [CancelReason.STOP, CancelReason.CANCELLED])
def test_a_task_cancelled_before_it_began_is_not_begun(bench: Bench, reason: CancelReason) -> None:
    called: List[Any] = []
    bench.claim().cancel(reason, "alice")
    events = Events("runner", WORKER, bench.clock, LOGGER)
    save = bench.strategy.save_checkpoint

    def process(*given: Any) -> None:
        called.append(given)

    runner = Runner(process, "runner", WORKER, bench.config, bench.clock, events, save, bench.breaker, LOGGER)
    bench.report = runner.run(bench.task)
    bench.send()
    assert called == []
    status = PENDING if reason is CancelReason.STOP else FAILED
    assert row(bench.strategy.get_partition(1), bench) == (status, False, 0, 0, ["nothing"])
