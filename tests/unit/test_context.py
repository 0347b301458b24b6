"""What a running partition knows: cancellation computed by the clock, and checkpoints that only move forward."""

from __future__ import annotations

import threading
from typing import Any, Callable, List, Optional, Tuple

import pytest

from elk_coordinator.errors import StoreUnavailable, TaskInterrupted
from elk_coordinator.model import CancelReason, Partition, PartitionStatus
from elk_coordinator.testing import ManualClock, wait_until
from elk_coordinator.worker.context import Task, TaskContext

TOKEN = 1_700_000_000_000_001
#: Seconds from the start of a test to the end of its lease's trust.
TRUST = 27.0


def partition(**facts: Any) -> Partition:
    values = {"partition_id": 7, "min_id": 101, "max_id": 200, "status": PartitionStatus.RUNNING, **facts}
    return Partition(fencing_token=TOKEN, **values)


class Saves:
    """The store's side of a checkpoint: remembers what it was asked, answers what it is told to."""

    def __init__(self) -> None:
        self.asked: List[Tuple[int, int, int, int]] = []
        self.answer: Any = True

    def __call__(self, partition_id: int, token: int, checkpoint: int, processed: int) -> bool:
        self.asked.append((partition_id, token, checkpoint, processed))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return bool(self.answer)


class Bench:
    """One task with its context, on a clock that stands still."""

    def __init__(self, timeout: Optional[float] = None, **facts: Any) -> None:
        self.clock = ManualClock()
        self.saves = Saves()
        self.refused: List[Tuple[Task, str]] = []
        self.task = Task(partition(**facts), self.clock.monotonic() + TRUST, self.clock)
        self.task.begin(timeout)
        self.options = {"table": "orders"}
        self.ctx = TaskContext(
            self.task, "orders", "worker-1", self.options, self.saves, lambda *refused: self.refused.append(refused)
        )

    def renew(self) -> bool:
        return self.task.trust(self.clock.monotonic() + TRUST)


# ---------------------------------------------------------------- facts


def test_the_context_knows_the_facts_of_its_attempt() -> None:
    bench = Bench(attempt=2, checkpoint=150)
    ctx = bench.ctx
    assert (ctx.namespace, ctx.worker_id, ctx.attempt, ctx.fencing_token) == ("orders", "worker-1", 3, TOKEN)
    assert ctx.options is bench.options
    assert ctx.min_id == 151, "behind the checkpoint"
    assert (ctx.partition.min_id, ctx.partition.max_id) == (101, 200), "the partition's own range stays"


def test_attempts_count_from_one() -> None:
    assert Bench().ctx.attempt == 1


# ---------------------------------------------------------------- cancellation by the clock


def test_nothing_is_cancelled_while_the_lease_can_be_proved() -> None:
    bench = Bench(timeout=1000.0)
    bench.clock.advance(TRUST - 0.001)
    assert not bench.ctx.cancelled.is_set()
    assert not bench.ctx.cancelled
    assert bench.ctx.cancel_reason is None
    assert not bench.task.lost()
    bench.ctx.raise_if_cancelled()


def test_the_lease_is_lost_by_the_clock_alone_without_any_thread() -> None:
    bench = Bench()
    bench.clock.advance(TRUST)
    assert bench.ctx.cancelled.is_set()
    assert bench.ctx.cancel_reason is CancelReason.LEASE_LOST
    assert bench.task.lost()


@pytest.mark.parametrize("wait", [lambda ctx: ctx.wait, lambda ctx: ctx.cancelled.wait], ids=["wait", "cancelled"])
def test_a_wait_for_nan_is_refused_instead_of_spinning(wait: Callable[[Any], Callable[[float], bool]]) -> None:
    with pytest.raises(ValueError, match="nan"):
        wait(Bench().ctx)(float("nan"))


def test_a_frozen_worker_sees_the_loss_at_its_first_look() -> None:
    bench = Bench()
    bench.clock.advance(1e6)
    assert bench.ctx.cancelled
    assert bench.task.since() == 1000.0 + TRUST, "since the deadline, not since the look"


