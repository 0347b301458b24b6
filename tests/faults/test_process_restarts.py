"""Deploys: every worker replaced, one by one and all at once; and the second signal of somebody in a hurry."""

from __future__ import annotations

import signal
from typing import Any, Callable, Dict, List, Tuple

import pytest

from elk_coordinator.testing import wait_until
from tests.faults import test_process
from tests.faults.fleet import LEASE, Fleet, must_fail, now
from tests.faults.test_process_processors import ODD

MakeFleet = Callable[..., Fleet]

WORK: Dict[str, Any] = {"steps": 5, "pause": 0.1, "checkpoint": True}
WORKERS = 3


def deploy(fleet: Fleet, version: str, at_once: bool, **config: Any) -> None:
    """Replace every worker by one of the new version: each after the one before, or all at the same time."""
    old = [worker for worker in fleet.workers if worker.process.poll() is None]
    if at_once:
        for worker in old:
            worker.say("stop")
    for i, worker in enumerate(old):
        if not at_once:
            worker.say("stop")
        worker.wait_for("ended")
        worker.process.wait(10.0)
        options = {"task_window_size": 2}
        fleet.start("%s-%d" % (version, i), WORK, options=options, program=ODD, wait=not at_once, **config)
    for worker in fleet.workers[-len(old) :]:
        worker.wait_for("up")


def effects(fleet: Fleet, since: float, until: float) -> Tuple[float, float]:
    """Return the longest pause between two effects, and effects a second, in the meantime."""
    times = sorted(at for (at,) in fleet.journal._rows("applied", "at", "at") if since <= at <= until)
    edges: List[float] = [since, *times, until]
    return max(b - a for a, b in zip(edges, edges[1:])), len(times) / (until - since)


def deployed(fleet: Fleet, **config: Any) -> str:
    for i in range(WORKERS):
        fleet.start("old-%d" % i, WORK, options={"task_window_size": 2}, program=ODD, wait=False, **config)
    wait_until(lambda: len(fleet.journal.applied()) >= 60, 30.0, fleet.story)
    lines = []
    at = now()
    usual = effects(fleet, fleet.journal.attempts()[0].at, at)[1]
    for version, at_once in (("one-by-one", False), ("at-once", True)):
        began = now()
        deploy(fleet, version, at_once, **config)
        pause, rate = effects(fleet, began, now())
        dip = max(0.0, 100.0 * (1.0 - rate / usual))
        lines.append("%s: longest pause %.2f s, throughput down by %.0f %%" % (version, pause, dip))
        if at_once:
            # Nobody was there while Python started; what counts is how soon the first one goes on with the work.
            began = min(worker.of("up")[0]["t"] for worker in fleet.workers[-WORKERS:])
            later = [attempt.at for attempt in fleet.journal.attempts() if attempt.at > began]
            pause = min(later, default=began) - began
            lines.append("first work %.2f s after a worker was up" % pause)
        bound = fleet.workers[0].of("started")[0]["recovery_bound"]
        assert pause < bound, "%s, which is beyond the bound of %.1f s" % (lines[-1], bound)
    fleet.wait_done(40.0)
    fleet.end()
    tally = fleet.check()
    # Not their deliveries: progress made later sets those back to 0.
    left = len(fleet.told("partition_reclaimed"))
    assert (tally["repeated"], left) == (0, 0), "a deploy left %d partitions to their leases: %s" % (left, tally)
    return "%s; %s" % ("; ".join(lines), tally)


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_deploy_one_by_one_or_all_at_once_repeats_no_id_and_makes_no_long_pause(new_fleet: MakeFleet) -> None:
    print("%d workers replaced; %s" % (WORKERS, deployed(new_fleet(1200))))
    # The control: workers that leave without draining or giving back.
    with must_fail("partitions to their leases"):
        deployed(new_fleet(1200, "control"), broken=["drain"])


#: Leaves at the second signal as it stands: the control.
NO_GIVING_BACK = """
import os as _os
from elk_coordinator.contrib import _worker
_worker._exit_now = lambda coordinator, signum, say: _os._exit(128 + signum)
"""


def test_a_second_signal_ends_at_once_and_leaves_no_lease_behind(
    new_fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = {"look": "never", "pause": 60.0}

    def hurried(name: str) -> Tuple[Fleet, float]:
        fleet = new_fleet(200, name)
        running = test_process.elk_run(fleet, deaf, task_window_size=4, stop_timeout=30.0)
        wait_until(lambda: len(fleet.journal.attempts()) >= 4, 20.0, lambda: "work to run\n%s" % running.tail())
        running.process.send_signal(signal.SIGTERM)
        # Sent before the first was taken, two signals of a kind would be one.
        wait_until(lambda: fleet.partitions.leader() is None, 10.0, "the worker to step down as it stops")
        at = now()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(20.0) == 143, running.tail()
        seconds = now() - at
        held = fleet.partitions.get_partition_stats().held
        assert held == 0, "%d leases were left behind" % held
        return fleet, seconds

    fleet, seconds = hurried("main")
    assert seconds < LEASE, "%.1f s" % seconds
    fleet.start("successor")
    fleet.wait_done()
    fleet.end()
    tally = fleet.check()
    assert (tally["deliveries"], tally["rerun"]) == (0, 4)
    print("out %.2f s after the second signal, 4 of 4 partitions given back; %s" % (seconds, tally))
    monkeypatch.setattr(test_process, "MODULE", NO_GIVING_BACK + test_process.MODULE)
    with must_fail("4 leases were left behind"):
        hurried("control")
