"""The clock that decides about leases: counts suspended time, never steps."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from elk_coordinator.partition.requests import Memory
from elk_coordinator.runtime.clock import Clock


def test_the_clock_counts_the_time_for_which_the_machine_is_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {7: 1000.0}
    monkeypatch.setattr(time, "CLOCK_BOOTTIME", 7, raising=False)
    monkeypatch.setattr(time, "clock_gettime", lambda which: shown[which], raising=False)
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    monkeypatch.setattr(time, "time", lambda: 1.7e9)
    clock = Clock()
    assert clock.monotonic() == 1000.0
    shown[7] += 3600.0
    assert clock.monotonic() == 4600.0
    assert clock.time() == 1.7e9


def test_where_nothing_counts_it_the_clock_never_steps_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    assert Clock().monotonic() == 5.0


def test_a_wait_ends_when_its_event_is_set_or_its_time_is_over() -> None:
    event: Any = threading.Event()
    assert Clock().wait(event, 0.0) is False
    event.set()
    assert Clock().wait(event, None) is True


def test_a_process_remembers_the_highest_token_it_saw() -> None:
    memory = Memory()
    for token in (5, 9, 7):
        memory.saw(token)
    assert memory.floor == 9
