"""The built-in HTTP thread over real sockets, and the application alone: routes, Host check, headers, odd clients."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import socket
import threading
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import attr
import pytest

from elk_coordinator.errors import ConfigError, StateError
from elk_coordinator.observability import http as elk_http
from elk_coordinator.observability.app import (
    LOOPBACK_KEY,
    App,
    HttpError,
    Request,
    Response,
    is_loopback_host,
    json_response,
)
from elk_coordinator.observability.http import HttpServer
from elk_coordinator.observability.metrics import Metrics
from elk_coordinator.protocols import Health, RoleHealth
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.testing import ManualClock, wait_until

LOGGER = logging.getLogger("elk_coordinator.test_http")
HEALTHY = Health(
    state="running",
    healthy=True,
    ready=True,
    problems=(),
    namespace="orders",
    worker_id="w<b>1",
    is_leader=True,
    term=1763900123456789,
    accepted=True,
    store_age=0.1,
    store_error=None,
    window_size=3,
    in_flight=1,
    hung=0,
    prefetched=0,
    breaker="closed",
    paused=False,
    roles=(RoleHealth("heartbeat", True, 0.5, None),),
    http_address="127.0.0.1:1",
    uptime=3.0,
)


class View:
    """A coordinator whose health the test sets."""

    namespace = "orders"
    worker_id = "w<b>1"
    is_leader = True

    def __init__(self) -> None:
        self.state: Any = HEALTHY

    def health(self) -> Health:
        if isinstance(self.state, Exception):
            raise self.state
        return self.state  # type: ignore[no-any-return]

    def cached_stats(self) -> None:
        return None

    def cached_workers(self) -> None:
        return None

    def stats(self) -> Any:
        raise AssertionError("not asked for")

    def fleet(self) -> Any:
        raise AssertionError("not asked for")


Answer = Tuple[int, Dict[str, str], bytes]


class Site:
    """An application, and a server for it whose loop runs as the coordinator's role would run it."""

    def __init__(self, **options: Any) -> None:
        self.view = View()
        self.metrics = Metrics("orders", "w<b>1", Clock())
        self.metrics.attach(self.view)
        self.app = App(self.view, self.metrics, LOGGER)
        self.server = HttpServer(self.app, options.pop("addr", "127.0.0.1:0"), LOGGER, **options)
        self.address = self.server.bind()
        host, _, port = self.address.rpartition(":")
        self.host, self.port = host.strip("[]"), int(port)
        self.thread = threading.Thread(target=self.server.serve_forever, name="elk-http-orders", daemon=True)

    def start(self) -> "Site":
        self.thread.start()
        return self

    def stop(self) -> None:
        assert self.server.close(5.0)
        if self.thread.ident is not None:
            self.thread.join(5.0)
            assert not self.thread.is_alive()

    def ask(self, path: str, method: str = "GET", host: Optional[str] = None, body: Optional[bytes] = None) -> Answer:
        with contextlib.closing(http.client.HTTPConnection(self.host, self.port, timeout=10)) as connection:
            connection.request(method, path, body=body, headers={} if host is None else {"Host": host})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()

    def connect(self, data: bytes = b"") -> socket.socket:
        sock = socket.create_connection((self.host, self.port), timeout=10)
        sock.sendall(data)
        return sock

    def count(self, route: str, code: int) -> float:
        text = self.metrics.exposition()[0].decode()
        name = 'elk_coordinator_http_requests_total{code="%d",coordinator="orders",route="%s"} ' % (code, route)
        return float(text.partition(name)[2].partition("\n")[0] or 0)


@pytest.fixture
def new_site() -> Iterator[Callable[..., Site]]:
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> Site:
            site = Site(**options).start()
            stack.callback(site.stop)
            return site

        yield start


@pytest.fixture
def site(new_site: Callable[..., Site]) -> Site:
    return new_site()


def read_all(sock: socket.socket) -> bytes:
    """Return what comes until the other side ends; a reset counts as an end."""
    out = b""
    with contextlib.suppress(ConnectionError):
        while True:
            data = sock.recv(65536)
            if not data:
                break
            out += data
    return out


