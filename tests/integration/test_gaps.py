"""Gaps with real coordinators: rows that come late, partitions that were deleted, new data meanwhile."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from typing import Any, Callable, Iterator, List, Set

import pytest

from elk_coordinator import Coordinator, StrategyType, create_strategy
from elk_coordinator.cli.main import main
from elk_coordinator.leader.gaps import DefaultGapDetector
from elk_coordinator.model import PartitionFilter, PartitionStatus
from elk_coordinator.partition.audit import verify
from elk_coordinator.store.memory_store import MemoryDataStore
from elk_coordinator.testing import wait_until
from tests.integration.conftest import QUICK, Counting, Numbers, Recorder

Build = Callable[..., Coordinator]


class Table:
    """Rows in SQLite, as a planner sees them."""

    def __init__(self, size: int = 10) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        self._db.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
        self._size = size

    def insert(self, *ids: int) -> None:
        with self._lock, self._db:
            self._db.executemany("INSERT OR IGNORE INTO orders VALUES (?)", [(i,) for i in ids])

    def ids(self) -> Set[int]:
        with self._lock:
            return {row[0] for row in self._db.execute("SELECT id FROM orders")}

    def partition_size(self, ctx: Any) -> int:
        return self._size

    def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> int:
        with self._lock:
            query = "SELECT max(id) FROM orders WHERE id > ? AND id <= ?"
            top = self._db.execute(query, (start_id, start_id + range_size)).fetchone()[0]
        return start_id if top is None else int(top)

    def has_data(self, ctx: Any, min_id: int, max_id: int) -> bool:
        with self._lock:
            query = "SELECT EXISTS (SELECT 1 FROM orders WHERE id BETWEEN ? AND ?)"
            return bool(self._db.execute(query, (min_id, max_id)).fetchone()[0])

    def close(self) -> None:
        self._db.close()


@pytest.fixture
def table() -> Iterator[Table]:
    with contextlib.closing(Table()) as opened:
        yield opened


@pytest.fixture(params=["hash", "simple-redis", "simple-memory"])
def where(request: Any, store: Any) -> Iterator[Any]:
    """Return options for a coordinator on each strategy, and its store."""
    if request.param == "hash":
        yield {"store": store}
    else:
        memory = MemoryDataStore() if request.param == "simple-memory" else store
        yield {"store": memory, "strategy": StrategyType.SIMPLE}


class Handled:
    """A processor that notes which rows it found, and how often each."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._lock = threading.Lock()
        self.seen: List[int] = []

    def process(self, ctx: Any, min_id: int, max_id: int, options: Any) -> int:
        rows = [i for i in self._table.ids() if min_id <= i <= max_id]
        with self._lock:
            self.seen += rows
        return len(rows)


def test_late_rows_and_deleted_partitions_are_processed_while_new_data_keeps_coming(
    build: Build, where: Any, namespace: str, table: Table
) -> None:
    table.insert(*range(1, 101), *range(10**12, 10**12 + 50))
    work = Handled(table)
    recorder = Recorder()
    detector = DefaultGapDetector(interval=0.2, sweep_age=0.5)
    options = dict(where, gap_detector=detector, listeners=[recorder], allocation_interval=0.3)
    coordinator = build(work, table, **options).start()
    second = build(work, table, **dict(options, listeners=[])).start()
    assert coordinator.wait_idle(20.0)
    assert set(work.seen) == table.ids()
    partitions = create_strategy(options.get("strategy", StrategyType.HASH), namespace, options["store"])
    skipped = partitions.skipped_intervals()
    assert len(skipped) == 1 and skipped[0][1] == 10**12 - 1

    done = partitions.get_filtered_partitions(PartitionFilter(statuses=[PartitionStatus.COMPLETED]))
    victim = next(p for p in done if (p.min_id, p.max_id) == (41, 50))
    before = work.seen.count(45)
    assert partitions.delete_partitions([victim.partition_id]) == []
    fresh = 10**12 + 50
    late = [5_000, 123_456_789_012, 10**12 - 1]
    for i in range(20):
        table.insert(*range(fresh, fresh + 10))
        fresh += 10
        if i < len(late):
            table.insert(late[i])

    wait_until(lambda: table.ids() <= set(work.seen), 30.0, lambda: "missing: %s" % (table.ids() - set(work.seen)))
    wait_until(lambda: work.seen.count(45) == before + 1, 30.0, "the deleted partition returns")
    assert coordinator.wait_idle(20.0)
    times = {i: work.seen.count(i) for i in table.ids()}
    assert {i for i, n in times.items() if n > 1} == set(range(41, 51)), "nothing else is ever planned again"
    report = verify(partitions)
    assert report.ok, report.problems
    found = second.gaps.report()
    assert found.mode == "discrete" and found.open_count == 0 and found.planned_partitions >= 4
    assert any((g.min_id, g.max_id, g.state) == (41, 50, "planned") for g in found.gaps)
    assert found.last_look is not None and found.last_sweep is not None
    assert [w.gaps.detect() for w in (coordinator, second) if not w.is_leader] == [False]
    print("gaps found: %d, partitions made in them: %d" % (found.planned_count, found.planned_partitions))


