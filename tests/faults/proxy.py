"""A TCP proxy of our own between workers and the server, which loses, delays and breaks what passes through it.

One thread, so every change of behaviour holds from one read to the next. It counts the commands that clients send.
"""

from __future__ import annotations

import collections
import contextlib
import selectors
import socket
import struct
import threading
from typing import Any, Counter, Deque, Dict, List, Optional, Tuple
from urllib.parse import urlsplit, urlunsplit

from elk_coordinator.runtime.clock import Clock

SCRIPTS = ("EVALSHA", "EVAL")


class _Commands:
    """Finds the commands in what a client sends."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> List[str]:
        self._data += data
        found: List[str] = []
        while True:
            end = self._parse()
            if end is None:
                return found
            words, length = end
            self._data = self._data[length:]
            found.append(words)

    def _parse(self) -> Optional[Tuple[str, int]]:
        data = self._data
        line = data.find(b"\r\n")
        if line < 0:
            return None
        if data[:1] != b"*":
            return data[:line].decode("latin-1").split(" ")[0].upper(), line + 2
        at, name = line + 2, ""
        for number in range(int(data[1:line])):
            line = data.find(b"\r\n", at)
            if line < 0:
                return None
            size = int(data[at + 1 : line])
            at = line + 2 + size + 2
            if len(data) < at:
                return None
            if number == 0:
                name = data[line + 2 : line + 2 + size].decode("latin-1").upper()
        return name, at


class _Pair:
    """A client's connection and ours to the server."""

    def __init__(self, client: socket.socket, server: Optional[socket.socket]) -> None:
        self.client = client
        self.server = server
        self.commands = _Commands()
        #: The next reply is swallowed, and then the connection is closed.
        self.swallow = False
        #: Something was dropped: the stream makes no sense any more.
        self.torn = False


class Proxy:
    """Listens on a loopback port and forwards to the server of *url*; :attr:`url` leads through it. Thread-safe."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 6379)
        self._clock = Clock()
        self._lock = threading.Lock()
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(128)
        self._listener.setblocking(False)
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._pairs: Dict[socket.socket, _Pair] = {}
        self._late: Deque[Tuple[float, socket.socket, bytes]] = collections.deque()
        self._mode = "forward"
        self._delay = 0.0
        self._every = 0
        self._seen_scripts = 0
        self._ended = False
        #: Commands that came from clients, by name.
        self.commands: Counter[str] = collections.Counter()
        #: Replies swallowed, connections cut.
        self.swallowed = 0
        self.cut_off = 0
        at = self._listener.getsockname()[1]
        credentials = "%s@" % parts.netloc.rpartition("@")[0] if "@" in parts.netloc else ""
        self.url = urlunsplit(parts._replace(netloc="%s127.0.0.1:%d" % (credentials, at)))
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    # -- from the test

    def drop(self) -> None:
        """Lose everything in both directions, without a word (a black hole); new connections are taken and ignored."""
        self._set(mode="drop")

    def hold(self) -> None:
        """Deliver nothing for now; :meth:`heal` delivers it late, also what its sender has given up."""
        self._set(mode="hold")

    def delay(self, seconds: float) -> None:
        """Deliver everything so much later, in both directions."""
        self._set(delay=seconds)

    def swallow_every(self, n: int) -> None:
        """Run every *n*-th script call, swallow its reply and close the connection. 0: no more."""
        self._set(every=n)

    def cut(self) -> None:
        """Reset all connections there are."""
        self._set(cut=True)

    def heal(self) -> None:
        """Forward again. Connections that lost something are reset: their streams make no sense any more."""
        self._set(mode="forward", delay=0.0, every=0)

    def close(self) -> None:
        self._ended = True
        self._poke()
        self._thread.join(10.0)
        with contextlib.suppress(OSError):
            self._waker.close()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()

    def _set(self, cut: bool = False, mode: Optional[str] = None, delay: Optional[float] = None,
             every: Optional[int] = None) -> None:  # fmt: skip
        with self._lock:
            if mode is not None:
                self._mode = mode
            if delay is not None:
                self._delay = delay
            if every is not None:
                self._every = every
            if mode == "forward" or cut:
                for pair in set(self._pairs.values()):
                    if pair.torn or cut:
                        self.cut_off += 1
                        self._end(pair, reset=True)
                    elif pair.server is None:
                        self._connect(pair)
                if mode == "forward":
                    for held in self._pairs:
                        self._watch(held)
        self._poke()

    def _poke(self) -> None:
        with contextlib.suppress(OSError):
            self._waker.send(b"x")

    # -- the thread

    def _run(self) -> None:
        while not self._ended:
            with self._lock:
                wait = self._deliver_late()
            ready = self._selector.select(wait)
            with self._lock:
                for key, _ in ready:
                    if key.fileobj is self._wake:
                        with contextlib.suppress(OSError):
                            self._wake.recv(4096)
                    elif key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj in self._pairs:
                        self._pass_on(key.fileobj)  # type: ignore[arg-type]
        with self._lock:
            for pair in set(self._pairs.values()):
                self._end(pair)
        self._selector.close()
        self._listener.close()
        self._wake.close()

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = _Pair(client, None)
        self._pairs[client] = pair
        self._watch(client)
        if self._mode == "forward":
            self._connect(pair)

    def _connect(self, pair: _Pair) -> None:
        try:
            server = socket.create_connection(self._target, timeout=5.0)
        except OSError:
            self._end(pair, reset=True)
            return
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair.server = server
        self._pairs[server] = pair
        self._watch(server)

    def _watch(self, side: socket.socket) -> None:
        with contextlib.suppress(KeyError):
            self._selector.register(side, selectors.EVENT_READ)

    def _pass_on(self, source: socket.socket) -> None:
        pair = self._pairs[source]
        if self._mode == "hold" or (pair.server is None and self._mode != "drop"):
            # Left in the kernel's buffer, and not looked at until it is delivered.
            self._selector.unregister(source)
            return
        try:
            data = source.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._end(pair)
            return
        target = pair.server if source is pair.client else pair.client
        if source is pair.client:
            for name in pair.commands.feed(data):
                self.commands[name] += 1
                if name in SCRIPTS and self._every:
                    self._seen_scripts += 1
                    pair.swallow = pair.swallow or self._seen_scripts % self._every == 0
        elif pair.swallow:
            self.swallowed += 1
            self._end(pair, reset=True)
            return
        if self._mode == "drop" or target is None:
            pair.torn = True
        elif self._delay:
            self._late.append((self._clock.monotonic() + self._delay, target, data))
        else:
            self._send(target, data)

    def _deliver_late(self) -> Optional[float]:
        while self._late:
            due, target, data = self._late[0]
            left = due - self._clock.monotonic()
            if left > 0:
                return left
            self._late.popleft()
            if target in self._pairs:
                self._send(target, data)
        return None

    def _send(self, target: socket.socket, data: bytes) -> None:
        try:
            target.settimeout(5.0)
            target.sendall(data)
        except OSError:
            if target in self._pairs:
                self._end(self._pairs[target], reset=True)

    def _end(self, pair: _Pair, reset: bool = False) -> None:
        for side in (pair.client, pair.server):
            if side is None:
                continue
            self._pairs.pop(side, None)
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(side)
            if reset:
                with contextlib.suppress(OSError):
                    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            side.close()
