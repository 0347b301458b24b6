"""The archive beside operator commands, public deletes and gaps, with replies that are lost and readings that age."""

from __future__ import annotations

from typing import Any, Callable, List, Optional

import pytest

from elk_coordinator.errors import IllegalTransition, RangeConflict, StoreUnavailable
from elk_coordinator.model import CreatePartition, StrategyType
from elk_coordinator.partition.audit import verify
from elk_coordinator.partition.gaps import gap_report
from elk_coordinator.partition.simple_strategy import DOCUMENT
from tests.contract.kit import ids, parts, sound
from tests.contract.test_archive_contract import archive, archived, complete, damage, lead, sound_but_pruned
from tests.contract.test_commands_contract import Desk


@pytest.fixture
def desk(strategy: Any) -> Desk:
    return Desk(strategy)


# -- a change that arrived, whose reply did not, and that others wrote behind ------------------------------------------


def lost_and_overwritten(strategy: Any, other: Any) -> List[int]:
    """Let the next change of SIMPLE's document be made and its reply be lost, while another worker writes behind it."""
    change, done = strategy.store.compare_and_set, []

    def lossy(name: str, expected_version: int, data: Optional[bytes]) -> Any:
        answer = change(name, expected_version, data)
        if name == DOCUMENT and not done:
            done.append(answer)
            other.ask_for_round()
            raise StoreUnavailable("the reply was lost")
        return answer

    strategy.store.compare_and_set = lossy
    return done


def only_simple(strategy: Any) -> None:
    if strategy.strategy_type is StrategyType.HASH:
        pytest.skip("HASH keeps chunks beside their lines, each change one script")


def test_a_swap_that_arrived_unheard_keeps_its_chunk(clock: Any, strategy: Any, other: Any) -> None:
    only_simple(strategy)
    term = lead(strategy)
    before = complete(strategy, parts(1, 2, 3))
    clock.advance(1.0)
    done = lost_and_overwritten(strategy, other)
    archive(strategy, term)
    assert done and archived(other) == [1, 2, 3]
    assert other.get_all_partitions() == before
    sound(other)


def test_a_delete_that_arrived_unheard_keeps_its_chunk(clock: Any, strategy: Any, other: Any) -> None:
    only_simple(strategy)
    term = lead(strategy)
    complete(strategy, parts(1, 2, 3))
    clock.advance(1.0)
    archive(strategy, term)
    done = lost_and_overwritten(strategy, other)
    assert strategy.delete_partitions([2]) == []
    assert done and archived(other) == [1, 3]
    sound(other)


def test_a_command_that_arrived_unheard_keeps_its_chunk(clock: Any, desk: Desk, strategy: Any, other: Any) -> None:
    only_simple(strategy)
    complete(strategy, parts(1, 2, 3))
    clock.advance(1.0)
    archive(strategy, desk.term)
    name = desk.admin.delete([2])
    done = lost_and_overwritten(strategy, other)
    desk.work()
    assert done and desk.admin.wait(name, 0.0).result["changed"] == 1
    assert archived(other) == [1, 3]
    sound(other)


# -- commands on what is archived --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cancel", "release"])
def test_ending_an_archived_partition_says_that_it_is_completed(
    clock: Any, desk: Desk, strategy: Any, kind: str
) -> None:
    complete(strategy, parts(1, 2))
    assert desk.do(kind, id=1) == {"changed": 0, "skipped": [1], "skipped_total": 1, "outcome": "unchanged:completed"}
    clock.advance(1.0)
    archive(strategy, desk.term)
    assert desk.do(kind, id=1) == {"changed": 0, "skipped": [1], "skipped_total": 1, "outcome": "unchanged:completed"}
    assert desk.do(kind, id=3)["outcome"] == "unknown"
    sound(strategy)


@pytest.mark.parametrize("kind", ["cancel", "release"])
def test_a_damaged_chunk_fails_only_what_asks_about_it(
    clock: Any, backend: Any, desk: Desk, strategy: Any, kind: str
) -> None:
    complete(strategy, parts(1, 2))
    clock.advance(1.0)
    archive(strategy, desk.term)
    damage(backend, strategy, 0)
    first = desk.admin.submit(kind, {"id": 1})
    second = desk.admin.submit(kind, {"id": 70_000})
    desk.work()
    assert "is damaged" in desk.admin.wait(first, 0.0).error
    assert desk.admin.wait(second, 0.0).result["outcome"] == "unknown"


def test_retry_and_priority_leave_archived_ones_alone(clock: Any, desk: Desk, strategy: Any) -> None:
    before = complete(strategy, parts(1, 2))
    clock.advance(1.0)
    archive(strategy, desk.term)
    assert desk.do("retry_failed", ids=[1]) == {"changed": 0, "skipped": [1], "skipped_total": 1}
    assert desk.do("set_priority", ids=[1, 2], priority=5) == {"changed": 0, "skipped": [1, 2], "skipped_total": 2}
    assert strategy.get_all_partitions() == before
    sound(strategy)


# -- readings that age -------------------------------------------------------------------------------------------------


