"""No table: a name for the admin's index, and the permission to operate."""

from __future__ import annotations

from django.db import models


class Coordinators(models.Model):
    """What the admin page hangs on. Nothing is ever stored; without migrations, only the permission is created."""

    class Meta:
        managed = False
        default_permissions = ()
        permissions = [("operate", "Can retry, pause and resume coordinators")]
        verbose_name = "coordinators"
        verbose_name_plural = "coordinators"
