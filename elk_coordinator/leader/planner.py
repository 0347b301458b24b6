"""The user's planner behind a guard: every call timed, every answer checked, every failure a PlannerError."""

from __future__ import annotations

import contextlib
import logging
import operator
import threading
import types
from typing import Any, Callable, List, Optional

from elk_coordinator.errors import ConfigError, PlannerError
from elk_coordinator.model import MAX_ID, MIN_ID, Range
from elk_coordinator.runtime.clock import Clock

DEFAULT_SIZE = 3000


class LeaderContext:
    """The :class:`~elk_coordinator.PlannerContext` of one round."""

    def __init__(self, namespace: str, term: int, current: Callable[[], Optional[int]], stop: threading.Event,
                 clock: Clock) -> None:  # fmt: skip
        self.namespace = namespace
        self.term = term
        self._current = current
        self._stop = stop
        self._clock = clock

    @property
    def cancelled(self) -> "LeaderContext":
        return self

    def is_set(self) -> bool:
        return self._stop.is_set() or self._current() != self.term

    __bool__ = is_set

    def wait(self, seconds: Optional[float] = None) -> bool:
        until = None if seconds is None else self._clock.monotonic() + seconds
        while not self.is_set():
            left = 0.25 if until is None else until - self._clock.monotonic()
            if left <= 0:
                return False
            # Looks again now and then: a term ends by the clock, which sets no event.
            self._clock.wait(self._stop, min(left, 0.25))
        return True


class GuardedPlanner:
    """Asks the user's planner. Used by the allocator thread; :meth:`busy_for` by any."""

    def __init__(self, planner: Any, clock: Clock, logger: logging.Logger) -> None:
        if isinstance(planner, type):
            raise ConfigError("planner: pass an instance of %s, not the class" % planner.__name__)
        plan = getattr(planner, "plan", None)
        for name in ("partition_size", "get_next_max_id"):
            if not callable(getattr(planner, name, None)) and not callable(plan):
                raise ConfigError("planner: %r has no method %s (see PartitionPlanner)" % (planner, name))
        self._planner = planner
        self._clock = clock
        self._logger = logger
        self._began: Optional[float] = None
        self._told_size = False
        self.explicit = callable(plan)
        self.knows_data = callable(getattr(planner, "has_data", None))
        #: Questions asked since it was last set to 0.
        self.questions = 0

    def busy_for(self) -> float:
        """Return for how many seconds the present call has been running; 0.0 when none is."""
        began = self._began
        return 0.0 if began is None else self._clock.monotonic() - began

    def _call(self, name: str, *args: Any) -> Any:
        shown = "planner.%s%r" % (name, args[1:])
        return self.watched(shown, getattr(self._planner, name), *args)

    def watched(self, shown: str, function: Callable[..., Any], *args: Any) -> Any:
        """Call the user's *function*, named *shown* in errors, as one question: timed, every failure a PlannerError."""
        self.questions += 1
        self._began = self._clock.monotonic()
        try:
            return function(*args)
        except BaseException as exc:
            # SystemExit and friends too: none of them may end the allocator's thread.
            raise PlannerError("%s raised %s" % (shown, show(exc))) from exc
        finally:
            self._began = None

    def _id(self, name: str, value: Any, low: int = MIN_ID - 1) -> int:
        try:
            # Also what is an int without being called so, numpy's for example; but True is a mistake.
            number = None if isinstance(value, bool) else operator.index(value)
        except Exception:
            number = None
        if number is None:
            raise PlannerError("planner.%s returned %s; it must return an int" % (name, show(value)))
        if not low <= number <= MAX_ID:
            raise PlannerError("planner.%s returned %s, which is outside signed 64 bits" % (name, show(number)))
        return number

    def size(self, ctx: Any) -> int:
        """Return the IDs per partition; 3000 with a warning when the planner gives nothing usable."""
        if not callable(getattr(self._planner, "partition_size", None)):
            return DEFAULT_SIZE
        try:
            value = self._id("partition_size", self._call("partition_size", ctx), 1)
        except PlannerError as exc:
            if not self._told_size:
                self._told_size = True
                self._logger.warning("%s; partitions of %d IDs are used instead", exc, DEFAULT_SIZE)
            return DEFAULT_SIZE
        self._told_size = False
        return value

    def first_id(self, ctx: Any) -> int:
        """Return where the data starts."""
        if not callable(getattr(self._planner, "first_id", None)):
            return 1
        return self._id("first_id", self._call("first_id", ctx), MIN_ID)

    def next_max_id(self, ctx: Any, start_id: int, range_size: int) -> int:
        """Return the largest ID to plan now; at most *start_id* when there is nothing new."""
        return self._id("get_next_max_id", self._call("get_next_max_id", ctx, start_id, range_size))

    def has_data(self, ctx: Any, min_id: int, max_id: int) -> bool:
        """Return whether the range may hold data; never False wrongly."""
        answer = self._call("has_data", ctx, min_id, max_id)
        # None is a forgotten return, not a "no": a wrong "no" would skip data.
        usable = answer is not None and not isinstance(answer, (float, str, bytes))
        try:
            told = bool(answer) if usable else None
        except Exception:
            told = None
        if told is None:
            raise PlannerError("planner.has_data returned %s; it must return True or False" % show(answer))
        return told

    def plan(self, ctx: Any, start_id: int, limit: int) -> List[Range]:
        """Return up to *limit* explicit ranges behind *start_id*, ordered and disjoint."""
        out: List[Range] = []
        edge = start_id
        items: Any = None
        try:
            items = self._call("plan", ctx, start_id, limit)
            # A generator has done nothing so far: its work is in the steps of this loop.
            self._began = self._clock.monotonic()
            for item in items:
                self._began = self._clock.monotonic()
                try:
                    low, high = item
                except (TypeError, ValueError):
                    raise PlannerError(
                        "planner.plan gave %s; it must give (min_id, max_id) pairs" % show(item)
                    ) from None
                low, high = self._id("plan", low, MIN_ID), self._id("plan", high, MIN_ID)
                if not edge < low <= high:
                    raise PlannerError(
                        "planner.plan gave [%d, %d] after %d; ranges must be ascending and disjoint, behind start_id"
                        % (low, high, edge)
                    )
                out.append((low, high))
                edge = high
                if len(out) >= limit:
                    break
        except PlannerError:
            raise
        except BaseException as exc:
            raise PlannerError("planner.plan raised %s" % show(exc)) from exc
        finally:
            self._began = None
            if isinstance(items, types.GeneratorType):
                # Here and now, in the thread it ran in: it may hold a cursor or a context that ends with it.
                with contextlib.suppress(Exception):
                    items.close()
        return out


def show(value: Any) -> str:
    """Return a short text for *value*, whatever user code its ``repr`` or ``str`` runs."""
    try:
        text = "%s: %s" % (type(value).__name__, value) if isinstance(value, BaseException) else repr(value)
    except Exception:
        text = "something of type %s" % type(value).__name__
    return text if len(text) <= 200 else text[:200] + "..."
