"""Where connections come from and go to, and how a dead one is told from an error of the statement."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any, Callable, Iterator, List, Optional, Protocol, Tuple

from elk_coordinator.errors import ConfigError
from elk_coordinator.runtime.clock import Clock

#: Idle connections kept open; those beyond are closed when they come back.
MAX_IDLE = 16
#: Seconds after which an idle connection is asked before it is lent again: firewalls and servers drop silent ones.
ASK_AFTER = 30.0
#: Milliseconds a SQLite connection of ours waits for another one's write lock.
SQLITE_BUSY_MS = 30_000

_DIALECTS = {
    "sqlite3": "sqlite", "pysqlite2": "sqlite", "pysqlite3": "sqlite", "sqlcipher3": "sqlite",
    "psycopg": "postgresql", "psycopg2": "postgresql", "psycopg2cffi": "postgresql", "pg8000": "postgresql",
    "pymysql": "mysql", "MySQLdb": "mysql", "mysql": "mysql", "mariadb": "mysql", "cymysql": "mysql",
}  # fmt: skip
_SAME = {"mariadb": "mysql", "postgres": "postgresql", "sqlite3": "sqlite"}

#: The server or the network between ended the connection. 1053, 1927: the server shuts down, the connection was killed.
_MYSQL_GONE = {0, 1053, 1927, 2002, 2003, 2006, 2013, 2014, 2045, 2055, 4031}
#: Class 08 (connection exception), sessions ended for idling, and the ways of shutting down.
_POSTGRES_GONE = ("08", "25P03", "25P04", "57P01", "57P02", "57P03", "57P05")
_POSTGRES_WORDS = (
    "connection already closed", "connection is closed", "the connection is closed", "closed the connection",
    "could not receive data from server", "could not send data to server", "connection not open", "connection is lost",
    "ssl connection has been closed", "ssl syscall error", "no connection to the server", "consuming input failed",
    "connection reset by peer", "could not connect", "connection refused", "connection failed", "network error",
    "can't create a connection", "connection timed out", "timeout expired", "no route to host",
    "network is unreachable", "the database system is ",
)  # fmt: skip

#: Deadlocks and serialization failures. The server has rolled the whole transaction back; 1020: MariaDB under
#: innodb_snapshot_isolation.
_ROLLED_BACK_STATES = ("40001", "40P01")
_ROLLED_BACK_NUMBERS = (1213, 1020)
#: A lock that was waited for too long: on MySQL the statement was rolled back, the transaction is still there.
_LOCK_WAIT = 1205

#: By name: the drivers need not be there, and every framework has classes of its own with these names.
_DRIVER_ERRORS = ("OperationalError", "InterfaceError", "DatabaseError", "InternalError")

#: Connections a fork brought along. Closing them would say good-bye to the server in the parent's name, so would
#: forgetting them: they are kept, unused.
_INHERITED: List[Any] = []


class Connections(Protocol):
    """What :class:`~elk_coordinator.contrib.sql.Database` takes its connections from. Thread-safe."""

    def describe(self) -> Tuple[str, str]:
        """Return dialect and paramstyle; may connect."""
        ...

    def lend(self) -> Any: ...

    def give_back(self, connection: Any) -> None:
        """Take back a connection in order, outside a transaction."""
        ...

    def discard(self, connection: Any, error: Optional[BaseException]) -> None:
        """Take back a connection nobody may use again."""
        ...

    def is_disconnect(self, error: BaseException) -> bool: ...

    def close(self) -> None: ...


def driver_connection(connection: Any) -> Any:
    """Return the driver's own connection, to which modes and states belong: SQLAlchemy and Django wrap it."""
    for name in ("dbapi_connection", "connection"):
        inner = getattr(connection, name, None)
        if inner is not None:
            return inner
    return connection


def dialect_named(name: str) -> str:
    """Return the dialect for *name*. :raises ConfigError: an unknown one."""
    found = _SAME.get(name, name)
    if found not in ("sqlite", "postgresql", "mysql"):
        raise ConfigError("dialect=%r: it must be sqlite, postgresql or mysql (also for MariaDB)" % (name,))
    return found


