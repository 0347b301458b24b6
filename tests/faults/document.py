"""Draws ``docs/fault-table.rst`` from the catalogue and from ``docs/fault-numbers.json``.

::

    python -m tests.faults.document                             draw the table again
    python -m tests.faults.document --numbers build/faults.json take over what a run printed, then draw it (make faults)

The numbers are the lines that tests print; a run of some tests replaces theirs and leaves the others as they were.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import sys
from typing import Any, Dict, Iterable, List, Sequence

from tests.faults.catalogue import GROUPS
from tests.faults.catalogue.row import Fault

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
TABLE = DOCS / "fault-table.rst"
NUMBERS = DOCS / "fault-numbers.json"
#: Lines of numbers in a row. Who wants all of them runs it.
LINES = 3
#: Characters of a line.
LENGTH = 330
#: The end of most lines, as ``fleet.Tally`` prints it.
_TALLY = re.compile(
    r"IDs written twice: (\d+) beside the fence, 0 behind it; refused: (\d+) writes, (\d+) reports; "
    r"leases: (\d+) ran out, (\d+) told as lost"
)

_HEAD = """\
..
   Made by "python -m tests.faults.document" from tests/faults/catalogue and docs/fault-numbers.json. Change those.

The fault table
===============

%(rows)d faults. What is promised, what is not, and how to read this: `guarantees.rst <guarantees.rst>`_. *Measured* is
what the tests of the row printed: %(where)s.
*Control* is the guard that was switched off to see that the same tests then fail. Seconds depend on the machine and on
the lease, 3 s for most of them; the zeros do not.
"""


def record(report: Dict[str, Any], numbers: Dict[str, Any]) -> Dict[str, Any]:
    """Return *numbers* with those of a run in place of older ones: no outcome, no path, no line of a control."""
    wanted = {test for group in GROUPS for fault in group.FAULTS for test in fault.tests}
    lines: Dict[str, List[str]] = {}
    failed = set()
    for node, told in report["tests"].items():
        test = node.partition("[")[0]
        if test in wanted:
            lines.setdefault(test, []).extend(shortened(line) for line in told["numbers"] if _is_number(line))
            if told["outcome"] != "passed":
                failed.add(test)
    tests = {test: told for test, told in numbers.get("tests", {}).items() if test in wanted}
    for test, found in lines.items():
        tests.pop(test, None)
        if found and test not in failed:
            tests[test] = {"date": report["date"], "load": report["load"], "lines": found}
    kept = {key: report[key] for key in ("python", "machine", "cores")}
    return {**kept, "servers": sorted({*numbers.get("servers", ()), *report["servers"]}), "tests": tests}


def _is_number(line: str) -> bool:
    return not line.startswith(("control:", "PartitionStats("))


def shortened(line: str) -> str:
    """Return a printed line without paths, ports and rows of zeros, cut where it is too long for a table."""
    line = re.sub(r"\b1 (partition|attempt|claim|worker)s\b", r"1 \1", _TALLY.sub(_tally, line))
    line = re.sub(r"(?<![\w.])/(?:[\w.@+-]+/)+[\w.@+-]*", "(path)", line.strip())
    line = re.sub(r"\b127\.0\.0\.1:\d+", "127.0.0.1", line)
    return line if len(line) <= LENGTH else line[: LENGTH - 3].rstrip() + "..."


def _tally(found: "re.Match[str]") -> str:
    counts = [int(count) for count in found.groups()]
    if not any(counts):
        return "nothing written twice, refused or lost"
    repeated, writes, reports, ran_out, lost = counts
    return "written twice: %s beside the fence, 0 behind it; refused: %s, %s; leases: %d ran out, %d told as lost" % (
        _many(repeated, "ID"), _many(writes, "write"), _many(reports, "report"), ran_out, lost)  # fmt: skip


def _many(count: int, what: str) -> str:
    return "%d %s%s" % (count, what, "" if count == 1 else "s")


def measured(fault: Fault, numbers: Dict[str, Any]) -> List[str]:
    """Return the lines that a row shows: all, or some of each test."""
    found = [numbers["tests"].get(test, {}).get("lines", []) for test in dict.fromkeys(fault.tests)]
    if fault.about:
        found = [[line for line in lines if line.startswith(fault.about)] for lines in found]
    # The first line of each test, then its last one, then what is between.
    ranks = [[0, *range(len(lines) - 1, 0, -1)] for lines in found if lines]
    found = [lines for lines in found if lines]
    turns = [(which, rank[turn]) for turn in range(LINES) for which, rank in enumerate(ranks) if turn < len(rank)]
    return [found[which][at] for which, at in sorted(turns[:LINES])]


def render(groups: Iterable[Any], numbers: Dict[str, Any]) -> str:
    """Return the text of the table."""
    groups = [group for group in groups if group.FAULTS]
    parts = [_HEAD % {"rows": sum(len(group.FAULTS) for group in groups), "where": _where(numbers)}]
    for group in groups:
        parts.append("%s\n%s\n" % (group.TITLE, "-" * len(group.TITLE)))
        parts.append(".. list-table::\n   :header-rows: 1\n   :widths: 5 33 37 25\n")
        parts.append(_row(["", ["Fault, and what must happen then"], ["Measured"], ["Control"]]))
        shown: Dict[Sequence[str], str] = {}
        for fault in group.FAULTS:
            lines = measured(fault, numbers)
            first = shown.setdefault(tuple(lines), fault.id)
            if lines and first != fault.id:
                lines = ["As %s: the same tests." % first]
            told = [escaped(line) for line in lines] or [_without(fault)]
            parts.append(_row([
                fault.id, ["**%s**" % escaped(sentence(fault.fault)), escaped(sentence(fault.expected))],
                [*told, "``make fault F=%s``" % fault.id], [escaped(sentence(fault.control))],
            ]))  # fmt: skip
    return "\n".join(parts)


def _where(numbers: Dict[str, Any]) -> str:
    tests = numbers["tests"].values()
    if not tests:
        return "nothing yet (``make faults`` does it)"
    dates, loads = sorted({told["date"] for told in tests}), sorted(told["load"] for told in tests)
    return "%s, Python %s, %s, %d cores of %s, shared with other work (load %g to %g)" % (
        " to ".join(dict.fromkeys((dates[0], dates[-1]))), numbers["python"], ", ".join(numbers["servers"]),
        numbers["cores"], numbers["machine"], loads[0], loads[-1],
    )  # fmt: skip


def _without(fault: Fault) -> str:
    files = sorted({test.partition("::")[0] for test in fault.tests})
    here = [path for path in files if path.startswith("tests/faults/")]
    return "*%s* %s" % ("Not measured yet." if here else "No number; held by", ", ".join("``%s``" % f for f in files))


def _row(cells: Sequence[Any]) -> str:
    lines = ["   * - %s" % cells[0]]
    for paragraphs in cells[1:]:
        lines.append("     - " + "\n\n       ".join(paragraphs))
    return "\n".join(lines) + "\n"


def sentence(text: str) -> str:
    """Return *text* with a capital letter and a full stop: rows are written by several hands."""
    return text[0].upper() + text[1:].rstrip(".") + "."


def escaped(text: str) -> str:
    """Return *text* as reStructuredText that shows it as it is."""
    text = re.sub(r"([\\*`|])", r"\\\1", text)
    return re.sub(r"(?<=\w)_(?!\w)", r"\\_", text)


def load() -> Dict[str, Any]:
    """Return the numbers that are committed."""
    found: Dict[str, Any] = json.loads(NUMBERS.read_text(encoding="utf-8")) if NUMBERS.exists() else {"tests": {}}
    return found


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.document", description="Draw docs/fault-table.rst.")
    parser.add_argument("--numbers", metavar="FILE", action="append", default=[], help="what make faults wrote")
    numbers = load()
    for path in parser.parse_args(arguments).numbers:
        report = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        numbers = record(report, numbers)
        NUMBERS.write_text(json.dumps(numbers, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        for node, told in report["tests"].items():
            if told["outcome"] != "passed":
                print("no numbers of what did not pass: %s" % node, file=sys.stderr)
    TABLE.write_text(render(GROUPS, numbers), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
