"""Operator commands: once, in order, by the leader of the term, on what was there when they were submitted."""

from __future__ import annotations

import json
import logging
from typing import Any, Dict, List, Optional, Tuple

import pytest

from elk_coordinator import AdminClient, CreatePartition, StrategyType
from elk_coordinator.admin.service import AdminService
from elk_coordinator.errors import ConfigError, LeaseLost, PartitionNotFound, StateError, StoreUnavailable
from elk_coordinator.leader.commands import Commands
from elk_coordinator.model import CancelReason, Outcome, PartitionStats, Report, Sweep
from elk_coordinator.partition.event_log import EventLog
from elk_coordinator.partition.factory import command_store, open_strategy
from elk_coordinator.protocols import Event
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.runtime.events import Events
from elk_coordinator.testing.faulty import Faulty
from tests.contract.kit import (
    CLAIMED,
    COMPLETED,
    FAILED,
    LEASE,
    PENDING,
    RUNNING,
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

LOGGER = logging.getLogger("elk_coordinator")


def lead(strategy: Any, owner: str = "leader") -> int:
    """Take the leader's lease; return its term."""
    term = strategy.store.acquire_lock("leader", owner, 600.0, strategy.memory.floor)
    assert term is not None
    return int(term)


def role_of(strategy: Any, term: Optional[int]) -> Commands:
    """Return the leader's role, as the leader of *term* runs it."""
    return Commands(command_store(strategy), lambda: term, Clock(), LOGGER, 30.0)


class Desk:
    """An operator and a leader in one."""

    def __init__(self, strategy: Any) -> None:
        self.strategy = strategy
        self.admin = AdminService(strategy, "eve")
        self.term = lead(strategy)
        self.role = role_of(strategy, self.term)

    def work(self) -> None:
        """Carry out everything that waits."""
        self.role.hint()
        while self.role.run_once() is not None:
            pass

    def do(self, kind: str, **args: Any) -> Dict[str, Any]:
        """Submit a command and carry it out; return its result."""
        name = self.admin.submit(kind, args)
        self.work()
        status = self.admin.wait(name, 0.0)
        assert (status.state, status.error) == ("done", "")
        return dict(status.result)

    def there(self) -> Dict[int, Tuple[Any, ...]]:
        """Return (status, priority, error) of every partition."""
        return {p.partition_id: (p.status, p.priority, p.error) for p in self.strategy.get_all_partitions()}


@pytest.fixture
def desk(strategy: Any) -> Desk:
    return Desk(strategy)


def one_of_each(strategy: Any) -> None:
    """Create 1 running, 2 claimed, 3 completed, 4 failed, 5 delayed, 6 pending, 7 a suspect."""
    make_suspects(strategy, 7)
    strategy.create_partitions_if_not_exist(parts(1, 2, 3, 4, 5, 6))
    got = {p.partition_id: p for p in turn(strategy, free=5, suspects=False).granted}
    report(strategy, got[3], Outcome.COMPLETED)
    report(strategy, got[4], Outcome.PERMANENT, error="broken")
    report(strategy, got[5], Outcome.ERROR, delay=60.0)
    report(strategy, got[2], Outcome.RELEASED)
    (again,) = turn(strategy, free=0, prefetch=1, suspects=False).granted
    assert again.partition_id == 2
    found = {p.partition_id: p.status for p in strategy.get_all_partitions()}
    assert found == {1: RUNNING, 2: CLAIMED, 3: COMPLETED, 4: FAILED, 5: PENDING, 6: PENDING, 7: PENDING}


def fail_all(strategy: Any, *numbers: int) -> None:
    """Create partitions and fail each for good, with a checkpoint, an attempt and two deliveries behind it."""
    strategy.create_partitions_if_not_exist(parts(*numbers))
    for start in range(0, len(numbers), 500):
        page = strategy.claim_partitions("w", min(500, len(numbers) - start))
        for claim in page[:3]:
            assert strategy.save_checkpoint(claim.partition_id, claim.fencing_token, claim.min_id + 4, 5)
        results = strategy.report_partitions(
            "w", [Report(p.partition_id, p.fencing_token, Outcome.PERMANENT, error="broken") for p in page]
        )
        assert all(r.status is FAILED for r in results)


# -- each command, in every state, twice -------------------------------------------------------------------------------


def test_retry_of_named_ones_takes_the_failed_and_lists_the_rest(desk: Desk, strategy: Any) -> None:
    one_of_each(strategy)
    before = desk.there()
    assert desk.do("retry_failed", ids=[1, 2, 3, 4, 5, 6, 7, 99]) == {
        "changed": 1, "skipped": [1, 2, 3, 5, 6, 7, 99], "skipped_total": 7,
    }  # fmt: skip
    assert desk.there() == {**before, 4: (PENDING, 0, "broken")}
    assert desk.do("retry_failed", ids=[4])["changed"] == 0
    sound(strategy)


def test_retry_gives_all_attempts_back_and_keeps_the_checkpoint(desk: Desk, strategy: Any) -> None:
    fail_all(strategy, 1, 2)
    before = strategy.get_partition(1)
    assert (before.attempt, before.checkpoint, before.processed) == (1, 14, 5)
    assert desk.do("retry_failed")["changed"] == 2
    after = strategy.get_partition(1)
    assert (after.status, after.attempt, after.deliveries, after.checkpoint, after.processed) == (PENDING, 0, 0, 14, 5)
    assert after.version > before.version and after.retry_at is None
    assert desk.do("retry_failed")["changed"] == 0
    assert ids(strategy.claim_partitions("w", 5)) == [1, 2]
    sound(strategy)


def test_retry_of_all_leaves_what_failed_after_the_submission(desk: Desk, strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(4))
    strategy.acquire_partition(4, "late")
    fail_all(strategy, 1, 2, 3)
    name = desk.admin.retry_failed()
    named = desk.admin.retry_failed([1, 2, 3, 4])
    report(strategy, strategy.get_partition(4), Outcome.PERMANENT, worker="late")
    desk.work()
    assert desk.admin.wait(name, 0.0).result["changed"] == 3
    assert desk.admin.wait(named, 0.0).result == {"changed": 0, "skipped": [1, 2, 3, 4], "skipped_total": 4}
    assert {i: s[0] for i, s in desk.there().items()} == {1: PENDING, 2: PENDING, 3: PENDING, 4: FAILED}


def test_pause_stops_claims_at_once_and_every_beat_tells_it(desk: Desk, strategy: Any, other: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 2, 3))
    (held,) = strategy.claim_partitions("w")
    for changed in (1, 0):
        assert desk.do("pause") == {"changed": changed, "skipped": [], "skipped_total": 0}
        assert strategy.claim_partitions("w", 3) == [] == other.claim_partitions("x", 3)
        assert beat(strategy).paused and beat(other, "x").paused and desk.admin.status()["paused"]
    assert not report(strategy, held, Outcome.COMPLETED).refused, "what runs goes on"
    for changed in (1, 0):
        assert desk.do("resume")["changed"] == changed
        assert not beat(strategy).paused and not beat(other, "x").paused
    assert ids(other.claim_partitions("x", 3)) == [2, 3]


