"""The operator's HTTP API: over a fake service through the real application, and over real sockets where it matters."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import logging
import socket
import threading
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple

import attr
import pytest

from elk_coordinator.admin import access
from elk_coordinator.admin.api import MAX_AT_ONCE, AdminApi, exact, reachable, summary
from elk_coordinator.assembly import add_admin_api
from elk_coordinator.errors import ConfigError, PartitionNotFound, StateError, StoreUnavailable
from elk_coordinator.model import Partition, PartitionFilter, PartitionStatus, WorkerInfo
from elk_coordinator.observability import wsgi
from elk_coordinator.observability.app import LOOPBACK_KEY, App
from elk_coordinator.observability.http import MAX_REQUESTS, HttpServer
from elk_coordinator.observability.metrics import Metrics
from elk_coordinator.partition.gaps import Gap, GapReport
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.testing import wait_until

LOGGER = logging.getLogger("elk_coordinator.test_admin_api")
TOKEN = "open-sesame-1"
BEARER = {"HTTP_AUTHORIZATION": "Bearer " + TOKEN}
JSON = {"CONTENT_TYPE": "application/json"}
TRACE = '  File "/srv/app/secret_place.py", line 7, in process\n    pay(card)\nValueError: no luck\nwith this one\n'


@attr.s(auto_attribs=True)
class Status:
    """How far a command is."""

    command_id: str
    error: str = ""
    state: str = "queued"

    def to_dict(self) -> Dict[str, Any]:
        return attr.asdict(self)


class FakeService:
    """An operator's service that keeps what it was asked."""

    def __init__(self) -> None:
        self.submitted: List[Tuple[str, Dict[str, Any], Optional[str]]] = []
        self.asked: List[PartitionFilter] = []
        self.found: List[Partition] = []
        self.fleet: List[WorkerInfo] = []
        self.known: Dict[str, Status] = {}
        self.failure: Optional[Exception] = None

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure

    def submit(self, kind: str, args: Mapping[str, Any], command_id: Optional[str] = None) -> str:
        self._fail()
        self.submitted.append((kind, dict(args), command_id))
        return str(command_id)

    def command(self, command_id: str) -> Optional[Status]:
        self._fail()
        return self.known.get(command_id)

    def status(self) -> Dict[str, Any]:
        self._fail()
        return {"namespace": "orders", "partitions": {"last_allocated_id": 2**53, "total": 2**53 - 1}}

    def partitions(self, wanted: PartitionFilter) -> List[Partition]:
        self._fail()
        self.asked.append(wanted)
        return self.found[: wanted.limit]

    def partition(self, partition_id: int) -> Partition:
        self._fail()
        for found in self.found:
            if found.partition_id == partition_id:
                return found
        if not 1 <= partition_id < 2**53:
            raise ConfigError("partition_id=%d is outside [1, 2**53 - 1]" % partition_id)
        raise PartitionNotFound(partition_id)

    def workers(self) -> List[WorkerInfo]:
        self._fail()
        return self.fleet

    def gaps(self) -> GapReport:
        self._fail()
        hole = Gap(1, 2**62, "hole", since=1.5)
        return GapReport(2.5, "discrete", [hole], 1, hole.ids, 0, 0, 0, 0, truncated=False)


class NoView:
    """The application's coordinator, whom these paths do not ask."""

    namespace, worker_id, is_leader = "orders", "w1", False

    def __getattr__(self, name: str) -> Any:
        return lambda: None


class Door:
    """The application with the API of a fake service, called without a server."""

    def __init__(self, token: Optional[str] = TOKEN) -> None:
        self.service = FakeService()
        self.app = App(NoView(), Metrics("orders", "w1", Clock()), LOGGER)
        add_admin_api(self.app, AdminApi(self.service, "orders", token, LOGGER))

    def ask(self, path: str, method: str = "GET", body: Optional[bytes] = None, **environ: Any) -> Tuple[int, Any, Any]:
        got: List[Any] = []
        path, _, query = path.partition("?")
        asked = {
            "REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": "/api/v1/" + path, "QUERY_STRING": query,
            "HTTP_HOST": "ops.example:9464", "wsgi.input": io.BytesIO(body or b""), "REMOTE_ADDR": "10.0.0.9",
        }  # fmt: skip
        if body is not None:
            asked["CONTENT_LENGTH"] = str(len(body))
        told = b"".join(self.app(dict(asked, **environ), lambda status, headers: got.extend([status, dict(headers)])))
        return int(got[0][:3]), json.loads(told), got[1]

    def post(self, path: str, body: Any = None, **environ: Any) -> Tuple[int, Any, Any]:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        return self.ask(path, "POST", data, **dict(dict(BEARER, **JSON), **environ))


