"""The proof at the end: questions to the database and to the store, with the answers they must give."""

from __future__ import annotations

from typing import Callable, List, Sequence

import attr

from elk_coordinator.cli.demo.database import Database, Row
from elk_coordinator.cli.demo.settings import DemoSettings
from elk_coordinator.model import PartitionFilter, PartitionStatus
from elk_coordinator.partition.audit import verify
from elk_coordinator.partition.strategy import PartitionStrategy


@attr.s(auto_attribs=True, frozen=True)
class Check:
    """One question, what was found, and whether that proves the claim."""

    claim: str
    #: SQL that a reader can run, or "" for a question to the store.
    sql: str
    answer: str
    proved: bool


def _show(rows: Sequence[Row]) -> str:
    return "; ".join(" | ".join(str(cell) for cell in row) for row in rows) or "no rows"


def check_database(database: Database, settings: DemoSettings) -> List[Check]:
    """Ask the database: exactly once, everything, and no late write got through."""
    checks: List[Check] = []

    def ask(claim: str, sql: str, good: Callable[[List[Row]], bool]) -> None:
        rows = database.query(sql)
        checks.append(Check(claim, sql, _show(rows), good(rows)))

    total = settings.rows
    ask(
        "every order was applied exactly once",
        "SELECT applied, count(*) FROM orders GROUP BY applied ORDER BY applied",
        lambda rows: rows == [(1, total)],
    )
    ask(
        "every order has its total and its receipt",
        "SELECT count(*) FROM orders WHERE total_cents <> quantity * price_cents OR receipt = ''",
        lambda rows: rows == [(0,)],
    )
    ask(
        "every partition's fence is at its end, and the fences counted every order once",
        "SELECT count(*), sum(CASE WHEN done_to = hi THEN 0 ELSE 1 END), sum(rows_done) FROM fence",
        lambda rows: rows[0][0] > 0 and tuple(int(cell) for cell in rows[0][1:]) == (0, total),
    )
    ask(
        "late writes came, and were refused because the fence held a larger token",
        "SELECT count(*), sum(CASE WHEN token < fence_token THEN 1 ELSE 0 END) FROM refusals",
        lambda rows: rows[0][0] > 0 and int(rows[0][1]) == rows[0][0],
    )
    return checks


def check_store(strategy: PartitionStrategy, settings: DemoSettings) -> List[Check]:
    """Ask the store: nothing left, nothing failed, counters as recounted, planned as done."""
    stats = strategy.get_partition_stats()
    done = strategy.get_filtered_partitions(PartitionFilter(statuses=PartitionStatus.COMPLETED))
    processed = sum(partition.processed for partition in done)
    unlucky = [p for p in done if p.min_id <= settings.unlucky_order <= p.max_id]
    report = verify(strategy)
    audited = "{:,} IDs planned = {:,} in partitions + {:,} skipped".format(
        report.planned_ids, report.partition_ids, report.skipped_ids
    )
    return [
        Check(
            "every partition is completed, none failed, none left",
            "",
            "%d partitions: %d completed, %d failed, %d open"
            % (stats.total, stats.completed, stats.failed, stats.open),
            stats.total > 0 and stats.completed == stats.total,
        ),
        Check(
            "the partitions counted every order once",
            "",
            "%d orders in %d partitions" % (processed, len(done)),
            processed == settings.rows and len(done) == stats.completed,
        ),
        Check(
            "the unlucky partition failed twice and was completed",
            "",
            "; ".join("partition %d: %d failed attempts" % (p.partition_id, p.attempt) for p in unlucky) or "not found",
            len(unlucky) == 1 and unlucky[0].attempt == 2,
        ),
        Check(
            "elk verify finds nothing wrong with plan, counters and leases",
            "",
            "; ".join(report.problems) or audited,
            report.ok,
        ),
    ]