def test_pause_stops_claims_by_name_unless_forced(desk: Desk, clock: Any, strategy: Any, other: Any) -> None:
    make_suspects(strategy, 7)
    strategy.create_partitions_if_not_exist(parts(1, 2, 3))
    (held,) = turn(strategy, free=1, suspects=False).granted
    clock.advance(LEASE + 1.0)
    desk.do("pause")
    # Expired, pending, suspect.
    assert [other.acquire_partition(i, "x") for i in (1, 2, 7)] == [None] * 3
    assert strategy.get_partition(1).deliveries == 0, "nothing was done to it"
    assert other.acquire_partition(3, "x", force=True).fencing_token > held.fencing_token
    desk.do("resume")
    assert [other.acquire_partition(i, "x").deliveries for i in (1, 2, 7)] == [1, 0, 2]
    sound(strategy)


def test_cancel_in_every_state(desk: Desk, strategy: Any) -> None:
    one_of_each(strategy)
    outcomes = {i: desk.do("cancel", id=i)["outcome"] for i in (1, 2, 3, 4, 5, 6, 7, 99)}
    assert outcomes == {
        1: "asked", 2: "asked", 3: "unchanged:completed", 4: "unchanged:failed", 5: "failed", 6: "failed", 7: "failed",
        99: "unknown",
    }  # fmt: skip
    for i in (5, 6, 7):
        assert desk.there()[i] == (FAILED, 0, "cancelled by eve")
        assert desk.do("cancel", id=i) == {
            "changed": 0, "skipped": [i], "skipped_total": 1, "outcome": "unchanged:failed"
        }  # fmt: skip
    assert desk.there()[4][2] == "broken"
    sound(strategy)
    assert not turn(strategy, free=5).granted
    assert strategy.get_partition(5).retry_at is None


def test_a_cancel_reaches_the_holder_with_its_next_beat_and_ends_it(desk: Desk, strategy: Any) -> None:
    claim = claim_one(strategy)
    for _ in range(2):
        assert desk.do("cancel", id=1)["outcome"] == "asked"
        assert beat(strategy, claims=[key_of(claim)]).cancels == {1: (CancelReason.CANCELLED, "eve")}
    assert report(strategy, claim, Outcome.CANCELLED, error="cancelled by eve").status is FAILED
    assert desk.do("retry_failed")["changed"] == 1
    (again,) = strategy.claim_partitions("w")
    assert beat(strategy, claims=[key_of(again)]).cancels == {}, "a wish ends with its claim"
    assert again.attempt == 0


@pytest.mark.parametrize("outcome", [Outcome.ERROR, Outcome.RELEASED, Outcome.LOST])
def test_a_cancel_outranks_another_attempt(desk: Desk, strategy: Any, outcome: Outcome) -> None:
    claim = claim_one(strategy)
    desk.do("cancel", id=1)
    for _ in range(2):
        assert report(strategy, claim, outcome, delay=1.0).status is FAILED
    assert desk.there()[1] == (FAILED, 0, "cancelled by eve")
    sound(strategy)


def test_a_completion_outranks_a_cancel(desk: Desk, strategy: Any) -> None:
    claim = claim_one(strategy)
    desk.do("cancel", id=1)
    assert report(strategy, claim, Outcome.COMPLETED).status is COMPLETED
    assert desk.do("cancel", id=1)["outcome"] == "unchanged:completed"


def test_a_cancelled_one_whose_lease_runs_out_fails(desk: Desk, clock: Any, strategy: Any, other: Any) -> None:
    claim_one(strategy)
    desk.do("cancel", id=1)
    clock.advance(LEASE + 1.0)
    (lost,) = other.sweep().reclaimed
    assert lost.error == "cancelled by eve"
    assert (lost.status, desk.there()[1]) == (FAILED, (FAILED, 0, "cancelled by eve"))
    desk.do("retry_failed", ids=[1])
    (again,) = other.claim_partitions("x")
    assert beat(other, "x", [key_of(again)]).cancels == {}
    sound(strategy)


def test_a_cancelled_one_is_not_taken_over_by_name(desk: Desk, clock: Any, strategy: Any, other: Any) -> None:
    claim_one(strategy)
    desk.do("cancel", id=1)
    clock.advance(LEASE + 1.0)
    assert other.acquire_partition(1, "x") is None
    assert desk.there()[1] == (FAILED, 0, "cancelled by eve")
    sound(strategy)


