"""The contract of a planner from its answer to the completed partition: every reading of it, holes, edges, nonsense.

The leader's parts are driven turn by turn on a real strategy, and a worker completes what they create. Whatever the
planner means by its answers, three things must hold: nothing that exists is lost, the questions come to an end, and
nothing is planned a second time.
"""

from __future__ import annotations

import bisect
import contextlib
import logging
import math
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import pytest

from elk_coordinator import Coordinator, CoordinatorConfig, RedisDataStore, StrategyType, create_strategy
from elk_coordinator.leader.allocator import Allocator, Round
from elk_coordinator.leader.election import Leadership
from elk_coordinator.leader.planner import GuardedPlanner
from elk_coordinator.model import MAX_ID, MIN_ID, Outcome, PartitionStatus, Report
from elk_coordinator.partition.audit import verify
from elk_coordinator.protocols import EVENT_KINDS, Event
from elk_coordinator.runtime.events import Events
from elk_coordinator.store.memory_store import MemoryDataStore
from elk_coordinator.testing import ManualClock
from tests.integration.conftest import QUICK

LOGGER = logging.getLogger("elk_coordinator.test")
INT64 = range(-(2**63), 2**63)
#: Questions that one step over a hole may cost: doubling, bisection, and doubling once more with has_data.
PER_HOLE = 3 * 64 + 5


class Table:
    """A table of rows with integer ids."""

    def __init__(self, ids: Iterable[int], size: int = 10, first: int = 1) -> None:
        self.ids = sorted(set(ids))
        self.size = size
        self.first = first
        self.asked: List[Tuple[str, int, int]] = []

    def partition_size(self, ctx: Any) -> int:
        return self.size

    def first_id(self, ctx: Any) -> int:
        return self.first

    def insert(self, *ids: int) -> None:
        self.ids = sorted({*self.ids, *ids})

    def note(self, what: str, low: int, high: int) -> None:
        assert low in INT64 and high in INT64, "%s(%d, %d)" % (what, low, high)
        self.asked.append((what, low, high))

    def within(self, low: int, high: int) -> List[int]:
        return self.ids[bisect.bisect_left(self.ids, low) : bisect.bisect_right(self.ids, high)]


class Ranged(Table):
    """The largest id within the range: what the contract asks for."""

    def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> int:
        self.note("next", start_id, range_size)
        found = self.within(start_id + 1, start_id + range_size)
        return found[-1] if found else start_id


class Rows(Table):
    """The id of the n-th row from there: counts rows where the contract counts ids."""

    def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> int:
        self.note("next", start_id, range_size)
        at = bisect.bisect_right(self.ids, start_id)
        return self.ids[min(at + range_size, len(self.ids)) - 1] if at < len(self.ids) else start_id


class Whole(Table):
    """The largest id of all, whatever range was asked about."""

    def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> int:
        self.note("next", start_id, range_size)
        return self.ids[-1] if self.ids else 0


class Knows:
    """Adds has_data to a reading."""

    note: Callable[[str, int, int], None]
    within: Callable[[int, int], List[int]]

    def has_data(self, ctx: Any, min_id: int, max_id: int) -> bool:
        self.note("has", min_id, max_id)
        return bool(self.within(min_id, max_id))


class RangedKnows(Knows, Ranged):
    pass


class RowsKnows(Knows, Rows):
    pass


class WholeKnows(Knows, Whole):
    pass


class Planned(Table):
    """Explicit ranges of ``size`` rows each; the other methods must not be asked."""

    def plan(self, ctx: Any, start_id: int, limit: int) -> Iterator[Tuple[int, int]]:
        self.note("plan", start_id, limit)
        at = bisect.bisect_right(self.ids, start_id)
        for i in range(at, len(self.ids), self.size):
            rows = self.ids[i : i + self.size]
            yield rows[0], rows[-1]


READINGS = [Ranged, Rows, Whole]
KNOWING = [RangedKnows, RowsKnows, WholeKnows]


