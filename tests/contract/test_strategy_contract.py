"""What every PartitionStrategy must do with claims: the table of outcomes, tokens, leases, on every store."""

from __future__ import annotations

import threading
from typing import Any, Dict, List

import attr
import pytest

from elk_coordinator.errors import (
    ConfigError,
    IllegalTransition,
    LeaseLost,
    NotOwner,
    PartitionNotFound,
)
from elk_coordinator.model import CreatePartition, Outcome, Partition, PartitionStatus, Report, StrategyType
from elk_coordinator.partition.factory import create_strategy
from elk_coordinator.store.memory_store import MemoryDataStore
from tests.contract.kit import (
    CLAIMED,
    COMPLETED,
    FAILED,
    LEASE,
    PENDING,
    RUNNING,
    TICK,
    beat,
    claim_one,
    ids,
    key_of,
    make_suspects,
    parts,
    report,
    sound,
    turn,
)

# -- building ----------------------------------------------------------------------------------------------------------


def test_an_unknown_strategy_type_is_refused(backend: Any) -> None:
    with pytest.raises(ConfigError, match="strategy"):
        create_strategy("hash", backend.namespace, backend.new_store())


def test_the_hash_strategy_needs_a_redis_store(backend: Any) -> None:
    for store in (MemoryDataStore(), object(), None):
        with pytest.raises(ConfigError, match="RedisDataStore"):
            create_strategy(StrategyType.HASH, backend.namespace, store)


def test_the_simple_strategy_needs_a_store(backend: Any) -> None:
    with pytest.raises(ConfigError, match="DataStore"):
        create_strategy(StrategyType.SIMPLE, backend.namespace, object())


@pytest.mark.parametrize("namespace", ["", "a b", "{a}", "a/b", "x" * 101])
def test_a_namespace_outside_the_rule_is_refused(backend: Any, namespace: str) -> None:
    with pytest.raises(ConfigError):
        create_strategy(backend.strategy_type, namespace, backend.new_store())


def test_a_strategy_says_what_it_is(backend: Any, strategy: Any) -> None:
    assert strategy.strategy_type is backend.strategy_type


# -- claiming ----------------------------------------------------------------------------------------------------------


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
    assert claim.updated_at == pytest.approx(clock.seconds, abs=1e-3) and claim.created_at == clock.seconds - 5.0
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


def test_no_two_grants_have_one_token_while_the_clock_stands_still(backend: Any, clock: Any, strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(*range(1, 10)))
    tokens: List[int] = []
    for _ in range(3):
        # Another process each time: it remembers no token that would make up for what the store forgot to count.
        fresh = backend.new_strategy()
        tokens += [p.fencing_token for p in turn(fresh, free=2, prefetch=1).granted]
    assert len(tokens) == 9 and tokens == sorted(set(tokens))


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


# -- the table of outcomes ---------------------------------------------------------------------------------------------


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
        updated_at=there.version / 1e6,
        last_heartbeat=None,
        completed_at=there.version / 1e6 if completed else None,
    )
    assert there.version > claim.version and there.updated_at == pytest.approx(clock.seconds, abs=1e-3)
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
    clock.advance(10.0 - TICK)
    assert strategy.claim_partitions("w") == []
    clock.advance(TICK)
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


# -- one completion, one owner -----------------------------------------------------------------------------------------


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
    assert not answers[0].refused
    if first is second:
        assert answers[1] == answers[0], "a repeated report gets its first answer"
    else:
        assert answers[1].refused
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
    clock.advance(LEASE - TICK)
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


# -- the holder's public methods ---------------------------------------------------------------------------------------


def test_holding_on_renews_for_a_whole_lease_from_now(clock: Any, strategy: Any) -> None:
    claim = claim_one(strategy)
    for token in (claim.fencing_token, None):
        clock.advance(LEASE - TICK)
        strategy.maintain_partition_hold(1, "w", token)
        there = strategy.get_partition(1)
        assert there.last_heartbeat == clock.seconds
        assert there.version == claim.version, "a renewal is no change"
    clock.advance(LEASE - TICK)
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


@pytest.mark.parametrize("status", [CLAIMED, "completed", None, ["completed"]])
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


