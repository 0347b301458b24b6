"""Machines put together of the rooms: all of them, and some for a life that is about one thing."""

from __future__ import annotations

from tests.contract.machine.invariants import Invariants
from tests.contract.machine.rules_operator import OperatorRules
from tests.contract.machine.rules_plan import PlanRules
from tests.contract.machine.rules_race import RaceRules
from tests.contract.machine.rules_time import TimeRules
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
