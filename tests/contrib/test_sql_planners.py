"""Planners on SQLite, asked by the real allocator, and the arithmetic of the growing edge."""

from __future__ import annotations

import contextlib
import logging
import pathlib
import sqlite3
from typing import Any, Dict, FrozenSet, Iterable, Iterator, List, Optional

import pytest

from elk_coordinator.contrib.sql import (
    Database,
    DenseKeyPlanner,
    NotGrowing,
    OpenTransactions,
    Session,
    SettleTime,
    SparseKeyPlanner,
    edges,
    open_transactions,
)
from elk_coordinator.contrib.sql.open_transactions import MySqlWatch, PostgresWatch, _PostgresLook
from elk_coordinator.errors import ConfigError
from elk_coordinator.model import MAX_ID, MIN_ID
from elk_coordinator.testing import ManualClock, run_inline

CTX: Any = type("Ctx", (), {"cancelled": False})()


class Counting(Database):
    """Counts its transactions."""

    asked = 0

    def reading(self) -> Any:
        self.asked += 1
        return super().reading()


@pytest.fixture
def database(tmp_path: pathlib.Path) -> Iterator[Counting]:
    path = str(tmp_path / "data.db")
    made = Counting.from_connect(lambda: sqlite3.connect(path))
    assert isinstance(made, Counting)
    with made.transaction() as session:
        session.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, what TEXT)")
    yield made
    made.close()


def fill(database: Database, ids: Iterable[int], what: str = "x") -> List[int]:
    given = list(ids)
    with database.transaction() as session:
        for number in given:
            session.execute("INSERT INTO orders VALUES (:id, :what)", {"id": number, "what": what})
    return given


