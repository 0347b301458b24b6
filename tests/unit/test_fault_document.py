"""``docs/fault-table.rst`` is drawn from catalogue and numbers; what ``docs/guarantees.rst`` names is there."""

from __future__ import annotations

import ast
import json
import pathlib
import re
from types import SimpleNamespace
from typing import Any, Dict

from tests.faults import document
from tests.faults.catalogue import GROUPS, faults
from tests.faults.catalogue.row import Fault
from tests.faults.fleet import Tally

ROOT = pathlib.Path(__file__).resolve().parents[2]
GUARANTEES = ROOT / "docs" / "guarantees.rst"
#: A test of the catalogue: what is recorded is what rows name.
TEST = "tests/faults/test_process.py::test_a_frozen_worker_loses_nothing_early_and_is_refused_everything_late"


def group(*rows: Fault) -> Any:
    return SimpleNamespace(TITLE="A group", FAULTS=list(rows))


def fault(number: int = 1, **facts: Any) -> Fault:
    row = {"id": "P%d" % number, "fault": "it dies", "expected": "it lives.", "tests": (TEST,), "control": "no *"}
    return Fault(**{**row, **facts})


def numbers(*lines: str) -> Dict[str, Any]:
    tests = {TEST: {"date": "2026-01-01", "load": 1.0, "lines": list(lines)}} if lines else {}
    return {"python": "3.8", "machine": "Linux", "cores": 2, "servers": ["Redis 7"], "tests": tests}


def run_of(outcome: str, *lines: str, test: str = TEST) -> Dict[str, Any]:
    return {"date": "2026-02-02", "load": 2.0, "python": "3.9", "machine": "Linux", "cores": 2, "servers": ["Redis 7"],
            "tests": {test: {"outcome": outcome, "seconds": 1.0, "numbers": list(lines)}}}  # fmt: skip


def test_the_committed_table_is_what_the_generator_makes() -> None:
    drawn = document.render(GROUPS, document.load())
    assert document.TABLE.read_text(encoding="utf-8") == drawn, "run: python -m tests.faults.document"


def test_every_row_of_the_catalogue_is_in_it_with_its_command() -> None:
    text = document.TABLE.read_text(encoding="utf-8")
    for row in faults():
        assert text.count("   * - %s\n" % row.id) == 1, row.id
        assert "``make fault F=%s``" % row.id in text


def test_the_committed_numbers_are_numbers_and_nothing_of_the_machine() -> None:
    text = document.NUMBERS.read_text(encoding="utf-8")
    assert not re.search(r"/(root|home|tmp|var|usr)\b|127\.0\.0\.1:\d|://", text)
    for test, told in json.loads(text)["tests"].items():
        assert any(test in row.tests for row in faults()), test
        assert told["lines"] and not any(line.startswith("control:") for line in told["lines"]), test


def test_a_row_without_a_number_says_so() -> None:
    text = document.render([group(fault(), fault(2, tests=("tests/unit/test_x.py::test_y",)))], numbers())
    assert "*Not measured yet.* ``tests/faults/test_process.py``" in text
    assert "*No number; held by* ``tests/unit/test_x.py``" in text


def test_rows_of_several_hands_look_alike_and_what_is_marked_up_is_escaped() -> None:
    text = document.render([group(fault())], numbers("waited for lease_ and *all*"))
    assert "**It dies.**" in text and "It lives." in text and "It lives.." not in text
    assert r"No \*." in text and r"lease\_ and \*all\*" in text


def test_of_many_lines_the_first_and_the_last_are_shown_and_a_row_may_choose() -> None:
    many = numbers("a 1", "a 2", "b 3", "a 4", "a 5")
    assert document.measured(fault(), many) == ["a 1", "a 4", "a 5"]
    assert document.measured(fault(about=("b",)), many) == ["b 3"]


def test_rows_of_the_same_tests_refer_to_the_first_of_them() -> None:
    text = document.render([group(fault(), fault(2))], numbers("1 s"))
    assert text.count("1 s") == 1 and "As P1: the same tests." in text


def test_a_run_replaces_the_numbers_of_its_tests_and_failures_leave_none() -> None:
    old = numbers("old")
    new = document.record(run_of("passed", "new", "control: gone", test=TEST + "[case]"), old)
    assert new["tests"][TEST] == {"date": "2026-02-02", "load": 2.0, "lines": ["new"]} and new["python"] == "3.9"
    assert document.record(run_of("failed", "new"), old)["tests"] == {}
    of_no_row = run_of("passed", "x", test="tests/faults/test_x.py::test_of_no_row")
    assert document.record(of_no_row, old)["tests"] == old["tests"]


def test_lines_lose_paths_and_ports_and_length() -> None:
    assert document.shortened("at /home/me/x.py on 127.0.0.1:4242, 1/2 done, Redis/7") == (
        "at (path) on 127.0.0.1, 1/2 done, Redis/7"
    )
    assert len(document.shortened("x" * 1000)) == document.LENGTH


def test_a_tally_of_zeros_is_said_in_words() -> None:
    counts = {"partitions": 4, "attempts": 5, "repeated": 10}
    counts.update(fence_refusals=1, refused=2, deliveries=1, lost=0)
    assert document.shortened(str(Tally(counts))) == (
        "4 partitions in 5 attempts; written twice: 10 IDs beside the fence, 0 behind it; refused: 1 write, 2 reports; "
        "leases: 1 ran out, 0 told as lost"
    )
    nothing = Tally({**dict.fromkeys(counts, 0), "partitions": 4, "attempts": 4})
    assert document.shortened(str(nothing)) == "4 partitions in 4 attempts; nothing written twice, refused or lost"


def test_what_the_guarantees_name_exists() -> None:
    text = GUARANTEES.read_text(encoding="utf-8")
    named = re.findall(r"``(tests/[\w/]+\.py)::(\w+)``", text)
    assert len(named) > 25
    for path, test in named:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert test in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, test
    rows = {row.id for row in faults()}
    assert set(re.findall(r"\b[PSCLWO][0-9]+\b", text)) <= rows
    for link in re.findall(r"<([\w./-]+)>`__?", text):
        assert (GUARANTEES.parent / link).exists(), link


def test_the_guarantees_count_the_guards_that_there_are() -> None:
    from tests.mutants.guards import AREAS

    told = re.search(r"Mutants: (\d+) guards", GUARANTEES.read_text(encoding="utf-8"))
    assert told and int(told.group(1)) == sum(len(area) for area in AREAS.values())
