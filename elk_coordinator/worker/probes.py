"""Which partitions a half-open circuit breaker tries."""

from __future__ import annotations

import random
from typing import Dict

from elk_coordinator.partition.requests import BUCKETS, bucket_of

#: So many areas of failures are remembered; one look at the queue sees a quarter of it.
REMEMBERED = 256


class Probes:
    """Makes probes try something else than what just failed. Used by the claimer's thread only.

    A failed probe burns no attempt, so partitions that always fail would stay at the head of the queue, be every probe,
    and keep everything behind them waiting for ever. Only a probe elsewhere tells a system that is down from partitions
    that are bad. Like affinity it is a preference among equals: when there is nothing else, the same ones are tried.
    """

    def __init__(self) -> None:
        self._failed: Dict[int, None] = {}

    def failed(self, partition_id: int) -> None:
        """Take note that an attempt at *partition_id* failed."""
        bucket = bucket_of(partition_id)
        self._failed.pop(bucket, None)
        self._failed[bucket] = None
        if len(self._failed) > REMEMBERED:
            del self._failed[next(iter(self._failed))]

    def preferred(self) -> str:
        """Return a character per bucket, "1" for those to try first (``TurnRequest.owned``).

        What is not known to fail, and of that often only a part, so that a long row of failing ones is jumped over.
        """
        share = 2.0 ** -random.randint(0, 4)
        return "".join("1" if b not in self._failed and random.random() < share else "0" for b in range(BUCKETS))
