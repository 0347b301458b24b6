"""What the rounds found: as data, as text, as a picture. Imports no peer."""

from __future__ import annotations

import statistics

#: Against the fastest peer of the same round, no-op jobs, one process.
GOALS = (("elk, window 8", 4.0), ("elk, window 64", 10.0))
NOOP = "no-op, 1 process"


def case(label, jobs, seconds, processes, runs):
    """*runs*: {name: [(done, seconds, drained, CPU of workers, of server)]} in the order of the rounds."""
    return {
        "label": label,
        "jobs": jobs,
        "seconds": seconds,
        "processes": processes,
        "rates": {name: [run[0] / run[1] for run in each] for name, each in runs.items()},
        "cpu": {name: [_median(run[at] for run in each) for at in (3, 4)] for name, each in runs.items()},
        "drained": {name: all(run[2] for run in each) for name, each in runs.items()},
    }


def _cpu_ratio(cpu, name, peers):
    """How often the CPU time of one of our jobs, worker and server, fits into that of the cheapest peer."""
    sums = {each: sum(used) for each, used in cpu.items() if None not in used}
    known = [sums[peer] for peer in peers if peer in sums]
    return min(known) / sums[name] if known and sums.get(name) else None


def _median(values):
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def goals(cases, ours):
    """Compare within each round; return a row per goal."""
    noop = next((each for each in cases if each["label"] == NOOP), {"rates": {}, "cpu": {}})
    rates = noop["rates"]
    peers = [name for name in rates if name not in ours]
    rows = []
    for name, goal in GOALS:
        if name not in rates or not peers:
            continue
        fastest = [max(peers, key=lambda peer, turn=turn: rates[peer][turn]) for turn in range(len(rates[name]))]
        ratios = [rates[name][turn] / rates[peer][turn] for turn, peer in enumerate(fastest)]
        ratio = statistics.median(ratios)
        row = {"name": name, "goal": goal, "ratios": ratios, "ratio": ratio, "reached": ratio >= goal}
        rows.append(dict(row, fastest=fastest, cpu_ratio=_cpu_ratio(noop["cpu"], name, peers)))
    return rows


def text(data):
    """Return the report for the terminal."""
    lines = ["%s: %s" % item for item in data["about"].items()] + [""]
    names = list(data["cases"][0]["rates"])
    rows = [["jobs per second: median (min - max)"] + [each["label"] for each in data["cases"]]]
    rows.append([""] + ["%d jobs" % each["jobs"] for each in data["cases"]])
    rows += [[name] + [_cell(each, name) for each in data["cases"]] for name in names]
    lines += _aligned(rows)
    lines.append("* stopped after %g s before all jobs were done; the rate up to then" % data["limit"])
    lines.append("")
    rows = [["CPU us per job, medians: workers + server"] + [each["label"] for each in data["cases"]]]
    rows += [[name] + [_used(each["cpu"][name]) for each in data["cases"]] for name in names]
    lines += _aligned(rows) + [""]
    lines += _aligned([["enqueuing from one process", "jobs/s"]]
                      + [[name, "%.0f" % rate] for name, rate in data["enqueuing"].items()])
    lines.append("")
    for row in data["goals"]:
        cpu = "" if row["cpu_ratio"] is None else "; CPU per job of the cheapest peer / ours: %.1f" % row["cpu_ratio"]
        lines.append("%s against the fastest peer of the round (%s): %.1f (%.1f - %.1f), goal %g: %s%s" % (
            row["name"], ", ".join(sorted(set(row["fastest"]))), row["ratio"], min(row["ratios"]), max(row["ratios"]),
            row["goal"], "reached" if row["reached"] else "NOT reached", cpu,
        ))
    if data.get("recovery"):
        cap = data["recovery_cap"]
        lines += ["", "kill -9 of the worker that has the job, default settings; until it runs again"]
        lines += _aligned([[name, "not within %d s" % cap if took is None else "%.1f s" % took]
                           for name, took in data["recovery"].items()])
    lines += ["", "what each runs with, and what it promises when a process is killed"]
    for name, (settings, killed) in data["words"].items():
        lines += ["  %s: %s." % (name, settings), "      killed: %s." % killed]
    return "\n".join(lines) + "\n"


def _cell(each, name):
    rates = each["rates"][name]
    star = "" if each["drained"][name] else " *"
    return "%.0f (%.0f - %.0f)%s" % (statistics.median(rates), min(rates), max(rates), star)


def _used(cpu):
    return "?" if None in cpu else "%.0f + %.0f" % tuple(cpu)


def _aligned(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join([row[0].ljust(widths[0])] + [cell.rjust(widths[at + 1]) for at, cell in enumerate(row[1:])])
            .rstrip() for row in rows]


def plot(data, ours, path):
    """Draw a panel per duration of the jobs; bars are medians, whiskers the range."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    durations = sorted({each["seconds"] for each in data["cases"]})
    figure, panels = pyplot.subplots(1, len(durations), figsize=(6.5 * len(durations), 4.6), squeeze=False)
    for panel, duration in zip(panels[0], durations):
        cases = [each for each in data["cases"] if each["seconds"] == duration]
        names = list(cases[0]["rates"])
        for turn, each in enumerate(cases):
            for at, name in enumerate(names):
                rates = each["rates"][name]
                middle = statistics.median(rates)
                place = at + (turn - (len(cases) - 1) / 2) * 0.4
                colour = ("#1f6f8b", "#7fb7c9")[turn % 2] if name in ours else ("#777777", "#bbbbbb")[turn % 2]
                panel.barh(place, middle, 0.38, color=colour, xerr=[[middle - min(rates)], [max(rates) - middle]],
                           error_kw={"elinewidth": 1, "capsize": 2})
                panel.annotate("%.0f" % middle, (max(rates), place), xytext=(5, 0), textcoords="offset points",
                               va="center", fontsize=8)
        panel.set_yticks(range(len(names)))
        panel.set_yticklabels(names)
        panel.invert_yaxis()
        panel.set_xlim(0, panel.get_xlim()[1] * 1.1)
        panel.set_xlabel("jobs per second")
        what = "No-op jobs" if not duration else "Jobs of %g ms" % (duration * 1000)
        shades = ["%d process%s" % (each["processes"], "" if each["processes"] == 1 else "es") for each in cases]
        panel.set_title("%s (%s)" % (what, ", light: ".join(["dark: " + shades[0]] + shades[1:])), fontsize=10)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
