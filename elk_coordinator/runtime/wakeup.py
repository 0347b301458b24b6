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
    """Rate policy: waits for hints all the time; after an error a growing pause."""

    name = "wakeup"
    error_pause = (0.5, 30.0)

    def __init__(
        self, store: Hinter, handlers: Mapping[str, Sequence[Callable[[], None]]], logger: logging.Logger
    ) -> None:
        super().__init__()
        self._store = store
        self._handlers = handlers
        self._logger = logger
        self._warned = False

    def run_once(self) -> Optional[str]:
        """Wait some seconds for one hint; return its topic."""
        try:
            topic = self._store.wait("*", 5.0)
        except StoreUnavailable:
            raise
        except StoreError as exc:
            if not self._warned:
                self._warned = True
                self._logger.warning("no wake-ups from the store, polling only (some seconds slower): %s", exc)
            raise StoreUnavailable(str(exc)) from exc
        for handler in self._handlers.get(topic or "", ()):
            handler()
        return topic

    def pause(self, did: Optional[str]) -> float:
        return 0.0
