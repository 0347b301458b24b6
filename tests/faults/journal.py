"""What the processors of the fault tests write down, in SQLite: one file per case, shared by all its processes.

Effects go through the range fence that the library documents: a row per partition holds the token of whoever may write
and how far the effects reach; both are checked and moved in the transaction of the effect. The same effects go, without
any guard, into a second table: what the fence saved us from is the difference of the two.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple

_TABLES = """
CREATE TABLE IF NOT EXISTS fence (namespace, lo, hi, token, done_to, PRIMARY KEY (namespace, lo, hi));
CREATE TABLE IF NOT EXISTS attempts (namespace, partition_id, lo, hi, token, attempt, deliveries, worker, at);
CREATE TABLE IF NOT EXISTS applied (namespace, lo, hi, token, worker, at);
CREATE TABLE IF NOT EXISTS unguarded (namespace, lo, hi, token, worker, at);
CREATE TABLE IF NOT EXISTS refused (namespace, lo, hi, token, current, worker, at);
CREATE TABLE IF NOT EXISTS looks (namespace, partition_id, token, worker, cancelled, reason, at);
"""


class StaleToken(Exception):
    """Somebody with a larger token has this range: nothing was written."""


class Attempt(NamedTuple):
    partition_id: int
    lo: int
    hi: int
    token: int
    attempt: int
    deliveries: int
    worker: str
    at: float


class Look(NamedTuple):
    """One look at ``ctx.cancelled`` that mattered."""

    partition_id: int
    token: int
    worker: str
    cancelled: bool
    reason: str
    at: float


class Journal:
    """One connection, used by one thread at a time. ``at`` is the machine's boot time, the same in all processes."""

    def __init__(self, path: str, namespace: str) -> None:
        self._namespace = namespace
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.executescript(_TABLES)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _insert(self, table: str, *values: Any) -> None:
        with self._transaction() as db:
            db.execute("INSERT INTO %s VALUES (%s)" % (table, ", ".join("?" * (len(values) + 1))),
                       (self._namespace,) + values)  # fmt: skip

    def _rows(self, table: str, columns: str, order: str) -> List[Tuple[Any, ...]]:
        with self._lock:
            query = "SELECT %s FROM %s WHERE namespace = ? ORDER BY %s" % (columns, table, order)
            return self._db.execute(query, (self._namespace,)).fetchall()

    # -- from the processors

    def attempt(self, ctx: Any, at: float) -> None:
        p = ctx.partition
        self._insert("attempts", p.partition_id, p.min_id, p.max_id, ctx.fencing_token, ctx.attempt, p.deliveries,
                     ctx.worker_id, at)  # fmt: skip

    def look(self, ctx: Any, cancelled: bool, reason: str, at: float) -> None:
        self._insert("looks", ctx.partition.partition_id, ctx.fencing_token, ctx.worker_id, cancelled, reason, at)

    def unguarded(self, lo: int, hi: int, token: int, worker: str, at: float) -> None:
        self._insert("unguarded", lo, hi, token, worker, at)

    def take(self, lo: int, hi: int, token: int, enforced: bool = True) -> int:
        """Put our token into the fence; return how far the effects reach.

        :raises StaleToken: when a larger token is there.
        """
        with self._transaction() as db:
            db.execute(
                "INSERT INTO fence VALUES (?, ?, ?, ?, ?) ON CONFLICT (namespace, lo, hi)"
                " DO UPDATE SET token = excluded.token WHERE fence.token < excluded.token",
                (self._namespace, lo, hi, token, lo - 1),
            )
            return self._checked(db, lo, hi, token, enforced)

    def apply(self, lo: int, hi: int, token: int, first: int, last: int, worker: str, at: float,
              enforced: bool = True) -> None:  # fmt: skip
        """Apply the effects of ``[first, last]`` in partition ``[lo, hi]`` and move the fence, in one transaction.

        :raises StaleToken: when a larger token is there; nothing was applied.
        """
        try:
            with self._transaction() as db:
                done_to = self._checked(db, lo, hi, token, enforced)
                if first <= done_to and enforced:
                    raise AssertionError("a holder of the fence starts at %d, done is up to %d" % (first, done_to))
                db.execute("INSERT INTO applied VALUES (?, ?, ?, ?, ?, ?)",
                           (self._namespace, first, last, token, worker, at))  # fmt: skip
                if enforced:
                    # Who does not know of the fence does not move it either.
                    db.execute("UPDATE fence SET done_to = ? WHERE namespace = ? AND lo = ? AND hi = ?",
                               (last, self._namespace, lo, hi))  # fmt: skip
        except StaleToken as exc:
            self._insert("refused", first, last, token, exc.args[1], worker, at)
            raise

    def _checked(self, db: sqlite3.Connection, lo: int, hi: int, token: int, enforced: bool) -> int:
        query = "SELECT token, done_to FROM fence WHERE namespace = ? AND lo = ? AND hi = ?"
        current, done_to = db.execute(query, (self._namespace, lo, hi)).fetchone()
        if enforced and current != token:
            raise StaleToken("the fence of [%d, %d] holds token %d, not %d" % (lo, hi, current, token), current)
        return int(done_to) if enforced else lo - 1

    # -- for the checks

    def attempts(self) -> List[Attempt]:
        columns = "partition_id, lo, hi, token, attempt, deliveries, worker, at"
        return [Attempt(*row) for row in self._rows("attempts", columns, "at")]

    def looks(self) -> List[Look]:
        return [Look(*row) for row in self._rows("looks", "partition_id, token, worker, cancelled, reason, at", "at")]

    def applied(self) -> List[Tuple[int, int]]:
        return [(low, high) for low, high in self._rows("applied", "lo, hi", "lo, hi")]

    def applied_by(self) -> List[Tuple[int, int, int, str]]:
        return [(lo, hi, token, worker) for lo, hi, token, worker in self._rows(
            "applied", "lo, hi, token, worker", "lo, hi")]  # fmt: skip

    def refusals(self) -> List[Tuple[int, int, int, int, str]]:
        return [(lo, hi, token, current, worker) for lo, hi, token, current, worker in self._rows(
            "refused", "lo, hi, token, current, worker", "at")]  # fmt: skip

    def repeated_ids(self) -> int:
        """Return how many unguarded effects happened more than once, by ID."""
        ranges = [(low, high) for low, high in self._rows("unguarded", "lo, hi", "lo, hi")]
        return sum(high - low + 1 for low, high in ranges) - covered_size(ranges)


def covered_size(ranges: Sequence[Tuple[int, int]]) -> int:
    """Return how many distinct IDs the ranges hold."""
    total, edge = 0, None
    for low, high in sorted(ranges):
        start = low if edge is None else max(low, edge + 1)
        total += max(0, high - start + 1)
        edge = high if edge is None else max(edge, high)
    return total


def overlaps(ranges: Sequence[Tuple[int, int]]) -> List[Tuple[Tuple[int, int], Tuple[int, int]]]:
    """Return neighbours in order that share IDs."""
    ordered = sorted(ranges)
    return [(a, b) for a, b in zip(ordered, ordered[1:]) if b[0] <= a[1]]


def merged(ranges: Sequence[Tuple[int, int]]) -> List[Tuple[int, int]]:
    """Return the ranges joined where they touch."""
    out: List[Tuple[int, int]] = []
    for low, high in sorted(ranges):
        if out and low <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], high))
        else:
            out.append((low, high))
    return out


Facts = Dict[str, Any]
