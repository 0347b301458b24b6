"""The small face for databases: parameters for every driver, transactions, connections that die or come from a fork."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sqlite3
import sys
import threading
from typing import Any, Callable, Dict, Iterator, List

import pytest
import sqlalchemy
import sqlalchemy.pool

from elk_coordinator import TaskInterrupted
from elk_coordinator.contrib.sql import Database, Session, quote_name, statement_timeout
from elk_coordinator.contrib.sql import connections as connections_module
from elk_coordinator.contrib.sql.connections import OwnConnections, disconnected, transient
from elk_coordinator.contrib.sql.statements import render
from elk_coordinator.errors import ConfigError
from elk_coordinator.testing import ManualClock


@pytest.fixture
def path(tmp_path: pathlib.Path) -> str:
    return str(tmp_path / "data.db")


@pytest.fixture(params=["connect", "engine"])
def database(request: pytest.FixtureRequest, path: str) -> Iterator[Database]:
    if request.param == "connect":
        made = Database.from_connect(lambda: sqlite3.connect(path))
        yield made
        made.close()
        return
    engine = sqlalchemy.create_engine("sqlite:///" + path)
    made = Database.from_engine(engine)
    yield made
    made.close()
    engine.dispose()


# -- parameters


@pytest.mark.parametrize(
    "style, text, arguments",
    [
        ("qmark", "a = ? AND b = ? AND a > ?", (1, 2, 1)),
        ("numeric", "a = :1 AND b = :2 AND a > :3", (1, 2, 1)),
        ("named", "a = :x AND b = :y AND a > :x", {"x": 1, "y": 2}),
        ("format", "a = %s AND b = %s AND a > %s", (1, 2, 1)),
        ("pyformat", "a = %(x)s AND b = %(y)s AND a > %(x)s", {"x": 1, "y": 2}),
    ],
)
def test_named_parameters_are_written_in_the_style_of_the_driver(style: str, text: str, arguments: Any) -> None:
    given = {"x": 1, "y": 2, "unused": 3}
    assert render("a = :x AND b = :y AND a > :x", given, "postgresql", style) == (text, arguments)


@pytest.mark.parametrize(
    "dialect, sql",
    [
        ("postgresql", "SELECT now()::text"),
        ("postgresql", "SELECT ':x' || E'it\\':x' || $$ :x $$ || $t$ :x $$ :x $t$"),
        ("postgresql", 'SELECT ":x" -- :x\n, /* :x\n:x */ 1'),
        ("postgresql", "SELECT a[1:2], a[i:x], 'it''s :x'"),
        ("mysql", "SELECT 'it\\':x', \":x\", `:x` # :x"),
        ("mysql", "SET @a := 1"),
        ("sqlite", "SELECT [:x], ':x', \"it\"\":x\""),
    ],
)
def test_casts_comments_and_quoted_text_hold_no_parameters(dialect: str, sql: str) -> None:
    assert render(sql, {}, dialect, "qmark") == (sql, ())
    assert render(sql + " , :y", {"y": 5}, dialect, "qmark")[1] == ((5,) if "#" not in sql else ())


def test_a_percent_sign_is_doubled_for_drivers_that_look_for_it() -> None:
    sql = "SELECT 7 % 2 WHERE a LIKE 'x%' AND b = :b"
    assert render(sql, {"b": 1}, "mysql", "format") == ("SELECT 7 %% 2 WHERE a LIKE 'x%%' AND b = %s", (1,))
    assert render(sql, {"b": 1}, "sqlite", "qmark") == ("SELECT 7 % 2 WHERE a LIKE 'x%' AND b = ?", (1,))


def test_a_percent_sign_stays_single_where_no_parameter_is_passed() -> None:
    """mysql.connector and pg8000 leave double ones as they are then."""
    assert render("SELECT 7 % 2", {"unused": 1}, "mysql", "format") == ("SELECT 7 % 2", ())
    driver = Driver()
    with own(driver).transaction() as session:
        session.execute("SELECT 7 % 2")
    assert driver.made[0].log == ["SELECT 7 % 2", "commit"]
    assert driver.made[0].passed == [()]


def test_a_parameter_without_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=":b, which was not given"):
        render("a = :a AND b = :b", {"a": 1}, "sqlite", "qmark")


def test_names_are_quoted_as_the_database_wants_them() -> None:
    assert quote_name("postgresql", "shop.orders") == '"shop"."orders"'
    assert quote_name("mysql", "shop.orders") == "`shop`.`orders`"
    assert quote_name("sqlite", "Bestellungen_ä") == '"Bestellungen_ä"'


@pytest.mark.parametrize("name", ["", "a b", 'a"', "a`b", "a;--", "1a", "a.", "a.b.c.d", "a\n", "x" * 64, None, "a'b"])
def test_a_name_that_could_be_more_than_a_name_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match="name="):
        quote_name("sqlite", name)


# -- transactions


def test_a_transaction_is_committed_at_its_end_and_rolled_back_by_an_exception(database: Database) -> None:
    with database.transaction() as session:
        session.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, what TEXT)")
        assert session.execute("INSERT INTO t VALUES (:id, :what)", {"id": 1, "what": "kept"}) == 1
    for error in (ValueError, TaskInterrupted, KeyboardInterrupt):
        with pytest.raises(error):
            with database.transaction() as session:
                session.execute("UPDATE t SET what = 'lost'")
                raise error
    with database.reading() as session:
        assert session.rows("SELECT id, what FROM t") == [(1, "kept")]
        assert session.scalar("SELECT what FROM t WHERE id = :id", {"id": 1}) == "kept"
        assert session.scalar("SELECT what FROM t WHERE id = :id", {"id": 2}) is None
    assert database.dialect == "sqlite"


def test_threads_that_read_before_they_write_wait_for_each_other(database: Database) -> None:
    with database.transaction() as session:
        session.execute("CREATE TABLE t (n INTEGER)")
        session.execute("INSERT INTO t VALUES (0)")
    errors: List[BaseException] = []

    def count() -> None:
        try:
            for _ in range(20):
                with database.transaction() as session:
                    n = session.scalar("SELECT n FROM t")
                    session.execute("UPDATE t SET n = :n", {"n": n + 1})
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with database.reading() as session:
        assert session.scalar("SELECT n FROM t") == 80


def test_a_reader_leaves_the_write_lock_alone(path: str) -> None:
    database = Database.from_connect(lambda: sqlite3.connect(path))
    with database.transaction() as session:
        session.execute("CREATE TABLE t (n INTEGER)")
    with database.transaction() as session:
        session.execute("INSERT INTO t VALUES (0)")
        with database.reading() as other:
            assert other.scalar("SELECT count(*) FROM t") == 0


def test_an_engine_gets_its_connection_back_as_it_was(path: str) -> None:
    engine = sqlalchemy.create_engine("sqlite:///" + path, poolclass=sqlalchemy.pool.StaticPool)
    before = engine.raw_connection().isolation_level
    with Database.from_engine(engine).transaction() as session:
        session.execute("CREATE TABLE t (n INTEGER)")
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("INSERT INTO t VALUES (1)"))
    assert engine.raw_connection().isolation_level == before
    engine.dispose()


@pytest.mark.parametrize("mode", [True, False, -1])
def test_every_mode_of_a_sqlite_connection_gives_real_transactions(path: str, mode: Any) -> None:
    """Python 3.12 brought ``autocommit``: under True a commit() does nothing, under False a transaction is open always.
    Before it there is one mode only."""
    options: Any = {"autocommit": mode} if sys.version_info >= (3, 12) else {}
    connection = sqlite3.connect(path, check_same_thread=False, **options)
    engine = sqlalchemy.create_engine("sqlite://", creator=lambda: connection, poolclass=sqlalchemy.pool.StaticPool)
    for database in (Database.from_connect(lambda: sqlite3.connect(path, **options)), Database.from_engine(engine)):
        with database.transaction() as session:
            session.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER)")
            session.execute("DELETE FROM t")
            session.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(ZeroDivisionError):
            with database.transaction() as session:
                session.execute("DELETE FROM t")
                raise ZeroDivisionError
        with database.reading() as session:
            assert session.scalar("SELECT count(*) FROM t") == 1
    assert getattr(connection, "autocommit", mode) == mode
    engine.dispose()
    connection.close()


def test_a_lock_that_was_not_had_leaves_the_connection_of_an_engine_as_it_was(path: str) -> None:
    """Otherwise what the application writes through it next is committed statement by statement."""
    engine = sqlalchemy.create_engine(
        "sqlite:///" + path, connect_args={"timeout": 0.01}, poolclass=sqlalchemy.pool.QueuePool, pool_size=1
    )
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE t (n INTEGER)"))
    other = sqlite3.connect(path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        with Database.from_engine(engine).transaction():
            pass
    other.close()
    with pytest.raises(ZeroDivisionError):
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("INSERT INTO t VALUES (1)"))
            raise ZeroDivisionError
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("SELECT count(*) FROM t")).scalar() == 0
    engine.dispose()


def test_a_swallowed_error_that_ended_the_transaction_comes_up_at_its_end(database: Database) -> None:
    with database.transaction() as session:
        session.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    for timeout in (None, 5.0):
        with pytest.raises(sqlite3.IntegrityError):
            with database.transaction() as session, statement_timeout(session, timeout) as limited:
                limited.execute("INSERT INTO t VALUES (1)")
                with contextlib.suppress(sqlite3.IntegrityError):
                    limited.execute("INSERT OR ROLLBACK INTO t VALUES (1)")
    with database.transaction() as session:
        session.execute("INSERT INTO t VALUES (2)")
        with contextlib.suppress(sqlite3.IntegrityError):
            session.execute("INSERT INTO t VALUES (2)")
    with database.reading() as session:
        assert session.rows("SELECT id FROM t") == [(2,)]


def test_a_session_on_a_wrapper_with_transactions_of_its_own_can_be_asked_and_limited(path: str) -> None:
    """As Django's: its wrapper keeps the driver's connection in an attribute."""

    class Wrapper:
        def __init__(self) -> None:
            self.connection = sqlite3.connect(path, isolation_level=None)

        def cursor(self) -> Any:
            return self.connection.cursor()

    wrapper = Wrapper()
    session = Session(wrapper, "sqlite", "qmark")
    with statement_timeout(session, 5.0) as limited:
        limited.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
        limited.execute("BEGIN")
        limited.execute("INSERT INTO t VALUES (1)")
        session.check_whole()
        with pytest.raises(sqlite3.IntegrityError):
            limited.execute("INSERT OR ROLLBACK INTO t VALUES (1)")
    with pytest.raises(sqlite3.IntegrityError):
        session.check_whole()
    wrapper.connection.close()


# -- connections


class Driver:
    """Connections that remember what was done to them."""

    class OperationalError(Exception):
        pass

    def __init__(self) -> None:
        self.made: List["Driver.Connection"] = []

    class Connection:
        def __init__(self) -> None:
            self.log: List[str] = []
            self.fails: Dict[str, Exception] = {}
            self.passed: List[Any] = []

        def do(self, what: str) -> None:
            self.log.append(what)
            if what in self.fails:
                raise self.fails[what]

        rowcount = 1

        def cursor(self) -> "Driver.Connection":
            return self

        def execute(self, text: str, *arguments: Any) -> None:
            self.passed.append(arguments)
            self.do(text)

        def fetchall(self) -> List[Any]:
            return [(1,)]

        def commit(self) -> None:
            self.do("commit")

        def rollback(self) -> None:
            self.do("rollback")

        def close(self) -> None:
            pass

    def connect(self) -> "Driver.Connection":
        self.made.append(self.Connection())
        return self.made[-1]


def own(driver: Driver, clock: Any = None) -> Database:
    return Database(OwnConnections(driver.connect, "mysql", "format", clock or ManualClock()))


def use(database: Database, sql: str = "UPDATE t") -> None:
    with database.transaction() as session:
        session.execute(sql)


def test_an_idle_connection_is_used_again() -> None:
    driver = Driver()
    database = own(driver)
    use(database)
    use(database)
    assert [c.log for c in driver.made] == [["UPDATE t", "commit"] * 2]


@pytest.mark.parametrize("where", ["UPDATE t", "commit"])
def test_a_connection_that_broke_is_never_handed_out_again(where: str) -> None:
    driver = Driver()
    database = own(driver)
    use(database)
    driver.made[0].fails[where] = driver.OperationalError(2013, "Lost connection")
    with pytest.raises(driver.OperationalError) as caught:
        use(database)
    assert database.is_disconnect(caught.value)
    use(database)
    assert len(driver.made) == 2 and "rollback" not in driver.made[0].log


def test_a_connection_whose_rollback_fails_is_never_handed_out_again() -> None:
    driver = Driver()
    database = own(driver)
    use(database)
    driver.made[0].fails = {"UPDATE t": ValueError(), "rollback": ValueError()}
    with pytest.raises(ValueError):
        use(database)
    use(database)
    assert len(driver.made) == 2


def test_an_error_of_the_statement_keeps_the_connection() -> None:
    driver = Driver()
    database = own(driver)
    use(database)
    driver.made[0].fails["UPDATE x"] = driver.OperationalError(1205, "Lock wait timeout exceeded")
    with pytest.raises(driver.OperationalError) as caught:
        use(database, "UPDATE x")
    assert not database.is_disconnect(caught.value)
    use(database)
    assert len(driver.made) == 1 and driver.made[0].log[-4:] == ["UPDATE x", "rollback", "UPDATE t", "commit"]


def test_an_interrupt_from_outside_costs_the_connection() -> None:
    driver = Driver()
    database = own(driver)
    with pytest.raises(KeyboardInterrupt):
        with database.transaction():
            raise KeyboardInterrupt
    use(database)
    assert len(driver.made) == 2 and driver.made[0].log == []


def test_a_connection_that_idled_is_asked_before_it_is_used() -> None:
    driver, clock = Driver(), ManualClock()
    database = own(driver, clock)
    use(database)
    clock.advance(connections_module.ASK_AFTER + 1)
    use(database)
    assert driver.made[0].log == ["UPDATE t", "commit", "SELECT 1", "rollback", "UPDATE t", "commit"]
    driver.made[0].fails["SELECT 1"] = driver.OperationalError(2006, "gone away")
    clock.advance(connections_module.ASK_AFTER + 1)
    use(database)
    assert len(driver.made) == 2


def test_where_one_connection_died_the_idle_ones_are_asked_before_they_are_used() -> None:
    driver = Driver()
    database = own(driver)
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(database.transaction())
    for connection in driver.made:  # the server is restarted
        connection.fails = {what: driver.OperationalError(2006, "gone away") for what in ("UPDATE t", "SELECT 1")}
    with pytest.raises(driver.OperationalError):
        use(database)
    use(database)
    assert len(driver.made) == 11


def test_what_is_committed_is_not_told_as_failed_when_the_mode_cannot_be_put_back() -> None:
    driver = Driver()

    class Connection(Driver.Connection):
        def get_autocommit(self) -> bool:
            return True

        def autocommit(self, on: bool) -> None:
            self.do("autocommit %s" % on)

    def connect() -> Any:
        driver.made.append(Connection())
        driver.made[-1].fails["autocommit True"] = driver.OperationalError(2013, "Lost connection")
        return driver.made[-1]

    database = Database(OwnConnections(connect, "mysql", "format", ManualClock()))
    use(database)
    use(database)
    assert [c.log for c in driver.made] == [["autocommit False", "UPDATE t", "commit", "autocommit True"]] * 2


def test_a_connection_of_an_unknown_driver_is_closed() -> None:
    closed: List[int] = []

    class Connection:
        def close(self) -> None:
            closed.append(1)

    with pytest.raises(ConfigError, match="dialect"):
        Database.from_connect(Connection).transaction().__enter__()
    assert closed == [1]


def test_no_more_than_the_bound_of_idle_connections_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "MAX_IDLE", 1)
    driver = Driver()
    database = own(driver)
    with database.transaction(), database.transaction():
        pass
    with database.transaction(), database.transaction():
        pass
    assert len(driver.made) == 3


def test_after_a_fork_the_child_connects_anew_and_leaves_the_parents_connection_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = Driver()
    database = own(driver)
    use(database)
    real = os.getpid()
    monkeypatch.setattr(connections_module.os, "getpid", lambda: real + 1)
    use(database)
    assert len(driver.made) == 2
    assert driver.made[0] in [connection for connection, _ in connections_module._INHERITED]
    connections_module._INHERITED.clear()


@pytest.mark.parametrize("make", [lambda: Database.from_connect("no"), lambda: Database.from_engine(object()),
                                  lambda: Database.from_connect(Driver().connect, dialect="oracle"),
                                  lambda: Database.from_connect(Driver().connect, paramstyle="dollar"),
                                  lambda: Database.from_connect(Driver().connect).dialect])  # fmt: skip
def test_what_is_no_database_is_refused_with_the_reason(make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError, match="connect|engine|dialect|paramstyle"):
        make()


class OperationalError(Exception):
    pgcode: Any = None


def error(text: str, code: Any = None) -> Exception:
    made = OperationalError(text)
    made.pgcode = code
    return made


@pytest.mark.parametrize(
    "dialect, gone, stays",
    [
        ("postgresql", error("terminating connection", "57P01"), error("canceling statement", "57014")),
        ("postgresql", error("server closed the connection unexpectedly"), error("deadlock detected", "40P01")),
        ("mysql", OperationalError(2006, "gone away"), OperationalError(1213, "Deadlock found")),
        ("mysql", ConnectionResetError(), ValueError("2006")),
        ("mysql", OperationalError(-1, "MySQL Connection not available"), OperationalError(1062, "Duplicate entry")),
        ("postgresql", error('connection to server on socket "/x" failed: FATAL:  the database system is starting up'),
         error("relation does not exist", "42P01")),
        ("postgresql", error('connection to server at "10.0.0.1", port 5432 failed: timeout expired'),
         error("canceling statement due to lock timeout", "55P03")),
        ("postgresql", OperationalError({"S": "FATAL", "C": "57P01", "M": "terminating connection"}),
         OperationalError({"S": "ERROR", "C": "23505", "M": "duplicate key"})),
    ],
)
def test_a_dead_connection_is_told_from_an_error_of_the_statement(
    dialect: str, gone: BaseException, stays: BaseException
) -> None:
    assert disconnected(dialect, gone) and not disconnected(dialect, stays)
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = gone
    assert disconnected(dialect, wrapped)
    assert not disconnected("sqlite", gone)


@pytest.mark.parametrize(
    "again",
    [
        error("deadlock detected", "40P01"),
        error("could not serialize access", "40001"),
        OperationalError({"S": "ERROR", "C": "40P01", "M": "deadlock detected"}),
        OperationalError(1213, "Deadlock found"),
        OperationalError(1205, "Lock wait timeout exceeded"),
    ],
    ids=repr,
)
def test_what_may_be_done_again_is_told_also_when_a_framework_wrapped_it(again: Exception) -> None:
    """Django and SQLAlchemy raise errors of their own from the driver's, without its codes."""
    assert transient(again)
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = again
    assert transient(wrapped)
    assert not transient(OperationalError(1062, "Duplicate entry")) and not transient(ValueError(1213))


def test_the_very_first_connection_may_fail_by_a_server_that_is_away() -> None:
    def connect() -> Any:
        raise OperationalError(2006, "gone away")

    database = Database.from_connect(connect)
    with pytest.raises(OperationalError) as caught:
        with database.transaction():
            pass
    assert database.is_disconnect(caught.value)
