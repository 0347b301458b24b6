"""One small face for SQLite, PostgreSQL, MySQL and MariaDB, through a SQLAlchemy engine or any DB-API driver.

Only what planners and processors need: a transaction, statements with named parameters, and the question whether the
connection died. No SQL is generated here, and no result is changed.
"""

from __future__ import annotations

import contextlib
from typing import Any, Callable, ContextManager, Iterator, List, Mapping, Optional, Tuple

from elk_coordinator.contrib.sql.connections import (
    Connections,
    EngineConnections,
    OwnConnections,
    driver_connection,
    rolled_back,
)
from elk_coordinator.contrib.sql.statements import PARAMSTYLES, quote_name, render
from elk_coordinator.errors import ConfigError, TaskInterrupted
from elk_coordinator.runtime.clock import Clock

__all__ = ["Database", "Session", "quote_name"]

#: sqlite3.LEGACY_TRANSACTION_CONTROL, the mode of every connection before Python 3.12.
_LEGACY = -1


class Session:
    """Statements inside one transaction. Belongs to the thread that opened it and ends with its ``with`` block.

    Parameters are named, ``:name``, whatever the driver; casts (``::``), comments and quoted text stay as they are.
    """

    def __init__(self, connection: Any, dialect: str, paramstyle: str) -> None:
        #: The DB-API connection, for what this class does not offer.
        self.connection = connection
        self.dialect = dialect
        self._paramstyle = paramstyle
        #: The last error of a statement that may have undone what was done before it.
        self._undone: List[Exception] = []

    def execute(self, sql: str, params: Optional[Mapping[str, Any]] = None) -> int:
        """Run one statement and return the rows it touched (-1 when the driver does not know)."""
        with self._run(sql, params) as cursor:
            return int(cursor.rowcount)

    def rows(self, sql: str, params: Optional[Mapping[str, Any]] = None) -> List[Tuple[Any, ...]]:
        """Run one query and return all its rows."""
        with self._run(sql, params) as cursor:
            return [tuple(row) for row in cursor.fetchall()]

    def scalar(self, sql: str, params: Optional[Mapping[str, Any]] = None) -> Any:
        """Run one query and return the first column of its first row; None without a row."""
        found = self.rows(sql, params)
        return found[0][0] if found else None

    @contextlib.contextmanager
    def _run(self, sql: str, params: Optional[Mapping[str, Any]]) -> Iterator[Any]:
        text, arguments = render(sql, params or {}, self.dialect, self._paramstyle)
        cursor = self.connection.cursor()
        try:
            if arguments:
                cursor.execute(text, arguments)
            else:
                cursor.execute(text)
            yield cursor
        except Exception as exc:
            if self.dialect != "mysql" or rolled_back(exc):
                self._undone[:] = [exc]
            raise
        finally:
            cursor.close()

    def check_whole(self) -> None:
        """Raise when a COMMIT would keep less than was done here, since an error that the caller swallowed undid it.

        Drivers do not say so: PostgreSQL answers the COMMIT of an aborted transaction with a ROLLBACK, without an
        error; after a deadlock InnoDB commits what was done behind it; SQLite ends a transaction by ``ON CONFLICT
        ROLLBACK``. Asks the server only after an error.
        """
        raw = driver_connection(self.connection)
        undone = self._undone[0] if self._undone else None
        if self.dialect == "postgresql":
            # 3: in error, for psycopg and psycopg2; it also knows of statements that went past this class.
            if undone is not None or getattr(getattr(raw, "info", None), "transaction_status", None) == 3:
                try:
                    self.scalar("SELECT 1")
                except Exception as exc:
                    raise exc from undone
        elif undone is not None and (self.dialect == "mysql" or not raw.in_transaction):
            raise undone


