"""The log of events on every strategy and store."""

from __future__ import annotations

from typing import Any, List

from elk_coordinator.partition.event_log import EventLog
from elk_coordinator.protocols import Event


def event(number: int) -> Event:
    # Beyond what a double can hold: the log must not touch numbers.
    return Event("lease_lost", "ns", "worker", 1.7e9 + number, {"partition_id": 2**53 + number, "reason": "test"})


def numbers(events: List[Any]) -> List[int]:
    return [found.facts["partition_id"] - 2**53 for found in events]


def test_what_was_written_is_read_in_order_by_everybody(backend: Any) -> None:
    writer, reader = EventLog(backend.new_strategy().store), backend.new_strategy()
    assert reader.events() == []
    writer.append("a", [event(0), event(1)])
    EventLog(reader.store).append("b", [event(2)])
    writer.append("c", [event(3)])
    found = reader.events()
    assert numbers(found) == [0, 1, 2, 3]
    assert (found[0].kind, found[0].worker_id, found[0].at) == ("lease_lost", "worker", 1.7e9)
    assert numbers(reader.events(limit=2)) == [2, 3], "the newest"
    assert numbers(reader.events(after=found[1].id)) == [2, 3]
    assert numbers(reader.events(after=found[1].id, limit=1)) == [2], "the next"
    assert reader.events(after=found[3].id) == []
    assert numbers(reader.events(after="0")) == [0, 1, 2, 3]


def test_a_batch_sent_twice_is_stored_once(backend: Any) -> None:
    log = EventLog(backend.new_strategy().store)
    for _ in range(2):
        log.append("a", [event(0), event(1)])
    log.append("b", [event(2)])
    log.append("a", [event(0), event(1)])
    assert numbers(log.read()) == [0, 1, 2]


def test_namespaces_have_logs_of_their_own(backend: Any) -> None:
    log = EventLog(backend.new_strategy().store)
    log.append("a", [event(0)])
    assert backend.new_strategy(namespace=backend.namespace + ".x").events() == []


def test_the_log_is_bounded(backend: Any) -> None:
    store = backend.new_strategy().store
    for batch in range(12):
        store.append_log("events", str(batch), [b'{"n":%d}' % n for n in range(batch * 100, batch * 100 + 100)], 500)
    found = store.read_log("events", None, 1000)
    assert 500 <= len(found) <= 600
    assert found[-1][1] == b'{"n":1199}'
