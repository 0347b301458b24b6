"""The circuit breaker: when it opens, what it lets through, when it closes, and its meeting with tenacity."""

from __future__ import annotations

import random
import threading
from typing import Any, Callable, List, Tuple

import pytest
import tenacity
from tenacity.stop import stop_after_attempt

from elk_coordinator.config import CircuitBreakerConfig
from elk_coordinator.errors import PermanentError, TaskInterrupted
from elk_coordinator.testing import ManualClock, wait_until
from elk_coordinator.worker.circuit_breaker import BreakerState, CircuitBreaker, Permit

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


class Bench:
    """A breaker on a clock that stands still, and what it told."""

    def __init__(self, **options: Any) -> None:
        self.clock = ManualClock(auto_advance=True)
        self.told: List[Tuple[BreakerState, BreakerState, str]] = []
        self.breaker = CircuitBreaker(
            CircuitBreakerConfig(**options), self.clock, lambda *change: self.told.append(change)
        )

    def permit(self) -> Permit:
        permit = self.breaker.acquire()
        assert permit is not None
        return permit

    def fail(self, key: int = 1, permit: "Permit | None" = None) -> None:
        self.breaker.failure(permit or self.permit(), key, "OSError: down")

    def succeed(self, times: int = 1) -> None:
        for _ in range(times):
            self.breaker.success(self.permit())

    def trip(self) -> "Bench":
        """Open it by failures in a row."""
        for _ in range(100):
            if self.breaker.state is not CLOSED:
                return self
            self.fail()
        raise AssertionError("it did not open")

    def half_open(self) -> "Bench":
        self.trip()
        self.clock.advance(30.0)
        assert self.breaker.state is HALF_OPEN
        return self


# ---------------------------------------------------------------- closed


def test_a_new_breaker_lets_everything_through() -> None:
    breaker = Bench().breaker
    assert breaker.state is CLOSED
    assert breaker.allowance() is None
    assert (breaker.trips, breaker.reason) == (0, "")
    permits = [breaker.acquire() for _ in range(1000)]
    assert all(permit is not None and not permit.probe for permit in permits)


def test_the_defaults_are_those_of_the_contract() -> None:
    config = CircuitBreakerConfig()
    assert (config.consecutive_failures, config.total_failures, config.half_open_max) == (3, 5, 2)
    assert (config.open_timeout, config.failure_window) == (30.0, 300.0)


def test_failures_in_a_row_open_it_also_of_one_partition() -> None:
    bench = Bench()
    bench.fail(key=7)
    bench.fail(key=7)
    assert bench.breaker.state is CLOSED
    bench.fail(key=7)
    assert bench.breaker.state is OPEN
    assert bench.breaker.trips == 1
    assert bench.breaker.reason == "3 failures in a row, last: OSError: down"
    assert bench.told == [(OPEN, CLOSED, bench.breaker.reason)]


def test_a_success_between_starts_the_row_again() -> None:
    bench = Bench(total_failures=1000)
    for _ in range(50):
        bench.fail()
        bench.fail()
        bench.succeed()
    assert bench.breaker.state is CLOSED


@pytest.mark.parametrize(
    "failures, successes, opens",
    [(4, 0, False), (5, 0, True), (5, 4, True), (5, 5, False), (6, 5, True), (20, 20, False), (21, 20, True)],
)
def test_distinct_failures_open_it_when_they_outnumber_successes(failures: int, successes: int, opens: bool) -> None:
    bench = Bench(consecutive_failures=1000)
    bench.succeed(successes)
    for key in range(failures - 1):
        bench.fail(key)
        assert bench.breaker.state is CLOSED, "after %d failures" % (key + 1)
    bench.fail(failures)
    assert bench.breaker.state is (OPEN if opens else CLOSED)


def test_one_partition_failing_again_and_again_is_one_failure_of_many() -> None:
    bench = Bench(consecutive_failures=1000)
    for _ in range(50):
        bench.fail(key=7)
    assert bench.breaker.state is CLOSED
    for key in (1, 2, 3):
        bench.fail(key)
    assert bench.breaker.state is CLOSED
    bench.fail(4)
    assert bench.breaker.state is OPEN
    assert bench.breaker.reason.startswith("5 partitions failed and 0 succeeded within 300 s")


