"""``run_inline``: what a user's unit test sees is what a worker would do, only at once and in this thread."""

from __future__ import annotations

import threading
from typing import Any, Dict, List, Optional, Tuple

import pytest

from elk_coordinator import CreatePartition, PartitionStatus, PermanentError, TaskInterrupted
from elk_coordinator.errors import ConfigError, PlannerError
from elk_coordinator.model import CancelReason
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.testing import InlineFailure, run_inline


class Numbers:
    def __init__(self, last: int = 95, size: int = 10) -> None:
        self.last, self.size = last, size

    def partition_size(self, ctx: Any) -> int:
        return self.size

    def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> int:
        return min(self.last, start_id + range_size)


class Sparse(Numbers):
    """Data at 1 to 5, at a billion, nowhere between."""

    def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> int:
        there = [i for i in (*range(1, 6), 10**9) if start_id < i <= start_id + range_size]
        return max(there, default=start_id)


def test_every_id_is_processed_once_in_this_thread_and_in_order() -> None:
    before = threading.active_count()
    seen: List[int] = []
    threads = set()

    def process(ctx: Any, low: int, high: int, options: Dict[str, Any]) -> int:
        threads.add(threading.get_ident())
        assert options == {"partition_id": ctx.partition.partition_id, "worker_id": ctx.worker_id} == ctx.options
        assert (ctx.attempt, ctx.namespace, ctx.cancelled.is_set()) == (1, "inline", False)
        seen.extend(range(low, high + 1))
        return high - low + 1

    result = run_inline(process, Numbers(95))
    assert seen == list(range(1, 96))
    assert threads == {threading.get_ident()} and threading.active_count() == before
    assert (result.stats.total, result.stats.completed, result.processed) == (10, 10, 95)
    assert [(p.min_id, p.max_id) for p in result.partitions][-1] == (91, 95)
    assert not result.errors and not result.failed


def test_tokens_rise_from_grant_to_grant() -> None:
    tokens: List[int] = []
    run_inline(lambda ctx, low, high, options: tokens.append(ctx.fencing_token), Numbers(50))
    assert len(tokens) == 5 and tokens == sorted(set(tokens))


def test_a_failing_attempt_is_retried_without_waiting_and_behind_its_checkpoint() -> None:
    calls: List[Tuple[int, int]] = []

    def process(ctx: Any, low: int, high: int, options: Dict[str, Any]) -> int:
        calls.append((low, ctx.attempt))
        if ctx.attempt == 1:
            assert ctx.checkpoint(low + 3, 4)
            raise OSError("the disk is full")
        return high - low + 1

    began = Clock().monotonic()
    result = run_inline(process, Numbers(10), retry_backoff=(300.0, 600.0))
    assert calls == [(1, 1), (5, 2)]
    assert [(e.partition_id, e.attempt, str(e.error)) for e in result.errors] == [(1, 1, "the disk is full")]
    assert (result.partitions[0].attempt, result.processed) == (1, 10)
    assert Clock().monotonic() - began < 60.0


def test_a_partition_that_fails_for_good_is_an_assertion_error_caused_by_the_users_exception() -> None:
    attempts: List[int] = []

    def process(ctx: Any, low: int, high: int, options: Dict[str, Any]) -> None:
        if low == 11:
            attempts.append(ctx.attempt)
            raise KeyError("no such order")

    with pytest.raises(InlineFailure, match=r"1 of 3 partitions failed; the first is 2 \[11, 20\]") as failure:
        run_inline(process, Numbers(30))
    assert attempts == [1, 2, 3]
    assert isinstance(failure.value, AssertionError) and isinstance(failure.value.__cause__, KeyError)
    assert failure.value.result.stats.completed == 2
    result = run_inline(process, Numbers(30), check=False, max_attempts=1)
    assert [p.partition_id for p in result.failed] == [2] and result.stats.failed == 1
    assert "no such order" in (result.failed[0].error or "")


def test_a_permanent_error_gets_no_second_attempt() -> None:
    def process(ctx: Any, low: int, high: int, options: Dict[str, Any]) -> None:
        raise PermanentError("malformed")

    result = run_inline(process, Numbers(10), check=False)
    assert [e.attempt for e in result.errors] == [1] and len(result.failed) == 1


def test_a_stop_after_a_checkpoint_burns_no_attempt_and_the_next_one_resumes() -> None:
    calls: List[Tuple[int, int]] = []
    reasons: List[Optional[CancelReason]] = []

    def process(ctx: Any, low: int, high: int, options: Dict[str, Any]) -> None:
        calls.append((low, ctx.attempt))
        for done in range(low, high + 1):
            try:
                ctx.raise_if_cancelled()
            except TaskInterrupted:
                reasons.append(ctx.cancel_reason)
                raise
            ctx.checkpoint(done)

    result = run_inline(process, Numbers(20), interrupt_after_checkpoints=4)
    assert calls == [(1, 1), (5, 1), (11, 1), (15, 1)]
    assert reasons == [CancelReason.STOP] * 2
    assert not result.errors and {p.status for p in result.partitions} == {PartitionStatus.COMPLETED}


