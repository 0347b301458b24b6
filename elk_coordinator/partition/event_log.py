"""The log of a namespace: what happened on its workers that an operator may want to know, the newest some 10,000.

Every coordinator writes its own events, in the background and in batches (:class:`EventWriter`); ``elk events`` and
``AdminService.events`` read them. Nothing depends on it: events that cannot be written in time are dropped and counted.
"""

from __future__ import annotations

import enum
import json
import logging
import re
import threading
import uuid
from collections import deque
from typing import Any, Deque, Dict, List, Mapping, Optional, Sequence, Tuple

import attr

from elk_coordinator.errors import ConfigError, StoreUnavailable
from elk_coordinator.protocols import Event
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.runtime.logs import mask
from elk_coordinator.runtime.retry import backoff_delay
from elk_coordinator.runtime.threads import Role
from elk_coordinator.store.base import DataStore

LOG = "events"
#: Entries kept, about.
KEEP = 10_000
#: Most entries of one write, and of one page read.
MAX_WRITE = 100
MAX_PAGE = 1000
#: Events that may wait for a store that is away.
MAX_WAITING = 1000
#: Seconds between two writes of one coordinator.
INTERVAL = 0.25
#: Longest text of a fact; of longer ones the end is kept, where a traceback names its error.
MAX_TEXT = 500

_ID = re.compile(r"\d{1,20}(-\d{1,20})?\Z")
#: Kind of the entry that stands for events that were not written.
DROPPED = "events_dropped"


@attr.s(auto_attribs=True, frozen=True, slots=True)
class LoggedEvent:
    """One event as it stands in the log."""

    #: Where it stands: give it to :meth:`EventLog.read` as *after*.
    id: str
    kind: str
    worker_id: str
    #: Epoch seconds by the clock of that worker's host.
    at: float
    facts: Mapping[str, Any]

    def to_dict(self) -> Dict[str, Any]:
        """Return a JSON-ready dict."""
        return {"id": self.id, "kind": self.kind, "worker_id": self.worker_id, "at": self.at, "facts": dict(self.facts)}


class EventLog:
    """The log of one namespace. Safe from any thread; every method is one round trip (on other stores two).

    :param store: bound to the namespace, such as ``strategy.store``.
    """

    def __init__(self, store: DataStore) -> None:
        self._store = store

    def append(self, batch: str, events: Sequence[Event]) -> None:
        """Append at most 100 events.

        :param batch: a text that no other batch has; the same batch again is stored once.
        :raises StoreUnavailable: no answer in time; send the same batch again.
        """
        self._store.append_log(LOG, batch, [dump(event) for event in events[:MAX_WRITE]], KEEP)

    def read(self, after: Optional[str] = None, limit: int = 100) -> List[LoggedEvent]:
        """Return events, oldest first.

        :param after: the id of an event: only what was written behind it. None: the newest *limit* ones.
        :param limit: from 1 to 1000.
        :raises ConfigError: for a malformed *after* or *limit*.
        """
        if after is not None and not (isinstance(after, str) and _ID.match(after)):
            raise ConfigError("after must be the id of an event, such as '1700000000000-0', not %r" % (after,))
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_PAGE:
            raise ConfigError("limit must be from 1 to %d, not %r" % (MAX_PAGE, limit))
        return [load(entry_id, entry) for entry_id, entry in self._store.read_log(LOG, after, limit)]


def dump(event: Event) -> bytes:
    """Return the entry for an event: texts clipped, passwords in URLs masked, whatever objects its facts hold."""
    facts = {str(name): _plain(value) for name, value in event.facts.items()}
    document = {"k": event.kind, "w": event.worker_id, "t": round(event.at, 3), "f": facts}
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def load(entry_id: str, entry: bytes) -> LoggedEvent:
    """Return the event of an entry; of one that cannot be read, that it cannot."""
    try:
        found = json.loads(entry)
        return LoggedEvent(entry_id, str(found["k"]), str(found["w"]), float(found["t"]), dict(found["f"]))
    except (ValueError, KeyError, TypeError):
        return LoggedEvent(entry_id, "unreadable", "", 0.0, {})


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        value = value.name.lower()
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        # JSON knows neither infinity nor "not a number".
        return round(value, 6) if abs(value) < 1e300 else None
    try:
        text = str(value)
    except Exception:
        text = type(value).__name__
    text = mask(text)
    return text if len(text) <= MAX_TEXT else "..." + text[3 - MAX_TEXT :]


