"""The timeline of a chaos run: throughput, what struck when, who led, and how long it took to be well again."""

from __future__ import annotations

import collections
import pathlib
from typing import Any, Dict, List, Tuple

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

from tests.chaos import journal as j  # noqa: E402
from tests.chaos.audit import Audit, Fault  # noqa: E402
from tests.chaos.run import Outcome  # noqa: E402
from tests.chaos.schedule import GROUPS, KINDS, group_of  # noqa: E402

INK, FAINT, DONE, AGAIN, REFUSED = "#222222", "#9a9a9a", "#2a6f97", "#e09f3e", "#c1121f"
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
        3, 1, sharex=True, figsize=(16, 6.2 + 0.235 * len(rows)),
        gridspec_kw={"height_ratios": [3.0, 1.5, 0.27 * max(4, len(rows))], "hspace": 0.09},
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
    figure.suptitle(_title(outcome), x=0.125, y=0.995, ha="left", va="top", fontsize=13, color=INK)
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
                      label="new IDs done")  # fmt: skip
    x, y = _per_second(again, width, seconds)
    axes.plot(x, [value / 1000.0 for value in y], color=AGAIN, linewidth=1.2, drawstyle="steps-mid",
              label="IDs given to a processor again")  # fmt: skip
    top = max([1.0, *axes.get_ylim()])
    if refused:
        axes.plot(refused, [-0.045 * top] * len(refused), "|", color=REFUSED, markersize=7, clip_on=False,
                  label="stale writes refused by the fence")  # fmt: skip
    axes.set_ylim(-0.08 * top, 1.02 * top)
    axes.set_ylabel("thousand IDs a second", color=INK)
    _loss_lines(axes, audit)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncol=4, frameon=False, fontsize=9)


def _loss_lines(axes: Any, audit: Audit) -> None:
    for number, fault in enumerate(fault for fault in audit.faults if fault.loses_data):
        axes.axvline(fault.begin - audit.origin, color=REFUSED, linewidth=1.0, linestyle=(0, (4, 3)),
                     label="the store lost its data" if not number else None)  # fmt: skip


def _backlog(axes: Any, audit: Audit) -> None:
    """Partitions being run, and who leads: a stripe under it, its colour changes with the term."""
    moves = []
    for attempt in audit.attempts.values():
        moves.append((attempt.start.t, 1))
        end = attempt.end.t if attempt.end is not None else audit.deaths.get(attempt.process)
        if end is not None:
            moves.append((end, -1))
    level, x, y = 0, [0.0], [0]
    for t, step in sorted(moves):
        level += step
        x.append(t - audit.origin)
        y.append(level)
    axes.plot(x, y, color=INK, linewidth=0.7, drawstyle="steps-post")
    top = max(y) * 1.05 + 1
    shades = ("#40916c", "#b7e4c7")
    ends = [t for t, _, _ in audit.terms[1:]] + [max(audit.deaths.values(), default=0.0)]
    for number, ((t, _, _), end) in enumerate(zip(audit.terms, ends)):
        axes.barh(-0.13 * top, end - t, left=t - audit.origin, height=0.12 * top, color=shades[number % 2], linewidth=0)
    axes.set_ylim(-0.2 * top, top)
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= top])
    axes.set_ylabel("partitions run\n(green: terms)", color=INK)
    _loss_lines(axes, audit)


def _faults(axes: Any, audit: Audit, rows: List[str]) -> None:
    at = {kind: len(rows) - 1 - number for number, kind in enumerate(rows)}
    for kind in rows:
        axes.axhline(at[kind], color="#eeeeee", linewidth=0.8, zorder=0)
    for fault in audit.faults:
        _fault(axes, fault, fault.begin - audit.origin, at[fault.kind])
    _loss_lines(axes, audit)
    axes.set_yticks([at[kind] for kind in rows])
    axes.set_yticklabels(rows)
    for label, kind in zip(axes.get_yticklabels(), rows):
        label.set_color(COLOURS[group_of(kind)])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.plot([], [], "|", color=INK, markersize=9, markeredgewidth=2, label="fault: a moment")
    axes.barh([0], [0], color=INK, label="fault: a span")
    axes.plot([], [], color=FAINT, linewidth=2.0, label="until what it met was done and new work was")
    axes.legend(loc="upper right", bbox_to_anchor=(1.0, -0.035), ncol=3, frameon=False, fontsize=9)


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
