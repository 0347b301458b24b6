"""Affinity: which areas of IDs this worker prefers, among equals, while it lives.

Partitions whose ids follow one another are an area, and areas share a fixed number of buckets. Every worker computes by
rendezvous hashing which buckets are its own: for each bucket the live worker with the highest score, and a score
depends on the bucket and one worker's name alone. So a worker that goes gives away only its own buckets, and one that
comes takes only what becomes its own. Workers that see different fleets for a while disagree on an owner: that costs
locality and nothing else, because a claim is granted by the store and owning is only a preference.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Dict, List, Sequence

from elk_coordinator.errors import StoreError
from elk_coordinator.partition.requests import BUCKETS
from elk_coordinator.partition.strategy import PartitionStrategy
from elk_coordinator.runtime.clock import Clock

#: The fleet is looked at again after so many heartbeats; after one while it changes.
REFRESH_BEATS = 3
_SCORE_BYTES = 8
_DIGEST_BYTES = 64


def scores(worker_id: str) -> List[bytes]:
    """Return this worker's score for each bucket; the same in every process and version."""
    text = b""
    for block in range(BUCKETS * _SCORE_BYTES // _DIGEST_BYTES):
        text += hashlib.blake2b(worker_id.encode("utf-8"), digest_size=_DIGEST_BYTES, salt=b"%d" % block).digest()
    return [text[i : i + _SCORE_BYTES] for i in range(0, len(text), _SCORE_BYTES)]


class Affinity:
    """What one worker prefers. Belongs to the claimer and is used by its thread alone."""

    def __init__(
        self, strategy: PartitionStrategy, worker_id: str, interval: float, clock: Clock, logger: logging.Logger
    ) -> None:
        """*interval*: seconds between two heartbeats."""
        self._strategy = strategy
        self._worker_id = worker_id
        self._interval = interval
        self._clock = clock
        self._logger = logger
        self._due = clock.monotonic()
        self._scores: Dict[str, List[bytes]] = {}
        self._fleet: List[str] = []
        #: A character per bucket, "1" for this worker's.
        self.owned = ""

    def refresh(self) -> None:
        """Look at the fleet if the last look is some heartbeats ago."""
        now = self._clock.monotonic()
        if now < self._due:
            return
        self._due = now + REFRESH_BEATS * self._interval
        known = self._fleet
        try:
            fleet = [worker.worker_id for worker in self._strategy.workers()]
        except StoreError as exc:
            # A preference is not worth an error; the turn that follows meets the store itself.
            self._logger.debug("affinity: the fleet could not be read: %s", exc)
        else:
            self.see(fleet)
            if self._fleet != known:
                # A fleet that starts or ends does so one after the other.
                self._due = now + self._interval

    def see(self, fleet: Sequence[str]) -> None:
        """Compute what is this worker's among *fleet*; itself is always part of it."""
        names = sorted({*fleet, self._worker_id})
        if names == self._fleet:
            return
        self._fleet = names
        self._scores = {name: self._scores.get(name) or scores(name) for name in names}
        mine = self._scores[self._worker_id]
        best = [max(column) for column in zip(*self._scores.values())]
        self.owned = "".join("1" if score == top else "0" for score, top in zip(mine, best))
