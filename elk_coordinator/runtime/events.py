"""Carries events from the roles to listeners: ours at once, users' from a thread of their own."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Sequence, Tuple

from elk_coordinator.protocols import EVENT_KINDS, Event, Listener
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.runtime.threads import Role

Handler = Callable[[Event], None]
#: Events that may wait for a slow listener.
MAX_WAITING = 10_000


def _handlers(listeners: Sequence[Any]) -> Dict[str, List[Handler]]:
    out: Dict[str, List[Handler]] = {}
    for listener in listeners:
        for kind in EVENT_KINDS:
            method = getattr(listener, "on_" + kind, None)
            empty = getattr(Listener, "on_" + kind)
            if method is not None and getattr(type(listener), "on_" + kind, None) is not empty:
                out.setdefault(kind, []).append(method)
    return out


class Events(Role):
    """Emits events. :meth:`emit` is cheap when nobody listens and never waits or raises. Thread-safe."""

    name = "events"

    def __init__(
        self,
        namespace: str,
        worker_id: str,
        clock: Clock,
        logger: logging.Logger,
        own: Sequence[Any] = (),
        users: Sequence[Any] = (),
    ) -> None:
        super().__init__()
        self._namespace = namespace
        self._worker_id = worker_id
        self._clock = clock
        self._logger = logger
        self._own = _handlers(own)
        self._users = _handlers(users)
        self._waiting: Deque[Tuple[Handler, Event]] = deque()
        self._dropped = 0

    @property
    def has_users(self) -> bool:
        """Whether a thread is needed."""
        return bool(self._users)

    def emit(self, kind: str, **facts: Any) -> None:
        """Tell everybody who listens for *kind*."""
        own, users = self._own.get(kind), self._users.get(kind)
        if not own and not users:
            return
        event = Event(kind, self._namespace, self._worker_id, self._clock.time(), facts)
        for handler in own or ():
            self._call(handler, event)
        if users:
            if len(self._waiting) >= MAX_WAITING:
                self._dropped += 1
                return
            self._waiting.extend((handler, event) for handler in users)
            self.wake.set()

    def _call(self, handler: Handler, event: Event) -> None:
        try:
            handler(event)
        except BaseException:
            # SystemExit and friends too: a listener ends neither a task nor a thread of ours.
            self._logger.exception("a listener failed on %s", event.kind)

    def run_once(self) -> int:
        """Hand out what waits; return how many."""
        done = 0
        while self._waiting:
            handler, event = self._waiting.popleft()
            self._call(handler, event)
            done += 1
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._logger.warning("%d events were dropped: a listener is too slow", dropped)
        return done

    def pause(self, did: int) -> float:
        return 0.0 if self._waiting else 60.0

    def finish(self) -> None:
        # The last one, "stopped", comes just before this role is told to end.
        self.run_once()
