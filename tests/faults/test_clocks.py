"""Clocks of workers' hosts that are wrong, step, run at another rate, or stood still: that costs no lease.

By clocks injected into the processes; the wall clock also by libfaketime, where it is installed.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List

import pytest

from elk_coordinator import CreatePartition
from elk_coordinator.testing import wait_until
from tests.faults.clocks import LIBRARY, clean_up_after, faked, set_file
from tests.faults.fleet import LEASE, Fleet, let_pass, must_fail, now
from tests.faults.proxy import Proxy

MakeFleet = Callable[..., Fleet]

STEPS: Dict[str, Any] = {"steps": 4, "pause": 0.05}
HOUR = 3600


class WrongWalls:
    """Three workers, one's wall clock an hour behind, one's ahead, the third's steps by an hour during the run."""

    def __init__(self, fleet: Fleet, way: str, **clock: Any) -> None:
        self.fleet = fleet
        self.way = way
        self.files = {name: fleet.folder / (name + "-clock") for name in ("behind", "ahead", "steps")}
        options = {"task_window_size": 3}
        for name, wall in (("behind", -HOUR), ("ahead", HOUR), ("steps", 0)):
            if way == "libfaketime":
                set_file(self.files[name], wall)
                fleet.start(name, STEPS, options=options, env=faked(self.files[name]), wait=False)
            else:
                fleet.start(name, STEPS, options=options, clock=dict(clock, wall=wall), wait=False)
        for worker in fleet.workers:
            worker.wait_for("up", 30.0)

    def step(self, *steps: int) -> None:
        """Step the third one's clock, each time when it has begun some partitions more."""
        steps_ = next(worker for worker in self.fleet.workers if worker.name == "steps")
        off = 0
        for step in steps:
            before = self.begun()
            wait_until(lambda more=before + 2: self.begun() >= more, 20.0, self.fleet.story)  # type: ignore[misc]
            off += step
            if self.way == "libfaketime":
                set_file(self.files["steps"], off)
            else:
                steps_.say("step %d" % step)
        # Another lease, for whoever would believe that something ran out.
        let_pass(1.5)

    def begun(self) -> int:
        return sum(attempt.worker == "steps" for attempt in self.fleet.journal.attempts())

    def finish(self) -> Any:
        self.fleet.wait_done()
        self.fleet.end()
        for worker in self.fleet.workers:
            clean_up_after(worker.process.pid if self.way == "libfaketime" else None)
        self.check()
        tally = self.fleet.check()
        assert tally["rerun"] == 0 and len(self.fleet.told("became_leader")) == 1
        return tally

    def check(self) -> None:
        lost = self.fleet.told("lease_lost") + self.fleet.told("partition_reclaimed")
        assert not lost, "healthy work was cancelled or taken: %s" % lost[:3]


@pytest.mark.long
def test_wall_clocks_an_hour_off_and_steps_of_an_hour_cost_no_lease(new_fleet: MakeFleet) -> None:
    walls = WrongWalls(new_fleet(1500), "injected")
    walls.step(HOUR, -HOUR, -HOUR, HOUR)
    print("one host an hour behind, one an hour ahead, one stepped 4 times by an hour: 0 takeovers; "
          "%s" % walls.finish())  # fmt: skip
    control = WrongWalls(new_fleet(1500, "by-wall"), "injected", by_wall=True)
    control.step(HOUR)
    with must_fail("healthy work was cancelled"):
        control.check()


@pytest.mark.long
def test_the_same_with_the_clocks_of_the_system_faked(new_fleet: MakeFleet) -> None:
    # Where libfaketime is not installed this is the injected case once more; the line says which it was.
    way = "libfaketime" if LIBRARY else "injected"
    walls = WrongWalls(new_fleet(1500), way)
    walls.step(HOUR, -HOUR, -HOUR, HOUR)
    print("%s: one host an hour behind, one ahead, one stepped 4 times by an hour: 0 takeovers; "
          "%s" % (way, walls.finish()))  # fmt: skip


