"""The growing edge on real servers: IDs are drawn, and committed in another order; whose plan misses rows?"""

from __future__ import annotations

import contextlib
import random
import threading
from typing import Any, Dict, Iterator, List, Set

import attr
import pymysql
import pytest

from elk_coordinator.contrib.sql import Database, DenseKeyPlanner, NotGrowing, OpenTransactions, SettleTime
from elk_coordinator.contrib.sql.planners import _TablePlanner
from elk_coordinator.errors import ConfigError
from elk_coordinator.testing import ManualClock, wait_until
from tests.databases.servers import Place

WRITERS = 200

CREATE = {
    "postgresql": "CREATE TABLE orders (id BIGSERIAL PRIMARY KEY, what TEXT)",
    "mysql": "CREATE TABLE orders (id BIGINT AUTO_INCREMENT PRIMARY KEY, what VARCHAR(99)) ENGINE=InnoDB",
}
INSERT = "INSERT INTO orders (what) VALUES ('x')"


@pytest.fixture
def table(place: Place) -> Place:
    place.run(CREATE[place.dialect])
    return place


@pytest.fixture
def orders(postgres: Place) -> Place:
    postgres.run(CREATE["postgresql"])
    return postgres


@pytest.fixture
def maria_orders(maria: Place) -> Place:
    maria.run(CREATE["mysql"])
    return maria


class Reader:
    """Plans as a leader does, and processes at once what was planned: rows that appear below later are missed."""

    def __init__(self, place: Place, edge: Any) -> None:
        self.database = Database.from_connect(place.connect)
        self.planner = DenseKeyPlanner(self.database, "orders", edge=edge)
        self.frontier = 0
        self.done: Set[int] = set()

    def turn(self) -> int:
        """Plan and process once; return how far it came."""
        top = self.planner.get_next_max_id(None, self.frontier, 10**6)  # type: ignore[arg-type]
        if top > self.frontier:
            with self.database.reading() as session:
                rows = session.rows("SELECT id FROM orders WHERE id > :a AND id <= :b", {"a": self.frontier, "b": top})
            self.done.update(row[0] for row in rows)
            self.frontier = top
        return self.frontier


class Asking:
    """An OpenTransactions whose every answer is new."""

    def __init__(self, **options: Any) -> None:
        self.clock = ManualClock()
        self.edge = OpenTransactions(clock=self.clock, **options)

    def safe_max(self, database: Database, table: str, key: str) -> Any:
        self.clock.advance(1.0)
        return self.edge.safe_max(database, table, key)


@attr.s(auto_attribs=True, eq=False)
class Writer:
    """A thread with a transaction of its own: it draws an ID when told, and commits (or not) when told."""

    place: Place
    commits: bool = True
    ready: threading.Event = attr.Factory(threading.Event)
    draw: threading.Event = attr.Factory(threading.Event)
    drawn: threading.Event = attr.Factory(threading.Event)
    end: threading.Event = attr.Factory(threading.Event)
    ended: threading.Event = attr.Factory(threading.Event)
    errors: List[BaseException] = attr.Factory(list)

    def run(self) -> None:
        try:
            connection = self.place.connect()
            self.ready.set()
            self.draw.wait()
            with connection.cursor() as cursor:
                cursor.execute(INSERT)
            self.drawn.set()
            self.end.wait()
            connection.commit() if self.commits else connection.rollback()
        except BaseException as exc:
            self.errors.append(exc)
        finally:
            self.ready.set()
            self.drawn.set()
            self.ended.set()


@pytest.fixture
def writers(table: Place) -> Iterator[List[Writer]]:
    made = [Writer(table, commits=number % 10 != 0) for number in range(WRITERS)]
    threads = [threading.Thread(target=writer.run) for writer in made]
    for thread in threads:
        thread.start()
    for writer in made:
        writer.ready.wait()
    yield made
    for writer in made:
        writer.draw.set()
        writer.end.set()
    for thread in threads:
        thread.join()


