"""Processors that raise, return, fork or hold what they should not, crash or hang: no slot and no neighbour is lost."""

from __future__ import annotations

import signal
from typing import Any, Callable, Dict, List

import pytest

from elk_coordinator import CreatePartition
from elk_coordinator.testing import wait_until
from tests.faults.fleet import LEASE, Fleet, Worker, must_fail, now
from tests.faults.odd_worker import MEETING, RAISES, RETURNS

MakeFleet = Callable[..., Fleet]
ODD = "odd_worker.py"


def make(fleet: Fleet, first: int, last: int) -> None:
    """Create the partitions with these ids, ten IDs each."""
    fleet.partitions.create_partitions_if_not_exist(
        [CreatePartition(i, 10 * i - 9, 10 * i) for i in range(first, last + 1)]
    )


def deeds(kind: str, what: List[str], first: int = 1) -> Dict[str, str]:
    """Return these deeds for the partitions from id *first* on."""
    return {str(10 * i - 9): "%s:%s" % (kind, each) for i, each in enumerate(what, first)}


def assert_slots_free(worker: Worker) -> None:
    def in_flight() -> Any:
        at = now()
        worker.say("health")
        return worker.wait_for("health", since=at)["in_flight"]

    try:
        wait_until(lambda: in_flight() == 0, 4.0, "the slots to be free")
    except AssertionError:
        raise AssertionError("%d slots were lost" % in_flight()) from None


def test_whatever_a_processor_raises_or_returns_costs_no_slot_and_no_neighbour(new_fleet: MakeFleet) -> None:
    raising, returning = list(RAISES), list(RETURNS)
    normal = 6
    wrong = len(raising)
    odd = wrong + len(returning)
    met = odd + normal
    fleet = new_fleet(10 * (met + MEETING))
    work = {"deeds": {
        **deeds("raise", raising), **deeds("return", returning, wrong + 1), **deeds("meet", [""] * MEETING, met + 1)
    }}  # fmt: skip
    options = {"task_window_size": MEETING, "max_attempts": 2}
    make(fleet, 1, met)
    worker = fleet.start("odd", work, planner=False, options=options, program=ODD)
    # Controls: only Exceptions are caught; whatever is returned counts.
    control = new_fleet(10 * wrong, "control")
    make(control, 1, wrong)
    slots = control.start("odd", {"deeds": deeds("raise", raising)}, planner=False, options=options, program=ODD,
                          broken=["slots"])  # fmt: skip
    uncounted = new_fleet(10, "uncounted")
    make(uncounted, 1, 1)
    uncounted.start("odd", {"deeds": deeds("return", ["just too large"])}, planner=False, program=ODD, broken=["count"])

    wait_until(
        lambda: (fleet.completed(), fleet.partitions.get_partition_stats().failed) == (met - wrong, wrong), 30.0,
        lambda: "the odd ones to end\n%s" % fleet.story(),
    )  # fmt: skip
    assert_slots_free(worker)
    # Every slot lives: as many partitions as there are slots wait for each other.
    make(fleet, met + 1, met + MEETING)
    wait_until(lambda: fleet.completed() == met - wrong + MEETING, 20.0, lambda: "all to meet\n%s" % fleet.story())
    fleet.end()
    tally = fleet.check(failed=frozenset(range(1, wrong + 1)))
    for i, name in enumerate(raising, 1):
        failed = fleet.partitions.get_partition(i)
        frame = RAISES[name].__name__ if name.endswith("Error") and name != "OSError" else "throw"
        error = failed.error or ""
        assert failed.attempt == 2 and failed.deliveries == 0, failed
        assert name in error and (frame in error or name == "RecursionError"), "%s: %s" % (name, error)
    counted = {name: fleet.partitions.get_partition(i).processed for i, name in enumerate(returning, wrong + 1)}
    assert counted == dict(dict.fromkeys(returning, 0), **{"more than there are": 1000}), counted
    print("%d kinds of errors raised, %d odd counts returned; afterwards all %d slots worked at once; "
          "%s" % (wrong, len(returning), MEETING, tally))  # fmt: skip

    with must_fail("slots were lost"):
        assert_slots_free(slots)
    uncounted.wait_completed(1)
    with must_fail("counted as"):
        wrongly = uncounted.partitions.get_partition(1).processed
        assert wrongly == 0, "counted as %d" % wrongly


