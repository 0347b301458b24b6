"""Celery. https://docs.celeryq.dev/en/stable/userguide/optimizing.html (prefetch), .../userguide/tasks.html (ignore
results), .../reference/cli.html (--without-...), .../getting-started/backends-and-brokers/redis.html (visibility)."""

from __future__ import annotations

import celery

from benchmarks.peers import tally

NAME = "Celery"
PACKAGES = ("celery", "kombu")
POOL = "threads"
SETTINGS = (
    "task_ignore_result, no gossip, mingle, heartbeat, events, remote control or rate limits, prefetch multiplier 64; "
    "acknowledged before the work (its default, and faster)"
)
KILLED = (
    "by default a task is acknowledged before it runs, so what ran in a killed process is lost; with acks_late it "
    "comes back when visibility_timeout (1 h by default) is over, also from a live worker whose task takes longer. "
    "No fencing"
)
_FAST = {
    "task_ignore_result": True,
    "worker_prefetch_multiplier": 64,
    "worker_disable_rate_limits": True,
    "worker_enable_remote_control": False,
    "worker_send_task_events": False,
}


def _app(url, fast):
    app = celery.Celery("peers", broker=url)
    if fast:
        app.conf.update(_FAST)
    return app, app.task(name="job")(tally.job)


def enqueue(url, count, seconds):
    app, job = _app(url, True)
    with app.producer_pool.acquire(block=True) as producer:
        for _ in range(count):
            job.apply_async((seconds,), producer=producer)


def work(url, width, defaults, pool=POOL):
    app, _ = _app(url, not defaults)
    fast = ["--without-gossip", "--without-mingle", "--without-heartbeat", "-P", pool, "-c", str(width)]
    app.worker_main(["worker", "-l", "ERROR", "-n", "%d@%%h" % tally.begin().pid] + ([] if defaults else fast))


def outstanding(client):
    with client.pipeline(transaction=False) as pipe:
        waiting, held = pipe.llen("celery").hlen("unacked").execute()
    return waiting + held
