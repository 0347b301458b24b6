"""The leader's rounds of planning, on a real strategy: how much, how often, and what goes wrong without harm."""

from __future__ import annotations

import json
import logging
import threading
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import fakeredis
import pytest

from elk_coordinator import (
    ConfigError,
    CoordinatorConfig,
    CreatePartition,
    PartitionStatus,
    PlannerError,
    RedisDataStore,
    StoreUnavailable,
    StrategyType,
    create_strategy,
)
from elk_coordinator.leader.allocator import LONGEST_EXPLORE_PAUSE, Allocator, Round
from elk_coordinator.leader.election import Leadership
from elk_coordinator.leader.planner import DEFAULT_SIZE, GuardedPlanner, LeaderContext
from elk_coordinator.model import MAX_ID, MIN_ID, Sweep
from elk_coordinator.protocols import EVENT_KINDS, Event
from elk_coordinator.runtime.events import Events
from elk_coordinator.testing import Faulty, ManualClock, wait_until

LOGGER = logging.getLogger("elk_coordinator.test")


class Numbers:
    """The IDs 1 to ``last``, densely; answers within the range it is asked about."""

    def __init__(self, last: int = 0, size: int = 10) -> None:
        self.last = last
        self.size: Any = size
        self.asked: List[Tuple[int, int]] = []
        #: Called at each question; may raise.
        self.on_question: Callable[[], None] = lambda: None

    def partition_size(self, ctx: Any) -> Any:
        return self.size

    def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> Any:
        self.asked.append((start_id, range_size))
        self.on_question()
        return min(self.last, start_id + range_size)


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
    """An allocator that leads, on an in-process server."""

    def __init__(self, server: fakeredis.FakeServer, planner: Any, **options: Any) -> None:
        self.store = RedisDataStore(fakeredis.FakeRedis(server=server))
        self.strategy: Any = create_strategy(StrategyType.HASH, "plan", self.store)
        self.faulty = Faulty(self.strategy)
        self.planner = planner
        self.clock = ManualClock(auto_advance=True)
        self.config = CoordinatorConfig(**options)
        self.recorder = Recorder()
        self.leadership = Leadership(self.clock)
        self.over: List[str] = []
        self.guarded = GuardedPlanner(planner, self.clock, LOGGER)
        self.allocator = Allocator(
            self.faulty, self.guarded, self.leadership, self.config, self.clock,
            Events("plan", "w", self.clock, LOGGER, own=[self.recorder]), LOGGER, self.over.append,
        )  # fmt: skip
        self.client = self.strategy.store._link.client()

    def lead(self) -> int:
        """Become the leader, in the store and in belief; whoever led before does no more."""
        self.client.delete(self.strategy.store.keys["lock:leader"])
        term = self.strategy.store.acquire_lock("leader", "w", 1e6, self.strategy.memory.floor)
        assert term is not None
        self.leadership.grant(term, self.clock.monotonic() + 1e6)
        return int(term)

    def round(self) -> Optional[Round]:
        return self.allocator.run_once()

    def next_round(self) -> Round:
        """Let the time of the next round come, and do it."""
        self.clock.advance(self.allocator.pause(None))
        done = self.round()
        assert done is not None
        return done

    def workers(self, count: int, **info: Any) -> None:
        for i in range(count):
            self.strategy.store.beat("worker-%d" % i, 1000.0, dict(info))

    def complete(self, count: int) -> None:
        for partition in self.strategy.claim_partitions("w", count):
            self.strategy.update_partition_status(
                partition.partition_id, "w", PartitionStatus.COMPLETED, token=partition.fencing_token
            )

    def ranges(self) -> List[Tuple[int, int]]:
        return [(p.min_id, p.max_id) for p in self.strategy.get_all_partitions()]

    def stats(self) -> Any:
        return self.strategy.get_partition_stats()

    def plan(self) -> Tuple[Any, ...]:
        """Return everything a failed round must leave as it was."""
        return (self.strategy.planned_window(-(2**63), 2**63), self.strategy.skipped_intervals(), self.ranges())

    def meta(self, field: str) -> Optional[str]:
        value = self.client.hget(self.strategy.store.keys["meta"], field)
        return None if value is None else value.decode()


@pytest.fixture
def make(fake_server: fakeredis.FakeServer) -> Iterator[Callable[..., Bench]]:
    made: List[Bench] = []

    def build(planner: Any, lead: bool = True, **options: Any) -> Bench:
        made.append(Bench(fake_server, planner, **options))
        if lead:
            made[-1].lead()
        return made[-1]

    yield build
    for bench in made:
        bench.store.close()


Make = Callable[..., Bench]


# ---------------------------------------------------------------- how much


def test_a_follower_plans_nothing_and_waits_to_be_woken(make: Make) -> None:
    bench = make(Numbers(1000), lead=False)
    assert bench.round() is None
    assert bench.allocator.pause(None) == 60.0
    assert bench.planner.asked == []