def supervise(fleet: Fleet, died: List[Worker], work: Dict[str, Any], options: Dict[str, Any], most: int) -> None:
    """Start a new worker for each that died, as a process manager does."""
    for worker in [w for w in fleet.workers if w.process.poll() is not None and w not in died]:
        assert worker.process.returncode in (23, -signal.SIGSEGV), worker.tail()
        died.append(worker)
        assert len(died) <= most, "more than %d workers died" % most
    while len(fleet.workers) - len(died) < 2:
        fleet.start("w%d" % len(fleet.workers), work, options=options, wait=False, program=ODD)


@pytest.mark.long
@pytest.mark.timeout(100)
def test_partitions_that_crash_the_interpreter_rest_as_failed_and_the_rest_completes(new_fleet: MakeFleet) -> None:
    quick = {"heartbeat_interval": 0.6, "worker_ttl": 2.0, "leader_lock_expiry": 2.0, "max_deliveries": 3}
    work = {"deeds": {"51": "segfault", "71": "exit"}, "pause": 0.05}
    fleet, control = new_fleet(120), new_fleet(120, "control")
    # The control: deliveries are not limited.
    for_ever = dict(quick, max_deliveries=1000)
    died: List[Worker] = []
    dying: List[Worker] = []

    def done() -> bool:
        supervise(fleet, died, work, quick, 6)
        return fleet.done(failed=2)

    wait_until(done, 60.0, lambda: "the end of the work\n%s" % fleet.story())
    fleet.end()
    tally = fleet.check(failed=frozenset([6, 8]))
    for poison in (fleet.partitions.get_partition(6), fleet.partitions.get_partition(8)):
        assert poison.deliveries == 3 and "lost 3 times" in (poison.error or ""), poison
    codes = sorted(worker.process.returncode for worker in died)
    print("a partition that segfaults and one that calls os._exit, 3 times each: %d workers died with codes %s; "
          "%s" % (len(died), codes, tally))  # fmt: skip
    with must_fail("more than 6 workers died"):
        wait_until(
            lambda: supervise(control, dying, work, for_ever, 6), 60.0, lambda: "seven to die\n%s" % control.story()
        )


@pytest.mark.long
def test_ten_hung_processors_cost_their_slots_then_claims_stop_and_health_says_so(new_fleet: MakeFleet) -> None:
    work = {"deeds": deeds("hang", [""] * 10)}
    options = {"task_window_size": 3, "task_timeout": 0.5, "max_attempts": 5, "worker_ttl": 2.0}
    fleet, control = new_fleet(150), new_fleet(150, "control")
    for each in (fleet, control):
        make(each, 1, 15)
    worker = fleet.start("only", work, planner=False, options=options, program=ODD)
    unlimited = control.start("only", work, planner=False, options=options, program=ODD, broken=["exhausted"])

    def assert_says_so(worker: Worker) -> Dict[str, Any]:
        wait_until(lambda: len(worker.of("task_hung")) >= 4, 20.0, lambda: "four to hang\n%s" % worker.tail())
        at = now()
        worker.say("health")
        health = worker.wait_for("health", since=at)
        assert health["healthy"] is False, "health says nothing of %d hung tasks" % health["hung"]
        assert "no slot can be replaced" in " ".join(health["problems"]), health["problems"]
        return health

    health = assert_says_so(worker)
    seconds = worker.of("task_hung")[0]["t"] - worker.of("hanging")[0]["t"]
    began = len(fleet.journal.attempts())
    with must_fail("health says nothing"):
        assert_says_so(unlimited)
    # Another worker does what is left; what hung here hangs nowhere else, it was a lock, say.
    fleet.start("helper", planner=False)
    wait_until(lambda: fleet.completed() == 15, 20.0, lambda: "the rest elsewhere\n%s" % fleet.story())
    assert len(worker.of("hanging")) <= 6, "more hung than twice the window"
    # They come back at last: every late completion is refused, and the worker works again.
    worker.say("go")
    hung = len(worker.of("hanging"))
    wait_until(lambda: len(worker.of("write_refused")) == hung, 10.0, lambda: "%d refusals\n%s" % (hung, worker.tail()))
    at = now()
    worker.say("health")
    assert worker.wait_for("health", since=at)["healthy"] is True
    fleet.end()
    tally = fleet.check()
    print("hung processors were named after %.1f s; %d hung at once, %d attempts had begun when claims "
          "stopped; health: '%s'; %s" % (seconds, health["hung"], began, health["problems"][0], tally))  # fmt: skip


