"""The wake-up thread: a subscription that breaks is made anew; only one that cannot be made is an outage."""

from __future__ import annotations

import logging
from typing import Any, List, Optional

import pytest

from elk_coordinator import StoreUnavailable
from elk_coordinator.runtime.wakeup import Wakeup


class Hints:
    """Says what it is told to; raises what is an error."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def wait(self, topic: str, timeout: float) -> Optional[str]:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]


def test_a_subscription_that_breaks_is_made_anew_and_everybody_looks_once() -> None:
    woken: List[str] = []
    handlers = {"work": [lambda: woken.append("work")], "leader": [lambda: woken.append("leader")]}
    broke = StoreUnavailable("closed by the server")
    wakeup = Wakeup(Hints(None, "work", broke, None, "leader"), handlers, logging.getLogger("elk_coordinator"))
    assert wakeup.run_once() is None and woken == ["work", "leader"]
    assert wakeup.run_once() == "work"
    del woken[:]
    # That is no outage of the store: its commands may go through all the while.
    assert wakeup.run_once() is None and wakeup.pause(None) == 0.0
    assert woken == []
    assert wakeup.run_once() is None and woken == ["work", "leader"]
    assert wakeup.run_once() == "leader"


def test_a_subscription_that_cannot_be_made_is_an_outage() -> None:
    away = StoreUnavailable("refused")
    wakeup = Wakeup(Hints(None, away, away, None), {}, logging.getLogger("elk_coordinator"))
    wakeup.run_once()
    assert wakeup.run_once() is None
    with pytest.raises(StoreUnavailable):
        wakeup.run_once()
    assert wakeup.run_once() is None
