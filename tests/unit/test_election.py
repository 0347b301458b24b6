"""The election: who believes to lead, for how long, and what ends it."""

from __future__ import annotations

import itertools
import logging
import random
import threading
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import fakeredis
import pytest

from elk_coordinator import Coordinator, CoordinatorConfig, RedisDataStore, StoreError, StoreUnavailable
from elk_coordinator.assembly import DUTIES
from elk_coordinator.leader.election import STOPPING, Election, Leadership
from elk_coordinator.partition.requests import Memory
from elk_coordinator.protocols import EVENT_KINDS, Event
from elk_coordinator.runtime.events import Events
from elk_coordinator.runtime.wakeup import Wakeup
from elk_coordinator.testing import Faulty, ManualClock

LOGGER = logging.getLogger("elk_coordinator.test")
LEASE = 30.0
TRUST = 27.0


class FakeLocks:
    """The store's side of the leader's lock, on the same clock; a call may take time, before and after it counts."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.holder: Optional[Tuple[str, int]] = None
        self.deadline = 0.0
        self.calls: List[Tuple[Any, ...]] = []
        #: Called before and after the step in the store; may let time pass or raise.
        self.before: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None
        self._last = itertools.count(100)

    def _alive(self) -> bool:
        return self.holder is not None and self.clock.monotonic() < self.deadline

    def acquire_lock(self, name: str, owner: str, ttl: float, floor: int) -> Optional[int]:
        self.calls.append(("acquire", name, owner, ttl, floor))
        self.before()
        token = None
        if not self._alive():
            token = max(next(self._last), floor + 1)
            self.holder, self.deadline = (owner, token), self.clock.monotonic() + ttl
        self.after()
        return token

    def renew_lock(self, name: str, token: int, ttl: float) -> bool:
        self.calls.append(("renew", name, token, ttl))
        self.before()
        good = self._alive() and self.holder is not None and self.holder[1] == token
        if good:
            self.deadline = self.clock.monotonic() + ttl
        self.after()
        return good

    def release_lock(self, name: str, token: int) -> bool:
        self.calls.append(("release", name, token))
        self.before()
        good = self.holder is not None and self.holder[1] == token
        if good:
            self.holder = None
        self.after()
        return good

    def read_lock(self, name: str) -> Tuple[str, int, float]:
        if not self._alive() or self.holder is None:
            return "", 0, 0.0
        return self.holder[0], self.holder[1], self.deadline - self.clock.monotonic()

    def said(self, what: str) -> List[Tuple[Any, ...]]:
        return [call for call in self.calls if call[0] == what]


class Recorder:
    def __init__(self) -> None:
        self.events: List[Event] = []


def _keep(self: Recorder, event: Event) -> None:
    self.events.append(event)


for _kind in EVENT_KINDS:
    setattr(Recorder, "on_" + _kind, _keep)


class Bench:
    """One worker's election."""

    def __init__(self, store: Any, clock: ManualClock, name: str = "w", **options: Any) -> None:
        self.store = store
        self.clock = clock
        self.recorder = Recorder()
        self.leadership = Leadership(clock)
        self.memory = Memory()
        self.may_stand = True
        self.problem: Optional[str] = None
        self.woken = threading.Event()
        self.leadership.wakes = [self.woken]
        self.election = Election(
            store, name, CoordinatorConfig(**options), clock,
            Events("votes", name, clock, LOGGER, own=[self.recorder]), self.leadership, self.memory,
            lambda: self.may_stand, lambda: self.problem, LOGGER,
        )  # fmt: skip

    def turn(self) -> float:
        return self.election.pause(self.election.run_once())

    def told(self) -> List[Tuple[Any, ...]]:
        return [(e.kind, e.term, e.facts.get("reason")) for e in self.recorder.events if e.kind != "stood"]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def locks(clock: ManualClock) -> FakeLocks:
    return FakeLocks(clock)


@pytest.fixture
def bench(locks: FakeLocks, clock: ManualClock) -> Bench:
    return Bench(locks, clock)


def away() -> None:
    raise StoreUnavailable("away")


# ---------------------------------------------------------------- standing