@pytest.fixture
def door() -> Door:
    return Door()


# -- reading


def test_status_and_numbers_that_javascript_would_round_are_strings(door: Door) -> None:
    status, told, headers = door.ask("status")
    assert status == 200 and headers["Content-Type"] == "application/json"
    assert told["partitions"] == {"last_allocated_id": "9007199254740992", "total": 9007199254740991}
    assert exact([True, -(2**53), -(2**53) + 1, {"a": (2**63 - 1,)}, 1.5, None]) == [
        True, "-9007199254740992", -9007199254740991, {"a": ["9223372036854775807"]}, 1.5, None,
    ]  # fmt: skip


def test_workers_are_listed_by_name(door: Door) -> None:
    door.service.fleet = [WorkerInfo("b", 2.0, {"breaker": "open"}), WorkerInfo("a", 1.0)]
    assert door.ask("workers")[1]["workers"] == [
        {"worker_id": "a", "remaining": 1.0, "info": {}},
        {"worker_id": "b", "remaining": 2.0, "info": {"breaker": "open"}},
    ]


def test_partitions_are_filtered_and_paged(door: Door) -> None:
    door.service.found = [Partition(i, i * 2**60, i * 2**60 + 5) for i in range(1, 8)]
    status, told, _ = door.ask(
        "partitions?status=pending,FAILED&status=running&worker_id=w%201&min_partition_id=1&max_partition_id=9"
        "&after=0&limit=7&include_archived=true&stale_for=1.5"
    )
    assert status == 200 and told["next_after"] == 7
    assert told["partitions"][1]["min_id"] == str(2**61) and told["partitions"][1]["status"] == "pending"
    (asked,) = door.service.asked
    assert asked == PartitionFilter(
        statuses=(PartitionStatus.PENDING, PartitionStatus.FAILED, PartitionStatus.RUNNING),
        worker_id="w 1",
        min_partition_id=1,
        max_partition_id=9,
        after=0,
        limit=7,
        include_archived=True,
        stale_for=1.5,
    )
    assert door.ask("partitions")[1]["next_after"] is None
    assert door.service.asked[-1] == PartitionFilter(limit=100)


@pytest.mark.parametrize(
    "query, words",
    [
        ("status=lost", "status: 'lost' is none of pending, claimed"),
        ("limit=0", "limit: must be from 1 to 1000"),
        ("limit=1001", "limit: must be from 1 to 1000"),
        ("limit=x", "limit: must be an integer"),
        ("limit=1&limit=2", "limit: give it once"),
        ("after=-1", "PartitionFilter.after"),
        ("after=1e3", "after: must be an integer"),
        ("after=" + "9" * 5000, "after: must be an integer"),
        ("min_partition_id=", "min_partition_id: must be an integer"),
        ("include_archived=maybe", "include_archived: must be true or false"),
        ("stale_for=soon", "stale_for: must be a number"),
        ("stale_for=nan", "PartitionFilter.stale_for"),
        ("stale_for=-1", "PartitionFilter.stale_for"),
        ("token=x", "unknown parameter 'token'"),
        ("&".join("a%d=1" % i for i in range(2000)), "too many parameters"),
    ],
)
def test_a_query_that_is_wrong_is_400_and_names_the_parameter(door: Door, query: str, words: str) -> None:
    status, told, _ = door.ask("partitions?" + query)
    assert status == 400 and words in told["error"] and told["status"] == 400
    assert door.service.asked == []


def test_one_partition_and_unknown_ones(door: Door) -> None:
    door.service.found = [Partition(7, -5, 5, error=TRACE)]
    assert door.ask("partitions/7")[1]["min_id"] == -5
    assert door.ask("partitions/8")[0] == 404
    for bad in ("x", "0", "-1", "9" * 30, "7.0", "%37%00"):
        assert door.ask("partitions/" + bad)[0] == 400, bad


