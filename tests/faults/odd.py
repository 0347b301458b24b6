"""What a planner may do wrong, by name: answers of ``get_next_max_id`` and of ``plan``."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator


class _Raise(Exception):
    pass


def _raise(start: int) -> Any:
    raise _Raise("the database went away")


#: Told as a PlannerError, each.
WRONG: Dict[str, Callable[[int], Any]] = {
    "raises": _raise,
    "None": lambda start: None,
    "float": lambda start: start + 10.0,
    "NaN": lambda start: float("nan"),
    "inf": lambda start: float("inf"),
    "bool": lambda start: True,
    "str": lambda start: str(start + 10),
    "2**63": lambda start: 2**63,
    "-2**63 - 1": lambda start: -(2**63) - 1,
}
#: Nothing new, and no error: also what a table says that shrank.
NOTHING: Dict[str, Callable[[int], Any]] = {
    "as before": lambda start: start,
    "decreasing": lambda start: start - 7,
    "negative": lambda start: -5,
}


def odd_answer(name: str, start: int) -> Any:
    """Return (or raise) the answer of this name."""
    return {**WRONG, **NOTHING}[name](start)


def _breaks_off(start: int) -> Iterator[Any]:
    yield (start + 1, start + 10)
    raise _Raise("the cursor is gone")


#: Told as a PlannerError, each; none of its ranges is created.
WRONG_PLANS: Dict[str, Callable[[int], Any]] = {
    "raises in the middle": _breaks_off,
    "overlaps": lambda start: iter([(start + 1, start + 10), (start + 10, start + 20)]),
    "goes back": lambda start: iter([(start + 11, start + 20), (start + 1, start + 10)]),
    "three of a pair": lambda start: iter([(start + 1, start + 10, 7)]),
    "no pair": lambda start: iter([start + 1]),
    "None": lambda start: None,
    "upside down": lambda start: iter([(start + 10, start + 1)]),
}


def odd_plan(name: str, start: int) -> Any:
    """Return the plan of this name."""
    return WRONG_PLANS[name](start)
