"""What wait_idle() waits for, beside the plan."""

from __future__ import annotations

import threading
from typing import Any, Optional

import pytest

from elk_coordinator import AdminClient, Coordinator, PermanentError
from elk_coordinator.leader.commands import Commands
from elk_coordinator.store.memory_store import MemoryDataStore


class Ten:
    def partition_size(self, ctx: Any) -> int:
        return 10

    def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> int:
        return min(10, start_id + range_size)


def test_a_retry_queued_before_is_carried_out_first(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mended, 'elk retry --all', 'elk run --until-done': the second must not end before the first was heard.
    store, broken, held = MemoryDataStore(), [True], threading.Event()

    def process(ctx: Any, min_id: int, max_id: int, options: Any) -> Optional[int]:
        if broken:
            raise PermanentError("broken")
        return None

    def coordinator() -> Coordinator:
        return Coordinator("n", store, process, Ten(), strategy="simple", metrics_enabled=False)

    with coordinator() as first:
        assert first.wait_idle(20.0) and first.stats().failed == 1
    broken.clear()
    AdminClient("n", store).retry_failed()
    run_once = Commands.run_once
    monkeypatch.setattr(Commands, "run_once", lambda self: run_once(self) if held.is_set() else None)
    with coordinator() as second:
        assert not second.wait_idle(1.5)
        held.set()
        assert second.wait_idle(20.0)
        assert (second.stats().failed, second.stats().completed) == (0, 1)
