"""Rows of the fault table: content of the work. Ids begin with W."""

from __future__ import annotations

from typing import List

from tests.faults.catalogue.row import Fault

TITLE = "Content of the work"
FAULTS: List[Fault] = []