def test_a_forced_takeover_inherits_a_cancel_and_no_release(desk: Desk, strategy: Any, other: Any) -> None:
    claim_one(strategy)
    desk.do("release", id=1)
    taken = other.acquire_partition(1, "x", force=True)
    assert beat(other, "x", [key_of(taken)]).cancels == {}
    desk.do("cancel", id=1)
    taken = strategy.acquire_partition(1, "w", force=True)
    assert beat(strategy, "w", [key_of(taken)]).cancels == {1: (CancelReason.CANCELLED, "eve")}


def test_who_lost_a_partition_is_not_asked_for_it(desk: Desk, strategy: Any, other: Any) -> None:
    claim = claim_one(strategy)
    taken = other.acquire_partition(1, "x", force=True)
    desk.do("cancel", id=1)
    late = beat(strategy, claims=[key_of(claim)])
    assert late.lost == {key_of(claim)} and late.cancels == {}
    assert beat(other, "x", [key_of(taken)]).cancels == {1: (CancelReason.CANCELLED, "eve")}


def test_release_in_every_state(desk: Desk, strategy: Any) -> None:
    one_of_each(strategy)
    before = desk.there()
    for _ in range(2):
        assert {i: desk.do("release", id=i)["outcome"] for i in (1, 2, 3, 4, 5, 6, 7, 99)} == {
            1: "asked", 2: "asked", 3: "unchanged:completed", 4: "unchanged:failed", 5: "unchanged:pending",
            6: "unchanged:pending", 7: "unchanged:pending", 99: "unknown",
        }  # fmt: skip
    assert desk.there() == before
    claim = strategy.get_partition(1)
    assert beat(strategy, claims=[key_of(claim)]).cancels == {1: (CancelReason.STOP, "eve")}
    desk.do("cancel", id=1)
    desk.do("release", id=1)
    assert beat(strategy, claims=[key_of(claim)]).cancels == {1: (CancelReason.CANCELLED, "eve")}, "cancel outranks it"


def test_a_release_is_for_the_claim_of_its_submission(desk: Desk, clock: Any, strategy: Any) -> None:
    claim = claim_one(strategy)
    name = desk.admin.release(1)
    report(strategy, claim, Outcome.RELEASED)
    (again,) = strategy.claim_partitions("w")
    desk.work()
    assert desk.admin.wait(name, 0.0).result["outcome"] == "unchanged:running"
    assert beat(strategy, claims=[key_of(again)]).cancels == {}
    desk.do("release", id=1)
    clock.advance(LEASE + 1.0)
    strategy.sweep()
    assert desk.there()[1][0] is PENDING
    (again,) = strategy.claim_partitions("w")
    assert beat(strategy, claims=[key_of(again)]).cancels == {}, "nor does it outlive a lost lease"


def test_priority_is_set_of_pending_ones(desk: Desk, clock: Any, strategy: Any) -> None:
    one_of_each(strategy)
    strategy.create_partitions_if_not_exist(parts(8))
    for _ in range(2):
        assert desk.do("set_priority", ids=[1, 2, 3, 4, 5, 7, 8, 99], priority=-7) == {
            "changed": 3, "skipped": [1, 2, 3, 4, 99], "skipped_total": 5,
        }  # fmt: skip
    assert {i: p for i, (_, p, _) in desk.there().items()} == {1: 0, 2: 0, 3: 0, 4: 0, 5: -7, 6: 0, 7: -7, 8: -7}
    sound(strategy)
    desk.do("set_priority", ids=[5], priority=9)
    clock.advance(61.0)
    got = turn(strategy, free=9, suspects=False).granted
    assert [(p.partition_id, p.priority) for p in got][:3] == [(5, 9), (6, 0), (8, -7)]
    assert ids(turn(strategy, free=9).granted) == [7]


def test_delete_leaves_held_ones_and_what_came_later(desk: Desk, strategy: Any) -> None:
    one_of_each(strategy)
    name = desk.admin.delete([1, 2, 3, 4, 5, 7, 8, 99])
    strategy.create_partitions_if_not_exist(parts(8))
    desk.work()
    assert desk.admin.wait(name, 0.0).result == {"changed": 4, "skipped": [1, 2, 8], "skipped_total": 3}
    assert sorted(desk.there()) == [1, 2, 6, 8]
    assert strategy.planned_intervals() == [(10, 29), (60, 69), (80, 89)]
    assert desk.do("delete", ids=[3, 4, 5, 7]) == {"changed": 0, "skipped": [], "skipped_total": 0}
    assert desk.do("delete", ids=[1])["skipped"] == [1]
    sound(strategy)


def test_create_draws_ids_above_all_others(desk: Desk, strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(7))
    got = desk.do(
        "create", ranges=[(-5, 5), {"min_id": 2**62, "max_id": 2**62 + 9, "priority": 3, "options": {"a": 1}}]
    )
    assert got == {"changed": 2, "created": [[8, 9]]}
    found = [(p.partition_id, p.min_id, p.max_id, p.priority, p.options) for p in strategy.get_all_partitions()[1:]]
    assert found == [(8, -5, 5, 0, {}), (9, 2**62, 2**62 + 9, 3, {"a": 1})]
    sound(strategy)


def test_a_create_that_meets_the_plan_fails_and_says_what_it_kept(desk: Desk, strategy: Any) -> None:
    strategy.create_partitions_if_not_exist([CreatePartition(1, 10_000, 10_009)])
    name = desk.admin.create([(i * 10, i * 10 + 9) for i in range(600)] + [(10_009, 10_010)])
    after = desk.admin.create([(20_000, 20_001)])
    desk.work()
    status = desk.admin.wait(name, 0.0)
    assert (status.state, status.done, status.result) == ("failed", 500, {"changed": 500, "created": [[2, 501]]})
    assert "overlaps the planned range [10000, 10009]" in status.error
    assert desk.admin.wait(after, 0.0).state == "done", "the next one goes on"
    assert strategy.get_partition_stats().total == 502
    sound(strategy)


