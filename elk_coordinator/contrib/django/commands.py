"""What the management commands share: the alias, errors as one line, and how things are told."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, List, Union

from django.core.management.base import BaseCommand, CommandError, CommandParser

from elk_coordinator.contrib.django.checks import TAG
from elk_coordinator.contrib.django.conf import Admin, get_admin
from elk_coordinator.errors import ElkError


class ElkCommand(BaseCommand):
    """A command for one coordinator of the settings. An error of the library is one line and exit code 1."""

    #: The settings of the coordinators are checked, the rest of the project is not asked: an operator is in a hurry.
    requires_system_checks: Union[str, List[str]] = [TAG]

    #: How the alias is given; a command with other positional arguments makes it an option.
    alias_argument = "alias"

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the alias; the options of the command follow in :meth:`add_options`."""
        how: Dict[str, Any] = {"nargs": "?"} if self.alias_argument == "alias" else {"dest": "alias"}
        parser.add_argument(
            self.alias_argument, metavar="ALIAS", default="default",
            help="which entry of ELK_COORDINATOR, default: default", **how,
        )  # fmt: skip
        self.add_options(parser)

    def add_options(self, parser: CommandParser) -> None:
        """Add what is the command's own."""

    def handle(self, *args: Any, **options: Any) -> None:
        """Do it."""
        try:
            self.run_for(**options)
        except ElkError as exc:
            raise CommandError(" ".join(str(exc).split()) or type(exc).__name__) from exc

    def run_for(self, **options: Any) -> None:
        """Do it; errors of the library may pass."""
        raise NotImplementedError

    def print_json(self, document: Any) -> None:
        """Print one JSON document."""
        self.stdout.write(json.dumps(document, indent=2, sort_keys=True, default=str))


class AskingCommand(ElkCommand):
    """A command that asks the leader for something: it is queued, and ``--wait`` waits for what became of it."""

    def add_options(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--wait", metavar="SECONDS", type=float, default=0.0,
            help="wait so long for the leader to carry it out; exit code 1 when it failed or has not ended by then",
        )  # fmt: skip

    def ask(self, options: Dict[str, Any], asked: Callable[[Admin], str]) -> None:
        """Queue a command and tell what became of it."""
        with get_admin(options["alias"]) as admin:
            command_id = asked(admin)
            if not options["wait"] > 0:
                text = "command %s is queued; the leader of %s carries it out"
                self.stdout.write(text % (command_id, admin.namespace))
                return
            status = admin.wait(command_id, options["wait"])
        told = "command %s (%s) is %s" % (command_id, status.kind, status.state)
        if status.kind not in ("pause", "resume") and status.state != "queued":
            told += "; partitions changed: %d" % status.done
        if status.error:
            told += "; %s" % printable(" ".join(status.error.split()))
        if status.state != "done":
            if not status.ended:
                told += "; not ended within %g s, it stays queued: is there a leader?" % options["wait"]
            raise CommandError(told)
        self.stdout.write(told)


def status_lines(state: Dict[str, Any], workers: List[Any]) -> List[str]:
    """Return what ``AdminService.status()`` and ``workers()`` gave, for people."""
    counts, leader = state["partitions"], state["leader"]
    lines = ["namespace   %s (%s)" % (state["namespace"], state["strategy"])]
    if state["paused"]:
        lines.append("paused      nothing is claimed until 'manage.py elk_resume'")
    lines.append("leader      %s" % ("none" if leader is None else leader["worker_id"]))
    parts = ["{:,} {}".format(counts[name], name) for name in ("pending", "claimed", "running", "completed", "failed")]
    done = 100.0 * counts["completion_rate"]
    lines.append("partitions  {:,}: {} ({:.1f} % done)".format(counts["total"], ", ".join(parts), done))
    if counts["last_allocated_id"] is not None:
        lines.append("planned     up to ID %d" % counts["last_allocated_id"])
    lines.append("commands    %d waiting" % state["commands"])
    lines.append("workers     %d" % len(workers))
    for worker in workers:
        info = worker.info
        load = "%s of %s running" % (info.get("in_flight", "?"), info.get("window", "?"))
        lines.append("  %s  %s  %s" % (worker.worker_id, info.get("state", ""), load))
    for breaker in state["breakers"]:
        lines.append("  %s  breaker %s: %s" % (breaker["worker_id"], breaker["state"], breaker["reason"]))
    # What workers wrote is not to steer the terminal of whoever reads it.
    return [printable(line) for line in lines]


def printable(line: str) -> str:
    """Return *line* with "?" for what is no printable sign."""
    return "".join(sign if sign.isprintable() else "?" for sign in line)
