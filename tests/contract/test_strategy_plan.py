"""What every PartitionStrategy must do with the plan: creating, changing, deleting, and what a leader records."""

from __future__ import annotations

import random
import threading
from typing import Any, List, Optional

import attr
import pytest

from elk_coordinator.errors import (
    ConfigError,
    IllegalTransition,
    LeaseLost,
    PartitionNotFound,
    RangeConflict,
    StoreError,
    VersionConflict,
)
from elk_coordinator.model import CreatePartition, Outcome, Partition, PartitionStats, StrategyType
from elk_coordinator.partition import simple_strategy
from tests.contract.kit import COMPLETED, PENDING, RUNNING, TICK, ids, make_suspects, parts, report, sound, turn

# -- creating ----------------------------------------------------------------------------------------------------------


def test_created_partitions_come_back_ordered_by_id_and_are_what_the_store_says(strategy: Any, other: Any) -> None:
    wanted = [
        CreatePartition(7, 700, 799, priority=3, options={"a": [1, {"b": None}], "é": "ü", "big": 2**63 - 1}),
        CreatePartition(2, -50, -50),
        CreatePartition(5, 0, 9, options={}),
    ]
    created = strategy.create_partitions_if_not_exist(wanted)
    assert ids(created) == [2, 5, 7]
    assert [(p.min_id, p.max_id, p.priority, p.status) for p in created] == [
        (-50, -50, 0, PENDING),
        (0, 9, 0, PENDING),
        (700, 799, 3, PENDING),
    ]
    assert created[2].options == {"a": [1, {"b": None}], "é": "ü", "big": 2**63 - 1}
    assert created == other.get_all_partitions()
    for partition in created:
        assert other.get_partition(partition.partition_id) == partition
        assert partition.version > 0 and partition.created_at == partition.updated_at > 0
        assert partition == attr.evolve(
            Partition(partition.partition_id, partition.min_id, partition.max_id),
            priority=partition.priority,
            options=partition.options,
            version=partition.version,
            created_at=partition.created_at,
            updated_at=partition.updated_at,
        )
    sound(strategy)


def test_creating_nothing_creates_nothing(strategy: Any) -> None:
    assert strategy.create_partitions_if_not_exist([]) == []
    assert strategy.get_partition_stats() == PartitionStats()


def test_the_same_again_returns_nothing_and_changes_nothing(strategy: Any, other: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 2))
    before = strategy.get_all_partitions()
    assert other.create_partitions_if_not_exist(parts(2, 1)) == []
    assert other.create_partitions_if_not_exist(parts(1, 1)) == []
    assert strategy.get_all_partitions() == before
    assert ids(other.create_partitions_if_not_exist(parts(1, 2, 3))) == [3]


@pytest.mark.parametrize("state", ["pending", "running", "failed", "completed"])
def test_the_same_again_is_known_in_every_state(strategy: Any, state: str) -> None:
    claim = None
    strategy.create_partitions_if_not_exist(parts(1))
    if state != "pending":
        (claim,) = strategy.claim_partitions("w")
    if state == "failed":
        report(strategy, claim, Outcome.PERMANENT)
    if state == "completed":
        report(strategy, claim, Outcome.COMPLETED)
    assert strategy.create_partitions_if_not_exist(parts(1)) == []
    assert strategy.get_partition(1).status.value == state
    with pytest.raises(RangeConflict):
        strategy.create_partitions_if_not_exist([CreatePartition(1, 10, 20)])
    with pytest.raises(RangeConflict):
        strategy.create_partitions_if_not_exist([CreatePartition(9, 19, 29)])