def test_who_finds_no_leader_becomes_one(bench: Bench, locks: FakeLocks) -> None:
    assert bench.leadership.term is None
    assert bench.turn() == LEASE / 3
    assert bench.leadership.term == 100
    assert bench.told() == [("became_leader", 100, None)]
    assert bench.woken.is_set(), "planning and recovery begin at once"
    assert locks.calls == [("acquire", "leader", "w", LEASE, 0)]


def test_the_floor_is_what_this_process_remembers_and_the_term_is_remembered(bench: Bench, locks: FakeLocks) -> None:
    bench.memory.saw(5000)
    bench.turn()
    assert locks.calls[0][-1] == 5000
    assert bench.leadership.term == 5001
    assert bench.memory.floor == 5001


def test_the_term_is_trusted_from_before_the_send_less_the_margin(bench: Bench, locks: FakeLocks, clock: Any) -> None:
    locks.before = lambda: clock.advance(2.0)
    locks.after = lambda: clock.advance(3.0)
    bench.turn()
    assert bench.leadership.remaining() == pytest.approx(TRUST - 5.0)
    clock.advance(TRUST - 5.0 - 0.001)
    assert bench.leadership.term == 100
    clock.advance(0.001)
    assert bench.leadership.term is None
    assert bench.leadership.remaining() == 0.0
    assert locks.read_lock("leader")[2] > 0, "the store still keeps everybody else away"


def test_an_answer_that_comes_after_the_trust_is_not_believed(bench: Bench, locks: FakeLocks, clock: Any) -> None:
    locks.after = lambda: clock.advance(TRUST)
    bench.turn()
    assert bench.leadership.term is None


def test_a_worker_that_may_not_lead_asks_nobody(bench: Bench, locks: FakeLocks) -> None:
    bench.may_stand = False
    assert bench.turn() <= 1.0
    assert locks.calls == []


@pytest.mark.parametrize("interval, least, most", [(180.0, 30.05, 30.35), (7.0, 7.0, 7.0)])
def test_a_follower_tries_when_the_lease_runs_out_and_at_the_latest_after_the_interval(
    clock: ManualClock, locks: FakeLocks, interval: float, least: float, most: float
) -> None:
    Bench(locks, clock, "leader").turn()
    follower = Bench(locks, clock, "follower", leader_election_interval=interval)
    waits = [follower.turn() for _ in range(50)]
    assert least <= min(waits) and max(waits) <= most
    assert (len(set(waits)) > 1) is (interval > LEASE), "jitter, so that followers do not stand all at once"
    assert follower.leadership.term is None and follower.told() == []


def test_after_the_leader_is_gone_a_follower_leads_by_its_second_try(clock: ManualClock, locks: FakeLocks) -> None:
    Bench(locks, clock, "leader").turn()
    follower = Bench(locks, clock, "follower")
    clock.advance(follower.turn())
    follower.turn()
    assert follower.leadership.term == 101


# ---------------------------------------------------------------- renewing


def test_a_leader_renews_at_a_third_of_its_lease(bench: Bench, locks: FakeLocks, clock: ManualClock) -> None:
    bench.turn()
    for _ in range(30):
        clock.advance(LEASE / 3)
        assert bench.turn() == LEASE / 3
        assert bench.leadership.term == 100
    assert len(locks.said("renew")) == 30 and len(locks.said("acquire")) == 1
    assert locks.said("renew")[0] == ("renew", "leader", 100, LEASE)


def test_a_renewal_is_trusted_from_before_the_send(bench: Bench, locks: FakeLocks, clock: ManualClock) -> None:
    bench.turn()
    clock.advance(10.0)
    locks.before = lambda: clock.advance(2.0)
    locks.after = lambda: clock.advance(3.0)
    bench.turn()
    assert bench.leadership.remaining() == pytest.approx(TRUST - 5.0)


def test_while_renewals_fail_it_leads_on_until_its_clock_says_no(bench: Bench, locks: FakeLocks, clock: Any) -> None:
    bench.turn()
    locks.before = away
    waited = 0.0
    while bench.leadership.term is not None:
        wait = bench.turn()
        assert 0 < wait <= 0.2, "it tries again soon"
        clock.advance(wait)
        waited += wait
    assert waited == pytest.approx(TRUST, abs=0.21)
    assert bench.told() == [("became_leader", 100, None)]
    assert bench.turn() == 0.0
    assert bench.told()[-1] == ("stepped_down", 100, "the lease could not be renewed in time")
    assert bench.leadership.held() is None
    assert locks.said("release") == [("release", "leader", 100)]


