"""Database connections around user code: Django closes stale ones at the signals of a request, and here are none."""

from __future__ import annotations

import contextlib
import threading
import weakref
from typing import Any, Callable, Dict, Iterator, Optional, Set

from django.db import close_old_connections, connections, reset_queries

from elk_coordinator.protocols import Event, Listener, ProcessContext
from elk_coordinator.worker.runner import processor_function

#: Methods of a planner that may ask the database.
QUESTIONS = {"partition_size", "get_next_max_id", "first_id", "has_data"}


class Leftovers(Listener):
    """Remembers connections that our threads left open (CONN_MAX_AGE), and closes them when the coordinator stopped.

    Threads of a pool have no end that could be hooked; without this, every stop would leave its connections to the
    garbage collector. One that a task still uses is left alone. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: "weakref.WeakSet[Any]" = weakref.WeakSet()
        self._busy: Set[int] = set()
        self._stopped = False

    @contextlib.contextmanager
    def fresh_connections(self) -> Iterator[None]:
        """Drop this thread's connections that broke or grew too old, on entry and on exit."""
        me = threading.get_ident()
        with self._lock:
            nested = me in self._busy
            self._busy.add(me)
        # CONN_HEALTH_CHECKS too: this is what makes Django ask a connection again before its next use. DEBUG keeps
        # every query in memory until it is told that a request ended. Inside atomic() nothing is closed.
        reset_queries()
        close_old_connections()
        try:
            yield
        finally:
            try:
                reset_queries()
                close_old_connections()
            finally:
                if not nested:
                    self._rest(me)

    def _rest(self, thread: int) -> None:
        # A wrapper whose connection is closed costs nothing and opens a new one when it is used.
        mine = [connections[alias] for alias in connections if alias in _opened()]
        with self._lock:
            self._busy.discard(thread)
            for wrapper in mine:
                if wrapper.connection is not None:
                    self._idle.add(wrapper)
            stopped = self._stopped
        if stopped and not any(wrapper.in_atomic_block for wrapper in mine):
            connections.close_all()

    def on_stopped(self, event: Event) -> None:
        """Close what threads at rest left open; those at work close their own when they come to an end."""
        with self._lock:
            self._stopped = True
            idle = [wrapper for wrapper in self._idle if getattr(wrapper, "_thread_ident", None) not in self._busy]
            self._idle.clear()
        for wrapper in idle:
            if wrapper.in_atomic_block:
                continue
            # Its own thread is at rest or gone, so that another one may close it.
            wrapper.inc_thread_sharing()
            try:
                wrapper.close()
            finally:
                wrapper.dec_thread_sharing()


def _opened() -> Set[str]:
    """Return the aliases that this thread has used: asking for another would build a wrapper for nothing."""
    return {alias for alias in connections if hasattr(connections._connections, alias)}


class DjangoProcessor:
    """A processor with Django's care for connections: stale ones are closed before and after each partition, in the
    thread that runs it, so that CONN_MAX_AGE and CONN_HEALTH_CHECKS mean what they mean in a request.

    :func:`build` puts it around the processor of the settings. Safe to use for several partitions at the same time.
    """

    def __init__(self, processor: Any, leftovers: Optional[Leftovers] = None) -> None:
        self.processor = processor
        self._process = processor_function(processor)
        self._leftovers = leftovers or Leftovers()

    def process(self, ctx: ProcessContext, min_id: int, max_id: int, options: Dict[str, Any]) -> Optional[int]:
        """Run the processor on one partition."""
        with self._leftovers.fresh_connections():
            return self._process(ctx, min_id, max_id, options)


class DjangoPlanner:
    """The same care around every question to a planner, which is asked in the leader's allocator thread."""

    def __init__(self, planner: Any, leftovers: Optional[Leftovers] = None) -> None:
        self.planner = planner
        self._leftovers = leftovers or Leftovers()

    def __getattr__(self, name: str) -> Any:
        # By name: a planner without has_data() must be seen to have none.
        if name == "planner":
            raise AttributeError(name)
        value = getattr(self.planner, name)
        if name == "plan" and callable(value):
            return self._ranges(value)
        return self._asked(value) if name in QUESTIONS and callable(value) else value

    def _asked(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*args: Any) -> Any:
            with self._leftovers.fresh_connections():
                return method(*args)

        return asked

    def _ranges(self, method: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        # A generator asks the database while it is read, so the care must last as long.
        def asked(*args: Any) -> Iterator[Any]:
            with self._leftovers.fresh_connections():
                yield from method(*args)

        return asked
