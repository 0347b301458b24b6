"""Workers that die, freeze, hang, or do not look: what they held comes back, and what they still send is refused."""

from __future__ import annotations

import json
import signal
import sys
from typing import Any, Callable, Dict, List

import pytest

from elk_coordinator import CreatePartition
from elk_coordinator.testing import wait_until
from tests.faults.fleet import LEASE, Fleet, Worker, let_pass, must_fail, now

MakeFleet = Callable[..., Fleet]

#: Steps of 50 ms, so that a fault meets partitions in their middle.
STEPS: Dict[str, Any] = {"steps": 4, "pause": 0.05}
#: A report is accepted from any token: the guard of the token, switched off.
NO_TOKEN_CHECK = [
    "partition/work",
    "not handled[id] and s.token == token\n",
    "not handled[id]\n",
]


def test_a_killed_worker_is_replaced_within_its_lease_and_5_seconds(new_fleet: MakeFleet) -> None:
    fleet = new_fleet(1500)
    fleet.start("leader", STEPS)
    victim = fleet.start("victim", STEPS, planner=False, options={"task_window_size": 4})
    fleet.start("third", STEPS, planner=False)
    wait_until(lambda: len({a.token for a in fleet.journal.attempts() if a.worker == "victim"}) >= 8, 20.0, "some work")
    victim.kill()
    at = now()
    held = [p for p in fleet.partitions.get_all_active_partitions() if p.worker_id == "victim" and p.last_heartbeat]
    assert held

    def elsewhere() -> bool:
        tokens = {p.partition_id: p.fencing_token for p in held}
        again = {a.partition_id for a in fleet.journal.attempts() if a.token > tokens.get(a.partition_id, 2**62)}
        return again == set(tokens)

    wait_until(elsewhere, LEASE + 5.0, lambda: "the held partitions to run elsewhere\n%s" % fleet.story())
    seconds = now() - at
    fleet.wait_done()
    fleet.end()
    tally = fleet.check()
    assert tally["deliveries"] == len(held)
    print("killed with %d partitions held: all ran elsewhere after %.2f s; %s" % (len(held), seconds, tally))
    assert seconds < LEASE + 5.0


#: The harness's processor and planner as a module that ``elk run`` can name.
MODULE = """
import json, os, threading
from tests.faults.journal import Journal
from tests.faults.worker import Numbers, Work

config = json.loads(os.environ["FAULTS"])
gate = threading.Event()
processor = Work(config["work"], Journal(config["journal"], config["namespace"]), gate)
planner = Numbers(config["planner"], gate, gate)
"""


def elk_run(fleet: Fleet, work: Dict[str, Any], **options: Any) -> Worker:
    """Start ``elk run`` with the harness's processor."""
    (fleet.folder / "work.py").write_text(MODULE)
    config = {
        "work": work, "journal": fleet.journal_path, "namespace": fleet.namespace,
        "planner": {"blocks": [[1, fleet.last]], "size": fleet.size},
    }  # fmt: skip
    settings = {"heartbeat_interval": 1, "worker_ttl": LEASE, "leader_lock_expiry": LEASE, "metrics_enabled": "no"}
    chosen = ["%s=%s" % item for item in dict(settings, **options).items()]
    argv = [sys.executable, "-m", "elk_coordinator", "run", "work:processor", "work:planner"]
    argv += [word for setting in chosen for word in ("--set", setting)]
    return fleet.launch("elk-run", argv, FAULTS=json.dumps(config), ELK_REDIS_URL=fleet.url,
                        ELK_NAMESPACE=fleet.namespace)  # fmt: skip


def terminate(worker: Worker, within: float) -> float:
    """Send SIGTERM; check that it ends well in time; return the seconds it took."""
    at = now()
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(within + 10.0) == 0, worker.tail()
    assert now() - at < within, "%.2f s\n%s" % (now() - at, worker.tail())
    return now() - at


def test_sigterm_lets_short_work_end_that_does_not_look_and_nothing_runs_again(new_fleet: MakeFleet) -> None:
    fleet = new_fleet(400)
    running = elk_run(fleet, {"look": "never", "pause": 0.7}, task_window_size=4, stop_timeout=5.0)
    wait_until(lambda: len(fleet.journal.attempts()) >= 4, 20.0, lambda: "work to run\n%s" % running.tail())
    seconds = terminate(running, 5.0 + 2.0)
    begun = len(fleet.journal.attempts())
    assert len(fleet.journal.applied()) == begun, "it left before its work had ended"
    assert fleet.partitions.get_partition_stats().held == 0 and fleet.partitions.workers() == []
    fleet.start("successor")
    fleet.wait_done()
    fleet.end()
    tally = fleet.check()
    assert (tally["rerun"], tally["repeated"], tally["deliveries"]) == (0, 0, 0)
    print("SIGTERM with %d partitions running: they were completed, the process was out after %.2f s; "
          "%s" % (begun, seconds, tally))  # fmt: skip