def test_the_first_round_comes_at_once_and_creates_one_look_ahead(make: Make) -> None:
    bench = make(Numbers(10**6))
    assert bench.allocator.pause(None) == 0.0
    done = bench.round()
    assert done is not None and done.created == 15
    assert bench.ranges() == [(i * 10 + 1, i * 10 + 10) for i in range(15)]
    assert [p.partition_id for p in bench.strategy.get_all_partitions()] == list(range(1, 16))
    (event,) = bench.recorder.of("planned")
    assert (event.created, event.skipped_ids, event.last_id) == (15, 0, 150)
    assert event.questions >= 1


@pytest.mark.parametrize(
    "workers, multiple, slots", [(0, 5, 15), (1, 5, 15), (3, 5, 15), (4, 5, 20), (10, 1, 10), (2, 7, 21)]
)
def test_one_question_looks_ahead_by_the_formula(make: Make, workers: int, multiple: int, slots: int) -> None:
    bench = make(Numbers(10**6, size=100), worker_partition_multiple=multiple)
    bench.workers(workers)
    done = bench.round()
    assert bench.planner.asked[0] == (0, 100 * slots), "partition_size x max(active workers, 3) x multiple"
    assert done is not None and done.created == slots


def test_it_goes_on_asking_until_the_fleet_has_twice_its_windows_and_prefetch(make: Make) -> None:
    bench = make(Numbers(10**6))
    bench.workers(4, capacity=64)
    assert bench.next_round().created == 520, "2 x 4 x 64, in whole look-aheads of 20"
    assert bench.ranges()[-1] == (5191, 5200)
    assert {reach for _, reach in bench.planner.asked} == {10 * 4 * 5}


@pytest.mark.parametrize("capacity", ["64", None, -5, [], {}, 10**30, float("nan"), True])
def test_nonsense_about_a_workers_capacity_harms_nobody(make: Make, capacity: Any) -> None:
    bench = make(Numbers(10**6), max_pending_partitions=300)
    bench.strategy.store.beat("odd", 1000.0, {"capacity": 0})
    bench.client.hset(bench.strategy.store.keys["worker_info"], "odd", json.dumps({"capacity": capacity}))
    assert 15 <= bench.next_round().created <= 300


def test_no_round_leaves_more_than_may_be_pending(make: Make) -> None:
    bench = make(Numbers(10**6), max_pending_partitions=40)
    bench.workers(10, capacity=1000)
    assert bench.next_round().created == 40
    assert len(bench.strategy.claim_partitions("w", 30)) == 30
    assert bench.next_round().created == 0, "what is held counts too"
    bench.complete(10)
    assert bench.next_round().created == 10
    stats = bench.stats()
    assert stats.pending + stats.claimed + stats.running == 40


def test_a_limit_below_one_look_ahead_holds_too(make: Make) -> None:
    bench = make(Numbers(10**6), max_pending_partitions=4)
    assert bench.next_round().created == 4
    assert bench.ranges() == [(1, 10), (11, 20), (21, 30), (31, 40)]


def test_more_than_a_batch_is_created_in_several(make: Make) -> None:
    bench = make(Numbers(10**6), max_pending_partitions=5000)
    bench.workers(3, capacity=250)
    assert bench.next_round().created == 1500
    assert bench.faulty.calls["plan_partitions"] == 3
    assert bench.ranges() == [(i * 10 + 1, i * 10 + 10) for i in range(1500)]


def test_when_enough_is_pending_the_planner_is_not_asked(make: Make) -> None:
    bench = make(Numbers(10**6))
    bench.next_round()
    asked = len(bench.planner.asked)
    for _ in range(5):
        assert bench.next_round() == Round(0, 0, False, False, 150)
    assert len(bench.planner.asked) == asked


def test_workers_learn_below_what_to_call_for_more(make: Make) -> None:
    bench = make(Numbers(10**6))
    bench.next_round()
    assert bench.meta("low_water") == "7", "half of 15"
    bench.workers(8, capacity=5)
    bench.next_round()
    assert bench.meta("low_water") == "40"
    calls = bench.faulty.calls["note_round"]
    bench.next_round()
    assert bench.faulty.calls["note_round"] == calls, "told once"
    bench.lead()
    bench.round()
    assert bench.faulty.calls["note_round"] == calls + 1, "and once more by a new leader"


def test_the_last_partition_is_as_short_as_the_data(make: Make) -> None:
    bench = make(Numbers(25))
    bench.next_round()
    assert bench.ranges() == [(1, 10), (11, 20), (21, 25)]
    bench.planner.last = 27
    bench.next_round()
    assert bench.ranges()[-1] == (26, 27)


# ---------------------------------------------------------------- where it begins and ends


