"""taskiq on a Redis stream. https://taskiq-python.github.io/guide/dynamic-brokers.html (a receiver in one's own
process), .../guide/cli.html (prefetch), https://github.com/taskiq-python/taskiq-redis (the stream broker)."""

from __future__ import annotations

import asyncio

import uvloop
from taskiq.api import run_receiver_task
from taskiq_redis import RedisStreamBroker

from benchmarks.peers import tally

NAME = "taskiq"
PACKAGES = ("taskiq", "taskiq-redis", "uvloop")
SETTINGS = "RedisStreamBroker, tasks are coroutines on uvloop (asyncio.sleep), 100 per read, no results, no validation"
KILLED = (
    "acknowledged after the work; entries pending for idle_timeout (10 min) are taken over by XAUTOCLAIM when another "
    "worker next reads something, also from a live worker whose task takes longer. No fencing"
)


async def _run(seconds):
    await tally.async_job(seconds, asyncio.sleep)


def _app(url, fast):
    more = {"xread_count": 100, "xread_block": 100} if fast else {}
    broker = RedisStreamBroker(url=url, queue_name="peers", **more)
    return broker, broker.register_task(_run, task_name="job")


def enqueue(url, count, seconds):
    async def fill():
        broker, job = _app(url, True)
        await broker.startup()
        for _ in range(count):
            await job.kiq(seconds)
        await broker.shutdown()

    uvloop.run(fill())


def work(url, width, defaults):
    async def receive():
        broker, _ = _app(url, not defaults)
        broker.is_worker_process = True
        more = {} if defaults else {"max_async_tasks": width, "max_prefetch": 100, "validate_params": False}
        await run_receiver_task(broker, run_startup=True, **more)

    uvloop.run(receive())


def outstanding(client):
    (group,) = client.xinfo_groups("peers")
    return client.xlen("peers") - (group["entries-read"] or 0) + group["pending"]
