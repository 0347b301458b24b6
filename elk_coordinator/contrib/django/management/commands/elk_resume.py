"""``manage.py elk_resume``."""

from __future__ import annotations

from typing import Any

from elk_coordinator.contrib.django.commands import AskingCommand


class Command(AskingCommand):
    help = "Have workers claim again."

    def run_for(self, **options: Any) -> None:
        self.ask(options, lambda admin: admin.resume())
