"""The allocator: the leader's rounds of planning. Creates as much as the fleet can use soon, and no more."""

from __future__ import annotations

import logging
import threading
from typing import Any, Callable, List, NamedTuple, Optional

from elk_coordinator.config import CoordinatorConfig
from elk_coordinator.errors import LeaseLost, PlannerError, VersionConflict
from elk_coordinator.leader.election import Leadership
from elk_coordinator.leader.explore import Explorer
from elk_coordinator.leader.gaps import GapFiller
from elk_coordinator.leader.planner import GuardedPlanner, LeaderContext
from elk_coordinator.model import MAX_BATCH, CreatePartition, PlanState, Range, Sweep
from elk_coordinator.partition.strategy import PartitionStrategy
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.runtime.events import Events
from elk_coordinator.runtime.logs import about
from elk_coordinator.runtime.retry import backoff_delay
from elk_coordinator.runtime.threads import Role

#: After a round that found enough planned already, hungry workers are heard again after so many seconds.
ENOUGH_PAUSE = 0.02
#: The doubled questions of one "nothing new" are not repeated more often than this, in the end.
LONGEST_EXPLORE_PAUSE = 600.0


class Round(NamedTuple):
    """What one round did."""

    created: int
    skipped_ids: int
    #: Nothing new was found, also not by doubled questions.
    exhausted: bool
    #: It ended before the fleet's need was met.
    dry: bool
    last_id: Optional[int] = None


class _Found(NamedTuple):
    """What the questions before one creation found."""

    ranges: List[Range]
    skipped: List[Range]
    #: Behind it there is nothing new.
    nothing_more: bool
    error: Optional[PlannerError] = None


