"""The circuit breaker: stops a worker from claiming while the user's system fails, and tries again carefully.

Every started task holds exactly one permit and gives it back exactly once, whatever happens to it, so that half-open
permits cannot leak. No lock is held while user code runs.
"""

from __future__ import annotations

import enum
import functools
import itertools
import threading
from collections import deque
from typing import Any, Callable, Deque, Dict, Generator, List, Optional, Tuple, TypeVar, Union

from tenacity import AttemptManager, Retrying
from tenacity.nap import sleep_using_event
from tenacity.retry import retry_if_exception
from tenacity.stop import stop_any, stop_never, stop_when_event_set

from elk_coordinator.config import CircuitBreakerConfig
from elk_coordinator.errors import PermanentError, TaskInterrupted
from elk_coordinator.protocols import Cancelled
from elk_coordinator.runtime.clock import Clock

T = TypeVar("T")


class BreakerState(enum.Enum):
    """Where the breaker stands."""

    #: Work goes on.
    CLOSED = "closed"
    #: Nothing is claimed.
    OPEN = "open"
    #: A few probes show whether the user's system is back.
    HALF_OPEN = "half_open"


class Permit:
    """The right to run one task; to be settled exactly once."""

    __slots__ = ("generation", "probe", "settled", "part_of")

    def __init__(self, generation: int, probe: bool, part_of: "Optional[Permit]" = None) -> None:
        self.generation = generation
        self.probe = probe
        self.settled = False
        #: The permit of the probing task that this try is a part of.
        self.part_of = part_of


Changed = Callable[[BreakerState, BreakerState, str], None]