def test_wait_idle_waits_for_a_deleted_range(build: Build, partitions: Any) -> None:
    """Nobody waits for the next look: whoever asks for idleness has it done."""
    work = Counting()
    coordinator = build(work, Numbers(200), gap_detector=DefaultGapDetector(interval=1000.0)).start()
    assert coordinator.wait_idle(20.0)
    partitions.delete_partitions([3, 7])
    assert coordinator.wait_idle(20.0)
    assert {i for i, n in work.seen.items() if n == 2} == set(range(21, 31)) | set(range(61, 71))
    assert verify(partitions).ok


def test_a_custom_detector_works_in_a_coordinator_and_its_errors_end_no_thread(build: Build, partitions: Any) -> None:
    class Mine:
        interval = 0.05

        def __init__(self) -> None:
            self.answer: Any = SystemExit(3)

        def detect(self, ctx: Any, planned: Any, skipped: Any) -> Any:
            if isinstance(self.answer, BaseException):
                raise self.answer
            return self.answer

    mine, recorder, work = Mine(), Recorder(), Counting()
    options = {"gap_detector": mine, "listeners": [recorder], "allocation_interval": 0.2}
    coordinator = build(work, Numbers(100), **options).start()
    assert coordinator.wait_idle(20.0)
    wait_until(lambda: recorder.of("planner_error"), 10.0, "the error is told")
    assert recorder.of("planner_error")[0].method == "gap_detector.detect"
    assert coordinator.health().healthy
    partitions.delete_partitions([5])
    mine.answer = [(1, 60)]
    wait_until(lambda: work.seen[45] == 2, 20.0, "the deleted range comes back")
    wait_until(lambda: recorder.of("gap_found"), 10.0, "it is told")
    assert sum(n == 2 for n in work.seen.values()) == 10
    assert coordinator.gaps.report().mode == "custom"
    assert coordinator.wait_idle(20.0)
    assert verify(partitions).ok


def test_the_command_line_lists_gaps(
    build: Build, namespace: str, redis_url: str, partitions: Any, capsys: Any
) -> None:
    coordinator = build(Counting(), Numbers(100), gap_detector=DefaultGapDetector(interval=0.05)).start()
    assert coordinator.wait_idle(20.0)
    partitions.delete_partitions([4])
    assert coordinator.wait_idle(20.0)
    coordinator.stop()
    partitions.delete_partitions([9])
    arguments = ["--namespace", namespace, "--redis", redis_url, "gaps"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "open       1 gap, 10 IDs" in text and "[81, 90]" in text
    assert "[31, 40]" in text and "became 1 partition" in text
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["namespace"] == namespace and document["open_ids"] == 10
    assert {(g["min_id"], g["state"]) for g in document["gaps"]} == {(81, "open"), (31, "planned")}


def test_a_worker_that_never_leads_reports_too(build: Build, where: Any) -> None:
    coordinator = build(Counting(), None, **where)
    assert coordinator.gaps.report().gaps == [] and coordinator.gaps.detect("incremental") is False
    assert QUICK["metrics_enabled"] is False
