"""Work that fails by what it holds: one bad ID, a database that is away, a storm of failures, a range done again."""

from __future__ import annotations

import os
import pathlib
from typing import Any, Callable, Dict, List, Tuple

import pytest

from elk_coordinator import CreatePartition, Partition, RangeConflict
from elk_coordinator.testing import wait_until
from tests.faults.fleet import Fleet, let_pass, must_fail, now

MakeFleet = Callable[..., Fleet]
CONTENT = "content_worker.py"
SEED = int(os.environ.get("ELK_SEED") or 20261125)
BREAKER: Dict[str, Any] = {
    "consecutive_failures": 3, "total_failures": 5, "open_timeout": 2.0, "half_open_max": 2, "failure_window": 60.0,
}  # fmt: skip


# -- one bad ID


def rested_before(fleet: Fleet, bad: int, within: float = 30.0) -> Partition:
    """Wait for the end of all work but the partition with the bad ID, which rests; return that one."""
    wait_until(lambda: fleet.partitions.get_partition_stats().failed == 1, within, "it was tried again and again")
    fleet.wait_done(40.0, failed=1)
    return next(p for p in fleet.partitions.get_all_active_partitions() if p.min_id <= bad <= p.max_id)


@pytest.mark.timeout(120)
def test_one_bad_id_in_a_million_costs_one_partition_which_rests_just_before_it(new_fleet: MakeFleet) -> None:
    last, size, bad = 10**6, 4000, 777_777
    work = {"bad": [bad], "stride": 700}
    fleet = new_fleet(last, size=size)
    forgetful, stubborn = new_fleet(3 * size, "forgetful", size=size), new_fleet(3 * size, "stubborn", size=size)
    for name in ("a", "b"):
        fleet.start(name, work, program=CONTENT, wait=False)
    at = now()
    # Controls: checkpoints that are not kept; attempts without an end.
    small = {"bad": [size + 2222], "stride": 700}
    forgetful.start("a", small, program=CONTENT, broken=["checkpoint"])
    stubborn.start("a", small, program=CONTENT, options={"max_attempts": 10**4, "retry_backoff": [0.05, 0.1]})

    rested = rested_before(fleet, bad)
    fleet.end()
    tally = fleet.check(failed=frozenset([rested.partition_id]))
    error = rested.error or ""
    assert rested.attempt == 3 and rested.checkpoint == bad - 1 and rested.deliveries == 0, rested
    assert "BadRecord: ID %d cannot be read" % bad in error and "content_worker.py" in error, error
    tried = [a for a in fleet.journal.attempts() if a.partition_id == rested.partition_id]
    assert [a.attempt for a in tried] == [1, 2, 3]
    assert tally["repeated"] == 0, "%d IDs in front of the bad one were done again" % tally["repeated"]
    assert tally["rerun"] == 2
    print("partition %d of %d rests at ID %d after 3 attempts, %.1f s for %d IDs; %s" % (
        rested.partition_id, tally["partitions"], bad - 1, now() - at, last, tally))  # fmt: skip

    rested_before(forgetful, small["bad"][0])  # type: ignore[index]
    with must_fail("were done again"):
        again = forgetful.journal.repeated_ids()
        assert again == 0, "%d IDs in front of the bad one were done again" % again
    with must_fail("again and again"):
        rested_before(stubborn, small["bad"][0], 1.0)  # type: ignore[index]


# -- everything fails


def burnt(fleet: Fleet) -> int:
    """Return the attempts that were counted against partitions."""
    return sum(p.attempt for p in fleet.partitions.get_all_active_partitions())


def database(fleet: Fleet, share: float) -> float:
    """Take the database away for that share of the partitions, or give it back; return when."""
    path = pathlib.Path(str(fleet.folder)) / "database-down"
    if share:
        path.write_text("%g" % share)
    else:
        path.unlink()
    return now()


def spells(fleet: Fleet, name: str) -> List[Tuple[float, float]]:
    """Return from when to when the breaker of a worker was open."""
    changes = [(t["t"], t["state"]) for t in fleet.told("breaker_changed") if t["by"] == name]
    ends = [at for at, _ in changes[1:]] + [float("inf")]
    return [(at, end) for (at, state), end in zip(changes, ends) if state == "open"]


def begun_while_open(fleet: Fleet, work: Fleet) -> int:
    """Count attempts of *work* while the breaker of that worker in *fleet* was open.

    A turn that was under way when it opened may still bring some.
    """
    begun = work.journal.attempts()
    return sum(
        1 for a in begun for opened, closed in spells(fleet, a.worker) if opened + 1.0 < a.at < closed - 0.3
    )  # fmt: skip


def repeated_attempts(fleet: Fleet) -> int:
    """Return how many attempts in all are counted that partitions had before their last one."""
    highest: Dict[int, int] = {}
    for a in fleet.journal.attempts():
        highest[a.partition_id] = max(a.attempt, highest.get(a.partition_id, 1))
    return sum(highest.values()) - len(highest)


