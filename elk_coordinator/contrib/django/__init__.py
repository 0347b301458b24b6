"""elk_coordinator in a Django project (3.2 and newer); see docs/django.rst.

Put ``"elk_coordinator.contrib.django"`` into INSTALLED_APPS and an ``ELK_COORDINATOR`` dict into the settings.
Importing this, ``django.setup()`` and ``ready()`` start nothing: workers are started by ``manage.py elk_worker``, or by
your own ``build(alias).start()``.
"""

from __future__ import annotations

from elk_coordinator.contrib.django.conf import build, get_admin, get_coordinator, open_store
from elk_coordinator.contrib.django.database import DjangoDatabase
from elk_coordinator.contrib.django.querysets import QuerySetPlanner, QuerySetProcessor, SparseQuerySetPlanner
from elk_coordinator.contrib.django.wrapping import DjangoPlanner, DjangoProcessor

__all__ = [
    "DjangoDatabase",
    "DjangoPlanner",
    "DjangoProcessor",
    "QuerySetPlanner",
    "QuerySetProcessor",
    "SparseQuerySetPlanner",
    "build",
    "get_admin",
    "get_coordinator",
    "open_store",
]
