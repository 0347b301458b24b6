"""Where a growing table may be planned up to, so that no row appears below the plan afterwards.

IDs are drawn before they are committed, so ``max(id)`` may be visible while smaller IDs are still on their way. Planned
past them, their partition is completed without them, for ever. An edge *prevents* that; nothing finds it later.
"""

from __future__ import annotations

import logging
from typing import Any, Callable, Generic, List, Optional, Protocol, Tuple, TypeVar, cast

import attr

from elk_coordinator.contrib.sql.database import Database, quote_name
from elk_coordinator.contrib.sql.open_transactions import MySqlWatch, PostgresWatch, SqliteWatch
from elk_coordinator.errors import ConfigError
from elk_coordinator.model import MAX_ID
from elk_coordinator.runtime.clock import Clock

logger = logging.getLogger("elk_coordinator.contrib.sql")

#: Marks kept; when there are more, every second one goes, which costs promptness and never safety.
MAX_MARKS = 32
#: Seconds for which the last answer is repeated: one round of the leader may ask 64 questions.
REPEAT_FOR = 0.2
#: Seconds of waiting for the same transactions after which the log names them, again and again.
COMPLAIN_AFTER = 300.0

T = TypeVar("T")


class Edge(Protocol):
    """Up to where a table may be planned. Belongs to one planner; called by the leader's allocator thread."""

    def safe_max(self, database: Database, table: str, key: str) -> Optional[int]:
        """Return an ID at or below which no row can appear any more; None when none is known yet."""
        ...


class NotGrowing:
    """No edge: for tables that get no rows while they are planned."""

    def safe_max(self, database: Database, table: str, key: str) -> Optional[int]:
        return MAX_ID


@attr.s(auto_attribs=True, slots=True)
class _Mark(Generic[T]):
    """A maximum that was seen, and what has to end (or the time that has to come) before it is safe."""

    top: int
    until: T


class _Growing:
    """What both edges share: marks in order, the answer, its repetition, and the one table they belong to."""

    def __init__(self, clock: Optional[Clock]) -> None:
        self._clock = clock or Clock()
        self._safe: Optional[int] = None
        self._asked: Optional[float] = None
        self._table: Optional[Tuple[Database, str, str]] = None

    def _due(self, database: Database, table: str, key: str) -> bool:
        """Return whether to look again; refuse a second table."""
        mine = (database, table, key)
        if self._table is None:
            self._table = mine
        elif self._table != mine:
            raise ConfigError(
                "edge=%s: it belongs to %s.%s and cannot serve %s.%s too; make one edge for each planner"
                % ((type(self).__name__,) + self._table[1:] + mine[1:])
            )
        now = self._clock.monotonic()
        return self._asked is None or now - self._asked >= REPEAT_FOR

    def _resolve(self, marks: List[_Mark[T]], ended: Callable[[T], bool]) -> None:
        """Take the highest mark that is safe; it and those below it have done their work."""
        for index in range(len(marks) - 1, -1, -1):
            if ended(marks[index].until):
                self._safe = marks[index].top
                del marks[: index + 1]
                return

    def _is_new(self, top: Optional[int], marks: List[_Mark[T]]) -> bool:
        known = marks[-1].top if marks else self._safe
        return top is not None and (known is None or top > known)


class SettleTime(_Growing):
    """A maximum seen is planned once it is *seconds* old: safe while every row is committed within *seconds* of the
    moment its ID was drawn.

    Needs no privilege and works everywhere, also for keys that clients make up (snowflakes) and on replicas (add their
    lag). A row that takes longer is missed: choose *seconds* above the longest write transaction.

    :raises ConfigError: *seconds* is no positive number.
    """

    def __init__(self, seconds: float, clock: Optional[Clock] = None) -> None:
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < 1e9:
            raise ConfigError(
                "seconds=%r: a settle time is a positive number of seconds, above the longest write transaction"
                % (seconds,)
            )
        super().__init__(clock)
        self._seconds = float(seconds)
        self._marks: List[_Mark[float]] = []

    def safe_max(self, database: Database, table: str, key: str) -> Optional[int]:
        if not self._due(database, table, key):
            return self._safe
        with database.reading() as session:
            top = session.scalar(_top(database.dialect, table, key))
        # After the answer: what had not been drawn at this moment is larger than the maximum.
        now = self._asked = self._clock.monotonic()
        self._resolve(self._marks, lambda settled: settled <= now)
        step = self._seconds / MAX_MARKS
        if self._is_new(top, self._marks):
            # Not each: one that comes so soon after another is seen again, and settles by then.
            if not self._marks or now + self._seconds - self._marks[-1].until >= step:
                self._marks.append(_Mark(int(top), now + self._seconds))
        return self._safe


