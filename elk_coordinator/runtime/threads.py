"""Named roles, each in a daemon thread of its own: the only place that makes threads.

A role is a class with ``run_once()``: one turn, no waiting, returns what it did. The loop here adds the waiting, the
error policy and the naming; tests call ``run_once()`` themselves.

Error policy: an Exception ends the turn, is logged and counted, and the next turn comes after a growing pause. Anything
else (SystemExit, KeyboardInterrupt, GeneratorExit) ends the thread; the crew starts a new one once it has really ended,
at most :data:`MAX_RESTARTS` times, and health fails from then on. A role that should have come back from its turn long
ago is stuck: health says so, and it is never started a second time beside itself.
"""

from __future__ import annotations

import abc
import logging
import os
import threading
from typing import Any, Callable, Dict, List, Optional, Sequence

from elk_coordinator.errors import StoreError, StoreUnavailable
from elk_coordinator.protocols import RoleHealth
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.runtime.logs import about
from elk_coordinator.runtime.retry import backoff_delay

MAX_RESTARTS = 5
#: Least seconds between two looks after dead roles; so long every loop waits at most while one is dead.
_LOOK = 0.5


class Role(abc.ABC):
    """One duty of a coordinator."""

    #: Becomes part of the thread's name.
    name: str = "role"
    #: A turn that runs longer than so many seconds is stuck; None = turns may take as long as they like.
    stuck_after: Optional[float] = None
    #: First and longest pause after failed turns.
    error_pause = (0.1, 5.0)

    def __init__(self) -> None:
        #: Set it to have the next turn at once.
        self.wake = threading.Event()

    @abc.abstractmethod
    def run_once(self) -> Any:
        """Do one turn and return what was done."""

    @abc.abstractmethod
    def pause(self, did: Any) -> float:
        """Return the seconds to the next turn, given what the last one returned."""

    def interrupt(self) -> None:
        """End a turn that blocks, because the role is being stopped. Called from another thread."""

    def finish(self) -> None:
        """Do what must not be left undone when the role ends; called once, in its own thread, after the last turn."""


def spawn(name: str, target: Callable[[], None]) -> None:
    """Run *target* once in a daemon thread of its own."""
    threading.Thread(target=target, name=name, daemon=True).start()


def has_phantoms() -> bool:
    """Return whether Python believes in threads that are not there: the process was forked and nobody told it.

    uWSGI does that. Whatever then walks all threads, ``sys._current_frames()`` for one, reads the stacks of the
    parent's threads, which may end the process. Without a /proc to look into the answer is False.
    """
    try:
        there = {int(name) for name in os.listdir("/proc/self/task")}
    except (OSError, ValueError):
        return False
    main = threading.main_thread()
    for thread in threading.enumerate():
        # Of the main thread and of those Python did not start itself an announced fork leaves old numbers behind, too.
        known = thread is not main and not isinstance(thread, threading._DummyThread)
        if known and thread.native_id is not None and thread.native_id not in there:
            return True
    return False


