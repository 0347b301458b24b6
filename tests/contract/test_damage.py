"""What stands in the store and is none of ours, or cannot be read, costs what it names and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from elk_coordinator.errors import StoreError
from elk_coordinator.model import Outcome
from elk_coordinator.partition.audit import verify
from elk_coordinator.partition.simple_strategy import DOCUMENT
from tests.contract.kit import LEASE, ids, parts, report, sound, turn


def pad(partition_id: int) -> bytes:
    return b"%014x" % partition_id


def test_entries_that_are_no_partitions_are_named_and_hide_no_other(hash_backend: Any) -> None:
    strategy = hash_backend.new_strategy(partition_lock_expiry=LEASE)
    strategy.create_partitions_if_not_exist(parts(1, 2, 3))
    for key in ("specs", "state", "done"):
        hash_backend.raw.hset(hash_backend.key(key), "foreign", "x")
    for key in ("pending", "delayed", "suspects", "leases", "failed"):
        hash_backend.raw.zadd(hash_backend.key(key), {"foreign": 0})
    hash_backend.raw.hset(hash_backend.key("archive_index"), "foreign", "x")
    assert ids(strategy.get_all_partitions()) == [1, 2, 3]
    problems = verify(strategy).problems
    for key in ("specs", "state", "done", "pending", "delayed", "suspects", "leases", "failed"):
        assert any(line.startswith("%s holds b'foreign'" % key) for line in problems), problems
    claims = [claim for _ in range(3) for claim in turn(strategy, free=5).granted]
    assert sorted(ids(claims)) == [1, 2, 3]


def test_a_foreign_name_with_a_record_of_its_own_is_set_aside_by_who_claims_it(hash_backend: Any) -> None:
    strategy = hash_backend.new_strategy(partition_lock_expiry=LEASE)
    strategy.create_partitions_if_not_exist(parts(1, 2))
    specs = hash_backend.key("specs")
    hash_backend.raw.hset(specs, "foreign", hash_backend.raw.hget(specs, pad(1)))
    hash_backend.raw.zadd(hash_backend.key("pending"), {"foreign": -999})
    assert sorted(ids(turn(strategy, free=5).granted)) == [1, 2]
    assert hash_backend.raw.smembers(hash_backend.key("corrupt")) == {b"foreign"}
    assert any("foreign" in problem for problem in verify(strategy).problems)


def test_a_damaged_memory_of_the_last_request_holds_nobody_up(hash_backend: Any) -> None:
    strategy = hash_backend.new_strategy(partition_lock_expiry=LEASE)
    strategy.create_partitions_if_not_exist(parts(1, 2))
    (claim,) = turn(strategy, free=1).granted
    streams = hash_backend.key("streams")
    for stream in hash_backend.raw.hkeys(streams):
        hash_backend.raw.hset(streams, stream, "damaged")
    assert not report(strategy, claim, Outcome.COMPLETED).refused
    assert ids(turn(strategy, free=1).granted) == [2]
    sound(strategy)


def test_a_damaged_last_stamp_is_taken_for_lost_and_tokens_rise(hash_backend: Any) -> None:
    clock = hash_backend.stop_time()
    strategy = hash_backend.new_strategy(partition_lock_expiry=LEASE)
    strategy.create_partitions_if_not_exist(parts(1, 2))
    (first,) = turn(strategy, free=1).granted
    hash_backend.raw.hset(hash_backend.key("meta"), mapping={"last": "damaged", "low_water": "damaged"})
    clock.advance(-1.0)
    (second,) = turn(strategy, free=1).granted
    assert second.fencing_token > first.fencing_token
    assert hash_backend.raw.hget(hash_backend.key("meta"), "lost"), "everybody is to hear of it"


@pytest.mark.parametrize("what", ["state", "specs"])
def test_a_damaged_record_is_not_taken_for_pending_by_name(hash_backend: Any, what: str) -> None:
    strategy = hash_backend.new_strategy(partition_lock_expiry=LEASE)
    other = hash_backend.new_strategy(partition_lock_expiry=LEASE)
    strategy.create_partitions_if_not_exist(parts(1))
    known = strategy.get_partition(1)
    turn(strategy, free=1)
    hash_backend.raw.hset(hash_backend.key(what), pad(1), "damaged")
    for call in (lambda: other.acquire_partition(1, "x", force=True), lambda: other.update_partition(known)):
        with pytest.raises(StoreError, match="partition 1 cannot be read"):
            call()
    assert hash_backend.raw.hget(hash_backend.key(what), pad(1)) == b"damaged", "left for whoever can mend it"


def test_damage_of_the_plan_is_an_error_that_says_where(hash_backend: Any) -> None:
    strategy = hash_backend.new_strategy()
    strategy.create_partitions_if_not_exist(parts(1))
    meta = hash_backend.key("meta")
    hash_backend.raw.hset(meta, "max_id", "damaged")
    for call in (strategy.get_partition_stats, strategy.plan_state):
        with pytest.raises(StoreError, match="max_id in meta"):
            call()
    hash_backend.raw.hset(meta, "max_id", 1)
    hash_backend.raw.zadd(hash_backend.key("planned"), {"foreign": 0})
    for call in (strategy.get_partition_stats, strategy.plan_state, strategy.planned_intervals):
        with pytest.raises(StoreError, match="foreign' among the planned intervals"):
            call()


def test_a_damaged_deadline_of_the_leaders_lock_does_not_end_all_leading(hash_backend: Any) -> None:
    store = hash_backend.new_strategy().store
    old = store.acquire_lock("leader", "a", 60.0, 0)
    hash_backend.raw.hset(hash_backend.key("lock:leader"), "deadline", "damaged")
    assert store.read_lock("leader") == ("", 0, 0.0)
    new = store.acquire_lock("leader", "b", 60.0, 0)
    assert new > old and not store.renew_lock("leader", old, 60.0)


@pytest.mark.parametrize("taken", ["leases", "claimed", "corrupt", "failed", "suspects", "delayed", "done", "cancels"])
def test_a_turn_refused_half_way_loses_nothing(hash_backend: Any, taken: str) -> None:
    """A key of a wrong type ends a script in its middle: what it moved is in both places then, never in neither."""
    clock = hash_backend.stop_time()
    strategy = hash_backend.new_strategy(partition_lock_expiry=LEASE, max_attempts=5)
    strategy.create_partitions_if_not_exist(parts(*range(1, 9)))
    raw, key = hash_backend.raw, hash_backend.key(taken)
    done, failing, poison, back = turn(strategy, free=4).granted
    there = raw.exists(key)
    if there:
        raw.rename(key, key + "-aside")
    raw.rpush(key, "x")
    for claim, outcome in ((done, Outcome.COMPLETED), (failing, Outcome.ERROR), (poison, Outcome.PERMANENT),
                           (back, Outcome.RELEASED)):  # fmt: skip
        try:
            report(strategy, claim, outcome)
        except StoreError:
            pass
    try:
        turn(strategy, free=1, prefetch=2)
    except StoreError:
        pass
    raw.delete(key)
    if there:
        raw.rename(key + "-aside", key)
    for _ in range(12):
        clock.advance(LEASE + 70.0)
        strategy.sweep()
        for claim in turn(strategy, free=5).granted:
            report(strategy, claim, Outcome.COMPLETED)
    stats = strategy.get_partition_stats()
    assert (stats.pending, stats.held, stats.total) == (0, 0, 8)
    assert not raw.exists(hash_backend.key("corrupt"))
    sound(strategy)


@pytest.mark.parametrize("backend", ["simple-redis", "simple-memory"], indirect=True)
def test_one_damaged_record_of_a_document_stops_nothing_else_and_is_kept_as_it_is(backend: Any) -> None:
    strategy = backend.new_strategy()
    strategy.create_partitions_if_not_exist(parts(1, 2, 3))
    data, version, _ = strategy.store.get(DOCUMENT)
    document = json.loads(data)
    whole, document["records"]["2"] = document["records"]["2"], ["damaged"]
    assert strategy.store.compare_and_set(DOCUMENT, version, json.dumps(document).encode()) is not None
    for claim in turn(strategy, free=5).granted:
        assert not report(strategy, claim, Outcome.COMPLETED).refused
    assert strategy.get_partition_stats().completed == 2
    assert any(line.startswith("partition 2: ") for line in verify(strategy).problems)
    data, version, _ = strategy.store.get(DOCUMENT)
    document = json.loads(data)
    assert document["records"]["2"] == ["damaged"]
    document["records"]["2"] = whole
    assert strategy.store.compare_and_set(DOCUMENT, version, json.dumps(document).encode()) is not None
    assert ids(turn(strategy, free=5).granted) == [2]
    sound(strategy)