def test_a_create_beyond_what_simple_bears_fails_and_the_next_command_goes_on(
    desk: Desk, strategy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elk_coordinator.partition.simple_commands.MAX_ACTIVE", 3)
    strategy.create_partitions_if_not_exist(parts(1, 2))
    name = desk.admin.create([(100, 109), (110, 119)])
    after = desk.admin.pause()
    desk.work()
    status = desk.admin.wait(name, 0.0)
    if strategy.strategy_type is StrategyType.HASH:
        assert (status.state, status.result["changed"]) == ("done", 2)
    else:
        assert (status.state, status.result["changed"]) == ("failed", 0)
        assert "at most 3 active partitions, there are 2" in status.error
    assert desk.admin.wait(after, 0.0).state == "done"
    sound(strategy)


@pytest.mark.parametrize("kind, wakes", [("retry_failed", True), ("resume", True), ("create", True), ("pause", False)])
def test_commands_that_bring_work_wake_idle_workers(
    desk: Desk, strategy: Any, other: Any, kind: str, wakes: bool
) -> None:
    fail_all(strategy, 1)
    desk.do("pause")
    listener = other.store
    while listener.wait("work", 0.1) is not None:
        pass  # subscribed now, and nothing of before is left
    desk.do(kind, **({"ranges": [[500, 501]]} if kind == "create" else {}))
    assert (listener.wait("work", 5.0 if wakes else 0.1) is not None) is wakes


def test_what_was_created_after_the_submission_is_not_touched(desk: Desk, strategy: Any) -> None:
    names = [desk.admin.set_priority([1], 9), desk.admin.cancel(1), desk.admin.release(1), desk.admin.delete([1])]
    claim_one(strategy)
    strategy.create_partitions_if_not_exist(parts(2))
    names += [desk.admin.set_priority([3], 9), desk.admin.cancel(3)]
    strategy.create_partitions_if_not_exist(parts(3))
    before = strategy.get_all_partitions()
    desk.work()
    results = [desk.admin.wait(name, 0.0).result for name in names]
    assert [r["changed"] for r in results] == [0] * 6
    assert [r.get("outcome") for r in results] == [None, "unknown", "unknown", None, None, "unknown"]
    assert strategy.get_all_partitions() == before
    assert beat(strategy, claims=[key_of(before[0])]).cancels == {}


@pytest.mark.parametrize("archived", [False, True], ids=["recent", "archived"])
def test_of_a_completed_one_it_is_told_that_it_is_completed_whatever_came_first(
    desk: Desk, strategy: Any, archived: bool
) -> None:
    name = desk.admin.cancel(1)
    assert not report(strategy, claim_one(strategy), Outcome.COMPLETED).refused
    if archived:
        page = strategy.due_page("0", -1e6)
        assert [strategy.archive_page(desk.term, number, page.now + 10**12) for number in page.due] == [1]
    desk.work()
    assert desk.admin.wait(name, 0.0).result["outcome"] == "unchanged:completed"


# -- once, and in order ------------------------------------------------------------------------------------------------


def test_commands_take_effect_in_order_of_submission(desk: Desk, strategy: Any, other: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 2))
    admins = [AdminService(strategy, "a"), AdminService(other, "b")]
    names = [admins[i % 2].set_priority([1], i) for i in range(6)]
    assert [c.command_id for c in desk.admin.commands()] == names[::-1]
    assert {c.state for c in desk.admin.commands()} == {"queued"}
    seen: List[int] = []
    for _ in names:
        desk.role.hint()
        desk.role.run_once()
        seen.append(strategy.get_partition(1).priority)
    assert seen == [0, 1, 2, 3, 4, 5]
    assert [c.command_id for c in desk.admin.commands()] == names[::-1]
    assert [(c.state, c.by) for c in desk.admin.commands(2)] == [("done", "b"), ("done", "a")]
    assert desk.admin.status()["commands"] == 0


def test_commands_of_two_namespaces_never_meet(backend: Any, desk: Desk, strategy: Any) -> None:
    # The second begins with the name of the first; both have partitions and commands of the same ids.
    across = Desk(backend.new_strategy(namespace=strategy.namespace + ".x"))
    for one in (strategy, across.strategy):
        fail_all(one, 1)
        one.create_partitions_if_not_exist(parts(2))
    there = across.there()
    name = desk.admin.submit("delete", {"ids": [2]}, "same-name")
    desk.admin.submit("retry_failed", {})
    desk.admin.submit("pause", {})
    assert across.admin.command(name) is None and across.admin.commands() == []
    across.work()
    assert desk.admin.status()["commands"] == 3, "another's leader carries out nothing of it"
    desk.work()
    assert (across.there(), across.strategy.is_paused(), across.admin.commands()) == (there, False, [])
    assert {i: facts[0] for i, facts in desk.there().items()} == {1: PENDING}
    # The same name is another command over there.
    assert across.admin.submit("set_priority", {"ids": [2], "priority": 7}, "same-name") == name
    desk.work()
    assert across.admin.wait(name, 0.0).state == "queued"
    across.work()
    assert across.admin.wait(name, 0.0).result["changed"] == 1
    assert across.there()[2][1] == 7 and desk.admin.wait(name, 0.0).kind == "delete"
    sound(strategy)
    sound(across.strategy)


