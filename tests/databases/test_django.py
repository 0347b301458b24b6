"""The guards on Django's own connections to PostgreSQL: the common scenes, and a connection that dies in a batch."""

from __future__ import annotations

from typing import Iterator

import pytest
from django.db import connections

from elk_coordinator.contrib.django import DjangoDatabase
from elk_coordinator.contrib.sql import Database
from tests.contrib.djsite import fixtures  # noqa: F401  (sets Django up)
from tests.contrib.guard_scenes import GuardScenes
from tests.databases import test_guards
from tests.databases.servers import Place

ALIAS = "place"


@pytest.fixture
def database(postgres: Place) -> Iterator[Database]:
    connections.settings[ALIAS] = dict(
        connections.settings["default"], ENGINE="django.db.backends.postgresql", NAME=postgres.name, USER="elk",
        HOST=str(postgres.server.folder), OPTIONS={},
    )  # fmt: skip
    yield DjangoDatabase(ALIAS)
    connections[ALIAS].close()
    del connections[ALIAS], connections.settings[ALIAS]


class TestOnDjangoWithPostgres(GuardScenes):
    @pytest.fixture(autouse=True)
    def on(self, postgres: Place) -> None:
        self.place = postgres

    kill = test_guards.TestOnServers.kill
    test_a_connection_that_is_dropped_inside_a_batch_has_it_done_again = (
        test_guards.TestOnServers.test_a_connection_that_is_dropped_inside_a_batch_has_it_done_again
    )
    test_a_connection_that_is_dropped_again_and_again_fails_the_attempt = (
        test_guards.TestOnServers.test_a_connection_that_is_dropped_again_and_again_fails_the_attempt
    )
