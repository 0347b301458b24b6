"""Guards and batch processor on real servers: the common scenes, and connections that die at the worst moment."""

from __future__ import annotations

import threading
from typing import Any, Callable, Iterator, List

import pytest

from elk_coordinator.contrib.sql import (
    CommitUnknown,
    Database,
    RangeFence,
    Session,
    SqlBatchProcessor,
    StaleToken,
    replica_lag,
)
from elk_coordinator.testing import wait_until
from tests.contrib.guard_scenes import HI, Attempt, GuardScenes, apply
from tests.databases.servers import Place

NUMBER = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT connection_id()"}
KILL = {"postgresql": "SELECT pg_terminate_backend(%d)", "mysql": "KILL %d"}


@pytest.fixture
def database(place: Place) -> Iterator[Database]:
    made = Database.from_connect(place.connect)
    yield made
    made.close()


class LosesAnAnswer:
    """A connection of the driver whose COMMIT loses its answer once: after it happened, or before."""

    def __init__(self, place: Place, plan: List[str]) -> None:
        self.real = place.connect()
        self._place = place
        self._plan = plan

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def commit(self) -> None:
        if not self._plan:
            self.real.commit()
            return
        if self._plan.pop() == "after":
            self.real.commit()
        with self.real.cursor() as cursor:
            cursor.execute(NUMBER[self._place.dialect])
            number = cursor.fetchone()[0]
        self._place.run(KILL[self._place.dialect] % number)
        self.real.commit()  # the driver finds out, by itself


class TestOnServers(GuardScenes):
    @pytest.fixture(autouse=True)
    def on(self, place: Place) -> None:
        self.place = place

    def kill(self, session: Session) -> None:
        """End the session's connection as an administrator would."""
        self.place.run(KILL[session.dialect] % session.scalar(NUMBER[session.dialect]))

    @pytest.mark.parametrize("fenced", [True, False], ids=["fenced", "plain"])
    def test_a_connection_that_is_dropped_inside_a_batch_has_it_done_again(self, fenced: bool) -> None:
        drops = [13, 7, 7, 1]

        def handle(session: Session, ctx: Any, lo: int, hi: int) -> int:
            count = apply(session, ctx, lo, hi)
            if lo in drops:
                drops.remove(lo)
                self.kill(session)
                session.scalar("SELECT 1")
            return count

        attempt = Attempt(5)
        assert attempt.run(self.processor(handle, fence=self.fence if fenced else None)) == 20
        assert drops == [] and self.applied() == {1: 20} and attempt.saved == [6, 12, 18, 20]

    def test_a_connection_that_is_dropped_again_and_again_fails_the_attempt(self) -> None:
        tries: List[int] = []

        def handle(session: Session, ctx: Any, lo: int, hi: int) -> int:
            tries.append(lo)
            self.kill(session)
            return apply(session, ctx, lo, hi)

        with pytest.raises(Exception) as broken:
            Attempt(5).run(self.processor(handle, reconnects=2))
        assert self.db.is_disconnect(broken.value) and tries == [1, 1, 1]
        assert self.applied() == {0: 20}

    def test_a_connection_that_is_dropped_while_the_throttle_asks_fails_no_attempt(self) -> None:
        asked: List[int] = []

        def throttle() -> bool:
            with self.db.reading() as session:
                asked.append(1)
                if len(asked) == 2:
                    self.kill(session)
                session.scalar("SELECT 1")
            return False

        assert Attempt(5).run(self.processor(throttle=throttle)) == 20
        assert len(asked) == 5 and self.applied() == {1: 20}

    @pytest.mark.parametrize("moment", ["before", "after"])
    @pytest.mark.parametrize("fenced", [True, False], ids=["fenced", "control"])
    def test_a_lost_answer_to_a_commit_is_settled_by_the_fence(self, fenced: bool, moment: str) -> None:
        plan: List[str] = []

        def handle(session: Session, ctx: Any, lo: int, hi: int) -> int:
            if lo == 7 and not handled:
                handled.append(lo)
                plan.append(moment)
            return apply(session, ctx, lo, hi)

        handled: List[int] = []
        database = Database.from_connect(lambda: LosesAnAnswer(self.place, plan), self.place.dialect, "pyformat")
        attempt = Attempt(5)
        processor = SqlBatchProcessor(database, handle, batch_ids=6, fence=RangeFence(database) if fenced else None)
        if fenced:
            assert attempt.run(processor) == 20
            assert handled and self.applied() == {1: 20}
            assert self.fences() == [(1, 20, 5, 20, 20)]
        else:
            with pytest.raises(CommitUnknown, match="IDs 7 to 12"):
                attempt.run(processor)
            assert attempt.saved == [6]
            Attempt(6, checkpoint=6).run(processor)
            assert self.applied() == ({1: 20} if moment == "before" else {1: 14, 2: 6})
        database.close()

    def test_a_new_claim_waits_for_the_write_under_way_and_goes_on_behind_it(self) -> None:
        """1. The old worker is inside its write. 2. The new one comes. 3. The old one commits, and is refused next."""
        old, new = Attempt(5), Attempt(6)
        held = self.fence.enter(old.ctx)
        entered = threading.Event()
        found: List[int] = []

        def enter() -> None:
            found.append(self.fence.enter(new.ctx).done_to)
            entered.set()

        thread = threading.Thread(target=enter)

        def write(session: Session) -> int:
            count = apply(session, old.ctx, 1, 6)
            thread.start()
            wait_until(self.somebody_waits, 10)
            assert not entered.is_set()
            return count

        held.write(6, write)
        thread.join(10)
        assert found == [6]
        with pytest.raises(StaleToken):
            held.write(12, lambda session: apply(session, old.ctx, 7, 12))
        assert new.run(self.processor()) == HI and self.applied() == {1: 20}

    def test_a_worker_frozen_inside_its_write_is_ended_by_the_limit_of_the_server_and_refused(self) -> None:
        limit = {
            "postgresql": "SET SESSION idle_in_transaction_session_timeout = 1000",
            "mysql": "SET SESSION idle_transaction_timeout = 1",
        }

        def connect() -> Any:
            connection = self.place.connect()
            with connection.cursor() as cursor:
                cursor.execute(limit[self.place.dialect])
            connection.commit()
            return connection

        frozen = Database.from_connect(connect)
        tries: List[int] = []

        def handle(session: Session, ctx: Any, lo: int, hi: int) -> int:
            tries.append(lo)
            count = apply(session, ctx, lo, hi)
            assert Attempt(6).run(self.processor()) == HI, "the successor waited for the server's limit"
            return count

        old = Attempt(5)
        with pytest.raises(StaleToken):
            old.run(SqlBatchProcessor(frozen, handle, batch_ids=6, fence=RangeFence(frozen)))
        frozen.close()
        assert tries == [1] and old.saved == [] and self.applied() == {1: 20}

    def somebody_waits(self) -> bool:
        if self.place.dialect == "mysql":
            # Not innodb_trx: whoever asks it more often than ten times a second is answered from its cache for ever.
            row = self.place.run("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'")[0]
            return int(row[1]) > 0
        return bool(self.place.run("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")[0][0])

    def test_many_workers_enter_many_ranges_at_once(self) -> None:
        errors: List[BaseException] = []

        def work(number: int) -> None:
            try:
                for token in range(1, 6):
                    attempt = Attempt(token, 100 * number, 100 * number + 99)
                    attempt.run(self.processor(batch_ids=25))
            except BaseException as exc:
                errors.append(exc)

        run_all([lambda number=number: work(number) for number in range(1, 9)])
        assert errors == []
        assert [(row[2], row[3] - row[1]) for row in self.fences()] == [(5, 0)] * 8


