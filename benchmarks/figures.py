"""What a run found: figures with ranges and goals, and curves for the pictures."""

from __future__ import annotations

import statistics
from typing import Any, Callable, Dict, List, Optional, Sequence

import attr


@attr.s(auto_attribs=True)
class Figure:
    """One number of the table: its rounds, what it is held against, and whether that was reached."""

    name: str
    values: List[float]
    unit: str = ""
    #: As text: ">= 3", "<= 200".
    goal: str = ""
    note: str = ""
    #: What the goal is about: the median, or for promises about the worst case "max".
    of: str = "median"

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def judged(self) -> float:
        """What the goal is held against."""
        return max(self.values) if self.of == "max" else self.median

    @property
    def reached(self) -> Optional[bool]:
        """Whether the goal was reached; None without one."""
        if not self.goal:
            return None
        sign, number = self.goal.split()[:2]
        tests: Dict[str, Callable[[float, float], bool]] = {
            ">=": lambda a, b: a >= b, "<=": lambda a, b: a <= b, "<": lambda a, b: a < b,
        }  # fmt: skip
        return tests[sign](self.judged, float(number.replace(",", "")))

    def document(self) -> Dict[str, Any]:
        return {
            "name": self.name, "unit": self.unit, "median": self.median, "min": min(self.values),
            "max": max(self.values), "rounds": self.values, "goal": self.goal or None, "reached": self.reached,
            "note": self.note,
        }  # fmt: skip


@attr.s(auto_attribs=True)
class Curve:
    """Points of one line in a picture: x, then median, min and max of y."""

    label: str
    points: List[Sequence[float]] = attr.Factory(list)
    #: Drawn dashed: what the others are held against.
    limit: bool = False

    def add(self, x: float, values: Sequence[float]) -> None:
        self.points.append((x, statistics.median(values), min(values), max(values)))


@attr.s(auto_attribs=True)
class Picture:
    """One scaling question: curves over one axis."""

    name: str
    title: str
    x: str
    y: str
    curves: List[Curve]
    log_x: bool = True
    log_y: bool = False


@attr.s(auto_attribs=True)
class Section:
    """The answer to one question."""

    name: str
    title: str
    figures: List[Figure] = attr.Factory(list)
    pictures: List[Picture] = attr.Factory(list)
    #: What must be said beside the numbers.
    notes: List[str] = attr.Factory(list)

    def add(self, name: str, values: Sequence[float], unit: str = "", goal: str = "", **more: str) -> Figure:
        """Add a figure; return it."""
        figure = Figure(name, list(values), unit, goal, **more)
        self.figures.append(figure)
        return figure


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that *share* of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def short(number: float) -> str:
    """Return a number as people read it, three digits of it."""
    if number == 0:
        return "0"
    if abs(number) >= 1000:
        return "{:,.0f}".format(number)
    digits = 0 if abs(number) >= 100 else 1 if abs(number) >= 10 else 2 if abs(number) >= 0.1 else 4
    return "%.*f" % (digits, number)
