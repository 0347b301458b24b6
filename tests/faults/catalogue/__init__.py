"""The fault table: every fault that we promise to survive, what is expected then, and the tests that show it.

One module per group. ``make fault F=P3`` runs the tests of a row, ``docs/guarantees.rst`` is drawn from these rows, and
``tests/unit/test_fault_catalogue.py`` holds that every test named here exists and that every row has its control.
"""

from __future__ import annotations

from typing import List

from tests.faults.catalogue import clocks, content, leader, operator, process, store
from tests.faults.catalogue.row import Fault

#: In the order of the documentation.
GROUPS = (process, store, clocks, leader, content, operator)


def faults() -> List[Fault]:
    """Return every row, group by group."""
    return [fault for group in GROUPS for fault in group.FAULTS]
