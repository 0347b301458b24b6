"""The writer of the log of events: batched, never in the way, bounded, and honest about what it dropped."""

from __future__ import annotations

import json
import logging
import threading
from typing import Any, Dict, List, Optional

import pytest

from elk_coordinator.cli import events as cli
from elk_coordinator.errors import ConfigError, PlannerError, StoreError, StoreUnavailable
from elk_coordinator.model import PartitionStatus
from elk_coordinator.partition import event_log
from elk_coordinator.partition.event_log import EventLog, EventWriter, LoggedEvent, dump, load
from elk_coordinator.protocols import EVENT_KINDS, Event
from elk_coordinator.runtime.events import Events
from elk_coordinator.store.memory_store import MemoryDataStore
from elk_coordinator.testing import ManualClock

LOGGER = logging.getLogger("elk_coordinator.test")
#: Too many, or of no use to an operator; what became of gaps is in the gap report, which is bounded by itself.
NOT_LOGGED = {
    "gap_found",
    "heartbeat", "claimed", "planned", "task_started", "task_finished", "partition_completed", "partition_released",
    "reported", "stood",
}  # fmt: skip


class Store(MemoryDataStore):
    """Counts its appends, and fails when told to."""

    error: Optional[Exception] = None
    #: Raise *error* after the write instead of before.
    after = False

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.appends: List[int] = []

    def append_log(self, name: str, batch: str, entries: Any, keep: int) -> None:
        self.appends.append(len(entries))
        if self.error is not None and not self.after:
            raise self.error
        super().append_log(name, batch, entries, keep)
        if self.error is not None:
            raise self.error


class Scene:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = Store(self.clock).namespaced("orders")
        self.writer = EventWriter(self.store, "orders", "w", self.clock, LOGGER)
        self.writer.open()
        self.events = Events("orders", "w", self.clock, LOGGER, own=[self.writer])

    def emit(self, count: int = 1, start: int = 0) -> None:
        for number in range(start, start + count):
            self.events.emit("lease_lost", partition_id=number, token=1, reason="test")

    def logged(self, limit: int = 1000) -> List[LoggedEvent]:
        return EventLog(self.store).read(limit=limit)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_what_an_operator_cares_for_is_recorded_and_the_daily_bustle_is_not() -> None:
    recorded = {kind for kind in EVENT_KINDS if hasattr(EventWriter, "on_" + kind)}
    assert recorded == set(EVENT_KINDS) - NOT_LOGGED


def test_emitting_asks_the_store_nothing_and_wakes_the_writer(scene: Scene) -> None:
    scene.emit(3)
    assert scene.store.appends == [] and scene.writer.wake.is_set()
    assert scene.writer.run_once() == 3 and scene.store.appends == [3]
    assert [event.facts["partition_id"] for event in scene.logged()] == [0, 1, 2]
    assert [event.worker_id for event in scene.logged()] == ["w"] * 3


def test_nothing_costs_nothing(scene: Scene) -> None:
    assert scene.writer.run_once() == 0 and scene.writer.pause(0) == 60.0
    assert scene.store.appends == []


def test_nothing_is_written_to_a_namespace_that_has_not_accepted_the_worker(scene: Scene) -> None:
    writer = EventWriter(scene.store, "orders", "w", scene.clock, LOGGER)
    writer.record(Event("started", "orders", "w", 1.7e9, {}))
    assert (writer.run_once(), writer.pause(0), scene.store.appends) == (0, 60.0, [])
    writer.wake.clear()
    writer.open()
    assert writer.wake.is_set() and writer.run_once() == 1


def test_a_burst_is_written_in_batches_at_most_four_times_a_second(scene: Scene) -> None:
    scene.emit(250)
    written = [scene.writer.run_once()]
    for _ in range(8):
        assert 0.0 < scene.writer.pause(0) <= 0.2501 or scene.writer.pause(0) == 60.0
        scene.clock.advance(0.1)
        written.append(scene.writer.run_once())
    assert written == [99, 0, 0, 99, 0, 0, 52, 0, 0]
    assert [event.facts["partition_id"] for event in scene.logged()] == list(range(250))


def test_while_the_store_is_away_events_wait_and_later_ones_are_dropped_and_counted(scene: Scene) -> None:
    scene.store.error = StoreUnavailable("gone")
    scene.emit(1200)
    for _ in range(5):
        assert scene.writer.run_once() == 0
        assert 0.0 < scene.writer.pause(0) <= 10.0
        scene.clock.advance(10.0)
    assert scene.writer.dropped == 200 and scene.store.appends == [99] * 5
    scene.store.error = None
    while scene.writer.pause(0) < 60.0:
        scene.clock.advance(scene.writer.pause(0))
        scene.writer.run_once()
    last = scene.logged(500)[-1]
    assert (last.kind, last.facts) == ("events_dropped", {"count": 200})
    assert scene.logged(500)[-2].facts["partition_id"] == 999