@pytest.mark.parametrize("first", [MIN_ID, -1000, -1, 0, 1, 5, 10**18])
def test_the_plan_begins_at_first_id(make: Make, first: int) -> None:
    class From(Numbers):
        def first_id(self, ctx: Any) -> int:
            return first

    bench = make(From(first + 24))
    bench.next_round()
    assert bench.ranges() == [(first, first + 9), (first + 10, first + 19), (first + 20, first + 24)]
    assert bench.strategy.planned_intervals() == [(first, first + 24)]


def test_first_id_is_asked_only_while_nothing_is_planned(make: Make) -> None:
    class From(Numbers):
        calls = 0

        def first_id(self, ctx: Any) -> int:
            self.calls += 1
            return 7

    bench = make(From(30))
    for _ in range(4):
        bench.next_round()
    assert bench.planner.calls == 1


def test_data_up_to_the_64_bit_edge_is_planned_to_the_end(make: Make) -> None:
    class Edge(Numbers):
        def first_id(self, ctx: Any) -> int:
            return MAX_ID - 24

    bench = make(Edge(MAX_ID))
    bench.next_round()
    assert bench.ranges()[-1] == (MAX_ID - 4, MAX_ID)
    bench.complete(3)
    for _ in range(3):
        done = bench.next_round()
        assert done.dry and done.created == 0
    assert bench.recorder.of("planner_error") == []


@pytest.mark.parametrize("hole", [10**12, 3 * 10**11])
def test_a_hole_costs_log_questions_no_partition_and_one_skipped_interval(make: Make, hole: int) -> None:
    class Holed(Numbers):
        def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> int:
            super().get_next_max_id(ctx, start_id, range_size)
            end = start_id + range_size
            if end <= hole:
                return min(end, 100)
            return min(end, hole + 55)

    bench = make(Holed())
    done = bench.next_round()
    assert done.created == 10 + 6
    assert done.skipped_ids == hole - 100
    assert bench.strategy.skipped_intervals() == [(101, hole)]
    assert bench.strategy.planned_intervals() == [(1, hole + 55)]
    assert bench.ranges()[9:11] == [(91, 100), (hole + 1, hole + 10)]
    assert len(bench.planner.asked) < 2 * 45 + 70
    (event,) = bench.recorder.of("planned")
    assert (event.skipped_ids, event.last_id) == (hole - 100, hole + 55)


def test_explicit_plans_are_created_as_given(make: Make) -> None:
    class Snowflakes:
        def plan(self, ctx: Any, start_id: int, limit: int) -> Any:
            return [(i << 22, (i << 22) + 7) for i in range(10**9, 10**9 + 40) if i << 22 > start_id][:limit]

    bench = make(Snowflakes(), max_pending_partitions=20)
    bench.next_round()
    bench.complete(20)
    bench.next_round()
    assert bench.ranges() == [(i << 22, (i << 22) + 7) for i in range(10**9, 10**9 + 40)]
    assert bench.strategy.planned_intervals() == [(1, ((10**9 + 39) << 22) + 7)]


# ---------------------------------------------------------------- how often


def test_without_a_call_rounds_are_an_allocation_interval_apart(make: Make) -> None:
    bench = make(Numbers(10**6), allocation_interval=12.0)
    bench.round()
    assert bench.allocator.pause(None) == 12.0
    bench.clock.advance(11.9)
    assert bench.round() is None
    bench.clock.advance(0.1)
    assert bench.round() is not None


def test_a_call_for_more_brings_a_round_at_once(make: Make) -> None:
    bench = make(Numbers(10**6))
    bench.round()
    bench.complete(15)
    bench.allocator.wake.clear()
    bench.allocator.on_sweep(Sweep(hungry=True))
    assert bench.allocator.wake.is_set()
    assert bench.allocator.pause(None) == 0.0
    done = bench.round()
    assert done is not None and done.created == 15
    bench.complete(15)
    bench.allocator.hint()
    assert bench.round() is not None


def test_a_quiet_sweep_calls_for_nothing(make: Make) -> None:
    bench = make(Numbers(10**6))
    bench.round()
    bench.allocator.wake.clear()
    bench.allocator.on_sweep(Sweep(pending=3))
    assert not bench.allocator.wake.is_set()
    assert bench.round() is None


def test_calls_after_rounds_that_found_nothing_wait_longer_and_longer(make: Make) -> None:
    bench = make(Numbers(0), allocation_interval=8.0)
    waits = []
    for _ in range(8):
        bench.allocator.on_sweep(Sweep(hungry=True))
        waits.append(bench.allocator.pause(None))
        bench.next_round()
    for wait, most in zip(waits, [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]):
        assert 0.8 * most <= wait <= most
    bench.planner.last = 10**6
    bench.next_round()
    bench.complete(15)
    bench.allocator.on_sweep(Sweep(hungry=True))
    assert bench.allocator.pause(None) == 0.0, "work was found, so the next call is heard at once"


