"""The guards on Django's own connections to PostgreSQL and MariaDB: the common scenes, and connections that die."""

from __future__ import annotations

import contextlib
from typing import Any, Dict, Iterator

import pymysql
import pytest
from django.db import connections

from elk_coordinator.contrib.django import DjangoDatabase
from elk_coordinator.contrib.sql import Database
from tests.contrib.djsite import fixtures  # noqa: F401  (sets Django up)
from tests.contrib.guard_scenes import GuardScenes
from tests.databases import test_guards
from tests.databases.servers import Place

pymysql.install_as_MySQLdb()  # as projects do that have no compiler for mysqlclient
ALIAS = "place"


@pytest.fixture
def database(place: Place) -> Iterator[Database]:
    settings: Dict[str, Any] = {"NAME": place.name, "OPTIONS": {}, "ENGINE": "django.db.backends." + place.dialect}
    if place.dialect == "mysql":
        settings.update(HOST=place.server.socket, USER="root")
    else:
        settings.update(HOST=str(place.server.folder), USER="elk")
    connections.settings[ALIAS] = dict(connections.settings["default"], **settings)
    yield DjangoDatabase(ALIAS)
    connections[ALIAS].close()
    del connections[ALIAS], connections.settings[ALIAS]


class TestOnDjangoWithServers(GuardScenes):
    @pytest.fixture(autouse=True)
    def on(self, place: Place) -> None:
        self.place = place

    kill = test_guards.TestOnServers.kill
    test_a_connection_that_is_dropped_inside_a_batch_has_it_done_again = (
        test_guards.TestOnServers.test_a_connection_that_is_dropped_inside_a_batch_has_it_done_again
    )
    test_a_connection_that_is_dropped_again_and_again_fails_the_attempt = (
        test_guards.TestOnServers.test_a_connection_that_is_dropped_again_and_again_fails_the_attempt
    )

    def test_an_error_that_was_swallowed_inside_a_batch_comes_up_instead_of_a_commit_of_nothing(
        self, database: Database, place: Place
    ) -> None:
        # On MariaDB a statement that fails undoes itself alone, so there the first one is rightly committed.
        whole = place.dialect == "mysql"
        with database.transaction() as session:
            session.execute("CREATE TABLE swallowed (id bigint PRIMARY KEY)")
        with contextlib.nullcontext() if whole else pytest.raises(Exception, match="aborted"):
            with database.transaction() as session:
                session.execute("INSERT INTO swallowed VALUES (1)")
                with contextlib.suppress(Exception):
                    session.execute("INSERT INTO swallowed VALUES (1)")
        with database.reading() as session:
            assert session.scalar("SELECT count(*) FROM swallowed") == whole
