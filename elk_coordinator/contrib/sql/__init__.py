"""Planners, processors and guards for tables in SQLite, PostgreSQL, MySQL and MariaDB; see docs/databases.rst."""

from __future__ import annotations

from elk_coordinator.contrib.sql.database import Database, Session, quote_name
from elk_coordinator.contrib.sql.edges import Edge, NotGrowing, OpenTransactions, SettleTime
from elk_coordinator.contrib.sql.fence import FencedRange, FenceOverlap, RangeFence, StaleToken
from elk_coordinator.contrib.sql.limits import statement_timeout
from elk_coordinator.contrib.sql.planners import DenseKeyPlanner, SparseKeyPlanner
from elk_coordinator.contrib.sql.processor import CommitUnknown, SqlBatchProcessor
from elk_coordinator.contrib.sql.rowguard import RowGuard
from elk_coordinator.contrib.sql.throttle import replica_lag

__all__ = [
    "CommitUnknown",
    "Database",
    "DenseKeyPlanner",
    "Edge",
    "FenceOverlap",
    "FencedRange",
    "NotGrowing",
    "OpenTransactions",
    "RangeFence",
    "RowGuard",
    "Session",
    "SettleTime",
    "SparseKeyPlanner",
    "SqlBatchProcessor",
    "StaleToken",
    "quote_name",
    "replica_lag",
    "statement_timeout",
]
