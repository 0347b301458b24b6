"""The claimer: what it asks for, what it does with the answer, and what it does without one.

First with a strategy that answers what it is told to, then with the real one on an in-process server.
"""

from __future__ import annotations

import collections
import itertools
import logging
import random
import threading
from typing import Any, Callable, Deque, Dict, Iterator, List, Optional, Set, Union

import attr
import fakeredis
import pytest

from elk_coordinator import (
    CircuitBreakerConfig,
    CoordinatorConfig,
    CreatePartition,
    Partition,
    PartitionStatus,
    RedisDataStore,
    StoreError,
    StoreUnavailable,
    StrategyType,
    create_strategy,
)
from elk_coordinator.model import CancelReason, Outcome, Reclaimed, Report, ReportResult, Sweep, Turn
from elk_coordinator.partition.requests import BUCKETS, TurnRequest, bucket_of
from elk_coordinator.protocols import EVENT_KINDS, Event
from elk_coordinator.runtime.events import Events
from elk_coordinator.testing import Faulty, ManualClock, wait_until
from elk_coordinator.worker.circuit_breaker import BreakerState, CircuitBreaker
from elk_coordinator.worker.claimer import HOARD_SECONDS, IDLE_POLL, Claimer
from elk_coordinator.worker.context import Task
from elk_coordinator.worker.window import TaskWindow

LOGGER = logging.getLogger("elk_coordinator.test")
LEASE = 30.0
RUNNING, CLAIMED = PartitionStatus.RUNNING, PartitionStatus.CLAIMED
COMPLETED, FAILED, PENDING = PartitionStatus.COMPLETED, PartitionStatus.FAILED, PartitionStatus.PENDING
GONE = None


def in_daemon(call: Callable[[], Any]) -> Any:
    """Do *call* in a daemon thread, as the claimer's is; return what it returned or raise what it raised."""
    answers: List[Any] = []
    errors: List[BaseException] = []

    def run() -> None:
        try:
            answers.append(call())
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(20)
    if errors:
        raise errors[0]
    return answers[0]


class FakeStrategy:
    """Answers turns by what :attr:`answers` holds: a Turn, an exception, or a function of the request."""

    namespace = "claims"
    lease = LEASE

    def __init__(self) -> None:
        self.asked: List[TurnRequest] = []
        self.answers: Deque[Union[Turn, BaseException, Callable[[TurnRequest], Turn]]] = collections.deque()
        self.sweeps: List[int] = []
        self.swept = Sweep()
        self._numbers = itertools.count(1)
        self._tokens = itertools.count(10**15)
        self._ids = itertools.count(1)

    def stream(self, name: str) -> str:
        return "nonce:" + name

    def next_sequence(self, stream: str) -> int:
        return next(self._numbers)

    def turn(self, request: TurnRequest) -> Turn:
        self.asked.append(request)
        answer = self.answers.popleft() if self.answers else Turn()
        if isinstance(answer, BaseException):
            raise answer
        turn = answer(request) if callable(answer) else answer
        if len(turn.results) < len(request.reports):
            turn = attr.evolve(turn, results=[self.result(report) for report in request.reports])
        return turn

    @staticmethod
    def result(report: Report) -> ReportResult:
        status = {"C": COMPLETED, "F": FAILED, "X": FAILED}.get(report.outcome.value, PENDING)
        return ReportResult(report.partition_id, report.token, status)

    def sweep(self, limit: int = 500, term: Optional[int] = None) -> Sweep:
        assert term is None, "a worker is no leader"
        self.sweeps.append(limit)
        return self.swept

    def partition(self, status: PartitionStatus = RUNNING, **facts: Any) -> Partition:
        number = next(self._ids)
        return Partition(number, number, number, status, "w", fencing_token=next(self._tokens), **facts)

    def grant(self, running: int = 0, claimed: int = 0, left: int = 0, **facts: Any) -> Turn:
        """Have the next turn grant so many."""
        granted = [self.partition(RUNNING if i < running else CLAIMED, **facts) for i in range(running + claimed)]
        turn = Turn(granted=granted, left=left)
        self.answers.append(turn)
        return turn

    @property
    def last(self) -> TurnRequest:
        return self.asked[-1]


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
    """A claimer with a real window; its tasks last until the test lets them end."""

    def __init__(self, strategy: Any, size: int = 2, breaker: bool = False, **options: Any) -> None:
        self.strategy = strategy
        self.clock = ManualClock()
        self.config = CoordinatorConfig(task_window_size=size, **options)
        self.recorder = Recorder()
        self.events = Events("claims", "w", self.clock, LOGGER, own=[self.recorder])
        self.breaker = CircuitBreaker(CircuitBreakerConfig(), self.clock) if breaker else None
        self.may_claim = True
        self.lost_data = 0
        self.answered = 0
        self.claimer = Claimer(
            strategy, "w", self.config, self.clock, self.events, self.breaker, lambda: self.may_claim,
            self._lost_data, self._answered, LOGGER,
        )  # fmt: skip
        self.window = TaskWindow("claims", size, self.run, self.clock, LOGGER, self.claimer.wake)
        self.claimer.window = self.window
        #: What a task does; holds by default.
        self.work: Callable[[Task], Outcome] = self.hold
        self.gates: Dict[int, threading.Event] = collections.defaultdict(threading.Event)
        self.open = threading.Event()
        self.started: List[int] = []

    def _lost_data(self) -> None:
        self.lost_data += 1

    def _answered(self) -> None:
        self.answered += 1

    def run(self, task: Task) -> Report:
        task.begin(None)
        self.started.append(task.partition.partition_id)
        outcome = self.work(task)
        if task.permit is not None and self.breaker is not None:
            if outcome is Outcome.COMPLETED:
                self.breaker.success(task.permit)
            elif outcome is Outcome.ERROR:
                self.breaker.failure(task.permit, task.partition.partition_id, "down")
            else:
                self.breaker.give_back(task.permit)
        return Report(task.partition.partition_id, task.token, outcome, 7, "oops" if outcome is Outcome.ERROR else None)

    def hold(self, task: Task) -> Outcome:
        assert self.gates[task.partition.partition_id].wait(50)
        return Outcome.COMPLETED

    def turn(self) -> Any:
        return in_daemon(self.claimer.run_once)

    def end(self, *ids: int) -> None:
        """Let tasks end, and wait for their reports."""
        due = self.window.unreported + len(ids)
        for i in ids:
            self.gates[i].set()
        wait_until(lambda: self.window.unreported == due, 10, "the reports of %r" % (ids,))

    def wait_started(self, count: int) -> None:
        wait_until(lambda: len(self.started) == count, 10, lambda: "started: %r" % self.started)

    def short_tasks(self, seconds: float, count: int = 10) -> None:
        """Have the window see *count* tasks of *seconds* each."""
        self.window._done, self.window._busy = count, count * seconds

    def trip(self) -> None:
        assert self.breaker is not None
        while self.breaker.state is not BreakerState.OPEN:
            permit = self.breaker.acquire()
            assert permit is not None
            self.breaker.failure(permit, 99, "down")

    def reports(self) -> List[Any]:
        """Return what the last request reported."""
        return [(report.partition_id, report.outcome) for report in self.strategy.last.reports]

    def close(self) -> None:
        for i in range(1, 100):
            self.gates[i].set()
        self.window.close()


