"""Who joined, who signed off, who was lost: told by the leader from one look at the registry to the next."""

from __future__ import annotations

import logging
from typing import List, Tuple

import pytest

from elk_coordinator.leader.fleet_watch import FleetWatch
from elk_coordinator.model import WorkerInfo
from elk_coordinator.protocols import Event
from elk_coordinator.runtime.events import Events
from elk_coordinator.testing import ManualClock

LOGGER = logging.getLogger("elk_coordinator.test")
TTL, INTERVAL = 30.0, 5.0


class Fleet:
    """A registry in a dict, looked at by a watch."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.events: List[Event] = []
        self.until = {"a": self.clock.monotonic() + TTL}
        events = Events("orders", "leader", self.clock, LOGGER, own=[self])
        self.watch = FleetWatch(INTERVAL, self.clock, events, LOGGER)

    def on_worker_joined(self, event: Event) -> None:
        self.events.append(event)

    on_worker_left = on_worker_lost = on_worker_joined

    def beat(self, worker: str) -> None:
        self.until[worker] = self.clock.monotonic() + TTL

    def look(self) -> List[Tuple[str, str]]:
        """Look and return (kind, worker) of what was told."""
        now = self.clock.monotonic()
        self.until = {name: until for name, until in self.until.items() if until > now}
        self.events.clear()
        self.watch.see(
            [WorkerInfo(name, until - now, {"host": "h-" + name, "version": "1"}) for name, until in self.until.items()]
        )
        return [(event.kind, event.facts["worker"]) for event in self.events]


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def test_the_first_look_of_a_leader_tells_nothing(fleet: Fleet) -> None:
    assert fleet.look() == []
    assert fleet.look() == [], "nor does a look at the same"
    fleet.watch.forget()
    fleet.beat("b")
    assert fleet.look() == [], "another leads: whether b is new is not known"


def test_a_worker_that_comes_has_joined(fleet: Fleet) -> None:
    fleet.look()
    fleet.beat("b")
    assert fleet.look() == [("worker_joined", "b")]
    assert fleet.events[0].facts == {"worker": "b", "host": "h-b", "version": "1"}
    assert fleet.look() == []


def test_a_worker_that_falls_silent_is_lost_once(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    told = []
    fleet.look()
    for _ in range(8):
        fleet.clock.advance(INTERVAL)
        fleet.beat("leader")
        told += fleet.look()
    assert told == [("worker_joined", "leader"), ("worker_lost", "a")]
    assert "worker a is lost" in caplog.text


@pytest.mark.parametrize("since_beat", [0.0, 9.9])
def test_a_worker_that_signs_off_has_left_whenever_its_last_beat_was(
    fleet: Fleet, since_beat: float, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.clock.advance(since_beat)
    fleet.look()
    fleet.clock.advance(INTERVAL)
    del fleet.until["a"]
    assert fleet.look() == [("worker_left", "a")] and not caplog.records


def test_what_a_worker_says_of_itself_may_be_anything(fleet: Fleet) -> None:
    fleet.look()
    fleet.watch.see([WorkerInfo("b", TTL, {"host": None, "version": [1]}), WorkerInfo("c", TTL, {})])
    assert [event.kind for event in fleet.events].count("worker_joined") == 2