def test_failures_older_than_the_window_count_no_more() -> None:
    bench = Bench(consecutive_failures=1000)
    for key in range(4):
        bench.fail(key)
        bench.clock.advance(1)
    bench.clock.advance(297)
    bench.fail(4)
    assert bench.breaker.state is CLOSED, "the first one is 301 s old"
    bench.fail(5)
    assert bench.breaker.state is OPEN


def test_a_partition_that_fails_again_is_young_again() -> None:
    bench = Bench(consecutive_failures=1000)
    for key in range(4):
        bench.fail(key)
    bench.clock.advance(299)
    bench.fail(0)
    bench.clock.advance(2)
    bench.fail(5)
    assert bench.breaker.state is CLOSED, "0 and 5 are in the window, 1 to 3 are not"
    for key in (6, 7):
        bench.fail(key)
    assert bench.breaker.state is CLOSED
    bench.fail(8)
    assert bench.breaker.state is OPEN


def test_successes_older_than_the_window_count_no_more() -> None:
    bench = Bench(consecutive_failures=1000)
    bench.succeed(1000)
    bench.clock.advance(301)
    for key in range(5):
        bench.fail(key)
    assert bench.breaker.state is OPEN


def test_successes_cost_no_memory_beyond_the_window() -> None:
    bench = Bench()
    for _ in range(3000):
        bench.succeed()
        bench.clock.advance(1.0)
    assert len(bench.breaker._succeeded) <= 302


@pytest.mark.parametrize("between", [0, 1, 5])
def test_what_says_nothing_about_the_users_system_neither_counts_nor_ends_a_row(between: int) -> None:
    bench = Bench()
    for _ in range(2):
        bench.fail()
        for _ in range(between):
            bench.breaker.give_back(bench.permit())
    assert bench.breaker.state is CLOSED
    bench.fail()
    assert bench.breaker.state is OPEN
    bench = Bench()
    for _ in range(100):
        bench.breaker.give_back(bench.permit())
    assert bench.breaker.state is CLOSED


def test_a_permit_counts_once_however_often_it_is_settled() -> None:
    bench = Bench()
    permit = bench.permit()
    for _ in range(10):
        bench.fail(permit=permit)
    assert bench.breaker.state is CLOSED
    permit = bench.permit()
    bench.breaker.give_back(permit)
    bench.fail(permit=permit)
    bench.breaker.success(permit)
    assert bench.breaker.state is CLOSED
    bench.fail()
    bench.fail()
    assert bench.breaker.state is OPEN, "the first failure counted, and the settled permit's success did not"


# ---------------------------------------------------------------- open


def test_while_open_nothing_is_let_through() -> None:
    bench = Bench().trip()
    for _ in range(29):
        bench.clock.advance(1.0)
        assert bench.breaker.state is OPEN
        assert bench.breaker.allowance() == 0
        assert bench.breaker.acquire() is None


def test_late_successes_of_work_started_before_the_trip_do_not_close_it() -> None:
    bench = Bench()
    before = [bench.permit() for _ in range(10)]
    bench.trip()
    for permit in before[:5]:
        bench.breaker.success(permit)
    assert bench.breaker.state is OPEN
    bench.clock.advance(30.0)
    assert bench.breaker.state is HALF_OPEN
    for permit in before[5:]:
        bench.breaker.success(permit)
    assert bench.breaker.state is HALF_OPEN
    assert bench.breaker.allowance() == 2


def test_late_failures_of_work_started_before_the_trip_change_nothing() -> None:
    bench = Bench()
    before = [bench.permit() for _ in range(10)]
    bench.trip()
    bench.clock.advance(29.0)
    for key, permit in enumerate(before[:5]):
        bench.fail(key, permit)
    bench.clock.advance(1.0)
    assert bench.breaker.state is HALF_OPEN, "the time did not start again"
    for key, permit in enumerate(before[5:]):
        bench.fail(key, permit)
    assert bench.breaker.state is HALF_OPEN
    assert bench.breaker.trips == 1


def test_a_task_that_has_not_started_learns_that_its_permit_is_of_the_past() -> None:
    bench = Bench()
    permit = bench.permit()
    assert bench.breaker.current(permit)
    bench.trip()
    assert not bench.breaker.current(permit)
    bench.clock.advance(30.0)
    assert not bench.breaker.current(permit)
    probe = bench.permit()
    assert bench.breaker.current(probe)


# ---------------------------------------------------------------- half-open


