"""What every PartitionStrategy must do with gaps: fill what no partition covers, in one step; never finished work."""

from __future__ import annotations

import threading
from typing import Any, List

import pytest

from elk_coordinator.errors import IllegalTransition, LeaseLost, VersionConflict
from elk_coordinator.model import CreatePartition, Outcome
from elk_coordinator.partition.gaps import EMPTY, HOLE, OPEN, PLANNED, GapLog, gap_report
from elk_coordinator.partition.planning import Planning
from tests.contract.kit import COMPLETED, PENDING, ids, parts, report, sound


@pytest.fixture
def term(strategy: Any) -> int:
    token = strategy.store.acquire_lock("leader", "leader-1", 60.0, 0)
    assert token is not None
    return int(token)


def version_of(strategy: Any) -> int:
    return int(strategy.plan_state().version)


def test_a_hole_becomes_partitions_and_the_planned_ranges_close(strategy: Any, other: Any, term: int) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 4))
    version = strategy.fill_gaps(version_of(strategy), term, [CreatePartition(5, 22, 35)], [(20, 21), (36, 39)])
    assert version == version_of(other) > 0
    assert other.planned_intervals() == [(10, 49)]
    assert other.skipped_intervals() == [(20, 21), (36, 39)]
    created = other.get_partition(5)
    assert (created.min_id, created.max_id, created.status, created.version) == (22, 35, PENDING, version)
    assert strategy.plan_state().max_partition_id == 5
    sound(strategy)


def test_a_single_id_between_two_partitions_is_filled(strategy: Any, term: int) -> None:
    strategy.create_partitions_if_not_exist([CreatePartition(1, 1, 6), CreatePartition(2, 8, 9)])
    strategy.fill_gaps(version_of(strategy), term, [CreatePartition(3, 7, 7)], [])
    assert strategy.planned_intervals() == [(1, 9)]
    sound(strategy)


def test_rows_in_a_skipped_range_become_partitions_and_the_rest_stays_skipped(strategy: Any, term: int) -> None:
    big = 10**18
    strategy.plan_partitions(strategy.plan_state(), term, parts(1), [(20, big)])
    strategy.fill_gaps(version_of(strategy), term, [CreatePartition(2, 100, 109), CreatePartition(3, big, big)], [])
    assert strategy.planned_intervals() == [(10, big)]
    assert strategy.skipped_intervals() == [(20, 99), (110, big - 1)]
    strategy.fill_gaps(version_of(strategy), term, [CreatePartition(4, 20, 99)], [])
    assert strategy.skipped_intervals() == [(110, big - 1)]
    assert strategy.planned_intervals() == [(10, big)]
    sound(strategy)


def test_a_gap_that_is_partly_skipped_and_partly_a_hole_is_one_gap(strategy: Any, term: int) -> None:
    strategy.plan_partitions(strategy.plan_state(), term, parts(1, 3, 5), [(20, 29), (40, 49)])
    strategy.delete_partitions([3])
    strategy.fill_gaps(version_of(strategy), term, [CreatePartition(6, 25, 44)], [(20, 24)])
    assert strategy.planned_intervals() == [(10, 59)]
    assert strategy.skipped_intervals() == [(20, 24), (45, 49)]
    sound(strategy)


@pytest.mark.parametrize("state", ["pending", "running", "failed", "completed"])
@pytest.mark.parametrize("low,high", [(10, 19), (19, 29), (5, 10), (12, 13), (0, 100)])
def test_what_a_partition_covers_is_never_planned_again(
    strategy: Any, term: int, state: str, low: int, high: int
) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 5))
    if state != "pending":
        (claim,) = strategy.claim_partitions("w")
        if state != "running":
            report(strategy, claim, Outcome.COMPLETED if state == "completed" else Outcome.PERMANENT)
    before = strategy.get_all_partitions()
    for partitions, empty in (([CreatePartition(9, low, high)], []), ([], [(low, high)])):
        with pytest.raises(IllegalTransition):
            strategy.fill_gaps(version_of(strategy), term, partitions, empty)
    assert strategy.get_all_partitions() == before
    assert strategy.skipped_intervals() == []
    sound(strategy)


def test_a_deleted_completed_partition_is_a_gap_and_comes_back(strategy: Any, term: int) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 2, 3))
    for claim in strategy.claim_partitions("w", 3):
        report(strategy, claim, Outcome.COMPLETED)
    strategy.delete_partitions([2])
    strategy.fill_gaps(version_of(strategy), term, [CreatePartition(4, 20, 29)], [])
    assert [(p.partition_id, p.status) for p in strategy.get_all_partitions()] == [
        (1, COMPLETED), (3, COMPLETED), (4, PENDING),
    ]  # fmt: skip
    sound(strategy)