def test_a_renewal_that_commits_but_loses_its_reply_keeps_the_term(bench: Bench, locks: FakeLocks, clock: Any) -> None:
    bench.turn()
    clock.advance(20.0)
    locks.after = away
    bench.turn()
    assert bench.leadership.term == 100
    locks.after = lambda: None
    clock.advance(0.2)
    bench.turn()
    clock.advance(20.0)
    assert bench.leadership.term == 100
    assert bench.told() == [("became_leader", 100, None)]


def test_a_renewal_answered_after_the_trust_revives_nothing(bench: Bench, locks: FakeLocks, clock: ManualClock) -> None:
    bench.turn()
    clock.advance(10.0)
    locks.after = lambda: clock.advance(17.0)
    bench.turn()
    assert bench.leadership.term is None
    bench.turn()
    assert bench.told()[-1] == ("stepped_down", 100, "the lease could not be renewed in time")


def test_a_frozen_leader_does_not_believe_in_its_term_when_it_wakes(bench: Bench, clock: ManualClock) -> None:
    bench.turn()
    clock.advance(45.0)
    assert bench.leadership.term is None
    assert bench.turn() == 0.0
    assert bench.told()[-1][0] == "stepped_down"


def test_a_renewal_that_is_refused_ends_it_at_once(bench: Bench, locks: FakeLocks, clock: ManualClock) -> None:
    bench.turn()
    locks.holder = ("another", 777)
    clock.advance(10.0)
    assert bench.turn() == 0.0
    assert bench.leadership.term is None
    assert bench.told()[-1] == ("stepped_down", 100, "the lease is gone from the store")
    assert locks.holder == ("another", 777), "what the other one holds was left alone"
    assert bench.turn() > 0 and bench.leadership.term is None


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_term_given_up_by_another_thread_is_not_revived_by_a_renewal_on_its_way(
    bench: Bench, locks: FakeLocks, clock: ManualClock, when: str
) -> None:
    bench.turn()
    clock.advance(10.0)

    def meanwhile() -> None:
        # 1. The renewal is in the store. 2. The allocator's thread steps down. 3. The renewal's answer comes.
        setattr(locks, when, lambda: None)
        bench.election.step_down("the store refused a plan of this term")

    setattr(locks, when, meanwhile)
    bench.turn()
    assert bench.leadership.term is None
    assert bench.leadership.held() is None


def test_an_error_that_repeating_will_not_cure_goes_up_and_the_clock_ends_the_term(
    bench: Bench, locks: FakeLocks, clock: ManualClock
) -> None:
    def refused() -> None:
        raise StoreError("no permission")

    bench.turn()
    locks.before = refused
    with pytest.raises(StoreError):
        bench.turn()
    assert bench.leadership.term == 100
    clock.advance(TRUST)
    assert bench.leadership.term is None
    assert bench.turn() == 0.0, "and giving it up raises nothing either"
    assert bench.told()[-1][0] == "stepped_down"


# ---------------------------------------------------------------- stepping down