class Allocator(Role):
    """Plans while leading.

    Rate policy: a round when leadership begins, when workers run low, when somebody asks, and after
    ``allocation_interval``. Rounds that found nothing make calls by hungry workers wait longer, up to that interval.
    """

    name = "allocator"

    def __init__(
        self,
        strategy: PartitionStrategy,
        planner: GuardedPlanner,
        leadership: Leadership,
        config: CoordinatorConfig,
        clock: Clock,
        events: Events,
        logger: logging.Logger,
        on_term_over: Callable[[str], None],
    ) -> None:
        super().__init__()
        self._strategy = strategy
        self._planner = planner
        self._leadership = leadership
        self._config = config
        self._clock = clock
        self._events = events
        self._logger = logger
        self._on_term_over = on_term_over
        self._explorer = Explorer(planner, config.max_pending_partitions, logger)
        #: Looks for gaps between the rounds; None = nobody does.
        self.gaps: Optional[GapFiller] = None
        self._version: Optional[int] = None
        self._stop = threading.Event()
        self._planned_term: Optional[int] = None
        self._due = 0.0
        self._quiet_until = 0.0
        self._retry_at = 0.0
        self._empty_rounds = 0
        self._failed_rounds = 0
        self._explore_at = 0.0
        self._explore_pause = 0.0
        # The same while the plain question finds a little each time: a growing table answers the doubled ones alike.
        self._explored_at = 0.0
        self._growing_pause = 0.0
        self._grew = False
        self._hungry = False
        self._asked = False
        self._low_water = -1

    def interrupt(self) -> None:
        self._stop.set()

    def on_sweep(self, sweep: Sweep) -> None:
        """Hear what the once-a-second look found; called by the recovery thread."""
        if sweep.asked:
            self._asked = True
        if sweep.hungry:
            self._hungry = True
        if sweep.asked or sweep.hungry:
            self.wake.set()

    def hint(self) -> None:
        """Hear that workers may have run low."""
        self._hungry = True
        self.wake.set()

    def run_once(self) -> Optional[Round]:
        """Do a round if one is due, then look for gaps for a moment."""
        try:
            if self._asked:
                # Before the round: what it answers to whoever waits for idleness includes the gaps.
                self._look_for_gaps(True)
        finally:
            # Whatever is wrong with the gaps, new data is planned.
            hungry = self._hungry
            outcome = self._plan_once()
        self._look_for_gaps(False, hungry)
        return outcome

    def look(self, mode: str) -> None:
        """Have gaps looked for soon; from any thread."""
        if self.gaps is not None:
            self.gaps.want(mode)
            self.wake.set()

    def _look_for_gaps(self, asked: bool, hungry: bool = False) -> None:
        term = self._leadership.term
        if term is None or self.gaps is None:
            return
        try:
            self.gaps.run_once(term, self._context(term), asked, hungry)
        except LeaseLost:
            self._lost(term)

    def _context(self, term: int) -> LeaderContext:
        return LeaderContext(self._strategy.namespace, term, lambda: self._leadership.term, self._stop, self._clock)

    def _lost(self, term: int) -> None:
        # This worker may have been elected again since the round began: that term is good.
        if self._leadership.held() == term:
            self._on_term_over("the store refused a plan of this term")

    def _plan_once(self) -> Optional[Round]:
        term = self._leadership.term
        if term is None:
            self._planned_term = None
            return None
        now = self._clock.monotonic()
        if term != self._planned_term:
            self._planned_term, self._due, self._quiet_until, self._explore_at = term, now, 0.0, 0.0
            self._explore_pause, self._empty_rounds, self._low_water, self._retry_at = 0.0, 0, -1, 0.0
            self._growing_pause = 0.0
        hungry = self._hungry and now >= self._quiet_until
        if now < self._retry_at or not (now >= self._due or hungry or self._asked):
            return None
        asked, self._asked, self._hungry = self._asked, False, False
        answered = False
        try:
            outcome = self._round(term, asked)
            answered = now >= self._retry_at
            return outcome
        finally:
            # A round that failed answered nobody.
            self._asked = self._asked or (asked and not answered)

    def pause(self, did: Optional[Round]) -> float:
        if self._leadership.term is None:
            return 60.0
        now = self._clock.monotonic()
        at = min(self._due, self._quiet_until) if self._hungry else self._due
        gaps = 60.0 if self.gaps is None else self.gaps.pause()
        return max(0.0, min(max(at, self._retry_at) - now, gaps, 60.0))

    # ---------------------------------------------------------------- a round

    def _round(self, term: int, asked: bool) -> Round:
        began = self._clock.monotonic()
        self._planner.questions = 0
        context = self._context(term)
        explore = asked or began >= self._explore_at
        try:
            outcome = self._fill(term, context, explore)
        except PlannerError as exc:
            self._failed_rounds += 1
            pause = backoff_delay(self._failed_rounds, 1.0, self._config.allocation_interval)
            self._due = self._retry_at = self._clock.monotonic() + pause
            text, extra = "%s; the plan so far is kept, next try in %.1f s", about("planner_error")
            self._logger.error(text, exc, pause, exc_info=exc.__cause__, extra=extra)
            self._events.emit("planner_error", error=exc, method=str(exc).split("(")[0].split(" ")[0])
            return Round(0, 0, False, False)
        except LeaseLost:
            self._lost(term)
            return Round(0, 0, False, False)
        self._failed_rounds = 0
        self._after(term, outcome, explore)
        if outcome.created or outcome.skipped_ids:
            self._events.emit(
                "planned", created=outcome.created, skipped_ids=outcome.skipped_ids,
                seconds=self._clock.monotonic() - began, questions=self._planner.questions,
                last_id=outcome.last_id,
            )  # fmt: skip
        return outcome

    def _after(self, term: int, outcome: Round, explored: bool) -> None:
        now = self._clock.monotonic()
        self._due = now + self._config.allocation_interval
        if outcome.created or outcome.skipped_ids:
            self._empty_rounds, self._quiet_until = 0, 0.0
            self._grew = True
            # Soon after the first growth, and then ever later while there was nothing behind it.
            self._explore_at = min(self._explore_at, self._explored_at + self._growing_pause)
        elif outcome.dry:
            self._empty_rounds += 1
            self._quiet_until = now + backoff_delay(self._empty_rounds, 0.5, self._config.allocation_interval)
        else:
            # There was enough, though somebody called: do not answer every one of such calls.
            self._quiet_until = now + ENOUGH_PAUSE
        if self._explorer.found_beyond:
            # The doubled questions have another answer now: all of them are asked again.
            self._explorer.found_beyond = self._grew = False
            self._explore_pause = self._growing_pause = self._explore_at = 0.0
        if outcome.exhausted and explored:
            first = self._config.allocation_interval
            self._growing_pause = min(max(first, 2 * self._growing_pause), LONGEST_EXPLORE_PAUSE) if self._grew else 0.0
            self._explore_pause = min(max(first, 2 * self._explore_pause), LONGEST_EXPLORE_PAUSE)
            self._explore_at = now + (self._growing_pause or self._explore_pause)
            self._explored_at, self._grew = now, False

    def _fill(self, term: int, context: Any, explore: bool) -> Round:
        config, strategy = self._config, self._strategy
        size = self._planner.size(context)
        workers = strategy.workers()
        slots = max(len(workers), 3) * config.worker_partition_multiple
        capacity = sum(_capacity(worker.info) for worker in workers)
        target = min(max(slots, 2 * capacity), config.max_pending_partitions)
        state = strategy.plan_state(calls_heard=True)
        began = state.now
        low_water = target // 2
        created = skipped_ids = 0
        exhausted = dry = False
        # Whether somebody else changed the plan since the last round: then there may be new gaps.
        foreign = state.version != self._version
        while state.pending + state.held < target and not context.is_set():
            found = self._ask(context, state, size, size * slots, target, explore)
            if found.ranges or found.skipped:
                try:
                    state = self._create(state, term, found.ranges, found.skipped)
                except VersionConflict:
                    # Somebody created partitions meanwhile: look again.
                    foreign = True
                    state = strategy.plan_state(calls_heard=True)
                    continue
                created += len(found.ranges)
                skipped_ids += sum(high - low + 1 for low, high in found.skipped)
            if found.error is not None:
                raise found.error
            if found.nothing_more:
                exhausted, dry = explore, True
                break
            if state.pending + state.held >= target:
                # Meanwhile the fleet went on: while it takes faster than this, there is no waiting for a call.
                before, state = state, strategy.plan_state(calls_heard=True)
                foreign = foreign or state.version != before.version
                if state.pending >= low_water:
                    break
        self._version = state.version
        if self.gaps is not None:
            self.gaps.planned(foreign, target, created, dry, state.last)
        if low_water != self._low_water or exhausted:
            idle = exhausted and not (self.gaps is not None and self.gaps.busy)
            strategy.note_round(term, low_water, state.version if idle else None, began)
            self._low_water = low_water
        return Round(created, skipped_ids, exhausted, dry, state.last_id)

    def _ask(self, context: Any, state: PlanState, size: int, look_ahead: int, target: int, explore: bool) -> _Found:
        """Ask until the need is met or a batch is full: many short looks ahead make one creation."""
        held = state.pending + state.held
        need = min(target - held, MAX_BATCH)
        room = min(self._config.max_pending_partitions - held, MAX_BATCH)
        frontier = state.last_id if state.last_id is not None else self._planner.first_id(context) - 1
        ranges: List[Range] = []
        skipped: List[Range] = []
        while len(ranges) < need and not context.is_set():
            try:
                step = self._explorer.next_step(context, frontier, size, look_ahead, room - len(ranges), explore)
            except PlannerError as exc:
                # What was found before it is created first: a planner that fails far ahead holds up nothing near.
                return _Found(ranges, skipped, False, exc)
            if step is None:
                return _Found(ranges, skipped, True)
            ranges += step.ranges
            skipped += step.skipped
            if not step.ranges:
                break
            frontier = max(high for _, high in step.ranges + step.skipped)
        return _Found(ranges, skipped, False)

    def _create(self, state: PlanState, term: int, ranges: List[Any], skipped: List[Any]) -> PlanState:
        first = state.max_partition_id + 1
        partitions = [CreatePartition(first + i, low, high) for i, (low, high) in enumerate(ranges[:MAX_BATCH])]
        return self._strategy.plan_partitions(state, term, partitions, skipped)


def _capacity(info: Any) -> int:
    """Return the slots and prefetch of a worker by what it says of itself."""
    try:
        return max(0, min(int(info.get("capacity", 0)), 100_000))
    except (TypeError, ValueError, AttributeError):
        return 0
