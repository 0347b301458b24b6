"""Three workers give 50,000 accounts a bonus of 10; one of them is killed half way; SQL proves that each got it once.

    pip install '.[demo]'                        # in a clone of the repository
    python examples/database_batch/main.py       # ELK_REDIS_URL=redis://... for a Redis of yours

The work itself, planner and processor, is in work.py beside this file.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import uuid

import work  # beside this file

from elk_coordinator.errors import StoreError
from elk_coordinator.testing import EmbeddedServer

HERE = os.path.dirname(os.path.abspath(__file__))
SETTINGS = ["heartbeat_interval=1", "worker_ttl=3", "leader_lock_expiry=3", "retry_backoff=0.2,1",
            "metrics_enabled=false"]  # fmt: skip


def create_tables(database):
    with database() as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)")
        db.execute(
            "CREATE TABLE fence (namespace TEXT, lo INTEGER, hi INTEGER, token INTEGER NOT NULL,"
            " done_to INTEGER NOT NULL, PRIMARY KEY (namespace, lo, hi))"
        )
        # A table with a hole of billions, as tables get over the years: has_data() lets the planner step over it.
        ids = [*range(1, 40_001), *range(7_000_000_000, 7_000_010_000)]
        db.execute("BEGIN")
        db.executemany("INSERT INTO accounts VALUES (?, 0)", ((i,) for i in ids))
        db.execute("COMMIT")


def worker(namespace, url, database_path):
    settings = [text for setting in SETTINGS for text in ("--set", setting)]
    return subprocess.Popen(
        [sys.executable, "-m", "elk_coordinator", "--namespace", namespace, "--redis", url, "run", "--until-done",
         "--log-level", "error", *settings, "work:Bonus", "work:Accounts"],
        cwd=HERE, env=dict(os.environ, BONUS_DB=database_path),
    )  # fmt: skip


def kill_when(database, process, rows):
    """Kill *process* as soon as *rows* accounts have their bonus."""
    while process.poll() is None:
        with database() as db:
            (done,) = db.execute("SELECT count(*) FROM accounts WHERE balance > 0").fetchone()
        if done >= rows:
            process.kill()
            process.wait()
            print("killed one worker after %d accounts" % done)
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)


def prove(database):
    with database() as db:
        (once,) = db.execute("SELECT count(*) FROM accounts WHERE balance = 10").fetchone()
        (wrong,) = db.execute("SELECT count(*) FROM accounts WHERE balance <> 10").fetchone()
    print("accounts with exactly one bonus: %d, with none or more: %d" % (once, wrong))
    return once == 50_000 and wrong == 0


def main():
    # The server at ELK_REDIS_URL, or one of our own.
    with EmbeddedServer() as server, tempfile.TemporaryDirectory(prefix="elk-bonus-") as directory:
        path = work.DATABASE = os.path.join(directory, "bonus.db")
        create_tables(work.database)
        namespace = "bonus-%s" % uuid.uuid4().hex[:8]
        print("%d accounts, three workers, %s" % (50_000, server.label))
        workers = [worker(namespace, server.url, path) for _ in range(3)]
        try:
            kill_when(work.database, workers[0], 15_000)
            codes = [process.wait() for process in workers[1:]]
        finally:
            for process in workers:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
        print("the other two ended with", codes)
        return 0 if prove(work.database) and codes == [0, 0] else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StoreError as exc:  # no server: the message says what was tried and what to do
        sys.exit("database_batch: %s" % exc)