class Database:
    """A database that planners and processors share. Thread-safe: every transaction has a connection to itself.

    Holds no connection between transactions except idle ones in a pool (the engine's, or at most 16 of its own; those
    idle for 30 s are asked before they are used again). Objects made before a ``fork`` work after it.

    *SQLite*: :meth:`transaction` takes the write lock at its begin (``BEGIN IMMEDIATE``), so two writers wait for each
    other instead of failing half-way; connections of our own wait up to 30 s for it. Set ``PRAGMA journal_mode=WAL`` on
    the file, once, so that readers and the writer do not wait for each other. A transaction inside a transaction of the
    same thread is another connection: on SQLite it would wait for the outer one in vain.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    @classmethod
    def from_engine(cls, engine: Any) -> "Database":
        """Use the pool of a SQLAlchemy (1.4 or newer) *engine*, which stays the caller's to configure and dispose of.

        :raises ConfigError: it is no engine, an asynchronous one, or of another kind of database.
        """
        return cls(EngineConnections(engine))

    @classmethod
    def from_connect(
        cls, connect: Callable[[], Any], dialect: Optional[str] = None, paramstyle: Optional[str] = None
    ) -> "Database":
        """Use the DB-API connections that *connect* returns, a new one at each call. Does not connect yet.

        :param dialect: ``sqlite``, ``postgresql`` or ``mysql``; told from the driver for those that are well known.
        :param paramstyle: the driver's, as PEP 249 names it; read from the driver when not given.
        :raises ConfigError: a bad value; at the first use also a driver that cannot be told.
        """
        if not callable(connect):
            raise ConfigError("connect=%r: it must be callable and return a new DB-API connection" % (connect,))
        if paramstyle is not None and paramstyle not in PARAMSTYLES:
            raise ConfigError("paramstyle=%r: it must be one of %s" % (paramstyle, ", ".join(PARAMSTYLES)))
        return cls(OwnConnections(connect, dialect, paramstyle, Clock()))

    @property
    def dialect(self) -> str:
        """``sqlite``, ``postgresql`` or ``mysql`` (MariaDB, too). The first time it may connect."""
        return self._connections.describe()[0]

    def transaction(self) -> ContextManager[Session]:
        """Return a context manager around one transaction: committed at its end, rolled back by an exception.

        A connection that broke is thrown away and never handed out again. Errors are the driver's own; when the commit
        itself fails by a dead connection, nobody knows whether it happened.

        An error of a statement that was caught inside the block, but undid what was done before it (PostgreSQL: any,
        unless rolled back to a savepoint; MySQL: a deadlock), comes up again at the end of the block, instead of a
        commit of less than all.
        """
        return self._transaction(write=True)

    def reading(self) -> ContextManager[Session]:
        """Return a transaction that only reads: the same, except that SQLite's write lock is left alone."""
        return self._transaction(write=False)

    @contextlib.contextmanager
    def _transaction(self, write: bool) -> Iterator[Session]:
        connections = self._connections
        connection = connections.lend()
        restore: Callable[[], None] = _nothing
        try:
            dialect, paramstyle = connections.describe()
            restore = _begin(connection, dialect, write)
            session = Session(connection, dialect, paramstyle)
            yield session
            session.check_whole()
            connection.commit()
        except BaseException as exc:
            if self._rolled_back(connection, exc, restore):
                connections.give_back(connection)
            else:
                connections.discard(connection, exc)
            raise
        try:
            restore()
        except Exception as exc:  # it is committed, whatever becomes of the connection
            connections.discard(connection, exc)
        else:
            connections.give_back(connection)

    def _rolled_back(self, connection: Any, error: BaseException, restore: Callable[[], None]) -> bool:
        """Return whether the connection is in order again after *error*."""
        # What interrupts from outside may have come between a request and its reply: closing is the rollback then.
        expected = isinstance(error, (Exception, TaskInterrupted, GeneratorExit))
        if not expected or self.is_disconnect(error):
            return False
        try:
            connection.rollback()
            restore()
            return True
        except Exception:
            return False

    def is_disconnect(self, error: BaseException) -> bool:
        """Return whether *error* says that the connection died, so that the same on a new one makes sense."""
        return self._connections.is_disconnect(error)

    def close(self) -> None:
        """Close the idle connections of our own. Transactions under way end undisturbed; a later one connects anew."""
        self._connections.close()


def _nothing() -> None:
    pass


def _begin(connection: Any, dialect: str, write: bool) -> Callable[[], None]:
    """Make sure that a transaction is what follows, and return what puts the connection's mode back afterwards."""
    raw = driver_connection(connection)
    if dialect == "sqlite":
        return _begin_sqlite(raw, write)
    mode = getattr(raw, "get_autocommit", None)
    if callable(mode):  # PyMySQL, mysqlclient
        if not mode():
            return _nothing
        raw.autocommit(False)
        return lambda: raw.autocommit(True)
    if getattr(raw, "autocommit", False) is True:  # psycopg, psycopg2, mysql.connector
        raw.autocommit = False
        return lambda: setattr(raw, "autocommit", True)
    return _nothing


def _begin_sqlite(raw: Any, write: bool) -> Callable[[], None]:
    # By itself the module begins late, at the first write, and then fails if another wrote since the first read; or,
    # from Python 3.12 on and told so, has a transaction open always, or takes no notice of commit().
    level, mode = raw.isolation_level, getattr(raw, "autocommit", _LEGACY)

    def restore() -> None:
        raw.isolation_level = level
        if mode != _LEGACY:
            raw.autocommit = mode

    try:
        if mode != _LEGACY:
            raw.autocommit = _LEGACY
            raw.rollback()
        raw.isolation_level = None
        raw.execute("BEGIN IMMEDIATE" if write else "BEGIN")
    except BaseException:
        # Left as it is, the next user of a pooled connection would commit each statement by itself.
        restore()
        raise
    return restore
