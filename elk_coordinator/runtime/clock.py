"""The only place that asks the machine for the time.

``monotonic`` decides what this process believes about its own leases, so it must go on counting while the machine is
suspended: CLOCK_BOOTTIME where there is one. Wall clocks of two hosts are never compared anywhere in the library.
"""

from __future__ import annotations

import threading
import time
from typing import Optional


class Clock:
    """The system's clocks. Thread-safe. Tests put :class:`elk_coordinator.testing.ManualClock` in its place."""

    def __init__(self) -> None:
        self._boottime: Optional[int] = getattr(time, "CLOCK_BOOTTIME", None)

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start; never steps, counts suspended time where the system can."""
        if self._boottime is None:
            return time.monotonic()
        return time.clock_gettime(self._boottime)

    def time(self) -> float:
        """Return this host's epoch seconds; for logs and metrics only, never for a decision about a lease."""
        return time.time()

    def wait(self, event: threading.Event, timeout: Optional[float]) -> bool:
        """Wait until *event* is set or *timeout* seconds passed; return whether it is set."""
        return event.wait(timeout)
