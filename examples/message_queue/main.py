"""Two workers handle 3,000 messages while they are still being written; the results prove that each was handled.

    pip install '.[demo]'                       # in a clone of the repository
    python examples/message_queue/main.py       # ELK_REDIS_URL=redis://... for a Redis of yours

The work itself, planner and processor, is in work.py beside this file.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid

from elk_coordinator import Coordinator, RedisDataStore
from elk_coordinator.errors import StoreError
from elk_coordinator.testing import EmbeddedServer

HERE = os.path.dirname(os.path.abspath(__file__))
MESSAGES = 3000
SETTINGS = {"heartbeat_interval": 1.0, "worker_ttl": 5.0, "allocation_interval": 1.0, "metrics_enabled": False}


def worker(namespace):
    settings = [text for item in SETTINGS.items() for text in ("--set", "%s=%s" % item)]
    return subprocess.Popen(
        [sys.executable, "-m", "elk_coordinator", "--namespace", namespace, "run", "--log-level", "error", *settings,
         "work:Mail"],
        cwd=HERE, env=dict(os.environ),
    )  # fmt: skip


def produce(client, stream):
    """Write message after message, in bursts; the workers are at it meanwhile."""
    pause = threading.Event()
    for first in range(1, MESSAGES + 1, 60):
        with client.pipeline(transaction=False) as burst:
            for n in range(first, min(first + 60, MESSAGES + 1)):
                burst.xadd(stream, {"text": "message %d" % n}, id="%d-0" % n)
            burst.execute()
        pause.wait(0.03)


def prove(client, results):
    found = client.hgetall(results)
    missing = [n for n in range(1, MESSAGES + 1) if found.get(str(n)) != "MESSAGE %d" % n]
    print("messages handled: %d of %d, missing or wrong: %d" % (len(found), MESSAGES, len(missing)))
    return not missing and len(found) == MESSAGES


def main():
    # The server at ELK_REDIS_URL, or one of our own.
    with EmbeddedServer() as server:
        namespace = "mail-%s" % uuid.uuid4().hex[:8]
        os.environ.update(ELK_REDIS_URL=server.url, MAIL_STREAM="%s-stream" % namespace)
        import work  # beside this file; reads the environment

        print("%d messages, two workers, %s" % (MESSAGES, server.label))
        workers = [worker(namespace) for _ in range(2)]
        store = RedisDataStore.from_url(server.url)
        try:
            # This process plans too, and works; the other two have no planner: they never lead.
            with Coordinator(namespace, store, work.Mail(), work.Messages(), **SETTINGS) as coordinator:
                produce(work.client, work.NAME)
                if not coordinator.wait_idle(60.0):
                    print("not done within a minute")
                stats = coordinator.strategy.get_partition_stats()
                print("%d partitions completed, %d failed" % (stats.completed, stats.failed))
            done = prove(work.client, work.RESULTS)
        finally:
            for process in workers:
                process.terminate()
            for process in workers:
                process.wait()
            work.client.delete(work.NAME, work.RESULTS)
            work.client.close()
            store.close()
        return 0 if done else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StoreError as exc:  # no server: the message says what was tried and what to do
        sys.exit("message_queue: %s" % exc)
