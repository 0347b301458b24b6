"""Two Flask workers give 6,000 orders their totals; one order is broken, is mended, and its partition is tried again.

    pip install '.[demo,flask]'                 # in a clone of the repository
    python examples/flask_app/main.py           # ELK_REDIS_URL=redis://... for a Redis of yours

The application is in shop.py beside this file; this is the stage around it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import uuid

from elk_coordinator.errors import StoreError
from elk_coordinator.testing import EmbeddedServer

HERE = os.path.dirname(os.path.abspath(__file__))
BROKEN = 1234


def create_table(path):
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, price INTEGER, pieces INTEGER, total INTEGER)")
        ids = [*range(1, 5001), *range(8_000_001, 8_001_001)]  # a hole of eight million in between
        db.executemany("INSERT INTO orders VALUES (?, ?, ?, NULL)", ((i, i % 90 + 1, i % 7 + 1) for i in ids))
        db.execute("UPDATE orders SET price = NULL WHERE id = ?", (BROKEN,))
        db.commit()


def flask(*args):
    """Start ``flask --app shop elk ...`` as one would in a terminal."""
    return subprocess.Popen([sys.executable, "-m", "flask", "elk", *args], cwd=HERE, env=dict(os.environ))


def work():
    """Two workers until everything is done; return their exit codes."""
    workers = [flask("worker", "--until-done", "--log-level", "error") for _ in range(2)]
    return [worker.wait() for worker in workers]


def main():
    # The server at ELK_REDIS_URL, or one of our own.
    with EmbeddedServer() as server, tempfile.TemporaryDirectory(prefix="elk-shop-") as directory:
        path = os.path.join(directory, "shop.db")
        create_table(path)
        os.environ.update(
            ELK_REDIS_URL=server.url, ELK_NAMESPACE="shop-%s" % uuid.uuid4().hex[:8], SHOP_DB=path,
            FLASK_APP="shop:create_app",
        )  # fmt: skip
        import shop  # beside this file

        print("6000 orders, two workers, %s" % server.label, flush=True)
        first = work()
        print("exit codes with order %d broken: %s (3: some partitions failed)" % (BROKEN, first))

        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("UPDATE orders SET price = 1 WHERE id = ?", (BROKEN,))
            db.commit()
        service = flask("worker", "--log-level", "error")  # as in production: until somebody stops it
        asked = flask("retry", "--all", "--wait", "20").wait()  # its leader carries it out
        done = flask("worker", "--until-done", "--log-level", "error").wait()
        service.terminate()
        second = [service.wait(), done]
        print("exit codes after it was mended and retried: %s" % second)

        # The web application: its own page, and the API of the namespace mounted below /elk.
        app = shop.create_app()
        client = app.test_client()
        print("GET /orders: %s" % client.get("/orders").get_json())
        counts = client.get("/elk/api/v1/status").get_json()["partitions"]
        print("GET /elk/api/v1/status: %d completed, %d failed" % (counts["completed"], counts["failed"]))
        shop.elk.stop(app)

        with contextlib.closing(sqlite3.connect(path)) as db:
            (wrong,) = db.execute("SELECT count(*) FROM orders WHERE total IS NOT price * pieces").fetchone()
        print("orders with a wrong total: %d of 6000" % wrong)
        good = asked == 0 and first == [3, 3] and second == [0, 0] and counts["failed"] == 0
        return 0 if good and wrong == 0 else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StoreError as exc:  # no server: the message says what was tried and what to do
        sys.exit("flask_app: %s" % exc)
