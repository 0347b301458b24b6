"""A small fleet with its metrics: three workers on endless mock work, found by the registry, scraped over HTTP.

    pip install '.[demo]'                    # in a clone of the repository
    python examples/monitoring/main.py       # ELK_REDIS_URL=redis://... for a Redis of yours; --keep: until Ctrl-C

scrape.py beside this file reads and explains the series; prometheus.yml is the same for a real Prometheus.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid

import scrape  # beside this file

from elk_coordinator import RedisDataStore, StrategyType, create_strategy
from elk_coordinator.errors import StoreError
from elk_coordinator.testing import EmbeddedServer, wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
WORKERS = 3
SETTINGS = ["heartbeat_interval=0.5", "worker_ttl=3", "leader_lock_expiry=3", "allocation_interval=1",
            "retry_backoff=0.2,1", "metrics_addr=127.0.0.1:0"]  # fmt: skip


def worker(namespace, url):
    settings = [text for setting in SETTINGS for text in ("--set", setting)]
    return subprocess.Popen(
        [sys.executable, "-m", "elk_coordinator", "--namespace", namespace, "--redis", url, "run",
         "--log-level", "error", *settings, "work:Mock", "work:Endless"],
        cwd=HERE, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def total(samples, name):
    return sum(sum(sample.get(name, {}).values()) for sample in samples)


def main(keep):
    # The server at ELK_REDIS_URL, or one of our own.
    with EmbeddedServer() as server:
        namespace = "monitored-%s" % uuid.uuid4().hex[:8]
        print("%d workers, %s" % (WORKERS, server.label))
        workers = [worker(namespace, server.url) for _ in range(WORKERS)]
        store = RedisDataStore.from_url(server.url)
        strategy = create_strategy(StrategyType.HASH, namespace, store)
        try:

            def targets():
                found = [info.info["http"] for info in strategy.workers() if info.info.get("http")]
                return found if len(found) == WORKERS else None

            def busy():
                samples = [scrape.scrape(target) for target in found]
                worked = total(samples, "node_tasks_processed_total") >= 30
                failed = total(samples, "node_tasks_errors_total") > 0
                # The leader reads its counts every few seconds.
                counted = total(samples, "active_workers_count") == WORKERS and total(samples, "partitions_total") > 0
                return worked and failed and counted

            found = wait_until(targets, 30.0, "the workers in the registry")
            wait_until(busy, 30.0, "some work in the metrics")
            samples = scrape.show(found)
            while keep:
                threading.Event().wait(5.0)
                scrape.show(found)
        except KeyboardInterrupt:
            return 0
        finally:
            for process in workers:
                process.terminate()
            for process in workers:
                process.wait()
            strategy.stop()
            store.close()
        leaders = total(samples, "is_leader")
        print("leaders: %g, stores up: %g of %d" % (leaders, total(samples, "store_up"), WORKERS))
        return 0 if leaders == 1 and total(samples, "store_up") == WORKERS else 1


if __name__ == "__main__":
    try:
        sys.exit(main("--keep" in sys.argv[1:]))
    except StoreError as exc:  # no server: the message says what was tried and what to do
        sys.exit("monitoring: %s" % exc)