def call(app: Any, path: str = "/", method: Any = "GET", **environ: Any) -> Tuple[str, Dict[str, str], bytes]:
    """Ask a WSGI application without a server; return status line, headers, body."""
    got: List[Any] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> None:
        assert exc_info or not got, "PEP 3333: a second start needs exc_info"
        got[:] = [status, dict(headers)]

    asked = {"REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path, "HTTP_HOST": "example.com"}
    body = b"".join(app(dict(asked, **environ), start_response))
    return got[0], got[1], body


@pytest.fixture
def app() -> App:
    view = View()
    return App(view, Metrics("orders", "w1", Clock()), LOGGER)


# -- what it answers


def test_metrics_are_served(site: Site) -> None:
    status, headers, body = site.ask("/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b'elk_coordinator_is_leader{node_id="w<b>1"} 1.0\n' in body


def test_health_is_200_while_healthy_and_503_with_the_problems_otherwise(site: Site) -> None:
    status, headers, body = site.ask("/health")
    assert (status, headers["content-type"]) == (200, "application/json")
    told = json.loads(body)
    assert told["healthy"] is True and told["problems"] == [] and told["term"] == 1763900123456789
    assert told["roles"][0]["name"] == "heartbeat"
    site.view.state = attr.evolve(HEALTHY, healthy=False, problems=("role heartbeat is stuck <now>", "\u2603"))
    status, _, body = site.ask("/health")
    assert status == 503
    assert json.loads(body)["problems"] == ["role heartbeat is stuck <now>", "\u2603"]


def test_ready_is_200_when_ready_and_503_with_the_reasons_otherwise(site: Site) -> None:
    assert site.ask("/ready")[0] == 200
    site.view.state = attr.evolve(HEALTHY, ready=False, problems=("the store has not answered for 12 s",))
    status, _, body = site.ask("/ready")
    assert status == 503
    assert json.loads(body) == {"ready": False, "reasons": ["the store has not answered for 12 s"]}
    site.view.state = attr.evolve(HEALTHY, ready=False, state="starting")
    assert json.loads(site.ask("/ready")[2])["reasons"] == ["not ready: the coordinator is starting"]


def test_numbers_that_json_cannot_say_become_null(site: Site) -> None:
    site.view.state = attr.evolve(HEALTHY, store_age=float("inf"), uptime=float("nan"))
    told = json.loads(site.ask("/health")[2])
    assert told["store_age"] is None and told["uptime"] is None


def test_the_index_lists_the_pages_and_escapes_what_it_shows(site: Site) -> None:
    status, headers, body = site.ask("/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    for path in (b"/metrics", b"/health", b"/ready"):
        assert b'<a href="%s">' % path in body
    assert b"w&lt;b&gt;1" in body and b"<b>" not in body


@pytest.mark.parametrize("path", ["/metrics", "/health", "/ready", "/", "/nothing"])
def test_head_answers_like_get_without_a_body(site: Site, path: str) -> None:
    get, head = site.ask(path), site.ask(path, "HEAD")
    assert head[0] == get[0] and head[2] == b""
    assert head[1]["content-type"] == get[1]["content-type"]
    if path != "/metrics":  # those count the requests
        assert head[1]["content-length"] == get[1]["content-length"] == str(len(get[2]))
    with site.connect(b"HEAD %s HTTP/1.0\r\nHost: localhost\r\n\r\n" % path.encode()) as sock:
        assert read_all(sock).partition(b"\r\n\r\n")[2] == b""  # http.client would not show one


def test_what_does_not_exist_is_404_in_json(site: Site) -> None:
    status, headers, body = site.ask("/no/<script>")
    assert (status, headers["content-type"]) == (404, "application/json")
    assert json.loads(body) == {"status": 404, "error": "there is nothing at /no/<script>"}
    assert site.ask("/health/")[0] == 404
    assert site.ask("//health")[0] in (200, 404)  # newer http.server folds the slashes
    assert site.ask("/%2e%2e/etc/passwd")[0] == 404
    assert len(site.ask("/" + "x" * 5000)[2]) < 1000
    assert site.count("other", 404) >= 4


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"])
def test_other_methods_are_405_with_allow(site: Site, method: str) -> None:
    status, headers, body = site.ask("/health", method, body=b"x" * 1000 if method in ("POST", "PUT") else None)
    assert (status, headers["allow"]) == (405, "GET, HEAD")
    assert json.loads(body)["error"] == "/health answers GET, HEAD only"
    assert not [name for name in headers if name.startswith("access-control")]
    assert site.count("/health", 405) == 1


@pytest.mark.parametrize("path", ["/metrics", "/health", "/ready", "/", "/nothing"])
def test_every_answer_carries_the_security_headers(site: Site, path: str) -> None:
    _, headers, _ = site.ask(path)
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["server"] == "elk_coordinator"  # no versions
    assert not [name for name in headers if name.startswith("access-control")]


def test_a_coordinator_that_raises_gives_500_without_a_traceback(site: Site, caplog: Any) -> None:
    site.view.state = RuntimeError("password=hunter2")
    status, _, body = site.ask("/health")
    assert status == 500
    assert b"hunter2" not in body and b"Traceback" not in body
    assert "hunter2" in caplog.text  # the log has it
    site.view.state = HEALTHY
    assert site.ask("/health")[0] == 200
    assert (site.count("/health", 500), site.count("/health", 200)) == (1, 1)


# -- Host


@pytest.mark.parametrize(
    "host, good",
    [
        ("localhost", True),
        ("localhost:9464", True),
        ("LOCALHOST.", True),
        ("127.0.0.1:1", True),
        ("127.9.9.9", True),
        ("[::1]:80", True),
        ("[::1]", True),
        ("[::ffff:127.0.0.1]", True),
        ("", False),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("10.0.0.1", False),
        ("127.1", False),
        ("evil@localhost", False),
        ("localhost,evil", False),
        ("localhost:x", False),
        ("[::2]", False),
        ("[", False),
        ("localhost\n", False),
        ("[127.0.0.1.evil]", False),
        (":80", False),
    ],
)
def test_which_hosts_are_this_machine(host: str, good: bool) -> None:
    assert is_loopback_host(host) is good


def test_on_loopback_a_foreign_host_gets_only_what_probes_and_scrapers_need(site: Site) -> None:
    for path in ("/metrics", "/health", "/ready"):
        assert site.ask(path, host="worker-3.example:9464")[0] == 200
    status, _, body = site.ask("/", host="rebound.example")
    assert status == 403
    assert "localhost" in json.loads(body)["error"]
    assert site.ask("/", host="localhost:%d" % site.port)[0] == 200
    with site.connect(b"GET / HTTP/1.0\r\n\r\n") as sock:  # no Host at all
        assert read_all(sock).startswith(b"HTTP/1.0 403 ")


def test_a_client_cannot_claim_that_the_bind_is_not_loopback(site: Site) -> None:
    with site.connect(b"GET / HTTP/1.0\r\nHost: evil\r\nelk_coordinator.loopback: \r\n\r\n") as sock:
        assert read_all(sock).startswith(b"HTTP/1.0 403 ")


def test_mounted_elsewhere_or_listening_publicly_the_host_is_the_others_business(app: App) -> None:
    assert call(app, "/")[0] == "200 OK"
    assert call(app, "/", **{LOOPBACK_KEY: True})[0] == "403 Forbidden"
    assert call(app, "/", **{LOOPBACK_KEY: False})[0] == "200 OK"


def test_a_public_bind_is_not_checked(new_site: Callable[..., Site]) -> None:
    site = new_site(addr="0.0.0.0:0")
    site.host = "127.0.0.1"
    assert site.address.startswith("0.0.0.0:")
    assert site.ask("/", host="worker-3.example")[0] == 200


# -- extending


def test_links_honour_the_prefix_it_is_mounted_under(app: App) -> None:
    for script_name in ("/ops/elk", "/ops/elk/"):
        _, _, body = call(app, "/", SCRIPT_NAME=script_name)
        assert b'<a href="/ops/elk/metrics">' in body
    _, _, body = call(app, "/", SCRIPT_NAME='/"><script>')
    assert b"<script>" not in body
    assert b'<a href="/metrics">' in call(app, "/")[2]
    assert call(app, "", SCRIPT_NAME="/ops")[0] == "200 OK"  # the prefix itself, without a slash


def test_routes_can_be_added_with_parts_and_methods(app: App) -> None:
    seen: List[Request] = []

    def one(request: Request) -> Response:
        seen.append(request)
        return json_response(200, {"id": request.params["id"]}, [("X-Content-Type-Options", "mine")])

    def refuse(request: Request) -> Response:
        raise HttpError(400, "not like this")

    app.add("/api/v1/partitions/{id}", one)
    app.add("/api/v1/partitions/{id}", refuse, methods=("POST",))
    status, headers, body = call(app, "/api/v1/partitions/17")
    assert (status, json.loads(body)) == ("200 OK", {"id": "17"})
    assert headers["X-Content-Type-Options"] == "mine"
    assert json.loads(call(app, "/api/v1/partitions/{id}")[2]) == {"id": "{id}"}
    assert call(app, "/api/v1/partitions/")[0] == "404 Not Found"
    assert call(app, "/api/v1/partitions/1/2")[0] == "404 Not Found"
    status, _, body = call(app, "/api/v1/partitions/1", "POST")
    assert (status, json.loads(body)["error"]) == ("400 Bad Request", "not like this")
    status, headers, _ = call(app, "/api/v1/partitions/1", "DELETE")
    assert (status, headers["Allow"]) == ("405 Method Not Allowed", "GET, HEAD, POST")
    assert call(app, "/api/v1/partitions/1", **{LOOPBACK_KEY: True})[0] == "403 Forbidden"
    app.add("/", one_page)
    assert call(app, "/")[2] == b"the page"
    call(app, "/api/v1/partitions/\u00c3\u00a9")  # WSGI's way to say an UTF-8 path
    assert seen[-1].params["id"] == "\u00e9" and seen[-1].method == "GET"


def one_page(request: Request) -> Response:
    return Response(200, b"the page")


def test_another_wsgi_application_can_be_mounted(app: App) -> None:
    def api(environ: Dict[str, Any], start_response: Any) -> List[bytes]:
        start_response("201 Created", [("Content-Type", "text/plain"), ("Cache-Control", "max-age=1")])
        return [("%s|%s" % (environ["SCRIPT_NAME"], environ["PATH_INFO"])).encode()]

    app.mount("/api/v1/", api)
    status, headers, body = call(app, "/api/v1/status", SCRIPT_NAME="/ops")
    assert (status, body) == ("201 Created", b"/ops/api/v1|/status")
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "max-age=1"
    assert call(app, "/api/v1")[2] == b"/api/v1|"
    assert call(app, "/api/v10")[0] == "404 Not Found"
    assert call(app, "/api/v1/status", **{LOOPBACK_KEY: True})[0] == "403 Forbidden"
    app.mount("/", api)
    assert call(app, "/")[2] == b"|/"
    assert call(app, "/any/thing")[2] == b"|/any/thing"
    assert call(app, "/health")[2].startswith(b"{")  # a route goes before a mount


def test_of_two_mounts_the_more_precise_one_answers(app: App) -> None:
    def tell(environ: Dict[str, Any], start_response: Any) -> List[bytes]:
        start_response("200 OK", [])
        return [environ["SCRIPT_NAME"].encode()]

    for prefix in ("/a/b", "/", "/a"):
        app.mount(prefix, tell)
    assert [call(app, path)[2] for path in ("/a/b/c", "/a/c", "/c")] == [b"/a/b", b"/a", b""]


def test_a_mounted_application_that_fails_gives_500(app: App) -> None:
    def early(environ: Dict[str, Any], start_response: Any) -> List[bytes]:
        raise RuntimeError("boom")

    def late(environ: Dict[str, Any], start_response: Any) -> List[bytes]:
        start_response("200 OK", [])
        raise RuntimeError("boom")

    app.mount("/early", early)
    app.mount("/late", late)
    for path in ("/early", "/late"):
        status, _, body = call(app, path)
        assert status == "500 Internal Server Error" and b"boom" not in body


def test_the_environment_of_the_process_does_not_reach_the_application(site: Site, monkeypatch: Any) -> None:
    seen: Dict[str, Any] = {}

    def look(request: Request) -> Response:
        seen.update(request.environ)
        return Response(200, b"")

    monkeypatch.setenv("ELK_REDIS_URL", "redis://:secret@localhost")
    site.app.add("/look", look)
    assert site.ask("/look?token=a")[0] == 200
    assert seen["QUERY_STRING"] == "token=a"
    assert not [name for name in seen if name.startswith("ELK_") or name == "PATH"]


def test_the_log_is_quiet_and_holds_no_query(site: Site, caplog: Any, capfd: Any) -> None:
    with caplog.at_level(logging.DEBUG, "elk_coordinator"):
        site.ask("/health?token=secret")
        with site.connect(b"nonsense\r\n\r\n") as sock:
            assert b" 400 " in read_all(sock)
        wait_until(lambda: len(caplog.records) >= 2)
    assert "/health" in caplog.text and "secret" not in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


# -- the ports


def listen(port: int = 0) -> socket.socket:
    sock = socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen(1)
    except OSError:
        sock.close()
        raise
    return sock


def test_taken_ports_of_a_range_are_passed_over_until_none_is_left() -> None:
    with contextlib.ExitStack() as stack:
        while True:  # a taken port with room for a range above it
            taken = stack.enter_context(listen())
            first = taken.getsockname()[1]
            if first < 65000:
                break
        site = Site(addr="127.0.0.1:%d-%d" % (first, first + 100)).start()
        try:
            assert first < site.port <= first + 100
            assert site.address == "127.0.0.1:%d" % site.port
            assert site.ask("/health")[0] == 200
            for port in range(first + 1, site.port):  # what others held when we passed it, and may have left since
                with contextlib.suppress(OSError):
                    stack.enter_context(listen(port))
            addr = "127.0.0.1:%d-%d" % (first, site.port)
            with pytest.raises(OSError, match="cannot listen on %s: " % addr):
                HttpServer(site.app, addr, LOGGER).bind()
        finally:
            site.stop()


def test_two_servers_never_share_a_port(site: Site) -> None:
    with pytest.raises(OSError, match="cannot listen on 127.0.0.1:%d: " % site.port):
        HttpServer(site.app, site.address, LOGGER).bind()


@pytest.mark.parametrize("addr", ["no-such-host.invalid:0", "%s:0" % ("x" * 70), "192.0.2.1:0"])
def test_a_host_that_is_not_ours_is_an_oserror(app: App, addr: str, monkeypatch: Any) -> None:
    real = socket.getaddrinfo

    def offline(host: Any, *args: Any, **options: Any) -> Any:
        if str(host).endswith(".invalid"):  # no resolver is asked
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    with pytest.raises(OSError, match="cannot listen on "):
        HttpServer(app, addr, LOGGER).bind()


def test_an_address_that_is_none_is_refused_at_once(app: App) -> None:
    with pytest.raises(ConfigError, match="metrics_addr"):
        HttpServer(app, "nowhere", LOGGER)


def test_ipv6_literals_work(new_site: Callable[..., Site]) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    site = new_site(addr="[::1]:0")
    assert site.address == "[::1]:%d" % site.port and site.port > 0
    assert site.ask("/", host="[::1]:%d" % site.port)[0] == 200
    assert site.ask("/", host="evil.example")[0] == 403  # recognised as loopback


def test_a_name_with_two_addresses_is_bound_on_the_older_kind(new_site: Callable[..., Site], monkeypatch: Any) -> None:
    both = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lambda *args, **options: both)
        site = new_site(addr="localhost:0")
    assert site.address == "127.0.0.1:%d" % site.port
    assert site.ask("/health")[0] == 200


# -- its life


def test_close_before_serve_lets_serve_return_at_once(app: App) -> None:
    server = HttpServer(app, "127.0.0.1:0", LOGGER)
    address = server.bind()
    assert server.bind() == address == server.address
    assert server.close() and server.close()
    server.serve_forever()
    assert server.address is None
    with pytest.raises(StateError):
        server.bind()
    with contextlib.closing(listen(int(address.rpartition(":")[2]))):
        pass  # the port is free again


def test_serve_without_bind_is_a_state_error_and_close_without_bind_is_fine(app: App) -> None:
    server = HttpServer(app, "127.0.0.1:0", LOGGER)
    with pytest.raises(StateError):
        server.serve_forever()
    assert server.close()
    server.serve_forever()


def test_one_thread_serves(site: Site) -> None:
    site.ask("/health")  # so the other one surely runs
    with pytest.raises(StateError):
        site.server.serve_forever()


def test_close_ends_the_loop_and_frees_the_port(site: Site) -> None:
    assert site.ask("/health")[0] == 200
    assert site.server.close()
    site.thread.join(5.0)
    assert not site.thread.is_alive()
    with contextlib.closing(listen(site.port)):
        pass


def test_close_races_with_serve(app: App) -> None:
    for _ in range(50):
        server = HttpServer(app, "127.0.0.1:0", LOGGER)
        server.bind()
        thread = threading.Thread(target=server.serve_forever, name="elk-http-race", daemon=True)
        thread.start()
        assert server.close(5.0)
        thread.join(5.0)
        assert not thread.is_alive()
        assert server.address is None


def test_serving_goes_on_after_the_loop_failed(app: App, monkeypatch: Any) -> None:
    server = HttpServer(app, "127.0.0.1:0", LOGGER)
    server.bind()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(server, "_drop_overdue", lambda selector: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                server.serve_forever()
        thread = threading.Thread(target=server.serve_forever, name="elk-http-again", daemon=True)
        thread.start()
        host, _, port = str(server.address).rpartition(":")
        with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=10)) as connection:
            connection.request("GET", "/health")
            assert connection.getresponse().status == 200
    finally:
        assert server.close(5.0)
    thread.join(5.0)


def test_nothing_is_left_open(app: App) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    before = open_files()
    for _ in range(3):
        site = Site().start()
        site.ask("/health")
        with site.connect(b"GET /heal"):
            wait_until(lambda site=site: site.server._waiting)  # type: ignore[misc]
            site.stop()
    assert open_files() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_can_let_go_of_the_port(site: Site) -> None:
    site.ask("/health")
    child_ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            site.server.close_after_fork()
            os.write(child_ready[1], b"x")
            os.read(go[0], 1)
        finally:
            os._exit(0)
    try:
        assert os.read(child_ready[0], 1) == b"x"
        assert site.ask("/health")[0] == 200  # the parent serves on
        site.stop()
        with contextlib.closing(listen(site.port)):
            pass  # and its port is free although the child lives
    finally:
        os.write(go[1], b"x")
        os.waitpid(pid, 0)
        for end in child_ready + go:
            os.close(end)


# -- odd clients


def test_clients_that_send_nothing_or_half_a_request_block_nobody(new_site: Callable[..., Site]) -> None:
    site = new_site(max_requests=2)
    with contextlib.ExitStack() as stack:
        for data in (b"", b"G", b"GET /health HTTP/1.1\r\nHost: lo") * 10:
            stack.enter_context(site.connect(data))
        wait_until(lambda: len(site.server._waiting) == 30)
        assert site.ask("/health")[0] == 200
        assert site.server.close(5.0)  # nor the close
        site.thread.join(5.0)
        assert not site.thread.is_alive()


def test_an_unfinished_request_is_dropped_at_its_deadline_and_no_sooner(new_site: Callable[..., Site]) -> None:
    clock = ManualClock()
    site = new_site(clock=clock, request_timeout=10.0)
    with site.connect(b"GET /health HTTP/1.1\r\n") as slow:
        wait_until(lambda: site.server._waiting)
        clock.advance(9.0)
        slow.sendall(b"X-Drip: 1\r\n")  # does not buy time
        assert site.ask("/health")[0] == 200  # the loop has turned, and looked at the deadlines
        assert len(site.server._waiting) == 1
        clock.advance(1.5)
        assert site.ask("/health")[0] == 200
        assert read_all(slow) == b""
    with site.connect(b"GET /health HT") as late:
        wait_until(lambda: site.server._waiting)
        late.sendall(b"TP/1.0\r\n\r\n")
        assert read_all(late).startswith(b"HTTP/1.0 200 OK")


def test_an_unfinished_request_is_dropped_by_the_real_clock_too(new_site: Callable[..., Site]) -> None:
    site = new_site(request_timeout=0.05)
    with site.connect(b"GET /health HTTP/1.1\r\n") as slow:
        assert read_all(slow) == b""


def test_a_request_may_come_byte_by_byte(site: Site) -> None:
    with site.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"GET /health HTTP/1.0\r\nX: y\r\n\r\n":
            sock.sendall(bytes([byte]))
        assert read_all(sock).startswith(b"HTTP/1.0 200 OK")
    for end in (b"\n", b"\r\n", b"\n\r\n"):  # the end itself may come in two pieces
        whole = b"GET /health HTTP/1.0\r\n\r\n"
        first = whole[: -len(end)]
        with site.connect(first) as sock:
            wait_until(lambda first=first: [w for w in site.server._waiting.values() if w.head == first])  # type: ignore
            sock.sendall(end)
            assert read_all(sock).startswith(b"HTTP/1.0 200 OK")


def test_beyond_the_cap_503_is_answered_until_a_place_is_free(new_site: Callable[..., Site]) -> None:
    site = new_site(max_requests=2)
    inside, leave = threading.Semaphore(0), threading.Event()

    def slow(request: Request) -> Response:
        inside.release()
        assert leave.wait(10)
        return Response(200, b"done")

    site.app.add("/slow", slow)
    answers: List[int] = []
    threads = [threading.Thread(target=lambda: answers.append(site.ask("/slow")[0])) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        assert inside.acquire(timeout=10) and inside.acquire(timeout=10)
        status, headers, body = site.ask("/health")
        assert (status, headers["retry-after"], headers["x-content-type-options"]) == (503, "1", "nosniff")
        assert "try again" in json.loads(body)["error"]
        assert site.count("other", 503) == 1
    finally:
        leave.set()
        for thread in threads:
            thread.join(10)
    assert answers == [200, 200]
    wait_until(lambda: not site.server._requests)
    assert site.ask("/health")[0] == 200


def test_waiting_connections_are_bounded_and_the_oldest_goes(site: Site, monkeypatch: Any) -> None:
    monkeypatch.setattr(elk_http, "MAX_WAITING", 5)
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(site.connect(b"G")) for _ in range(9)]
        for sock in idle[:4]:
            assert read_all(sock) == b""
        wait_until(lambda: len(site.server._waiting) == 5)
        assert site.ask("/health")[0] == 200


def test_heads_that_are_too_large_are_431(site: Site) -> None:
    for end in (b"\r\n\r\n", b""):  # with an end, and without one ever
        with site.connect() as sock:
            with contextlib.suppress(ConnectionError):
                sock.sendall(b"GET / HTTP/1.0\r\nX: " + b"y" * (3 * elk_http.MAX_HEAD) + end)
            answer = read_all(sock)
            assert answer == b"" or answer.startswith(b"HTTP/1.0 431 ")  # input left unread may reset the connection
    with site.connect(b"GET / HTTP/1.0\r\n" + b"X: y\r\n" * 150 + b"\r\n") as sock:
        assert read_all(sock).startswith(b"HTTP/1.0 431 ")


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / nonsense <script>\r\n\r\n",
        b"\x16\x03\x01\n\n",
        b"GET / HTTP/1.0\r\nbad header\r\n\r\n",
        b"GET http://[ HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\nHost: localhost\n\n",
        b"GET /%ff%00 HTTP/1.0\r\nHost: localhost\r\n\r\n",
    ],
)
def test_nonsense_is_answered_or_dropped_and_does_no_harm(site: Site, data: bytes, caplog: Any) -> None:
    with site.connect(data) as sock:
        sock.shutdown(socket.SHUT_WR)
        answer = read_all(sock)
    assert b"<script>" not in answer.split(b"\r\n\r\n")[0]
    assert b"Traceback" not in answer
    if answer.startswith(b"HTTP/"):
        assert b"X-Content-Type-Options: nosniff" in answer
    assert site.ask("/health")[0] == 200
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


