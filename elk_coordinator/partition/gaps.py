"""Gaps: what no partition covers below the last planned ID, and what the leader did about it; for every worker to read.

Open gaps are computed from the plan. What was done is kept by the leader in one bounded document, ``value:gaps``: a
memory for people, nothing that a decision of the plan rests on.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

import attr

from elk_coordinator.errors import ConfigError
from elk_coordinator.model import Range
from elk_coordinator.partition import intervals
from elk_coordinator.partition.strategy import PartitionStrategy

DOCUMENT = "gaps"
#: Gaps listed in a report; the totals count all of them.
MAX_LISTED = 1000
#: Gaps the document remembers; the oldest go first.
MAX_REMEMBERED = 500
#: Skipped ranges a report reads; beyond that its totals are lower bounds.
MAX_SKIPPED_READ = 10_000
_PAGE = 1000
_TRIES = 10

HOLE, SKIPPED, DELETED = "hole", "skipped", "deleted"
OPEN, PLANNED, EMPTY = "open", "planned", "empty"


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Gap:
    """One range of IDs without partitions, or one that was such a range until the leader filled it."""

    min_id: int
    max_id: int
    #: "hole": not planned; "deleted": the leader saw it planned before; "skipped": recorded as holding no data.
    kind: str
    #: Epoch seconds (store's clock) when the leader first looked at it; None when it has not yet.
    since: Optional[float] = None
    #: "open": nothing done yet; "planned": its data became partitions; "empty": the planner says that it has no data.
    state: str = OPEN
    #: How many partitions it became so far.
    partitions: int = 0

    @property
    def ids(self) -> int:
        """How many IDs it holds."""
        return self.max_id - self.min_id + 1

    def to_dict(self) -> Dict[str, Any]:
        """Return a JSON-ready dict; IDs stay exact ints."""
        return dict(attr.asdict(self), ids=self.ids)


@attr.s(auto_attribs=True, frozen=True, slots=True)
class GapReport:
    """The gaps of a namespace at one moment, and what the leader did about earlier ones."""

    #: Epoch seconds by the store's clock.
    generated_at: float
    #: How the leader looks: "discrete", "incremental", "custom", or "" when none has looked yet.
    mode: str
    #: Open ones first, then skipped ranges, then filled ones, newest first; at most 1,000.
    gaps: Sequence[Gap]
    open_count: int
    open_ids: int
    skipped_count: int
    skipped_ids: int
    #: Gaps that became partitions so far, and how many partitions those were.
    planned_count: int
    planned_partitions: int
    #: Whether there are more gaps than listed, or more skipped ranges than were counted.
    truncated: bool
    #: Epoch seconds when the leader last finished looking at the holes, and last asked about the skipped ranges.
    last_look: Optional[float] = None
    last_sweep: Optional[float] = None

    def to_dict(self) -> Dict[str, Any]:
        """Return a JSON-ready dict; IDs and counts are exact ints (readers in JavaScript must ask for text)."""
        out = attr.asdict(self, recurse=False)
        out["gaps"] = [gap.to_dict() for gap in self.gaps]
        return out


def holes(planned: Iterable[Range], first: Optional[int] = None) -> Iterator[Range]:
    """Return what lies between the ordered *planned* ranges, and from *first* to the lowest of them."""
    at = first
    for low, high in planned:
        if at is not None and at < low:
            yield at, low - 1
        at = high + 1 if at is None else max(at, high + 1)


def parse(data: Optional[bytes]) -> Dict[str, Any]:
    """Return the document; an empty one when it is missing or unreadable (it is a memory, no more)."""
    try:
        document = json.loads(data) if data else {}
        gaps = [[int(i[0]), int(i[1]), str(i[2]), float(i[3]), str(i[4]), int(i[5])] for i in document.get("gaps", [])]
        counts = {name: int(document.get(name, 0)) for name in ("filled", "made", "term")}
        marks = {name: document.get(name) for name in ("last_look", "last_sweep", "first_id", "born")}
        if any(isinstance(v, bool) or not isinstance(v, (int, float, type(None))) for v in marks.values()):
            raise ValueError("bad mark")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return parse(None)
    return dict(counts, **marks, gaps=gaps, mode=str(document.get("mode", "")))


class GapLog:
    """The leader's memory of gaps, in the store. Used by the allocator thread of one leader."""

    def __init__(self, strategy: PartitionStrategy, term: int, mode: str) -> None:
        """Read what earlier leaders left; one round trip."""
        self._store = strategy.store
        self._version = 0
        self._term = term
        self._mode = mode
        self._dirty = False
        #: By lower and upper end; the least recently changed first.
        self._gaps: "OrderedDict[Range, Gap]" = OrderedDict()
        #: The store's clock at that reading.
        self.read_at = self._read()

    def _read(self) -> float:
        value = self._store.get(DOCUMENT)
        self._version = value.version
        document = parse(value.data)
        mine = self._gaps
        self._gaps = OrderedDict()
        for low, high, kind, since, state, count in document["gaps"]:
            self._gaps[low, high] = Gap(low, high, kind, since, state, count)
        self._gaps.update(mine)
        self._others_term = document["term"]
        if not self._dirty:
            self.last_look: Optional[float] = document["last_look"]
            self.last_sweep: Optional[float] = document["last_sweep"]
            self.first_id: Optional[int] = document["first_id"]
            self._filled, self._made = document["filled"], document["made"]
            #: When the first leader began to look.
            self.born = value.now if document["born"] is None else float(document["born"])
        return value.now

    def saw(self, item: Range, kind: str, now: float) -> None:
        """Remember that the leader met a gap."""
        before = self._gaps.get(item)
        if before is None or before.state != OPEN:
            self._put(Gap(item[0], item[1], kind, now))

    def did(self, item: Range, kind: str, now: float, partitions: int, done: bool) -> None:
        """Remember what became of a gap: so many more partitions, and whether all of it was looked at."""
        before = self._gaps.get(item) or Gap(item[0], item[1], kind, now)
        count = (before.partitions if before.state == OPEN else 0) + partitions
        state = OPEN if not done else PLANNED if count else EMPTY
        self._made += partitions
        self._filled += state == PLANNED
        since = before.since if before.state == OPEN else now
        self._put(attr.evolve(before, state=state, partitions=count, since=since, kind=kind))

    def _put(self, gap: Gap) -> None:
        self._dirty = True
        self._gaps.pop((gap.min_id, gap.max_id), None)
        self._gaps[gap.min_id, gap.max_id] = gap
        while len(self._gaps) > MAX_REMEMBERED:
            self._gaps.popitem(last=False)

    def mark(self, **marks: Any) -> None:
        """Set ``last_look``, ``last_sweep`` or ``first_id``."""
        for name, value in marks.items():
            self._dirty = self._dirty or getattr(self, name) != value
            setattr(self, name, value)

    def save(self) -> None:
        """Write it if anything changed; a leader of a later term is never overwritten."""
        for _ in range(_TRIES):
            if not self._dirty or self._others_term > self._term:
                return
            document = {
                "mode": self._mode,
                "term": self._term,
                "gaps": [list(attr.astuple(gap)) for gap in self._gaps.values()],
                "filled": self._filled,
                "made": self._made,
                "last_look": self.last_look,
                "last_sweep": self.last_sweep,
                "first_id": self.first_id,
                "born": self.born,
            }
            data = json.dumps(document, separators=(",", ":")).encode("utf-8")
            version = self._store.compare_and_set(DOCUMENT, self._version, data)
            if version is not None:
                self._version, self._dirty = version, False
                return
            self._read()


