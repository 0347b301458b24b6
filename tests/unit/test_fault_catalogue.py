"""The fault table: its rows name tests that exist, and each has a control or says why there is none."""

from __future__ import annotations

import ast
import functools
import pathlib
import re
from typing import Set

from tests.faults.catalogue import GROUPS, faults

ROOT = pathlib.Path(__file__).resolve().parents[2]


@functools.lru_cache(maxsize=None)
def names_in(path: str) -> Set[str]:
    """Return the tests of a module, those in classes as ``Class::test``."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found |= {"%s::%s" % (node.name, inner.name) for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


def test_every_row_names_tests_that_exist() -> None:
    missing = []
    for fault in faults():
        assert fault.tests, fault.id
        for name in fault.tests + fault.controls:
            path, _, test = name.partition("::")
            if not (ROOT / path).is_file() or test not in names_in(path):
                missing.append("%s: %s" % (fault.id, name))
    assert missing == []


def test_every_row_has_an_id_of_its_group_a_title_and_a_control() -> None:
    seen = set()
    for group in GROUPS:
        for fault in group.FAULTS:
            assert re.match(r"[PSCLWO][0-9]+$", fault.id), fault.id
            assert fault.id not in seen, fault.id
            seen.add(fault.id)
            for text in (fault.fault, fault.expected, fault.control):
                assert text and "\n" not in text and len(text) <= 240, "%s: %r" % (fault.id, text)
        letters = {fault.id[0] for fault in group.FAULTS}
        assert len(letters) <= 1, letters
