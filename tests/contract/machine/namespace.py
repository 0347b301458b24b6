"""All rules and all invariants in one machine."""

from __future__ import annotations

from tests.contract.machine.invariants import Invariants
from tests.contract.machine.rules_operator import OperatorRules
from tests.contract.machine.rules_race import RaceRules
from tests.contract.machine.rules_time import TimeRules


class Namespace(TimeRules, OperatorRules, RaceRules, Invariants):
    """Workers, leaders, operators and faults in one namespace."""
