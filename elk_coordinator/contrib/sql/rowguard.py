"""The row guard: a stale worker never overwrites what a newer one wrote. One column, one condition, no table."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Union

from elk_coordinator.contrib.sql.database import Session, quote_name
from elk_coordinator.errors import ConfigError
from elk_coordinator.protocols import ProcessContext


class RowGuard:
    """Guarded updates of one table that has a column for the fencing token (BIGINT, NULL where nobody wrote yet).

    The same update may still happen twice, by a first and by a second attempt: fit for ``SET total = ...``, not for
    ``SET count = count + 1``, which wants :class:`~elk_coordinator.contrib.sql.RangeFence`. Thread-safe.

    For statements of your own (a join, an upsert's ``DO UPDATE ... WHERE``) use :meth:`condition`, :meth:`assignment`
    and :meth:`params`.
    """

    def __init__(self, table: str, column: str = "elk_token") -> None:
        quote_name("sqlite", table)
        quote_name("sqlite", column)
        self._table = table
        self._column = column

    def ddl(self, dialect: str) -> str:
        """Return the statement that adds the column."""
        return "ALTER TABLE %s ADD COLUMN %s BIGINT NULL" % (
            quote_name(dialect, self._table), quote_name(dialect, self._column),
        )  # fmt: skip

    def condition(self, dialect: str) -> str:
        """Return what a WHERE needs, in parentheses: nobody newer has written this row."""
        column = quote_name(dialect, self._column)
        return "(%s IS NULL OR %s <= :elk_token)" % (column, column)

    def assignment(self, dialect: str) -> str:
        """Return what a SET needs."""
        return "%s = :elk_token" % quote_name(dialect, self._column)

    @staticmethod
    def params(holder: Union[ProcessContext, int]) -> Dict[str, int]:
        """Return the parameter for *holder*, the ``ctx`` of the attempt or its fencing token."""
        return {"elk_token": holder if isinstance(holder, int) else holder.fencing_token}

    def update(
        self,
        session: Session,
        holder: Union[ProcessContext, int],
        assignments: str,
        where: str,
        params: Optional[Mapping[str, Any]] = None,
    ) -> int:
        """Run ``UPDATE table SET assignments, token WHERE (where) AND nobody newer wrote``; return the rows touched.

        :param assignments: SQL, as after SET; *where*: SQL, as after WHERE; both with ``:name`` parameters.
        :return: rows written. Fewer than expected: some are gone, or a newer attempt wrote them (:meth:`newer`). MySQL
            does not count a row that held all of the new values.
        """
        if not where.strip() or not assignments.strip():
            raise ConfigError("assignments, where: neither may be empty; where='1 = 1' stands for all rows")
        dialect = session.dialect
        # The line breaks end a comment that stands at the end of the caller's text.
        sql = "UPDATE %s SET %s\n, %s WHERE (%s\n) AND %s" % (
            quote_name(dialect, self._table), assignments, self.assignment(dialect), where, self.condition(dialect),
        )  # fmt: skip
        return session.execute(sql, dict(params or {}, **self.params(holder)))

    def newer(
        self,
        session: Session,
        holder: Union[ProcessContext, int],
        where: str,
        params: Optional[Mapping[str, Any]] = None,
    ) -> int:
        """Return how many rows of *where* a newer attempt has written."""
        dialect = session.dialect
        sql = "SELECT count(*) FROM %s WHERE (%s\n) AND %s > :elk_token" % (
            quote_name(dialect, self._table), where, quote_name(dialect, self._column),
        )  # fmt: skip
        return int(session.scalar(sql, dict(params or {}, **self.params(holder))))
