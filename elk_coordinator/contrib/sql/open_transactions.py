"""Which transactions are open and may hold an ID that nobody sees yet: one watch per kind of database.

A watch *looks* (inside a transaction that has read the table before), names the *holders* of a look, and says who is
*left* of earlier holders at a later look. Never too few; who is named too much only delays.
"""

from __future__ import annotations

from typing import Any, Dict, FrozenSet, List, Optional, Tuple
from uuid import uuid4

import attr

from elk_coordinator.contrib.sql.database import Session, quote_name
from elk_coordinator.errors import ConfigError

_INSTEAD = "; or plan with edge=SettleTime(seconds)"


class SqliteWatch:
    """One writer at a time, who draws the ID and commits it before the next one draws."""

    def __init__(self, table: str, key: str, every: bool) -> None:
        pass

    def look(self, session: Session) -> None:
        return None

    def holders(self, look: None) -> FrozenSet[str]:
        return frozenset()

    def left(self, waiting: FrozenSet[str], before: None, now: None) -> FrozenSet[str]:
        return frozenset()

    def names(self, waiting: FrozenSet[str]) -> List[str]:
        return []


@attr.s(auto_attribs=True, frozen=True, slots=True)
class _PostgresLook:
    #: Virtual transaction id -> process id. It names a transaction from its begin, with or without an xid.
    open: Dict[str, str]
    #: Of prepared transactions, which left their session.
    prepared: FrozenSet[str]


class PostgresWatch:
    """Holders by their locks: everybody may read them, they begin before an ID can be drawn, and they are let go only
    after the commit can be seen. A snapshot's xmin would not do: a transaction may draw an ID before it has an xid.

    ``nextval`` keeps a lock on the sequence to the transaction's end, and INSERT locks the table for writing before it
    evaluates a default. Where the key has no sequence of its own, every transaction of the database counts.
    """

    def __init__(self, table: str, key: str, every: bool) -> None:
        self._table = quote_name("postgresql", table)
        self._key = key
        self._every = every

    def look(self, session: Session) -> _PostgresLook:
        if session.scalar("SELECT pg_is_in_recovery()"):
            raise ConfigError(
                "edge=OpenTransactions(): this server is a replica, on which the writers' transactions cannot be seen; "
                "give the planner a database of the primary" + _INSTEAD
            )
        family = _listed(session.rows(_FAMILY, {"elk_table": self._table}))
        sequences = session.rows(_SEQUENCES % (family, family), {"elk_key": self._key})
        for _, name, cache, step, cycles in sequences:
            if cache != 1 or step < 1 or cycles:
                raise ConfigError(
                    "edge=OpenTransactions(): sequence %s has CACHE %d, INCREMENT %d%s: its numbers are not drawn in "
                    "rising order inside the transaction that uses them (a session keeps cached ones for later "
                    "transactions); ALTER SEQUENCE %s CACHE 1" % (name, cache, step, " CYCLE" * cycles, name) + _INSTEAD
                )
        if sequences and not self._every:
            found = session.rows(_LOCKS % (family, _listed(sequences)))
        else:
            found = session.rows(_ALL)
        return _PostgresLook(
            {vxid: str(pid) for vxid, pid in found if pid is not None},
            frozenset(vxid for vxid, pid in found if pid is None),
        )

    def holders(self, look: _PostgresLook) -> Dict[str, str]:
        return dict(look.open, **{vxid: "prepared " + vxid for vxid in look.prepared})

    def left(self, waiting: Dict[str, str], before: _PostgresLook, now: _PostgresLook) -> Dict[str, str]:
        still = self.holders(now)
        left = {vxid: name for vxid, name in waiting.items() if vxid in still}
        if len(left) < len(waiting):
            # Who is gone has ended, or was prepared meanwhile and goes on under another name.
            left.update({vxid: still[vxid] for vxid in now.prepared - before.prepared})
        return left

    def names(self, waiting: Dict[str, str]) -> List[str]:
        return sorted(set(waiting.values()))