# -- heartbeat ---------------------------------------------------------------------------------------------------------


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
    assert (dict(got.cancels), got.paused, got.config_version, got.lost_mark) == ({}, False, 0, 0)
    assert [(w.worker_id, w.remaining, w.info) for w in other.workers()] == [("w", 50.0, {"pid": 1})]
    clock.advance(LEASE - TICK)
    assert ids(other.sweep().reclaimed) == [expired.partition_id]
    clock.advance(TICK)
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
    clock.advance(length / 2 - TICK)
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


@pytest.mark.parametrize(("kind", "newer", "taken"), [
    ("own", -2, False), ("own", -1, True), ("own", 0, True), ("own", 1, False), ("another", 0, False),
])  # fmt: skip
def test_data_of_another_strategy_or_schema_refuses_the_worker(
    backend: Any, strategy: Any, other: Any, kind: str, newer: int, taken: bool
) -> None:
    beat(other, "before")
    name = backend.strategy_type.value if kind == "own" else kind
    if backend.strategy_type is StrategyType.HASH:
        schema = strategy.store.keys.SCHEMA + newer
        backend.raw.hset(backend.key("meta"), mapping={"schema": schema, "strategy": name})
    else:

        def move(document: Any) -> Any:
            document.meta.update(schema=document.SCHEMA + newer, strategy=name)
            return None, True

        strategy.change(move)
    if taken:
        beat(strategy, "w")
    else:
        with pytest.raises(ConfigError, match="schema" if kind == "own" else "strategy"):
            beat(strategy, "w")
    assert [worker.worker_id for worker in other.workers()] == ["before", "w"][: 1 + taken]


# -- checkpoint --------------------------------------------------------------------------------------------------------


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
    clock.advance(LEASE - TICK)
    assert strategy.save_checkpoint(1, claim.fencing_token, 12, 1)
    clock.advance(TICK)
    assert not strategy.save_checkpoint(1, claim.fencing_token, 14, 5)
    assert strategy.get_partition(1).checkpoint == 12


def test_a_prefetched_partition_that_already_runs_may_checkpoint(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    (claim,) = turn(strategy, prefetch=1).granted
    assert strategy.save_checkpoint(1, claim.fencing_token, 12, 1)


# -- leases that ran out, suspects -------------------------------------------------------------------------------------


def test_a_sweep_takes_back_what_ran_out_and_nothing_else(clock: Any, strategy: Any, other: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 2, 3))
    (one,) = strategy.claim_partitions("w1")
    clock.advance(10.0)
    (two,) = other.claim_partitions("w2")
    clock.advance(LEASE - 10.0 - TICK)
    assert other.sweep().reclaimed == []
    clock.advance(TICK)
    (lost,) = other.sweep().reclaimed
    assert (lost.partition_id, lost.worker_id, lost.token) == (1, "w1", one.fencing_token)
    assert (lost.deliveries, lost.status) == (1, PENDING)
    there = strategy.get_partition(1)
    assert (there.status, there.attempt, there.deliveries, there.last_heartbeat) == (PENDING, 0, 1, None)
    assert there.version > one.version and there.updated_at == pytest.approx(clock.seconds, abs=1e-3)
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
    clock.advance(LEASE - TICK)
    assert turn(other, free=1).expired is False
    clock.advance(TICK)
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


def test_a_suspect_is_claimed_alone_however_much_was_asked_for(strategy: Any) -> None:
    make_suspects(strategy, 1, 2)
    assert all(p.is_suspect for p in strategy.get_all_partitions())
    strategy.create_partitions_if_not_exist(parts(3, 4))
    assert [ids(turn(strategy, free=3, prefetch=2).granted) for _ in range(3)] == [[1], [2], [3, 4]]
    sound(strategy)


def test_what_two_sweeps_took_back_is_a_suspect(clock: Any, strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 2))
    for _ in range(2):
        assert ids(turn(strategy, free=2).granted) == [1, 2]
        clock.advance(LEASE)
        assert len(strategy.sweep().reclaimed) == 2
    assert ids(turn(strategy, free=2).granted) == [1]


def test_a_suspect_waits_for_its_place_in_the_queue(strategy: Any) -> None:
    make_suspects(strategy, 5)
    strategy.create_partitions_if_not_exist([*parts(3, 7), *parts(9, priority=1)])
    assert [ids(strategy.claim_partitions("w", n)) for n in (2, 1, 5)] == [[9, 3], [5], [7]]


