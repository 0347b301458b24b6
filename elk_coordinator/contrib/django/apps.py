"""The app's configuration. It registers checks and starts nothing."""

from __future__ import annotations

from django.apps import AppConfig

from elk_coordinator.contrib.django import checks


class ElkCoordinatorConfig(AppConfig):
    name = "elk_coordinator.contrib.django"
    label = "elk_coordinator"
    verbose_name = "elk_coordinator"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the checks. Never start a coordinator here: migrate, shell, tests and both processes of the
        autoreloader come by, and a server that forks afterwards leaves its threads behind."""
        checks.register()
