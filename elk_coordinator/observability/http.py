"""Serve one WSGI application from inside the worker's process: wsgiref with a thread per request behind a loop.

The loop waits until the head of a request is complete, so a client that sends nothing, or half a request, costs a
socket and never a thread.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import selectors
import socket
import threading
from typing import Any, Dict, Optional, Tuple

import attr

from elk_coordinator.config import parse_address
from elk_coordinator.errors import StateError
from elk_coordinator.observability.app import App, WSGIApp
from elk_coordinator.observability.wsgi import HEAD_END, MAX_HEAD, ListeningSocket, RequestHandler, bare_answer
from elk_coordinator.runtime.clock import Clock

#: Seconds from the connection to the complete head of a request, then for the body, then for the answer.
REQUEST_TIMEOUT = 10.0
#: Requests answered at the same time; further ones get 503.
MAX_REQUESTS = 16
#: Connections that have not sent a whole head yet; beyond it the oldest goes.
MAX_WAITING = 128


@attr.s(auto_attribs=True, slots=True, eq=False)
class _Waiting:
    """A connection whose request is not complete yet."""

    address: Any
    deadline: float
    head: bytearray = attr.Factory(bytearray)


def _end(sock: socket.socket, answer: bytes = b"") -> None:
    """Send *answer* as far as that needs no waiting, and close the connection; never raises."""
    with contextlib.suppress(OSError):  # the client was faster
        if answer:
            sock.send(answer)
        sock.shutdown(socket.SHUT_WR if answer else socket.SHUT_RDWR)
    sock.close()


class HttpServer:
    """Listens, waits for whole requests and answers each in a daemon thread. Every method is safe from any thread.

    :param app: any WSGI application.
    :param addr: ``"host:port"`` or ``"host:first-last"``, see :func:`elk_coordinator.config.parse_address`.
    :param clock: measures the deadline of a request's head.
    :param request_timeout: seconds a client has to send its request's head, then for its body, then for the answer.
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
        self._closed = threading.Event()
        #: Guards the fields below; notified when a request or the loop ends.
        self._changed = threading.Condition()
        self._server: Optional[ListeningSocket] = None
        #: A byte sent into the second comes out of the first and ends the loop's wait.
        self._wake: Optional[Tuple[socket.socket, socket.socket]] = None
        self._serving: Optional[threading.Thread] = None
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

    def _listen(self) -> ListeningSocket:
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
                return ListeningSocket(family, address, self._app, self._logger, self._clock, self._request_timeout)
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
        try:
            self._loop(server, wake)
        finally:
            with self._changed:
                self._serving = None
                if self._closed.is_set():
                    self._release()
                self._changed.notify_all()

    def close(self, timeout: float = 1.0) -> bool:
        """Stop listening, drop unfinished requests, wait up to *timeout* seconds for those being answered.

        :return: whether nothing is left; if not, answers still run in daemon threads, their connections cut.
        """
        me = threading.current_thread()

        def ended() -> bool:
            return self._serving in (None, me) and not set(self._requests) - {me}

        with self._changed:
            self._closed.set()
            if self._serving is None:
                self._release()
            elif self._wake is not None:
                with contextlib.suppress(OSError):  # full: it is awake already
                    self._wake[1].send(b"x")
            if self._changed.wait_for(ended, timeout):
                return True
            for thread, sock in self._requests.items():
                if thread is not me:
                    with contextlib.suppress(OSError):
                        sock.shutdown(socket.SHUT_RDWR)
            return self._changed.wait_for(ended, 0.1)  # a thread that only waited for its client ends by the cut

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
    def _loop(self, server: ListeningSocket, wake: socket.socket) -> None:
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

    def _take(self, selector: selectors.BaseSelector, sock: socket.socket) -> _Waiting:
        selector.unregister(sock)
        return self._waiting.pop(sock)

    def _drop_oldest(self, selector: selectors.BaseSelector) -> None:
        for sock in list(self._waiting)[:1]:
            self._take(selector, sock)
            _end(sock)

    def _drop_overdue(self, selector: selectors.BaseSelector) -> Optional[float]:
        """End connections that took too long; return the seconds until the next one does, None without any."""
        now = self._clock.monotonic()
        while self._waiting:
            left = next(iter(self._waiting.values())).deadline - now
            if left > 0:
                return left
            self._drop_oldest(selector)
        return None

    def _accept(self, server: ListeningSocket, selector: selectors.BaseSelector) -> None:
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

    def _read(self, server: ListeningSocket, selector: selectors.BaseSelector, sock: socket.socket) -> None:
        entry = self._waiting[sock]
        searched = max(0, len(entry.head) - 3)
        try:
            data = sock.recv(64 * 1024)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        entry.head += data
        end = HEAD_END.search(entry.head, searched)
        if data and end is None and len(entry.head) <= MAX_HEAD:
            return
        self._take(selector, sock)
        if not data:
            _end(sock)
        elif end is None or end.start() > MAX_HEAD:
            self._refuse(sock, 431, "the request's headers are larger than %d bytes" % MAX_HEAD)
        elif not self._start(server, sock, entry):
            self._refuse(sock, 503, "too many requests at the same time; try again in a second")

    def _refuse(self, sock: socket.socket, status: int, message: str) -> None:
        if isinstance(self._app, App):
            self._app.refused(status)
        _end(sock, bare_answer(status, message))

    def _start(self, server: ListeningSocket, sock: socket.socket, entry: _Waiting) -> bool:
        """Answer a request in a thread of its own; return False when there is no place for one."""
        with self._changed:
            if len(self._requests) >= self._max_requests:
                return False
            self._count += 1
            name = "%s_%d" % (threading.current_thread().name, self._count)
            thread = threading.Thread(target=self._answer, args=(server, sock, entry), name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError as exc:  # no thread to be had
                self._logger.debug("HTTP: %s", exc)
                return False
            self._requests[thread] = sock  # before it can end: for that it needs the lock
            return True

    def _answer(self, server: ListeningSocket, sock: socket.socket, entry: _Waiting) -> None:
        """Answer one request; the body of its thread."""
        try:
            request: Any = (sock, bytes(entry.head))
            RequestHandler(request, entry.address, server)
        except OSError as exc:
            self._logger.debug("HTTP: a connection broke: %s", exc)
        except Exception:
            self._logger.exception("HTTP: a request could not be answered")
        finally:
            _end(sock)
            with self._changed:
                self._requests.pop(threading.current_thread(), None)
                self._changed.notify_all()