def test_of_200_writers_who_commit_out_of_order_no_row_is_missed(
    table: Place, writers: List[Writer], record_property: Any
) -> None:
    clock = ManualClock()
    settle = 25.0
    readers: Dict[str, Reader] = {
        "naive": Reader(table, NotGrowing()),
        "open": Reader(table, OpenTransactions(clock=clock)),
        "settle": Reader(table, SettleTime(settle, clock)),
    }
    dice = random.Random(20261125)
    waiting, open_ones = list(writers), []  # type: ignore[var-annotated]
    held = 0
    while waiting or open_ones:
        # Some draw, at the same time; then some end, in any order, the oldest at the latest within the settle time.
        burst, waiting = waiting[:15], waiting[15:]
        for writer in burst:
            writer.draw.set()
        for writer in burst:
            assert writer.drawn.wait(30)
            open_ones.append((writer, clock.monotonic()))
        late = [item for item in open_ones if clock.monotonic() - item[1] > settle - 5]
        ending = late + dice.sample(open_ones, min(8, len(open_ones)))
        for writer, _ in ending:
            writer.end.set()
        for writer, _ in ending:
            assert writer.ended.wait(30)
        open_ones = [item for item in open_ones if not item[0].ended.is_set()]
        clock.advance(1.0)
        for reader in readers.values():
            reader.turn()
        held += readers["open"].frontier < readers["naive"].frontier
    assert [error for writer in writers for error in writer.errors] == []
    clock.advance(1.0)
    readers["open"].turn()
    clock.advance(settle + 1)
    readers["settle"].turn()
    committed = {row[0] for row in table.run("SELECT id FROM orders")}
    assert len(committed) == WRITERS * 9 // 10
    missed = {name: len(committed - reader.done) for name, reader in readers.items()}
    record_property("missed", missed)
    print(table.dialect, "missed of", len(committed), missed)
    assert missed["open"] == 0 and missed["settle"] == 0
    assert missed["naive"] > 0, "the control misses nothing: these writers prove nothing"
    assert held > 0


def test_a_row_that_commits_after_the_settle_time_is_missed(table: Place) -> None:
    clock = ManualClock()
    reader = Reader(table, SettleTime(10, clock))
    late = table.connect()
    with late.cursor() as cursor:
        cursor.execute(INSERT)
    table.run(INSERT)
    assert reader.turn() == 0
    clock.advance(11)
    assert reader.turn() == 2
    late.commit()
    clock.advance(11)
    reader.turn()
    assert reader.done == {2}


def test_the_edge_moves_at_once_when_nobody_writes_and_again_when_the_last_one_ends(table: Place) -> None:
    edge = Asking()
    reader = Reader(table, edge)
    table.run(INSERT)
    assert reader.turn() == 1
    late = table.connect()
    with late.cursor() as cursor:
        cursor.execute(INSERT)
    table.run(INSERT)
    assert reader.turn() == 1
    assert len(edge.edge.waiting_for()) == 1
    # Who begins later holds larger IDs only.
    later = table.connect()
    with later.cursor() as cursor:
        cursor.execute(INSERT)
    late.rollback()
    assert reader.turn() == 3
    assert reader.done == {1, 3}
    later.commit()
    assert reader.turn() == 4


def test_a_leader_who_begins_now_does_not_pass_who_was_open_before(table: Place) -> None:
    late = table.connect()
    with late.cursor() as cursor:
        cursor.execute(INSERT)
    table.run(INSERT)
    assert Reader(table, Asking()).turn() == 0


# -- PostgreSQL


def test_a_transaction_that_has_drawn_its_id_and_has_no_xid_yet_is_waited_for(orders: Place) -> None:
    orders.run(INSERT)  # draws, and writes 32 numbers ahead into the log: the next to draw needs no xid
    late = orders.connect()
    cursor = late.cursor()
    cursor.execute("SELECT nextval('orders_id_seq')")
    mine = cursor.fetchone()[0]
    cursor.execute("SELECT txid_current_if_assigned()")
    assert cursor.fetchone()[0] is None
    orders.run(INSERT)
    # The control: by the xids of a snapshot nobody is open.
    snapshot = "SELECT pg_snapshot_xmin(s) = pg_snapshot_xmax(s) FROM pg_current_snapshot() s"
    assert orders.run(snapshot)[0][0]
    reader = Reader(orders, Asking())
    assert reader.turn() == 0
    cursor.execute("INSERT INTO orders (id) VALUES (%d)" % mine)
    late.commit()
    assert reader.turn() == 3 and mine in reader.done


