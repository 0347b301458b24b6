"""The face for databases on real servers and drivers: transactions, modes, and connections the server ended."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Any, Callable, Iterator, List

import psycopg
import pytest
import sqlalchemy

from elk_coordinator.contrib.sql import Database
from elk_coordinator.testing import wait_until
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


def test_a_child_after_a_fork_has_connections_of_its_own(database: Database, place: Place) -> None:
    """Two processes on one connection read each other's answers."""

    def mine() -> int:
        with database.transaction() as session:
            return int(session.scalar(number(place)))

    parents = mine()
    assert mine() == parents, "it idles in the pool"
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, b"%d" % mine())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        childs = answer.read()
    os.waitpid(child, 0)
    assert childs and int(childs) != parents
    assert mine() == parents, "the child left it alone"


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


def test_what_a_swallowed_error_undid_is_never_taken_for_committed(database: Database, place: Place) -> None:
    """PostgreSQL answers the COMMIT of an aborted transaction with a ROLLBACK, and that is no error to its drivers."""
    place.run("CREATE TABLE t (id BIGINT PRIMARY KEY)")
    failed = False
    try:
        with database.transaction() as session:
            session.execute("INSERT INTO t VALUES (1)")
            with contextlib.suppress(Exception):
                session.execute("INSERT INTO t VALUES (1)")
    except Exception as exc:
        failed = True
        assert not database.is_disconnect(exc)
    assert failed == (place.dialect == "postgresql")
    assert place.run("SELECT count(*) FROM t")[0][0] == (0 if failed else 1)
    with database.transaction() as session:
        session.execute("INSERT INTO t VALUES (2)")


def test_an_error_that_was_undone_to_a_savepoint_does_no_harm(database: Database, place: Place) -> None:
    place.run("CREATE TABLE t (id BIGINT PRIMARY KEY)")
    with database.transaction() as session:
        session.execute("INSERT INTO t VALUES (1)")
        session.execute("SAVEPOINT one")
        with contextlib.suppress(Exception):
            session.execute("INSERT INTO t VALUES (1)")
        session.execute("ROLLBACK TO SAVEPOINT one")
        session.execute("INSERT INTO t VALUES (2)")
    assert place.run("SELECT count(*) FROM t")[0][0] == 2


def test_an_aborted_transaction_is_seen_also_when_its_error_went_past_the_session(postgres: Place) -> None:
    postgres.run("CREATE TABLE t (id BIGINT PRIMARY KEY)")
    url = "host=%s dbname=%s user=elk" % (postgres.server.folder, postgres.name)
    for database in (
        Database.from_connect(postgres.connect),
        Database.from_connect(lambda: psycopg.connect(url)),
    ):
        with pytest.raises(Exception, match="aborted"):
            with database.transaction() as session:
                session.execute("INSERT INTO t VALUES (1)")
                with contextlib.suppress(Exception):
                    session.connection.cursor().execute("SELECT nothing FROM nowhere")
        database.close()


def test_a_deadlock_that_was_swallowed_does_not_commit_the_half_behind_it(maria: Place) -> None:
    """InnoDB rolls the whole transaction back; what follows would be a new one, without what was done before."""
    maria.run("CREATE TABLE t (id BIGINT PRIMARY KEY, n INT) ENGINE=InnoDB")
    maria.run("INSERT INTO t VALUES (1, 0), (2, 0), (3, 0)")
    database = Database.from_connect(maria.connect)
    other = maria.connect()
    with other.cursor() as cursor:
        # More changes than ours: the victim is the lighter one.
        cursor.execute("UPDATE t SET n = n + 1 WHERE id = 1")
        cursor.execute("INSERT INTO t SELECT seq, 0 FROM seq_10_to_99")
    swallowed: List[Exception] = []
    with pytest.raises(Exception, match="[Dd]eadlock"):
        with database.transaction() as session:
            session.execute("UPDATE t SET n = n + 10 WHERE id = 2")

            def wait_for_us() -> None:
                with other.cursor() as cursor:
                    cursor.execute("UPDATE t SET n = n + 1 WHERE id = 2")
                other.rollback()

            thread = threading.Thread(target=wait_for_us)
            thread.start()
            try:
                wait_until(lambda: int(maria.run("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'")[0][1]), 10)
                session.execute("UPDATE t SET n = n + 10 WHERE id = 1")
            except Exception as exc:
                swallowed.append(exc)
            thread.join(10)
            session.execute("UPDATE t SET n = n + 10 WHERE id = 3")
    assert len(swallowed) == 1
    assert [n for _, n in maria.run("SELECT id, n FROM t WHERE id <= 3 ORDER BY id")] == [0, 0, 0]
    database.close()