def once_after(strategy: Any, name: str, act: Callable[[], Any]) -> None:
    """Let *act* happen behind the first call of a method."""
    call, done = getattr(strategy, name), []

    def slow(*args: Any) -> Any:
        answer = call(*args)
        if not done:
            done.append(None)
            act()
        return answer

    setattr(strategy, name, slow)


def test_a_command_deletes_nothing_that_was_dropped_meanwhile(
    clock: Any, desk: Desk, strategy: Any, other: Any
) -> None:
    complete(strategy, parts(1, 2, 3))
    clock.advance(1.0)
    archive(strategy, desk.term)
    name = desk.admin.delete([1, 2, 3])
    # The archiver of the same leader, in its own thread, between two readings of the command.
    once_after(strategy, "archived", lambda: archive(other, desk.term, keep=1))
    desk.work()
    assert desk.admin.wait(name, 0.0).result["changed"] == 1
    assert strategy.pruned_intervals() == [(10, 29)] == strategy.planned_intervals()
    sound_but_pruned(strategy)


def test_a_command_deletes_nothing_that_was_planned_again_meanwhile(
    clock: Any, desk: Desk, strategy: Any, other: Any
) -> None:
    complete(strategy, parts(1, 2))
    clock.advance(1.0)
    archive(strategy, desk.term)
    name = desk.admin.delete([1])

    def again() -> None:
        assert other.delete_partitions([1]) == []
        other.create_partitions_if_not_exist([CreatePartition(9, 10, 19)])

    once_after(strategy, "archived", again)
    desk.work()
    assert desk.admin.wait(name, 0.0).result["changed"] == 0
    assert ids(strategy.get_all_partitions()) == [2, 9]
    sound(strategy)


# -- gaps --------------------------------------------------------------------------------------------------------------


def test_dropped_ranges_are_never_planned_again(clock: Any, strategy: Any, other: Any) -> None:
    term = lead(strategy)
    complete(strategy, parts(1, 2, 3))
    clock.advance(1.0)
    archive(strategy, term, keep=0)
    assert strategy.get_all_partitions() == [] and strategy.pruned_intervals() == [(10, 39)]
    version = strategy.plan_state().version
    for low, high in ((10, 39), (15, 15), (0, 10), (39, 50)):
        for what in (([CreatePartition(9, low, high)], []), ([], [(low, high)])):
            with pytest.raises(IllegalTransition):
                other.fill_gaps(version, term, *what)
        with pytest.raises(RangeConflict):
            other.create_partitions_if_not_exist([CreatePartition(9, low, high)])
    report = gap_report(other)
    assert (report.open_count, report.skipped_count, list(report.gaps)) == (0, 0, [])
    # Nor by somebody who deletes what is not there any more.
    assert other.delete_partitions([1, 2, 3]) == []
    assert strategy.planned_intervals() == [(10, 39)] and strategy.plan_state().version == version
    sound_but_pruned(strategy)


def test_deleted_archived_ranges_become_gaps_and_get_new_ids(clock: Any, desk: Desk, strategy: Any, other: Any) -> None:
    complete(strategy, parts(1, 2, 3))
    clock.advance(1.0)
    archive(strategy, desk.term)
    assert desk.do("delete", ids=[2])["changed"] == 1
    assert [(gap.min_id, gap.max_id, gap.state) for gap in gap_report(other).gaps] == [(20, 29, "open")]
    state = other.plan_state()
    assert state.max_partition_id == 3
    strategy.fill_gaps(state.version, desk.term, [CreatePartition(state.max_partition_id + 1, 20, 29)], [])
    assert ids(complete(strategy, [])) == [4]
    clock.advance(1.0)
    archive(strategy, desk.term)
    assert archived(other) == [1, 3, 4]
    sound(strategy)


# -- audits ------------------------------------------------------------------------------------------------------------


def test_an_audit_beside_the_dropping_of_details_finds_nothing_wrong(clock: Any, strategy: Any, other: Any) -> None:
    term = lead(other)
    complete(strategy, parts(*range(1, 21)))
    clock.advance(1.0)
    archive(other, term)
    look, kept = strategy.indexed_ids, [20]

    def slow(wrong: List[str]) -> List[int]:
        # Behind the reading of the plan, and once more before the partitions are read.
        for _ in range(2):
            kept[0] -= 1
            found = list(look(wrong))
            archive(other, term, keep=kept[0])
        return found

    strategy.indexed_ids = slow
    assert verify(strategy).problems == []
    assert kept[0] < 15, "it dropped some in each of its looks"


def test_what_is_dropped_and_still_there_is_found_wrong(clock: Any, strategy: Any) -> None:
    term = lead(strategy)
    complete(strategy, parts(1, 2))
    clock.advance(1.0)
    archive(strategy, term, keep=1)
    strategy.create_partitions_if_not_exist(parts(5))
    plan = strategy.pruned_intervals
    strategy.pruned_intervals = lambda: [*plan(), (50, 52)]
    assert any("pruned range [50, 52] overlaps" in problem for problem in verify(strategy).problems)