def test_a_prepared_transaction_is_waited_for(orders: Place) -> None:
    reader = Reader(orders, Asking())
    late = orders.connect()
    late.tpc_begin("one")
    cursor = late.cursor()
    cursor.execute(INSERT)
    orders.run(INSERT)
    assert reader.turn() == 0
    late.tpc_prepare()
    assert reader.turn() == 0
    assert Reader(orders, Asking()).turn() == 0
    late.tpc_commit()
    assert reader.turn() == 2 and reader.done == {1, 2}


def test_readers_and_other_databases_hold_nothing(orders: Place) -> None:
    orders.run(INSERT)
    for connection in (orders.connect(), orders.server.connect()):
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_class")
        orders._open.append(connection)
    long_report = orders.connect()
    with long_report.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM orders")
    assert Reader(orders, Asking()).turn() == 1
    # With every=True, those of this database do.
    edge = Asking(every=True)
    assert Reader(orders, edge).turn() == 0
    assert len(edge.edge.waiting_for()) == 2


def test_ids_from_a_sequence_the_column_does_not_name_are_waited_for(postgres: Place) -> None:
    postgres.run("CREATE TABLE orders (id BIGINT PRIMARY KEY)", "CREATE SEQUENCE numbers")
    draw = "SELECT nextval('numbers')"
    late = postgres.connect()
    with late.cursor() as cursor:
        cursor.execute(draw)
    postgres.run("INSERT INTO orders VALUES (nextval('numbers'))")
    reader = Reader(postgres, Asking())
    assert reader.turn() == 0
    with late.cursor() as cursor:
        cursor.execute("INSERT INTO orders VALUES (1)")
    late.commit()
    assert reader.turn() == 2 and reader.done == {1, 2}


def test_rows_on_their_way_into_any_part_of_a_partitioned_table_are_waited_for(postgres: Place) -> None:
    postgres.run(
        "CREATE TABLE orders (id BIGINT GENERATED ALWAYS AS IDENTITY, part INT) PARTITION BY LIST (part)",
        "CREATE TABLE orders_1 PARTITION OF orders FOR VALUES IN (1)",
        "CREATE TABLE orders_2 PARTITION OF orders FOR VALUES IN (2)",
    )
    late = postgres.connect()
    with late.cursor() as cursor:
        cursor.execute("INSERT INTO orders (part) VALUES (1)")
    postgres.run("INSERT INTO orders (part) VALUES (2)")
    reader = Reader(postgres, Asking())
    assert reader.turn() == 0
    late.commit()
    assert reader.turn() == 2


def test_the_sequence_of_a_part_is_looked_at_too(postgres: Place) -> None:
    postgres.run(
        "CREATE TABLE orders (id BIGSERIAL, part INT) PARTITION BY LIST (part)",
        "CREATE TABLE orders_1 PARTITION OF orders FOR VALUES IN (1)",
        "CREATE SEQUENCE own CACHE 20",
        "ALTER TABLE orders_1 ALTER id SET DEFAULT nextval('own')",
    )
    with pytest.raises(ConfigError, match="sequence own has CACHE 20"):
        Reader(postgres, Asking()).turn()


@pytest.mark.parametrize("change", ["CACHE 20", "INCREMENT -1 MINVALUE -9 START 1", "MAXVALUE 99 CYCLE"])
def test_a_sequence_whose_numbers_do_not_rise_within_transactions_is_refused(orders: Place, change: str) -> None:
    orders.run("ALTER SEQUENCE orders_id_seq " + change)
    with pytest.raises(ConfigError, match="orders_id_seq.*ALTER SEQUENCE.*SettleTime"):
        Reader(orders, Asking()).turn()


