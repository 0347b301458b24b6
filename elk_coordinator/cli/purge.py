"""``elk purge``: remove a namespace."""

from __future__ import annotations

import argparse
import getpass
import socket
from typing import List

from elk_coordinator.admin.telling import count, table
from elk_coordinator.cli.common import OK, USAGE, Command, namespace_of, note, open_store, print_json
from elk_coordinator.store.purge import purge, take_inventory

#: What the keys hold that people care for.
MEANING = {
    "specs": "partitions that are not completed",
    "done": "completed partitions",
    "planned": "planned ranges",
    "skipped": "ranges known to be empty",
    "failed": "failed partitions",
    "workers": "workers, dead or alive",
    "value:*": "documents (SIMPLE strategy, archive)",
    "events": "events",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the word that means it."""
    parser.add_argument("--yes", action="store_true", help="really do it; without it only what would go is shown")


def run(args: argparse.Namespace) -> int:
    """Remove the namespace, or show what would go."""
    namespace = namespace_of(args)
    with open_store(args) as plain:
        store = plain.namespaced(namespace)
        if args.yes:
            removed = purge(store, "%s@%s" % (_user(), socket.gethostname()))
            if args.json:
                print_json({"namespace": namespace, "removed": removed})
            else:
                print("%s: %s removed" % (namespace, count(removed, "key")))
            return OK
        found = take_inventory(store)
    if args.json:
        print_json({"namespace": namespace, "keys": found.keys, "entries": found.entries, "workers": found.alive})
    elif not found.keys:
        print("%s: there is nothing to remove" % namespace)
    else:
        print("%s: %s would be removed:" % (namespace, count(found.keys, "key")))
        rows: List[List[str]] = [
            ["{:,}".format(number).rjust(12), MEANING.get(name, ""), name]
            for name, number in sorted(found.entries.items(), key=lambda item: (item[0] not in MEANING, item[0]))
        ]
        for line in table(rows):
            print(line)
    if found.alive:
        note("refused while workers live: %s" % ", ".join(found.alive))
    note("nothing was removed; say --yes to do it")
    return USAGE


def _user() -> str:
    try:
        return getpass.getuser()
    except Exception:  # no name for this uid, as in many containers
        return "somebody"


COMMAND = Command(
    name="purge",
    help="remove a namespace: its plan, its partitions, its results; refused while workers live",
    configure=configure,
    run=run,
    epilog="""Without --yes it shows what would go and exits with 2. Exit code 1 when somebody works in the namespace.
The keys are found by SCAN, in batches, over the whole database. Other namespaces are never touched.""",
)