def test_a_known_id_with_another_range_is_a_conflict_that_names_both(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    with pytest.raises(RangeConflict) as caught:
        strategy.create_partitions_if_not_exist([CreatePartition(1, 500, 509)])
    assert caught.value.requested == (1, 500, 509)
    assert caught.value.existing == (10, 19)
    assert "500" in str(caught.value) and "10" in str(caught.value)


@pytest.mark.parametrize("low,high", [(10, 19), (5, 10), (19, 25), (12, 13), (0, 100)])
def test_any_overlap_with_a_planned_range_is_a_conflict_that_names_both(strategy: Any, low: int, high: int) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    before = strategy.get_all_partitions()
    with pytest.raises(RangeConflict) as caught:
        strategy.create_partitions_if_not_exist([CreatePartition(2, low, high)])
    assert caught.value.requested == (2, low, high)
    assert caught.value.existing == (10, 19)
    assert caught.value.created == []
    assert strategy.get_all_partitions() == before


def test_neighbours_are_no_overlap_and_their_ranges_merge(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 3))
    assert strategy.planned_intervals() == [(10, 19), (30, 39)]
    strategy.create_partitions_if_not_exist(parts(2))
    assert strategy.planned_intervals() == [(10, 39)]
    sound(strategy)


def test_a_conflict_in_a_batch_creates_none_of_that_batch(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(3))
    with pytest.raises(RangeConflict) as caught:
        strategy.create_partitions_if_not_exist([*parts(1, 2), CreatePartition(4, 39, 45), *parts(5)])
    assert caught.value.requested[0] == 4 and caught.value.created == []
    assert ids(strategy.get_all_partitions()) == [3]
    sound(strategy)


def test_a_conflict_in_a_later_batch_keeps_the_earlier_ones_and_lists_them(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist([CreatePartition(5000, 10_500, 10_509)])
    with pytest.raises(RangeConflict) as caught:
        strategy.create_partitions_if_not_exist(parts(*range(1, 1201)))
    assert ids(caught.value.created) == list(range(1, 1001))
    assert caught.value.requested == (1050, 10_500, 10_509)
    assert caught.value.existing == (10_500, 10_509)
    assert ids(strategy.get_all_partitions()) == [*range(1, 1001), 5000]
    sound(strategy)


def test_simple_refuses_more_active_ones_than_its_document_bears(
    strategy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert simple_strategy.MAX_ACTIVE == 10_000
    monkeypatch.setattr(simple_strategy, "MAX_ACTIVE", 10)
    strategy.create_partitions_if_not_exist(parts(*range(1, 10)))
    if strategy.strategy_type is StrategyType.HASH:
        assert len(strategy.create_partitions_if_not_exist(parts(*range(10, 50)))) == 40
        return
    with pytest.raises(ConfigError, match="at most 10 active partitions, there are 9; use StrategyType.HASH"):
        strategy.create_partitions_if_not_exist(parts(10, 11))
    assert ids(strategy.get_all_partitions()) == list(range(1, 10)), "all of a batch or none"
    strategy.create_partitions_if_not_exist(parts(10))
    term = strategy.store.acquire_lock("leader", "leader", 60.0, 0)
    with pytest.raises(ConfigError, match="at most 10 active"):
        strategy.plan_partitions(strategy.plan_state(), term, parts(11), [])
    with pytest.raises(ConfigError, match="at most 10 active"):
        strategy.update_partition(Partition(11, 110, 119), upsert=True)
    # Completed ones do not count.
    (claim,) = strategy.claim_partitions("w")
    report(strategy, claim, Outcome.COMPLETED)
    assert ids(strategy.create_partitions_if_not_exist(parts(11))) == [11]
    sound(strategy)


def test_what_contradicts_itself_is_refused_before_anything_is_created(strategy: Any) -> None:
    for wrong in (
        [CreatePartition(1, 0, 9), CreatePartition(1, 0, 10)],
        [CreatePartition(1, 0, 9), CreatePartition(2, 9, 12)],
        [*parts(*range(10, 900)), CreatePartition(5000, 105, 105)],
    ):
        with pytest.raises(RangeConflict):
            strategy.create_partitions_if_not_exist(wrong)
    assert strategy.get_all_partitions() == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: CreatePartition(0, 1, 2),
        lambda: CreatePartition(-1, 1, 2),
        lambda: CreatePartition(2**53, 1, 2),
        lambda: CreatePartition(True, 1, 2),
        lambda: CreatePartition(1.0, 1, 2),  # type: ignore[arg-type]
        lambda: CreatePartition("1", 1, 2),  # type: ignore[arg-type]
        lambda: CreatePartition(1, 2, 1),
        lambda: CreatePartition(1, -(2**63), 1),
        lambda: CreatePartition(1, 1, 2**63),
        lambda: CreatePartition(1, 1.0, 2),  # type: ignore[arg-type]
        lambda: CreatePartition(1, 1, True),
        lambda: CreatePartition(1, 1, 2, priority=1001),
        lambda: CreatePartition(1, 1, 2, priority=-1001),
        lambda: CreatePartition(1, 1, 2, priority=0.5),  # type: ignore[arg-type]
        lambda: CreatePartition(1, 1, 2, options=[1]),  # type: ignore[arg-type]
        lambda: CreatePartition(1, 1, 2, options={"x": object()}),
        lambda: CreatePartition(1, 1, 2, options={"x": float("nan")}),
        lambda: CreatePartition(1, 1, 2, options={"x": "y" * 17_000}),
        lambda: (1, 1, 2),
        lambda: None,
    ],
)
def test_bad_input_is_refused_at_the_door_and_nothing_is_half_done(strategy: Any, make: Any) -> None:
    with pytest.raises(ConfigError):
        strategy.create_partitions_if_not_exist([*parts(100), make()])
    assert strategy.get_all_partitions() == []
    assert strategy.planned_intervals() == []


