"""Who says where the leader looks for gaps: the built-in settings, and the guard around a detector of the user's."""

from __future__ import annotations

import itertools
import operator
from typing import Any, Iterable, List, Optional, Sequence

import attr

from elk_coordinator.errors import ConfigError, PlannerError
from elk_coordinator.leader.planner import GuardedPlanner, show
from elk_coordinator.model import MAX_ID, MIN_ID, Range
from elk_coordinator.partition import gaps, intervals

INCREMENTAL, DISCRETE, CUSTOM = "incremental", "discrete", "custom"
#: Ranges taken from one answer of a custom detector; what it has beyond them it can name next time.
MAX_RANGES = 1000
#: Seconds between two questions to a custom detector that has no ``interval`` of its own.
CUSTOM_INTERVAL = 30.0


def _check_seconds(_: Any, attribute: "attr.Attribute[Any]", value: Any) -> None:
    if value is None and attribute.name == "sweep_age":
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise ConfigError("gap_detector: %s must be seconds above 0, not %r" % (attribute.name, value))


def _check_mode(_: Any, attribute: "attr.Attribute[Any]", value: Any) -> None:
    if value not in (INCREMENTAL, DISCRETE):
        raise ConfigError("gap_detector: mode must be 'incremental' or 'discrete', not %r" % (value,))


@attr.s(auto_attribs=True, frozen=True, kw_only=True)
class DefaultGapDetector:
    """The built-in detector; pass one as ``gap_detector`` to change its settings.

    The planner is asked about each gap, and what has data becomes partitions. A gap without data becomes a skipped
    range.

    :param mode: ``"incremental"`` looks at the holes of the plan when somebody else than the planning leader changed it
        (a deletion, a public create), and when leadership begins. ``"discrete"`` does that too, and every *sweep_age*
        asks about everything again: the range before the first partition, the holes, and rows that appeared in ranges
        which were skipped.
    :param interval: least seconds between two incremental looks.
    :param sweep_age: seconds after which what was found empty is asked again; None = only on demand.
    """

    mode: str = attr.ib(default=DISCRETE, validator=_check_mode)
    interval: float = attr.ib(default=5.0, validator=_check_seconds)
    sweep_age: Optional[float] = attr.ib(default=600.0, validator=_check_seconds)

    def detect(self, ctx: Any, planned: Sequence[Range], skipped: Sequence[Range]) -> Iterable[Range]:
        """Return the holes, and in discrete mode the skipped ranges: for detectors that add to the built-in one.

        The leader itself walks the plan page by page instead.
        """
        out = list(gaps.holes(planned))
        return out + list(skipped) if self.mode == DISCRETE else out


def ask_detector(
    planner: GuardedPlanner, detector: Any, ctx: Any, planned: List[Range], skipped: List[Range]
) -> List[Range]:
    """Return what the user's detector wants looked at: ordered and disjoint, at most :data:`MAX_RANGES`.

    :raises PlannerError: it raised, or gave something else than ranges of exact 64-bit integers.
    """
    # A generator does its work in this loop: it belongs inside the guard.
    items = planner.watched(
        "gap_detector.detect",
        lambda: list(itertools.islice(iter(detector.detect(ctx, planned, skipped)), MAX_RANGES)),
    )
    out: List[Range] = []
    for item in items:
        try:
            low, high = (operator.index(value) for value in item if not isinstance(value, bool))
        except Exception as exc:
            raise PlannerError(
                "gap_detector.detect gave %s; it must give (min_id, max_id) pairs of ints" % show(item)
            ) from exc
        if not MIN_ID <= low <= high <= MAX_ID:
            raise PlannerError(
                "gap_detector.detect gave [%s, %s]; ranges must be ascending, within signed 64 bits"
                % (show(low), show(high))
            )
        out.append((low, high))
    return intervals.merge(out)
