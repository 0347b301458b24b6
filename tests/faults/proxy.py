"""A TCP proxy of our own between workers and the server, which loses, delays and breaks what passes through it.

One thread, so every change of behaviour holds from one read to the next. It counts the commands that clients send.
"""

from __future__ import annotations

import collections
import contextlib
import heapq
import random
import selectors
import socket
import struct
import threading
from typing import Any, Counter, Dict, List, Optional, Set, Tuple
from urllib.parse import urlsplit, urlunsplit

from elk_coordinator.runtime.clock import Clock
from elk_coordinator.testing.server import _free_port
from tests.faults.resp import SCRIPTS, Commands

__all__ = ["SCRIPTS", "Proxy"]

#: What some reply may become: none and a reset, its half and a reset, its half and an end, or nonsense.
SPOILT = ("swallowed", "reset", "truncated", "garbage")
NONSENSE = b"\x16\x03\x01 no reply at all\r\n"


class _Pair:
    """A client's connection and ours to the server."""

    def __init__(self, client: socket.socket, at: float) -> None:
        self.client = client
        self.server: Optional[socket.socket] = None
        self.commands = Commands()
        self.used_at = at
        #: What becomes of the next reply, and then the connection is closed.
        self.spoil: Optional[str] = None
        #: The sides something of whose was lost: all that follows is lost, too, or the stream would make no sense.
        self.lost: Set[socket.socket] = set()
        #: A request of it is delivered late, also when its client is gone by then.
        self.late = False


