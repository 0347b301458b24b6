"""How patiently something is tried again, and that every wait ends when it should."""

from __future__ import annotations

import threading
import types
from typing import Any, Callable, List

import pytest
import tenacity

from elk_coordinator.errors import StoreError, StoreUnavailable
from elk_coordinator.runtime.retry import backoff_delay, retry_store_call
from elk_coordinator.testing import wait_until


class Calls:
    """Fails so often, with an error of its own each time, then answers."""

    def __init__(self, failures: int, error: Callable[[str], BaseException] = StoreUnavailable) -> None:
        self.failures = failures
        self.error = error
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        if self.count <= self.failures:
            raise self.error("failure %d" % self.count)
        return "answer %d" % self.count


def test_the_first_good_answer_is_returned() -> None:
    for failures in (0, 1, 4):
        calls = Calls(failures)
        assert retry_store_call(calls, threading.Event(), 60.0) == "answer %d" % (failures + 1)
        assert calls.count == failures + 1


@pytest.mark.parametrize("error", [StoreError, ValueError, KeyboardInterrupt, SystemExit])
def test_only_an_unavailable_store_is_asked_again(error: Any) -> None:
    calls = Calls(1, error)
    with pytest.raises(error, match="failure 1"):
        retry_store_call(calls, threading.Event(), 60.0)
    assert calls.count == 1


@pytest.mark.parametrize("budget", [0.0, -5.0])
def test_without_a_budget_there_is_one_try(budget: float) -> None:
    calls = Calls(99)
    with pytest.raises(StoreUnavailable, match="failure 1"):
        retry_store_call(calls, threading.Event(), budget)
    assert calls.count == 1


def test_when_the_budget_is_used_up_the_last_error_is_raised_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(tenacity, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    raised: List[StoreUnavailable] = []

    def call() -> None:
        now[0] += 1.0
        raised.append(StoreUnavailable("failure at %g" % now[0]))
        raise raised[-1]

    with pytest.raises(StoreUnavailable) as caught:
        retry_store_call(call, threading.Event(), 5.0)
    assert caught.value is raised[-1]
    assert len(raised) == 5


def test_an_interrupt_that_is_set_already_leaves_one_try() -> None:
    interrupt = threading.Event()
    interrupt.set()
    calls = Calls(99)
    with pytest.raises(StoreUnavailable, match="failure 1"):
        retry_store_call(calls, interrupt, 60.0)
    assert calls.count == 1


def test_an_interrupt_ends_the_retrying_with_the_last_error() -> None:
    interrupt = threading.Event()
    calls = Calls(10**9)
    raised: List[BaseException] = []

    def run() -> None:
        try:
            retry_store_call(calls, interrupt, 3600.0)
        except StoreUnavailable as exc:
            raised.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    wait_until(lambda: calls.count >= 2)
    interrupt.set()
    thread.join(10)
    assert not thread.is_alive()
    assert str(raised[0]) == "failure %d" % calls.count


def test_the_pauses_are_short_and_grow_with_jitter_to_half_a_second() -> None:
    class Interrupt(threading.Event):
        waits: List[float] = []

        def wait(self, timeout: "float | None" = None) -> bool:
            self.waits.append(timeout or 0.0)
            return False

    interrupt = Interrupt()
    retry_store_call(Calls(200), interrupt, 3600.0)
    waits = interrupt.waits
    assert len(waits) == 200
    assert all(wait <= min(0.5, 0.02 * 2.0**n) for n, wait in enumerate(waits))
    assert max(waits) > 0.3 and len(set(waits)) > 100


# ---------------------------------------------------------------- growing pauses


@pytest.mark.parametrize("first, longest", [(1.0, 60.0), (0.1, 5.0), (2.0, 2.0)])
def test_the_pause_doubles_from_the_first_to_the_longest_less_up_to_a_fifth(first: float, longest: float) -> None:
    for failures in range(1, 20):
        most = min(longest, first * 2 ** (failures - 1))
        seen = [backoff_delay(failures, first, longest) for _ in range(200)]
        assert all(0.8 * most <= delay <= most for delay in seen)
        assert max(seen) - min(seen) > 0.1 * most, "those that failed together do not come back together"


@pytest.mark.parametrize("failures", [0, -3])
def test_no_failure_counts_as_the_first(failures: int) -> None:
    assert 0.8 <= backoff_delay(failures, 1.0, 60.0) <= 1.0


def test_any_number_of_failures_is_fine() -> None:
    assert 48.0 <= backoff_delay(10**9, 1.0, 60.0) <= 60.0
    assert backoff_delay(10**9, 1e-9, 1e9) <= 1e9
