"""What every PartitionStrategy must answer: partitions, filters, counts, intervals."""

from __future__ import annotations

import random
from typing import Any, Dict, List

import pytest

from elk_coordinator.errors import ConfigError, PartitionNotFound, RangeConflict
from elk_coordinator.model import (
    MAX_BATCH,
    CreatePartition,
    Outcome,
    Partition,
    PartitionFilter,
    PartitionStats,
    PartitionStatus,
    Report,
)
from elk_coordinator.partition import intervals
from tests.contract.kit import (
    COMPLETED,
    FAILED,
    LEASE,
    PENDING,
    RUNNING,
    beat,
    ids,
    parts,
    report,
    sound,
    turn,
)

# -- reading -----------------------------------------------------------------------------------------------------------


def test_an_unknown_partition_is_an_error_that_names_it(strategy: Any) -> None:
    with pytest.raises(PartitionNotFound) as caught:
        strategy.get_partition(77)
    assert caught.value.partition_id == 77 and "77" in str(caught.value)


@pytest.mark.parametrize("partition_id", [0, -1, 2**53, True, "1", 1.0, None])
def test_an_id_that_cannot_be_one_is_refused(strategy: Any, partition_id: Any) -> None:
    with pytest.raises(ConfigError):
        strategy.get_partition(partition_id)


def test_completed_partitions_are_archived_and_found_again(strategy: Any, other: Any) -> None:
    strategy.create_partitions_if_not_exist([CreatePartition(1, 10, 19, 4, {"k": "é"}), *parts(2)])
    (claim,) = strategy.claim_partitions("w")
    report(strategy, claim, Outcome.COMPLETED, processed=9)
    done = other.get_partition(1)
    assert (done.status, done.worker_id, done.priority, done.options) == (COMPLETED, "w", 4, {"k": "é"})
    assert (done.fencing_token, done.processed, done.checkpoint) == (claim.fencing_token, 9, 19)
    assert done.created_at == claim.created_at and done.completed_at == done.updated_at
    assert ids(other.get_all_active_partitions()) == [2]
    assert ids(other.get_all_partitions()) == [1, 2]


def test_a_thousand_completed_partitions_stay_readable_counted_and_planned(strategy: Any, other: Any) -> None:
    """More than any strategy keeps at hand: whatever moves them elsewhere must not lose or change one."""
    strategy.create_partitions_if_not_exist(parts(*range(1, 1001)))
    claims: List[Partition] = []
    for _ in range(10):
        batch = strategy.claim_partitions("w", 100)
        results = strategy.report_partitions(
            "w", [Report(c.partition_id, c.fencing_token, Outcome.COMPLETED, c.partition_id) for c in batch]
        )
        assert not any(result.refused for result in results)
        claims += batch
    everything = other.get_all_partitions()
    assert ids(everything) == list(range(1, 1001))
    tokens = {c.partition_id: c.fencing_token for c in claims}
    assert all(
        p.status is COMPLETED and p.processed == p.partition_id and p.fencing_token == tokens[p.partition_id]
        for p in everything
    )
    assert ids(other.get_filtered_partitions(PartitionFilter(statuses=COMPLETED, after=640, limit=3))) == [
        641,
        642,
        643,
    ]
    stats = other.get_partition_stats()
    assert (stats.total, stats.completed, stats.completion_rate, stats.max_partition_id) == (1000, 1000, 1.0, 1000)
    assert other.create_partitions_if_not_exist(parts(3, 999)) == []
    with pytest.raises(RangeConflict):
        other.create_partitions_if_not_exist([CreatePartition(2000, 35, 36)])
    assert report(other, claims[2], Outcome.COMPLETED).status is COMPLETED, "a repeated report gets its first answer"
    assert report(other, claims[2], Outcome.ERROR).refused
    assert other.acquire_partition(3, "w") is None
    sound(other)
    assert other.delete_partitions([3, 997]) == []
    assert other.get_partition_stats().completed == 998 and len(other.get_all_partitions()) == 998
    with pytest.raises(PartitionNotFound):
        other.get_partition(3)
    assert ids(other.create_partitions_if_not_exist(parts(3))) == [3], "a deleted range may be planned again"
    assert other.get_partition(3).status is PENDING and other.get_partition_stats().total == 999
    (again,) = other.claim_partitions("w")
    assert report(other, again, Outcome.COMPLETED).status is COMPLETED
    other.create_partitions_if_not_exist(parts(*range(1001, 1401)))
    more = other.claim_partitions("w", 400)
    other.report_partitions("w", [Report(c.partition_id, c.fencing_token, Outcome.COMPLETED) for c in more])
    assert other.get_partition(3).fencing_token == again.fencing_token
    assert other.get_partition_stats().completed == 1399
    sound(other)


