"""Dramatiq with threads. https://dramatiq.io/reference.html (RedisBroker, Worker), .../advanced.html (prefetch)."""

from __future__ import annotations

import os
import threading

# Read by dramatiq when it is imported; the default is twice the number of threads.
if os.environ.get("BENCH_FAST"):
    os.environ.setdefault("dramatiq_queue_prefetch", "128")

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.peers import tally

NAME = "Dramatiq"
PACKAGES = ("dramatiq",)
SETTINGS = "RedisBroker with its default middleware (retries, time limits), no results, threads, prefetch 128"
KILLED = (
    "acknowledged after the work; messages of a worker that has not been heard for heartbeat_timeout (60 s) are "
    "requeued by the maintenance that other workers do by chance (1 in 1,000 commands; rare when idle). No fencing"
)


def _app(url, middleware=None):
    broker = RedisBroker(url=url, middleware=middleware)
    return broker, dramatiq.actor(tally.job, broker=broker)


def enqueue(url, count, seconds):
    _, actor = _app(url)
    for _ in range(count):
        actor.send(seconds)


def work(url, width, defaults, middleware=None):
    broker, _ = _app(url, middleware)
    dramatiq.Worker(broker, worker_threads=8 if defaults else width).start()
    threading.Event().wait()


def outstanding(client):
    # A message goes from this hash when it is acknowledged.
    return client.hlen("dramatiq:default.msgs")
