"""Serve one small WSGI application from inside the worker's process: metrics, health, readiness, and what is added.

Two halves. :class:`App` is plain WSGI with a table of routes; it can also be mounted in somebody else's server.
:class:`HttpServer` is wsgiref with a thread per request behind a loop of its own: the loop waits until the head of a
request is complete, so a client that sends nothing, or half a request, costs a socket and never a thread.
"""

from __future__ import annotations

import errno
import html
import io
import ipaddress
import json
import logging
import math
import os
import re
import selectors
import socket
import socketserver
import sys
import threading
from http import HTTPStatus
from typing import IO, Any, Callable, Dict, Iterable, List, Mapping, Optional, Protocol, Sequence, Tuple, cast
from urllib.parse import quote
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler, WSGIServer

import attr

from elk_coordinator.config import parse_address
from elk_coordinator.errors import StateError
from elk_coordinator.protocols import CoordinatorView
from elk_coordinator.runtime.clock import Clock

Environ = Dict[str, Any]
Headers = List[Tuple[str, str]]
WSGIApp = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

#: Set by HttpServer only (a client's headers arrive as HTTP_...): whether it listens on a loopback address.
LOOPBACK_KEY = "elk_coordinator.loopback"
#: Added to every answer that does not say otherwise itself.
SECURITY_HEADERS: Tuple[Tuple[str, str], ...] = (
    ("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)
#: Seconds from the connection to the complete head of a request, and for each read or write after it.
REQUEST_TIMEOUT = 10.0
#: Requests answered at the same time; further ones get 503.
MAX_REQUESTS = 16
#: Connections that have not sent a whole head yet; beyond it the oldest goes.
MAX_WAITING = 128
#: Bytes of a request's first line and headers.
MAX_HEAD = 64 * 1024
INTERNAL_ERROR = "internal error; the log of this worker has the details"
_INDEX = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>%s</title></head>
<body><h1>%s</h1>
<p>worker %s</p>
<ul>
%s</ul>
</body></html>
"""
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9.-]+))(?::\d{0,5})?\Z")


# -- the application


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Request:
    """What a handler is given."""

    environ: Environ
    method: str
    #: Decoded, below ``script_name``, beginning with "/".
    path: str
    #: Values of the ``{name}`` parts of the route.
    params: Mapping[str, str]

    @property
    def script_name(self) -> str:
        """The URL prefix the application is mounted under, quoted, without a trailing slash."""
        name = quote(self.environ.get("SCRIPT_NAME", "").encode("latin-1", "replace")).strip("/")
        return "/" + name if name else ""


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Response:
    """What a handler returns. ``headers`` replace the security headers of the same name."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: Sequence[Tuple[str, str]] = ()


class HttpError(Exception):
    """Raised by a handler to answer with *status* and a JSON body that says *message*."""

    def __init__(self, status: int, message: str, headers: Sequence[Tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.response = Response(status, _error_body(status, message), "application/json", headers)


Handler = Callable[[Request], Response]


class MetricsSource(Protocol):
    """What the application needs of :class:`~elk_coordinator.observability.metrics.Metrics`."""

    def exposition(self) -> Tuple[bytes, str]: ...

    def http_route(self, route: str) -> None: ...

    def http_request(self, route: str, code: int) -> None: ...


def _error_body(status: int, message: str) -> bytes:
    return json_response(status, {"status": status, "error": message}).body


def json_response(status: int, value: Any, headers: Sequence[Tuple[str, str]] = ()) -> Response:
    """Return *value* as JSON in pure ASCII; what JSON has no word for (NaN, objects) becomes null or text."""
    text = json.dumps(_finite(value), indent=2, allow_nan=False, default=str)
    return Response(status, text.encode("ascii") + b"\n", "application/json", headers)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def is_loopback_host(host: str) -> bool:
    """Return whether a ``Host`` header names this machine only: ``localhost`` or a loopback address, any port."""
    match = _HOST.match(host)
    if match is None:
        return False
    name = match.group("six") or match.group("name").rstrip(".").lower()
    return name == "localhost" or _is_loopback(name)


def _is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)


@attr.s(auto_attribs=True, slots=True)
class _Route:
    template: str
    pattern: "re.Pattern[str]"
    methods: Dict[str, Handler]
    check_host: bool


class App:
    """A WSGI application over a coordinator: ``/metrics``, ``/health``, ``/ready``, an index, and what is added.

    Routes and mounts are added before it serves; answering is safe from any thread.

    :param view: the coordinator.
    :param metrics: shown under ``/metrics``, and told of every answer.
    """

    def __init__(self, view: CoordinatorView, metrics: MetricsSource, logger: Optional[logging.Logger] = None) -> None:
        self._view = view
        self._metrics = metrics
        self._logger = logger or logging.getLogger("elk_coordinator")
        self._routes: Dict[str, _Route] = {}
        self._mounts: Dict[str, Tuple[WSGIApp, bool]] = {}
        # Scrapers and probes come by whatever name the network gives us, so these never check it.
        self.add("/metrics", self._metrics_page, check_host=False)
        self.add("/health", self._health, check_host=False)
        self.add("/ready", self._ready, check_host=False)
        self.add("/", self._index)

    def add(
        self, path: str, handler: Handler, methods: Sequence[str] = ("GET",), check_host: bool = True
    ) -> None:
        """Answer *path* by *handler*; the same path and method again replaces it. GET also serves HEAD.

        :param path: ``/api/v1/partitions/{id}``: each ``{name}`` matches one segment. Also the metrics' label.
        :param check_host: on a loopback bind refuse other names in ``Host`` (a web page that points its own name at
            127.0.0.1 could read us otherwise).
        """
        route = self._routes.get(path)
        if route is None:
            parts = re.split(r"\{(\w+)\}", path)
            pattern = "".join("(?P<%s>[^/]+)" % part if i % 2 else re.escape(part) for i, part in enumerate(parts))
            route = self._routes[path] = _Route(path, re.compile(pattern + r"\Z"), {}, check_host)
        route.check_host = check_host
        for method in methods:
            route.methods[method] = handler
        self._metrics.http_route(path)

    def mount(self, prefix: str, app: WSGIApp, check_host: bool = True) -> None:
        """Hand everything at and below *prefix* that has no route of its own to another WSGI application.

        It sees the prefix in SCRIPT_NAME; its answers get our security headers unless it sets them. ``"/"`` takes
        all the rest, the index included.
        """
        prefix = prefix.rstrip("/")
        if not prefix:
            self._routes.pop("/", None)
        self._mounts[prefix] = (app, check_host)
        self._metrics.http_route(prefix or "/")

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        method = str(environ.get("REQUEST_METHOD", "GET"))
        path = environ.get("PATH_INFO", "").encode("latin-1", "replace").decode("utf-8", "replace") or "/"
        label = "other"
        failure: Tuple[Any, ...] = ()
        try:
            route, params = self._find(path)
            if route is None:
                prefix = self._mounted(path)
                if prefix is not None:
                    label = prefix or "/"
                    self._guard(environ, self._mounts[prefix][1])
                    return self._pass_on(prefix, label, environ, start_response)
                raise HttpError(404, "there is nothing at %s" % path[:200])
            label = route.template
            self._guard(environ, route.check_host)
            handler = route.methods.get("GET" if method == "HEAD" and "HEAD" not in route.methods else method)
            if handler is None:
                allowed = sorted(set(route.methods) | ({"HEAD"} if "GET" in route.methods else set()))
                raise HttpError(
                    405, "%s answers %s only" % (label, ", ".join(allowed)), [("Allow", ", ".join(allowed))]
                )
            response = handler(Request(environ, method, path, params))
        except HttpError as exc:
            response = exc.response
        except Exception:
            response = self._broken(label)
            failure = (sys.exc_info(),)  # tells the server to take this answer also if another one has begun
        self._metrics.http_request(label, response.status)
        headers = [("Content-Type", response.content_type), ("Content-Length", str(len(response.body)))]
        start_response(_status_line(response.status), with_security(headers + list(response.headers)), *failure)
        return [] if method == "HEAD" else [response.body]

    def refused(self, status: int) -> None:
        """Count an answer that the server gave without asking us."""
        self._metrics.http_request("other", status)

    def _find(self, path: str) -> Tuple[Optional[_Route], Mapping[str, str]]:
        exact = self._routes.get(path)
        if exact is not None and "{" not in path:
            return exact, {}
        for route in self._routes.values():
            match = route.pattern.match(path)
            if match is not None:
                return route, match.groupdict()
        return None, {}

    def _mounted(self, path: str) -> Optional[str]:
        fitting = [prefix for prefix in self._mounts if path == prefix or path.startswith(prefix + "/")]
        return max(fitting, key=len) if fitting else None

    def _guard(self, environ: Environ, check_host: bool) -> None:
        if check_host and environ.get(LOOPBACK_KEY) and not is_loopback_host(environ.get("HTTP_HOST", "")):
            raise HttpError(
                403,
                "this address serves the local machine only: ask for it as localhost (the Host header names something "
                "else, or nothing); to serve other names, listen on another address or mount the application",
            )

    def _pass_on(
        self, prefix: str, label: str, environ: Environ, start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        raw = prefix.encode("utf-8").decode("latin-1")
        inner = dict(environ)
        inner["SCRIPT_NAME"] = environ.get("SCRIPT_NAME", "").rstrip("/") + raw
        inner["PATH_INFO"] = environ.get("PATH_INFO", "")[len(raw):]

        def start(status: str, headers: Headers, *exc_info: Any) -> Any:
            self._metrics.http_request(label, int(status.split(" ", 1)[0]))
            return start_response(status, with_security(headers), *exc_info)

        return self._mounts[prefix][0](inner, start)

    def _broken(self, label: str) -> Response:
        self._logger.exception("HTTP %s: the answer could not be made", label)
        return HttpError(500, INTERNAL_ERROR).response

    # -- the built-in pages
    def _metrics_page(self, request: Request) -> Response:
        body, content_type = self._metrics.exposition()
        return Response(200, body, content_type)

    def _health(self, request: Request) -> Response:
        health = self._view.health()
        return json_response(200 if health.healthy else 503, health.to_dict())

    def _ready(self, request: Request) -> Response:
        health = self._view.health()
        if health.ready:
            return json_response(200, {"ready": True})
        reasons = list(health.problems) or ["not ready: the coordinator is %s" % health.state]
        return json_response(503, {"ready": False, "reasons": reasons})

    def _index(self, request: Request) -> Response:
        prefix = html.escape(request.script_name)
        links = "".join(
            '<li><a href="%s%s">%s</a></li>\n' % (prefix, html.escape(quote(path)), html.escape(path))
            for path, route in sorted(self._routes.items())
            if path != "/" and "GET" in route.methods and "{" not in path
        )
        title = html.escape("elk_coordinator %s" % self._view.namespace)
        body = _INDEX % (title, title, html.escape(self._view.worker_id), links)
        return Response(200, body.encode("utf-8"), "text/html; charset=utf-8")


def with_security(headers: Headers) -> Headers:
    """Return *headers* with those of :data:`SECURITY_HEADERS` that they do not contain."""
    present = {name.lower() for name, _ in headers}
    return list(headers) + [(name, value) for name, value in SECURITY_HEADERS if name.lower() not in present]


def _status_line(status: int) -> str:
    try:
        return "%d %s" % (status, HTTPStatus(status).phrase)
    except ValueError:
        return "%d Status" % status


# -- the server


class _Head(io.RawIOBase):
    """A request as a stream: first the bytes that the loop has read already, then the socket."""

    def __init__(self, head: bytes, connection: socket.socket) -> None:
        self._rest = memoryview(head)
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            return self._connection.recv_into(buffer)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


class _Outbox(io.BytesIO):
    """Gathers status line, headers and body, and sends them at once: one deadline covers a slow reader."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self._connection = connection

    def flush(self) -> None:
        data = self.getvalue()
        self.seek(0)
        self.truncate()
        if data:
            self._connection.sendall(data)


class _LogStream(io.TextIOBase):
    """``wsgi.errors``: to the library's log instead of the process's stderr."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def write(self, text: str) -> int:
        if text.strip():
            self._logger.debug("HTTP: %s", text.rstrip())
        return len(text)


class _Answer(ServerHandler):
    """wsgiref's runner, without the process's environment variables (they hold secrets) and without stderr."""

    os_environ: Dict[str, str] = {}
    server_software = "elk_coordinator"
    error_headers = with_security([("Content-Type", "application/json")])
    error_body = _error_body(500, INTERNAL_ERROR)
    logger: logging.Logger
    request_handler: WSGIRequestHandler

    def log_exception(self, exc_info: Any) -> None:
        gone = isinstance(exc_info[1], OSError)  # the application catches its own: this one is a slow or absent client
        self.logger.log(logging.DEBUG if gone else logging.WARNING, "HTTP: no full answer", exc_info=exc_info)


def _bare_answer(status: int, message: str) -> bytes:
    """Return a whole HTTP answer, for requests that no application sees."""
    body = _error_body(status, message)
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Connection", "close")]
    if status == 503:
        headers.append(("Retry-After", "1"))
    lines = ["HTTP/1.0 " + _status_line(status)] + ["%s: %s" % pair for pair in with_security(headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii") + body


class _RequestHandler(WSGIRequestHandler):
    """One request on one connection, then the end; nothing is kept alive."""

    server: "_Server"

    def setup(self) -> None:
        connection, head = self.request
        self.connection = connection
        connection.settimeout(self.server.request_timeout)
        self.rfile = io.BufferedReader(_Head(head, connection))
        self.wfile = _Outbox(connection)

    def handle(self) -> None:
        self.raw_requestline = self.rfile.readline(MAX_HEAD + 1)
        if not self.parse_request():  # an error has been sent
            return
        logger = self.server.logger
        streams = cast(IO[bytes], self.rfile), cast(IO[bytes], self.wfile)
        answer = _Answer(*streams, _LogStream(logger), self.get_environ())
        answer.logger = logger
        answer.request_handler = self
        answer.run(self.server.app)

    def send_error(self, code: int, message: Optional[str] = None, explain: Optional[str] = None) -> None:
        self.log_request(code)
        self.wfile.write(_bare_answer(code, message or HTTPStatus(code).phrase))

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        path = (getattr(self, "path", None) or "").split("?", 1)[0]  # a query may hold what no log should
        self.server.logger.debug("HTTP %s %.200r from %s: %s", self.command, path, self.client_address[0], code)

    def log_message(self, format: str, *args: Any) -> None:
        self.server.logger.debug("HTTP: " + format, *args)


class _Server(WSGIServer):
    """The listening socket, and what wsgiref's handler wants to know."""

    allow_reuse_address = os.name == "posix"  # elsewhere it would let two processes listen on one port
    allow_reuse_port = False
    request_queue_size = 64

    def __init__(
        self, family: socket.AddressFamily, address: Any, app: WSGIApp, logger: logging.Logger, timeout: float
    ) -> None:
        self.address_family = family
        self.logger = logger
        self.request_timeout = timeout
        self.app = app
        super().__init__(address, _RequestHandler)
        self.socket.setblocking(False)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # not HTTPServer's: that one asks the DNS for our name
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()
        self.base_environ[LOOPBACK_KEY] = _is_loopback(self.server_name)


@attr.s(auto_attribs=True, slots=True, eq=False)
class _Waiting:
    """A connection whose request is not complete yet."""

    address: Any
    deadline: float
    head: bytearray = attr.Factory(bytearray)


def _end(sock: socket.socket, answer: bytes = b"", close: bool = True) -> None:
    """Send *answer* as far as that needs no waiting, and end the connection both ways; never raises."""
    try:
        if answer:
            sock.send(answer)
        sock.shutdown(socket.SHUT_WR if answer else socket.SHUT_RDWR)
    except OSError:  # the client was faster
        pass
    if close:
        sock.close()


class HttpServer:
    """Listens, waits for whole requests and answers each in a daemon thread. Every method is safe from any thread.

    :param app: any WSGI application.
    :param addr: ``"host:port"`` or ``"host:first-last"``, see :func:`elk_coordinator.config.parse_address`.
    :param clock: measures the deadline of a request's head.
    :param request_timeout: seconds a client has to send the head of its request, and for each read and write after.
    :param max_requests: answered at the same time; further ones get 503.
    :raises ConfigError: when *addr* is no address.
    """

    def __init__(
        self,
        app: WSGIApp,
        addr: str,
        logger: logging.Logger,
        *,
        clock: Optional[Clock] = None,
        request_timeout: float = REQUEST_TIMEOUT,
        max_requests: int = MAX_REQUESTS,
    ) -> None:
        self._app = app
        self._addr = addr
        self._host, self._first, self._last = parse_address(addr)
        self._logger = logger
        self._clock = clock or Clock()
        self._request_timeout = request_timeout
        self._max_requests = max_requests
        #: Guards the fields below; notified when a request ends.
        self._changed = threading.Condition()
        self._server: Optional[_Server] = None
        #: A byte sent into the second comes out of the first and ends the loop's wait.
        self._wake: Optional[Tuple[socket.socket, socket.socket]] = None
        self._serving: Optional[threading.Thread] = None
        self._left = threading.Event()
        self._closed = threading.Event()
        self._requests: Dict[threading.Thread, socket.socket] = {}
        self._count = 0
        #: Only the loop's. Ordered by age, so the first one's deadline is the next.
        self._waiting: Dict[socket.socket, _Waiting] = {}

    @property
    def address(self) -> Optional[str]:
        """``"host:port"`` while it listens, else None."""
        server = self._server
        if server is None:
            return None
        host = server.server_name
        return "%s:%d" % ("[%s]" % host if ":" in host else host, server.server_port)

    def bind(self) -> str:
        """Listen on the first port that can be had and return ``"host:port"``; clients wait until it serves.

        :raises OSError: when there is none, or the host is not one of this machine's.
        :raises StateError: after :meth:`close`.
        """
        with self._changed:
            if self._closed.is_set():
                raise StateError("the HTTP server was closed; build a new one")
            if self._server is None:
                # Under the lock although a host name may ask the DNS: closing waits, but no socket is left behind.
                self._server = self._listen()
                self._wake = socket.socketpair()
                self._wake[1].setblocking(False)
            return str(self.address)

    def _listen(self) -> _Server:
        where = "cannot listen on %s: %%s" % self._addr
        try:
            found = socket.getaddrinfo(
                self._host or None, self._first, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except (OSError, UnicodeError) as exc:
            raise OSError(errno.EADDRNOTAVAIL, where % ("host %r: %s" % (self._host, exc))) from exc
        # One family only: on a name with both, two workers could get one port number, each on its own address.
        family, _, _, _, target = min(found, key=lambda info: info[0] != socket.AF_INET)
        refusal: Optional[OSError] = None
        for port in range(self._first, self._last + 1):
            address = (target[0], port) + tuple(target[2:])
            try:
                return _Server(family, address, self._app, self._logger, self._request_timeout)
            except OSError as exc:
                refusal = exc
                if exc.errno not in (errno.EADDRINUSE, errno.EACCES):
                    break
        assert refusal is not None
        raise OSError(refusal.errno, where % (refusal.strerror or refusal)) from refusal

    def serve_forever(self) -> None:
        """Answer requests until :meth:`close`; returns at once when that came first. Run it in a thread of its own.

        After an error of the loop itself it may be called again.

        :raises StateError: before :meth:`bind`, or while another thread serves.
        """
        with self._changed:
            if self._closed.is_set():
                return
            if self._server is None or self._wake is None or self._serving is not None:
                raise StateError("bind() comes before serve_forever(), and only one thread serves")
            server, wake = self._server, self._wake[0]
            self._serving = threading.current_thread()
            self._left.clear()
        try:
            self._loop(server, wake)
        finally:
            with self._changed:
                self._serving = None
                if self._closed.is_set():
                    self._release()
            self._left.set()

    def close(self, timeout: float = 1.0) -> bool:
        """Stop listening, drop unfinished requests, wait up to *timeout* seconds for those being answered.

        :return: whether nothing is left; if not, answers still run in daemon threads, their connections cut.
        """
        me = threading.current_thread()
        with self._changed:
            self._closed.set()
            serving = self._serving
            if serving is None:
                self._release()
            elif self._wake is not None:
                try:
                    self._wake[1].send(b"x")
                except OSError:  # full: it is awake already
                    pass
        gone = serving is None or serving is me or self._left.wait(timeout)
        with self._changed:
            others = [thread for thread in self._requests if thread is not me]
            self._changed.wait_for(lambda: not set(self._requests) - {me}, timeout)
            for thread in others:
                if thread in self._requests:
                    _end(self._requests[thread], close=False)
        for thread in others:
            thread.join(0.1)
        return gone and not any(thread.is_alive() for thread in others)

    def close_after_fork(self) -> None:
        """Close, in a forked child, its copies of our sockets; the parent serves on. Takes no lock: one may be held."""
        self._closed.set()
        for sock in list(self._requests.values()) + list(self._waiting):
            sock.close()
        self._release()

    def _release(self) -> None:
        server, self._server = self._server, None
        wake, self._wake = self._wake, None
        if server is not None:
            server.server_close()
        for sock in wake or ():
            sock.close()

    # -- the loop: accepts and reads heads, without ever waiting for one client
    def _loop(self, server: _Server, wake: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(server.socket, selectors.EVENT_READ)
            selector.register(wake, selectors.EVENT_READ)
            try:
                while not self._closed.is_set():
                    for key, _ in selector.select(self._drop_overdue(selector)):
                        if key.fileobj is server.socket:
                            self._accept(server, selector)
                        elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._waiting:
                            self._read(server, selector, key.fileobj)
            finally:
                for sock in self._waiting:
                    sock.close()
                self._waiting.clear()

    def _drop_overdue(self, selector: selectors.BaseSelector) -> Optional[float]:
        """End connections that took too long; return the seconds until the next one does, None without any."""
        now = self._clock.monotonic()
        while self._waiting:
            sock, entry = next(iter(self._waiting.items()))
            if entry.deadline > now:
                return entry.deadline - now
            self._take(selector, sock)
            _end(sock)
        return None

    def _take(self, selector: selectors.BaseSelector, sock: socket.socket) -> _Waiting:
        selector.unregister(sock)
        return self._waiting.pop(sock)

    def _drop_oldest(self, selector: selectors.BaseSelector) -> None:
        sock = next(iter(self._waiting), None)
        if sock is not None:
            self._take(selector, sock)
            _end(sock)

    def _accept(self, server: _Server, selector: selectors.BaseSelector) -> None:
        try:
            sock, address = server.socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionError):
            return
        except OSError as exc:
            # Out of files or memory. The connection stays readable: free something, and do not spin.
            self._logger.debug("HTTP: a connection could not be accepted: %s", exc)
            self._drop_oldest(selector)
            self._clock.wait(self._closed, 0.1)
            return
        if len(self._waiting) >= MAX_WAITING:
            self._drop_oldest(selector)
        sock.setblocking(False)
        self._waiting[sock] = _Waiting(address, self._clock.monotonic() + self._request_timeout)
        selector.register(sock, selectors.EVENT_READ)

    def _read(self, server: _Server, selector: selectors.BaseSelector, sock: socket.socket) -> None:
        entry = self._waiting[sock]
        searched = max(0, len(entry.head) - 3)
        try:
            data = sock.recv(64 * 1024)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        entry.head += data
        end = _HEAD_END.search(entry.head, searched)
        if data and end is None and len(entry.head) <= MAX_HEAD:
            return
        self._take(selector, sock)
        if not data:
            _end(sock)
        elif end is None or end.start() > MAX_HEAD:
            self._refuse(sock, 431, "the request's headers are larger than %d bytes" % MAX_HEAD)
        else:
            self._dispatch(server, sock, entry)

    def _dispatch(self, server: _Server, sock: socket.socket, entry: _Waiting) -> None:
        self._count += 1
        thread = threading.Thread(
            target=self._answer,
            args=(server, sock, entry),
            name="%s_%d" % (threading.current_thread().name, self._count),
            daemon=True,
        )
        with self._changed:
            busy = len(self._requests) >= self._max_requests
            if not busy:
                self._requests[thread] = sock
        if not busy:
            try:
                thread.start()
                return
            except RuntimeError as exc:  # no thread to be had
                self._logger.debug("HTTP: %s", exc)
                with self._changed:
                    del self._requests[thread]
        self._refuse(sock, 503, "too many requests at the same time; try again in a second")

    def _refuse(self, sock: socket.socket, status: int, message: str) -> None:
        if isinstance(self._app, App):
            self._app.refused(status)
        _end(sock, _bare_answer(status, message))

    def _answer(self, server: _Server, sock: socket.socket, entry: _Waiting) -> None:
        """Answer one request; the body of its thread."""
        try:
            request: Any = (sock, bytes(entry.head))
            _RequestHandler(request, entry.address, server)
        except OSError as exc:
            self._logger.debug("HTTP: a connection broke: %s", exc)
        except Exception:
            self._logger.exception("HTTP: a request could not be answered")
        finally:
            _end(sock)
            with self._changed:
                self._requests.pop(threading.current_thread(), None)
                self._changed.notify_all()
