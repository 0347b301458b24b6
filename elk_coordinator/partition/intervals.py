"""Merged intervals of IDs: how the plan remembers what it covered, at a cost by holes and not by partitions."""

from __future__ import annotations

from bisect import bisect_left
from typing import Iterable, List, Optional, Sequence, Tuple

from elk_coordinator.model import Range


def merge(ranges: Iterable[Range]) -> List[Range]:
    """Return *ranges* sorted, with touching and overlapping ones joined."""
    out: List[Range] = []
    for low, high in sorted(ranges):
        if out and low <= out[-1][1] + 1:
            if high > out[-1][1]:
                out[-1] = (out[-1][0], high)
        else:
            out.append((low, high))
    return out


def find_overlap(intervals: Sequence[Range], wanted: Range) -> Optional[Range]:
    """Return the first of the sorted, disjoint *intervals* that shares an ID with *wanted*, or None."""
    index = bisect_left([high for _, high in intervals], wanted[0])
    if index < len(intervals) and intervals[index][0] <= wanted[1]:
        return intervals[index]
    return None


def added(intervals: Sequence[Range], ranges: Iterable[Range]) -> Tuple[List[Range], List[Range]]:
    """Return which of the disjoint *intervals* go, and which come, when *ranges* are joined to them.

    :param intervals: sorted and disjoint; at least those that touch or overlap any of *ranges*.
    """
    merged = merge(list(intervals) + list(ranges))
    before, after = set(intervals), set(merged)
    return sorted(before - after), sorted(after - before)


def subtract(intervals: Iterable[Range], holes: Iterable[Range]) -> List[Range]:
    """Return what is left of *intervals* without *holes*."""
    out: List[Range] = []
    cuts = merge(holes)
    first = 0
    for low, high in merge(intervals):
        at = low
        while first < len(cuts) and cuts[first][1] < low:
            first += 1
        for index in range(first, len(cuts)):
            hole_low, hole_high = cuts[index]
            if hole_low > high:
                break
            if hole_low > at:
                out.append((at, hole_low - 1))
            at = hole_high + 1
        if at <= high:
            out.append((at, high))
    return out


def size(ranges: Iterable[Range]) -> int:
    """Return how many IDs *ranges* hold, counting shared ones as often as they occur."""
    return sum(high - low + 1 for low, high in ranges)