def test_a_traceback_is_shown_only_with_the_token(door: Door) -> None:
    door.service.found = [Partition(7, 1, 5, error=TRACE)]
    door.service.known["c1"] = Status("c1", TRACE)
    for path, pick in (("partitions/7", ()), ("partitions", ("partitions", 0)), ("commands/c1", ())):
        for environ, words in (
            ({}, "ValueError: no luck"),
            ({"HTTP_AUTHORIZATION": "Bearer wrong-token"}, "ValueError: no luck"),
            ({"HTTP_AUTHORIZATION": "Basic b3BlbjpzZXNhbWU="}, "ValueError: no luck"),
            (BEARER, TRACE),
        ):
            told = door.ask(path, **environ)[1]
            for key in pick:
                told = told[key]
            assert told["error"] == words, (path, environ)
    nobody = Door(token=None)
    nobody.service.found = door.service.found
    assert nobody.ask("partitions/7", **BEARER)[1]["error"] == "ValueError: no luck"


@pytest.mark.parametrize(
    "error, line",
    [
        (TRACE, "ValueError: no luck"),
        ("Traceback (most recent call last):\n  File x\nKeyError: 1", "KeyError: 1"),
        ("... ret = pay(\n    card)\nKeyError: 2", "KeyError: 2"),
        ("cancelled by ops@host", "cancelled by ops@host"),
        ("x" * 4000, "x" * 300),
        ("  File only", "the details need the token"),
    ],
)
def test_the_summary_of_an_error_is_what_was_raised(error: str, line: str) -> None:
    assert summary(error) == line


def test_gaps_are_those_of_the_service_with_exact_numbers(door: Door) -> None:
    status, told, _ = door.ask("gaps")
    (hole,) = told["gaps"]
    assert (status, told["open_count"], told["open_ids"]) == (200, 1, str(2**62))
    assert (hole["min_id"], hole["max_id"], hole["kind"], hole["since"]) == (1, str(2**62), "hole", 1.5)
    door.service.failure = StoreUnavailable("away")
    assert door.ask("gaps")[0] == 503


def test_commands_can_be_followed(door: Door) -> None:
    door.service.known["c1"] = Status("c1")
    assert door.ask("commands/c1")[1] == {"command_id": "c1", "error": "", "state": "queued"}
    status, told, _ = door.ask("commands/other")
    assert status == 404 and "other" in told["error"]
    assert door.ask("commands")[0] == 405


def test_targets_are_what_prometheus_discovers_and_need_no_token(door: Door) -> None:
    door.service.fleet = [
        WorkerInfo("b", 1.0, {"http": "10.0.0.5:9465", "host": "five", "version": "0.1"}),
        WorkerInfo("a", 1.0, {"http": "0.0.0.0:9464", "host": "four"}),
        WorkerInfo("none", 1.0, {"http": None}),
        WorkerInfo("bare", 1.0),
    ]
    assert door.ask("prometheus-targets", HTTP_AUTHORIZATION="Bearer wrong")[1] == [
        {
            "targets": ["four:9464"],
            "labels": {
                "__meta_elk_namespace": "orders",
                "__meta_elk_worker_id": "a",
                "__meta_elk_host": "four",
                "__meta_elk_version": "",
            },
        },
        {
            "targets": ["10.0.0.5:9465"],
            "labels": {
                "__meta_elk_namespace": "orders",
                "__meta_elk_worker_id": "b",
                "__meta_elk_host": "five",
                "__meta_elk_version": "0.1",
            },
        },
    ]
    assert reachable(WorkerInfo("w", 1.0, {"http": "[::]:1", "host": "h"})) == "h:1"
    assert reachable(WorkerInfo("w", 1.0, {"http": "[::1]:1"})) == "[::1]:1"
    assert reachable(WorkerInfo("w", 1.0, {"http": "0.0.0.0:1"})) is None
    assert reachable(WorkerInfo("w", 1.0, {"http": 7})) is None


@pytest.mark.parametrize(
    "path", ["status", "workers", "partitions", "partitions/1", "commands/c", "prometheus-targets"]
)
def test_while_the_store_is_down_readers_get_503_without_its_address(door: Door, path: str) -> None:
    door.service.failure = StoreUnavailable("redis://ops:hunter2@10.9.8.7 refused")
    status, told, headers = door.ask(path)
    assert status == 503 and headers["Retry-After"] == "1" and "10.9.8.7" not in json.dumps(told)


# -- writing: who may


