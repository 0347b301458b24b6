"""Events: ours are told at once, users' listeners from a thread of their own, and nobody's error goes further."""

from __future__ import annotations

import ast
import copy
import functools
import logging
import pathlib
import pickle
import re
import threading
from typing import Any, Dict, Iterator, List, Set, Tuple

import pytest

from elk_coordinator import Listener
from elk_coordinator.protocols import EVENT_KINDS, Event
from elk_coordinator.runtime import events as events_module
from elk_coordinator.runtime.events import Events
from elk_coordinator.runtime.threads import Crew
from elk_coordinator.testing import ManualClock, wait_until

LOGGER = logging.getLogger("elk_coordinator.test")
PACKAGE = pathlib.Path(events_module.__file__).resolve().parents[1]


class Keeper(Listener):
    """Listens for three kinds."""

    def __init__(self, name: str = "", into: "List[Any] | None" = None) -> None:
        self.name = name
        self.events: List[Any] = [] if into is None else into

    def on_started(self, event: Event) -> None:
        self.events.append((self.name, event.kind, dict(event.facts)))

    on_stopped = on_planned = on_started


def build(own: Tuple[Any, ...] = (), users: Tuple[Any, ...] = ()) -> Events:
    return Events("orders", "worker-1", ManualClock(time=1.7e9), LOGGER, own, users)


# ---------------------------------------------------------------- who is told, and when


def test_our_own_listeners_are_told_at_once_in_the_thread_that_emits() -> None:
    threads: List[threading.Thread] = []

    class Own:
        def on_started(self, event: Event) -> None:
            threads.append(threading.current_thread())

    build(own=(Own(),)).emit("started", lease=30.0)
    assert threads == [threading.current_thread()]


def test_users_listeners_are_told_later_by_the_role_in_order() -> None:
    told: List[Any] = []
    events = build(users=(Keeper("a", told), Keeper("b", told)))
    events.emit("started", lease=30.0)
    events.emit("planned", created=5)
    assert told == [], "never by who emits"
    assert events.wake.is_set() and events.pause(0) == 0.0
    assert events.run_once() == 4
    assert told == [
        ("a", "started", {"lease": 30.0}), ("b", "started", {"lease": 30.0}),
        ("a", "planned", {"created": 5}), ("b", "planned", {"created": 5}),
    ]  # fmt: skip
    assert events.run_once() == 0
    assert events.pause(0) == 60.0


def test_our_own_are_told_before_the_users() -> None:
    told: List[Any] = []
    events = build(own=(Keeper("own", told),), users=(Keeper("user", told),))
    events.emit("started")
    events.run_once()
    assert [name for name, _, _ in told] == ["own", "user"]


def test_a_listener_is_told_only_what_it_has_a_method_for() -> None:
    keeper = Keeper()
    events = build(users=(keeper,))
    events.emit("task_started", partition_id=1, token=2, attempt=1)
    assert events.run_once() == 0
    assert not events.wake.is_set(), "nobody is woken for what nobody hears"


def test_the_empty_methods_of_the_base_class_cost_nothing() -> None:
    class Idle(Listener):
        pass

    assert not build(users=(Idle(),)).has_users
    assert not build().has_users
    assert build(users=(Keeper(),)).has_users
    assert not build(own=(Keeper(),)).has_users, "ours need no thread"


def test_any_object_with_the_right_methods_is_a_listener() -> None:
    class Duck:
        def __init__(self) -> None:
            self.told: List[str] = []
            self.on_stopped = lambda event: self.told.append(event.kind)

        def on_started(self, event: Event) -> None:
            self.told.append(event.kind)

    duck = Duck()
    events = build(users=(duck,))
    events.emit("started")
    events.emit("stopped")
    events.run_once()
    assert duck.told == ["started", "stopped"]


def test_an_event_tells_where_when_and_what() -> None:
    seen: List[Event] = []

    class Own:
        on_planned = staticmethod(seen.append)

    build(own=(Own(),)).emit("planned", created=5, last_id=2**63 - 1)
    (event,) = seen
    assert (event.kind, event.namespace, event.worker_id, event.at) == ("planned", "orders", "worker-1", 1.7e9)
    assert (event.created, event.last_id) == (5, 2**63 - 1)
    with pytest.raises(AttributeError, match=r"'planned' has no fact 'nonsense'; it has \['created', 'last_id'\]"):
        _ = event.nonsense


