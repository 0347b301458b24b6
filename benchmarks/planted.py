"""Completed partitions as a fleet leaves them (tests/archive_data.py), planted without draining them."""

from __future__ import annotations

from typing import Any, Iterator, List, Tuple

from benchmarks.harness import Bench
from elk_coordinator.partition.archive import ChunkChange, ChunkLine
from elk_coordinator.partition.archive_codec import BUCKET, Row, encode
from tests.archive_data import record_of, simulated

SIZE = 1000


def simulated_done(bench: Bench, strategy: Any, count: int) -> List[int]:
    """Write *count* completed partitions as a report leaves them; return their ids."""
    made = simulated(count, seed=bench.seed, size=SIZE)
    pipe = bench.raw.pipeline(transaction=False)
    for row in made:
        pipe.hset(strategy.store.keys["done"], "%014x" % row.partition_id, record_of(row))
    pipe.execute()
    return [row.partition_id for row in made]


def _chunks(count: int, seed: int) -> Iterator[Tuple[int, List[Row]]]:
    # One chunk's shape again and again, with ids, ranges and times moved on.
    shape = [row for row in sorted(simulated(BUCKET * 2, seed=seed, size=SIZE)) if row.partition_id < BUCKET]
    for bucket in range(count // BUCKET):
        by, later = bucket * BUCKET, bucket * 400_000_000
        yield bucket, [
            row._replace(
                partition_id=row.partition_id + by, low=row.low + by * SIZE, created=row.created + later,
                token=row.token + later, version=row.version + later,
            )
            for row in shape
        ]  # fmt: skip


def plant(bench: Bench, strategy: Any, count: int) -> int:
    """Fill the archive with some *count* completed partitions, by the leader's own step; return the highest id."""
    term = strategy.store.acquire_lock("leader", "bench", 3600.0, 0)
    for bucket, made in _chunks(count, bench.seed):
        versions = [row.version for row in made]
        line = "bench-%d %d %d %d %d %d" % (
            bucket, len(made), min(versions), max(versions), made[0].partition_id, made[-1].partition_id,
        )  # fmt: skip
        ChunkLine.parse(bucket, line)
        strategy._archive_swap(term, ChunkChange(bucket, "", line, encode(made), len(made)), ())
    strategy.store.release_lock("leader", term)
    return max(count, BUCKET)
