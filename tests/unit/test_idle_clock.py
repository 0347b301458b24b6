"""wait_idle() while the store's clock is set back: it neither waits for as long, nor takes an older round's answer."""

from __future__ import annotations

import logging
import threading
from typing import Any, List

from elk_coordinator.model import IdleState
from elk_coordinator.partition.idle import wait_until_idle
from elk_coordinator.testing import ManualClock

HOUR = 3600.0


class Asked:
    """A namespace in which nothing is open; its leader does a full round a moment after it was asked for one."""

    def __init__(self, clock: ManualClock, steps: List[float]) -> None:
        self._clock = clock
        self._steps = steps
        self._off = 0.0
        self._looks = 0
        #: A round ended long ago.
        self.exhausted_at = clock.monotonic() - 60.0
        self.answers = True

    def now(self) -> float:
        return self._clock.monotonic() + self._off

    def idle_state(self) -> IdleState:
        self._clock.advance(0.001)
        if self._looks < len(self._steps):
            self._off += self._steps[self._looks]
        self._looks += 1
        return IdleState(self.now(), 0, True, self.exhausted_at)

    def ask_for_round(self) -> None:
        if self.answers and self._looks >= len(self._steps):
            self._clock.advance(0.001)
            self.exhausted_at = self.now()

    def leader(self) -> Any:
        return ("somebody", 1, 5.0)


def wait(asked: Asked, clock: ManualClock, timeout: float = 30.0) -> bool:
    logger = logging.getLogger("elk_coordinator.test")
    strategy: Any = asked
    return wait_until_idle(strategy, timeout, True, threading.Event(), clock, logger, lambda: 0)


def test_a_clock_set_back_while_it_waits_costs_no_hour() -> None:
    clock = ManualClock(auto_advance=True)
    assert wait(Asked(clock, [0.0, -HOUR]), clock)


def test_a_round_of_before_the_clock_was_set_back_answers_nobody() -> None:
    clock = ManualClock(auto_advance=True)
    asked = Asked(clock, [-HOUR])
    asked.answers = False
    assert not wait(asked, clock), "nobody has asked the planner since"
    asked.answers = True
    assert wait(asked, clock)
