"""The table of guards is true: every text is in the code, once, and what stands in its place can be loaded."""

from __future__ import annotations

import ast
import collections
import functools
import pathlib
import re
from typing import List, Set

import pytest
from lupa import lua51

from tests.mutants.guard import ROOT, Guard
from tests.mutants.guards import AREAS

GUARDS = [guard for area in AREAS.values() for guard in area]


@functools.lru_cache(maxsize=None)
def defined_in(path: pathlib.Path) -> Set[str]:
    return set(re.findall(r"^ *def (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))


def problems(guard: Guard) -> List[str]:
    """Return what is wrong with a row."""
    try:
        mutated = guard.mutate(guard.source())
    except ValueError as exc:
        return [str(exc)]
    out = []
    if mutated == guard.source():
        out.append("%s switches nothing off" % guard.name)
    if guard.path.endswith(".py"):
        try:
            ast.parse(mutated)
        except SyntaxError as exc:
            out.append("%s leaves no Python: %s" % (guard.name, exc))
    else:
        try:
            lua51.LuaRuntime().compile(mutated)
        except lua51.LuaSyntaxError as exc:
            out.append("%s leaves no Lua: %s" % (guard.name, exc))
    if not guard.promise or not guard.tests:
        out.append("%s says no promise, or nobody who would notice" % guard.name)
    for name in guard.tests:
        path, _, test = name.partition("::")
        # Scenes are inherited from another module.
        known = defined_in(ROOT / path) | (
            defined_in(ROOT / "tests/contrib/guard_scenes.py") if "::Test" in name else set()
        )
        if test and test.rpartition("::")[2] not in known:
            out.append("%s: there is no test %s" % (guard.name, name))
    return out


def test_every_guard_stands_in_the_code_once_and_is_expected_to_be_missed_by_a_test_that_exists() -> None:
    assert [problem for guard in GUARDS for problem in problems(guard)] == []


def test_names_of_guards_are_their_own() -> None:
    assert [name for name, count in collections.Counter(guard.name for guard in GUARDS).items() if count > 1] == []


@pytest.mark.parametrize(
    ("guard", "wrong"),
    [
        (Guard("gone", "errors.py", "no such text", "x", "p", ("tests/conftest.py",)), "occurs 0 times"),
        (Guard("twice", "errors.py", "class ", "x", "p", ("tests/conftest.py",)), "not once"),
        (Guard("same", "errors.py", "class ElkError(", "class ElkError(", "p", ("tests/conftest.py",)), "nothing off"),
        (Guard("broken", "errors.py", "class ElkError(", "class ElkError((", "p", ("tests/conftest.py",)), "no Python"),
        (Guard("lame", "store/lua/time.lua", "return {", "return {{", "p", ("tests/conftest.py",)), "no Lua"),
        (Guard("nobody", "errors.py", "class ElkError(", "class Elk(", "p", ()), "nobody"),
        (Guard("stray", "errors.py", "class ElkError(", "class Elk(", "p", ("tests/conftest.py::test_x",)), "no test"),
    ],
)
def test_the_check_finds_what_is_wrong_with_a_row(guard: Guard, wrong: str) -> None:
    (problem,) = problems(guard)
    assert wrong in problem
