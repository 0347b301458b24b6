"""The threads of a worker die: they are started again, or the worker gives up what it can no longer do."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Sequence

import pytest

from elk_coordinator.testing import wait_until
from tests.faults.fleet import LEASE, Fleet, Worker, let_pass, must_fail, now
from tests.faults.test_process_processors import ODD

MakeFleet = Callable[..., Fleet]

#: Of a worker that leads, with a listener; "http" has no turns to wound (tests/unit/test_http.py).
ROLES = (
    "heartbeat", "claimer", "allocator", "recovery", "commands", "archiver", "election", "wakeup", "journal", "events",
)  # fmt: skip
STEPS: Dict[str, Any] = {"steps": 2, "pause": 0.05}


def health(worker: Worker) -> Dict[str, Any]:
    at = now()
    worker.say("health")
    return worker.wait_for("health", since=at)


def kill(fleet: Fleet, role: str, times: int) -> float:
    (fleet.folder / ("kill-" + role)).write_text("%d" % times)
    return now()


def restarts(worker: Worker) -> Dict[str, int]:
    return {role["name"]: role["restarts"] for role in health(worker)["roles"] if role["alive"]}


def assert_restarted(worker: Worker, roles: Sequence[str], timeout: float) -> None:
    def missing() -> List[str]:
        known = restarts(worker)
        return [role for role in roles if known.get(role) != 1]

    wait_until(lambda: not missing(), timeout, lambda: "to start again: %s" % ", ".join(missing()))


@pytest.mark.long
def test_every_role_whose_thread_dies_is_started_again_and_the_work_goes_on(new_fleet: MakeFleet) -> None:
    fleet, control = new_fleet(1200), new_fleet(1200, "control")
    worker = fleet.start("only", STEPS, program=ODD, broken=["wounds"])
    # The control: nobody looks after the dead.
    left = control.start("only", STEPS, program=ODD, broken=["wounds", "supervise"])
    kill(control, "claimer", 1)
    for role in ROLES:
        kill(fleet, role, 1)
    wait_until(lambda: len(worker.of("killed")) == len(ROLES), 30.0, lambda: "all to die\n%s" % worker.tail())
    assert_restarted(worker, ROLES, 20.0)
    seconds = now() - worker.of("killed")[0]["t"]
    assert {told["role"] for told in worker.of("role_died")} == set(ROLES)
    assert health(worker)["healthy"] is True
    fleet.wait_done()
    fleet.end()
    tally = fleet.check()
    print("%d threads of roles died: all were back after %.1f s; %s" % (len(ROLES), seconds, tally))
    left.wait_for("killed")
    with must_fail("to start again: claimer"):
        assert_restarted(left, ["claimer"], 3.0)


def dead_for_good(fleet: Fleet, role: str, **config: Any) -> Worker:
    """Start a worker whose *role* dies at every turn once its file says so."""
    return fleet.start("victim", {"steps": 4, "pause": 0.4}, program=ODD, tell_also=["claimed"], **config)


def assert_claims_nothing(victim: Worker, since: float) -> None:
    late = victim.of("claimed", since=since)
    assert late == [], "it claims without a heartbeat"


@pytest.mark.long
@pytest.mark.timeout(100)
def test_a_worker_without_a_heartbeat_claims_nothing_ends_its_work_and_says_so(new_fleet: MakeFleet) -> None:
    # Enough for the control to go on with.
    fleet, control = new_fleet(400), new_fleet(40_000, "control")
    victim = dead_for_good(fleet, "heartbeat", broken=["wounds"])
    # The control: every thread counts as alive.
    claims = dead_for_good(control, "heartbeat", broken=["wounds", "alive"])
    for each in (fleet, control):
        kill(each, "heartbeat", 100)
    died = {}
    for worker in (victim, claims):
        wait_until(lambda w=worker: len(w.of("killed")) == 6, 30.0, worker.tail)  # type: ignore[misc]
        died[worker] = worker.of("killed")[-1]["t"]
    fleet.start("heir", STEPS)
    fleet.wait_done()
    let_pass(3.0, died[victim] + 0.5)
    assert_claims_nothing(victim, died[victim] + 0.5)
    last = max(attempt.at for attempt in fleet.journal.attempts() if attempt.worker == "victim")
    told = health(victim)
    assert told["healthy"] is False and any("elk-heartbeat" in problem for problem in told["problems"]), told
    let_pass(3.0, died[claims] + 0.5)
    with must_fail("it claims without a heartbeat"):
        assert_claims_nothing(claims, died[claims] + 0.5)
    fleet.end()
    tally = fleet.check()
    print("heartbeat dead for good: the last attempt began %.1f s after its last death; health: '%s'; %s" % (
        last - died[victim], told["problems"][0], tally))  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(100)
@pytest.mark.parametrize("role", ["allocator", "recovery", "election", "claimer"])
def test_a_leader_that_lost_a_duty_for_good_makes_way_for_another(new_fleet: MakeFleet, role: str) -> None:
    fleet = new_fleet(600)
    fleets = [fleet]
    victim = dead_for_good(fleet, role, broken=["wounds"])
    if role in ("allocator", "recovery"):
        # The control: every thread counts as alive.
        control = new_fleet(600, "control")
        fleets.append(control)
        dead_for_good(control, role, broken=["wounds", "alive"])
    for each in fleets:
        each.workers[0].wait_for("became_leader")
        each.start("heir", STEPS)
        kill(each, role, 100)
    wait_until(lambda: len(victim.of("killed")) == 6, 30.0, victim.tail)
    at = now()

    def heir_leads(fleet: Fleet, timeout: float) -> None:
        wait_until(lambda: (fleet.partitions.leader() or [""])[0] == "heir", timeout, "the heir to lead")

    if role != "claimer":
        heir_leads(fleet, LEASE + 10.0)
    seconds = now() - at
    fleet.wait_done()
    told = health(victim)
    assert told["healthy"] is False and any("elk-" + role in problem for problem in told["problems"]), told
    if len(fleets) > 1:
        with must_fail("the heir to lead"):
            heir_leads(control, 1.0)
    victim.kill() if role == "claimer" else None
    fleet.wait_done()
    fleet.end()
    tally = fleet.check()
    print("the %s thread dead for good: another led %.1f s later; health: '%s'; %s" % (
        role, seconds, told["problems"][0], tally))  # fmt: skip