def test_a_database_that_is_away_opens_the_breakers_burns_few_attempts_and_work_resumes_by_itself(
    new_fleet: MakeFleet,
) -> None:
    work = {"pause": 0.02}
    fleet, control = new_fleet(3000), new_fleet(3000, "control")
    for name in ("a", "b"):
        fleet.start(name, work, program=CONTENT, wait=False, options={"circuit_breaker": BREAKER})
    control.start("a", work, program=CONTENT)
    fleet.wait_completed(40)
    control.wait_completed(10)
    down = database(fleet, 1.0)
    database(control, 1.0)
    for worker in fleet.workers:
        worker.wait_for("breaker_changed", state="open")
    # What was running then has ended: what it cost is all that it costs.
    wait_until(lambda: fleet.partitions.get_partition_stats().running == 0, 10.0, "what was running to end")
    wasted = burnt(fleet)
    for worker in fleet.workers:
        worker.wait_for("breaker_changed", 10.0, state="half_open")
    let_pass(4.5, down)
    assert burnt(fleet) == wasted, "attempts were burnt while the breaker was open or probed"
    stats = control.partitions.get_partition_stats()
    with must_fail("rest as failed"):
        assert stats.failed == 0, "%d partitions rest as failed, %d attempts burnt" % (stats.failed, burnt(control))
    with must_fail("while the breaker was open"):
        begun = begun_while_open(fleet, control)
        assert begun == 0, "%d attempts began while the breaker was open" % begun
    up = database(fleet, 0.0)
    resumed = fleet.wait_told("partition_completed", 15.0, since=up)["t"] - up
    fleet.wait_done(40.0)
    fleet.end()
    tally = fleet.check()
    assert begun_while_open(fleet, fleet) == 0
    assert repeated_attempts(fleet) == wasted
    probes = sum(len(spells(fleet, name)) - 1 for name in ("a", "b"))
    print("away for %.1f s: %d attempts wasted, %d probes failed for nothing, back %.2f s after it; %s" % (
        up - down, wasted, probes, resumed, tally))  # fmt: skip
    assert wasted <= 2 * (BREAKER["consecutive_failures"] + 2 * 3), wasted
    assert resumed < BREAKER["open_timeout"] + 3.0


@pytest.mark.long
@pytest.mark.timeout(100)
def test_a_storm_in_which_sixty_percent_fail_holds_the_run_with_its_reason(new_fleet: MakeFleet) -> None:
    # Failures in a row are no reason here: their share is.
    share = dict(BREAKER, consecutive_failures=10**6)
    work = {"pause": 0.03, "seed": SEED}
    fleet, control = new_fleet(3000), new_fleet(3000, "control")
    options = {"max_attempts": 4}
    for name in ("a", "b"):
        fleet.start(name, work, program=CONTENT, options=dict(options, circuit_breaker=share), wait=False)
        control.start(name, work, program=CONTENT, wait=False, options=dict(
            options, circuit_breaker=dict(share, total_failures=10**6)))  # fmt: skip
    for each in (fleet, control):
        database(each, 0.6)
    for worker in fleet.workers:
        reason = worker.wait_for("breaker_changed", state="open")["reason"]
    let_pass(6.0)
    up = database(fleet, 0.0)
    wasted, storm = burnt(fleet), burnt(control)
    resumed = fleet.wait_told("partition_completed", 15.0, since=up)["t"] - up
    fleet.wait_done(40.0)
    fleet.end()
    tally = fleet.check()
    assert begun_while_open(fleet, fleet) == 0
    print("seed %d: opened %d times (%s), %d attempts wasted, %d without the threshold, back after %.2f s; %s" % (
        SEED, sum(len(spells(fleet, name)) for name in ("a", "b")), reason, wasted, storm, resumed, tally))  # fmt: skip
    assert "failed" in reason, reason
    with must_fail("attempts were burnt"):
        assert storm < 4 * wasted, "%d attempts were burnt, %d with the threshold" % (storm, wasted)


# -- a range done again by hand


def run_again(fleet: Fleet, fenced: bool) -> Tuple[Partition, Partition]:
    """Have partition 5 done, delete it and create its range anew, and have that done; return both."""
    strategy = fleet.partitions
    strategy.create_partitions_if_not_exist([CreatePartition(i, 10 * i - 9, 10 * i) for i in range(1, 21)])
    fleet.start("a", {"fenced": fenced}, planner=False, program=CONTENT)
    fleet.wait_completed(20)
    before = strategy.get_partition(5)
    # Over a range that is planned nothing can be created, whole or in part.
    for low, high in ((41, 50), (45, 46), (36, 45)):
        with pytest.raises(RangeConflict):
            strategy.create_partitions_if_not_exist([CreatePartition(21, low, high)])
    strategy.delete_partitions([5])
    assert strategy.planned_intervals() == [(1, 40), (51, 200)]
    strategy.create_partitions_if_not_exist([CreatePartition(21, 41, 50)])
    fleet.wait_completed(20)
    fleet.end()
    return before, strategy.get_partition(21)


def test_a_range_that_is_deleted_and_created_anew_runs_again_under_a_new_token(new_fleet: MakeFleet) -> None:
    fleet, control = new_fleet(200), new_fleet(200, "unfenced")
    before, after = run_again(fleet, True)
    tally = fleet.check()
    assert after.fencing_token > before.fencing_token
    assert tally["attempts"] == 21 and tally["rerun"] == 1
    print("tokens %d, then %d; both attempts in the journal, effects once; %s" % (
        before.fencing_token, after.fencing_token, tally))  # fmt: skip
    run_again(control, False)
    with must_fail("applied twice"):
        control.check()