def test_a_call_while_it_is_quiet_is_kept_and_no_busy_loop(make: Make) -> None:
    bench = make(Numbers(0), allocation_interval=8.0)
    bench.next_round()
    bench.allocator.on_sweep(Sweep(hungry=True))
    assert bench.round() is None
    assert 0.4 <= bench.allocator.pause(None) <= 0.5
    assert bench.next_round() is not None


def test_a_new_term_begins_with_a_round(make: Make) -> None:
    bench = make(Numbers(10**6))
    bench.round()
    bench.complete(15)
    assert bench.round() is None
    bench.lead()
    done = bench.round()
    assert done is not None and done.created == 15


# ---------------------------------------------------------------- nothing new


def questions_of(bench: Bench) -> List[int]:
    """Do one round; return how far its questions looked."""
    bench.planner.asked.clear()
    bench.next_round()
    return [reach for _, reach in bench.planner.asked]


def test_the_doubled_questions_back_off_to_ten_minutes_and_the_plain_one_is_asked_every_round(make: Make) -> None:
    bench = make(Numbers(100))
    bench.next_round()
    explored_at = []
    rounds = 0
    began = bench.clock.monotonic()
    while bench.clock.monotonic() < began + 4000:
        reaches = questions_of(bench)
        rounds += 1
        assert reaches[0] == 150, "the plain question"
        if len(reaches) > 1:
            assert len(reaches) <= 65 and reaches[-1] == MAX_ID - 100
            explored_at.append(bench.clock.monotonic() - began)
    assert rounds == pytest.approx(4000 / 30, abs=2)
    pauses = [b - a for a, b in zip(explored_at, explored_at[1:])]
    assert pauses == sorted(pauses)
    assert pauses[:4] == [60.0, 120.0, 240.0, 480.0]
    assert set(pauses[4:]) == {LONGEST_EXPLORE_PAUSE} == {600.0}


def test_new_data_ends_the_back_off(make: Make) -> None:
    bench = make(Numbers(100))
    for _ in range(5):
        bench.next_round()
    assert len(questions_of(bench)) == 1
    bench.planner.last = 200
    assert questions_of(bench) == [150]
    bench.complete(20)
    assert len(questions_of(bench)) > 20, "the answer was another one, so it is asked anew"


def test_a_table_that_grows_a_little_every_round_pays_the_doubled_questions_ever_more_seldom(make: Make) -> None:
    bench = make(Numbers(100))
    bench.next_round()
    began = bench.clock.monotonic()
    explored_at = [0.0]
    planned = 10
    while bench.clock.monotonic() < began + 4000:
        bench.complete(20)
        bench.planner.last += 10
        reaches = questions_of(bench)
        planned += 1
        assert len(bench.ranges()) == planned, "what the plain question finds is planned in every round"
        if len(reaches) > 3:
            explored_at.append(bench.clock.monotonic() - began)
    pauses = [b - a for a, b in zip(explored_at, explored_at[1:])]
    assert pauses == [30.0, 60.0, 120.0, 240.0, 480.0, *[600.0] * (len(pauses) - 5)]
    assert len(pauses) >= 9


def test_data_behind_a_hole_is_found_within_the_pause_also_in_a_growing_table_and_ends_the_back_off(make: Make) -> None:
    bench = make(Numbers(100))
    bench.next_round()
    for _ in range(20):
        bench.complete(20)
        bench.planner.last += 10
        bench.next_round()
    frontier = bench.planner.last
    plain = bench.planner.get_next_max_id

    def behind_a_hole(ctx: Any, start_id: int, range_size: int) -> int:
        bench.planner.asked.append((start_id, range_size))
        top = min(10**9 + 50, start_id + range_size)
        return top if top >= 10**9 else max(start_id, frontier)

    bench.planner.get_next_max_id = behind_a_hole  # type: ignore[method-assign]
    began = bench.clock.monotonic()
    while max(high for _, high in bench.ranges()) < 10**9:
        bench.complete(20)
        bench.next_round()
        assert bench.clock.monotonic() - began <= LONGEST_EXPLORE_PAUSE + 30.0
    del bench.planner.get_next_max_id  # type: ignore[method-assign]
    assert plain == bench.planner.get_next_max_id
    bench.planner.last = 10**9 + 50
    bench.complete(500)
    assert len(questions_of(bench)) > 20, "the answer was another one, so it is asked anew"


def test_somebody_who_waits_for_idle_gets_a_full_round_at_once(make: Make) -> None:
    bench = make(Numbers(100))
    for _ in range(5):
        bench.next_round()
    bench.complete(10)
    before = bench.strategy.idle_state()
    bench.allocator.on_sweep(Sweep(asked=True))
    bench.planner.asked.clear()
    done = bench.round()
    assert done is not None and done.exhausted
    assert len(bench.planner.asked) > 20
    after = bench.strategy.idle_state()
    assert after.exhausted and after.exhausted_at > before.exhausted_at
    assert bench.round() is None, "once"


