"""A small Flask application with a job for elk: give every order its total. What you would put into your own code base.

    export ELK_REDIS_URL=redis://localhost:6379/0 SHOP_DB=/tmp/shop.db
    flask --app shop elk worker          # as many as you like, on as many hosts as you like
    flask --app shop run                 # the web application; /elk/ shows how far they are
"""

from __future__ import annotations

import os
import sqlite3

from flask import Flask, current_app, g

from elk_coordinator import PermanentError
from elk_coordinator.contrib.flask import Elk

elk = Elk()


def get_db():
    """The connection of this application context, as the Flask tutorial has it: a request's, or a partition's."""
    if "db" not in g:
        g.db = sqlite3.connect(current_app.config["DATABASE"], timeout=30, isolation_level=None)
    return g.db


def close_db(error=None):
    db = g.pop("db", None)
    if db is not None:
        db.close()


@elk.planner
class Orders:
    """Which orders there are. Asked again and again by one process at a time: the table may grow for ever."""

    def partition_size(self, ctx):
        return 500

    def get_next_max_id(self, ctx, start_id, range_size):
        (top,) = get_db().execute(
            "SELECT max(id) FROM orders WHERE id > ? AND id <= ?", (start_id, start_id + range_size)
        ).fetchone()
        return start_id if top is None else top

    def has_data(self, ctx, min_id, max_id):
        query = "SELECT EXISTS (SELECT 1 FROM orders WHERE id BETWEEN ? AND ?)"
        return bool(get_db().execute(query, (min_id, max_id)).fetchone()[0])


@elk.processor
def totals(ctx, min_id, max_id, options):
    """Setting a total twice changes nothing, so "at least once" is all this needs."""
    db = get_db()
    wrong = db.execute("SELECT id FROM orders WHERE id BETWEEN ? AND ? AND price IS NULL", (min_id, max_id)).fetchall()
    if wrong:
        # No attempt could mend that: it rests as failed until somebody has looked, the other partitions go on.
        raise PermanentError("order %d has no price" % wrong[0])
    return db.execute("UPDATE orders SET total = price * pieces WHERE id BETWEEN ? AND ?", (min_id, max_id)).rowcount


def create_app():
    app = Flask(__name__)
    app.config.from_mapping(
        DATABASE=os.environ.get("SHOP_DB", "shop.db"),
        ELK_NAMESPACE=os.environ.get("ELK_NAMESPACE", "shop"),
        ELK_REDIS_URL=os.environ.get("ELK_REDIS_URL", "redis://localhost:6379/0"),
        ELK_HEARTBEAT_INTERVAL=1.0,
        ELK_METRICS_ADDR="127.0.0.1:0",
    )
    app.teardown_appcontext(close_db)
    elk.init_app(app)
    # Put your own check here (a session, an IP address, a header that your proxy sets).
    elk.mount(app, "/elk", allow=lambda environ: environ.get("REMOTE_ADDR") == "127.0.0.1")

    @app.route("/orders")
    def orders():
        count, done = get_db().execute("SELECT count(*), count(total) FROM orders").fetchone()
        return {"orders": count, "with_total": done}

    return app
