"""A server that is there and does not serve: read-only, busy, loading, out of disk, frozen, or closed to our user."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any, Callable, ContextManager, Dict, Iterator, List, Set

import pytest

from elk_coordinator.admin.doctor import diagnose
from elk_coordinator.partition.audit import verify
from elk_coordinator.testing import EmbeddedServer, wait_until
from tests.faults.fleet import LEASE, Fleet, Worker, let_pass, must_fail, now
from tests.faults.topologies import address, ask, hand

MakeFleet = Callable[..., Fleet]
MakeServer = Callable[..., EmbeddedServer]
Fault = Callable[[EmbeddedServer, float], ContextManager[None]]

STEPS: Dict[str, Any] = {"steps": 4, "pause": 0.05}
#: Leases of six seconds, so that half of one stays half of one on a busy machine; the control's are over before that.
LONG = {"heartbeat_interval": 2.0, "worker_ttl": 6.0, "leader_lock_expiry": 6.0}
BRIEF = {"heartbeat_interval": 0.5, "worker_ttl": 1.2, "leader_lock_expiry": 1.2}


@contextlib.contextmanager
def read_only(server: EmbeddedServer, seconds: float) -> Iterator[None]:
    """Make it the replica of nobody: it keeps its data and takes no writes."""
    ask(server, "REPLICAOF", "127.0.0.1", 1)
    yield
    ask(server, "REPLICAOF", "NO", "ONE")


@contextlib.contextmanager
def no_replicas(server: EmbeddedServer, seconds: float) -> Iterator[None]:
    ask(server, "CONFIG", "SET", "min-replicas-to-write", 1)
    yield
    ask(server, "CONFIG", "SET", "min-replicas-to-write", 0)


@contextlib.contextmanager
def cannot_save(server: EmbeddedServer, seconds: float) -> Iterator[None]:
    """A snapshot failed, and the server stops writes for that."""
    facts = ask(server, "CONFIG", "GET", "dir"), ask(server, "CONFIG", "GET", "dbfilename")
    path = os.path.join(*((f[1] if isinstance(f, list) else list(f.values())[0]).decode() for f in facts))
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)
    os.mkdir(path)
    ask(server, "CONFIG", "SET", "save", "3600 1")
    ask(server, "BGSAVE")
    wait_until(lambda: b"rdb_last_bgsave_status:err" in ask(server, "INFO", "persistence"), 10.0, "a failed snapshot")
    yield
    os.rmdir(path)
    ask(server, "CONFIG", "SET", "save", "")
    ask(server, "BGSAVE")
    wait_until(lambda: b"rdb_last_bgsave_status:ok" in ask(server, "INFO", "persistence"), 10.0, "a snapshot")


@contextlib.contextmanager
def paused(server: EmbeddedServer, seconds: float) -> Iterator[None]:
    ask(server, "CLIENT", "PAUSE", int(seconds * 1000), "ALL")
    yield


@contextlib.contextmanager
def frozen(server: EmbeddedServer, seconds: float) -> Iterator[None]:
    server.freeze()
    yield
    server.thaw()


@contextlib.contextmanager
def busy(server: EmbeddedServer, seconds: float) -> Iterator[None]:
    """Run another application's endless script; end it as an operator does."""
    ask(server, "CONFIG", "SET", "lua-time-limit", 100)
    with contextlib.closing(socket.create_connection(address(server))) as other:
        other.sendall(b"*3\r\n$4\r\nEVAL\r\n$17\r\nwhile true do end\r\n$1\r\n0\r\n")
        yield
        assert ask(server, "SCRIPT", "KILL") in (b"OK", True)


FAULTS: Dict[str, Fault] = {
    "read-only": read_only, "no replicas": no_replicas, "cannot save": cannot_save, "paused": paused, "frozen": frozen,
    "busy": busy,
}  # fmt: skip


def begin(fleet: Fleet, options: Dict[str, Any], **config: Any) -> None:
    for name in ("a", "b"):
        fleet.start(name, STEPS, wait=False, options=options, tell_also=["heartbeat"], **config)


def after_a_beat(fleet: Fleet) -> None:
    """Wait until every worker has renewed what it holds just now."""
    since = now()
    for worker in fleet.workers:
        worker.wait_for("heartbeat", since=since, ok=True)


def check_unharmed(fleet: Fleet) -> Any:
    """Check that nothing was lost, refused or begun again."""
    tally = fleet.check()
    harm = {key: tally[key] for key in ("rerun", "lost", "deliveries", "refused") if tally[key]}
    assert not harm, "harmed: %s" % harm
    return tally


