"""Three workers count the words of 20,000 articles; one of them is killed half way; SQL proves each counted once.

    pip install '.[demo,sqlalchemy]'                  # in a clone of the repository
    python examples/sqlalchemy_backfill/main.py       # ELK_REDIS_URL=redis://... for a Redis of yours

The work itself, planner and processor, is in work.py beside this file.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import uuid

from sqlalchemy import text

from elk_coordinator.errors import StoreError
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.testing import EmbeddedServer, wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
ARTICLES, AUTHORS = 20_000, 7
# SQLite has one writer at a time: more than one partition per worker would only wait for each other.
SETTINGS = ["heartbeat_interval=1", "worker_ttl=3", "leader_lock_expiry=3", "allocation_interval=1",
            "metrics_enabled=false", "task_window_size=1"]  # fmt: skip


def create_tables(engine, fence):
    with engine.connect() as db:
        db.execute(text("PRAGMA journal_mode = WAL"))
    with engine.begin() as db:
        db.execute(text("CREATE TABLE authors (id INTEGER PRIMARY KEY, words INTEGER NOT NULL)"))
        db.execute(text("CREATE TABLE articles (id INTEGER PRIMARY KEY, author INTEGER, body TEXT, words INTEGER)"))
        db.execute(text("INSERT INTO authors VALUES (:id, 0)"), [{"id": i} for i in range(AUTHORS)])
        rows = [{"id": i, "author": i % AUTHORS, "body": "word " * (i % 50 + 1)} for i in range(1, ARTICLES + 1)]
        db.execute(text("INSERT INTO articles VALUES (:id, :author, :body, NULL)"), rows)
    fence.create_table()


def worker(namespace, url):
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    return subprocess.Popen(
        [sys.executable, "-m", "elk_coordinator", "--namespace", namespace, "--redis", url, "run", "--until-done",
         "--log-level", "error", *settings, "work:backfill", "work:articles"],
        cwd=HERE, env=dict(os.environ),
    )  # fmt: skip


def counted(engine):
    with engine.connect() as db:
        return db.execute(text("SELECT count(words) FROM articles")).scalar()


def prove(engine):
    with engine.connect() as db:
        right = db.execute(text("SELECT count(*) FROM articles WHERE words = id % 50 + 1")).scalar()
        total = db.execute(text("SELECT sum(words) FROM authors")).scalar()
    expected = sum(i % 50 + 1 for i in range(1, ARTICLES + 1))
    # A batch that ran twice would show in the totals, one that was lost in both.
    once = right if total == expected else 0
    print("totals of the authors: %d, expected %d" % (total, expected))
    print("articles counted exactly once: %d of %d" % (once, ARTICLES))
    return once == ARTICLES


def main():
    # The server at ELK_REDIS_URL, or one of our own.
    with EmbeddedServer() as server, tempfile.TemporaryDirectory(prefix="elk-blog-") as directory:
        os.environ["BACKFILL_DB"] = "sqlite:///%s?timeout=30" % os.path.join(directory, "blog.db")
        import work  # beside this file; reads the environment

        create_tables(work.engine, work.fence)
        namespace = "count-words-%s" % uuid.uuid4().hex[:8]
        print("%d articles, three workers, %s" % (ARTICLES, server.label), flush=True)
        began = Clock().monotonic()
        workers = [worker(namespace, server.url) for _ in range(3)]
        try:
            wait_until(lambda: counted(work.engine) >= ARTICLES // 4, 30.0, "a quarter of the articles")
            workers[0].kill()
            print("killed one worker after %d articles, %.1f s" % (counted(work.engine), Clock().monotonic() - began))
            codes = [process.wait() for process in workers[1:]]
        finally:
            for process in workers:
                process.kill()
                process.wait()
        print("the other two ended with %s after %.1f s" % (codes, Clock().monotonic() - began))
        good = prove(work.engine) and codes == [0, 0]
        work.engine.dispose()
        return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StoreError as exc:  # no server: the message says what was tried and what to do
        sys.exit("sqlalchemy_backfill: %s" % exc)