def test_after_its_time_it_is_half_open_and_lets_a_few_probes_through() -> None:
    bench = Bench().trip()
    bench.clock.advance(30.0)
    assert bench.breaker.allowance() == 2
    assert bench.breaker.state is HALF_OPEN
    probes = [bench.breaker.acquire(), bench.breaker.acquire()]
    assert [probe is not None and probe.probe for probe in probes] == [True, True]
    assert bench.breaker.acquire() is None
    assert bench.breaker.allowance() == 0
    assert bench.told[-1] == (HALF_OPEN, OPEN, "open for 30 s")


def test_it_closes_when_all_probes_succeeded() -> None:
    bench = Bench().half_open()
    first, second = bench.permit(), bench.permit()
    bench.breaker.success(second)
    assert bench.breaker.state is HALF_OPEN, "one of two"
    bench.breaker.success(first)
    assert bench.breaker.state is CLOSED
    assert bench.breaker.allowance() is None


def test_probes_may_follow_each_other_but_no_more_than_half_open_max_in_all() -> None:
    bench = Bench(half_open_max=3).half_open()
    for left in (2, 1):
        bench.breaker.success(bench.permit())
        assert bench.breaker.state is HALF_OPEN
        assert bench.breaker.allowance() == left
    bench.breaker.success(bench.permit())
    assert bench.breaker.state is CLOSED


@pytest.mark.parametrize("succeeded_before", [False, True])
def test_one_failed_probe_opens_it_again_for_the_whole_time(succeeded_before: bool) -> None:
    bench = Bench().half_open()
    first, second = bench.permit(), bench.permit()
    if succeeded_before:
        bench.breaker.success(first)
    bench.fail(9, second)
    assert bench.breaker.state is OPEN
    assert bench.breaker.trips == 2
    assert bench.breaker.reason == "a probe failed: OSError: down"
    bench.breaker.success(first)
    bench.clock.advance(29.9)
    assert bench.breaker.state is OPEN
    bench.clock.advance(0.1)
    assert bench.breaker.allowance() == 2, "all permits are there again"


def test_a_probe_of_an_earlier_half_open_says_nothing_about_this_one() -> None:
    bench = Bench().half_open()
    old, second = bench.permit(), bench.permit()
    bench.fail(9, second)
    bench.clock.advance(30.0)
    new = bench.permit()
    bench.fail(8, old)
    assert bench.breaker.state is HALF_OPEN
    bench.breaker.success(new)
    bench.breaker.success(bench.permit())
    assert bench.breaker.state is CLOSED


def test_a_probe_that_says_nothing_gives_its_permit_back() -> None:
    bench = Bench().half_open()
    for _ in range(20):
        permits = [bench.permit(), bench.permit()]
        assert bench.breaker.allowance() == 0
        for permit in permits:
            bench.breaker.give_back(permit)
            bench.breaker.give_back(permit)
        assert bench.breaker.allowance() == 2
    assert bench.breaker.state is HALF_OPEN


def test_it_closes_with_fewer_probes_when_nothing_is_left_to_claim() -> None:
    bench = Bench(half_open_max=5).half_open()
    bench.breaker.success(bench.permit())
    bench.breaker.nothing_left()
    assert bench.breaker.state is CLOSED
    assert bench.breaker.reason == "1 probe(s) succeeded and nothing is left"


def test_it_stays_half_open_while_nothing_is_left_but_a_probe_runs_or_none_succeeded() -> None:
    bench = Bench(half_open_max=5).half_open()
    bench.breaker.nothing_left()
    assert bench.breaker.state is HALF_OPEN, "no probe has run"
    first, second = bench.permit(), bench.permit()
    bench.breaker.success(first)
    bench.breaker.nothing_left()
    assert bench.breaker.state is HALF_OPEN, "the second one runs"
    bench.breaker.give_back(second)
    bench.breaker.nothing_left()
    assert bench.breaker.state is CLOSED


@pytest.mark.parametrize("state", [CLOSED, OPEN])
def test_nothing_left_means_nothing_in_the_other_states(state: BreakerState) -> None:
    bench = Bench()
    if state is OPEN:
        bench.trip()
    bench.breaker.nothing_left()
    assert bench.breaker.state is state