def _listed(rows: List[Tuple[Any, ...]]) -> str:
    return ", ".join(str(int(row[0])) for row in rows)


#: The table with all it inherits from and all that inherits from these: partitions, and the table they are part of.
_FAMILY = """
WITH RECURSIVE up(id) AS (
    SELECT CAST(CAST(CAST(:elk_table AS text) AS regclass) AS oid)
    UNION SELECT inhparent FROM pg_inherits JOIN up ON inhrelid = up.id
), family(id) AS (
    SELECT id FROM up UNION SELECT inhrelid FROM pg_inherits JOIN family ON inhparent = family.id
) SELECT id FROM family"""

#: Sequences owned by the key (serial, identity) or named by its default.
_SEQUENCES = """
SELECT seqrelid, CAST(CAST(seqrelid AS regclass) AS text), seqcache, seqincrement, CAST(seqcycle AS int)
FROM pg_sequence WHERE seqrelid IN (
    SELECT d.objid FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
      AND d.refobjid IN (%s) AND a.attname = :elk_key
    UNION
    SELECT d.refobjid FROM pg_depend d JOIN pg_attrdef f ON f.oid = d.objid
    JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
    WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass
      AND f.adrelid IN (%s) AND a.attname = :elk_key)"""

_LOCKS = """
SELECT DISTINCT virtualtransaction, pid FROM pg_locks
WHERE locktype = 'relation' AND granted AND pid IS DISTINCT FROM pg_backend_pid()
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (relation IN (%s) AND mode = 'RowExclusiveLock' OR relation IN (%s))"""

#: Of this database, whoever logged in: autovacuum did not, and draws no IDs.
_ALL = """
SELECT l.virtualtransaction, l.pid FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'virtualxid' AND l.virtualxid = l.virtualtransaction AND l.granted AND l.pid <> pg_backend_pid()
  AND (a.pid IS NULL OR a.usesysid IS NOT NULL AND a.datname = current_database())
UNION
SELECT l.virtualtransaction, l.pid FROM pg_locks l JOIN pg_prepared_xacts p ON p.transaction = l.transactionid
WHERE l.locktype = 'transactionid' AND l.pid IS NULL AND p.database = current_database()"""


#: Of a connection: when its transaction began (None: it runs a statement and InnoDB knows of no transaction yet), and
#: when its statement began.
_Stamp = Tuple[Optional[str], float]