def crowd(backend: Any, clock: Any) -> Any:
    """Return a strategy over partitions in every state, of several workers and ages."""
    strategy = backend.new_strategy(partition_lock_expiry=1000.0)
    strategy.create_partitions_if_not_exist(parts(*range(1, 31)))
    kinds = [*Outcome, None]  # seven, so that what stays held was partly prefetched (every fourth)
    for i in range(24):
        clock.advance(1.0)
        worker = "w%d" % (i % 3)
        prefetch = int(i % 4 == 0)
        (claim,) = turn(strategy, worker, lease=1000.0, free=1 - prefetch, prefetch=prefetch).granted
        kind = kinds[i % len(kinds)]
        if kind is not None:
            delay = 500.0 if kind in (Outcome.ERROR, Outcome.RELEASED, Outcome.LOST) else 0.0
            report(strategy, claim, kind, worker=worker, delay=delay)
    return strategy


def test_a_filter_finds_exactly_what_it_describes(backend: Any, clock: Any) -> None:
    strategy = crowd(backend, clock)
    everything = strategy.get_all_partitions()
    assert {p.status for p in everything} == set(PartitionStatus)
    now = clock.seconds
    chance = random.Random(5)
    for _ in range(150):
        wanted = PartitionFilter(
            statuses=chance.choice([(), RUNNING, FAILED, COMPLETED, *[chance.sample(list(PartitionStatus), 2)] * 3]),
            worker_id=chance.choice([None, None, None, "w1", "nobody"]),
            exclude_worker_id=chance.choice([None, None, "w1", ""]),
            stale_for=chance.choice([None, None, None, 0.0, 5.0, 12.0, 100.0]),
            min_partition_id=chance.choice([None, None, 5, 14]),
            max_partition_id=chance.choice([None, None, 20, 6]),
            exclude_ids=chance.choice([(), (), (3, 4, 9)]),
            include_archived=chance.choice([False, True]),
            after=chance.choice([None, None, 0, 7]),
            limit=chance.choice([None, None, 1, 3]),
        )
        expected = [p for p in everything if fits(p, wanted, now)][: wanted.limit]
        assert strategy.get_filtered_partitions(wanted) == expected, wanted


def fits(p: Partition, wanted: PartitionFilter, now: float) -> bool:
    """Say in the contract's words whether a partition is wanted."""
    archived = wanted.include_archived or COMPLETED in wanted.statuses
    return (
        (not wanted.statuses or p.status in wanted.statuses)
        and (p.status is not COMPLETED or archived)
        and (wanted.worker_id is None or p.worker_id == wanted.worker_id)
        and (wanted.exclude_worker_id is None or p.worker_id != wanted.exclude_worker_id)
        and (wanted.stale_for is None or (p.last_heartbeat is not None and now - p.last_heartbeat >= wanted.stale_for))
        and (wanted.min_partition_id is None or p.partition_id >= wanted.min_partition_id)
        and (wanted.max_partition_id is None or p.partition_id <= wanted.max_partition_id)
        and p.partition_id not in wanted.exclude_ids
        and (wanted.after is None or p.partition_id > wanted.after)
    )


def test_a_filter_pages_through_everything_once(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(*range(1, 1205)))
    seen: List[int] = []
    while True:
        page = strategy.get_filtered_partitions(PartitionFilter(after=seen[-1] if seen else None, limit=100))
        if not page:
            break
        seen += ids(page)
    assert seen == list(range(1, 1205))


@pytest.mark.parametrize(
    "facts",
    [{"limit": 0}, {"limit": -1}, {"limit": True}, {"stale_for": -1.0}, {"stale_for": float("nan")},
     {"statuses": ["pending"]}, {"statuses": 3}, {"worker_id": 5}, {"exclude_worker_id": b"w"}, {"exclude_ids": 7},
     {"exclude_ids": [0]}, {"after": -1}, {"after": "9"}, {"min_partition_id": 1.0}, {"max_partition_id": False}],
)  # fmt: skip
def test_a_filter_that_makes_no_sense_is_refused(facts: Any) -> None:
    with pytest.raises(ConfigError):
        PartitionFilter(**facts)


def test_stats_of_an_empty_namespace_are_zero(strategy: Any) -> None:
    assert strategy.get_partition_stats() == PartitionStats()


def test_stats_count_every_state_and_rates_are_shares_of_all(backend: Any, clock: Any) -> None:
    strategy = crowd(backend, clock)
    stats = strategy.get_partition_stats()
    counts = dict.fromkeys(PartitionStatus, 0)
    for partition in strategy.get_all_partitions():
        counts[partition.status] += 1
    assert (stats.pending, stats.claimed, stats.running, stats.completed, stats.failed) == tuple(counts.values())
    assert stats.total == 30 and stats.pruned == 0
    assert stats.completion_rate == counts[COMPLETED] / 30
    assert stats.failure_rate == counts[FAILED] / 30
    assert (stats.max_partition_id, stats.last_allocated_id) == (30, 309)
    sound(strategy)