def run_all(works: List[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)


def test_the_fence_table_may_be_made_by_many_workers_that_start_at_once(place: Place) -> None:
    errors: List[BaseException] = []

    def make(fence: RangeFence, together: threading.Barrier) -> None:
        try:
            together.wait(30)
            fence.create_table()
        except BaseException as exc:
            errors.append(exc)

    for number in range(5):
        fences = [RangeFence(Database.from_connect(place.connect), "fence%d" % number) for _ in range(6)]
        together = threading.Barrier(len(fences))
        run_all([lambda fence=fence, together=together: make(fence, together) for fence in fences])
    assert errors == []


def test_a_role_that_may_not_create_tables_may_use_the_one_that_is_there(postgres: Place) -> None:
    RangeFence(Database.from_connect(postgres.connect)).create_table()
    postgres.run(
        "DROP ROLE IF EXISTS small", "CREATE ROLE small LOGIN", "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON elk_fence TO small",
    )  # fmt: skip
    small = Database.from_connect(lambda: postgres.connect(user="small"))
    RangeFence(small).create_table()
    with pytest.raises(Exception, match="permission denied"):
        RangeFence(small, "another").create_table()


def test_a_record_that_changed_since_the_snapshot_is_a_reason_to_repeat(maria: Place) -> None:
    """The default from MariaDB 11.6.2 on: what a deadlock is elsewhere is error 1020 there."""

    def connect() -> Any:
        return maria.connect(init_command="SET SESSION innodb_snapshot_isolation = ON")

    maria.run("CREATE TABLE t (id BIGINT PRIMARY KEY, n INT) ENGINE=InnoDB", "INSERT INTO t VALUES (1, 0)")
    database = Database.from_connect(connect)
    tries: List[int] = []

    def handle(session: Session, ctx: Any, lo: int, hi: int) -> int:
        tries.append(session.scalar("SELECT n FROM t"))
        if len(tries) == 1:
            maria.run("UPDATE t SET n = n + 1")
        return session.execute("UPDATE t SET n = n + 10")

    assert Attempt(5, 1, 1).run(SqlBatchProcessor(database, handle, batch_ids=1)) == 1
    assert tries == [0, 1] and maria.run("SELECT n FROM t") == [(11,)]
    database.close()


def test_replica_lag_of_a_primary_without_replicas_lets_go_on(postgres: Place) -> None:
    database = Database.from_connect(postgres.connect)
    assert replica_lag(database, 0.5)() is False
    database.close()


def test_namespaces_of_the_fence_differ_by_case_on_mariadb_too(maria: Place) -> None:
    database = Database.from_connect(maria.connect)
    fence = RangeFence(database)
    fence.create_table()
    for name in ("orders", "Orders"):
        attempt = Attempt(5)
        attempt.ctx.namespace = name
        assert fence.enter(attempt.ctx).write(HI, lambda session: 1) == 1
    database.close()
