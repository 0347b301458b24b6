"""Give 100,000 orders their totals. Start it in as many terminals as you like: the processes share the work.

    pip install 'elk-coordinator[demo]'        # in a clone of the repository: pip install '.[demo]'
    python examples/quickstart.py              # ELK_REDIS_URL=redis://localhost:6379/0 for a Redis of yours; without it
                                               # one is started for this process, and the processes share nothing

The same worker under ``elk run``, which also handles SIGTERM:

    cd examples && elk --namespace quickstart run quickstart:Totals quickstart:Orders --until-done
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import tempfile

from elk_coordinator import Coordinator, RedisDataStore
from elk_coordinator.errors import StoreError
from elk_coordinator.testing import EmbeddedServer

DATABASE = os.path.join(tempfile.gettempdir(), "elk-quickstart.db")


def database():
    return contextlib.closing(sqlite3.connect(DATABASE, timeout=30, isolation_level=None))


class Totals:
    """The processor. Doing it twice gives the same result, so it needs no further guard."""

    def process(self, ctx, min_id, max_id, options):
        with database() as db:
            return db.execute(
                "UPDATE orders SET total = quantity * price WHERE id BETWEEN ? AND ?", (min_id, max_id)
            ).rowcount


class Orders:
    """The planner: tells which ids exist."""

    def partition_size(self, ctx):
        return 1000

    def get_next_max_id(self, ctx, start_id, range_size):
        with database() as db:
            (top,) = db.execute(
                "SELECT max(id) FROM orders WHERE id > ? AND id <= ?", (start_id, start_id + range_size)
            ).fetchone()
        return start_id if top is None else top


def create_table():
    with database() as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("BEGIN IMMEDIATE")  # of several processes started at once, one fills the table
        db.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, quantity, price, total)")
        if not db.execute("SELECT EXISTS (SELECT 1 FROM orders)").fetchone()[0]:
            db.executemany("INSERT INTO orders VALUES (?, ?, ?, NULL)", ((i, i % 7, i % 100) for i in range(1, 100001)))
        db.execute("COMMIT")


def main():
    create_table()
    # The server at ELK_REDIS_URL, or one of our own; a program of yours needs the middle line only.
    with EmbeddedServer() as server:
        store = RedisDataStore.from_url(server.url)
        with Coordinator("quickstart", store, Totals(), Orders()) as coordinator:
            coordinator.wait_idle()
            print(coordinator.strategy.get_partition_stats())
        store.close()
    with database() as db:
        left = db.execute("SELECT count(*) FROM orders WHERE total IS NULL").fetchone()[0]
    print("orders without a total:", left)
    return 1 if left else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StoreError as exc:  # no server: the message says what was tried and what to do
        sys.exit("quickstart: %s" % exc)