def test_ranges_for_gaps_that_overlap_each_other_are_refused(strategy: Any, term: int) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 9))
    for partitions, empty in (([*parts(3), CreatePartition(10, 39, 45)], []), (parts(3), [(39, 50)])):
        with pytest.raises(IllegalTransition):
            strategy.fill_gaps(version_of(strategy), term, partitions, empty)
    assert strategy.planned_intervals() == [(10, 19), (90, 99)]


def test_nothing_to_fill_changes_nothing(strategy: Any, term: int) -> None:
    strategy.plan_partitions(strategy.plan_state(), term, parts(1), [(20, 29)])
    version = version_of(strategy)
    assert strategy.fill_gaps(version, term, [], []) == version
    assert strategy.fill_gaps(version, term, [], [(22, 25)]) == version, "it is known as skipped already"
    assert version_of(strategy) == version


def test_a_fill_from_an_older_plan_is_refused(strategy: Any, other: Any, term: int) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 5))
    old = version_of(strategy)
    other.create_partitions_if_not_exist(parts(3))
    for partitions, empty in ((parts(2), []), ([CreatePartition(6, 30, 39)], []), ([], [(30, 39)])):
        # Also when what was a gap is none any more: the plan is newer, and that is what the caller must hear.
        with pytest.raises(VersionConflict):
            strategy.fill_gaps(old, term, partitions, empty)
    assert ids(strategy.get_all_partitions()) == [1, 3, 5]
    sound(strategy)


def test_a_plan_that_changes_between_the_look_and_the_step_is_refused_by_the_step(
    strategy: Any, other: Any, term: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. The leader reads the hole. 2. Somebody creates a partition there. 3. The leader's step comes."""
    strategy.create_partitions_if_not_exist(parts(1, 5))
    version = version_of(strategy)
    read = Planning.planned_window
    calls: List[str] = []

    def window(self: Any, low: int, high: int, which: str = "planned") -> Any:
        answer = read(self, low, high, which)
        if self is strategy:
            calls.append(which)
            if len(calls) == 2:
                other.create_partitions_if_not_exist(parts(2))
        return answer

    monkeypatch.setattr(Planning, "planned_window", window)
    with pytest.raises(VersionConflict):
        strategy.fill_gaps(version, term, [CreatePartition(6, 20, 29)], [])
    assert ids(strategy.get_all_partitions()) == [1, 2, 5]
    sound(strategy)


def test_a_leader_whose_term_is_over_fills_nothing(clock: Any, strategy: Any, other: Any, term: int) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 5))
    version = version_of(strategy)
    clock.advance(60.0)
    second = other.store.acquire_lock("leader", "leader-2", 60.0, 0)
    for stale in (term, 0):
        with pytest.raises(LeaseLost):
            strategy.fill_gaps(version, stale, parts(2), [])
        with pytest.raises(LeaseLost):
            strategy.fill_gaps(version, stale, [], [(20, 29)])
    assert strategy.planned_intervals() == [(10, 19), (50, 59)] and version_of(strategy) == version
    assert other.fill_gaps(version, second, parts(2), []) > version
    sound(other)


def test_a_fill_whose_reply_was_lost_is_done_once(backend: Any, strategy: Any, term: int) -> None:
    strategy.plan_partitions(strategy.plan_state(), term, parts(1, 5), [(20, 49)])
    backend.lose_reply(strategy, 1)
    version = strategy.fill_gaps(version_of(strategy), term, parts(3), [])
    assert version == version_of(strategy)
    assert ids(strategy.get_all_partitions()) == [1, 3, 5]
    assert strategy.skipped_intervals() == [(20, 29), (40, 49)]
    sound(strategy)


def test_filling_and_planning_and_deleting_at_once_keep_the_plan_whole(backend: Any, term: int) -> None:
    filler, planner, other = (backend.new_strategy() for _ in range(3))
    planner.plan_partitions(planner.plan_state(), term, parts(1), [(20, 2009)])
    filled: List[int] = []

    def fill() -> None:
        for i in range(25):
            while True:
                state = filler.plan_state()
                item = CreatePartition(state.max_partition_id + 1, 30 + 40 * i, 39 + 40 * i)
                try:
                    filler.fill_gaps(state.version, term, [item], [])
                    filled.append(item.partition_id)
                    break
                except VersionConflict:
                    continue

    def plan() -> None:
        for i in range(25):
            while True:
                state = planner.plan_state()
                item = CreatePartition(state.max_partition_id + 1, 5000 + 10 * i, 5009 + 10 * i)
                try:
                    planner.plan_partitions(state, term, [item], [])
                    break
                except VersionConflict:
                    continue

    threads = [threading.Thread(target=fill), threading.Thread(target=plan)]
    for thread in threads:
        thread.start()
    other.delete_partitions([1])
    for thread in threads:
        thread.join(60.0)
    assert len(filled) == 25
    sound(other)
    assert len(other.get_all_partitions()) == 50 and other.planned_intervals() == [(20, 2009), (5000, 5249)]