def test_a_write_with_the_token_is_queued(door: Door) -> None:
    status, told, headers = door.post("commands", {"kind": "pause", "args": {}})
    assert status == 202 and headers["Location"] == "/api/v1/commands/" + told["command_id"]
    assert door.service.submitted == [("pause", {}, told["command_id"])]
    _, _, headers = door.post("commands", {"kind": "resume"}, SCRIPT_NAME="/elk/")
    assert headers["Location"].startswith("/elk/api/v1/commands/")


@pytest.mark.parametrize("path", ["commands", "retry-failed-partitions"])
@pytest.mark.parametrize(
    "environ, status, words",
    [
        ({"HTTP_AUTHORIZATION": ""}, 401, "a bearer token is needed"),
        ({"HTTP_AUTHORIZATION": "Bearer"}, 401, "token"),
        ({"HTTP_AUTHORIZATION": "Bearer " + TOKEN[:-1]}, 401, "the bearer token is wrong"),
        ({"HTTP_AUTHORIZATION": "Bearer " + TOKEN + "1"}, 401, "the bearer token is wrong"),
        ({"HTTP_AUTHORIZATION": "Bearer " + TOKEN.upper()}, 401, "the bearer token is wrong"),
        ({"HTTP_AUTHORIZATION": "Bearer \u00e4\u20ac"}, 401, "the bearer token is wrong"),
        ({"HTTP_AUTHORIZATION": "Basic " + TOKEN}, 401, "a bearer token is needed"),
        ({"HTTP_AUTHORIZATION": TOKEN}, 401, "a bearer token is needed"),
        ({"QUERY_STRING": "token=" + TOKEN, "HTTP_AUTHORIZATION": ""}, 401, "a bearer token is needed"),
        ({"CONTENT_TYPE": "text/plain"}, 415, "application/json"),
        ({"CONTENT_TYPE": ""}, 415, "application/json"),
        ({"CONTENT_TYPE": "application/x-www-form-urlencoded", "HTTP_SEC_FETCH_SITE": "none"}, 415, "application"),
        ({"HTTP_SEC_FETCH_SITE": "cross-site"}, 403, "another origin"),
        ({"HTTP_SEC_FETCH_SITE": "same-site"}, 403, "another origin"),
        ({"HTTP_ORIGIN": "http://evil.example"}, 403, "another origin"),
        ({"HTTP_ORIGIN": "null"}, 403, "another origin"),
        ({"HTTP_ORIGIN": "http://[evil"}, 403, "another origin"),
        ({"HTTP_HOST": ""}, 400, "Host"),
        ({"HTTP_HOST": "evil@ops.example"}, 400, "Host"),
        ({"HTTP_HOST": "evil.example", LOOPBACK_KEY: True}, 403, "local machine"),
    ],
)
def test_a_write_by_anybody_else_is_refused(
    door: Door, path: str, environ: Dict[str, Any], status: int, words: str
) -> None:
    code, told, headers = door.post(path, {}, **environ)
    assert code == status and words in told["error"] and TOKEN not in json.dumps(told)
    assert ("WWW-Authenticate" in headers) == (status == 401)
    assert door.service.submitted == []


@pytest.mark.parametrize(
    "environ",
    [
        {"HTTP_AUTHORIZATION": "bearer  %s " % TOKEN},
        {"CONTENT_TYPE": "Application/JSON; charset=utf-8"},
        {"HTTP_SEC_FETCH_SITE": "same-origin", "CONTENT_TYPE": "", "HTTP_ORIGIN": "https://seen-by-the-proxy"},
        {"HTTP_SEC_FETCH_SITE": "none"},
        {"HTTP_ORIGIN": "http://OPS.example:9464", "CONTENT_TYPE": "text/plain"},
        {"HTTP_HOST": "localhost:9464", LOOPBACK_KEY: True},
        {"HTTP_HOST": "[::1]:9464", LOOPBACK_KEY: True},
    ],
)
def test_a_write_in_another_good_form_is_taken(door: Door, environ: Dict[str, Any]) -> None:
    assert door.post("commands", {"kind": "pause"}, **environ)[0] == 202


def test_without_a_token_configured_writing_is_off_and_says_how_to_switch_it_on() -> None:
    door = Door(token=None)
    for path in ("commands", "retry-failed-partitions"):
        for environ in ({}, {"HTTP_AUTHORIZATION": ""}, {"HTTP_AUTHORIZATION": "Bearer None"}):
            status, told, _ = door.post(path, {}, **environ)
            assert status == 403 and "admin_token" in told["error"]
    assert door.service.submitted == []


