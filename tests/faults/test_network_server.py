"""A server that takes no more connections, stands still, drops them all the time, or whose address is gone."""

from __future__ import annotations

import os
import tempfile
from typing import Any, Callable, Dict, List

import pytest

from elk_coordinator.testing import EmbeddedServer, wait_until
from tests.faults.fleet import Fleet, let_pass, meanwhile, must_fail, now
from tests.faults.network import LONGER, STEPS, MakeFleet, calm, resumed, start
from tests.faults.network_guards import NAME, NO_SUCH_NAME
from tests.faults.topologies import hand

MakeServer = Callable[..., EmbeddedServer]


def connections(client: Any) -> Dict[str, int]:
    """Return how many connections each name of ours has, by process."""
    found: Dict[str, int] = {}
    for each in client.client_list():
        if each["name"].startswith("elk"):
            found[each["name"]] = found.get(each["name"], 0) + 1
    return found


def drop_all(client: Any) -> None:
    """Close every connection but this one, subscriptions too."""
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")


@pytest.mark.long
def test_a_server_that_takes_no_more_connections_is_not_hammered(new_fleet: MakeFleet, new_server: MakeServer) -> None:
    rates = {}
    for name, broken in (("guarded", []), ("no-back-off", ["back off"])):
        server = new_server()
        fleet = new_fleet(600, name, server.url)
        start(fleet, "a", "b", broken=broken)
        fleet.wait_completed(5)
        with hand(server) as client:
            before = connections(client)
            client.config_set("maxclients", 1)
            drop_all(client)
            wait_until(lambda f=fleet: all(w.of("store_unavailable") for w in f.workers), 10.0, fleet.story)
            began, refused = now(), client.info("stats")["rejected_connections"]
            let_pass(1.5)
            rates[name] = (client.info("stats")["rejected_connections"] - refused) / (now() - began) / 2
            client.config_set("maxclients", 1000)
            at = now()
            if broken:
                continue
            seconds = resumed(fleet, at)
            fleet.wait_done()
            after = connections(client)
        errors = {told["error"] for told in fleet.told("store_unavailable")}
        tally = calm(fleet)
        assert any("max number of clients" in error for error in errors), errors
        # Eight threads that talk to the store, and a subscription; never one more for every error.
        most = max(list(before.values()) + list(after.values())) / 2.0
        assert most <= 12
        print("while refused each process tried %.0f times a second; it had %.1f connections at most; back to work "
              "after %.2f s; %s" % (rates[name], most, seconds, tally))  # fmt: skip
    assert rates["guarded"] < 100.0
    with must_fail("hammered"):
        assert rates["no-back-off"] < 2.0 * rates["guarded"], "hammered: %.0f tries a second" % rates["no-back-off"]


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_server_that_stands_still_is_an_outage_with_a_name(new_fleet: MakeFleet, new_server: MakeServer) -> None:
    server = new_server()
    fleet, control = new_fleet(1500, "main", server.url), new_fleet(1500, "no-timeout", server.url)
    start(fleet, "a", "b")
    start(control, "a", broken=["timeout"])
    fleet.wait_completed(10)
    told: List[float] = []
    took: List[float] = []
    for seconds in (2.0, 8.0):
        # The kernel goes on taking connections; nobody reads from them. Shorter, and longer, than the leases of 6 s.
        at = now()
        server.freeze()
        let_pass(seconds, at)
        server.thaw()
        thawed = now()
        told.append(max(worker.wait_for("store_unavailable", 1.0, at)["t"] for worker in fleet.workers) - at)
        took.append(resumed(fleet, thawed))
        wait_until(lambda t=thawed: all(w.of("store_recovered", t) for w in fleet.workers), 20.0, fleet.story)
    fleet.wait_done()
    tally = calm(fleet)
    print("server stopped for less and for more than a lease: told after %.2f and %.2f s, back to work %.2f "
          "and %.2f s after it went on; %s" % (*told, *took, tally))  # fmt: skip
    with must_fail("hangs"):
        assert control.told("store_unavailable"), "hangs: no outage was told for 8 s"


@pytest.mark.long
@pytest.mark.timeout(90)
def test_connections_killed_ten_times_a_second_cost_no_more_than_the_calls_they_meet(
    new_fleet: MakeFleet, new_server: MakeServer
) -> None:
    outages = {}
    for name, broken in (("guarded", []), ("no-retry", ["retry"])):
        server = new_server()
        fleet = new_fleet(12_000, name, server.url)
        start(fleet, "a", "b", work={"steps": 2, "pause": 0.02, "checkpoint": True}, broken=broken)
        with hand(server) as client:
            until = now() + 15.0
            times = meanwhile(
                lambda f=fleet, u=until: f.done() or now() > u, 0.1, lambda c=client: drop_all(c)
            )  # fmt: skip
        fleet.wait_done()
        tally = calm(fleet)
        assert (tally["rerun"], tally["deliveries"], tally["refused"], tally["lost"]) == (0, 0, 0, 0)
        # A subscription that is closed is made anew; that is no call.
        outages_told = [told for told in fleet.told("store_unavailable") if told["role"] != "wakeup"]
        undurable = len(fleet.told("checkpoint", durable=False)) + len(outages_told)
        outages[name] = undurable / times
        print("connections killed (%s) %d times, %d calls given up; %s" % (name, times, undurable, tally))
    with must_fail("given up"):
        given_up = outages["no-retry"]
        assert given_up <= 2.0 * outages["guarded"] + 0.02, "given up: %.2f calls a kill" % given_up


