"""The timeline of a chaos run: throughput, what struck when, who led, and how long it took to be well again."""

from __future__ import annotations

import bisect
import collections
import pathlib
from typing import Any, Dict, List, Tuple

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from tests.chaos import journal as j
from tests.chaos.audit import Audit, Fault
from tests.chaos.fence import CELL
from tests.chaos.run import Outcome
from tests.chaos.schedule import GROUPS, KINDS, group_of

INK, FAINT, DONE, AGAIN, REFUSED = "#222222", "#9a9a9a", "#2a6f97", "#e09f3e", "#c1121f"
TERMS = ("#40916c", "#b7e4c7")
COLOURS = {
    "process": "#7b2cbf", "content": "#b5651d", "leader": "#2d6a4f", "store": "#c1121f", "network": "#1d6fb8",
    "operator": "#6c757d",
}  # fmt: skip
#: Recoveries shorter than this are not drawn: nobody could see them.
SEEN = 0.5


def draw(folder: pathlib.Path, outcome: Outcome) -> pathlib.Path:
    """Draw ``timeline.png`` and ``timeline.svg``; return the path of the first."""
    audit = outcome.audit
    rows = [kind for group in GROUPS for kind in KINDS if group_of(kind) == group
            and any(fault.kind == kind for fault in audit.faults)]  # fmt: skip
    figure, (work, behind, faults) = pyplot.subplots(
        3, 1, sharex=True, figsize=(16, 6.0 + 0.235 * len(rows)),
        gridspec_kw={"height_ratios": [2.6, 1.9, 0.27 * max(4, len(rows))], "hspace": 0.2},
    )  # fmt: skip
    _throughput(work, audit, outcome)
    _backlog(behind, audit)
    _faults(faults, audit, rows)
    for axes in (work, behind, faults):
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.tick_params(colors=INK, labelsize=9)
    faults.set_xlim(0, outcome.facts["seconds"])
    faults.set_xlabel("seconds since the start", color=INK)
    work.set_title(_title(outcome), loc="left", fontsize=13, color=INK, pad=30)
    for suffix in ("svg", "png"):
        figure.savefig(str(folder / ("timeline." + suffix)), dpi=110, bbox_inches="tight")
    pyplot.close(figure)
    return folder / "timeline.png"


def _title(outcome: Outcome) -> str:
    audit, settings = outcome.audit, outcome.facts["settings"]
    verdict = "%d VIOLATIONS" % len(outcome.violations) if outcome.violations else "no violation"
    return "{:,} faults, {} processes, {:,} IDs processed, each once behind the fence - {}\n".format(
        len(audit.faults), len(audit.births), audit.applied, verdict
    ) + "strategy %s, %d workers, seed %d" % (settings["strategy"], settings["workers"], settings["seed"])


def _per_second(times: List[Tuple[float, int]], width: float, until: float) -> Tuple[List[float], List[float]]:
    bins: Dict[int, int] = collections.Counter()
    for t, number in times:
        bins[int(t / width)] += number
    last = int(until / width) + 1
    return [width * (at + 0.5) for at in range(last)], [bins[at] / width for at in range(last)]


def _throughput(axes: Any, audit: Audit, outcome: Outcome) -> None:
    seconds = outcome.facts["seconds"]
    width = max(0.5, seconds / 400.0)
    done, again, refused, seen = [], [], [], set()
    for t, _, record in audit.records:
        if record.kind == j.APPLY:
            done.append((t - audit.origin, record.last - record.first + 1))
        elif record.kind == j.UNGUARDED:
            if record.first in seen:
                again.append((t - audit.origin, record.last - record.first + 1))
            seen.add(record.first)
        elif record.kind == j.STALE:
            refused.append(t - audit.origin)
    x, y = _per_second(done, width, seconds)
    axes.fill_between(x, [value / 1000.0 for value in y], step="mid", color=DONE, alpha=0.85, linewidth=0,
                      label="done for the first time")  # fmt: skip
    high = 1.25 * max(y) / 1000.0
    x, y = _per_second(again, width, seconds)
    axes.plot(x, [min(high, value / 1000.0) for value in y], color=AGAIN, linewidth=1.2, drawstyle="steps-mid",
              label="given to a processor again")  # fmt: skip
    axes.set_ylim(0, high)
    top = max([1.0, *axes.get_ylim()])
    if refused:
        axes.plot(refused, [-0.05 * top] * len(refused), "|", color=REFUSED, markersize=7, clip_on=False,
                  label="stale writes refused by the fence")  # fmt: skip
    axes.set_ylim(-0.1 * top, top)
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= top])
    axes.set_ylabel("thousand IDs a second\n(cut off above)", color=INK)
    _loss_lines(axes, audit)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.008, 0.99), ncol=4, frameon=False, fontsize=9)


