"""One worker process of a benchmark, configured by JSON in its first argument.

Tells ``ready`` once everything is imported. Words on stdin: ``go`` starts it, ``cpu`` tells the CPU seconds it used,
``span`` when its first partition began and its last one ended, ``stop`` drains and tells how long that took. Without a
store it sleeps in bare threads: what the same work takes when nobody coordinates it. The end of stdin ends it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any, Dict, List

from elk_coordinator import Coordinator, RedisDataStore, StrategyType


def tell(**facts: Any) -> None:
    os.write(1, json.dumps(facts).encode("utf-8") + b"\n")


class Work:
    """Sleeps for so long; remembers when the first one began and the last one ended."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.first = 0.0
        self.last = 0.0
        self.count = 0
        self._lock = threading.Lock()

    def process(self, ctx: Any, min_id: int, max_id: int, options: Any) -> int:
        if not self.first:
            self.first = time.monotonic()
        if self.seconds:
            time.sleep(self.seconds)
            with self._lock:
                self.last = time.monotonic()
                self.count += 1
        return 10


class Numbers:
    """A planner over the IDs from 1 to *last*."""

    def __init__(self, last: int, size: int) -> None:
        self.last, self.size = last, size

    def partition_size(self, ctx: Any) -> int:
        return self.size

    def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> int:
        return max(start_id, min(self.last, start_id + range_size))

    def has_data(self, ctx: Any, min_id: int, max_id: int) -> bool:
        return min_id <= self.last


def bare(work: Work, window: int, count: int) -> List[threading.Thread]:
    """Start threads that do *count* pieces of the work between them."""
    left = [count]
    lock = threading.Lock()

    def run() -> None:
        while True:
            with lock:
                if not left[0]:
                    return
                left[0] -= 1
            work.process(None, 0, 0, None)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(window)]
    for thread in threads:
        thread.start()
    return threads


def main(config: Dict[str, Any]) -> None:
    work = Work(config.get("work", 0.0))
    coordinator = None
    if config.get("bare") is None:
        planner = Numbers(config["planned"], config.get("size", 10)) if "planned" in config else None
        options = {"metrics_addr": "127.0.0.1:0", "task_window_size": config.get("window", 3), **config["options"]}
        options["strategy"] = StrategyType(config.get("strategy", "hash"))
        store = RedisDataStore.from_url(config["url"])
        coordinator = Coordinator(config["namespace"], store, work, planner, **options)
    tell(ready=True)
    for line in sys.stdin:
        word = line.strip()
        if word == "go":
            if coordinator is not None:
                coordinator.start()
                tell(started=True, http=coordinator.http_address, worker=coordinator.worker_id)
            else:
                bare(work, config["window"], config["bare"])
                tell(started=True)
        elif word == "cpu":
            tell(cpu=time.process_time(), at=time.monotonic())
        elif word == "span":
            tell(first=work.first, last=work.last, count=work.count)
        elif word == "stop" and coordinator is not None:
            began = time.monotonic()
            clean = coordinator.stop()
            tell(seconds=time.monotonic() - began, clean=clean)
    os._exit(0)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