def test_a_processor_that_does_not_look_is_not_stopped() -> None:
    calls: List[int] = []

    def process(ctx: Any, low: int, high: int, options: Dict[str, Any]) -> None:
        calls.append(low)
        ctx.checkpoint(low)

    run_inline(process, Numbers(10), interrupt_after_checkpoints=1)
    assert calls == [1]


def test_waiting_takes_no_time_and_loses_no_lease() -> None:
    def process(ctx: Any, low: int, high: int, options: Dict[str, Any]) -> None:
        assert not ctx.wait(86400.0)
        assert ctx.checkpoint(high)

    began = Clock().monotonic()
    assert run_inline(process, Numbers(30)).stats.completed == 3
    assert Clock().monotonic() - began < 60.0


def test_a_task_timeout_passes_by_waiting_and_counts_as_a_failed_attempt() -> None:
    def process(ctx: Any, low: int, high: int, options: Dict[str, Any]) -> None:
        if ctx.attempt == 1:
            assert ctx.wait(10.0) and ctx.cancel_reason is CancelReason.TIMEOUT
            ctx.raise_if_cancelled()

    result = run_inline(process, Numbers(10), task_timeout=5.0)
    assert (result.partitions[0].status, result.partitions[0].attempt) == (PartitionStatus.COMPLETED, 1)


def test_partitions_stand_in_for_a_planner_with_options_and_priorities() -> None:
    seen: List[Tuple[int, Any]] = []
    run_inline(
        lambda ctx, low, high, options: seen.append((low, options.get("colour"))),
        partitions=[CreatePartition(1, 1, 5), CreatePartition(2, 10, 20, priority=5, options={"colour": "red"})],
    )
    assert seen == [(10, "red"), (1, None)]


def test_a_planner_that_never_ends_is_a_clear_error() -> None:
    class Endless(Numbers):
        def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> int:
            return start_id + range_size

    with pytest.raises(InlineFailure, match=r"more than 40 partitions \(max_partitions\)") as failure:
        run_inline(lambda *args: None, Endless(), max_partitions=40)
    assert failure.value.result.stats.total > 40
    assert run_inline(lambda *args: None, Numbers(400), max_partitions=40).stats.completed == 40


def test_holes_are_found_and_skipped_as_by_a_leader() -> None:
    seen: List[Tuple[int, int]] = []
    result = run_inline(lambda ctx, low, high, options: seen.append((low, high)), Sparse())
    assert seen == [(1, 5), (10**9, 10**9)] and list(result.skipped) == [(6, 10**9 - 1)]


def test_a_planner_that_raises_is_a_planner_error_with_its_cause() -> None:
    class Broken(Numbers):
        def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> int:
            raise ZeroDivisionError("no database")

    with pytest.raises(PlannerError, match="no database") as failure:
        run_inline(lambda *args: None, Broken())
    assert isinstance(failure.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("ending", [KeyboardInterrupt(), pytest.fail.Exception("a double was called twice")])
def test_what_ends_the_test_goes_through(ending: BaseException) -> None:
    def process(ctx: Any, low: int, high: int, options: Dict[str, Any]) -> None:
        raise ending

    with pytest.raises(type(ending)):
        run_inline(process, Numbers(10))


def test_listeners_hear_what_became_of_partitions() -> None:
    heard: List[str] = []

    class Ear:
        def on_partition_completed(self, event: Any) -> None:
            heard.append("completed %d" % event.partition_id)

        def on_partition_retried(self, event: Any) -> None:
            heard.append("retried %d (%d)" % (event.partition_id, event.attempt))

    def process(ctx: Any, low: int, high: int, options: Dict[str, Any]) -> None:
        if low == 1 and ctx.attempt == 1:
            raise ValueError

    run_inline(process, Numbers(20), listeners=[Ear()])
    assert heard == ["retried 1 (1)", "completed 2", "completed 1"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_partitions": 0}, "max_partitions"),
        ({"interrupt_after_checkpoints": True}, "interrupt_after_checkpoints"),
        ({"strategy": "hash"}, "strategy"),
        ({"colour": "red"}, "colour"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"planner": None}, "planner"),
    ],
)
def test_a_bad_option_is_refused_at_the_door(options: Dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_inline(lambda *args: None, **dict({"planner": Numbers()}, **options))
