"""A store that goes away, forgets, loses replies or refuses: no hang, nothing lost or counted twice, work resumes."""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Dict, Iterator, List

import pytest
import redis

from elk_coordinator import CreatePartition
from elk_coordinator.testing import EmbeddedServer, wait_until
from tests.faults.fleet import LEASE, Fleet, let_pass, meanwhile, must_fail, now
from tests.faults.proxy import Proxy

MakeFleet = Callable[..., Fleet]
MakeServer = Callable[..., EmbeddedServer]
MakeProxy = Callable[[str], Proxy]

#: Steps of 50 ms, so that a fault meets partitions in their middle.
STEPS: Dict[str, Any] = {"steps": 4, "pause": 0.05}
#: A request that comes again runs again: the memory of the last answer, switched off.
NO_REPLAY = ["partition/work", "if tonumber(seq) == tonumber(ARGV[2]) then", "if false then"]
#: Tokens are a plain counter: what the clock and the callers' memory add, switched off.
PLAIN_COUNTER = [
    [path, "return math.max(last + 1, now, floor + 1)", "return last + 1"]
    for path in ("partition/work", "partition/heartbeat", "partition/plan", "partition/sweep", "store/lock_acquire")
]


@contextlib.contextmanager
def client(url: str) -> Iterator[Any]:
    """Give a plain client: the hand that breaks things."""
    with contextlib.closing(redis.Redis.from_url(url)) as connected:
        yield connected


def start_two(fleet: Fleet, work: Dict[str, Any] = STEPS, **config: Any) -> None:
    for name in ("a", "b"):
        fleet.start(name, work, wait=False, **config)


def resumed(fleet: Fleet, since: float) -> float:
    """Wait until a completion is accepted again; return the seconds since the fault ended."""
    return fleet.wait_told("partition_completed", LEASE + 8.0, since)["t"] - since


# ---------------------------------------------------------------- it goes away


def test_a_server_that_crashes_and_comes_back_with_its_data_loses_nothing(
    new_fleet: MakeFleet, new_server: MakeServer
) -> None:
    server = new_server(persistence="aof", extra_args=("--appendfsync", "always"))
    fleet = new_fleet(1200, url=server.url)
    start_two(fleet)
    seconds: List[float] = []
    for restart in ("kill", "restart"):
        fleet.wait_completed(fleet.completed() + 20)
        if restart == "kill":
            server.kill()
        server.restart()
        seconds.append(resumed(fleet, now()))
    fleet.wait_done()
    fleet.end()
    tally = fleet.check()
    assert not fleet.told("store_lost_data") and not fleet.told("role_died")
    assert len({told["by"] for told in fleet.told("store_unavailable")}) == 2
    assert len(fleet.told("store_recovered")) == len(fleet.told("store_unavailable"))
    # An outage shorter than the leases: even what was on its way was neither lost nor done twice.
    assert (tally["rerun"], tally["deliveries"], tally["refused"]) == (0, 0, 0)
    print("server killed, then restarted: back to work %.2f and %.2f s after it was there; "
          "%s" % (seconds[0], seconds[1], tally))  # fmt: skip


@pytest.mark.parametrize("how", ["restarted empty", "flushed"])
def test_a_server_that_lost_its_data_has_the_plan_start_again_loudly_and_tokens_rise(
    new_fleet: MakeFleet, new_server: MakeServer, how: str
) -> None:
    server = new_server()
    fleet = new_fleet(600, "guarded", server.url)
    control = new_fleet(600, "plain-counter", server.url)
    start_two(fleet)
    control.start("a", STEPS, wait=False, scripts=PLAIN_COUNTER)
    for each in (fleet, control):
        each.wait_completed(15)
    completed = fleet.completed()
    at = now()
    if how == "flushed":
        server.flush()
    else:
        server.restart(empty=True)
    back = now()
    # Every worker tells of it, with an event and an error in the log.
    wait_until(lambda: {told["by"] for told in fleet.told("store_lost_data")} == {"a", "b"}, 10.0, fleet.story)
    for worker in fleet.workers:
        assert " ERROR " in worker.log.read_text() and "lost data" in worker.log.read_text()
    seconds = resumed(fleet, back)
    fleet.wait_done()
    fleet.end()
    tally = fleet.check(fresh_plan=True)
    before = [attempt.token for attempt in fleet.journal.attempts() if attempt.at < at]
    early, late = ({a.lo for a in fleet.journal.attempts() if (a.at > at) is later} for later in (False, True))
    assert len(early & late) >= completed, "the plan did not start again"
    assert min(p.fencing_token for p in fleet.partitions.get_all_partitions()) > max(before)
    print("%d completions forgotten; the plan began again and work went on after %.2f s; "
          "%s" % (completed, seconds, tally))  # fmt: skip
    wait_until(lambda: any(a.at > at for a in control.journal.attempts()), 20.0, control.story)
    with must_fail("token"):
        wait_until(lambda: control.check_tokens(), 10.0, "tokens to fall")


