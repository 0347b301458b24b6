"""Turn SIGTERM and SIGINT into a wish to stop. Opt-in: the library itself never installs a handler.

A handler runs between two instructions of the main thread, also while that thread is inside ``Event.wait()`` or holds
a lock. Setting an Event that the main thread itself waits on can then deadlock, so what is received goes through a
``SimpleQueue``, whose ``put`` is documented as reentrant.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
from types import FrameType
from typing import Any, Callable, Dict, Iterator, Optional, Sequence

from elk_coordinator.errors import StateError

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def on_stop(callback: Callable[[int], None], signals: Sequence[int] = STOP_SIGNALS) -> Iterator[None]:
    """Call *callback* with the signal's number for every SIGTERM and SIGINT inside the ``with`` block.

    Main thread only. The handlers found on entry are put back on exit.

    :param callback: runs inside the handler: it may put into a ``queue.SimpleQueue`` (:class:`StopSignals` does), or
        raise, which breaks off whatever the main thread is doing. Anything that takes a lock can deadlock.
    :raises StateError: when called from another thread than the main one.
    """
    if threading.current_thread() is not threading.main_thread():
        raise StateError("signal handlers can be installed from the main thread only; call on_stop() there")

    def handle(signum: int, frame: Optional[FrameType]) -> None:
        callback(signum)

    old: Dict[int, Any] = {}
    try:
        for signum in signals:
            old[signum] = signal.signal(signum, handle)
        yield
    finally:
        for signum, handler in old.items():
            # None: the old handler was not installed from Python and cannot be put back; the default is the best left.
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)


class StopSignals:
    """Collect stop signals for the main thread to wait for, one after the other.

    ::

        signals = StopSignals()
        with on_stop(signals.put):
            first = signals.wait()
    """

    def __init__(self) -> None:
        self._received: "queue.SimpleQueue[int]" = queue.SimpleQueue()

    def put(self, signum: int) -> None:
        """Remember one signal. Safe in a signal handler."""
        self._received.put(signum)

    def wait(self, timeout: Optional[float] = None) -> Optional[int]:
        """Return the next signal's number, or None when *timeout* seconds passed without one."""
        try:
            return self._received.get(timeout=timeout)
        except queue.Empty:
            return None

    def poll(self) -> Optional[int]:
        """Return the next signal's number if there is one already, else None; never waits."""
        try:
            return self._received.get_nowait()
        except queue.Empty:
            return None
