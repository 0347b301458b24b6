"""``manage.py elk_status``: where a coordinator's namespace stands."""

from __future__ import annotations

import threading
from typing import Any

import attr
from django.core.management.base import CommandError, CommandParser

from elk_coordinator.contrib.django.commands import ElkCommand, status_lines
from elk_coordinator.contrib.django.conf import Admin, get_admin
from elk_coordinator.runtime.clock import Clock


class Command(ElkCommand):
    help = "Show the leader, the live workers and the partition counts of a coordinator."

    def add_options(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON document")
        parser.add_argument("--watch", metavar="SECONDS", type=float, help="again every so many seconds, until Ctrl-C")

    def run_for(self, **options: Any) -> None:
        pause = options["watch"]
        if pause is not None and not 0 < pause <= 86400:
            raise CommandError("--watch: must be seconds above 0, not %s" % pause)
        never, clock = threading.Event(), Clock()
        with get_admin(options["alias"]) as admin:
            try:
                self._show(admin, options["json"])
                while pause is not None:
                    clock.wait(never, pause)
                    self.stdout.write("")
                    self._show(admin, options["json"])
            except KeyboardInterrupt:
                pass

    def _show(self, admin: Admin, as_json: bool) -> None:
        state = admin.status()
        workers = sorted(admin.workers(), key=lambda worker: worker.worker_id)
        if as_json:
            self.print_json(dict(state, workers=[attr.asdict(worker) for worker in workers]))
        else:
            self.stdout.write("\n".join(status_lines(state, workers)))
        self.stdout.flush()
