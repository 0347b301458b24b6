"""The leader's look for gaps: ranges that no partition covers although others behind them are planned.

A part of the allocator's thread, since the planner is asked by one thread only. It works in short turns between the
rounds of planning: at most 64 questions or a quarter of a second, then planning has its say again. A pass walks the
plan page by page, so its cost follows the number of gaps, never their width. What was found is written in one atomic
step under the version of the plan it was found in and the leader's term; what a partition covers (a completed one, an
archived one, one whose details were dropped) is refused there and never planned again.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any, Deque, List, NamedTuple, Optional, Tuple

import attr

from elk_coordinator.config import CoordinatorConfig
from elk_coordinator.errors import IllegalTransition, PlannerError, VersionConflict
from elk_coordinator.leader.detector import (
    CUSTOM,
    CUSTOM_INTERVAL,
    DISCRETE,
    INCREMENTAL,
    DefaultGapDetector,
    ask_detector,
)
from elk_coordinator.leader.gap_questions import Found, GapQuestions, Item
from elk_coordinator.leader.planner import GuardedPlanner
from elk_coordinator.model import MAX_BATCH, MAX_ID, CreatePartition, PlanState, Range
from elk_coordinator.partition import intervals
from elk_coordinator.partition.gaps import DELETED, EMPTY, HOLE, PLANNED, SKIPPED, GapLog, holes
from elk_coordinator.partition.strategy import PartitionStrategy
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.runtime.events import Events
from elk_coordinator.runtime.logs import about
from elk_coordinator.runtime.retry import backoff_delay

__all__ = ["DefaultGapDetector", "GapFiller", "GapTurn"]

#: Bounds of one turn, so that it never delays a round of planning noticeably.
TURN_QUESTIONS = 64
TURN_SECONDS = 0.25
#: Seconds between two turns of a sweep over skipped ranges, and while there is no room for more partitions.
EASY_PAUSE = 1.0
#: Least seconds between two writings of what was done, during a pass.
SAVE_PAUSE = 1.0
#: Intervals read at once; also how much of the plan is remembered to tell a deleted range from one never planned.
PAGE = 1000
#: Attempts to write one finding while others change the plan.
_TRIES = 5


class GapTurn(NamedTuple):
    """What one turn did."""

    questions: int
    created: int
    #: Nothing is left to look at for now.
    done: bool


class GapFiller:
    """Finds gaps and makes partitions of what holds data. Used by the allocator's thread; :meth:`want` by any."""

    def __init__(
        self,
        strategy: PartitionStrategy,
        planner: GuardedPlanner,
        config: CoordinatorConfig,
        clock: Clock,
        events: Events,
        logger: logging.Logger,
    ) -> None:
        self._strategy = strategy
        self._planner = planner
        self._config = config
        self._clock = clock
        self._events = events
        self._logger = logger
        detector = config.gap_detector
        self._settings = detector if isinstance(detector, DefaultGapDetector) else DefaultGapDetector()
        self._custom = None if detector is None or isinstance(detector, DefaultGapDetector) else detector
        self.mode = CUSTOM if self._custom is not None else self._settings.mode
        self._interval = self._own_interval()
        self._term: Optional[int] = None
        self._log: Any = None
        self._log_read = 0.0
        self._wanted: Optional[str] = None
        self._failures = 0
        self._target = 1
        self._questions = GapQuestions(planner, logger)
        self._forget(0.0)

    def _own_interval(self) -> float:
        if self._custom is None:
            return self._settings.interval
        value = getattr(self._custom, "interval", None)
        usable = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")
        return float(value) if usable else CUSTOM_INTERVAL  # type: ignore[arg-type]

    def _forget(self, now: float) -> None:
        """Begin as a leader that knows nothing."""
        self._queue: Deque[Item] = deque()
        #: Kinds of passes under way, the present one first.
        self._passes: List[str] = []
        self._sweeping = False
        self._cursor: Optional[int] = None
        self._saved_at = now - SAVE_PAUSE
        #: The last turn ended because there was no room for more partitions.
        self._full = False
        self._seen: List[Range] = []
        self._seeing: List[Range] = []
        self._changed = True
        self._look_at = self._retry_at = now
        self._sweep_at: Optional[float] = None
        #: Whether it is the gaps' turn to use the room; after it, the rounds of planning have theirs.
        self._may_fill = self._free = True

    # ---------------------------------------------------------------- what the allocator and others tell

    def planned(self, foreign: bool, target: int, created: int, dry: bool, last: Optional[Range]) -> None:
        """Hear of a round of planning: whether others changed the plan, and how it went."""
        self._changed = self._changed or foreign
        self._target = target
        self._free = dry
        self._may_fill = self._may_fill or dry or created > 0
        if not self._failures and self._full:
            self._retry_at = self._clock.monotonic()
        if last is not None and len(self._seen) <= PAGE:
            self._seen = intervals.merge([*self._seen, last])

    def want(self, mode: str) -> None:
        """Ask for a pass soon; from any thread."""
        self._wanted = mode

    @property
    def busy(self) -> bool:
        """Whether holes are known that still are to be looked at: the namespace is not idle."""
        return bool(self._passes) and self._passes[0] != SKIPPED and not self._failures

    def pause(self) -> float:
        """Return the seconds to the next turn."""
        now = self._clock.monotonic()
        if self._wanted is not None or self._queue or self._passes:
            return max(0.0, self._retry_at - now)
        due = [now + 60.0]
        if self._changed or self._custom is not None:
            due.append(self._look_at)
        if self._sweep_at is not None:
            due.append(self._sweep_at)
        return max(0.0, min(due) - now, self._retry_at - now)

    # ---------------------------------------------------------------- a turn

    def run_once(self, term: int, ctx: Any, asked: bool = False, hungry: bool = False) -> Optional[GapTurn]:
        """Do one turn if there is something to look at; costs nothing when there is not.

        :param asked: somebody waits for the namespace to be idle: look at the holes now.
        :param hungry: workers run low: what had no room may have it now.
        :raises LeaseLost: the term is over.
        """
        now = self._clock.monotonic()
        if term != self._term:
            self._begin(term, now)
        if now < self._retry_at and not (hungry and self._full):
            return None
        if not self._passes and not self._choose(now, asked):
            return None
        before, created = self._planner.questions, 0
        try:
            created = self._turn(term, ctx)
            self._failures = 0
        except PlannerError as exc:
            self._failures += 1
            pause = backoff_delay(self._failures, 1.0, max(1.0, self._config.allocation_interval))
            self._retry_at = self._clock.monotonic() + pause
            text, extra = "%s; gaps are looked at again in %.1f s", about("planner_error")
            self._logger.error(text, exc, pause, exc_info=exc.__cause__, extra=extra)
            self._events.emit("planner_error", error=exc, method=str(exc).split("(")[0].split(" ")[0])
            if self._custom is not None:
                self._finish(ok=False)
        now = self._clock.monotonic()
        if not self._passes or now - self._saved_at >= SAVE_PAUSE:
            self._saved_at = now
            self._log.save()
        return GapTurn(self._planner.questions - before, created, not self._passes)

    def _begin(self, term: int, now: float) -> None:
        log = GapLog(self._strategy, term, self.mode)
        self._term, self._log, self._log_read = term, log, now
        self._forget(now)
        self._failures = 0
        age = self._settings.sweep_age
        if self._custom is None and self.mode == DISCRETE and age is not None:
            began = log.last_sweep if log.last_sweep is not None else log.born
            self._sweep_at = now + min(max(0.0, began + age - log.read_at), age)

    def _time(self) -> float:
        """Return the store's time, as far as one reading and this worker's clock tell it."""
        return float(self._log.read_at + self._clock.monotonic() - self._log_read)

    def _choose(self, now: float, asked: bool) -> bool:
        """Begin a pass when one is due."""
        wanted, self._wanted = self._wanted, None
        if self._custom is not None:
            if asked or wanted is not None or now >= self._look_at:
                self._passes = [CUSTOM]
        else:
            self._sweeping = wanted == DISCRETE or (self._sweep_at is not None and now >= self._sweep_at)
            looking = self._sweeping or wanted == INCREMENTAL or asked or (self._changed and now >= self._look_at)
            if looking:
                self._passes = [HOLE, SKIPPED] if self._sweeping else [HOLE]
                self._changed = False
        self._cursor = None
        self._seeing = []
        return bool(self._passes)

    def _finish(self, ok: bool = True) -> None:
        """End a pass."""
        now = self._clock.monotonic()
        self._passes = []
        self._queue.clear()
        self._look_at = now + self._interval
        if ok:
            self._log.mark(last_look=self._time())
        if self._sweeping:
            self._log.mark(last_sweep=self._time())
            age = self._settings.sweep_age
            self._sweep_at = None if self._sweep_at is None or age is None else now + age
            self._sweeping = False

    def _turn(self, term: int, ctx: Any) -> int:
        until = self._clock.monotonic() + TURN_SECONDS
        self._questions.begin(TURN_QUESTIONS)
        state: Optional[PlanState] = None
        size = created = 0
        self._full = False
        while self._passes and not ctx.is_set():
            if not self._queue:
                if self._next_page(ctx):
                    continue
                self._passes.pop(0)
                self._cursor = None
                if not self._passes:
                    self._finish()
                continue
            if state is None:
                # While planning has nothing new, hungry workers call for what is in the gaps.
                state, size = self._strategy.plan_state(calls_heard=self._free), self._planner.size(ctx)
            if self._passes[0] != SKIPPED:
                item = self._queue[0]
                self._log.saw((item.low, item.high), item.kind, self._time())
            room = self._room(state)
            if room <= 0:
                self._full = True
                self._retry_at = self._clock.monotonic() + EASY_PAUSE
                break
            if self._questions.left <= 0 or self._clock.monotonic() >= until:
                if self._passes[0] == SKIPPED:
                    self._retry_at = self._clock.monotonic() + EASY_PAUSE
                break
            before = state.pending
            state = self._work(self._queue[0], term, ctx, state, size, room)
            created += max(0, state.pending - before)
        return created

    def _room(self, state: PlanState) -> int:
        """Return how many partitions may be created now. New data and gaps share: each has its turn, neither starves
        the other, and no more is created than the fleet uses soon."""
        if not self._may_fill:
            return 0
        most = min(self._config.max_pending_partitions, self._target + max(1, self._target // 2))
        return min(most - state.pending - state.held, MAX_BATCH)

    # ---------------------------------------------------------------- where to look

    def _next_page(self, ctx: Any) -> bool:
        """Queue what the next page of the plan shows; False at its end."""
        kind = self._passes[0]
        if kind == CUSTOM:
            return self._ask_detector(ctx)
        if kind == SKIPPED:
            if self._cursor == MAX_ID + 1:
                return False
            _, page = self._strategy.interval_page("skipped", self._cursor, PAGE)
            self._queue.extend(Item(low, high, SKIPPED, low) for low, high in page)
            self._cursor = page[-1][1] + 1 if len(page) == PAGE else MAX_ID + 1
            return True
        if self._cursor == MAX_ID + 1:
            self._seen = self._seeing if len(self._seeing) <= PAGE else []
            return False
        start = self._cursor
        if start is None:
            start = self._planner.first_id(ctx)
            self._log.mark(first_id=start)
        _, page = self._strategy.interval_page("planned", self._cursor, PAGE)
        for low, high in holes(page, start):
            gone = intervals.find_overlap(self._seen, (low, high)) is not None
            self._queue.append(Item(low, high, DELETED if gone else HOLE, low))
        if len(self._seeing) <= PAGE:
            self._seeing += page
        self._cursor = page[-1][1] + 1 if len(page) == PAGE else MAX_ID + 1
        return True

    def _ask_detector(self, ctx: Any) -> bool:
        if self._cursor is not None:
            return False
        self._cursor = MAX_ID + 1
        planned, skipped = self._strategy.planned_intervals(), self._strategy.skipped_intervals()
        wanted = ask_detector(self._planner, self._custom, ctx, list(planned), list(skipped))
        if not planned:
            # The rounds of planning begin; there is nothing to have gaps in.
            return True
        # What partitions cover is never planned again, and what lies behind the last planned ID is not a gap.
        covered = intervals.subtract(planned, skipped)
        covered.append((planned[-1][1] + 1, 2**63))
        for low, high in intervals.subtract(wanted, covered):
            kind = SKIPPED if intervals.find_overlap(skipped, (low, high)) is not None else HOLE
            self._queue.append(Item(low, high, kind, low, named=not self._planner.knows_data))
        return True

    # ---------------------------------------------------------------- one gap

    def _work(self, item: Item, term: int, ctx: Any, state: PlanState, size: int, room: int) -> PlanState:
        """Ask about one gap as far as the turn goes, and write what was found; return where the plan stands then."""
        at, data_by = item.at, item.data_by
        error: Optional[PlannerError] = None
        found: Found = ([], [], at, data_by)
        try:
            for found in self._questions.ask(item, ctx, size, room):
                item.at, item.data_by = found[2:]
        except PlannerError as exc:
            # What was found before it is created first, and other gaps have their turn before this one comes again.
            error = exc
        ranges, empty = found[:2]
        recorded = item.kind == SKIPPED and self._passes[0] == SKIPPED
        over = False
        if ranges or (empty and not recorded):
            written, over, state = self._write(term, state, ranges, [] if recorded else empty)
            if not written and not over:
                # Others keep changing the plan: the same questions again next turn.
                item.at, item.data_by = at, data_by
                self._retry_at = self._clock.monotonic() + 0.05
                return state
        count = 0 if over else len(ranges)
        item.partitions += count
        done = over or item.at > item.high
        if done:
            self._queue.popleft()
        self._tell(item, count, done, recorded, over)
        if count and len(ranges) >= room:
            self._may_fill = self._free
        if error is not None:
            if not done:
                self._queue.rotate(-1)
            raise error
        return state

    def _write(
        self, term: int, state: PlanState, ranges: List[Range], empty: List[Range]
    ) -> Tuple[bool, bool, PlanState]:
        """Return whether it was written, whether it is no gap any more, and where the plan stands."""
        for _ in range(_TRIES):
            first = state.max_partition_id + 1
            partitions = [CreatePartition(first + i, low, high) for i, (low, high) in enumerate(ranges)]
            try:
                version = self._strategy.fill_gaps(state.version, term, partitions, empty)
            except VersionConflict:
                # New data was planned, or something deleted: what the planner said of this gap still holds.
                state = self._strategy.plan_state()
                continue
            except IllegalTransition:
                # Somebody created a partition there meanwhile. The rest of the gap is found by another pass.
                self._changed = True
                return False, True, self._strategy.plan_state()
            top = max(state.max_partition_id, first + len(ranges) - 1)
            pending = state.pending + len(ranges)
            return True, False, attr.evolve(state, version=version, max_partition_id=top, pending=pending)
        return False, False, state

    def _tell(self, item: Item, count: int, done: bool, recorded: bool, over: bool) -> None:
        gap = (item.low, item.high)
        if over or (recorded and not item.partitions):
            # Asked again, still nothing: that is what is recorded already.
            return
        self._log.did(gap, item.kind, self._time(), count, done)
        if not done and not count:
            return
        action = PLANNED if item.partitions else EMPTY
        self._logger.info(
            "gap [%d, %d] (%s): %s, %d partitions so far", item.low, item.high, item.kind, action, item.partitions
        )
        self._events.emit(
            "gap_found", min_id=item.low, max_id=item.high, ids=item.high - item.low + 1, gap=item.kind, action=action,
            partitions=count,
        )  # fmt: skip