class OpenTransactions(_Growing):
    """A maximum seen is planned once every transaction has ended that was open then and may hold a smaller ID.

    Exact, without a settle time: whoever holds an ID drawn before the maximum was open when the maximum was seen. It
    relies on IDs drawn in rising order, inside the transaction that inserts them, on the server asked (see
    docs/databases.rst): what it can tell is refused (a sequence with ``CACHE`` above 1, replicas, Galera, keys without
    AUTO_INCREMENT). PostgreSQL needs no privilege, MySQL and MariaDB need ``PROCESS``; SQLite has one writer, and
    nothing to wait for.

    A new leader begins with what is open then. A transaction left open holds the plan; the log names it after minutes.

    :param every: PostgreSQL: wait for all transactions of the database, not only those that hold a lock on the table
        for writing or on the key's sequence. Needed where IDs are drawn from a sequence the column does not name.
    """

    def __init__(self, every: bool = False, clock: Optional[Clock] = None) -> None:
        super().__init__(clock)
        self._every = every
        self._marks: List[_Mark[Any]] = []
        self._watch: Any = None
        self._before: Any = None
        self._held_since: Optional[float] = None

    def safe_max(self, database: Database, table: str, key: str) -> Optional[int]:
        if not self._due(database, table, key):
            return self._safe
        if self._watch is None:
            watches = {"postgresql": PostgresWatch, "mysql": MySqlWatch, "sqlite": SqliteWatch}
            self._watch = cast(Any, watches[database.dialect])(table, key, self._every)
        watch = self._watch
        # 1. The maximum, 2. who is open. A holder of a smaller ID drew it before the maximum was drawn, hence before
        # 1, and is still open at 2, or has committed and is seen by every query from now on. The planner asks for rows
        # in another transaction, after this: under REPEATABLE READ this one does not see who committed since 1.
        with database.reading() as session:
            top = session.scalar(_top(database.dialect, table, key))
            look = watch.look(session)
        self._asked = self._clock.monotonic()
        for mark in self._marks:
            mark.until = watch.left(mark.until, self._before, look)
        self._before = look
        if self._is_new(top, self._marks):
            self._marks.append(_Mark(int(top), watch.holders(look)))
            if len(self._marks) > MAX_MARKS:
                del self._marks[1:-1:2]
        safe = self._safe
        self._resolve(self._marks, lambda until: not until)
        self._complain(safe != self._safe)
        return self._safe

    def waiting_for(self) -> List[str]:
        """Return whom the plan waits for: process ids on PostgreSQL, connection ids on MySQL and MariaDB."""
        return [] if not self._marks or self._watch is None else list(self._watch.names(self._marks[0].until))

    def _complain(self, moved: bool) -> None:
        now = self._clock.monotonic()
        if moved or not self._marks or self._held_since is None:
            self._held_since = now
        elif now - self._held_since >= COMPLAIN_AFTER and self._table is not None:
            self._held_since = now
            logger.warning(
                "%s is planned up to %s and no further: rows below %d may still come from transactions that stay open "
                "(%s); end them, or plan with SettleTime",
                self._table[1], self._safe, self._marks[0].top, ", ".join(self.waiting_for()[:20])
            )  # fmt: skip


def _top(dialect: str, table: str, key: str) -> str:
    return "SELECT max(%s) FROM %s" % (quote_name(dialect, key), quote_name(dialect, table))
