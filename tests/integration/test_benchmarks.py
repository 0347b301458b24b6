"""The benchmarks run, and what they write has the shape that is read elsewhere; no figure is judged here."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

from benchmarks.figures import Figure, percentile, short

ROOT = pathlib.Path(__file__).resolve().parents[2]
QUESTIONS = ["limits", "backlog", "planning", "archive", "script"]


def test_a_quick_run_writes_its_table_and_figures_with_goals_and_machine(tmp_path: pathlib.Path) -> None:
    argv = [sys.executable, "-m", "benchmarks", "--quick", "--only", ",".join(QUESTIONS), "--out", str(tmp_path)]
    done = subprocess.run(
        argv, cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=50
    )
    text = done.stdout.decode("utf-8")
    assert done.returncode == 0, text
    found = json.loads((tmp_path / "bench.json").read_text())
    assert [section["name"] for section in found["sections"]] == QUESTIONS
    assert {"server", "python", "redis-py", "elk_coordinator", "cores", "seed", "load_before"} <= set(found["machine"])
    figures = [figure for section in found["sections"] for figure in section["figures"]]
    for figure in figures:
        assert figure["min"] <= figure["median"] <= figure["max"], figure
        assert (figure["reached"] is None) == (figure["goal"] is None), figure
        assert figure["name"] in text
    assert {figure["goal"] for figure in figures} >= {">= 100,000", "<= 5", "< 5"}
    assert all(len(point) == 4 for curve in found["sections"][1]["curves"] for point in curve["points"])
    assert (tmp_path / "bench.txt").read_text().startswith(found["machine"]["when"])


def test_a_goal_is_judged_by_the_median_and_a_promise_by_the_worst() -> None:
    rounds = [1.0, 2.0, 9.0]
    assert Figure("f", rounds, goal=">= 2").reached is True
    assert Figure("f", rounds, goal=">= 2.5").reached is False
    assert Figure("f", rounds, goal="< 5").reached is True
    assert Figure("f", rounds, goal="< 5", of="max").reached is False
    assert Figure("f", rounds).reached is None
    assert Figure("f", [120000.0], goal=">= 100,000").reached is True


def test_numbers_are_written_as_people_read_them() -> None:
    assert [short(number) for number in (0, 0.01234, 0.5, 12.34, 456.7, 123456.7)] == [
        "0", "0.0123", "0.50", "12.3", "457", "123,457",
    ]  # fmt: skip
    assert percentile(list(range(1, 101)), 0.99) == 100
    assert percentile([3.0], 0.5) == 3.0
