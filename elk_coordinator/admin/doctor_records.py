"""The part of ``elk doctor`` that looks at records: what contradicts, is damaged, belongs to nobody, or rests."""

from __future__ import annotations

from typing import Any, List, Tuple

from elk_coordinator.admin.doctor_fleet import Fleet, read_fleet
from elk_coordinator.admin.findings import INFO, OK, PROBLEM, WARNING, Notes, pairs, some, word
from elk_coordinator.model import HELD, PartitionFilter
from elk_coordinator.partition import codec
from elk_coordinator.partition.audit import verify
from elk_coordinator.partition.simple_strategy import SimplePartitionStrategy
from elk_coordinator.partition.strategy import PartitionStrategy
from elk_coordinator.store.redis_store import RedisDataStore

#: Entries of one index that are looked at.
LOOKED_AT = 1000
#: Seconds after the end of a lease by which the leader has surely taken it back.
OVERDUE = 60.0
#: Partitions in the document of the SIMPLE strategy from which on it is too large for its purpose.
LARGE_DOCUMENT = 5000
#: Records set aside that are read.
LISTED_ASIDE = 20


def examine_records(
    strategy: PartitionStrategy, store: RedisDataStore, fleet: Fleet, notes: Notes, every_one: int
) -> None:
    """Look at the partitions of a namespace."""
    total = 0
    with notes.looking("stats", "the counts", PROBLEM):
        stats = strategy.get_partition_stats()
        total = stats.total - stats.pruned
        if stats.failed:
            notes.add(
                WARNING,
                "failed",
                "{:,} partitions rest as failed".format(stats.failed),
                "Nobody works on them until somebody says so.",
                "'elk partitions --status failed' shows their errors; cure the cause, then 'elk retry --all'.",
            )
    with notes.looking("audit", "the records", PROBLEM):
        _audit(strategy, notes, total, every_one)
    with notes.looking("corrupt", "what was set aside"):
        aside = store.ask("SRANDMEMBER", store.keys["corrupt"], LISTED_ASIDE)
        if aside:
            names = sorted(str(codec.unpad(item)) if codec.is_padded(item) else repr(item) for item in aside)
            notes.add(
                PROBLEM,
                "corrupt",
                "records that could not be read were set aside: %s" % some(names),
                "Their ranges are planned, and nobody will work on them.",
                "Find out who wrote them; delete them ('AdminClient.delete') so that their ranges become gaps again.",
            )
    overdue: List[int] = []
    cancels: List[int] = []
    with notes.looking("indexes", "leases and cancels"):
        now = store.now()
        overdue, cancels = (
            _of_simple(strategy, now) if isinstance(strategy, SimplePartitionStrategy) else _of_hash(store, now)
        )
    if overdue:
        notes.add(
            WARNING,
            "lease-overdue",
            "leases that ran out more than %.0f s ago and were not taken back: %s" % (OVERDUE, some(overdue)),
            "Nobody works on these partitions. Taking back is the leader's work.",
            "Start a worker with a planner; if one leads, look at its log for the role 'recovery'.",
        )
    with notes.looking("lease-orphan", "who holds leases"):
        held = strategy.get_filtered_partitions(PartitionFilter(statuses=HELD, limit=LOOKED_AT))
        orphans = [p for p in held if p.worker_id not in fleet.alive and p.partition_id not in overdue]
        if orphans:
            # Who came since the registry was read is no ghost.
            since = read_fleet(store).alive
            orphans = [p for p in orphans if p.worker_id not in since]
        if orphans:
            notes.add(
                WARNING,
                "lease-orphan",
                "partitions held by workers that are not alive: %s"
                % some(["%d (%s)" % (p.partition_id, p.worker_id) for p in orphans]),
                "Nobody works on them until their leases run out, unless a program of yours claimed them directly.",
                "Wait for a lease's length; if it stays so, see whether there is a leader.",
            )
    if cancels:
        notes.add(
            WARNING,
            "cancels",
            "wishes to cancel or release partitions that nobody holds: %s" % some(cancels),
            "They are left from a change by hand, and would meet whoever claims these partitions next.",
            "HDEL them from %s, or leave them if that is wanted." % store.keys["cancels"],
        )
    if isinstance(strategy, SimplePartitionStrategy):
        with notes.looking("document", "the document", PROBLEM):
            _document(strategy, notes)


