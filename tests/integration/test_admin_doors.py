"""The doors for operators against real coordinators: HTTP with its token, and ``elk``, on both strategies."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import threading
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import pytest
import redis

from elk_coordinator import (
    AdminClient,
    Coordinator,
    CreatePartition,
    PartitionStatus,
    PermanentError,
    RedisDataStore,
    StrategyType,
)
from elk_coordinator.cli.main import main
from elk_coordinator.testing import EmbeddedServer, wait_until
from tests.integration.conftest import Numbers

Build = Callable[..., Coordinator]

TOKEN = "integration-token-7"
WITH_HTTP: Dict[str, Any] = {"metrics_enabled": True, "metrics_addr": "127.0.0.1:0", "admin_token": TOKEN}


class Moody:
    """A processor that fails for good on the partitions that contain one of ``bad``, as long as they are bad."""

    def __init__(self, *bad: int) -> None:
        self.bad = set(bad)

    def process(self, ctx: Any, min_id: int, max_id: int, options: Dict[str, Any]) -> int:
        if self.bad & set(range(min_id, max_id + 1)):
            raise PermanentError("no luck with %d" % min_id)
        return max_id - min_id + 1


class Holding:
    """A processor that runs until its context is cancelled, or *leave* is set."""

    def __init__(self) -> None:
        self.leave = threading.Event()
        self.inside = threading.Semaphore(0)

    def process(self, ctx: Any, min_id: int, max_id: int, options: Dict[str, Any]) -> None:
        self.inside.release()
        while not self.leave.is_set():
            if ctx.wait(0.02):
                ctx.raise_if_cancelled()


def ask(
    coordinator: Coordinator,
    path: str,
    body: Optional[Dict[str, Any]] = None,
    token: Optional[str] = None,
    method: Optional[str] = None,
) -> Tuple[int, Any]:
    host, _, port = str(coordinator.http_address).rpartition(":")
    headers = {} if token is None else {"Authorization": "Bearer " + token}
    if body is not None:
        headers["Content-Type"] = "application/json"
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=10)) as connection:
        data = None if body is None else json.dumps(body)
        connection.request(method or ("GET" if body is None else "POST"), "/api/v1/" + path, data, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def ended(coordinator: Coordinator, command_id: str) -> Dict[str, Any]:
    """Wait for a command over HTTP and return what is told of it."""

    def look() -> Optional[Dict[str, Any]]:
        status, told = ask(coordinator, "commands/" + command_id)
        assert status == 200
        return told if told["state"] in ("done", "failed") else None

    wait_until(look, 10.0)
    return look() or {}


@pytest.fixture(params=list(StrategyType), ids=lambda strategy: str(strategy.value))
def strategy(request: Any) -> StrategyType:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def elk(redis_url: str, namespace: str, capsys: pytest.CaptureFixture[str]) -> Callable[..., Tuple[int, str]]:
    """Return a function that runs ``elk`` in this process and returns its exit code and what it printed."""

    def run(*argv: str, on: Optional[str] = None) -> Tuple[int, str]:
        capsys.readouterr()
        code = main([*argv, "--namespace", on or namespace, "--redis", redis_url])
        out, err = capsys.readouterr()
        return code, out + err

    return run


# -- HTTP


def test_failed_partitions_are_retried_over_http_and_completed(build: Build, strategy: StrategyType) -> None:
    work = Moody(15, 35)
    coordinator = build(work, Numbers(50), strategy=strategy, **WITH_HTTP).start()
    assert coordinator.wait_idle(20.0)
    status, told = ask(coordinator, "partitions?status=failed")
    assert status == 200 and [p["partition_id"] for p in told["partitions"]] == [2, 4]
    assert told["partitions"][0]["error"].startswith("elk_coordinator.errors.PermanentError: no luck with 11")
    whole = ask(coordinator, "partitions/2", token=TOKEN)[1]["error"]
    assert "test_admin_doors.py" in whole and "raise PermanentError" in whole

    work.bad.clear()
    status, told = ask(coordinator, "retry-failed-partitions", {"partition_ids": ["2"]}, TOKEN)
    assert status == 200 and told["success"] is True
    done = ended(coordinator, told["command_id"])
    assert (done["state"], done["done"], done["kind"]) == ("done", 1, "retry_failed")
    assert done["by"] == "http on %s" % coordinator.worker_id
    assert coordinator.wait_idle(20.0)
    assert coordinator.strategy.get_partition(2).status is PartitionStatus.COMPLETED
    assert coordinator.strategy.get_partition(4).status is PartitionStatus.FAILED

    status, told = ask(coordinator, "retry-failed-partitions", {}, TOKEN)
    assert status == 200 and ended(coordinator, told["command_id"])["done"] == 1
    assert coordinator.wait_idle(20.0)
    stats = ask(coordinator, "status")[1]["partitions"]
    assert (stats["completed"], stats["failed"], stats["last_allocated_id"]) == (5, 0, 50)


def test_what_is_read_over_http_is_what_is_so(build: Build, strategy: StrategyType, namespace: str) -> None:
    leader = build(Moody(), Numbers(30), strategy=strategy, worker_id="first", **WITH_HTTP).start()
    second = build(Moody(), None, strategy=strategy, worker_id="second", **WITH_HTTP).start()
    assert leader.wait_idle(20.0)
    for coordinator in (leader, second):
        status, told = ask(coordinator, "status")
        assert status == 200 and told["namespace"] == namespace and told["strategy"] == strategy.value
        assert told["leader"]["worker_id"] == "first" and told["workers"] == 2
        assert told["paused"] is False and told["commands"] == 0
        # The address is told with the beat after the start.
        wait_until(lambda coordinator=coordinator: len(ask(coordinator, "prometheus-targets")[1]) == 2, 10.0)
        told = ask(coordinator, "prometheus-targets")[1]
        assert [entry["targets"] for entry in told] == [[leader.http_address], [second.http_address]]
        assert told[0]["labels"]["__meta_elk_worker_id"] == "first"
    told = ask(second, "workers")[1]["workers"]
    assert [worker["worker_id"] for worker in told] == ["first", "second"]
    assert [worker["info"]["breaker"] for worker in told] == ["closed", "closed"]
    assert ask(second, "partitions")[1] == {"partitions": [], "next_after": None}  # the archive is asked for by name
    told = ask(second, "partitions?status=completed&limit=2")[1]
    assert [p["partition_id"] for p in told["partitions"]] == [1, 2] and told["next_after"] == 2
    told = ask(second, "partitions?include_archived=true&limit=2&after=2")[1]
    assert [p["partition_id"] for p in told["partitions"]] == [3] and told["next_after"] is None
    assert ask(second, "partitions/3")[1]["status"] == "completed"
    assert ask(second, "partitions/4")[0] == 404


def test_every_door_tells_of_the_same_gaps(build: Build, strategy: StrategyType, elk: Any, redis_url: str) -> None:
    coordinator = build(Moody(), None, strategy=strategy, **WITH_HTTP).start()
    # Nobody leads, so nobody fills it.
    ranges = [CreatePartition(1, 1, 10), CreatePartition(2, 2**53 + 1, 2**53 + 2)]
    assert len(coordinator.strategy.create_partitions_if_not_exist(ranges)) == 2
    hole = (11, 2**53, "open")
    with contextlib.closing(RedisDataStore.from_url(redis_url)) as store:
        client = AdminClient(coordinator.strategy.namespace, store)
        for report in (coordinator.gaps.report(), coordinator.admin.gaps(), client.gaps()):
            assert [(gap.min_id, gap.max_id, gap.state) for gap in report.gaps] == [hole]
    (told,) = ask(coordinator, "gaps")[1]["gaps"]
    assert (told["min_id"], told["max_id"], told["state"]) == (11, str(2**53), "open")
    (told,) = json.loads(elk("gaps", "--json")[1])["gaps"]
    assert (told["min_id"], told["max_id"], told["state"]) == hole


def test_pause_and_resume_over_http(build: Build, strategy: StrategyType) -> None:
    large = 2**53 + 1  # JavaScript would round it
    coordinator = build(Moody(), Numbers(0), strategy=strategy, **WITH_HTTP).start()
    status, told = ask(coordinator, "commands", {"kind": "pause"}, TOKEN)
    assert status == 202 and ended(coordinator, told["command_id"])["state"] == "done"
    assert ask(coordinator, "status")[1]["paused"] is True
    wait_until(lambda: coordinator.health().paused, 10.0)
    status, told = ask(
        coordinator, "commands", {"kind": "create", "args": {"ranges": [[str(large), large + 2]]}}, TOKEN
    )
    created = ended(coordinator, told["command_id"])
    assert created["state"] == "done", created
    assert ask(coordinator, "partitions?status=pending")[1]["partitions"][0]["min_id"] == str(large)
    status, told = ask(coordinator, "commands", {"kind": "resume", "args": {}}, TOKEN)
    assert status == 202 and ended(coordinator, told["command_id"])["state"] == "done"
    assert coordinator.wait_idle(20.0)
    assert ask(coordinator, "status")[1]["partitions"]["completed"] == 1


def test_the_same_command_sent_twice_happens_once(build: Build) -> None:
    coordinator = build(Moody(), Numbers(0), **WITH_HTTP).start()
    command = {"kind": "create", "args": {"ranges": [[1, 5]]}, "command_id": "only-once"}
    for _ in range(2):
        assert ask(coordinator, "commands", command, TOKEN) == (202, {"command_id": "only-once"})
    assert ended(coordinator, "only-once")["state"] == "done"
    assert ask(coordinator, "commands", command, TOKEN)[0] == 202
    assert ended(coordinator, "only-once")["result"]["created"] == [[1, 1]]


@pytest.mark.parametrize(
    "body, words",
    [
        ({"kind": "dance"}, "dance"),
        ({"kind": "cancel"}, "id"),
        ({"kind": "cancel", "args": {"id": "seven"}}, "seven"),
        ({"kind": "cancel", "args": {"id": 2**53}}, "2**53"),
        ({"kind": "retry_failed", "args": {"ids": [1], "more": 1}}, "more"),
        ({"kind": "create", "args": {"ranges": [[5, 1]]}}, "min_id"),
        ({"kind": "create", "args": {"ranges": [["9223372036854775808", 1]]}}, "2**63"),
        ({"kind": "set_priority", "args": {"ids": [1], "priority": 5000}}, "priority"),
    ],
)
def test_a_malformed_command_is_400_and_queues_nothing(build: Build, body: Dict[str, Any], words: str) -> None:
    coordinator = build(Moody(), None, **WITH_HTTP).start()
    status, told = ask(coordinator, "commands", body, TOKEN)
    assert status == 400 and words in told["error"], told
    assert ask(coordinator, "status")[1]["commands"] == 0


def test_writing_needs_the_token_and_the_token_is_nowhere_to_be_seen(build: Build, redis_url: str, caplog: Any) -> None:
    with caplog.at_level(logging.DEBUG):
        coordinator = build(Moody(15), Numbers(30), **WITH_HTTP).start()
        for path in ("commands", "retry-failed-partitions"):
            assert ask(coordinator, path, {})[0] == 401
            assert ask(coordinator, path, {}, TOKEN + "x")[0] == 401
        assert ask(coordinator, "status")[1]["commands"] == 0
        assert ask(coordinator, "commands", {"kind": "pause"}, TOKEN)[0] == 202
        seen: List[Any] = [ask(coordinator, path) for path in ("status", "workers", "partitions?include_archived=1")]
        host, _, port = str(coordinator.http_address).rpartition(":")
        for path in ("/metrics", "/health", "/ready", "/"):
            with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=10)) as connection:
                connection.request("GET", path)
                seen.append(connection.getresponse().read())
        coordinator.stop()
    assert TOKEN not in repr(seen) and TOKEN not in caplog.text and TOKEN not in repr(coordinator.config)
    with contextlib.closing(redis.Redis.from_url(redis_url)) as client:
        keys = list(client.scan_iter())
        assert keys and not [key for key in keys if TOKEN.encode() in (client.dump(key) or b"")]


def test_without_a_token_http_is_read_only(build: Build) -> None:
    coordinator = build(Moody(), None, **dict(WITH_HTTP, admin_token=None)).start()
    status, told = ask(coordinator, "commands", {"kind": "pause"}, TOKEN)
    assert status == 403 and "admin_token" in told["error"]
    assert ask(coordinator, "status")[0] == 200


def test_while_the_store_is_away_http_says_503(new_server: Callable[..., EmbeddedServer], build: Build) -> None:
    server = new_server()
    with contextlib.closing(RedisDataStore.from_url(server.url, timeout=0.5)) as store:
        coordinator = build(Moody(), None, store=store, **WITH_HTTP).start()
        assert ask(coordinator, "status")[0] == 200
        server.stop()
        for path in ("status", "workers", "partitions", "partitions/1", "gaps", "commands/c", "prometheus-targets"):
            assert ask(coordinator, path)[0] == 503, path
        status, told = ask(coordinator, "retry-failed-partitions", {}, TOKEN)
        assert status == 503 and told["success"] is False and told["command_id"]
        coordinator.stop(1.0)


# -- elk


def test_elk_operates_a_namespace_of_either_strategy(build: Build, strategy: StrategyType, elk: Any) -> None:
    work = Moody(15)
    coordinator = build(work, Numbers(30), strategy=strategy, worker_id="the-worker").start()
    assert coordinator.wait_idle(20.0)
    code, text = elk("status")
    assert code == 0 and "(%s)" % strategy.value in text and "1 failed" in text and "the-worker" in text
    code, text = elk("partitions", "--status", "failed")
    assert code == 0 and "PermanentError: no luck with 11" in text
    code, text = elk("partitions", "2")
    assert code == 0 and "raise PermanentError" in text
    code, text = elk("workers")
    assert code == 0 and "the-worker" in text

    work.bad.clear()
    code, text = elk("retry", "2", "3", "--wait", "10")
    assert code == 0 and "1 partition changed; 1 left as they were (not failed when asked): 3" in text
    assert coordinator.wait_idle(20.0)
    code, text = elk("partitions", "--archived", "--json")
    assert [p["status"] for p in json.loads(text)["partitions"]] == ["completed"] * 3
    code, text = elk("retry", "--all", "--wait", "10", "--json")
    assert code == 0 and json.loads(text)["state"] == "done" and json.loads(text)["done"] == 0

    assert elk("pause", "--wait", "10")[0] == 0
    code, text = elk("status")
    assert code == 0 and "nothing is claimed until" in text and "pause" in text
    assert elk("resume", "--wait", "10")[0] == 0
    code, text = elk("status", "--json")
    assert code == 0 and json.loads(text)["paused"] is False
    code, text = elk("verify")
    assert code == 0 and "everything adds up, 30 IDs planned" in text


def test_elk_cancels_and_releases_what_runs(build: Build, strategy: StrategyType, elk: Any) -> None:
    work = Holding()
    coordinator = build(work, Numbers(10), strategy=strategy).start()
    assert work.inside.acquire(timeout=20)
    code, text = elk("release", "1", "--wait", "10")
    assert code == 0, text
    assert work.inside.acquire(timeout=20)  # it came back and runs again
    code, text = elk("cancel", "1", "--wait", "10")
    assert code == 0, text
    wait_until(lambda: coordinator.strategy.get_partition(1).status is PartitionStatus.FAILED, 20.0)
    assert "cancelled by" in str(coordinator.strategy.get_partition(1).error)
    work.leave.set()
    assert elk("retry", "1", "--wait", "10")[0] == 0
    assert coordinator.wait_idle(20.0)


def test_a_command_without_a_leader_is_queued_and_said_to_be(build: Build, elk: Any) -> None:
    coordinator = build(Moody(), None).start()
    coordinator.strategy.get_partition_stats()
    code, text = elk("pause", "--wait", "0.2")
    assert code == 1 and "is queued" in text and "does the namespace have a leader?" in text
    code, text = elk("status")
    assert code == 0 and "1 waiting; they are carried out when there is a leader" in text


@pytest.mark.parametrize(
    "argv",
    [["status"], ["verify"], ["partitions"], ["workers"], ["gaps"], ["pause"], ["retry", "--all"], ["cancel", "1"]],
)
def test_elk_refuses_a_namespace_that_nobody_has_used(elk: Any, argv: List[str], redis_url: str) -> None:
    code, text = elk(*argv, on="typing-error")
    assert code == 1 and text.startswith("elk: nobody has used the namespace 'typing-error'")
    with contextlib.closing(redis.Redis.from_url(redis_url)) as client:
        assert list(client.scan_iter()) == []


@pytest.fixture(autouse=True)
def no_leftover_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("ELK_NAMESPACE", "ELK_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    yield
