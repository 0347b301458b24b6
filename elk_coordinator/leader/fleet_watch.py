"""The leader's eye on the fleet: who joined, who signed off, who was lost; told as events, nothing is decided by it."""

from __future__ import annotations

import logging
from typing import Any, Dict, Optional, Sequence, Tuple

from elk_coordinator.model import WorkerInfo
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.runtime.events import Events
from elk_coordinator.runtime.logs import about


class FleetWatch:
    """Compares one look at the registry with the one before; belongs to the recovery thread of one leader.

    The first look of a leader tells nothing: who came or went before it is not known.

    :param interval: seconds between two looks, at most a third of the shortest ``worker_ttl``.
    """

    def __init__(self, interval: float, clock: Clock, events: Events, logger: logging.Logger) -> None:
        self.interval = interval
        self._clock = clock
        self._events = events
        self._logger = logger
        #: worker id -> (until when the registry keeps it without another beat, what it said of itself)
        self._known: Optional[Dict[str, Tuple[float, Dict[str, Any]]]] = None

    def forget(self) -> None:
        """Begin anew: another leads."""
        self._known = None

    def see(self, workers: Sequence[WorkerInfo]) -> None:
        """Tell what changed since the last look."""
        now = self._clock.monotonic()
        before, self._known = self._known, {each.worker_id: (now + each.remaining, each.info) for each in workers}
        if before is None:
            return
        for worker_id, (_, info) in self._known.items():
            if worker_id not in before:
                self._events.emit("worker_joined", worker=worker_id, host=_host(info), version=info.get("version"))
        for worker_id, (until, info) in before.items():
            if worker_id in self._known:
                continue
            # Gone before its time can only be by its own word. One that beats as it should had a third of its time left
            # even now, one that was lost nothing: the middle leaves both room.
            if until - now > self.interval / 2:
                self._events.emit("worker_left", worker=worker_id, host=_host(info))
                continue
            text = "worker %s is lost: nothing was heard of it for its worker_ttl"
            self._logger.warning(text, worker_id, extra=about("worker_lost"))
            self._events.emit("worker_lost", worker=worker_id, host=_host(info))


def _host(info: Dict[str, Any]) -> str:
    return str(info.get("host", ""))
