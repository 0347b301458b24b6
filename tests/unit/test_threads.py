"""The role threads: turns and pauses, the error policy, death and restart, and stops that are never lost."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from typing import Any, Callable, Iterator, List, Optional, Tuple

import pytest

from elk_coordinator.errors import StoreUnavailable
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.runtime.threads import MAX_RESTARTS, Crew, Role, RoleThread, has_phantoms, spawn
from elk_coordinator.testing import ManualClock, wait_until

LOGGER = logging.getLogger("elk_coordinator.test")


class Work(Role):
    """A role whose turns do what the test says."""

    error_pause = (1.0, 8.0)

    def __init__(self, name: str = "work", do: Callable[[], Any] = lambda: None, wait: float = 10.0) -> None:
        super().__init__()
        self.name = name
        self.do = do
        self.wait = wait
        self.turns = 0
        self.inside = 0
        self.most_inside = 0
        self.threads: List[threading.Thread] = []
        self.finished = 0
        self.interrupted = 0
        self.on_interrupt: Callable[[], None] = lambda: None

    def run_once(self) -> Any:
        self.turns += 1
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        if threading.current_thread() not in self.threads:
            self.threads.append(threading.current_thread())
        try:
            return self.do()
        finally:
            self.inside -= 1

    def pause(self, did: Any) -> float:
        return self.wait

    def finish(self) -> None:
        self.finished += 1

    def interrupt(self) -> None:
        self.interrupted += 1
        self.on_interrupt()


class Bench:
    def __init__(self, clock: Optional[Clock] = None) -> None:
        self.clock: Any = clock or ManualClock()
        self.deaths: List[Tuple[str, str]] = []
        self.outages: List[Tuple[str, str]] = []
        self.on_death: Callable[[], None] = lambda: None
        self.crew = Crew("ns", self.clock, LOGGER, self._died, lambda role, exc: self.outages.append((role, str(exc))))
        self.roles: List[Work] = []

    def _died(self, name: str, error: str) -> None:
        self.deaths.append((name, error))
        self.on_death()

    def add(self, name: str = "work", do: Callable[[], Any] = lambda: None, wait: float = 10.0) -> Work:
        role = Work(name, do, wait)
        self.roles.append(role)
        self.crew.add(role)
        return role

    def start(self, *roles: Work) -> None:
        self.crew.start()
        for role in roles:
            self.idle(role, 1)

    def idle(self, role: Work, turns: int) -> None:
        """Wait until *role* has had so many turns and every thread waits for its next."""
        waiting = sum(role.inside == 0 and any(t.is_alive() for t in role.threads) for role in self.roles)
        wait_until(lambda: role.turns == turns and self.clock.waiting >= waiting, 10, lambda: "%d turns" % role.turns)

    def tick(self, seconds: float, *roles: Work) -> None:
        """Let time pass that brings each of *roles*, and nobody else, one more turn; wait for its end."""
        wait_until(lambda: self.clock.waiting >= len(roles))
        turns = [role.turns for role in roles]
        self.clock.advance(seconds)
        wait_until(lambda: all(role.turns > n for role, n in zip(roles, turns)) and self.clock.waiting >= len(roles))

    def thread(self, name: str = "work") -> RoleThread:
        return self.crew._threads[name]

    def health(self, name: str = "work") -> Any:
        return next(health for health in self.crew.health() if health.name == name)

    def stop(self) -> List[str]:
        return self.crew.stop([role.name for role in self.roles], 10.0)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.stop()


# ---------------------------------------------------------------- turns


def test_a_thread_has_a_name_that_tells_role_and_namespace_and_is_a_daemon(bench: Bench) -> None:
    role = bench.add("heartbeat")
    bench.start(role)
    (thread,) = role.threads
    assert thread.name == "elk-heartbeat-ns"
    assert thread.daemon


def test_a_turn_follows_when_the_pause_is_over(bench: Bench) -> None:
    role = bench.add(wait=10.0)
    bench.start(role)
    bench.clock.advance(9.9)
    wait_until(lambda: bench.clock.waiting == 1)
    assert role.turns == 1
    bench.clock.advance(0.1)
    bench.idle(role, 2)


def test_a_wake_brings_the_next_turn_at_once(bench: Bench) -> None:
    role = bench.add(wait=3600.0)
    bench.start(role)
    role.wake.set()
    bench.idle(role, 2)
    assert bench.clock.monotonic() == 1000.0


def test_a_wake_during_a_turn_is_not_lost(bench: Bench) -> None:
    role = bench.add(wait=3600.0)
    role.do = lambda: role.wake.set() if role.turns < 5 else None
    bench.crew.start()
    bench.idle(role, 5)


def test_without_a_pause_nothing_is_waited_for(bench: Bench) -> None:
    role = bench.add()
    role.pause = lambda did: 0.0 if role.turns < 100 else 50.0  # type: ignore[method-assign]
    bench.crew.start()
    bench.idle(role, 100)
    assert bench.clock.waits == [50.0]


def test_what_a_turn_returned_decides_the_pause(bench: Bench) -> None:
    role = bench.add(do=lambda: "much")
    role.pause = lambda did: 7.0 if did == "much" else 1.0  # type: ignore[method-assign]
    bench.start(role)
    assert bench.clock.waits == [7.0]


# ---------------------------------------------------------------- errors


def test_an_error_ends_the_turn_and_the_next_comes_after_a_growing_pause(bench: Bench) -> None:
    role = bench.add(do=lambda: 1 / 0)
    bench.start(role)
    for turn in range(2, 8):
        bench.clock.advance(8.0)
        bench.idle(role, turn)
    for wait, most in zip(bench.clock.waits, [1, 2, 4, 8, 8, 8, 8]):
        assert 0.8 * most <= wait <= most
    health = bench.health()
    assert health.alive and health.last_error == "ZeroDivisionError: division by zero" and health.last_ok_age is None
    assert bench.crew.problems() == [], "it is neither dead nor stuck"
    role.do = lambda: None
    bench.clock.advance(8.0)
    bench.idle(role, 8)
    bench.clock.advance(3.0)
    health = bench.health()
    assert (health.last_error, health.last_ok_age) == (None, 3.0)
    assert bench.clock.waits[-1] == 10.0
    assert len(role.threads) == 1 and bench.deaths == []


def test_the_same_error_is_said_once_a_minute(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    role = bench.add(do=lambda: 1 / 0)
    bench.start(role)
    for turn in range(2, 20):
        bench.clock.advance(8.0)
        bench.idle(role, turn)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["elk-work-ns: turn failed (%d in a row)" % n for n in (1, 9, 17)], "at 0, 64 and 128 s"
    role.do = lambda: {}["no"]
    bench.clock.advance(8.0)
    bench.idle(role, 20)
    assert "KeyError" in caplog.text, "another one is said at once"


def test_an_outage_of_the_store_goes_to_the_coordinator_and_not_to_the_log_per_turn(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    def away() -> None:
        raise StoreUnavailable("nobody there")

    role = bench.add(do=away)
    bench.start(role)
    bench.clock.advance(8.0)
    bench.idle(role, 2)
    assert bench.outages == [("work", "nobody there")] * 2
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


# ---------------------------------------------------------------- death and restart


DEADLY = [SystemExit(3), KeyboardInterrupt(), GeneratorExit()]


@pytest.mark.parametrize("error", DEADLY, ids=lambda e: type(e).__name__)
def test_a_role_that_died_is_told_and_started_again_by_any_other(
    bench: Bench, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def die() -> None:
        if mortal.turns == 1:
            raise error

    other = bench.add("other", wait=1.0)
    mortal = bench.add("mortal", die)
    bench.crew.start()
    wait_until(lambda: bench.deaths and not mortal.threads[0].is_alive())
    assert bench.deaths == [("mortal", "%s: %s" % (type(error).__name__, error))]
    assert "elk-mortal-ns died" in caplog.text
    assert "thread elk-mortal-ns is dead: %s" % type(error).__name__ in bench.crew.problems()[0]
    assert not bench.crew.alive("mortal")
    wait_until(lambda: bench.clock.waiting == 1)
    bench.clock.advance(1.0)
    wait_until(lambda: mortal.turns == 2)
    assert other.turns >= 2
    wait_until(lambda: bench.clock.waiting == 2)
    assert bench.crew.alive("mortal") and bench.crew.problems() == []
    assert bench.health("mortal").restarts == 1
    assert len(mortal.threads) == 2 and mortal.threads[0] is not mortal.threads[1]


def test_an_error_outside_the_turn_kills_and_restarts_as_well(bench: Bench) -> None:
    bench.add("other", wait=1.0)
    role = bench.add("mortal")
    role.pause = lambda did: 1 / 0 if role.turns == 1 else 10.0  # type: ignore[method-assign]
    bench.crew.start()
    wait_until(lambda: bench.deaths == [("mortal", "ZeroDivisionError: division by zero")])
    wait_until(lambda: bench.clock.waiting == 1 and not role.threads[0].is_alive())
    bench.clock.advance(1.0)
    wait_until(lambda: role.turns == 2)


def test_the_dead_do_not_wait_for_the_next_turn_of_the_living(bench: Bench) -> None:
    def die() -> None:
        if mortal.turns == 1:
            raise SystemExit

    gate = threading.Event()
    other = bench.add("other", wait=1000.0)
    mortal = bench.add("mortal", lambda: (gate.wait(20), die()))
    bench.crew.start()
    # The only other role sleeps until far ahead when the death comes.
    wait_until(lambda: bench.clock.waiting == 1)
    gate.set()
    wait_until(lambda: not mortal.threads[0].is_alive())
    wait_until(lambda: other.turns == 2 and bench.clock.waiting == 1, what="the other one to be woken")
    bench.clock.advance(0.5)
    wait_until(lambda: mortal.turns == 2 and bench.clock.waiting == 2, what="a restart")
    assert bench.clock.waits[-2:].count(1000.0) == 1, "with nobody dead it may sleep again"


def test_a_role_that_goes_on_dying_stays_dead_and_health_says_so(bench: Bench) -> None:
    def die() -> None:
        raise SystemExit("again")

    other = bench.add("other", wait=1.0)
    mortal = bench.add("mortal", die)
    bench.crew.start()
    for _ in range(3 * MAX_RESTARTS):
        wait_until(lambda: not bench.crew.alive("mortal"))
        bench.tick(1.0, other)
    wait_until(lambda: not bench.crew.alive("mortal"))
    assert mortal.turns == 1 + MAX_RESTARTS
    assert bench.health("mortal").restarts == MAX_RESTARTS
    assert bench.crew.problems() == ["thread elk-mortal-ns is dead: SystemExit: again"]


def test_a_dead_role_is_started_again_only_after_its_thread_has_ended(bench: Bench) -> None:
    dying = threading.Event()
    gate = threading.Event()

    def last_words() -> None:
        dying.set()
        assert gate.wait(20)

    def die() -> None:
        if mortal.turns == 1:
            raise SystemExit

    bench.on_death = last_words
    other = bench.add("other", wait=1.0)
    mortal = bench.add("mortal", die)
    bench.crew.start()
    assert dying.wait(10)
    for _ in range(6):
        bench.tick(1.0, other)
    assert len(mortal.threads) == 1, "its thread is still there"
    gate.set()
    wait_until(lambda: not mortal.threads[0].is_alive())
    bench.tick(1.0, other)
    wait_until(lambda: mortal.turns == 2)
    assert mortal.most_inside == 1


def test_no_role_ever_runs_twice_at_the_same_time_whoever_looks_after_it(bench: Bench) -> None:
    def die_now_and_then() -> None:
        if mortal.turns <= MAX_RESTARTS:
            raise SystemExit

    others = [bench.add("other%d" % i, wait=0.6) for i in range(6)]
    mortal = bench.add("mortal", die_now_and_then)
    bench.crew.start()
    for turn in range(2, MAX_RESTARTS + 2):
        wait_until(lambda: not bench.crew.alive("mortal"))
        bench.tick(0.6, *others)
        wait_until(lambda turn=turn: mortal.turns == turn, 10, "a restart")
    assert mortal.most_inside == 1
    assert len(mortal.threads) == MAX_RESTARTS + 1


def test_starting_is_not_overtaken_by_those_that_run_already(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first = bench.add("first", wait=0.0)
    second = bench.add("second")
    # The crew was made long ago: the first role's first turn looks after the others.
    bench.clock.advance(60.0)
    started: List[str] = []
    plain = RoleThread.start

    def slow(self: RoleThread) -> None:
        if self.role.name == "second" and not started:
            started.append("second")
            turns = first.turns
            wait_until(lambda: first.turns >= turns + 50, what="the first one to look after the second")
        plain(self)

    monkeypatch.setattr(RoleThread, "start", slow)
    bench.crew.start()
    wait_until(lambda: second.turns >= 1)
    first.wait = 10.0
    wait_until(lambda: bench.clock.waiting == 2)
    assert len(second.threads) == 1 and second.most_inside == 1
    assert bench.health("second").restarts == 0


def test_a_system_without_threads_to_give_does_not_kill_who_looks_after_the_dead(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def die() -> None:
        if mortal.turns == 1:
            raise SystemExit

    other = bench.add("other", wait=1.0)
    mortal = bench.add("mortal", die)
    bench.crew.start()
    wait_until(lambda: mortal.turns == 1 and not bench.crew.alive("mortal"))
    plain = RoleThread.start

    def none_left(self: RoleThread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(RoleThread, "start", none_left)
    bench.tick(1.0, other)
    assert "could not be started again: can't start new thread" in caplog.text
    assert bench.crew.alive("other")
    monkeypatch.setattr(RoleThread, "start", plain)
    bench.tick(1.0, other)
    wait_until(lambda: mortal.turns == 2)


# ---------------------------------------------------------------- stuck


def test_a_turn_that_takes_too_long_is_stuck_and_never_started_beside_itself(bench: Bench) -> None:
    gate = threading.Event()
    other = bench.add("other", wait=1.0)
    role = bench.add("slow", lambda: gate.wait(20))
    role.stuck_after = 30.0
    bench.crew.start()
    wait_until(lambda: role.inside == 1 and bench.clock.waiting == 1)
    for turn in range(2, 32):
        bench.clock.advance(1.0)
        bench.idle(other, turn)
    assert bench.health("slow").busy_for == 30.0
    assert bench.crew.problems() == []
    bench.clock.advance(1.0)
    bench.idle(other, 32)
    assert bench.crew.problems() == ["thread elk-slow-ns has been busy with one turn for 31 s"]
    assert (role.turns, role.most_inside) == (1, 1)
    gate.set()
    wait_until(lambda: bench.crew.problems() == [])
    assert bench.health("slow").busy_for == 0.0


def test_a_role_without_a_limit_may_take_as_long_as_it_likes(bench: Bench) -> None:
    gate = threading.Event()
    role = bench.add("wakeup", lambda: gate.wait(20))
    bench.crew.start()
    wait_until(lambda: role.inside == 1)
    bench.clock.advance(1e6)
    assert bench.crew.problems() == []
    gate.set()


# ---------------------------------------------------------------- stopping


def test_stopping_ends_a_pause_at_once_and_finishes_once(bench: Bench) -> None:
    role = bench.add(wait=3600.0)
    bench.start(role)
    assert bench.stop() == []
    assert not role.threads[0].is_alive()
    assert (role.turns, role.interrupted, role.finished) == (1, 1, 1)
    assert bench.crew.problems() == [], "a stopped role is not a dead one"
    assert bench.stop() == []
    assert role.finished == 1


def test_stopping_interrupts_a_turn_that_blocks(bench: Bench) -> None:
    gate = threading.Event()
    role = bench.add("wakeup", lambda: gate.wait(20))
    role.on_interrupt = gate.set
    bench.crew.start()
    wait_until(lambda: role.inside == 1)
    assert bench.stop() == []


def test_an_interrupt_that_fails_keeps_nobody_else_from_stopping(bench: Bench) -> None:
    first, second = bench.add("first"), bench.add("second")
    first.on_interrupt = lambda: 1 / 0  # type: ignore[assignment, return-value]
    bench.start(first, second)
    assert bench.stop() == []
    assert second.interrupted == 1


def test_who_does_not_end_in_time_is_named(bench: Bench) -> None:
    gate = threading.Event()
    slow = bench.add("slow", lambda: gate.wait(20))
    quick = bench.add("quick")
    bench.crew.start()
    wait_until(lambda: slow.inside == 1 and quick.turns == 1)
    assert bench.crew.stop(["quick", "slow", "unknown"], 0.0) in (["slow"], ["quick", "slow"])
    gate.set()
    assert bench.crew.stop(["quick", "slow"], 10.0) == []


def test_one_deadline_holds_for_all_joins() -> None:
    bench = Bench(ManualClock(auto_advance=True))
    gate = threading.Event()
    for name in ("a", "b"):
        bench.add(name, lambda: gate.wait(20))
    bench.crew.start()
    wait_until(lambda: all(role.inside for role in bench.roles))
    joined: List[float] = []
    for name in ("a", "b"):
        thread = bench.thread(name)

        def join(timeout: float) -> bool:
            joined.append(timeout)
            bench.clock.advance(3.0)
            return False

        thread.join = join  # type: ignore[method-assign]
    assert bench.crew.stop(["a", "b"], 5.0) == ["a", "b"]
    assert joined == [5.0, 2.0]
    gate.set()


def test_a_role_may_stop_the_crew_it_belongs_to(bench: Bench) -> None:
    answers: List[Any] = []

    def stop() -> None:
        answers.append((bench.crew.is_mine(), bench.crew.stop(["work", "other"], 10.0)))

    bench.add("other")
    role = bench.add("work", stop)
    bench.crew.start()
    wait_until(lambda: answers == [(True, [])], what="a thread that does not wait for itself")
    role.threads[0].join(10)
    assert not role.threads[0].is_alive() and role.turns == 1
    assert not bench.crew.is_mine()


def test_a_role_stopped_before_it_started_never_runs(bench: Bench) -> None:
    role = bench.add()
    assert bench.stop() == []
    bench.crew.start()
    bench.clock.advance(60.0)
    assert role.turns == 0 and role.threads == []


def test_a_stopped_role_is_not_started_again_by_the_others(bench: Bench) -> None:
    other, role = bench.add("other", wait=1.0), bench.add("work")
    bench.start(other, role)
    assert bench.crew.stop(["work"], 10.0) == []
    for turn in range(2, 6):
        bench.clock.advance(1.0)
        bench.idle(other, turn)
    assert len(role.threads) == 1
    assert (role.finished, bench.health("work").restarts) == (1, 0)


def test_an_error_while_stopping_is_no_death(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    gate = threading.Event()

    def die() -> None:
        gate.wait(20)
        raise SystemExit

    role = bench.add("work", die)
    role.on_interrupt = gate.set
    bench.crew.start()
    wait_until(lambda: role.inside == 1)
    assert bench.stop() == []
    assert bench.deaths == []
    assert caplog.records == []


@pytest.mark.timeout(120)
def test_no_stop_is_lost_in_1000_starts_and_stops() -> None:
    clock = Clock()
    for number in range(1000):
        bench = Bench(clock)
        role = bench.add(wait=3600.0)
        bench.crew.start()
        if number % 3 == 0:
            wait_until(lambda role=role: role.turns)
        elif number % 3 == 1:
            role.wake.set()
        assert bench.crew.stop(["work"], 20.0) == [], "stop %d was lost" % number
        assert role.turns <= 2


# ---------------------------------------------------------------- the rest


def test_an_unknown_role_counts_as_alive(bench: Bench) -> None:
    assert bench.crew.alive("http") is True, "it was never part of this crew"
    bench.add("work")
    assert bench.crew.alive("work") is False, "not started yet"


def test_spawn_runs_once_in_a_daemon_thread_of_that_name() -> None:
    seen: List[Any] = []
    spawn("elk-once-ns", lambda: seen.append((threading.current_thread().name, threading.current_thread().daemon)))
    wait_until(lambda: seen == [("elk-once-ns", True)])


# ---------------------------------------------------------------- forks nobody told of

FORKED = """
import ctypes, os, sys, threading
from elk_coordinator.runtime.threads import has_phantoms
ended = threading.Event()
thread = threading.Thread(target=ended.wait, daemon=True)
thread.start()
assert not has_phantoms()
# Keeps the GIL and runs none of Python's hooks, as a server written in C does; os.fork() is the announced way.
pid = ctypes.PyDLL(None).fork() if sys.argv[1] == "unannounced" else os.fork()
if pid == 0:
    os._exit(10 + has_phantoms())
sys.exit(os.WEXITSTATUS(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize("how, code", [("unannounced", 11), ("announced", 10)])
def test_an_unannounced_fork_is_known_by_the_threads_that_are_not_there(how: str, code: int) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED, how], stderr=subprocess.PIPE, timeout=30.0,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (code, b"")


def test_threads_that_come_and_go_are_no_phantoms() -> None:
    go = threading.Event()
    threads = [threading.Thread(target=go.wait, daemon=True) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert not has_phantoms()
    go.set()
    for thread in threads:
        thread.join()
    assert not has_phantoms()
