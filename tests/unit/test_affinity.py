"""Affinity: who prefers what, and how little of it moves when the fleet changes."""

from __future__ import annotations

import logging
from typing import Any, Dict, List

import pytest

from elk_coordinator.errors import StoreUnavailable
from elk_coordinator.model import WorkerInfo
from elk_coordinator.partition.requests import AREA, BUCKETS, bucket_of
from elk_coordinator.testing import ManualClock
from elk_coordinator.worker.affinity import REFRESH_BEATS, Affinity, scores

LOGGER = logging.getLogger("elk_coordinator.test")
FLEET = ["worker-%d" % i for i in range(8)]


class Registry:
    def __init__(self, *names: str) -> None:
        self.names: List[str] = list(names)
        self.asked = 0
        self.down = False

    def workers(self) -> List[WorkerInfo]:
        self.asked += 1
        if self.down:
            raise StoreUnavailable("down")
        return [WorkerInfo(name, 10.0) for name in self.names]


def affinity(worker: str = "worker-0", registry: Any = None, clock: Any = None) -> Affinity:
    return Affinity(registry or Registry(), worker, 2.0, clock or ManualClock(), LOGGER)


def owners(fleet: List[str]) -> List[str]:
    """Return the owner of every bucket, as each worker sees itself; there must be exactly one."""
    found: List[str] = [""] * BUCKETS
    for worker in fleet:
        mine = affinity(worker)
        mine.see(fleet)
        for bucket, letter in enumerate(mine.owned):
            if letter == "1":
                assert not found[bucket], "two owners"
                found[bucket] = worker
    assert all(found), "no owner"
    return found


def shares(found: List[str]) -> Dict[str, int]:
    return {worker: found.count(worker) for worker in set(found)}


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_every_bucket_has_exactly_one_owner_and_the_shares_are_even(count: int) -> None:
    spread = shares(owners(FLEET[:count]))
    assert len(spread) == count
    assert all(0.5 * BUCKETS / count <= share <= 1.6 * BUCKETS / count for share in spread.values()), spread


def test_the_order_in_which_the_fleet_is_named_does_not_matter() -> None:
    one, two = affinity(), affinity()
    one.see(FLEET)
    two.see(FLEET[::-1])
    assert one.owned == two.owned


def test_who_goes_gives_away_its_own_and_nothing_else_moves() -> None:
    before, after = owners(FLEET), owners(FLEET[:-1])
    moved = [bucket for bucket in range(BUCKETS) if before[bucket] != after[bucket]]
    assert moved and all(before[bucket] == FLEET[-1] for bucket in moved)
    assert len(moved) == before.count(FLEET[-1])
    assert len({after[bucket] for bucket in moved}) > 3, "what it had is spread over the others"


def test_who_comes_takes_its_share_and_nothing_else_moves() -> None:
    before, after = owners(FLEET), owners([*FLEET, "worker-new"])
    assert {after[bucket] for bucket in range(BUCKETS) if before[bucket] != after[bucket]} == {"worker-new"}


def test_scores_are_the_same_in_every_process_and_version() -> None:
    assert len(scores("w")) == len(set(scores("w"))) == BUCKETS
    assert scores("w")[0].hex() == "21ce01c864cc1217" and scores("w")[-1].hex() == "a7226b39e1df2b7c"


def test_neighbours_are_one_area() -> None:
    assert [bucket_of(i) for i in range(AREA)] == [0] * AREA
    assert bucket_of(AREA) == 1 and bucket_of(AREA * BUCKETS) == 0
    assert 0 <= bucket_of(2**53 - 1) < BUCKETS


def test_a_worker_alone_or_not_in_the_list_yet_counts_itself() -> None:
    mine = affinity("worker-0", Registry())
    mine.refresh()
    assert mine.owned == "1" * BUCKETS
    mine.see(["worker-1"])
    assert 0 < mine.owned.count("1") < BUCKETS


def test_the_fleet_is_read_every_few_heartbeats_only_and_after_one_while_it_changes() -> None:
    clock, registry = ManualClock(), Registry("worker-0")
    mine = affinity("worker-0", registry, clock)
    for beats, asked in [(0.0, 1), (0.99, 1), (0.02, 2), (REFRESH_BEATS - 0.02, 2), (0.03, 3)]:
        clock.advance(beats * 2.0)
        for _ in range(50):
            mine.refresh()
        assert registry.asked == asked, beats
    assert mine.owned == "1" * BUCKETS
    registry.names.append("worker-1")
    clock.advance(REFRESH_BEATS * 2.0)
    mine.refresh()
    assert registry.asked == 4 and mine.owned != "1" * BUCKETS
    clock.advance(2.0)
    mine.refresh()
    assert registry.asked == 5, "who comes is seldom the last one to come"


def test_a_fleet_that_cannot_be_read_stays_as_it_was_and_raises_nothing() -> None:
    clock, registry = ManualClock(), Registry("worker-0", "worker-1")
    mine = affinity("worker-0", registry, clock)
    registry.down = True
    mine.refresh()
    assert mine.owned == ""
    registry.down = False
    clock.advance(100.0)
    mine.refresh()
    known = mine.owned
    assert known
    registry.down = True
    clock.advance(100.0)
    mine.refresh()
    assert mine.owned == known