@pytest.fixture
def benches() -> Iterator[List[Bench]]:
    made: List[Bench] = []
    yield made
    for bench in made:
        bench.close()


@pytest.fixture
def make(benches: List[Bench]) -> Callable[..., Bench]:
    def build(**options: Any) -> Bench:
        benches.append(Bench(FakeStrategy(), **options))
        return benches[-1]

    return build


Make = Callable[..., Bench]


# ---------------------------------------------------------------- what it asks for


def test_the_first_turn_asks_for_the_free_slots_and_prefetches_nothing(make: Make) -> None:
    bench = make(size=3)
    assert bench.turn() == (0, 0)
    (request,) = bench.strategy.asked
    assert (request.free, request.prefetch, request.reports, request.starts) == (3, 0, [], [])
    assert (request.worker_id, request.stream, request.lease, request.suspects) == ("w", "nonce:work", LEASE, True)
    assert bench.answered == 1


def test_what_is_granted_runs_at_once(make: Make) -> None:
    bench = make(size=3)
    bench.strategy.grant(2)
    assert bench.turn() == (2, 0)
    bench.wait_started(2)
    (event,) = bench.recorder.of("claimed")
    assert event.count == 2
    bench.turn()
    assert bench.strategy.last.free == 1, "one slot is free still"


def test_a_full_window_with_nothing_to_tell_costs_no_round_trip(make: Make) -> None:
    bench = make(size=2)
    bench.strategy.grant(2)
    bench.turn()
    bench.wait_started(2)
    for _ in range(5):
        bench.clock.advance(1.0)
        assert bench.turn() == (0, 0)
        assert bench.claimer.last_turn_at == bench.clock.monotonic(), "it had its turn all the same"
    assert len(bench.strategy.asked) == 1


def test_report_and_claim_are_one_round_trip(make: Make) -> None:
    bench = make(size=2)
    bench.strategy.grant(2)
    bench.turn()
    bench.wait_started(2)
    bench.end(1)
    bench.strategy.grant(1)
    assert bench.turn() == (2, 0)
    assert len(bench.strategy.asked) == 2
    request = bench.strategy.last
    assert bench.reports() == [(1, Outcome.COMPLETED)]
    assert (request.reports[0].token, request.reports[0].processed, request.free) == (10**15, 7, 1)
    bench.wait_started(3)


def test_all_that_ended_meanwhile_goes_into_one_request(make: Make) -> None:
    bench = make(size=8)
    bench.strategy.grant(8)
    bench.turn()
    bench.wait_started(8)
    bench.end(*range(1, 7))
    bench.turn()
    assert sorted(i for i, _ in bench.reports()) == [1, 2, 3, 4, 5, 6]
    assert bench.strategy.last.free == 6


def test_sequence_numbers_rise_from_request_to_request(make: Make) -> None:
    bench = make()
    for _ in range(4):
        bench.turn()
    assert [request.sequence for request in bench.strategy.asked] == [1, 2, 3, 4]


def test_more_than_200_reports_go_in_several_requests(make: Make) -> None:
    bench = make()
    for _ in range(700):
        task = Task(bench.strategy.partition(), 1e9, bench.clock)
        bench.window.put_back(task, Report(task.partition.partition_id, task.token, Outcome.RELEASED))
    assert [bench.turn() for _ in range(4)] == [(200, 500), (200, 300), (200, 100), (100, 0)]
    assert [len(request.reports) for request in bench.strategy.asked] == [200, 200, 200, 100]


def test_the_start_of_a_prefetched_partition_rides_on_the_next_round_trip_once(make: Make) -> None:
    bench = make(size=1)
    bench.strategy.grant(1, 1)
    bench.turn()
    bench.wait_started(1)
    assert bench.strategy.last.starts == []
    bench.end(1)
    bench.wait_started(2)
    bench.turn()
    assert bench.strategy.last.starts == [(2, 10**15 + 1)]
    assert bench.reports() == [(1, Outcome.COMPLETED)]
    bench.end(2)
    bench.turn()
    assert bench.strategy.last.starts == []


