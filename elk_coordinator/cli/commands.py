"""``elk retry``, ``pause``, ``resume``, ``cancel``, ``release``: what an operator asks the leader to do."""

from __future__ import annotations

import argparse
import math
from typing import Any, Callable, Dict, Sequence

from elk_coordinator import AdminClient
from elk_coordinator.cli.common import (
    ERROR,
    OK,
    Command,
    UsageError,
    count,
    namespace_of,
    note,
    one_line,
    open_admin,
    print_json,
)
from elk_coordinator.errors import StoreError
from elk_coordinator.partition.commands import CommandStatus

#: Queues a command and returns its id.
Ask = Callable[[AdminClient, argparse.Namespace], str]
#: What a leader notes about one partition, for people.
OUTCOMES = {"unknown": "there is no such partition", "asked": "its worker is told with its next heartbeat"}
#: Skipped ids named in the text; ``--json`` has up to 1,000.
LISTED = 20


def _wait(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("must be more than 0 seconds")
    return value


def _add_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=_wait,
        help="wait so long for the leader and print the result; exit code 1 when it failed or has not ended by then",
    )


def _ask(args: argparse.Namespace, ask: Ask) -> int:
    """Queue a command, wait for it when asked to, print, and return the exit code."""
    with open_admin(args) as admin:
        command_id = ask(admin, args)
        try:
            status = admin.wait(command_id, args.wait) if args.wait else None
        except StoreError as exc:
            # It is queued: a leader carries it out as soon as it can, whatever happens to us.
            note("command %s is queued, what became of it is unknown: %s" % (command_id, one_line(exc)))
            return ERROR
    if args.json:
        known: Dict[str, Any] = {"command_id": command_id, "state": "queued"} if status is None else status.to_dict()
        print_json(dict(known, namespace=namespace_of(args)))
    elif status is None:
        print("command %s is queued; the leader of %s carries it out" % (command_id, namespace_of(args)))
    else:
        print(told(status))
    if status is None:
        return OK
    if not status.ended and not args.json:
        note("not ended within %g s; it stays queued: does the namespace have a leader? See 'elk status'" % args.wait)
    return OK if status.state == "done" else ERROR


def told(status: CommandStatus) -> str:
    """Return how far a command is, for people."""
    parts = ["command %s (%s) is %s" % (status.command_id, status.kind, status.state)]
    if status.state != "queued" and status.kind not in ("pause", "resume"):
        parts.append("%s changed" % count(status.done, "partition"))
    skipped = list(status.result.get("skipped") or ())
    if skipped:
        total = max(len(skipped), int(status.result.get("skipped_total") or 0))
        names = ", ".join(str(partition_id) for partition_id in skipped[:LISTED])
        why = " (not failed when asked)" if status.kind == "retry_failed" else ""
        parts.append("%d left as they were%s: %s%s" % (total, why, names, ", ..." if total > LISTED else ""))
    outcome = str(status.result.get("outcome") or "")
    if outcome.startswith("unchanged:"):
        outcome = "it is %s" % outcome.partition(":")[2]
    if outcome:
        parts.append(OUTCOMES.get(outcome, outcome))
    if status.error:
        parts.append(" ".join(status.error.split()))
    return "; ".join(parts)


def _configure_retry(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", metavar="ID", type=int, nargs="*", help="these partitions")
    parser.add_argument("--all", action="store_true", help="every partition that is failed now")
    _add_wait(parser)


def _retry(args: argparse.Namespace) -> int:
    if bool(args.ids) == args.all:
        raise UsageError("retry which partitions? Give their ids, or --all" + (", not both" if args.all else ""))
    return _ask(args, lambda admin, args: admin.retry_failed(args.ids or None))


def _configure_one(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", type=int, help="the partition")
    _add_wait(parser)


def _runs(ask: Ask) -> Callable[[argparse.Namespace], int]:
    return lambda args: _ask(args, ask)


COMMANDS: Sequence[Command] = (
    Command(
        name="retry",
        help="make failed partitions pending again, with all their attempts and their checkpoint",
        configure=_configure_retry,
        run=_retry,
    ),
    Command(
        name="pause",
        help="have no worker claim anything until 'elk resume'; what runs goes on",
        configure=_add_wait,
        run=_runs(lambda admin, args: admin.pause()),
    ),
    Command(
        name="resume",
        help="have workers claim again",
        configure=_add_wait,
        run=_runs(lambda admin, args: admin.resume()),
    ),
    Command(
        name="cancel",
        help="end a partition as failed; it comes back by 'elk retry' only",
        configure=_configure_one,
        run=_runs(lambda admin, args: admin.cancel(args.id)),
        epilog="A running partition ends when its processor has noticed and returned.",
    ),
    Command(
        name="release",
        help="take a partition from the worker that holds it; it is pending again",
        configure=_configure_one,
        run=_runs(lambda admin, args: admin.release(args.id)),
        epilog="It goes back when its processor has noticed and returned.",
    ),
)