def test_a_server_that_forgets_its_scripts_is_given_them_again(new_fleet: MakeFleet, new_server: MakeServer) -> None:
    servers = [new_server(), new_server()]
    fleet, control = new_fleet(1000, "guarded", servers[0].url), new_fleet(50_000, "no-source", servers[1].url)
    for each, broken in ((control, ["source"]), (fleet, [])):
        start(each, "a", "b", work={"steps": 2, "pause": 0.02, "checkpoint": True}, broken=broken)
        each.wait_completed(3)
    with hand(servers[0]) as client, hand(servers[1]) as controls:
        controls.script_flush()
        times = meanwhile(fleet.done, 0.1, client.script_flush)
        assert times >= 3
    tally = calm(fleet)
    assert (tally["rerun"], tally["deliveries"], tally["refused"], tally["lost"]) == (0, 0, 0, 0)
    print("scripts forgotten %d times; %s" % (times, tally))
    with must_fail("no script"):
        assert control.done(), "no script is known any more: %d of 5000 completed" % control.completed()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["a socket's path", "a name"])
def test_an_address_that_is_gone_for_a_while_is_waited_for(
    new_fleet: MakeFleet, new_server: MakeServer, kind: str
) -> None:
    with tempfile.TemporaryDirectory(prefix="elk-") as folder:
        # A path may have a hundred characters, and those of the test's own folder have more.
        path = os.path.join(folder, "store.sock")
        server = new_server(extra_args=("--unixsocket", path))
        fleet = new_fleet(600, url=server.url)
        if kind == "a name":
            start(fleet, "a", "b", url=server.url.replace("127.0.0.1", NAME), broken=["names"])
        else:
            start(fleet, "a", "b", url="unix://%s?db=0" % path)
        gone = fleet.folder / NO_SUCH_NAME
        fleet.wait_completed(5)
        if kind == "a name":
            gone.touch()
        else:
            os.rename(path, path + ".away")
        with hand(server) as client:
            drop_all(client)
        wait_until(lambda: all(w.of("store_unavailable") for w in fleet.workers), 10.0, fleet.story)
        done = fleet.completed()
        let_pass(1.0)
        assert fleet.completed() == done, "the fault is none"
        if kind == "a name":
            gone.unlink()
        else:
            os.rename(path + ".away", path)
        seconds = resumed(fleet, now())
        fleet.wait_done()
        tally = calm(fleet)
    assert tally["lost"] == 0
    print("address gone (%s): told as '%s'; back to work %.2f s after it was there again; %s" % (
        kind, fleet.told("store_unavailable")[0]["error"][:120], seconds, tally))  # fmt: skip


@pytest.mark.long
def test_without_hints_from_the_store_work_is_found_by_polling(new_fleet: MakeFleet, new_server: MakeServer) -> None:
    server = new_server()
    deaf = "redis://deaf:secret@" + server.url.partition("://")[2]
    with hand(server) as client:
        rules = ("on", ">secret", "~elk:*", "resetchannels", "+@all", "-subscribe")
        client.execute_command("ACL", "SETUSER", "deaf", *rules)
        cases: Dict[str, Fleet] = {}
        for name, url, broken in (
            ("not allowed", deaf, []), ("cut", server.url, []), ("no-polling", deaf, ["polling"]),
        ):  # fmt: skip
            fleet = cases[name] = new_fleet(800, name.replace(" ", "-"), server.url)
            fleet.start("a", STEPS, {"dry": True}, url=url, defaults=LONGER, wait=False, broken=broken)
            fleet.start("b", STEPS, False, url=url, defaults=LONGER, wait=False, broken=broken)
        seconds = {}
        for fleet in cases.values():
            fleet.leader()
            for worker in fleet.workers:
                worker.wait_for("up")
        # Until all are idle, and wait for a hint.
        let_pass(2.5)
        at = now()
        for fleet in cases.values():
            fleet.workers[0].say("data")
        ready = [cases["not allowed"], cases["cut"]]
        meanwhile(lambda: all(fleet.done() for fleet in ready), 0.1,
                  lambda: client.execute_command("CLIENT", "KILL", "TYPE", "pubsub"))  # fmt: skip
    for name in ("not allowed", "cut"):
        seconds[name] = cases[name].told("partition_completed", at)[0]["t"] - at
        assert {told["by"] for told in cases[name].told("partition_completed")} == {"a", "b"}
        tally = calm(cases[name])
        assert (tally["rerun"], tally["deliveries"], tally["lost"], tally["refused"]) == (0, 0, 0, 0)
        print("wake-ups %s: first completion %.2f s after there was work; %s" % (name, seconds[name], tally))
    assert not cases["not allowed"].told("store_unavailable")
    for worker in cases["not allowed"].workers:
        assert worker.log.read_text().count("no wake-ups from the store, polling only") == 1
    with must_fail("nobody came"):
        assert cases["no-polling"].completed() > 0, "nobody came for the work"