def test_no_privilege_is_needed_to_see_the_transactions_of_others(orders: Place) -> None:
    orders.run("DROP ROLE IF EXISTS weak", "CREATE ROLE weak LOGIN", "GRANT SELECT ON orders TO weak")
    late = orders.connect()
    with late.cursor() as cursor:
        cursor.execute(INSERT)
    orders.run(INSERT)
    for every in (False, True):
        reader = Reader(orders, Asking(every=every))
        reader.planner = DenseKeyPlanner(
            Database.from_connect(lambda: orders.connect(user="weak")), "orders", edge=Asking(every=every)
        )
        assert reader.turn() == 0
    late.commit()
    assert reader.turn() == 2
    late.close()
    for connection in orders._open:
        connection.close()
    orders.run("DROP OWNED BY weak", "DROP ROLE weak")


# -- MariaDB


def test_an_old_answer_about_transactions_is_not_believed(maria_orders: Place) -> None:
    """InnoDB answers from a cache of 0.1 s, which another reader has just filled."""
    other, late = maria_orders.connect(), maria_orders.connect()
    quick = maria_orders.connect(autocommit=True)
    reader = Reader(maria_orders, Asking())
    for number in range(10):
        assert reader.turn() == 2 * number
        with other.cursor() as a, late.cursor() as b, quick.cursor() as c:
            a.execute("SELECT count(*) FROM information_schema.innodb_trx")
            b.execute(INSERT)
            c.execute(INSERT)
        assert reader.turn() == 2 * number
        late.commit()


def test_a_running_statement_counts_before_innodb_knows_of_it(maria_orders: Place) -> None:
    maria_orders.run(INSERT)
    busy = maria_orders.connect()
    number = busy.thread_id()

    def run() -> None:
        # The killed query. Not pymysql.err: another module once Django loaded PyMySQL under the name MySQLdb.
        with busy.cursor() as cursor, contextlib.suppress(pymysql.OperationalError):
            cursor.execute("SELECT SLEEP(30)")

    thread = threading.Thread(target=run)
    thread.start()
    try:
        shown = "SELECT count(*) FROM information_schema.processlist WHERE id = %d AND command = 'Query'" % number
        wait_until(lambda: maria_orders.run(shown)[0][0], what="the statement runs")
        edge = Asking()
        reader = Reader(maria_orders, edge)
        assert reader.turn() == 0 and edge.edge.waiting_for() == [str(number)]
    finally:
        maria_orders.server.admin("KILL QUERY %d" % number)
        thread.join()
    assert reader.turn() == 1


def test_an_xa_transaction_whose_connection_has_gone_is_waited_for(maria_orders: Place) -> None:
    reader = Reader(maria_orders, Asking())
    late = maria_orders.connect()
    with late.cursor() as cursor:
        cursor.execute("XA START 'a'")
        cursor.execute(INSERT)
        maria_orders.run(INSERT)
        assert reader.turn() == 0
        cursor.execute("XA END 'a'")
        cursor.execute("XA PREPARE 'a'")
    late.close()
    assert reader.turn() == 0
    maria_orders.server.admin("XA COMMIT 'a'")
    assert wait_until(reader.turn) == 2 and reader.done == {1, 2}


def test_without_the_privilege_the_error_says_what_to_grant(maria_orders: Place) -> None:
    maria_orders.server.admin(
        "CREATE OR REPLACE USER weak@localhost", "GRANT SELECT ON %s.* TO weak@localhost" % maria_orders.name
    )
    planner = DenseKeyPlanner(Database.from_connect(lambda: maria_orders.connect(user="weak")), "orders")
    with pytest.raises(ConfigError, match="GRANT PROCESS"):
        planner.get_next_max_id(None, 0, 10)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "create, complaint",
    [
        ("CREATE TABLE orders (id BIGINT PRIMARY KEY)", "no AUTO_INCREMENT"),
        (CREATE["mysql"].replace("InnoDB", "MyISAM"), "no InnoDB table"),
    ],
)
def test_a_table_whose_transactions_cannot_be_seen_is_refused(maria: Place, create: str, complaint: str) -> None:
    maria.run(create)
    planner: _TablePlanner = DenseKeyPlanner(Database.from_connect(maria.connect), "orders")
    with pytest.raises(ConfigError, match=complaint):
        planner._safe_max()