def test_who_asks_while_a_round_runs_is_not_answered_by_it(make: Make) -> None:
    """1. the round asks the planner, 2. rows appear and somebody waits for idle, 3. the round notes "nothing new"."""
    asked_at: List[float] = []

    class Late(Numbers):
        def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> int:
            answer = super().get_next_max_id(ctx, start_id, range_size)
            if not asked_at and answer <= start_id:
                asked_at.append(bench.strategy.idle_state().now)
                bench.allocator.on_sweep(Sweep(asked=True))
            return answer

    planner = Late(100)
    bench = make(planner)
    assert bench.next_round().exhausted and asked_at
    assert bench.strategy.idle_state().exhausted_at < asked_at[0]
    planner.last = 110
    done = bench.round()
    assert done is not None and done.created == 1, "and gets a round of its own at once"
    assert bench.strategy.idle_state().exhausted_at > asked_at[0]


def test_exhausted_is_noted_for_the_plan_it_was_found_for(make: Make) -> None:
    bench = make(Numbers(100))
    done = bench.next_round()
    assert done.exhausted and done.created == 10
    assert bench.strategy.idle_state().exhausted
    bench.strategy.create_partitions_if_not_exist([CreatePartition(50, 1000, 1009)])
    assert not bench.strategy.idle_state().exhausted, "the plan is another one now"


def test_a_round_that_was_not_allowed_to_explore_says_nothing_of_the_end(make: Make) -> None:
    bench = make(Numbers(100))
    bench.next_round()
    bench.complete(10)
    assert bench.next_round().exhausted
    done = bench.next_round()
    assert done.dry and not done.exhausted


# ---------------------------------------------------------------- planners that fail


