"""Rows of the fault table: processes. Ids begin with P."""

from __future__ import annotations

from typing import List

from tests.faults.catalogue.process_rest import REST
from tests.faults.catalogue.row import Fault

TITLE = "Processes"
FAULTS: List[Fault] = [*REST]