# -- what is remembered, and the report --------------------------------------------------------------------------------


def test_a_report_of_nothing_is_empty(strategy: Any) -> None:
    found = gap_report(strategy)
    assert found.gaps == [] and (found.open_count, found.skipped_count, found.mode) == (0, 0, "")
    assert found.to_dict()["gaps"] == [] and found.generated_at > 0


def test_the_report_shows_open_gaps_skipped_ranges_and_what_was_done(strategy: Any, other: Any, term: int) -> None:
    big = 2**62 + 1
    strategy.plan_partitions(strategy.plan_state(), term, parts(1, 3, 5), [(20, 29), (60, big)])
    strategy.delete_partitions([3])
    log = GapLog(strategy, term, "discrete")
    log.saw((30, 49), HOLE, 5.0)
    log.did((70, 79), "skipped", 6.0, 1, True)
    log.mark(last_look=7.0, first_id=1)
    log.save()
    found = gap_report(other)
    assert [(g.min_id, g.max_id, g.kind, g.state, g.since, g.partitions) for g in found.gaps] == [
        (1, 9, "hole", OPEN, None, 0),
        (30, 49, "hole", OPEN, 5.0, 0),
        (20, 29, "skipped", EMPTY, None, 0),
        (60, big, "skipped", EMPTY, None, 0),
        (70, 79, "skipped", PLANNED, 6.0, 1),
    ]
    assert found.skipped_ids == 10 + big - 59 and (found.planned_count, found.planned_partitions) == (1, 1)
    assert (found.mode, found.last_look, found.last_sweep, found.truncated) == ("discrete", 7.0, None, False)
    assert found.to_dict()["gaps"][-2]["ids"] == big - 59


def test_the_memory_survives_a_change_of_leader_and_a_late_leader_overwrites_nothing(
    strategy: Any, other: Any, term: int
) -> None:
    old = GapLog(strategy, term, "discrete")
    old.saw((1, 9), HOLE, 5.0)
    old.save()
    new = GapLog(other, term + 1, "incremental")
    new.did((1, 9), HOLE, 9.0, 3, True)
    new.save()
    old.saw((100, 109), HOLE, 6.0)
    old.save()
    found = gap_report(strategy)
    assert found.mode == "incremental" and found.planned_partitions == 3
    assert [(g.min_id, g.since, g.state) for g in found.gaps] == [(1, 5.0, PLANNED)]


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"gaps": [[1]]}', b'{"gaps": 5}', b'{"last_look": "x"}', b"\xff"])
def test_an_unreadable_memory_is_an_empty_one(strategy: Any, term: int, data: bytes) -> None:
    strategy.store.compare_and_set("gaps", 0, data)
    assert gap_report(strategy).planned_count == 0
    log = GapLog(strategy, term, "discrete")
    log.did((1, 9), HOLE, 9.0, 3, True)
    log.save()
    assert gap_report(strategy).planned_count == 1


def test_the_memory_and_the_report_are_bounded(strategy: Any, term: int) -> None:
    state = strategy.plan_state()
    skipped = [(i * 10 + 5, i * 10 + 6) for i in range(1, 401)]
    for k in range(4):
        items = [CreatePartition(i, i * 10, i * 10 + 1) for i in range(1 + 400 * k, 401 + 400 * k)]
        state = strategy.plan_partitions(state, term, items, [(a + 4000 * k, b + 4000 * k) for a, b in skipped])
    log = GapLog(strategy, term, "discrete")
    for i in range(1000):
        log.did((10**6 + i, 10**6 + i), HOLE, 1.0, 1, True)
    log.save()
    found = gap_report(strategy)
    assert len(found.gaps) == 1000 and found.truncated
    assert (found.open_count, found.skipped_count, found.planned_count) == (3199, 1600, 1000)
    assert {gap.state for gap in found.gaps} == {OPEN, EMPTY, PLANNED}
    assert len(strategy.store.get("gaps").data) < 64 * 1024
