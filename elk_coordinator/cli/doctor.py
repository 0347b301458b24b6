"""``elk doctor``: what is wrong with the server, the namespace and its workers, and what to do about it."""

from __future__ import annotations

import argparse

from elk_coordinator.admin.doctor import diagnose
from elk_coordinator.admin.findings import INFO, OK, PROBLEM, WARNING
from elk_coordinator.admin.telling import count
from elk_coordinator.cli.common import ERROR, Command, namespace_of, open_store, print_json
from elk_coordinator.cli.common import OK as DONE


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the choice of how much is told."""
    parser.add_argument("--all", action="store_true", help="also name what was found to be in order")


def run(args: argparse.Namespace) -> int:
    """Examine and print; return 1 when there is a problem."""
    with open_store(args) as store:
        diagnosis = diagnose(namespace_of(args), store)
    if args.json:
        print_json(diagnosis.to_dict())
    else:
        for finding in diagnosis.findings:
            if finding.severity == OK and not args.all:
                continue
            print("%-8s %s: %s" % (finding.severity.upper(), finding.code, printable(finding.found)))
            for label, text in (("means", finding.means), ("do", finding.do)):
                if text:
                    print("         %-6s %s" % (label, printable(text)))
        counts = [count(len(diagnosis.of(kind)), kind) for kind in (PROBLEM, WARNING)]
        counts.append("%d for information, %d in order" % (len(diagnosis.of(INFO)), len(diagnosis.of(OK))))
        print("%s: %s" % (diagnosis.namespace, ", ".join(counts)))
    return DONE if diagnosis.healthy else ERROR


def printable(text: str) -> str:
    """Return text from the store without what a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in text)


COMMAND = Command(
    name="doctor",
    help="examine server, rights, clocks, keys, records and workers: what is wrong, what it means, what to do",
    configure=configure,
    run=run,
    epilog="It never writes, and looks at every partition of namespaces up to 200,000 of them. Exit code 1 when there "
    "is a problem; warnings leave it 0. What may not be asked (INFO, CONFIG on managed servers) is said, not guessed.",
)
