"""Planners that answer nonsense, in a running fleet: told, backed off from, survived; not a range of it is created."""

from __future__ import annotations

from typing import Any, Callable, Dict, List

from elk_coordinator.testing import wait_until
from tests.faults.fleet import Fleet, must_fail
from tests.faults.odd import NOTHING, WRONG, WRONG_PLANS

MakeFleet = Callable[..., Fleet]


class Odd:
    """A fleet whose planner behaves oddly so many times, after a first good answer, and then behaves again."""

    def __init__(self, fleet: Fleet, planner: Dict[str, List[str]], wrong: int, **config: Any) -> None:
        self.fleet = fleet
        self.wrong = wrong
        #: Rounds that failed are tried again after at most so long, here.
        options = {"allocation_interval": 0.3}
        fleet.start("leader", planner=planner, options=options, wait=False, **config)
        fleet.start("other", planner=False, wait=False)

    def wait(self) -> None:
        self.fleet.wait_done(60.0)
        self.fleet.end()

    def check(self) -> Any:
        errors = self.fleet.told("planner_error")
        assert len(errors) == self.wrong, "%d of %d wrong answers were told" % (len(errors), self.wrong)
        assert all("planner." in told["error"] for told in errors), errors
        tally = self.fleet.check()
        partitions = self.fleet.partitions.get_all_partitions()
        bad = [p for p in partitions if not 1 <= p.min_id <= p.max_id <= self.fleet.last]
        assert bad == [] and len(partitions) == -(-self.fleet.last // self.fleet.size)
        assert len(self.fleet.told("became_leader")) == 1, "its thread did not survive"
        return tally


def test_nonsense_of_a_planner_is_told_and_planned_around_once_it_behaves(new_fleet: MakeFleet) -> None:
    # "Nothing new" of a table that shrank, between the errors, is no error.
    answers = [*sorted(NOTHING), *sorted(WRONG), *sorted(NOTHING)]
    asked = Odd(new_fleet(400, "answers"), {"odd": answers}, len(WRONG))
    plans = Odd(new_fleet(400, "plans"), {"odd_plans": sorted(WRONG_PLANS)}, len(WRONG_PLANS))
    control = Odd(new_fleet(400, "unchecked"), {"odd": sorted(WRONG)}, len(WRONG), broken=["answers"])
    for case in (asked, plans):
        case.wait()
        print("%d nonsense answers of the planner, each told as an error, 0 bad partitions; "
              "%s" % (case.wrong, case.check()))  # fmt: skip
    wait_until(lambda: control.fleet.told("became_leader"), 20.0, control.fleet.story)
    with must_fail("wrong answers were told"):
        control.check()
