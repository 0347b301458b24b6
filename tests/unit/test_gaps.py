"""The leader's look for gaps, turn by turn: what is found, what is asked, what is never planned again."""

from __future__ import annotations

import logging
import random
from bisect import bisect_left, bisect_right
from typing import Any, Callable, Dict, Iterable, List, Optional, Set, Tuple

import attr
import pytest

from elk_coordinator import (
    ConfigError,
    CoordinatorConfig,
    CreatePartition,
    StoreError,
    StoreUnavailable,
    StrategyType,
    create_strategy,
)
from elk_coordinator.leader.allocator import Allocator
from elk_coordinator.leader.election import Leadership
from elk_coordinator.leader.gaps import DefaultGapDetector, GapFiller
from elk_coordinator.leader.planner import GuardedPlanner
from elk_coordinator.model import MAX_ID, MIN_ID, Outcome, Report, Sweep
from elk_coordinator.partition.audit import verify
from elk_coordinator.partition.gaps import Gaps, gap_report, holes
from elk_coordinator.partition.intervals import merge, subtract
from elk_coordinator.protocols import Event, GapDetector
from elk_coordinator.runtime.events import Events
from elk_coordinator.store.memory_store import MemoryDataStore
from elk_coordinator.testing import Faulty, ManualClock

LOGGER = logging.getLogger("elk_coordinator.test")
Range = Tuple[int, int]


class Rows:
    """A table: says exactly which IDs exist."""

    def __init__(self, ids: Iterable[int], size: int = 10, first: int = 1) -> None:
        self.ids = sorted(ids)
        self.size = size
        self.first = first
        self.asked: List[Any] = []
        self.broken: Callable[[int, int], bool] = lambda low, high: False

    def insert(self, *ids: int) -> None:
        self.ids = sorted(set(self.ids) | set(ids))

    def partition_size(self, ctx: Any) -> int:
        return self.size

    def first_id(self, ctx: Any) -> int:
        return self.first

    def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> int:
        self.asked.append(("next", start_id, range_size))
        index = bisect_right(self.ids, start_id + range_size)
        return max(start_id, self.ids[index - 1] if index else start_id)

    def has_data(self, ctx: Any, min_id: int, max_id: int) -> bool:
        self.asked.append((min_id, max_id))
        if self.broken(min_id, max_id):
            raise RuntimeError("the database is away")
        index = bisect_left(self.ids, min_id)
        return index < len(self.ids) and self.ids[index] <= max_id


class RowsOnly(Rows):
    """The same without ``has_data``."""

    has_data = None  # type: ignore[assignment]


class Sparse:
    """Explicit ranges of at most *size* rows each."""

    def __init__(self, ids: Iterable[int], size: int = 3) -> None:
        self.ids = sorted(ids)
        self.size = size

    def plan(self, ctx: Any, start_id: int, limit: int) -> Iterable[Range]:
        rows = self.ids[bisect_right(self.ids, start_id) :]
        for i in range(0, len(rows), self.size):
            part = rows[i : i + self.size]
            yield part[0], part[-1]


class Recorder:
    def __init__(self) -> None:
        self.gaps: List[Event] = []
        self.errors: List[Event] = []

    def on_gap_found(self, event: Event) -> None:
        self.gaps.append(event)

    def on_planner_error(self, event: Event) -> None:
        self.errors.append(event)


