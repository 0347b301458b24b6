"""Two gunicorn workers serve pages and process 10,000 orders, each by a coordinator of its own; then both drain.

    pip install '.[demo]' gunicorn           # in a clone of the repository, or: make examples
    python examples/gunicorn/main.py         # ELK_REDIS_URL=redis://... for a Redis of yours

work.py and gunicorn.conf.py are what you would write; uwsgi.ini is the same for uWSGI.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import urllib.request
import uuid

from elk_coordinator import RedisDataStore, StrategyType, create_strategy
from elk_coordinator.errors import StoreError
from elk_coordinator.testing import EmbeddedServer, wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
ORDERS = 10000
WORKERS = 2
SETTINGS = {"ELK_HEARTBEAT_INTERVAL": "1", "ELK_WORKER_TTL": "5", "ELK_ALLOCATION_INTERVAL": "1"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(address, path="/"):
    with urllib.request.urlopen("http://%s%s" % (address, path), timeout=5) as answer:
        return json.loads(answer.read().decode())


def create_table(database):
    with database() as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, quantity, price, total)")
        db.execute("BEGIN")
        rows = ((i, i % 7, i % 100) for i in range(1, ORDERS + 1))
        db.executemany("INSERT INTO orders VALUES (?, ?, ?, NULL)", rows)
        db.execute("COMMIT")


def main(folder, server):
    environ = dict(os.environ, ELK_REDIS_URL=server.url, ELK_NAMESPACE="shop-%s" % uuid.uuid4().hex[:8], **SETTINGS)
    environ["SHOP_DATABASE"] = os.environ["SHOP_DATABASE"] = os.path.join(folder, "shop.db")
    sys.path.insert(0, HERE)
    import work  # reads SHOP_DATABASE

    create_table(work.database)
    address = "127.0.0.1:%d" % free_port()
    command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "--bind", address, "-w", str(WORKERS)]
    store = RedisDataStore.from_url(server.url)
    strategy = create_strategy(StrategyType.HASH, environ["ELK_NAMESPACE"], store)
    gunicorn = subprocess.Popen([*command, "--log-level", "warning", "work:application"], cwd=HERE, env=environ)
    try:
        wait_until(lambda: len(strategy.workers()) == WORKERS, 30.0, "a coordinator in every worker")
        page = get(address)
        print("a page from process %d, whose metrics are at %s" % (page["pid"], page["metrics"]))
        targets = [each["targets"][0] for each in get(page["metrics"], "/api/v1/prometheus-targets")]
        print("for Prometheus, told by any of them: %s" % ", ".join(sorted(targets)))
        wait_until(lambda: strategy.get_partition_stats().completed == ORDERS // 100, 30.0, "the orders")
    finally:
        gunicorn.terminate()
        gunicorn.wait()
        left = strategy.workers()
        strategy.stop()
        store.close()
    with work.database() as db:
        (missing,) = db.execute("SELECT count(*) FROM orders WHERE total IS NULL").fetchone()
    print("metrics of %d workers found, workers left after the end: %d" % (len(targets), len(left)))
    print("orders without a total: %d" % missing)
    return 0 if not missing and not left and len(targets) == WORKERS else 1


if __name__ == "__main__":
    if importlib.util.find_spec("gunicorn") is None:
        sys.exit("gunicorn: it is not installed: pip install gunicorn")
    try:
        # The server at ELK_REDIS_URL, or one of our own.
        with tempfile.TemporaryDirectory() as directory, EmbeddedServer() as redis_server:
            sys.exit(main(directory, redis_server))
    except StoreError as exc:  # no server: the message says what was tried and what to do
        sys.exit("gunicorn: %s" % exc)
