"""Fixtures of the fault tests: fleets of worker processes that end with their test, and proxies."""

from __future__ import annotations

import contextlib
import os
import pathlib
from typing import Callable, Iterator, Optional

import pytest

from elk_coordinator.testing import EmbeddedServer
from tests.faults.fleet import LEASE, Fleet
from tests.faults.proxy import Proxy


@pytest.fixture
def new_fleet(tmp_path: pathlib.Path, redis_url: str, namespace: str) -> Iterator[Callable[..., Fleet]]:
    """Return a function that makes a fleet (``last`` ID, and ``name``, ``url``, ``size``); all end with the test."""
    with contextlib.ExitStack() as stack:

        def make(last: int, name: str = "main", url: str = redis_url, size: int = 10) -> Fleet:
            fleet = Fleet(tmp_path, url, "%s.%s" % (namespace, name), last, size)
            stack.callback(fleet.dispose)
            return fleet

        yield make


@pytest.fixture
def new_proxy() -> Iterator[Callable[..., Proxy]]:
    """Return a function that starts a proxy before the server at a URL; all end with the test."""
    with contextlib.ExitStack() as stack:

        def make(url: str, seed: int = 0) -> Proxy:
            return stack.enter_context(Proxy(url, seed))

        yield make


@pytest.fixture(scope="session", autouse=True)
def long_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Optional[Fleet]]:
    """Return a fleet whose two processors take twenty leases each: it runs beside the other cases, costing nothing."""
    if not any(item.path.name == "test_twenty_leases.py" for item in request.session.items):
        yield None
        return
    with EmbeddedServer(own=True, prefer=os.environ.get("ELK_TEST_SERVER") or None) as server:
        fleet = Fleet(tmp_path_factory.mktemp("long"), server.url, "long-run", 20)
        try:
            for name in ("one", "two"):
                fleet.start(name, {"pause": 20 * LEASE}, options={"task_window_size": 1}, tell_also=["heartbeat"])
            yield fleet
        finally:
            fleet.dispose()