class Recorder:
    def __init__(self) -> None:
        self.events: List[Event] = []

    def of(self, kind: str) -> List[Event]:
        return [event for event in self.events if event.kind == kind]


def _keep(self: Recorder, event: Event) -> None:
    self.events.append(event)


for _kind in EVENT_KINDS:
    setattr(Recorder, "on_" + _kind, _keep)


class Bench:
    """A leader's allocator and a worker that completes everything, both turn by turn."""

    def __init__(self, store: Any, kind: StrategyType, namespace: str, planner: Any, **options: Any) -> None:
        self.strategy: Any = create_strategy(kind, namespace, store)
        self.planner = planner
        self.clock = ManualClock(auto_advance=True)
        self.recorder = Recorder()
        leadership = Leadership(self.clock)
        self.guarded = GuardedPlanner(planner, self.clock, LOGGER)
        self.allocator = Allocator(
            self.strategy, self.guarded, leadership, CoordinatorConfig(strategy=kind, **options), self.clock,
            Events(namespace, "w", self.clock, LOGGER, own=[self.recorder]), LOGGER, lambda why: None,
        )  # fmt: skip
        term = self.strategy.store.acquire_lock("leader", "w", 1e6, self.strategy.memory.floor)
        leadership.grant(term, self.clock.monotonic() + 1e6)
        self.done: List[Tuple[int, int]] = []
        self.rounds = 0

    def round(self) -> Round:
        """Let the time of the next round come, do it, and have everything completed that it created."""
        self.clock.advance(self.allocator.pause(None))
        outcome = self.allocator.run_once()
        assert outcome is not None
        self.rounds += 1
        while True:
            claims = self.strategy.claim_partitions("w", 500)
            if not claims:
                return outcome
            self.done += [(claim.min_id, claim.max_id) for claim in claims]
            results = self.strategy.report_partitions(
                "w", [Report(claim.partition_id, claim.fencing_token, Outcome.COMPLETED) for claim in claims]
            )
            assert not any(result.refused for result in results)

    def run_dry(self, most: int = 60) -> None:
        """Go on until the leader has looked everywhere and found nothing more."""
        for _ in range(most):
            self.allocator._asked = True
            if self.round().exhausted:
                return
        raise AssertionError("no end after %d rounds" % most)

    def check(self) -> None:
        """Every row was in exactly one completed partition; what was planned is disjoint and was planned once."""
        done = sorted(self.done)
        for (_, high), (low, _) in zip(done, done[1:]):
            assert high < low, "planned twice"
        for row in self.planner.ids:
            at = bisect.bisect_right(done, (row, MAX_ID)) - 1
            assert at >= 0 and done[at][0] <= row <= done[at][1], "row %d was lost" % row
        for low, high in self.strategy.skipped_intervals():
            assert not self.planner.within(low, high), "a row was skipped"
        assert verify(self.strategy).problems == []
        assert self.recorder.of("planner_error") == []

    def empty(self) -> int:
        return sum(1 for low, high in self.done if not self.planner.within(low, high))


BACKENDS = ["simple-memory", "simple-redis", "hash-redis"]


@pytest.fixture
def on(request: pytest.FixtureRequest, namespace: str) -> Iterator[Callable[..., Bench]]:
    """Return a function that sets up a bench on one of BACKENDS (the first unless named)."""
    with contextlib.ExitStack() as stack:

        def make(planner: Any, backend: str = "simple-memory", **options: Any) -> Bench:
            kind, where = backend.split("-")
            store: Any = (
                MemoryDataStore()
                if where == "memory"
                else RedisDataStore.from_url(request.getfixturevalue("redis_url"))
            )
            stack.callback(store.close)
            return Bench(store, StrategyType[kind.upper()], namespace, planner, **options)

        yield make


On = Callable[..., Bench]

# ---------------------------------------------------------------- the three readings of get_next_max_id