def test_events_are_values_that_can_be_copied_and_sent() -> None:
    event = Event("planned", "orders", "w", 1.0, {"created": 5})
    for twin in (copy.copy(event), copy.deepcopy(event), pickle.loads(pickle.dumps(event))):
        assert twin == event and twin.created == 5
    with pytest.raises(AttributeError):
        event.kind = "other"  # type: ignore[misc]


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("error", [ValueError(), SystemExit(3), KeyboardInterrupt()], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("whose", ["own", "users"])
def test_an_error_of_a_listener_is_logged_and_goes_no_further(
    whose: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def on_started(self, event: Event) -> None:
            raise error

    keeper = Keeper()
    listeners = (Broken(), keeper)
    events = build(own=listeners) if whose == "own" else build(users=listeners)
    events.emit("started")
    events.run_once()
    assert [kind for _, kind, _ in keeper.events] == ["started"], "the others are told all the same"
    (record,) = caplog.records
    assert record.getMessage() == "a listener failed on started"
    assert record.exc_info is not None and record.exc_info[1] is error


# ---------------------------------------------------------------- slow listeners


def test_beyond_10000_waiting_events_new_ones_are_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    keeper = Keeper()
    events = build(users=(keeper,))
    for number in range(10_250):
        events.emit("planned", number=number)
    assert events.run_once() == 10_000
    assert [facts["number"] for _, _, facts in keeper.events] == list(range(10_000)), "the oldest are kept"
    assert [record.getMessage() for record in caplog.records] == ["250 events were dropped: a listener is too slow"]
    events.emit("planned", number=1)
    assert events.run_once() == 1
    assert len(caplog.records) == 1


def test_our_own_miss_nothing_however_slow_the_users_are() -> None:
    own = Keeper()
    events = build(own=(own,), users=(Keeper(),))
    for _ in range(10_100):
        events.emit("planned")
    assert len(own.events) == 10_100


def test_what_a_listener_emits_itself_is_told_too() -> None:
    told: List[str] = []

    class Echo:
        def on_started(self, event: Event) -> None:
            told.append("started")
            events.emit("stopped")

        def on_stopped(self, event: Event) -> None:
            told.append("stopped")

    events = build(users=(Echo(),))
    events.emit("started")
    events.run_once()
    assert told == ["started", "stopped"]


def test_events_of_many_threads_are_all_told() -> None:
    keeper = Keeper()
    events = build(users=(keeper,))
    gate = threading.Barrier(6)

    def emit(number: int) -> None:
        gate.wait(10)
        for i in range(500):
            events.emit("planned", number=number, i=i)

    threads = [threading.Thread(target=emit, args=(number,), daemon=True) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    events.run_once()
    for number in range(6):
        assert [f["i"] for _, _, f in keeper.events if f["number"] == number] == list(range(500)), "in their order"


# ---------------------------------------------------------------- as a role


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    yield ManualClock()


def test_the_role_tells_as_soon_as_something_is_emitted(clock: ManualClock) -> None:
    keeper = Keeper()
    events = build(users=(keeper,))
    crew = Crew("orders", clock, LOGGER, lambda *death: None, lambda *outage: None)
    crew.add(events)
    crew.start()
    try:
        wait_until(lambda: clock.waiting == 1)
        events.emit("started")
        wait_until(lambda: len(keeper.events) == 1)
        assert clock.monotonic() == 1000.0, "no poll had to come"
    finally:
        assert crew.stop(["events"], 10.0) == []


def test_the_last_event_before_the_end_is_told(clock: ManualClock) -> None:
    for _ in range(200):
        keeper = Keeper()
        events = build(users=(keeper,))
        crew = Crew("orders", clock, LOGGER, lambda *death: None, lambda *outage: None)
        crew.add(events)
        crew.start()
        events.emit("stopped", clean=True)
        assert crew.stop(["events"], 10.0) == []
        assert [kind for _, kind, _ in keeper.events] == ["stopped"]


# ---------------------------------------------------------------- what is emitted is what is promised


@functools.lru_cache(maxsize=None)
def emitted() -> Dict[str, List[Set[str]]]:
    """Return, for every kind that the package emits, the names of the facts at each place that does."""
    out: Dict[str, List[Set[str]]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("emit", "_emit") and isinstance(node.args[0].value, str):
                out.setdefault(node.args[0].value, []).append({keyword.arg or "**" for keyword in node.keywords})
    return out


def promised(kind: str) -> Set[str]:
    """Return the facts that the docstring of the listener's method names."""
    text = getattr(Listener, "on_" + kind).__doc__ or ""
    facts = re.sub(r"\([^)]*\)", "", text.partition("Facts:")[2])
    return set(re.findall(r"[a-z_]+", facts))


def test_every_kind_is_emitted_somewhere_and_no_other() -> None:
    assert set(emitted()) == set(EVENT_KINDS)


@pytest.mark.parametrize("kind", EVENT_KINDS)
def test_every_event_carries_the_facts_that_are_promised(kind: str) -> None:
    for facts in emitted().get(kind, []):
        assert facts == promised(kind)