def test_task_timeout_cancels_by_the_clock_and_counts_from_the_start() -> None:
    bench = Bench(timeout=5.0)
    bench.clock.advance(4.999)
    assert not bench.ctx.cancelled
    bench.clock.advance(0.001)
    assert bench.ctx.cancel_reason is CancelReason.TIMEOUT
    assert bench.task.since() == 1005.0
    assert not bench.task.lost(), "the lease is still good"


@pytest.mark.parametrize(
    "timeout, reason",
    [(TRUST - 1, CancelReason.TIMEOUT), (TRUST, CancelReason.LEASE_LOST), (TRUST + 1, CancelReason.LEASE_LOST)],
)
def test_who_looks_after_both_deadlines_gets_the_one_that_came_first(timeout: float, reason: CancelReason) -> None:
    bench = Bench(timeout=timeout)
    bench.clock.advance(1e5)
    assert bench.ctx.cancel_reason is reason
    assert bench.task.since() == 1000.0 + min(timeout, TRUST)
    assert bench.task.lost(), "whatever came first, the lease cannot be proved any more"


@pytest.mark.parametrize("reason", list(CancelReason))
def test_cancelling_sets_it_at_once_with_its_reason(reason: CancelReason) -> None:
    bench = Bench()
    assert bench.task.cancel(reason, "alice") is True
    assert bench.ctx.cancelled.is_set()
    assert bench.ctx.cancel_reason is reason
    assert bench.task.cancelled_by == "alice"
    assert bench.task.since() == 1000.0


@pytest.mark.parametrize("first", list(CancelReason))
@pytest.mark.parametrize("second", list(CancelReason))
def test_the_first_reason_stays(first: CancelReason, second: CancelReason) -> None:
    bench = Bench()
    bench.task.cancel(first, "alice")
    bench.clock.advance(1.0)
    assert bench.task.cancel(second, "bob") is False
    assert bench.ctx.cancel_reason is first
    assert bench.task.cancelled_by == "alice"
    assert bench.task.since() == 1000.0


@pytest.mark.parametrize("timeout, reason", [(None, CancelReason.LEASE_LOST), (5.0, CancelReason.TIMEOUT)])
def test_a_deadline_that_passed_unseen_is_before_a_later_stop(timeout: Optional[float], reason: CancelReason) -> None:
    bench = Bench(timeout=timeout)
    bench.clock.advance(TRUST + 1)
    assert bench.task.cancel(CancelReason.STOP) is False
    assert bench.ctx.cancel_reason is reason


def test_the_reason_stays_when_more_deadlines_pass() -> None:
    bench = Bench(timeout=5.0)
    bench.task.cancel(CancelReason.STOP)
    bench.clock.advance(1e5)
    assert bench.ctx.cancel_reason is CancelReason.STOP


# ---------------------------------------------------------------- renewals


def test_a_renewal_in_time_moves_the_end_of_trust() -> None:
    bench = Bench()
    for _ in range(20):
        bench.clock.advance(TRUST - 1)
        assert bench.renew() is True
    assert not bench.ctx.cancelled
    bench.clock.advance(TRUST)
    assert bench.ctx.cancel_reason is CancelReason.LEASE_LOST


@pytest.mark.parametrize("looked", [True, False])
def test_a_late_renewal_never_revives_a_lease(looked: bool) -> None:
    bench = Bench()
    bench.clock.advance(TRUST)
    if looked:
        assert bench.ctx.cancelled
    assert bench.renew() is False
    assert bench.ctx.cancel_reason is CancelReason.LEASE_LOST
    assert bench.task.lost()


def test_a_renewal_never_revives_a_lease_that_the_store_called_gone() -> None:
    bench = Bench()
    bench.task.cancel(CancelReason.LEASE_LOST, "the store")
    assert bench.renew() is False
    assert bench.task.lost()


