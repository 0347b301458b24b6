"""Rows of the fault table: the store. Ids begin with S."""

from __future__ import annotations

from typing import List

from tests.faults.catalogue.row import Fault
from tests.faults.catalogue.store_data import DATA
from tests.faults.catalogue.store_network import NETWORK

TITLE = "The store"
FAULTS: List[Fault] = [*NETWORK, *DATA]
