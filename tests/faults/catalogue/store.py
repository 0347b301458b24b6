"""Rows of the fault table: the store. Ids begin with S."""

from __future__ import annotations

from typing import List

from tests.faults.catalogue.row import Fault
from tests.faults.catalogue.store_data import DATA

TITLE = "The store"
FAULTS: List[Fault] = [*DATA]