def test_two_who_create_the_same_at_once_share_it_without_doubles(backend: Any, strategy: Any) -> None:
    wanted = parts(*range(1, 41))
    got: List[List[Partition]] = []

    def create(seed: int) -> None:
        mine = backend.new_strategy()
        order = list(wanted)
        random.Random(seed).shuffle(order)
        out: List[Partition] = []
        for i in range(0, len(order), 4):
            out += mine.create_partitions_if_not_exist(order[i : i + 4])
        got.append(out)

    threads = [threading.Thread(target=create, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 3
    assert sorted(p.partition_id for out in got for p in out) == list(range(1, 41))
    sound(strategy)


def test_the_creator_is_told_of_his_partitions_even_when_the_first_reply_was_lost(backend: Any, strategy: Any) -> None:
    backend.lose_reply(strategy, 1)
    created = strategy.create_partitions_if_not_exist(parts(1, 2))
    assert ids(created) == [1, 2]
    assert created == strategy.get_all_partitions()
    sound(strategy)


def lose_reply_of(strategy: Any, nth_change: int) -> None:
    """Run a script that changes something, and lose its reply, as a broken connection does; the store asks again."""
    from elk_coordinator.errors import StoreUnavailable

    link = strategy.store._link
    call, left = link.call, [nth_change]

    def lossy(script: Any, keys: Any, args: Any) -> Any:
        answer = call(script, keys, args)
        if script.name in ("plan", "work", "checkpoint", "heartbeat", "sweep"):
            left[0] -= 1
            if left[0] == 0:
                raise StoreUnavailable("the reply was lost")
        return answer

    link.call = lossy


# -- changing --------------------------------------------------------------------------------------------------------


def test_options_error_and_priority_of_a_pending_partition_are_changed(strategy: Any, other: Any) -> None:
    strategy.create_partitions_if_not_exist([*parts(1, options={"a": 1}), *parts(2, 3)])
    before = strategy.get_partition(3)
    after = strategy.update_partition(attr.evolve(before, options={"b": 2**60}, error="by hand", priority=4))
    assert (after.options, after.error, after.priority, after.status) == ({"b": 2**60}, "by hand", 4, PENDING)
    assert after.version > before.version and after == other.get_partition(3)
    assert after == attr.evolve(
        before,
        options=after.options,
        error="by hand",
        priority=4,
        version=after.version,
        updated_at=after.version / 1e6,
    )
    assert ids(other.claim_partitions("w", 3)) == [3, 1, 2]
    sound(strategy)


@pytest.mark.parametrize("state", ["delayed", "suspect", "failed", "running", "claimed"])
def test_options_and_error_are_changed_in_every_state_and_the_work_goes_on(
    backend: Any, clock: Any, strategy: Any, state: str
) -> None:
    if state == "suspect":
        make_suspects(strategy, 1)
    else:
        strategy.create_partitions_if_not_exist(parts(1))
        (claim,) = turn(strategy, free=int(state != "claimed"), prefetch=int(state == "claimed")).granted
    if state == "delayed":
        report(strategy, claim, Outcome.ERROR, delay=5.0)
    if state == "failed":
        report(strategy, claim, Outcome.PERMANENT)
    before = strategy.get_partition(1)
    after = strategy.update_partition(attr.evolve(before, options={"x": 1}, error="seen"))
    assert after == attr.evolve(
        before, options={"x": 1}, error="seen", version=after.version, updated_at=after.version / 1e6
    )
    sound(strategy)
    if state in ("running", "claimed"):
        assert report(strategy, claim, Outcome.COMPLETED).status is COMPLETED
        assert strategy.get_partition(1).options == {"x": 1}
    elif state != "failed":
        clock.advance(5.0)
        assert strategy.update_partition(attr.evolve(after, priority=-7)).priority == -7
        (claim,) = turn(strategy, free=1).granted
        assert (claim.options, claim.priority) == ({"x": 1}, -7)
    sound(strategy)


def test_an_update_by_somebody_who_read_an_older_version_is_refused(strategy: Any, other: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    old = strategy.get_partition(1)
    new = other.update_partition(attr.evolve(old, options={"theirs": 1}))
    for expected in (None, old.version, old.version + 1):
        with pytest.raises(VersionConflict) as caught:
            strategy.update_partition(attr.evolve(old, options={"mine": 1}), expected)
        assert caught.value.found == new.version
    assert strategy.get_partition(1) == new
    assert strategy.update_partition(attr.evolve(old, options={"mine": 1}), new.version).options == {"mine": 1}
    assert strategy.update_partition(attr.evolve(old, options={"forced": 1}), force=True).options == {"forced": 1}


@pytest.mark.parametrize(
    "facts",
    [
        {"min_id": 11},
        {"max_id": 20},
        {"status": COMPLETED},
        {"worker_id": "x"},
        {"attempt": 1},
        {"deliveries": 1},
        {"fencing_token": 5},
        {"checkpoint": 12},
        {"processed": 3},
        {"retry_at": 5.0},
        {"created_at": 5.0},
        {"completed_at": 5.0},
    ],
    ids=str,
)
def test_an_update_of_anything_else_is_refused(strategy: Any, facts: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    before = strategy.get_partition(1)
    for force in (False, True):
        with pytest.raises(IllegalTransition):
            strategy.update_partition(attr.evolve(before, options={"x": 1}, **facts), force=force)
    assert strategy.get_partition(1) == before


def test_a_priority_is_changed_only_while_pending(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    strategy.claim_partitions("w")
    before = strategy.get_partition(1)
    with pytest.raises(IllegalTransition):
        strategy.update_partition(attr.evolve(before, priority=3))
    assert strategy.get_partition(1) == before


def test_a_completed_partition_is_not_changed(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    (claim,) = strategy.claim_partitions("w")
    report(strategy, claim, Outcome.COMPLETED)
    done = strategy.get_partition(1)
    with pytest.raises((IllegalTransition, PartitionNotFound)):
        strategy.update_partition(attr.evolve(done, options={"x": 1}))
    assert strategy.get_partition(1) == done


def test_an_update_of_what_does_not_exist_creates_it_only_on_request(strategy: Any) -> None:
    wanted = Partition(7, 70, 79, priority=2, options={"x": 1})
    with pytest.raises(PartitionNotFound):
        strategy.update_partition(wanted)
    made = strategy.update_partition(wanted, upsert=True)
    assert made == strategy.get_partition(7)
    assert (made.min_id, made.max_id, made.priority, made.options, made.status) == (70, 79, 2, {"x": 1}, PENDING)
    with pytest.raises(RangeConflict):
        strategy.update_partition(Partition(8, 75, 85), upsert=True)
    sound(strategy)


@pytest.mark.parametrize("facts", [{"priority": 1001}, {"priority": 0.5}, {"options": {"x": object}}], ids=str)
def test_an_update_with_bad_values_is_refused_at_the_door(strategy: Any, facts: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    before = strategy.get_partition(1)
    with pytest.raises(ConfigError):
        strategy.update_partition(attr.evolve(before, **facts))
    assert strategy.get_partition(1) == before


def test_an_update_that_was_overtaken_on_its_way_is_refused(strategy: Any, other: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    mine, send = strategy.get_partition(1), strategy._update

    def slow(*args: Any) -> Any:
        other.update_partition(attr.evolve(mine, options={"theirs": 1}))
        return send(*args)

    strategy._update = slow
    with pytest.raises(VersionConflict):
        strategy.update_partition(attr.evolve(mine, options={"mine": 1}))
    assert strategy.get_partition(1).options == {"theirs": 1}


def test_an_update_whose_reply_was_lost_is_no_conflict_with_itself(backend: Any, strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    before = strategy.get_partition(1)
    backend.lose_reply(strategy, 1)
    after = strategy.update_partition(attr.evolve(before, options={"x": 1}))
    assert after.options == {"x": 1} and after == strategy.get_partition(1)


# -- deleting --------------------------------------------------------------------------------------------------------


def test_a_deleted_partition_is_gone_and_its_range_is_a_gap(strategy: Any, other: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 2, 3))
    assert strategy.delete_partition(2) is True
    assert ids(other.get_all_partitions()) == [1, 3]
    assert other.planned_intervals() == [(10, 19), (30, 39)]
    assert ids(other.claim_partitions("w", 5)) == [1, 3]
    sound(strategy)
    assert ids(other.create_partitions_if_not_exist([CreatePartition(9, 22, 27)])) == [9]
    assert other.planned_intervals() == [(10, 19), (22, 27), (30, 39)]
    sound(strategy)


@pytest.mark.parametrize("state", ["pending", "delayed", "suspect", "failed", "completed"])
def test_what_nobody_holds_is_deleted_in_every_state(strategy: Any, clock: Any, state: str) -> None:
    if state == "suspect":
        make_suspects(strategy, 1)
    else:
        strategy.create_partitions_if_not_exist(parts(1))
    if state in ("delayed", "failed", "completed"):
        (claim,) = strategy.claim_partitions("w")
        kind = {"delayed": Outcome.ERROR, "failed": Outcome.PERMANENT, "completed": Outcome.COMPLETED}[state]
        report(strategy, claim, kind, delay=5.0)
    assert strategy.delete_partitions([1]) == []
    assert strategy.get_all_partitions() == [] and strategy.planned_intervals() == []
    with pytest.raises(PartitionNotFound):
        strategy.get_partition(1)
    clock.advance(5.0)
    assert strategy.claim_partitions("w") == []
    stats = strategy.get_partition_stats()
    assert (stats.total, stats.last_allocated_id) == (0, None)
    if state in ("delayed", "failed", "completed"):
        assert report(strategy, claim, kind).refused
    sound(strategy)


def test_held_partitions_are_skipped_and_listed_and_unknown_ones_are_no_error(strategy: Any, other: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 2, 3, 4))
    strategy.claim_partitions("w", 1)
    turn(strategy, prefetch=1)
    assert other.delete_partitions([4, 3, 2, 1, 77, 3]) == [1, 2]
    assert other.delete_partition(1) is False
    assert other.delete_partition(99) is True
    assert other.delete_partitions([]) == []
    assert ids(other.get_all_partitions()) == [1, 2]
    sound(strategy)


@pytest.mark.parametrize("wrong", [0, -1, 2**53, "1", None, True])
def test_an_id_that_cannot_be_one_is_not_deleted(strategy: Any, wrong: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    with pytest.raises(ConfigError):
        strategy.delete_partitions([1, wrong])
    assert ids(strategy.get_all_partitions()) == [1]


def test_a_thousand_are_deleted_from_the_middle_of_merged_intervals(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(*range(1, 1301)))
    assert strategy.delete_partitions(range(100, 1101)) == []
    assert strategy.planned_intervals() == [(10, 999), (11010, 13009)]
    assert strategy.get_partition_stats().total == 299
    sound(strategy)


def test_deleting_part_of_a_skipped_neighbourhood_leaves_the_skipped_ranges(strategy: Any, term: int) -> None:
    strategy.plan_partitions(strategy.plan_state(), term, parts(1, 3), [(20, 29)])
    assert strategy.delete_partitions([1, 3]) == []
    assert strategy.planned_intervals() == strategy.skipped_intervals() == [(20, 29)]
    sound(strategy)


def test_a_plan_made_before_a_deletion_is_refused(strategy: Any, other: Any, term: int) -> None:
    state = strategy.plan_partitions(strategy.plan_state(), term, parts(1), [])
    other.delete_partitions([1])
    with pytest.raises(VersionConflict):
        strategy.plan_partitions(state, term, parts(2), [])
    assert strategy.planned_intervals() == []


def test_a_deletion_whose_reply_was_lost_is_done_once(backend: Any, strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 2))
    backend.lose_reply(strategy, 1)
    assert strategy.delete_partitions([1]) == []
    assert ids(strategy.get_all_partitions()) == [2]
    sound(strategy)


def test_a_claim_and_a_deletion_at_once_leave_one_of_them_the_winner(backend: Any, strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(*range(1, 101)))
    taken: List[int] = []
    kept: List[int] = []

    def claim() -> None:
        mine = backend.new_strategy()
        for _ in range(25):
            taken.extend(ids(mine.claim_partitions("w", 2)))

    def delete() -> None:
        mine = backend.new_strategy()
        for i in range(100, 0, -2):
            kept.extend(mine.delete_partitions([i, i - 1]))

    threads = [threading.Thread(target=claim), threading.Thread(target=delete)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left = strategy.get_all_partitions()
    assert ids(left) == sorted(kept) == sorted(taken)
    assert all(p.status is RUNNING for p in left)
    sound(strategy)


def overtaken(strategy: Any, act: Any) -> None:
    """Let *act* happen between the reading for a deletion and its first step."""
    send, calls = strategy._delete, []

    def slow(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 1:
            act()
        return send(*args)

    strategy._delete = slow


def test_what_was_claimed_since_it_was_read_is_not_deleted(strategy: Any, other: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 2))
    overtaken(strategy, lambda: other.claim_partitions("w"))
    assert strategy.delete_partitions([1]) == [1]
    assert strategy.get_partition(1).status is RUNNING
    sound(strategy)


def test_a_deletion_made_from_an_older_plan_is_made_anew(strategy: Any, other: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 2, 3))
    overtaken(strategy, lambda: other.create_partitions_if_not_exist(parts(4)))
    assert strategy.delete_partitions([2]) == []
    assert strategy.planned_intervals() == [(10, 19), (30, 49)]
    sound(strategy)


def test_intervals_that_were_changed_by_hand_are_refused_and_nothing_is_deleted(hash_backend: Any) -> None:
    strategy, before = hash_backend.new_strategy(), []
    strategy.create_partitions_if_not_exist(parts(1, 2, 3))

    def by_hand() -> None:
        hash_backend.raw.delete(hash_backend.key("planned"))
        before.append(hash_backend.dump())

    overtaken(strategy, by_hand)
    with pytest.raises(StoreError, match="elk verify"):
        strategy.delete_partitions([2])
    assert before == [hash_backend.dump()]


def test_intervals_that_were_changed_by_hand_are_refused_and_nothing_is_written(hash_backend: Any) -> None:
    strategy = hash_backend.new_strategy()
    term = strategy.store.acquire_lock("leader", "leader-1", 60.0, 0)
    state = strategy.plan_partitions(strategy.plan_state(), term, parts(1), [])
    hash_backend.raw.delete(hash_backend.key("planned"))
    before = hash_backend.dump()
    with pytest.raises(StoreError, match="elk verify"):
        strategy.plan_partitions(state, term, parts(2), [])
    assert hash_backend.dump() == before


# -- the leader's plan -------------------------------------------------------------------------------------------------


@pytest.fixture
def term(strategy: Any) -> int:
    """Make this strategy's process the leader."""
    token: Optional[int] = strategy.store.acquire_lock("leader", "leader-1", 60.0, 0)
    assert token is not None
    return token


def test_a_plan_starts_empty_and_follows_what_is_planned(strategy: Any, other: Any, term: int) -> None:
    state = strategy.plan_state()
    assert (state.version, state.last, state.last_id, state.max_partition_id) == (0, None, None, 0)
    assert (state.pending, state.held) == (0, 0)
    state = strategy.plan_partitions(state, term, parts(1, 2, 4), [(30, 39)])
    assert state == other.plan_state()
    assert (state.last, state.last_id, state.max_partition_id, state.pending) == ((10, 49), 49, 4, 3)
    other.claim_partitions("w", 2)
    state = strategy.plan_state()
    assert (state.pending, state.held) == (1, 2)
    state = strategy.plan_partitions(state, term, parts(6), [])
    assert state == other.plan_state() and state.last == (60, 69)
    assert strategy.planned_intervals() == [(10, 49), (60, 69)]
    assert strategy.skipped_intervals() == [(30, 39)]
    sound(strategy)


def test_skipped_ranges_are_planned_and_nobody_else_creates_there(strategy: Any, other: Any, term: int) -> None:
    strategy.plan_partitions(strategy.plan_state(), term, [], [(1, 10**12)])
    assert strategy.planned_intervals() == strategy.skipped_intervals() == [(1, 10**12)]
    with pytest.raises(RangeConflict):
        other.create_partitions_if_not_exist([CreatePartition(1, 500, 600)])
    stats = strategy.get_partition_stats()
    assert (stats.total, stats.last_allocated_id) == (0, 10**12)
    sound(strategy)


def test_a_plan_made_from_an_older_state_is_refused(strategy: Any, other: Any, term: int) -> None:
    old = strategy.plan_state()
    other.create_partitions_if_not_exist(parts(1))
    for partitions, skipped in ((parts(5), []), ([], [(500, 600)]), (parts(1), [])):
        with pytest.raises(VersionConflict):
            strategy.plan_partitions(old, term, partitions, skipped)
    assert ids(strategy.get_all_partitions()) == [1]
    assert strategy.skipped_intervals() == []
    sound(strategy)


def test_the_plan_of_a_leader_whose_term_is_over_is_refused(clock: Any, strategy: Any, other: Any, term: int) -> None:
    state = strategy.plan_state()
    clock.advance(60.0)
    assert other.store.acquire_lock("leader", "leader-2", 60.0, 0) is not None
    with pytest.raises(LeaseLost):
        strategy.plan_partitions(state, term, parts(1), [])
    with pytest.raises(LeaseLost):
        strategy.plan_partitions(state, 0, parts(1), [])
    assert strategy.planned_intervals() == []


def test_a_leader_that_stepped_down_plans_no_more(strategy: Any, term: int) -> None:
    state = strategy.plan_state()
    strategy.store.release_lock("leader", term)
    with pytest.raises(LeaseLost):
        strategy.plan_partitions(state, term, parts(1), [])
    assert strategy.note_round(term, 5, None, 0.0) is False


def test_once_a_later_leader_has_planned_an_earlier_one_is_refused(
    strategy: Any, other: Any, term: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy.store.release_lock("leader", term)
    later = other.store.acquire_lock("leader", "leader-2", 60.0, 0)
    other.plan_partitions(other.plan_state(), later, parts(1), [])
    # SIMPLE looks at the lock beside the document: as if it had done so just before the lock changed hands.
    monkeypatch.setattr(strategy, "leads", lambda term: True, raising=False)
    with pytest.raises(LeaseLost):
        strategy.plan_partitions(strategy.plan_state(), term, parts(2), [])
    assert strategy.planned_intervals() == [(10, 19)]


def test_two_leaders_cannot_plan_the_same_ids_twice(clock: Any, strategy: Any, other: Any, term: int) -> None:
    """Pause, elect, resume in the middle of a plan."""
    state = strategy.plan_partitions(strategy.plan_state(), term, parts(1), [])
    clock.advance(60.0)
    second = other.store.acquire_lock("leader", "leader-2", 60.0, 0)
    theirs = other.plan_partitions(other.plan_state(), second, parts(2), [(30, 39)])
    with pytest.raises((LeaseLost, VersionConflict)):
        strategy.plan_partitions(state, term, parts(2), [])
    assert other.plan_state() == theirs
    assert ids(strategy.get_all_partitions()) == [1, 2]
    sound(strategy)


def test_a_plan_behind_the_last_planned_id_only(strategy: Any, term: int) -> None:
    state = strategy.plan_partitions(strategy.plan_state(), term, parts(3), [])
    for partitions, skipped in ((parts(1), []), ([], [(1, 5)]), ([CreatePartition(9, 39, 50)], [])):
        with pytest.raises(IllegalTransition):
            strategy.plan_partitions(state, term, partitions, skipped)


def test_a_leader_that_repeats_a_plan_whose_reply_was_lost_gets_its_answer(
    backend: Any, strategy: Any, term: int
) -> None:
    backend.lose_reply(strategy, 1)
    state = strategy.plan_partitions(strategy.plan_state(), term, parts(1, 2), [])
    assert state == strategy.plan_state()
    assert ids(strategy.get_all_partitions()) == [1, 2]


def test_versions_of_the_plan_rise_and_never_repeat(backend: Any, clock: Any, strategy: Any, other: Any) -> None:
    seen = []
    for i in range(1, 9):
        (other if i % 2 else strategy).create_partitions_if_not_exist(parts(i))
        seen.append(strategy.plan_state().version)
        if i % 3 == 0:
            clock.advance(TICK)
            backend.lose_data()
    assert seen == sorted(set(seen))


def test_workers_that_run_low_leave_a_mark_until_the_leaders_next_round(strategy: Any, other: Any, term: int) -> None:
    assert strategy.note_round(term, 2, None, 0.0)
    strategy.create_partitions_if_not_exist(parts(*range(1, 7)))
    turn(other, free=1)
    assert not strategy.sweep(term=term).hungry, "five are left, above the low water"
    turn(other, free=4)
    assert other.sweep().hungry and not other.sweep().asked, "a worker may look, and clears nothing"
    seen = strategy.sweep(term=term)
    assert seen.hungry and not seen.asked and (seen.pending, seen.held) == (1, 5)
    assert strategy.sweep(term=term).hungry, "a round that failed before it looked has answered nobody"
    strategy.plan_state()
    assert strategy.sweep(term=term).hungry, "nor has a look by anybody else"
    strategy.plan_state(calls_heard=True)
    assert not strategy.sweep(term=term).hungry
    turn(other, free=5)
    assert strategy.sweep(term=term).hungry


def test_only_the_leader_of_the_term_clears_the_marks(strategy: Any, other: Any, term: int) -> None:
    other.ask_for_round()
    assert strategy.sweep(term=term - 1).asked
    assert strategy.sweep(term=term).asked
    assert not strategy.sweep(term=term).asked


def test_idleness_is_what_a_full_round_found_about_the_present_plan(clock: Any, strategy: Any, term: int) -> None:
    idle = strategy.idle_state()
    assert (idle.now, idle.open, idle.exhausted) == (clock.seconds, 0, False)
    strategy.create_partitions_if_not_exist(parts(1, 2, 3))
    clock.advance(1.0)
    began = strategy.plan_state()
    assert began.now == clock.seconds
    clock.advance(1.0)
    assert strategy.note_round(term, 0, began.version, began.now)
    idle = strategy.idle_state()
    assert (idle.open, idle.exhausted, idle.exhausted_at) == (3, True, began.now), "when it began, not when it ended"
    one, two, three = strategy.claim_partitions("w", 3)
    assert strategy.idle_state().open == 3
    report(strategy, one, Outcome.COMPLETED)
    report(strategy, two, Outcome.PERMANENT)
    report(strategy, three, Outcome.ERROR, delay=60.0)
    assert strategy.idle_state().open == 1, "what waits for a retry is open"
    strategy.create_partitions_if_not_exist(parts(4))
    assert not strategy.idle_state().exhausted, "the plan moved on"
    assert strategy.note_round(term - 1, 0, 1, 0.0) is False
