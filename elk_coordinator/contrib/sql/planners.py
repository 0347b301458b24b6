"""Planners for tables with an integer key: dense keys by ranges of IDs, sparse keys by equal numbers of rows."""

from __future__ import annotations

from typing import Any, Dict, Iterator, Mapping, Optional, Tuple

from elk_coordinator.contrib.sql.database import Database, quote_name
from elk_coordinator.contrib.sql.edges import Edge, OpenTransactions, SettleTime
from elk_coordinator.errors import ConfigError
from elk_coordinator.model import MAX_ID, MIN_ID
from elk_coordinator.protocols import PlannerContext


class _TablePlanner:
    """A table, its key, which of its rows count, and how far they may be planned."""

    def __init__(
        self,
        database: Database,
        table: str,
        key: str,
        where: Optional[str],
        params: Optional[Mapping[str, Any]],
        edge: Edge,
    ) -> None:
        quote_name("sqlite", table), quote_name("sqlite", key)
        if where is not None and (not isinstance(where, str) or not where.strip()):
            raise ConfigError("where=%r: it must be an SQL condition, or None for all rows" % (where,))
        if not callable(getattr(edge, "safe_max", None)):
            raise ConfigError("edge=%r: it must be OpenTransactions(), SettleTime(seconds) or NotGrowing()" % (edge,))
        self._database = database
        self._table = table
        self._key = key
        self._where = where
        self._params = dict(params or {})
        self._edge = edge

    def first_id(self, ctx: PlannerContext) -> int:
        """Return 1, or the lowest 64-bit ID when the table has rows below 1.

        Not the smallest ID seen: a smaller one may be on its way. The hole before the first row costs some questions.
        """
        lowest = self._ask("SELECT min({key}) FROM {table} WHERE {key} < 1{and_where}")
        return 1 if lowest is None else MIN_ID

    def has_data(self, ctx: PlannerContext, min_id: int, max_id: int) -> bool:
        """Return whether a row lies in ``[min_id, max_id]``."""
        sql = "SELECT 1 FROM {table} WHERE {key} >= :elk_low AND {key} <= :elk_high{and_where} LIMIT 1"
        return self._ask(sql, elk_low=min_id, elk_high=max_id) is not None

    def _safe_max(self) -> int:
        """Return up to where the table may be planned. In transactions of its own, before any question for rows."""
        safe = self._edge.safe_max(self._database, self._table, self._key)
        return MIN_ID - 1 if safe is None else safe

    def _ask(self, sql: str, **values: Any) -> Any:
        dialect = self._database.dialect
        parts: Dict[str, str] = {
            "table": quote_name(dialect, self._table),
            "key": quote_name(dialect, self._key),
            "and_where": " AND (%s)" % self._where if self._where else "",
        }
        with self._database.reading() as session:
            return session.scalar(sql.format(**parts), dict(self._params, **values))


class DenseKeyPlanner(_TablePlanner):
    """Plan a table whose integer key has few holes: partitions are ranges of *partition_size* IDs.

    Every question is one look into the key's index. Holes of any width are skipped (see the contract of
    ``get_next_max_id``). Used by the leader's allocator thread; one planner belongs to one coordinator.

    :param table: ``table`` or ``schema.table``, as the database spells it. :param key: a column with an index.
    :param where: an SQL condition (trusted text) for the rows that count, with *params* for its ``:names``. A row that
        meets it later, in a range that was planned or skipped before, is not found.
    :param edge: how far a growing table may be planned; default :class:`OpenTransactions`.
    :raises ConfigError: a name, a size or an edge that is none.
    """

    def __init__(
        self,
        database: Database,
        table: str,
        key: str = "id",
        where: Optional[str] = None,
        partition_size: int = 1000,
        edge: Optional[Edge] = None,
        params: Optional[Mapping[str, Any]] = None,
    ) -> None:
        super().__init__(database, table, key, where, params, OpenTransactions() if edge is None else edge)
        self._size = _count("partition_size", partition_size)

    def partition_size(self, ctx: PlannerContext) -> int:
        """Return the IDs per partition."""
        return self._size

    def get_next_max_id(self, ctx: PlannerContext, start_id: int, range_size: int) -> int:
        """Return the largest ID in ``(start_id, start_id + range_size]`` that may be planned, else *start_id*."""
        high = min(start_id + range_size, MAX_ID, self._safe_max())
        if high <= start_id:
            return start_id
        sql = "SELECT max({key}) FROM {table} WHERE {key} > :elk_low AND {key} <= :elk_high{and_where}"
        top = self._ask(sql, elk_low=start_id, elk_high=high)
        return start_id if top is None else int(top)


class SparseKeyPlanner(_TablePlanner):
    """Plan a table whose integer key has wide holes (snowflakes): partitions of *rows_per_partition* rows each.

    Ranges follow each other without holes between them, so that what lies in a partition is decided by the edge, not by
    the rows seen. Each costs one question, which walks over its rows in the key's index; the rest of the table behind
    the last full one becomes a shorter partition. Used by the leader's allocator thread.

    :param edge: how far a growing table may be planned; default ``SettleTime(60)``, since keys made up by clients are
        late by time alone. For keys from a sequence :class:`OpenTransactions` is exact.

    The other parameters are those of :class:`DenseKeyPlanner`.
    """

    def __init__(
        self,
        database: Database,
        table: str,
        key: str = "id",
        rows_per_partition: int = 1000,
        where: Optional[str] = None,
        edge: Optional[Edge] = None,
        params: Optional[Mapping[str, Any]] = None,
    ) -> None:
        super().__init__(database, table, key, where, params, SettleTime(60.0) if edge is None else edge)
        self._rows = _count("rows_per_partition", rows_per_partition)

    def plan(self, ctx: PlannerContext, start_id: int, limit: int) -> Iterator[Tuple[int, int]]:
        """Yield up to *limit* ranges behind *start_id*."""
        high = self._safe_max()
        for _ in range(limit):
            if high <= start_id or ctx.cancelled:
                return
            top = self._row(start_id, high)
            if top is None:
                return
            yield start_id + 1, top
            start_id = top

    def _row(self, low: int, high: int) -> Optional[int]:
        """Return the key of the last of the next rows; None when there are none."""
        window = "FROM {table} WHERE {key} > :elk_low AND {key} <= :elk_high{and_where}"
        # The offset is within one partition, never over the table.
        nth = "SELECT {key} %s ORDER BY {key} LIMIT 1 OFFSET %d" % (window, self._rows - 1)
        top = self._ask(nth, elk_low=low, elk_high=high)
        if top is None:
            top = self._ask("SELECT max({key}) %s" % window, elk_low=low, elk_high=high)
        return None if top is None else int(top)


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_ID:
        raise ConfigError("%s=%r: it must be a whole number from 1" % (name, value))
    return value
