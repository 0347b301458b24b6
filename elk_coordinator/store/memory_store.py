"""MemoryDataStore: a DataStore in the memory of one process, for tests, examples and single-process jobs."""

from __future__ import annotations

import threading
from typing import Any, Dict, List, Optional, Tuple

from elk_coordinator.config import check_namespace
from elk_coordinator.errors import StateError, StoreError, StoreUnavailable
from elk_coordinator.model import WorkerInfo
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.store.base import DataStore, Value

_DAY_US = 86_400_000_000


class _Space:
    """The data of one namespace."""

    def __init__(self) -> None:
        self.last = 0
        self.values: Dict[str, Tuple[bytes, int]] = {}
        #: name -> (owner, token, deadline, length)
        self.locks: Dict[str, Tuple[str, int, float, float]] = {}
        self.workers: Dict[str, Tuple[float, Dict[str, Any]]] = {}
        self.hints: List[str] = []
        self.heard = 0


class _Memory:
    """What all copies of one store share."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.changed = threading.Condition()
        self.spaces: Dict[str, _Space] = {}


class MemoryDataStore(DataStore):
    """Keeps everything in this process; gone with it. Thread-safe, never unavailable."""

    def __init__(self, clock: Optional[Clock] = None) -> None:
        self.timeout = 5.0
        self._memory = _Memory(clock or Clock())
        self._namespace: Optional[str] = None
        self._closed = threading.Event()
        self._owns_closing = True
        self._seen: Optional[int] = None

    def _copy(self, closed: threading.Event) -> "MemoryDataStore":
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__, _closed=closed, _seen=None)
        return twin

    def namespaced(self, namespace: str) -> "MemoryDataStore":
        """Return this store bound to *namespace*."""
        twin = self._copy(self._closed)
        twin._namespace = check_namespace(namespace)
        twin._owns_closing = False
        return twin

    def with_deadline(self, seconds: float, name: str = "") -> "MemoryDataStore":
        """Return the same data; closing it ends its own waits only."""
        twin = self._copy(threading.Event())
        twin.timeout = float(seconds)
        twin._owns_closing = True
        return twin

    def clear(self) -> None:
        """Lose all data, as FLUSHALL would."""
        with self._memory.changed:
            for space in self._memory.spaces.values():
                hints, heard = space.hints, space.heard
                space.__init__()  # type: ignore[misc]
                space.hints, space.heard = hints, heard

    def _space(self) -> _Space:
        if self._namespace is None:
            raise StateError("this store is bound to no namespace: use store.namespaced('...')")
        if self._closed.is_set():
            raise StoreUnavailable("the store was closed")
        return self._memory.spaces.setdefault(self._namespace, _Space())

    def _stamp(self, space: _Space, floor: int = 0) -> int:
        now = int(self._memory.clock.time() * 1e6)
        if floor > max(space.last, now) + _DAY_US:
            raise StoreError("the remembered token %d is more than a day ahead of the clock and the last token" % floor)
        space.last = max(space.last + 1, now, floor + 1)
        return space.last

    def now(self) -> float:
        self._space()
        return self._memory.clock.time()

    def get(self, name: str) -> Value:
        with self._memory.changed:
            data, version = self._space().values.get(name, (None, 0))
            return Value(data, version, self._memory.clock.time())

    def compare_and_set(self, name: str, expected_version: int, data: Optional[bytes]) -> Optional[int]:
        with self._memory.changed:
            space = self._space()
            if space.values.get(name, (b"", 0))[1] != expected_version:
                return None
            stamp = self._stamp(space)
            if data is None:
                space.values.pop(name, None)
            else:
                space.values[name] = (bytes(data), stamp)
            return stamp

    def acquire_lock(self, name: str, owner: str, ttl: float, floor: int) -> Optional[int]:
        with self._memory.changed:
            space = self._space()
            now = self._memory.clock.time()
            held = space.locks.get(name)
            if held is not None and min(held[2], now + held[3]) > now:
                # A clock set back never makes a lock longer than its own length.
                space.locks[name] = (held[0], held[1], min(held[2], now + held[3]), held[3])
                return None
            token = self._stamp(space, floor)
            space.locks[name] = (owner, token, now + ttl, ttl)
            return token

    def renew_lock(self, name: str, token: int, ttl: float) -> bool:
        with self._memory.changed:
            space = self._space()
            now = self._memory.clock.time()
            held = space.locks.get(name)
            if held is None or held[1] != token or held[2] <= now:
                return False
            space.locks[name] = (held[0], token, now + ttl, ttl)
            return True

    def release_lock(self, name: str, token: int) -> bool:
        with self._memory.changed:
            space = self._space()
            held = space.locks.get(name)
            if held is None or held[1] != token or held[2] <= 0:
                return False
            space.locks[name] = (held[0], 0, 0.0, held[3])
            self._hint(space, name)
            return True

    def read_lock(self, name: str) -> Tuple[str, int, float]:
        with self._memory.changed:
            held = self._space().locks.get(name)
            if held is None:
                return "", 0, 0.0
            return held[0], held[1], max(0.0, min(held[2] - self._memory.clock.time(), held[3]))

    def beat(self, worker: str, ttl: float, info: Optional[Dict[str, Any]] = None) -> None:
        with self._memory.changed:
            self._space().workers[worker] = (self._memory.clock.time() + ttl, dict(info or {}))

    def forget(self, worker: str) -> None:
        with self._memory.changed:
            self._space().workers.pop(worker, None)

    def workers(self) -> List[WorkerInfo]:
        with self._memory.changed:
            now = self._memory.clock.time()
            known = self._space().workers
            return [
                WorkerInfo(name, known[name][0] - now, known[name][1]) for name in sorted(known) if known[name][0] > now
            ]

    def notify(self, topic: str) -> None:
        with self._memory.changed:
            self._hint(self._space(), topic)

    def _hint(self, space: _Space, topic: str) -> None:
        space.hints.append(topic)
        del space.hints[:-100]
        space.heard += 1
        self._memory.changed.notify_all()

    def wait(self, topic: str, timeout: float) -> Optional[str]:
        clock = self._memory.clock
        until = clock.monotonic() + timeout
        with self._memory.changed:
            space = self._space()
            if self._seen is None:
                self._seen = space.heard
            while not self._closed.is_set():
                missed = min(space.heard - self._seen, len(space.hints))
                for offset in range(missed, 0, -1):
                    heard = space.hints[-offset]
                    self._seen = space.heard - offset + 1
                    if topic in ("*", heard):
                        return heard
                self._seen = space.heard
                left = until - clock.monotonic()
                if left <= 0:
                    return None
                self._memory.changed.wait(min(left, 1.0))
            return None

    def close(self) -> None:
        """End the waits of this copy and of those bound to namespaces from it; the data stays for other copies."""
        if not self._owns_closing:
            return
        self._closed.set()
        with self._memory.changed:
            self._memory.changed.notify_all()
