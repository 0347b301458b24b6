"""Draining: partitions of no work and of short sleeps, against the limits of the same rounds."""

from __future__ import annotations

from typing import Any, Callable, Dict, List

from benchmarks.figures import Curve, Picture, Section
from benchmarks.harness import Bench, Feeder, create, steady, until
from benchmarks.limits import trips

WINDOWS = (1, 8, 64)
GOALS = {1: ">= 0.5", 8: ">= 1.5", 64: ">= 3"}
#: About what a fast machine drains in a second; a measurement ends early when there is no more.
ENOUGH = {1: 15_000, 8: 30_000, 64: 50_000}


class Drained:
    """Drains a long backlog; keeps what it cost the server beside what it gave."""

    def __init__(self, bench: Bench, window: int, processes: int) -> None:
        self._bench, self._window, self._processes = bench, window, processes
        self.server: List[float] = []
        self.calls: List[float] = []

    def __call__(self) -> float:
        bench, seconds = self._bench, self._bench.sizes["seconds"]
        backlog = int(ENOUGH[self._window] * (seconds + min(0.3, seconds)) * min(self._processes, 2))
        with bench.space(backlog) as strategy:
            with bench.workers(strategy.namespace, self._processes, window=self._window, options={}) as crew:
                before, cpu = bench.raw.info("commandstats"), bench.server_cpu()
                rate = steady(strategy, seconds, crew)
                done = strategy.get_partition_stats().completed
                self.server.append((bench.server_cpu() - cpu) * 1e6 / done)
                self.calls.append((_calls(bench.raw.info("commandstats")) - _calls(before)) / done)
        return rate


def _calls(stats: Any) -> float:
    return sum(stats.get(name, {}).get("calls", 0.0) for name in ("cmdstat_evalsha", "cmdstat_eval"))


def no_work(bench: Bench) -> Section:
    """Windows 1, 8, 64 in one process and in two, beside single trips of the same rounds."""
    section = Section("drain", "Drain of partitions without work")
    runs = {(window, count): Drained(bench, window, count) for window in WINDOWS for count in (1, 2)}
    variants: Dict[str, Callable[[], float]] = {"limit": trips(bench), "pipelined": trips(bench, 100)}
    variants.update({"%d %d" % key: run for key, run in runs.items()})
    found = bench.rounds(variants)
    limit = found["limit"]
    section.add("limit: single EVALSHA trips", limit, "/s")
    section.add("limit: pipelines of 100", found["pipelined"], "/s")
    for window in WINDOWS:
        one, two = found["%d 1" % window], found["%d 2" % window]
        section.add("window %d, one process" % window, one, "partitions/s")
        section.add("window %d, two processes" % window, two, "partitions/s")
        section.add(
            "window %d: against single trips" % window, [a / b for a, b in zip(one, limit)], "x", GOALS[window]
        )
        section.add("window %d: against pipelines" % window, [a / b for a, b in zip(one, found["pipelined"])], "x")
        section.add("window %d: two processes against one" % window, [a / b for a, b in zip(two, one)], "x", ">= 1.5")
        section.add(
            "window %d: round trips per partition" % window, runs[window, 1].calls, "",
            "<= 1.02" if window == 1 else "", note="heartbeats and the bench's own looks included",
        )  # fmt: skip
        cost = runs[window, 1].server
        section.add("window %d: server CPU per partition" % window, cost, "us")
        section.add(
            "window %d: ceiling of one server" % window, [1e6 / value for value in cost], "partitions/s",
            note="by its CPU alone, when enough workers ask",
        )  # fmt: skip
    curves = []
    for count, label in ((1, "one process"), (2, "two processes")):
        curve = Curve(label)
        for window in WINDOWS:
            curve.add(window, found["%d %d" % (window, count)])
        curves.append(curve)
    flat = Curve("limit: single EVALSHA trips of redis-py", limit=True)
    for window in WINDOWS:
        flat.add(window, limit)
    section.pictures.append(
        Picture("bench-window", "Partitions without work, by window", "task_window_size", "partitions/s",
                [*curves, flat], log_y=True)
    )  # fmt: skip
    return section


