"""What every PartitionStrategy must do: the contract's section 5 and its table of outcomes, on every store."""

from __future__ import annotations

import random
import threading
from typing import Any, Dict, List, Optional, Sequence

import attr
import pytest

from elk_coordinator.errors import (
    ConfigError,
    IllegalTransition,
    LeaseLost,
    NotOwner,
    PartitionNotFound,
    RangeConflict,
    StateError,
    VersionConflict,
)
from elk_coordinator.model import (
    MAX_BATCH,
    CreatePartition,
    Outcome,
    Partition,
    PartitionFilter,
    PartitionStats,
    PartitionStatus,
    Report,
    StrategyType,
)
from elk_coordinator.partition import intervals
from elk_coordinator.partition.audit import verify
from elk_coordinator.partition.factory import create_strategy
from elk_coordinator.partition.requests import BeatRequest, TurnRequest

PENDING, CLAIMED, RUNNING, COMPLETED, FAILED = (
    PartitionStatus.PENDING,
    PartitionStatus.CLAIMED,
    PartitionStatus.RUNNING,
    PartitionStatus.COMPLETED,
    PartitionStatus.FAILED,
)
LEASE = 30.0


@pytest.fixture
def clock(backend: Any) -> Any:
    """Stop the store's time."""
    return backend.stop_time()


@pytest.fixture
def strategy(backend: Any) -> Any:
    return backend.new_strategy(partition_lock_expiry=LEASE)


@pytest.fixture
def other(backend: Any) -> Any:
    """Return another process's strategy on the same namespace."""
    return backend.new_strategy(partition_lock_expiry=LEASE)


def parts(*ids: int, width: int = 10, **facts: Any) -> List[CreatePartition]:
    """Return partitions whose range follows from their id."""
    return [CreatePartition(i, i * width, i * width + width - 1, **facts) for i in ids]


def turn(strategy: Any, worker: str = "w", stream: str = "test", **what: Any) -> Any:
    name = strategy.stream(stream)
    return strategy.turn(TurnRequest(worker, name, strategy.next_sequence(name), what.pop("lease", LEASE), **what))


def beat(strategy: Any, worker: str = "w", claims: Sequence[Any] = (), ttl: float = 60.0, **what: Any) -> Any:
    name = strategy.stream("testbeat")
    return strategy.beat(
        BeatRequest(
            worker, name, strategy.next_sequence(name), ttl, what.pop("lease", LEASE), what.pop("info", {}), claims
        )
    )


def report(strategy: Any, claim: Partition, outcome: Outcome, worker: str = "w", **facts: Any) -> Any:
    return strategy.report_partitions(worker, [Report(claim.partition_id, claim.fencing_token, outcome, **facts)])[0]


def claim_one(strategy: Any, worker: str = "w", partition_id: int = 1) -> Partition:
    """Create one partition and claim it."""
    strategy.create_partitions_if_not_exist(parts(partition_id))
    (claim,) = strategy.claim_partitions(worker)
    assert claim.partition_id == partition_id
    return claim


def ids(partitions: Sequence[Any]) -> List[int]:
    return [p.partition_id for p in partitions]


def sound(strategy: Any) -> None:
    """Check that the counters are a recount, and that everything planned is accounted for once."""
    report = verify(strategy)
    assert report.problems == []
    stats = strategy.get_partition_stats()
    counts = {s: 0 for s in PartitionStatus}
    for partition in strategy.get_all_partitions():
        counts[partition.status] += 1
    assert counts == {
        PENDING: stats.pending,
        CLAIMED: stats.claimed,
        RUNNING: stats.running,
        COMPLETED: stats.completed,
        FAILED: stats.failed,
    }
    assert stats.total == sum(counts.values())


# -- building --------------------------------------------------------------------------------------------------------


def test_an_unknown_strategy_type_is_refused(backend: Any) -> None:
    with pytest.raises(ConfigError, match="strategy"):
        create_strategy("hash", backend.namespace, backend.new_store())  # type: ignore[arg-type]


def test_the_hash_strategy_needs_a_redis_store(backend: Any) -> None:
    with pytest.raises(ConfigError, match="RedisDataStore"):
        create_strategy(StrategyType.HASH, backend.namespace, object())  # type: ignore[arg-type]


@pytest.mark.parametrize("namespace", ["", "a b", "{a}", "a/b", "x" * 101])
def test_a_namespace_outside_the_rule_is_refused(backend: Any, namespace: str) -> None:
    with pytest.raises(ConfigError):
        create_strategy(backend.strategy_type, namespace, backend.new_store())


def test_a_strategy_says_what_it_is(backend: Any, strategy: Any) -> None:
    assert strategy.strategy_type is backend.strategy_type


# -- creating --------------------------------------------------------------------------------------------------------


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


def test_the_creator_is_told_of_his_partitions_even_when_the_first_reply_was_lost(strategy: Any) -> None:
    lose_reply_of(strategy, 1)
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


# -- claiming --------------------------------------------------------------------------------------------------------


