"""What workers and leaders cost that have nothing to do, and what metrics and HTTP cost that have."""

from __future__ import annotations

import contextlib
import time
import urllib.request
from typing import Any, List

from benchmarks.figures import Section
from benchmarks.harness import Bench, Feeder, until
from elk_coordinator import RedisDataStore, StrategyType, create_strategy
from elk_coordinator.testing import EmbeddedServer

#: What a client of ours sends; everything else in commandstats is called by scripts.
SENT = (
    "evalsha", "eval", "evalsha_ro", "ping", "subscribe", "hello", "client|setname", "client|setinfo", "script|load",
    "auth", "select",
)  # fmt: skip


def _sent(raw: Any) -> float:
    stats: Any = raw.info("commandstats")
    return sum(stats.get("cmdstat_" + name, {}).get("calls", 0.0) for name in SENT)


def cost(bench: Bench) -> Section:
    """Each on a server of its own, all at the same time: they do next to nothing."""
    section = Section("idle", "Idle: defaults, nothing to do")
    cases = [(kind, leads) for kind in ("hash", "simple") for leads in (False, True)]
    with contextlib.ExitStack() as stack:
        found = []
        for kind, leads in cases:
            server = stack.enter_context(EmbeddedServer(own=True, prefer=bench.server.source or None))
            store = stack.enter_context(contextlib.closing(RedisDataStore.from_url(server.url)))
            strategy = create_strategy(StrategyType(kind), "idle", store)
            stack.callback(strategy.stop)
            config = {"planned": 0} if leads else {}
            (one,) = stack.enter_context(
                bench.workers("idle", 1, url=server.url, strategy=kind, options={}, **config)
            )
            one.ask("go")
            found.append((server, strategy, one))
        raws = [stack.enter_context(contextlib.closing(_raw(server))) for server, _, _ in found]
        # Past the start: it registers, loads scripts, is elected, and the leader has asked its planner.
        time.sleep(min(5.0, bench.sizes["idle"] / 2))
        before = [(_sent(raw), one.ask("cpu")) for raw, (_, _, one) in zip(raws, found)]
        time.sleep(bench.sizes["idle"])
        after = [(_sent(raw), one.ask("cpu")) for raw, (_, _, one) in zip(raws, found)]
    for (kind, leads), (sent, cpu), (sent_after, cpu_after) in zip(cases, before, after):
        seconds = cpu_after["at"] - cpu["at"]
        who = "%s, %s" % (kind.upper(), "leader and worker" if leads else "worker")
        section.add(who + ": commands", [(sent_after - sent) / seconds], "/s", "<= 4" if leads else "<= 1",
                    note="3 of a leader and 1 of its worker" if leads else "")  # fmt: skip
        section.add(who + ": CPU", [(cpu_after["cpu"] - cpu["cpu"]) / seconds * 100], "% of a core", "< 0.5",
                    note="the whole process, with its HTTP thread")  # fmt: skip
    section.notes.append("Over %g s." % bench.sizes["idle"])
    return section


def _raw(server: EmbeddedServer) -> Any:
    import redis

    return redis.Redis.from_url(server.url)


def overhead(bench: Bench) -> Section:
    """The rate with metrics and HTTP, scraped every second, against the rate without."""
    section, seconds = Section("overhead", "Metrics and HTTP"), bench.sizes["seconds"]

    def rate(window: int, on: bool) -> float:
        with bench.space(5000) as strategy, Feeder(strategy, 5000):
            with bench.workers(strategy.namespace, 1, window=window, options={"metrics_enabled": on}) as crew:
                address = crew[0].ask("go")["http"]
                begin = strategy.get_partition_stats().completed
                until(lambda: strategy.get_partition_stats().completed > begin, "the first completion")
                time.sleep(min(0.3, seconds))
                first, at = strategy.get_partition_stats().completed, time.monotonic()
                if on:
                    url = address if "://" in address else "http://" + address
                    urllib.request.urlopen(url + "/metrics", timeout=10).read()
                time.sleep(max(0.0, at + seconds - time.monotonic()))
                return (strategy.get_partition_stats().completed - first) / (time.monotonic() - at)

    for window in (1, 64):
        found = bench.rounds(
            {"on": lambda window=window: rate(window, True), "off": lambda window=window: rate(window, False)},
            slow=True,
        )
        ratio = [a / b for a, b in zip(found["off"], found["on"])]
        section.add("window %d: off against on" % window, ratio, "x", note="one scrape in every measurement")
    return section


def stopping(bench: Bench) -> Section:
    """How long stop() takes, idle and at work."""
    section = Section("stop", "stop()")
    for work, pending, name in ((0.0, 0, "idle"), (0.01, 20000, "at work, 10 ms")):
        took: List[float] = []
        for _ in range(bench.sizes["slow"]):
            with bench.space(pending if bench.scale != "quick" else pending // 5) as strategy:
                with bench.workers(strategy.namespace, 1, window=8, work=work, options={}) as crew:
                    if pending:
                        _at_work(bench, strategy, crew)
                    else:
                        crew[0].ask("go")
                        time.sleep(0.3)
                    took.append(crew[0].ask("stop")["seconds"])
                    if pending and strategy.get_partition_stats().running:
                        raise RuntimeError("stop() left partitions behind")
        section.add("%s, window 8" % name, took, "s", "< 1", of="max")
    return section


def _at_work(bench: Bench, strategy: Any, crew: Any) -> None:
    """Start the crew and wait until it is at work."""
    crew[0].ask("go")
    until(lambda: strategy.get_partition_stats().completed > 10, "the first completions")
