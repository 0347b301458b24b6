"""The work: fill a new column of a big table, and keep a running total per author. What you would put into your own
code base, beside the migration that adds the column.

    export BACKFILL_DB=postgresql://localhost/blog
    elk --namespace count-words run work:backfill work:articles --until-done
"""

from __future__ import annotations

import os

import sqlalchemy

from elk_coordinator.contrib.sql import Database, DenseKeyPlanner, RangeFence, SqlBatchProcessor

engine = sqlalchemy.create_engine(os.environ.get("BACKFILL_DB", "sqlite:///blog.db"))
database = Database.from_engine(engine)

#: What each partition has done, in the same database and the same transactions as the effects themselves.
fence = RangeFence(database)

#: Ranges of 1000 IDs, also over rows that are written meanwhile; never past what an open transaction may still commit.
articles = DenseKeyPlanner(database, "articles", partition_size=1000)


def count_words(session, ctx, lo, hi):
    """One batch, in one transaction. The total is an increment: done twice it would be wrong, so it needs the fence."""
    rows = session.rows("SELECT id, author, body FROM articles WHERE id BETWEEN :lo AND :hi", {"lo": lo, "hi": hi})
    totals = {}
    for article, author, body in rows:
        words = len(body.split())
        session.execute("UPDATE articles SET words = :words WHERE id = :id", {"words": words, "id": article})
        totals[author] = totals.get(author, 0) + words
    for author, words in sorted(totals.items()):  # in one order everywhere, or two workers deadlock
        session.execute(
            "UPDATE authors SET words = words + :words WHERE id = :author", {"words": words, "author": author}
        )
    return len(rows)


backfill = SqlBatchProcessor(database, count_words, batch_ids=250, fence=fence, statement_timeout=30.0)