def _loss_lines(axes: Any, audit: Audit, named: bool = True) -> None:
    for number, fault in enumerate(fault for fault in audit.faults if fault.loses_data):
        axes.axvline(fault.begin - audit.origin, color=REFUSED, linewidth=1.0, linestyle=(0, (4, 3)),
                     label="the store lost its data" if named and not number else None)  # fmt: skip


def _backlog(axes: Any, audit: Audit) -> None:
    """IDs that exist and are not done; and who leads: a stripe under it, whose shade changes with the term."""
    applied = sorted(cell[3] for cell in audit.cells if cell[1])
    x, y = [], []
    for t, top in audit.tops + [(audit.dismissed, audit.top)]:
        x.append(t - audit.origin)
        y.append((top - CELL * bisect.bisect_right(applied, t)) / 1000.0)
    axes.fill_between(x, y, color=INK, alpha=0.18, linewidth=0)
    axes.plot(x, y, color=INK, linewidth=1.0, label="IDs that exist and are not done yet")
    top = max(y) * 1.08 + 1
    ends = [t for t, _, _ in audit.terms[1:]] + [audit.dismissed]
    for number, ((t, _, _), end) in enumerate(zip(audit.terms, ends)):
        axes.barh(-0.12 * top, max(0.0, end - t), left=t - audit.origin, height=0.12 * top, color=TERMS[number % 2],
                  linewidth=0, label="terms of leaders" if not number else None)  # fmt: skip
    axes.set_ylim(-0.2 * top, top)
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= top])
    axes.set_ylabel("thousand IDs", color=INK)
    _loss_lines(axes, audit, named=False)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.008, 0.97), ncol=2, frameon=False, fontsize=9)


def _faults(axes: Any, audit: Audit, rows: List[str]) -> None:
    at = {kind: len(rows) - 1 - number for number, kind in enumerate(rows)}
    for kind in rows:
        axes.axhline(at[kind], color="#eeeeee", linewidth=0.8, zorder=0)
    for fault in audit.faults:
        _fault(axes, fault, fault.begin - audit.origin, at[fault.kind])
    _loss_lines(axes, audit, named=False)
    axes.set_yticks([at[kind] for kind in rows])
    axes.set_yticklabels(rows)
    for label, kind in zip(axes.get_yticklabels(), rows):
        label.set_color(COLOURS[group_of(kind)])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.plot([], [], "|", color=INK, markersize=9, markeredgewidth=2, label="fault: a moment")
    axes.plot([], [], color=INK, linewidth=7, label="fault: a span")
    axes.plot([], [], color=FAINT, linewidth=2.0, label="until what it met was done and new work was")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.008, 0.995), ncol=3, frameon=False, fontsize=9)


def _fault(axes: Any, fault: Fault, begin: float, row: int) -> None:
    colour = COLOURS[group_of(fault.kind)]
    lasted = fault.end - fault.begin
    if lasted > 0.3:
        axes.barh(row, lasted, left=begin, height=0.56, color=colour, linewidth=0)
    else:
        axes.plot([begin], [row], "|", color=colour, markersize=9, markeredgewidth=2)
    if fault.recovery is not None and fault.recovery > SEEN:
        axes.plot([begin + lasted, begin + lasted + fault.recovery], [row, row], color=FAINT, linewidth=2.0, zorder=1,
                  solid_capstyle="butt")  # fmt: skip