class Gaps:
    """The gaps of a namespace as a coordinator shows them. Safe from any thread."""

    def __init__(self, strategy: PartitionStrategy, look: Callable[[str], bool]) -> None:
        self._strategy = strategy
        self._look = look

    def report(self) -> GapReport:
        """Return the gaps and what the leader did about them, on any worker; a few round trips."""
        return gap_report(self._strategy)

    def detect(self, mode: str = "discrete") -> bool:
        """Have the gaps looked at soon, out of turn: ``"incremental"`` the holes, ``"discrete"`` also everything that
        was skipped. Does not wait; :meth:`report` tells when (``last_look``, ``last_sweep``).

        :return: False when this worker does not lead: then nothing was asked for.
        :raises ConfigError: for another mode.
        """
        if mode not in ("incremental", "discrete"):
            raise ConfigError("mode must be 'incremental' or 'discrete', not %r" % (mode,))
        return self._look(mode)


def gap_report(strategy: PartitionStrategy) -> GapReport:
    """Return the gaps of a namespace. Costs one round trip per 1,000 planned or skipped ranges (at most 10,000 of the
    skipped). Safe on every worker and from any thread."""
    for _ in range(_TRIES):
        value = strategy.store.get(DOCUMENT)
        document = parse(value.data)
        version, planned = strategy.planned_window(-(2**63), 2**63)
        again, skipped, more = _skipped(strategy)
        if again == version:
            break
    known: Mapping[Range, Gap] = {(low, high): Gap(low, high, *rest) for low, high, *rest in document["gaps"]}
    open_now = {item: gap for item, gap in known.items() if gap.state == OPEN}
    found = list(holes(planned, document["first_id"]))
    filled = [gap for gap in reversed(list(known.values())) if gap.state == PLANNED]
    truncated = len(found) + len(skipped) + len(filled) > MAX_LISTED
    # So that each kind is seen, however many there are of another.
    top, done = (MAX_LISTED // 2, MAX_LISTED // 4) if truncated else (MAX_LISTED, MAX_LISTED)
    listed = [_described(item, open_now) for item in found[:top]]
    asked = [_described(item, known, SKIPPED) for item in skipped[: MAX_LISTED - len(listed) - len(filled[:done])]]
    return GapReport(
        generated_at=value.now,
        mode=document["mode"],
        gaps=[*listed, *asked, *filled[:done]],
        open_count=len(found),
        open_ids=intervals.size(found),
        skipped_count=len(skipped),
        skipped_ids=intervals.size(skipped),
        planned_count=document["filled"],
        planned_partitions=document["made"],
        truncated=more or truncated,
        last_look=document["last_look"],
        last_sweep=document["last_sweep"],
    )


def _described(item: Range, known: Mapping[Range, Gap], kind: str = HOLE) -> Gap:
    """Return the gap as the leader knows it, or as one it has not met."""
    if kind == SKIPPED:
        there = known.get(item)
        since = there.since if there is not None and there.state == EMPTY else None
        return Gap(item[0], item[1], SKIPPED, since, EMPTY)
    for gap in known.values():
        # What is left of a gap that is being filled is still that gap.
        if gap.state == OPEN and gap.min_id <= item[0] and item[1] <= gap.max_id:
            return attr.evolve(gap, min_id=item[0], max_id=item[1])
    return Gap(item[0], item[1], HOLE)


def _skipped(strategy: PartitionStrategy) -> Tuple[int, List[Range], bool]:
    """Return the plan's version, the skipped ranges up to a bound, and whether there are more."""
    out: List[Range] = []
    first: Optional[int] = None
    version = 0
    while len(out) < MAX_SKIPPED_READ:
        found, page = strategy.interval_page("skipped", first, _PAGE)
        if out and found != version:
            # The totals shall be of one moment: the caller begins again.
            return -1, out, True
        version = found
        out += page
        if len(page) < _PAGE:
            return version, out, False
        first = page[-1][1] + 1
    return version, out, True
