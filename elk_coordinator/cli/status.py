"""``elk status``: the namespace at one glance."""

from __future__ import annotations

import argparse
import math

from elk_coordinator.admin.telling import look, watch
from elk_coordinator.cli.common import OK, Command, note, open_admin, print_json, redis_url_of
from elk_coordinator.store.connect import mask


def _pause(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("must be more than 0 seconds")
    return value


def configure(parser: argparse.ArgumentParser) -> None:
    """Add how often."""
    parser.add_argument("--watch", metavar="SECONDS", type=_pause, help="again every so many seconds, until Ctrl-C")


def run(args: argparse.Namespace) -> int:
    """Print counts, leader, workers and what operators asked for."""
    url = mask(redis_url_of(args))
    with open_admin(args) as admin:

        def show() -> None:
            found = look(admin)
            if args.json:
                print_json(dict(found.to_dict(), redis=url))
            else:
                print("\n".join(found.lines("elk resume", " on %s" % url)), flush=True)

        if args.watch is None:
            show()
        else:
            watch(show, args.watch, note)
    return OK


COMMAND = Command(
    name="status",
    help="show the leader, the live workers, the partition counts and the newest commands of a namespace",
    configure=configure,
    run=run,
)