def test_a_renewal_that_overtook_a_newer_one_takes_nothing_back() -> None:
    bench = Bench()
    assert bench.task.trust(1000.0 + 50)
    assert bench.task.trust(1000.0 + 40)
    bench.clock.advance(45)
    assert not bench.ctx.cancelled


def test_a_stopped_task_keeps_its_lease_by_renewals() -> None:
    bench = Bench()
    bench.task.cancel(CancelReason.STOP)
    bench.clock.advance(TRUST - 1)
    assert bench.renew() is True
    bench.clock.advance(TRUST - 1)
    assert not bench.task.lost()


def test_a_stopped_task_whose_lease_ran_out_holds_nothing_and_is_not_revived() -> None:
    bench = Bench()
    bench.task.cancel(CancelReason.STOP)
    bench.clock.advance(TRUST)
    assert bench.task.lost()
    assert bench.renew() is False
    assert bench.task.lost()
    assert bench.ctx.cancel_reason is CancelReason.STOP


# ---------------------------------------------------------------- seen, or not seen


def test_looking_before_the_cancellation_is_not_seeing_it() -> None:
    bench = Bench()
    assert not bench.ctx.cancelled.is_set()
    assert not bench.ctx.cancelled
    assert not bench.ctx.cancelled.wait(0)
    assert not bench.ctx.wait(0)
    assert bench.ctx.cancel_reason is None
    bench.ctx.raise_if_cancelled()
    bench.task.cancel(CancelReason.STOP)
    assert not bench.task.seen


def test_asking_the_task_itself_is_not_the_processor_seeing_it() -> None:
    bench = Bench()
    bench.clock.advance(TRUST)
    assert bench.task.reason() is not None and bench.task.lost() and bench.task.wait(1)
    assert not bench.task.seen


LOOKS = {
    "is_set": lambda ctx: ctx.cancelled.is_set(),
    "bool": lambda ctx: bool(ctx.cancelled),
    "cancelled.wait": lambda ctx: ctx.cancelled.wait(1.0),
    "cancelled.wait for ever": lambda ctx: ctx.cancelled.wait(),
    "wait": lambda ctx: ctx.wait(1.0),
    "cancel_reason": lambda ctx: ctx.cancel_reason is not None,
    "raise_if_cancelled": lambda ctx: raises_interrupted(ctx.raise_if_cancelled),
}


def raises_interrupted(call: Callable[[], Any]) -> bool:
    with pytest.raises(TaskInterrupted):
        call()
    return True


@pytest.mark.parametrize("look", sorted(LOOKS))
@pytest.mark.parametrize("reason", list(CancelReason))
def test_every_way_to_look_counts_as_having_seen_it(look: str, reason: CancelReason) -> None:
    bench = Bench()
    bench.task.cancel(reason)
    assert LOOKS[look](bench.ctx)
    assert bench.task.seen


def test_raise_if_cancelled_names_partition_and_reason_and_passes_through_except_exception() -> None:
    bench = Bench()
    bench.task.cancel(CancelReason.TIMEOUT)
    with pytest.raises(TaskInterrupted, match="partition 7 was cancelled: timeout"):
        try:
            bench.ctx.raise_if_cancelled()
        except Exception:  # what user code likes to write
            pytest.fail("TaskInterrupted must not be an Exception")


# ---------------------------------------------------------------- waiting


def in_thread(call: Callable[[], Any]) -> "Tuple[threading.Thread, List[Any]]":
    answers: List[Any] = []
    thread = threading.Thread(target=lambda: answers.append(call()), daemon=True)
    thread.start()
    return thread, answers


