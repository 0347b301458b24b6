"""Planners and helpers for tables in SQLite, PostgreSQL, MySQL and MariaDB; see docs/databases.rst."""

from __future__ import annotations

from elk_coordinator.contrib.sql.database import Database, Session, quote_name
from elk_coordinator.contrib.sql.edges import Edge, NotGrowing, OpenTransactions, SettleTime
from elk_coordinator.contrib.sql.planners import DenseKeyPlanner, SparseKeyPlanner

__all__ = [
    "Database",
    "DenseKeyPlanner",
    "Edge",
    "NotGrowing",
    "OpenTransactions",
    "Session",
    "SettleTime",
    "SparseKeyPlanner",
    "quote_name",
]
