"""A limit to how long one statement may run, in each database's own way."""

from __future__ import annotations

import contextlib
from typing import Any, Iterator, Mapping, Optional

from elk_coordinator.contrib.sql.connections import driver_connection
from elk_coordinator.contrib.sql.database import Session
from elk_coordinator.errors import ConfigError
from elk_coordinator.runtime.clock import Clock

#: Virtual-machine instructions of SQLite between two looks at the clock: some 0.1 ms.
_SQLITE_STEPS = 10_000


@contextlib.contextmanager
def statement_timeout(session: Session, seconds: Optional[float], clock: Optional[Clock] = None) -> Iterator[Session]:
    """Yield a session whose every statement is ended by the database after *seconds*; None = no limit.

    The statement then raises the driver's own error and the transaction is to be rolled back.

    PostgreSQL: ``statement_timeout`` of this transaction. MariaDB: ``max_statement_time`` of the session, put back at
    the end. MySQL: ``max_execution_time``, which by its nature stops SELECTs only. SQLite: a progress handler, so a
    statement that waits for a lock is not ended by it (``busy_timeout`` does that).
    """
    if seconds is None:
        yield session
    elif session.dialect == "postgresql":
        session.scalar("SELECT set_config('statement_timeout', :limit, true)", {"limit": "%dms" % _ms(seconds)})
        yield session
    elif session.dialect == "mysql":
        with _mysql(session, seconds):
            yield session
    else:
        timed = _TimedSession(session, seconds, clock or Clock())
        try:
            yield timed
        finally:
            timed.end()


def check_timeout(seconds: Optional[float]) -> Optional[float]:
    """Return *seconds*. :raises ConfigError: it is no positive number of seconds, nor None."""
    good = isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and 0.001 <= seconds < 1e6
    if seconds is not None and not good:
        raise ConfigError(
            "statement_timeout=%r: it must be seconds from 0.001 to a million, or None for no limit" % (seconds,)
        )
    return seconds


def _ms(seconds: float) -> int:
    return max(1, int(round(seconds * 1000)))


@contextlib.contextmanager
def _mysql(session: Session, seconds: float) -> Iterator[None]:
    maria = "mariadb" in str(session.scalar("SELECT VERSION()")).lower()
    name = "max_statement_time" if maria else "max_execution_time"
    before = session.scalar("SELECT @@SESSION.%s" % name)
    session.execute("SET SESSION %s = %s" % (name, repr(float(seconds)) if maria else _ms(seconds)))
    try:
        yield
    finally:
        # The connection goes back to a pool that others use, too; one that broke is thrown away.
        with contextlib.suppress(Exception):
            session.execute("SET SESSION %s = %s" % (name, before))


class _TimedSession(Session):
    """A session on SQLite that interrupts its statements."""

    def __init__(self, session: Session, seconds: float, clock: Clock) -> None:
        super().__init__(session.connection, session.dialect, session._paramstyle)
        self._undone = session._undone
        self._clock = clock
        self._seconds = seconds
        self._deadline = clock.monotonic() + seconds
        self._raw = driver_connection(session.connection)
        self._raw.set_progress_handler(self._late, _SQLITE_STEPS)

    def _late(self) -> int:
        return int(self._clock.monotonic() >= self._deadline)

    @contextlib.contextmanager
    def _run(self, sql: str, params: Optional[Mapping[str, Any]]) -> Iterator[Any]:
        self._deadline = self._clock.monotonic() + self._seconds
        with super()._run(sql, params) as cursor:
            yield cursor

    def end(self) -> None:
        """Take the handler off: the COMMIT, and whoever has the connection next, runs without it."""
        self._raw.set_progress_handler(None, 0)
