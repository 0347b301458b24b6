"""What is planned next, for every kind of planner: dense data, holes of any width, answers far ahead, the edges."""

from __future__ import annotations

import logging
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import hypothesis
import pytest
from hypothesis import strategies as st

from elk_coordinator.errors import PlannerError
from elk_coordinator.leader.explore import Explorer, Step, cut, first_true
from elk_coordinator.leader.planner import GuardedPlanner
from elk_coordinator.model import MAX_ID, MIN_ID, Range
from elk_coordinator.testing import ManualClock

LOGGER = logging.getLogger("elk_coordinator.test")
CTX: Any = object()
INT64 = range(-(2**63), 2**63)


class Data:
    """IDs that exist, as intervals in order."""

    def __init__(self, *intervals: Range) -> None:
        self.intervals: List[Range] = list(intervals)

    def last_in(self, low: int, high: int) -> Optional[int]:
        found = [min(b, high) for a, b in self.intervals if a <= high and b >= low]
        return found[-1] if found else None

    def nth_after(self, start: int, n: int) -> Optional[int]:
        """Return the n-th existing ID behind *start*, or the last one there is."""
        last = None
        for a, b in self.intervals:
            a = max(a, start + 1)
            if a > b:
                continue
            if b - a + 1 >= n:
                return a + n - 1
            n -= b - a + 1
            last = b
        return last

    def any(self, low: int, high: int) -> bool:
        return self.last_in(low, high) is not None