class EventWriter(Role):
    """Writes one coordinator's events into the log, from a thread of its own.

    Rate policy: at once when something happened, at most four times a second, and no call at all when nothing does.
    Whoever emits only appends to a queue: it never waits for the store. While the store is away up to 1,000 events
    wait for it; later ones are dropped, and an ``events_dropped`` entry says how many.
    """

    name = "journal"

    def __init__(self, store: DataStore, namespace: str, worker_id: str, clock: Clock, logger: logging.Logger) -> None:
        super().__init__()
        self._log = EventLog(store)
        self._namespace = namespace
        self._worker_id = worker_id
        self._clock = clock
        self._logger = logger
        self._lock = threading.Lock()
        self._waiting: Deque[Event] = deque()
        self._batch: Optional[Tuple[str, List[Event]]] = None
        self._not_before = clock.monotonic()
        self._open = False
        self._failures = 0
        self._untold = 0
        #: Events that were never written.
        self.dropped = 0

    def open(self) -> None:
        """Begin to write: the namespace has accepted this worker. Nothing is written to one that refuses it."""
        self._open = True
        self.wake.set()

    def record(self, event: Event) -> None:
        """Take an event; never waits. Called by whoever emits."""
        with self._lock:
            if len(self._waiting) >= MAX_WAITING:
                self.dropped += 1
                self._untold += 1
                return
            self._waiting.append(event)
        self.wake.set()

    # What an operator cares for, of bounded volume: no heartbeats, claims, starts or completions.
    on_started = on_stopped = on_role_died = on_http_unavailable = record
    on_became_leader = on_stepped_down = on_planner_error = record
    on_worker_joined = on_worker_left = on_worker_lost = on_command_ended = on_config_changed = record
    on_partition_reclaimed = on_partition_retried = on_partition_failed = record
    on_lease_lost = on_write_refused = on_task_hung = on_breaker_changed = record
    on_store_unavailable = on_store_recovered = on_store_lost_data = record

    def run_once(self) -> int:
        """Write what waits, unless it is too soon; return how many were written."""
        now = self._clock.monotonic()
        if not self._open or now < self._not_before:
            return 0
        batch = self._next_batch()
        if batch is None:
            return 0
        try:
            self._log.append(*batch)
        except StoreUnavailable as exc:
            # Not reported as an outage: the heartbeat does that. The same batch is sent again, so it is stored once.
            self._failures += 1
            self._not_before = now + backoff_delay(self._failures, 0.5, 10.0)
            self._logger.debug("events could not be written, %d wait: %s", len(self._waiting) + len(batch[1]), exc)
            return 0
        except Exception:
            # Nothing that repeating will cure, a missing permission for example.
            self._batch = None
            with self._lock:
                self.dropped += len(batch[1])
                self._untold += len(batch[1])
            self._not_before = now + 10.0
            raise
        self._batch, self._failures = None, 0
        self._not_before = now + INTERVAL
        return len(batch[1])

    def _next_batch(self) -> Optional[Tuple[str, List[Event]]]:
        if self._batch is None:
            with self._lock:
                events = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_WRITE - 1))]
                untold, self._untold = (self._untold, 0) if not self._waiting else (0, self._untold)
            if untold:
                events.append(Event(DROPPED, self._namespace, self._worker_id, self._clock.time(), {"count": untold}))
            if events:
                self._batch = (uuid.uuid4().hex, events)
        return self._batch

    def pause(self, did: int) -> float:
        if not self._open or (self._batch is None and not self._waiting):
            return 60.0
        return max(0.0, self._not_before - self._clock.monotonic())

    def finish(self) -> None:
        # The last ones, "stopped" among them: once more and without pauses, then they are lost.
        while self._batch is not None or self._waiting:
            self._not_before = self._clock.monotonic()
            if not self.run_once():
                break
