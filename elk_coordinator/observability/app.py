"""Answer for a coordinator as one small WSGI application: metrics, health, readiness, an index, and what is added.

It runs behind the built-in thread (:mod:`elk_coordinator.observability.http`) or mounted in somebody else's server.
"""

from __future__ import annotations

import html
import ipaddress
import json
import logging
import math
import re
import sys
from http.client import responses
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple
from urllib.parse import quote

import attr

from elk_coordinator.observability.metrics import Metrics
from elk_coordinator.protocols import CoordinatorView

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
INTERNAL_ERROR = "internal error; the log of this worker has the details"
_WRONG_HOST = (
    "this address serves the local machine only: ask for it as localhost (the Host header names something else, or "
    "nothing); to serve other names, listen on another address or mount the application"
)
_INDEX = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>%s</title></head>
<body><h1>%s</h1>
<p>worker %s</p>
<ul>
%s</ul>
</body></html>
"""
_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9.-]+))(?::\d{0,5})?\Z")


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


Handler = Callable[[Request], Response]


class HttpError(Exception):
    """Raised by a handler to answer with *status* and a JSON body that says *message*."""

    def __init__(self, status: int, message: str, headers: Sequence[Tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.response = error_response(status, message, headers)


def json_response(status: int, value: Any, headers: Sequence[Tuple[str, str]] = ()) -> Response:
    """Return *value* as JSON in pure ASCII; what JSON has no word for (NaN, objects) becomes null or text."""
    text = json.dumps(_finite(value), indent=2, allow_nan=False, default=str)
    return Response(status, text.encode("ascii") + b"\n", "application/json", headers)


def error_response(status: int, message: str, headers: Sequence[Tuple[str, str]] = ()) -> Response:
    """Return the JSON that every error is told in."""
    return json_response(status, {"status": status, "error": message}, headers)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def with_security(headers: Headers) -> Headers:
    """Return *headers* with those of :data:`SECURITY_HEADERS` that they do not contain."""
    present = {name.lower() for name, _ in headers}
    return list(headers) + [(name, value) for name, value in SECURITY_HEADERS if name.lower() not in present]


def status_and_headers(response: Response) -> Tuple[str, Headers]:
    """Return the status line and all headers of *response*."""
    own = [("Content-Type", response.content_type), ("Content-Length", str(len(response.body))), *response.headers]
    return "%d %s" % (response.status, responses.get(response.status, "Status")), with_security(own)


def is_loopback_host(host: str) -> bool:
    """Return whether a ``Host`` header names this machine only: ``localhost`` or a loopback address, any port."""
    match = _HOST.match(host)
    if match is None:
        return False
    name = match.group("six") or match.group("name").rstrip(".").lower()
    return name == "localhost" or is_loopback(name)


def is_loopback(address: str) -> bool:
    """Return whether *address* is an IP address of the loopback interface."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)


class _Route:
    """The handlers of one template, by method."""

    def __init__(self, template: str) -> None:
        parts = re.split(r"\{(\w+)\}", template)
        pattern = "".join("(?P<%s>[^/]+)" % part if i % 2 else re.escape(part) for i, part in enumerate(parts))
        self.template = template
        self.pattern = re.compile(pattern + r"\Z")
        self.check_host = True
        self.handlers: Dict[str, Handler] = {}


