"""``manage.py elk_retry``: failed partitions become pending again."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from elk_coordinator.contrib.django.commands import AskingCommand


class Command(AskingCommand):
    help = "Make failed partitions pending again, with all their attempts and their checkpoint."
    alias_argument = "--coordinator"

    def add_options(self, parser: CommandParser) -> None:
        super().add_options(parser)
        parser.add_argument("ids", metavar="ID", type=int, nargs="*", help="these partitions")
        parser.add_argument("--all", action="store_true", help="every partition that is failed now")

    def run_for(self, **options: Any) -> None:
        if bool(options["ids"]) == options["all"]:
            both = ", not both" if options["all"] else ""
            raise CommandError("retry which partitions? Give their ids, or --all" + both, returncode=2)
        self.ask(options, lambda admin: admin.retry_failed(options["ids"] or None))
