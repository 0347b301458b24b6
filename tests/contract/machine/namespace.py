"""Machines put together of the rooms: all of them, and some for a life that is about one thing."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RULE_MARKER, rule

from elk_coordinator.model import Outcome, Report
from tests.contract.machine.invariants import Invariants
from tests.contract.machine.life import LEASES, WORKERS
from tests.contract.machine.rules_operator import OperatorRules
from tests.contract.machine.rules_plan import PlanRules
from tests.contract.machine.rules_race import RaceRules
from tests.contract.machine.rules_time import FIRST, TimeRules
from tests.contract.machine.rules_work import WorkRules


class Namespace(TimeRules, OperatorRules, RaceRules, Invariants):
    """Workers, leaders, operators and faults in one namespace."""


class Workers(TimeRules, Invariants):
    """Workers and faults."""


class Leaders(WorkRules, PlanRules, Invariants):
    """Workers, and leaders that plan."""


class Operators(TimeRules, OperatorRules, Invariants):
    """Operators, and those who do what they say."""


class Races(WorkRules, RaceRules, Invariants):
    """Two at once."""


class Deletions(Races):
    """What is deleted is claimed or moved meanwhile, what is archived is deleted."""

    @rule(worker=WORKERS, other=st.sampled_from(["claim", "claim", "move", "create"]), data=st.data())
    def deleted_meanwhile(self, worker: int, other: str, data: Any) -> None:
        # The last of its round trips, where all partitions are recent.
        RaceRules.meanwhile(self, worker, "delete", other, 4, False, data)

    @rule(worker=WORKERS, data=st.data())
    def archived_meanwhile(self, worker: int, data: Any) -> None:
        RaceRules.meanwhile(self, worker, "archive", "delete", 3, True, data)


class Desk(Operators):
    """An operator who retries what failed, and pauses."""

    @rule(worker=WORKERS)
    def failed_and_retried(self, worker: int) -> None:
        before = len(self.claims)
        self.request(self.workers[worker], LEASES[0], free=1)
        failed = [Report(*claim, Outcome.PERMANENT, 0, "boom") for claim in self.claims[before:]]
        self.request(self.workers[worker], LEASES[0], failed)
        self._submit(worker, "retry_failed", {}, True)

    @rule(worker=WORKERS)
    def paused_for_a_while(self, worker: int) -> None:
        self._submit(worker, "pause", {}, True)
        self.request(self.workers[worker], LEASES[0], free=1)
        self._submit(worker, "resume", {}, True)


class SetBack(TimeRules, Invariants):
    """A store whose clock is set back, again and again."""

    @rule(seconds=st.sampled_from([5.0, 30.0]))
    def the_clock_is_set_back(self, seconds: float) -> None:
        self.the_clock_goes_back(seconds, "beat")


class Forgetful(TimeRules, PlanRules, Invariants):
    """A store that loses its data while its clock is set back, and workers that remember less or more of it."""

    @rule(first=FIRST, stranger=WORKERS)
    def everything_is_forgotten(self, first: str, stranger: int) -> None:
        self.a_worker_is_replaced(stranger)
        self.the_store_loses_its_data(first)
        self.the_clock_goes_back(30.0, first)


def about(machine: Any, *names: str) -> Any:
    """Return *machine* with these rules only: a life that is about one thing comes to it soon."""
    rules = {name for name in dir(machine) if hasattr(getattr(machine, name), RULE_MARKER)}
    assert rules >= set(names), sorted(set(names) - rules)
    others = dict.fromkeys(sorted(rules - set(names)))
    return type("About_%s" % "_".join(names), (machine,), others)