class CutOff:
    """A worker with a partition, whose clock runs at some rate, is cut off from the store; another waits for it."""

    def __init__(self, fleet: Fleet, proxy: Proxy, rate: float) -> None:
        self.fleet = fleet
        self.proxy = proxy
        self.rate = rate
        fleet.partitions.create_partitions_if_not_exist([CreatePartition(1, 1, 10)])
        # Looks every 10 ms for many leases.
        work = {"steps": 1, "pause": 12 * LEASE}
        one = {"task_window_size": 1}
        self.worker = fleet.start("rate", work, planner=False, url=proxy.url, options=one, clock={"rate": rate},
                                  tell_also=["heartbeat"], wait=False)  # fmt: skip
        self.worker.wait_for("up", 30.0)
        wait_until(fleet.journal.attempts, 20.0, fleet.story)

    def cut(self) -> None:
        self.fleet.start("heir", wait=False)
        self.worker.wait_for("heartbeat", since=now(), ok=True)
        self.proxy.drop()

    def margin(self) -> float:
        """Return the seconds from the moment the old holder saw that it was over until the next one began."""
        taken = lambda: [a for a in self.fleet.journal.attempts() if a.partition_id == 1 and a.worker == "heir"]  # noqa: E731
        wait_until(taken, 4 * LEASE, self.fleet.story)
        seen = [look.at for look in self.fleet.journal.looks() if look.worker == "rate"]
        at: float = taken()[0].at
        assert seen and seen[0] <= at, "another had the partition while its holder still believed in it"
        return at - seen[0]


@pytest.mark.long
def test_hosts_whose_clocks_run_a_tenth_slow_or_fast_give_up_before_anybody_takes(
    new_fleet: MakeFleet, new_proxy: Callable[[str], Proxy]
) -> None:
    cases: List[CutOff] = []
    for name, rate in (("slow", 0.9), ("fast", 1.1), ("control", 0.5)):
        fleet = new_fleet(50, name)
        cases.append(CutOff(fleet, new_proxy(fleet.url), rate))
    for case in cases:
        case.cut()
    *good, control = cases
    print("a host that was cut off gave up before the next holder began: %s" % ", ".join(
        "by %.2f s at %g times the rate of time" % (case.margin(), case.rate) for case in good))  # fmt: skip
    # Half as fast is beyond the tenth of a lease that nobody believes in.
    with must_fail("still believed in it"):
        control.margin()
    for case in good:
        case.proxy.heal()
        case.fleet.wait_done()
        case.fleet.end()
        assert case.fleet.check()["rerun"] == 1


class Suspended:
    """A host that is suspended for longer than a lease with a partition in hand: its clock went on, or it did not."""

    def __init__(self, fleet: Fleet, **clock: Any) -> None:
        self.fleet = fleet
        fleet.partitions.create_partitions_if_not_exist([CreatePartition(1, 1, 10)])
        work = {"hold": "first", "gap": 1.2}
        self.worker = fleet.start("suspended", work, planner=False, options={"task_window_size": 1}, clock=clock,
                                  tell_also=["heartbeat"], wait=False)  # fmt: skip
        self.worker.wait_for("holding")
        fleet.start("heir", {"hold": "redelivered"}, wait=False)
        self.frozen = 0.0

    def suspend(self) -> None:
        self.fleet.wait_completed(self.fleet.last // 10 - 1)
        self.frozen = self.worker.freeze_after_a_beat()

    def resume(self) -> None:
        self.fleet.wait_told("holding", LEASE + 5.0, since=self.frozen)
        let_pass(1.5 * LEASE, self.frozen)
        self.worker.thaw()
        self.worker.wait_for("after_freeze")

    def check(self) -> None:
        told = self.worker.of("after_freeze")[0]
        assert told["cancelled"], "it still believed in a lease that was over: %s" % told


@pytest.mark.long
def test_a_host_that_wakes_from_suspension_sees_at_once_that_its_lease_is_over(new_fleet: MakeFleet) -> None:
    resumed = Suspended(new_fleet(60), rate=1.0)
    control = Suspended(new_fleet(60, "stands-still"), stands_still=True)
    for case in (resumed, control):
        case.suspend()
    for case in (resumed, control):
        case.resume()
    resumed.check()
    with must_fail("it still believed in a lease"):
        control.check()
    resumed.fleet.workers[1].say("go")
    resumed.fleet.wait_done()
    resumed.fleet.end()
    tally = resumed.fleet.check()
    assert tally["fence_refusals"] == 1, "what it wrote all the same"
    print("a host suspended for %.1f s: its work was cancelled at the first look; %s" % (1.5 * LEASE, tally))
