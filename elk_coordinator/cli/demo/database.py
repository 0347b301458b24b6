"""The demo's tables, in SQLite or PostgreSQL, behind the same few calls.

Statements are written with ``?`` and hold no other ``?`` or ``%``, so the PostgreSQL side can translate them.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import sqlite3
import threading
from typing import Any, Iterable, Iterator, List, Sequence, Tuple

from elk_coordinator.cli.demo.settings import DemoSettings
from elk_coordinator.errors import ElkError

#: orders: the user's data. fence: one row per partition, the guard. refusals: late writes that the guard kept out.
TABLES = (
    "CREATE TABLE orders (id BIGINT PRIMARY KEY, quantity INTEGER NOT NULL, price_cents INTEGER NOT NULL,"
    " total_cents BIGINT NOT NULL, receipt VARCHAR(64) NOT NULL, applied INTEGER NOT NULL,"
    " applied_by VARCHAR(40) NOT NULL)",
    "CREATE TABLE fence (namespace VARCHAR(100) NOT NULL, lo BIGINT NOT NULL, hi BIGINT NOT NULL,"
    " token BIGINT NOT NULL, done_to BIGINT NOT NULL, rows_done BIGINT NOT NULL, worker VARCHAR(40) NOT NULL,"
    " PRIMARY KEY (namespace, lo, hi))",
    "CREATE TABLE refusals (namespace VARCHAR(100) NOT NULL, lo BIGINT NOT NULL, hi BIGINT NOT NULL,"
    " batch_lo BIGINT NOT NULL, batch_hi BIGINT NOT NULL, token BIGINT NOT NULL, fence_token BIGINT NOT NULL,"
    " worker VARCHAR(40) NOT NULL)",
)

#: Costs some 80 microseconds per order, about what an ORM costs: the real work of the demo.
RECEIPT_ROUNDS = 320

Row = Tuple[Any, ...]
#: Order id, total in cents, receipt.
Invoice = Tuple[int, int, str]


class DemoError(ElkError):
    """The demo cannot run here; the message says what is missing."""


class Database:
    """Connections of one process, one per thread, and the few things the demo does with them. Thread-safe."""

    #: Appended to the SELECT that locks a row.
    for_update = ""

    def __init__(self) -> None:
        self._local = threading.local()

    def _connect(self) -> Any:
        raise NotImplementedError

    def _execute(self, connection: Any, sql: str, params: Sequence[Any]) -> Any:
        raise NotImplementedError

    @property
    def connection(self) -> Any:
        """This thread's connection, in autocommit mode."""
        found = getattr(self._local, "connection", None)
        if found is None:
            found = self._local.connection = self._connect()
        return found

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Run one statement; return the number of rows it changed."""
        cursor = self._execute(self.connection, sql, params)
        changed: int = cursor.rowcount
        cursor.close()
        return changed

    def query(self, sql: str, params: Sequence[Any] = ()) -> List[Row]:
        """Run one SELECT; return all its rows."""
        cursor = self._execute(self.connection, sql, params)
        rows = [tuple(row) for row in cursor.fetchall()]
        cursor.close()
        return rows

    def scalar(self, sql: str, params: Sequence[Any] = ()) -> Any:
        """Run one SELECT of one value."""
        return self.query(sql, params)[0][0]

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the block in one transaction that may write: all of it or nothing."""
        self.execute("BEGIN")
        try:
            yield
        except BaseException:
            self.execute("ROLLBACK")
            raise
        self.execute("COMMIT")

    def create(self) -> None:
        """Create the tables, empty."""
        for statement in TABLES:
            self.execute(statement)

    def insert_orders(self, orders: Iterable[Tuple[int, int, int]]) -> None:
        """Insert ``(id, quantity, price_cents)`` rows that nobody has worked on yet."""
        raise NotImplementedError

    def apply_invoices(self, invoices: Sequence[Invoice], worker: str) -> int:
        """Write totals and receipts, and count that it was done; return the number of orders changed.

        ``applied = applied + 1`` is not idempotent on purpose: whatever runs twice is seen.
        """
        raise NotImplementedError

    def drop(self) -> None:
        """Remove what :meth:`create` made."""

    def close(self) -> None:
        """Close this thread's connection."""
        found = getattr(self._local, "connection", None)
        if found is not None:
            self._local.connection = None
            found.close()

    @property
    def how_to_open(self) -> str:
        """The command with which a reader opens the database."""
        raise NotImplementedError