@pytest.mark.long
def test_a_processor_that_holds_the_gil_is_let_be_for_half_a_lease_and_fenced_after_two(new_fleet: MakeFleet) -> None:
    def start(name: str, seconds: float, **config: Any) -> Fleet:
        fleet = new_fleet(10, name)
        make(fleet, 1, 1)
        work = dict(config.pop("work", {}), deeds={"1": "gil:%g" % seconds})
        fleet.start("holder", work, planner=False, options={"task_window_size": 1}, program=ODD,
                    tell_also=["heartbeat", "task_finished"], **config)  # fmt: skip
        fleet.start("heir", {"hold": "redelivered"}, planner=False)
        return fleet

    short, long = start("short", 0.5 * LEASE), start("long", 2 * LEASE)
    # The control: a worker that believes in its lease for ever and writes without the fence.
    control = start("control", 2 * LEASE, broken=["lease"], work={"fenced": False})

    def finish(fleet: Fleet) -> Any:
        fleet.workers[0].wait_for("after_freeze")
        fleet.workers[0].wait_for("task_finished")
        fleet.workers[0].wait_for("heartbeat", since=now(), ok=True)
        fleet.workers[1].say("go")
        wait_until(lambda: fleet.completed() == 1, 10.0, fleet.story)
        fleet.end()
        return fleet.check()

    tally = finish(short)
    lateness = max(beat["lateness"] for beat in short.workers[0].of("heartbeat"))
    assert (tally["attempts"], tally["lost"], tally["refused"]) == (1, 0, 0) and lateness >= 0.3, lateness
    print("the GIL held for half a lease: a heartbeat was %.2f s late, nothing was taken; %s" % (lateness, tally))
    for fleet in (long, control):
        fleet.workers[1].wait_for("holding", 2 * LEASE + 5.0)
    tally = finish(long)
    (told,) = long.workers[0].of("after_freeze")
    assert told["cancelled"] is True and told["checkpoint"] == "interrupted", told
    assert (tally["attempts"], tally["fence_refusals"], tally["deliveries"]) == (2, 1, 1)
    assert long.told("partition_completed", partition_id=1)[-1]["by"] == "heir"
    print("the GIL held for two leases: %s" % tally)
    with must_fail("effects applied twice behind the fence"):
        finish(control)


def test_a_processor_that_forks_leaves_one_coordinator_and_its_work_to_the_parent(new_fleet: MakeFleet) -> None:
    kinds = ["exit", "return", "multiprocessing", "subprocess"]
    forking = {str(10 * i - 9): "fork:%s" % kinds[i % 4] for i in range(20, 120, 5)}
    fleet, control = new_fleet(1500), new_fleet(1500, "control")
    options = {"task_window_size": 1}
    for each in (fleet, control):
        make(each, 1, 150)
    worker = fleet.start("forks", {"deeds": forking}, planner=False, options=options, program=ODD)
    broken = control.start("forks", {"deeds": forking}, planner=False, options=options, program=ODD, broken=["child"])
    fleet.wait_completed(150, 30.0)
    assert len(fleet.partitions.workers()) == 1
    assert len(worker.of("child")) == 5, "as many children came back from the processor"
    fleet.end()
    tally = fleet.check()
    assert (tally["attempts"], tally["repeated"], tally["refused"], tally["lost"]) == (150, 0, 0, 0)
    print("20 forks in running work, 5 children that came back from it: 1 coordinator; %s" % tally)
    with must_fail("150 completed"):
        # The parent waits for a child that waits for more work.
        control.wait_completed(150, 1.0)
    assert broken.process.poll() is None
