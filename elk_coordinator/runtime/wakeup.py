"""The wake-up thread: hears hints from the store and wakes the roles they are for. Polling stands behind it."""

from __future__ import annotations

import logging
from typing import Callable, Mapping, Optional, Protocol, Sequence

from elk_coordinator.errors import StoreError, StoreUnavailable
from elk_coordinator.runtime.threads import Role


class Hinter(Protocol):
    """The part of a DataStore that hints come from."""

    def wait(self, topic: str, timeout: float) -> Optional[str]: ...


class Wakeup(Role):
    """Rate policy: waits for hints all the time; after an error a growing pause, where it is forbidden a long one."""

    name = "wakeup"
    error_pause = (0.5, 30.0)

    def __init__(
        self, store: Hinter, handlers: Mapping[str, Sequence[Callable[[], None]]], logger: logging.Logger
    ) -> None:
        super().__init__()
        self._store = store
        self._handlers = handlers
        self._logger = logger
        self._listening = False
        self._refused = False

    def run_once(self) -> Optional[str]:
        """Wait some seconds for one hint; return its topic."""
        fresh, self._listening = not self._listening, False
        try:
            topic = self._store.wait("*", 0.05 if fresh else 5.0)
        except StoreUnavailable:
            if not fresh:
                # The subscription is gone, which says little of the store: whether that is away a new one tells.
                return None
            raise
        except StoreError as exc:
            # Not an outage: this user may not listen, everything else works.
            if not self._refused:
                self._refused = True
                self._logger.warning("no wake-ups from the store, polling only (some seconds slower): %s", exc)
            return None
        self._listening, self._refused = True, False
        # What was said before we listened is lost: then everybody looks once.
        topics = list(self._handlers) if fresh else [topic or ""]
        for handler in [handler for name in topics for handler in self._handlers.get(name, ())]:
            handler()
        return topic

    def pause(self, did: Optional[str]) -> float:
        return 30.0 if self._refused else 0.0
