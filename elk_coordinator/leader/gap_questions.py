"""What the planner is asked about one gap, and what follows: ranges with data, ranges without.

Questions and arithmetic: nothing here touches the store.
"""

from __future__ import annotations

import logging
from typing import Any, Iterator, List, Optional, Tuple

import attr

from elk_coordinator.leader.explore import cut
from elk_coordinator.leader.planner import GuardedPlanner
from elk_coordinator.model import MAX_ID, Range
from elk_coordinator.partition.gaps import SKIPPED

#: Explicit ranges asked for at once.
_RANGES = 64

#: Ranges with data, ranges without, the next ID to ask about, and up to where data is known to lie.
Found = Tuple[List[Range], List[Range], int, Optional[int]]


@attr.s(auto_attribs=True, slots=True)
class Item:
    """A gap that is being looked at: from *at* on it still is to be asked about."""

    low: int
    high: int
    kind: str
    at: int
    #: A bisection that was under way: data is known to lie in ``[at, data_by]``.
    data_by: Optional[int] = None
    partitions: int = 0
    #: A detector of the user's named it, and the planner cannot say whether it holds data: all of it is planned.
    named: bool = False


class GapQuestions:
    """Asks about gaps. Belongs to one allocator's thread."""

    def __init__(self, planner: GuardedPlanner, logger: logging.Logger) -> None:
        self._planner = planner
        self._logger = logger
        self._warned = False
        self._last = 0

    def begin(self, questions: int) -> None:
        """Begin a turn of at most so many questions."""
        self._last = self._planner.questions + questions

    @property
    def left(self) -> int:
        """Questions that are left of this turn."""
        return self._last - self._planner.questions

    def ask(self, item: Item, ctx: Any, size: int, room: int) -> Iterator[Found]:
        """Give, again and again, what was found so far: ranges with data, ranges without, the next ID to ask about, and
        up to where data is known to lie.

        Blocks of one partition while there is data; where a block has none, bisection finds the next that has: a gap of
        any width costs O(log) questions.
        """
        at, high, data_by = item.at, item.high, item.data_by
        ranges: List[Range] = []
        empty: List[Range] = []
        if self._planner.explicit:
            yield self._ask_plan(item, ctx, room)
            return
        if item.named:
            ranges = cut(at, high, size, room)
            yield ranges, [], ranges[-1][1] + 1, None
            return
        if item.kind == SKIPPED and at == item.low and data_by is None and high - at >= size:
            # Most of them are as empty as they were: one question each.
            if not self._has(ctx, item, at, high):
                yield [], [(at, high)], high + 1, None
                return
            data_by = high
        while at <= high and len(ranges) < room and self.left > 0 and not ctx.is_set():
            block = min(at + size - 1, high)
            if self._has(ctx, item, at, block):
                ranges.append((at, block))
                # The data that was known to lie ahead may be what this block holds.
                at, data_by = block + 1, None
            else:
                low = block
                if data_by is None or data_by <= low:
                    data_by = high if low < high and self._has(ctx, item, low + 1, high) else None
                while data_by is not None and data_by - low > 1 and self.left > 0 and not ctx.is_set():
                    middle = (low + data_by) // 2
                    if self._has(ctx, item, low + 1, middle):
                        data_by = middle
                    else:
                        low = middle
                first = high + 1 if data_by is None else low + 1
                empty.append((at, first - 1))
                at = first
            yield ranges, empty, at, data_by

    def _ask_plan(self, item: Item, ctx: Any, room: int) -> Found:
        """A planner with explicit ranges: those that begin in the gap, as far as they lie in it."""
        at, high = item.at, item.high
        if self._planner.knows_data and not self._planner.has_data(ctx, at, high):
            return [], [(at, high)], high + 1, None
        limit = min(room, _RANGES)
        found = self._planner.plan(ctx, at - 1, limit)
        ranges: List[Range] = []
        empty: List[Range] = []
        for low, top in found:
            if low > high:
                break
            if low > at:
                empty.append((at, low - 1))
            ranges.append((low, min(top, high)))
            at = ranges[-1][1] + 1
        if len(ranges) < limit and at <= high:
            empty.append((at, high))
            at = high + 1
        return ranges, empty, at, None

    def _has(self, ctx: Any, item: Item, low: int, high: int) -> bool:
        """Ask whether ``[low, high]`` may hold data."""
        if self._planner.knows_data:
            return self._planner.has_data(ctx, low, high)
        span = high - low + 1
        if span > MAX_ID:
            # A range is a signed 64-bit number too.
            middle = (low + high) // 2
            return self._has(ctx, item, low, middle) or self._has(ctx, item, middle + 1, high)
        answer = self._planner.next_max_id(ctx, low - 1, span)
        if answer <= high:
            return answer >= low
        if not self._warned:
            self._warned = True
            self._logger.warning(
                "planner.get_next_max_id(%d, %d) answered %d, beyond the range, and the planner has no has_data(): "
                "gaps without data become empty partitions, and skipped ranges are not looked at again",
                low - 1, span, answer
            )  # fmt: skip
        # A hole may hold data, so it is planned; a skipped range is known to have held none.
        return item.kind != SKIPPED