def dialect_of(connection: Any) -> str:
    """Return the dialect of a DB-API connection, by the module of its class."""
    for base in type(connection).__mro__:
        found = _DIALECTS.get(base.__module__.partition(".")[0])
        if found:
            return found
    raise ConfigError(
        "dialect: cannot be told from a connection of %s.%s; pass dialect= and paramstyle="
        % (type(connection).__module__, type(connection).__qualname__)
    )


def paramstyle_of(connection: Any) -> str:
    """Return the paramstyle that the driver of *connection* declares."""
    for base in type(connection).__mro__:
        parts = base.__module__.split(".")
        for length in range(len(parts), 0, -1):
            found = getattr(sys.modules.get(".".join(parts[:length])), "paramstyle", None)
            if isinstance(found, str):
                return found
    raise ConfigError("paramstyle: the driver of %r does not declare it; pass paramstyle=" % type(connection))


def disconnected(dialect: str, error: Optional[BaseException]) -> bool:
    """Return whether *error*, or what it wraps, says that the connection is dead. SQLite has none that could die."""
    return dialect != "sqlite" and any(_gone(dialect, one) for one in _chain(error))


def _chain(error: Optional[BaseException]) -> Iterator[BaseException]:
    """Yield *error* and what it was made from: SQLAlchemy keeps it in ``orig``, Django as cause."""
    seen: List[BaseException] = []
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        error = getattr(error, "orig", None) or error.__cause__


def _gone(dialect: str, error: BaseException) -> bool:
    if getattr(error, "connection_invalidated", False) is True or isinstance(error, ConnectionError):
        return True
    if type(error).__name__ not in _DRIVER_ERRORS and not _state(error):
        return False
    if dialect == "mysql":
        # mysql.connector has no number for it.
        return _number(error) in _MYSQL_GONE or "connection not available" in str(error).lower()
    return _state(error).startswith(_POSTGRES_GONE) or any(word in str(error).lower() for word in _POSTGRES_WORDS)


def _state(error: BaseException) -> str:
    for name in ("pgcode", "sqlstate"):
        state = getattr(error, name, None)
        if isinstance(state, str):
            return state
    first = error.args[0] if error.args else None
    return str(first.get("C", "")) if isinstance(first, dict) else ""  # pg8000


def _number(error: BaseException) -> Optional[int]:
    """Return the number of an error of MySQL's drivers."""
    first = error.args[0] if error.args else None
    found = first if isinstance(first, int) else getattr(error, "errno", None)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def rolled_back(error: BaseException) -> bool:
    """Return whether *error*, or what it wraps, says that the server rolled the whole transaction back, so that the
    same again makes sense: a deadlock, a serialization failure."""
    return any(
        _state(one) in _ROLLED_BACK_STATES
        or type(one).__name__ in _DRIVER_ERRORS and _number(one) in _ROLLED_BACK_NUMBERS
        for one in _chain(error)
    )  # fmt: skip


def transient(error: BaseException) -> bool:
    """Return whether the same in a new transaction makes sense, on a connection that is in order."""
    return rolled_back(error) or any(
        type(one).__name__ in _DRIVER_ERRORS and _number(one) == _LOCK_WAIT for one in _chain(error)
    )