@pytest.mark.long
@pytest.mark.timeout(150)
def test_half_a_lease_without_service_of_whatever_kind_costs_nothing(
    new_fleet: MakeFleet, new_server: MakeServer
) -> None:
    server = new_server()
    fleet = new_fleet(6000, "guarded", server.url)
    control = new_fleet(6000, "short-leases", server.url)
    begin(fleet, LONG)
    begin(control, BRIEF)
    for each in (fleet, control):
        each.wait_completed(10)
    waits: List[str] = []
    for name, fault in FAULTS.items():
        after_a_beat(fleet)
        at = now()
        with fault(server, 3.0):
            let_pass(3.0, at)
        back = now()
        done = fleet.wait_told("partition_completed", 15.0, back)
        waits.append("%s %.2f s" % (name, done["t"] - back))
        wait_until(lambda s=at: fleet.told("store_recovered", s), 15.0, fleet.story)
    assert not fleet.told("role_died") and not fleet.told("store_lost_data")
    fleet.wait_done(90.0)
    control.wait_done(90.0)
    for each in (fleet, control):
        each.end()
    tally = check_unharmed(fleet)
    with must_fail("harmed"):
        check_unharmed(control)
    print("each fault for 3 s, half a lease; back to work after %s; %s" % (", ".join(waits), tally))


@pytest.mark.long
@pytest.mark.timeout(150)
@pytest.mark.parametrize("name", ["frozen", "busy", "read-only"])
def test_two_leases_without_service_have_everybody_stop_in_time_and_then_go_on(
    new_fleet: MakeFleet, new_server: MakeServer, name: str
) -> None:
    server = new_server()
    slow = {"steps": 400, "pause": 0.05}
    fleet, control = new_fleet(1200, "guarded", server.url, 200), new_fleet(1200, "no-lease", server.url, 200)
    for each, broken in ((fleet, []), (control, ["lease"])):
        for worker in ("a", "b"):
            each.start(worker, slow, wait=False, broken=broken, tell_also=["heartbeat"])
    for each in (fleet, control):
        wait_until(lambda e=each: len(e.journal.attempts()) == 6, 20.0, each.story)
    at = now()
    with FAULTS[name](server, 2 * LEASE):
        let_pass(2 * LEASE, at)
        looks = fleet.journal.looks()

        def check_stopped(seen: Set[int]) -> None:
            assert len(seen) == 6, "%d of 6 were told in time" % len(seen)

        # Nobody could take anything over yet, and all have stopped.
        check_stopped({look.partition_id for look in looks})
        with must_fail("were told in time"):
            check_stopped({look.partition_id for look in control.journal.looks()})
        assert {look.reason for look in looks} == {"lease_lost"}
        latest = max(look.at for look in looks) - at
        assert latest < LEASE + 1.0, "the last one stopped %.2f s after the fault began" % latest
    back = now()
    for each in (control,):
        for worker in each.workers:
            worker.kill()
    wait_until(lambda: any(a.at > back for a in fleet.journal.attempts()), 2 * LEASE + 15.0, fleet.story)
    seconds = min(a.at for a in fleet.journal.attempts() if a.at > back) - back
    fleet.wait_done(60.0)
    fleet.end()
    tally = fleet.check()
    assert tally["lost"] == 6 and not fleet.told("role_died") and not fleet.told("store_lost_data")
    print("%s: all work stopped at the latest %.2f s into the outage (lease %g s); next attempt %.2f s after its end; "
          "%s" % (name, latest, LEASE, seconds, tally))  # fmt: skip


@pytest.mark.long
def test_a_server_that_loads_its_data_is_waited_for(new_fleet: MakeFleet, new_server: MakeServer) -> None:
    server = new_server(extra_args=("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"))
    fleet = new_fleet(900, url=server.url)
    for name in ("a", "b"):
        fleet.start(name, STEPS, wait=False)
    with hand(server) as client, client.pipeline(transaction=False) as pipe:
        for number in range(2000):
            pipe.set("filler-%d" % number, "x" * 100)
        pipe.execute()
    fleet.wait_completed(10)
    at = now()
    with hand(server) as client:
        client.execute_command("CLIENT", "PAUSE", 3000, "WRITE")
        client.save()
    server.restart()
    wait_until(lambda: b"\nloading:0" in ask(server, "INFO", "persistence"), 30.0, "the end of loading")
    back = now()
    seconds = fleet.wait_told("partition_completed", LEASE + 15.0, back)["t"] - back
    fleet.wait_done(40.0)
    fleet.end()
    tally = fleet.check(fresh_plan=bool(fleet.told("store_lost_data")))
    assert not fleet.told("role_died")
    print("the server was away and loading for %.2f s; back to work %.2f s later; %s" % (back - at, seconds, tally))