DENSE = range(1, 1236)
#: Every second and every seventh id: holes within partitions.
LACUNARY = [*range(1, 800, 2), *range(801, 2400, 7)]
#: Holes that no look-ahead bridges.
ISLANDS = [*range(1, 58), *range(10**6, 10**6 + 33), 10**9, *range(10**12, 10**12 + 15)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reading", READINGS + KNOWING)
def test_dense_rows_are_planned_once_whatever_the_planner_means(on: On, reading: Any, backend: str) -> None:
    table = reading(DENSE)
    bench = on(table, backend)
    bench.run_dry()
    bench.check()
    assert len(bench.done) == math.ceil(1235 / 10), "not one more than they need"
    assert bench.strategy.planned_intervals() == [(1, 1235)]


@pytest.mark.parametrize("reading", READINGS + KNOWING)
def test_rows_with_holes_between_are_planned_once_whatever_the_planner_means(on: On, reading: Any) -> None:
    bench = on(reading(LACUNARY))
    bench.run_dry()
    bench.check()
    assert len(bench.done) <= 2400 / 10 + 2400 / 150 + 1, "at most one short partition per look-ahead"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reading", [Ranged] + KNOWING)
def test_islands_far_apart_are_found_by_whoever_can_tell_a_hole_from_data(on: On, reading: Any, backend: str) -> None:
    table = reading(ISLANDS)
    bench = on(table, backend)
    bench.run_dry()
    bench.check()
    # A look-ahead of 15 partitions is planned as soon as anything in it exists: so much at either end of a hole.
    assert bench.empty() <= 4 * 2 * 15
    assert len(table.asked) <= 4 * 2 * PER_HOLE


@pytest.mark.parametrize("reading", [Rows, Whole])
def test_who_cannot_tell_a_hole_gets_empty_partitions_as_fast_as_they_are_completed_and_no_faster(
    on: On, reading: Any, caplog: pytest.LogCaptureFixture
) -> None:
    table = reading([*range(1, 58), 10**12])
    bench = on(table, max_pending_partitions=40)
    for _ in range(20):
        bench.round()
    assert bench.strategy.skipped_intervals() == [], "nothing may be skipped that might hold data"
    assert len(bench.done) <= 20 * 40, "never more at once than may be pending"
    assert len(table.asked) <= 3 * bench.rounds + len(bench.done), "no loop of questions"
    assert len([r for r in caplog.records if "no has_data()" in r.getMessage()]) == 1


@pytest.mark.parametrize("reading", READINGS + KNOWING)
def test_nothing_new_is_asked_about_and_never_planned_again(on: On, reading: Any) -> None:
    table = reading(DENSE)
    bench = on(table)
    bench.run_dry()
    before, partitions = len(table.asked), len(bench.done)
    for _ in range(10):
        assert bench.round().created == 0
    assert len(table.asked) - before <= 10 * (1 + 64)
    assert len(bench.done) == partitions
    bench.check()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reading", READINGS + KNOWING)
def test_a_growing_table_is_followed_without_planning_anything_again(on: On, reading: Any, backend: str) -> None:
    table = reading(range(1, 26))
    bench = on(table, backend)
    bench.run_dry()
    for new in ([26], [27, 31], range(32, 200), [201], range(300, 303)):
        table.insert(*new)
        bench.run_dry()
        bench.check()
    assert bench.strategy.planned_intervals()[-1][1] == 302


@pytest.mark.parametrize("reading", READINGS + KNOWING)
def test_a_table_that_shrinks_takes_nothing_back_and_plans_nothing_again(on: On, reading: Any) -> None:
    table = reading(range(1, 301))
    bench = on(table)
    bench.run_dry()
    done = list(bench.done)
    table.ids = [3, 7]
    bench.run_dry()
    assert bench.done == done
    table.ids = []
    bench.run_dry()
    assert bench.done == done
    table.ids = [3, 7, 301]
    bench.run_dry()
    assert bench.done == [*done, (301, 301)]
    bench.check()


def test_a_planner_that_always_says_more_costs_a_bounded_round(on: On) -> None:
    """The sample of the original answered ``start + range - 1`` for ever, also for an empty table."""

    class Endless(Table):
        def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> int:
            self.note("next", start_id, range_size)
            return start_id + range_size - 1

    table = Endless([])
    bench = on(table, max_pending_partitions=50)
    for number in range(1, 11):
        assert 0 < bench.round().created <= 50
        assert len(table.asked) <= 10 * number
    done = sorted(bench.done)
    assert done[0][0] == 1
    assert all(high + 1 == low for (_, high), (low, _) in zip(done, done[1:])), "without a gap, nothing twice"


# ---------------------------------------------------------------- where the data starts


@pytest.mark.parametrize("reading", [Ranged] + KNOWING)
@pytest.mark.parametrize("first", [0, -1, -37, -(10**12), -(10**18), MIN_ID])
def test_the_plan_starts_at_first_id_and_reaches_over_zero(on: On, reading: Any, first: int) -> None:
    table = reading([*range(first, first + 25), *range(10**3, 10**3 + 25)], first=first)
    bench = on(table)
    bench.run_dry()
    bench.check()
    assert min(bench.done)[0] == first, "not one id in front of it"
    assert len(table.asked) <= 3 * 2 * PER_HOLE


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_first_and_the_last_id_that_64_bits_hold_are_planned(on: On, backend: str) -> None:
    assert MIN_ID == -(2**63) + 1 and MAX_ID == 2**63 - 1
    table = RangedKnows([MIN_ID, MIN_ID + 1, -1, 0, 1, MAX_ID - 1, MAX_ID], first=MIN_ID)
    bench = on(table, backend)
    bench.run_dry()
    bench.check()
    assert bench.strategy.planned_intervals() == [(MIN_ID, MAX_ID)]
    before = len(table.asked)
    bench.allocator._asked = True
    assert bench.round().exhausted
    assert len(table.asked) - before <= 1, "behind the edge there is nothing to ask about"


def test_a_planner_without_first_id_starts_at_1(on: On) -> None:
    table = Ranged([-5, 0, 1, 2])
    table.first_id = None  # type: ignore[assignment,method-assign]
    bench = on(table)
    bench.run_dry()
    assert bench.done == [(1, 2)]


# ---------------------------------------------------------------- has_data


@pytest.mark.parametrize("reading", KNOWING)
@pytest.mark.parametrize("wrong", [2, 3, 10])
def test_a_has_data_that_says_true_wrongly_costs_empty_partitions_and_loses_nothing(
    on: On, reading: Any, wrong: int
) -> None:
    class Careless(reading):  # type: ignore[misc]
        def has_data(self, ctx: Any, min_id: int, max_id: int) -> bool:
            answer: bool = super().has_data(ctx, min_id, max_id)
            return answer or len(self.asked) % wrong == 0

    table = Careless([*range(1, 40), *range(20_000, 20_020)])
    bench = on(table, max_pending_partitions=30)
    for _ in range(700):
        bench.allocator._asked = True
        if bench.round().exhausted:
            break
    else:
        raise AssertionError("no end")
    bench.check()


# ---------------------------------------------------------------- snowflakes


def snowflakes(rows: int, gap: int) -> List[int]:
    """Return ids around 10**18, some close together and the rest *gap* apart."""
    return [10**18 + (i // 4) * gap + (i % 4) * 3 for i in range(rows)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_explicit_plans_of_snowflakes_cost_by_the_number_of_partitions(on: On, backend: str) -> None:
    table = Planned(snowflakes(4000, 1 << 32), size=20)
    bench = on(table, backend)
    bench.run_dry()
    bench.check()
    assert len(bench.done) == 4000 / 20 and bench.empty() == 0
    assert {what for what, _, _ in table.asked} == {"plan"}
    assert len(table.asked) <= len(bench.done) / 10 + bench.rounds, "some 15 partitions per question"
    assert len(bench.strategy.skipped_intervals()) <= 200


def test_explicit_plans_cost_the_same_for_any_span(on: On) -> None:
    costs = []
    for gap in (100, 1 << 22, 1 << 50):
        table = Planned(snowflakes(400, gap), size=8)
        bench = on(table)
        bench.run_dry()
        bench.check()
        costs.append((len(bench.done), len(table.asked), bench.rounds))
    assert len(set(costs)) == 1, costs


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reading", KNOWING)
def test_snowflakes_with_has_data_cost_by_the_number_of_partitions(on: On, reading: Any, backend: str) -> None:
    table = reading(snowflakes(120, 1 << 32), size=1000)
    bench = on(table, backend)
    bench.run_dry()
    bench.check()
    assert len(table.ids) / 4 <= len(bench.done) <= 15 * len(table.ids) / 4
    assert len(table.asked) <= PER_HOLE * (len(table.ids) / 4 + 2), "%d questions" % len(table.asked)


@pytest.mark.parametrize("reading", [Ranged] + KNOWING)
def test_a_thousand_times_the_span_costs_some_questions_more_per_hole_and_no_partition(on: On, reading: Any) -> None:
    costs = []
    for gap in (1 << 30, 1 << 40, 1 << 50):
        table = reading(snowflakes(80, gap), size=1000)
        bench = on(table)
        bench.run_dry()
        bench.check()
        costs.append((len(bench.done), len(table.asked)))
    holes = 80 / 4 + 1
    for (partitions, asked), (more_partitions, more_asked) in zip(costs, costs[1:]):
        assert more_partitions == partitions
        assert more_asked - asked <= 3 * 10 * holes + 10, costs


@pytest.mark.parametrize("strategy", list(StrategyType))
def test_a_fleet_of_one_completes_sparse_snowflakes_to_the_last_row(
    redis_url: str, namespace: str, strategy: StrategyType
) -> None:
    rows = snowflakes(200, 1 << 30)
    seen: List[int] = []
    table = Planned(rows, size=10)

    def process(ctx: Any, min_id: int, max_id: int, options: Dict[str, Any]) -> int:
        found = table.within(min_id, max_id)
        seen.extend(found)
        return len(found)

    with contextlib.closing(RedisDataStore.from_url(redis_url)) as store:
        options: Dict[str, Any] = dict(QUICK, strategy=strategy, task_window_size=1)
        with Coordinator(namespace, store, process, table, **options) as coordinator:
            assert coordinator.wait_idle(30.0)
            assert coordinator.strategy.get_partition_stats().completed == 20
            assert verify(coordinator.strategy).problems == []
    assert sorted(seen) == rows
    assert len(table.asked) <= 100, "%d questions" % len(table.asked)


# ---------------------------------------------------------------- nonsense

NONSENSE: Dict[str, Any] = {
    "None": None, "float": 30.0, "nan": float("nan"), "inf": math.inf, "bool": True, "str": "30", "2**63": 2**63,
    "-2**63 - 1": -(2**63) - 1, "raises": OSError("the database went away"),
}  # fmt: skip


def _give(value: Any) -> Any:
    if isinstance(value, BaseException):
        raise value
    return value


def _plan_error_keeps_everything(bench: Bench, break_it: Callable[[], None], mend_it: Callable[[], None]) -> None:
    bench.run_dry()
    bench.planner.insert(*range(400, 430))
    before = (bench.strategy.planned_window(MIN_ID, MAX_ID), bench.strategy.get_all_partitions())
    break_it()
    for number in (1, 2, 3):
        bench.allocator._asked = True
        assert bench.round() == Round(0, 0, False, False)
        assert len(bench.recorder.of("planner_error")) == number
        assert (bench.strategy.planned_window(MIN_ID, MAX_ID), bench.strategy.get_all_partitions()) == before
    mend_it()
    bench.recorder.events.clear()
    bench.run_dry()
    bench.check()


@pytest.mark.parametrize("what", sorted(NONSENSE))
@pytest.mark.parametrize("backend", BACKENDS)
def test_after_a_bad_answer_the_plan_is_intact_and_goes_on_once_it_is_a_good_one(
    on: On, backend: str, what: str
) -> None:
    table = Ranged(range(1, 301))
    bench = on(table, backend)
    good = table.get_next_max_id

    def broken(ctx: Any, start_id: int, range_size: int) -> Any:
        return _give(NONSENSE[what])

    _plan_error_keeps_everything(
        bench,
        lambda: setattr(table, "get_next_max_id", broken),
        lambda: setattr(table, "get_next_max_id", good),
    )


@pytest.mark.parametrize("what", ["None", "float", "nan", "str", "raises"])
def test_a_bad_answer_of_has_data_skips_nothing(on: On, what: str) -> None:
    table = RangedKnows(range(1, 301))
    bench = on(table, max_pending_partitions=2)
    good = table.has_data
    _plan_error_keeps_everything(
        bench,
        lambda: (
            (
                table.insert(10**9),
                setattr(table, "get_next_max_id", lambda *args: 10**9),
                setattr(table, "has_data", lambda *args: _give(NONSENSE[what])),
            )
            and None
        ),
        lambda: (delattr(table, "get_next_max_id"), setattr(table, "has_data", good)) and None,
    )


#: What plan() gives behind the last planned id, 300.
BAD_PLANS: Dict[str, Sequence[Any]] = {
    "decreasing": [(420, 429), (400, 410)], "overlapping": [(400, 410), (410, 420)], "upside down": [(410, 400)],
    "planned already": [(290, 310)], "behind 64 bits": [(400, 2**63)], "floats": [(400.0, 410.0)], "no pair": [400],
    "nothing": [None], "bools": [(True, True)], "texts": [("400", "410")], "nan": [(float("nan"), 410)],
}  # fmt: skip


@pytest.mark.parametrize("what", [*sorted(BAD_PLANS), "breaks off"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bad_plan_creates_none_of_its_ranges(on: On, backend: str, what: str) -> None:
    table = Planned(range(1, 301))
    bench = on(table, backend)
    good = table.plan

    def broken(ctx: Any, start_id: int, limit: int) -> Any:
        if what == "breaks off":
            yield (400, 409)
            raise OSError("the database went away")
        yield from BAD_PLANS[what]

    _plan_error_keeps_everything(bench, lambda: setattr(table, "plan", broken), lambda: setattr(table, "plan", good))


def test_a_plan_without_end_is_asked_for_no_more_than_it_may_create(on: On) -> None:
    given: List[int] = []

    class Endless(Table):
        def plan(self, ctx: Any, start_id: int, limit: int) -> Iterator[Tuple[int, int]]:
            while True:
                start_id += 1
                given.append(start_id)
                yield start_id, start_id

    bench = on(Endless([]), max_pending_partitions=50)
    for _ in range(4):
        assert 0 < bench.round().created <= 50
    assert given == list(range(1, len(bench.done) + 1)), "each range once, and none that was not created"


def test_what_another_creates_behind_the_plan_meanwhile_is_not_planned_again(on: On) -> None:
    """Ranges that an operator creates by hand lie where the planner would plan next."""
    from elk_coordinator import CreatePartition

    table = Ranged(range(1, 301))
    bench = on(table)
    inserted: Optional[List[Any]] = None
    good = table.get_next_max_id

    def meanwhile(ctx: Any, start_id: int, range_size: int) -> int:
        nonlocal inserted
        if inserted is None:
            inserted = bench.strategy.create_partitions_if_not_exist([CreatePartition(1000, 1, 25)])
        return good(ctx, start_id, range_size)

    table.get_next_max_id = meanwhile  # type: ignore[method-assign]
    bench.run_dry()
    bench.check()
    assert (1, 25) in bench.done
    assert all(p.status is PartitionStatus.COMPLETED for p in bench.strategy.get_all_partitions())


def test_partition_sizes_that_change_with_every_call_plan_each_row_once(on: On) -> None:
    class Fickle(Ranged):
        sizes = iter([1, 10**12, 0, 7, -1, 3, None, 2, 10**12, OSError("down"), 5, 1])

        def partition_size(self, ctx: Any) -> Any:
            return _give(next(self.sizes, 10))

    bench = on(Fickle(range(1, 1236)), max_pending_partitions=40)
    bench.run_dry()
    bench.check()