class OwnConnections:
    """Connections made by the user's *connect*, the idle ones kept, at most :data:`MAX_IDLE`; SQLite's are not kept:
    they are cheap, and bound to the thread that made them."""

    def __init__(
        self, connect: Callable[[], Any], dialect: Optional[str], paramstyle: Optional[str], clock: Clock
    ) -> None:
        self._connect = connect
        self._dialect = None if dialect is None else dialect_named(dialect)
        self._paramstyle = paramstyle
        self._clock = clock
        self._lock = threading.Lock()
        self._idle: List[Tuple[Any, float]] = []
        self._pid = os.getpid()
        self._closed = False

    def describe(self) -> Tuple[str, str]:
        if self._dialect is None or self._paramstyle is None:
            self.give_back(self._made())
        assert self._dialect is not None and self._paramstyle is not None
        return self._dialect, self._paramstyle

    def lend(self) -> Any:
        while True:
            with self._lock:
                if self._pid != os.getpid():
                    _INHERITED.extend(self._idle)
                    self._idle, self._pid = [], os.getpid()
                item = self._idle.pop() if self._idle else None
            if item is None:
                return self._made()
            connection, since = item
            if self._clock.monotonic() - since < ASK_AFTER or self._answers(connection):
                return connection
            self.discard(connection, None)

    def _made(self) -> Any:
        connection = self._connect()
        try:
            if self._dialect is None:
                self._dialect = dialect_of(connection)
            if self._paramstyle is None:
                self._paramstyle = paramstyle_of(connection)
            if self._dialect == "sqlite":
                waits = connection.execute("PRAGMA busy_timeout").fetchone()[0]
                connection.execute("PRAGMA busy_timeout = %d" % max(waits, SQLITE_BUSY_MS))
        except BaseException:
            self.discard(connection, None)
            raise
        return connection

    def _answers(self, connection: Any) -> bool:
        try:
            cursor = connection.cursor()
            try:
                cursor.execute("SELECT 1")
                cursor.fetchall()
            finally:
                cursor.close()
            connection.rollback()
            return True
        except Exception:
            return False

    def give_back(self, connection: Any) -> None:
        with self._lock:
            keep = not self._closed and self._dialect != "sqlite" and len(self._idle) < MAX_IDLE
            if keep:
                self._idle.append((connection, self._clock.monotonic()))
        if not keep:
            self.discard(connection, None)

    def discard(self, connection: Any, error: Optional[BaseException]) -> None:
        if error is not None and self.is_disconnect(error):
            # Where one died the others often did, too: all are asked before they are lent again.
            with self._lock:
                self._idle = [(idle, float("-inf")) for idle, _ in self._idle]
        try:
            connection.close()
        except Exception:  # what is broken may refuse even this, and is gone all the same
            pass

    def is_disconnect(self, error: BaseException) -> bool:
        if self._dialect is None:  # the very first connection failed
            return disconnected("postgresql", error) or disconnected("mysql", error)
        return disconnected(self._dialect, error)

    def close(self) -> None:
        with self._lock:
            idle, self._idle, self._closed = self._idle, [], True
            if self._pid != os.getpid():
                _INHERITED.extend(idle)
                idle = []
        for connection, _ in idle:
            self.discard(connection, None)


class EngineConnections:
    """The pool of a SQLAlchemy engine, which belongs to the user: it is neither configured nor disposed of here; only
    after a fork it is replaced, in the child, by an empty one like it."""

    def __init__(self, engine: Any) -> None:
        dialect = getattr(engine, "dialect", None)
        if dialect is None or not callable(getattr(engine, "raw_connection", None)):
            raise ConfigError("engine=%r: it must be a SQLAlchemy Engine" % (engine,))
        if getattr(dialect, "is_async", False):
            raise ConfigError("engine=%r: asynchronous engines are not taken; make one with create_engine" % (engine,))
        self._engine = engine
        self._description = dialect_named(dialect.name), str(dialect.paramstyle)
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def describe(self) -> Tuple[str, str]:
        return self._description

    def lend(self) -> Any:
        if self._pid != os.getpid():
            with self._lock:
                self._forked()
        return self._engine.raw_connection()

    def _forked(self) -> None:
        # SQLAlchemy does not notice, and two processes on one connection read each other's answers.
        if self._pid != os.getpid():
            if self._description[0] != "sqlite":  # whose connections talk to nobody; ":memory:" lives in one
                _INHERITED.append(self._engine.pool)
                self._engine.pool = self._engine.pool.recreate()
            self._pid = os.getpid()

    def give_back(self, connection: Any) -> None:
        connection.close()

    def discard(self, connection: Any, error: Optional[BaseException]) -> None:
        try:
            connection.invalidate(error)
        finally:
            connection.close()

    def is_disconnect(self, error: BaseException) -> bool:
        if disconnected(self._description[0], error):
            return True
        try:
            return bool(self._engine.dialect.is_disconnect(error, None, None))
        except Exception:
            return False

    def close(self) -> None:
        """Nothing: the engine is the user's."""
