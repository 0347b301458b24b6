"""Completed partitions as a fleet leaves them: what the sizes of the archive are measured on."""

from __future__ import annotations

import heapq
import random
from typing import List, Tuple

from elk_coordinator.partition.archive_codec import Row


def simulated(
    count: int, seed: int, workers: int = 8, window: int = 5, mean: float = 1.0, size: int = 1000
) -> List[Row]:
    """Return completions, in order, of workers that run *window* partitions each for random times, *mean* in seconds.

    Times follow a log-normal law, so partitions end far out of order; each report claims the next partition, one
    percent was tried twice and one in 500 was lost once.
    """
    chance = random.Random(seed)
    begin = 1_700_000_000_000_000
    names = [
        "host-%d.example.com-%d-%06x" % (i, chance.randrange(99999), chance.randrange(1 << 24)) for i in range(workers)
    ]
    running: List[Tuple[int, int, int, int]] = []
    rows: List[Row] = []
    following, last = 1, 0

    def start(at: int, worker: int, token: int) -> None:
        nonlocal following
        heapq.heappush(running, (at + int(chance.lognormvariate(0.0, 0.7) * mean * 1e6), worker, following, token))
        following += 1

    for worker in range(workers):
        for place in range(window):
            start(begin + worker * 3000, worker, begin + worker * 3000 + place + 1)
    while len(rows) < count:
        at, worker, i, token = heapq.heappop(running)
        version = max(last + 1, at)
        last = version + 1
        rows.append(
            Row(
                i, (i - 1) * size + 1, size - 1, begin - 5_000_000 + i // 1000 * 40_000_000, token, version,
                int(chance.random() < 0.002), int(chance.random() < 0.01), 0, size, names[worker], "",
            )
        )  # fmt: skip
        start(version + chance.randrange(300), worker, version + 1)
    return rows


def record_of(row: Row) -> str:
    """Return a row as work.lua writes it into ``done``."""
    numbers = (row.token, row.version, row.deliveries, row.attempt, row.priority, row.processed)
    head = "%x %x %014x" % (row.low, row.span, row.created)
    return " ".join([head, *map(str, numbers), row.worker, row.options])
