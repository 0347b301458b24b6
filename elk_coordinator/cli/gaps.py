"""``elk gaps``: what no partition covers, and what the leader did about it."""

from __future__ import annotations

import argparse
from typing import List, Optional

from elk_coordinator.admin.telling import count, seconds, table
from elk_coordinator.cli.common import OK, Command, namespace_of, open_admin, print_json
from elk_coordinator.partition.gaps import EMPTY, OPEN, PLANNED, Gap, GapReport

#: Gaps printed as text; ``--json`` has up to 1,000.
LISTED = 50


def configure(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def run(args: argparse.Namespace) -> int:
    """Read and print."""
    with open_admin(args) as admin:
        report = admin.gaps()
    if args.json:
        print_json(dict(report.to_dict(), namespace=namespace_of(args)))
        return OK
    print("namespace  %s" % namespace_of(args))
    for line in describe(report):
        print(line)
    return OK


def describe(report: GapReport) -> List[str]:
    """Return the report as lines."""
    lines = [
        "open       %s, %s" % (count(report.open_count, "gap"), count(report.open_ids, "ID")),
        "skipped    %s without data, %s" % (count(report.skipped_count, "range"), count(report.skipped_ids, "ID")),
        "filled     %s, %s"
        % (count(report.planned_count, "gap"), count(report.planned_partitions, "partition") + " created"),
        "looked     %s; skipped ranges %s" % (_ago(report, report.last_look), _ago(report, report.last_sweep)),
    ]
    lines += table([_row(report, gap) for gap in report.gaps[:LISTED]])
    more = len(report.gaps) - LISTED
    if more > 0 or report.truncated:
        lines.append("  ... and more: --json lists up to 1,000")
    return lines


def _row(report: GapReport, gap: Gap) -> List[str]:
    done = {
        OPEN: "open",
        PLANNED: "became %s" % count(gap.partitions, "partition"),
        EMPTY: "no data",
    }[gap.state]
    since = "" if gap.since is None else "since %s" % seconds(max(0.0, report.generated_at - gap.since))
    return ["[%d, %d]" % (gap.min_id, gap.max_id), count(gap.ids, "ID"), gap.kind, done, since]


def _ago(report: GapReport, at: Optional[float]) -> str:
    return "never" if at is None else "%s ago" % seconds(max(0.0, report.generated_at - at))


COMMAND = Command(
    name="gaps",
    help="list ranges without partitions: holes, deleted and skipped ranges, and what the leader did about them",
    configure=configure,
    run=run,
    epilog="The leader asks the planner about gaps; those with data become partitions. Finished ranges are no gaps.",
)
