"""The log of events of real coordinators, and ``elk events`` as a user types it."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any, Callable, Dict, List

import pytest
import redis

from elk_coordinator import Coordinator, PermanentError, RedisDataStore, StrategyType
from elk_coordinator.cli.main import main
from elk_coordinator.partition.event_log import EventLog
from elk_coordinator.protocols import Event
from elk_coordinator.testing import wait_until
from tests.integration.conftest import QUICK, Numbers

ROOT = pathlib.Path(__file__).resolve().parents[2]


def failing(ctx: Any, low: int, high: int, options: Dict[str, Any]) -> int:
    if low == 11:
        raise PermanentError("cannot log in to redis://me:hunter2@host:1/0")
    if low == 21 and ctx.attempt == 1:
        raise OSError("once")
    return high - low + 1


@pytest.mark.parametrize("strategy", [StrategyType.HASH, StrategyType.SIMPLE])
def test_a_coordinator_writes_what_happened_to_it(strategy: StrategyType, redis_url: str, namespace: str) -> None:
    with contextlib.closing(RedisDataStore.from_url(redis_url)) as store:
        with Coordinator(namespace, store, failing, Numbers(1000), strategy=strategy, **QUICK) as coordinator:
            assert coordinator.wait_idle(30.0)
            reader = coordinator.strategy
        # Also what was said last, just before the connections were closed.
        events = reader.events(limit=1000)
        kinds = [event.kind for event in events]
        assert sorted(kinds) == sorted(
            ["started", "became_leader", "partition_failed", "partition_retried", "stepped_down", "stopped"]
        ), "and nothing of the 98 partitions that went well"
        # The threads run before start() says so: an election may come first.
        assert "started" in kinds[:2] and kinds[-1] == "stopped"
        assert {event.worker_id for event in events} == {coordinator.worker_id}
        (failed,) = [event for event in events if event.kind == "partition_failed"]
        assert failed.facts["partition_id"] == 2 and "redis://me:***@host" in failed.facts["error"]
        assert "hunter2" not in str(events)


def test_events_of_the_time_when_the_store_was_away_are_written_when_it_is_back(
    new_server: Callable[..., Any], namespace: str
) -> None:
    server = new_server(persistence="aof")
    with contextlib.closing(RedisDataStore.from_url(server.url)) as store:
        with Coordinator(namespace, store, failing, Numbers(10), **QUICK) as coordinator:
            assert coordinator.wait_idle(30.0)
            server.kill()
            wait_until(lambda: coordinator.health().store_error, 20.0, "the outage is noticed")
            server.restart()

            def kinds() -> List[str]:
                return [event.kind for event in coordinator.strategy.events()]

            wait_until(lambda: coordinator.health().store_error is None, 20.0, "the end of the outage")
            wait_until(lambda: {"store_unavailable", "store_recovered"} <= set(kinds()), 20.0, "both in the log")


def test_who_came_and_went_and_what_operators_did_is_in_the_log(redis_url: str, namespace: str) -> None:
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(contextlib.closing(RedisDataStore.from_url(redis_url)))
        leader = stack.enter_context(Coordinator(namespace, store, failing, Numbers(10), worker_id="first", **QUICK))
        wait_until(lambda: leader.cached_workers() == 1, 20.0, "its first look at the fleet")

        def told(kind: str) -> List[Dict[str, Any]]:
            found = [event for event in leader.strategy.events(limit=1000) if event.kind == kind]
            return [dict(event.facts, of=event.worker_id) for event in found]

        second = Coordinator(namespace, store, failing, worker_id="second", **QUICK)
        with second:
            wait_until(lambda: told("worker_joined"), 20.0, "who joined")
            second.resize_window(2)
            leader.admin.pause()
            wait_until(lambda: second.health().paused, 20.0, "the pause")
            # Another that is killed: it beats once and then no more.
            store.namespaced(namespace).beat("killed", 2.0, {"host": "h"})
            wait_until(lambda: [found["worker"] for found in told("worker_lost")] == ["killed"], 20.0, "who is lost")
        wait_until(lambda: told("worker_left"), 20.0, "who left")
        wait_until(lambda: len(told("config_changed")) == 3, 20.0, "what was set")
        assert [found["worker"] for found in told("worker_left")] == ["second"]
        assert [found["worker"] for found in told("worker_lost")] == ["killed"]
        assert [(f["command"], f["state"], f["of"]) for f in told("command_ended")] == [("pause", "done", "first")]
        assert sorted((f["of"], f["option"], f["value"]) for f in told("config_changed")) == [
            ("first", "paused", True), ("second", "paused", True), ("second", "task_window_size", 2),
        ]  # fmt: skip


# -- elk events


@pytest.fixture
def log(redis_url: str, namespace: str) -> Any:
    with contextlib.closing(RedisDataStore.from_url(redis_url)) as store:
        yield EventLog(store.namespaced(namespace))


def put(log: EventLog, first: int, last: int) -> None:
    for number in range(first, last + 1):
        log.append(str(number), [Event("lease_lost", "ns", "w%d" % number, 1.7e9, {"partition_id": number})])


def test_the_newest_are_shown_and_the_limit_holds(
    log: EventLog, redis_url: str, namespace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["events", "--namespace", namespace, "--redis", redis_url]
    assert main(common) == 0
    assert "no events" in capsys.readouterr().err
    put(log, 1, 60)
    assert main(common) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 50 and lines[-1].endswith("lease_lost            w60  partition_id=60")
    assert main([*common, "--limit", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [event["facts"]["partition_id"] for event in found] == [59, 60]
    assert main([*common, "--after", found[0]["id"]]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert main([*common, "--after", "nonsense"]) == 2
    with pytest.raises(SystemExit) as stop:
        main([*common, "--limit", "0"])
    assert stop.value.code == 2


@pytest.mark.parametrize("before", [0, 3])
def test_follow_goes_on_until_ctrl_c_and_ends_cleanly(
    before: int, log: EventLog, redis_url: str, namespace: str, tmp_path: pathlib.Path
) -> None:
    put(log, 1, before)
    out = tmp_path / "out"
    # A test run in the background of a plain shell has its children ignore Ctrl-C; a terminal has not.
    program = (
        "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from elk_coordinator.cli.main import main\nsys.exit(main())"
    )
    command = [sys.executable, "-c", program, "events", "-f", "--json", "--limit", "2"]
    with open(str(out), "wb") as file:
        process = subprocess.Popen(
            [*command, "--namespace", namespace, "--redis", redis_url], stdout=file, stderr=subprocess.PIPE,
            env=dict(os.environ, PYTHONPATH=str(ROOT)),
        )  # fmt: skip

    def seen() -> List[int]:
        lines = out.read_text().splitlines()
        return [json.loads(line)["facts"]["partition_id"] for line in lines if line.endswith("}")]

    try:
        with contextlib.closing(redis.Redis.from_url(redis_url)) as client:
            # It has asked once.
            wait_until(lambda: any(c["name"] == "elk" for c in client.client_list()) or seen(), 20.0, "its connection")
        shown = list(range(1, before + 1))[-2:]
        wait_until(lambda: seen() == shown, 20.0, lambda: "the newest: %s" % seen())
        for number in (before + 1, before + 2):
            put(log, number, number)
            shown.append(number)
            wait_until(lambda: seen() == shown, 20.0, lambda: "what is new: %s" % seen())
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20.0)
        assert (process.returncode, errors) == (0, b"")
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
