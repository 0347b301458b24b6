"""What takes several round trips is interrupted by somebody else between two of them."""

from __future__ import annotations

import copy
from typing import Any, Callable, Dict, List, Optional, Tuple

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from elk_coordinator.errors import RangeConflict
from elk_coordinator.model import CreatePartition, Outcome, PartitionStatus, Report
from elk_coordinator.partition.simple_strategy import DOCUMENT
from tests.contract.machine.life import WORKERS
from tests.contract.machine.plain_model import Conflict, PlainModel
from tests.contract.machine.rules_plan import PlanRules

#: One act: what the real thing does, and what the model does; their answers are compared.
Act = Tuple[Callable[[Any], Any], Callable[[PlainModel], Any]]

CONFLICT = "conflict"


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
        other=st.sampled_from(["delete", "create", "complete", "archive"]),
        nth=st.integers(1, 5),
        data=st.data(),
    )
    def meanwhile(self, worker: int, main: str, other: str, nth: int, data: Any) -> None:
        known = sorted(self.model.records)
        if not known:
            return
        me, them = self.leader_or_not(worker, True), self.workers[(worker + 1) % 3]
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
            numbers = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=2), "ids")
            return lambda s: s.delete_partitions(numbers), lambda m: m.delete(numbers)
        if what == "create":
            p = self.model.records[data.draw(st.sampled_from(known), "beside")].p
            low = p.max_id + 1
            item = CreatePartition(self.model.top + 1, low, low + data.draw(st.integers(0, 1), "width"))
            return lambda s: _create(s, item), lambda m: _create_plainly(m, item)
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
