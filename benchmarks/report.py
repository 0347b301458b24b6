"""Writes what a run found: a table for the terminal, JSON, pictures, and the figures of the documentation."""

from __future__ import annotations

import json
import pathlib
from typing import Any, Dict, List, Sequence

from benchmarks.figures import Figure, Picture, Section, short

_COLORS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df")


def _cells(figure: Figure) -> List[str]:
    verdict = {True: "yes", False: "NO", None: ""}[figure.reached]
    spread = "" if len(figure.values) == 1 else "%s..%s" % (short(min(figure.values)), short(max(figure.values)))
    goal = figure.goal + (" (worst)" if figure.goal and figure.of == "max" else "")
    return [figure.name, short(figure.median), spread, figure.unit, goal, verdict]


def about(machine: Dict[str, Any]) -> str:
    """Return what the run was made on, in a sentence."""
    return (
        "%(when)s, scale %(scale)s, seed %(seed)d: %(server)s, redis-py %(redis-py)s, %(parser)s, Python %(python)s, "
        "elk_coordinator %(elk_coordinator)s; %(cores)d cores, %(cpu)s, %(system)s; load before the run %(load_before)s"
        % machine
    )


def table(sections: Sequence[Section]) -> str:
    """Return all figures as text, columns aligned."""
    out = []
    for section in sections:
        rows = [["", "median", "range", "", "goal", "reached"], *(_cells(figure) for figure in section.figures)]
        widths = [max(len(row[i]) for row in rows) for i in range(6)]
        out.append("\n%s\n%s" % (section.title, "-" * len(section.title)))
        for row in rows:
            cells = [row[0].ljust(widths[0]), row[1].rjust(widths[1]), row[2].rjust(widths[2])]
            cells += [row[3].ljust(widths[3]), row[4].ljust(widths[4]), row[5]]
            out.append("  ".join(cells).rstrip())
        out += section.notes
    return "\n".join(out)


def document(machine: Dict[str, Any], sections: Sequence[Section], seconds: float) -> Dict[str, Any]:
    """Return a run as JSON holds it."""
    return {
        "machine": machine,
        "seconds": seconds,
        "sections": [
            {
                "name": section.name,
                "title": section.title,
                "figures": [figure.document() for figure in section.figures],
                "curves": [
                    {"picture": picture.name, "title": picture.title, "x": picture.x, "y": picture.y,
                     "label": curve.label, "points": [list(point) for point in curve.points]}
                    for picture in section.pictures for curve in picture.curves
                ],
                "notes": section.notes,
            }
            for section in sections
        ],
    }  # fmt: skip


def _plain(value: float, _: int) -> str:
    return "{:,.0f}".format(value) if value >= 1000 else "%g" % value


def draw(picture: Picture, folder: pathlib.Path, caption: str) -> bool:
    """Write one picture; False where matplotlib is not installed."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot, ticker
    except ImportError:
        return False
    figure, axes = pyplot.subplots(figsize=(7.2, 4.6), dpi=110)
    marks: List[float] = []
    for color, curve in zip(_COLORS, picture.curves):
        xs = [point[0] for point in curve.points]
        marks += xs
        middle = [point[1] for point in curve.points]
        errors = [[p[1] - p[2] for p in curve.points], [p[3] - p[1] for p in curve.points]]
        style = "--" if curve.limit else "-"
        axes.errorbar(
            xs, middle, yerr=errors, label=curve.label, color=color, linestyle=style, marker="o", markersize=4,
            capsize=3, elinewidth=0.8,
        )  # fmt: skip
    if picture.log_x:
        axes.set_xscale("log")
    if picture.log_y:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xticks(sorted(set(marks)))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(_plain))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(_plain))
    axes.set_title(picture.title)
    axes.set_xlabel(picture.x)
    axes.set_ylabel(picture.y)
    axes.grid(True, alpha=0.3)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncol=4, fontsize=8)
    figure.text(0.01, 0.01, caption, fontsize=6, color="#666666")
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    figure.savefig(str(folder / (picture.name + ".png")))
    pyplot.close(figure)
    return True


def _escape(text: str) -> str:
    return text.replace("*", "\\*").replace("`", "\\`").replace("|", "\\|").replace("%", "\\%")


def restructured(machine: Dict[str, Any], sections: Sequence[Section]) -> str:
    """Return the figures as the documentation includes them."""
    out = [".. Written by \"make bench ARGS=--docs\"; do not edit.", ""]
    out += ["Measured on %s." % _escape(about(machine)), ""]
    if machine["busy"]:
        out += ["**Measured beside other work** on the same cores: ratios within the run hold roughly, absolute",
                "figures are too low, latencies too long.", ""]  # fmt: skip
    for section in sections:
        out += [section.title, "~" * len(section.title), ""]
        out += [".. list-table::", "   :header-rows: 1", "   :widths: 40 14 20 12 12 8", ""]
        for row in [["what", "median", "range", "unit", "goal", "reached"], *(_cells(f) for f in section.figures)]:
            out += [("   * - " if i == 0 else "     - ") + _escape(cell) for i, cell in enumerate(row)]
        out.append("")
        notes = section.notes + ["%s: %s." % (f.name, f.note) for f in section.figures if f.note]
        out += ["%s\n" % _escape(note) for note in notes]
        for picture in section.pictures:
            out += [".. image:: images/%s.png" % picture.name, "   :alt: %s" % picture.title, ""]
    return "\n".join(line.rstrip() for line in "\n".join(out).split("\n")).rstrip() + "\n"


def write(folder: pathlib.Path, machine: Dict[str, Any], sections: Sequence[Section], seconds: float) -> None:
    """Write table, JSON and pictures into *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.txt").write_text(about(machine) + "\n" + table(sections) + "\n")
    text = json.dumps(document(machine, sections, seconds), indent=1)
    (folder / "bench.json").write_text(text + "\n")
    draw_all(folder, machine, sections)


def draw_all(folder: pathlib.Path, machine: Dict[str, Any], sections: Sequence[Section]) -> None:
    """Draw every picture into *folder*."""
    caption = "%(server)s, Python %(python)s, %(cores)d cores, seed %(seed)d, %(when)s" % machine
    if machine["busy"]:
        caption += "; beside other work"
    for section in sections:
        for picture in section.pictures:
            if not draw(picture, folder, caption):
                print("matplotlib is not installed: no pictures (extra \"look\")")
                return
