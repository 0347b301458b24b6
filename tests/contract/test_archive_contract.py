"""What the archive must bear, on every strategy: nobody sees that completed partitions were compressed."""

from __future__ import annotations

import logging
import random
from typing import Any, List, Optional, Sequence

import pytest

from elk_coordinator.admin.service import AdminService
from elk_coordinator.errors import (
    IllegalTransition,
    LeaseLost,
    PartitionNotFound,
    RangeConflict,
    StoreError,
    StoreUnavailable,
)
from elk_coordinator.leader.archiver import AGE, Archiver
from elk_coordinator.leader.commands import Commands
from elk_coordinator.model import CreatePartition, Outcome, Partition, PartitionFilter, Report, StrategyType
from elk_coordinator.partition.archive_codec import BUCKET
from elk_coordinator.partition.audit import verify
from elk_coordinator.partition.factory import command_store, create_strategy
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.store.memory_store import MemoryDataStore
from elk_coordinator.testing import ManualClock
from tests.archive_data import record_of, simulated
from tests.contract.kit import COMPLETED, claim_one, ids, parts, report, sound

LOGGER = logging.getLogger("elk_coordinator")


def lead(strategy: Any, ttl: float = 3600.0) -> int:
    """Become the leader; return the term."""
    term = strategy.store.acquire_lock("leader", "w", ttl, 0)
    assert term
    return int(term)


def archiver(strategy: Any, term: Optional[int], age: float = 0.0, keep: Optional[int] = None) -> Archiver:
    role = Archiver(strategy, lambda: term, keep, ManualClock(), LOGGER)
    role.age = age
    return role


def run(role: Archiver) -> None:
    """Do turns until nothing is left to do."""
    for _ in range(1000):
        if not role.run_once():
            return
    raise AssertionError("it never ends")


def archive(strategy: Any, term: int, **options: Any) -> None:
    run(archiver(strategy, term, **options))


def complete(strategy: Any, wanted: Sequence[CreatePartition], worker: str = "w", seed: int = 1) -> List[Partition]:
    """Create partitions and complete them, out of order; return them as they are afterwards."""
    strategy.create_partitions_if_not_exist(wanted)
    chance = random.Random(seed)
    done: List[int] = []
    while True:
        claims = strategy.claim_partitions(worker, 100)
        if not claims:
            break
        chance.shuffle(claims)
        reports = [Report(c.partition_id, c.fencing_token, Outcome.COMPLETED, chance.randrange(9)) for c in claims]
        assert not any(result.refused for result in strategy.report_partitions(worker, reports))
        done += ids(claims)
    out = {}
    for start in range(0, len(done), 500):
        out.update(strategy.read(done[start : start + 500]))
    return [out[i] for i in sorted(out)]


def archived(strategy: Any) -> List[int]:
    return sorted(strategy.archived_ids())


