"""Rows of the fault table: clocks. Ids begin with C."""

from __future__ import annotations

from typing import List

from tests.faults.catalogue.row import Fault

TITLE = "Clocks"
FAULTS: List[Fault] = []