class Bench:
    """An allocator that leads and looks for gaps, on a store in memory."""

    def __init__(self, planner: Any, detector: Any = None, **options: Any) -> None:
        self.clock = ManualClock()
        self.root = MemoryDataStore(self.clock)
        self.strategy: Any = create_strategy(StrategyType.SIMPLE, "gaps", self.root)
        self.faulty = Faulty(self.strategy)
        self.planner = planner
        self.config = CoordinatorConfig(gap_detector=detector, **options)
        self.recorder = Recorder()
        self.over: List[str] = []
        self.leadership = Leadership(self.clock)
        self.guarded = GuardedPlanner(planner, self.clock, LOGGER)
        events = Events("gaps", "w", self.clock, LOGGER, own=[self.recorder])
        self.allocator = Allocator(
            self.faulty, self.guarded, self.leadership, self.config, self.clock, events, LOGGER, self.over.append
        )
        self.new_filler(events)
        self.lead()

    def new_filler(self, events: Optional[Events] = None) -> None:
        events = events or Events("gaps", "w", self.clock, LOGGER, own=[self.recorder])
        self.filler = GapFiller(self.faulty, self.guarded, self.config, self.clock, events, LOGGER)
        self.allocator.gaps = self.filler

    def lead(self) -> None:
        store = self.strategy.store
        store.release_lock("leader", store.read_lock("leader")[1])
        term = store.acquire_lock("leader", "w", 1e9, self.strategy.memory.floor)
        self.leadership.grant(term, self.clock.monotonic() + 1e9)

    def run(self, turns: int = 200, complete: bool = True) -> None:
        """Let time pass until nothing is left to do now."""
        for _ in range(turns):
            did = self.allocator.run_once()
            if complete:
                self.complete()
            pause = self.allocator.pause(did)
            if pause > 1.0 and not self.filler.busy:
                return
            self.clock.advance(pause)

    def wait(self, seconds: float) -> None:
        """Let *seconds* pass, with every turn that comes due."""
        until = self.clock.monotonic() + seconds
        for _ in range(5000):
            self.allocator.run_once()
            self.complete()
            left = until - self.clock.monotonic()
            if left <= 0:
                return
            self.clock.advance(min(left, self.allocator.pause(None)))
        raise AssertionError("it goes round and round")

    def complete(self, most: int = 500) -> None:
        claims = self.strategy.claim_partitions("w", most)
        self.strategy.report_partitions(
            "w", [Report(claim.partition_id, claim.fencing_token, Outcome.COMPLETED) for claim in claims]
        )
        if claims:
            self.allocator.hint()

    def ranges(self) -> List[Range]:
        return sorted((p.min_id, p.max_id) for p in self.strategy.get_all_partitions())

    def covered(self) -> Set[int]:
        return {i for low, high in self.ranges() for i in range(low, high + 1)}

    def holds(self, row: int) -> bool:
        return any(low <= row <= high for low, high in self.ranges())

    def delete(self, *ids: int) -> None:
        assert self.strategy.delete_partitions(ids) == []

    def sound(self) -> None:
        assert verify(self.strategy).problems == []

    def told(self) -> List[Tuple[int, int, str, str]]:
        return [(e.min_id, e.max_id, e.gap, e.action) for e in self.recorder.gaps]


# ---------------------------------------------------------------- holes


def test_a_deleted_completed_range_comes_back_under_a_new_id(caplog: Any) -> None:
    bench = Bench(Rows(range(1, 101)))
    bench.run()
    assert len(bench.ranges()) == 10
    bench.delete(4)
    bench.wait(60.0)
    assert bench.ranges() == [(i * 10 + 1, i * 10 + 10) for i in range(10)]
    found = {p.min_id: p.partition_id for p in bench.strategy.get_all_partitions()}
    assert found[31] == 11
    assert bench.told() == [(31, 40, "deleted", "planned")]
    (gap,) = [g for g in gap_report(bench.strategy).gaps if g.state == "planned"]
    assert (gap.min_id, gap.max_id, gap.ids, gap.kind, gap.partitions) == (31, 40, 10, "deleted", 1)
    assert gap.since is not None
    bench.sound()


def test_a_deleted_range_whose_rows_are_gone_is_recorded_as_skipped_and_asked_no_more() -> None:
    planner = Rows(range(1, 101))
    bench = Bench(planner, DefaultGapDetector(sweep_age=None))
    bench.run()
    planner.ids = [i for i in planner.ids if not 31 <= i <= 40]
    bench.delete(4)
    bench.wait(60.0)
    assert bench.strategy.skipped_intervals() == [(31, 40)] and bench.strategy.planned_intervals() == [(1, 100)]
    assert bench.told() == [(31, 40, "deleted", "empty")]
    planner.asked.clear()
    bench.wait(300.0)
    assert [q for q in planner.asked if q[0] != "next"] == []
    bench.sound()


