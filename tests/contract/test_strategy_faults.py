"""What every PartitionStrategy must bear: repeated and late requests, lost replies, a store that lost its data."""

from __future__ import annotations

from typing import Any, List

import pytest

from elk_coordinator.errors import LeaseLost, StateError, StoreError, VersionConflict
from elk_coordinator.model import Outcome, PartitionStats, Report
from elk_coordinator.partition.requests import BeatRequest, TurnRequest
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
    parts,
    report,
    sound,
    turn,
)

# -- replays and late requests -----------------------------------------------------------------------------------------


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


def test_a_late_beat_that_renews_nothing_is_refused_as_well(strategy: Any) -> None:
    claim = claim_one(strategy)
    stream = strategy.stream("testbeat")
    strategy.beat(BeatRequest("w", stream, 2, 60.0, LEASE, {}, [key_of(claim)]))
    before = strategy.get_partition(1)
    with pytest.raises(StateError, match="overtaken"):
        strategy.beat(BeatRequest("w", stream, 1, 60.0, LEASE, {}, []))
    assert strategy.get_partition(1) == before
    assert strategy.beat(BeatRequest("w", stream, 3, 60.0, LEASE, {}, [key_of(claim)])).lost == frozenset()


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_a_lost_reply_counts_nothing_twice(backend: Any, strategy: Any, nth: int) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 2, 3))
    backend.lose_reply(strategy, nth)
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


def test_an_acquisition_that_is_sent_twice_has_one_grant(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    first = strategy._acquire(1, "w", 1, True, False)
    assert first is not None
    again = strategy._acquire(1, "w", 1, True, False)
    assert again is not None and again.fencing_token == first.fencing_token


def test_an_acquisition_that_arrives_late_takes_nothing(hash_backend: Any) -> None:
    strategy = hash_backend.new_strategy()
    strategy.create_partitions_if_not_exist(parts(1, 2))
    assert strategy._acquire(1, "w", 2, True, False) is not None
    before = hash_backend.dump()
    with pytest.raises(StateError):
        strategy._acquire(2, "w", 1, True, False)
    assert hash_backend.dump() == before


# -- data loss ---------------------------------------------------------------------------------------------------------


def test_tokens_rise_over_data_loss_also_with_the_clock_set_back(backend: Any, clock: Any, strategy: Any) -> None:
    before = claim_one(strategy)
    backend.lose_data()
    clock.advance(-3600.0)
    after = claim_one(strategy)
    assert after.fencing_token > before.fencing_token
    assert after.version > before.version


def test_after_data_loss_the_next_call_tells_and_old_claims_are_gone(
    backend: Any, clock: Any, strategy: Any, other: Any
) -> None:
    claim = claim_one(strategy)
    assert beat(strategy).lost_mark == 0
    backend.lose_data()
    clock.advance(-1.0)
    got = beat(strategy, claims=[(1, claim.fencing_token)])
    assert got.lost_mark > claim.fencing_token and got.lost == {(1, claim.fencing_token)}
    assert beat(strategy).lost_mark == got.lost_mark, "one loss, one mark"
    assert beat(other, "x").lost_mark == got.lost_mark, "and everybody reads it"
    assert report(strategy, claim, Outcome.COMPLETED).refused
    assert not strategy.save_checkpoint(1, claim.fencing_token, 12, 1)
    assert strategy.get_partition_stats() == PartitionStats()
    assert [w.worker_id for w in strategy.workers()] == ["w", "x"]
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


def test_a_loss_that_a_turn_proves_is_read_by_every_beat(backend: Any, clock: Any, strategy: Any, other: Any) -> None:
    claim = claim_one(strategy)
    backend.lose_data()
    clock.advance(-1.0)
    assert beat(other, "x").lost_mark == 0, "who remembers nothing proves nothing"
    turn(strategy, free=1)
    assert beat(other, "x").lost_mark > claim.fencing_token


def test_a_memory_more_than_a_day_ahead_is_refused_and_changes_nothing(
    backend: Any, clock: Any, strategy: Any, other: Any
) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    strategy.memory.saw(int((clock.seconds + 2 * 86400) * 1e6))
    with pytest.raises(StoreError, match="more than a day ahead"):
        strategy.claim_partitions("w")
    (claim,) = other.claim_partitions("w")
    assert claim.fencing_token < (clock.seconds + 60) * 1e6, "tokens were not pushed away"


def test_a_claim_of_before_the_loss_cannot_end_the_partition_of_after_it(
    backend: Any, clock: Any, strategy: Any, other: Any
) -> None:
    old = claim_one(strategy, "old")
    clock.advance(TICK)
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


# -- retries that come due, and work that comes back -----------------------------------------------------------------


@pytest.mark.parametrize("delay", [2.0, 0.25])
def test_a_turn_that_got_too_little_is_told_when_the_next_retry_comes_due(
    clock: Any, strategy: Any, other: Any, delay: float
) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 2))
    first, second = turn(strategy, free=2).granted
    report(strategy, first, Outcome.ERROR, delay=30.0)
    assert turn(other, free=1).due_in == 30.0
    report(strategy, second, Outcome.ERROR, delay=delay)
    assert turn(other, free=1).due_in == delay, "the soonest"
    clock.advance(delay - TICK)
    late = turn(other, free=1)
    assert (late.due_in, late.granted) == (TICK, [])
    clock.advance(TICK)
    assert ids(turn(other, free=1).granted) == [2]


