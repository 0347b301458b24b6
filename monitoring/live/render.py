"""Pictures of the dashboards where there is no Grafana: the same panels, at the same places, from the same queries."""

from __future__ import annotations

import math
import pathlib
from typing import Any, Callable, Dict, List, Sequence, Tuple

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, MaxNLocator

from monitoring.grafana.build import DASHBOARDS
from monitoring.grafana.model import COLUMNS, Panel, say
from monitoring.live.panels import Answered

#: Inches per column and row of the grid.
WIDE, HIGH = 0.62, 0.36
COLOURS = {"green": "#37872d", "orange": "#d9730d", "red": "#c4162a"}
INK, FAINT = "#24292e", "#8a949e"
#: More series than this say nothing in a legend.
NAMED = 6
#: (from when, until when, what it was)
Span = Tuple[float, float, str]


def worded(value: float, unit: str) -> str:
    """Return a value as people read it."""
    if math.isnan(value) or math.isinf(value):
        return "-"
    if unit == "percentunit":
        return ("%.0f %%" if abs(value) >= 1 else "%.3g %%") % (100 * value)
    if unit == "s":
        for limit, size, name in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
            if abs(value) < limit:
                if size == 1 and 0 < abs(value) < 1:
                    return "%.3g ms" % (1000 * value)
                return "%.3g %s" % (value / size, name)
        return "%.3g d" % (value / 86400)
    after = {"bytes": "B", "cps": "/s", "ops": "/s"}.get(unit, "")
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size and unit != "none":
            return "%.3g %s%s" % (value / size, letter, after)
    return ("%.0f" if unit == "none" and abs(value) > 100 else "%.3g") % value + after


def _colour(panel: Panel, value: float) -> str:
    names = panel.names.get("%g" % value)
    found = names[1] if names else "green"
    for limit, colour in () if names else panel.thresholds:
        if limit is None or value >= limit:
            found = colour
    return COLOURS.get(found, INK)


def _all(answer: Answered) -> List[Tuple[str, List[Tuple[float, float]]]]:
    return [series for of_query in answer.series for series in of_query if series[1]]


def _stat(axes: Any, answer: Answered, start: float) -> None:
    panel = answer.panel
    series = _all(answer)
    axes.axis("off")
    shown = series[:3]
    if not shown:
        axes.text(0.5, 0.5, say(panel.absent, "en"), ha="center", va="center", fontsize=15, color=FAINT)
    for at, (name, points) in enumerate(shown):
        value = points[-1][1] if panel.decimals is None else round(points[-1][1], panel.decimals)
        text = say(panel.names["%g" % value][0], "en") if "%g" % value in panel.names else worded(value, panel.unit)
        height = 0.5 if len(shown) == 1 else 0.85 - 0.3 * at
        axes.text(0.5, height, text, ha="center", va="center", fontsize=20 if len(shown) == 1 else 12,
                  color=_colour(panel, value), weight="bold")  # fmt: skip
        if len(shown) > 1:
            axes.text(0.02, height, name, ha="left", va="center", fontsize=6, color=FAINT)


def _lines(axes: Any, answer: Answered, start: float) -> None:
    panel = answer.panel
    series = _all(answer)
    if panel.stacked and series:
        first, last = (f(at for _, points in series for at, _ in points) for f in (min, max))
        times = [first + second for second in range(int(last - first) + 1)]
        tables = [dict(points) for _, points in series]
        axes.stackplot([t - start for t in times], [[table.get(t, 0.0) for t in times] for table in tables],
                       labels=[name for name, _ in series], alpha=0.75)  # fmt: skip
    else:
        for name, points in series:
            # A gap of more than a few scrapes is a gap, not a line.
            xs, ys = [], []
            for at, value in points:
                if xs and at - start - xs[-1] > 3:
                    xs.append(at - start - 1)
                    ys.append(math.nan)
                xs.append(at - start)
                ys.append(value)
            axes.plot(xs, ys, label=name, linewidth=1.3, marker="." if len(xs) < 8 else "")
    if panel.limits:
        low, high = axes.get_ylim()
        for limit, colour in panel.thresholds:
            if limit is not None and limit <= 3 * max(high, 1e-9):
                axes.axhline(limit, color=COLOURS.get(colour, INK), linewidth=0.8, linestyle="--")
    if panel.minimum is not None:
        axes.set_ylim(bottom=panel.minimum)
    top = axes.get_ylim()[1]
    if panel.maximum is not None:
        axes.set_ylim(top=panel.maximum * 1.02)
    elif top < 0.1 and not any(value for _, points in series for _, value in points):
        axes.set_ylim(top=1)
    elif series and len(series) <= NAMED:
        axes.set_ylim(top=top * 1.25)  # room for the legend
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: worded(value, panel.unit)))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if series and len(series) <= NAMED:
        axes.legend(fontsize=6, loc="upper left", framealpha=0.7, ncol=2 if len(series) > 3 else 1)
    elif series:
        axes.text(0.01, 0.97, "%d series" % len(series), transform=axes.transAxes, va="top", fontsize=6, color=FAINT)


def _bars(axes: Any, answer: Answered, start: float) -> None:
    series = sorted(_all(answer), key=lambda one: one[1][-1][1])
    axes.barh([name for name, _ in series], [points[-1][1] for _, points in series], color=COLOURS["green"])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: worded(value, answer.panel.unit)))
    axes.xaxis.set_major_locator(MaxNLocator(4))