@pytest.mark.parametrize("planner", [Rows(range(1, 31)), RowsOnly(range(1, 31)), Sparse(range(1, 31))])
def test_single_id_gaps_are_filled(planner: Any) -> None:
    bench = Bench(planner)
    bench.strategy.create_partitions_if_not_exist(
        [CreatePartition(1, 1, 6), CreatePartition(2, 8, 9), CreatePartition(3, 11, 30)]
    )
    bench.run()
    assert bench.ranges() == [(1, 6), (7, 7), (8, 9), (10, 10), (11, 30)]
    bench.sound()


def test_data_before_the_first_partition_is_planned() -> None:
    bench = Bench(Rows(range(1, 101)))
    bench.strategy.create_partitions_if_not_exist([CreatePartition(1, 51, 60)])
    bench.run()
    assert bench.covered() == set(range(1, 101))
    bench.sound()


def test_a_first_id_that_was_lowered_is_noticed_by_the_sweep() -> None:
    planner = Rows(range(1, 51))
    bench = Bench(planner, DefaultGapDetector(sweep_age=100.0))
    bench.run()
    planner.insert(*range(-20, 1))
    planner.first = -20
    bench.wait(90.0)
    assert min(bench.covered()) == 1
    bench.wait(20.0)
    assert bench.covered() == set(range(-20, 51))
    bench.sound()


def test_a_deleted_range_below_the_first_id_of_the_planner_is_a_gap_too() -> None:
    planner = Rows(range(1, 51))
    bench = Bench(planner)
    bench.run()
    planner.first = 30
    bench.delete(1, 2)
    bench.wait(60.0)
    # What begins at the first partition left is all that can be known of a plan; 11..20 lies between.
    assert bench.covered() >= set(range(21, 51))
    bench.sound()


def test_what_is_completed_archived_or_held_is_no_gap() -> None:
    planner = Rows(range(1, 3001))
    bench = Bench(planner, DefaultGapDetector(sweep_age=50.0))
    bench.run()
    before = bench.strategy.get_all_partitions()
    assert len(before) == 300, "more than the document keeps: most are in chunks"
    bench.wait(500.0)
    assert bench.allocator.gaps is not None
    assert bench.strategy.get_all_partitions() == before
    assert bench.recorder.gaps == []


def test_an_empty_part_of_a_gap_is_skipped_by_bisection() -> None:
    planner = Rows([*range(1, 11), 5_000_000, *range(10**7, 10**7 + 10)])
    bench = Bench(planner)
    bench.strategy.create_partitions_if_not_exist([CreatePartition(1, 1, 10), CreatePartition(2, 10**7, 10**7 + 9)])
    bench.run()
    assert bench.ranges() == [(1, 10), (5_000_000, 5_000_009), (10**7, 10**7 + 9)]
    assert bench.strategy.planned_intervals() == [(1, 10**7 + 9)]
    bench.sound()


