"""Servers for this folder, each started once, when first wanted. A missing one is an error that names the package."""

from __future__ import annotations

from typing import Any, Iterator

import pytest

from tests.databases.servers import SERVERS, Place


def _server(name: str) -> Iterator[Any]:
    server = SERVERS[name]()
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Any]:
    yield from _server("postgresql")


@pytest.fixture(scope="session")
def maria_server() -> Iterator[Any]:
    yield from _server("mariadb")


def _place(server: Any) -> Iterator[Place]:
    place = Place(server)
    yield place
    place.close()


@pytest.fixture
def postgres(postgres_server: Any) -> Iterator[Place]:
    """An empty database on PostgreSQL."""
    yield from _place(postgres_server)


@pytest.fixture
def maria(maria_server: Any) -> Iterator[Place]:
    """An empty database on MariaDB."""
    yield from _place(maria_server)


@pytest.fixture(params=sorted(SERVERS))
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """An empty database on each kind of server: the test runs once per kind."""
    name = {"postgresql": "postgres_server", "mariadb": "maria_server"}[request.param]
    yield from _place(request.getfixturevalue(name))
