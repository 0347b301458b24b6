"""The range fence: every effect of a partition happens once, whoever was killed, frozen or late.

A lease alone cannot promise it: a worker may be frozen between its last look at the lease and its write. So the
database, which sees all writes, decides. One row per partition::

    elk_fence(namespace, lo, hi, token, done_to, processed)

* At its start a worker puts its fencing token into the row, in a transaction of its own, unless a larger one is there.
* Every write transaction locks the row, goes on only if the row still holds its token, starts behind ``done_to``, and
  moves ``done_to`` together with its effects.

Tokens only rise, so whoever was given the partition later wins; what was done before a crash is not done again. The
lock also settles a lost answer to a COMMIT: the row can be locked again only when that transaction has ended.
"""

from __future__ import annotations

from typing import Callable, Mapping, Optional, Tuple, Union

from elk_coordinator.contrib.sql.database import Database, Session, quote_name
from elk_coordinator.errors import ConfigError, LeaseLost, PermanentError, StateError
from elk_coordinator.protocols import ProcessContext

Value = Union[int, str]


class StaleToken(LeaseLost):
    """Somebody with a larger token has this range: the transaction was rolled back, nothing was written.

    :ivar current: the token that the fence holds.
    """

    def __init__(self, partition_id: int, token: int, current: int, lo: int, hi: int) -> None:
        super().__init__(partition_id, token, "the write")
        self.current = current
        self.args = (
            "partition %d [%d, %d]: the fence holds token %d, this attempt has %d, so its write was refused and "
            "changed nothing; the partition was given to another attempt. If this comes back for the one that "
            "holds it, the clock of the store was set back, or two stores serve one fence table under one namespace"
            % (partition_id, lo, hi, current, token),
        )


class FenceOverlap(PermanentError):
    """The fence knows this range, or a part of it, under other bounds, so nobody can say what of it was done.

    :ivar requested: bounds of the partition. :ivar existing: bounds in the table.
    :ivar done_to: the last ID done there.
    """

    def __init__(self, table: str, namespace: str, requested: Tuple[int, int], existing: Tuple[int, int, int]) -> None:
        self.requested = requested
        self.existing = existing[:2]
        self.done_to = existing[2]
        super().__init__(
            "%s: namespace %r has [%d, %d] on record, done to %d, and partition [%d, %d] overlaps it: the IDs were "
            "planned anew with other bounds (the store lost its data, or partitions were deleted). Nothing was done. "
            "When no worker of the old plan runs any more, see to it that a repeated effect does no harm, call "
            "RangeFence.forget(%r, %d, %d) and retry the partition"
            % ((table, namespace) + existing + requested + (namespace,) + requested)
        )


class RangeFence:
    """The fence table of a database, for any number of namespaces. Thread-safe.

    :param table: its name, ``schema.table`` too. :meth:`create_table` makes it; or put :meth:`ddl` into a migration.
    """

    def __init__(self, database: Database, table: str = "elk_fence") -> None:
        quote_name("sqlite", table)  # refuses a bad name before the first use of the database
        self._database = database
        self._table = table

    def ddl(self) -> str:
        """Return the statement that creates the table."""
        dialect = self._database.dialect
        # The default collation of MySQL takes "Orders" and "orders" for the same namespace; MyISAM has no transactions.
        text = "VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin" if dialect == "mysql" else "VARCHAR(100)"
        return (
            "CREATE TABLE IF NOT EXISTS %s (namespace %s NOT NULL, lo BIGINT NOT NULL, hi BIGINT NOT NULL, "
            "token BIGINT NOT NULL, done_to BIGINT NOT NULL, processed BIGINT NOT NULL, "
            "PRIMARY KEY (namespace, lo, hi))%s"
            % (quote_name(dialect, self._table), text, " ENGINE=InnoDB" if dialect == "mysql" else "")
        )

    def create_table(self) -> None:
        """Create the table unless it exists. Any number of workers may call it at the same time, and where the table
        exists also those that may not create one."""
        try:
            with self._database.transaction() as session:
                session.execute(self.ddl())
        except Exception:
            # PostgreSQL: another one made it meanwhile, or this role has no right to create tables and needs none.
            try:
                with self._database.reading() as session:
                    session.rows("SELECT lo FROM %s WHERE 1 = 0" % quote_name(session.dialect, self._table))
                return
            except Exception:
                pass
            raise

    def enter(self, ctx: ProcessContext) -> "FencedRange":
        """Put the token of this attempt into the row of its partition, in a transaction of its own; return the range.

        A range the fence does not know yet begins behind the attempt's checkpoint.

        :raises StaleToken: a larger token is there. :raises FenceOverlap: the range is known under other bounds.
        """
        return FencedRange(self._database, self._table, ctx)

    def forget(self, namespace: str, lo: int, hi: int) -> int:
        """Delete what is known of the ranges that overlap [lo, hi]; return how many. Their effects may happen again."""
        with self._database.transaction() as session:
            return session.execute(
                "DELETE FROM %s WHERE namespace = :namespace AND lo <= :hi AND hi >= :lo"
                % quote_name(session.dialect, self._table),
                {"namespace": namespace, "lo": lo, "hi": hi},
            )


