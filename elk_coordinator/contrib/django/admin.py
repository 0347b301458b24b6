"""The page in Django's admin: where every coordinator of the settings stands, with retry, pause and resume.

Whoever may enter the admin may look; the permission ``elk_coordinator.operate`` (superusers have it) may press buttons.
Plain forms, so that it works without JavaScript.
"""

from __future__ import annotations

import logging
from typing import Any, Dict, List, Optional

from django.contrib import admin, messages
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse

from elk_coordinator.contrib.django import conf
from elk_coordinator.contrib.django.models import Coordinators
from elk_coordinator.errors import ConfigError, ElkError
from elk_coordinator.model import PartitionFilter, PartitionStatus

_logger = logging.getLogger("elk_coordinator.contrib.django")

PERMISSION = "elk_coordinator.operate"
#: Failed partitions shown of each coordinator; "retry all" means all there are.
SHOWN_FAILED = 50
SHOWN_COMMANDS = 5


@admin.register(Coordinators)
class CoordinatorsAdmin(admin.ModelAdmin):
    """The entry "coordinators" of the admin's index. There is no table behind it."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.is_active and request.user.is_staff)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def get_urls(self) -> List[Any]:
        """Return the page and the target of its forms, both behind the admin's login."""
        view = self.admin_site.admin_view
        return [
            path("", view(self.status_view), name="elk_coordinator_coordinators_changelist"),
            path("<str:alias>/<str:action>/", view(self.action_view), name="elk_coordinator_coordinators_action"),
        ]

    def status_view(self, request: HttpRequest) -> HttpResponse:
        """Show every coordinator; one that cannot be asked says why, and the others are shown all the same."""
        request.current_app = self.admin_site.name  # for a site under another name
        context = {
            **self.admin_site.each_context(request),
            "title": "Coordinators",
            "opts": self.model._meta,
            "coordinators": [look(alias) for alias in _aliases()],
            "may_operate": request.user.has_perm(PERMISSION),
            "shown_failed": SHOWN_FAILED,
        }
        return TemplateResponse(request, "admin/elk_coordinator/status.html", context)

    def action_view(self, request: HttpRequest, alias: str, action: str) -> HttpResponse:
        """Queue what a button asks for, then show the page again."""
        alias = unquote(alias)  # an alias may have a "/" in it
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not request.user.has_perm(PERMISSION):
            raise PermissionDenied
        if alias not in _aliases() or action not in ("retry", "pause", "resume"):
            raise Http404("there is no %s of %s" % (action, alias))
        try:
            with conf.get_admin(alias, by="%s (admin)" % request.user.get_username()) as service:
                if action == "retry":
                    ids = [int(text) for text in request.POST.getlist("partition")]
                    command_id = service.retry_failed(ids or None)
                else:
                    command_id = getattr(service, action)()
        except (ElkError, ValueError) as exc:
            messages.error(request, "%s: %s" % (alias, exc))
        else:
            text = "%s: %s is queued (command %s); the leader carries it out" % (alias, action, command_id)
            messages.success(request, text)
        return HttpResponseRedirect(reverse("%s:elk_coordinator_coordinators_changelist" % self.admin_site.name))


def _aliases() -> List[str]:
    try:
        return conf.aliases()
    except ConfigError:  # the system check says it
        return []


def look(alias: str) -> Dict[str, Any]:
    """Return what the page shows of one coordinator; with ``error`` instead when it cannot be asked."""
    shown: Dict[str, Any] = {"alias": alias, "quoted": quote(alias)}
    try:
        with conf.get_admin(alias) as service:
            state = service.status()
            shown.update(
                state=state,
                workers=sorted(service.workers(), key=lambda worker: worker.worker_id),
                failed=[
                    (partition, _last_line(partition.error))
                    for partition in service.partitions(
                        PartitionFilter(statuses=[PartitionStatus.FAILED], limit=SHOWN_FAILED)
                    )
                ],
                commands=service.commands(SHOWN_COMMANDS),
            )
    except ElkError as exc:
        shown["error"] = str(exc)
        return shown
    except Exception as exc:  # the function behind STORE is the user's; its text may hold a password
        _logger.exception("coordinator %r cannot be shown", alias)
        shown["error"] = "It cannot be asked: %s; the log has the rest" % type(exc).__name__
        return shown
    counts = state["partitions"]
    total = counts["total"] or 1
    names = ("completed", "running", "claimed", "pending", "failed")
    # Widths as text with a point: a template would write them as the visitor's language does.
    shown["parts"] = [(name, counts[name], "%.2f" % (100.0 * counts[name] / total)) for name in names]
    shown["done"] = "%.1f" % (100.0 * counts["completion_rate"])
    return shown


def _last_line(error: Optional[str]) -> str:
    """Return the line of a traceback that says what happened."""
    lines = (error or "").strip().splitlines()
    return lines[-1][:300] if lines else ""