def test_after_closing_the_counts_start_anew() -> None:
    bench = Bench(consecutive_failures=3, total_failures=3)
    bench.succeed(100)
    bench.half_open()
    bench.succeed(2)
    assert bench.breaker.state is CLOSED
    bench.fail(8)
    bench.fail(9)
    assert bench.breaker.state is CLOSED, "what failed before the trip is forgotten"
    bench.succeed()
    bench.fail(10)
    assert bench.breaker.state is OPEN, "and so is what succeeded"
    assert bench.breaker.reason.startswith("3 partitions failed and 1 succeeded")


def test_whoever_asks_for_the_state_makes_the_change_known() -> None:
    bench = Bench().trip()
    bench.clock.advance(30.0)
    assert bench.breaker.state is HALF_OPEN
    assert bench.told[-1] == (HALF_OPEN, OPEN, "open for 30 s")


def test_reset_closes_it_whatever_it_saw() -> None:
    bench = Bench().trip()
    bench.breaker.reset()
    assert bench.breaker.state is CLOSED
    assert bench.told[-1] == (CLOSED, OPEN, "reset by hand")
    bench = Bench().half_open()
    probe = bench.permit()
    bench.breaker.reset()
    assert bench.breaker.state is CLOSED
    bench.fail(1, probe)
    assert bench.breaker.state is CLOSED
    told = len(bench.told)
    bench.breaker.reset()
    assert len(bench.told) == told, "closed already"


@pytest.mark.parametrize("seed", range(20))
def test_no_permit_leaks_whatever_happens_to_probes(seed: int) -> None:
    chance = random.Random(seed)
    most = chance.randint(1, 4)
    bench = Bench(half_open_max=most).half_open()
    held: List[Permit] = []
    for _ in range(400):
        step = chance.random()
        if step < 0.5:
            permit = bench.breaker.acquire()
            held += [permit] if permit is not None else []
        elif held:
            permit = held.pop(chance.randrange(len(held)))
            settle: List[Callable[[], Any]] = [
                lambda p=permit: bench.breaker.success(p),
                lambda p=permit: bench.breaker.failure(p, chance.randrange(10), "down"),
                lambda p=permit: bench.breaker.give_back(p),
            ]
            for _ in range(chance.randint(1, 3)):
                chance.choice(settle)()
        if chance.random() < 0.1:
            bench.clock.advance(chance.choice([1.0, 30.0]))
        if chance.random() < 0.05:
            bench.breaker.nothing_left()
        if bench.breaker.state is HALF_OPEN:
            probes = sum(permit.probe and bench.breaker.current(permit) for permit in held)
            assert probes + bench.breaker._passed + (bench.breaker.allowance() or 0) == most
    for permit in held:
        bench.breaker.give_back(permit)
    bench.breaker.reset()
    bench.half_open()
    assert bench.breaker.allowance() == most