def test_a_batch_whose_reply_was_lost_is_stored_once(scene: Scene) -> None:
    scene.store.error, scene.store.after = StoreUnavailable("the reply was lost"), True
    scene.emit(5)
    assert scene.writer.run_once() == 0
    scene.store.error = None
    scene.clock.advance(10.0)
    assert scene.writer.run_once() == 5
    assert len(scene.logged()) == 5


def test_a_refusal_drops_the_batch_and_is_an_error_of_the_role(scene: Scene) -> None:
    scene.store.error = StoreError("no permission")
    scene.emit(5)
    with pytest.raises(StoreError):
        scene.writer.run_once()
    assert scene.writer.dropped == 5 and scene.writer.run_once() == 0
    scene.store.error = None
    scene.clock.advance(10.0)
    scene.writer.run_once()
    assert [(event.kind, event.facts) for event in scene.logged()] == [("events_dropped", {"count": 5})]


def test_the_last_events_are_written_at_the_end_without_pauses(scene: Scene) -> None:
    scene.emit(1)
    scene.writer.run_once()
    scene.emit(250, 1)
    scene.writer.finish()
    assert len(scene.logged()) == 251
    scene.store.error = StoreUnavailable("gone")
    scene.emit(250)
    scene.store.appends.clear()
    scene.writer.finish()
    assert len(scene.store.appends) == 1, "a store that is away is not waited for at the end"


def test_emitting_from_many_threads_loses_nothing(scene: Scene) -> None:
    threads = [threading.Thread(target=scene.emit, args=(50, n * 50), name="t%d" % n) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    scene.writer.finish()
    assert sorted(event.facts["partition_id"] for event in scene.logged()) == list(range(400))


# -- entries


class Awkward:
    def __str__(self) -> str:
        raise RuntimeError("not even that")


@pytest.mark.parametrize(
    "value, stored",
    [
        (2**63 - 1, 2**63 - 1),
        (True, True),
        (None, None),
        (PartitionStatus.FAILED, "failed"),
        (0.1234567891, 0.123457),
        (float("inf"), None),
        (PlannerError("planner.plan raised"), "planner.plan raised"),
        (Awkward(), "Awkward"),
        ("redis://user:hunter2@host:1/0 refused", "redis://user:***@host:1/0 refused"),
        ("a" * 600 + "KeyError: 5", "..." + "a" * 486 + "KeyError: 5"),
        ("\udcff", "\udcff"),
    ],
)
def test_facts_are_plain_short_and_without_passwords(value: Any, stored: Any) -> None:
    event = Event("planner_error", "orders", "w", 1.7e9, {"fact": value})
    found = load("1-0", dump(event))
    assert found.facts == {"fact": stored}
    assert json.loads(json.dumps(found.to_dict()))["facts"] == {"fact": stored}


@pytest.mark.parametrize("entry", [b"", b"[]", b"{}", b"\xff", b'{"k":1,"w":2,"t":"x","f":{}}'])
def test_an_entry_that_cannot_be_read_says_so(entry: bytes) -> None:
    assert load("7-0", entry) == LoggedEvent("7-0", "unreadable", "", 0.0, {})


@pytest.mark.parametrize(
    "given", [{"after": "x"}, {"after": ""}, {"after": "1-0 +"}, {"after": 5}, {"limit": 0}, {"limit": 1001},
              {"limit": True}],
)  # fmt: skip
def test_a_malformed_question_is_refused_at_the_door(scene: Scene, given: Dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        EventLog(scene.store).read(**given)


def test_the_log_in_one_value_is_bounded(scene: Scene) -> None:
    scene.emit(900)
    scene.writer.finish()
    logged = scene.logged()
    assert len(logged) == 500 and logged[-1].facts["partition_id"] == 899
    assert event_log.KEEP == 10_000


# -- lines


def test_a_line_is_one_line_and_does_not_steer_the_terminal() -> None:
    event = LoggedEvent(
        "1-0", "partition_failed", "w\x1b[2J", 1.7e9, {"error": "Traceback\n  File\nKeyError: 'a'\n", "seconds": 1.0}
    )
    line = cli.line(event)
    assert line == ("2023-11-14 22:13:20  partition_failed      w?[2J  error=\"KeyError: 'a'\"  seconds=1.000")
    assert cli.line(LoggedEvent("1-0", "x", "w", 1e300, {})).startswith("?")
