"""The server's clock steps while a fleet works: forward costs fenced duplicates, backward costs nobody an hour."""

from __future__ import annotations

import contextlib
import pathlib
from typing import Any, Callable, Iterator, List

import pytest

from elk_coordinator.testing import wait_until
from tests.faults.clocks import WAYS, MovedServer, everywhere, moved_server
from tests.faults.fleet import LEASE, Fleet, must_fail, now

MakeFleet = Callable[..., Fleet]
MakeServer = Callable[[str], MovedServer]

HOUR, DAY = 3600, 86400
STEPS = {"steps": 4, "pause": 0.05}
#: A deadline further ahead than its own length is believed: the guards of leases and of locks, switched off.
NO_CLAMP = [
    ["partition/sweep", "if #top > 0 and", "if false and"],
    ["store/lock_acquire", "if tonumber(lock[1]) > now_ms + tonumber(lock[2]) then", "if false then"],
]
#: Tokens are the server's time and nothing else: the guard that they rise, switched off.
BY_TIME_ALONE = everywhere("return math.max(last + 1, now, floor + 1)", "return now")


@pytest.fixture
def new_server_clock(tmp_path: pathlib.Path) -> Iterator[MakeServer]:
    with contextlib.ExitStack() as stack:

        def make(way: str) -> MovedServer:
            return stack.enter_context(moved_server(way, tmp_path))

        yield make


class Stepped:
    """A fleet of three on such a server; one of them, the leader, is killed right after the clock stepped back."""

    def __init__(self, fleet: Fleet, server: MovedServer, scripts: List[Any] = [], **work: Any) -> None:  # noqa: B006
        self.fleet = fleet
        self.server = server
        for change in server.scripts:
            fleet.store.scripts.replace(*change)
        config: Any = {"planner": {"dry": True}, "scripts": [*server.scripts, *scripts]}
        self.leader = fleet.start("leader", dict(STEPS, **work), **config)
        fleet.leader()
        for name in ("second", "third"):
            fleet.start(name, dict(STEPS, **work), **config)
        # Nothing to do before all are there, however slow the machine is.
        for worker in fleet.workers:
            worker.say("data")
        wait_until(lambda: len({a.worker for a in fleet.journal.attempts()}) == 3, 20.0, fleet.story)
        self.seconds = self.elected = 0.0

    def lose_leader(self, step: float) -> None:
        """Step, kill the leader, and wait until what it held runs elsewhere and another leads."""
        self.server.step(step)
        self.leader.kill()
        at = now()
        held = {p.partition_id: p.fencing_token for p in self.fleet.partitions.get_all_active_partitions()
                if p.worker_id == "leader" and p.last_heartbeat}  # fmt: skip
        assert held

        def elsewhere() -> bool:
            tokens = {a.partition_id: a.token for a in self.fleet.journal.attempts()}
            return all(tokens.get(p, 0) > token for p, token in held.items())

        what = "what a dead worker held to run elsewhere\n"
        self.elected = self.fleet.wait_told("became_leader", 2 * LEASE + 5.0, since=at)["t"] - at
        wait_until(elsewhere, 2 * LEASE + 5.0, lambda: what + self.fleet.story())
        self.seconds = now() - at

    def finish(self) -> Any:
        self.fleet.wait_done()
        self.fleet.end()
        return self.fleet.check()


def step_back(new_fleet: MakeFleet, server: MovedServer, step: float, way: str) -> None:
    fleet = new_fleet(1500, url=server.url)
    case = Stepped(fleet, server)
    case.lose_leader(-step)
    tally = case.finish()
    lost = [told for told in fleet.told("lease_lost") if told["by"] != "leader"]
    assert lost == [], "healthy work was cancelled"
    print("the server's clock (%s) back by %d h: a dead worker's work ran elsewhere after %.2f s, another led "
          "after %.2f s; %s" % (way, step // HOUR, case.seconds, case.elected, tally))  # fmt: skip


@pytest.mark.long
def test_a_server_clock_set_back_by_an_hour_costs_a_dead_worker_its_lease_and_no_hour(
    new_fleet: MakeFleet, new_server_clock: MakeServer
) -> None:
    step_back(new_fleet, new_server_clock("script"), HOUR, "script")


@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.parametrize("way", WAYS[-1:])
def test_a_server_clock_set_back_by_a_day_and_the_controls(
    new_fleet: MakeFleet, new_server_clock: MakeServer, way: str
) -> None:
    step_back(new_fleet, new_server_clock(way), DAY, way)
    server = new_server_clock(way)
    control = Stepped(new_fleet(1500, "no-clamp", url=server.url), server, NO_CLAMP)
    with must_fail("not within"):
        control.lose_leader(-HOUR)
    server = new_server_clock(way)
    control = Stepped(new_fleet(1500, "by-time-alone", url=server.url), server, BY_TIME_ALONE)
    server.step(-HOUR)
    control.fleet.wait_told("became_leader", 2 * LEASE + 5.0, since=control.leader.kill())
    with must_fail("fell"):
        control.fleet.check_tokens()


def step_forward(case: Stepped) -> Any:
    case.server.step(HOUR)
    at = now()
    attempts = len(case.fleet.journal.attempts())
    wait_until(lambda: len(case.fleet.journal.attempts()) > attempts + 10, 2 * LEASE + 5.0, case.fleet.story)
    case.seconds = now() - at
    return case.finish()


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
def test_a_server_clock_set_forward_by_an_hour_costs_fenced_duplicates_only(
    new_fleet: MakeFleet, new_server_clock: MakeServer, way: str
) -> None:
    server = new_server_clock(way)
    # They do not look whether they were cancelled: only the fence keeps their effects single.
    # Each takes longer than until the next look for leases that ran out.
    case = Stepped(new_fleet(360, url=server.url), server, look="never", pause=0.6)
    tally = step_forward(case)
    print("the server's clock (%s) forward by 1 h: work went on after %.2f s; %s" % (way, case.seconds, tally))
    assert tally["rerun"] > 0
    server = new_server_clock(way)
    control = Stepped(new_fleet(360, "unfenced", url=server.url), server, look="never", fenced=False, pause=0.6)
    with must_fail("effects applied twice"):
        step_forward(control)
