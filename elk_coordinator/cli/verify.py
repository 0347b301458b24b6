"""``elk verify``: audit the namespace: coverage, counters, leases."""

from __future__ import annotations

import argparse

from elk_coordinator.admin.telling import count
from elk_coordinator.cli.common import ERROR, OK, Command, namespace_of, open_strategy, print_json
from elk_coordinator.partition.audit import verify as audit


def configure(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def run(args: argparse.Namespace) -> int:
    """Audit and print; return 1 when something is wrong."""
    with open_strategy(args) as strategy:
        report = audit(strategy)
    problems = report.problems
    if args.json:
        print_json(dict(report.to_dict(), namespace=namespace_of(args)))
    else:
        for line in report.info:
            print("  %s" % line)
        for line in problems:
            print("WRONG: %s" % line)
        verdict = count(len(problems), "problem") if problems else "everything adds up"
        print("%s: %s, {:,} IDs planned".format(report.planned_ids) % (namespace_of(args), verdict))
    return ERROR if problems else OK


COMMAND = Command(
    name="verify",
    help="audit the namespace: planned = partitions + skipped + pruned, counters = recount, no orphaned lease",
    configure=configure,
    run=run,
    epilog="Exit code 1 when something is wrong. Work in flight and deleted ranges are information, not problems.",
)
