"""What the management commands share: the alias, errors as one line, and how things are told."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, List, Union

from django.core.management.base import BaseCommand, CommandError, CommandParser

from elk_coordinator.admin.telling import ask, one_line
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
            raise CommandError(one_line(exc)) from exc

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

    def ask(self, options: Dict[str, Any], submit: Callable[[Admin], str]) -> None:
        """Queue a command and tell what became of it."""
        with get_admin(options["alias"]) as admin:
            answer = ask(admin, lambda: submit(admin), options["wait"])
        if not answer.ok:
            raise CommandError("; ".join(filter(None, (answer.text, answer.problem))))
        self.stdout.write(answer.text)
