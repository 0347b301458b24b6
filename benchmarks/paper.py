"""What the measured costs mean for fleets larger than any machine here could run."""

from __future__ import annotations

from typing import Callable, Sequence

from benchmarks.figures import Section
from benchmarks.harness import Bench, create
from elk_coordinator.model import Outcome, Partition, Report
from elk_coordinator.partition.requests import BeatRequest, TurnRequest
from elk_coordinator.partition.strategy import PartitionStrategy
from elk_coordinator.worker.claimer import IDLE_POLL

WORKERS, WINDOW, BEAT = 10_000, 3, 10.0
#: Of one core, above which latencies grow.
SHARE = 0.7


class Calls:
    """What a worker sends, one call at a time, and what each costs the server."""

    def __init__(self, bench: Bench, strategy: PartitionStrategy, count: int) -> None:
        self._bench, self._strategy, self._count = bench, strategy, count
        self._work, self._beats = strategy.stream("work"), strategy.stream("beat")
        self._held: Sequence[Partition] = ()

    def cost(self, step: Callable[[], None]) -> float:
        """Return the server CPU of one of *step*, in microseconds."""
        step()
        before = self._bench.server_cpu()
        for _ in range(self._count):
            step()
        return (self._bench.server_cpu() - before) * 1e6 / self._count

    def turn(self, free: int = WINDOW) -> None:
        reports = [Report(p.partition_id, p.fencing_token, Outcome.COMPLETED, 10) for p in self._held]
        number = self._strategy.next_sequence(self._work)
        self._held = self._strategy.turn(TurnRequest("w", self._work, number, 30.0, reports, free=free)).granted

    def one(self) -> None:
        self.turn(1)

    def beat(self) -> None:
        claims = [(p.partition_id, p.fencing_token) for p in self._held]
        number = self._strategy.next_sequence(self._beats)
        self._strategy.beat(BeatRequest("w", self._beats, number, 30.0, 30.0, {"pid": 1, "window": 3}, claims))


def run(bench: Bench) -> Section:
    title = "On paper: {:,} workers on one server, by the server CPU of each call".format(WORKERS)
    section = Section("paper", title)
    count = 100 if bench.scale == "quick" else 1500
    look, heart, held_heart, single = [], [], [], []
    for _ in range(bench.sizes["rounds"]):
        with bench.space() as strategy:
            calls = Calls(bench, strategy, count)
            look.append(calls.cost(calls.turn))
            heart.append(calls.cost(calls.beat))
            create(strategy, 1, count + 100)
            calls.turn()
            held_heart.append(calls.cost(calls.beat))
            single.append(calls.cost(calls.one))
    section.add("a look for work that finds none", look, "us")
    section.add("a heartbeat, nothing held", heart, "us")
    section.add("a heartbeat that renews three", held_heart, "us")
    section.add("a partition, claimed and reported alone", single, "us")
    idle = [WORKERS * (a / IDLE_POLL / 0.875 + b / BEAT) / 1e4 for a, b in zip(look, heart)]
    section.add("all of them idle", idle, "% of a core")
    beats_share = [WORKERS / BEAT * value / 1e6 for value in held_heart]
    busy = [(share + WORKERS * WINDOW / 60 * value / 1e6) * 100 for share, value in zip(beats_share, single)]
    section.add("all at work, window 3, partitions of 60 s (500 a second)", busy, "% of a core")
    least = [WORKERS * WINDOW * value / 1e6 / (SHARE - share) for share, value in zip(beats_share, single)]
    section.add("all at work, window 3: shortest partitions within 70 % of a core", least, "s")
    section.notes.append(
        "Computed from calls one after the other over one connection; many connections cost the server less per call, "
        "because it reads several at a time, and some more for looking after them."
    )
    return section
