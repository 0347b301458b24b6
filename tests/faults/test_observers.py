"""Observers who look too often, or while the store is away: bounded, in time, and no ghosts."""

from __future__ import annotations

import collections
import os
import re
import threading
from typing import Any, Callable, Counter, Dict, List, Tuple

import pytest

from elk_coordinator import AdminClient
from elk_coordinator.testing import EmbeddedServer, wait_until
from tests.faults.doors import WITH_HTTP, ask, calls, door_of, measure
from tests.faults.fleet import LEASE, Fleet, let_pass, must_fail, now
from tests.faults.proxy import Proxy

MakeFleet = Callable[..., Fleet]
MakeProxy = Callable[..., Proxy]
CONTENT = "content_worker.py"


# -- too many who look


class Dashboards:
    """Clients who look at everything a worker shows, each every *every* seconds."""

    PATHS = ("/api/v1/status", "/api/v1/partitions?limit=100", "/metrics")

    def __init__(self, address: str, number: int, every: float) -> None:
        self.seconds: Dict[str, List[float]] = {path: [] for path in self.PATHS}
        self.codes: Counter[Tuple[str, int]] = collections.Counter()
        self._address = address
        self._every = every
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._look, args=(i,), daemon=True) for i in range(number)]

    def __enter__(self) -> "Dashboards":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._closed.set()
        for thread in self._threads:
            thread.join(15.0)

    def _look(self, nth: int) -> None:
        self._closed.wait(self._every * nth / len(self._threads))
        while not self._closed.is_set():
            for path in self.PATHS:
                at = now()
                code = ask(self._address, path)[0]
                with self._lock:
                    self.seconds[path].append(now() - at)
                    self.codes[path, code] += 1
            self._closed.wait(self._every)


@pytest.mark.long
@pytest.mark.timeout(120)
def test_fifty_dashboards_cost_a_bounded_number_of_commands_and_little_throughput(new_fleet: MakeFleet) -> None:
    with EmbeddedServer(own=True, prefer=os.environ.get("ELK_TEST_SERVER") or None) as server:
        fleet = new_fleet(200_000, url=server.url)
        options = dict(WITH_HTTP, max_pending_partitions=20_000)
        fleet.start("leads", {"pause": 0.02}, program=CONTENT, options=options)
        fleet.start("shows", {"pause": 0.02}, planner=False, program=CONTENT, options=options)
        fleet.wait_completed(50)
        alone, usual = measure(fleet, 3.0)
        with Dashboards(door_of(fleet, "shows"), 50, 2.0) as looking:
            with_them, then = measure(fleet, 4.0)
        asked = sum(looking.codes.values())
        scrapes = sorted(looking.seconds["/metrics"])
        p99 = scrapes[int(0.99 * (len(scrapes) - 1))]
        # What each question costs, without the others: the leader's metrics come from what it knows already.
        admin = AdminClient(fleet.namespace, fleet.store)
        assert admin.wait(admin.pause()).state == "done"
        idle = measure(fleet, 2.0)[1]
        costs = [cost_of(fleet, door_of(fleet, "leads"), path, idle) for path in Dashboards.PATHS]
        for worker in fleet.workers:
            worker.kill()
        print("50 dashboards, %d questions: %.0f commands/s beside %.0f without, %.2f of the throughput (%.0f/s), "
              "a scrape took %.3f s (p99); a status costs %.1f commands, a list %.1f, a scrape %.2f" % (
                  asked, then, usual, with_them / alone, alone, p99, *costs))  # fmt: skip
        assert {code for _, code in looking.codes} <= {200, 503}, looking.codes
        # On a busy machine more may come at once than the server takes: those are told to come again.
        assert looking.codes["/metrics", 503] <= 0.1 * asked / 3, looking.codes
        assert looking.codes["/api/v1/status", 200] > 0
        assert costs[0] < 12 and costs[1] < 6, costs
        assert costs[2] < 0.5, "a scrape asks the store: %.2f commands each" % costs[2]
        assert with_them > 0.3 * alone

        control = new_fleet(200, "control", url=server.url)
        control.start("leads", program=CONTENT, options=options, broken=["cache"])
        control.wait_done()
        idle = measure(control, 1.0)[1]
        with must_fail("a scrape asks the store"):
            cost = cost_of(control, door_of(control, "leads"), "/metrics", idle)
            assert cost < 0.5, "a scrape asks the store: %.2f commands each" % cost


def cost_of(fleet: Fleet, address: str, path: str, idle: float, times: int = 60) -> float:
    """Return the scripts that one question runs, beside those that run anyway."""
    at, before = now(), calls(fleet)
    for _ in range(times):
        assert ask(address, path)[0] == 200
    return (calls(fleet) - before - idle * (now() - at)) / times


# -- scrapes while the store is down


def leaders_series(text: str) -> List[str]:
    return [line.split("{")[0] for line in text.splitlines() if re.match(
        r"\w*(partitions_total|active_workers_count|planned_upper_bound)[{ ]", line)]  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(90)
def test_a_scrape_while_the_store_is_down_answers_in_time_and_shows_no_ghosts(
    new_fleet: MakeFleet, new_proxy: MakeProxy
) -> None:
    fleet, control = new_fleet(100), new_fleet(100, "control")
    proxy, other = new_proxy(fleet.url), new_proxy(fleet.url)
    fleet.start("a", program=CONTENT, url=proxy.url, options=WITH_HTTP)
    control.start("a", program=CONTENT, url=other.url, options=WITH_HTTP, broken=["ghosts"])
    doors = []
    for each in (fleet, control):
        each.wait_done()
        doors.append(door_of(each, "a"))
        wait_until(lambda: leaders_series(ask(doors[-1], "/metrics")[1]), 10.0, "the leader's series")
    series = len(leaders_series(ask(doors[0], "/metrics")[1]))
    proxy.drop()
    other.drop()
    down, took, gone = now(), [], 0.0
    while now() - down < LEASE + 1.5:
        at = now()
        status, text = ask(doors[0], "/metrics")
        took.append(now() - at)
        assert status == 200
        if not leaders_series(text):
            gone = gone or now() - down
        at = now()
        assert ask(doors[0], "/health")[0] in (200, 503)
        took.append(now() - at)
        let_pass(0.05)
    ready, why = ask(doors[0], "/ready")
    assert ready == 503, why
    left = leaders_series(ask(doors[0], "/metrics")[1])
    assert left == [], "ghosts: %s" % left
    with must_fail("ghosts"):
        left = leaders_series(ask(doors[1], "/metrics")[1])
        assert left == [], "ghosts: %s" % left
    proxy.heal()
    up = now()
    wait_until(lambda: leaders_series(ask(doors[0], "/metrics")[1]), 20.0, "the leader's series to come back")
    back = now() - up
    other.heal()
    fleet.end()
    tally = fleet.check()
    took.sort()
    print("%d scrapes and probes while the store was away: p99 %.3f s; %d series of the leader gone after %.1f s, "
          "back %.1f s after the store; %s" % (len(took), took[int(0.99 * (len(took) - 1))], series, gone, back,
                                               tally))  # fmt: skip
    assert took[int(0.99 * (len(took) - 1))] < 1.0 and 0.0 < gone < LEASE + 1.0