def test_a_claim_takes_the_highest_priority_first_then_the_lowest_id(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(
        [
            *parts(3, 11, 100),
            *parts(20, 4, priority=5),
            *parts(50, 7, priority=-5),
            *parts(1000, priority=1000),
            *parts(1, priority=-1000),
        ]
    )
    got = [strategy.claim_partitions("w", n) for n in (1, 2, 3, 500)]
    assert [ids(claims) for claims in got] == [[1000], [4, 20], [3, 11, 100], [7, 50, 1]]
    assert strategy.claim_partitions("w", 500) == []


def test_a_claimed_partition_is_running_under_a_lease_of_its_holder(clock: Any, strategy: Any, other: Any) -> None:
    strategy.create_partitions_if_not_exist([CreatePartition(1, 10, 19, 2, {"k": "v"})])
    clock.advance(5.0)
    (claim,) = strategy.claim_partitions("worker-1")
    assert (claim.status, claim.worker_id, claim.options, claim.priority) == (RUNNING, "worker-1", {"k": "v"}, 2)
    assert claim.fencing_token > 0 and claim.attempt == claim.deliveries == claim.processed == 0
    assert claim.checkpoint is None and claim.error is None and claim.retry_at is None
    assert claim.updated_at == clock.seconds and claim.created_at == clock.seconds - 5.0
    assert claim.last_heartbeat == clock.seconds
    assert other.get_partition(1) == claim


def test_a_partition_has_one_holder_however_many_claim(backend: Any, strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(*range(1, 301)))
    got: Dict[str, List[Partition]] = {}

    def take(worker: str) -> None:
        mine = backend.new_strategy()
        out = got.setdefault(worker, [])
        while True:
            claims = mine.claim_partitions(worker, 7)
            if not claims:
                return
            out += claims

    threads = [threading.Thread(target=take, args=("w%d" % i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    claims = [claim for out in got.values() for claim in out]
    assert sorted(ids(claims)) == list(range(1, 301))
    assert len({claim.fencing_token for claim in claims}) == 300
    for worker, out in got.items():
        assert all(claim.worker_id == worker for claim in out)
        assert [c.fencing_token for c in out] == sorted(c.fencing_token for c in out)
    sound(strategy)


@pytest.mark.parametrize("limit", [0, -1, 501, True, 1.0, None, "1"])
def test_a_limit_outside_1_to_500_is_refused(strategy: Any, limit: Any) -> None:
    with pytest.raises(ConfigError, match="limit"):
        strategy.claim_partitions("w", limit)


@pytest.mark.parametrize("worker", ["", "a b", "a\nb", "é", "x" * 201, None, 7])
def test_a_worker_id_that_cannot_stand_in_a_record_is_refused(strategy: Any, worker: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    with pytest.raises(ConfigError, match="worker_id"):
        strategy.claim_partitions(worker)
    assert strategy.get_partition(1).status is PENDING


def test_what_goes_beyond_the_free_slots_is_claimed_and_not_running(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(*range(1, 7)))
    got = turn(strategy, free=2, prefetch=2)
    assert [(p.partition_id, p.status) for p in got.granted] == [
        (1, RUNNING),
        (2, RUNNING),
        (3, CLAIMED),
        (4, CLAIMED),
    ]
    assert got.left == 2 and got.results == [] and not got.expired and not got.lost_data
    stats = strategy.get_partition_stats()
    assert (stats.pending, stats.claimed, stats.running, stats.held) == (2, 2, 2, 4)
    sound(strategy)


def test_one_round_trip_grants_500_at_most(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(*range(1, 601)))
    got = turn(strategy, free=400, prefetch=400)
    assert ids(got.granted) == list(range(1, 501))
    assert [p.status for p in got.granted] == [RUNNING] * 400 + [CLAIMED] * 100


def test_a_prefetched_partition_starts_on_the_next_round_trip(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    (claim,) = turn(strategy, prefetch=1).granted
    turn(strategy, starts=[(1, claim.fencing_token)])
    there = strategy.get_partition(1)
    assert there.status is RUNNING and there.fencing_token == claim.fencing_token and there.version > claim.version
    sound(strategy)


def test_a_start_under_another_token_changes_nothing(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    (claim,) = turn(strategy, prefetch=1).granted
    before = strategy.get_partition(1)
    turn(strategy, starts=[(1, claim.fencing_token + 1), (1, 0), (2, claim.fencing_token)])
    assert strategy.get_partition(1) == before
    sound(strategy)


def test_nothing_is_claimed_without_a_free_slot(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    assert turn(strategy).granted == []
    assert strategy.get_partition(1).status is PENDING


# -- the table of outcomes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [RUNNING, CLAIMED])
@pytest.mark.parametrize(
    "outcome,delay,becomes,attempt,deliveries",
    [
        (Outcome.COMPLETED, 0.0, COMPLETED, 0, 0),
        (Outcome.ERROR, 4.5, PENDING, 1, 0),
        (Outcome.ERROR, 0.0, PENDING, 1, 0),
        (Outcome.PERMANENT, 0.0, FAILED, 1, 0),
        (Outcome.PERMANENT, 4.5, FAILED, 1, 0),
        (Outcome.CANCELLED, 0.0, FAILED, 0, 0),
        (Outcome.RELEASED, 0.0, PENDING, 0, 0),
        (Outcome.RELEASED, 4.5, PENDING, 0, 0),
        (Outcome.LOST, 0.0, PENDING, 0, 1),
        (Outcome.LOST, 4.5, PENDING, 0, 1),
    ],
)
def test_each_outcome_moves_the_partition_as_the_table_says(
    clock: Any,
    strategy: Any,
    status: PartitionStatus,
    outcome: Outcome,
    delay: float,
    becomes: PartitionStatus,
    attempt: int,
    deliveries: int,
) -> None:
    strategy.create_partitions_if_not_exist([CreatePartition(1, 10, 19, 3, {"k": 1}), *parts(2)])
    (claim,) = turn(strategy, free=int(status is RUNNING), prefetch=int(status is CLAIMED)).granted
    assert claim.status is status
    clock.advance(1.0)
    result = report(strategy, claim, outcome, delay=delay, error="boom\nat line 7", processed=8)
    assert (result.partition_id, result.token, result.status, result.refused) == (
        1,
        claim.fencing_token,
        becomes,
        False,
    )
    there = strategy.get_partition(1)
    waits = delay if outcome in (Outcome.ERROR, Outcome.RELEASED) and delay else None
    completed = becomes is COMPLETED
    assert there == attr.evolve(
        claim,
        status=becomes,
        attempt=attempt,
        deliveries=deliveries,
        version=there.version,
        processed=8 if completed else 0,
        checkpoint=19 if completed else None,
        error=None if completed else "boom\nat line 7",
        retry_at=None if waits is None else clock.seconds + waits,
        updated_at=clock.seconds,
        last_heartbeat=None,
        completed_at=clock.seconds if completed else None,
    )
    assert there.version > claim.version
    stats = strategy.get_partition_stats()
    assert (stats.pending, stats.held) == (2 if becomes is PENDING else 1, 0)
    sound(strategy)


def test_a_failing_partition_rests_as_failed_when_no_attempt_is_left(backend: Any, clock: Any) -> None:
    strategy = backend.new_strategy(max_attempts=3)
    strategy.create_partitions_if_not_exist(parts(1))
    for attempt, becomes in ((1, PENDING), (2, PENDING), (3, FAILED)):
        (claim,) = strategy.claim_partitions("w")
        assert claim.attempt == attempt - 1
        assert report(strategy, claim, Outcome.ERROR, error="no %d" % attempt, delay=1.0).status is becomes
        assert strategy.get_partition(1).attempt == attempt
        clock.advance(1.0)
    there = strategy.get_partition(1)
    assert (there.status, there.error, there.retry_at) == (FAILED, "no 3", None)
    assert strategy.claim_partitions("w") == []
    sound(strategy)


def test_a_partition_rests_as_failed_when_its_deliveries_are_used_up(backend: Any) -> None:
    strategy = backend.new_strategy(max_deliveries=3)
    strategy.create_partitions_if_not_exist(parts(1))
    for deliveries, becomes in ((1, PENDING), (2, PENDING), (3, FAILED)):
        (claim,) = strategy.claim_partitions("w")
        assert report(strategy, claim, Outcome.LOST).status is becomes
        assert strategy.get_partition(1).deliveries == deliveries
    assert strategy.get_partition(1).attempt == 0
    sound(strategy)


def test_a_delayed_partition_counts_as_pending_and_is_claimed_when_due_not_before(clock: Any, strategy: Any) -> None:
    claim = claim_one(strategy)
    report(strategy, claim, Outcome.ERROR, delay=10.0)
    assert strategy.get_partition(1).retry_at == clock.seconds + 10.0
    assert strategy.get_partition_stats().pending == 1
    clock.advance(9.999)
    assert strategy.claim_partitions("w") == []
    clock.advance(0.001)
    (again,) = strategy.claim_partitions("w")
    assert again.partition_id == 1 and again.retry_at is None and again.attempt == 1
    sound(strategy)


def test_a_released_partition_is_claimable_in_the_same_round_trip_by_a_larger_token(strategy: Any) -> None:
    claim = claim_one(strategy)
    got = turn(strategy, reports=[Report(1, claim.fencing_token, Outcome.RELEASED)], free=1)
    assert got.results[0].status is PENDING
    assert ids(got.granted) == [1] and got.granted[0].fencing_token > claim.fencing_token


def test_a_priority_survives_every_return_to_the_queue(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist([*parts(1, priority=-3), *parts(2, priority=7), *parts(3)])
    for outcome in (Outcome.RELEASED, Outcome.ERROR, Outcome.LOST):
        claims = strategy.claim_partitions("w", 3)
        assert [(c.partition_id, c.priority) for c in claims] == [(2, 7), (3, 0), (1, -3)]
        strategy.report_partitions("w", [Report(c.partition_id, c.fencing_token, outcome) for c in claims])


def test_an_error_text_of_an_earlier_attempt_stays_until_another_replaces_it(strategy: Any) -> None:
    claim = claim_one(strategy)
    report(strategy, claim, Outcome.ERROR, error="first")
    (claim,) = strategy.claim_partitions("w")
    assert claim.error == "first"
    report(strategy, claim, Outcome.RELEASED)
    assert strategy.get_partition(1).error == "first"
    (claim,) = strategy.claim_partitions("w")
    report(strategy, claim, Outcome.ERROR, error="second")
    assert strategy.get_partition(1).error == "second"


# -- one completion, one owner ---------------------------------------------------------------------------------------


def test_a_repeated_report_gets_its_first_answer_and_changes_nothing(clock: Any, strategy: Any, other: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(*range(1, 8)))
    for outcome in Outcome:
        (claim,) = strategy.claim_partitions("w")
        first = report(strategy, claim, outcome, processed=5, delay=60.0, error="x")
        before = strategy.get_all_partitions()
        clock.advance(1.0)
        for again in (strategy, other):
            assert report(again, claim, outcome, processed=9, delay=1.0, error="y") == first
        assert strategy.get_all_partitions() == before
    sound(strategy)


@pytest.mark.parametrize("first", list(Outcome))
@pytest.mark.parametrize("second", list(Outcome))
def test_a_second_report_of_another_outcome_is_refused(strategy: Any, first: Outcome, second: Outcome) -> None:
    claim = claim_one(strategy)
    answer = report(strategy, claim, first)
    before = strategy.get_partition(1)
    again = report(strategy, claim, second)
    assert again.refused == (first is not second)
    if first is second:
        assert again == answer
    assert strategy.get_partition(1) == before
    sound(strategy)


@pytest.mark.parametrize("first", list(Outcome))
@pytest.mark.parametrize("second", list(Outcome))
def test_a_claim_reported_twice_in_one_call_ends_once(strategy: Any, first: Outcome, second: Outcome) -> None:
    claim = claim_one(strategy)
    answers = strategy.report_partitions("w", [Report(1, claim.fencing_token, kind) for kind in (first, second)])
    assert [answer.refused for answer in answers] == [False, True]
    there = strategy.get_partition(1)
    assert there.status is answers[0].status
    assert there.attempt == (1 if first in (Outcome.ERROR, Outcome.PERMANENT) else 0)
    assert there.deliveries == (1 if first is Outcome.LOST else 0)
    sound(strategy)


def test_a_report_and_a_start_of_one_claim_in_one_call_end_it(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 2))
    one, two = turn(strategy, prefetch=2).granted
    got = turn(
        strategy,
        reports=[Report(1, one.fencing_token, Outcome.COMPLETED), Report(2, two.fencing_token, Outcome.RELEASED)],
        starts=[(1, one.fencing_token), (2, two.fencing_token)],
    )
    assert [r.status for r in got.results] == [COMPLETED, PENDING]
    assert [p.status for p in strategy.get_all_partitions()] == [COMPLETED, PENDING]
    sound(strategy)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_the_token_makes_an_owner(strategy: Any, other: Any, outcome: Outcome) -> None:
    claim = claim_one(strategy, "same-name")
    for token in (0, 1, claim.fencing_token - 1, claim.fencing_token + 1, 2**53 - 1):
        for who in (strategy, other):
            assert who.report_partitions("same-name", [Report(1, token, outcome)])[0].refused
    assert strategy.get_partition(1) == claim
    # And who holds the token may report it through any process.
    assert not report(other, claim, outcome, worker="another-name").refused


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_report_for_what_nobody_claimed_or_created_is_refused(strategy: Any, outcome: Outcome) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    before = strategy.get_partition(1)
    results = strategy.report_partitions("w", [Report(1, 0, outcome), Report(1, 77, outcome), Report(2, 77, outcome)])
    assert all(result.refused for result in results)
    assert strategy.get_partition(1) == before
    sound(strategy)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_report_is_accepted_after_the_deadline_until_the_partition_is_taken(
    clock: Any, strategy: Any, outcome: Outcome
) -> None:
    claim = claim_one(strategy)
    clock.advance(LEASE * 3)
    assert not report(strategy, claim, outcome).refused
    sound(strategy)


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.LOST])
def test_everything_is_refused_once_the_partition_was_taken(
    clock: Any, strategy: Any, other: Any, outcome: Outcome
) -> None:
    claim = claim_one(strategy, "old")
    clock.advance(LEASE)
    other.sweep()
    assert report(strategy, claim, outcome).refused, "taken back"
    (taken,) = other.claim_partitions("new")
    before = other.get_partition(1)
    assert report(strategy, claim, outcome).refused, "taken by another"
    assert not strategy.save_checkpoint(1, claim.fencing_token, 12, 1)
    assert strategy.renew_partitions("old", [(1, claim.fencing_token)]) == [(1, claim.fencing_token)]
    turn(strategy, starts=[(1, claim.fencing_token)])
    assert other.get_partition(1) == before == taken
    assert report(other, taken, Outcome.COMPLETED, worker="new").status is COMPLETED
    assert report(strategy, claim, outcome).refused, "completed by another"
    sound(strategy)


def test_a_worker_that_loses_and_claims_again_cannot_complete_under_its_first_token(clock: Any, strategy: Any) -> None:
    first = claim_one(strategy)
    clock.advance(LEASE)
    strategy.sweep()
    (second,) = strategy.claim_partitions("w")
    assert second.partition_id == 1 and second.fencing_token > first.fencing_token
    assert report(strategy, first, Outcome.COMPLETED).refused
    assert report(strategy, second, Outcome.COMPLETED).status is COMPLETED
    assert report(strategy, first, Outcome.COMPLETED).refused
    sound(strategy)


def test_the_worker_registry_frees_nothing(clock: Any, strategy: Any, other: Any) -> None:
    claim = claim_one(strategy)
    beat(strategy, ttl=5.0, claims=[(1, claim.fencing_token)])
    strategy.store.forget("w")
    clock.advance(LEASE - 0.001)
    assert other.sweep().reclaimed == []
    assert other.claim_partitions("other") == []
    assert strategy.get_partition(1).status is RUNNING


def test_at_most_500_reports_go_into_one_call(strategy: Any) -> None:
    with pytest.raises(ConfigError, match="500"):
        strategy.report_partitions("w", [Report(1, 1, Outcome.COMPLETED)] * 501)
    assert strategy.report_partitions("w", []) == []


def test_500_of_every_outcome_in_one_call_leave_the_counts_right(backend: Any, clock: Any) -> None:
    strategy = backend.new_strategy(max_attempts=2)
    strategy.create_partitions_if_not_exist(parts(*range(1, 601)))
    claims = strategy.claim_partitions("w", 500)
    kinds = list(Outcome)
    results = strategy.report_partitions(
        "w",
        [
            Report(c.partition_id, c.fencing_token, kinds[i % len(kinds)], 1, "e%d" % i, float(i % 2))
            for i, c in enumerate(claims)
        ],
    )
    assert not any(result.refused for result in results)
    assert {r.partition_id: r.status for r in results} == {
        p.partition_id: p.status for p in strategy.get_all_partitions() if p.partition_id <= 500
    }
    sound(strategy)


# -- the holder's public methods -------------------------------------------------------------------------------------


def test_holding_on_renews_for_a_whole_lease_from_now(clock: Any, strategy: Any) -> None:
    claim = claim_one(strategy)
    for token in (claim.fencing_token, None):
        clock.advance(LEASE - 0.001)
        strategy.maintain_partition_hold(1, "w", token)
        there = strategy.get_partition(1)
        assert there.last_heartbeat == clock.seconds
        assert there.version == claim.version, "a renewal is no change"
    clock.advance(LEASE - 0.001)
    assert strategy.sweep().reclaimed == []


def test_a_lease_that_ran_out_is_not_renewed(clock: Any, strategy: Any) -> None:
    claim = claim_one(strategy)
    clock.advance(LEASE)
    with pytest.raises(LeaseLost) as caught:
        strategy.maintain_partition_hold(1, "w", claim.fencing_token)
    assert (caught.value.partition_id, caught.value.token) == (1, claim.fencing_token)
    assert len(strategy.sweep().reclaimed) == 1


def test_without_a_token_only_the_worker_that_holds_it_may(strategy: Any) -> None:
    claim = claim_one(strategy, "me")
    for call in (
        lambda: strategy.maintain_partition_hold(1, "you"),
        lambda: strategy.release_partition(1, "you"),
        lambda: strategy.update_partition_status(1, "you", COMPLETED),
        lambda: strategy.update_partition_status(1, "you", FAILED),
    ):
        with pytest.raises(NotOwner) as caught:
            call()
        assert (caught.value.partition_id, caught.value.worker_id, caught.value.owner) == (1, "you", "me")
    assert strategy.get_partition(1) == claim
    strategy.release_partition(1, "me")
    with pytest.raises(NotOwner, match="held by nobody"):
        strategy.release_partition(1, "me")
    with pytest.raises(PartitionNotFound):
        strategy.release_partition(2, "me")


def test_with_a_token_that_claim_is_meant_and_no_other(clock: Any, strategy: Any) -> None:
    old = claim_one(strategy, "me")
    clock.advance(LEASE)
    strategy.sweep()
    (new,) = strategy.claim_partitions("me")
    for call in (
        lambda: strategy.maintain_partition_hold(1, "me", old.fencing_token),
        lambda: strategy.release_partition(1, "me", old.fencing_token),
        lambda: strategy.update_partition_status(1, "me", COMPLETED, token=old.fencing_token),
        lambda: strategy.update_partition_status(1, "me", FAILED, token=old.fencing_token),
        lambda: strategy.update_partition_status(1, "me", COMPLETED, {"checkpoint": 12}, old.fencing_token),
    ):
        with pytest.raises(LeaseLost):
            call()
    assert strategy.get_partition(1) == new


def test_a_start_by_a_claim_that_is_gone_is_an_error_and_no_silence(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    (claim,) = turn(strategy, prefetch=1).granted
    strategy.release_partition(1, "w", claim.fencing_token)
    with pytest.raises(LeaseLost):
        strategy.update_partition_status(1, "w", RUNNING, token=claim.fencing_token)
    (again,) = turn(strategy, prefetch=1).granted
    with pytest.raises(LeaseLost):
        strategy.update_partition_status(1, "w", RUNNING, token=claim.fencing_token)
    assert strategy.get_partition(1) == again


def test_a_release_puts_it_back_at_once_without_counting_an_attempt(strategy: Any, other: Any) -> None:
    claim = claim_one(strategy)
    strategy.release_partition(1, "w", claim.fencing_token)
    there = strategy.get_partition(1)
    assert (there.status, there.attempt, there.deliveries, there.retry_at) == (PENDING, 0, 0, None)
    assert ids(other.claim_partitions("x")) == [1]


def test_a_status_update_completes_with_what_was_processed(strategy: Any) -> None:
    claim = claim_one(strategy)
    done = strategy.update_partition_status(1, "w", COMPLETED, {"processed": 7}, claim.fencing_token)
    assert (done.status, done.processed, done.checkpoint) == (COMPLETED, 7, 19)
    assert done == strategy.get_partition(1)
    sound(strategy)


def test_a_status_update_to_failed_rests_at_once_with_its_error(strategy: Any) -> None:
    claim_one(strategy)
    there = strategy.update_partition_status(1, "w", FAILED, {"error": "broken", "checkpoint": 14, "processed": 5})
    assert (there.status, there.error, there.checkpoint, there.processed, there.attempt) == (
        FAILED,
        "broken",
        14,
        5,
        1,
    )
    assert strategy.claim_partitions("w") == []


def test_a_status_update_starts_a_claimed_partition(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    turn(strategy, prefetch=1)
    assert strategy.update_partition_status(1, "w", RUNNING).status is RUNNING


@pytest.mark.parametrize("status", [CLAIMED, "completed", None])
def test_a_status_update_without_an_arrow_in_the_table_is_refused(strategy: Any, status: Any) -> None:
    claim = claim_one(strategy)
    with pytest.raises(IllegalTransition):
        strategy.update_partition_status(1, "w", status, token=claim.fencing_token)
    assert strategy.get_partition(1) == claim


def test_a_status_update_with_unknown_metadata_is_refused(strategy: Any) -> None:
    claim = claim_one(strategy)
    with pytest.raises(ConfigError, match="colour"):
        strategy.update_partition_status(1, "w", COMPLETED, {"colour": 1}, claim.fencing_token)
    assert strategy.get_partition(1) == claim


# -- heartbeat -------------------------------------------------------------------------------------------------------


def test_a_beat_registers_renews_and_tells_what_is_gone(clock: Any, strategy: Any, other: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(*range(1, 7)))
    run, released, done, expired, taken = strategy.claim_partitions("w", 5)
    (fetched,) = turn(strategy, prefetch=1).granted
    strategy.release_partition(released.partition_id, "w")
    report(strategy, done, Outcome.COMPLETED)
    clock.advance(LEASE - 1.0)
    strategy.renew_partitions("w", [(c.partition_id, c.fencing_token) for c in (run, taken, fetched)])
    clock.advance(1.0)
    claims = [(c.partition_id, c.fencing_token) for c in (run, released, done, expired, taken, fetched)]
    wrong = [(run.partition_id, run.fencing_token + 1), (99, run.fencing_token), (1, 0)]
    got = beat(strategy, claims=claims + wrong, info={"pid": 1}, ttl=50.0)
    assert got.lost == frozenset([claims[1], claims[2], claims[3], *wrong])
    assert (dict(got.cancels), got.paused, got.config_version, got.lost_data) == ({}, False, 0, False)
    assert [(w.worker_id, w.remaining, w.info) for w in other.workers()] == [("w", 50.0, {"pid": 1})]
    clock.advance(LEASE - 0.001)
    assert ids(other.sweep().reclaimed) == [expired.partition_id]
    clock.advance(0.001)
    assert sorted(ids(other.sweep().reclaimed)) == [run.partition_id, taken.partition_id, fetched.partition_id]
    sound(strategy)


def test_a_beat_without_a_ttl_leaves_the_registry_alone(strategy: Any) -> None:
    claim = claim_one(strategy)
    beat(strategy, ttl=0.0, claims=[(1, claim.fencing_token)])
    assert strategy.workers() == []


@pytest.mark.parametrize("length", [3.0, 300.0])
def test_a_renewal_lasts_exactly_as_long_as_it_says_whatever_the_claim_said(
    clock: Any, backend: Any, strategy: Any, length: float
) -> None:
    """A worker whose lease was changed at run time trusts the new length: the store must keep to it."""
    claim = claim_one(strategy)
    assert not beat(strategy, claims=[(1, claim.fencing_token)], lease=length).lost
    there = strategy.get_partition(1)
    assert there.last_heartbeat == clock.seconds
    leader = backend.new_strategy(partition_lock_expiry=1.0)
    clock.advance(length / 2)
    assert leader.sweep().reclaimed == []
    clock.advance(length / 2 - 0.001)
    assert leader.sweep().reclaimed == []
    assert not beat(strategy, claims=[(1, claim.fencing_token)], lease=length).lost
    clock.advance(length)
    assert ids(leader.sweep().reclaimed) == [1]


def test_two_workers_of_the_same_name_do_not_renew_each_others_claims(clock: Any, strategy: Any, other: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 2))
    (mine,) = strategy.claim_partitions("twin")
    (theirs,) = other.claim_partitions("twin")
    clock.advance(LEASE - 1.0)
    assert strategy.renew_partitions("twin", [(1, mine.fencing_token), (2, mine.fencing_token)]) == [
        (2, mine.fencing_token)
    ]
    clock.advance(1.0)
    assert ids(other.sweep().reclaimed) == [theirs.partition_id]


def test_the_first_beat_claims_the_namespace_for_its_strategy(backend: Any, strategy: Any, other: Any) -> None:
    beat(strategy)
    beat(other)
    other.strategy_type = next(kind for kind in StrategyType if kind is not backend.strategy_type)
    with pytest.raises(ConfigError, match="runs strategy '%s'" % backend.strategy_type.value):
        beat(other, worker="stranger")
    assert [w.worker_id for w in strategy.workers()] == ["w"]


# -- checkpoint ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_durable_and_the_next_holder_sees_it(clock: Any, strategy: Any, other: Any) -> None:
    claim = claim_one(strategy)
    assert strategy.save_checkpoint(1, claim.fencing_token, 14, 5)
    there = strategy.get_partition(1)
    assert (there.checkpoint, there.processed, there.status) == (14, 5, RUNNING)
    assert there.version > claim.version and there.last_heartbeat == claim.last_heartbeat
    clock.advance(LEASE)
    other.sweep()
    (again,) = other.claim_partitions("x")
    assert (again.checkpoint, again.processed) == (14, 5)
    sound(strategy)


@pytest.mark.parametrize("checkpoint", [9, 10, 19])
def test_a_checkpoint_may_lie_anywhere_from_before_the_first_id_to_the_last(strategy: Any, checkpoint: int) -> None:
    claim = claim_one(strategy)
    assert strategy.save_checkpoint(1, claim.fencing_token, checkpoint, 0)
    assert strategy.get_partition(1).checkpoint == checkpoint


def test_a_checkpoint_never_moves_back_and_an_older_one_is_durable_too(strategy: Any) -> None:
    claim = claim_one(strategy)
    assert strategy.save_checkpoint(1, claim.fencing_token, 14, 5)
    before = strategy.get_partition(1)
    for older in (14, 13, 9):
        assert strategy.save_checkpoint(1, claim.fencing_token, older, 1)
    assert strategy.get_partition(1) == before
    assert strategy.save_checkpoint(1, claim.fencing_token, 15, 6)
    assert strategy.get_partition(1).checkpoint == 15


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.COMPLETED])
def test_a_checkpoint_outlives_every_way_to_end_an_attempt(strategy: Any, outcome: Outcome) -> None:
    claim = claim_one(strategy)
    strategy.save_checkpoint(1, claim.fencing_token, 14, 5)
    report(strategy, claim, outcome)
    there = strategy.get_partition(1)
    assert (there.checkpoint, there.processed) == (14, 5)


def test_no_checkpoint_without_the_present_token(strategy: Any, other: Any) -> None:
    claim = claim_one(strategy)
    for token in (0, claim.fencing_token - 1, claim.fencing_token + 1):
        assert not other.save_checkpoint(1, token, 14, 5)
    assert not strategy.save_checkpoint(2, claim.fencing_token, 14, 5)
    assert strategy.get_partition(1) == claim


@pytest.mark.parametrize("outcome", list(Outcome))
def test_no_checkpoint_after_the_claim_was_reported(strategy: Any, outcome: Outcome) -> None:
    claim = claim_one(strategy)
    report(strategy, claim, outcome)
    before = strategy.get_partition(1)
    assert not strategy.save_checkpoint(1, claim.fencing_token, 14, 5)
    assert strategy.get_partition(1) == before


def test_no_checkpoint_under_an_expired_lease(clock: Any, strategy: Any) -> None:
    claim = claim_one(strategy)
    clock.advance(LEASE - 0.001)
    assert strategy.save_checkpoint(1, claim.fencing_token, 12, 1)
    clock.advance(0.001)
    assert not strategy.save_checkpoint(1, claim.fencing_token, 14, 5)
    assert strategy.get_partition(1).checkpoint == 12


def test_a_prefetched_partition_that_already_runs_may_checkpoint(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    (claim,) = turn(strategy, prefetch=1).granted
    assert strategy.save_checkpoint(1, claim.fencing_token, 12, 1)


# -- leases that ran out, suspects -----------------------------------------------------------------------------------


def test_a_sweep_takes_back_what_ran_out_and_nothing_else(clock: Any, strategy: Any, other: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 2, 3))
    (one,) = strategy.claim_partitions("w1")
    clock.advance(10.0)
    (two,) = other.claim_partitions("w2")
    clock.advance(LEASE - 10.001)
    assert other.sweep().reclaimed == []
    clock.advance(0.001)
    (lost,) = other.sweep().reclaimed
    assert (lost.partition_id, lost.worker_id, lost.token) == (1, "w1", one.fencing_token)
    assert (lost.deliveries, lost.status) == (1, PENDING)
    there = strategy.get_partition(1)
    assert (there.status, there.attempt, there.deliveries, there.last_heartbeat) == (PENDING, 0, 1, None)
    assert there.version > one.version and there.updated_at == clock.seconds
    assert strategy.get_partition(2) == two
    assert other.sweep().reclaimed == []
    sound(strategy)


def test_a_sweep_takes_no_more_than_its_limit_and_says_that_more_are_left(clock: Any, strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(*range(1, 8)))
    strategy.claim_partitions("w", 7)
    clock.advance(LEASE)
    got = [strategy.sweep(limit=3) for _ in range(4)]
    assert [len(sweep.reclaimed) for sweep in got] == [3, 3, 1, 0]
    assert [sweep.more for sweep in got] == [True, True, False, False]
    assert sorted(i for sweep in got for i in ids(sweep.reclaimed)) == list(range(1, 8))


def test_of_many_sweeps_at_once_each_lost_partition_is_counted_once(backend: Any, clock: Any, strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(*range(1, 101)))
    strategy.claim_partitions("w", 100)
    clock.advance(LEASE)
    got: List[int] = []

    def sweep() -> None:
        mine = backend.new_strategy()
        for _ in range(20):
            got.extend(ids(mine.sweep(limit=9).reclaimed))

    threads = [threading.Thread(target=sweep) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(1, 101))
    assert all(p.deliveries == 1 for p in strategy.get_all_partitions())
    sound(strategy)


def test_a_claim_tells_of_leases_that_wait_to_be_reclaimed(clock: Any, strategy: Any, other: Any) -> None:
    claim_one(strategy)
    clock.advance(LEASE - 0.001)
    assert turn(other, free=1).expired is False
    clock.advance(0.001)
    assert turn(other, free=1).expired is True
    assert turn(other).expired is False, "who wants nothing need not know"
    other.sweep()
    assert ids(turn(other, free=1).granted) == [1]


def test_a_partition_lost_too_often_rests_as_failed_and_says_so(backend: Any, clock: Any) -> None:
    strategy = backend.new_strategy(max_deliveries=2, partition_lock_expiry=LEASE)
    strategy.create_partitions_if_not_exist(parts(1))
    for deliveries, becomes in ((1, PENDING), (2, FAILED)):
        strategy.claim_partitions("poisoned")
        clock.advance(LEASE)
        (lost,) = strategy.sweep().reclaimed
        assert (lost.deliveries, lost.status) == (deliveries, becomes)
    there = strategy.get_partition(1)
    assert there.status is FAILED and "poisoned" in there.error and "2" in there.error
    assert strategy.claim_partitions("w") == []
    sound(strategy)


def test_a_checkpoint_that_moved_resets_the_deliveries(backend: Any, clock: Any) -> None:
    strategy = backend.new_strategy(max_deliveries=2, partition_lock_expiry=LEASE)
    strategy.create_partitions_if_not_exist(parts(1))
    for checkpoint in (11, 12, 13):
        (claim,) = strategy.claim_partitions("w")
        assert strategy.save_checkpoint(1, claim.fencing_token, checkpoint, 1)
        assert strategy.get_partition(1).deliveries == 0
        clock.advance(LEASE)
        assert [(r.deliveries, r.status) for r in strategy.sweep().reclaimed] == [(1, PENDING)]


def test_a_checkpoint_that_did_not_move_resets_nothing(clock: Any, strategy: Any) -> None:
    claim = claim_one(strategy)
    strategy.save_checkpoint(1, claim.fencing_token, 14, 5)
    clock.advance(LEASE)
    strategy.sweep()
    (claim,) = strategy.claim_partitions("w")
    strategy.save_checkpoint(1, claim.fencing_token, 14, 5)
    assert strategy.get_partition(1).deliveries == 1


def make_suspects(strategy: Any, *suspects: int) -> None:
    """Lose these partitions twice; nothing else may be claimable."""
    for _ in range(2):
        for claim in strategy.claim_partitions("w", len(suspects)):
            report(strategy, claim, Outcome.LOST)
        for claim in strategy.claim_partitions("w", 1):
            strategy.release_partition(claim.partition_id, "w")


def test_a_suspect_is_claimed_alone_however_much_was_asked_for(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 2))
    for _ in range(2):
        for claim in strategy.claim_partitions("w", 2):
            report(strategy, claim, Outcome.LOST)
    assert all(p.is_suspect for p in strategy.get_all_partitions())
    strategy.create_partitions_if_not_exist(parts(3, 4))
    assert [ids(turn(strategy, free=3, prefetch=2).granted) for _ in range(3)] == [[1], [2], [3, 4]]
    sound(strategy)


def test_a_suspect_waits_for_its_place_in_the_queue(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(5))
    for _ in range(2):
        report(strategy, strategy.claim_partitions("w")[0], Outcome.LOST)
    strategy.create_partitions_if_not_exist([*parts(3, 7), *parts(9, priority=1)])
    got = [ids(strategy.claim_partitions("w", n)) for n in (2, 1, 5)]
    assert got == [[9, 3], [5], [7]]


def test_a_suspect_is_never_prefetched_and_only_given_to_who_may_have_one(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    for _ in range(2):
        report(strategy, strategy.claim_partitions("w")[0], Outcome.LOST)
    assert turn(strategy, prefetch=3).granted == []
    assert turn(strategy, free=3, suspects=False).granted == []
    assert ids(turn(strategy, free=1).granted) == [1]


def test_a_suspect_stays_one_after_an_error_and_a_release(clock: Any, strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    for _ in range(2):
        report(strategy, strategy.claim_partitions("w")[0], Outcome.LOST)
    for outcome, delay in ((Outcome.RELEASED, 0.0), (Outcome.ERROR, 0.0), (Outcome.ERROR, 5.0)):
        (claim,) = turn(strategy, free=1).granted
        report(strategy, claim, outcome, delay=delay)
        clock.advance(delay)
        assert turn(strategy, prefetch=3).granted == []
        sound(strategy)


# -- replays and late requests ---------------------------------------------------------------------------------------


def test_an_equal_turn_gets_its_first_answer_again(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(*range(1, 10)))
    claims = strategy.claim_partitions("w", 3)
    request = TurnRequest(
        "w",
        strategy.stream("test"),
        1,
        LEASE,
        [Report(c.partition_id, c.fencing_token, Outcome.COMPLETED, 3) for c in claims] + [Report(9, 1, Outcome.LOST)],
        free=1,
        prefetch=2,
    )
    first = strategy.turn(request)
    before = strategy.get_all_partitions()
    for _ in range(3):
        again = strategy.turn(request)
        assert again.results == first.results
        assert ids(again.granted) == ids(first.granted) == [4, 5, 6]
        assert [c.fencing_token for c in again.granted] == [c.fencing_token for c in first.granted]
        assert [c.status for c in again.granted] == [RUNNING, CLAIMED, CLAIMED]
    assert strategy.get_all_partitions() == before
    sound(strategy)


def test_a_replayed_grant_that_was_lost_since_is_not_granted_again(clock: Any, strategy: Any, other: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 2, 3))
    request = TurnRequest("w", strategy.stream("test"), 1, LEASE, free=3)
    one, two, _ = strategy.turn(request).granted
    report(strategy, one, Outcome.COMPLETED)
    strategy.release_partition(two.partition_id, "w")
    other.claim_partitions("x")
    assert ids(strategy.turn(request).granted) == [3]


def test_a_late_turn_is_refused_and_changes_nothing(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(*range(1, 5)))
    stream = strategy.stream("test")
    (claim,) = strategy.turn(TurnRequest("w", stream, 1, LEASE, free=1)).granted
    strategy.turn(TurnRequest("w", stream, 3, LEASE))
    before = strategy.get_all_partitions()
    done = [Report(1, claim.fencing_token, Outcome.COMPLETED)]
    for sequence in (0, 1, 2):
        with pytest.raises(StateError):
            strategy.turn(TurnRequest("w", stream, sequence, LEASE, done, free=3))
    assert strategy.get_all_partitions() == before
    # Other streams, and other instances of the same name, are not concerned.
    assert ids(strategy.turn(TurnRequest("w", strategy.stream("else"), 1, LEASE, free=1)).granted) == [2]


def test_streams_of_two_instances_of_one_name_do_not_meet(strategy: Any, other: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 2))
    for _ in range(5):
        turn(strategy, "twin")
    assert ids(turn(other, "twin", free=1).granted) == [1]
    assert ids(turn(strategy, "twin", free=1).granted) == [2]


def test_a_late_beat_is_refused_and_an_equal_one_renews_again(clock: Any, strategy: Any) -> None:
    claim = claim_one(strategy)
    claims = [(1, claim.fencing_token)]
    stream = strategy.stream("test")
    for sequence in (2, 2):
        clock.advance(LEASE - 1.0)
        assert not strategy.beat(BeatRequest("w", stream, sequence, 60.0, LEASE, {}, claims)).lost
        assert strategy.get_partition(1).last_heartbeat == clock.seconds
    clock.advance(1.0)
    with pytest.raises(StateError):
        strategy.beat(BeatRequest("w", stream, 1, 60.0, LEASE, {}, claims))
    assert strategy.get_partition(1).last_heartbeat == clock.seconds - 1.0


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_a_lost_reply_counts_nothing_twice(strategy: Any, nth: int) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 2, 3))
    lose_reply_of(strategy, nth)
    one, two, three = strategy.claim_partitions("w", 3)  # 1
    assert strategy.save_checkpoint(1, one.fencing_token, 12, 3)  # 2
    results = strategy.report_partitions(  # 3
        "w",
        [
            Report(1, one.fencing_token, Outcome.ERROR, delay=5.0),
            Report(2, two.fencing_token, Outcome.COMPLETED, 10),
            Report(3, three.fencing_token, Outcome.LOST),
        ],
    )
    strategy.sweep()  # 4
    assert [r.status for r in results] == [PENDING, COMPLETED, PENDING]
    assert [(p.attempt, p.deliveries, p.processed) for p in strategy.get_all_partitions()] == [
        (1, 0, 3),
        (0, 0, 10),
        (0, 1, 0),
    ]
    sound(strategy)


# -- data loss -------------------------------------------------------------------------------------------------------


def test_tokens_rise_over_data_loss_also_with_the_clock_set_back(backend: Any, clock: Any, strategy: Any) -> None:
    before = claim_one(strategy)
    backend.lose_data()
    clock.advance(-3600.0)
    after = claim_one(strategy)
    assert after.fencing_token > before.fencing_token
    assert after.version > before.version


def test_after_data_loss_the_next_call_tells_and_old_claims_are_gone(backend: Any, clock: Any, strategy: Any) -> None:
    claim = claim_one(strategy)
    backend.lose_data()
    clock.advance(-1.0)
    got = beat(strategy, claims=[(1, claim.fencing_token)])
    assert got.lost_data and got.lost == {(1, claim.fencing_token)}
    assert not beat(strategy).lost_data, "once is enough: the namespace goes on above what was remembered"
    assert report(strategy, claim, Outcome.COMPLETED).refused
    assert not strategy.save_checkpoint(1, claim.fencing_token, 12, 1)
    assert strategy.get_partition_stats() == PartitionStats()
    assert [w.worker_id for w in strategy.workers()] == ["w"]
    claim = claim_one(strategy)
    backend.lose_data()
    assert turn(strategy, reports=[Report(1, claim.fencing_token, Outcome.COMPLETED)]).results[0].refused
    sound(strategy)


def test_a_turn_right_after_data_loss_tells_it_too(backend: Any, clock: Any, strategy: Any) -> None:
    claim_one(strategy)
    backend.lose_data()
    clock.advance(-1.0)
    assert turn(strategy, free=1).lost_data
    assert not turn(strategy, free=1).lost_data


def test_a_claim_of_before_the_loss_cannot_end_the_partition_of_after_it(
    backend: Any, clock: Any, strategy: Any, other: Any
) -> None:
    old = claim_one(strategy, "old")
    backend.lose_data()
    new = claim_one(other, "new")
    assert new.fencing_token > old.fencing_token
    for outcome in Outcome:
        assert report(strategy, old, outcome, worker="old").refused
    assert not strategy.save_checkpoint(1, old.fencing_token, 15, 1)
    assert strategy.renew_partitions("old", [(1, old.fencing_token)])
    assert other.get_partition(1) == new


def test_a_plan_made_before_the_loss_is_refused(backend: Any, clock: Any, strategy: Any) -> None:
    term = strategy.store.acquire_lock("leader", "w", 60.0, 0)
    state = strategy.plan_state()
    state = strategy.plan_partitions(state, term, parts(1), [])
    backend.lose_data()
    with pytest.raises((VersionConflict, LeaseLost)):
        strategy.plan_partitions(state, term, parts(2), [])
    term = strategy.store.acquire_lock("leader", "w", 60.0, 0)
    with pytest.raises(VersionConflict):
        strategy.plan_partitions(state, term, parts(2), [])
    assert strategy.planned_intervals() == []


# -- the leader's plan -----------------------------------------------------------------------------------------------


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


def test_the_plan_of_a_leader_whose_term_is_over_is_refused(
    clock: Any, strategy: Any, other: Any, term: int
) -> None:
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
    assert strategy.note_round(term, 5, None) is False


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


def test_a_leader_that_repeats_a_plan_whose_reply_was_lost_gets_its_answer(strategy: Any, term: int) -> None:
    lose_reply_of(strategy, 1)
    state = strategy.plan_partitions(strategy.plan_state(), term, parts(1, 2), [])
    assert state == strategy.plan_state()
    assert ids(strategy.get_all_partitions()) == [1, 2]


def test_versions_of_the_plan_rise_and_never_repeat(backend: Any, clock: Any, strategy: Any, other: Any) -> None:
    seen = []
    for i in range(1, 9):
        (other if i % 2 else strategy).create_partitions_if_not_exist(parts(i))
        seen.append(strategy.plan_state().version)
        if i % 3 == 0:
            clock.advance(0.001)
            backend.lose_data()
    assert seen == sorted(set(seen))


def test_workers_that_run_low_leave_a_mark_that_the_leader_sees_once(strategy: Any, other: Any, term: int) -> None:
    assert strategy.note_round(term, 2, None)
    strategy.create_partitions_if_not_exist(parts(*range(1, 7)))
    turn(other, free=1)
    assert not strategy.sweep(term=term).hungry, "five are left, above the low water"
    turn(other, free=4)
    assert other.sweep().hungry and not other.sweep().asked, "a worker may look, and clears nothing"
    seen = strategy.sweep(term=term)
    assert seen.hungry and not seen.asked and (seen.pending, seen.held) == (1, 5)
    assert not strategy.sweep(term=term).hungry
    turn(other, free=5)
    assert strategy.sweep(term=term).hungry
    assert not strategy.sweep(term=term).hungry


def test_only_the_leader_of_the_term_clears_the_marks(strategy: Any, other: Any, term: int) -> None:
    other.ask_for_round()
    assert strategy.sweep(term=term - 1).asked
    seen = strategy.sweep(term=term)
    assert seen.hungry and seen.asked
    assert not strategy.sweep(term=term).asked


def test_idleness_is_what_a_full_round_found_about_the_present_plan(clock: Any, strategy: Any, term: int) -> None:
    idle = strategy.idle_state()
    assert (idle.now, idle.open, idle.exhausted) == (clock.seconds, 0, False)
    strategy.create_partitions_if_not_exist(parts(1, 2, 3))
    clock.advance(1.0)
    assert strategy.note_round(term, 0, strategy.plan_state().version)
    idle = strategy.idle_state()
    assert (idle.open, idle.exhausted, idle.exhausted_at) == (3, True, clock.seconds)
    one, two, three = strategy.claim_partitions("w", 3)
    assert strategy.idle_state().open == 3
    report(strategy, one, Outcome.COMPLETED)
    report(strategy, two, Outcome.PERMANENT)
    report(strategy, three, Outcome.ERROR, delay=60.0)
    assert strategy.idle_state().open == 1, "what waits for a retry is open"
    strategy.create_partitions_if_not_exist(parts(4))
    assert not strategy.idle_state().exhausted, "the plan moved on"
    assert strategy.note_round(term - 1, 0, 1) is False


# -- reading ---------------------------------------------------------------------------------------------------------


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


def crowd(backend: Any, clock: Any) -> Any:
    """Return a strategy over partitions in every state, of several workers and ages."""
    strategy = backend.new_strategy(partition_lock_expiry=1000.0)
    strategy.create_partitions_if_not_exist(parts(*range(1, 31)))
    kinds = [*Outcome, None, None]
    for i in range(24):
        clock.advance(1.0)
        worker = "w%d" % (i % 3)
        (claim,) = turn(strategy, worker, lease=1000.0, free=i % 4 and 1, prefetch=not i % 4, suspects=True).granted
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
        and (
            wanted.stale_for is None
            or (p.last_heartbeat is not None and now - p.last_heartbeat >= wanted.stale_for)
        )
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
     {"statuses": ["pending"]}],
)  # fmt: skip
def test_a_filter_that_makes_no_sense_is_refused(facts: Any) -> None:
    with pytest.raises(ConfigError):
        PartitionFilter(**facts)


def test_stats_of_an_empty_namespace_are_zero(strategy: Any) -> None:
    assert strategy.get_partition_stats() == PartitionStats()


def test_stats_count_every_state_and_rates_are_shares_of_all(backend: Any, clock: Any) -> None:
    strategy = crowd(backend, clock)
    stats = strategy.get_partition_stats()
    counts = {status: 0 for status in PartitionStatus}
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


# -- namespaces and life ---------------------------------------------------------------------------------------------


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


def test_a_stopped_strategy_leaves_its_claims_to_their_deadline(clock: Any, strategy: Any, other: Any) -> None:
    claim = claim_one(strategy)
    strategy.stop()
    strategy.stop()
    assert other.get_partition(1) == claim
    clock.advance(LEASE)
    assert ids(other.sweep().reclaimed) == [1]


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
