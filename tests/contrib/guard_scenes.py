"""What the guards and the batch processor must do on every database: a suite that each kind of database inherits."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Tuple

import pytest

from elk_coordinator import CreatePartition, Partition, PartitionStatus, TaskInterrupted
from elk_coordinator.contrib.sql import (
    Database,
    FencedRange,
    FenceOverlap,
    RangeFence,
    RowGuard,
    Session,
    SqlBatchProcessor,
    StaleToken,
    statement_timeout,
)
from elk_coordinator.errors import ConfigError, StateError
from elk_coordinator.model import CancelReason
from elk_coordinator.testing import ManualClock, run_inline
from elk_coordinator.worker.context import Task, TaskContext

LO, HI = 1, 20
#: Statements that take far longer than any test may.
LONG = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000000000)"
    " SELECT max(i) FROM n",
    "postgresql": "SELECT pg_sleep(300)",
    "mysql": "SELECT sleep(300)",
}  # fmt: skip


class Killed(BaseException):
    """The process ends here: nothing behind it runs."""


class Attempt:
    """One claim with its ``ctx``, the real one, on a clock that moves when somebody waits."""

    def __init__(
        self, token: int, lo: int = LO, hi: int = HI, checkpoint: Optional[int] = None, processed: int = 0
    ) -> None:
        self.partition = Partition(
            7, lo, hi, PartitionStatus.RUNNING, fencing_token=token, checkpoint=checkpoint, processed=processed
        )
        self.clock = ManualClock(auto_advance=True)
        self.task = Task(self.partition, self.clock.monotonic() + 1e6, self.clock)
        self.saved: List[int] = []
        self.dies_before_checkpoint: Optional[int] = None
        self.ctx = TaskContext(self.task, "ns", "w", {}, self._save, lambda task, what: None)

    def _save(self, partition_id: int, token: int, checkpoint: int, processed: int) -> bool:
        if self.dies_before_checkpoint is not None and checkpoint >= self.dies_before_checkpoint:
            raise Killed
        self.saved.append(checkpoint)
        return True

    def run(self, processor: SqlBatchProcessor) -> int:
        return processor.process(self.ctx, self.ctx.min_id, self.partition.max_id, {})


def apply(session: Session, ctx: Any, lo: int, hi: int) -> int:
    """Not idempotent on purpose: whatever runs twice is seen."""
    return session.execute(
        "UPDATE items SET applied = applied + 1, wrote = :token WHERE id BETWEEN :lo AND :hi",
        {"lo": lo, "hi": hi, "token": ctx.fencing_token},
    )


class UnfencedRange(FencedRange):
    """The control: looks at ``done_to``, not at the token."""

    def _locked(self, session: Session) -> Tuple[int, int]:
        try:
            return super()._locked(session)
        except StaleToken:
            return self.done_to, self.processed


class GuardScenes:
    """Inherit it with a fixture ``database`` (empty)."""

    @pytest.fixture(autouse=True)
    def tables(self, database: Database) -> None:
        self.db = database
        with database.transaction() as session:
            session.execute(
                "CREATE TABLE items (id BIGINT PRIMARY KEY, applied INTEGER NOT NULL, wrote BIGINT, word VARCHAR(9))"
            )
            session.execute(RowGuard("items").ddl(session.dialect))
            for item in range(LO, HI + 1):
                session.execute("INSERT INTO items (id, applied) VALUES (:id, 0)", {"id": item})
        self.fence = RangeFence(database)
        self.fence.create_table()
        self.fence.create_table()  # may be called at every start

    def applied(self) -> Dict[int, int]:
        """How many items were applied how often."""
        with self.db.transaction() as session:
            return dict(session.rows("SELECT applied, count(*) FROM items GROUP BY applied"))

    def fences(self) -> List[Tuple[Any, ...]]:
        with self.db.transaction() as session:
            return session.rows("SELECT lo, hi, token, done_to, processed FROM elk_fence ORDER BY lo, hi")

    def processor(self, handle: Callable[..., Any] = apply, **options: Any) -> SqlBatchProcessor:
        options.setdefault("fence", self.fence)
        if "batch_rows" not in options:
            options.setdefault("batch_ids", 6)
        return SqlBatchProcessor(self.db, handle, **options)

    # -- the row guard

    @pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "control"])
    def test_a_late_worker_does_not_overwrite_what_a_newer_one_wrote(self, guarded: bool) -> None:
        guard = RowGuard("items")
        where = "id = :id OR id = :other -- two of them"
        ids = {"id": 3, "other": 4}
        old, new = Attempt(5).ctx, Attempt(6).ctx
        with self.db.transaction() as session:
            assert guard.update(session, new, "word = :word", where, dict(ids, word="new")) == 2
        with self.db.transaction() as session:
            if guarded:
                assert guard.update(session, old, "word = :word", where, dict(ids, word="old")) == 0
                assert guard.newer(session, old, where, ids) == 2
                assert guard.newer(session, new, where, ids) == 0
            else:
                session.execute("UPDATE items SET word = 'old' WHERE id = 3")
        with self.db.transaction() as session:
            word = session.scalar("SELECT word FROM items WHERE id = 3")
        assert word == ("new" if guarded else "old")

    # -- the range fence

    @pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "control"])
    def test_a_worker_that_was_frozen_in_front_of_its_write_is_refused(self, guarded: bool) -> None:
        make = FencedRange if guarded else UnfencedRange
        old = make(self.db, "elk_fence", Attempt(5).ctx)
        old.write(6, lambda session: apply(session, Attempt(5).ctx, LO, 6))
        # 5 is frozen here; its lease runs out and 6 is given the partition.
        second = Attempt(6)
        assert second.run(self.processor()) == HI
        assert second.saved == [12, 18, 20]
        if guarded:
            with pytest.raises(StaleToken) as refused:
                old.write(12, lambda session: apply(session, Attempt(5).ctx, 7, 12))
            assert (refused.value.partition_id, refused.value.token, refused.value.current) == (7, 5, 6)
            assert self.applied() == {1: 20}
            assert self.fences() == [(1, 20, 6, 20, 20)]
        else:
            old.write(12, lambda session: apply(session, Attempt(5).ctx, 7, 12))
            assert self.applied() == {1: 14, 2: 6}

    @pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "control"])
    def test_a_worker_killed_between_commit_and_checkpoint_has_nothing_done_twice(self, guarded: bool) -> None:
        processor = self.processor(fence=self.fence if guarded else None)
        first = Attempt(5)
        first.dies_before_checkpoint = 12
        with pytest.raises(Killed):
            first.run(processor)
        assert first.saved == [6]
        second = Attempt(6, checkpoint=6, processed=6)
        counted = second.run(processor)
        assert counted + 6 == HI, "what the dead one had done and not told is counted, once"
        assert self.applied() == ({1: 20} if guarded else {1: 14, 2: 6})

    def test_a_range_that_is_done_comes_again_and_nothing_is_done(self) -> None:
        first = Attempt(5)
        first.dies_before_checkpoint = HI
        held = self.fence.enter(first.ctx)
        assert held.write(HI, lambda session: apply(session, first.ctx, LO, HI)) == 20
        assert Attempt(6).run(self.processor()) == 20
        assert self.applied() == {1: 20}

    def test_effects_and_fence_are_rolled_back_together(self) -> None:
        def half(session: Session, ctx: Any, lo: int, hi: int) -> int:
            count = apply(session, ctx, lo, hi)
            if lo > 6:
                raise ZeroDivisionError
            return count

        with pytest.raises(ZeroDivisionError):
            Attempt(5).run(self.processor(half))
        assert self.applied() == {0: 14, 1: 6}
        assert self.fences() == [(1, 20, 5, 6, 6)]

    def test_the_fence_moves_inside_the_callers_own_transaction(self) -> None:
        attempt = Attempt(5)
        held = self.fence.enter(attempt.ctx)
        with pytest.raises(ZeroDivisionError):
            with self.db.transaction() as session:
                held.guard(session, HI, lambda session: apply(session, attempt.ctx, LO, HI))
                raise ZeroDivisionError
        assert self.applied() == {0: 20} and held.done_to == 0
        with self.db.transaction() as session:
            count = held.guard(session, HI, lambda session: apply(session, attempt.ctx, LO, HI))
        held.moved(HI, count)
        assert (self.applied(), held.done_to, held.processed) == ({1: 20}, HI, 20)
        with pytest.raises(ValueError, match="last_id must be in"):
            held.write(HI, lambda session: 0)

    def test_a_range_known_under_other_bounds_is_refused_until_it_is_forgotten(self) -> None:
        Attempt(5, 1, 10).run(self.processor())
        Attempt(5, 11, 20).run(self.processor())
        for lo, hi in ((1, 5), (1, 20), (5, 15), (10, 30), (20, 20)):
            with pytest.raises(FenceOverlap, match="forget") as refused:
                Attempt(9, lo, hi).run(self.processor())
            assert refused.value.requested == (lo, hi) and refused.value.existing in ((1, 10), (11, 20))
        assert [row[:3] for row in self.fences()] == [(1, 10, 5), (11, 20, 5)], "what was refused left no trace"
        assert Attempt(9, 21, 30).run(self.processor()) == 0
        assert self.fence.forget("other", 1, 20) == 0
        assert self.fence.forget("ns", 5, 15) == 2
        Attempt(9, 5, 15).run(self.processor())
        assert self.applied() == {1: 9, 2: 11}

    def test_of_two_overlapping_ranges_that_enter_at_once_the_later_sees_the_other(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.fence.enter(Attempt(5, 1, 10).ctx)
        look = FencedRange._overlap
        answers: List[Any] = [None]  # the first look came before the other's commit

        def overlap(held: FencedRange, session: Session) -> Any:
            return answers.pop() if answers else look(held, session)

        monkeypatch.setattr(FencedRange, "_overlap", overlap)
        with pytest.raises(FenceOverlap):
            self.fence.enter(Attempt(6, 5, 15).ctx)
        assert [row[:2] for row in self.fences()] == [(1, 10)]

    def test_a_stale_worker_cannot_take_the_fence_back(self) -> None:
        self.fence.enter(Attempt(6).ctx)
        with pytest.raises(StaleToken):
            self.fence.enter(Attempt(5).ctx)
        assert [row[2] for row in self.fences()] == [6]

    def test_two_threads_of_one_attempt_do_no_effect_twice(self) -> None:
        attempt = Attempt(5)
        one, two = self.fence.enter(attempt.ctx), self.fence.enter(attempt.ctx)
        one.write(6, lambda session: apply(session, attempt.ctx, LO, 6))
        with pytest.raises(StateError, match="another thread"):
            two.write(8, lambda session: apply(session, attempt.ctx, LO, 8))
        assert self.applied() == {0: 14, 1: 6}

    def test_ids_at_the_edges_of_64_bits_are_fenced(self) -> None:
        low, high = -(2**63) + 1, 2**63 - 1
        first = self.fence.enter(Attempt(2**53 - 1, low, low + 9).ctx)
        last = self.fence.enter(Attempt(2**53 - 1, high - 9, high).ctx)
        assert (first.done_to, last.done_to) == (low - 1, high - 10)
        assert last.write(high, lambda session: 3) == 3
        assert self.fences()[1] == (high - 9, high, 2**53 - 1, high, 3)

    def test_a_refused_attempt_whose_heartbeat_learns_the_loss_ends_as_a_lost_lease(self) -> None:
        late = Attempt(5)

        def overtaken(session: Session, ctx: Any, lo: int, hi: int) -> int:
            raise AssertionError("the fence let it through")

        self.fence.enter(Attempt(6).ctx)
        wait = late.clock.wait

        def heartbeat(event: Any, timeout: Optional[float]) -> bool:
            late.task.cancel(CancelReason.LEASE_LOST)
            return wait(event, timeout)

        late.clock.wait = heartbeat  # type: ignore[method-assign]
        with pytest.raises(TaskInterrupted):
            late.run(self.processor(overtaken))
        # Nobody tells this one: token and store contradict each other, which people must see.
        with pytest.raises(StaleToken, match="the clock of the store was set back"):
            Attempt(5).run(self.processor(overtaken))

    # -- batches

    @pytest.mark.parametrize("fenced", [True, False], ids=["fenced", "plain"])
    def test_batches_of_rows_are_equal_and_reach_to_the_end_of_the_partition(self, fenced: bool) -> None:
        with self.db.transaction() as session:
            for item in range(LO, HI + 1):
                session.execute("UPDATE items SET id = :new WHERE id = :id", {"id": item, "new": item * 10**12 + 7})
        seen: List[Tuple[int, int]] = []

        def handle(session: Session, ctx: Any, lo: int, hi: int) -> None:
            seen.append((lo, hi))
            apply(session, ctx, lo, hi)

        attempt = Attempt(5, 1, 10**15)
        options: Dict[str, Any] = {"batch_rows": 8, "table": "items", "fence": self.fence if fenced else None}
        assert attempt.run(self.processor(handle, **options)) == 20
        edge = 10**12
        assert seen == [(1, 8 * edge + 7), (8 * edge + 8, 16 * edge + 7), (16 * edge + 8, 10**15)]
        assert attempt.saved == [8 * edge + 7, 16 * edge + 7, 10**15]
        # An empty range has no batch, and is done all the same.
        assert Attempt(5, 10**15 + 1, 10**15 + 9).run(self.processor(handle, **options)) == 0
        assert len(seen) == 3 and self.applied() == {1: 20}

    def test_an_interrupted_partition_goes_on_behind_its_last_batch(self) -> None:
        result = run_inline(
            self.processor(), partitions=[CreatePartition(1, 1, 10), CreatePartition(2, 11, 20)],
            interrupt_after_checkpoints=1,
        )  # fmt: skip
        assert result.processed == 20 and self.applied() == {1: 20}

    def test_a_deadlock_repeats_the_batch(self) -> None:
        class OperationalError(Exception):
            pgcode = "40P01"

        failures = [OperationalError(1213, "Deadlock found"), OperationalError(1213, "Deadlock found")]

        def handle(session: Session, ctx: Any, lo: int, hi: int) -> int:
            count = apply(session, ctx, lo, hi)
            if failures and lo > 6:
                raise failures.pop()
            return count

        assert Attempt(5).run(self.processor(handle, fence=None)) == 20
        assert self.applied() == {1: 20} and not failures
        failures.extend([OperationalError(1213, "x")] * 3)
        with pytest.raises(OperationalError):
            Attempt(6).run(self.processor(handle, fence=None, reconnects=2))

    # -- statement timeout

    def test_a_statement_that_runs_too_long_is_ended_and_the_limit_does_not_stay(self) -> None:
        def handle(session: Session, ctx: Any, lo: int, hi: int) -> int:
            count = apply(session, ctx, lo, hi)
            if lo > 6:
                session.rows(LONG[session.dialect])
            return count

        with pytest.raises(Exception) as ended:
            Attempt(5).run(self.processor(handle, statement_timeout=0.2))
        # OperationalError, QueryCanceled: the driver's own, not a mistake of ours.
        assert type(ended.value).__name__ in ("OperationalError", "QueryCanceled", "QueryCanceledError"), ended.value
        assert self.applied() == {0: 14, 1: 6}
        with self.db.transaction() as session:
            before = self.limit(session)
            with statement_timeout(session, 5.0) as limited:
                assert limited.scalar("SELECT 1") == 1
            assert session.dialect == "postgresql" or self.limit(session) == before
        with self.db.transaction() as session:
            assert self.limit(session) == before

    @staticmethod
    def limit(session: Session) -> Any:
        """The limit that the connection has now."""
        if session.dialect == "sqlite":
            return None
        return session.scalar(
            "SHOW statement_timeout" if session.dialect == "postgresql" else "SELECT @@SESSION.max_statement_time"
        )

    # -- throttle

    def test_the_throttle_is_asked_before_every_batch_and_waits_without_a_transaction(self) -> None:
        answers: List[Any] = [True, True, False, 30.5, None, 0, False, False]
        attempt = Attempt(5)
        began = attempt.clock.monotonic()

        def throttle() -> Any:
            with self.db.transaction() as session:  # nobody holds a lock, not even SQLite's only one
                session.execute("UPDATE items SET word = 'x' WHERE id = 1")
            return answers.pop(0)

        assert attempt.run(self.processor(throttle=throttle, throttle_pause=7.0)) == 20
        assert attempt.clock.monotonic() - began == pytest.approx(2 * 7.0 + 30.5)
        assert answers == [0, False, False][-len(answers):] and self.applied() == {1: 20}  # fmt: skip

    def test_a_stop_wakes_the_throttle(self) -> None:
        attempt = Attempt(5)
        asked: List[int] = []

        def throttle() -> bool:
            asked.append(1)
            if len(asked) == 3:
                attempt.task.cancel(CancelReason.STOP)
            return True

        began = attempt.clock.monotonic()
        with pytest.raises(TaskInterrupted):
            attempt.run(self.processor(throttle=throttle, throttle_pause=100.0))
        assert attempt.clock.monotonic() - began == pytest.approx(200.0), "the third wait ended at once"
        assert self.applied() == {0: 20}

    @pytest.mark.parametrize("answer", [-1, float("nan"), float("inf"), "soon"])
    def test_an_answer_of_the_throttle_that_means_nothing_fails_the_attempt(self, answer: Any) -> None:
        with pytest.raises(ConfigError, match="throttle: it answered"):
            Attempt(5).run(self.processor(throttle=lambda: answer))