def test_the_service_tells_of_partitions_gaps_and_events(desk: Desk, strategy: Any) -> None:
    desk.do("create", ranges=[[1, 10], [11, 20], [21, 30]])
    assert desk.admin.gaps().open_count == 0
    desk.do("delete", ids=[2])
    report_now = desk.admin.gaps()
    assert [(gap.min_id, gap.max_id, gap.state) for gap in report_now.gaps] == [(11, 20, "open")]
    assert (report_now.open_count, report_now.open_ids) == (1, 10)
    assert desk.admin.partition(3).min_id == 21
    with pytest.raises(PartitionNotFound):
        desk.admin.partition(2)
    assert desk.admin.events() == []
    EventLog(strategy.store).append("a", [Event("lease_lost", "ns", "w", 1.0, {"n": n}) for n in range(3)])
    found = desk.admin.events()
    assert [event.facts["n"] for event in found] == [0, 1, 2]
    assert desk.admin.events(limit=1) == found[2:]
    assert desk.admin.events(after=found[0].id, limit=1) == found[1:2]
    with pytest.raises(ConfigError, match="limit"):
        desk.admin.events(limit=0)
    with pytest.raises(ConfigError, match="after"):
        desk.admin.events(after="yesterday")


@pytest.mark.parametrize("timeout", [float("nan"), None, "1", True])
def test_a_timeout_that_is_no_number_is_refused(desk: Desk, timeout: Any) -> None:
    name = desk.admin.pause()
    with pytest.raises(ConfigError, match="timeout"):
        desk.admin.wait(name, timeout)


def test_without_a_leader_commands_wait(strategy: Any) -> None:
    admin = AdminService(strategy, "eve")
    name = admin.pause()
    role = role_of(strategy, None)
    role.hint()
    assert role.run_once() is None
    status = admin.wait(name, 0.05)
    assert (status.state, status.result, status.ended) == ("queued", {}, False)
    assert not strategy.is_paused() and admin.status()["commands"] == 1
    assert strategy.sweep(term=lead(strategy)).commands


def test_the_sweep_tells_the_leader_of_commands_beside_the_other_calls(desk: Desk, strategy: Any) -> None:
    assert not strategy.sweep(term=desk.term).commands
    desk.admin.pause()
    turn(strategy, free=1)
    sweep = strategy.sweep(term=desk.term)
    assert (sweep.hungry, sweep.asked, sweep.commands) == (True, False, True)
    strategy.ask_for_round()
    sweep = strategy.sweep(term=desk.term)
    assert (sweep.asked, sweep.commands) == (True, True)
    sweep = strategy.sweep(term=desk.term)
    assert (sweep.hungry, sweep.asked, sweep.commands) == (True, False, True)
    strategy.plan_state(calls_heard=True)
    sweep = strategy.sweep(term=desk.term)
    assert (sweep.hungry, sweep.asked, sweep.commands) == (False, False, True)
    desk.work()
    assert not strategy.sweep(term=desk.term).commands


