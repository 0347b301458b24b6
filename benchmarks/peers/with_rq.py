"""RQ. https://python-rq.org/docs/workers/ (SimpleWorker), https://github.com/rq/rq/blob/master/docs/benchmark.md
(that it is the fast one), https://python-rq.org/docs/results/ (result_ttl)."""

from __future__ import annotations

import logging

import redis
import rq

from benchmarks.peers import tally

NAME = "RQ"
PACKAGES = ("rq",)
SETTINGS = "SimpleWorker (no fork per job, one job at a time), result_ttl=0, enqueue_many in pipelines"
KILLED = (
    "the job stays in the registry of started ones; the cleaning of registries marks it as failed (abandoned) when its "
    "heartbeat is too old, and it is run again only where a Retry was given. No fencing"
)
BATCH = 500


def enqueue(url, count, seconds):
    queue = rq.Queue("peers", connection=redis.Redis.from_url(url))
    for first in range(0, count, BATCH):
        size = min(BATCH, count - first)
        queue.enqueue_many([rq.Queue.prepare_data(tally.job, (seconds,), result_ttl=0) for _ in range(size)])


def work(url, width, defaults):
    logging.getLogger("rq.worker").setLevel(logging.CRITICAL)
    client = redis.Redis.from_url(url)
    queue = rq.Queue("peers", connection=client)
    worker = rq.Worker([queue], connection=client) if defaults else rq.SimpleWorker(
        [queue], connection=client, log_job_description=False
    )
    worker.work(logging_level="CRITICAL")


def outstanding(client):
    with client.pipeline(transaction=False) as pipe:
        waiting, started = pipe.llen("rq:queue:peers").zcard("rq:wip:peers").execute()
    return waiting + started