def test_a_black_hole_longer_than_the_lease_is_seen_by_the_worker_before_another_has_its_work(
    new_fleet: MakeFleet, new_proxy: MakeProxy
) -> None:
    # Ten seconds of work, of which the heir finds what was done behind the fence.
    slow = {"steps": 200, "pause": 0.05, "look": "raise"}
    cases = []
    for name, config in (("guarded", {}), ("no-lease", {"broken": ["lease"]})):
        fleet = new_fleet(2000, name, size=200)
        proxy = new_proxy(fleet.url)
        # One worker sits behind the black hole with three partitions; the other leads and does not.
        fleet.partitions.create_partitions_if_not_exist([CreatePartition(n, 200 * n - 199, 200 * n) for n in (1, 2, 3)])
        fleet.start("cut-off", slow, planner=False, url=proxy.url, wait=False, **config)
        cases.append((fleet, proxy))
    for fleet, _ in cases:
        wait_until(lambda f=fleet: len(f.journal.attempts()) == 3, 20.0, fleet.story)
        fleet.start("leader", {"pause": 0.01}, wait=False)
    for fleet, proxy in cases:
        fleet.wait_completed(7)
        proxy.drop()
    at = now()
    for fleet, _ in cases:
        fleet.wait_done(2 * LEASE + 10.0)
    let_pass(2 * LEASE, at)
    for _, proxy in cases:
        proxy.heal()

    def believed(fleet: Fleet) -> List[str]:
        """Return for which partitions the cut-off worker had not seen its end when another began."""
        mine = {a.partition_id: a for a in fleet.journal.attempts() if a.worker == "cut-off"}
        heirs = {a.partition_id: a for a in fleet.journal.attempts() if a.worker == "leader" and a.partition_id in mine}
        seen = {look.partition_id: look.at for look in fleet.journal.looks() if look.cancelled}
        assert heirs, "nothing was taken over"
        return ["%d: seen %s, taken %.3f" % (p, seen.get(p), heir.at) for p, heir in heirs.items()
                if seen.get(p, 2e9) >= heir.at]  # fmt: skip

    fleet, control = (fleet for fleet, _ in cases)
    assert believed(fleet) == []
    assert {look.reason for look in fleet.journal.looks()} == {"lease_lost"}
    ahead = [
        heir.at - look.at for look in fleet.journal.looks() for heir in fleet.journal.attempts()
        if heir.worker == "leader" and heir.partition_id == look.partition_id
    ]  # fmt: skip
    with must_fail("believed on"):
        assert believed(control) == [], "it believed on: %s" % believed(control)
    # What is healed works again.
    cut_off = fleet.workers[0]
    cut_off.wait_for("store_recovered", LEASE + 8.0)
    fleet.end()
    tally = fleet.check()
    assert tally["lost"] == tally["rerun"] == len(ahead)
    print("the worker gave up %.2f to %.2f s before another began; %s" % (min(ahead), max(ahead), tally))


def test_requests_that_arrive_after_they_were_given_up_change_nothing(
    new_fleet: MakeFleet, new_proxy: MakeProxy
) -> None:
    fleet = new_fleet(2000)
    proxy = new_proxy(fleet.url)
    start_two(fleet, dict(STEPS, checkpoint=True), url=proxy.url)
    fleet.wait_completed(10)
    leader = fleet.leader()
    fleet.start("direct", STEPS)
    proxy.hold()
    # For longer than the lease: another leads, and has what these held. Then all they said arrives at once.
    let_pass(1.5 * LEASE)
    assert leader.of("stepped_down") and fleet.leader().name == "direct"
    cut_off = fleet.workers[:2]
    assert all(worker.of("store_unavailable") for worker in cut_off)
    healed = now()
    proxy.heal()
    for worker in cut_off:
        worker.wait_for("partition_completed", LEASE + 3.0, since=healed)
    seconds = now() - healed
    fleet.wait_done()
    fleet.end()
    tally = fleet.check()
    assert not fleet.told("role_died") and tally["rerun"] >= 1
    print("requests arrived late, then both workers worked again after %.2f s; %s" % (seconds, tally))


