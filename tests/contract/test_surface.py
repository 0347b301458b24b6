"""Every word of the public surface of a PartitionStrategy, said once more as tables and races: nothing is left open."""

from __future__ import annotations

import threading
from typing import Any, Callable, Dict, List, Optional

import attr
import pytest

from elk_coordinator.errors import (
    ConfigError,
    ElkError,
    IllegalTransition,
    NotOwner,
    PartitionNotFound,
    RangeConflict,
    VersionConflict,
)
from elk_coordinator.model import (
    HELD,
    MAX_ID,
    MAX_PARTITION_ID,
    MIN_ID,
    MOVES,
    CreatePartition,
    Outcome,
    Partition,
    PartitionFilter,
    PartitionStats,
    PartitionStatus,
    Report,
)
from tests.contract.kit import (
    CLAIMED,
    COMPLETED,
    FAILED,
    LEASE,
    PENDING,
    RUNNING,
    TICK,
    claim_one,
    ids,
    parts,
    report,
    sound,
    turn,
)


def in_state(strategy: Any, status: PartitionStatus, worker: str = "w", partition_id: int = 1) -> Partition:
    """Create one partition and bring it into *status*; return it as it is then. Nothing else may be claimable."""
    strategy.create_partitions_if_not_exist(parts(partition_id))
    if status is not PENDING:
        (claim,) = turn(strategy, worker, free=int(status is not CLAIMED), prefetch=int(status is CLAIMED)).granted
        if status is COMPLETED:
            report(strategy, claim, Outcome.COMPLETED, worker)
        elif status is FAILED:
            report(strategy, claim, Outcome.PERMANENT, worker, error="broken")
    there: Partition = strategy.get_partition(partition_id)
    assert there.status is status
    return there


def together(*calls: Callable[[], Any]) -> List[Any]:
    """Make all calls at the same time; return what each returned or raised."""
    out: List[Any] = [None] * len(calls)
    gate = threading.Barrier(len(calls))

    def run(i: int) -> None:
        gate.wait()
        try:
            out[i] = calls[i]()
        except ElkError as exc:
            out[i] = exc

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return out


# -- the table of moves, through every public method -------------------------------------------------------------------


@pytest.mark.parametrize("after", list(PartitionStatus))
@pytest.mark.parametrize("before", list(PartitionStatus))
def test_a_status_update_follows_the_table_of_moves_for_every_pair(
    strategy: Any, before: PartitionStatus, after: PartitionStatus
) -> None:
    there = in_state(strategy, before)
    if before not in HELD:
        with pytest.raises(NotOwner):
            strategy.update_partition_status(1, "w", after)
    elif (before, after) in MOVES:
        moved = strategy.update_partition_status(1, "w", after, token=there.fencing_token)
        assert moved.status is after and moved.version > there.version
        assert moved == strategy.get_partition(1)
        sound(strategy)
        return
    else:
        for token in (None, there.fencing_token):
            with pytest.raises(IllegalTransition):
                strategy.update_partition_status(1, "w", after, token=token)
    assert strategy.get_partition(1) == there
    sound(strategy)


@pytest.mark.parametrize("status", list(PartitionStatus))
def test_only_what_is_held_is_released_and_held_on_to(strategy: Any, status: PartitionStatus) -> None:
    there = in_state(strategy, status)
    if status in HELD:
        strategy.maintain_partition_hold(1, "w")
        assert strategy.get_partition(1).version == there.version
        strategy.release_partition(1, "w")
        assert strategy.get_partition(1).status is PENDING
    else:
        for call in (strategy.maintain_partition_hold, strategy.release_partition):
            with pytest.raises(NotOwner):
                call(1, "w")
        assert strategy.get_partition(1) == there
    sound(strategy)


