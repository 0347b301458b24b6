"""Answer one request by a WSGI application, on a socket that the loop of the HTTP server has read the head from.

This is wsgiref, and what has to be different: no DNS, no environment of the process, nothing on stderr, nothing kept
alive, one deadline for a reader, and errors in the same words and with the same headers as the application's.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import socket
import socketserver
import threading
from typing import IO, Any, Dict, Optional, cast
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler, WSGIServer

from elk_coordinator.observability.app import (
    INTERNAL_ERROR,
    LOOPBACK_KEY,
    WSGIApp,
    error_response,
    is_loopback,
    status_and_headers,
    with_security,
)
from elk_coordinator.runtime.clock import Clock

#: Bytes of a request's first line and headers.
MAX_HEAD = 64 * 1024
HEAD_END = re.compile(rb"\r?\n\r?\n")
#: After an answer that did not want the body: how long, and how many bytes, the rest of it is taken and thrown away.
LINGER_TIME = 2.0
LINGER_BYTES = 8 * 1024 * 1024
#: Connections treated so at the same time; others are closed at once. Nobody may fill all places with them.
MAX_LINGERING = 4


class _Incoming(io.RawIOBase):
    """A request as a stream: first the bytes that the loop has read already, then the socket.

    One deadline for all of it: a client that sends its body byte by byte holds a thread no longer than another.
    """

    def __init__(self, head: bytes, connection: socket.socket, clock: Clock, timeout: float) -> None:
        self._rest = memoryview(head)
        self._connection = connection
        self._clock = clock
        self._deadline = clock.monotonic() + timeout
        #: Bytes that have come in.
        self.taken = len(head)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            left = self._deadline - self._clock.monotonic()
            if left <= 0:
                raise socket.timeout("the request did not come in time")
            self._connection.settimeout(left)
            size = self._connection.recv_into(buffer)
            self.taken += size
            return size
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


class _Outbox(io.BytesIO):
    """Gathers status line, headers and body, and sends them at once: one deadline covers a slow reader."""

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        super().__init__()
        self._connection = connection
        self._timeout = timeout

    def flush(self) -> None:
        data = self.getvalue()
        self.seek(0)
        self.truncate()
        if data:
            self._connection.settimeout(self._timeout)
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
    error_body = error_response(500, INTERNAL_ERROR).body
    request_handler: RequestHandler

    def log_exception(self, exc_info: Any) -> None:
        gone = isinstance(exc_info[1], OSError)  # the application catches its own: this one is a slow or absent client
        level = logging.DEBUG if gone else logging.WARNING
        self.request_handler.server.logger.log(level, "HTTP: no full answer", exc_info=exc_info)


def bare_answer(status: int, message: str) -> bytes:
    """Return a whole HTTP answer, for requests that no application sees."""
    more = [("Retry-After", "1")] if status == 503 else []
    response = error_response(status, message, [("Connection", "close"), *more])
    line, headers = status_and_headers(response)
    lines = ["HTTP/1.0 " + line] + ["%s: %s" % pair for pair in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii") + response.body


class RequestHandler(WSGIRequestHandler):
    """One request on one connection, then the end; nothing is kept alive."""

    server: ListeningSocket

    def setup(self) -> None:
        connection, head = self.request
        self.connection = connection
        end = HEAD_END.search(head)
        self._body_begin = end.end() if end else len(head)
        self._incoming = _Incoming(head, connection, self.server.clock, self.server.request_timeout)
        self.rfile = io.BufferedReader(self._incoming)
        self.wfile = _Outbox(connection, self.server.request_timeout)

    def handle(self) -> None:
        self.raw_requestline = self.rfile.readline(MAX_HEAD + 1)
        if not self.parse_request():  # an error has been sent
            return
        streams = cast(IO[bytes], self.rfile), cast(IO[bytes], self.wfile)
        answer = _Answer(*streams, _LogStream(self.server.logger), self.get_environ())
        answer.request_handler = self
        answer.run(self.server.app)
        if self._body_is_left():
            self._linger()

    def _body_is_left(self) -> bool:
        if "transfer-encoding" in self.headers:
            return True
        length = str(self.headers.get("content-length") or "").strip()
        # More digits than any body has: no need to count.
        missing = not length.isdigit() or len(length) > 18 or self._incoming.taken < self._body_begin + int(length)
        return bool(length) and missing

    def _linger(self) -> None:
        """Take the rest of a body that nobody wanted: closed over unread input, the connection would be reset and the
        answer lost on its way."""
        places = self.server.lingering
        if not places.acquire(blocking=False):
            return
        clock, until, taken = self.server.clock, self.server.clock.monotonic() + LINGER_TIME, 0
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            stack.callback(places.release)
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_WR)
            while taken < LINGER_BYTES and clock.monotonic() < until:
                self.connection.settimeout(max(0.001, until - clock.monotonic()))
                data = self.connection.recv(64 * 1024)
                if not data:
                    break
                taken += len(data)

    def send_error(self, code: int, message: Optional[str] = None, explain: Optional[str] = None) -> None:
        self.log_request(code)
        self.wfile.write(bare_answer(code, message or self.responses[code][0]))

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        path = (getattr(self, "path", None) or "").split("?", 1)[0]  # a query may hold what no log should
        self.server.logger.debug("HTTP %s %.200r from %s: %s", self.command, path, self.client_address[0], code)

    def log_message(self, format: str, *args: Any) -> None:
        self.server.logger.debug("HTTP: " + format, *args)


class ListeningSocket(WSGIServer):
    """The listening socket, and what wsgiref's handler wants to know."""

    allow_reuse_address = os.name == "posix"  # elsewhere it would let two processes listen on one port
    allow_reuse_port = False
    request_queue_size = 64

    def __init__(
        self,
        family: socket.AddressFamily,
        address: Any,
        app: WSGIApp,
        logger: logging.Logger,
        clock: Clock,
        timeout: float,
    ) -> None:
        self.address_family = family
        self.logger = logger
        self.clock = clock
        self.lingering = threading.BoundedSemaphore(MAX_LINGERING)
        self.request_timeout = timeout
        self.app = app
        super().__init__(address, RequestHandler)
        self.socket.setblocking(False)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # not HTTPServer's: that one asks the DNS for our name
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()
        self.base_environ[LOOPBACK_KEY] = is_loopback(self.server_name)