def test_starts_whose_answer_is_lost_are_told_again(make: Make) -> None:
    bench = make(size=1)
    bench.strategy.grant(1, 1)
    bench.turn()
    bench.end(1)
    bench.wait_started(2)
    bench.strategy.answers.append(StoreUnavailable("lost"))
    with pytest.raises(StoreUnavailable):
        bench.turn()
    assert bench.window.find(2).marked is False  # type: ignore[union-attr]
    bench.turn()
    assert bench.strategy.last.starts == [(2, 10**15 + 1)]
    assert bench.window.find(2).marked is True  # type: ignore[union-attr]


# ---------------------------------------------------------------- answers that do not come


@pytest.mark.parametrize("error", [StoreUnavailable("away"), StoreError("odd"), RuntimeError("odder")])
def test_a_request_is_sent_again_unchanged_until_it_is_answered(make: Make, error: BaseException) -> None:
    bench = make(size=3)
    bench.strategy.grant(2)
    bench.turn()
    bench.wait_started(2)
    bench.end(1)
    for _ in range(3):
        bench.strategy.answers.append(error)
        with pytest.raises(type(error)):
            bench.turn()
    bench.end(2)
    bench.strategy.grant(2)
    bench.turn()
    first = bench.strategy.asked[1]
    assert bench.strategy.asked[1:] == [first] * 4
    assert [report.partition_id for report in first.reports] == [1], "what ended later waits for the next request"
    assert bench.answered == 2, "only answers are answers"
    bench.turn()
    assert bench.reports() == [(2, Outcome.COMPLETED)]
    assert bench.strategy.last.sequence == first.sequence + 1


