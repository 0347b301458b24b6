"""Django's own connections behind the small face of :mod:`elk_coordinator.contrib.sql`."""

from __future__ import annotations

import contextlib
from typing import Any, ContextManager, Iterator

from django.db import connections, transaction

from elk_coordinator.contrib.sql import Database, Session
from elk_coordinator.contrib.sql.connections import dialect_named, disconnected

#: Django's cursors take it, whatever the driver.
PARAMSTYLE = "format"


class _Wrappers:
    """Tells :class:`Database` of an alias; connections stay with Django, one per thread."""

    def __init__(self, alias: str) -> None:
        self.alias = alias

    def describe(self) -> Any:
        return dialect_named(connections[self.alias].vendor), PARAMSTYLE

    def lend(self) -> Any:
        return connections[self.alias]

    def give_back(self, connection: Any) -> None:
        """Nothing: it is the thread's."""

    def discard(self, connection: Any, error: Any) -> None:
        connection.close()

    def is_disconnect(self, error: BaseException) -> bool:
        return disconnected(self.describe()[0], error)

    def close(self) -> None:
        connections[self.alias].close()


class DjangoDatabase(Database):
    """The database *alias* of the settings, for the planners and processors of :mod:`elk_coordinator.contrib.sql`.

    A transaction is Django's ``atomic()``: the ORM used inside it takes part, and inside a ``TestCase`` it is a
    savepoint. Each thread has its own connection; put :class:`DjangoProcessor` around what uses it (``build()`` does),
    so that stale ones are closed. Outside of an ``atomic()`` a connection that died is closed, and the next transaction
    connects anew.
    """

    def __init__(self, alias: str = "default") -> None:
        self.alias = alias
        super().__init__(_Wrappers(alias))

    def transaction(self) -> ContextManager[Session]:
        """Return ``atomic()`` with a session in it. On SQLite it takes the write lock at its begin, so that two writers
        wait for each other instead of failing half-way."""
        return self._atomic(write=True)

    def reading(self) -> ContextManager[Session]:
        """Return ``atomic()`` with a session in it, which leaves SQLite's write lock alone."""
        return self._atomic(write=False)

    @contextlib.contextmanager
    def _atomic(self, write: bool) -> Iterator[Session]:
        wrapper = connections[self.alias]
        outermost = not wrapper.in_atomic_block
        try:
            with _immediate(wrapper, write and outermost), transaction.atomic(using=self.alias):
                session = Session(wrapper, self.dialect, PARAMSTYLE)
                yield session
                session.check_whole()
        except BaseException as exc:
            if outermost and self.is_disconnect(exc):
                wrapper.close()
            raise


@contextlib.contextmanager
def _immediate(wrapper: Any, wanted: bool) -> Iterator[None]:
    """Have the next transaction on SQLite begin as a writer; Django itself has a setting for it from 5.1 on."""
    if not wanted or wrapper.vendor != "sqlite":
        yield
        return
    # On this wrapper alone, which no other thread uses.
    wrapper._start_transaction_under_autocommit = lambda: wrapper.cursor().execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        del wrapper._start_transaction_under_autocommit
