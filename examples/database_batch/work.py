"""The work: give every account its bonus, exactly once. What you would put into your own code base.

elk --namespace bonus run work:Bonus work:Accounts --until-done
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile

DATABASE = os.environ.get("BONUS_DB", os.path.join(tempfile.gettempdir(), "elk-bonus.db"))
BATCH = 200
PACE = 0.03  # seconds per batch, so that there is something to see


@contextlib.contextmanager
def database():
    with contextlib.closing(sqlite3.connect(DATABASE, timeout=30, isolation_level=None)) as db:
        yield db


@contextlib.contextmanager
def transaction(db):
    db.execute("BEGIN IMMEDIATE")  # SQLite's way of SELECT ... FOR UPDATE: one writer at a time
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


class Accounts:
    """The planner. COALESCE would be a mistake here: "no row" must be told from "a row at the edge"."""

    def partition_size(self, ctx):
        return 1000

    def get_next_max_id(self, ctx, start_id, range_size):
        with database() as db:
            (top,) = db.execute(
                "SELECT max(id) FROM accounts WHERE id > ? AND id <= ?", (start_id, start_id + range_size)
            ).fetchone()
        return start_id if top is None else top

    def has_data(self, ctx, min_id, max_id):
        with database() as db:
            (found,) = db.execute(
                "SELECT EXISTS (SELECT 1 FROM accounts WHERE id BETWEEN ? AND ?)", (min_id, max_id)
            ).fetchone()
        return bool(found)


class Bonus:
    """The processor. An increment must not happen twice, so a range fence decides in the database what still counts.

    One row per partition: the token of the newest claim, and how far it came. Taking the fence shuts out every older
    claim; each batch moves ``done_to`` in the same transaction as its effect, so no crash can part the two.
    """

    def process(self, ctx, min_id, max_id, options):
        key = (ctx.namespace, ctx.partition.min_id, max_id)
        with database() as db:
            with transaction(db):
                db.execute(
                    "INSERT INTO fence (namespace, lo, hi, token, done_to) VALUES (?, ?, ?, ?, ?)"
                    " ON CONFLICT (namespace, lo, hi) DO UPDATE SET token = excluded.token"
                    " WHERE fence.token < excluded.token",
                    (*key, ctx.fencing_token, ctx.partition.min_id - 1),
                )
            rows = 0
            while True:
                ctx.raise_if_cancelled()
                with transaction(db):
                    token, done_to = db.execute(
                        "SELECT token, done_to FROM fence WHERE namespace = ? AND lo = ? AND hi = ?", key
                    ).fetchone()
                    if token != ctx.fencing_token:
                        raise RuntimeError("a newer worker has this range: nothing was written")
                    first, last = done_to + 1, min(done_to + BATCH, max_id)
                    if first > max_id:
                        return rows
                    rows += db.execute(
                        "UPDATE accounts SET balance = balance + 10 WHERE id BETWEEN ? AND ?", (first, last)
                    ).rowcount
                    db.execute("UPDATE fence SET done_to = ? WHERE namespace = ? AND lo = ? AND hi = ?", (last, *key))
                    if ctx.attempt == 1 and ctx.partition.partition_id % 7 == 0:
                        # As real databases do now and then. The batch is rolled back, the next attempt does it again.
                        raise OSError("the database hiccuped")
                ctx.checkpoint(last, processed=rows)  # progress for "elk status"; the fence is what counts
                ctx.wait(PACE)
