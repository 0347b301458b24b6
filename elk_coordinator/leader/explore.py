"""What to plan next behind the last planned ID: dense data, holes of any width, and answers far ahead.

Pure questions and arithmetic: nothing here touches the store. The cost of a hole is logarithmic in its width.
"""

from __future__ import annotations

import logging
from typing import Any, Callable, List, NamedTuple, Optional

from elk_coordinator.leader.planner import GuardedPlanner
from elk_coordinator.model import MAX_BATCH, MAX_ID, Range


class Step(NamedTuple):
    """What one question led to: ranges to create, ranges known to be empty."""

    ranges: List[Range]
    skipped: List[Range]
    #: Whether more is known to lie behind it.
    more: bool = False


def cut(low: int, high: int, size: int, limit: int) -> List[Range]:
    """Cut ``[low, high]`` into at most *limit* ranges of *size* IDs."""
    out: List[Range] = []
    while low <= high and len(out) < limit:
        out.append((low, min(low + size - 1, high)))
        low += size
    return out


def first_true(test: Callable[[int], bool], low: int, high: int) -> int:
    """Return the smallest number in ``(low, high]`` for which the rising *test* is true, given that it is at *high*."""
    while high - low > 1:
        middle = (low + high) // 2
        if test(middle):
            high = middle
        else:
            low = middle
    return high


class Explorer:
    """Turns the planner's answers into steps. Belongs to one allocator."""

    def __init__(self, planner: GuardedPlanner, max_pending: int, logger: logging.Logger) -> None:
        self._planner = planner
        self._max_pending = max_pending
        self._logger = logger
        self._warned = False
        #: Whether a doubled question found data; the allocator clears it.
        self.found_beyond = False

    def next_step(
        self, ctx: Any, frontier: int, size: int, look_ahead: int, room: int, explore: bool
    ) -> Optional[Step]:
        """Return what to plan behind *frontier*; None when there is nothing new.

        :param size: IDs per partition. :param look_ahead: IDs one question looks ahead. :param room: most partitions.
        :param explore: whether "nothing new" is followed up with doubled ranges, up to the 64-bit edge.
        :raises PlannerError: the planner raised or answered nonsense.
        """
        room = min(room, MAX_BATCH)
        if frontier >= MAX_ID:
            return None
        if self._planner.explicit:
            return self._explicit(ctx, frontier, room)
        reach = min(look_ahead, MAX_ID, MAX_ID - frontier)
        answer = self._planner.next_max_id(ctx, frontier, reach)
        if answer <= frontier:
            return self._beyond(ctx, frontier, reach, size, look_ahead, room) if explore else None
        if answer - frontier > self._max_pending * size:
            return self._far(ctx, frontier, answer, size, look_ahead, room)
        ranges = cut(frontier + 1, answer, size, room)
        return Step(ranges, [], ranges[-1][1] < answer)

    def _explicit(self, ctx: Any, frontier: int, room: int) -> Optional[Step]:
        ranges = self._planner.plan(ctx, frontier, room)
        if not ranges:
            return None
        skipped, at = [], frontier + 1
        for low, high in ranges:
            if low > at:
                skipped.append((at, low - 1))
            at = high + 1
        return Step(ranges, skipped, len(ranges) >= room)

    def _beyond(self, ctx: Any, frontier: int, reach: int, size: int, look_ahead: int, room: int) -> Optional[Step]:
        """Nothing within *reach*: ask with the range doubled until data or the 64-bit edge is found (64 questions)."""
        start = frontier
        while start + reach < MAX_ID:
            empty_to = start + reach
            if reach == MAX_ID:
                # A range is a signed 64-bit number too: from a negative ID the edge takes another start.
                start = empty_to
            reach = min(2 * reach, MAX_ID, MAX_ID - start)
            answer = self._planner.next_max_id(ctx, start, reach)
            if answer > start:
                self.found_beyond = True
                # Up to empty_to there was nothing a question ago; what is there now has just appeared.
                low = empty_to if answer > empty_to else start
                return self._narrow(ctx, frontier, start, low, answer, size, look_ahead, room)
        return None

    def _narrow(
        self, ctx: Any, frontier: int, start: int, low: int, answer: int, size: int, look_ahead: int, room: int
    ) -> Step:
        """Data lies in ``(low, answer]``, asked from *start*: find where it begins by bisection, skip up to there."""
        if self._planner.knows_data:
            return self._behind_hole(ctx, frontier, answer, size, look_ahead, room)

        def found(high: int) -> bool:
            return self._planner.next_max_id(ctx, start, high - start) > start

        return self._step_at(frontier, first_true(found, low, answer), answer, size, look_ahead, room)

    def _far(self, ctx: Any, frontier: int, answer: int, size: int, look_ahead: int, room: int) -> Step:
        """The planner counts rows or ignores the range: only ``has_data`` can tell a hole from data."""
        block = min(frontier + look_ahead, answer)
        if not self._planner.knows_data:
            if not self._warned:
                self._warned = True
                self._logger.warning(
                    "planner.get_next_max_id(%d, %d) answered %d, far beyond the range, and the planner has no "
                    "has_data(): a hole in the IDs cannot be told from data and becomes empty partitions",
                    frontier, look_ahead, answer
                )  # fmt: skip
            return Step(cut(frontier + 1, block, size, room), [], True)
        if self._planner.has_data(ctx, frontier + 1, block):
            return Step(cut(frontier + 1, block, size, room), [], True)
        return self._behind_hole(ctx, frontier, answer, size, look_ahead, room)

    def _behind_hole(self, ctx: Any, frontier: int, answer: int, size: int, look_ahead: int, room: int) -> Step:
        """Find the first data in ``(frontier, answer]`` with ``has_data``; skip only what it said False to."""

        def found(high: int) -> bool:
            return self._planner.has_data(ctx, frontier + 1, high)

        reach = look_ahead
        while frontier + reach < answer and not found(frontier + reach):
            reach *= 2
        if frontier + reach >= answer and not found(answer):
            # It says that even the planner's own answer holds nothing: all of it may be skipped.
            return Step([], [(frontier + 1, answer)], True)
        low = frontier if reach == look_ahead else frontier + reach // 2
        first = first_true(found, low, min(frontier + reach, answer))
        return self._step_at(frontier, first, answer, size, look_ahead, room)

    def _step_at(self, frontier: int, first: int, answer: int, size: int, look_ahead: int, room: int) -> Step:
        skipped = [(frontier + 1, first - 1)] if first > frontier + 1 else []
        ranges = cut(first, min(answer, first + look_ahead - 1), size, room)
        return Step(ranges, skipped, ranges[-1][1] < answer)
