"""``python -m tests.chaos``, short: it ends well with everything in place, and sees each guard that is switched off."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from typing import List, Tuple

import pytest

from tests.chaos import schedule
from tests.chaos.audit import Audit
from tests.faults.fleet import ROOT


def run(folder: pathlib.Path, *words: str) -> Tuple[int, str]:
    """Run it; return its exit code and what it printed."""
    command = [sys.executable, "-m", "tests.chaos", "--no-picture", "--out", str(folder), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=str(ROOT), timeout=170.0)
    return done.returncode, done.stdout.decode("utf-8", "replace")


def totals(text: str) -> str:
    """Return the lines of the report that hold numbers of the whole run."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("seed "))
    return "\n".join(line for line in lines[start:] if line and "picture" not in line)


@pytest.mark.timeout(150)
def test_a_short_mix_of_faults_loses_nothing_and_explains_what_happened_twice(tmp_path: pathlib.Path) -> None:
    kinds = "kill,kill leader,freeze 1.5 leases,data loss: flush,server kill,replies lost"
    code, text = run(tmp_path / "run", "--seconds", "8", "--seed", "65", "--workers", "3", "--rate", "8000", "--gap",
                     "0.8", "--pause", "0.05", "--only", kinds)  # fmt: skip
    assert code == 0, text
    assert "no gap, no unexplained duplicate, no stale guarded write" in text
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    audit = Audit(tmp_path / "run", facts["top"])
    assert audit.applied == audit.top > 60_000
    assert sum(fault.loses_data for fault in audit.faults) == 1 and audit.why["the store lost its data"] > 0
    print(totals(text))


#: The guard, faults that meet it, what must be said of it. Processors that never look at ``ctx`` meet it most.
CONTROLS = [
    ("--break fence --only freeze_1.5_leases --seconds 14", ["guarded effects happened twice", "by a stale token"]),
    ("--break report --only freeze_1.5_leases --seconds 24", ["accepted that were not the newest holder's"]),
    ("--break tokens --only data_loss:_flush,kill --seconds 14 --pause 0.05", ["tokens given out twice"]),
]


@pytest.mark.long
@pytest.mark.timeout(200)
@pytest.mark.parametrize("words, expected", CONTROLS, ids=["fence", "report", "tokens"])
def test_a_guard_that_is_switched_off_ends_a_run_with_violations(
    tmp_path: pathlib.Path, words: str, expected: List[str]
) -> None:
    code, text = run(tmp_path / "run", "--seed", "5", "--workers", "4", "--gap", "1.5", "--rate", "8000", "--pause",
                     "0.2", "--blind", "90", *(word.replace("_", " ") for word in words.split()))  # fmt: skip
    assert code == 1, text
    for what in expected:
        assert what in text, text
    assert "to replay: python -m tests.chaos --seconds " in text
    print("control: %s" % "; ".join(line[:160] for line in text.splitlines() if line.startswith("* ")))


def test_the_same_seed_draws_the_same_faults_and_each_kind_comes_before_any_comes_again() -> None:
    first, again, other = (schedule.draw(seed, 510.0, 6, 3.0) for seed in (7, 7, 8))
    assert first == again != other
    kinds = [fault.kind for fault in first]
    assert set(kinds) == set(schedule.KINDS)
    assert sum(kind.startswith("data loss") for kind in kinds) <= schedule.LOSSES_IN_TEN_MINUTES
    assert not any(fault.kind.startswith("data loss") for fault in schedule.draw(7, 510.0, 6, 3.0, ["data-loss"]))
    assert all(fault.at + fault.seconds <= 510.0 for fault in first)