@pytest.mark.parametrize("width", [3 * 10**11, 2**62])
@pytest.mark.parametrize("where", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", [Rows, RowsOnly])
def test_a_hole_of_any_width_costs_a_logarithm_of_questions(width: int, where: float, kind: Any) -> None:
    row = 11 + int(where * (width - 12))
    planner = kind([*range(1, 11), row, *range(width, width + 10)])
    bench = Bench(planner)
    bench.strategy.create_partitions_if_not_exist([CreatePartition(1, 1, 10), CreatePartition(2, width, width + 9)])
    bench.allocator.run_once()
    bench.complete()
    planner.asked.clear()
    bench.run()
    assert any(low <= row <= high for low, high in bench.ranges())
    assert len(planner.asked) < 64 + 3 * width.bit_length()
    assert len(bench.ranges()) == 3
    bench.sound()


def test_the_widest_gap_there_can_be() -> None:
    planner = RowsOnly([MIN_ID, MIN_ID + 5, 0, MAX_ID - 3], first=MIN_ID)
    bench = Bench(planner)
    bench.strategy.create_partitions_if_not_exist([CreatePartition(1, MAX_ID - 1, MAX_ID)])
    bench.run()
    assert bench.ranges() == [(MIN_ID, MIN_ID + 9), (0, 9), (MAX_ID - 3, MAX_ID - 2), (MAX_ID - 1, MAX_ID)]
    for question in planner.asked:
        assert all(-(2**63) <= n < 2**63 for n in question[1:]), "arguments stay inside signed 64 bits"
    bench.sound()


def test_explicit_ranges_are_cut_to_the_gap_and_the_rest_is_skipped() -> None:
    planner = Sparse([10**18 + i * 10**6 for i in range(20)])
    bench = Bench(planner)
    bench.run()
    before = bench.ranges()
    planner.ids = sorted([*planner.ids, 10**18 + 5])
    bench.delete(1)
    bench.wait(60.0)
    assert bench.ranges()[0] == (10**18, 10**18 + 10**6)
    assert bench.ranges()[1:] != before
    assert all(any(low <= i <= high for low, high in bench.ranges()) for i in planner.ids)
    bench.sound()


# ---------------------------------------------------------------- skipped ranges


def appeared(planner: Any, row: int) -> None:
    planner.ids = sorted([*planner.ids, row])


@pytest.mark.parametrize("kind", [Rows, RowsOnly, Sparse])
def test_rows_that_appear_in_a_skipped_range_are_found_when_the_sweep_is_due(kind: Any) -> None:
    planner = kind([*range(1, 22), *range(10**9, 10**9 + 10)])
    bench = Bench(planner, DefaultGapDetector(sweep_age=100.0))
    bench.run()
    assert intervals_size(bench.strategy.skipped_intervals()) > 9 * 10**8
    appeared(planner, 777_777)
    bench.wait(90.0)
    assert not bench.holds(777_777)
    bench.wait(20.0)
    assert bench.holds(777_777)
    told = bench.told()
    assert [t[2:] for t in told] == [("skipped", "planned")]
    assert gap_report(bench.strategy).last_sweep is not None
    bench.sound()


def intervals_size(ranges: List[Range]) -> int:
    return sum(high - low + 1 for low, high in ranges)


def test_without_a_sweep_age_or_in_incremental_mode_skipped_ranges_are_not_asked_again() -> None:
    for detector in (DefaultGapDetector(sweep_age=None), DefaultGapDetector(mode="incremental", sweep_age=1.0)):
        planner = Rows([*range(1, 21), *range(10**6, 10**6 + 10)])
        bench = Bench(planner, detector)
        bench.run()
        planner.insert(5000)
        bench.wait(2000.0)
        assert 5000 not in bench.covered()
        bench.allocator.look("discrete")
        bench.wait(5.0)
        assert 5000 in bench.covered(), "asked for on purpose"


def test_a_new_leader_goes_on_with_the_age_of_the_last_sweep() -> None:
    planner = Rows([*range(1, 21), *range(10**6, 10**6 + 10)])
    bench = Bench(planner, DefaultGapDetector(sweep_age=100.0))
    bench.run()
    planner.insert(5000)
    for _ in range(3):
        bench.wait(30.0)
        assert 5000 not in bench.covered()
        bench.lead()
    bench.wait(20.0)
    assert 5000 in bench.covered(), "though no leader led for a whole age"


def test_a_sweep_asks_at_most_so_many_questions_a_second() -> None:
    ids = [i * 1000 for i in range(1, 301)]
    planner = Rows(ids, size=1)
    bench = Bench(planner, DefaultGapDetector(sweep_age=1000.0), worker_partition_multiple=100)
    bench.run()
    assert len(bench.strategy.skipped_intervals()) == 300
    bench.allocator.look("discrete")
    planner.asked.clear()
    bench.allocator.run_once()
    assert len(planner.asked) <= 64
    assert bench.filler.pause() > 0.9
    assert not bench.filler.busy, "whoever waits for idleness does not wait for a sweep"
    bench.wait(10.0)
    assert len([q for q in planner.asked if q[0] != "next"]) == 300


def test_a_planner_that_ignores_the_range_gets_no_partitions_for_skipped_ranges() -> None:
    class Last(RowsOnly):
        def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> int:
            return max(start_id, self.ids[-1])

    bench = Bench(Last(range(1, 101)), DefaultGapDetector(sweep_age=50.0))
    term = bench.leadership.term
    bench.strategy.plan_partitions(bench.strategy.plan_state(), term, [], [(1, 50)])
    bench.wait(200.0)
    assert bench.covered() == set(range(51, 101))
    bench.delete(1)
    bench.wait(60.0)
    assert bench.covered() == set(range(51, 101)), "but a hole may hold data"


# ---------------------------------------------------------------- beside planning


@pytest.mark.parametrize("done_at_once", [2, 5, 500])
def test_new_data_and_a_wide_gap_share_the_room(done_at_once: int) -> None:
    planner = Rows(range(1, 60_001))
    bench = Bench(planner)
    bench.strategy.create_partitions_if_not_exist([CreatePartition(1, 10_001, 10_010)])
    fresh: List[int] = []
    filled: List[int] = []
    for step in range(101):
        bench.allocator.hint()
        bench.allocator.run_once()
        stats = bench.strategy.get_partition_stats()
        assert stats.open < 2 * 15, "lazily: no more than the fleet uses soon"
        bench.complete(done_at_once)
        bench.clock.advance(0.1)
        if step % 50 == 0:
            fresh.append(stats.last_allocated_id)
            filled.append(sum(high < 10_001 for _, high in bench.ranges()))
    assert fresh[2] > fresh[1] > fresh[0] > 10_010
    assert filled[2] > filled[1] > 0
    bench.sound()


def test_the_namespace_is_never_said_to_be_idle_while_a_hole_is_being_asked_about() -> None:
    """1. A turn ends within a hole. 2. The round after it finds nothing new. 3. The planner is slow to answer about the
    rest of the hole: whoever waits for idleness must not be told so meanwhile."""
    edges = [i * 2**58 for i in range(1, 8)]
    planner = Rows([*range(1, 11), *edges, *(edge - 2**50 for edge in edges)])
    bench = Bench(planner)
    items = [CreatePartition(i, edge, edge) for i, edge in enumerate(edges, 2)]
    bench.strategy.create_partitions_if_not_exist([CreatePartition(1, 1, 10), *items])
    bench.complete()
    idle: List[bool] = []
    planner.broken = lambda low, high: idle.append(bench.strategy.idle_state().exhausted)  # type: ignore[assignment, return-value]
    bench.allocator.on_sweep(Sweep(asked=True))
    bench.run(500)
    assert len(idle) > 128 and not any(idle)
    bench.allocator.on_sweep(Sweep(asked=True))
    bench.run(500)
    assert bench.strategy.idle_state().exhausted and all(bench.holds(row) for row in planner.ids)


def test_back_pressure_bounds_what_gaps_may_add() -> None:
    bench = Bench(Rows(range(1, 10_001)), max_pending_partitions=17)
    bench.strategy.create_partitions_if_not_exist([CreatePartition(1, 9001, 9010)])
    for _ in range(50):
        bench.allocator.run_once()
        bench.clock.advance(bench.allocator.pause(None))
        assert bench.strategy.get_partition_stats().open <= 17
    bench.run(2000)
    assert bench.covered() == set(range(1, 10_001))
    bench.sound()


def test_one_turn_asks_at_most_64_questions_and_says_how_it_went() -> None:
    planner = Rows([1, *(i * 100_000 for i in range(1, 200))], size=10)
    bench = Bench(planner)
    bench.strategy.create_partitions_if_not_exist([CreatePartition(1, 10**8, 10**8 + 9)])
    bench.allocator.run_once()
    context = bench.allocator._context(bench.leadership.term or 0)
    for _ in range(100):
        bench.complete()
        bench.clock.advance(1.0)
        planner.asked.clear()
        turn = bench.filler.run_once(bench.leadership.term or 0, context)
        if turn is None:
            break
        assert len(planner.asked) <= 64
    bench.run(1000)
    assert all(any(low <= i <= high for low, high in bench.ranges()) for i in planner.ids)


def test_a_conflict_with_others_who_plan_is_tried_again_with_the_answers_that_were_given() -> None:
    planner = Rows(range(1, 101))
    bench = Bench(planner)
    bench.strategy.create_partitions_if_not_exist([CreatePartition(1, 91, 100)])
    fill = bench.strategy.fill_gaps
    calls: List[int] = []

    def racing(version: int, *rest: Any) -> int:
        calls.append(version)
        if len(calls) == 1:
            bench.strategy.create_partitions_if_not_exist([CreatePartition(77, 2001, 2010)])
        return int(fill(version, *rest))

    bench.strategy.fill_gaps = racing
    bench.run()
    assert bench.covered() >= set(range(1, 101)) and len(calls) >= 2
    assert len({p.partition_id for p in bench.strategy.get_all_partitions()}) == len(bench.ranges())
    bench.sound()


def test_a_partition_created_in_the_gap_meanwhile_is_left_alone_and_the_rest_found_by_the_next_look() -> None:
    bench = Bench(Rows(range(1, 101)))
    bench.strategy.create_partitions_if_not_exist([CreatePartition(1, 91, 100)])
    fill = bench.strategy.fill_gaps
    calls: List[int] = []

    def racing(version: int, *rest: Any) -> int:
        calls.append(version)
        if len(calls) == 1:
            bench.strategy.create_partitions_if_not_exist([CreatePartition(77, 45, 46)])
        return int(fill(version, *rest))

    bench.strategy.fill_gaps = racing
    bench.wait(60.0)
    assert (45, 46) in bench.ranges() and bench.covered() == set(range(1, 101))
    bench.sound()


def test_a_leader_whose_term_is_over_steps_down_and_fills_nothing() -> None:
    bench = Bench(Rows(range(1, 101)))
    bench.run()
    bench.delete(3)
    store = bench.strategy.store
    store.release_lock("leader", store.read_lock("leader")[1])
    assert store.acquire_lock("leader", "other", 1e6, 0) is not None
    bench.allocator.look("incremental")
    bench.allocator.run_once()
    assert bench.over == ["the store refused a plan of this term"]
    assert (21, 30) not in bench.ranges()


def test_an_outage_of_the_store_goes_to_the_thread_s_policy_and_nothing_is_lost() -> None:
    bench = Bench(Rows(range(1, 101)))
    bench.run()
    bench.delete(3)
    bench.faulty.fail_before("fill_gaps", 1, StoreUnavailable("away"))
    bench.allocator.look("incremental")
    with pytest.raises(StoreUnavailable):
        bench.allocator.run_once()
    bench.run()
    bench.wait(30.0)
    assert bench.covered() == set(range(1, 101))
    bench.sound()


def test_whatever_is_wrong_with_the_gaps_new_data_is_planned() -> None:
    planner = Rows(range(1, 51))
    bench = Bench(planner)
    bench.run()
    planner.insert(*range(51, 71))
    bench.delete(3)
    bench.faulty.fail_before("fill_gaps", None, StoreError("damaged"))
    bench.allocator.on_sweep(Sweep(asked=True))
    with pytest.raises(StoreError):
        bench.allocator.run_once()
    assert bench.covered() == set(range(1, 21)) | set(range(31, 71))


def test_a_planner_that_fails_on_one_gap_holds_up_no_other() -> None:
    planner = Rows(range(1, 101))
    bench = Bench(planner)
    bench.run()
    planner.broken = lambda low, high: low <= 25 <= high
    bench.delete(3, 8)
    bench.wait(60.0)
    assert bench.covered() == set(range(1, 21)) | set(range(31, 101))
    assert bench.recorder.errors and "has_data" in str(bench.recorder.errors[0].error)
    open_ = [g for g in gap_report(bench.strategy).gaps if g.state == "open"]
    assert [(g.min_id, g.max_id) for g in open_] == [(21, 30)] and open_[0].since is not None
    assert not bench.filler.busy, "whoever waits for idleness does not wait for a planner that fails"
    planner.broken = lambda low, high: False
    bench.wait(60.0)
    assert bench.covered() == set(range(1, 101))
    bench.sound()


def test_while_nothing_changes_looking_for_gaps_costs_no_commands_and_no_questions() -> None:
    planner = Rows(range(1, 101))
    bench = Bench(planner, DefaultGapDetector(sweep_age=1e6))
    bench.wait(120.0)
    term = bench.leadership.term or 0
    context = bench.allocator._context(term)
    before, questions = dict(bench.faulty.calls), bench.guarded.questions
    for _ in range(100):
        bench.clock.advance(7.0)
        assert bench.filler.run_once(term, context) is None
    assert (dict(bench.faulty.calls), bench.guarded.questions) == (before, questions)


def test_many_gaps_are_walked_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elk_coordinator.leader.gaps.PAGE", 50)
    bench = Bench(Rows(range(1, 1001), size=1), worker_partition_multiple=100)
    bench.strategy.create_partitions_if_not_exist([CreatePartition(i, 2 * i, 2 * i) for i in range(1, 501)])
    bench.complete()
    bench.run(300)
    assert bench.covered() == set(range(1, 1001))
    bench.sound()


def test_random_deletions_and_late_rows_always_end_covered() -> None:
    for seed in range(4):
        chance = random.Random(seed)
        ids = [i for i in range(1, 3000) if chance.random() < 0.02 or 1000 < i < 1200]
        planner: Any = chance.choice([Rows, RowsOnly])(ids, size=chance.choice([1, 7, 50]))
        bench = Bench(planner, DefaultGapDetector(sweep_age=60.0), worker_partition_multiple=30)
        bench.wait(60.0)
        for _ in range(4):
            known = [p.partition_id for p in bench.strategy.get_all_partitions()]
            bench.delete(*chance.sample(known, min(5, len(known))))
            planner.insert(*(chance.randrange(1, 3100) for _ in range(5)))
            bench.wait(200.0)
            missing = set(planner.ids) - bench.covered()
            assert not missing, (seed, missing)
            bench.sound()


# ---------------------------------------------------------------- a detector of the user's


@attr.s(auto_attribs=True)
class Mine:
    answer: Any
    interval: float = 10.0
    calls: List[Any] = attr.Factory(list)

    def detect(self, ctx: Any, planned: Any, skipped: Any) -> Any:
        self.calls.append((ctx.namespace, list(planned), list(skipped)))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer() if callable(self.answer) else self.answer


def test_a_custom_detector_says_where_to_look() -> None:
    planner = Rows([*range(1, 21), *range(10**6, 10**6 + 10)])
    mine = Mine([(5000, 5009), (1, 30)])
    assert isinstance(mine, GapDetector)
    bench = Bench(planner, mine)
    bench.run()
    planner.insert(5003, 7000)
    bench.wait(30.0)
    assert 5003 in bench.covered() and 7000 not in bench.covered()
    assert mine.calls[-1][0] == "gaps" and mine.calls[-1][1] == [(1, 10**6 + 9)]
    assert gap_report(bench.strategy).mode == "custom"
    bench.sound()


def test_what_a_custom_detector_names_is_planned_when_the_planner_cannot_say() -> None:
    bench = Bench(RowsOnly(range(1, 101)), Mine([(21, 45)]))
    bench.run()
    bench.delete(3, 4, 6)
    bench.wait(30.0)
    assert bench.covered() == set(range(1, 51)) | set(range(61, 101)), "51..60 was not named"
    bench.sound()


def test_a_custom_detector_never_has_finished_work_planned_again_nor_what_lies_ahead() -> None:
    bench = Bench(RowsOnly(range(1, 101)), Mine([(MIN_ID, MAX_ID)]), max_pending_partitions=50)
    bench.strategy.create_partitions_if_not_exist([CreatePartition(500, MIN_ID, 0)])
    bench.run()
    before = bench.strategy.get_all_partitions()
    bench.wait(100.0)
    assert bench.strategy.get_all_partitions() == before
    assert bench.strategy.planned_intervals() == [(MIN_ID, 100)]
    bench.sound()


class Odd:
    def __index__(self) -> int:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "answer",
    [
        None, 5, [5], [(1,)], [(1, 2, 3)], [("1", "2")], [(1.0, 2.0)], [(5, 4)], [(1, 2**63)], [(MIN_ID - 1, 2)],
        [(True, 5)], [(Odd(), 5)], RuntimeError("no"), SystemExit(3), lambda: iter([(1, 2), None]),
    ],
)  # fmt: skip
def test_nonsense_of_a_custom_detector_is_a_planner_error_and_plans_nothing(answer: Any) -> None:
    bench = Bench(Rows(range(1, 101)), Mine(answer))
    bench.run()
    before = bench.strategy.planned_intervals()
    bench.delete(3)
    bench.wait(50.0)
    assert bench.recorder.errors and "gap_detector.detect" in str(bench.recorder.errors[-1].error)
    assert before == [(1, 100)] and bench.strategy.planned_intervals() == [(1, 20), (31, 100)]
    assert not bench.filler.busy, "whoever waits for idleness does not wait for it"