class Proxy:
    """Listens on a loopback port and forwards to the server of *url*; :attr:`url` leads through it. Thread-safe."""

    def __init__(self, url: str, seed: int = 0) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 6379)
        self._clock = Clock()
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        # Not a port of the system's choice: one that is closed for a while must not become somebody else's.
        self._port = _free_port()
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._listener: Optional[socket.socket] = None
        self._fillers: List[socket.socket] = []
        self._open_door()
        self._pairs: Dict[socket.socket, _Pair] = {}
        self._queue: List[Tuple[float, int, socket.socket, bytes]] = []
        self._queued = 0
        #: By side: when the last of what is queued for it is due.
        self._due: Dict[socket.socket, float] = {}
        self._link_free_at: Dict[bool, float] = {}
        self._straight()
        self._seen_scripts = 0
        self._ended = False
        #: Commands that came from clients, by name.
        self.commands: Counter[str] = collections.Counter()
        #: Replies spoilt; connections reset or forgotten; requests run when their clients had given them up; what was
        #: lost by chance or one way; connections taken.
        self.swallowed = 0
        self.cut_off = 0
        self.ran_late = 0
        self.lost = 0
        self.accepted = 0
        credentials = "%s@" % parts.netloc.rpartition("@")[0] if "@" in parts.netloc else ""
        self.url = urlunsplit(parts._replace(netloc="%s127.0.0.1:%d" % (credentials, self._port)))
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def _straight(self) -> None:
        """Nothing is lost, delayed or broken from now on."""
        self._mode = "forward"
        self._delay, self._jitter = 0.0, 0.0
        self._rate, self._piece = 0.0, 0
        self._every, self._spoil, self._late = 0, "swallowed", 0.0
        self._losing: Tuple[bool, bool] = (False, False)
        self._loss = 0.0
        self._forget_after = 0.0

    # -- from the test

    def drop(self) -> None:
        """Lose everything in both directions, without a word (a black hole); new connections are taken and ignored."""
        self._set(_mode="drop")

    def lose(self, requests: bool = False, replies: bool = False) -> None:
        """Lose all that goes one way, without a word; new connections are made."""
        self._set(_losing=(requests, replies))

    def lose_some(self, share: float) -> None:
        """Lose such a share of what passes, either way, and all that follows it on its connection."""
        self._set(_loss=share)

    def hold(self) -> None:
        """Deliver nothing for now; :meth:`heal` delivers it late, also what its sender has given up."""
        self._set(_mode="hold")

    def delay(self, seconds: float, jitter: float = 0.0) -> None:
        """Deliver everything so much later and up to *jitter* more, in both directions; each keeps its order."""
        self._set(_delay=seconds, _jitter=jitter)

    def limit(self, rate: float, piece: int = 1460) -> None:
        """Let so many bytes a second through, each way, *piece* by piece."""
        self._set(_rate=rate, _piece=piece)

    def swallow_every(self, n: int) -> None:
        """Run every *n*-th script call, swallow its reply and close the connection. 0: no more."""
        self.spoil_every(n, "swallowed")

    def spoil_every(self, n: int, how: str) -> None:
        """Run every *n*-th script call and spoil its reply, one of :data:`SPOILT`. 0: no more."""
        assert how in SPOILT, how
        self._set(_every=n, _spoil=how, _late=0.0)

    def delay_every(self, n: int, seconds: float) -> None:
        """Deliver every *n*-th script call so much later, whether or not its client still waits. 0: no more."""
        self._set(_every=n, _late=seconds)

    def refuse(self) -> None:
        """Refuse new connections. What there is stays."""
        with self._lock:
            self._close_door()

    def hang(self) -> None:
        """Answer new connections' first packet never, as a host that is gone does. What there is stays."""
        with self._lock:
            assert self._listener is not None
            self._selector.unregister(self._listener)
            self._listener.listen(0)
            for _ in range(3):
                filler = socket.socket()
                filler.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    filler.connect(("127.0.0.1", self._port))
                self._fillers.append(filler)

    def cut(self) -> None:
        """Reset all connections there are."""
        with self._lock:
            self._cut(lambda pair: True)
        self._poke()

    def forget(self) -> int:
        """Forget all connections there are without a word: clients believe them open. Return how many."""
        with self._lock:
            pairs = set(self._pairs.values())
            for pair in pairs:
                self._forget(pair)
        self._poke()
        return len(pairs)

    def forget_idle(self, seconds: float) -> None:
        """Forget any connection, without a word, once nothing has passed on it for so long: what a NAT does."""
        self._set(_forget_after=seconds)

    def heal(self) -> None:
        """Forward again. Connections that lost something are reset: their streams make no sense any more."""
        with self._lock:
            self._straight()
            self._cut(lambda pair: bool(pair.lost))
            self._open_door()
            for pair in set(self._pairs.values()):
                if pair.server is None:
                    self._connect(pair)
            for held in self._pairs:
                self._watch(held)
        self._poke()

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

    def _set(self, **behaviour: Any) -> None:
        with self._lock:
            self.__dict__.update(behaviour)
        self._poke()

    def _poke(self) -> None:
        with contextlib.suppress(OSError):
            self._waker.send(b"x")

    # -- the door

    def _open_door(self) -> None:
        fillers, self._fillers = self._fillers, []
        for filler in fillers:
            filler.close()
        if self._listener is None:
            self._listener = socket.socket()
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(("127.0.0.1", self._port))
            self._listener.setblocking(False)
        self._listener.listen(128)
        self._watch(self._listener)

    def _close_door(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(listener)
            listener.close()

    def _accept(self) -> None:
        try:
            assert self._listener is not None
            client, _ = self._listener.accept()
        except OSError:
            return
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = _Pair(client, self._clock.monotonic())
        self.accepted += 1
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

    # -- the thread

    def _run(self) -> None:
        while not self._ended:
            with self._lock:
                wait = self._deliver()
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
            self._close_door()
            for filler in self._fillers:
                filler.close()
        self._selector.close()
        self._wake.close()

    def _pass_on(self, source: socket.socket) -> None:
        pair = self._pairs[source]
        asks = source is pair.client
        waits = pair.server is None and self._mode != "drop" and not pair.lost
        if self._mode == "hold" or waits:
            # Left in the kernel's buffer, and not looked at until it is delivered.
            self._selector.unregister(source)
            return
        try:
            data = source.recv(65536)
        except OSError:
            data = b""
        if not data:
            if asks and pair.late:
                self._leave(pair)
            else:
                self._end(pair)
            return
        now = self._clock.monotonic()
        if self._forget_after and now - pair.used_at > self._forget_after:
            self._forget(pair)
        pair.used_at = now
        late = self._look(pair, data) if asks else 0.0
        if pair.client not in self._pairs:
            # The answer to what ran after its client had given it up.
            self.ran_late += 1
            self._end(pair)
        elif not asks and pair.spoil:
            self._spoil_reply(pair, data)
        elif self._loses(asks) or source in pair.lost:
            self.lost += source not in pair.lost
            pair.lost.add(source)
        else:
            target = pair.server if asks else pair.client
            assert target is not None
            self._forward(target, data, asks, late)

    def _look(self, pair: _Pair, data: bytes) -> float:
        """Count the commands, and choose those that something happens to; return how much later to deliver them."""
        late = 0.0
        for name in pair.commands.feed(data):
            self.commands[name] += 1
            if name not in SCRIPTS or not self._every:
                continue
            self._seen_scripts += 1
            if self._seen_scripts % self._every == 0:
                if self._late:
                    late = self._late
                    pair.late = True
                else:
                    pair.spoil = self._spoil
        return late

    def _loses(self, asks: bool) -> bool:
        if self._mode == "drop" or self._losing[0 if asks else 1]:
            return True
        return bool(self._loss) and self._random.random() < self._loss

    def _spoil_reply(self, pair: _Pair, data: bytes) -> None:
        self.swallowed += 1
        if pair.spoil == "garbage":
            self._send(pair.client, NONSENSE)
        elif pair.spoil != "swallowed":
            self._send(pair.client, data[: len(data) // 2])
        self._end(pair, reset=pair.spoil in ("swallowed", "reset"))

    def _forward(self, target: socket.socket, data: bytes, asks: bool, late: float) -> None:
        now = self._clock.monotonic()
        due = now + self._delay + late
        if self._jitter:
            due += self._random.uniform(0.0, self._jitter)
        step = self._piece if self._rate else len(data)
        for at in range(0, len(data), step):
            piece = data[at : at + step]
            if self._rate:
                due = self._link_free_at[asks] = max(due, self._link_free_at.get(asks, 0.0)) + len(piece) / self._rate
            due = max(due, self._due.get(target, 0.0))
            if due <= now:
                self._send(target, piece)
                continue
            self._due[target] = due
            self._queued += 1
            heapq.heappush(self._queue, (due, self._queued, target, piece))

    def _deliver(self) -> Optional[float]:
        while self._queue:
            due, _, target, data = self._queue[0]
            left = due - self._clock.monotonic()
            if left > 0:
                return left
            heapq.heappop(self._queue)
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

    # -- ends

    def _cut(self, chosen: Any) -> None:
        for pair in set(self._pairs.values()):
            if chosen(pair):
                self.cut_off += 1
                self._end(pair, reset=True)

    def _forget(self, pair: _Pair) -> None:
        """Close our connection to the server; the client is told nothing, now or later."""
        self.cut_off += 1
        pair.lost.add(pair.client)
        server, pair.server = pair.server, None
        if server is not None:
            self._close_side(server, False)

    def _leave(self, pair: _Pair) -> None:
        """The client has given up, what it sent is still on its way."""
        self._close_side(pair.client, False)

    def _end(self, pair: _Pair, reset: bool = False) -> None:
        for side in (pair.client, pair.server):
            if side is not None:
                self._close_side(side, reset)

    def _close_side(self, side: socket.socket, reset: bool) -> None:
        self._pairs.pop(side, None)
        self._due.pop(side, None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(side)
        if reset:
            with contextlib.suppress(OSError):
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        side.close()