class App:
    """A WSGI application over a coordinator: ``/metrics``, ``/health``, ``/ready``, an index, and what is added.

    Routes and mounts are added before it serves; answering is safe from any thread.

    :param view: the coordinator.
    :param metrics: shown under ``/metrics``, and told of every answer.
    """

    def __init__(self, view: CoordinatorView, metrics: Metrics, logger: logging.Logger) -> None:
        self._view = view
        self._metrics = metrics
        self._logger = logger
        self._routes: Dict[str, _Route] = {}
        self._mounts: Dict[str, Tuple[WSGIApp, bool]] = {}
        # Scrapers and probes come by whatever name the network gives us, so these never check it.
        self.add("/metrics", self._metrics_page, check_host=False)
        self.add("/health", self._health, check_host=False)
        self.add("/ready", self._ready, check_host=False)
        self.add("/", self._index)

    def add(self, path: str, handler: Handler, methods: Sequence[str] = ("GET",), check_host: bool = True) -> None:
        """Answer *path* by *handler*; the same path and method again replaces it. GET also serves HEAD.

        :param path: ``/api/v1/partitions/{id}``: each ``{name}`` matches one segment. Also the metrics' label.
        :param check_host: on a loopback bind refuse other names in ``Host`` (a web page that points its own name at
            127.0.0.1 could read us otherwise).
        """
        route = self._routes.setdefault(path, _Route(path))
        route.check_host = check_host
        route.handlers.update(dict.fromkeys(methods, handler))
        if "GET" in methods:
            route.handlers["HEAD"] = handler
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

    def refused(self, status: int) -> None:
        """Count an answer that the server gave without asking us."""
        self._metrics.http_request("other", status)

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        method = str(environ.get("REQUEST_METHOD", "GET"))
        path = environ.get("PATH_INFO", "").encode("latin-1", "replace").decode("utf-8", "replace") or "/"
        label = "other"
        failure: Tuple[Any, ...] = ()
        try:
            route, params = self._find(path)
            if route is not None:
                label = route.template
                self._guard(environ, route.check_host)
                response = self._handler(route, method)(Request(environ, method, path, params))
            else:
                prefix = self._mounted(path)
                label = prefix or "/"
                app, check_host = self._mounts[prefix]
                self._guard(environ, check_host)
                return self._pass_on(app, prefix, environ, start_response)
        except HttpError as exc:
            response = exc.response
        except Exception:
            self._logger.exception("HTTP %s: the answer could not be made", label)
            response = error_response(500, INTERNAL_ERROR)
            failure = (sys.exc_info(),)  # tells the server to take this answer also if another one has begun
        self._metrics.http_request(label, response.status)
        status, headers = status_and_headers(response)
        start_response(status, headers, *failure)
        return [] if method == "HEAD" else [response.body]

    def _find(self, path: str) -> Tuple[Optional[_Route], Mapping[str, str]]:
        exact = self._routes.get(path)
        if exact is not None and "{" not in path:
            return exact, {}
        for route in self._routes.values():
            match = route.pattern.match(path)
            if match is not None:
                return route, match.groupdict()
        return None, {}

    def _mounted(self, path: str) -> str:
        fitting = [prefix for prefix in self._mounts if path == prefix or path.startswith(prefix + "/")]
        if not fitting:
            raise HttpError(404, "there is nothing at %s" % path[:200])
        return max(fitting, key=len)

    def _guard(self, environ: Environ, check_host: bool) -> None:
        if check_host and environ.get(LOOPBACK_KEY) and not is_loopback_host(environ.get("HTTP_HOST", "")):
            raise HttpError(403, _WRONG_HOST)

    def _handler(self, route: _Route, method: str) -> Handler:
        handler = route.handlers.get(method)
        if handler is None:
            allowed = ", ".join(sorted(route.handlers))
            raise HttpError(405, "%s answers %s only" % (route.template, allowed), [("Allow", allowed)])
        return handler

    def _pass_on(
        self, app: WSGIApp, prefix: str, environ: Environ, start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        raw = prefix.encode("utf-8").decode("latin-1")
        inner = dict(environ)
        inner["SCRIPT_NAME"] = environ.get("SCRIPT_NAME", "").rstrip("/") + raw
        inner["PATH_INFO"] = environ.get("PATH_INFO", "")[len(raw) :]

        def start(status: str, headers: Headers, *exc_info: Any) -> Any:
            self._metrics.http_request(prefix or "/", int(status.split(" ", 1)[0]))
            return start_response(status, with_security(headers), *exc_info)

        return app(inner, start)

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
            if path != "/" and "GET" in route.handlers and "{" not in path
        )
        title = html.escape("elk_coordinator %s" % self._view.namespace)
        body = _INDEX % (title, title, html.escape(self._view.worker_id), links)
        return Response(200, body.encode("utf-8"), "text/html; charset=utf-8")