class MySqlWatch:
    """Holders by ``information_schema.innodb_trx``, and by the statements that run: an AUTO_INCREMENT value is drawn a
    moment before the transaction is known to InnoDB.

    InnoDB answers from a cache of a tenth of a second and more; an answer counts only if it holds this very query.
    """

    def __init__(self, table: str, key: str, every: bool) -> None:
        self._table = table
        self._key = key
        self._checked = False

    def look(self, session: Session) -> Dict[str, _Stamp]:
        if not self._checked:
            self._check(session)
            self._checked = True
        running = session.rows(_RUNNING)
        found: Dict[str, _Stamp] = {"%d" % thread: (None, float(began)) for thread, began in running}
        for thread, trx, began, idle in self._transactions(session):
            # Without a connection: recovered, or prepared (XA) by a connection that has gone.
            name = "%d" % thread if thread else "xa %s" % trx
            if idle:
                found.pop(name, None)
            else:
                found[name] = (began, 0.0)
        return found

    def _transactions(self, session: Session) -> List[Tuple[Any, ...]]:
        for _ in range(20):
            nonce = uuid4().hex
            try:
                rows = session.rows(_TRANSACTIONS % nonce)
            except Exception as exc:
                if exc.args and exc.args[0] == 1227:
                    raise ConfigError(
                        "edge=OpenTransactions(): this user may not see other users' transactions; "
                        "GRANT PROCESS ON *.* TO the planner's user" + _INSTEAD
                    ) from exc
                raise
            if any(row[4] and nonce in _text(row[4]) for row in rows):
                return [row[:4] for row in rows if not row[5]]
            session.rows("SELECT SLEEP(0.11)")
        raise ConfigError(
            "edge=OpenTransactions(): information_schema.innodb_trx is not up to date after two seconds: either "
            "something else reads it many times a second, or %s is no InnoDB table" % self._table + _INSTEAD
        )

    def _check(self, session: Session) -> None:
        schema, _, table = self._table.rpartition(".")
        extra = session.scalar(
            "SELECT extra FROM information_schema.columns WHERE table_name = :elk_table AND column_name = :elk_key "
            "AND table_schema = COALESCE(:elk_schema, DATABASE())",
            {"elk_table": table, "elk_key": self._key, "elk_schema": schema or None},
        )
        if "auto_increment" not in _text(extra or "").lower():
            raise ConfigError(
                "edge=OpenTransactions(): %s of %s is no AUTO_INCREMENT column, and where else its IDs are drawn "
                "cannot be seen; plan with edge=SettleTime(seconds)" % (self._key, self._table)
            )
        if _text(session.scalar("SELECT @@global.read_only")).upper() not in ("0", "OFF"):
            raise ConfigError(
                "edge=OpenTransactions(): this server is read-only, a replica, on which the writers' transactions "
                "cannot be seen; give the planner a database of the primary" + _INSTEAD
            )
        cluster = session.rows("SHOW GLOBAL STATUS LIKE 'wsrep_cluster_size'")
        if cluster and int(cluster[0][1]) > 1:
            raise ConfigError(
                "edge=OpenTransactions(): this server is one of %s of a Galera cluster, and the transactions of the "
                "others cannot be seen; plan with edge=SettleTime(seconds)" % _text(cluster[0][1])
            )

    def holders(self, look: Dict[str, _Stamp]) -> Dict[str, _Stamp]:
        return dict(look)

    def left(
        self, waiting: Dict[str, _Stamp], before: Dict[str, _Stamp], now: Dict[str, _Stamp]
    ) -> Dict[str, _Stamp]:
        left: Dict[str, _Stamp] = {}
        for name, (trx, statement) in waiting.items():
            present = now.get(name)
            if present is None:
                continue
            if trx is not None:
                if present[0] == trx:
                    left[name] = present
            elif present[0] is not None or abs(present[1] - statement) <= 1.5:
                # The statement goes on, or the transaction known by now is (or may be) the one it belonged to.
                left[name] = present
        if len(left) < len(waiting):
            # Who is gone has ended, or was prepared (XA) and has lost its connection.
            left.update({name: now[name] for name in now if name.startswith("xa ") and name not in before})
        return left

    def names(self, waiting: Dict[str, _Stamp]) -> List[str]:
        return sorted(waiting)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, (bytes, bytearray)) else str(value)


#: Whoever does anything, under whatever name (a bulk insert, one that was killed and ends): all but the ones that idle
#: and the server's own.
_RUNNING = """
SELECT id, UNIX_TIMESTAMP() - time FROM information_schema.processlist
WHERE command NOT IN ('Sleep', 'Daemon', 'Binlog Dump', 'Binlog Dump GTID', 'Slave_IO', 'Slave_SQL', 'Slave_worker')
  AND NOT (command = 'Connect' AND user = 'system user') AND id <> CONNECTION_ID()"""

#: Reading ones hold nothing; our own is there to show that the answer is fresh.
_TRANSACTIONS = """
SELECT /* %s */ trx_mysql_thread_id, trx_id, CAST(trx_started AS CHAR),
       trx_is_read_only + trx_autocommit_non_locking, trx_query, trx_mysql_thread_id = CONNECTION_ID()
FROM information_schema.innodb_trx"""
