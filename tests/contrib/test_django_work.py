"""Planner, processor, connections and DjangoDatabase: the work itself, on SQLite."""

from __future__ import annotations

import contextlib
import pathlib
import threading
from typing import Any, Callable, Iterator, List, Tuple

import pytest
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext, override_settings

from elk_coordinator.contrib.django import (
    DjangoDatabase,
    DjangoPlanner,
    DjangoProcessor,
    QuerySetPlanner,
    QuerySetProcessor,
    SparseQuerySetPlanner,
    build,
)
from elk_coordinator.contrib.django.testing import run_coordinator
from elk_coordinator.contrib.django.wrapping import Leftovers
from elk_coordinator.contrib.sql import DenseKeyPlanner, OpenTransactions
from elk_coordinator.errors import ConfigError
from elk_coordinator.protocols import Event
from elk_coordinator.store.memory_store import MemoryDataStore
from elk_coordinator.testing import InlineFailure, run_inline, wait_until
from tests.contrib.djsite.shelf.models import Book, Tag

pytestmark = pytest.mark.usefixtures("database")
BIG = 2**62


def fill(*ids: int) -> None:
    Book.objects.bulk_create([Book(pk=pk) for pk in ids])


def ranges(planner: Any) -> List[Tuple[int, int]]:
    found = run_inline(lambda ctx, lo, hi, options: None, planner).partitions
    return [(partition.min_id, partition.max_id) for partition in found]


def test_a_coordinator_of_the_settings_works_through_the_table_in_this_thread() -> None:
    fill(*range(1, 26), *range(BIG, BIG + 5))
    result = run_coordinator()
    assert result.processed == 30
    assert set(Book.objects.values_list("pages", "visits")) == {(2, 1)}
    assert [(p.min_id, p.max_id) for p in result.partitions][-1] == (BIG, BIG + 4)


def test_inside_a_test_case_everything_happens_in_its_transaction() -> None:
    with transaction.atomic():
        fill(1, 2, 3)
        assert run_coordinator().processed == 3
        transaction.set_rollback(True)
    assert Book.objects.count() == 0


def test_a_failing_processor_is_an_assertion_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fill(1)
    monkeypatch.setenv("TEST_SITE_BREAKS", "1")
    with pytest.raises(InlineFailure, match="broken"):
        run_coordinator()


def test_batches_and_checkpoints_let_an_interrupted_partition_go_on_where_it_was() -> None:
    fill(*range(1, 11))
    result = run_coordinator(interrupt_after_checkpoints=1)
    assert set(Book.objects.values_list("visits", flat=True)) == {1} and result.processed == 10


