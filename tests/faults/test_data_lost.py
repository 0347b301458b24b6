"""A store that comes back with old data, or with part of them: tokens rise, nothing is skipped, and it is told."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Set, Tuple

import pytest
import redis

from elk_coordinator import PartitionStatus, StrategyType, create_strategy
from elk_coordinator.partition.audit import verify
from elk_coordinator.testing import EmbeddedServer, wait_until
from tests.faults.fleet import LEASE, Fleet, Tally, must_fail, now
from tests.faults.journal import covered_size
from tests.faults.proxy import Proxy
from tests.faults.test_store import PLAIN_COUNTER
from tests.faults.topologies import SentinelSet, address, ask, hand

MakeFleet = Callable[..., Fleet]
MakeServer = Callable[..., EmbeddedServer]
MakeProxy = Callable[[str], Proxy]

#: Steps of 50 ms, so that a fault meets partitions in their middle.
STEPS: Dict[str, Any] = {"steps": 4, "pause": 0.05}
#: A store that went back tells nobody: the mark of the loss, switched off.
NO_MARK = [
    [path, "redis.call('HSET', meta, 'lost', text(stamp))", "local nothing"]
    for path in ("partition/work", "partition/heartbeat", "partition/plan", "partition/sweep", "store/lock_acquire")
] + [
    ["partition/heartbeat", "lost = text(stamp)", "lost = lost"],
    ["partition/work", "if floor > last then lost_data = 1 end", ""],
]  # fmt: skip


def start(fleet: Fleet, *names: str, work: Dict[str, Any] = STEPS, **config: Any) -> None:
    for name in names:
        fleet.start(name, work, wait=False, **config)


def resumed(fleet: Fleet, since: float, timeout: float = LEASE + 15.0) -> float:
    """Wait until a completion is accepted again; return the seconds since the fault ended."""
    return fleet.wait_told("partition_completed", timeout, since)["t"] - since


def completed_ids(fleet: Fleet) -> Set[int]:
    found = fleet.partitions.get_all_partitions()
    return {p.partition_id for p in found if p.status is PartitionStatus.COMPLETED}


def told_by_all(fleet: Fleet, kind: str, since: float = 0.0) -> bool:
    return {told["by"] for told in fleet.told(kind, since)} == {worker.name for worker in fleet.workers}


def check_old_data(fleet: Fleet, at: float, forgotten: Set[int]) -> Tally:
    """Check what must hold where the store went back at *at* and *forgotten* had been completed by then."""
    tally = fleet.check(fresh_plan=True)
    before = max(attempt.token for attempt in fleet.journal.attempts() if attempt.at < at)
    again = {a.partition_id: a.token for a in fleet.journal.attempts() if a.at > at}
    assert forgotten <= set(again), "completed, forgotten and never run again: %s" % sorted(forgotten - set(again))
    assert min(again[partition_id] for partition_id in forgotten) > before, "a token fell"
    return tally


def check_loss_is_told(fleet: Fleet, timeout: float = 10.0) -> None:
    wait_until(lambda: told_by_all(fleet, "store_lost_data"), timeout, lambda: "the loss told\n" + fleet.story())


# ---------------------------------------------------------------- restarted from old data


def test_a_server_that_comes_back_with_an_old_snapshot_has_its_work_repeated_behind_the_fence(
    new_fleet: MakeFleet, new_server: MakeServer
) -> None:
    server = new_server()
    fleet = new_fleet(900, "guarded", server.url)
    counter, silent = new_fleet(900, "plain-counter", server.url), new_fleet(900, "no-mark", server.url)
    start(fleet, "a", "b")
    start(counter, "a", scripts=PLAIN_COUNTER)
    start(silent, "a", scripts=NO_MARK)
    for each in (fleet, counter, silent):
        each.wait_completed(10)
    kept = completed_ids(fleet)
    ask(server, "SAVE")
    # What is written from now on is lost: completions, claims, whatever was planned, perhaps a term.
    for each in (fleet, counter, silent):
        each.wait_completed(each.completed() + 20)
    forgotten = completed_ids(fleet) - kept
    at = now()
    server.restart()
    back = now()
    assert 0 < fleet.completed() < len(kept | forgotten)
    check_loss_is_told(fleet)
    seconds = resumed(fleet, back)
    fleet.wait_done(40.0)
    tally = check_old_data(fleet, at, forgotten - completed_ids_before(fleet, at))
    print("an old snapshot forgot %d completions; back to work %.2f s after the server was there; "
          "%s" % (len(forgotten), seconds, tally))  # fmt: skip
    wait_until(lambda: any(a.at > back for a in counter.journal.attempts()), 20.0, counter.story)
    with must_fail("token"):
        wait_until(lambda: counter.check_tokens(), 15.0, "tokens to fall")
    wait_until(lambda: silent.done() or silent.told("partition_completed", back), 30.0, silent.story)
    with must_fail("the loss told"):
        check_loss_is_told(silent, 1.0)
    fleet.end()


def completed_ids_before(fleet: Fleet, at: float) -> Set[int]:
    """Return what rested as completed before *at* with the token of then: the snapshot was that late."""
    by_token = {a.token for a in fleet.journal.attempts() if a.at < at}
    return {p.partition_id for p in fleet.partitions.get_all_partitions() if p.fencing_token in by_token}


@pytest.mark.long
@pytest.mark.timeout(90)
def test_a_failover_that_loses_writes_and_the_old_primarys_return_leave_no_gap_and_no_stale_write(
    new_fleet: MakeFleet, new_server: MakeServer
) -> None:
    sentinels = SentinelSet(new_server)
    primary, replica = sentinels.primary, sentinels.replica
    fleet, counter = new_fleet(900, url=sentinels.url), new_fleet(900, "plain-counter", sentinels.url)
    start(fleet, "a", "b")
    start(counter, "a", scripts=PLAIN_COUNTER)
    for each in (fleet, counter):
        each.wait_completed(10)
    assert sentinels.synced()
    kept = completed_ids(fleet)
    # The replica cannot log in any more: it stays where it is while the primary goes on.
    ask(replica, "CONFIG", "SET", "masterauth", "nonsense")
    ask(primary, "CLIENT", "KILL", "TYPE", "replica")
    wait_until(lambda: b"master_link_status:down" in ask(replica, "INFO", "replication"), 10.0, "a broken link")
    for each in (fleet, counter):
        each.wait_completed(each.completed() + 20)
    forgotten = completed_ids(fleet) - kept
    at = now()
    primary.kill()
    wait_until(lambda: leads(replica), 30.0, "a new primary")
    promoted = now()
    seconds = resumed(fleet, promoted, 30.0)
    check_loss_is_told(fleet, 20.0)
    # The old one comes back, empty and believing in itself, until it is told.
    primary.restart()
    wait_until(lambda: ask(primary, "ROLE")[0] == b"slave", 40.0, "the old primary as a replica")
    fleet.wait_done(40.0)
    tally = check_old_data(fleet, at, forgotten - completed_ids_before(fleet, at))
    assert not fleet.told("role_died")
    print("a failover of %.1f s lost %d completions; back to work %.2f s later; %s" % (
        promoted - at, len(forgotten), seconds, tally))  # fmt: skip
    wait_until(lambda: any(a.at > promoted for a in counter.journal.attempts()), 20.0, counter.story)
    with must_fail("token"):
        wait_until(lambda: counter.check_tokens(), 15.0, "tokens to fall")
    fleet.end()


@pytest.mark.long
def test_two_primaries_at_once_both_run_nothing_is_applied_twice_and_after_it_all_is_one_again(
    new_fleet: MakeFleet, new_server: MakeServer, new_proxy: MakeProxy
) -> None:
    one, two = new_server(extra_args=("--repl-diskless-sync-delay", "0")), new_server()
    ask(two, "REPLICAOF", *address(one))
    wait_until(lambda: b"master_link_status:up" in ask(two, "INFO", "replication"), 10.0, "a replica")
    cases: List[Tuple[Fleet, Proxy]] = []
    for name, fenced in (("guarded", True), ("no-fence", False)):
        fleet = new_fleet(600, name, one.url)
        proxy = new_proxy(one.url)
        work = dict(STEPS, fenced=fenced)
        options = {"max_attempts": 50}
        start(fleet, "a", work=work, options=options)
        start(fleet, "b", work=work, options=options, url=proxy.url)
        cases.append((fleet, proxy))
    for fleet, _ in cases:
        fleet.wait_completed(8)
        wait_until(lambda f=fleet: told_by_all(f, "partition_completed"), 20.0, fleet.story)
    with hand(one) as client:
        assert client.wait(1, 5000) == 1
    # From now on the two sides know nothing of each other.
    ask(two, "REPLICAOF", "NO", "ONE")
    for _, proxy in cases:
        proxy._target = address(two)
        proxy.cut()
    split = now()
    for fleet, _ in cases:
        for worker in fleet.workers:
            wait_until(lambda w=worker, s=split: len(w.of("partition_completed", s)) >= 15, 30.0, fleet.story)
    for _, proxy in cases:
        proxy._target = address(one)
        proxy.cut()
    # Nobody works there any more; what it knew is dropped.
    ask(two, "REPLICAOF", *address(one))
    healed = now()
    for fleet, _ in cases:
        wait_until(lambda f=fleet: told_by_all(f, "partition_completed", healed) or f.done(), 30.0, fleet.story)
        fleet.wait_done(40.0)
        fleet.end()
    fleet, control = (fleet for fleet, _ in cases)
    report = verify(fleet.partitions)
    assert report.problems == [], report.problems
    assert {p.status for p in fleet.partitions.get_all_partitions()} == {PartitionStatus.COMPLETED}
    assert not fleet.told("role_died")
    check_effects(fleet)
    with must_fail("applied twice"):
        check_effects(control)
    both = [r for r in {(a.lo, a.hi) for a in fleet.journal.attempts()} if len({
        a.worker for a in fleet.journal.attempts() if (a.lo, a.hi) == r}) > 1]  # fmt: skip
    assert both, "no range was worked on by both sides"
    print("%d of 60 ranges run on both sides: %d IDs written twice beside the fence, 0 behind it; %d stale "
          "writes refused" % (len(both), fleet.journal.repeated_ids(), len(fleet.journal.refusals())))  # fmt: skip


def leads(server: EmbeddedServer) -> bool:
    """Return whether *server* is a primary. Sentinel cuts off all clients of the one that it promotes."""
    try:
        return bool(ask(server, "ROLE")[0] == b"master")
    except redis.ConnectionError:
        return False


def check_effects(fleet: Fleet) -> None:
    """Check that behind the fence every effect happened once."""
    applied = fleet.journal.applied()
    size = sum(high - low + 1 for low, high in applied)
    assert size == covered_size(applied), "%d effects were applied twice" % (size - covered_size(applied))
    assert covered_size(applied) == fleet.last


# ---------------------------------------------------------------- lost without a restart


@pytest.mark.long
def test_the_document_of_the_simple_strategy_that_vanishes_is_planned_anew_with_rising_tokens(
    new_fleet: MakeFleet, new_server: MakeServer
) -> None:
    server = new_server()
    fleet = new_fleet(400, url=server.url)
    fleet.partitions = create_strategy(StrategyType.SIMPLE, fleet.namespace, fleet.store)
    start(fleet, "a", "b", options={"strategy": "simple"})
    fleet.wait_completed(10)
    at = now()
    server.flush()
    check_loss_is_told(fleet)
    seconds = resumed(fleet, at)
    fleet.wait_done(40.0)
    # Then again, while nobody has anything to do.
    flushed = now()
    server.flush()
    wait_until(lambda: told_by_all(fleet, "store_lost_data", flushed), 15.0, fleet.story)
    wait_until(fleet.done, 30.0, fleet.story)
    fleet.end()
    tally = fleet.check(fresh_plan=True)
    assert len({a.token for a in fleet.journal.attempts() if a.at > flushed}) == 40
    print("document deleted: back to work after %.2f s; deleted again while all were idle: all %d partitions "
          "ran again; %s" % (seconds, 40, tally))  # fmt: skip