def test_planned_ranges_are_merged_intervals_whatever_the_order_of_creation(strategy: Any) -> None:
    chance = random.Random(3)
    order = chance.sample(range(1, 401), 200)
    for i in range(0, 200, 8):
        strategy.create_partitions_if_not_exist(parts(*order[i : i + 8]))
    expected = intervals.merge((i * 10, i * 10 + 9) for i in order)
    assert strategy.planned_intervals() == expected
    for low, high in ((0, 5000), (100, 100), (1000, 1999), (777, 3333)):
        window = strategy.planned_window(low, high)[1]
        assert window == [item for item in expected if item[1] >= low and item[0] <= high]
    sound(strategy)


def test_more_intervals_than_a_page_holds_are_read_whole(strategy: Any) -> None:
    numbers = range(1, 2401)
    strategy.create_partitions_if_not_exist([CreatePartition(i, i * 2, i * 2) for i in numbers])
    assert strategy.planned_intervals() == [(i * 2, i * 2) for i in numbers]


def test_intervals_of_many_pages_are_of_one_moment(strategy: Any, other: Any) -> None:
    numbers = range(1, 1202)
    strategy.create_partitions_if_not_exist([CreatePartition(i, i * 2, i * 2) for i in numbers])
    page, pages = strategy._interval_page, []

    def moving(which: str, first: Any, limit: int) -> Any:
        pages.append(page(which, first, limit))
        if len(pages) == 1:
            other.delete_partitions([1, 1201])
        return pages[-1]

    strategy._interval_page = moving
    assert strategy.planned_intervals() == [(i * 2, i * 2) for i in numbers[1:-1]]


# -- namespaces and life -----------------------------------------------------------------------------------------------


def test_two_namespaces_in_one_store_never_meet(backend: Any, clock: Any, strategy: Any) -> None:
    foreign = backend.new_strategy(namespace=backend.namespace + ".x", partition_lock_expiry=LEASE)
    strategy.create_partitions_if_not_exist(parts(1))
    foreign.create_partitions_if_not_exist([CreatePartition(1, 5, 25)])
    (mine,) = strategy.claim_partitions("w")
    (theirs,) = foreign.claim_partitions("w")
    beat(foreign, "only-there")
    assert report(strategy, theirs, Outcome.COMPLETED).refused == (theirs.fencing_token != mine.fencing_token)
    assert strategy.workers() == []
    assert foreign.get_partition(1).max_id == 25 and strategy.get_partition(1).max_id == 19
    clock.advance(LEASE)
    assert len(strategy.sweep().reclaimed) == (0 if theirs.fencing_token == mine.fencing_token else 1)
    assert len(foreign.sweep().reclaimed) == 1


def test_a_stopped_strategy_gives_back_what_its_public_methods_claimed_and_nothing_else(
    strategy: Any, other: Any
) -> None:
    strategy.create_partitions_if_not_exist(parts(*range(1, 7)))
    one, two = strategy.claim_partitions("w", 2)
    three = strategy.acquire_partition(3, "another")
    (engine,) = turn(strategy, free=1).granted
    (theirs,) = other.claim_partitions("w")
    report(strategy, two, Outcome.COMPLETED)
    strategy.stop()
    strategy.stop()
    found = {p.partition_id: p for p in other.get_all_partitions()}
    assert [found[i].status for i in (one.partition_id, two.partition_id, three.partition_id)] == [
        PENDING,
        COMPLETED,
        PENDING,
    ]
    assert found[engine.partition_id] == engine and found[theirs.partition_id] == theirs
    assert [found[i].attempt for i in (1, 3)] == [0, 0]
    sound(other)


def test_a_long_life_of_random_work_leaves_everything_accounted_for(backend: Any, clock: Any) -> None:
    chance = random.Random(11)
    workers = [backend.new_strategy(partition_lock_expiry=5.0, max_attempts=2, max_deliveries=3) for _ in range(3)]
    claims: Dict[int, List[Partition]] = {0: [], 1: [], 2: []}
    tokens: List[int] = []
    created = 0
    for _ in range(150):
        i = chance.randrange(3)
        strategy = workers[i]
        clock.advance(chance.choice([0.0, 0.1, 1.0, 3.0]))
        if created < MAX_BATCH:
            created += 5
            strategy.create_partitions_if_not_exist(parts(*range(created - 4, created + 1)))
        mine = claims[i]
        chance.shuffle(mine)
        ended = [mine.pop() for _ in range(min(len(mine), 4))]
        got = turn(
            strategy,
            "w%d" % i,
            lease=5.0,
            reports=[
                Report(c.partition_id, c.fencing_token, chance.choice(list(Outcome)), delay=chance.choice([0.0, 2.0]))
                for c in ended
            ],
            starts=[(c.partition_id, c.fencing_token) for c in mine[:3]],
            free=3,
            prefetch=2,
        )
        mine.extend(got.granted)
        tokens += [c.fencing_token for c in got.granted]
        if chance.random() < 0.3:
            chance.choice(workers).sweep()
    assert tokens == sorted(set(tokens))
    sound(workers[0])