class FencedRange:
    """The fence of one partition for one attempt; made by :meth:`RangeFence.enter`. Belongs to the attempt's thread."""

    def __init__(self, database: Database, table: str, ctx: ProcessContext) -> None:
        self._database = database
        self._table = table
        partition = ctx.partition
        self._partition_id = partition.partition_id
        self._namespace = ctx.namespace
        self._token = ctx.fencing_token
        self.lo = partition.min_id
        self.hi = partition.max_id
        checkpoint = partition.checkpoint
        #: The last ID whose effects are in the database.
        self.done_to = self.lo - 1 if checkpoint is None else checkpoint
        #: Items counted by all attempts, in the same transactions as their effects.
        self.processed = partition.processed
        self.refresh()

    @property
    def _key(self) -> Mapping[str, Value]:
        return {"namespace": self._namespace, "lo": self.lo, "hi": self.hi}

    def refresh(self) -> None:
        """Take the row (again) and learn how far it is done; after a lost connection it tells what was committed.

        It waits for the end of a transaction that still holds the row.
        """
        with self._database.transaction() as session:
            overlap = self._overlap(session)
            if overlap is None:
                session.execute(
                    self._upsert(session.dialect),
                    dict(self._key, token=self._token, done_to=self.done_to, processed=self.processed),
                )
                self.done_to, self.processed = self._locked(session)
        # Again, after the commit: of two that entered at the same time at least one sees the other.
        with self._database.transaction() as session:
            overlap = overlap or self._overlap(session)
            if overlap is not None:
                session.execute(
                    "DELETE FROM %s WHERE namespace = :namespace AND lo = :lo AND hi = :hi AND token = :token"
                    " AND done_to < :lo" % quote_name(session.dialect, self._table),
                    dict(self._key, token=self._token),
                )
        if overlap is not None:
            raise FenceOverlap(self._table, self._namespace, (self.lo, self.hi), overlap)

    def write(self, last_id: int, apply: Callable[[Session], Optional[int]]) -> int:
        """Run *apply* for the IDs behind ``done_to`` up to *last_id*, in one transaction; return its count.

        With *last_id* = ``hi`` the range is completed, in the same transaction as its effects.

        :param apply: gets the session, does the effects through it, returns how many items they were; None is 0.
        :raises StaleToken: a larger token is there; *apply* did not run.
        """
        with self._database.transaction() as session:
            count = self.guard(session, last_id, apply)
        self.moved(last_id, count)
        return count

    def guard(self, session: Session, last_id: int, apply: Callable[[Session], Optional[int]]) -> int:
        """Do what :meth:`write` does inside the caller's own transaction; call :meth:`moved` once it is committed.

        Let whatever this raises roll the transaction back.
        """
        if not self.done_to < last_id <= self.hi:
            raise ValueError("last_id must be in (%d, %d], not %r" % (self.done_to, self.hi, last_id))
        done_to, _ = self._locked(session)
        if done_to != self.done_to:
            raise StateError(
                "partition %d [%d, %d]: the fence is at %d and this attempt at %d: it was moved by another thread of "
                "the same attempt; one thread at a time may write"
                % (self._partition_id, self.lo, self.hi, done_to, self.done_to)
            )
        count = apply(session) or 0
        session.execute(
            "UPDATE %s SET done_to = :done_to, processed = processed + :count"
            " WHERE namespace = :namespace AND lo = :lo AND hi = :hi" % quote_name(session.dialect, self._table),
            dict(self._key, done_to=last_id, count=count),
        )
        return count

    def moved(self, last_id: int, count: int) -> None:
        """Take note of a committed :meth:`guard`."""
        self.done_to = last_id
        self.processed += count

    def _upsert(self, dialect: str) -> str:
        insert = (
            "INSERT INTO %s%s (namespace, lo, hi, token, done_to, processed)"
            " VALUES (:namespace, :lo, :hi, :token, :done_to, :processed) "
        )
        table = quote_name(dialect, self._table)
        if dialect == "mysql":
            return insert % (table, "") + "ON DUPLICATE KEY UPDATE token = GREATEST(token, :token)"
        return insert % (table, " AS held") + (
            "ON CONFLICT (namespace, lo, hi) DO UPDATE SET token = excluded.token WHERE held.token < excluded.token"
        )

    def _locked(self, session: Session) -> Tuple[int, int]:
        """Lock the row, check the token, return ``done_to`` and ``processed``."""
        found = session.rows(
            "SELECT token, done_to, processed FROM %s WHERE namespace = :namespace AND lo = :lo AND hi = :hi%s"
            % (quote_name(session.dialect, self._table), "" if session.dialect == "sqlite" else " FOR UPDATE"),
            self._key,
        )
        if not found:
            raise StateError(
                "%s: the row of namespace %r [%d, %d] is gone: it was deleted while an attempt at it ran"
                % (self._table, self._namespace, self.lo, self.hi)
            )
        token, done_to, processed = (int(value) for value in found[0])
        if token != self._token:
            raise StaleToken(self._partition_id, self._token, token, self.lo, self.hi)
        return done_to, processed

    def _overlap(self, session: Session) -> Optional[Tuple[int, int, int]]:
        """Return bounds and ``done_to`` of a row that overlaps ours under other bounds, or None."""
        # The rows are disjoint, since others are refused: whoever overlaps is a next neighbour. No scan of the table.
        near = session.rows(
            "SELECT lo, hi, done_to FROM %s WHERE namespace = :namespace AND lo <= :hi"
            " ORDER BY lo DESC, hi DESC LIMIT 3" % quote_name(session.dialect, self._table),
            {"namespace": self._namespace, "hi": self.hi},
        )
        for lo, hi, done_to in near:
            if hi >= self.lo and (lo, hi) != (self.lo, self.hi):
                return int(lo), int(hi), int(done_to)
        return None


def check_fence(fence: object) -> Optional[RangeFence]:
    """Return *fence*. :raises ConfigError: it is neither a :class:`RangeFence` nor None."""
    if fence is None or isinstance(fence, RangeFence):
        return fence
    raise ConfigError("fence=%r: it must be a RangeFence, or None for none" % (fence,))
