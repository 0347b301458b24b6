"""How long a claim and a report take: against the backlog, and against the number of workers at a fixed load."""

from __future__ import annotations

import random
import threading
import time
from typing import Any, Dict, List, Tuple

from benchmarks.figures import Curve, Picture, Section, percentile
from benchmarks.harness import Bench, create
from elk_coordinator import RedisDataStore, StrategyType, create_strategy
from elk_coordinator.model import Outcome, Report
from elk_coordinator.partition.requests import BeatRequest
from elk_coordinator.partition.strategy import PartitionStrategy

#: The load of the goal, claims a second over the whole fleet; each is followed by its report.
LOAD = 500
#: Threads that play the workers.
PLAYERS = 4
BEAT = 10.0


def claim_and_report(strategy: PartitionStrategy, worker: str, due: float) -> Tuple[float, float, float]:
    """Do one claim and its report; return the seconds of both and how late the claim's answer came after *due*."""
    began = time.perf_counter()
    granted = strategy.claim_partitions(worker)
    claimed = time.perf_counter()
    strategy.report_partitions(
        worker, [Report(p.partition_id, p.fencing_token, Outcome.COMPLETED, 10) for p in granted]
    )
    return claimed - began, time.perf_counter() - claimed, claimed - due


def by_backlog(bench: Bench) -> Section:
    """One worker alone, one partition at a time, on ever longer backlogs."""
    section = Section("latency-backlog", "Latency of one worker, one partition at a time, against the backlog")
    count = 200 if bench.scale == "quick" else 1500
    curves: Dict[str, Curve] = {name: Curve(name) for name in ("claim p50", "claim p99", "report p50", "report p99")}
    ends = {}
    for level in bench.sizes["backlogs"]:
        with bench.space(level + count * bench.sizes["slow"]) as strategy:
            rounds: Dict[str, List[float]] = {name: [] for name in curves}
            for _ in range(bench.sizes["slow"]):
                took = [claim_and_report(strategy, "w", time.perf_counter()) for _ in range(count)]
                for place, what in enumerate(("claim", "report")):
                    for share in (50, 99):
                        value = percentile([one[place] for one in took], share / 100) * 1000
                        rounds["%s p%d" % (what, share)].append(value)
        for name, values in rounds.items():
            curves[name].add(level, values)
            section.add("%s, %s pending" % (name, "{:,}".format(level)), values, "ms")
        ends[level] = rounds["claim p50"]
    levels = bench.sizes["backlogs"]
    if len(levels) > 1:
        ratio = [a / b for a, b in zip(ends[levels[-1]], ends[levels[0]])]
        section.add("claim p50, longest against shortest backlog", ratio, "x")
    section.pictures.append(
        Picture("bench-latency-backlog", "Latency against the backlog", "pending partitions", "ms",
                list(curves.values()), log_y=True)
    )  # fmt: skip
    return section


class Player(threading.Thread):
    """Plays a share of the workers: their claims and reports at random instants, their heartbeats in time."""

    def __init__(self, crew: List[Any], rate: float, until: float, seed: int) -> None:
        super().__init__(name="bench-player", daemon=True)
        self._crew, self._rate, self._until = crew, rate, until
        self._chance = random.Random(seed)
        self.took: List[Tuple[float, float, float]] = []
        self.beats: List[float] = []
        self.error = ""

    def run(self) -> None:
        try:
            self._play()
        except Exception as exc:
            self.error = repr(exc)

    def _play(self) -> None:
        now = time.perf_counter()
        due = now + self._chance.expovariate(self._rate)
        between = BEAT / len(self._crew)
        beat_due, turn = now + self._chance.uniform(0, between), 0
        while min(due, beat_due) < self._until:
            pause = min(due, beat_due) - time.perf_counter()
            if pause > 0:
                time.sleep(pause)
            if beat_due < due:
                worker, strategy = self._crew[turn % len(self._crew)]
                began = time.perf_counter()
                beat(strategy, worker)
                self.beats.append(time.perf_counter() - began)
                beat_due, turn = beat_due + between, turn + 1
            else:
                worker, strategy = self._chance.choice(self._crew)
                self.took.append(claim_and_report(strategy, worker, due))
                due += self._chance.expovariate(self._rate)


def beat(strategy: PartitionStrategy, worker: str) -> None:
    """Send what a worker's heartbeat sends."""
    stream = strategy.stream("beat")
    info = {"hostname": worker, "pid": 1, "window": 3, "version": "0", "started_at": 0.0}
    strategy.beat(BeatRequest(worker, stream, strategy.next_sequence(stream), 3 * BEAT, 3 * BEAT, info, ()))


def by_workers(bench: Bench) -> Section:
    """The same load from ever more workers, each with a connection of its own and its heartbeats."""
    section = Section("latency-workers", "Latency at %d claims/s against the number of workers" % LOAD)
    seconds, curves, ends = bench.sizes["load"], {}, {}
    for name in ("claim p50", "claim p99", "report p50", "report p99"):
        curves[name] = Curve(name)
    for workers in bench.sizes["workers"]:
        rounds: Dict[str, List[float]] = {name: [] for name in curves}
        late: List[float] = []
        with bench.space() as strategy:
            create(strategy, 1, int(LOAD * (seconds * 1.5 + 1) * bench.sizes["slow"]) + 1000)
            stores = [RedisDataStore.from_url(bench.server.url, timeout=20.0) for _ in range(workers)]
            crew = [
                ("w%d" % i, create_strategy(StrategyType.HASH, strategy.namespace, store))
                for i, store in enumerate(stores)
            ]
            for worker, one in crew:
                beat(one, worker)
            for _ in range(bench.sizes["slow"]):
                took = _play(bench, crew, seconds)
                for place, what in enumerate(("claim", "report")):
                    for share in (50, 99):
                        value = percentile([one[place] for one in took], share / 100) * 1000
                        rounds["%s p%d" % (what, share)].append(value)
                late.append(percentile([one[2] for one in took], 0.99) * 1000)
            for _, one in crew:
                one.stop()
            for store in stores:
                store.close()
        for name, values in rounds.items():
            curves[name].add(workers, values)
            goal = "< 5" if name == "claim p99" and workers == 100 else ""
            section.add("%s, %d workers" % (name, workers), values, "ms", goal)
        section.add("claim p99 from the instant it was due, %d workers" % workers, late, "ms")
        ends[workers] = rounds["claim p99"]
    if {10, 500} <= set(ends):
        section.add("claim p99: 500 workers against 10", [a / b for a, b in zip(ends[500], ends[10])], "x", "<= 1.5")
    section.notes.append("%d threads of one process play the workers; their heartbeats, every %g s, are sent beside."
                         % (PLAYERS, BEAT))  # fmt: skip
    section.pictures.append(
        Picture("bench-latency-workers", "Latency at %d claims/s" % LOAD, "workers", "ms", list(curves.values()),
                log_y=True)
    )  # fmt: skip
    return section


def _play(bench: Bench, crew: List[Any], seconds: float) -> List[Tuple[float, float, float]]:
    players = min(PLAYERS, len(crew))
    until = time.perf_counter() + seconds
    threads = [
        Player(crew[i::players], LOAD / players, until, bench.chance.randrange(2**30)) for i in range(players)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
        if thread.error:
            raise RuntimeError("a simulated worker failed: %s" % thread.error)
    return [one for thread in threads for one in thread.took]