class ReadFromReplica:
    """A router."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "replica"

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "default"


def test_rows_that_a_replica_does_not_have_yet_are_handled_all_the_same(
    migrated: bytes, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Count(QuerySetProcessor):
        queryset = "shelf.Book"

        def handle(self, rows: Any, ctx: Any) -> int:
            return len(list(rows))

    fill(1, 2, 3)
    (tmp_path / "replica.db").write_bytes(migrated)
    monkeypatch.setitem(
        connections.settings, "replica", dict(connections.settings["default"], NAME=str(tmp_path / "replica.db"))
    )
    try:
        with override_settings(DATABASE_ROUTERS=[ReadFromReplica()]):
            assert Book.objects.count() == 0
            assert run_inline(Count(), QuerySetPlanner("shelf.Book", using="default")).processed == 3
    finally:
        connections["replica"].close()
        del connections["replica"]


def test_a_batch_that_fails_leaves_nothing_of_itself() -> None:
    fill(*range(1, 6))

    class Half(QuerySetProcessor):
        queryset = Book
        batch_size = 2

        def handle(self, rows: Any, ctx: Any) -> None:
            rows.update(visits=1)
            if rows.filter(pk=3).exists():
                raise ValueError("half-way")

    with pytest.raises(InlineFailure):
        run_inline(Half(), QuerySetPlanner(Book), max_attempts=1)
    assert list(Book.objects.filter(visits=1).values_list("pk", flat=True)) == [1, 2]


def test_the_planner_honours_the_filter_and_steps_over_holes() -> None:
    fill(1, 2, 5000, 9000)
    Book.objects.filter(pk=9000).update(pages=7)
    assert ranges(QuerySetPlanner(Book.objects.filter(pages=1), partition_size=10)) == [(1, 2), (5000, 5000)]
    found = ranges(QuerySetPlanner("shelf.Book", 10))
    assert found[-1] == (9000, 9000) and len(found) < 40


def test_negative_keys_are_planned() -> None:
    fill(-5, 3)
    assert [low for low, _ in ranges(QuerySetPlanner(Book, 100))] == [-5]


def test_nothing_is_planned_beyond_the_edge() -> None:
    fill(*range(1, 31))
    assert ranges(QuerySetPlanner(Book, 10, edge=lambda: 20)) == [(1, 10), (11, 20)]
    assert ranges(SparseQuerySetPlanner(Book, 15, edge=lambda: 20)) == [(1, 15), (16, 20)]
    assert ranges(QuerySetPlanner(Book, 10, edge=lambda: None)) == []


def test_an_edge_of_contrib_sql_looks_at_the_table_on_the_connection_that_is_planned() -> None:
    fill(*range(1, 31))
    asked = set()

    class Edge:
        def safe_max(self, database: Any, table: str, key: str) -> Any:
            asked.add((database, table, key))
            with database.reading() as session:
                return session.scalar("SELECT max(%s) - 5 FROM %s" % (key, table))

    assert ranges(QuerySetPlanner(Book, 100, edge=Edge())) == [(1, 25)]
    ((database, table, key),) = asked
    assert (database.alias, table, key) == ("default", "shelf_book", "id")


def test_the_edge_and_the_planner_of_contrib_sql_work_on_djangos_connection() -> None:
    fill(*range(1, 31))
    with CaptureQueriesContext(connection) as queries:
        assert ranges(QuerySetPlanner(Book, 100, edge=OpenTransactions())) == [(1, 30)]
        assert ranges(DenseKeyPlanner(DjangoDatabase(), "shelf_book", partition_size=100))[-1][1] == 30
    assert not [query["sql"] for query in queries if query["sql"].startswith("BEGIN IMMEDIATE")]


def test_the_sparse_planner_counts_rows_and_not_keys() -> None:
    fill(5, 10**9, 10**12, 10**15, BIG)
    assert ranges(SparseQuerySetPlanner(Book, 2)) == [(1, 10**9), (10**9 + 1, 10**15), (10**15 + 1, BIG)]


def test_the_planner_looks_at_one_row_and_not_at_all_of_them() -> None:
    fill(*range(1, 5))
    with CaptureQueriesContext(connection) as queries:
        assert QuerySetPlanner(Book).get_next_max_id(None, 0, 10**6) == 4  # type: ignore[arg-type]
    assert len(queries) == 1 and "LIMIT 1" in queries[0]["sql"]


@pytest.mark.parametrize(
    "source, says",
    [
        ("shelf.Nothing", "no such model"),
        (7, "must be a queryset"),
        (Tag, "is a UUIDField"),
        (Book.objects.all()[:5], "must not be sliced"),
    ],
)
def test_what_cannot_be_planned_is_refused(source: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        QuerySetPlanner(source).rows()


# -- connections


class Opens:
    """Remembers which database connection each partition saw."""

    def __init__(self) -> None:
        self.seen: List[Any] = []

    def process(self, ctx: Any, min_id: int, max_id: int, options: Any) -> None:
        connection.ensure_connection()
        self.seen.append(connection.connection)


def in_thread(function: Callable[[], Any]) -> None:
    errors: List[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert errors == []


@pytest.mark.parametrize("age, kept", [(0, False), (60, True)])
def test_a_connection_lives_as_long_as_conn_max_age_says(age: int, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", age)
    opens = Opens()
    processor = DjangoProcessor(opens)

    def work() -> None:
        try:
            processor.process(None, 1, 1, {})  # type: ignore[arg-type]
            processor.process(None, 2, 2, {})  # type: ignore[arg-type]
        finally:
            connections.close_all()

    in_thread(work)
    first, second = opens.seen
    assert (first is second) is kept


def test_a_connection_that_broke_is_replaced_before_the_next_partition() -> None:
    opens = Opens()
    processor = DjangoProcessor(opens)

    def work() -> None:
        try:
            processor.process(None, 1, 1, {})  # type: ignore[arg-type]
            connection.errors_occurred = True  # what Django notes when a statement failed
            connection.is_usable = lambda: False  # type: ignore[method-assign]
            processor.process(None, 2, 2, {})  # type: ignore[arg-type]
        finally:
            connections.close_all()

    in_thread(work)
    assert opens.seen[0] is not opens.seen[1]


def test_the_planner_is_cared_for_too_and_shows_only_the_methods_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: List[str] = []
    monkeypatch.setattr(
        "elk_coordinator.contrib.django.wrapping.close_old_connections", lambda **kwargs: calls.append("close")
    )

    class Plain:
        def partition_size(self, ctx: Any) -> int:
            calls.append("size")
            return 3

        def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> int:
            return 0

    class Explicit:
        def plan(self, ctx: Any, start_id: int, limit: int) -> Iterator[Tuple[int, int]]:
            calls.append("plan")
            yield 1, 2

    plain, explicit = DjangoPlanner(Plain()), DjangoPlanner(Explicit())
    assert plain.partition_size(None) == 3 and calls == ["close", "size", "close"]
    assert not hasattr(plain, "has_data") and not hasattr(plain, "plan") and not hasattr(explicit, "has_data")
    del calls[:]
    assert list(explicit.plan(None, 0, 5)) == [(1, 2)] and calls == ["close", "plan", "close"]


def test_after_stop_no_connection_of_its_threads_is_open(configure: Callable[..., None]) -> None:
    fill(*range(1, 101))
    connections.close_all()
    opened: List[Any] = []

    def process(ctx: Any, min_id: int, max_id: int, options: Any) -> None:
        connection.ensure_connection()
        opened.append(connections["default"])

    configure(PROCESSOR=process, OPTIONS={"strategy": "simple", "metrics_enabled": False, "allocation_interval": 0.1})
    with contextlib.closing(MemoryDataStore()) as store:
        coordinator = build(store=store).start()
        assert coordinator.wait_idle(20)
        assert any(wrapper.connection is not None for wrapper in opened), "CONN_MAX_AGE keeps them"
        assert coordinator.stop()
    wait_until(lambda: all(wrapper.connection is None for wrapper in opened), 5)


def test_a_connection_that_a_task_still_uses_is_left_alone_and_closed_at_its_end() -> None:
    leftovers, inside, go = Leftovers(), threading.Event(), threading.Event()
    seen: List[Any] = []

    def work() -> None:
        for wait in (False, True):
            with leftovers.fresh_connections():
                connection.ensure_connection()
                if wait:
                    inside.set()
                    assert go.wait(10)
                    seen.append(connection.connection is not None)
        seen.append(connection.connection is None)

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(10)
    leftovers.on_stopped(Event("stopped", "n", "w", 0.0))
    go.set()
    thread.join(10)
    assert seen == [True, True]


# -- DjangoDatabase


def test_a_transaction_commits_rolls_back_and_shares_its_connection_with_the_orm() -> None:
    db = DjangoDatabase()
    with db.transaction() as session:
        assert session.execute("INSERT INTO shelf_book (id, pages, visits) VALUES (:id, 3, 0)", {"id": 9}) == 1
        assert Book.objects.get(pk=9).pages == 3
    with pytest.raises(ZeroDivisionError), db.transaction() as session:
        session.execute("DELETE FROM shelf_book")
        raise ZeroDivisionError
    with db.reading() as session:
        assert session.rows("SELECT id, '100%' FROM shelf_book WHERE id = :id", {"id": 9}) == [(9, "100%")]
        assert session.scalar("SELECT count(*) FROM shelf_book") == 1
    assert db.dialect == "sqlite"


def test_inside_atomic_a_transaction_is_a_savepoint() -> None:
    db = DjangoDatabase()
    with transaction.atomic():
        with db.transaction() as session:
            session.execute("INSERT INTO shelf_book (id, pages, visits) VALUES (1, 1, 0)")
        transaction.set_rollback(True)
    assert Book.objects.count() == 0


def test_writers_on_sqlite_wait_for_each_other_instead_of_failing_half_way() -> None:
    fill(1)
    db = DjangoDatabase()
    first_reads, done = threading.Barrier(2, timeout=10), []

    def add() -> None:
        try:
            first_reads.wait()
            for _ in range(20):
                with db.transaction() as session:
                    pages = session.scalar("SELECT pages FROM shelf_book WHERE id = 1")
                    session.execute("UPDATE shelf_book SET pages = :p WHERE id = 1", {"p": pages + 1})
            done.append(True)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=add) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert done == [True, True] and Book.objects.get(pk=1).pages == 41


def test_no_migration_is_missing() -> None:
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)
