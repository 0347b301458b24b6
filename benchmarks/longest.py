"""The longest script: every batch at its legal largest, by the server's own clock (SLOWLOG)."""

from __future__ import annotations

from typing import Any, Callable, Dict, List

from benchmarks.figures import Section
from benchmarks.harness import BATCH, Bench, create
from elk_coordinator import CreatePartition
from elk_coordinator.model import Outcome, Report
from elk_coordinator.partition.requests import SHORT_BATCH, BeatRequest, TurnRequest
from elk_coordinator.partition.strategy import PartitionStrategy


class Batches:
    """One namespace, and the largest of everything that may be asked of it."""

    def __init__(self, strategy: PartitionStrategy) -> None:
        self.strategy = strategy
        self.next = 1
        self.held: List[Any] = []
        self.stream = strategy.stream("work")

    def turn(self, lease: float = 60.0, outcome: Outcome = Outcome.COMPLETED, **what: Any) -> None:
        reports = [
            Report(p.partition_id, p.fencing_token, outcome, 10, "x" * 200 if outcome is Outcome.ERROR else None, 0.0)
            for p in self.held
        ]
        number = self.strategy.next_sequence(self.stream)
        request = TurnRequest("w" * 40, self.stream, number, lease, reports=reports, **what)
        self.held = list(self.strategy.turn(request).granted)

    def create(self) -> None:
        options = {"shard": 7, "table": "orders", "reason": "backfill"}
        first, self.next = self.next, self.next + BATCH
        self.strategy.create_partitions_if_not_exist(
            [CreatePartition(i, i * 10, i * 10 + 9, 0, options) for i in range(first, first + BATCH)]
        )

    def claim(self) -> None:
        self.turn(free=SHORT_BATCH)

    def both(self) -> None:
        self.turn(free=SHORT_BATCH)

    def fail(self) -> None:
        self.turn(outcome=Outcome.ERROR, free=SHORT_BATCH)

    def beat(self) -> None:
        strategy, stream = self.strategy, self.strategy.stream("beat")
        claims = [(p.partition_id, p.fencing_token) for p in self.held]
        strategy.beat(BeatRequest("w" * 40, stream, strategy.next_sequence(stream), 30.0, 60.0, {}, claims))

    def delete(self) -> None:
        first, self.next = self.next, self.next + BATCH
        create(self.strategy, first, BATCH)
        self.strategy.delete_partitions(list(range(first, first + BATCH)))

    def read(self) -> None:
        self.strategy.read(list(range(self.next - BATCH, self.next)))

    def lose(self) -> None:
        self.turn(lease=0.001, free=SHORT_BATCH)
        self.held = []
        while not self.strategy.sweep(SHORT_BATCH).reclaimed:
            pass


def run(bench: Bench) -> Section:
    section = Section("script", "The longest script: each batch at the largest that is ever sent")
    bench.raw.config_set("slowlog-log-slower-than", 0)
    bench.raw.config_set("slowlog-max-len", 64)
    took: Dict[str, List[float]] = {}
    spent: Dict[str, List[float]] = {}
    with bench.space() as strategy:
        batches = Batches(strategy)
        steps: Dict[str, Callable[[], None]] = {
            "create 500": batches.create, "claim 200": batches.claim, "renew 200": batches.beat,
            "report 200 and claim 200": batches.both, "200 failures and claim 200": batches.fail,
            "take back 200 lost": batches.lose, "read 500": batches.read, "create, delete 500": batches.delete,
        }  # fmt: skip
        for _ in range(1 + bench.sizes["rounds"]):
            for name, step in steps.items():
                for _ in range(2):
                    # More waits than is asked for.
                    batches.create()
                bench.raw.slowlog_reset()
                cpu = bench.server_cpu()
                step()
                spent.setdefault(name, []).append((bench.server_cpu() - cpu) * 1000)
                longest = max(entry["duration"] for entry in bench.raw.slowlog_get(64) if b"EVAL" in entry["command"])
                took.setdefault(name, []).append(longest / 1000)
    bench.raw.config_set("slowlog-log-slower-than", 10000)
    for name, values in took.items():
        # The first time, the server compiles the script.
        section.add(name, values[1:], "ms", "< 5", of="max")
    section.add("server CPU of: report 200 and claim 200", spent["report 200 and claim 200"][1:], "ms")
    section.notes.append("Wall time: where other work takes the core away, that counts, too. The median is nearer.")
    return section
