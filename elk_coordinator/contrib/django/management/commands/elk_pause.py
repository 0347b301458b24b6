"""``manage.py elk_pause``."""

from __future__ import annotations

from typing import Any

from elk_coordinator.contrib.django.commands import AskingCommand


class Command(AskingCommand):
    help = "Have no worker claim anything until elk_resume; what runs goes on."

    def run_for(self, **options: Any) -> None:
        self.ask(options, lambda admin: admin.pause())
