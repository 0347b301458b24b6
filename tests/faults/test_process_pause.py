"""Processes that stand still for many leases, alone or with their whole host, and one that takes its own work twice."""

from __future__ import annotations

import os
import signal
from typing import Any, Callable

import pytest

from elk_coordinator.testing import EmbeddedServer, wait_until
from tests.faults.fleet import LEASE, Fleet, let_pass, must_fail, now
from tests.faults.test_process import NO_TOKEN_CHECK
from tests.faults.test_process_processors import ODD, make

MakeFleet = Callable[..., Fleet]


@pytest.mark.long
def test_a_worker_that_loses_its_partition_and_claims_it_again_is_refused_the_first_completion(
    new_fleet: MakeFleet,
) -> None:
    def lose_and_claim_again(name: str, **config: Any) -> Fleet:
        fleet = new_fleet(10, name)
        make(fleet, 1, 1)
        worker = fleet.start("same", {"deeds": {"1": "twice"}}, planner=False, options={"task_window_size": 2},
                             tell_also=["heartbeat", "task_finished"], program=ODD, **config)  # fmt: skip
        first = worker.wait_for("first")
        at = worker.freeze_after_a_beat()
        let_pass(1.5 * LEASE, at)
        thawed = now()
        worker.thaw()
        # The worker claims from itself; the first attempt goes on once the second has begun.
        second = worker.wait_for("second", since=thawed)
        assert second["token"] > first["token"]
        worker.wait_for("task_finished", since=thawed, token=first["token"])
        worker.wait_for("heartbeat", since=now(), ok=True)
        return fleet

    def assert_refused(fleet: Fleet) -> None:
        (worker,) = fleet.workers
        first = worker.of("first")[0]["token"]
        assert worker.of("partition_completed", token=first) == [], "the completion of the first attempt was accepted"
        assert worker.of("write_refused", token=first, what="completed")

    fleet = lose_and_claim_again("main")
    assert_refused(fleet)
    fleet.workers[0].say("go")
    fleet.wait_told("partition_completed", token=fleet.workers[0].of("second")[0]["token"])
    fleet.end()
    print("the same worker twice: the completion of the first attempt refused, 0 stale ones accepted; "
          "%s" % fleet.check())  # fmt: skip
    control = lose_and_claim_again("control", scripts=[NO_TOKEN_CHECK])
    with must_fail("the completion of the first attempt was accepted"):
        assert_refused(control)


@pytest.mark.long
@pytest.mark.timeout(100)
def test_a_leader_frozen_for_ten_leases_is_refused_all_its_writes_and_works_again(new_fleet: MakeFleet) -> None:
    quick = {"heartbeat_interval": 0.3, "worker_ttl": 1.2, "leader_lock_expiry": 1.2}
    fleet = new_fleet(200)
    worker = fleet.start("frozen", {"hold": "first", "gap": 5.0}, options=dict(quick, task_window_size=1),
                         tell_also=["heartbeat", "task_finished"])  # fmt: skip
    worker.wait_for("became_leader")
    worker.wait_for("holding")
    # Its peers have longer leases: they are not what is tested.
    fleet.start("heir", {"pause": 0.01}, tell_also=["task_finished"])
    at = worker.freeze()
    fleet.wait_done()
    led = fleet.wait_told("became_leader", since=at)["t"] - at
    let_pass(10 * quick["worker_ttl"], at)
    thawed = now()
    worker.thaw()
    told = worker.wait_for("after_freeze")
    assert told["cancelled"] is True and told["checkpoint"] == "interrupted" and told["seconds"] > 9 * 1.2
    worker.wait_for("task_finished", since=thawed)
    wait_until(lambda: fleet.journal.refusals(), 10.0, "the fence to refuse its write")
    # Its slot works again: it is alone with what comes now.
    fleet.workers[1].end()
    fleet.last = 250
    make(fleet, 21, 25)
    wait_until(lambda: fleet.completed() == 25, 20.0, fleet.story)
    fleet.end()
    tally = fleet.check()
    assert tally["fence_refusals"] == 1
    after = worker.of("partition_completed", since=thawed)
    assert len(after) == 5
    print("a leader frozen for 10 leases: another led after %.1f s; its checkpoint, write and report were "
          "refused; %s" % (led, tally))  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(100)
def test_a_host_that_is_suspended_with_its_server_goes_on_and_effects_happen_once(new_fleet: MakeFleet) -> None:
    # All processes stand still while all clocks go on: what a suspended host looks like from inside when it resumes.
    with EmbeddedServer(own=True, prefer=os.environ.get("ELK_TEST_SERVER") or None) as server:

        def suspended(name: str, **config: Any) -> Any:
            fleet = new_fleet(600, name, server.url)
            work = dict({"steps": 4, "pause": 0.1}, **config.pop("work", {}))
            for each in ("one", "two"):
                fleet.start(each, work, **config)
            fleet.wait_completed(10)
            for worker in fleet.workers:
                worker.freeze()
            os.kill(server.pid, signal.SIGSTOP)
            let_pass(2 * LEASE)
            os.kill(server.pid, signal.SIGCONT)
            at = now()
            for worker in fleet.workers:
                worker.thaw()
            done = fleet.completed()
            fleet.wait_completed(done + 1, LEASE + 5.0)
            seconds = now() - at
            fleet.wait_done(40.0)
            fleet.end()
            return fleet.check(), seconds

        tally, seconds = suspended("main")
        print("a host with all workers and the server suspended for 2 leases: working again after %.2f s; "
              "%s" % (seconds, tally))  # fmt: skip
        with must_fail("effects applied twice behind the fence"):
            suspended("control", broken=["lease"], work={"fenced": False})