def _states(axes: Any, answer: Answered, start: float) -> None:
    names = []
    for row, (name, points) in enumerate(_all(answer)):
        names.append(name)
        for at, value in points:
            axes.broken_barh([(at - start, 1.05)], (row - 0.35, 0.7), color=_colour(answer.panel, value), linewidth=0)
    axes.set_yticks(range(len(names)))
    axes.set_yticklabels(names, fontsize=6)
    axes.set_ylim(-0.6, max(len(names), 1) - 0.4)


def _heat(axes: Any, answer: Answered, start: float) -> None:
    series = sorted(_all(answer), key=lambda one: float(one[0].replace("+Inf", "inf")))
    times = sorted({at for _, points in series for at, _ in points})
    below = dict.fromkeys(times, 0.0)
    rows, bounds = [], []
    for name, points in series:
        values = dict(points)
        rows.append([max(0.0, values.get(t, 0.0) - below[t]) for t in times])
        below = {t: values.get(t, below[t]) for t in times}
        bounds.append(name)
    if rows and len(times) > 1:
        axes.pcolormesh([t - start for t in times], range(len(rows)), rows, cmap="Oranges", shading="nearest")
        axes.set_yticks(range(len(bounds)))
        axes.set_yticklabels(["%s s" % b for b in bounds], fontsize=5)


def _table(axes: Any, answer: Answered, start: float) -> None:
    axes.axis("off")
    for at, (name, _) in enumerate(_all(answer)[:8]):
        axes.text(0.0, 0.95 - 0.12 * at, name[:90], fontsize=5.5, va="top", color=INK, family="monospace")


DRAW: Dict[str, Callable[[Any, Answered, float], None]] = {
    "stat": _stat, "timeseries": _lines, "bargauge": _bars, "state-timeline": _states, "heatmap": _heat,
    "table": _table,
}  # fmt: skip


def draw(folder: pathlib.Path, answers: Sequence[Answered], start: float, until: float, spans: Sequence[Span]) -> None:
    """Write one picture per dashboard; *spans* are times to point at."""
    for dashboard in DASHBOARDS:
        panels = dashboard.to_json("en")["panels"]
        height = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels)
        figure = plt.figure(figsize=(COLUMNS * WIDE, height * HIGH + 0.6), facecolor="white")
        total = height * HIGH + 0.6
        figure.text(0.01, 1 - 0.2 / total, "%s: %s" % (dashboard.title.en, dashboard.text.en), fontsize=12,
                    weight="bold", va="center", color=INK)  # fmt: skip
        key = ", ".join("%d %s" % (number, name) for number, (_, _, name) in enumerate(spans, 1))
        figure.text(0.01, 1 - 0.45 / total, key, fontsize=8, va="center", color=COLOURS["red"])
        found = {answer.panel.title: answer for answer in answers if answer.dashboard == dashboard.name}
        own = iter(dashboard.panels())
        for place in panels:
            grid = place["gridPos"]
            top = 1 - (0.6 + grid["y"] * HIGH) / total
            if place["type"] == "row":
                figure.text(0.01, top - 0.22 / total, place["title"], fontsize=10, weight="bold", va="center",
                            color=FAINT)  # fmt: skip
                continue
            answer = found[next(own).title]
            deep = grid["h"] * HIGH
            stat = place["type"] == "stat"
            left = 0.02 if stat else 0.48 if place["type"] in ("timeseries", "heatmap") else 1.35
            below, above = (0.05, 0.32) if stat else (0.3, 0.34)
            axes = figure.add_axes((
                (grid["x"] * WIDE + left) / (COLUMNS * WIDE), top - (deep - below) / total,
                (grid["w"] * WIDE - left - 0.15) / (COLUMNS * WIDE), (deep - below - above) / total,
            ))  # fmt: skip
            figure.text((grid["x"] * WIDE + 0.12) / (COLUMNS * WIDE), top - 0.17 / total, place["title"], fontsize=8,
                        va="center", color=INK)  # fmt: skip
            axes.tick_params(labelsize=6, colors=FAINT)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
            DRAW[place["type"]](axes, answer, start)
            if place["type"] in ("timeseries", "state-timeline", "heatmap"):
                _time_axis(axes, answer, until - start, [
                    (a - start, b - start, str(number)) for number, (a, b, _) in enumerate(spans, 1)
                ])
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(str(folder / ("dashboard-%s.png" % dashboard.name)), dpi=80)
        plt.close(figure)


def _time_axis(axes: Any, answer: Answered, seconds: float, spans: Sequence[Span]) -> None:
    axes.set_xlim(0, seconds)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "%d:%02d" % divmod(max(0, int(value)), 60)))
    if answer.empty:
        axes.text(0.5, 0.5, "nothing to show", transform=axes.transAxes, ha="center", color=FAINT, fontsize=8)
    for begin, end, name in spans:
        axes.axvspan(begin, end, color=COLOURS["red"], alpha=0.09, linewidth=0, zorder=0)
        axes.text((begin + end) / 2, 1.005, name, transform=axes.get_xaxis_transform(), fontsize=6.5,
                  color=COLOURS["red"], va="bottom", ha="center")  # fmt: skip
