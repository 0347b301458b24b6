"""Planners and helpers for tables in SQLite, PostgreSQL, MySQL and MariaDB; see docs/databases.rst."""

from __future__ import annotations

from elk_coordinator.contrib.sql.database import Database, Session, quote_name

__all__ = ["Database", "Session", "quote_name"]
