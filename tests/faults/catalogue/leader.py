"""Rows of the fault table: leader and planner. Ids begin with L."""

from __future__ import annotations

from typing import List

from tests.faults.catalogue.row import Fault

TITLE = "Leader and planner"
FAULTS: List[Fault] = []
