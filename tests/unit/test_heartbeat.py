"""The heartbeat: renews all it should and nothing else, and trusts a renewal from before it was sent."""

from __future__ import annotations

import collections
import itertools
import logging
import threading
from typing import Any, Callable, Deque, Dict, Iterator, List, Optional, Union

import fakeredis
import pytest

from elk_coordinator import (
    ConfigError,
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
from elk_coordinator.model import Beat, CancelReason, Outcome, Report
from elk_coordinator.partition.requests import BeatRequest
from elk_coordinator.protocols import EVENT_KINDS, Event
from elk_coordinator.runtime.events import Events
from elk_coordinator.testing import Faulty, ManualClock, wait_until
from elk_coordinator.worker.context import Task
from elk_coordinator.worker.heartbeat import Heartbeat
from elk_coordinator.worker.window import TaskWindow

LOGGER = logging.getLogger("elk_coordinator.test")
LEASE = 30.0
#: A lease less its margin of a tenth.
TRUST = 27.0
RUNNING, CLAIMED = PartitionStatus.RUNNING, PartitionStatus.CLAIMED


def in_daemon(call: Callable[[], Any]) -> Any:
    """Do *call* in a daemon thread, as the role's is; return what it returned or raise what it raised."""
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
    """Answers beats by what :attr:`answers` holds: a Beat, an exception, or a function of the request."""

    lease = LEASE

    def __init__(self) -> None:
        self.asked: List[BeatRequest] = []
        self.answers: Deque[Union[Beat, BaseException, Callable[[BeatRequest], Beat]]] = collections.deque()
        self._numbers = itertools.count(1)

    def stream(self, name: str) -> str:
        return "nonce:" + name

    def next_sequence(self, stream: str) -> int:
        return next(self._numbers)

    def beat(self, request: BeatRequest) -> Beat:
        self.asked.append(request)
        answer = self.answers.popleft() if self.answers else Beat()
        if isinstance(answer, BaseException):
            raise answer
        return answer(request) if callable(answer) else answer


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
    """A heartbeat over a real window whose tasks last until the test lets them end."""

    def __init__(self, strategy: Any, size: int = 2, **options: Any) -> None:
        self.strategy = strategy
        self.clock = ManualClock()
        self.config = CoordinatorConfig(task_window_size=size, **options)
        self.recorder = Recorder()
        self.window = TaskWindow("beats", size, self.run, self.clock, LOGGER, threading.Event())
        self.claimer_turn_at: Optional[float] = None
        self.wishes: List[Any] = []
        self.beats: List[Beat] = []
        self.heartbeat = Heartbeat(
            strategy, "w", self.config, self.clock, Events("beats", "w", self.clock, LOGGER, own=[self.recorder]),
            self.window, lambda: {"host": "here"}, lambda: self.claimer_turn_at,
            lambda *wish: self.wishes.append(wish), self.beats.append, LOGGER,
        )  # fmt: skip
        self.gate = threading.Event()

    def run(self, task: Task) -> Report:
        task.begin(None)
        assert self.gate.wait(50)
        return Report(task.partition.partition_id, task.token, Outcome.COMPLETED)

    def hold(self, *partitions: Partition) -> List[Task]:
        """Have the window hold these, as if granted now; as many run as there are slots."""
        tasks = [Task(partition, self.clock.monotonic() + TRUST, self.clock) for partition in partitions]
        in_daemon(lambda: self.window.offer(tasks))
        running = min(len(tasks), self.window.size)
        wait_until(lambda: sum(task.started_at is not None for task in tasks) == running)
        return tasks

    def beat(self) -> Beat:
        answer = in_daemon(self.heartbeat.run_once)
        assert isinstance(answer, Beat)
        return answer

    def claims(self) -> List[int]:
        return [partition_id for partition_id, _ in self.strategy.asked[-1].claims]

    def close(self) -> None:
        self.gate.set()
        self.window.close()


def partitions(count: int, first: int = 1, status: PartitionStatus = RUNNING) -> List[Partition]:
    return [Partition(i, i, i, status, "w", fencing_token=10**15 + i) for i in range(first, first + count)]


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


# ---------------------------------------------------------------- what it sends


def test_a_beat_without_claims_proves_the_worker_alive(make: Make) -> None:
    bench = make()
    bench.beat()
    (request,) = bench.strategy.asked
    assert (request.worker_id, request.stream, request.sequence) == ("w", "nonce:beat", 1)
    assert (request.ttl, request.lease, request.info) == (30.0, LEASE, {"host": "here"})
    assert list(request.claims) == []


def test_it_renews_all_that_runs_and_all_that_waits(make: Make) -> None:
    bench = make(size=2)
    bench.claimer_turn_at = bench.clock.monotonic()
    bench.hold(*partitions(5))
    bench.beat()
    assert bench.strategy.asked[-1].claims == [(i, 10**15 + i) for i in range(1, 6)]


def test_it_renews_a_stopped_task_until_it_ends(make: Make) -> None:
    bench = make(size=1)
    (task,) = bench.hold(*partitions(1))
    task.cancel(CancelReason.STOP)
    bench.beat()
    assert bench.claims() == [1]
    bench.gate.set()
    wait_until(lambda: bench.window.load() == (0, 0))
    bench.beat()
    assert bench.claims() == []


def test_it_renews_nothing_that_is_lost(make: Make) -> None:
    bench = make(size=3)
    tasks = bench.hold(*partitions(3))
    tasks[0].cancel(CancelReason.LEASE_LOST)
    bench.beat()
    assert bench.claims() == [2, 3]
    bench.clock.advance(TRUST)
    bench.beat()
    assert bench.claims() == [], "nor what ran out by the clock"


def test_it_renews_nothing_that_hangs(make: Make) -> None:
    bench = make(size=2)
    tasks = bench.hold(*partitions(2))
    tasks[0].cancel(CancelReason.TIMEOUT)
    for _ in range(3):
        bench.clock.advance(LEASE / 3 + 0.1)
        bench.beat()
        assert bench.claims() == [1, 2], "it may still come to its end"
    bench.beat()
    assert bench.claims() == [2]
    assert not tasks[1].lost()


def test_more_than_500_claims_go_in_pages_each_trusted_from_its_own_send(make: Make) -> None:
    bench = make(size=1)
    bench.claimer_turn_at = bench.clock.monotonic()
    tasks = bench.hold(*partitions(1100))

    def answer(request: BeatRequest) -> Beat:
        bench.clock.advance(2.0)
        return Beat(lost=frozenset([request.claims[0]]))

    bench.strategy.answers.extend([answer] * 3)
    beat = bench.beat()
    assert [len(request.claims) for request in bench.strategy.asked] == [500, 500, 100]
    assert [request.sequence for request in bench.strategy.asked] == [1, 2, 3]
    assert sorted(i for i, _ in beat.lost) == [1, 501, 1001]
    assert [task.partition.partition_id for task in tasks if task.lost()] == [1, 501, 1001]
    bench.clock.advance(TRUST - 6.0)
    assert tasks[1].lost() and not tasks[501].lost()
    bench.clock.advance(2.0)
    assert tasks[501].lost() and not tasks[1001 + 1].lost()
    assert len(bench.recorder.of("heartbeat")) == 1
    assert bench.recorder.of("heartbeat")[0].held == 1100


# ---------------------------------------------------------------- what it believes


def test_the_stores_clock_is_compared_with_the_middle_of_the_round_trip_and_not_after_a_long_one(make: Make) -> None:
    bench = make(size=1)

    def answered(before: float, after: float, ahead: float = 0.0) -> Optional[float]:
        """Beat; the store reads its clock, which is *ahead*, *before* after the send and *after* before the reply."""

        def answer(request: BeatRequest) -> Beat:
            bench.clock.advance(before)
            now = bench.clock.time() + ahead
            bench.clock.advance(after)
            return Beat(now=now)

        bench.strategy.answers.append(answer)
        bench.beat()
        offset: Optional[float] = bench.recorder.of("heartbeat")[-1].facts["clock_offset"]
        return offset

    assert answered(480.0, 0.0) is None, "it was away: nothing is known, and certainly not half of 480 s"
    assert answered(0.25, 0.25, ahead=3.0) == pytest.approx(-3.0, abs=0.001)
    assert answered(0.0, 0.5) == pytest.approx(0.25, abs=0.001), "off by half a round trip at most"
    assert answered(0.0, 480.0, ahead=3.0) == pytest.approx(0.25, abs=0.001), "the last one stays"


def test_a_renewal_is_trusted_from_before_the_send_less_the_margin(make: Make) -> None:
    bench = make(size=1)
    (task,) = bench.hold(*partitions(1))
    bench.clock.advance(10.0)

    def slow(request: BeatRequest) -> Beat:
        bench.clock.advance(4.0)
        return Beat()

    bench.strategy.answers.append(slow)
    bench.beat()
    bench.clock.advance(TRUST - 4.0 - 0.01)
    assert task.reason() is None
    bench.clock.advance(0.01)
    assert task.reason() is CancelReason.LEASE_LOST


def test_the_length_that_was_sent_is_the_length_that_is_trusted(make: Make) -> None:
    bench = make(size=1)
    (task,) = bench.hold(*partitions(1))

    def changed_meanwhile(request: BeatRequest) -> Beat:
        bench.strategy.lease = 3000.0
        return Beat()

    bench.strategy.answers.append(changed_meanwhile)
    bench.beat()
    bench.clock.advance(TRUST)
    assert task.lost()


def test_a_renewal_that_commits_but_loses_its_reply_keeps_the_lease(make: Make) -> None:
    bench = make(size=1)
    (task,) = bench.hold(*partitions(1))
    bench.clock.advance(20.0)
    bench.strategy.answers.append(StoreUnavailable("lost"))
    with pytest.raises(StoreUnavailable):
        bench.beat()
    assert task.reason() is None
    bench.clock.advance(5.0)
    bench.beat()
    bench.clock.advance(20.0)
    assert task.reason() is None
    assert bench.recorder.of("lease_lost") == []


def test_an_answer_that_comes_after_the_end_of_trust_revives_nothing(make: Make) -> None:
    bench = make(size=1)
    (task,) = bench.hold(*partitions(1))

    def late(request: BeatRequest) -> Beat:
        bench.clock.advance(TRUST)
        return Beat()

    bench.strategy.answers.append(late)
    bench.beat()
    assert task.lost()
    (event,) = bench.recorder.of("lease_lost")
    assert (event.partition_id, event.token, event.reason) == (1, 10**15 + 1, "could not be renewed in time")


def test_it_learns_which_leases_are_gone_and_says_so_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    bench = make(size=2)
    tasks = bench.hold(*partitions(2))
    bench.strategy.answers.append(Beat(lost=frozenset([(1, 10**15 + 1)])))
    assert bench.beat().lost == {(1, 10**15 + 1)}
    assert tasks[0].reason() is CancelReason.LEASE_LOST
    assert tasks[1].reason() is None
    bench.beat()
    (event,) = bench.recorder.of("lease_lost")
    assert (event.partition_id, event.token, event.reason) == (1, 10**15 + 1, "gone from the store")
    assert caplog.text.count("partition 1: the lease with token %d was lost" % (10**15 + 1)) == 1


def test_a_claim_of_another_token_of_the_same_partition_is_not_meant(make: Make) -> None:
    bench = make(size=1)
    (task,) = bench.hold(*partitions(1))
    bench.strategy.answers.append(Beat(lost=frozenset([(1, 10**15)])))
    bench.beat()
    assert task.reason() is None


def test_a_page_that_was_answered_counts_although_the_next_one_failed(make: Make) -> None:
    bench = make(size=1)
    bench.claimer_turn_at = bench.clock.monotonic()
    tasks = bench.hold(*partitions(501))
    bench.clock.advance(20.0)
    bench.claimer_turn_at = bench.clock.monotonic()
    bench.strategy.answers.extend([Beat(), StoreUnavailable("away")])
    with pytest.raises(StoreUnavailable):
        bench.beat()
    bench.clock.advance(10.0)
    assert not tasks[0].lost()
    assert tasks[500].lost()


# ---------------------------------------------------------------- a claimer that is stuck


@pytest.mark.parametrize("age, renewed", [(0.0, [1, 2, 3]), (LEASE, [1, 2, 3]), (LEASE + 0.01, [1])])
def test_what_has_not_started_is_renewed_while_the_claimer_had_a_turn_within_a_lease(
    make: Make, age: float, renewed: List[int]
) -> None:
    bench = make(size=1)
    for task in bench.hold(*partitions(3)):
        assert task.trust(bench.clock.monotonic() + 1000)
    bench.claimer_turn_at = bench.clock.monotonic()
    bench.clock.advance(age)
    bench.beat()
    assert bench.claims() == renewed


# ---------------------------------------------------------------- what it tells


def test_wishes_of_operators_are_passed_on(make: Make) -> None:
    bench = make()
    wishes = {3: (CancelReason.CANCELLED, "alice"), 4: (CancelReason.STOP, "bob")}
    bench.strategy.answers.append(Beat(cancels=wishes, paused=True, config_version=9, lost_mark=5))
    beat = bench.beat()
    assert bench.wishes == [(3, CancelReason.CANCELLED, "alice"), (4, CancelReason.STOP, "bob")]
    assert bench.beats == [beat]
    assert (beat.paused, beat.config_version, beat.lost_mark) == (True, 9, 5)


@pytest.mark.parametrize("error", [StoreUnavailable("away"), StoreError("refused")])
def test_a_failed_beat_is_told_raised_and_counts_as_no_answer(make: Make, error: StoreError) -> None:
    bench = make(size=1)
    bench.hold(*partitions(1))
    bench.strategy.answers.append(error)
    with pytest.raises(StoreError):
        bench.beat()
    (event,) = bench.recorder.of("heartbeat")
    assert (event.ok, event.error, event.held) == (False, str(error), 1)
    assert bench.beats == []


def test_while_the_store_is_away_losses_and_hung_tasks_are_noticed_all_the_same(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make(size=1)
    bench.hold(*partitions(1))
    for after, kind in ((TRUST, "lease_lost"), (LEASE + 0.1, "task_hung")):
        bench.clock.advance(after)
        bench.strategy.answers.append(StoreUnavailable("away"))
        with pytest.raises(StoreUnavailable):
            bench.beat()
        assert len(bench.recorder.of(kind)) == 1
    (event,) = bench.recorder.of("task_hung")
    assert (event.partition_id, event.token, event.seconds) == (1, 10**15 + 1, pytest.approx(LEASE + 0.1))
    assert "in run" in event.stack and "self.gate.wait(50)" in event.stack
    assert "partition 1 hangs: still running 30.1 s after it was cancelled" in caplog.text
    assert "self.gate.wait(50)" in caplog.text


def test_a_refusal_by_the_namespace_goes_up(make: Make) -> None:
    bench = make()
    bench.strategy.answers.append(ConfigError("another strategy"))
    with pytest.raises(ConfigError):
        bench.beat()
    assert bench.beats == []


# ---------------------------------------------------------------- how often


@pytest.mark.parametrize(
    "options, interval",
    [({}, 10.0), ({"heartbeat_interval": 5.0}, 5.0), ({"partition_lock_expiry": 9.0}, 3.0),
     ({"heartbeat_interval": 1.0, "worker_ttl": 2.0}, 2.0 / 3)],
)  # fmt: skip
def test_it_beats_at_the_heartbeat_or_a_third_of_a_lease(make: Make, options: Dict[str, Any], interval: float) -> None:
    bench = make(**options)
    assert bench.heartbeat.pause(bench.beat()) == pytest.approx(interval)


@pytest.mark.parametrize("took, pause", [(2.0, 8.0), (9.5, 0.5), (25.0, 0.0)])
def test_the_rate_is_fixed_however_long_a_beat_takes(make: Make, took: float, pause: float) -> None:
    bench = make()

    def slow(request: BeatRequest) -> Beat:
        bench.clock.advance(took)
        return Beat()

    bench.strategy.answers.append(slow)
    assert bench.heartbeat.pause(bench.beat()) == pytest.approx(pause)
    (event,) = bench.recorder.of("heartbeat")
    assert (event.ok, event.seconds, event.lateness) == (True, took, 0.0)


def test_lateness_tells_how_far_behind_its_time_it_was(make: Make) -> None:
    bench = make()
    bench.beat()
    bench.clock.advance(13.5)
    bench.beat()
    assert [event.lateness for event in bench.recorder.of("heartbeat")] == [0.0, 3.5]


def test_after_a_failure_it_tries_again_soon(make: Make) -> None:
    first, longest = make().heartbeat.error_pause
    assert first <= 0.1 and longest <= 1.0
    assert make(heartbeat_interval=0.5, worker_ttl=1.0).heartbeat.error_pause[1] <= 0.5


def test_a_beat_that_takes_longer_than_a_lease_is_stuck(make: Make) -> None:
    assert make().heartbeat.stuck_after == LEASE


# ---------------------------------------------------------------- with the real strategy


class Real:
    def __init__(self, server: fakeredis.FakeServer, benches: List[Bench]) -> None:
        self.store = RedisDataStore(fakeredis.FakeRedis(server=server))
        self.strategy: Any = create_strategy(StrategyType.HASH, "beats", self.store, partition_lock_expiry=LEASE)
        self.faulty = Faulty(self.strategy)
        self.bench = Bench(self.faulty, size=2)
        benches.append(self.bench)
        self.strategy.create_partitions_if_not_exist([CreatePartition(i, i, i) for i in (1, 2, 3)])
        self.client = self.strategy.store._link.client()
        self.leases = self.strategy.store.keys["leases"]

    def deadline(self, partition_id: int) -> Optional[float]:
        score = self.client.zscore(self.leases, "%014x" % partition_id)
        return None if score is None else score / 1000 - self.strategy.store.now()

    def set_deadline(self, partition_id: int, seconds: float) -> None:
        self.client.zadd(self.leases, {"%014x" % partition_id: int((self.strategy.store.now() + seconds) * 1000)})


@pytest.fixture
def real(fake_server: fakeredis.FakeServer, benches: List[Bench]) -> Iterator[Real]:
    made = Real(fake_server, benches)
    yield made
    made.store.close()


def test_a_beat_registers_the_worker_and_moves_the_deadlines_in_the_store(real: Real) -> None:
    real.bench.hold(*real.strategy.claim_partitions("w", 2))
    real.set_deadline(1, 3.0)
    real.set_deadline(2, 3.0)
    real.bench.beat()
    assert [round(real.deadline(i) or 0) for i in (1, 2)] == [30, 30]
    (worker,) = real.strategy.workers()
    assert (worker.worker_id, worker.info, round(worker.remaining)) == ("w", {"host": "here"}, 30)


def test_a_beat_whose_reply_is_lost_has_moved_them_all_the_same(real: Real) -> None:
    (task,) = real.bench.hold(*real.strategy.claim_partitions("w", 1))
    real.set_deadline(1, 3.0)
    real.faulty.commit_then_lose("beat", 1, StoreUnavailable("lost"))
    with pytest.raises(StoreUnavailable):
        real.bench.beat()
    assert round(real.deadline(1) or 0) == 30
    assert task.reason() is None, "and the worker believes in less than that"
    assert real.bench.beat().lost == frozenset()


def test_a_lease_taken_by_another_is_learned_at_the_next_beat(real: Real) -> None:
    tasks = real.bench.hold(*real.strategy.claim_partitions("w", 2))
    real.set_deadline(1, -1.0)
    real.strategy.sweep()
    assert [p.partition_id for p in real.strategy.claim_partitions("other", 1)] == [1]
    real.set_deadline(1, 20.0)
    real.bench.beat()
    assert tasks[0].reason() is CancelReason.LEASE_LOST and tasks[1].reason() is None
    assert round(real.deadline(1) or 0) == 20, "the new holder's lease was left alone"


def expired_lease_is_renewed(real: Real) -> bool:
    (task,) = real.bench.hold(*real.strategy.claim_partitions("w", 1))
    real.set_deadline(1, -1.0)
    real.bench.beat()
    return task.reason() is None and (real.deadline(1) or 0) > 0


def test_a_lease_that_ran_out_in_the_store_is_never_renewed(real: Real) -> None:
    assert not expired_lease_is_renewed(real)
    assert real.strategy.sweep().reclaimed[0].partition_id == 1


def test_control_without_the_guard_on_the_deadline_it_would_be(real: Real) -> None:
    real.strategy.store.scripts.replace(
        "partition/heartbeat", "and scores[i] and tonumber(scores[i]) > now_ms then", "then"
    )
    assert expired_lease_is_renewed(real)


def test_after_the_store_lost_everything_a_beat_makes_the_worker_visible_again(
    real: Real, fake_server: fakeredis.FakeServer
) -> None:
    tasks = real.bench.hold(*real.strategy.claim_partitions("w", 2))
    before = real.bench.beat()
    real.client.flushall()
    beat = real.bench.beat()
    assert [worker.worker_id for worker in real.strategy.workers()] == ["w"]
    assert all(task.reason() is CancelReason.LEASE_LOST for task in tasks)
    assert beat.lost_mark != before.lost_mark