def test_threads_together_get_no_more_probes_than_there_are() -> None:
    bench = Bench(half_open_max=3).half_open()
    gate = threading.Barrier(8)
    got: List[Any] = []

    def take() -> None:
        gate.wait(10)
        got.append(bench.breaker.acquire())

    threads = [threading.Thread(target=take, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(got) == 8
    assert sum(permit is not None for permit in got) == 3


def test_changes_are_told_outside_the_lock_so_that_the_listener_may_ask() -> None:
    clock = ManualClock()
    asked: List[BreakerState] = []
    breaker = CircuitBreaker(CircuitBreakerConfig(), clock, lambda *change: asked.append(breaker.state))
    for _ in range(3):
        permit = breaker.acquire()
        assert permit is not None
        breaker.failure(permit, 1, "down")
    assert asked == [OPEN]


# ---------------------------------------------------------------- with tenacity


class Flaky:
    """Fails as often as it is told, then answers."""

    def __init__(self, failures: int, error: BaseException) -> None:
        self.left = failures
        self.error = error
        self.calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.left > 0:
            self.left -= 1
            raise self.error
        return args, kwargs


def test_retrying_calls_until_it_works_and_passes_arguments_and_result() -> None:
    bench = Bench()
    flaky = Flaky(2, OSError("down"))
    retrying = bench.breaker.retrying()
    assert isinstance(retrying, tenacity.Retrying)
    assert retrying(flaky, 1, two=2) == ((1,), {"two": 2})
    assert flaky.calls == 3
    assert bench.breaker.state is CLOSED


def test_retrying_reports_failures_to_the_breaker_and_waits_while_it_is_open() -> None:
    bench = Bench()
    flaky = Flaky(3, OSError("down"))
    began = bench.clock.monotonic()
    bench.breaker.retrying()(flaky)
    assert bench.breaker.trips == 1
    assert bench.clock.monotonic() - began >= 30.0, "it waited for the breaker"
    assert flaky.calls == 4
    assert bench.breaker.state is HALF_OPEN, "its fourth try was a probe that succeeded"
    assert bench.breaker.allowance() == 1


def test_retrying_reports_successes_to_the_breaker() -> None:
    bench = Bench().half_open()
    retrying = bench.breaker.retrying()
    retrying(Flaky(0, OSError()))
    retrying(Flaky(0, OSError()))
    assert bench.breaker.state is CLOSED


def test_retrying_ends_with_the_last_error_when_tenacity_says_so() -> None:
    bench = Bench(consecutive_failures=100)
    flaky = Flaky(99, OSError("the disk is gone"))
    with pytest.raises(OSError, match="the disk is gone"):
        bench.breaker.retrying(stop=stop_after_attempt(4))(flaky)
    assert flaky.calls == 4
    with pytest.raises(tenacity.RetryError):
        bench.breaker.retrying(stop=stop_after_attempt(2), reraise=False)(flaky)


@pytest.mark.parametrize("error", [PermanentError("bad"), TaskInterrupted("stop"), SystemExit(3), KeyboardInterrupt()])
def test_what_trying_again_cannot_cure_is_not_retried_and_does_not_count(error: BaseException) -> None:
    bench = Bench(consecutive_failures=1).half_open()
    flaky = Flaky(99, error)
    with pytest.raises(type(error)):
        bench.breaker.retrying()(flaky)
    assert flaky.calls == 1
    assert bench.breaker.state is HALF_OPEN
    assert bench.breaker.allowance() == 2, "its permit was given back"


def test_one_call_that_fails_often_is_one_of_the_distinct_failures() -> None:
    bench = Bench(consecutive_failures=1000)
    with pytest.raises(OSError):
        bench.breaker.retrying(stop=stop_after_attempt(20))(Flaky(99, OSError()))
    assert bench.breaker.state is CLOSED
    for _ in range(4):
        with pytest.raises(OSError):
            bench.breaker.retrying(stop=stop_after_attempt(1))(Flaky(99, OSError()))
    assert bench.breaker.state is OPEN, "five calls"


def test_retrying_ends_a_wait_for_the_breaker_when_the_worker_stops() -> None:
    bench = Bench().trip()
    bench.clock = ManualClock()
    breaker = CircuitBreaker(CircuitBreakerConfig(consecutive_failures=1), bench.clock)
    permit = breaker.acquire()
    assert permit is not None
    breaker.failure(permit, 1, "down")
    raised: List[BaseException] = []

    def call() -> None:
        try:
            breaker.retrying()(lambda: None)
        except BaseException as exc:
            raised.append(exc)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    wait_until(lambda: bench.clock.waiting == 1, what="it to wait for the breaker")
    breaker.stop()
    thread.join(10)
    assert [type(exc) for exc in raised] == [TaskInterrupted]
    assert "circuit breaker is open" in str(raised[0])


def test_retrying_ends_a_pause_between_tries_by_the_last_error_when_the_worker_stops() -> None:
    bench = Bench(consecutive_failures=100)
    flaky = Flaky(99, OSError("down"))
    raised: List[BaseException] = []

    def call() -> None:
        try:
            bench.breaker.retrying(wait=tenacity.wait_fixed(3600))(flaky)
        except BaseException as exc:
            raised.append(exc)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    wait_until(lambda: flaky.calls == 1)
    bench.breaker.stop()
    thread.join(10)
    assert not thread.is_alive(), "an hour's pause ended at once"
    assert [type(exc) for exc in raised] == [OSError]


@pytest.mark.parametrize("set_before", [False, True])
def test_retrying_takes_an_event_of_the_users_or_the_contexts_cancelled(set_before: bool) -> None:
    class Cancelled:
        """Like ``ctx.cancelled``: false as long as it is not set."""

        def __init__(self) -> None:
            self.event = threading.Event()
            self.is_set = self.event.is_set
            self.wait = self.event.wait

        def __bool__(self) -> bool:
            return self.is_set()

    cancelled = Cancelled()
    bench = Bench().trip()
    if set_before:
        cancelled.event.set()
    else:
        bench.clock.wait = lambda event, timeout: (cancelled.event.set(), event.wait(timeout))[1]  # type: ignore
    with pytest.raises(TaskInterrupted):
        bench.breaker.retrying(cancelled)(Flaky(0, OSError()))


def test_retrying_works_as_a_decorator_and_by_copies() -> None:
    bench = Bench()
    flaky = Flaky(2, OSError("down"))

    retrying = bench.breaker.retrying()

    @retrying.wraps
    def fetch(url: str) -> Any:
        """Fetch it."""
        return flaky(url)

    assert fetch("u") == (("u",), {})
    assert fetch.__name__ == "fetch"
    assert flaky.calls == 3
    failing = Flaky(99, OSError("down"))
    with pytest.raises(OSError):
        bench.breaker.retrying().copy(stop=stop_after_attempt(3))(failing)
    assert bench.breaker.state is OPEN, "the copy reports too"


def test_retrying_tells_tenacitys_hooks_what_is_called() -> None:
    seen: List[Any] = []

    def fetch(url: str) -> str:
        return url

    Bench().breaker.retrying(after=seen.append, before=lambda state: seen.append((state.fn.__name__, state.args)))(
        fetch, "u"
    )
    assert seen[0] == ("fetch", ("u",))


def test_retrying_as_a_loop_reports_and_waits_too() -> None:
    bench = Bench()
    flaky = Flaky(3, OSError("down"))
    began = bench.clock.monotonic()
    for attempt in bench.breaker.retrying():
        with attempt:
            flaky()
    assert flaky.calls == 4
    assert bench.breaker.trips == 1
    assert bench.clock.monotonic() - began >= 30.0
    assert bench.breaker.allowance() == 1, "the last try was a probe that succeeded"


def test_retrying_as_a_loop_settles_its_permit_when_the_loop_is_left() -> None:
    bench = Bench().half_open()

    def returns_inside() -> int:
        for attempt in bench.breaker.retrying():
            with attempt:
                return 7
        raise AssertionError("not reached")

    def leaves_before_trying() -> None:
        for _ in bench.breaker.retrying():
            break

    assert returns_inside() == 7
    assert bench.breaker.allowance() == 1, "a probe succeeded"
    leaves_before_trying()
    assert bench.breaker.allowance() == 1, "nothing was tried"


def test_a_probing_task_does_not_wait_for_the_permit_that_it_holds_itself() -> None:
    bench = Bench(half_open_max=1).half_open()
    probe = bench.permit()
    assert bench.breaker.allowance() == 0
    began = bench.clock.monotonic()
    bench.breaker.hold(probe)
    assert bench.breaker.retrying()(Flaky(0, OSError())) == ((), {})
    assert bench.clock.monotonic() == began, "it did not wait"
    assert bench.breaker.state is HALF_OPEN, "the end of the task tells, not one call of it"
    bench.breaker.success(probe)
    assert bench.breaker.state is CLOSED


def test_a_failing_call_of_a_probing_task_opens_the_breaker_and_the_next_try_waits() -> None:
    bench = Bench(half_open_max=1).half_open()
    probe = bench.permit()
    began = bench.clock.monotonic()
    flaky = Flaky(1, OSError("down"))
    bench.breaker.hold(probe)
    bench.breaker.retrying()(flaky)
    bench.breaker.hold(None)
    assert bench.breaker.trips == 2
    assert bench.clock.monotonic() - began >= 30.0
    assert bench.breaker.state is CLOSED, "its second try was a probe of its own, the one that was needed"
    bench.fail(1, probe)
    bench.fail(1, probe)
    bench.fail(1, probe)
    assert bench.breaker.state is CLOSED, "the task's permit was settled by its failed call"


def test_only_the_tasks_own_thread_is_part_of_the_probe_and_only_until_its_end() -> None:
    bench = Bench(half_open_max=1).half_open()
    bench.breaker.hold(bench.permit())
    bench.breaker.stop()
    raised: List[Any] = []

    def call() -> None:
        try:
            bench.breaker.retrying()(lambda: None)
        except TaskInterrupted as exc:
            raised.append(exc)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(10)
    assert len(raised) == 1, "another thread waits like everybody"
    call()
    assert len(raised) == 1
    bench.breaker.hold(None)
    call()
    assert len(raised) == 2