class CircuitBreaker:
    """One worker's breaker. Thread-safe.

    :param on_change: called as ``(new, old, reason)`` outside the lock.
    """

    def __init__(self, config: CircuitBreakerConfig, clock: Clock, on_change: Optional[Changed] = None) -> None:
        self._config = config
        self._clock = clock
        self._on_change = on_change
        self._lock = threading.Lock()
        self._state = BreakerState.CLOSED
        # Moves with every change of state: what was begun before does not count after.
        self._generation = 0
        self._opened_at = 0.0
        self._in_a_row = 0
        self._failed: Dict[int, float] = {}
        self._succeeded: Deque[Tuple[float, int]] = deque()
        self._issued = 0
        self._passed = 0
        self._here = threading.local()
        self._stopped = threading.Event()
        # Keys of calls that belong to no partition.
        self._calls = itertools.count(-1, -1)
        self.reason = ""
        self.trips = 0

    @property
    def state(self) -> BreakerState:
        """The state now; an open one whose time is over counts as half-open."""
        with self._lock:
            changes = self._tick()
            state = self._state
        self._tell(changes)
        return state

    def allowance(self) -> Optional[int]:
        """Return how many tasks may be started now; None = any number."""
        with self._lock:
            changes = self._tick()
            if self._state is BreakerState.CLOSED:
                answer: Optional[int] = None
            elif self._state is BreakerState.OPEN:
                answer = 0
            else:
                answer = max(0, self._config.half_open_max - self._issued)
        self._tell(changes)
        return answer

    def probes_in(self) -> Optional[float]:
        """Return the seconds until an open breaker lets probes through; None when it is not open."""
        with self._lock:
            if self._state is not BreakerState.OPEN:
                return None
            return max(0.0, self._opened_at + self._config.open_timeout - self._clock.monotonic())

    def acquire(self) -> Optional[Permit]:
        """Return a permit for one task, or None when none may start now."""
        with self._lock:
            changes = self._tick()
            permit: Optional[Permit] = None
            if self._state is BreakerState.CLOSED:
                permit = Permit(self._generation, False)
            elif self._state is BreakerState.HALF_OPEN and self._issued < self._config.half_open_max:
                self._issued += 1
                permit = Permit(self._generation, True)
        self._tell(changes)
        return permit

    def success(self, permit: Permit) -> None:
        """Settle a permit: the work succeeded."""
        with self._lock:
            changes: List[Tuple[BreakerState, BreakerState, str]] = []
            if self._take(permit):
                now = self._clock.monotonic()
                self._in_a_row = 0
                if permit.probe:
                    self._passed += 1
                    if self._passed >= self._config.half_open_max:
                        changes = self._move(BreakerState.CLOSED, "%d probes succeeded" % self._passed)
                elif self._succeeded and now - self._succeeded[-1][0] < 1.0:
                    self._succeeded[-1] = (self._succeeded[-1][0], self._succeeded[-1][1] + 1)
                else:
                    self._forget_old(now)
                    self._succeeded.append((now, 1))
        self._tell(changes)

    def failure(self, permit: Permit, key: int, what: str) -> None:
        """Settle a permit: the work failed. *key* tells distinct partitions apart."""
        with self._lock:
            changes: List[Tuple[BreakerState, BreakerState, str]] = []
            if self._take(permit):
                now = self._clock.monotonic()
                self._in_a_row += 1
                self._failed.pop(key, None)
                self._failed[key] = now
                if permit.probe:
                    changes = self._move(BreakerState.OPEN, "a probe failed: %s" % what)
                elif self._in_a_row >= self._config.consecutive_failures:
                    changes = self._move(BreakerState.OPEN, "%d failures in a row, last: %s" % (self._in_a_row, what))
                else:
                    self._forget_old(now)
                    failures, successes = len(self._failed), sum(n for _, n in self._succeeded)
                    if failures >= self._config.total_failures and failures > successes:
                        why = "%d partitions failed and %d succeeded within %g s, last: %s"
                        changes = self._move(
                            BreakerState.OPEN, why % (failures, successes, self._config.failure_window, what)
                        )
        self._tell(changes)

    def give_back(self, permit: Permit) -> None:
        """Settle a permit that says nothing about the user's system: interrupted, lost, or never started."""
        with self._lock:
            if self._take(permit) and permit.probe:
                self._issued -= 1

    def nothing_left(self) -> None:
        """Take note that there is nothing to claim: probes that all succeeded are then enough to close."""
        with self._lock:
            changes: List[Tuple[BreakerState, BreakerState, str]] = []
            if self._state is BreakerState.HALF_OPEN and 0 < self._passed == self._issued:
                changes = self._move(BreakerState.CLOSED, "%d probe(s) succeeded and nothing is left" % self._passed)
        self._tell(changes)

    def reset(self) -> None:
        """Close it, whatever it saw."""
        with self._lock:
            changes = [] if self._state is BreakerState.CLOSED else self._move(BreakerState.CLOSED, "reset by hand")
        self._tell(changes)

    def current(self, permit: Permit) -> bool:
        """Return whether the breaker still stands where it stood when *permit* was given."""
        return permit.generation == self._generation

    def hold(self, permit: Optional[Permit]) -> None:
        """Have this thread's calls by :meth:`retrying` know that they are part of a task with *permit* (or of none)."""
        self._here.permit = permit

    def stop(self) -> None:
        """End every wait of :meth:`retrying`: the worker stops."""
        self._stopped.set()

    # ---------------------------------------------------------------- retries of user code

    def retrying(self, stop_event: Optional[Union[threading.Event, Cancelled]] = None, **options: Any) -> Retrying:
        """Return a tenacity ``Retrying`` for user code that calls the same system: ``retrying(fetch, url)``.

        Before every try it waits while the breaker lets nothing through, and it reports every outcome to the breaker.
        Once *stop_event* (an Event, or ``ctx.cancelled``; by default the worker's stop) is set it ends: a wait for the
        breaker by TaskInterrupted, a pause between tries by the last error. PermanentError and what is no Exception are
        not retried. Other options are tenacity's (``stop=stop_after_attempt(5)``).
        """
        ending: Any = self._stopped if stop_event is None else stop_event
        options.setdefault("reraise", True)
        options.setdefault("retry", retry_if_exception(_is_failure))
        options["stop"] = stop_any(options.get("stop", stop_never), stop_when_event_set(ending))
        options.setdefault("sleep", sleep_using_event(ending))
        return _BreakerRetrying(**options).under(self, ending)

    def new_key(self) -> int:
        """Return what tells one retried call apart from partitions and other calls."""
        return next(self._calls)

    def begin_try(self, stop_event: Any) -> Permit:
        """Wait until a try may begin; return its permit, for :meth:`end_try`.

        :raises TaskInterrupted: when *stop_event* was set while waiting.
        """
        own: Optional[Permit] = getattr(self._here, "permit", None)
        if own is not None and own.probe and self.current(own):
            # A probe must not wait for a permit that it holds itself.
            return Permit(own.generation, True, part_of=own)
        permit = self.acquire()
        while permit is None:
            if self._clock.wait(stop_event, 0.05):
                raise TaskInterrupted("stopped while the circuit breaker is open: %s" % self.reason)
            permit = self.acquire()
        return permit

    def end_try(self, permit: Permit, key: int, error: Optional[BaseException]) -> None:
        """Settle the permit of a try that ended by *error*, or well (None)."""
        if error is not None and _is_failure(error):
            self.failure(permit.part_of or permit, key, type(error).__name__)
        elif permit.part_of is not None:
            # The end of the task tells whether the probe succeeded.
            return
        elif error is None:
            self.success(permit)
        else:
            self.give_back(permit)

    # ---------------------------------------------------------------- under the lock

    def _take(self, permit: Permit) -> bool:
        """Settle *permit*; whether it still counts."""
        if permit.settled:
            return False
        permit.settled = True
        return permit.generation == self._generation

    def _tick(self) -> List[Tuple[BreakerState, BreakerState, str]]:
        if self._state is BreakerState.OPEN:
            if self._clock.monotonic() - self._opened_at >= self._config.open_timeout:
                return self._move(BreakerState.HALF_OPEN, "open for %g s" % self._config.open_timeout)
        return []

    def _move(self, state: BreakerState, reason: str) -> List[Tuple[BreakerState, BreakerState, str]]:
        old, self._state, self.reason = self._state, state, reason
        self._generation += 1
        self._issued = self._passed = self._in_a_row = 0
        if state is BreakerState.OPEN:
            self._opened_at = self._clock.monotonic()
            self.trips += 1
        if state is BreakerState.CLOSED:
            self._failed.clear()
            self._succeeded.clear()
        return [(state, old, reason)]

    def _forget_old(self, now: float) -> None:
        oldest = now - self._config.failure_window
        while self._failed:
            key = next(iter(self._failed))
            if self._failed[key] >= oldest:
                break
            del self._failed[key]
        while self._succeeded and self._succeeded[0][0] < oldest:
            self._succeeded.popleft()

    def _tell(self, changes: List[Tuple[BreakerState, BreakerState, str]]) -> None:
        if self._on_change is not None:
            for state, old, reason in changes:
                self._on_change(state, old, reason)


