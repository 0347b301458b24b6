"""``elk retry``, ``pause``, ``resume``, ``cancel``, ``release``: what an operator asks the leader to do."""

from __future__ import annotations

import argparse
import math
from typing import Any, Callable, Dict, Sequence

from elk_coordinator import AdminClient
from elk_coordinator.admin.telling import ask
from elk_coordinator.cli.common import ERROR, OK, Command, UsageError, namespace_of, note, open_admin, print_json

#: Queues a command and returns its id.
Ask = Callable[[AdminClient, argparse.Namespace], str]


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


def _ask(args: argparse.Namespace, submit: Ask) -> int:
    """Queue a command, wait for it when asked to, print, and return the exit code."""
    with open_admin(args) as admin:
        answer = ask(admin, lambda: submit(admin, args), args.wait)
    if args.json and not (answer.problem and answer.status is None):
        queued: Dict[str, Any] = {"command_id": answer.command_id, "state": "queued"}
        known = queued if answer.status is None else answer.status.to_dict()
        print_json(dict(known, namespace=namespace_of(args)))
    elif answer.text:
        print(answer.text)
    if answer.problem and not (args.json and answer.status is not None):
        note(answer.problem + (" See 'elk status'" if answer.status is not None else ""))
    return OK if answer.ok else ERROR


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


def _runs(submit: Ask) -> Callable[[argparse.Namespace], int]:
    return lambda args: _ask(args, submit)


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
