"""Clocks that run wrong: of a worker's host, injected into its process, and of the server, by libfaketime or a script.

libfaketime moves the wall clock alone here: when it fakes the monotonic clock too, waits with a timeout never end
(checked with 0.9.10 and glibc 2.36). Other rates and a host's suspension are therefore injected.
"""

from __future__ import annotations

import contextlib
import glob
import os
import pathlib
import threading
from typing import Any, Dict, Iterator, List, Optional

import redis

import elk_coordinator
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.store.scripts import Scripts
from elk_coordinator.testing import EmbeddedServer

#: Debian package libfaketime; None where it is not installed: then only the injected clocks are tested.
LIBRARY: Optional[str] = next(iter(sorted(glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1"))), None)
#: How a server's clock is moved.
WAYS = ["script", "libfaketime"] if LIBRARY else ["script"]
#: Holds what the scripts add to the server's time; no key of a namespace.
OFFSET_KEY = "elk-test-clock"
_ASK = "local time = redis.call('TIME')"
_ADD = _ASK + "\n  time[1] = time[1] + (redis.call('GET', '%s') or 0)" % OFFSET_KEY


class HostClock(Clock):
    """The clocks of one host: its wall clock is off, they run at another rate, and the host may have been suspended.

    :param by_wall: leases are judged by the wall clock: a guard switched off.
    :param stands_still: suspended time is not counted, as CLOCK_MONOTONIC does not: a guard switched off.
    """

    def __init__(
        self, wall: float = 0.0, rate: float = 1.0, by_wall: bool = False, stands_still: bool = False
    ) -> None:
        super().__init__()
        self._wall = wall
        self._rate = rate
        self._by_wall = by_wall
        self._born = super().monotonic()
        self._lock = threading.Lock()
        self._seen, self._asleep = self._born, 0.0
        if stands_still:
            threading.Thread(target=self._watch, name="suspension", daemon=True).start()
        self._stands_still = stands_still

    def _watch(self) -> None:
        never = threading.Event()
        while not never.wait(0.02):
            self._look()

    def _look(self) -> float:
        """Take what passed while nobody looked, longer than any pause of the scheduler, for a suspension."""
        with self._lock:
            now = super().monotonic()
            if now - self._seen > 1.2:
                self._asleep += now - self._seen
            self._seen = now
            return now - self._asleep

    def monotonic(self) -> float:
        if self._by_wall:
            return self.time()
        now = self._look() if self._stands_still else super().monotonic()
        return self._born + (now - self._born) * self._rate

    def time(self) -> float:
        return super().time() + self._wall

    def wait(self, event: threading.Event, timeout: Optional[float]) -> bool:
        return event.wait(timeout if timeout is None else timeout / self._rate)

    def step(self, seconds: float) -> None:
        """Step the wall clock, as NTP does."""
        self._wall += seconds


def moved_scripts() -> List[List[str]]:
    """Return the changes of scripts by which the server's time is what :class:`MovedServer` says."""
    scripts = Scripts()
    return [[path, _ASK, _ADD] for path in _paths() if _ASK in scripts.get(path).source]


def everywhere(old: str, new: str) -> List[List[str]]:
    """Return the changes of every script that holds *old*."""
    scripts = Scripts()
    return [[path, old, new] for path in _paths() if old in scripts.get(path).source]


def _paths() -> List[str]:
    out = []
    for home in ("store", "partition"):
        for path in sorted((pathlib.Path(elk_coordinator.__file__).parent / home / "lua").glob("*.lua")):
            if path.stem not in ("stamp", "state", "intervals"):
                out.append("%s/%s" % (home, path.stem))
    return out


def faked(file: pathlib.Path) -> Dict[str, str]:
    """Return the environment of a process whose wall clock follows *file*."""
    assert LIBRARY is not None
    return {
        "LD_PRELOAD": LIBRARY, "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip


def set_file(file: pathlib.Path, seconds: float) -> None:
    """Have the wall clock of the processes that follow *file* be off by so many seconds."""
    fresh = file.with_suffix(".new")
    fresh.write_text("%+d" % seconds)
    os.replace(str(fresh), str(file))


def clean_up_after(pid: Optional[int]) -> None:
    """Remove what libfaketime leaves in shared memory when its process is killed."""
    for pattern in ("faketime_shm_%s", "sem.faketime_sem_%s"):
        with contextlib.suppress(OSError):
            os.unlink("/dev/shm/" + pattern % pid)


class MovedServer:
    """A server of one's own whose clock is moved: really, under libfaketime, or for its scripts only."""

    def __init__(self, way: str, server: EmbeddedServer, file: pathlib.Path) -> None:
        self.url = server.url
        #: To be changed in whatever talks to it.
        self.scripts = moved_scripts() if way == "script" else []
        self._way = way
        self._file = file
        self.off = 0.0
        self.raw: Any = redis.Redis.from_url(server.url)

    def step(self, seconds: float) -> None:
        """Step its clock."""
        self.off += seconds
        self._show()

    def _show(self) -> None:
        if self._way == "script":
            self.raw.set(OFFSET_KEY, int(self.off))
        else:
            set_file(self._file, self.off)

    def lose_data(self, seconds: float) -> None:
        """Lose everything, and have the clock step in the same moment."""
        self.off += seconds
        if self._way == "script":
            self.raw.pipeline().flushall().set(OFFSET_KEY, int(self.off)).execute()
        else:
            self._show()
            self.raw.flushall()


@contextlib.contextmanager
def moved_server(way: str, folder: pathlib.Path) -> Iterator[MovedServer]:
    """Start such a server for a ``with`` block."""
    file = folder / "server-clock"
    set_file(file, 0)
    before = dict(os.environ)
    # Debian's redis-server does not start under libfaketime (its allocator asks for the time too early).
    server = EmbeddedServer(own=True, prefer="wheel")
    if way == "libfaketime":
        os.environ.update(faked(file))
    try:
        server.start()
    finally:
        os.environ.clear()
        os.environ.update(before)
    pid = server.pid
    moved = MovedServer(way, server, file)
    try:
        yield moved
    finally:
        moved.raw.close()
        server.stop()
        clean_up_after(pid)