def test_wait_wakes_at_once_when_cancelled() -> None:
    bench = Bench()
    waiters = [in_thread(lambda: bench.ctx.wait(3600)), in_thread(bench.ctx.cancelled.wait)]
    wait_until(lambda: bench.clock.waiting == 2, what="both to wait")
    bench.task.cancel(CancelReason.STOP)
    for thread, answers in waiters:
        thread.join(10)
        assert answers == [True]
    assert bench.task.seen
    assert bench.clock.monotonic() == 1000.0, "no time had to pass"


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_wait_wakes_when_a_deadline_comes(timeout: Optional[float]) -> None:
    bench = Bench(timeout=timeout)
    thread, answers = in_thread(lambda: bench.ctx.wait(3600))
    wait_until(lambda: bench.clock.waiting == 1)
    bench.clock.advance(timeout or TRUST)
    thread.join(10)
    assert answers == [True]


def test_wait_sleeps_its_time_and_says_that_nothing_was_cancelled() -> None:
    bench = Bench()
    thread, answers = in_thread(lambda: bench.ctx.wait(5))
    wait_until(lambda: bench.clock.waiting == 1)
    bench.clock.advance(4.9)
    thread.join(0.05)
    assert thread.is_alive()
    bench.clock.advance(0.1)
    thread.join(10)
    assert answers == [False]


def test_wait_goes_on_when_the_lease_is_renewed_meanwhile() -> None:
    bench = Bench()
    thread, answers = in_thread(lambda: bench.ctx.wait(100))
    wait_until(lambda: bench.clock.waiting == 1)
    for _ in range(4):
        bench.clock.advance(TRUST - 2)
        assert bench.renew()
    wait_until(lambda: not thread.is_alive(), what="the wait of 100 s to end after 4 x 25 s")
    assert answers == [False]
    assert not bench.ctx.cancelled


@pytest.mark.parametrize("seconds", [0, -1, 0.0])
def test_waiting_for_no_time_asks_and_returns(seconds: float) -> None:
    bench = Bench()
    assert bench.ctx.wait(seconds) is False
    bench.task.cancel(CancelReason.STOP)
    assert bench.ctx.wait(seconds) is True


# ---------------------------------------------------------------- checkpoints


def test_a_checkpoint_goes_to_the_store_with_token_and_progress_of_all_attempts() -> None:
    bench = Bench(processed=40, checkpoint=140)
    assert bench.ctx.checkpoint(150, processed=9) is True
    assert bench.saves.asked == [(7, TOKEN, 150, 49)]
    assert (bench.task.saved, bench.task.saved_processed) == (150, 9)


def test_a_checkpoint_without_a_count_counts_nothing() -> None:
    bench = Bench(processed=40)
    assert bench.ctx.checkpoint(150) is True
    assert bench.saves.asked == [(7, TOKEN, 150, 40)]


@pytest.mark.parametrize("value", [100, 101, 150, 200])
def test_every_id_from_before_the_first_to_the_last_may_be_a_checkpoint(value: int) -> None:
    assert Bench().ctx.checkpoint(value) is True


@pytest.mark.parametrize("value", [99, 201, -1, 2**63, True, 150.0, "150", None])
def test_anything_else_is_a_value_error_and_not_sent(value: Any) -> None:
    bench = Bench()
    with pytest.raises(ValueError, match=r"in \[100, 200\]"):
        bench.ctx.checkpoint(value)
    assert bench.saves.asked == []


def test_after_a_checkpoint_of_an_earlier_attempt_the_bounds_are_those_that_process_got() -> None:
    bench = Bench(checkpoint=150)
    with pytest.raises(ValueError, match=r"in \[150, 200\]"):
        bench.ctx.checkpoint(149)
    assert bench.ctx.checkpoint(150) is True, "min_id - 1: nothing done yet"
    assert bench.ctx.checkpoint(151) is True
    assert [asked[2] for asked in bench.saves.asked] == [151]


@pytest.mark.parametrize("processed", [-1, True, 1.0, "1", None, 2**53])
def test_a_count_that_is_none_is_a_value_error_and_not_sent(processed: Any) -> None:
    bench = Bench()
    with pytest.raises(ValueError, match="processed must be"):
        bench.ctx.checkpoint(150, processed)
    assert bench.saves.asked == []


