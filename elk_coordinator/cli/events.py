"""``elk events``: what happened in a namespace."""

from __future__ import annotations

import argparse
import datetime
import json
import threading
from typing import List, Optional

from elk_coordinator.admin.telling import one_line
from elk_coordinator.cli.common import OK, Command, namespace_of, note, open_store, print_json
from elk_coordinator.errors import StoreUnavailable
from elk_coordinator.partition.event_log import MAX_PAGE, EventLog, LoggedEvent

#: Seconds between two looks of ``--follow``.
LOOK = 1.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add how many, and for how long."""
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what happens next, until Ctrl-C")
    parser.add_argument(
        "--limit", type=_limit, default=50, metavar="N", help="the newest N (1 to %d), default 50" % MAX_PAGE
    )
    parser.add_argument("--after", metavar="ID", help="only what was written behind this event")


def _limit(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number <= MAX_PAGE:
        raise argparse.ArgumentTypeError("must be from 1 to %d" % MAX_PAGE)
    return number


def run(args: argparse.Namespace) -> int:
    """Print the newest events, oldest first; with ``--follow`` go on."""
    namespace = namespace_of(args)
    with open_store(args) as plain:
        log = EventLog(plain.namespaced(namespace))
        events = log.read(args.after, args.limit)
        if not args.follow:
            if args.json:
                print_json([event.to_dict() for event in events])
            else:
                show(events, False)
                if not events:
                    note("%s: no events" % namespace)
            return OK
        try:
            follow(log, events, args.after, args.json)
        except KeyboardInterrupt:
            # The way to end it, not a mishap.
            pass
    return OK


def follow(log: EventLog, events: List[LoggedEvent], after: Optional[str], as_json: bool) -> None:
    """Print *events* and then whatever comes; returns by an exception only. A store that is away is waited for."""
    pause = threading.Event()
    away = False
    # The oldest id there can be: behind it lies whatever is written to a log that is empty now.
    after = after or "0"
    while True:
        show(events, as_json)
        if events:
            after = events[-1].id
        if len(events) < MAX_PAGE:
            pause.wait(LOOK)
        try:
            events = log.read(after, MAX_PAGE)
            away = False
        except StoreUnavailable as exc:
            if not away:
                note("waiting for the store: %s" % one_line(exc))
            away, events = True, []


def show(events: List[LoggedEvent], as_json: bool) -> None:
    """Print one line per event."""
    for event in events:
        print(json.dumps(event.to_dict(), sort_keys=True) if as_json else line(event), flush=True)


def line(event: LoggedEvent) -> str:
    """Return an event as one line for people: time (UTC), kind, worker, facts."""
    try:
        at = datetime.datetime.fromtimestamp(event.at, datetime.timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        at = "?"
    facts = "  ".join("%s=%s" % (name, _fact(value)) for name, value in sorted(event.facts.items()))
    text = "%s  %-20s  %s  %s" % (at, event.kind, event.worker_id, facts)
    # What workers wrote is not to steer the terminal of whoever reads it.
    return "".join(sign if sign.isprintable() else "?" for sign in text).rstrip()


def _fact(value: object) -> str:
    if isinstance(value, float):
        return "%.3f" % value
    if isinstance(value, str):
        # Of a traceback the line that names the error.
        lines = [part.strip() for part in value.splitlines() if part.strip()]
        return json.dumps(lines[-1] if lines else "", ensure_ascii=False)
    return str(value)


COMMAND = Command(
    name="events",
    help="show what happened in a namespace: elections, failures, lost leases, outages",
    configure=configure,
    run=run,
    epilog="""The newest 10,000 events, about, are kept. Times are UTC, by the worker's clock. With --follow and --json
there is one JSON document per line.""",
)