class Counting:
    """Counts the questions, and checks that every argument is a signed 64-bit number."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.asked: List[Tuple[str, int, int]] = []

    def partition_size(self, ctx: Any) -> int:
        return 10

    def note(self, what: str, first: int, second: int) -> None:
        assert first in INT64 and second in INT64, "%s(%d, %d)" % (what, first, second)
        self.asked.append((what, first, second))


class Ranged(Counting):
    """``SELECT max(id) WHERE id > start AND id <= start + range``: what the contract calls usual."""

    def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> int:
        self.note("next", start_id, range_size)
        assert range_size > 0 and start_id + range_size in INT64
        found = self.data.last_in(start_id + 1, start_id + range_size)
        return start_id if found is None else found


class Rows(Counting):
    """``SELECT max(id) FROM (SELECT id WHERE id > start ORDER BY id LIMIT range)``: counts rows, not IDs."""

    def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> int:
        self.note("next", start_id, range_size)
        found = self.data.nth_after(start_id, range_size)
        return start_id if found is None else found


class Whole(Counting):
    """``SELECT max(id)``: ignores the range."""

    def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> int:
        self.note("next", start_id, range_size)
        return self.data.intervals[-1][1] if self.data.intervals else 0


class _Knows:
    data: Data
    note: Callable[[str, int, int], None]

    def has_data(self, ctx: Any, min_id: int, max_id: int) -> bool:
        self.note("has", min_id, max_id)
        assert min_id <= max_id
        return self.data.any(min_id, max_id)


class KnowingRanged(_Knows, Ranged):
    pass


class KnowingRows(_Knows, Rows):
    pass


class KnowingWhole(_Knows, Whole):
    pass


KINDS = [Ranged, Rows, Whole, KnowingRanged, KnowingRows, KnowingWhole]
#: Those that can tell a hole from data.
SEEING = [Ranged, KnowingRanged, KnowingRows, KnowingWhole]


class Bench:
    def __init__(self, planner: Any, size: int = 10, slots: int = 15, max_pending: int = 1000) -> None:
        self.planner = planner
        self.size = size
        self.slots = slots
        self.explorer = Explorer(GuardedPlanner(planner, ManualClock(), LOGGER), max_pending, LOGGER)

    def step(self, frontier: int, room: int = 500, explore: bool = True) -> Optional[Step]:
        return self.explorer.next_step(CTX, frontier, self.size, self.size * self.slots, room, explore)

    def walk(self, frontier: int = 0, steps: int = 3000) -> "Walk":
        """Step on until nothing is new; check that each step joins the last one without gap or overlap."""
        walk = Walk(frontier)
        for _ in range(steps):
            step = self.step(walk.at)
            if step is None:
                return walk
            walk.add(step, self.size)
        raise AssertionError("still not at the end after %d steps, at %d" % (steps, walk.at))


class Walk:
    def __init__(self, frontier: int) -> None:
        self.at = frontier
        self.ranges: List[Range] = []
        self.skipped: List[Range] = []

    def add(self, step: Step, size: int) -> None:
        assert step.ranges or step.skipped, "a step that leads nowhere would be taken for ever"
        for low, high in sorted(step.ranges + step.skipped):
            assert low == self.at + 1, "a gap or an overlap"
            assert low <= high <= MAX_ID
            self.at = high
        assert all(high - low < size for low, high in step.ranges)
        self.ranges += step.ranges
        self.skipped += step.skipped

    def empty(self, data: Data) -> List[Range]:
        return [item for item in self.ranges if not data.any(*item)]

    def check(self, data: Data) -> None:
        """Everything that exists is in a partition, nothing that exists is skipped."""
        for low, high in self.skipped:
            assert not data.any(low, high), "IDs in [%d, %d] exist and were skipped" % (low, high)
        if data.intervals:
            assert self.at >= data.intervals[-1][1]


# ---------------------------------------------------------------- the arithmetic


@pytest.mark.parametrize(
    "low, high, size, limit, ranges",
    [
        (1, 10, 5, 99, [(1, 5), (6, 10)]),
        (1, 11, 5, 99, [(1, 5), (6, 10), (11, 11)]),
        (1, 11, 5, 2, [(1, 5), (6, 10)]),
        (7, 7, 5, 99, [(7, 7)]),
        (-3, 3, 4, 99, [(-3, 0), (1, 3)]),
        (2**63 - 3, 2**63 - 1, 2, 99, [(2**63 - 3, 2**63 - 2), (2**63 - 1, 2**63 - 1)]),
        (1, 10, 5, 0, []),
        (8, 7, 5, 99, []),
    ],
)
def test_cut_makes_partitions_of_the_size_and_one_smaller_at_the_end(
    low: int, high: int, size: int, limit: int, ranges: List[Range]
) -> None:
    assert cut(low, high, size, limit) == ranges


@pytest.mark.parametrize("low, high", [(0, 1), (0, 100), (-50, 50), (-(2**63), 2**63 - 1)])
def test_first_true_finds_the_edge_in_log_questions(low: int, high: int) -> None:
    for edge in {low + 1, high, (low + high) // 2 + 1, min(low + 7, high)}:
        asked: List[int] = []

        def test(number: int, edge: int = edge, asked: List[int] = asked) -> bool:
            asked.append(number)
            return number >= edge

        assert first_true(test, low, high) == edge
        assert len(asked) <= 64
        assert all(low < number < high for number in asked)


# ---------------------------------------------------------------- dense


@pytest.mark.parametrize("kind", KINDS)
def test_dense_data_becomes_partitions_of_the_size_without_gap(kind: Any) -> None:
    data = Data((1, 995))
    walk = Bench(kind(data)).walk()
    assert walk.ranges == cut(1, 995, 10, 10**6)
    assert walk.skipped == []


def test_a_dense_look_ahead_costs_one_question(caplog: pytest.LogCaptureFixture) -> None:
    planner = Ranged(Data((1, 10**9)))
    bench = Bench(planner)
    step = bench.step(0)
    assert step is not None and step.ranges == cut(1, 150, 10, 99) and step.skipped == []
    assert planner.asked == [("next", 0, 150)]


def test_growing_data_is_followed_from_where_the_plan_ends() -> None:
    data = Data((1, 25))
    bench = Bench(Ranged(data))
    walk = bench.walk()
    assert walk.ranges == [(1, 10), (11, 20), (21, 25)]
    for last in (26, 31, 100):
        data.intervals = [(1, last)]
        step = bench.step(walk.at, explore=False)
        assert step is not None
        walk.add(step, 10)
        assert walk.at == last
    walk.check(data)
    assert bench.step(walk.at) is None


@pytest.mark.parametrize("kind", KINDS)
def test_no_step_plans_more_than_there_is_room_for(kind: Any) -> None:
    data = Data((1, 10**7))
    for room in (1, 7, 500):
        step = Bench(kind(data)).step(0, room=room)
        assert step is not None and len(step.ranges) == min(room, 15)
    step = Bench(kind(data), slots=10_000).step(0, room=10**6)
    assert step is not None and len(step.ranges) <= 500, "a batch"


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_new_is_none(kind: Any) -> None:
    bench = Bench(kind(Data((1, 100))))
    assert bench.step(100) is None
    assert Bench(kind(Data())).step(0) is None


# ---------------------------------------------------------------- "nothing new" is believed only after doubling


def test_without_exploring_nothing_new_costs_one_question() -> None:
    planner = Ranged(Data((10**6, 10**6)))
    assert Bench(planner).step(0, explore=False) is None
    assert planner.asked == [("next", 0, 150)]


@pytest.mark.parametrize("frontier", [0, 1, 10**18, 2**63 - 2, -1, -(2**62), -(2**63)])
@pytest.mark.parametrize("size, slots", [(1, 3), (10, 15), (2**40, 15), (2**62, 1000)])
def test_nothing_new_takes_at_most_64_doubled_questions_up_to_the_edge(frontier: int, size: int, slots: int) -> None:
    planner = Ranged(Data())
    assert Bench(planner, size, slots).step(frontier) is None
    assert len(planner.asked) <= 1 + 64
    covered = frontier
    for _, start, reach in planner.asked:
        assert start == frontier or start == covered, "from the frontier, or on from where nothing was"
        assert start + reach > covered
        covered = start + reach
    assert covered == MAX_ID


def test_at_the_edge_there_is_nothing_to_ask() -> None:
    planner = Ranged(Data((1, MAX_ID)))
    assert Bench(planner).step(MAX_ID) is None
    assert planner.asked == []


# ---------------------------------------------------------------- holes


@pytest.mark.parametrize("hole", [10**12, 3 * 10**11, 151, 10**18])
@pytest.mark.parametrize("kind", [Ranged, KnowingRanged])
def test_a_hole_is_crossed_in_log_questions_without_empty_partitions(kind: Any, hole: int) -> None:
    data = Data((1, 1000), (1001 + hole, 1500 + hole))
    planner = kind(data)
    bench = Bench(planner)
    walk = Walk(0)
    while walk.at < 1000:
        walk.add(bench.step(walk.at), 10)  # type: ignore[arg-type]
    planner.asked.clear()
    step = bench.step(1000)
    assert step is not None
    assert step.skipped == [(1001, 1000 + hole)], "one interval"
    assert step.ranges[0][0] == 1001 + hole, "the next partition begins where the data does"
    # Doubling, bisection, and once more doubling with has_data for who has it.
    assert len(planner.asked) <= (2 if kind is Ranged else 3) * hole.bit_length() + 5
    walk.add(step, 10)
    while walk.at < 1500 + hole:
        walk.add(bench.step(walk.at), 10)  # type: ignore[arg-type]
    walk.check(data)
    assert walk.empty(data) == []


@pytest.mark.parametrize("hole", [10**12, 3 * 10**11])
@pytest.mark.parametrize("kind", [KnowingRows, KnowingWhole])
def test_a_planner_that_counts_rows_or_ignores_the_range_crosses_a_hole_by_has_data(kind: Any, hole: int) -> None:
    data = Data((1, 1000), (1001 + hole, 1500 + hole), (2 * hole, 2 * hole + 9))
    planner = kind(data)
    bench = Bench(planner)
    walk = bench.walk()
    walk.check(data)
    assert len(walk.skipped) == 2
    # A block of one look-ahead is planned as soon as anything in it exists: so much at either end of a hole.
    assert len(walk.empty(data)) <= 2 * 2 * bench.slots
    assert len(planner.asked) <= 1000


@pytest.mark.parametrize("kind", [Rows, Whole])
def test_without_has_data_such_a_hole_becomes_empty_partitions_lazily_with_one_warning(
    kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    data = Data((1, 1000), (10**12, 10**12 + 5))
    planner = kind(data)
    bench = Bench(planner)
    walk = Walk(1000)
    for number in range(1, 51):
        planner.asked.clear()
        step = bench.step(walk.at)
        assert step is not None
        walk.add(step, 10)
        assert len(planner.asked) == 1
        assert walk.at == 1000 + 150 * number, "one look-ahead at a time"
    assert walk.skipped == [], "nothing may be skipped that might hold data"
    assert len([r for r in caplog.records if "no has_data()" in r.getMessage()]) == 1


@pytest.mark.parametrize("kind", SEEING)
def test_many_holes_one_after_the_other(kind: Any) -> None:
    data = Data(*((i * 10**9, i * 10**9 + 37) for i in range(1, 8)))
    bench = Bench(kind(data))
    walk = bench.walk()
    walk.check(data)
    assert len(walk.skipped) == 7
    assert len(walk.empty(data)) <= 7 * 2 * bench.slots


def test_single_ids_far_apart_are_partitions_of_their_own() -> None:
    data = Data(*((7 * 10**k, 7 * 10**k) for k in range(3, 18)))
    walk = Bench(Ranged(data)).walk()
    assert walk.empty(data) == []
    assert [low for low, _ in walk.ranges] == [7 * 10**k for k in range(3, 18)]


# ---------------------------------------------------------------- answers far ahead


@pytest.mark.parametrize("further, asks", [(0, False), (1, True)])
def test_an_answer_further_ahead_than_may_be_pending_is_explored(further: int, asks: bool) -> None:
    planner = KnowingWhole(Data((1, 100 * 10 + further)))
    step = Bench(planner, max_pending=100).step(0)
    assert step is not None and step.ranges[0] == (1, 10)
    assert ("has" in {what for what, _, _ in planner.asked}) is asks


@pytest.mark.parametrize("kind", [KnowingRows, KnowingWhole])
def test_dense_data_far_ahead_is_planned_one_look_ahead_at_a_time(kind: Any) -> None:
    planner = kind(Data((1, 10**9)))
    step = Bench(planner, slots=200, max_pending=100).step(0)
    assert step is not None
    assert step.ranges == cut(1, 2000, 10, 10**6) and step.skipped == []


def test_what_has_data_says_false_to_is_skipped_even_up_to_the_planners_own_answer() -> None:
    class Liar(KnowingWhole):
        def has_data(self, ctx: Any, min_id: int, max_id: int) -> bool:
            return False

    step = Bench(Liar(Data((1, 10**9)))).step(0)
    assert step == Step([], [(1, 10**9)], True)


def test_a_has_data_that_always_says_true_costs_empty_partitions_and_skips_nothing() -> None:
    class Careful(KnowingWhole):
        def has_data(self, ctx: Any, min_id: int, max_id: int) -> bool:
            return True

    bench = Bench(Careful(Data((10**12, 10**12))))
    walk = Walk(0)
    for _ in range(20):
        walk.add(bench.step(walk.at), 10)  # type: ignore[arg-type]
    assert walk.skipped == [] and walk.at == 20 * 150


# ---------------------------------------------------------------- data that appears between two questions


class Appearing(Ranged):
    """IDs are inserted right after the n-th question."""

    def __init__(self, data: Data, after: int, *more: Range) -> None:
        super().__init__(data)
        self.after = after
        self.more = more

    def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> int:
        answer = super().get_next_max_id(ctx, start_id, range_size)
        if len(self.asked) == self.after:
            self.data.intervals = sorted(self.data.intervals + list(self.more))
        return answer


@pytest.mark.parametrize("after", range(1, 12))
@pytest.mark.parametrize("new", [(101, 101), (101, 105), (190, 193), (5000, 5001), (10**9, 10**9 + 3)])
def test_ids_that_appear_between_two_questions_are_new_data_and_no_error(after: int, new: Range) -> None:
    data = Data((1, 100))
    step = Bench(Appearing(data, after, new)).step(100)
    if step is None:
        assert new[1] <= 100 + 150 * 2**12, "it appeared behind where the questions were already, or not at all"
        step = Bench(Ranged(data)).step(100)
    assert step is not None
    walk = Walk(100)
    walk.add(step, 10)
    walk.check(Data(new))
    assert walk.empty(data) == []


class KnowingAppearing(_Knows, Appearing):
    pass


def test_ids_that_appear_before_data_that_was_found_far_ahead_are_not_skipped() -> None:
    # Nothing up to 250, then 350 found by the doubled question, then 105 appears.
    step = Bench(KnowingAppearing(Data((1, 100), (350, 360)), 2, (105, 106))).step(100)
    assert step is not None
    assert step.skipped == [(101, 104)] and step.ranges[0][0] == 105


# ---------------------------------------------------------------- the edges of 64 bits


@pytest.mark.parametrize("kind", SEEING)
@pytest.mark.parametrize(
    "intervals",
    [
        [(MAX_ID, MAX_ID)],
        [(1, 5), (MAX_ID - 3, MAX_ID)],
        [(MIN_ID, MIN_ID), (MAX_ID, MAX_ID)],
        [(MIN_ID, MIN_ID + 99), (-1, 1), (MAX_ID - 99, MAX_ID)],
        [(-(2**62), -(2**62)), (5, 5)],
        [(0, 0)],
        [(-1, -1)],
    ],
)
def test_ids_at_the_edges_are_planned_exactly(kind: Any, intervals: List[Range]) -> None:
    data = Data(*intervals)
    bench = Bench(kind(data))
    walk = bench.walk(frontier=MIN_ID - 1)
    walk.check(data)
    assert len(walk.empty(data)) <= 2 * bench.slots * len(intervals)
    assert len(bench.planner.asked) < 1500


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2**62, 2**63 - 1])
def test_partitions_as_large_as_the_whole_space_stay_inside_it(kind: Any, size: int) -> None:
    data = Data((1, 10), (MAX_ID - 5, MAX_ID))
    walk = Bench(kind(data), size=size).walk()
    walk.check(data)
    assert walk.at == MAX_ID


# ---------------------------------------------------------------- every kind of data


@st.composite
def data_sets(draw: Any, wide: bool) -> Data:
    at = draw(st.integers(-500, 500))
    intervals: List[Range] = []
    for _ in range(draw(st.integers(0, 6))):
        gap = draw(st.one_of(st.integers(0, 400), st.integers(0, 10**15) if wide else st.integers(0, 3000)))
        length = draw(st.integers(1, 400))
        intervals.append((at + gap + 1, at + gap + length))
        at = intervals[-1][1] + 1
    return Data(*intervals)


@pytest.mark.parametrize("kind", KINDS)
@hypothesis.settings(max_examples=60, derandomize=True)
@hypothesis.given(drawn=st.data())
def test_whatever_exists_is_planned_once_and_nothing_of_it_is_skipped(kind: Any, drawn: Any) -> None:
    data = drawn.draw(data_sets(kind in SEEING))
    size, slots = drawn.draw(st.integers(1, 60)), drawn.draw(st.integers(3, 20))
    bench = Bench(kind(data), size, slots, max_pending=drawn.draw(st.integers(1, 50)))
    first = drawn.draw(st.integers(-1000, -501))
    walk = bench.walk(first)
    walk.check(data)
    assert len(bench.planner.asked) <= 200 * (1 + len(walk.ranges) + len(data.intervals))


@hypothesis.settings(max_examples=60, derandomize=True)
@hypothesis.given(data=data_sets(True), noise=st.integers(0, 2**32), kind=st.sampled_from([KnowingRows, KnowingWhole]))
def test_a_has_data_that_says_true_wrongly_now_and_then_skips_nothing_that_exists(
    data: Data, noise: int, kind: Any
) -> None:
    class Noisy(kind):  # type: ignore[misc]
        def has_data(self, ctx: Any, min_id: int, max_id: int) -> bool:
            self.note("has", min_id, max_id)
            return bool(self.data.any(min_id, max_id)) or hash((noise, min_id, max_id)) % 4 == 0

    bench = Bench(Noisy(data), max_pending=10)
    walk = Walk(-501)
    for _ in range(300):
        step = bench.step(walk.at)
        if step is None:
            break
        walk.add(step, 10)
        for low, high in step.skipped:
            assert not data.any(low, high)


# ---------------------------------------------------------------- explicit plans


class Explicit:
    """Gives its ranges itself; the other methods would be wrong to ask."""

    def __init__(self, ranges: Sequence[Any]) -> None:
        self.ranges = ranges
        self.asked: List[Tuple[int, int]] = []

    def plan(self, ctx: Any, start_id: int, limit: int) -> Any:
        self.asked.append((start_id, limit))
        return (item for item in self.ranges if item[0] > start_id)


def test_plan_gives_the_ranges_and_what_lies_between_them_is_skipped() -> None:
    bench = Bench(Explicit([(5, 9), (10, 10), (1000, 10**15), (2**63 - 5, 2**63 - 1)]))
    step = bench.step(0)
    assert step is not None
    assert step.ranges == [(5, 9), (10, 10), (1000, 10**15), (2**63 - 5, 2**63 - 1)], "of any length"
    assert step.skipped == [(1, 4), (11, 999), (10**15 + 1, 2**63 - 6)]
    assert bench.planner.asked == [(0, 500)]
    assert bench.step(2**63 - 1) is None


def test_plan_is_asked_for_no_more_than_there_is_room_and_the_rest_next_time() -> None:
    bench = Bench(Explicit([(i, i) for i in range(1, 2000)]))
    step = bench.step(0, room=7)
    assert step is not None and step.ranges == [(i, i) for i in range(1, 8)] and step.more
    assert bench.planner.asked == [(0, 7)]
    step = bench.step(7, room=100_000)
    assert step is not None and len(step.ranges) == 500 and step.ranges[0] == (8, 8)


def test_plan_that_has_nothing_new_is_asked_once_whatever_is_explored() -> None:
    bench = Bench(Explicit([(1, 5)]))
    assert bench.step(5, explore=True) is None
    assert bench.planner.asked == [(5, 500)]


def test_plan_costs_by_the_number_of_partitions_never_by_the_span() -> None:
    snowflakes = [(i << 22, (i << 22) + 4095) for i in range(10**9, 10**9 + 2000)]
    bench = Bench(Explicit(snowflakes))
    walk = Walk(0)
    while walk.at < snowflakes[-1][1]:
        step = bench.step(walk.at)
        assert step is not None
        walk.add(step, 4096)
    assert walk.ranges == snowflakes
    assert len(bench.planner.asked) == 4


BAD_PLANS: Dict[str, Any] = {
    "before start_id": [(5, 9)],
    "touching start_id": [(100, 120)],
    "descending": [(200, 210), (150, 160)],
    "overlapping": [(101, 110), (110, 120)],
    "upside down": [(120, 110)],
    "not pairs": [101, 102],
    "triples": [(101, 102, 103)],
    "floats": [(101.0, 102.0)],
    "bools": [(True, True)],
    "texts": [("101", "102")],
    "None": [(None, None)],
    "None in between": [(101, 102), None],
    "beyond 64 bits": [(101, 2**63)],
}


@pytest.mark.parametrize("what", sorted(BAD_PLANS))
def test_plan_that_gives_nonsense_is_a_planner_error(what: str) -> None:
    class Bad(Explicit):
        def plan(self, ctx: Any, start_id: int, limit: int) -> Any:
            return iter(self.ranges)

    with pytest.raises(PlannerError, match=r"planner\.plan"):
        Bench(Bad(BAD_PLANS[what])).step(100)