def damage(backend: Any, strategy: Any, bucket: int) -> None:
    """Flip a bit of a chunk behind everybody's back."""
    if backend.strategy_type is StrategyType.HASH:
        name = "%014d" % bucket
        blob = bytearray(backend.raw.hget(backend.key("archive"), name))
        blob[len(blob) // 2] ^= 4
        backend.raw.hset(backend.key("archive"), name, bytes(blob))
    else:
        name = "chunk-" + strategy.look().chunks[bucket].split(" ")[0].replace(":", "-")
        value = strategy.store.get(name)
        blob = bytearray(value.data)
        blob[len(blob) // 2] ^= 4
        assert strategy.store.compare_and_set(name, value.version, bytes(blob))


# -- nobody sees it ----------------------------------------------------------------------------------------------------


def test_archived_partitions_read_as_before(clock: Any, strategy: Any, other: Any) -> None:
    edge = 2**63
    wanted = [
        CreatePartition(1, -edge + 1, -edge + 5, 7, {"name": "\u2603", "deep": {"a": [1, None, 2.5]}}),
        CreatePartition(2, edge - 9, edge - 1, -1000),
        CreatePartition(2**53 - 1, -(2**40), 0),
        *parts(*range(100, 160)),
    ]
    before = complete(strategy, wanted, worker="worker-1")
    strategy.create_partitions_if_not_exist([CreatePartition(50, 2**60, 2**60 + 1)])
    stats = strategy.get_partition_stats()
    clock.advance(1.0)
    archive(strategy, lead(strategy))
    assert archived(strategy) == ids(before)
    for reader in (strategy, other):
        assert [reader.get_partition(p.partition_id) for p in before] == before
        assert reader.get_filtered_partitions(PartitionFilter(statuses=[COMPLETED])) == before
        assert ids(reader.get_all_partitions()) == sorted([*ids(before), 50])
        assert ids(reader.get_all_active_partitions()) == [50]
        assert reader.get_partition_stats() == stats
    assert ids(strategy.get_filtered_partitions(PartitionFilter(statuses=[COMPLETED], worker_id="x"))) == []
    sound(strategy)


def test_pages_run_through_archived_recent_and_active_ones_in_order(clock: Any, strategy: Any) -> None:
    term = lead(strategy)
    complete(strategy, parts(1, 4, 7, BUCKET - 1, BUCKET, BUCKET + 5, 3 * BUCKET))
    clock.advance(1.0)
    archive(strategy, term)
    complete(strategy, parts(2, 5, BUCKET + 1))
    strategy.create_partitions_if_not_exist(parts(3, 6, BUCKET + 2, 4 * BUCKET))
    every = [1, 2, 3, 4, 5, 6, 7, BUCKET - 1, BUCKET, BUCKET + 1, BUCKET + 2, BUCKET + 5, 3 * BUCKET, 4 * BUCKET]
    for size in (1, 3, 100):
        seen: List[int] = []
        after = None
        while True:
            page = ids(
                strategy.get_filtered_partitions(PartitionFilter(include_archived=True, limit=size, after=after))
            )
            if not page:
                break
            seen += page
            after = page[-1]
        assert seen == every
    wanted = PartitionFilter(
        statuses=[COMPLETED], min_partition_id=4, max_partition_id=BUCKET + 1, exclude_ids=[5, BUCKET]
    )
    assert ids(strategy.get_filtered_partitions(wanted)) == [4, 7, BUCKET - 1, BUCKET + 1]


def test_only_what_is_old_enough_is_archived_and_later_ones_join_their_chunk(clock: Any, strategy: Any) -> None:
    term = lead(strategy)
    first = complete(strategy, parts(1, 2, 5))
    clock.advance(AGE - 1.0)
    second = complete(strategy, parts(3, 4, 900, BUCKET + 1))
    archive(strategy, term, age=AGE)
    assert archived(strategy) == []
    clock.advance(2.0)
    archive(strategy, term, age=AGE)
    assert archived(strategy) == [1, 2, 5]
    clock.advance(AGE)
    archive(strategy, term, age=AGE)
    assert archived(strategy) == [1, 2, 3, 4, 5, 900, BUCKET + 1]
    assert strategy.get_all_partitions() == sorted(first + second, key=lambda p: p.partition_id)
    sound(strategy)


def test_thousands_that_end_out_of_order(clock: Any, strategy: Any) -> None:
    term = lead(strategy)
    before = complete(strategy, parts(*range(1, 2301)))
    clock.advance(1.0)
    archive(strategy, term)
    assert archived(strategy) == list(range(1, 2301))
    assert strategy.get_all_partitions() == before
    sound(strategy)


def test_moves_on_an_archived_partition(clock: Any, strategy: Any) -> None:
    complete(strategy, parts(1, 2))
    clock.advance(1.0)
    archive(strategy, lead(strategy))
    assert strategy.create_partitions_if_not_exist(parts(1, 2)) == []
    with pytest.raises(RangeConflict, match="conflicts with"):
        strategy.create_partitions_if_not_exist([CreatePartition(1, 500, 600)])
    assert strategy.acquire_partition(1, "w") is None
    assert strategy.acquire_partition(1, "w", force=True) is None
    with pytest.raises(IllegalTransition):
        strategy.update_partition(strategy.get_partition(2))
    sound(strategy)


def test_a_repeated_report_of_an_archived_completion_gets_its_first_answer(clock: Any, strategy: Any) -> None:
    claim = claim_one(strategy)
    report(strategy, claim, Outcome.COMPLETED)
    clock.advance(1.0)
    archive(strategy, lead(strategy))
    assert report(strategy, claim, Outcome.COMPLETED).status is COMPLETED
    assert report(strategy, claim, Outcome.RELEASED).refused
    wrong = Report(1, claim.fencing_token - 1, Outcome.COMPLETED)
    assert strategy.report_partitions("w", [wrong])[0].refused
    sound(strategy)


# -- deleting ----------------------------------------------------------------------------------------------------------


def test_deleting_archived_partitions_leaves_gaps_that_can_be_filled(clock: Any, strategy: Any, other: Any) -> None:
    term = lead(strategy)
    complete(strategy, parts(*range(1, 11)))
    clock.advance(1.0)
    archive(strategy, term)
    complete(strategy, parts(11))
    strategy.create_partitions_if_not_exist(parts(12, 13))
    (held,) = strategy.claim_partitions("w")
    assert other.delete_partitions([2, 3, 11, 12, 13, 999]) == [12]
    assert held.partition_id == 12
    for i in (2, 3, 11, 13):
        with pytest.raises(PartitionNotFound):
            strategy.get_partition(i)
    assert strategy.planned_intervals() == [(10, 19), (40, 109), (120, 129)]
    sound(strategy)
    assert ids(strategy.create_partitions_if_not_exist([CreatePartition(2, 20, 39)])) == [2]
    report(strategy, held, Outcome.COMPLETED)
    complete(strategy, [])
    clock.advance(1.0)
    archive(strategy, term)
    assert strategy.get_partition(2).max_id == 39
    assert archived(strategy) == [1, 2, 4, 5, 6, 7, 8, 9, 10, 12]
    sound(strategy)
    strategy.delete_partitions(range(1, 20))
    assert strategy.get_all_partitions() == [] and strategy.planned_intervals() == []
    assert archived(strategy) == [] and strategy.get_partition_stats().total == 0
    sound(strategy)


def test_a_partition_that_moves_to_its_chunk_while_it_is_deleted_is_deleted_there(
    clock: Any, strategy: Any, other: Any
) -> None:
    delete_while_archiving(clock, strategy, other)
    assert ids(strategy.get_all_partitions()) == [1, 3]
    sound(strategy)


def test_control_a_delete_that_does_not_look_again_loses_track(hash_backend: Any) -> None:
    stopped = hash_backend.stop_time()
    strategy, other = hash_backend.new_strategy(), hash_backend.new_strategy()
    hash_backend.mutate("partition/delete", "if not specs[i] and not done[i] then return {0, ARGV[1]} end", "")
    delete_while_archiving(stopped, strategy, other)
    assert ids(strategy.get_all_partitions()) == [1, 2, 3]
    assert verify(strategy).problems


def delete_while_archiving(clock: Any, strategy: Any, other: Any, term: int = 0) -> None:
    if not term:
        term = lead(strategy)
        complete(strategy, parts(1, 2, 3))
    clock.advance(1.0)
    send, calls = strategy._delete, []

    def slow(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 1:
            archive(other, term)
        return send(*args)

    strategy._delete = slow
    assert strategy.delete_partitions([2]) == []


def test_a_chunk_that_was_written_anew_meanwhile_is_not_overwritten_by_a_deletion(
    clock: Any, strategy: Any, other: Any
) -> None:
    term = lead(strategy)
    complete(strategy, parts(1, 2, 3))
    clock.advance(1.0)
    archive(strategy, term)
    complete(strategy, parts(4))
    # Between the reading for the deletion and its step 4 joins the chunk that 2 is in.
    delete_while_archiving(clock, strategy, other, term)
    assert archived(strategy) == [1, 3, 4]
    sound(strategy)


# -- the swap ----------------------------------------------------------------------------------------------------------


def between(strategy: Any, act: Any) -> List[Any]:
    """Let *act* happen between a leader's reading and its first swap; return the answers of swaps."""
    send, answers = strategy._archive_swap, []

    def late(*args: Any, **options: Any) -> Any:
        if not answers:
            answers.append(None)
            act()
            answers.clear()
        answers.append(send(*args, **options))
        return answers[-1]

    strategy._archive_swap = late
    return answers


def test_a_leader_whose_term_is_over_archives_nothing(clock: Any, strategy: Any, other: Any) -> None:
    late_leader(clock, strategy, other)
    assert archived(strategy) == []
    sound(strategy)


def test_control_a_swap_that_does_not_check_the_term_goes_through(hash_backend: Any) -> None:
    stopped = hash_backend.stop_time()
    strategy, other = hash_backend.new_strategy(), hash_backend.new_strategy()
    hash_backend.mutate("partition/archive_swap", "if term ~= ARGV[1] then return {-2, term or '0'} end", "")
    late_leader(stopped, strategy, other)
    assert archived(strategy) == [1, 2, 3]


def late_leader(clock: Any, strategy: Any, other: Any) -> None:
    complete(strategy, parts(1, 2, 3))
    clock.advance(1.0)
    term = lead(strategy, ttl=1.0)
    role = archiver(strategy, term)
    assert role.run_once()
    clock.advance(5.0)
    lead(other)
    run(role)
    page = other.due_page("0", 0.0)
    try:
        strategy.archive_page(term, 0, page.now)
    except LeaseLost:
        assert archived(strategy) == []
    with pytest.raises(LeaseLost):
        strategy.plan_partitions(strategy.plan_state(), term, [], [])


def deleted_and_done_again(clock: Any, strategy: Any, other: Any) -> List[Any]:
    term = lead(strategy)
    complete(strategy, parts(1, 2, 3))
    clock.advance(1.0)

    def act() -> None:
        other.delete_partitions([2])
        complete(other, [CreatePartition(2, 22, 25)])

    answers = between(strategy, act)
    role = archiver(strategy, term)
    assert role.run_once() and role.run_once()
    return answers


def test_a_record_that_changed_since_it_was_read_stays(clock: Any, strategy: Any, other: Any) -> None:
    assert deleted_and_done_again(clock, strategy, other) == [False]
    assert archived(strategy) == []
    assert strategy.get_partition(2).min_id == 22
    sound(strategy)
    clock.advance(1.0)
    archive(strategy, strategy.store.read_lock("leader")[1])
    assert archived(strategy) == [1, 2, 3] and strategy.get_partition(2).min_id == 22
    sound(strategy)


def test_control_a_swap_that_does_not_check_versions_brings_back_the_old_record(hash_backend: Any) -> None:
    stopped = hash_backend.stop_time()
    strategy, other = hash_backend.new_strategy(), hash_backend.new_strategy()
    hash_backend.mutate("partition/archive_swap", "if version ~= ARGV[at + i * 2 - 1] then return {0} end", "")
    assert deleted_and_done_again(stopped, strategy, other) == [True]
    assert strategy.get_partition(2).min_id == 20
    assert verify(strategy).problems


def test_a_partition_deleted_since_it_was_read_is_not_archived(clock: Any, strategy: Any, other: Any) -> None:
    term = lead(strategy)
    complete(strategy, parts(1, 2, 3))
    clock.advance(1.0)
    answers = between(strategy, lambda: other.delete_partitions([2]))
    archive(strategy, term)
    assert answers == [False]
    archive(strategy, term)
    assert archived(strategy) == [1, 3]
    sound(strategy)


def two_writers(clock: Any, strategy: Any, other: Any) -> List[Any]:
    term = lead(strategy)
    complete(strategy, parts(1, 2, 3))
    clock.advance(1.0)
    archive(strategy, term)
    complete(strategy, parts(4))
    clock.advance(1.0)
    answers = between(strategy, lambda: other.delete_partitions([1, 2]))
    archive(strategy, term)
    return answers


def test_a_chunk_that_changed_since_it_was_read_is_not_overwritten(clock: Any, strategy: Any, other: Any) -> None:
    assert two_writers(clock, strategy, other) == [False]
    assert ids(strategy.get_all_partitions()) == [3, 4]
    sound(strategy)


def test_control_a_swap_that_does_not_check_the_chunk_brings_back_deleted_ones(hash_backend: Any) -> None:
    stopped = hash_backend.stop_time()
    strategy, other = hash_backend.new_strategy(), hash_backend.new_strategy()
    hash_backend.mutate("partition/archive_swap", "if line ~= ARGV[3] then", "if false then")
    assert two_writers(stopped, strategy, other) == [True]
    assert verify(strategy).problems


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_lost_reply_archives_nothing_twice(clock: Any, backend: Any, strategy: Any, nth: int) -> None:
    term = lead(strategy)
    before = complete(strategy, parts(1, 2, 700, BUCKET + 3))
    clock.advance(1.0)
    backend.lose_reply(strategy, nth)
    archive(strategy, term)
    archive(strategy, term)
    assert archived(strategy) == ids(before)
    assert strategy.get_all_partitions() == before
    sound(strategy)


@pytest.mark.parametrize("nth", [1, 2])
def test_a_swap_whose_reply_was_lost_is_known_to_be_done(clock: Any, backend: Any, strategy: Any, nth: int) -> None:
    term = lead(strategy)
    complete(strategy, parts(1, 2, 700))
    clock.advance(1.0)
    answers = between(strategy, lambda: None)
    backend.lose_reply(strategy, nth)
    archive(strategy, term)
    assert answers == [True, True]
    sound(strategy)


def test_nothing_is_dropped_for_a_chunk_that_could_not_be_written(namespace: str) -> None:
    strategy = create_strategy(StrategyType.SIMPLE, namespace, MemoryDataStore())
    term, before = lead(strategy), complete(strategy, parts(1, 2, 3))
    write = strategy.store.compare_and_set

    def full(name: str, *args: Any) -> Any:
        if name.startswith("chunk-"):
            raise StoreUnavailable("no room")
        return write(name, *args)

    strategy.store.compare_and_set = full  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable, match="nothing was changed"):
        archive(strategy, term)
    assert strategy.get_all_partitions() == before
    sound(strategy)


# -- archive_keep ------------------------------------------------------------------------------------------------------


def test_only_the_newest_details_are_kept_and_coverage_stays(clock: Any, strategy: Any, other: Any) -> None:
    term = lead(strategy)
    for number in (5, 1, 4, 2, BUCKET + 1, 3):
        complete(strategy, parts(number))
        clock.advance(1.0)
    strategy.create_partitions_if_not_exist(parts(6))
    planned = strategy.planned_intervals()
    archive(strategy, term, keep=2)
    assert ids(strategy.get_all_partitions()) == [3, 6, BUCKET + 1]
    stats = other.get_partition_stats()
    assert (stats.total, stats.completed, stats.pruned, stats.pending) == (7, 6, 4, 1)
    assert strategy.planned_intervals() == planned
    assert strategy.pruned_intervals() == [(10, 29), (40, 59)]
    sound_but_pruned(strategy)
    with pytest.raises(PartitionNotFound):
        strategy.get_partition(1)
    for again in (parts(1), [CreatePartition(99, 12, 13)]):
        with pytest.raises(RangeConflict):
            other.create_partitions_if_not_exist(again)
    complete(strategy, [])
    clock.advance(1.0)
    archive(strategy, term, keep=2)
    archive(strategy, term, keep=2)
    assert ids(strategy.get_all_partitions()) == [3, 6]
    archive(strategy, term, keep=0)
    assert strategy.get_all_partitions() == [] and archived(strategy) == []
    assert strategy.get_partition_stats().pruned == strategy.get_partition_stats().total == 7
    assert strategy.pruned_intervals() == planned
    sound_but_pruned(strategy)


def sound_but_pruned(strategy: Any) -> None:
    assert verify(strategy).problems == []


def test_thousands_are_dropped_in_bounded_steps(clock: Any, strategy: Any) -> None:
    term = lead(strategy)
    before = complete(strategy, parts(*range(1, 1501)))
    clock.advance(1.0)
    newest = sorted(before, key=lambda p: (p.version, p.partition_id))[-20:]
    archive(strategy, term, keep=20)
    left = strategy.get_all_partitions()
    # Versions are equal within one report; among equals the higher ids count as newer.
    assert sorted(left, key=lambda p: (p.version, p.partition_id)) == newest
    assert strategy.get_partition_stats().pruned == 1480
    assert strategy.planned_intervals() == [(10, 15009)]
    sound_but_pruned(strategy)


def test_dropping_what_ended_in_no_order_rewrites_a_chunk_for_many_at_once(clock: Any, strategy: Any) -> None:
    term = lead(strategy)
    # Four chunks of 400, completed in turns of ten.
    groups = [[bucket * BUCKET + i for i in range(1, 401)] for bucket in range(4)]
    for start in range(0, 400, 10):
        for group in groups:
            strategy.create_partitions_if_not_exist(parts(*group[start : start + 10]))
            claims = strategy.claim_partitions("w", 10)
            strategy.report_partitions(
                "w", [Report(c.partition_id, c.fencing_token, Outcome.COMPLETED) for c in claims]
            )
            clock.advance(0.001)
    clock.advance(1.0)
    archive(strategy, term)
    before = strategy.get_all_partitions()
    newest = sorted(before, key=lambda p: (p.version, p.partition_id))[-200:]
    swaps, swap = [], strategy._archive_swap
    strategy._archive_swap = lambda *args: swaps.append(args) or swap(*args)
    archive(strategy, term, keep=200)
    assert ids(strategy.get_all_partitions()) == sorted(ids(newest))
    assert len(swaps) == 4, "each chunk was written once"
    sound_but_pruned(strategy)


@pytest.mark.parametrize("opened", [1, 2])
def test_dropping_opens_few_chunks_at_once(clock: Any, strategy: Any, monkeypatch: Any, opened: int) -> None:
    monkeypatch.setattr("elk_coordinator.partition.archive._OPENED", opened)
    term = lead(strategy)
    complete(strategy, parts(*(bucket * BUCKET + i for bucket in range(6) for i in range(1, 11))))
    clock.advance(1.0)
    archive(strategy, term)
    looks, look = [], strategy._archive_chunks
    strategy._archive_chunks = lambda buckets: looks.append(buckets) or look(buckets)
    assert strategy.prune(term, 5) == 10 * opened and len(looks) == opened
    archive(strategy, term, keep=5)
    assert len(strategy.get_all_partitions()) == 5
    sound_but_pruned(strategy)


def test_a_pruned_range_that_is_planned_no_more_is_named(hash_backend: Any) -> None:
    stopped = hash_backend.stop_time()
    strategy = hash_backend.new_strategy()
    term = lead(strategy)
    complete(strategy, parts(1, 2))
    stopped.advance(1.0)
    archive(strategy, term, keep=0)
    hash_backend.raw.delete(hash_backend.key("pruned"))
    assert any("planned but held by no partition" in text for text in verify(strategy).problems)


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_a_lost_reply_prunes_nothing_twice(clock: Any, backend: Any, strategy: Any, nth: int) -> None:
    term = lead(strategy)
    complete(strategy, parts(*range(1, 9), BUCKET + 1))
    clock.advance(1.0)
    archive(strategy, term)
    backend.lose_reply(strategy, nth)
    archive(strategy, term, keep=3)
    assert len(strategy.get_all_partitions()) == 3
    assert strategy.get_partition_stats().pruned == 6
    sound_but_pruned(strategy)


@pytest.mark.parametrize("kind", ["cancel", "release"])
def test_commands_on_archived_partitions_say_that_they_are_completed(clock: Any, strategy: Any, kind: str) -> None:
    term = lead(strategy)
    before = complete(strategy, parts(1, 2))
    clock.advance(1.0)
    archive(strategy, term)
    admin, role = AdminService(strategy, "eve"), Commands(command_store(strategy), lambda: term, Clock(), LOGGER, 30.0)
    names = [admin.submit(kind, {"id": i}) for i in (1, 99)]
    named = admin.retry_failed([1, 2, 99])
    raised = admin.set_priority([2], 5)
    while role.run_once() is not None:
        pass
    told = [admin.wait(name, 0.0) for name in (*names, named, raised)]
    assert [(status.state, status.done) for status in told] == [("done", 0)] * 4
    assert [status.result.get("outcome") for status in told[:2]] == ["unchanged:completed", "unknown"]
    assert [status.result["skipped"] for status in told] == [[1], [99], [1, 2, 99], [2]]
    assert strategy.get_all_partitions() == before
    sound(strategy)


# -- damage ------------------------------------------------------------------------------------------------------------


def test_a_damaged_chunk_is_named_and_the_others_remain_readable(
    clock: Any, backend: Any, strategy: Any, other: Any, caplog: Any
) -> None:
    term = lead(strategy)
    before = complete(strategy, parts(1, 2, BUCKET + 1, BUCKET + 2))
    clock.advance(1.0)
    archive(strategy, term)
    damage(backend, strategy, 0)
    name = r"archive chunk 0 \(partitions 0 to %d\) is damaged" % (BUCKET - 1)
    for reader in (strategy, other):
        with pytest.raises(StoreError, match=name):
            reader.get_partition(1)
        with pytest.raises(StoreError, match=name):
            reader.get_all_partitions()
        with pytest.raises(StoreError, match=name):
            reader.delete_partitions([1])
        # Whatever the filter says, as long as it may be in there: a match that cannot be read is not "no match".
        for facts in (
            {"include_archived": True, "limit": 1},
            {"statuses": [COMPLETED]},
            {"statuses": COMPLETED, "worker_id": "x"},
            {"statuses": COMPLETED, "max_partition_id": 1},
            {"statuses": COMPLETED, "exclude_ids": [1, 2]},
        ):
            with pytest.raises(StoreError, match=name):
                reader.get_filtered_partitions(PartitionFilter(**facts))
        for change in (
            lambda reader=reader: reader.acquire_partition(1, "x"),
            lambda reader=reader: reader.create_partitions_if_not_exist(parts(1)),
            lambda reader=reader: reader.update_partition_status(1, "w", COMPLETED),
            lambda reader=reader: reader.update_partition(before[0], upsert=True),
        ):
            with pytest.raises(StoreError, match=name):
                change()
        with pytest.raises(RangeConflict):
            reader.create_partitions_if_not_exist([CreatePartition(9000, before[0].min_id, before[0].min_id)])
        assert reader.get_partition(BUCKET + 1) == before[2]
        assert reader.get_filtered_partitions(PartitionFilter(include_archived=True, after=BUCKET)) == before[2:]
        assert sum("archive chunk 0 (partitions 0" in text for text in verify(reader).problems) == 1
    assert strategy.get_partition_stats().completed == 4
    # The leader goes on: what belongs to the damaged chunk stays outside, and the log says so once.
    complete(strategy, parts(3, BUCKET + 3))
    clock.advance(1.0)
    caplog.clear()
    for _ in range(3):
        archive(strategy, term, keep=1)
    assert sum("archive chunk 0" in record.getMessage() for record in caplog.records) == 1
    assert strategy.get_partition(3).status is COMPLETED
    assert strategy.get_partition_stats().completed == 6


@pytest.mark.parametrize(
    "key, what", [("archive", "its bytes are missing"), ("archive_index", "its index line is miss")]
)
def test_half_a_chunk_is_damage(hash_backend: Any, key: str, what: str) -> None:
    stopped = hash_backend.stop_time()
    strategy = hash_backend.new_strategy()
    complete(strategy, parts(1, 2))
    stopped.advance(1.0)
    archive(strategy, lead(strategy))
    hash_backend.raw.delete(hash_backend.key(key))
    with pytest.raises(StoreError, match=what):
        strategy.get_partition(1)
    with pytest.raises(StoreError, match=what):
        strategy.get_all_partitions()
    assert any(what in text for text in verify(strategy).problems)


def test_a_sound_chunk_in_the_wrong_place_is_damage(hash_backend: Any) -> None:
    """Its checksum is right, and it is still not what the index speaks of."""
    stopped = hash_backend.stop_time()
    strategy, chunks = hash_backend.new_strategy(), hash_backend.key("archive")
    term = lead(strategy)
    complete(strategy, parts(1, BUCKET + 1))
    stopped.advance(1.0)
    archive(strategy, term)
    old = hash_backend.raw.hgetall(chunks)
    first, second = sorted(old)
    what = "does not hold what its index line says"
    # Of another bucket, with as many partitions.
    hash_backend.raw.hset(chunks, mapping={first: old[second], second: old[first]})
    for reader in (strategy, hash_backend.new_strategy()):
        for partition_id in (1, BUCKET + 1):
            with pytest.raises(StoreError, match=what):
                reader.get_partition(partition_id)
        with pytest.raises(StoreError, match=what):
            reader.get_all_partitions()
        assert sum(what in text for text in verify(reader).problems) == 2
    # As it was before another partition joined it.
    hash_backend.raw.hset(chunks, mapping=old)
    complete(strategy, parts(2))
    stopped.advance(1.0)
    archive(strategy, term)
    assert ids(strategy.get_all_partitions()) == [1, 2, BUCKET + 1]
    hash_backend.raw.hset(chunks, first, old[first])
    with pytest.raises(StoreError, match=what):
        strategy.get_partition(2)
    with pytest.raises(StoreError, match=what):
        strategy.get_filtered_partitions(PartitionFilter(statuses=COMPLETED))


def test_a_partition_in_two_places_is_named(hash_backend: Any) -> None:
    stopped = hash_backend.stop_time()
    strategy = hash_backend.new_strategy()
    complete(strategy, parts(1, 2))
    record = hash_backend.raw.hget(hash_backend.key("done"), "%014x" % 1)
    stopped.advance(1.0)
    archive(strategy, lead(strategy))
    hash_backend.raw.hset(hash_backend.key("done"), "%014x" % 1, record)
    assert any("more than one of" in text for text in verify(strategy).problems)


# -- cost --------------------------------------------------------------------------------------------------------------


def counted(strategy: Any) -> List[str]:
    """Return a list that the names of all scripts sent from now on are added to."""
    sent: List[str] = []
    call = strategy.store._link.call

    def count(script: Any, keys: Any, args: Any) -> Any:
        sent.append(script.name)
        return call(script, keys, args)

    strategy.store._link.call = count
    return sent


def test_an_idle_archiver_asks_once_a_minute_and_a_follower_never(hash_backend: Any) -> None:
    strategy = hash_backend.new_strategy()
    term = lead(strategy)
    sent = counted(strategy)
    role = Archiver(strategy, lambda: term, 5, ManualClock(), LOGGER)
    assert not role.run_once() and role.pause(False) == 60.0
    assert sent == ["archive_look"]
    role.run_once()
    assert sent == ["archive_look"]
    role._clock.advance(60.0)
    role.run_once()
    assert sent == ["archive_look"] * 2
    follower = Archiver(strategy, lambda: None, 5, ManualClock(), LOGGER)
    assert not follower.run_once() and sent == ["archive_look"] * 2


def test_a_turn_stays_one_round_trip(hash_backend: Any) -> None:
    strategy = hash_backend.new_strategy()
    strategy.create_partitions_if_not_exist(parts(1, 2))
    sent = counted(strategy)
    one, _ = strategy.claim_partitions("w", 2)
    report(strategy, one, Outcome.COMPLETED)
    assert sent == ["work"] * 2


@pytest.mark.timeout(180)
def test_an_archived_partition_takes_at_most_five_bytes(real_backend: Any) -> None:
    strategy = real_backend.new_strategy()
    rows = simulated(50_000, seed=7)
    pipe = real_backend.raw.pipeline(transaction=False)
    for row in rows:
        pipe.hset(real_backend.key("done"), "%014x" % row.partition_id, record_of(row))
    pipe.execute()

    def memory(*names: str) -> int:
        used = (real_backend.raw.memory_usage(real_backend.key(name), samples=0) for name in names)
        return sum(size or 0 for size in used)

    before = memory("done") / len(rows)
    archive(strategy, lead(strategy))
    assert real_backend.raw.exists(real_backend.key("done")) == 0
    after = memory("archive", "archive_index") / len(rows)
    print("bytes per completed partition: %.1f recent, %.2f archived" % (before, after))
    assert after <= 5.0
    for row in random.Random(1).sample(rows, 20):
        assert strategy.get_partition(row.partition_id) == row.partition()
    assert strategy.get_partition_stats().completed == len(rows)
