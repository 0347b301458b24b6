"""Measure what elk_coordinator reaches: ``python -m benchmarks [--only drain,memory] [--quick | --full] [--docs]``.

A table on the terminal, JSON and pictures in build/bench. Figures hold within one run only; compare ratios.
Exit 1 when --strict is given and a goal was missed.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
from typing import Any, Callable, Dict, List

from benchmarks import drain, idle, latency, limits, longest, memory, paper, planning, recovery, report, safety
from benchmarks.figures import Section
from benchmarks.harness import ROOT, Bench, machine
from elk_coordinator.testing import EmbeddedServer

QUESTIONS: Dict[str, Callable[[Bench], Section]] = {
    "limits": limits.run, "drain": drain.no_work, "backlog": drain.backlog, "work": drain.sleeps,
    "latency-backlog": latency.by_backlog, "latency-workers": latency.by_workers, "planning": planning.run,
    "memory": memory.per_state, "archive": memory.archive, "completed": memory.completed, "idle": idle.cost,
    "overhead": idle.overhead, "stop": idle.stopping, "recovery": recovery.after_stop,
    "takeover": recovery.after_kill, "script": longest.run, "safety": safety.run, "paper": paper.run,
}  # fmt: skip
#: Not asked by default but with --full: a lease of 30 s has to run out.
PATIENT = {"takeover"}


def _arguments(argv: List[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--only", help="questions, parted by commas, of %s" % ", ".join(QUESTIONS))
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument("--quick", action="store_const", const="quick", dest="scale", help="whether it runs at all")
    scale.add_argument("--full", action="store_const", const="full", dest="scale", help="a million pending, kill -9")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build" / "bench", help="where to (%(default)s)")
    parser.add_argument("--docs", action="store_true", help="refresh docs/performance-figures.rst and docs/images, too")
    parser.add_argument("--prefer", choices=["path", "wheel"], default="path", help="which server (%(default)s)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--strict", action="store_true", help="exit 1 when a goal was missed")
    return parser.parse_args(argv)


def main(argv: List[str]) -> int:
    args = _arguments(argv)
    usual = [name for name in QUESTIONS if args.scale == "full" or name not in PATIENT]
    names = args.only.split(",") if args.only else usual
    unknown = sorted(set(names) - set(QUESTIONS))
    if unknown:
        print("no such question: %s; there are %s" % (", ".join(unknown), ", ".join(QUESTIONS)), file=sys.stderr)
        return 2
    sections: List[Section] = []
    began = time.monotonic()
    with EmbeddedServer(own=True, prefer=args.prefer) as server:
        if server.simulated:
            print("a simulated server measures nothing: install redis-server, or the extra \"demo\"", file=sys.stderr)
            return 2
        bench = Bench(server, args.scale or "usual", args.seed)
        try:
            about = machine(bench)
            print(report.about(about), flush=True)
            for name in names:
                at = time.monotonic()
                sections.append(QUESTIONS[name](bench))
                print(report.table(sections[-1:]), flush=True)
                print("(%.0f s)" % (time.monotonic() - at), flush=True)
                # After each, so that Ctrl-C leaves what there is.
                _write(args, about, sections, time.monotonic() - began)
        finally:
            bench.close()
    took = time.monotonic() - began
    missed = [figure for section in sections for figure in section.figures if figure.reached is False]
    print("\n%.0f s; %d goals missed%s" % (took, len(missed), ":" if missed else ""))
    for figure in missed:
        print("  %s: %.4g, goal %s" % (figure.name, figure.judged, figure.goal))
    return 1 if missed and args.strict else 0


def _write(args: argparse.Namespace, about: Dict[str, Any], sections: List[Section], seconds: float) -> None:
    report.write(args.out, about, sections, seconds)
    if args.docs:
        report.draw_all(ROOT / "docs" / "images", about, sections)
        (ROOT / "docs" / "performance-figures.rst").write_text(report.restructured(about, sections))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
