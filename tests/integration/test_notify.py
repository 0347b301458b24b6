"""Notifications from whole coordinators on a real server: who tells, and that a notifier costs the work nothing."""

from __future__ import annotations

import http.server
import json
import threading
from typing import Any, Callable, Dict, Iterator, List

import pytest

from elk_coordinator import Coordinator, PermanentError
from elk_coordinator.observability import notify as notify_module
from elk_coordinator.observability.conditions import NotificationRules
from elk_coordinator.observability.notifiers import Notification, WebhookNotifier
from elk_coordinator.observability.notify import Notify
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.testing import wait_until
from tests.integration.conftest import Counting, Numbers

Build = Callable[..., Coordinator]
SOON = NotificationRules(failed_partitions=1, cooldown=0.0, remind_every=None)


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify_module, "INTERVAL", 0.02)
    monkeypatch.setattr("elk_coordinator.leader.recovery.COUNT_INTERVAL", 0.05)


class Gated:
    """Fails every partition for good, from when it may."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def process(self, ctx: Any, min_id: int, max_id: int, options: Dict[str, Any]) -> None:
        self.go.wait(20)
        raise PermanentError("no luck")


class Box:
    def __init__(self) -> None:
        self.got: List[Notification] = []

    def send(self, notification: Notification) -> None:
        self.got.append(notification)


class Hanging:
    """Takes the first notification and does not come back."""

    def __init__(self) -> None:
        self.entered, self.release = threading.Event(), threading.Event()

    def send(self, notification: Notification) -> None:
        self.entered.set()
        self.release.wait(30)


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    made = Hanging()
    yield made
    made.release.set()


def leads_and_looked(coordinator: Coordinator) -> bool:
    """Whether the watch has seen a leader's first look."""
    return coordinator.cached_survey() is not None and leads_at(coordinator)


def leads_at(coordinator: Coordinator) -> bool:
    role = coordinator._crew._threads["notify"].role
    return bool(role._watches[0][0]._term is not None)  # type: ignore[attr-defined]


def sample(coordinator: Coordinator, outcome: str) -> float:
    labels = {"coordinator": coordinator.namespace, "outcome": outcome}
    value = coordinator._parts.metrics.registry.get_sample_value("elk_coordinator_notifications_total", labels)
    assert value is not None
    return value


def test_only_the_leader_tells_and_counts_it(build: Build) -> None:
    work, boxes = Gated(), [Box(), Box()]
    both = [build(work, Numbers(50), listeners=(Notify(box, rules=SOON),)) for box in boxes]
    for coordinator in both:
        coordinator.start()
    leader = wait_until(lambda: next((c for c in both if leads_and_looked(c)), None))
    work.go.set()
    index = both.index(leader)
    wait_until(lambda: boxes[index].got, 10, "the leader to tell")
    (first,) = boxes[index].got[:1]
    assert (first.rule, first.state, first.worker_id) == ("failed_partitions", "firing", leader.worker_id)
    assert first.namespace == leader.namespace and "rest as failed" in first.summary
    # The other one looks all the time, and sees that it does not lead.
    follower = both[1 - index]
    wait_until(lambda: follower._crew._threads["notify"].health().last_ok_age is not None)
    assert boxes[1 - index].got == [] and not leads_at(follower)
    wait_until(lambda: sample(leader, "sent") >= 1)
    assert sample(follower, "sent") == 0


def test_a_worker_without_a_planner_has_no_thread_for_it(build: Build) -> None:
    coordinator = build(Counting(), None, listeners=(Notify(Box()),))
    assert "notify" not in coordinator._crew._threads and "notify-1" not in coordinator._crew._threads


def test_a_notifier_that_hangs_delays_neither_work_nor_others_nor_the_stop(build: Build, hanging: Hanging) -> None:
    box, clock = Box(), Clock()
    work = Gated()
    first = build(work, Numbers(50), listeners=(Notify(hanging, box, rules=SOON),)).start()
    wait_until(lambda: leads_and_looked(first))
    work.go.set()
    assert hanging.entered.wait(10)
    wait_until(lambda: box.got, 10, "the other notifier to get it")
    # Everything goes on: planning, claiming, reporting, health.
    assert first.wait_idle(20)
    wait_until(lambda: first.stats().failed == 5)
    health = first.health()
    assert health.ready and health.problems == []
    began = clock.monotonic()
    assert first.stop(5.0), "a clean stop, although the notifier hangs"
    assert clock.monotonic() - began < 3.0
    assert not hanging.release.is_set()


def test_a_webhook_that_answers_500_costs_the_work_nothing_and_is_counted(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(notify_module, "PAUSES", (0.01, 0.01))
    bodies: List[Any] = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_error(500)

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            work = Gated()
            notifier = WebhookNotifier("http://127.0.0.1:%d/" % server.server_address[1], "slack")
            with build(work, Numbers(50), listeners=(Notify(notifier, rules=SOON),)) as coordinator:
                wait_until(lambda: leads_and_looked(coordinator))
                work.go.set()
                assert coordinator.wait_idle(20)
                wait_until(lambda: sample(coordinator, "failed") >= 1, 10, "it to be given up")
                assert coordinator.health().ready
        finally:
            server.shutdown()
            thread.join()
    assert len(bodies) >= 4 and all("failed_partitions" in body["text"] for body in bodies)
