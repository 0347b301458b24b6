"""What takes several round trips is interrupted by somebody else between two of them."""

from __future__ import annotations

import copy
from typing import Any, Callable, Dict, List, Optional, Tuple

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from elk_coordinator.errors import PartitionNotFound, RangeConflict
from elk_coordinator.model import CreatePartition, Outcome, PartitionStatus, Report
from elk_coordinator.partition.simple_strategy import DOCUMENT
from tests.contract.machine.life import LEASES, WORKERS, Worker
from tests.contract.machine.plain_model import Claim, Conflict, PlainModel
from tests.contract.machine.rules_plan import PlanRules

#: One act: what the real thing does, and what the model does; their answers are compared.
Act = Tuple[Callable[[Any], Any], Callable[[PlainModel], Any]]

CONFLICT, UNKNOWN = "conflict", "unknown"


def between(strategy: Any, nth: int, simple: bool, other: Callable[[], None]) -> Callable[[], None]:
    """Let *other* happen before the *nth* round trip of *strategy*; return what ends this."""
    store, name = strategy.store, "compare_and_set" if simple else "run"
    inner, left = getattr(store, name), [nth]

    def interrupted(what: Any, *args: Any, **options: Any) -> Any:
        if not simple or what == DOCUMENT:
            left[0] -= 1
            if left[0] == 0:
                other()
        return inner(what, *args, **options)

    setattr(store, name, interrupted)
    return lambda: delattr(store, name)