class Reading:
    """A processor that notes which rows it met, and how many in each partition."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.seen: List[int] = []
        self.counts: List[int] = []

    def process(self, ctx: Any, min_id: int, max_id: int, options: Dict[str, Any]) -> int:
        with self.database.reading() as session:
            rows = session.rows("SELECT id FROM orders WHERE id >= :a AND id <= :b", {"a": min_id, "b": max_id})
        self.seen.extend(row[0] for row in rows)
        self.counts.append(len(rows))
        return len(rows)


# -- planners


def test_dense_keys_with_holes_are_processed_once_each(database: Counting) -> None:
    ids = fill(database, [*range(1, 26), *range(10**12, 10**12 + 7), MAX_ID - 1, MAX_ID])
    reading = Reading(database)
    run_inline(reading, DenseKeyPlanner(database, "orders", partition_size=10))
    assert sorted(reading.seen) == ids
    assert len(reading.counts) <= 6


def test_dense_keys_from_zero_and_below_are_processed_once_each(database: Counting) -> None:
    ids = fill(database, [MIN_ID, -(10**9), *range(-5, 6)])
    reading = Reading(database)
    run_inline(reading, DenseKeyPlanner(database, "main.orders", partition_size=4))
    assert sorted(reading.seen) == ids


def test_the_first_row_seen_is_not_where_the_plan_begins(database: Counting) -> None:
    fill(database, [7])
    assert DenseKeyPlanner(database, "orders").first_id(CTX) == 1
    fill(database, [-7])
    assert DenseKeyPlanner(database, "orders").first_id(CTX) == MIN_ID


def test_a_condition_says_which_rows_count(database: Counting) -> None:
    fill(database, range(1, 50), "it's 5 %")
    fill(database, range(50, 61), "{new}")
    planner = DenseKeyPlanner(database, "orders", where="what = :w OR what LIKE '{%'", params={"w": "{new}"})
    assert planner.get_next_max_id(CTX, 0, 55) == 55
    assert planner.get_next_max_id(CTX, 0, 40) == 0
    assert planner.get_next_max_id(CTX, 60, MAX_ID) == 60
    assert planner.has_data(CTX, 1, 50) and not planner.has_data(CTX, 1, 49)


def test_sparse_keys_get_partitions_of_equal_numbers_of_rows(database: Counting) -> None:
    ids = fill(database, (n * n * 10**12 + n for n in range(1, 98)))
    reading = Reading(database)
    result = run_inline(reading, SparseKeyPlanner(database, "orders", rows_per_partition=10, edge=NotGrowing()))
    assert sorted(reading.seen) == ids
    assert reading.counts == [10] * 9 + [7]
    ranges = [(p.min_id, p.max_id) for p in result.partitions]
    assert [low for low, _ in ranges] == [1] + [high + 1 for _, high in ranges[:-1]]
    assert list(result.skipped) == []


def test_sparse_planning_costs_one_question_for_each_partition(database: Counting) -> None:
    fill(database, (n * 10**15 for n in range(1, 101)))
    planner = SparseKeyPlanner(database, "orders", rows_per_partition=10, edge=NotGrowing())
    assert database.dialect == "sqlite"
    database.asked = 0
    assert len(list(planner.plan(CTX, 0, 5))) == 5
    assert database.asked == 5
    assert len(list(planner.plan(CTX, 0, 100))) == 10


def test_sparse_keys_below_zero_are_processed_once_each(database: Counting) -> None:
    ids = fill(database, [MIN_ID, -(10**15), 0, 10**15, MAX_ID])
    reading = Reading(database)
    run_inline(reading, SparseKeyPlanner(database, "orders", rows_per_partition=2, edge=NotGrowing()))
    assert sorted(reading.seen) == ids


def test_an_empty_table_has_nothing_to_plan(database: Counting) -> None:
    assert DenseKeyPlanner(database, "orders").get_next_max_id(CTX, 0, MAX_ID) == 0
    assert list(SparseKeyPlanner(database, "orders").plan(CTX, 0, 10)) == []


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"table": "or ders"}, "name='or ders'"),
        ({"key": "id;"}, "name='id;'"),
        ({"where": " "}, "where=' '"),
        ({"edge": 5}, "edge=5"),
        ({"partition_size": 0}, "partition_size=0"),
        ({"partition_size": True}, "partition_size=True"),
    ],
)
def test_a_bad_option_is_refused_by_name_and_value(database: Counting, options: Any, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        DenseKeyPlanner(database, **dict({"table": "orders"}, **options))


# -- settle time


def test_a_maximum_is_planned_once_it_has_settled(database: Counting) -> None:
    clock = ManualClock()
    planner = DenseKeyPlanner(database, "orders", edge=SettleTime(30, clock))
    fill(database, range(1, 6))
    assert planner.get_next_max_id(CTX, 0, 100) == 0
    clock.advance(20)
    fill(database, range(6, 9))
    assert planner.get_next_max_id(CTX, 0, 100) == 0
    clock.advance(10)
    assert planner.get_next_max_id(CTX, 0, 100) == 5
    clock.advance(19.9)
    assert planner.get_next_max_id(CTX, 0, 100) == 5
    clock.advance(0.2)
    assert planner.get_next_max_id(CTX, 0, 100) == 8


def test_settling_needs_bounded_memory_and_never_shortens_the_time(database: Counting) -> None:
    clock, seconds = ManualClock(), 64.0
    edge = SettleTime(seconds, clock)
    seen: Dict[int, float] = {}
    for number in range(1, 400):
        fill(database, [number])
        seen[number] = clock.monotonic()
        safe = edge.safe_max(database, "orders", "id")
        assert safe is None or clock.monotonic() - seen[safe] >= seconds
        assert len(edge._marks) <= edges.MAX_MARKS + 1
        if number > 200:
            assert safe is not None and clock.monotonic() - seen[safe] <= seconds * 1.1
        clock.advance(0.5)


@pytest.mark.parametrize("seconds", [0, -1, True, "5", None, float("nan"), float("inf")])
def test_a_settle_time_that_is_none_is_refused(seconds: Any) -> None:
    with pytest.raises(ConfigError, match="seconds="):
        SettleTime(seconds)


# -- open transactions: a scripted database


class Script:
    """Stands for the database and its watch: the maximum and who is open are what the test says."""

    dialect = "sqlite"

    def __init__(self) -> None:
        self.top: Optional[int] = None
        self.open: FrozenSet[str] = frozenset()
        self.clock = ManualClock()
        self.edge = OpenTransactions(clock=self.clock)
        self.edge._watch = self
        self.looks = 0

    @contextlib.contextmanager
    def reading(self) -> Iterator["Script"]:
        yield self

    def scalar(self, sql: str) -> Optional[int]:
        return self.top

    def look(self, session: Any) -> FrozenSet[str]:
        self.looks += 1
        return self.open

    def holders(self, look: FrozenSet[str]) -> FrozenSet[str]:
        return look

    def left(self, waiting: FrozenSet[str], before: Any, now: FrozenSet[str]) -> FrozenSet[str]:
        return waiting & now

    def names(self, waiting: FrozenSet[str]) -> List[str]:
        return sorted(waiting)

    def safe(self, top: Optional[int], *names: str) -> Optional[int]:
        self.top, self.open = top, frozenset(names)
        self.clock.advance(1)
        return self.edge.safe_max(self, "orders", "id")  # type: ignore[arg-type]


def test_a_maximum_waits_for_who_was_open_then_and_not_for_who_came_later() -> None:
    script = Script()
    assert script.safe(None) is None
    assert script.safe(10, "a", "b") is None
    assert script.safe(20, "b", "c") is None
    assert script.safe(30, "c", "d") == 10
    assert script.edge.waiting_for() == ["c"]
    assert script.safe(30, "d", "e") == 20
    assert script.safe(30, "e") == 30
    assert script.safe(30) == 30
    assert script.safe(5, "f") == 30


def test_marks_are_bounded_while_one_transaction_stays_open() -> None:
    script = Script()
    for number in range(1, 500):
        assert script.safe(number, "long", str(number)) is None
        assert len(script.edge._marks) <= edges.MAX_MARKS
    # Those open at the newest maximum alone are left to wait for.
    assert (script.safe(500, "499") or 0) > 400
    assert script.safe(500) == 500


def test_the_questions_of_one_round_look_once() -> None:
    script = Script()
    script.safe(10)
    for _ in range(64):
        script.edge.safe_max(script, "orders", "id")  # type: ignore[arg-type]
    assert script.looks == 1


def test_a_transaction_that_stays_open_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    script = Script()
    with caplog.at_level(logging.WARNING):
        script.safe(10, "4711")
        script.clock.advance(edges.COMPLAIN_AFTER)
        script.safe(10, "4711")
        script.safe(10, "4711")
    assert len(caplog.records) == 1 and "4711" in caplog.text and "orders" in caplog.text


def test_an_edge_serves_one_table(database: Counting) -> None:
    edge = SettleTime(5)
    edge.safe_max(database, "orders", "id")
    with pytest.raises(ConfigError, match="one edge for each planner"):
        edge.safe_max(database, "customers", "id")


def test_a_sqlite_table_is_planned_to_its_end_at_once(database: Counting) -> None:
    fill(database, [3])
    assert OpenTransactions().safe_max(database, "orders", "id") == 3


# -- who is left of those who were open


def test_on_mysql_a_statement_that_became_a_transaction_is_still_waited_for() -> None:
    watch = MySqlWatch("orders", "id", False)
    statement = {"1": (None, 100.0), "2": (None, 100.0), "3": (None, 100.0)}
    # 1 has a transaction by now, 2 still runs the statement, 3 runs another one.
    now: Dict[str, Any] = {"1": ("12:00:00", 0.0), "2": (None, 101.0), "3": (None, 140.0)}
    left = watch.left(statement, statement, now)
    assert sorted(left) == ["1", "2"]
    assert sorted(watch.left(left, now, {"1": ("12:00:05", 0.0), "2": (None, 100.0)})) == ["2"]


def test_a_transaction_that_was_prepared_is_waited_for_under_its_new_name() -> None:
    postgres = PostgresWatch("orders", "id", False)
    before = _PostgresLook({"3/1": "77"}, frozenset(["-1/5"]))
    after = _PostgresLook({}, frozenset(["-1/5", "-1/6"]))
    assert set(postgres.left({"3/1": "77"}, before, after)) == {"-1/6"}
    assert set(postgres.left({"3/1": "77"}, before, _PostgresLook({}, frozenset(["-1/5"])))) == set()
    mysql = MySqlWatch("orders", "id", False)
    known: Dict[str, Any] = {"9": ("12:00:00", 0.0)}
    assert set(mysql.left(known, known, {"xa 6": ("12:00:00", 0.0)})) == {"xa 6"}


def test_on_mysql_whoever_runs_anything_may_hold_an_id_and_who_idles_does_not() -> None:
    """A bulk insert, or one whose connection was killed meanwhile, runs under a name of its own."""
    rows = [
        (1, "app", "Query"), (2, "app", "Execute"), (3, "app", "Bulk_execute"), (4, "app", "Killed"),
        (5, "app", "Connect"), (6, "app", "Sleep"), (7, "system user", "Daemon"), (8, "system user", "Connect"),
        (9, "replica", "Binlog Dump"), (10, "event_scheduler", "Daemon"), (11, "system user", "Slave_IO"),
        (12, "replica", "Binlog Dump GTID"), (13, "system user", "Slave_SQL"), (99, "app", "Query"),
    ]  # fmt: skip
    connection = sqlite3.connect(":memory:")
    connection.create_function("UNIX_TIMESTAMP", 0, lambda: 1000)
    connection.create_function("CONNECTION_ID", 0, lambda: 99)
    connection.execute("ATTACH ':memory:' AS information_schema")
    connection.execute("CREATE TABLE information_schema.processlist (id, user, command, time)")
    connection.executemany("INSERT INTO information_schema.processlist VALUES (?, ?, ?, 5)", rows)
    found = Session(connection, "mysql", "qmark").rows(open_transactions._RUNNING)
    connection.close()
    assert sorted(found) == [(number, 995) for number in range(1, 6)]
