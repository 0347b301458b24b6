"""What leaders do: stand for it, plan, fill gaps, compress and drop what completed; and what is created and deleted."""

from __future__ import annotations

from typing import Any, List, Optional, Tuple

import attr
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from elk_coordinator.errors import IllegalTransition, LeaseLost, RangeConflict, VersionConflict
from elk_coordinator.model import CreatePartition
from tests.contract.machine.life import TERM, WORKERS, Life, Worker, draw_items
from tests.contract.machine.plain_model import Conflict


class PlanRules(Life):
    """The leader's side, and everything else that changes the plan."""

    @rule(worker=WORKERS, data=st.data())
    def create(self, worker: int, data: Any) -> None:
        self.tick()
        items = draw_items(data, self.model)
        strategy = self.workers[worker].strategy
        try:
            expected: Optional[List[int]] = self.model.create(items)
        except Conflict:
            expected = None
        self.seen["create: %s" % ("conflict" if expected is None else "fine" if expected else "nothing new")] += 1
        if expected is None:
            with pytest.raises(RangeConflict):
                strategy.create_partitions_if_not_exist(items)
        else:
            created = strategy.create_partitions_if_not_exist(items)
            assert [p.partition_id for p in created] == expected

    @rule(worker=WORKERS, numbers=st.lists(st.integers(1, 12), max_size=3))
    def delete(self, worker: int, numbers: List[int]) -> None:
        self.tick()
        archived = len(self.model.archived)
        expected = self.model.delete(numbers)
        self.seen["deleted from the archive"] += archived - len(self.model.archived)
        self.gone([number for number in numbers if number not in self.model.records])
        assert self.workers[worker].strategy.delete_partitions(numbers) == expected

    # ---------------------------------------------------------------- leadership

    @rule(worker=WORKERS, what=st.sampled_from(["stand_for_leader", "renew_term", "resign", "look_at_the_plan"]))
    def lead(self, worker: int, what: str) -> None:
        getattr(self, what)(self.workers[worker])

    def leader_or_not(self, worker: int, stand: bool) -> Worker:
        """Return who leads; if nobody does, a worker that tries to first; without *stand* a worker, whoever leads."""
        me = self.workers[worker]
        if stand:
            me = next((each for each in self.workers if self.model.leads(each.term)), me)
        if stand and not self.model.leads(me.term):
            self.stand_for_leader(me)
        self.tick()
        return me

    def stand_for_leader(self, me: Worker) -> None:
        self.tick()
        memory = me.strategy.memory
        token = me.strategy.store.acquire_lock("leader", me.name, TERM, memory.floor)
        if self.model.elect(TERM):
            assert token is not None
            self.rose(self.terms, [token])
            memory.saw(token)
            self.model.term = me.term = token
        else:
            assert token is None

    def renew_term(self, me: Worker) -> None:
        self.tick()
        expected = self.model.renew_term(me.term, TERM)
        assert me.strategy.store.renew_lock("leader", me.term, TERM) is expected

    def resign(self, me: Worker) -> None:
        self.tick()
        assert me.strategy.store.release_lock("leader", me.term) is self.model.resign(me.term)

    def look_at_the_plan(self, me: Worker) -> None:
        me.plans.append(me.strategy.plan_state())

    # ---------------------------------------------------------------- the plan

    @rule(
        worker=WORKERS,
        widths=st.lists(st.integers(1, 4), max_size=3),
        skip=st.integers(0, 3),
        late=st.booleans(),
        stand=st.booleans(),
    )
    def plan(self, worker: int, widths: List[int], skip: int, late: bool, stand: bool) -> None:
        """Plan behind the last planned ID; *late*: from a look of before, *stand*: for leader first."""
        me = self.leader_or_not(worker, stand)
        state = me.plans[-1] if late and me.plans else me.strategy.plan_state()
        present = me.strategy.plan_state()
        at = 0 if state.last is None else state.last[1] + 1
        skipped = [(at, at + skip - 1)] if skip else []
        at += skip
        items = []
        for number, width in enumerate(widths, state.max_partition_id + 1):
            items.append(CreatePartition(number, at, at + width - 1))
            at += width
        if not items and not skipped:
            return
        if not self.model.leads(me.term):
            self.seen["plan of an old term"] += me.term > 1
            with pytest.raises(LeaseLost):
                me.strategy.plan_partitions(state, me.term, items, skipped)
        elif state.version != present.version:
            self.seen["plan of an old version"] += 1
            with pytest.raises(VersionConflict):
                me.strategy.plan_partitions(state, me.term, items, skipped)
        else:
            self.seen["planned"] += 1
            after = me.strategy.plan_partitions(state, me.term, items, skipped)
            self.model.add(items, skipped)
            assert after.version > state.version and after.last_id == at - 1
            # The counts are those of the look that the plan was made from, and the work goes on meanwhile.
            now = me.strategy.plan_state()
            assert attr.evolve(after, pending=now.pending, held=now.held) == now
            me.plans.append(after)

    @rule(
        worker=WORKERS,
        cells=st.lists(st.tuples(st.integers(-5, 45), st.integers(1, 4), st.booleans()), min_size=1, max_size=3),
        good=st.sampled_from([True, True, False]),
        late=st.sampled_from([False, False, True]),
        stand=st.sampled_from([True, True, False]),
        nearby=st.booleans(),
    )
    def fill_gaps(
        self, worker: int, cells: List[Tuple[int, int, bool]], good: bool, late: bool, stand: bool, nearby: bool
    ) -> None:
        """Plan into what no partition covers: holes, deleted and skipped ranges. *good*: only there."""
        me = self.leader_or_not(worker, stand)
        if nearby and self.model.skipped:
            # Rows appeared where there were none.
            start = min(self.model.skipped)
            cells = [(start + low % 3, width, is_empty and i > 0) for i, (low, width, is_empty) in enumerate(cells)]
        state = me.plans[-1] if late and me.plans else me.strategy.plan_state()
        covered = self.model.planned - self.model.skipped
        taken = set(covered) if good else set()
        items, empty = [], []
        for low, width, is_empty in cells:
            span = set(range(low, low + width))
            if span & taken:
                continue
            taken |= span
            if is_empty:
                empty.append((low, low + width - 1))
            else:
                items.append(CreatePartition(self.model.top + 1 + len(items), low, low + width - 1))
        if not items and not empty:
            return
        news = {i for p in items for i in range(p.min_id, p.max_id + 1)}
        nothing = {i for low, high in empty for i in range(low, high + 1)}
        wrong: Optional[type] = None
        if state.version != me.strategy.plan_state().version:
            wrong = VersionConflict
        elif covered & (news | nothing):
            wrong = IllegalTransition
        elif not self.model.leads(me.term):
            wrong = LeaseLost
        if not items and nothing <= self.model.skipped and wrong in (None, LeaseLost):
            # Nothing to do; whether adjacent skipped ranges are joined meanwhile is nobody's business.
            if wrong is None:
                assert me.strategy.fill_gaps(state.version, me.term, items, empty) >= state.version
            return
        self.seen["gaps: %s" % (wrong.__name__ if wrong else "filled")] += 1
        if wrong is not None:
            with pytest.raises(wrong):
                me.strategy.fill_gaps(state.version, me.term, items, empty)
        else:
            self.seen["gaps: skipped rows planned"] += bool(news & self.model.skipped)
            assert me.strategy.fill_gaps(state.version, me.term, items, empty) > state.version
            self.model.add(items, empty)

    # ---------------------------------------------------------------- the archive

    @precondition(lambda self: bool(self.completed))
    @rule(
        worker=WORKERS,
        what=st.sampled_from(["archive", "prune", "both", "both"]),
        keep=st.integers(0, 2),
        stand=st.sampled_from([True, True, False]),
    )
    def tidy(self, worker: int, what: str, keep: int, stand: bool) -> None:
        me = self.leader_or_not(worker, stand)
        if what in ("archive", "both"):
            self.archive(me)
        if what != "archive":
            self.prune(me, keep)

    def archive(self, me: Worker) -> None:
        """Compress what completed; nobody may see a difference."""
        # However far stamps are ahead of a clock that was set back.
        page = me.strategy.due_page("0", -1e6)
        for number in sorted(page.due):
            if self.model.leads(me.term):
                moved = self.model.archive()
                self.seen["archived"] += len(moved)
                assert me.strategy.archive_page(me.term, number, page.now + 10**12) == len(moved)
            else:
                self.seen["archiving of an old term"] += 1
                with pytest.raises(LeaseLost):
                    me.strategy.archive_page(me.term, number, page.now + 10**12)

    def prune(self, me: Worker, keep: int) -> None:
        """Drop the details of the oldest compressed partitions, as ``archive_keep`` asks for."""
        if not self.model.leads(me.term):
            try:
                assert me.strategy.prune(me.term, keep) == 0
            except LeaseLost:
                self.seen["pruning of an old term"] += 1
            return
        gone = self.model.prune(keep, self.versions)
        self.seen["pruned"] += len(gone)
        assert me.strategy.prune(me.term, keep) == len(gone)
        self.gone(gone)