def test_a_custom_detector_that_fails_is_asked_less_and_less_often() -> None:
    mine = Mine(RuntimeError("no"), interval=1.0)
    bench = Bench(Rows(range(1, 101)), mine)
    bench.wait(600.0)
    assert len(mine.calls) < 60


@pytest.mark.parametrize("detector", [5, "detect", object(), Mine, type("D", (), {"detect": 5})()])
def test_a_detector_without_detect_is_refused_at_the_door(detector: Any) -> None:
    with pytest.raises(ConfigError, match="gap_detector"):
        CoordinatorConfig(gap_detector=detector)


@pytest.mark.parametrize(
    "settings",
    [{"mode": "x"}, {"mode": None}, {"interval": 0}, {"interval": None}, {"sweep_age": -1}, {"sweep_age": True},
     {"sweep_age": float("inf")}, {"interval": "5"}],
)  # fmt: skip
def test_bad_settings_of_the_built_in_detector_are_refused(settings: Dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="gap_detector"):
        DefaultGapDetector(**settings)


def test_the_built_in_detector_may_be_part_of_a_custom_one() -> None:
    planned, skipped = [(1, 10), (20, 30)], [(25, 26)]
    assert list(DefaultGapDetector().detect(None, planned, skipped)) == [(11, 19), (25, 26)]
    assert list(DefaultGapDetector(mode="incremental").detect(None, planned, skipped)) == [(11, 19)]


