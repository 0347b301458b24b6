"""Rows of the fault table: operators and observers. Ids begin with O."""

from __future__ import annotations

from typing import List

from tests.faults.catalogue.row import Fault

TITLE = "Operators and observers"
FAULTS: List[Fault] = []