def test_a_client_that_leaves_early_is_nobodys_error(site: Site, caplog: Any) -> None:
    for _ in range(5):
        sock = site.connect(b"GET /metrics HTTP/1.0\r\n\r\n")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()  # resets
    assert site.ask("/health")[0] == 200
    wait_until(lambda: not site.server._requests)
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


def test_a_client_that_does_not_read_is_cut_by_close(site: Site) -> None:
    site.app.add("/huge", lambda request: Response(200, b"x" * 50_000_000))
    with site.connect(b"GET /huge HTTP/1.0\r\nHost: localhost\r\n\r\n"):
        wait_until(lambda: site.server._requests)
        assert site.ask("/health")[0] == 200
        assert site.server.close(0.05)


def test_a_client_that_does_not_read_is_dropped_after_the_timeout(new_site: Callable[..., Site]) -> None:
    site = new_site(request_timeout=0.1)
    site.app.add("/huge", lambda request: Response(200, b"x" * 50_000_000))
    with site.connect(b"GET /huge HTTP/1.0\r\nHost: localhost\r\n\r\n"):
        wait_until(lambda: site.count("/huge", 200) == 1)
        wait_until(lambda: not site.server._requests)


def test_close_waits_for_answers_being_made_and_says_when_they_did_not_end() -> None:
    site = Site().start()
    inside, leave = threading.Event(), threading.Event()

    def slow(request: Request) -> Response:
        inside.set()
        assert leave.wait(10)
        return Response(200, b"done")

    site.app.add("/slow", slow)
    with site.connect(b"GET /slow HTTP/1.0\r\nHost: localhost\r\n\r\n") as sock:
        try:
            assert inside.wait(10)
            assert not site.server.close(0.01)
        finally:
            leave.set()
        assert read_all(sock) == b""  # it was cut
    site.stop()