def backlog(bench: Bench) -> Section:
    """The rate while a feeder holds the backlog at a level: flat when it does not matter how much waits."""
    section = Section("backlog", "Drain against what waits: a feeder holds the number of pending partitions")
    levels, seconds = bench.sizes["backlogs"], bench.sizes["seconds"]
    curves = []
    for window in (8, 64):
        curve = Curve("window %d" % window)
        spent: Dict[int, List[float]] = {level: [] for level in levels}

        def measure(level: int, window: int = window, spent: Dict[int, List[float]] = spent) -> float:
            with bench.space(level) as strategy, Feeder(strategy, level):
                with bench.workers(strategy.namespace, 1, window=window, options={}) as crew:
                    cpu = bench.server_cpu()
                    rate = steady(strategy, seconds, crew)
                    done = strategy.get_partition_stats().completed
                    spent[level].append((bench.server_cpu() - cpu) * 1e6 / done)
                    return rate

        rates = bench.rounds({str(level): (lambda level=level: measure(level)) for level in levels}, slow=True)
        for level in levels:
            curve.add(level, rates[str(level)])
            section.add("window %d, %s pending" % (window, "{:,}".format(level)), rates[str(level)], "partitions/s")
        if len(levels) > 1:
            ratio = [a / b for a, b in zip(rates[str(levels[-1])], rates[str(levels[0])])]
            name = "window %d: %s against %s pending" % (window, "{:,}".format(levels[-1]), "{:,}".format(levels[0]))
            section.add(name, ratio, "x", ">= 0.9")
            ratio = [a / b for a, b in zip(spent[levels[-1]], spent[levels[0]])]
            section.add(name + ", server CPU per partition", ratio, "x", note="with what the feeder creates")
        curves.append(curve)
    section.notes.append("The feeder is a third busy process beside worker and server.")
    section.pictures.append(
        Picture("bench-backlog", "Rate against the backlog", "pending partitions", "partitions/s", curves)
    )
    return section


def sleeps(bench: Bench) -> Section:
    """Work of 1, 10 and 100 ms in two processes, against the same sleeps in bare threads."""
    section = Section("work", "Real work: sleeps, window 8, two processes, against the same sleeps in bare threads")
    curve = Curve("window 8, two processes")
    for work in (0.001, 0.01, 0.1):
        # Long sleeps for longer: a last wave that is not full counts as a whole one.
        count = max(32, int(bench.sizes["sleep"] * (1 if work < 0.01 else 2) / work) * 16)

        def bare(work: float = work, count: int = count) -> float:
            with bench.workers("", 2, bare=count // 2, work=work, window=8) as crew:
                for one in crew:
                    one.say("go")
                for one in crew:
                    one.answer()
                until(lambda: sum(one.ask("span")["count"] for one in crew) >= count, "bare threads", poll=0.05)
                told = [one.ask("span") for one in crew]
            return count / (max(t["last"] for t in told) - min(t["first"] for t in told))

        def ours(work: float = work, count: int = count) -> float:
            with bench.space() as strategy:
                create(strategy, 1, count)
                with bench.workers(strategy.namespace, 2, work=work, window=8, options={}) as crew:
                    for one in crew:
                        one.say("go")
                    for one in crew:
                        one.answer()
                    until(lambda: strategy.get_partition_stats().completed >= count, "the drain", poll=0.05)
                    told = [t for t in (one.ask("span") for one in crew) if t["count"]]
            return count / (max(t["last"] for t in told) - min(t["first"] for t in told))

        found = bench.rounds({"bare": bare, "ours": ours}, slow=True)
        ratio = [a / b for a, b in zip(found["ours"], found["bare"])]
        section.add("%g ms: bare threads" % (work * 1000), found["bare"], "/s")
        section.add("%g ms: coordinated" % (work * 1000), found["ours"], "/s")
        section.add("%g ms: against bare threads" % (work * 1000), ratio, "x", ">= 0.97" if work == 0.01 else "")
        curve.add(work * 1000, ratio)
    section.notes.append("From the first start to the last end of all: filling and emptying the windows counts.")
    section.pictures.append(
        Picture("bench-work", "Sleeps, against bare threads", "work per partition, ms", "ratio", [curve])
    )
    return section
