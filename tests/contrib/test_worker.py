"""What ``elk run`` and the commands for Django and Flask share: the ends that a real process seldom takes."""

from __future__ import annotations

import os
import sys
from typing import Any, List

import pytest

from elk_coordinator import Coordinator, ElkError, StateError
from elk_coordinator.contrib import _worker
from elk_coordinator.errors import StoreError
from elk_coordinator.store.memory_store import MemoryDataStore

QUIET: Any = {"metrics_enabled": False, "stop_timeout": 1.0, "heartbeat_interval": 1.0, "strategy": "simple"}


class Gone(BaseException):
    """os._exit() was called."""


@pytest.fixture
def coordinator(namespace: str) -> Coordinator:
    return Coordinator(namespace, MemoryDataStore(), lambda *args: None, **QUIET)


@pytest.mark.parametrize("error", [StoreError("NOPERM"), None])
def test_until_done_is_not_done_when_nobody_could_say_so(
    error: Any, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait_idle() -> bool:
        if error is not None:
            raise error
        return False

    told: List[Any] = []
    monkeypatch.setattr(coordinator, "wait_idle", wait_idle)
    with pytest.raises(ElkError, match="NOPERM" if error else "before the work was done") as caught:
        _worker.run_worker(coordinator, True, lambda text: None, told.append)
    assert isinstance(caught.value, StoreError if error else StateError)
    assert told == [] and coordinator.health().state == "stopped"


def test_a_second_signal_ends_the_process_also_when_its_terminal_is_gone(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closed:
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

    def leave(code: int) -> None:
        raise Gone(code)

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(sys, "stderr", Closed())
    with pytest.raises(Gone, match="143"):
        _worker._exit_now(coordinator, 15, _worker._to_stderr)
