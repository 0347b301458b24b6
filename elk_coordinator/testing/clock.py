"""Time in tests: a clock that stands still, and waiting for a state instead of sleeping."""

from __future__ import annotations

import collections
import threading
from typing import Callable, Deque, List, Optional, TypeVar, Union

from elk_coordinator.runtime.clock import Clock

T = TypeVar("T")

#: Real seconds between two looks of a thread that waits for a :class:`ManualClock`.
_LOOK = 0.002


def wait_until(predicate: Callable[[], T], timeout: float = 10.0, what: Union[str, Callable[[], str]] = "") -> T:
    """Ask *predicate* again and again until it answers something true; return that answer.

    :param timeout: real seconds; the last question is asked after they passed, so a frozen machine fails no test.
    :param what: for the error, what was waited for: a text, or a function that tells how things stand at that moment.
    :raises AssertionError: when the time is over. What *predicate* raises goes through.
    """
    clock = Clock()
    deadline = clock.monotonic() + timeout
    never = threading.Event()
    step = 0.001
    while True:
        late = clock.monotonic() >= deadline
        answer = predicate()
        if answer:
            return answer
        if late:
            text = what() if callable(what) else what
            raise AssertionError("not within %g s: %s" % (timeout, text or getattr(predicate, "__name__", "?")))
        never.wait(step)
        step = min(step * 1.5, 0.05)


class ManualClock(Clock):
    """A clock that stands still until told otherwise. Thread-safe.

    ``wait`` returns True at once when the event is set already. Otherwise it depends on *auto_advance*:

    * False (default, for threads under test): it blocks until the event is set, or until :meth:`advance` has moved the
      clock far enough. :attr:`waiting` tells how many threads are blocked, so that a test knows when to advance.
    * True (for code that the test calls itself): waiting moves the clock by the timeout and returns at once. A wait
      without a timeout still blocks until the event is set.
    """

    def __init__(self, monotonic: float = 1000.0, time: float = 1.7e9, auto_advance: bool = False) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._now = monotonic
        self._ahead = time - monotonic
        self._auto = auto_advance
        self._waits: Deque[Optional[float]] = collections.deque(maxlen=10_000)
        self._waiting = 0

    def monotonic(self) -> float:
        with self._lock:
            return self._now

    def time(self) -> float:
        with self._lock:
            return self._now + self._ahead

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass on both clocks; threads whose wait is over by then wake.

        :raises ValueError: when negative, which monotonic time never is.
        """
        if not seconds >= 0:
            raise ValueError("a monotonic clock does not go back (advance(%r))" % (seconds,))
        with self._lock:
            self._now += seconds

    def step_time(self, seconds: float) -> None:
        """Move the wall clock (:meth:`time`) alone, forward or back, as an operator or NTP does."""
        with self._lock:
            self._ahead += seconds

    def wait(self, event: threading.Event, timeout: Optional[float]) -> bool:
        with self._lock:
            self._waits.append(timeout)
            if event.is_set():
                return True
            deadline = None if timeout is None else self._now + timeout
            if deadline is not None and self._auto:
                self._now = max(self._now, deadline)
                return event.is_set()
            self._waiting += 1
        try:
            while deadline is None or self.monotonic() < deadline:
                if event.wait(_LOOK):
                    return True
            return event.is_set()
        finally:
            with self._lock:
                self._waiting -= 1

    @property
    def waits(self) -> List[Optional[float]]:
        """The timeouts that were asked for, oldest first (the last 10,000)."""
        with self._lock:
            return list(self._waits)

    @property
    def waiting(self) -> int:
        """Threads that are blocked in :meth:`wait` now."""
        with self._lock:
            return self._waiting
