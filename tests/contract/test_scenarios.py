"""What the original never tested, or got wrong: damaged records, stopping in bad moments, owners that died."""

from __future__ import annotations

import logging
from typing import Any, List

import pytest

from elk_coordinator.errors import ElkError, PartitionNotFound, StoreError
from elk_coordinator.model import Outcome, PartitionFilter
from elk_coordinator.partition.audit import verify
from elk_coordinator.partition.simple_strategy import DOCUMENT
from tests.contract.kit import LEASE, PENDING, ids, parts, report, sound, turn

DAMAGE = [b"", b"x", b"10 20", b"\xff\xfe\x00", b"a b c", b"10 9 8 {", b'{"min_id": 1}']


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_corrupt_record_is_set_aside_and_hides_no_other(
    hash_backend: Any, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    strategy = hash_backend.new_strategy(partition_lock_expiry=LEASE)
    strategy.create_partitions_if_not_exist(parts(*range(1, 6)))
    hash_backend.raw.hset(hash_backend.key("specs"), b"%014x" % 3, damage)
    caplog.set_level(logging.ERROR)
    for read in (
        strategy.get_all_partitions,
        strategy.get_all_active_partitions,
        lambda: strategy.get_filtered_partitions(PartitionFilter(statuses=PENDING)),
    ):
        assert ids(read()) == [1, 2, 4, 5]
    with pytest.raises(ElkError):
        strategy.get_partition(3)
    claims: List[Any] = []
    for _ in range(4):
        claims += turn(strategy, free=5).granted
    assert sorted(ids(claims)) == [1, 2, 4, 5], "the rest goes on, and the damaged one is nobody's"
    for claim in claims:
        assert not report(strategy, claim, Outcome.COMPLETED).refused
    assert turn(strategy, free=5).granted == []
    found = verify(strategy)
    assert any("partition 3" in problem for problem in found.problems), found.problems
    assert strategy.get_partition_stats().completed == 4


@pytest.mark.parametrize("backend", ["simple-redis", "simple-memory"], indirect=True)
def test_an_empty_document_is_nothing_and_a_damaged_one_is_an_error_and_no_empty_namespace(backend: Any) -> None:
    """A reader that took damage for emptiness would have the leader plan everything again."""
    strategy = backend.new_strategy()
    strategy.create_partitions_if_not_exist(parts(1, 2))
    data, version, _ = strategy.store.get(DOCUMENT)
    assert data is not None
    for damage in (b"{", b"\xff", data[: len(data) // 2], b"", b"{}", b"[]", b"7", b'{"records": []}'):
        version = strategy.store.compare_and_set(DOCUMENT, version, damage)
        assert version is not None
        for call in (
            strategy.get_all_partitions,
            strategy.get_partition_stats,
            strategy.planned_intervals,
            lambda: strategy.claim_partitions("w"),
            lambda: strategy.create_partitions_if_not_exist(parts(3)),
        ):
            with pytest.raises(StoreError):
                call()
        assert strategy.store.get(DOCUMENT)[0] == damage, "nobody wrote over what may still be rescued"
    assert strategy.store.compare_and_set(DOCUMENT, version, data) is not None
    assert ids(strategy.get_all_partitions()) == [1, 2]
    sound(strategy)


def test_a_strategy_with_many_claims_gives_them_back_in_few_round_trips(strategy: Any, other: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(*range(1, 701)))
    assert len(strategy.claim_partitions("a", 400)) == 400
    assert len(strategy.claim_partitions("b", 250)) == 250
    calls: List[Any] = []
    ask = strategy.turn

    def counted(request: Any) -> Any:
        calls.append(request)
        return ask(request)

    strategy.turn = counted
    strategy.stop()
    assert len(calls) == 2, "one per worker and 500 claims"
    stats = other.get_partition_stats()
    assert (stats.pending, stats.held) == (700, 0)
    assert all(p.attempt == 0 for p in other.get_all_partitions())
    sound(other)


def test_a_strategy_that_stops_without_its_store_says_so_and_does_not_hang(backend: Any, other: Any) -> None:
    store = backend.new_store()
    strategy = backend.new_strategy(store, partition_lock_expiry=LEASE)
    strategy.create_partitions_if_not_exist(parts(1))
    (claim,) = strategy.claim_partitions("w")
    store.close()
    with pytest.raises(ElkError, match="closed"):
        strategy.stop()
    assert other.get_partition(1) == claim, "its lease brings it back"


def test_a_dead_owners_work_comes_back_also_where_no_worker_may_preempt(clock: Any, strategy: Any, other: Any) -> None:
    """Without preemption a claim never takes it; the leader's sweep does, whoever led before."""
    strategy.create_partitions_if_not_exist(parts(1))
    (dead,) = strategy.claim_partitions("dead")
    clock.advance(LEASE)
    assert other.acquire_partition(1, "x", allow_preemption=False) is None
    assert turn(other, "x", free=1).granted == [], "a claim takes from the queue only"
    assert ids(other.sweep().reclaimed) == [1]
    (again,) = turn(other, "x", free=1).granted
    assert again.fencing_token > dead.fencing_token and again.deliveries == 1
    assert report(strategy, dead, Outcome.COMPLETED, "dead").refused
    sound(other)


def test_a_sweep_takes_back_what_ran_out_first_first(clock: Any, strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(*range(1, 6)))
    for partition_id in (4, 2, 5, 1, 3):
        assert strategy.acquire_partition(partition_id, "w") is not None
        clock.advance(1.0)
    strategy.maintain_partition_hold(2, "w")
    clock.advance(LEASE)
    got = [ids(strategy.sweep(limit=1).reclaimed) for _ in range(6)]
    assert got[:3] == [[4], [5], [1]]
    assert got[3:] == [[3], [2], []]
    sound(strategy)


def test_what_never_existed_stays_unknown_to_every_method_after_it_was_deleted(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    (claim,) = strategy.claim_partitions("w")
    report(strategy, claim, Outcome.COMPLETED)
    assert strategy.delete_partition(1)
    for call in (
        lambda: strategy.get_partition(1),
        lambda: strategy.release_partition(1, "w"),
        lambda: strategy.maintain_partition_hold(1, "w"),
        lambda: strategy.acquire_partition(1, "w", force=True),
        lambda: strategy.update_partition(claim),
    ):
        with pytest.raises(PartitionNotFound):
            call()
    assert report(strategy, claim, Outcome.COMPLETED).refused
    sound(strategy)


def test_what_cannot_be_read_when_it_is_claimed_is_set_aside_and_named(hash_backend: Any) -> None:
    strategy = hash_backend.new_strategy()
    strategy.create_partitions_if_not_exist(parts(1, 2, 3))
    hash_backend.raw.hset(hash_backend.key("state"), "%014x" % 1, "nonsense")
    hash_backend.raw.hdel(hash_backend.key("specs"), "%014x" % 2)
    assert ids(strategy.claim_partitions("w", 3)) == [3]
    assert hash_backend.raw.smembers(hash_backend.key("corrupt")) == {b"%014x" % 1, b"%014x" % 2}