# ---------------------------------------------------------------- closed to our user


def test_rights_taken_and_a_password_changed_are_said_and_forgotten_when_they_are_back(
    new_fleet: MakeFleet, new_server: MakeServer
) -> None:
    server = new_server()
    ask(server, "ACL", "SETUSER", "elk", "on", ">right", "~*", "&*", "+@all")
    url = server.url.replace("redis://", "redis://elk:right@")
    fleet = new_fleet(3000, url=server.url)
    for name in ("a", "b"):
        fleet.start(name, STEPS, wait=False, url=url)
    fleet.wait_completed(10)
    # While nothing is wrong it says nothing.
    with must_fail("health does not say"):
        check_says(health(fleet.workers[0]), "refuses this user")
    waits: List[str] = []
    for what, taken, given in (
        ("no scripts", ["-evalsha", "-eval"], ["+evalsha", "+eval"]),
        ("no writes", ["-@write"], ["+@write"]),
        ("another password", ["resetpass", ">wrong"], ["resetpass", ">right"]),
        ("switched off", ["off"], ["on"]),
    ):
        at = now()
        ask(server, "ACL", "SETUSER", "elk", *taken)
        if "pass" in what or "off" in what:
            ask(server, "CLIENT", "KILL", "USER", "elk")
        let_pass(0.4 * LEASE, at)
        # Without the right to write it may still read: then readiness goes when nothing was renewed for a lease.
        if what != "no writes":
            # A busy machine may take longer than the 0.4 leases.
            wait_until(lambda s=at: all(w.of("store_unavailable", s) for w in fleet.workers), LEASE, fleet.story)
            check_says(health(fleet.workers[0]), "refuses this user")
        ask(server, "ACL", "SETUSER", "elk", *given)
        back = now()
        done = fleet.wait_told("partition_completed", LEASE + 15.0, back)
        waits.append("%s: %.2f s" % (what, done["t"] - back))
    fleet.wait_done(60.0)
    fleet.end()
    tally = fleet.check()
    assert not fleet.told("role_died") and not fleet.told("store_lost_data")
    print("a right taken and given back: work went on after %s; %s" % (", ".join(waits), tally))


def health(worker: Worker) -> Dict[str, Any]:
    since = now()
    worker.say("health")
    return worker.wait_for("health", since=since)


def check_says(told: Dict[str, Any], what: str) -> None:
    assert not told["ready"] and what in (told["store_error"] or ""), "health does not say: %s" % told["problems"]


# ---------------------------------------------------------------- it evicts


@pytest.mark.long
def test_a_server_that_evicts_is_warned_of_and_what_it_took_is_found(
    new_fleet: MakeFleet, new_server: MakeServer
) -> None:
    server = new_server()
    fleet = new_fleet(400, url=server.url)
    ask(server, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    worker = fleet.start("a", STEPS)
    fleet.wait_completed(5)
    assert "allkeys-lru" in worker.log.read_text()
    assert any("allkeys-lru" in f.found for f in diagnose(fleet.namespace, fleet.store).of("problem"))
    worker.kill()
    assert verify(fleet.partitions).problems == []
    kept = set(ask(server, "KEYS", "*"))
    used = int(dict(line.split(b":") for line in ask(server, "INFO", "memory").split() if b":" in line)[b"used_memory"])

    def evicted() -> Set[bytes]:
        ask(server, "CONFIG", "SET", "maxmemory", max(1, used - 2000))
        return kept - set(ask(server, "KEYS", "*"))

    gone = wait_until(evicted, 10.0, "an evicted key")
    ask(server, "CONFIG", "SET", "maxmemory", 0)
    names = sorted(key.decode().rpartition(":")[2] for key in gone)
    found = verify(fleet.partitions).problems
    # Every one that holds work, or the proof that something is gone, is missed.
    harmless = {"workers", "worker_info", "streams", "lock:leader", "leader", "events", "gaps", "simple"}
    assert found or not diagnose(fleet.namespace, fleet.store).healthy or set(names) <= harmless, names
    print("keys evicted: %s; doctor says: %s" % (", ".join(names), found[:1]))