def test_who_gets_all_it_wants_wants_nothing_or_may_not_claim_is_told_of_no_retry(backend: Any, strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 2))
    assert turn(strategy, free=0).due_in is None
    (claim,) = turn(strategy, free=1).granted
    report(strategy, claim, Outcome.ERROR, delay=30.0)
    assert turn(strategy, free=0).due_in is None
    assert turn(strategy, free=1).due_in is None
    assert turn(strategy, free=1).due_in is not None


@pytest.mark.parametrize(
    "outcome, told", [(Outcome.RELEASED, True), (Outcome.COMPLETED, False), (Outcome.ERROR, False)]
)
def test_idle_workers_hear_at_once_of_work_that_comes_back(
    strategy: Any, other: Any, outcome: Outcome, told: bool
) -> None:
    claim = claim_one(strategy)
    heard: List[Any] = []
    assert other.store.wait("work", 0.01) is None  # subscribes
    report(strategy, claim, outcome, delay=5.0 if outcome is Outcome.ERROR else 0.0)
    heard.append(other.store.wait("work", 10.0 if told else 0.05))
    assert heard == ["work" if told else None]


# -- nothing disappears because nobody looked --------------------------------------------------------------------------


def test_work_outlives_every_silence(backend: Any, clock: Any, strategy: Any, other: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 2, 3, 4, 5))
    held, done, failed, late = turn(strategy, free=4).granted
    report(strategy, done, Outcome.COMPLETED)
    report(strategy, failed, Outcome.PERMANENT, error="bad")
    report(strategy, late, Outcome.ERROR, delay=60.0)
    assert strategy.save_checkpoint(1, held.fencing_token, held.min_id + 3, 4)
    beat(strategy, claims=[(1, held.fencing_token)], ttl=5.0)
    clock.advance(400 * 86400.0)
    assert [p.status for p in other.get_all_partitions()] == [RUNNING, COMPLETED, FAILED, PENDING, PENDING]
    assert [r.partition_id for r in other.sweep().reclaimed] == [1]
    assert ids(turn(other, free=9).granted) == [1, 4, 5]
    assert other.get_partition(1).checkpoint == held.min_id + 3
    sound(other)
    if hasattr(backend, "raw"):
        assert {backend.raw.ttl(key) for key in backend.raw.keys("elk:*")} == {-1}, "no key has a time to live"
