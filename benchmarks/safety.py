"""What it costs to be safe: the hot script with one guard after another left out, and without any of them.

Server time per partition, by INFO commandstats: the client's share is the same for all. These variants are for
measuring; each of them loses or doubles work after some fault of docs/guarantees.rst.
"""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, Sequence, Tuple

from benchmarks.figures import Section
from benchmarks.harness import Bench
from elk_coordinator.model import Outcome, Report
from elk_coordinator.partition.requests import TurnRequest

Edit = Tuple[str, str]

#: guard -> edits of work.lua that leave it out.
GUARDS: Dict[str, Sequence[Edit]] = {
    "memory of the last answer (lost replies)": [
        ("local previous = redis.call('HGET', KEYS[2], ARGV[1])", "local previous = nil"),
        ("redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. ' ' .. table.concat(codes) .. ' ' .. text(first) .. ' '\n"
         "  .. table.concat(granted, ','))\n", ""),
    ],
    "index of leases (dead workers)": [
        ("    redis.call('ZADD', KEYS[6], unpack(new_lease))\n".replace("    redis", "      redis"), ""),
        ("  redis.call('ZREM', KEYS[6], unpack(unleased))\n", ""),
        ("soonest = redis.call('ZRANGE', KEYS[6], 0, 0, 'WITHSCORES')", "soonest = {}"),
    ],
    "record of what completed (audit, archive)": [("  redis.call('HSET', KEYS[11], unpack(set_done))\n", "")],
    "operators' cancels": [("  redis.call('HDEL', KEYS[12], unpack(unleased))\n", "")],
    "delayed retries": [
        ("due = redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', now_ms, 'LIMIT', 0, 100)", "due = {}"),
    ],
    "suspects alone (poison partitions)": [("local head = redis.call('ZRANGE', KEYS[4], 0, 0, 'WITHSCORES')",
                                            "local head = {}")],
}  # fmt: skip

#: A queue without any guard: taken is gone.
UNSAFE = """
local ids = {}
local picked = redis.call('ZPOPMIN', KEYS[1], tonumber(ARGV[1]))
for i = 1, #picked, 2 do ids[#ids + 1] = picked[i] end
if #ids == 0 then return {} end
local specs = redis.call('HMGET', KEYS[2], unpack(ids))
redis.call('HDEL', KEYS[2], unpack(ids))
return specs
"""


class Guarded:
    """Turns that report what the last one claimed, by a hot script that may lack a guard."""

    def __init__(self, bench: Bench, batch: int, edits: Sequence[Edit]) -> None:
        self._bench, self._batch, self._edits = bench, batch, edits

    def __call__(self) -> float:
        bench, batch = self._bench, self._batch
        turns = 20 if bench.scale == "quick" else max(100, 4000 // batch)
        with bench.space(batch * (turns + 1)) as strategy:
            scripts: Any = strategy.store.scripts  # type: ignore[attr-defined]
            done = [(scripts.replace("partition/work", old, new)) for old, new in self._edits]
            original = done[0][0] if done else ""
            try:
                return self._turns(strategy, turns)
            finally:
                if original:
                    scripts.replace("partition/work", scripts.get("partition/work").source, original)

    def _turns(self, strategy: Any, turns: int) -> float:
        stream, held = strategy.stream("work"), []
        for turn in range(turns):
            if turn == 1:
                self._bench.raw.config_resetstat()
            reports = [Report(p.partition_id, p.fencing_token, Outcome.COMPLETED, 10) for p in held]
            number = strategy.next_sequence(stream)
            request = TurnRequest("w", stream, number, 60.0, reports=reports, free=self._batch)
            held = list(strategy.turn(request).granted)
        return _usec(self._bench) / (turns - 1) / self._batch


def _usec(bench: Bench) -> float:
    stats: Any = bench.raw.info("commandstats")
    return float(stats["cmdstat_evalsha"]["usec"])


def unguarded(bench: Bench, batch: int) -> Callable[[], float]:
    """Return what measures the queue without any guard."""

    def measure() -> float:
        turns = 20 if bench.scale == "quick" else max(100, 4000 // batch)
        with bench.space(batch * (turns + 1)) as strategy:
            keys = [strategy.store.keys[name] for name in ("pending", "specs")]  # type: ignore[attr-defined]
            sha = bench.raw.script_load(UNSAFE)
            for turn in range(turns):
                if turn == 1:
                    bench.raw.config_resetstat()
                bench.raw.evalsha(sha, 2, *keys, batch)
            return _usec(bench) / (turns - 1) / batch

    return measure


def run(bench: Bench) -> Section:
    section = Section("safety", "The price of each guard: server time per partition, claim and report")
    everything = [edit for edits in GUARDS.values() for edit in edits]
    for batch in (1, 64):
        variants: Dict[str, Callable[[], float]] = {"all": Guarded(bench, batch, ())}
        variants.update({name: Guarded(bench, batch, edits) for name, edits in GUARDS.items()})
        variants["none of these"] = Guarded(bench, batch, everything)
        variants["bare"] = unguarded(bench, batch)
        found = bench.rounds(variants, slow=True)
        section.add("batch %d: with every guard" % batch, found["all"], "us")
        for name, values in found.items():
            if name not in ("all", "bare"):
                share = [(a - b) / a * 100 for a, b in zip(found["all"], values)]
                label = name if name.startswith("none") else "without " + re.sub(r" \(.*", "", name)
                section.add("batch %d: saved %s" % (batch, label), share, "%")
        section.add("batch %d: a queue that forgets what was taken" % batch, found["bare"], "us")
        section.add("batch %d: the price of being safe" % batch,
                    [a / b for a, b in zip(found["all"], found["bare"])], "x")  # fmt: skip
    section.notes.append("Tokens, states and versions stay in all but the queue: the script is made of them.")
    return section
