"""``manage.py elk_worker``: one worker process, until it is told to stop or the work is done."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any

from django.core.management.base import CommandParser
from django.db import connections

from elk_coordinator.contrib._worker import run_worker
from elk_coordinator.contrib.django.commands import ElkCommand
from elk_coordinator.contrib.django.conf import build, open_store
from elk_coordinator.model import PartitionStats

LOG_FORMAT = "%(asctime)s %(levelname)-7s %(threadName)s %(name)s: %(message)s"


class Command(ElkCommand):
    """Never reloads itself: an edit of a file must not end work half-way. Logging is what LOGGING says, if anything."""

    help = (
        "Run one worker of a coordinator in this process. The first SIGTERM or SIGINT claims nothing more and finishes "
        "what runs, up to stop_timeout; a second one stops at once."
    )
    requires_system_checks = "__all__"

    def add_options(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--until-done", action="store_true",
            help="end when nothing is left to plan or to do; exit code 3 if partitions failed",
        )  # fmt: skip
        parser.add_argument("--no-planner", action="store_true", help="a worker that never leads and never plans")

    def run_for(self, **options: Any) -> None:
        alias = options["alias"]
        log_without_settings(options["verbosity"])
        with contextlib.closing(open_store(alias)) as store:
            coordinator = build(alias, store=store, planner=not options["no_planner"])
            # What the checks opened in this thread would only grow old there.
            connections.close_all()
            code = run_worker(coordinator, options["until_done"], self._note, self._done)
        if code:
            sys.exit(code)

    def _note(self, text: str) -> None:
        self.stderr.write("elk_worker: %s" % text, self.style.NOTICE)
        self.stderr.flush()

    def _done(self, stats: PartitionStats) -> None:
        self.stdout.write("%d partitions completed, %d failed" % (stats.completed, stats.failed))


def log_without_settings(verbosity: int) -> None:
    """Have warnings on stderr (with verbosity 2: information too) where LOGGING sends those of the library nowhere.

    Django's own LOGGING has no handler for it, and its NullHandler keeps Python's last resort away: an operator would
    not be told that every attempt fails.
    """
    ours = logging.getLogger("elk_coordinator")
    logger = ours
    while logger is not None:
        if any(not isinstance(each, logging.NullHandler) for each in logger.handlers):
            return
        logger = logger.parent if logger.propagate else None  # type: ignore[assignment]
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    ours.addHandler(handler)
    if ours.level == logging.NOTSET:
        ours.setLevel(logging.INFO if verbosity > 1 else logging.WARNING)