def test_the_token_is_compared_in_constant_time(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: List[Any] = []
    monkeypatch.setattr(access.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or True)
    assert door.post("commands", {"kind": "pause"}, HTTP_AUTHORIZATION="Bearer guess")[0] == 202
    assert compared == [(b"guess", TOKEN.encode())]


def test_no_page_of_another_origin_is_told_that_it_may(door: Door) -> None:
    origin = {"HTTP_ORIGIN": "http://evil.example", "HTTP_ACCESS_CONTROL_REQUEST_METHOD": "POST"}
    for status, _, headers in (
        door.ask("commands", "OPTIONS", **origin),
        door.post("commands", {"kind": "pause"}, **origin),
        door.ask("status", **origin),
    ):
        assert status in (405, 403, 200)
        assert not [name for name in headers if name.lower().startswith("access-control")]


def test_the_token_is_in_no_log(door: Door, caplog: Any) -> None:
    with caplog.at_level(logging.DEBUG, "elk_coordinator"):
        assert door.post("commands", {"kind": "pause"})[0] == 202
        assert door.post("commands", {"kind": "pause"}, HTTP_AUTHORIZATION="Bearer almost-it")[0] == 401
    assert "(pause) was queued over HTTP by 10.0.0.9" in caplog.text
    assert TOKEN not in caplog.text and "almost-it" not in caplog.text


# -- writing: what


@pytest.mark.parametrize("body", [None, b"", b" \n", {}, {"partition_ids": []}, {"partition_ids": None}])
def test_retry_of_all_failed_ones(door: Door, body: Any) -> None:
    status, told, _ = door.post("retry-failed-partitions", body)
    assert status == 200 and told["success"] is True and "all failed" in told["message"]
    assert door.service.submitted == [("retry_failed", {}, told["command_id"])]


def test_retry_of_named_ones_takes_numbers_and_strings(door: Door) -> None:
    status, told, _ = door.post("retry-failed-partitions", {"partition_ids": [3, "9007199254740991"]})
    assert status == 200 and "2 named" in told["message"]
    assert door.service.submitted == [("retry_failed", {"ids": [3, 2**53 - 1]}, told["command_id"])]


@pytest.mark.parametrize(
    "path, body, words",
    [
        ("retry-failed-partitions", {"partition_ids": 3}, "partition_ids: must be a list of ids, not a number"),
        ("retry-failed-partitions", {"partition_ids": {}}, "partition_ids: must be a list of ids, not an object"),
        ("retry-failed-partitions", {"partition_ids": [1, 2.0]}, "partition_ids[1]: must be an integer"),
        ("retry-failed-partitions", {"partition_ids": [True]}, "partition_ids[0]: must be an integer"),
        ("retry-failed-partitions", {"partition_ids": ["1e3"]}, "partition_ids[0]: must be an integer"),
        ("retry-failed-partitions", {"partition_ids": [None]}, "partition_ids[0]"),
        ("retry-failed-partitions", {"ids": [1]}, "unknown field 'ids'; known are partition_ids"),
        ("retry-failed-partitions", [1], "the body must be an object, not a list"),
        ("retry-failed-partitions", b"{", "no JSON"),
        ("retry-failed-partitions", b"\xff\xfe", "no JSON"),
        ("retry-failed-partitions", b'{"partition_ids": [NaN]}', "NaN is no number"),
        ("retry-failed-partitions", b'{"partition_ids": [' + b"9" * 10000 + b"]}", "too many digits"),
        ("retry-failed-partitions", b'{"partition_ids": [1], "partition_ids": []}', "given twice"),
        ("retry-failed-partitions", b"[" * 100000, "nested too deeply"),
        ("commands", {}, "kind: must be the name of a command, not null"),
        ("commands", {"kind": 1}, "kind: must be the name"),
        ("commands", {"kind": "pause", "args": []}, "args: must be an object, not a list"),
        ("commands", {"kind": "pause", "token": "x"}, "unknown field 'token'"),
        ("commands", {"kind": "pause", "command_id": "../x"}, "command_id: must be"),
        ("commands", {"kind": "pause", "command_id": 7}, "command_id: must be"),
    ],
)
def test_a_wrong_body_is_400_and_names_the_field(door: Door, path: str, body: Any, words: str) -> None:
    status, told, _ = door.post(path, body)
    assert status == 400 and words in told["error"]
    if path.startswith("retry"):  # its answers have one shape
        assert told["success"] is False and told["message"] == told["error"]
    assert door.service.submitted == []


def test_what_the_service_refuses_is_400_and_a_full_queue_503(door: Door) -> None:
    door.service.failure = ConfigError("kind: 'dance' is no command")
    status, told, _ = door.post("commands", {"kind": "dance"})
    assert (status, told["error"]) == (400, "kind: 'dance' is no command")
    door.service.failure = ConfigError("kind: %r is no command" % ("x" * 10**6))
    assert len(door.post("commands", {"kind": "x"})[1]["error"]) == 1000
    door.service.failure = StateError("1,000 commands wait already")
    assert door.post("commands", {"kind": "pause"})[0] == 503


def test_ids_in_arguments_may_be_strings(door: Door) -> None:
    ranges = [["-9223372036854775807", 5], {"min_id": "7", "max_id": 8, "options": {"code": "0012"}}]
    assert door.post("commands", {"kind": "create", "args": {"ranges": ranges}})[0] == 202
    assert door.post("commands", {"kind": "cancel", "args": {"id": "12"}})[0] == 202
    assert door.post("commands", {"kind": "delete", "args": {"ids": ["12", 13, "x"]}})[0] == 202
    assert [args for _, args, _ in door.service.submitted] == [
        {"ranges": [[-(2**63) + 1, 5], {"min_id": 7, "max_id": 8, "options": {"code": "0012"}}]},
        {"id": 12},
        {"ids": [12, 13, "x"]},  # the service names what is wrong with it
    ]


def test_a_command_whose_queueing_is_unknown_tells_the_id_to_send_it_again_with(door: Door) -> None:
    door.service.failure = StoreUnavailable("gone")
    status, told, headers = door.post("commands", {"kind": "pause", "command_id": "mine-1"})
    assert status == 503 and told["command_id"] == "mine-1" and headers["Retry-After"] == "1"
    status, told, _ = door.post("retry-failed-partitions")
    assert status == 503 and told["success"] is False and len(told["command_id"]) == 32
    door.service.failure = None
    door.post("retry-failed-partitions", {"command_id": told["command_id"]})
    assert door.service.submitted == [("retry_failed", {}, told["command_id"])]


def test_bodies_are_limited_and_measured(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    full = b'{"kind": "pause"}'.ljust(access.MAX_BODY)
    assert door.post("commands", full)[0] == 202
    assert door.post("commands", full + b" ")[0] == 413
    assert door.post("commands", b"{}", CONTENT_LENGTH="9" * 5000)[0] == 413
    for bad in ("-1", "x", "1.5", "\u00b2"):
        assert door.post("commands", b"{}", CONTENT_LENGTH=bad)[0] == 400
    status, told, _ = door.post("commands", b'{"kind"', CONTENT_LENGTH="50")
    assert status == 400 and "ended after 7 of 50" in told["error"]
    status, told, _ = door.post("commands", b"2\r\n{}", CONTENT_LENGTH="", HTTP_TRANSFER_ENCODING="chunked")
    assert status == 411 and "Content-Length" in told["error"]
    chunks = {"CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}
    assert door.post("commands", full, **chunks)[0] == 202  # a server that decodes them
    assert door.post("commands", full + b" ", **chunks)[0] == 413


def test_while_the_store_hangs_dashboards_leave_room_for_probes(door: Door) -> None:
    inside, leave = threading.Semaphore(0), threading.Event()

    def hang() -> Dict[str, Any]:
        inside.release()
        assert leave.wait(10)
        return {}

    door.service.status = hang  # type: ignore[method-assign]
    waiting = [threading.Thread(target=door.ask, args=("status",)) for _ in range(MAX_AT_ONCE)]
    try:
        for thread in waiting:
            thread.start()
        for _ in waiting:
            assert inside.acquire(timeout=10)
        status, told, headers = door.ask("workers")
        assert status == 503 and "try again" in told["error"] and headers["Retry-After"] == "1"
    finally:
        leave.set()
        for thread in waiting:
            thread.join(10)
    assert MAX_AT_ONCE < MAX_REQUESTS
    for _ in range(MAX_AT_ONCE + 1):  # a place is given back, also after an error
        assert door.ask("partitions?limit=x")[0] == 400
    assert door.ask("workers")[0] == 200


# -- over sockets: clients that are slow, or send what nobody wants


class Served:
    """The application behind the built-in server."""

    def __init__(self, door: Door, **options: Any) -> None:
        self.door = door
        self.server = HttpServer(door.app, "127.0.0.1:0", LOGGER, **options)
        host, _, port = self.server.bind().rpartition(":")
        self.host, self.port = host, int(port)
        self.thread = threading.Thread(target=self.server.serve_forever, name="elk-http-orders", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        assert self.server.close(5.0)
        self.thread.join(5.0)
        assert not self.thread.is_alive()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=10)

    def post(self, body: Any, **headers: str) -> Tuple[int, Any]:
        sent = {"Authorization": "Bearer " + TOKEN, "Content-Type": "application/json"}
        sent.update({name.replace("_", "-"): value for name, value in headers.items()})
        with contextlib.closing(self.connect()) as connection:
            connection.request("POST", "/api/v1/commands", body, sent)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())


@pytest.fixture
def serve(door: Door) -> Iterator[Callable[..., Served]]:
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> Served:
            served = Served(door, **options)
            stack.callback(served.stop)
            return served

        yield start


def test_commands_travel_over_real_sockets(serve: Callable[..., Served]) -> None:
    served = serve()
    assert served.post(b'{"kind": "pause"}')[0] == 202
    assert served.post(b'{"kind": "pause"}', Authorization="Bearer no-such-token")[0] == 401
    assert served.post(b'{"kind": "pause"}', Host="evil.example")[0] == 403
    assert served.post(iter([b"{}"]), Transfer_Encoding="chunked")[0] == 411
    assert len(served.door.service.submitted) == 1


def test_the_answer_arrives_although_the_body_was_not_wanted(serve: Callable[..., Served]) -> None:
    served = serve()
    large = b"x" * (7 * access.MAX_BODY)  # more than the buffers between us take
    for _ in range(5):  # a reset would come at random
        assert served.post(large)[0] == 413
        assert served.post(large, Authorization="Bearer no-such-token")[0] == 401
    assert served.door.service.submitted == []


def test_a_body_that_comes_slowly_is_given_up_at_one_deadline(serve: Callable[..., Served]) -> None:
    served = serve(request_timeout=0.3, max_requests=1)
    with contextlib.closing(served.connect()) as connection:
        connection.putrequest("POST", "/api/v1/commands")
        for name, value in (
            ("Authorization", "Bearer " + TOKEN),
            ("Content-Type", "application/json"),
            ("Content-Length", "10000"),
        ):
            connection.putheader(name, value)
        connection.endheaders()
        clock, ended = Clock(), threading.Event()
        began = clock.monotonic()

        def drip() -> None:
            with contextlib.suppress(OSError):
                while not ended.wait(0.05):  # each byte in time, the whole never
                    connection.send(b" ")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            answer = connection.getresponse()
            took = clock.monotonic() - began
        finally:
            ended.set()
            dripping.join(10)
        assert answer.status == 408 and b"in time" in answer.read()
    assert took < 5.0
    assert served.post(b'{"kind": "pause"}')[0] in (202, 503)


def test_clients_that_never_send_their_unwanted_body_do_not_take_every_place(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wsgi, "LINGER_TIME", 60.0)
    served = serve(max_requests=wsgi.MAX_LINGERING + 2)
    head = b"POST /api/v1/commands HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(3 * wsgi.MAX_LINGERING):
            sock = stack.enter_context(socket.create_connection((served.host, served.port), timeout=10))
            sock.sendall(head)
            assert sock.recv(12) == b"HTTP/1.0 401"
            wait_until(lambda: len(served.server._requests) <= wsgi.MAX_LINGERING)
        assert served.post(b'{"kind": "pause"}')[0] == 202


def test_a_client_with_half_a_body_does_not_hold_up_the_close(serve: Callable[..., Served]) -> None:
    served = serve(request_timeout=60.0)
    with contextlib.closing(served.connect()) as connection:
        connection.putrequest("POST", "/api/v1/commands")
        connection.putheader("Authorization", "Bearer " + TOKEN)
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", "10")
        connection.endheaders(b"{")
        with contextlib.closing(served.connect()) as other:
            other.request("GET", "/health")
            other.getresponse().read()
        assert served.server.close(0.1)