def test_a_suspect_is_never_prefetched_and_only_given_to_who_may_have_one(strategy: Any) -> None:
    make_suspects(strategy, 1)
    assert turn(strategy, prefetch=3).granted == []
    assert turn(strategy, free=3, suspects=False).granted == []
    strategy.create_partitions_if_not_exist(parts(7))
    assert ids(turn(strategy, free=3, suspects=False).granted) == [7], "a suspect in front blocks nobody"
    assert ids(turn(strategy, free=1).granted) == [1]


def test_a_suspect_stays_one_after_an_error_and_a_release(clock: Any, strategy: Any) -> None:
    make_suspects(strategy, 1)
    for outcome, delay in ((Outcome.RELEASED, 0.0), (Outcome.ERROR, 0.0), (Outcome.ERROR, 5.0)):
        (claim,) = turn(strategy, free=1).granted
        report(strategy, claim, outcome, delay=delay)
        clock.advance(delay)
        assert turn(strategy, prefetch=3).granted == []
        sound(strategy)


def test_a_lease_never_lasts_longer_than_its_length_after_the_clock_went_back(
    clock: Any, strategy: Any, other: Any
) -> None:
    """A dead worker's lease, with the server's clock set back by an hour: nobody waits an hour."""
    claim = claim_one(strategy)
    clock.advance(-3600.0)
    assert other.sweep().reclaimed == []
    clock.advance(LEASE - TICK)
    assert other.sweep().reclaimed == []
    clock.advance(TICK)
    assert ids(other.sweep().reclaimed) == [1]
    (again,) = other.claim_partitions("x")
    assert again.fencing_token > claim.fencing_token
    sound(strategy)


def test_a_lease_is_clamped_to_its_own_length_whoever_sweeps(backend: Any, clock: Any, strategy: Any) -> None:
    hasty = backend.new_strategy(partition_lock_expiry=5.0)
    claim_one(strategy)
    clock.advance(-3600.0)
    hasty.sweep()
    clock.advance(LEASE - TICK)
    assert hasty.sweep().reclaimed == []
    clock.advance(TICK)
    assert ids(hasty.sweep().reclaimed) == [1]


def test_a_live_worker_keeps_its_lease_when_the_clock_goes_back(clock: Any, strategy: Any, other: Any) -> None:
    claim = claim_one(strategy)
    clock.advance(-3600.0)
    for _ in range(4):
        clock.advance(LEASE - TICK)
        assert not beat(strategy, claims=[key_of(claim)]).lost
        assert other.sweep().reclaimed == []
    assert strategy.save_checkpoint(1, claim.fencing_token, 15, 1)
    assert report(strategy, claim, Outcome.COMPLETED).status is COMPLETED


def test_a_clock_that_jumps_forward_costs_a_delivery_and_breaks_nothing(clock: Any, strategy: Any, other: Any) -> None:
    claim = claim_one(strategy)
    clock.advance(3600.0)
    assert beat(strategy, claims=[key_of(claim)]).lost == {key_of(claim)}
    assert ids(other.sweep().reclaimed) == [1]
    assert report(strategy, claim, Outcome.COMPLETED).refused
    assert ids(other.claim_partitions("x")) == [1]
    sound(strategy)


# -- acquiring one by its id -----------------------------------------------------------------------------------------


def test_a_pending_partition_is_acquired_by_its_id_whatever_the_queue_says(
    clock: Any, strategy: Any, other: Any
) -> None:
    strategy.create_partitions_if_not_exist([*parts(1, priority=9), CreatePartition(2, 20, 29, -5, {"k": 1})])
    got = strategy.acquire_partition(2, "w")
    assert (got.partition_id, got.status, got.worker_id, got.priority) == (2, RUNNING, "w", -5)
    assert got.options == {"k": 1} and got.last_heartbeat == clock.seconds
    assert other.get_partition(2) == got
    assert ids(other.claim_partitions("x", 5)) == [1]
    assert report(strategy, got, Outcome.COMPLETED).status is COMPLETED
    sound(strategy)