class RoleThread:
    """Runs one role until stopped. The stop event is made here and only ever set, so no stop is lost."""

    def __init__(self, role: Role, namespace: str, clock: Clock, logger: logging.Logger, crew: "Crew") -> None:
        self.role = role
        self._clock = clock
        self._logger = logger
        self._crew = crew
        self._thread_name = "elk-%s-%s" % (role.name, namespace)
        self._stop = threading.Event()
        self._thread: Optional[threading.Thread] = None
        self.restarts = 0
        self.failures = 0
        self.last_error: Optional[str] = None
        self._logged: Optional[str] = None
        self._logged_at = 0.0
        self._last_ok: Optional[float] = None
        self._turn_began: Optional[float] = None

    @property
    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def is_current(self) -> bool:
        """Return whether the calling thread is this role's."""
        return self._thread is threading.current_thread()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def start(self) -> None:
        thread = threading.Thread(target=self._run, name=self._thread_name, daemon=True)
        self._thread = thread
        thread.start()

    def stop(self) -> None:
        """Ask it to end; does not wait."""
        self._stop.set()
        self.role.wake.set()
        try:
            self.role.interrupt()
        except Exception:
            self._logger.exception("%s: could not be interrupted", self._thread_name)

    def join(self, timeout: float) -> bool:
        """Wait for the thread to end; True when it has. A thread never waits for itself."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(max(0.0, timeout))
        return not thread.is_alive()

    def _run(self) -> None:
        try:
            self._loop()
            self.role.finish()
        except BaseException as exc:
            self.last_error = "%s: %s" % (type(exc).__name__, exc)
            if not self._stop.is_set():
                self._logger.critical("%s died", self._thread_name, exc_info=True, extra=about("role_died"))
                self._crew.died(self.role.name, self.last_error)
        finally:
            self._turn_began = None

    def _loop(self) -> None:
        role, clock = self.role, self._clock
        while not self._stop.is_set():
            role.wake.clear()
            self._turn_began = clock.monotonic()
            try:
                did = role.run_once()
            except Exception as exc:
                self._failed(exc)
                delay = backoff_delay(self.failures, *role.error_pause)
            else:
                self.failures = 0
                self._last_ok = clock.monotonic()
                delay = role.pause(did)
            self._turn_began = None
            self._crew.supervise()
            if delay > 0 and not self._stop.is_set():
                clock.wait(role.wake, self._crew.patience(delay))

    def _failed(self, exc: Exception) -> None:
        self.failures += 1
        self.last_error = "%s: %s" % (type(exc).__name__, exc)
        if self._stop.is_set():
            return
        if isinstance(exc, StoreUnavailable) or (isinstance(exc, StoreError) and exc.refused):
            # The coordinator reports the outage once; a line per turn and role would bury it.
            self._logger.debug("%s: %s", self._thread_name, exc)
            self._crew.store_failed(self.role.name, exc)
        else:
            # The same error turn after turn is said once a minute, so that the log stays readable.
            now = self._clock.monotonic()
            if self.last_error != self._logged or now - self._logged_at > 60.0:
                self._logged, self._logged_at = self.last_error, now
                self._logger.error("%s: turn failed (%d in a row)", self._thread_name, self.failures, exc_info=True)

    def health(self) -> RoleHealth:
        now = self._clock.monotonic()
        began, ok = self._turn_began, self._last_ok
        return RoleHealth(
            self.role.name,
            self.alive,
            None if ok is None else max(0.0, now - ok),
            self.last_error if self.failures or not self.alive else None,
            0.0 if began is None else max(0.0, now - began),
            self.restarts,
        )

    def problem(self) -> Optional[str]:
        """Return what is wrong with it, in words, or None."""
        health = self.health()
        if self.stopping:
            return None
        if not health.alive:
            return "thread %s is dead: %s" % (self._thread_name, health.last_error)
        if self.role.stuck_after is not None and health.busy_for > self.role.stuck_after:
            return "thread %s has been busy with one turn for %.0f s" % (self._thread_name, health.busy_for)
        return None


class Crew:
    """The role threads of one coordinator."""

    def __init__(
        self,
        namespace: str,
        clock: Clock,
        logger: logging.Logger,
        on_death: Callable[[str, str], None],
        on_store_failure: Callable[[str, StoreError], None],
    ) -> None:
        self._namespace = namespace
        self._clock = clock
        self._logger = logger
        self._on_death = on_death
        self.store_failed = on_store_failure
        self._threads: Dict[str, RoleThread] = {}
        self._lock = threading.Lock()
        self._looked_at = clock.monotonic()
        #: Roles that died and may be started again.
        self._dead: "set[str]" = set()

    def add(self, role: Role) -> None:
        """Add a role; its thread starts with :meth:`start`."""
        self._threads[role.name] = RoleThread(role, self._namespace, self._clock, self._logger, self)

    def start(self) -> None:
        """Start every thread that was not started yet."""
        # Under the lock: the first ones already run, and would take the others for dead and start them too.
        with self._lock:
            for thread in self._threads.values():
                if not thread.alive and not thread.stopping:
                    thread.start()
            self._looked_at = self._clock.monotonic()

    def died(self, name: str, error: str) -> None:
        """Take note that a thread ends by an error; called by that thread."""
        self._dead.add(name)
        # All others take a turn and then look after it, however long they meant to wait.
        for other, thread in self._threads.items():
            if other != name:
                thread.role.wake.set()
        self._on_death(name, error)

    def patience(self, delay: float) -> float:
        """Return how long a loop that meant to wait *delay* seconds may: not for long while a role is dead."""
        return min(delay, _LOOK) if self._dead else delay

    def supervise(self) -> None:
        """Start dead roles again; called by every loop after its turn, so that any living role looks after the rest."""
        now = self._clock.monotonic()
        if now - self._looked_at < _LOOK or not self._lock.acquire(False):
            return
        try:
            self._looked_at = now
            for name, thread in self._threads.items():
                if thread.alive:
                    continue
                if not thread.stopping and thread.restarts < MAX_RESTARTS:
                    thread.restarts += 1
                    # Before the start: it may die again at once.
                    self._dead.discard(name)
                    thread.start()
                else:
                    self._dead.discard(name)
        except RuntimeError as exc:
            # The system gives no more threads; whoever looked after the dead one must not die of it.
            self._logger.error("a dead thread could not be started again: %s", exc)
        finally:
            self._lock.release()

    def is_mine(self) -> bool:
        """Return whether the calling thread is one of these roles'."""
        return any(thread.is_current() for thread in self._threads.values())

    def alive(self, name: str) -> bool:
        """Return whether the role called *name* has a living thread (or was never part of this crew)."""
        thread = self._threads.get(name)
        return thread is None or thread.alive

    def stop(self, names: Optional[Sequence[str]], timeout: float) -> List[str]:
        """Stop the named roles (None: all) and wait for them within *timeout* seconds; return those still running."""
        chosen = [self._threads[name] for name in (self._threads if names is None else names) if name in self._threads]
        with self._lock:
            for thread in chosen:
                thread.stop()
        until = self._clock.monotonic() + timeout
        return [thread.role.name for thread in chosen if not thread.join(until - self._clock.monotonic())]

    def health(self) -> List[RoleHealth]:
        """Return how each role is doing."""
        return [thread.health() for thread in self._threads.values()]

    def problems(self) -> List[str]:
        """Return what is wrong with the roles, in words."""
        return [problem for problem in (thread.problem() for thread in self._threads.values()) if problem]
