"""``manage.py elk_status``: where a coordinator's namespace stands."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from elk_coordinator.admin.telling import look, watch
from elk_coordinator.contrib.django.commands import ElkCommand
from elk_coordinator.contrib.django.conf import get_admin


class Command(ElkCommand):
    help = "Show the leader, the live workers and the partition counts of a coordinator."

    def add_options(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON document")
        parser.add_argument("--watch", metavar="SECONDS", type=float, help="again every so many seconds, until Ctrl-C")

    def run_for(self, **options: Any) -> None:
        pause = options["watch"]
        if pause is not None and not 0 < pause <= 86400:
            raise CommandError("--watch: must be seconds above 0, not %s" % pause)
        with get_admin(options["alias"]) as admin:

            def show() -> None:
                found = look(admin)
                if options["json"]:
                    self.print_json(found.to_dict())
                else:
                    self.stdout.write("\n".join(found.lines("manage.py elk_resume")))
                self.stdout.flush()

            if pause is None:
                show()
            else:
                watch(show, pause, self.stderr.write)
