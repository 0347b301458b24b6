"""``docs/parity.rst`` says only what tests show: every row names tests that exist, or a reason for having none."""

from __future__ import annotations

import ast
import functools
import pathlib
import re
from typing import Dict, List, Set

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "parity.rst"
#: Claims of the seed, numbered; the road map and what came after it follow them.
CLAIMS = range(1, 83)
#: Scenarios in the sections of the original's tests; rows may be added, none may be dropped.
SCENARIOS = 316
NAMED = re.compile(r"``(tests/[\w/]+\.py)::(\w+)``")
REASON = re.compile(r"\*No test:\* (not applicable|later issue)\b.{8,}")


class Row:
    """One row of a list-table."""

    def __init__(self, section: str, line: int, cells: List[str]) -> None:
        self.section = section
        self.line = line
        self.cells = cells

    @property
    def problems(self) -> List[str]:
        """Return what is wrong with it, apart from whether its tests exist."""
        shown = self.cells[-1]
        out = []
        if not all(cell.strip() for cell in self.cells):
            out.append("an empty cell")
        if not NAMED.search(shown) and not REASON.match(shown):
            out.append("neither a test nor a reason")
        if NAMED.sub("", shown).strip() and not REASON.match(shown):
            out.append("something else than tests named as ``tests/path.py::test_name``")
        return out


def rows_of(text: str) -> List[Row]:
    """Return the rows of all list-tables, without their headers."""
    lines = text.split("\n")
    section = ""
    rows: List[Row] = []
    header = False
    for number, line in enumerate(lines, 1):
        if re.fullmatch(r"([=-])\1{3,}", line) and lines[number - 2].strip():
            section = lines[number - 2]
        elif line.startswith(".. list-table::"):
            header = True
        elif line.startswith("   * - "):
            rows.append(Row(section if not header else "", number, [line[7:]]))
            header = False
        elif line.startswith("     - "):
            rows[-1].cells.append(line[7:])
        elif line.startswith("       "):
            rows[-1].cells[-1] += " " + line.strip()
    return [row for row in rows if row.section]


@functools.lru_cache(maxsize=None)
def named_tests(root: pathlib.Path) -> Dict[str, Set[str]]:
    """Return the names of all tests by file, read without importing anything."""
    out: Dict[str, Set[str]] = {}
    for path in sorted((root / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        out[path.relative_to(root).as_posix()] = {
            node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        }
    return out


def complaints(text: str, tests: Dict[str, Set[str]]) -> List[str]:
    """Return everything that is wrong with the document."""
    out = []
    for row in rows_of(text):
        wrong = row.problems
        for path, name in NAMED.findall(row.cells[-1]):
            if name not in tests.get(path, ()):
                wrong.append("no such test: %s::%s" % (path, name))
        out += ["line %d (%s): %s" % (row.line, row.cells[0], text) for text in wrong]
    return out


def test_every_row_names_a_test_that_exists_or_a_reason() -> None:
    wrong = complaints(DOCUMENT.read_text(encoding="utf-8"), named_tests(ROOT))
    assert wrong == [], "docs/parity.rst:\n" + "\n".join(wrong)


def test_every_claim_and_every_scenario_has_a_row() -> None:
    rows = rows_of(DOCUMENT.read_text(encoding="utf-8"))
    numbers = [int(row.cells[0]) for row in rows if row.cells[0].isdigit()]
    assert numbers == list(CLAIMS)
    assert {len(row.cells) for row in rows if row.cells[0].isdigit()} == {4}
    scenarios = [row for row in rows if not row.cells[0].isdigit()]
    assert {len(row.cells) for row in scenarios} == {3}
    assert len(scenarios) >= SCENARIOS
    assert sorted({row.section[:3] for row in scenarios}) == ["4.%d" % i for i in range(1, 9)]


GOOD = """
A section
---------

.. list-table::
   :header-rows: 1

   * - Tested there
     - Here
     - Test
   * - Something
     - Same
     - %s
"""


@pytest.mark.parametrize(
    "shown, wrong",
    [
        ("``tests/unit/test_parity.py::test_every_claim_and_every_scenario_has_a_row``", ""),
        ("*No test:* later issue: dashboards.", ""),
        ("*No test:* not applicable: nothing there used it.", ""),
        ("``tests/unit/test_parity.py::test_that_is_not_there``", "no such test"),
        ("``tests/unit/test_no_such_file.py::test_it``", "no such test"),
        ("", "neither a test nor a reason"),
        ("seen by hand", "neither a test nor a reason"),
        ("*No test:* because.", "neither a test nor a reason"),
        ("*No test:* not applicable", "neither a test nor a reason"),
        ("test_every_claim_and_every_scenario_has_a_row", "neither a test nor a reason"),
        ("``tests/unit/test_parity.py::test_every_claim_and_every_scenario_has_a_row`` mostly", "something else"),
    ],
)
def test_the_check_finds_what_is_wrong_with_a_row(shown: str, wrong: str) -> None:
    found = complaints(GOOD % shown, named_tests(ROOT))
    assert bool(found) is bool(wrong)
    assert wrong in "\n".join(found)