def test_stepping_down_gives_the_lease_up_so_that_a_follower_need_not_wait(
    clock: Any, locks: FakeLocks, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    leader, follower = Bench(locks, clock, "leader"), Bench(locks, clock, "follower")
    leader.turn()
    follower.turn()
    leader.election.step_down(STOPPING)
    assert leader.leadership.term is None
    assert [r.levelname for r in caplog.records if "stepped down" in r.getMessage()] == ["INFO"]
    follower.turn()
    assert follower.leadership.term == 101
    assert leader.told()[-1] == ("stepped_down", 100, "stopping")


def test_stepping_down_twice_or_as_a_follower_is_nothing(bench: Bench, locks: FakeLocks) -> None:
    bench.election.step_down(STOPPING)
    assert locks.calls == [] and bench.told() == []
    bench.turn()
    bench.election.step_down("stopping")
    bench.election.step_down("stopping")
    assert len(locks.said("release")) == 1
    assert len(bench.told()) == 2


@pytest.mark.parametrize("error", [StoreUnavailable("away"), StoreError("no permission")])
def test_stepping_down_without_the_store_ends_the_belief_all_the_same(
    bench: Bench, locks: FakeLocks, error: StoreError
) -> None:
    def fail() -> None:
        raise error

    bench.turn()
    locks.before = fail
    bench.election.step_down("stopping")
    assert bench.leadership.term is None


@pytest.mark.parametrize("problem", ["the planner has not answered for 31 s", "the allocator thread is dead"])
def test_a_leader_that_cannot_plan_steps_down_and_does_not_stand_until_it_can(
    bench: Bench, locks: FakeLocks, clock: ManualClock, problem: str
) -> None:
    bench.turn()
    bench.problem = problem
    clock.advance(bench.turn())
    assert bench.leadership.term is None
    assert bench.told()[-1] == ("stepped_down", 100, problem)
    assert locks.said("release") == [("release", "leader", 100)]
    for _ in range(100):
        wait = bench.turn()
        assert 0 < wait <= 1.0
        clock.advance(wait)
    assert len(locks.said("acquire")) == 1, "it did not stand again"
    bench.problem = None
    bench.turn()
    assert bench.leadership.term == 101


def test_its_own_turn_is_stuck_after_a_lease(bench: Bench) -> None:
    assert bench.election.stuck_after == LEASE
    assert bench.election.error_pause[1] <= LEASE / 6


# ---------------------------------------------------------------- never two


def leaders_at_once(seed: int, tamper: Callable[[Bench], None] = lambda bench: None) -> int:
    """Let three workers stand over a store that is slow, deaf and forgetful; return the most that led at once."""
    chance = random.Random(seed)
    clock = ManualClock()
    locks = FakeLocks(clock)

    def weather() -> None:
        kind = chance.random()
        if kind < 0.25:
            clock.advance(chance.choice([0.1, 2.0, 9.0, 25.0]))
        elif kind < 0.45:
            raise StoreUnavailable("lost")

    locks.before = locks.after = weather
    benches = [Bench(locks, clock, "w%d" % i) for i in range(3)]
    for bench in benches:
        tamper(bench)
    due = {id(bench): clock.monotonic() for bench in benches}
    most = 0
    for _ in range(400):
        clock.advance(chance.choice([0.0, 0.1, 1.0, 5.0]))
        for bench in chance.sample(benches, 3):
            most = max(most, sum(b.leadership.term is not None for b in benches))
            if clock.monotonic() >= due[id(bench)] and chance.random() < 0.9:
                try:
                    wait = bench.turn()
                except StoreUnavailable:
                    wait = 0.1
                due[id(bench)] = clock.monotonic() + wait
            most = max(most, sum(b.leadership.term is not None for b in benches))
    return most


@pytest.mark.parametrize("seed", range(10))
def test_there_are_never_two_who_believe_to_lead(seed: int) -> None:
    assert leaders_at_once(seed) == 1


def test_control_with_trust_from_after_the_answer_there_would_be_two() -> None:
    def trust_from_the_answer(bench: Bench) -> None:
        bench.election._trust_from = lambda sent: bench.clock.monotonic() + LEASE  # type: ignore[method-assign]

    assert max(leaders_at_once(seed, trust_from_the_answer) for seed in range(10)) > 1


# ---------------------------------------------------------------- with a real lock


@pytest.fixture
def stores(fake_server: fakeredis.FakeServer) -> Iterator[Callable[[], Any]]:
    opened: List[RedisDataStore] = []

    def build() -> Any:
        opened.append(RedisDataStore(fakeredis.FakeRedis(server=fake_server)))
        return opened[-1].namespaced("votes")

    yield build
    for store in opened:
        store.close()


def test_releasing_the_lock_wakes_followers(stores: Callable[[], Any], clock: ManualClock) -> None:
    leader, follower = Bench(stores(), clock, "leader"), Bench(stores(), clock, "follower")
    leader.turn()
    assert follower.turn() > 1.0 and follower.leadership.term is None
    assert [(e.kind, e.facts) for e in follower.recorder.events] == [("stood", {"failure": "held"})]
    assert leader.recorder.events[0].facts == {"failure": ""}
    hints = stores()
    wakeup = Wakeup(hints, {"leader": [follower.election.wake.set]}, LOGGER)
    wakeup.run_once()
    assert follower.election.wake.is_set(), "what was said before it listened is lost, so it looks once"
    follower.election.wake.clear()
    leader.election.step_down("stopping")
    assert wakeup.run_once() == "leader"
    assert follower.election.wake.is_set()
    assert follower.turn() == LEASE / 3
    assert (follower.leadership.term or 0) > leader.told()[0][1]
    hints._close_hints()


def test_terms_rise_also_after_the_store_lost_everything(stores: Callable[[], Any], clock: ManualClock) -> None:
    bench = Bench(stores(), clock)
    # A store whose clock was an hour ahead gave out tokens that its successor's clock does not reach.
    bench.memory.saw(int((bench.store.now() + 3600) * 1e6))
    floor = bench.memory.floor
    bench.turn()
    first = bench.leadership.term
    assert first is not None and first > floor
    bench.store._link.client().flushall()
    clock.advance(10.0)
    assert bench.turn() == 0.0, "the lease is gone"
    bench.turn()
    assert bench.leadership.term is not None and bench.leadership.term > first


def test_a_reply_lost_on_the_way_to_the_leader_is_waited_out_never_doubled(
    stores: Callable[[], Any], clock: ManualClock
) -> None:
    store = Faulty(stores())
    bench = Bench(store, clock)
    store.commit_then_lose("acquire_lock", 1, StoreUnavailable("lost"))
    with pytest.raises(StoreUnavailable):
        bench.turn()
    assert bench.leadership.term is None
    assert 29.0 < bench.turn() < 30.4, "until its own forgotten lease runs out"
    assert bench.leadership.term is None


# ---------------------------------------------------------------- wired: what keeps a worker from leading


class Hanging:
    """A planner whose question does not come back until the test says so."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.gate = threading.Event()

    def partition_size(self, ctx: Any) -> int:
        return 10

    def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> int:
        self.asked.set()
        assert self.gate.wait(50)
        return start_id


@pytest.fixture
def coordinator(fake_server: fakeredis.FakeServer, clock: ManualClock) -> Iterator[Any]:
    store = RedisDataStore(fakeredis.FakeRedis(server=fake_server))
    made = Coordinator(
        "votes", store, lambda *args: None, Hanging(), clock=clock, metrics_enabled=False, task_window_size=1
    )
    yield made
    made.stop()
    store.close()


def test_a_planner_that_does_not_come_back_costs_the_leadership_until_it_does(
    coordinator: Any, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = coordinator._parts
    alive: Dict[str, bool] = dict.fromkeys(DUTIES, True)
    monkeypatch.setattr(parts.crew, "alive", lambda name: alive[name])
    monkeypatch.setattr(coordinator, "may_lead", lambda: True)
    election, planner = parts.leader.election, parts.leader.planner._planner
    election._may_stand = lambda: True
    election.run_once()
    assert coordinator.is_leader
    round_ended = threading.Event()

    def plan() -> None:
        parts.leader.allocator.run_once()
        round_ended.set()

    thread = threading.Thread(target=plan, daemon=True)
    thread.start()
    assert planner.asked.wait(10)
    for _ in range(3):
        clock.advance(10.0)
        election.run_once()
        assert coordinator.is_leader, "a call of a lease's length is allowed"
    clock.advance(0.1)
    election.run_once()
    assert not coordinator.is_leader
    assert parts.planner_problem(LEASE) == "the planner has not answered for 30 s"
    for _ in range(5):
        clock.advance(1.0)
        election.run_once()
    assert coordinator._strategy.leader() is None, "it gave the lease up and does not stand again"
    planner.gate.set()
    assert round_ended.wait(10)
    thread.join(10)
    assert parts.planner_problem(LEASE) is None
    election.run_once()
    assert coordinator.is_leader
    for duty in DUTIES:
        alive[duty] = False
        election.run_once()
        assert not coordinator.is_leader
        assert parts.planner_problem(LEASE) == "the %s thread is dead" % duty
        alive[duty] = True
        election.run_once()
        assert coordinator.is_leader