@pytest.mark.parametrize("look", ["raise", "return"])
def test_sigterm_has_long_work_checkpointed_given_back_and_not_completed(new_fleet: MakeFleet, look: str) -> None:
    # It sees the cancellation and breaks off: by TaskInterrupted, or by a normal return, which is no completion.
    fleet = new_fleet(100)
    work = {"look": look, "pause": 0.25, "steps": 10, "checkpoint": True}
    running = elk_run(fleet, work, task_window_size=4, stop_timeout=3.0)
    wait_until(lambda: len(running.of("checkpoint", durable=True)) >= 8, 20.0, lambda: "progress\n%s" % running.tail())
    seconds = terminate(running, 3.0 + 2.0)
    stats = fleet.partitions.get_partition_stats()
    begun = {attempt.partition_id for attempt in fleet.journal.attempts()}
    given_back = [fleet.partitions.get_partition(partition_id) for partition_id in begun]
    assert (stats.held, stats.completed, stats.failed) == (0, 0, 0) and len(begun) == 4
    assert all(p.checkpoint and p.attempt == p.deliveries == 0 for p in given_back), given_back
    assert {look.reason for look in fleet.journal.looks()} == {"stop"}
    fleet.start("successor", {"steps": 10})
    fleet.wait_done()
    fleet.end()
    tally = fleet.check()
    assert (tally["rerun"], tally["repeated"], tally["deliveries"]) == (4, 0, 0)
    print("SIGTERM with 4 partitions running: given back at checkpoints %s, the process was out after %.2f s; "
          "%s" % ([p.checkpoint for p in given_back], seconds, tally))  # fmt: skip


