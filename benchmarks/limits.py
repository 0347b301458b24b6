"""The limits of this machine in this run: a trivial script, one at a time, pipelined, and by the server's own tool."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from typing import Callable, Dict

from benchmarks.figures import Section
from benchmarks.harness import Bench

TRIVIAL = "return 1"


def trips(bench: Bench, depth: int = 1) -> Callable[[], float]:
    """Return what measures redis-py's calls of a trivial script a second, *depth* of them per round trip."""
    sha = bench.raw.script_load(TRIVIAL)
    bench.raw.evalsha(sha, 0)

    def measure() -> float:
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < bench.sizes["seconds"]:
            if depth == 1:
                bench.raw.evalsha(sha, 0)
            else:
                pipe = bench.raw.pipeline(transaction=False)
                for _ in range(depth):
                    pipe.evalsha(sha, 0)
                pipe.execute()
            count += depth
        return count / (time.perf_counter() - began)

    return measure


def by_tool(bench: Bench, *options: str) -> Callable[[], float]:
    """Return what measures the same by redis-benchmark."""
    port = bench.server.url.split(":")[2].split("/")[0]
    sha = bench.raw.script_load(TRIVIAL)
    count = "2000" if bench.scale == "quick" else "10000"
    tool = shutil.which("redis-benchmark") or shutil.which("valkey-benchmark") or ""

    def measure() -> float:
        argv = [tool, "-p", port, "-n", count, "-q", *options, "EVALSHA", str(sha), "0"]
        text = subprocess.run(argv, stdout=subprocess.PIPE, check=True, timeout=60).stdout.decode()
        return float(re.findall(r"([\d.]+) requests per second", text)[-1])

    return measure


def variants(bench: Bench) -> Dict[str, Callable[[], float]]:
    """Return every limit that can be measured here, by name."""
    found = {"redis-py, one at a time": trips(bench), "redis-py, pipelines of 100": trips(bench, 100)}
    if shutil.which("redis-benchmark") or shutil.which("valkey-benchmark"):
        found["redis-benchmark, 1 client"] = by_tool(bench, "-c", "1")
        found["redis-benchmark, 50 clients"] = by_tool(bench, "-c", "50")
        found["redis-benchmark, 50 clients, pipelines of 16"] = by_tool(bench, "-c", "50", "-P", "16")
    return found


def run(bench: Bench) -> Section:
    section = Section("limits", "Limits: EVALSHA of \"return 1\"")
    for name, values in bench.rounds(variants(bench)).items():
        section.add(name, values, "/s")
    if len(section.figures) == 2:
        section.notes.append("redis-benchmark is not on PATH.")
    return section