# ---------------------------------------------------------------- it loses replies and connections


def test_replies_lost_after_the_script_ran_count_nothing_twice(new_fleet: MakeFleet, new_proxy: MakeProxy) -> None:
    fleet, control = new_fleet(3000, "guarded"), new_fleet(3000, "no-replay")
    proxies = [new_proxy(fleet.url), new_proxy(control.url)]
    quick = {"pause": 0.01}
    for each, proxy, config in zip((fleet, control), proxies, ({}, {"scripts": [NO_REPLAY]})):
        start_two(each, quick, url=proxy.url, options={"task_window_size": 1}, **config)
        for worker in each.workers:
            worker.wait_for("up")
        proxy.swallow_every(3)
    fleet.wait_done()
    proxies[0].heal()
    fleet.end()
    tally = fleet.check()
    # Nothing was granted to nobody, nothing reported twice: no partition was ever lost, refused or begun again.
    assert (tally["attempts"], tally["deliveries"], tally["refused"], tally["lost"]) == (300, 0, 0, 0)
    assert not fleet.told("role_died") and not fleet.told("store_lost_data")
    print("%d replies lost of %d scripts; %s" % (
        proxies[0].swallowed, proxies[0].commands["EVALSHA"] + proxies[0].commands["EVAL"], tally))  # fmt: skip
    assert proxies[0].swallowed >= 20

    def granted_to_nobody() -> bool:
        return bool(control.told("partition_reclaimed") or control.told("write_refused"))

    wait_until(lambda: granted_to_nobody() or control.done(), 30.0, control.story)
    with must_fail("granted to nobody"):
        assert not granted_to_nobody(), "granted to nobody: %s" % control.told("partition_reclaimed")[:1]


def test_connections_killed_and_scripts_forgotten_all_the_time_hold_up_nothing(
    new_fleet: MakeFleet, new_server: MakeServer
) -> None:
    for name, every, action in (
        ("CLIENT-KILL", 0.2, lambda c: (c.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"),
                                        c.execute_command("CLIENT", "KILL", "TYPE", "pubsub"))),
        ("SCRIPT-FLUSH", 0.1, lambda c: c.script_flush()),
    ):  # fmt: skip
        server = new_server()
        fleet = new_fleet(1000, name, server.url)
        start_two(fleet, {"steps": 2, "pause": 0.02})
        with client(server.url) as hand:
            times = meanwhile(fleet.done, every, lambda a=action, h=hand: a(h))
        fleet.end()
        tally = fleet.check()
        assert (tally["rerun"], tally["deliveries"], tally["refused"], tally["lost"]) == (0, 0, 0, 0)
        assert not fleet.told("role_died") and not fleet.told("store_lost_data")
        assert times >= 5
        print("%s sent %d times: %s" % (name, times, tally))


# ---------------------------------------------------------------- it refuses


def test_a_server_out_of_memory_is_waited_for_and_half_of_nothing_is_written(
    new_fleet: MakeFleet, new_server: MakeServer
) -> None:
    server = new_server()
    fleet = new_fleet(1000, url=server.url)
    start_two(fleet)
    fleet.wait_completed(20)
    with client(server.url) as hand:
        hand.config_set("maxmemory", 1)
        try:
            wait_until(lambda: all(w.of("store_unavailable") for w in fleet.workers), 10.0, fleet.story)
            # For longer than the leases: nobody can renew, and nobody can take back either.
            stuck = fleet.partitions.get_partition_stats()
            let_pass(1.2 * LEASE)
            assert fleet.partitions.get_partition_stats() == stuck and stuck.held > 0
        finally:
            hand.config_set("maxmemory", 0)
    seconds = resumed(fleet, now())
    fleet.wait_done()
    fleet.end()
    tally = fleet.check()
    assert any("maxmemory" in told["error"] for told in fleet.told("store_unavailable"))
    assert not fleet.told("role_died") and not fleet.told("store_lost_data")
    print("out of memory for longer than a lease: back to work %.2f s after there was memory again; "
          "%s" % (seconds, tally))  # fmt: skip