class Frozen:
    """A fleet of one worker that will be frozen in the middle of its only partition, and one that takes over."""

    def __init__(self, fleet: Fleet, seconds: float, work: Dict[str, Any], **config: Any) -> None:
        self.fleet = fleet
        self.seconds = seconds
        self.frozen_at = 0.0
        fleet.partitions.create_partitions_if_not_exist([CreatePartition(1, 1, 10)])
        self.worker = fleet.start(
            "frozen", dict(work, hold="first", gap=1.2), planner=False, options={"task_window_size": 1},
            tell_also=["heartbeat", "task_finished"], wait=False, **config,
        )  # fmt: skip
        self.heir: Worker

    def begin(self) -> None:
        """Wait until it holds its partition, let the other do all the rest, then freeze it."""
        self.worker.wait_for("holding")
        self.heir = self.fleet.start("heir", {"hold": "redelivered"}, wait=False)

    def freeze(self) -> None:
        self.fleet.wait_completed(self.fleet.last // 10 - 1)
        self.frozen_at = self.worker.freeze_after_a_beat()

    def thaw(self, taken: bool) -> None:
        """Let it go on after its time, when taken also not before the heir has its partition."""
        if taken:
            self.heir.wait_for("holding", LEASE + 5.0)
        let_pass(self.seconds, self.frozen_at)
        self.worker.thaw()

    def refused(self, what: str) -> Any:
        return self.worker.wait_for("write_refused", what=what)

    def finish(self) -> Any:
        self.worker.wait_for("task_finished")
        # The late report has been answered by the time that a later beat is.
        self.worker.wait_for("heartbeat", since=now(), ok=True)
        self.heir.say("go")
        self.fleet.wait_done()
        self.fleet.end()
        return self.fleet.check()


def assert_saw_it_first(frozen: Frozen) -> None:
    looks = [look for look in frozen.fleet.journal.looks() if look.worker == "frozen"]
    assert looks and all(look.cancelled for look in looks), "it believed in itself after the freeze: %s" % looks


def test_a_frozen_worker_loses_nothing_early_and_is_refused_everything_late(new_fleet: MakeFleet) -> None:
    blind, looking = {"look": "never"}, {"look": "raise"}
    short = Frozen(new_fleet(40, "half"), 0.5 * LEASE, looking)
    late = Frozen(new_fleet(40, "late"), 1.5 * LEASE, blind)
    later = Frozen(new_fleet(40, "later"), 3.0 * LEASE, looking)
    # The controls: reports of any token accepted; nothing checked at all by a worker that believes for ever.
    no_token = Frozen(new_fleet(40, "no-token"), 1.5 * LEASE, blind, scripts=[NO_TOKEN_CHECK])
    no_lease = Frozen(new_fleet(40, "no-lease"), 1.5 * LEASE, {"look": "raise", "fenced": False}, broken=["lease"])
    everyone = [later, no_lease, no_token, late, short]
    for frozen in everyone:
        frozen.begin()
    for frozen in everyone:
        frozen.freeze()

    # Half a lease: nothing happens.
    short.thaw(taken=False)
    assert short.worker.wait_for("after_freeze")["cancelled"] is False
    tally = short.finish()
    assert (tally["attempts"], tally["deliveries"], tally["refused"], tally["lost"]) == (4, 0, 0, 0)
    print("frozen for 0.5 leases: %s" % tally)

    # One and a half, and it never looks: its write and its completion are refused, the heir's is accepted.
    late.thaw(taken=True)
    late.refused("completed")
    tally = late.finish()
    assert late.fleet.told("partition_completed", partition_id=1)[-1]["by"] == "heir"
    assert (tally["fence_refusals"], tally["refused"], tally["rerun"], tally["deliveries"]) == (1, 1, 1, 1)
    print("frozen for 1.5 leases and never looking at ctx: %s" % tally)

    no_token.thaw(taken=True)
    with must_fail("completed by another token than the newest one"):
        no_token.finish()
    no_lease.thaw(taken=True)
    no_lease.worker.wait_for("after_freeze")
    with must_fail("it believed in itself after the freeze"):
        assert_saw_it_first(no_lease)
    with must_fail("effects applied twice behind the fence"):
        no_lease.finish()

    # Three: it sees the cancellation before anything else; its checkpoint, write and report are refused.
    later.thaw(taken=True)
    told = later.worker.wait_for("after_freeze")
    assert told["cancelled"] is True and told["checkpoint"] == "interrupted"
    tally = later.finish()
    assert_saw_it_first(later)
    assert tally["fence_refusals"] == 1 and tally["lost"] >= 1
    print("frozen for 3 leases: at its first look ctx was cancelled (%s); "
          "%s" % (later.fleet.journal.looks()[0].reason, tally))  # fmt: skip


def test_a_hung_processor_is_named_with_its_stack_and_its_slot_replaced(new_fleet: MakeFleet) -> None:
    fleet = new_fleet(60)
    worker = fleet.start(
        "only", {"special": {"21": "hang"}}, options={"task_window_size": 1, "task_timeout": 0.5},
        tell_also=["task_started", "task_finished"],
    )  # fmt: skip
    began = worker.wait_for("hanging")["t"]
    hung = worker.wait_for("task_hung", LEASE + 10.0)
    assert "hang_for_ever" in hung["stack"] and hung["partition_id"] == 3
    assert "hang_for_ever" in worker.log.read_text()
    # The slot was replaced: the rest is done, and so is the partition itself, by a second claim of the same worker.
    fleet.wait_done()
    worker.say("health")
    health = worker.wait_for("health")
    assert health["hung"] == 1 and health["healthy"] is True
    # What hung comes back at last and claims to be complete: refused, the token is an old one.
    worker.say("go")
    refused = worker.wait_for("write_refused", partition_id=3)
    assert refused["token"] == hung["token"]
    fleet.end()
    tally = fleet.check()
    assert tally["rerun"] == 1
    print("a hung processor was named with its stack %.1f s after it began to hang; %s" % (hung["t"] - began, tally))


def test_a_poison_partition_rests_as_failed_and_its_neighbours_complete(new_fleet: MakeFleet) -> None:
    fleet = new_fleet(120)
    quick = {"heartbeat_interval": 0.6, "worker_ttl": 2.0, "leader_lock_expiry": 2.0, "max_deliveries": 3}
    names = iter(range(100))
    died: List[Worker] = []

    def supervise() -> bool:
        """Start a new worker for each that died, as a process manager does."""
        for worker in [w for w in fleet.workers if w.process.poll() is not None and w not in died]:
            assert worker.process.returncode == 23, worker.tail()
            died.append(worker)
        while len(fleet.workers) - len(died) < 2:
            fleet.start("w%d" % next(names), {"special": {"51": "die"}, "pause": 0.05}, options=quick, wait=False)
        return fleet.done(failed=1)

    wait_until(supervise, 50.0, lambda: "the end of the work\n%s" % fleet.story())
    fleet.end()
    tally = fleet.check(failed=frozenset([6]))
    poison = fleet.partitions.get_partition(6)
    assert poison.deliveries == 3 and "lost 3 times" in (poison.error or "")
    assert len(died) == 3, "it took more workers with it than deliveries are allowed"
    print("a partition that kills its worker: %d workers died, then it rested as failed; %s" % (len(died), tally))
