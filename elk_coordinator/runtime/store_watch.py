"""Whether the store answers: noticed once when it stops and once when it is back."""

from __future__ import annotations

import logging
import threading
from typing import Callable, Optional

from elk_coordinator.errors import StoreError
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.runtime.logs import about


class StoreWatch:
    """The state of the connection to the store. Thread-safe."""

    def __init__(self, clock: Clock, emit: Callable[..., None], logger: logging.Logger) -> None:
        self._clock = clock
        self._emit = emit
        self._logger = logger
        self._lock = threading.Lock()
        self._ok_at: Optional[float] = None
        self._failed_at: Optional[float] = None
        self._error: Optional[str] = None

    def answered(self) -> None:
        """Take note of an answer."""
        now = self._clock.monotonic()
        with self._lock:
            self._ok_at = now
            failed, self._failed_at, self._error = self._failed_at, None, None
        if failed is not None:
            extra = about("store_recovered")
            self._logger.warning("the store answers again after %.1f s", now - failed, extra=extra)
            self._emit("store_recovered", seconds=now - failed)

    def failed(self, role: str, exc: StoreError) -> None:
        """Take note that a role got no answer."""
        with self._lock:
            first = self._failed_at is None
            if first:
                self._failed_at = self._clock.monotonic()
            self._error = str(exc)
        if first:
            extra = about("store_unavailable")
            self._logger.error("the store does not answer (%s): %s; retrying until it does", role, exc, extra=extra)
            self._emit("store_unavailable", role=role, error=str(exc))

    @property
    def error(self) -> Optional[str]:
        """The last error while there is no answer."""
        return self._error

    def age(self) -> Optional[float]:
        """Seconds since the last answer; None before the first."""
        ok = self._ok_at
        return None if ok is None else self._clock.monotonic() - ok