def test_a_handler_may_close_the_server_it_runs_in() -> None:
    site = Site().start()

    def stop(request: Request) -> Response:
        assert site.server.close(5.0)
        return Response(200, b"closed")

    site.app.add("/stop", stop)
    assert site.ask("/stop")[2] == b"closed"
    site.stop()


def test_a_body_can_be_read_by_a_handler(site: Site) -> None:
    def echo(request: Request) -> Response:
        return Response(200, request.environ["wsgi.input"].read(int(request.environ["CONTENT_LENGTH"])))

    site.app.add("/echo", echo, methods=("POST",))
    for size in (0, 10, 300_000):
        body = os.urandom(size)
        assert site.ask("/echo", "POST", body=body)[2] == body


def test_any_wsgi_application_can_be_served() -> None:
    def failing(environ: Dict[str, Any], start_response: Any) -> List[bytes]:
        environ["wsgi.errors"].write("a line\n")
        environ["wsgi.errors"].flush()
        raise RuntimeError("hunter2")

    server = HttpServer(failing, "127.0.0.1:0", LOGGER)
    host, _, port = server.bind().rpartition(":")
    thread = threading.Thread(target=server.serve_forever, name="elk-http-any", daemon=True)
    thread.start()
    try:
        with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=10)) as connection:
            connection.request("GET", "/")
            answer = connection.getresponse()
            assert (answer.status, answer.getheader("X-Content-Type-Options")) == (500, "nosniff")
            told = json.loads(answer.read())
            assert told == {"status": 500, "error": "internal error; the log of this worker has the details"}
    finally:
        assert server.close(5.0)
        thread.join(5.0)


def test_many_requests_at_once_are_all_answered(new_site: Callable[..., Site]) -> None:
    site = new_site(max_requests=64)
    answers: List[int] = []

    def many() -> None:
        for _ in range(20):
            answers.append(site.ask("/metrics")[0])

    threads = [threading.Thread(target=many) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == [200] * 160