class SqliteDatabase(Database):
    """One file in write-ahead mode: readers never wait, writers take turns."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=20.0, isolation_level=None)
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def _execute(self, connection: Any, sql: str, params: Sequence[Any]) -> Any:
        return connection.execute(sql, params)

    def create(self) -> None:
        self.execute("PRAGMA journal_mode = WAL")
        super().create()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Take SQLite's only write lock at once: reading first and locking later could fail half-way as "busy"."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.execute("ROLLBACK")
            raise
        self.execute("COMMIT")

    def insert_orders(self, orders: Iterable[Tuple[int, int, int]]) -> None:
        with self.transaction():
            self.connection.executemany("INSERT INTO orders VALUES (?, ?, ?, 0, '', 0, '')", orders)

    def apply_invoices(self, invoices: Sequence[Invoice], worker: str) -> int:
        changed: int = self.connection.executemany(
            "UPDATE orders SET total_cents = ?, receipt = ?, applied = applied + 1, applied_by = ? WHERE id = ?",
            [(total, receipt, worker, order_id) for order_id, total, receipt in invoices],
        ).rowcount
        return max(0, changed)

    @property
    def how_to_open(self) -> str:
        return "sqlite3 %s" % self.path


class PostgresDatabase(Database):
    """A schema of its own on the server the user names, through psycopg 3 or psycopg2."""

    for_update = " FOR UPDATE"

    def __init__(self, url: str, schema: str) -> None:
        super().__init__()
        self.url = url
        self.schema = schema
        self._driver = _postgres_driver()
        self._created = False

    def _connect(self) -> Any:
        try:
            connection = self._driver.connect(self.url, connect_timeout=5)
        except self._driver.Error as exc:
            raise DemoError("PostgreSQL: cannot connect: %s" % " ".join(str(exc).split())) from exc
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("SET search_path TO %s" % self.schema)
        cursor.close()
        return connection

    def _execute(self, connection: Any, sql: str, params: Sequence[Any]) -> Any:
        cursor = connection.cursor()
        cursor.execute(sql.replace("?", "%s"), tuple(params))
        return cursor

    def create(self) -> None:
        try:
            self.execute("CREATE SCHEMA %s" % self.schema)
        except self._driver.Error as exc:
            raise DemoError("PostgreSQL: cannot create the schema: %s" % " ".join(str(exc).split())) from exc
        self._created = True
        super().create()

    def insert_orders(self, orders: Iterable[Tuple[int, int, int]]) -> None:
        batch: List[str] = []
        with self.transaction():
            for order in orders:
                batch.append("(%d, %d, %d, 0, '', 0, '')" % order)
                if len(batch) == 1000:
                    self._insert(batch)
            self._insert(batch)
        self.execute("ANALYZE orders")

    def _insert(self, batch: List[str]) -> None:
        if batch:
            self.execute("INSERT INTO orders VALUES " + ", ".join(batch))
            del batch[:]

    def apply_invoices(self, invoices: Sequence[Invoice], worker: str) -> int:
        if not invoices:
            return 0
        rows = ", ".join(["(?, ?, ?)"] * len(invoices)).replace("(?, ?, ?)", "(?::bigint, ?::bigint, ?::text)", 1)
        params: List[Any] = [worker]
        for invoice in invoices:
            params.extend(invoice)
        return self.execute(
            "UPDATE orders SET total_cents = done.total_cents, receipt = done.receipt, applied = applied + 1,"
            " applied_by = ? FROM (VALUES " + rows + ") AS done (id, total_cents, receipt) WHERE orders.id = done.id",
            params,
        )

    def drop(self) -> None:
        if self._created:  # one that was there before is not ours to drop
            self.execute("DROP SCHEMA IF EXISTS %s CASCADE" % self.schema)

    @property
    def how_to_open(self) -> str:
        return "psql URL, then: SET search_path TO %s;" % self.schema


def _postgres_driver() -> Any:
    for name in ("psycopg", "psycopg2"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise DemoError(
        "--postgres needs a driver and neither psycopg nor psycopg2 can be imported; "
        "install one: pip install 'psycopg[binary]'"
    )


def open_database(settings: DemoSettings) -> Database:
    """Return the database of this run; connects at its first use.

    :raises DemoError: when there is no PostgreSQL driver.
    """
    if settings.postgres is not None:
        return PostgresDatabase(settings.postgres, settings.schema)
    assert settings.sqlite is not None
    return SqliteDatabase(settings.sqlite)


def orders(ids: Sequence[int]) -> Iterator[Tuple[int, int, int]]:
    """Return the rows to insert for *ids*: quantities and prices that follow from the id."""
    for order_id in ids:
        yield order_id, 1 + order_id % 7, 100 + order_id * 7919 % 9900


def invoice(order_id: int, quantity: int, price_cents: int) -> Invoice:
    """Do the work of one order: its total, and a receipt that takes some computing, as signatures do."""
    total = quantity * price_cents
    text = "%d:%d:%d" % (order_id, quantity, total)
    return order_id, total, hashlib.pbkdf2_hmac("sha256", text.encode("ascii"), b"elk demo", RECEIPT_ROUNDS).hex()