def test_released_by_one_acquired_by_another_and_released_by_the_first_in_vain(strategy: Any, other: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    first = strategy.acquire_partition(1, "a")
    assert other.acquire_partition(1, "b") is None
    strategy.release_partition(1, "a", first.fencing_token)
    second = other.acquire_partition(1, "b")
    assert second.fencing_token > first.fencing_token
    with pytest.raises(NotOwner):
        strategy.release_partition(1, "a")
    assert other.get_partition(1) == second
    sound(strategy)


@pytest.mark.parametrize(
    "facts",
    [
        # Outside the partition, [10, 19]: the next attempt would begin behind work that nobody did.
        {"checkpoint": 20}, {"checkpoint": 8}, {"checkpoint": 2**64},
        {"checkpoint": None}, {"checkpoint": "15"}, {"checkpoint": 15.0}, {"checkpoint": True}, {"checkpoint": []},
        {"checkpoint": float("nan")}, {"processed": -1}, {"processed": 2**53}, {"processed": "3"}, {"processed": 1.5},
        {"processed": None}, {"processed": True}, {"error": 5}, {"error": b"broken"}, {"error": ["broken"]},
    ],
)  # fmt: skip
def test_facts_that_cannot_be_are_refused_before_anything_changes(strategy: Any, facts: Dict[str, Any]) -> None:
    there = in_state(strategy, RUNNING)
    for status in (PENDING, COMPLETED, FAILED):
        with pytest.raises(ConfigError):
            strategy.update_partition_status(1, "w", status, facts)
    assert strategy.get_partition(1) == there
    sound(strategy)


def test_a_checkpoint_may_stand_anywhere_from_before_the_first_to_the_last_id(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    for checkpoint in (9, 10, 19):
        claim = strategy.acquire_partition(1, "w")
        facts = {"checkpoint": checkpoint, "processed": 3, "error": "so far"}
        moved = strategy.update_partition_status(1, "w", PENDING, facts, claim.fencing_token)
        assert (moved.checkpoint, moved.processed) == (checkpoint, 3)


@pytest.mark.parametrize("token", ["1", 1.0, True, -1, 2**53, b"1", [1]])
def test_a_token_that_cannot_be_one_is_refused(strategy: Any, token: Any) -> None:
    there = in_state(strategy, RUNNING)
    calls: List[Callable[[], Any]] = [
        lambda: strategy.update_partition_status(1, "w", COMPLETED, token=token),
        lambda: strategy.release_partition(1, "w", token),
        lambda: strategy.maintain_partition_hold(1, "w", token),
        lambda: strategy.renew_partitions("w", [(1, token)]),
        lambda: strategy.report_partitions("w", [Report(1, token, Outcome.COMPLETED)]),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match="token"):
            call()
    assert strategy.get_partition(1) == there


def test_what_is_no_request_at_all_is_refused_by_name(strategy: Any) -> None:
    there = in_state(strategy, RUNNING)
    good = Report(1, there.fencing_token, Outcome.ERROR, error="broken")
    calls: Dict[str, Callable[[], Any]] = {
        "delay": lambda: strategy.report_partitions("w", [attr.evolve(good, delay=float("nan"))]),
        "Report objects": lambda: strategy.report_partitions("w", [(1, there.fencing_token)]),
        "Outcome": lambda: strategy.report_partitions("w", [attr.evolve(good, outcome="E")]),
        "error must": lambda: strategy.report_partitions("w", [attr.evolve(good, error=5)]),
        "processed must": lambda: strategy.report_partitions("w", [good, attr.evolve(good, processed=-1)]),
        "takes a Partition": lambda: strategy.update_partition({"partition_id": 1}),
        "a dict as options": lambda: strategy.update_partition(attr.evolve(there, options=["k"])),
        "error must be": lambda: strategy.update_partition(attr.evolve(there, error=5)),
        "a PartitionFilter": lambda: strategy.get_filtered_partitions({"statuses": ["running"]}),
        "partition_id": lambda: strategy.renew_partitions("w", [("1", there.fencing_token)]),
    }
    for words, call in calls.items():
        with pytest.raises(ConfigError, match=words):
            call()
    assert strategy.get_partition(1) == there
    sound(strategy)


# -- acquiring by id ---------------------------------------------------------------------------------------------------

#: What stands there -> who gets it for (allow_preemption, force) of (yes, no), (no, no), (yes, yes), (no, yes).
ACQUIRES: Dict[str, List[bool]] = {
    "pending": [True, True, True, True],
    "delayed": [True, True, True, True],
    "claimed": [False, False, True, True],
    "running": [False, False, True, True],
    "expired": [True, False, True, True],
    "completed": [False, False, False, False],
    "failed": [False, False, False, False],
}


@pytest.mark.parametrize("choice", range(4))
@pytest.mark.parametrize("state", sorted(ACQUIRES))
def test_acquiring_by_id_for_every_state_with_and_without_preemption_and_force(
    clock: Any, strategy: Any, other: Any, state: str, choice: int
) -> None:
    status = {"delayed": RUNNING, "expired": RUNNING}.get(state) or PartitionStatus(state)
    there = in_state(strategy, status)
    if state == "delayed":
        report(strategy, there, Outcome.ERROR, delay=100.0)
    elif state == "expired":
        clock.advance(LEASE)
    there = strategy.get_partition(1)
    allow, force = [(True, False), (False, False), (True, True), (False, True)][choice]
    got = other.acquire_partition(1, "x", allow_preemption=allow, force=force)
    assert (got is not None) is ACQUIRES[state][choice]
    if got is None:
        assert strategy.get_partition(1) == there
    else:
        assert (got.status, got.worker_id, got.attempt) == (RUNNING, "x", there.attempt)
        assert got.fencing_token > there.fencing_token
        assert got == strategy.get_partition(1)
        if status in HELD and state != "delayed":
            assert report(strategy, there, Outcome.COMPLETED).refused, "the old holder is out"
        assert report(other, got, Outcome.COMPLETED, "x").status is COMPLETED
    sound(strategy)


def test_of_ten_who_acquire_one_partition_one_gets_it_and_nine_hear_no_error(backend: Any, strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    # The strategies before the race: what is measured is the step, not the connecting.
    peers = [backend.new_strategy(partition_lock_expiry=LEASE) for _ in range(10)]
    got = together(*[lambda i=i: peers[i].acquire_partition(1, "w%d" % i) for i in range(10)])
    (winner,) = [p for p in got if p is not None]
    assert winner == strategy.get_partition(1)
    sound(strategy)


def test_different_partitions_are_acquired_at_the_same_time_without_losing_one(backend: Any, strategy: Any) -> None:
    """The original's document strategy lost one of two such claims."""
    strategy.create_partitions_if_not_exist(parts(*range(1, 9)))
    peers = [backend.new_strategy(partition_lock_expiry=LEASE) for _ in range(8)]
    got = together(*[lambda i=i: peers[i].acquire_partition(i + 1, "w%d" % i) for i in range(8)])
    assert [p.worker_id for p in strategy.get_all_partitions()] == ["w%d" % i for i in range(8)]
    assert got == strategy.get_all_partitions()
    done = together(
        *[
            lambda i=i: peers[i].update_partition_status(i + 1, "w%d" % i, COMPLETED, token=got[i].fencing_token)
            for i in range(8)
        ]
    )
    assert [p.status for p in done] == [COMPLETED] * 8
    assert strategy.get_partition_stats().completed == 8
    sound(strategy)


# -- filters -----------------------------------------------------------------------------------------------------------


def test_every_word_of_a_filter_by_itself(clock: Any, strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(*range(1, 9)))
    one, two = strategy.claim_partitions("a", 2)
    clock.advance(10.0)
    three, four = strategy.claim_partitions("b", 2)
    (five,) = turn(strategy, "b", prefetch=1).granted
    report(strategy, two, Outcome.COMPLETED, "a")
    report(strategy, four, Outcome.PERMANENT, "b")
    cases = [
        ({}, [1, 3, 4, 5, 6, 7, 8]),
        ({"include_archived": True}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({"statuses": PENDING}, [6, 7, 8]),
        ({"statuses": CLAIMED}, [5]),
        ({"statuses": [RUNNING, FAILED]}, [1, 3, 4]),
        ({"statuses": COMPLETED}, [2]),
        ({"statuses": [COMPLETED, CLAIMED]}, [2, 5]),
        ({"worker_id": "b", "statuses": HELD}, [3, 5]),
        ({"worker_id": "a", "include_archived": True}, [1, 2]),
        ({"worker_id": "nobody"}, []),
        ({"exclude_worker_id": "b", "statuses": HELD}, [1]),
        ({"stale_for": 10.0}, [1]),
        ({"stale_for": 10.000001}, []),
        ({"stale_for": 0.0}, [1, 3, 5]),
        ({"stale_for": 0.0, "exclude_worker_id": "a"}, [3, 5]),
        ({"stale_for": 10.0, "exclude_worker_id": "a"}, []),
        ({"stale_for": 86400.0 * 365 * 100}, []),
        ({"min_partition_id": 6}, [6, 7, 8]),
        ({"max_partition_id": 3}, [1, 3]),
        ({"min_partition_id": 3, "max_partition_id": 5}, [3, 4, 5]),
        ({"min_partition_id": 5, "max_partition_id": 3}, []),
        ({"exclude_ids": [1, 8, 77]}, [3, 4, 5, 6, 7]),
        ({"after": 4}, [5, 6, 7, 8]),
        ({"after": 8}, []),
        ({"limit": 2}, [1, 3]),
        ({"limit": 10**6}, [1, 3, 4, 5, 6, 7, 8]),
        ({"after": 1, "limit": 2, "include_archived": True}, [2, 3]),
        ({"statuses": [PENDING, FAILED], "min_partition_id": 4, "exclude_ids": [6], "limit": 2}, [4, 7]),
    ]  # type: List[Any]
    for facts, expected in cases:
        assert ids(strategy.get_filtered_partitions(PartitionFilter(**facts))) == expected, facts


def test_pages_with_the_archive_stay_whole_while_partitions_complete_appear_and_go(strategy: Any, other: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(*range(1, 101)))
    seen: List[int] = []
    created = 100
    while True:
        after = seen[-1] if seen else None
        page = strategy.get_filtered_partitions(PartitionFilter(include_archived=True, after=after, limit=7))
        if not page:
            break
        seen += ids(page)
        for claim in other.claim_partitions("w", 5):
            report(other, claim, Outcome.COMPLETED)
        other.delete_partition(page[0].partition_id)
        if created < 120:
            created += 1
            other.create_partitions_if_not_exist(parts(created))
    assert seen == sorted(set(seen)), "ordered, none twice"
    assert set(range(1, 101)) <= set(seen), "what was there all the time was seen"
    sound(strategy)


# -- creating and deleting ---------------------------------------------------------------------------------------------


def test_unordered_input_is_created_in_order_of_ids_and_known_ones_are_left_out(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(2, 5))
    claim = strategy.acquire_partition(5, "w")
    made = strategy.create_partitions_if_not_exist(reversed(parts(*range(1, 8))))
    assert ids(made) == [1, 3, 4, 6, 7]
    assert [p.version for p in made] == sorted(p.version for p in made)
    assert strategy.get_partition(5) == claim, "a known one is not touched"
    sound(strategy)


def test_the_whole_space_of_ids_and_partition_ids_is_usable(strategy: Any) -> None:
    made = strategy.create_partitions_if_not_exist(
        [
            CreatePartition(1, MIN_ID, MIN_ID),
            CreatePartition(2, MIN_ID + 1, -1),
            CreatePartition(3, 0, 0),
            CreatePartition(4, 1, 10**14 - 1),
            CreatePartition(5, 10**14, 10**18 + 1),
            CreatePartition(MAX_PARTITION_ID, 10**18 + 2, MAX_ID, priority=-1000, options={"deep": [{"é": [2**62]}]}),
        ]
    )
    assert strategy.planned_intervals() == [(MIN_ID, MAX_ID)]
    assert strategy.get_all_partitions() == made
    claims = strategy.claim_partitions("w", 10)
    assert [(p.min_id, p.max_id, p.options) for p in claims] == [(p.min_id, p.max_id, p.options) for p in made]
    for claim in claims:
        checkpoint = claim.max_id - (claim.max_id > claim.min_id)
        if checkpoint >= claim.min_id:
            assert strategy.save_checkpoint(claim.partition_id, claim.fencing_token, checkpoint, 2**60)
            assert strategy.get_partition(claim.partition_id).checkpoint == checkpoint
        assert report(strategy, claim, Outcome.COMPLETED).status is COMPLETED
    done = strategy.get_all_partitions()
    assert [(p.min_id, p.max_id, p.checkpoint) for p in done] == [(p.min_id, p.max_id, p.max_id) for p in made]
    assert strategy.get_partition_stats().last_allocated_id == MAX_ID
    for clash in ((MIN_ID, MIN_ID), (-5, 5), (10**14, 10**14), (MAX_ID, MAX_ID)):
        with pytest.raises(RangeConflict):
            strategy.create_partitions_if_not_exist([CreatePartition(77, *clash)])
    sound(strategy)


def test_counters_and_planned_intervals_follow_a_batch_delete(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(*range(1, 9)))
    for _ in range(2):
        (claim,) = strategy.claim_partitions("w")
        report(strategy, claim, Outcome.COMPLETED)
    (claim,) = strategy.claim_partitions("w")
    report(strategy, claim, Outcome.PERMANENT)
    (held,) = strategy.claim_partitions("w")
    assert strategy.delete_partitions([1, 3, held.partition_id, 6, 77]) == [held.partition_id]
    stats = strategy.get_partition_stats()
    assert (stats.total, stats.pending, stats.running, stats.completed, stats.failed) == (5, 3, 1, 1, 0)
    assert (stats.completion_rate, stats.failure_rate) == (0.2, 0.0)
    assert strategy.planned_intervals() == [(20, 29), (40, 59), (70, 89)]
    sound(strategy)
    assert strategy.delete_partitions([]) == []
    assert strategy.delete_partitions([2, 5, 7, 8]) == []
    assert strategy.planned_intervals() == [(40, 49)]
    assert report(strategy, held, Outcome.COMPLETED).status is COMPLETED
    assert strategy.delete_partition(4)
    assert strategy.delete_partition(4), "unknown ids are no error"
    assert strategy.planned_intervals() == [] and strategy.get_all_partitions() == []
    sound(strategy)


def test_a_hundred_cycles_of_creation_work_and_deletion_leave_nothing(strategy: Any) -> None:
    for i in range(1, 101):
        strategy.create_partitions_if_not_exist(parts(i, i + 1000))
        (claim,) = strategy.claim_partitions("w")
        report(strategy, claim, Outcome.COMPLETED)
        assert strategy.delete_partitions([i, i + 1000]) == []
    stats = strategy.get_partition_stats()
    assert attr.evolve(stats, max_partition_id=0, last_allocated_id=None) == PartitionStats()
    assert strategy.planned_intervals() == [] and strategy.get_all_partitions() == []
    sound(strategy)


def test_a_deletion_and_a_creation_of_the_same_at_once_leave_all_or_nothing(backend: Any, strategy: Any) -> None:
    one, two = backend.new_strategy(), backend.new_strategy()
    for _ in range(10):
        strategy.create_partitions_if_not_exist(parts(1, 2))
        together(lambda: one.delete_partitions([1, 2]), lambda: two.create_partitions_if_not_exist(parts(1, 2)))
        assert ids(strategy.get_all_partitions()) in ([], [1, 2])
        sound(strategy)
        strategy.delete_partitions([1, 2])


# -- changing ----------------------------------------------------------------------------------------------------------


def test_of_ten_updates_of_one_version_exactly_one_is_stored(backend: Any, strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    before = strategy.get_partition(1)
    peers = [backend.new_strategy() for _ in range(10)]
    got = together(*[lambda i=i: peers[i].update_partition(attr.evolve(before, options={"by": i})) for i in range(10)])
    (winner,) = [p for p in got if isinstance(p, Partition)]
    assert all(isinstance(p, VersionConflict) for p in got if p is not winner)
    assert strategy.get_partition(1) == winner
    sound(strategy)


def test_those_who_read_again_after_a_conflict_all_get_through_and_versions_rise(backend: Any, strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1, options={"n": 0}))
    versions: List[int] = []

    def add() -> None:
        mine = backend.new_strategy()
        for _ in range(5):
            while True:
                there = mine.get_partition(1)
                try:
                    new = mine.update_partition(attr.evolve(there, options={"n": there.options["n"] + 1}))
                except VersionConflict:
                    continue
                versions.append(new.version)
                break

    together(*[add] * 4)
    assert strategy.get_partition(1).options == {"n": 20}
    assert strategy.get_partition(1).version == max(versions)


def test_upsert_changes_what_is_there_and_creates_what_is_not(strategy: Any) -> None:
    made = strategy.update_partition(Partition(3, 30, 39, options={"v": 1}), upsert=True)
    assert made == strategy.get_partition(3)
    changed = strategy.update_partition(attr.evolve(made, options={"v": 2}), upsert=True)
    assert (changed.options, changed.created_at) == ({"v": 2}, made.created_at)
    with pytest.raises(VersionConflict):
        strategy.update_partition(attr.evolve(made, options={"v": 3}), upsert=True)
    forced = strategy.update_partition(attr.evolve(made, options={"v": 4}), upsert=True, force=True)
    assert forced.options == {"v": 4}
    with pytest.raises(RangeConflict):
        strategy.update_partition(Partition(4, 35, 44), upsert=True)
    assert strategy.delete_partition(3)
    with pytest.raises(PartitionNotFound):
        strategy.update_partition(forced)
    sound(strategy)


@pytest.mark.parametrize("status", [s for s in PartitionStatus if s is not PENDING])
def test_upsert_creates_pending_ones_only(strategy: Any, status: PartitionStatus) -> None:
    """No arrow of the table begins anywhere but at pending, so no partition does either."""
    with pytest.raises(IllegalTransition, match=status.value):
        strategy.update_partition(Partition(3, 30, 39, status=status), upsert=True)
    assert strategy.get_all_partitions() == [] and strategy.planned_intervals() == []


def test_upsert_keeps_the_error_text_it_was_given(strategy: Any) -> None:
    made = strategy.update_partition(Partition(3, 30, 39, error="brought along"), upsert=True)
    assert made.error == "brought along" and made == strategy.get_partition(3)


# -- stats -------------------------------------------------------------------------------------------------------------


def test_stats_equal_a_recount_after_preemption_force_release_and_deletion(clock: Any, strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(*range(1, 11)))

    def counts() -> Any:
        sound(strategy)
        stats = strategy.get_partition_stats()
        return stats.pending, stats.claimed, stats.running, stats.completed, stats.failed

    strategy.claim_partitions("a", 3)
    turn(strategy, "a", prefetch=2)
    assert counts() == (5, 2, 3, 0, 0)
    assert strategy.acquire_partition(1, "b", force=True) is not None
    assert counts() == (5, 2, 3, 0, 0)
    clock.advance(LEASE)
    assert strategy.acquire_partition(4, "b") is not None
    assert counts() == (5, 1, 4, 0, 0)
    strategy.release_partition(4, "b")
    assert counts() == (6, 1, 3, 0, 0)
    assert len(strategy.sweep().reclaimed) == 4
    assert counts() == (10, 0, 0, 0, 0)
    strategy.acquire_partition(9, "b")
    strategy.update_partition_status(9, "b", FAILED)
    strategy.acquire_partition(10, "b")
    strategy.update_partition_status(10, "b", COMPLETED)
    assert counts() == (8, 0, 0, 1, 1)
    strategy.delete_partitions([8, 9, 10])
    assert counts() == (7, 0, 0, 0, 0)


# -- the store is gone -------------------------------------------------------------------------------------------------


def test_without_its_store_every_method_says_so_by_a_typed_error(backend: Any, other: Any) -> None:
    store = backend.new_store()
    strategy = backend.new_strategy(store)
    claim = claim_one(strategy)
    store.close()
    calls: Dict[str, Callable[[], Any]] = {
        "create": lambda: strategy.create_partitions_if_not_exist(parts(2)),
        "get": lambda: strategy.get_partition(1),
        "all": strategy.get_all_partitions,
        "active": strategy.get_all_active_partitions,
        "filtered": lambda: strategy.get_filtered_partitions(PartitionFilter(statuses=RUNNING)),
        "update": lambda: strategy.update_partition(claim),
        "status": lambda: strategy.update_partition_status(1, "w", COMPLETED),
        "release": lambda: strategy.release_partition(1, "w", claim.fencing_token),
        "hold": lambda: strategy.maintain_partition_hold(1, "w", claim.fencing_token),
        "delete": lambda: strategy.delete_partition(1),
        "delete many": lambda: strategy.delete_partitions([1, 2]),
        "acquire": lambda: strategy.acquire_partition(1, "x"),
        "claim": lambda: strategy.claim_partitions("x"),
        "stats": strategy.get_partition_stats,
        "workers": strategy.workers,
        "leader": strategy.leader,
    }
    said: Dict[str, Optional[BaseException]] = {}
    for name, call in calls.items():
        with pytest.raises(ElkError) as caught:
            call()
        said[name] = caught.value
    assert all("closed" in str(exc) for exc in said.values()), said
    assert other.get_partition(1) == claim


def test_a_filter_tells_ages_to_the_microsecond(clock: Any, strategy: Any) -> None:
    claim_one(strategy)
    clock.advance(5.0 + TICK)
    for age, expected in ((5.0, [1]), (5.125, [1]), (5.125001, []), (6, [])):
        assert ids(strategy.get_filtered_partitions(PartitionFilter(stale_for=age))) == expected
