"""Leaders that are killed in a plan or every lease, are cut off, or sit behind a slow link: the plan goes on, once."""

from __future__ import annotations

from typing import Any, Callable

import pytest

from elk_coordinator.testing import wait_until
from tests.faults.fleet import LEASE, Fleet, let_pass, must_fail, now
from tests.faults.proxy import Proxy

MakeFleet = Callable[..., Fleet]
MakeProxy = Callable[[str], Proxy]

#: A batch's partitions are created, but its IDs are not noted as planned: one step of a plan, switched off.
NOT_NOTED = ["partition/plan", "for list = 2, 4, 2 do", "for list = 4, 4, 2 do"]


class HalfAPlan:
    """A leader that dies when two batches of a plan of four were accepted, before it knows of the second."""

    def __init__(self, fleet: Fleet, **config: Any) -> None:
        self.fleet = fleet
        options = {"max_pending_partitions": 2000, "worker_partition_multiple": 500}
        self.first = fleet.start("first", {"hold": "all"}, options=options, tell_also=["plan"], wait=False,
                                 die_after_plans=2, **config)  # fmt: skip
        wait_until(lambda: self.first.process.poll() is not None, 20.0, fleet.story)
        self.planned = fleet.partitions.get_partition_stats().total
        fleet.start("second", options=options, tell_also=["plan"], journal=False, **config)

    def check(self) -> Any:
        sizes = [told["count"] for told in self.fleet.told("plan") if told.get("count")]
        found = self.fleet.partitions.get_all_partitions()
        starts = {p.min_id for p in found}
        assert len(starts) == len(found) and sum(sizes) == len(found), "planned twice"
        return "it had planned %d" % self.planned


@pytest.mark.long
def test_a_leader_killed_after_half_of_the_batches_of_a_plan_leaves_no_gap_and_nothing_twice(
    new_fleet: MakeFleet,
) -> None:
    case = HalfAPlan(new_fleet(15000))
    case.fleet.wait_done()
    case.fleet.end()
    print("killed when %s of 1500 partitions; the next leader planned the rest: 0 gaps, 0 twice" % case.check())
    assert case.fleet.partitions.planned_intervals() == [(1, 15000)] and 0 < case.planned < 1500
    control = HalfAPlan(new_fleet(15000, "not-noted"), scripts=[NOT_NOTED])
    wait_until(lambda: control.fleet.workers[1].of("plan"), 2 * LEASE + 5.0, control.fleet.story)
    with must_fail("planned twice"):
        control.check()


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_leader_killed_every_lease_ten_times_over_does_not_stop_planning(new_fleet: MakeFleet) -> None:
    fleet = new_fleet(200_000)
    options = {"max_pending_partitions": 60, "task_window_size": 4}
    for number in range(3):
        fleet.start("w%d" % number, {"pause": 0.05}, options=options)
    began, done = now(), fleet.completed()
    rounds = 10
    for number in range(rounds):
        leader = fleet.leader()
        let_pass(0.5)
        before = fleet.completed()
        at = leader.kill()
        fleet.start("w%d" % (number + 3), {"pause": 0.05}, options=options, wait=False)
        fleet.wait_told("became_leader", LEASE + 5.0, since=at)
        fleet.wait_completed(before + 20)
    minutes = (now() - began) / 60.0
    rate = (fleet.completed() - done) / minutes
    # The rest need not be done: the plan so far has no gap and nothing twice.
    last = fleet.partitions.get_partition_stats().last_allocated_id
    assert fleet.partitions.planned_intervals() == [(1, last)]
    fleet.check_tokens()
    fleet.end()
    print("%d leaders killed in %.1f min, each as soon as it led: %.0f partitions/min were done "
          "meanwhile" % (rounds, minutes, rate))  # fmt: skip
    assert rate > 100


class CutOffLeader:
    """A leader whose network goes away while it lives; beside it a follower, and a worker without a planner."""

    def __init__(self, fleet: Fleet, proxy: Proxy, **config: Any) -> None:
        self.fleet = fleet
        self.proxy = proxy
        self.old = fleet.start("old", url=proxy.url, **config)
        fleet.leader()
        fleet.start("planless", planner=False, wait=False)
        self.new = fleet.start("new", wait=False)
        self.new.wait_for("up")

    def cut(self) -> None:
        self.at = now()
        self.proxy.drop()

    def check(self) -> float:
        """Return for how long nobody led."""
        elected = self.new.wait_for("became_leader", LEASE + 5.0, since=self.at)["t"]
        down = self.old.of("stepped_down", since=self.at)
        assert down and down[0]["t"] <= elected, "two who believed to lead at once"
        return float(elected - down[0]["t"])


def test_a_leader_that_is_cut_off_steps_down_before_another_is_elected_and_follows_when_it_is_back(
    new_fleet: MakeFleet, new_proxy: MakeProxy
) -> None:
    fleet, blind = new_fleet(3000), new_fleet(3000, "no-clock")
    case = CutOffLeader(fleet, new_proxy(fleet.url))
    control = CutOffLeader(blind, new_proxy(blind.url), broken=["term"])
    for each in (case, control):
        each.cut()
    seconds = case.check()
    with must_fail("two who believed to lead at once"):
        control.check()
    case.proxy.heal()
    case.old.wait_for("stood", since=now())
    fleet.wait_done()
    assert {told["by"] for told in fleet.told("became_leader")} == {"old", "new"}, "without a planner nobody stands"
    assert len(fleet.told("became_leader")) == 2, "the one that is back follows"
    fleet.end()
    print("a leader that was cut off: nobody led for %.2f s, never two; %s" % (seconds, fleet.check()))


class FarLeader:
    """A leader whose answers take some share of its lease, and a worker beside it that has them at once."""

    LEASE = 6.0

    def __init__(self, fleet: Fleet, proxy: Proxy, share: float) -> None:
        self.fleet = fleet
        options = {"leader_lock_expiry": self.LEASE, "worker_ttl": 30.0}
        fleet.start("far", url=proxy.url, options=options)
        fleet.leader()
        fleet.start("near", options=options)
        proxy.delay(share * self.LEASE / 2.0)
        self.proxy = proxy

    def check(self) -> None:
        leaders = [told["by"] for told in self.fleet.told("became_leader")]
        assert leaders == ["far"], "the leader changed: %s\n%s" % (leaders, self.fleet.story())


@pytest.mark.long
def test_a_leader_behind_a_link_that_takes_a_twentieth_of_its_lease_leads_on_and_half_of_it_costs_one_change(
    new_fleet: MakeFleet, new_proxy: MakeProxy
) -> None:
    fleet, slower = new_fleet(300), new_fleet(300, "half")
    case = FarLeader(fleet, new_proxy(fleet.url), 0.05)
    # A request, with the probe of its connection before it, is given up after a sixth of a lease: who has answers
    # later than that cannot lead, and another does.
    control = FarLeader(slower, new_proxy(slower.url), 0.5)
    let_pass(2.0 * FarLeader.LEASE)
    case.check()
    assert fleet.told("stepped_down") == []
    with must_fail("the leader changed"):
        control.check()
    assert [told["by"] for told in slower.told("became_leader")] == ["far", "near"]
    for each in (case, control):
        each.fleet.wait_done()
        each.proxy.heal()
        each.fleet.end()
    print("%.1f s for an answer and a lease of %g s: 0 leader changes; %.1f s for an answer: 1; %s" % (
        0.05 * FarLeader.LEASE, FarLeader.LEASE, 0.5 * FarLeader.LEASE, fleet.check()))  # fmt: skip
