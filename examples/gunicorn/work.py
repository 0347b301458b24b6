"""What you would write: a web application whose worker processes also give orders their totals.

gunicorn -c gunicorn.conf.py work:application        # or: uwsgi uwsgi.ini
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import tempfile

from elk_coordinator import Coordinator, CoordinatorConfig, RedisDataStore
from elk_coordinator.contrib.per_process import PerProcess

DATABASE = os.environ.get("SHOP_DATABASE") or os.path.join(tempfile.gettempdir(), "elk-shop.db")
#: Seconds that the work on one partition takes, for something to see.
PAUSE = float(os.environ.get("SHOP_PAUSE", "0.05"))


def database():
    return contextlib.closing(sqlite3.connect(DATABASE, timeout=30, isolation_level=None))


class Totals:
    """The processor. Doing it twice gives the same result."""

    def process(self, ctx, min_id, max_id, options):
        ctx.wait(PAUSE)
        with database() as db:
            return db.execute(
                "UPDATE orders SET total = quantity * price WHERE id BETWEEN ? AND ?", (min_id, max_id)
            ).rowcount


class Orders:
    """The planner: tells which ids exist."""

    def partition_size(self, ctx):
        return 100

    def get_next_max_id(self, ctx, start_id, range_size):
        with database() as db:
            (top,) = db.execute(
                "SELECT max(id) FROM orders WHERE id > ? AND id <= ?", (start_id, start_id + range_size)
            ).fetchone()
        return start_id if top is None else top


def build():
    """Make this process's coordinator; every option is an ELK_... variable of the environment."""
    store = RedisDataStore.from_url(os.environ.get("ELK_REDIS_URL", "redis://localhost:6379/0"))
    namespace = os.environ.get("ELK_NAMESPACE", "shop")
    return Coordinator(namespace, store, Totals(), Orders(), config=CoordinatorConfig.from_env())


#: Nothing happens here at import: gunicorn.conf.py starts it in each worker, uWSGI's first request does.
elk = PerProcess(build)


def application(environ, start_response):
    """Answer every request with what this process does; without a hook of the server the first request starts it."""
    coordinator = elk()
    body = json.dumps({"pid": os.getpid(), "worker": coordinator.worker_id, "metrics": coordinator.http_address})
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body.encode() + b"\n"]
