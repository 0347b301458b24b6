"""Recovery is the leader's: whoever does not lead asks the store nothing."""

from __future__ import annotations

import logging
from typing import Any, List

import pytest

from elk_coordinator import CreatePartition, StrategyType, create_strategy
from elk_coordinator.leader.recovery import Recovery
from elk_coordinator.model import Sweep
from elk_coordinator.runtime.events import Events
from elk_coordinator.store.memory_store import MemoryDataStore
from elk_coordinator.testing import Faulty, ManualClock

LOGGER = logging.getLogger("elk_coordinator.test")


@pytest.mark.parametrize("leads", [True, False])
def test_only_the_leader_looks_for_leases_that_ran_out(leads: bool) -> None:
    clock = ManualClock()
    strategy = create_strategy(StrategyType.SIMPLE, "orders", MemoryDataStore(clock), partition_lock_expiry=30.0)
    strategy.create_partitions_if_not_exist([CreatePartition(1, 10, 19)])
    strategy.claim_partitions("w")
    clock.advance(31.0)
    told: List[Sweep] = []
    faulty: Any = Faulty(strategy)
    events = Events("orders", "w", clock, LOGGER)
    role = Recovery(faulty, lambda: 1 if leads else None, clock, told.append, events, LOGGER, 30.0)
    role.run_once()
    assert [len(sweep.reclaimed) for sweep in told] == ([1] if leads else [])
    assert leads or faulty.calls == {}
    assert (role.stats is not None) is leads
