"""The face for databases on real servers and drivers: transactions, modes, and connections the server ended."""

from __future__ import annotations

from typing import Any, Callable, Iterator

import psycopg
import pytest
import sqlalchemy

from elk_coordinator.contrib.sql import Database
from tests.databases.servers import Place

Make = Callable[[], Database]


@pytest.fixture(params=["connect", "autocommit", "engine", "autocommit engine"])
def database(request: pytest.FixtureRequest, place: Place) -> Iterator[Database]:
    engine: Any = None
    if request.param == "connect":
        made = Database.from_connect(place.connect)
    elif request.param == "autocommit":

        def connect() -> Any:
            connection = place.connect()
            if place.dialect == "mysql":
                connection.autocommit(True)
            else:
                connection.autocommit = True
            return connection

        made = Database.from_connect(connect)
    else:
        options = {"isolation_level": "AUTOCOMMIT"} if "auto" in request.param else {}
        engine = sqlalchemy.create_engine(place.url, **options)
        made = Database.from_engine(engine)
    yield made
    made.close()
    if engine is not None:
        engine.dispose()


def killer(place: Place) -> str:
    return "KILL %d" if place.dialect == "mysql" else "SELECT pg_terminate_backend(%d)"


def number(place: Place) -> str:
    return "SELECT connection_id()" if place.dialect == "mysql" else "SELECT pg_backend_pid()"


def test_a_transaction_is_whole_or_nothing_whatever_the_mode_of_the_connection(
    database: Database, place: Place
) -> None:
    place.run("CREATE TABLE t (id BIGINT PRIMARY KEY, what VARCHAR(9))")
    with database.transaction() as session:
        assert session.execute("INSERT INTO t VALUES (:id, :what)", {"id": 2**62, "what": "50 %"}) == 1
    with pytest.raises(ZeroDivisionError):
        with database.transaction() as session:
            session.execute("DELETE FROM t")
            raise ZeroDivisionError
    with database.reading() as session:
        assert session.rows("SELECT id, what FROM t WHERE what LIKE '%5%' AND id = :id", {"id": 2**62}) == [
            (2**62, "50 %")
        ]
    assert database.dialect == place.dialect


def test_a_connection_that_the_server_ended_is_told_and_replaced(database: Database, place: Place) -> None:
    with pytest.raises(Exception) as caught:
        with database.transaction() as session:
            place.server.admin(killer(place) % session.scalar(number(place)))
            session.scalar("SELECT 1")
    assert database.is_disconnect(caught.value), repr(caught.value)
    with database.transaction() as session:
        assert session.scalar("SELECT 1") == 1


def test_an_error_of_the_statement_is_no_disconnect(database: Database) -> None:
    with pytest.raises(Exception) as caught:
        with database.transaction() as session:
            session.scalar("SELECT nothing FROM nowhere")
    assert not database.is_disconnect(caught.value)


def test_psycopg_3_is_known_without_being_told(postgres: Place) -> None:
    url = "host=%s dbname=%s user=elk" % (postgres.server.folder, postgres.name)
    database = Database.from_connect(lambda: psycopg.connect(url))
    with database.transaction() as session:
        assert session.scalar("SELECT :a::text || '%'", {"a": "x"}) == "x%"
    with pytest.raises(psycopg.OperationalError) as caught:
        with database.transaction() as session:
            postgres.server.admin(killer(postgres) % session.scalar(number(postgres)))
            session.scalar("SELECT 1")
    assert database.is_disconnect(caught.value)
    database.close()
