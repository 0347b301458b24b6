"""One coordinator per process of a web server, started after the fork: lazily, or in the server's hook.

::

    elk = PerProcess(lambda: Coordinator("orders", RedisDataStore.from_url(URL), Reindex(), Orders()))

    def post_fork(server, worker):      # gunicorn.conf.py
        elk()

    @uwsgidecorators.postfork           # uWSGI
    def start():
        elk()

A process of its own (``elk run``) is the better home for heavy work: a web worker that is recycled, or killed for a
slow request, takes its partitions with it.
"""

from __future__ import annotations

import os
import threading
from typing import Callable, Dict, Optional

from elk_coordinator import Coordinator, StateError


class _Slot:
    """What one process has."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.coordinator: Optional[Coordinator] = None
        self.stopped = False


class PerProcess:
    """Builds and starts one coordinator in every process that asks for it, the first time it asks.

    Made at import, it does nothing; safe from any thread; after a fork the child gets a coordinator of its own, also
    under uWSGI, which forks without telling Python.

    :param build: makes a coordinator with its store; called in the process that will run it, at most once at a time.
    :param require_store: as for :meth:`Coordinator.start`. By default the web process also comes up while the store
        cannot be reached, and the coordinator waits for it.
    """

    def __init__(self, build: Callable[[], Coordinator], *, require_store: bool = False) -> None:
        self._build = build
        self._require_store = require_store
        #: By pid, and never emptied: what a child inherited is another process's. A lock of the parent, which another
        #: of its threads may have held at the fork, is never touched in the child.
        self._slots: Dict[int, _Slot] = {}

    def _slot(self) -> _Slot:
        return self._slots.setdefault(os.getpid(), _Slot())  # atomic: two threads get the same one

    def __call__(self) -> Coordinator:
        """Return the running coordinator of this process; the first call builds and starts it.

        :raises StateError: after :meth:`stop` in this process.
        :raises Exception: what building and starting raise; nothing is left, and the next call tries again.
        """
        slot = self._slot()
        with slot.lock:
            if slot.stopped:
                raise StateError("the coordinator of this process was stopped: the process is on its way out")
            if slot.coordinator is None:
                coordinator = self._build()
                try:
                    coordinator.start(require_store=self._require_store)
                except BaseException:
                    coordinator.stop(0)
                    raise
                slot.coordinator = coordinator
            return slot.coordinator

    @property
    def current(self) -> Optional[Coordinator]:
        """The coordinator of this process if one was started; starts nothing."""
        return self._slot().coordinator

    def stop(self, timeout: Optional[float] = None) -> bool:
        """Drain and end this process's coordinator, for good; True when all ended in time, or there was none.

        For gunicorn's ``worker_exit``. Without it the end of the interpreter drains, for at most 10 s.
        """
        slot = self._slot()
        with slot.lock:
            slot.stopped = True
            coordinator = slot.coordinator
        return True if coordinator is None else coordinator.stop(timeout)
