"""The report of a chaos run: a table for people, and the timeline as a picture where matplotlib is installed."""

from __future__ import annotations

import collections
import importlib
import pathlib
import statistics
from typing import Dict, List

from tests.chaos import journal as j
from tests.chaos.audit import Audit, Fault
from tests.chaos.run import Outcome
from tests.chaos.schedule import GROUPS, group_of

_LINE = "%-22s %6s %10s %10s %12s"


def write_report(folder: pathlib.Path, outcome: Outcome, picture: bool = True) -> str:
    """Write ``report.txt`` and the picture into *folder*; return the text."""
    lines = [*_per_fault(outcome.audit), "", *_totals(outcome), ""]
    if picture:
        lines += [_draw(folder, outcome), ""]
    text = "\n".join(lines + _verdict(outcome))
    (folder / "report.txt").write_text(text + "\n")
    return text


def _draw(folder: pathlib.Path, outcome: Outcome) -> str:
    try:
        drawn = importlib.import_module("tests.chaos.picture")
    except ImportError as exc:
        return "no picture: %s (the extra \"look\" brings it)" % exc
    return "picture: %s" % drawn.draw(folder, outcome)


def _per_fault(audit: Audit) -> List[str]:
    by_kind: Dict[str, List[Fault]] = collections.defaultdict(list)
    for fault in audit.faults:
        by_kind[fault.kind].append(fault)
    lines = [_LINE % ("fault", "times", "recovered", "at most", "IDs again"),
             _LINE % ("", "", "p50, s", "s", "unguarded")]  # fmt: skip
    for group in GROUPS:
        for kind in sorted(kind for kind in by_kind if group_of(kind) == group):
            seconds = [fault.recovery for fault in by_kind[kind] if fault.recovery is not None]
            lines.append(_LINE % (
                kind, len(by_kind[kind]), "%.1f" % statistics.median(seconds) if seconds else "-",
                "%.1f" % max(seconds) if seconds else "-", "{:,}".format(audit.blame[kind])))  # fmt: skip
    lines.append(_LINE % ("none of these", "", "", "", "{:,}".format(audit.blame["none of these"])))
    return lines


def _totals(outcome: Outcome) -> List[str]:
    audit, facts = outcome.audit, outcome.facts
    counts, settings = audit.counts, facts["settings"]
    again = sum(audit.why.values())
    lines = [
        "seed %d, strategy %s, %d workers, %s, %.0f s" % (
            settings["seed"], settings["strategy"], settings["workers"], facts["server"], facts["seconds"]),
        "{:,} of {:,} IDs processed exactly once behind the fence; {:,} attempts on partitions".format(
            audit.applied, audit.top, len(audit.attempts)),
        "{:,} IDs processed again without a guard: {}".format(
            again, ", ".join("{:,} as {}".format(n, why) for why, n in audit.why.most_common()) or "-"),
        "{:,} stale writes refused by the fence; the library told of {:,} lost leases, {:,} refused reports".format(
            counts[j.STALE], counts[j.LOST], counts[j.REFUSED]),
        "{:,} processes, {:,} terms of leaders, {:,} breaker moves, {:,} hung tasks, {:,} partitions failed for a "
        "time".format(len(audit.births), len(audit.terms), counts[j.BREAKER], counts[j.HUNG], counts[j.FAILED]),
        "done %s after the last fault" % ("%.1f s" % facts["calmed"] if facts["calmed"] is not None else "never"),
        "elk verify: %s" % facts["verify"],
    ]  # fmt: skip
    return lines


def _verdict(outcome: Outcome) -> List[str]:
    if not outcome.violations:
        return ["no gap, no unexplained duplicate, no stale guarded write"]
    return ["%d VIOLATIONS" % len(outcome.violations), *("* " + text for text in outcome.violations),
            "to replay: " + outcome.facts["command"]]  # fmt: skip
