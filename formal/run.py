"""Check the models and their mutants with spin; exit 1 when a verdict is not the expected one. Needs spin and gcc."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Dict, List, NamedTuple

HERE = os.path.dirname(os.path.abspath(__file__))


class Run(NamedTuple):
    model: str
    name: str
    #: The -D options: bounds, and the guard removed (M_...).
    options: List[str]
    holds: bool


TURNS = ["P=2", "TURNS=2", "BEATS=0", "DRIFT=1"]
BEATS = ["P=1", "TURNS=2", "TURNS_1=1", "BEATS=1", "DRIFT=1"]
LOSS = ["P=1", "TURNS=2", "TURNS_1=1", "BEATS=0", "DRIFT=0", "LOSSES=1"]
LOCK = ["ASKS=2", "PLANS=0", "DRIFT=1"]
PLAN = ["ASKS=2", "ASKS_1=1", "PLANS=1", "DRIFT=0"]
RUNS = [
    Run("work", "two partitions, late turns", TURNS, True),
    Run("work", "heartbeats, late renewals", BEATS, True),
    Run("work", "loss of data", LOSS, True),
    Run("work", "loss of data, clock set back", LOSS + ["CLOCK_SET_BACK"], True),
    Run("work", "M_NO_TOKEN_REPORT", TURNS, False),
    Run("work", "M_NO_SEQUENCE", TURNS, False),
    Run("work", "M_NO_REPLAY", TURNS, False),
    Run("work", "M_TRUST_AFTER_REPLY", TURNS, False),
    Run("work", "M_NO_MARGIN", TURNS, False),
    Run("work", "M_CLIENT_CLOCK", TURNS, False),
    Run("work", "M_SWEEP_FORGETS", TURNS, False),
    Run("work", "M_NO_TOKEN_CHECKPOINT", TURNS, False),
    Run("work", "M_NO_TOKEN_RENEW", BEATS, False),
    Run("work", "M_RENEW_EXPIRED", BEATS, False),
    Run("work", "M_NO_FLOOR", LOSS + ["CLOCK_SET_BACK"], False),
    Run("elect", "election", LOCK, True),
    Run("elect", "two planners", PLAN, True),
    Run("elect", "loss of data", PLAN + ["LOSSES=1"], True),
    Run("elect", "M_NO_TERM", PLAN, False),
    Run("elect", "M_NO_VERSION", PLAN, False),
    Run("elect", "M_RENEW_EXPIRED", LOCK, False),
    Run("elect", "M_TRUST_AFTER_REPLY", LOCK, False),
    Run("elect", "M_NO_MARGIN", LOCK, False),
    Run("elect", "M_CLIENT_CLOCK", LOCK, False),
    Run("elect", "M_NO_FLOOR", PLAN + ["LOSSES=1", "CLOCK_SET_BACK"], False),
]


def call(command: List[str], folder: str) -> str:
    done = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True
    )
    if done.returncode:
        raise SystemExit("%s failed:\n%s" % (" ".join(command), done.stdout[-2000:]))
    return done.stdout


def check(run: Run, trail: bool) -> Dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        defines = ["-D" + each for each in run.options] + (["-D" + run.name] if not run.holds else [])
        shutil.copy(os.path.join(HERE, run.model + ".pml"), folder)
        call(["spin"] + defines + ["-a", run.model + ".pml"], folder)
        # HC4: states are kept as hashes of 8 bytes. SAFETY: assertions only, no cycles.
        call(["gcc", "-O2", "-w", "-DSAFETY", "-DHC4", "-DMEMLIM=2000", "-o", "pan", "pan.c"], folder)
        began = time.monotonic()
        text = call(["./pan", "-m200000", "-w22"], folder)
        seconds = time.monotonic() - began
        errors = re.search(r"errors: (\d+)", text)
        states = re.search(r"(\d+) states, stored", text)
        why = re.search(r"pan:\d+: (.*) \(at depth", text)
        whole = "Search not completed" not in text and "max search depth too small" not in text
        if errors is None or states is None or (errors.group(1) == "0" and not whole):
            raise SystemExit("pan came to no end:\n" + text[-2000:])
        if trail and errors.group(1) != "0":
            print(call(["spin"] + defines + ["-t", "-p", "-g", run.model + ".pml"], folder))
        return {"holds": errors.group(1) == "0", "states": int(states.group(1)), "seconds": seconds,
                "why": why.group(1) if why else ""}  # fmt: skip


def main(arguments: List[str]) -> int:
    missing = [each for each in ("spin", "gcc") if shutil.which(each) is None]
    if missing:
        text = "%s not found; on Debian or Ubuntu: sudo apt-get install -y spin gcc"
        print(text % " and ".join(missing), file=sys.stderr)
        return 1
    runs = [run for run in RUNS if not arguments or "%s/%s" % (run.model, run.name) in arguments]
    if not runs:
        there = "\n".join("%s/%s" % (run.model, run.name) for run in RUNS)
        print("no such run; there are:\n" + there, file=sys.stderr)
        return 1
    bad = 0
    print("%-6s %-30s %-9s %10s %8s  %s" % ("model", "property or mutant", "verdict", "states", "seconds", "found"))
    for run in runs:
        found = check(run, trail=bool(arguments))
        expected = found["holds"] == run.holds
        bad += not expected
        print("%-6s %-30s %-9s %10d %8.1f  %s%s" % (
            run.model, run.name, "holds" if found["holds"] else "rejected", found["states"], found["seconds"],
            str(found["why"])[:60], "" if expected else "  <-- NOT AS EXPECTED"), flush=True)  # fmt: skip
    print("%d verdicts, %d not as expected" % (len(runs), bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
