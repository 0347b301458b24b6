"""What is said on a terminal, whichever door it comes from."""

from __future__ import annotations

from typing import Any, Dict, List

import attr
import pytest

from elk_coordinator.admin import telling
from elk_coordinator.errors import StoreError, StoreUnavailable
from elk_coordinator.model import PartitionStats, WorkerInfo
from elk_coordinator.runtime.clock import Clock

STATE: Dict[str, Any] = {
    "namespace": "n", "strategy": "hash", "paused": True, "leader": None, "commands": 0, "workers": 1,
    "partitions": attr.asdict(PartitionStats(total=1, pending=1)),
}  # fmt: skip


def test_what_workers_wrote_does_not_steer_the_terminal() -> None:
    info = {"state": "run\x1b[2Jning", "breaker": "open", "breaker_trips": 2, "breaker_reason": "no\x1b[2J\nluck"}
    lines = telling.Situation(STATE, [WorkerInfo("w", 3.0, info)]).lines("elk resume")
    assert "paused      nothing is claimed until 'elk resume'" in lines
    assert all(line.isprintable() for line in lines)
    assert "run?[2Jning" in lines[-1] and lines[-1].endswith("2 trips so far: no [2J luck")


def test_a_watch_waits_for_a_store_that_is_away_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clock, "wait", lambda *args: False)
    answers: List[Any] = [None, StoreUnavailable("down"), StoreUnavailable("down"), None, StoreUnavailable("again")]
    shown, noted = [], []  # type: ignore[var-annotated]

    def show() -> None:
        if not answers:
            raise KeyboardInterrupt
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        shown.append(1)

    telling.watch(show, 1.0, noted.append)
    assert len(shown) == 2 and noted == ["waiting for the store: down", "waiting for the store: again"]


def test_another_error_of_the_store_ends_a_watch() -> None:
    def show() -> None:
        raise StoreError("NOPERM")

    with pytest.raises(StoreError):
        telling.watch(show, 1.0, print)