def test_an_acquired_suspect_and_a_delayed_one_leave_their_queues(clock: Any, strategy: Any) -> None:
    make_suspects(strategy, 1)
    strategy.create_partitions_if_not_exist(parts(2, priority=1))
    report(strategy, strategy.claim_partitions("w")[0], Outcome.ERROR, delay=5.0)
    for number in (1, 2):
        assert strategy.acquire_partition(number, "w").status is RUNNING
    clock.advance(5.0)
    assert strategy.claim_partitions("w", 5) == []
    sound(strategy)


@pytest.mark.parametrize("status", [RUNNING, CLAIMED])
def test_a_partition_under_a_lease_is_not_acquired_not_even_by_its_holder(
    strategy: Any, other: Any, status: PartitionStatus
) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    (claim,) = turn(strategy, free=int(status is RUNNING), prefetch=int(status is CLAIMED)).granted
    assert other.acquire_partition(1, "x") is None
    assert strategy.acquire_partition(1, "w") is None
    assert strategy.get_partition(1) == claim


@pytest.mark.parametrize("outcome", [Outcome.COMPLETED, Outcome.PERMANENT])
@pytest.mark.parametrize("force", [False, True])
def test_what_rests_is_not_acquired(strategy: Any, outcome: Outcome, force: bool) -> None:
    report(strategy, claim_one(strategy), outcome)
    assert strategy.acquire_partition(1, "w", force=force) is None
    sound(strategy)


def test_acquiring_what_does_not_exist_is_an_error(strategy: Any) -> None:
    with pytest.raises(PartitionNotFound):
        strategy.acquire_partition(1, "w")
    for wrong in (0, -1, 2**53, "1", None, True):
        with pytest.raises(ConfigError):
            strategy.acquire_partition(wrong, "w")
    with pytest.raises(ConfigError):
        strategy.acquire_partition(1, "a b")


@pytest.mark.parametrize("status", [RUNNING, CLAIMED])
def test_a_lease_that_ran_out_is_taken_over_unless_that_is_not_wanted(
    clock: Any, strategy: Any, other: Any, status: PartitionStatus
) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    (old,) = turn(strategy, free=int(status is RUNNING), prefetch=int(status is CLAIMED)).granted
    clock.advance(LEASE - TICK)
    assert other.acquire_partition(1, "x") is None
    clock.advance(TICK)
    assert other.acquire_partition(1, "x", allow_preemption=False) is None
    new = other.acquire_partition(1, "x")
    assert (new.status, new.worker_id, new.deliveries, new.attempt) == (RUNNING, "x", 1, 0)
    assert new.fencing_token > old.fencing_token
    assert report(strategy, old, Outcome.COMPLETED).refused
    assert other.sweep().reclaimed == []
    sound(strategy)


def test_a_takeover_that_uses_up_the_deliveries_rests_as_failed(backend: Any, clock: Any) -> None:
    strategy = backend.new_strategy(max_deliveries=2, partition_lock_expiry=LEASE)
    strategy.create_partitions_if_not_exist(parts(1))
    strategy.claim_partitions("w")
    clock.advance(LEASE)
    assert strategy.acquire_partition(1, "w").deliveries == 1
    clock.advance(LEASE)
    assert strategy.acquire_partition(1, "w") is None
    there = strategy.get_partition(1)
    assert (there.status, there.deliveries) == (FAILED, 2) and "lost 2 times" in there.error
    sound(strategy)


@pytest.mark.parametrize("status", [RUNNING, CLAIMED])
def test_force_takes_a_running_lease_and_the_old_holder_learns_at_its_next_beat(
    strategy: Any, other: Any, status: PartitionStatus
) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    (old,) = turn(strategy, free=int(status is RUNNING), prefetch=int(status is CLAIMED)).granted
    new = other.acquire_partition(1, "x", force=True)
    assert (new.status, new.worker_id, new.deliveries) == (RUNNING, "x", 0)
    assert beat(strategy, claims=[key_of(old)]).lost == {key_of(old)}
    assert not strategy.save_checkpoint(1, old.fencing_token, 15, 1)
    assert report(strategy, old, Outcome.COMPLETED).refused
    assert report(other, new, Outcome.COMPLETED).status is COMPLETED
    sound(strategy)