def _audit(strategy: PartitionStrategy, notes: Notes, total: int, every_one: int) -> None:
    if total > every_one:
        notes.add(
            INFO,
            "audit",
            "{:,} partitions are more than are looked at here ({:,})".format(total, every_one),
            "Contradictions between records and indexes, and damaged chunks, were not looked for.",
            "Run 'elk verify', which looks at every one.",
        )
        return
    damaged = strategy.archive_problems()
    if damaged:
        notes.add(
            PROBLEM,
            "archive",
            "damaged chunks of completed partitions: %s" % some(damaged),
            "The details of these completed partitions are lost; that they are done is known from the plan.",
            "Bring the key back from a backup. Nothing is worked on twice meanwhile.",
        )
    report = verify(strategy)
    wrong = [line for line in report.problems if line not in damaged]
    if wrong:
        notes.add(
            PROBLEM,
            "audit",
            "records and indexes contradict: %s" % "; ".join(wrong[:10])
            + ("; and %d more" % (len(wrong) - 10) if wrong[10:] else ""),
            "Part of the work may be left undone or counted wrongly. Mostly somebody changed keys by hand.",
            "'elk verify' lists them all; delete and create what is wrong, or bring the namespace back from a backup.",
        )
    if not damaged and not wrong:
        notes.add(OK, "audit", "everything planned is accounted for")


def _of_hash(store: RedisDataStore, now: float) -> Tuple[List[int], List[int]]:
    """Return the ids of leases long over, and of cancels that mean nobody."""
    until = int((now - OVERDUE) * 1000)
    overdue = store.ask("ZRANGEBYSCORE", store.keys["leases"], "-inf", until, "LIMIT", 0, LOOKED_AT)
    page = store.ask("HSCAN", store.keys["cancels"], 0, "COUNT", LOOKED_AT)[1]
    ids: List[Any] = [name for name in sorted(pairs(page)) if codec.is_padded(name)][:LOOKED_AT]
    scores = store.ask("ZMSCORE", store.keys["leases"], *ids) if ids else []
    strangers = [codec.unpad(word(i)) for i, score in zip(ids, scores) if score is None]
    return [codec.unpad(item) for item in overdue if codec.is_padded(item)], strangers


def _of_simple(strategy: SimplePartitionStrategy, now: float) -> Tuple[List[int], List[int]]:
    document = strategy.look()
    held = {i: record for i, record in document.records.items() if record.p.status in HELD}
    overdue = sorted(i for i, record in held.items() if record.deadline < now - OVERDUE)
    return overdue, sorted(int(i) for i in document.cancels if int(i) not in held)


def _document(strategy: SimplePartitionStrategy, notes: Notes) -> None:
    document = strategy.look()
    schema, name = document.meta.get("schema"), document.meta.get("strategy")
    if schema is not None and not document.SCHEMA - 1 <= int(schema) <= document.SCHEMA:
        notes.add(
            PROBLEM,
            "schema",
            "the document has schema %s, this version of the library reads %d" % (schema, document.SCHEMA),
            "Workers of this version refuse the namespace.",
            "Use the version of the library that wrote it, or one that reads both.",
        )
    if name not in (None, strategy.strategy_type.value):
        notes.add(
            PROBLEM,
            "strategy",
            "the document says that it is of the strategy %r" % name,
            "Every worker refuses it.",
            "Bring the document back from a backup, or 'elk purge'.",
        )
    if len(document.records) > LARGE_DOCUMENT:
        notes.add(
            WARNING,
            "document",
            "the one document of the SIMPLE strategy holds {:,} partitions".format(len(document.records)),
            "Every step reads and writes all of it: the work gets slow, and creating is refused from 10,000 on.",
            "Use StrategyType.HASH for a plan of this size, under a new namespace.",
        )
