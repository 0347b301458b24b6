"""Fixtures every test may use, and the rules every test obeys: a time limit, and no thread of ours left behind."""

from __future__ import annotations

import contextlib
import datetime
import faulthandler
import itertools
import json
import os
import platform
import re
import signal
import threading
from typing import Any, Callable, Dict, Iterator

import fakeredis
import hypothesis
import pytest
import redis

from elk_coordinator.testing import EmbeddedServer, wait_until

#: Seconds for each of setup, call and teardown of a test without a ``timeout`` mark.
DEFAULT_TIMEOUT = 60.0
#: Seconds that threads of ours get to end after a test.
THREADS_END = 5.0
DATABASES = 256

hypothesis.settings.register_profile("elk", deadline=None)
hypothesis.settings.register_profile("ci", parent=hypothesis.settings.get_profile("elk"), print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "elk")

_labels = []
_numbers = itertools.count(1)


# -- a time limit per test -------------------------------------------------------------------------------------------

#: The stderr of the run, not what pytest puts in its place during a test: there the last words would be lost.
_stderr = -1


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-report", help="write outcomes, seconds and what was printed to this JSON file")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--fault-report")
    if path:
        config.pluginmanager.register(_Report(path))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A script that starts the tests with "&" has SIGINT ignored, and every process of the tests would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    global _stderr
    _stderr = os.dup(2)


@contextlib.contextmanager
def _time_limit(item: pytest.Item) -> Iterator[None]:
    mark = item.get_closest_marker("timeout")
    seconds = float(mark.args[0]) if mark is not None else DEFAULT_TIMEOUT

    def ring(signum: int, frame: Any) -> None:
        faulthandler.dump_traceback(file=_stderr, all_threads=True)
        pytest.fail("took longer than %g s; the stacks of all threads are on stderr" % seconds)

    # The alarm fails one test; behind it, for code that lets no signal through, the stacks and the end of the run.
    faulthandler.dump_traceback_later(2 * seconds + 30, exit=True, file=_stderr)
    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    with _time_limit(item):
        yield


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with _time_limit(item):
        yield


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    with _time_limit(item):
        yield


# -- numbers for the documentation -----------------------------------------------------------------------------------


class _Report:
    """Keeps what passing tests print, for the fault table."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._tests: Dict[str, Any] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            numbers = [line for line in report.capstdout.splitlines() if line.strip()]
            self._tests[report.nodeid] = {
                "outcome": report.outcome, "seconds": round(report.duration, 2), "numbers": numbers,
            }  # fmt: skip

    def pytest_sessionfinish(self) -> None:
        with open(self._path, "w", encoding="utf-8") as file:
            json.dump({**_machine(), "servers": sorted(set(_labels)), "tests": self._tests}, file, indent=1,
                      sort_keys=True)  # fmt: skip


def _machine() -> Dict[str, Any]:
    """Return what numbers depend on, and nothing that says whose machine it is."""
    return {
        "date": datetime.date.today().isoformat(), "python": platform.python_version(), "cores": os.cpu_count(),
        "machine": "%s %s" % (platform.system(), platform.machine()), "load": round(os.getloadavg()[1], 1),
    }  # fmt: skip


# -- nothing left behind ---------------------------------------------------------------------------------------------


def our_threads() -> "set[threading.Thread]":
    """Return the living threads that the library made."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("elk-")}


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """Fail a test that leaves a thread of ours running."""
    before = our_threads()
    yield
    wait_until(
        lambda: not our_threads() - before,
        THREADS_END,
        lambda: "the test left threads: %s" % ", ".join(sorted(t.name for t in our_threads() - before)),
    )


# -- servers ---------------------------------------------------------------------------------------------------------


def _start(**options: Any) -> EmbeddedServer:
    """Start a real server; ``ELK_TEST_SERVER`` (path or wheel) says which it must be. Fails, never skips."""
    wanted = os.environ.get("ELK_TEST_SERVER") or None
    server = EmbeddedServer(prefer=wanted, **options).start()
    if server.simulated or (wanted and server.source != wanted):
        label = server.label
        server.stop()
        pytest.fail("these tests need a real server%s, found only %s" % (wanted and " from " + wanted or "", label))
    if server.label not in _labels:
        _labels.append(server.label)
    return server


@pytest.fixture(scope="session")
def real_server() -> Iterator[EmbeddedServer]:
    """The real server of the whole run; use ``redis_url``, and ``new_server`` for one that may be killed."""
    if os.environ.get("ELK_REDIS_URL"):
        server = _start()
        with contextlib.closing(redis.Redis.from_url(server.url)) as client:
            if client.dbsize():
                pytest.fail("the database at ELK_REDIS_URL is not empty, and the tests empty it: name another one")
    else:
        server = _start(extra_args=("--databases", str(DATABASES)))
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def redis_url(real_server: EmbeddedServer) -> str:
    """Return the URL of an empty database on the real server, this test's own."""
    url = real_server.url
    if real_server.source != "url":
        url = re.sub(r"/0\Z", "/%d" % (next(_numbers) % DATABASES), url)
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        client.flushdb()
    return url


@pytest.fixture
def new_server() -> Iterator[Callable[..., EmbeddedServer]]:
    """Return a function that starts a real server of the test's own (options of EmbeddedServer); all are stopped."""
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> EmbeddedServer:
            server = _start(own=True, **options)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def fake_server() -> fakeredis.FakeServer:
    """Return an empty in-process fake; clients: ``fakeredis.FakeRedis(server=fake_server)``."""
    return fakeredis.FakeServer()


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> str:
    """Return a namespace that no other test of this run uses."""
    return "%s.%d" % (re.sub(r"[^A-Za-z0-9_-]+", "-", request.node.name)[:60], next(_numbers))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for label in _labels:
        terminalreporter.write_line("real server: %s" % label)