def test_nothing_is_lost_of_a_request_that_was_never_answered(make: Make) -> None:
    bench = make()
    bench.strategy.answers.append(StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        bench.turn()
    assert not bench.claimer.idle(), "its first try may have run"
    bench.may_claim = False
    bench.strategy.grant(2)
    bench.turn()
    assert bench.strategy.asked[0] == bench.strategy.asked[1]


def test_the_lease_is_trusted_from_before_the_first_send(make: Make) -> None:
    bench = make(size=1)
    bench.clock.advance(5.0)
    sent = bench.clock.monotonic()
    bench.strategy.answers.append(StoreUnavailable("lost"))
    with pytest.raises(StoreUnavailable):
        bench.turn()
    bench.clock.advance(7.0)

    def slow(request: TurnRequest) -> Turn:
        bench.clock.advance(11.0)
        return Turn(granted=[bench.strategy.partition()])

    bench.strategy.answers.append(slow)
    bench.turn()
    bench.wait_started(1)
    task = bench.window.find(1)
    assert task is not None
    bench.clock.advance(27.0 - 18.0 - 0.01)
    assert task.reason() is None
    bench.clock.advance(0.01)
    assert bench.clock.monotonic() == pytest.approx(sent + 27.0), "a lease of 30 s less the margin of a tenth"
    assert task.reason() is CancelReason.LEASE_LOST


@pytest.mark.parametrize("breaker", [False, True])
def test_too_late_an_answer_is_given_back_by_its_token_and_never_started(make: Make, breaker: bool) -> None:
    bench = make(size=2, breaker=breaker)
    granted: List[Partition] = []

    def late(request: TurnRequest) -> Turn:
        bench.clock.advance(27.0)
        granted.extend([bench.strategy.partition(), bench.strategy.partition(CLAIMED)])
        return Turn(granted=granted)

    bench.strategy.answers.append(late)
    assert bench.turn() == (2, 2)
    assert bench.claimer.wake.is_set() and bench.claimer.pause((2, 2)) == 0.0, "at once"
    bench.turn()
    assert bench.reports() == [(1, Outcome.RELEASED), (2, Outcome.RELEASED)]
    assert [report.token for report in bench.strategy.last.reports] == [p.fencing_token for p in granted]
    assert bench.started == []
    assert bench.window.held() == [], "and never renewed"


# ---------------------------------------------------------------- prefetch


@pytest.mark.parametrize(
    "seconds, prefetch", [(0.0001, True), (0.001, True), (0.02, False), (1.0, False), (3600.0, False)]
)
def test_prefetch_is_for_short_partitions_only(make: Make, seconds: float, prefetch: bool) -> None:
    bench = make(size=2)
    bench.short_tasks(seconds)
    bench.turn()
    assert bench.strategy.last.free == 2
    assert (bench.strategy.last.prefetch > 0) is prefetch


def test_prefetch_bridges_round_trips_and_no_more(make: Make) -> None:
    bench = make(size=4)
    bench.short_tasks(0.002)
    # A round trip of 2 ms (the first guess), three of them, four slots: 3 x 4 partitions of 2 ms.
    bench.turn()
    assert bench.strategy.last.prefetch == 12
    bench.claimer._turn_seconds = 10.0
    bench.turn()
    assert bench.strategy.last.prefetch == 64, "a slow store makes nobody hoard: 50 ms of work per slot at most"
    bench.short_tasks(1e-7)
    bench.turn()
    assert bench.strategy.last.prefetch == 8 * 4 + 32
    assert bench.claimer.prefetched == 64


def test_prefetched_partitions_are_not_asked_for_by_ones_and_twos(make: Make) -> None:
    bench = make(size=1)
    bench.short_tasks(0.0001)
    prefetch = bench.claimer._wanted()[1]
    assert prefetch > 8
    bench.strategy.grant(1, prefetch)
    bench.turn()
    bench.wait_started(1)
    bench.short_tasks(0.0001)
    assert bench.claimer._wanted() == (0, 0)
    bench.window.take_waiting(lambda task: task.partition.partition_id < prefetch)
    bench.short_tasks(0.0001)
    assert bench.claimer._wanted() == (0, 0), "two have ended, which is no reason yet"
    bench.window.take_waiting(lambda task: task.partition.partition_id < prefetch // 2)
    assert bench.claimer._wanted()[1] > prefetch // 4


def test_a_free_slot_is_reason_enough(make: Make) -> None:
    bench = make(size=3)
    bench.short_tasks(0.0001)
    bench.strategy.grant(2)
    bench.turn()
    bench.wait_started(2)
    assert bench.claimer._wanted()[0] == 1


def test_a_hoarded_task_goes_back_so_that_others_get_it(make: Make) -> None:
    bench = make(size=1)
    bench.strategy.grant(1, 3)
    bench.turn()
    bench.wait_started(1)
    bench.clock.advance(HOARD_SECONDS - 0.01)
    bench.turn()
    assert len(bench.strategy.asked) == 1
    bench.clock.advance(0.01)
    bench.turn()
    assert bench.reports() == [(2, Outcome.RELEASED), (3, Outcome.RELEASED), (4, Outcome.RELEASED)]
    assert bench.strategy.last.starts == []
    assert bench.started == [1]


def test_it_comes_back_in_time_to_give_away_what_waits_too_long(make: Make) -> None:
    bench = make(size=1)
    bench.strategy.grant(1, 2)
    bench.turn()
    bench.wait_started(1)
    assert bench.claimer.pause((0, 0)) == pytest.approx(HOARD_SECONDS)
    bench.clock.advance(0.3)
    assert bench.claimer.pause((0, 0)) == pytest.approx(HOARD_SECONDS - 0.3)
    bench.clock.advance(HOARD_SECONDS - 0.3)
    bench.turn()
    assert bench.window.load() == (1, 0)
    assert bench.claimer.pause((0, 0)) >= 0.75 * IDLE_POLL


def test_it_comes_back_when_a_retry_is_due_and_only_once(make: Make) -> None:
    bench = make(size=1)
    bench.strategy.answers.append(Turn(due_in=0.25))
    assert bench.claimer.pause(bench.turn()) == pytest.approx(0.25)
    assert bench.claimer.pause(bench.turn()) >= 0.75 * IDLE_POLL, "this turn was told of none"
    bench.strategy.answers.append(Turn(due_in=0.0))
    assert 0 < bench.claimer.pause(bench.turn()) <= 0.001
    bench.may_claim = False
    bench.clock.advance(10.0)
    assert bench.claimer.pause(bench.turn()) >= 0.75 * IDLE_POLL, "what is due is nothing to one that may not claim"
    bench.may_claim = True
    bench.strategy.answers.append(Turn(due_in=1000.0))
    assert bench.claimer.pause(bench.turn()) <= IDLE_POLL


# ---------------------------------------------------------------- when it may not claim


def test_a_window_made_smaller_gives_back_what_it_has_no_use_for_and_asks_for_less(make: Make) -> None:
    bench = make(size=4)
    bench.strategy.grant(running=4, claimed=3)
    bench.turn()
    bench.wait_started(4)
    bench.window.resize(2)
    assert bench.claimer.wake.is_set()
    bench.turn()
    assert [report.outcome for report in bench.strategy.last.reports] == [Outcome.RELEASED] * 3
    assert (bench.strategy.last.free, bench.strategy.last.prefetch) == (0, 0)
    bench.end(1, 2)
    bench.turn()
    assert bench.strategy.last.free == 0, "two run, and two may"
    bench.end(3)
    bench.turn()
    assert bench.strategy.last.free == 1


def test_a_window_made_smaller_keeps_those_that_waited_longest_for_its_free_slots(make: Make) -> None:
    bench = make(size=6)
    bench.claimer._prefetch = lambda: 2  # type: ignore[attr-defined]
    bench.strategy.grant(running=6, claimed=5)
    bench.turn()
    bench.wait_started(6)
    bench.window.resize(5)
    bench.turn()
    assert [report.partition_id for report in bench.strategy.asked[1].reports] == [9, 10, 11]
    assert bench.window.load() == (6, 2)


def test_a_larger_window_asks_for_more_with_its_next_turn(make: Make) -> None:
    bench = make(size=1)
    bench.strategy.grant(running=1)
    bench.turn()
    bench.wait_started(1)
    bench.window.resize(4)
    assert bench.claimer.wake.is_set()
    bench.turn()
    assert bench.strategy.last.free == 3


def test_while_stopping_or_paused_it_claims_nothing_and_gives_back_what_waits(make: Make) -> None:
    bench = make(size=1)
    bench.strategy.grant(1, 2)
    bench.turn()
    bench.wait_started(1)
    bench.may_claim = False
    bench.turn()
    assert bench.reports() == [(2, Outcome.RELEASED), (3, Outcome.RELEASED)]
    assert (bench.strategy.last.free, bench.strategy.last.prefetch) == (0, 0)
    bench.end(1)
    bench.turn()
    assert bench.reports() == [(1, Outcome.COMPLETED)], "reports go on"
    assert bench.strategy.last.free == 0
    bench.turn()
    assert len(bench.strategy.asked) == 3
    bench.may_claim = True
    bench.turn()
    assert bench.strategy.last.free == 1


def test_a_claim_that_the_stop_overtook_goes_back_unstarted(make: Make) -> None:
    bench = make(size=2, breaker=True)

    def stopped_meanwhile(request: TurnRequest) -> Turn:
        bench.may_claim = False
        bench.window.cancel_all(CancelReason.STOP)
        return Turn(granted=[bench.strategy.partition(), bench.strategy.partition()])

    bench.strategy.answers.append(stopped_meanwhile)
    bench.turn()
    bench.turn()
    assert bench.reports() == [(1, Outcome.RELEASED), (2, Outcome.RELEASED)]
    assert bench.started == []
    assert bench.claimer.idle()


def test_an_exhausted_window_claims_nothing(make: Make) -> None:
    bench = make(size=1)
    for number in (1, 2):
        bench.strategy.grant(1)
        bench.turn()
        bench.wait_started(number)
        bench.window.find(number).cancel(CancelReason.TIMEOUT)  # type: ignore[union-attr]
        bench.clock.advance(LEASE + 1)
        assert len(in_daemon(lambda: bench.window.find_hung(LEASE))) == 1
    assert bench.window.exhausted
    asked = len(bench.strategy.asked)
    bench.turn()
    assert len(bench.strategy.asked) == asked
    bench.end(1)
    bench.turn()
    assert bench.reports() == [(1, Outcome.COMPLETED)]
    assert bench.strategy.last.free == 1, "one came back, so a slot may be used again"


@pytest.mark.parametrize(
    "reason, outcome",
    [(CancelReason.STOP, Outcome.RELEASED), (CancelReason.CANCELLED, Outcome.CANCELLED),
     (CancelReason.LEASE_LOST, Outcome.RELEASED)],
)  # fmt: skip
def test_what_an_operator_wants_of_a_waiting_partition_happens_without_its_start(
    make: Make, reason: CancelReason, outcome: Outcome
) -> None:
    bench = make(size=1)
    bench.strategy.grant(1, 1)
    bench.turn()
    bench.wait_started(1)
    bench.claimer.wake.clear()
    assert bench.claimer.cancel(2, reason, "alice") is True
    assert bench.claimer.wake.is_set()
    bench.turn()
    assert bench.reports() == [(2, outcome)]
    assert bench.strategy.last.reports[0].error == ("cancelled by alice" if outcome is Outcome.CANCELLED else None)


def test_what_an_operator_wants_of_a_running_partition_is_told_to_its_task(make: Make) -> None:
    bench = make(size=1)
    bench.strategy.grant(1)
    bench.turn()
    assert bench.claimer.cancel(1, CancelReason.CANCELLED, "alice") is True
    task = bench.window.find(1)
    assert task is not None and task.reason() is CancelReason.CANCELLED and task.cancelled_by == "alice"
    assert bench.claimer.cancel(77, CancelReason.CANCELLED, "alice") is False, "not held here"


# ---------------------------------------------------------------- the circuit breaker


def test_an_open_breaker_claims_nothing_and_gives_back_what_has_not_started(make: Make) -> None:
    bench = make(size=1, breaker=True)
    bench.strategy.grant(1, 3)
    bench.turn()
    bench.wait_started(1)
    bench.trip()
    bench.turn()
    assert bench.reports() == [(2, Outcome.RELEASED), (3, Outcome.RELEASED), (4, Outcome.RELEASED)]
    assert (bench.strategy.last.free, bench.strategy.last.prefetch) == (0, 0)
    bench.end(1)
    bench.turn()
    asked = len(bench.strategy.asked)
    for _ in range(29):
        bench.clock.advance(1.0)
        bench.turn()
    assert len(bench.strategy.asked) == asked
    assert bench.started == [1]


def test_it_comes_back_when_the_breaker_lets_probes_through(make: Make) -> None:
    bench = make(size=2, breaker=True)
    assert bench.breaker is not None
    for _ in range(3):
        bench.breaker.failure(bench.breaker.acquire(), 9, "down")  # type: ignore[arg-type]
    assert bench.breaker.probes_in() == 30.0
    assert bench.claimer.pause(bench.turn()) >= 0.75 * IDLE_POLL
    bench.clock.advance(29.5)
    assert bench.claimer.pause(bench.turn()) == pytest.approx(0.5)
    bench.clock.advance(0.5)
    bench.turn()
    assert bench.strategy.last.free == 2 and bench.breaker.probes_in() is None


def test_a_breaker_that_opened_during_the_round_trip_gives_the_grants_back(make: Make) -> None:
    bench = make(size=2, breaker=True)

    def trips(request: TurnRequest) -> Turn:
        bench.trip()
        return Turn(granted=[bench.strategy.partition(), bench.strategy.partition()])

    bench.strategy.answers.append(trips)
    bench.turn()
    bench.turn()
    assert bench.reports() == [(1, Outcome.RELEASED), (2, Outcome.RELEASED)]
    assert bench.started == []


def test_a_half_open_breaker_claims_its_probes_into_free_slots_and_prefetches_nothing(make: Make) -> None:
    bench = make(size=5, breaker=True)
    bench.trip()
    bench.clock.advance(30.0)
    bench.short_tasks(0.0001)
    bench.strategy.grant(2)
    bench.turn()
    assert (bench.strategy.last.free, bench.strategy.last.prefetch) == (2, 0)
    bench.wait_started(2)
    bench.turn()
    assert len(bench.strategy.asked) == 1, "two probes run, more may not"
    bench.end(1, 2)
    bench.turn()
    assert bench.breaker is not None and bench.breaker.state is BreakerState.CLOSED
    assert bench.strategy.last.free == 5


def test_a_half_open_breaker_tries_others_than_those_that_failed(make: Make) -> None:
    bench = make(size=5, breaker=True)
    bench.work = lambda task: Outcome.ERROR
    bench.strategy.grant(1)
    bench.turn()
    bench.wait_started(1)
    bench.turn()
    assert bench.reports() == [(1, Outcome.ERROR)] and bench.strategy.last.owned == "", "closed: no preference"
    bench.trip()
    bench.clock.advance(30.0)
    bench.turn()
    owned = bench.strategy.last.owned
    assert bench.strategy.last.free == 2 and len(owned) == BUCKETS and "1" in owned
    assert owned[bucket_of(1)] == "0"


def test_a_half_open_breaker_closes_after_fewer_probes_when_nothing_is_left(make: Make) -> None:
    bench = make(size=5, breaker=True)
    assert bench.breaker is not None
    bench.trip()
    bench.clock.advance(30.0)
    bench.strategy.grant(1)
    bench.turn()
    bench.turn()
    assert bench.breaker.state is BreakerState.HALF_OPEN, "nothing is left, but the probe runs"
    bench.end(1)
    bench.turn()
    assert bench.breaker.state is BreakerState.CLOSED


def test_permits_of_what_goes_back_do_not_leak(make: Make) -> None:
    bench = make(size=5, breaker=True)
    assert bench.breaker is not None
    bench.trip()
    bench.clock.advance(30.0)

    def released(task: Task) -> Outcome:
        bench.hold(task)
        return Outcome.RELEASED

    bench.work = released
    for number in range(1, 10, 2):
        bench.strategy.grant(2)
        bench.turn()
        assert bench.strategy.last.free == 2
        bench.wait_started(number + 1)
        assert bench.breaker.allowance() == 0
        bench.end(number, number + 1)
    assert bench.breaker.allowance() == 2


@pytest.mark.parametrize("reason", [CancelReason.TIMEOUT, CancelReason.LEASE_LOST])
def test_a_hung_probe_keeps_no_permit(make: Make, reason: CancelReason) -> None:
    bench = make(size=1, breaker=True)
    assert bench.breaker is not None
    bench.trip()
    bench.clock.advance(30.0)
    bench.strategy.grant(1)
    bench.turn()
    bench.wait_started(1)
    assert bench.breaker.allowance() == 1
    bench.window.find(1).cancel(reason)  # type: ignore[union-attr]
    bench.clock.advance(LEASE + 1)
    assert len(in_daemon(lambda: bench.window.find_hung(LEASE))) == 1
    bench.turn()
    if reason is CancelReason.TIMEOUT:
        assert bench.breaker.state is BreakerState.OPEN, "a time-out is a failure"
    else:
        assert bench.breaker.state is BreakerState.HALF_OPEN
        assert bench.breaker.allowance() == 2
    trips = bench.breaker.trips
    bench.end(1)
    bench.turn()
    assert bench.breaker.trips == trips, "its late end says nothing more"


# ---------------------------------------------------------------- suspects


def test_while_a_suspect_is_held_no_other_is_asked_for(make: Make) -> None:
    bench = make(size=3)
    bench.strategy.grant(1, deliveries=2)
    bench.turn()
    bench.wait_started(1)
    bench.strategy.grant(1, deliveries=1)
    bench.turn()
    assert bench.strategy.last.suspects is False
    bench.wait_started(2)
    bench.end(2)
    bench.turn()
    assert bench.strategy.last.suspects is False, "the other one ended"
    bench.end(1)
    bench.turn()
    assert bench.reports() == [(1, Outcome.COMPLETED)]
    bench.turn()
    assert bench.strategy.last.suspects is True


def test_a_suspect_whose_report_is_refused_or_that_came_too_late_is_forgotten_too(make: Make) -> None:
    bench = make(size=3)
    turn = bench.strategy.grant(1, deliveries=4)
    bench.turn()
    bench.wait_started(1)
    bench.end(1)
    bench.strategy.answers.append(Turn([ReportResult(1, turn.granted[0].fencing_token, GONE)]))
    bench.turn()
    bench.turn()
    assert bench.strategy.last.suspects is True

    def late(request: TurnRequest) -> Turn:
        bench.clock.advance(LEASE)
        return Turn(granted=[bench.strategy.partition(deliveries=2)])

    bench.strategy.answers.append(late)
    bench.turn()
    bench.turn()
    assert bench.strategy.last.suspects is False, "it goes back with this request"
    bench.turn()
    assert bench.strategy.last.suspects is True


# ---------------------------------------------------------------- leases that ran out elsewhere


@pytest.mark.parametrize("preemption", [True, False])
def test_a_hungry_worker_takes_back_what_ran_out_if_it_may(make: Make, preemption: bool) -> None:
    bench = make(size=2, allow_preemption=preemption)
    bench.strategy.swept = Sweep([Reclaimed(5, "dead", 10**14, 1, PENDING)])
    bench.strategy.answers.append(Turn(granted=[bench.strategy.partition()], expired=True))
    did = bench.turn()
    assert len(bench.strategy.sweeps) == (1 if preemption else 0)
    assert (bench.claimer.pause(did) == 0.0) is (preemption or did[0] > 0)
    events = bench.recorder.of("partition_reclaimed")
    assert [(e.partition_id, e.owner, e.token, e.deliveries) for e in events] == (
        [(5, "dead", 10**14, 1)] if preemption else []
    )


def test_who_got_all_it_wanted_leaves_what_ran_out_to_the_leader(make: Make) -> None:
    bench = make(size=1)
    bench.strategy.answers.append(Turn(granted=[bench.strategy.partition()], expired=True))
    bench.turn()
    assert bench.strategy.sweeps == []


# ---------------------------------------------------------------- how often


def test_without_work_it_polls_with_jitter(make: Make) -> None:
    bench = make()
    pauses = [bench.claimer.pause((0, 0)) for _ in range(200)]
    assert all(0.75 * IDLE_POLL <= pause <= IDLE_POLL for pause in pauses)
    assert max(pauses) - min(pauses) > 0.1


def test_a_turn_that_brought_something_is_followed_by_the_next_while_slots_are_free(make: Make) -> None:
    bench = make(size=2)
    assert bench.claimer.pause((1, 0)) == 0.0
    bench.strategy.grant(2)
    bench.turn()
    bench.wait_started(2)
    assert bench.claimer.pause((2, 0)) > 0, "full"
    assert bench.claimer.pause((0, 1)) == 0.0, "something waits to be reported"
    bench.may_claim = False
    assert bench.claimer.pause((1, 0)) > 0


# ---------------------------------------------------------------- what it tells


def test_every_outcome_becomes_the_event_of_what_the_store_made_of_it(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make(size=7)
    turn = bench.strategy.grant(7, attempt=1)
    outcomes = [Outcome.COMPLETED, Outcome.ERROR, Outcome.ERROR, Outcome.PERMANENT, Outcome.RELEASED, Outcome.LOST,
                Outcome.COMPLETED]  # fmt: skip
    statuses = [COMPLETED, PENDING, FAILED, FAILED, PENDING, FAILED, GONE]

    def work(task: Task) -> Outcome:
        bench.hold(task)
        return outcomes[task.partition.partition_id - 1]

    bench.work = work
    bench.turn()
    bench.wait_started(7)
    for i in range(1, 8):
        bench.end(i)
    tokens = [partition.fencing_token for partition in turn.granted]
    bench.strategy.answers.append(Turn([ReportResult(i + 1, tokens[i], statuses[i]) for i in range(7)]))
    bench.turn()
    told = [(e.kind, e.partition_id, e.token) for e in bench.recorder.events if e.kind not in ("claimed", "reported")]
    kinds = ["partition_completed", "partition_retried", "partition_failed", "partition_failed", "partition_released",
             "partition_failed", "write_refused"]  # fmt: skip
    assert told == [(kinds[i], i + 1, tokens[i]) for i in range(7)]
    assert bench.recorder.of("partition_completed")[0].processed == 7
    (retried,) = bench.recorder.of("partition_retried")
    assert (retried.attempt, retried.error) == (2, "oops")
    assert bench.recorder.of("write_refused")[0].what == "completed"
    text = caplog.text
    assert "partition 2: attempt 2 failed" in text
    assert "partition 3 [3, 3] failed for good: oops" in text
    assert "partition 6 [6, 6] failed for good: lost too often" in text
    assert "partition 7: the report COMPLETED of token %d was refused" % tokens[6] in text


def test_lost_data_is_told_on(make: Make) -> None:
    bench = make()
    bench.strategy.answers.append(Turn(lost_data=True))
    bench.turn()
    assert bench.lost_data == 1
    bench.turn()
    assert bench.lost_data == 1


def test_idle_is_never_true_while_something_is_unreported_or_a_turn_goes_on(make: Make) -> None:
    bench = make(size=1)
    assert bench.claimer.idle()
    during: List[bool] = []

    def look(request: TurnRequest) -> Turn:
        during.append(bench.claimer.idle())
        return Turn(granted=[bench.strategy.partition()])

    bench.strategy.answers.append(look)
    bench.turn()
    assert during == [False]
    bench.wait_started(1)
    assert bench.claimer.idle(), "what runs is the window's business"
    bench.end(1)
    assert not bench.claimer.idle()
    bench.turn()
    assert bench.claimer.idle()


# ---------------------------------------------------------------- with the real strategy


class Real:
    """HASH on an in-process server, behind a wrapper that can lose requests and answers."""

    def __init__(self, server: fakeredis.FakeServer, benches: List[Bench]) -> None:
        self.store = RedisDataStore(fakeredis.FakeRedis(server=server))
        self.strategy: Any = create_strategy(StrategyType.HASH, "claims", self.store, partition_lock_expiry=LEASE)
        self.faulty = Faulty(self.strategy)
        self._benches = benches

    def bench(self, **options: Any) -> Bench:
        self._benches.append(Bench(self.faulty, **options))
        return self._benches[-1]

    def create(self, count: int) -> None:
        self.strategy.create_partitions_if_not_exist(
            [CreatePartition(i, i * 10, i * 10 + 9) for i in range(1, count + 1)]
        )

    def expire(self) -> None:
        """Have all leases run out in the store, and take back what they held."""
        client = self.strategy.store._link.client()
        for member in client.zrange(self.strategy.store.keys["leases"], 0, -1):
            client.zadd(self.strategy.store.keys["leases"], {member: 1})
        self.strategy.sweep()


@pytest.fixture
def real(fake_server: fakeredis.FakeServer, benches: List[Bench]) -> Iterator[Real]:
    made = Real(fake_server, benches)
    yield made
    made.store.close()


def drain(bench: Bench, count: int, turns: int) -> Set[int]:
    """Have turns until *count* partitions are completed; return which."""

    def loop() -> None:
        for _ in range(turns):
            try:
                bench.claimer.run_once()
            except StoreUnavailable:
                continue
            if len(bench.recorder.of("partition_completed")) == count and bench.claimer.idle():
                return
            if not bench.window.unreported and sum(bench.window.load()):
                bench.claimer.wake.wait(1.0)
            bench.claimer.wake.clear()

    in_daemon(loop)
    return {event.partition_id for event in bench.recorder.of("partition_completed")}


def test_in_steady_state_a_partition_costs_one_round_trip_at_window_one(real: Real) -> None:
    real.create(50)
    bench = real.bench(size=1)
    bench.work = lambda task: Outcome.COMPLETED
    bench.claimer._prefetch = lambda: 0  # type: ignore[method-assign]
    for done in range(50):
        bench.turn()
        wait_until(lambda: bench.window.unreported == 1)
        assert real.faulty.calls["turn"] == done + 1
    bench.turn()
    assert real.faulty.calls["turn"] == 51
    assert real.strategy.get_partition_stats().completed == 50


def test_a_lost_answer_grants_nothing_twice_and_loses_nothing(real: Real) -> None:
    real.create(10)
    bench = real.bench(size=3)
    bench.claimer._prefetch = lambda: 0  # type: ignore[method-assign]
    real.faulty.commit_then_lose("turn", 1, StoreUnavailable("lost"))
    with pytest.raises(StoreUnavailable):
        bench.turn()
    assert real.strategy.get_partition_stats().running == 3, "it ran"
    assert bench.turn() == (3, 0)
    bench.wait_started(3)
    assert sorted(bench.started) == [1, 2, 3]
    stats = real.strategy.get_partition_stats()
    assert (stats.running, stats.pending) == (3, 7)
    bench.end(1, 2)
    real.faulty.commit_then_lose("turn", 1, StoreUnavailable("lost"))
    with pytest.raises(StoreUnavailable):
        bench.turn()
    bench.turn()
    stats = real.strategy.get_partition_stats()
    assert (stats.completed, stats.running, stats.pending) == (2, 3, 5)
    assert sorted(e.partition_id for e in bench.recorder.of("partition_completed")) == [1, 2]


def drain_with_faults(real: Real, seed: int) -> Set[int]:
    """Drain 200 partitions, at most 4 a turn, while every third turn or so is lost before or after it ran."""
    chance = random.Random(seed)
    real.create(200)
    bench = real.bench(size=4)
    bench.work = lambda task: Outcome.COMPLETED
    bench.claimer._prefetch = lambda: 0  # type: ignore[method-assign]
    real.faulty.commit_then_lose("turn", 1, StoreUnavailable("lost"))
    plain = bench.claimer.run_once

    def run_once() -> Any:
        if chance.random() < 0.3:
            lose = chance.choice([real.faulty.fail_before, real.faulty.commit_then_lose])
            lose("turn", 1, StoreUnavailable("lost"))
        return plain()

    bench.claimer.run_once = run_once  # type: ignore[method-assign]
    return drain(bench, 200, 800)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_turns_are_lost_every_partition_is_completed_once(real: Real, seed: int) -> None:
    assert drain_with_faults(real, seed) == set(range(1, 201))
    stats = real.strategy.get_partition_stats()
    assert (stats.completed, stats.pending, stats.running, stats.claimed) == (200, 0, 0, 0)
    bench = real._benches[-1]
    assert sorted(bench.started) == list(range(1, 201)), "each was started once"
    assert bench.recorder.of("write_refused") == []


def test_control_without_the_memory_of_the_last_request_the_same_faults_lose_claims(real: Real) -> None:
    real.strategy.store.scripts.replace("partition/work", "if tonumber(seq) == tonumber(ARGV[2]) then", "if false then")
    done = drain_with_faults(real, 0)
    assert done != set(range(1, 201)), "claims whose answer was lost stay leased to nobody's knowledge"


def test_too_late_an_answer_goes_back_to_the_store_without_a_trace(real: Real) -> None:
    real.create(2)
    bench = real.bench(size=2)
    plain = real.strategy.turn

    def late(request: TurnRequest) -> Turn:
        turn: Turn = plain(request)
        bench.clock.advance(27.0)
        return turn

    real.strategy.turn = late
    bench.turn()
    assert real.strategy.get_partition_stats().running == 2
    real.strategy.turn = plain
    bench.may_claim = False
    bench.turn()
    for partition in real.strategy.get_all_partitions():
        assert (partition.status, partition.attempt, partition.deliveries) == (PENDING, 0, 0)
    assert bench.started == []


def test_suspects_are_claimed_singly_and_one_at_a_time(real: Real) -> None:
    real.create(6)
    for _ in range(2):
        assert len(real.strategy.claim_partitions("dead", 2)) == 2
        real.expire()
    assert [p.partition_id for p in real.strategy.get_all_partitions() if p.is_suspect] == [1, 2]
    bench = real.bench(size=4)
    bench.short_tasks(0.0001)
    bench.turn()
    bench.wait_started(1)
    assert bench.started == [1], "alone, although four slots were free and prefetch was asked for"
    bench.short_tasks(10.0)
    bench.turn()
    bench.wait_started(4)
    assert sorted(bench.started) == [1, 3, 4, 5], "its neighbours go on without the second suspect"
    bench.end(3)
    bench.turn()
    bench.wait_started(5)
    assert bench.started[-1] == 6
    bench.end(1)
    bench.turn()
    assert 2 not in bench.started, "the request that reports the first one was made while it was held"
    bench.turn()
    bench.wait_started(6)
    assert bench.started[-1] == 2


def test_an_open_breaker_burns_no_attempt_of_what_it_had_prefetched(real: Real) -> None:
    real.create(40)
    bench = real.bench(size=2, breaker=True)
    bench.short_tasks(0.0001)

    def until_open(task: Task) -> Outcome:
        assert bench.open.wait(20)
        return Outcome.COMPLETED

    bench.work = until_open
    bench.turn()
    bench.wait_started(2)
    assert real.strategy.get_partition_stats().claimed > 10
    bench.trip()
    bench.turn()
    stats = real.strategy.get_partition_stats()
    assert (stats.claimed, stats.running) == (0, 2)
    bench.open.set()
    wait_until(lambda: bench.window.unreported == 2)
    bench.turn()
    assert all(p.attempt == 0 and p.deliveries == 0 for p in real.strategy.get_all_partitions())
    assert len(bench.started) == 2