def _is_failure(exc: BaseException) -> bool:
    """Return whether *exc* says something about the user's system, so that trying again may help."""
    return isinstance(exc, Exception) and not isinstance(exc, PermanentError)


class _BreakerRetrying(Retrying):
    """A Retrying whose every try runs under a permit of the breaker."""

    _breaker: CircuitBreaker
    _stop_event: Any

    def under(self, breaker: CircuitBreaker, stop_event: Any) -> "_BreakerRetrying":
        """Bind it to its breaker; apart from ``__init__``, which tenacity calls itself when it copies."""
        self._breaker, self._stop_event = breaker, stop_event
        return self

    def __call__(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        breaker, key = self._breaker, self._breaker.new_key()

        @functools.wraps(fn)
        def one_try(*args: Any, **kwargs: Any) -> T:
            permit = breaker.begin_try(self._stop_event)
            try:
                result = fn(*args, **kwargs)
            except BaseException as exc:
                breaker.end_try(permit, key, exc)
                raise
            breaker.end_try(permit, key, None)
            return result

        return super().__call__(one_try, *args, **kwargs)

    def __iter__(self) -> Generator[AttemptManager, None, None]:
        """Yield attempts: ``for attempt in retrying: with attempt: ...``."""
        breaker, key = self._breaker, self._breaker.new_key()
        for attempt in super().__iter__():
            permit = breaker.begin_try(self._stop_event)
            try:
                yield attempt
            finally:
                outcome = attempt.retry_state.outcome
                # Without an outcome the loop was left before anything was tried.
                breaker.end_try(permit, key, GeneratorExit() if outcome is None else outcome.exception())

    def copy(self, *args: Any, **options: Any) -> Any:
        """Return a copy with some of tenacity's options changed."""
        return super().copy(*args, **options).under(self._breaker, self._stop_event)