def test_a_wrong_value_is_told_even_when_the_claim_is_gone() -> None:
    bench = Bench()
    bench.task.cancel(CancelReason.LEASE_LOST)
    with pytest.raises(ValueError):
        bench.ctx.checkpoint(201)


def test_before_the_first_id_there_is_nothing_to_save() -> None:
    bench = Bench()
    assert bench.ctx.checkpoint(100) is True
    assert bench.saves.asked == []


def test_a_checkpoint_only_moves_forward() -> None:
    bench = Bench()
    assert bench.ctx.checkpoint(150, 5)
    for late in (149, 101, 150):
        assert bench.ctx.checkpoint(late, 4) is True, "what is asked for is durable already"
    assert bench.ctx.checkpoint(151, 6)
    assert [asked[2] for asked in bench.saves.asked] == [150, 151]
    assert (bench.task.saved, bench.task.saved_processed) == (151, 6)


def test_a_checkpoint_overtaken_by_another_thread_of_the_processor_takes_nothing_back() -> None:
    bench = Bench()
    overtaken = threading.Event()
    plain = bench.saves

    def save(*args: int) -> bool:
        done = plain(*args)
        if args[2] == 110:
            # Its answer is on the way while the one for 190 comes and goes.
            assert overtaken.wait(10)
        return done

    ctx = TaskContext(bench.task, "orders", "worker-1", {}, save, lambda task, what: None)
    thread, answers = in_thread(lambda: ctx.checkpoint(110, 10))
    wait_until(lambda: len(plain.asked) == 1)
    assert ctx.checkpoint(190, 90) is True
    overtaken.set()
    thread.join(10)
    assert answers == [True]
    assert (bench.task.saved, bench.task.saved_processed) == (190, 90)


def test_a_store_that_cannot_be_asked_makes_it_false_and_the_work_goes_on() -> None:
    bench = Bench()
    bench.saves.answer = StoreUnavailable("away")
    assert bench.ctx.checkpoint(150, 5) is False
    assert not bench.ctx.cancelled and bench.task.saved is None
    bench.saves.answer = True
    assert bench.ctx.checkpoint(150, 5) is True, "the same one again, later"
    assert bench.task.saved == 150


def test_a_claim_that_is_gone_interrupts_and_counts_as_seen() -> None:
    bench = Bench()
    bench.saves.answer = False
    with pytest.raises(TaskInterrupted, match="partition 7 was cancelled: lease_lost"):
        bench.ctx.checkpoint(150)
    assert bench.task.seen
    assert bench.ctx.cancel_reason is CancelReason.LEASE_LOST
    assert bench.refused == [(bench.task, "checkpoint")]
    assert bench.task.saved is None


def test_a_claim_that_is_gone_interrupts_also_when_another_reason_came_first() -> None:
    bench = Bench()
    bench.task.cancel(CancelReason.STOP)
    bench.saves.answer = False
    with pytest.raises(TaskInterrupted):
        bench.ctx.checkpoint(150)
    assert bench.ctx.cancel_reason is CancelReason.STOP


@pytest.mark.parametrize("stopped_before", [False, True])
def test_a_lease_that_cannot_be_proved_interrupts_without_asking_the_store(stopped_before: bool) -> None:
    bench = Bench()
    if stopped_before:
        bench.task.cancel(CancelReason.STOP)
    bench.clock.advance(TRUST)
    with pytest.raises(TaskInterrupted):
        bench.ctx.checkpoint(150)
    assert bench.task.seen
    assert bench.saves.asked == []


@pytest.mark.parametrize("reason", [CancelReason.STOP, CancelReason.CANCELLED, CancelReason.TIMEOUT])
def test_a_cancelled_processor_may_still_save_what_it_did(reason: CancelReason) -> None:
    bench = Bench()
    bench.task.cancel(reason)
    assert bench.ctx.checkpoint(150) is True
    assert bench.saves.asked == [(7, TOKEN, 150, 0)]