class RaceRules(PlanRules):
    """Two processes at once: what comes of it must be what one after the other could have made."""

    @precondition(lambda self: bool(self.model.records))
    @rule(
        worker=WORKERS,
        main=st.sampled_from(["delete", "archive", "archive"]),
        other=st.sampled_from(["delete", "create", "complete", "complete", "archive", "claim", "move"]),
        nth=st.integers(1, 5),
        ready=st.booleans(),
        data=st.data(),
    )
    def meanwhile(self, worker: int, main: str, other: str, nth: int, ready: bool, data: Any) -> None:
        """*ready*: one is held and another one completed, so that there is something to meet."""
        if ready:
            self._make_ready(self.workers[worker])
        known = sorted(self.model.records)
        if not known:
            return
        me = self.leader_or_not(worker, True)
        them = self.workers[(self.workers.index(me) + 1) % 3]
        self.claimed: List[Claim] = []
        self.lease_of_other = them.strategy.lease
        if main == "archive":
            # The last of its round trips is the one that counts.
            nth = 3 if not self.simple else 1
        first = self._act(main, me.term, data)
        second = self._act(other, me.term, data)
        if first is None or second is None:
            return
        answers: List[Any] = []
        end = between(me.strategy, nth, self.simple, lambda: answers.append(second[0](them.strategy)))
        try:
            mine = first[0](me.strategy)
        finally:
            end()
        self.seen["interrupted: %s by %s" % (main, other)] += bool(answers)
        raced = bool(answers)
        if not raced:
            answers.append(second[0](them.strategy))
        found = {p.partition_id: p.status for p in them.strategy.get_all_partitions()}
        self._settle(first, second, (mine, answers[0], found), raced, main == "archive")
        for claim in [c for c in self.claimed if self.model.held(c)]:
            self.granted("w9", [claim])
        self.claimed.clear()

    def _make_ready(self, me: Worker) -> None:
        before = len(self.claims)
        self.request(me, LEASES[0], free=2)
        done = self.claims[before : before + 1]
        if done:
            self.request(me, LEASES[0], [Report(*done[0], Outcome.COMPLETED, 3)])

    def _claim_one(self, strategy: Any, number: int) -> Any:
        try:
            got = strategy.acquire_partition(number, "w9", False)
        except PartitionNotFound:
            return UNKNOWN
        self.claimed += [(number, got.fencing_token)] if got is not None else []
        return got is not None

    def _claim_plainly(self, model: PlainModel, number: int) -> Any:
        record = model.records.get(number)
        if record is None:
            return UNKNOWN
        if model.acquire(number, False, False) is None:
            return False
        model.grant(record, "w9", dict(self.claimed).get(number, -1), self.lease_of_other, PartitionStatus.RUNNING)
        return True

    def _settle(self, first: Act, second: Act, real: Any, raced: bool, may_give_up: bool) -> None:
        """Make the model what came of it."""
        outcomes = []
        for order in [(1, 0), (0, 1)] if raced else [(0, 1)]:
            model = copy.deepcopy(self.model)
            answers: Dict[int, Any] = {}
            for place in order:
                answers[place] = (first, second)[place][1](model)
            outcomes.append((model, (answers[0], answers[1])))
        if raced and may_give_up:
            # Who archives and finds something changed does nothing; the next round tries again.
            model = copy.deepcopy(self.model)
            outcomes.append((model, (0, second[1](model))))
        for model, (mine, theirs) in outcomes:
            if (mine, theirs, {i: r.p.status for i, r in model.records.items()}) == real:
                before, self.model = self.model, model
                old = before.records
                self.gone([i for i in old if i not in model.records or model.records[i].born != old[i].born])
                return
        raise AssertionError("no order of the two explains %r; there would be %r" % (real, [o[1] for o in outcomes]))

    def _act(self, what: str, term: int, data: Any) -> Optional[Act]:
        known = sorted(self.model.records)
        if what == "delete":
            done = sorted(i for i, r in self.model.records.items() if r.p.status is PartitionStatus.COMPLETED)
            which = st.one_of(st.sampled_from(known), st.sampled_from(done or known))
            numbers = data.draw(st.lists(which, min_size=1, max_size=2), "ids")
            return lambda s: s.delete_partitions(numbers), lambda m: m.delete(numbers)
        if what == "create":
            p = self.model.records[data.draw(st.sampled_from(known), "beside")].p
            low = p.max_id + 1
            item = CreatePartition(self.model.top + 1, low, low + data.draw(st.integers(0, 1), "width"))
            return lambda s: _create(s, item), lambda m: _create_plainly(m, item)
        if what == "move":
            # A partition's id gets another range, and another partition its range.
            p = self.model.records[data.draw(st.sampled_from(known), "which")].p
            low = max(self.model.planned) + 2
            items = [
                CreatePartition(p.partition_id, low, low),
                CreatePartition(self.model.top + 1, p.min_id, p.max_id),
            ]
            return lambda s: _move(s, p.partition_id, items), lambda m: _move_plainly(m, p.partition_id, items)
        if what == "claim":
            number = data.draw(st.sampled_from(known), "which")
            return lambda s: self._claim_one(s, number), lambda m: self._claim_plainly(m, number)
        if what == "complete":
            held = [claim for claim in self.claims[-20:] if self.model.held(claim)]
            if not held:
                return None
            report = Report(*data.draw(st.sampled_from(held), "claim"), Outcome.COMPLETED, 3)
            return lambda s: s.report_partitions("w9", [report])[0].status, lambda m: m.report(report)
        if not self.model.leads(term):
            return None
        if not any(r.p.status is PartitionStatus.COMPLETED for r in self.model.records.values()):
            return None
        return lambda s: _archive(s, term), lambda m: len(m.archive())


def _move(strategy: Any, number: int, items: List[CreatePartition]) -> Any:
    return strategy.delete_partitions([number]), [_create(strategy, item) for item in items]


def _move_plainly(model: PlainModel, number: int, items: List[CreatePartition]) -> Any:
    return model.delete([number]), [_create_plainly(model, item) for item in items]


def _create(strategy: Any, item: CreatePartition) -> Any:
    try:
        return [p.partition_id for p in strategy.create_partitions_if_not_exist([item])]
    except RangeConflict:
        return CONFLICT


def _create_plainly(model: PlainModel, item: CreatePartition) -> Any:
    try:
        return model.create([item])
    except Conflict:
        return CONFLICT


def _archive(strategy: Any, term: int) -> int:
    page = strategy.due_page("0", -1e6)
    return sum(strategy.archive_page(term, number, page.now + 10**12) for number in sorted(page.due))