def test_the_same_command_sent_again_is_queued_once(desk: Desk, strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    for _ in range(2):
        assert desk.admin.submit("set_priority", {"ids": [1], "priority": 5}, command_id="mine") == "mine"
    desk.work()
    desk.do("set_priority", ids=[1], priority=6)
    desk.admin.submit("set_priority", {"ids": [1], "priority": 5}, command_id="mine")
    desk.work()
    assert len(desk.admin.commands()) == 2 and strategy.get_partition(1).priority == 6


def test_a_submission_whose_reply_was_lost_is_queued_once(backend: Any, desk: Desk, strategy: Any) -> None:
    backend.lose_reply(strategy, 1)
    desk.admin.pause()
    assert len(desk.admin.commands()) == 1


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_step_whose_reply_was_lost_counts_once(backend: Any, desk: Desk, strategy: Any, nth: int) -> None:
    fail_all(strategy, *range(1, 701))
    name = desk.admin.retry_failed()
    created = desk.admin.create([(100_000 + i * 10, 100_009 + i * 10) for i in range(600)])
    deleted = desk.admin.delete(range(1, 601))
    backend.lose_reply(strategy, nth)
    desk.work()
    assert desk.admin.wait(name, 0.0).result == {"changed": 700, "skipped": [], "skipped_total": 0}
    assert desk.admin.wait(created, 0.0).result["changed"] == 600
    assert desk.admin.wait(deleted, 0.0).result["changed"] == 600
    assert strategy.get_partition_stats().pending == 700
    sound(strategy)


def test_a_step_that_is_sent_twice_is_done_once(desk: Desk, strategy: Any) -> None:
    fail_all(strategy, *range(1, 701))
    store = command_store(strategy)
    admin = desk.admin
    for name in (
        admin.retry_failed(),
        admin.cancel(1),
        admin.create([(100_000 + i * 10, 100_009 + i * 10) for i in range(600)]),
        admin.delete(range(1, 601)),
        admin.pause(),
        admin.resume(),
    ):
        while True:
            job = store.first()
            if job is None or job.command_id != name:
                break
            store.step(desk.term, job)
            after, everything = admin.command(name), strategy.get_all_partitions()
            store.step(desk.term, job)
            store.fail(desk.term, job, "late")
            assert (admin.command(name), strategy.get_all_partitions()) == (after, everything)
    sound(strategy)


# -- change of leader --------------------------------------------------------------------------------------------------


def test_a_new_leader_goes_on_behind_the_last_step(desk: Desk, strategy: Any, other: Any) -> None:
    fail_all(strategy, *range(1, 1201))
    name = desk.admin.retry_failed()
    desk.role.hint()
    desk.role.run_once()
    assert (desk.admin.wait(name, 0.0).state, desk.admin.wait(name, 0.0).done) == ("running", 500)
    old = command_store(strategy)
    job = old.first()
    assert job is not None
    strategy.store.release_lock("leader", desk.term)
    term = lead(other, "next")
    with pytest.raises(LeaseLost):
        old.step(desk.term, job)
    with pytest.raises(LeaseLost):
        old.fail(desk.term, job, "late")
    with pytest.raises(LeaseLost):
        old.expire(desk.term, -1.0)
    assert desk.role.run_once() is None, "the stale leader's role goes on living"
    assert desk.admin.wait(name, 0.0).done == 500
    role = role_of(other, term)
    while role.run_once() is not None:  # no hint: it looks when its term begins
        pass
    assert desk.admin.wait(name, 0.0).done == 1200
    sound(strategy)


@pytest.mark.parametrize("kind", ["create", "delete"])
def test_a_stale_leader_changes_no_plan(desk: Desk, strategy: Any, other: Any, kind: str) -> None:
    strategy.create_partitions_if_not_exist(parts(1, 2))
    if kind == "create":
        desk.admin.create([(100, 109)])
    else:
        desk.admin.delete([1])
    strategy.store.release_lock("leader", desk.term)
    lead(other, "next")
    store = command_store(strategy)
    job = store.first()
    assert job is not None
    with pytest.raises(LeaseLost):
        store.step(desk.term, job)
    assert sorted(desk.there()) == [1, 2] and strategy.planned_intervals() == [(10, 29)]


def test_a_leader_that_has_not_learned_its_end_yet_does_not_ask_again_and_again(
    desk: Desk, strategy: Any, other: Any
) -> None:
    desk.admin.pause()
    strategy.store.release_lock("leader", desk.term)
    later = lead(other, "next")
    role = role_of(strategy, desk.term)
    assert role.run_once() is None and role.pause(None) > 0.5
    # A look of recovery's that still tells of commands has it try once more.
    role.on_sweep(Sweep(commands=True))
    assert role.pause(None) == 0.0
    assert role.run_once() is None and role.pause(None) > 0.5
    assert not strategy.is_paused()
    assert role_of(other, later).run_once() is not None and strategy.is_paused()


def test_the_role_keeps_a_command_through_an_outage(backend: Any, desk: Desk, strategy: Any) -> None:
    faulty = Faulty(command_store(strategy))
    role = Commands(faulty, lambda: desk.term, Clock(), LOGGER, 30.0)  # type: ignore[arg-type]
    name = desk.admin.pause()
    role.hint()
    for method in ("first", "step"):
        faulty.fail_before(method, 1, StoreUnavailable("away"))
        with pytest.raises(StoreUnavailable):
            role.run_once()
        assert role.pause(None) == 0.0
    faulty.commit_then_lose("step", 1, StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        role.run_once()
    role.run_once()
    assert desk.admin.wait(name, 0.0).result["changed"] == 1


def test_idle_the_role_asks_for_nothing(desk: Desk) -> None:
    faulty = Faulty(command_store(desk.strategy))
    role = Commands(faulty, lambda: desk.term, Clock(), LOGGER, 30.0)  # type: ignore[arg-type]
    for _ in range(5):
        assert role.run_once() is None
    assert faulty.calls == {"first": 1, "expire": 1}, "at the beginning of its term"
    assert role.pause(None) > 30.0


def test_a_follower_asks_for_nothing_and_carries_nothing_out(desk: Desk) -> None:
    faulty = Faulty(command_store(desk.strategy))
    role = Commands(faulty, lambda: None, Clock(), LOGGER, 30.0)  # type: ignore[arg-type]
    desk.admin.pause()
    role.hint()
    assert role.run_once() is None
    assert faulty.calls == {}


# -- results -----------------------------------------------------------------------------------------------------------


def test_results_can_be_read_for_a_day(desk: Desk, clock: Any, strategy: Any) -> None:
    first, store = desk.admin.pause(), command_store(strategy)
    desk.work()
    assert desk.admin.wait(first, 0.0).updated_at == pytest.approx(clock.seconds, abs=0.001)
    clock.advance(3600.0)
    second = desk.admin.resume()
    desk.work()
    waiting = desk.admin.pause()
    clock.advance(86400.0 - 3601.0)
    assert store.expire(desk.term) == 0 and desk.admin.command(first) is not None
    clock.advance(2.0)
    assert store.expire(desk.term) == 1
    assert desk.admin.command(first) is None and desk.admin.command(second) is not None
    with pytest.raises(StateError):
        desk.admin.wait(first)
    clock.advance(2 * 86400.0)
    assert role_of(strategy, desk.term)._store.expire(desk.term) == 1
    assert [c.command_id for c in desk.admin.commands()] == [waiting], "what waits stays"


def test_too_many_results_are_not_kept(desk: Desk, strategy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("hash_commands", "simple_commands"):
        monkeypatch.setattr("elk_coordinator.partition.%s.MAX_ENDED" % module, 2)
    names = [desk.admin.pause() for _ in range(5)]
    desk.work()  # which looks for old ones, too, when nothing waits
    assert command_store(strategy).expire(desk.term) == 0
    assert [c.command_id for c in desk.admin.commands()] == [names[4], names[3]]


def test_a_burst_of_commands_leaves_the_document_of_simple_small(desk: Desk, strategy: Any) -> None:
    if strategy.strategy_type is StrategyType.HASH:
        pytest.skip("HASH reads no command in a worker's turn")
    # Each leaves a thousand ids in its result.
    names = [desk.admin.retry_failed(range(100_000, 101_100)) for _ in range(60)]
    desk.work()
    assert len(strategy.store.get("simple").data) < 300_000
    kept = [name for name in names if desk.admin.command(name) is not None]
    assert kept == names[-len(kept) :] and len(kept) > 20, "the newest"
    assert desk.admin.wait(names[-1], 0.0).result["skipped_total"] == 1100


def test_an_ended_command_keeps_little_of_a_long_list(desk: Desk, strategy: Any) -> None:
    fail_all(strategy, 1, 2)
    ranges = [[10_000 + i * 10, 10_009 + i * 10] for i in range(600)]
    ended = [
        (desk.admin.retry_failed(range(1, 2001)), "done", "ids", 2000),
        (desk.admin.create(ranges), "done", "ranges", 600),
        (desk.admin.create(ranges), "failed", "ranges", 600),
        (desk.admin.delete(range(1, 1001)), "done", "ids", 1000),
    ]
    store = command_store(strategy)
    for _ in range(3):
        job = store.first()
        assert job is not None and len(job.ids) == 2000, "all of it, while it has not ended"
        store.step(desk.term, job)
    desk.work()
    for name, state, what, total in ended:
        status = desk.admin.wait(name, 0.0)
        assert status.state == state and status.submitted_at > 0
        assert len(status.args[what]) == 100 and status.args[what + "_total"] == total
    assert desk.admin.wait(ended[0][0], 0.0).result["changed"] == 2
    sound(strategy)


def test_a_command_keeps_its_arguments_until_it_has_ended(hash_backend: Any) -> None:
    desk = Desk(hash_backend.new_strategy())
    name = desk.admin.retry_failed([1, 2])
    keys = desk.strategy.store.keys.many("commands command_state")
    less = json.dumps(["retry_failed", {"ids": [1]}, "eve"])
    assert desk.strategy.store.run("partition/command_trim", keys, [name, less]) == [0]
    job = command_store(desk.strategy).first()
    assert job is not None and list(job.ids) == [1, 2]


def test_a_result_lists_no_more_than_a_thousand(desk: Desk) -> None:
    result = desk.do("retry_failed", ids=range(1, 2001))
    assert (len(result["skipped"]), result["skipped"][-1], result["skipped_total"]) == (1000, 1000, 2000)


def test_a_status_is_json(desk: Desk) -> None:
    desk.do("cancel", id=5)
    data = json.loads(json.dumps(desk.admin.commands()[0].to_dict()))
    assert (data["kind"], data["args"], data["by"], data["state"]) == ("cancel", {"id": 5}, "eve", "done")
    json.dumps(desk.admin.status())


# -- the door ----------------------------------------------------------------------------------------------------------

MALFORMED: List[Tuple[Any, Any, str]] = [
    ("explode", {}, "no command 'explode'"), (None, {}, "no command None"), ("set_config", {}, "no command"),
    ("pause", None, "mapping"), ("pause", {"x": 1}, "no argument x"), ("cancel", {}, "id is missing"),
    ("cancel", {"id": "7"}, "'7'"), ("cancel", {"id": 0}, "partition_id=0"), ("cancel", {"id": True}, "True"),
    ("release", {"id": 2**53}, "outside"), ("delete", {"ids": []}, "1 to 10000"), ("delete", {"ids": "12"}, "list"),
    ("delete", {"ids": 5}, "list"), ("delete", {"ids": [1, None]}, "None"),
    ("retry_failed", {"ids": range(1, 10_002)}, "10001"), ("retry_failed", {"ids": []}, "1 to 10000"),
    ("set_priority", {"ids": [1]}, "priority is missing"), ("set_priority", {"ids": [1], "priority": 1001}, "1001"),
    ("create", {"ranges": [(2, 1)]}, "above max_id"), ("create", {"ranges": [(1,)]}, "neither"),
    ("create", {"ranges": [(1, 5), (5, 6)]}, "overlaps"), ("create", {"ranges": [{"min_id": 1}]}, "max_id"),
    ("create", {"ranges": [(1, 2, 0, {"a": object()})]}, "JSON"), ("create", {"ranges": [(1.0, 2)]}, "int"),
    ("create", {"ranges": [(i, i, 0, {"t": "x" * 15_000}) for i in range(100)]}, "bytes of JSON"),
]  # fmt: skip


@pytest.mark.parametrize("kind, args, complaint", MALFORMED, ids=[str(i) for i in range(len(MALFORMED))])
def test_malformed_ones_are_refused_at_the_door(strategy: Any, kind: Any, args: Any, complaint: str) -> None:
    admin = AdminService(strategy, "eve")
    with pytest.raises(ConfigError) as caught:
        admin.submit(kind, args)
    assert complaint in str(caught.value)
    assert admin.commands() == []


def test_who_asks_and_the_name_of_a_command_are_checked(strategy: Any) -> None:
    for by in ("", "a\nb", "x" * 201, None and 5, 5):
        if by is not None:
            with pytest.raises(ConfigError):
                AdminService(strategy, by).pause()  # type: ignore[arg-type]
    for name in ("", "a b", "x" * 65, 5):
        with pytest.raises(ConfigError):
            AdminService(strategy, "eve").submit("pause", {}, command_id=name)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        AdminService(strategy, "eve").commands(0)
    assert AdminService(strategy).by


def test_the_queue_is_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("hash_commands", "simple_commands"):
        monkeypatch.setattr("elk_coordinator.partition.%s.MAX_QUEUED" % module, 3)
    names = [desk.admin.pause() for _ in range(3)]
    with pytest.raises(StateError):
        desk.admin.pause()
    desk.admin.submit("pause", {}, command_id=names[0])
    desk.work()
    desk.admin.pause()


def test_a_client_finds_out_which_strategy_runs(backend: Any, strategy: Any) -> None:
    store = backend.new_store()
    with pytest.raises(StateError):
        AdminClient(backend.namespace, store)
    with pytest.raises(ConfigError):
        AdminClient("no such name!", store)
    with pytest.raises(ConfigError):
        AdminClient(backend.namespace, None)  # type: ignore[arg-type]
    empty = AdminClient(backend.namespace, store, default=strategy.strategy_type)
    assert empty.strategy.get_partition_stats() == PartitionStats() and empty.workers() == []
    beat(strategy, info={"host": "here"})
    client = AdminClient(backend.namespace, store, by="eve")
    assert client.strategy.strategy_type is strategy.strategy_type
    name = client.create([(1, 5)])
    Desk(strategy).work()
    assert client.wait(name).state == "done"
    status = client.status()
    assert (status["strategy"], status["workers"], status["partitions"]["pending"], status["paused"]) == (
        strategy.strategy_type.value, 1, 1, False,
    )  # fmt: skip
    assert status["leader"]["worker_id"] == "leader" and status["leader"]["lease_remaining"] > 0
    assert ids(client.partitions()) == [1] and client.workers()[0].info == {"host": "here"}


def test_a_plan_without_a_worker_is_enough_to_find_out(backend: Any, strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(1))
    assert open_strategy(backend.namespace, backend.new_store()).strategy_type is strategy.strategy_type


# -- the real server ---------------------------------------------------------------------------------------------------


def test_a_hundred_thousand_failed_ones_are_retried_in_steps(real_backend: Any) -> None:
    strategy = real_backend.new_strategy(partition_lock_expiry=LEASE)
    count = 100_000
    raw = real_backend.raw.pipeline(transaction=False)
    for start in range(1, count + 1, 5000):
        page = range(start, start + 5000)
        raw.hset(real_backend.key("specs"), mapping={"%014x" % i: "%x 9 00000000001000" % (i * 10) for i in page})
        line = "F 5 6 0 3 3 0 - 0 E 0 w broken"
        raw.hset(real_backend.key("state"), mapping={"%014x" % i: line for i in page})
        raw.zadd(real_backend.key("failed"), {"%014x" % i: 0 for i in page})
    raw.execute()
    desk = Desk(strategy)
    name, turns = desk.admin.retry_failed(), 0
    desk.role.hint()
    while desk.role.run_once() is not None:
        turns += 1
    assert turns == count // 500 + 1
    assert desk.admin.wait(name, 0.0).done == count
    stats = strategy.get_partition_stats()
    assert (stats.pending, stats.failed) == (count, 0)
    assert {strategy.get_partition(i).attempt for i in (1, 500, 501, count)} == {0}


# -- the guards --------------------------------------------------------------------------------------------------------


def test_the_guards_of_a_step_are_needed(hash_backend: Any) -> None:
    hash_backend.mutate("partition/command", "if redis.call('HGET', state_key, id) ~= expected then", "if false then")
    strategy = hash_backend.new_strategy(partition_lock_expiry=LEASE)
    desk = Desk(strategy)
    desk.admin.pause()
    store = command_store(strategy)
    job = store.first()
    assert job is not None
    store.step(desk.term, job)
    done = desk.admin.commands()[0].result["changed"]
    store.step(desk.term, job)
    assert (done, desk.admin.commands()[0].result["changed"]) == (1, 0), "a step sent twice is done twice"


def test_the_check_of_the_term_is_needed(hash_backend: Any) -> None:
    hash_backend.mutate("partition/command", "if holder ~= term then", "if false then")
    strategy = hash_backend.new_strategy(partition_lock_expiry=LEASE)
    desk = Desk(strategy)
    desk.admin.pause()
    store = command_store(strategy)
    job = store.first()
    assert job is not None
    strategy.store.release_lock("leader", desk.term)
    store.step(desk.term, job)
    assert strategy.is_paused(), "a stale leader was heard"


def test_ids_taken_between_the_readings_are_not_given_twice(
    desk: Desk, strategy: Any, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if strategy.strategy_type is StrategyType.SIMPLE:
        pytest.skip("SIMPLE reads once")
    read, tries = strategy.planned_window, []

    def meanwhile(*args: Any) -> Any:
        tries.append(args)
        if len(tries) == 1:
            other.create_partitions_if_not_exist(parts(1))
        return read(*args)

    monkeypatch.setattr(strategy, "planned_window", meanwhile)
    assert desk.do("create", ranges=[(500, 501)])["created"] == [[2, 2]]
    assert len(tries) == 2
    sound(strategy)


def test_simple_remembers_the_later_term(
    desk: Desk, strategy: Any, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if strategy.strategy_type is StrategyType.HASH:
        pytest.skip("HASH checks the lock in the script")
    strategy.store.release_lock("leader", desk.term)
    later = lead(other, "next")
    desk.admin.pause()
    desk.admin.resume()
    store = command_store(strategy)
    job = store.first()
    assert job is not None
    # The old leader looked at the lock just before it changed hands, and writes after the new one has.
    monkeypatch.setattr(strategy, "leads", lambda term: True)
    role = role_of(other, later)
    role.run_once()
    with pytest.raises(LeaseLost):
        store.step(desk.term, job)
    assert strategy.is_paused()


def test_the_end_of_every_command_is_told_once_as_an_event(strategy: Any) -> None:
    told: List[Any] = []

    class Listener:
        def on_command_ended(self, event: Any) -> None:
            told.append(event.facts)

    desk = Desk(strategy)
    clock = Clock()
    events = Events("orders", "leader", clock, LOGGER, own=[Listener()])
    desk.role = Commands(command_store(strategy), lambda: desk.term, clock, LOGGER, 30.0, events)
    fail_all(strategy, *range(1, 7))
    first = desk.admin.submit("retry_failed", {})
    second = desk.admin.submit("pause", {})
    desk.work()
    there = strategy.get_partition(1)
    third = desk.admin.submit("create", {"ranges": [[there.min_id, there.max_id - 1]]})
    desk.work()
    desk.work()
    assert [(facts["command_id"], facts["command"], facts["by"], facts["state"]) for facts in told] == [
        (first, "retry_failed", "eve", "done"), (second, "pause", "eve", "done"), (third, "create", "eve", "failed"),
    ]  # fmt: skip
    assert told[0]["changed"] == 6 and told[0]["error"] == "" and "overlap" in told[2]["error"]