# ---------------------------------------------------------------- small parts


def test_detect_is_refused_for_unknown_modes_and_says_whether_this_worker_leads() -> None:
    asked: List[str] = []
    gaps = Gaps(create_strategy(StrategyType.SIMPLE, "x", MemoryDataStore()), lambda mode: asked.append(mode) or True)  # type: ignore[func-returns-value]
    assert gaps.detect("incremental") is True and gaps.detect() is True
    assert asked == ["incremental", "discrete"]
    with pytest.raises(ConfigError):
        gaps.detect("all")
    assert gaps.report().gaps == []


def test_holes_between_planned_ranges() -> None:
    assert list(holes([])) == list(holes([], 5)) == []
    assert list(holes([(5, 9), (11, 12), (14, MAX_ID)], 1)) == [(1, 4), (10, 10), (13, 13)]
    assert list(holes([(5, 9)], 5)) == list(holes([(5, 9)], 7)) == list(holes([(5, 9)])) == []


def test_subtract_agrees_with_a_count_of_ids() -> None:
    chance = random.Random(1)
    for _ in range(300):
        some = [(a, a + chance.randrange(6)) for a in (chance.randrange(60) for _ in range(chance.randrange(8)))]
        cuts = [(a, a + chance.randrange(6)) for a in (chance.randrange(60) for _ in range(chance.randrange(8)))]
        ids = {i for low, high in some for i in range(low, high + 1)}
        ids -= {i for low, high in cuts for i in range(low, high + 1)}
        assert merge(subtract(some, cuts)) == merge((i, i) for i in ids)
