"""For unit tests of a project: a coordinator of the settings at work in the calling thread, without a server.

::

    class Recalculation(TestCase):
        def test_every_order_gets_its_total(self):
            Order.objects.bulk_create(...)
            result = run_coordinator("orders")
            self.assertEqual(result.processed, 100)

A ``TestCase`` is right here: everything happens on the test's own connection, inside its transaction. A test that
*starts* a coordinator (``build().start()``) works with other threads, which see neither that transaction nor, on
SQLite, a database in memory: it needs ``TransactionTestCase`` and ``TEST: {"NAME": <a file>}``.
"""

from __future__ import annotations

from typing import Any

import attr

from elk_coordinator.contrib.django.conf import entry
from elk_coordinator.testing import InlineResult, run_inline

#: Options that run_inline decides itself, or that only make sense beside other workers.
_LEFT_OUT = {"strategy", "circuit_breaker", "metrics_enabled", "metrics_addr", "admin_token", "worker_id"}


def run_coordinator(alias: str = "default", **options: Any) -> InlineResult:
    """Plan and process everything as the settings of *alias* say, in this thread; return what came of it.

    :param options: of :func:`elk_coordinator.testing.run_inline`, and of the coordinator instead of those in OPTIONS.
    :raises InlineFailure: an AssertionError: a partition rests as failed. :raises ConfigError: the settings are wrong.
    """
    found = entry(alias)
    config = found.config()
    given = {
        field.name: getattr(config, field.name)
        for field in attr.fields(type(config))
        if field.name not in _LEFT_OUT and getattr(config, field.name) is not None
    }
    given.update(options)
    given.setdefault("namespace", found.namespace())
    return run_inline(found.make("PROCESSOR"), found.make("PLANNER"), **given)