class Index:
    """An int in all but name, as numpy's are."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no text for you")

    __str__ = __bool__ = __index__ = __repr__  # type: ignore[assignment]


NONSENSE: Dict[str, Any] = {
    "None": None, "float": 7.0, "nan": float("nan"), "bool": True, "str": "77", "bytes": b"7", "list": [7],
    "2**63": 2**63, "-2**63 - 1": -(2**63) - 1, "10**5000": 10**5000, "object": object(), "unprintable": Unprintable(),
}  # fmt: skip
ERRORS: Dict[str, BaseException] = {
    "ValueError": ValueError("no such table"), "SystemExit": SystemExit(3), "KeyboardInterrupt": KeyboardInterrupt(),
    "GeneratorExit": GeneratorExit(), "MemoryError": MemoryError(), "StopIteration": StopIteration(),
    "unprintable": type("Odd", (Exception,), {"__str__": Unprintable.__repr__})(),
}  # fmt: skip


class Broken(Numbers):
    """Answers one method wrongly once it is told to."""

    def __init__(self, method: str, answer: Any) -> None:
        super().__init__(100)
        self._answer = answer
        self.broken = False
        #: An answer so far ahead that has_data is asked about it.
        self.far = method == "has_data"
        if method == "plan":
            self.plan = lambda ctx, start_id, limit: self.give([(1, 10)] if start_id < 1 else [])
        if method == "first_id":
            self.first_id = lambda ctx: self.give(1)
        if method == "has_data":
            self.has_data = lambda ctx, low, high: self.give(False)
        self.method = method

    def give(self, good: Any) -> Any:
        if not self.broken:
            return good
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer

    def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> Any:
        if self.method == "get_next_max_id":
            return self.give(super().get_next_max_id(ctx, start_id, range_size))
        return 10**9 if self.far and start_id >= 100 else super().get_next_max_id(ctx, start_id, range_size)


def assert_planner_error(bench: Bench, method: str, caplog: pytest.LogCaptureFixture) -> None:
    before = bench.plan()
    caplog.clear()
    assert bench.next_round() == Round(0, 0, False, False)
    assert bench.plan() == before, "the plan stays intact"
    (event,) = bench.recorder.of("planner_error")
    assert isinstance(event.error, PlannerError)
    assert event.method == "planner." + method
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert "planner.%s" % method in record.getMessage() and "next try in" in record.getMessage()
    assert len(record.getMessage()) < 500
    assert 0.8 <= bench.allocator.pause(None) <= 1.0
    assert bench.round() is None
    bench.planner.broken = False
    bench.next_round()
    assert len(bench.recorder.of("planner_error")) == 1


@pytest.mark.parametrize("what", sorted(NONSENSE))
@pytest.mark.parametrize("method", ["get_next_max_id", "plan"])
def test_nonsense_is_a_planner_error_and_the_plan_stays(
    make: Make, method: str, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make(Broken(method, NONSENSE[what]))
    bench.next_round()
    bench.planner.broken = True
    assert_planner_error(bench, method, caplog)


@pytest.mark.parametrize("what", [w for w in sorted(NONSENSE) if w not in ("bool", "list", "object")
                                  and not isinstance(NONSENSE[w], int)])  # fmt: skip
def test_nonsense_of_has_data_is_a_planner_error_never_a_no(
    make: Make, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make(Broken("has_data", NONSENSE[what]))
    bench.planner.far = False
    bench.next_round()
    bench.planner.far = bench.planner.broken = True
    assert_planner_error(bench, "has_data", caplog)


@pytest.mark.parametrize("what", [*sorted(NONSENSE), "-2**63"])
def test_nonsense_of_first_id_plans_nothing_at_all(make: Make, what: str, caplog: pytest.LogCaptureFixture) -> None:
    bench = make(Broken("first_id", NONSENSE.get(what, -(2**63))))
    bench.planner.broken = True
    assert_planner_error(bench, "first_id", caplog)
    assert bench.ranges()[0] == (1, 10), "once it answers well"


@pytest.mark.parametrize("what", sorted(ERRORS))
@pytest.mark.parametrize("method", ["get_next_max_id", "has_data", "plan", "first_id"])
def test_whatever_a_planner_raises_is_a_planner_error_and_ends_no_thread(
    make: Make, method: str, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make(Broken(method, ERRORS[what]))
    bench.planner.far = False
    if method != "first_id":
        bench.next_round()
    bench.planner.far = method == "has_data"
    bench.planner.broken = True
    assert_planner_error(bench, method, caplog)
    cause = bench.recorder.of("planner_error")[0].error.__cause__
    assert cause is ERRORS[what] or method == "plan"


@pytest.mark.parametrize("what", sorted(ERRORS))
def test_a_generator_that_breaks_in_the_middle_keeps_the_plan(make: Make, what: str) -> None:
    class Breaking:
        def plan(self, ctx: Any, start_id: int, limit: int) -> Any:
            yield (1, 10)
            raise ERRORS[what]

    bench = make(Breaking())
    before = bench.plan()
    bench.next_round()
    assert bench.plan() == before
    assert len(bench.recorder.of("planner_error")) == 1


def test_ids_that_are_ints_in_all_but_name_are_taken(make: Make) -> None:
    class Wrapped(Numbers):
        def first_id(self, ctx: Any) -> Any:
            return Index(1)

        def partition_size(self, ctx: Any) -> Any:
            return Index(10)

        def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> Any:
            return Index(super().get_next_max_id(ctx, start_id, range_size))

    bench = make(Wrapped(25))
    bench.next_round()
    assert bench.ranges() == [(1, 10), (11, 20), (21, 25)]


@pytest.mark.parametrize("answer", [0, -1, -5, 99, -(2**63)])
def test_an_answer_at_or_below_the_start_is_nothing_new_also_when_the_table_shrank(make: Make, answer: int) -> None:
    bench = make(Numbers(100))
    bench.next_round()
    bench.planner.get_next_max_id = lambda *args: answer
    assert bench.next_round().created == 0
    assert bench.recorder.of("planner_error") == []
    assert bench.strategy.planned_intervals() == [(1, 100)]


@pytest.mark.parametrize("what", [*sorted(NONSENSE), *sorted(ERRORS), "0", "-1"])
def test_a_partition_size_that_is_none_means_3000_with_one_warning(
    make: Make, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Sized(Numbers):
        def partition_size(self, ctx: Any) -> Any:
            if isinstance(self.size, BaseException):
                raise self.size
            return self.size

    bench = make(Sized(10**6), max_pending_partitions=20)
    bench.planner.size = {**NONSENSE, **ERRORS, "0": 0, "-1": -1}[what]
    bench.next_round()
    assert bench.ranges()[:2] == [(1, DEFAULT_SIZE), (DEFAULT_SIZE + 1, 2 * DEFAULT_SIZE)]
    assert DEFAULT_SIZE == 3000
    bench.complete(15)
    bench.next_round()
    warnings = [r for r in caplog.records if "planner.partition_size" in r.getMessage()]
    assert [r.levelno for r in warnings] == [logging.WARNING]
    assert bench.recorder.of("planner_error") == []
    bench.planner.size = 10
    bench.complete(15)
    bench.next_round()
    assert bench.ranges()[-1][1] - bench.ranges()[-1][0] == 9, "a good answer counts again"


def test_rounds_of_a_failing_planner_back_off_up_to_the_interval(make: Make) -> None:
    bench = make(Broken("get_next_max_id", OSError("down")), allocation_interval=6.0)
    bench.planner.broken = True
    pauses = []
    for _ in range(6):
        bench.next_round()
        pauses.append(bench.allocator.pause(None))
    for pause, most in zip(pauses, [1.0, 2.0, 4.0, 6.0, 6.0, 6.0]):
        assert 0.8 * most <= pause <= most
    bench.planner.broken = False
    bench.next_round()
    bench.planner.broken = True
    bench.next_round()
    assert bench.allocator.pause(None) <= 1.0, "after a good round it begins anew"


@pytest.mark.parametrize("call", [Sweep(hungry=True), Sweep(asked=True), Sweep(hungry=True, asked=True)])
def test_calls_do_not_shorten_the_pause_of_a_failing_planner_and_are_not_forgotten(make: Make, call: Sweep) -> None:
    bench = make(Broken("get_next_max_id", OSError("down")))
    bench.planner.broken = True
    bench.next_round()
    for _ in range(4):
        bench.allocator.on_sweep(call)
        wait = bench.allocator.pause(None)
        assert wait > 0.7, "no busy loop"
        assert bench.round() is None
        bench.next_round()
    assert len(bench.recorder.of("planner_error")) == 5
    bench.planner.broken = False
    if call.asked:
        assert bench.next_round().exhausted, "who waits for idle gets the full round that was asked for"


def test_a_planner_that_fails_far_ahead_holds_up_nothing_near(make: Make) -> None:
    class Near(Numbers):
        def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> int:
            if start_id >= 150:
                raise OSError("the second shard is down")
            return int(super().get_next_max_id(ctx, start_id, range_size))

    bench = make(Near(10**6))
    bench.workers(3, capacity=20)
    bench.next_round()
    assert bench.ranges()[-1] == (141, 150)
    assert len(bench.recorder.of("planner_error")) == 1


@pytest.mark.parametrize("wrong", [Numbers, object(), None, 7, "planner", lambda: None])
def test_what_is_no_planner_is_refused_at_once(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="planner:"):
        GuardedPlanner(wrong, ManualClock(), LOGGER)


# ---------------------------------------------------------------- how long a planner takes


@pytest.mark.parametrize("method", ["partition_size", "first_id", "get_next_max_id", "has_data", "plan", "plan items"])
def test_how_long_the_present_call_has_been_running_is_known(method: str) -> None:
    clock = ManualClock()
    seen: List[float] = []
    guarded: GuardedPlanner

    def work(*args: Any) -> Any:
        clock.advance(5.0)
        seen.append(guarded.busy_for())
        return {"has_data": True, "plan": []}.get(method, 10)

    def items(*args: Any) -> Any:
        work()
        yield (1, 10)
        work()
        yield (11, 20)

    class Slow:
        pass

    planner: Any = Slow()
    for name in ("partition_size", "get_next_max_id"):
        setattr(planner, name, work)
    if method == "plan items":
        planner.plan = items
    else:
        setattr(planner, method, work)
    guarded = GuardedPlanner(planner, clock, LOGGER)
    ctx: Any = object()
    calls: Dict[str, Callable[[], Any]] = {
        "partition_size": lambda: guarded.size(ctx),
        "first_id": lambda: guarded.first_id(ctx),
        "get_next_max_id": lambda: guarded.next_max_id(ctx, 0, 10),
        "has_data": lambda: guarded.has_data(ctx, 1, 10),
        "plan": lambda: guarded.plan(ctx, 0, 10),
        "plan items": lambda: guarded.plan(ctx, 0, 10),
    }
    assert guarded.busy_for() == 0.0
    calls[method]()
    assert seen == [5.0] * (2 if method == "plan items" else 1)
    assert guarded.busy_for() == 0.0, "it has returned"


def test_a_call_that_raised_is_over() -> None:
    clock = ManualClock()
    planner = Numbers()
    planner.on_question = lambda: 1 / 0  # type: ignore[assignment, return-value]
    guarded = GuardedPlanner(planner, clock, LOGGER)
    with pytest.raises(PlannerError):
        guarded.next_max_id(object(), 0, 10)
    clock.advance(100)
    assert guarded.busy_for() == 0.0


# ---------------------------------------------------------------- the planner's context


def test_the_context_is_cancelled_when_the_term_is_over_or_the_worker_stops() -> None:
    clock = ManualClock()
    leadership = Leadership(clock)
    leadership.grant(77, clock.monotonic() + 27.0)
    stop = threading.Event()
    ctx = LeaderContext("plan", 77, lambda: leadership.term, stop, clock)
    assert (ctx.namespace, ctx.term) == ("plan", 77)
    assert not ctx.cancelled and not ctx.cancelled.is_set()
    clock.advance(27.0)
    assert ctx.cancelled and ctx.cancelled.is_set(), "by the clock"
    leadership.grant(78, clock.monotonic() + 27.0)
    assert ctx.cancelled, "another term is not this one"
    other = LeaderContext("plan", 78, lambda: leadership.term, stop, clock)
    assert not other.cancelled
    stop.set()
    assert other.cancelled


@pytest.mark.parametrize("how", ["stop", "clock", "time"])
def test_waiting_in_a_planner_ends_when_its_time_or_its_term_is_over(how: str) -> None:
    clock = ManualClock()
    leadership = Leadership(clock)
    leadership.grant(77, clock.monotonic() + 27.0)
    stop = threading.Event()
    ctx = LeaderContext("plan", 77, lambda: leadership.term, stop, clock)
    answers: List[bool] = []
    seconds = 5.0 if how == "time" else 1000.0
    thread = threading.Thread(target=lambda: answers.append(ctx.wait(seconds)), daemon=True)
    thread.start()
    wait_until(lambda: clock.waiting == 1)
    if how == "stop":
        stop.set()
    else:
        clock.advance(seconds if how == "time" else 27.0)
    thread.join(10)
    assert answers == [how != "time"]
    assert ctx.cancelled.wait(0.0) is (how != "time")


# ---------------------------------------------------------------- others plan too, or the term is over


def test_a_plan_made_from_an_old_state_is_made_anew(make: Make) -> None:
    bench = make(Numbers(10**6))

    def somebody_creates() -> None:
        bench.planner.on_question = lambda: None
        bench.strategy.create_partitions_if_not_exist([CreatePartition(900, 51, 70)])

    bench.planner.on_question = somebody_creates
    bench.next_round()
    assert bench.faulty.calls["plan_partitions"] == 2, "the first one was refused"
    ranges = sorted(bench.ranges())
    assert ranges[0] == (51, 70) and ranges[1] == (71, 80), "planning goes on behind what is planned"
    assert all(a[1] < b[0] for a, b in zip(ranges, ranges[1:]))
    assert [p.partition_id for p in bench.strategy.get_all_partitions()][0] == 900
    assert bench.recorder.of("planner_error") == []


def test_two_leaders_at_once_plan_nothing_twice_and_the_old_one_is_refused(
    make: Make, fake_server: fakeredis.FakeServer
) -> None:
    old = make(Numbers(10**6))
    new = make(Numbers(10**6), lead=False)

    def elected_meanwhile() -> None:
        old.planner.on_question = lambda: None
        new.lead()
        new.round()

    old.planner.on_question = elected_meanwhile
    assert old.round() == Round(0, 0, False, False)
    assert old.over == ["the store refused a plan of this term"]
    assert old.ranges() == [(i * 10 + 1, i * 10 + 10) for i in range(15)], "the new one's, once"


def test_control_without_the_guards_of_term_and_version_they_would_plan_the_same_ids(make: Make) -> None:
    old = make(Numbers(10**6))
    new = make(Numbers(10**6), lead=False)
    scripts = old.strategy.store.scripts
    scripts.replace("partition/plan", "if term ~= ARGV[2] then return {-2, term or '0'} end", "")
    scripts.replace("partition/plan", "if found ~= ARGV[1] then", "if false then")

    def elected_meanwhile() -> None:
        old.planner.on_question = lambda: None
        new.lead()
        new.round()
        new.complete(3)

    old.planner.on_question = elected_meanwhile
    old.round()
    assert old.over == []
    active = {p.min_id for p in old.strategy.get_all_active_partitions()}
    assert 1 in active, "what was completed is planned again"


def test_an_old_round_that_is_refused_does_not_end_the_new_term_of_the_same_worker(make: Make) -> None:
    bench = make(Numbers(10**6))

    def elected_again() -> None:
        bench.planner.on_question = lambda: None
        bench.lead()

    bench.planner.on_question = elected_again
    bench.round()
    assert bench.over == []
    assert bench.leadership.term is not None
    done = bench.round()
    assert done is not None and done.created == 15


@pytest.mark.parametrize("how", ["clock", "stop"])
def test_a_term_that_ends_during_a_round_ends_the_round(make: Make, how: str) -> None:
    bench = make(Numbers(10**6))
    bench.workers(3, capacity=1000)

    def ends() -> None:
        if len(bench.planner.asked) == 3:
            if how == "clock":
                bench.leadership.end()
            else:
                bench.allocator.interrupt()

    bench.planner.on_question = ends
    bench.round()
    assert len(bench.planner.asked) == 3


@pytest.mark.parametrize("call", ["workers", "plan_state", "plan_partitions", "note_round"])
def test_a_store_that_is_away_fails_the_round_and_forgets_no_ask(make: Make, call: str) -> None:
    bench = make(Numbers(100))
    bench.allocator.on_sweep(Sweep(asked=True))
    bench.faulty.fail_before(call, 1, StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        bench.round()
    assert bench.recorder.of("planner_error") == []
    done = bench.round()
    assert done is not None and done.exhausted
    assert bench.strategy.planned_intervals() == [(1, 100)]


def test_a_plan_that_commits_but_loses_its_reply_is_seen_and_not_made_twice(make: Make) -> None:
    bench = make(Numbers(100))
    bench.faulty.commit_then_lose("plan_partitions", 1, StoreUnavailable("lost"))
    with pytest.raises(StoreUnavailable):
        bench.round()
    bench.round()
    assert bench.ranges() == [(i * 10 + 1, i * 10 + 10) for i in range(10)]
    assert bench.over == []
