"""The auditor of chaos runs is shown one of everything that must not happen, and must say so; and what may happen."""

from __future__ import annotations

import pathlib
from typing import Any, Callable, List

import pytest

from tests.chaos import journal as j
from tests.chaos.audit import Audit
from tests.chaos.events import EventLog
from tests.chaos.fence import CELL, Fence
from tests.chaos.journal import Writer, now


class Scene:
    """Two processes, two partitions of one cell each, and a hand that writes their journals."""

    def __init__(self, folder: pathlib.Path) -> None:
        (folder / "journal").mkdir()
        self.folder = folder
        self.events = EventLog(str(folder / "events.jsonl"))
        self.fence = Fence(str(folder / "fence.bin"), 2 * CELL)
        self.loose = Fence(str(folder / "fence.bin"), 2 * CELL, enforced=False)
        self.journals = {name: Writer(str(folder / "journal" / (name + ".bin"))) for name in ("a", "b")}
        for name in self.journals:
            self.events.put("born", name=name)
        self.events.put("started")

    def start(self, process: str, cell: int, token: int) -> None:
        self.put(process, j.START, cell, token)

    def put(self, process: str, kind: int, cell: int, token: int, first: Any = None) -> None:
        lo, hi = cell * CELL + 1, (cell + 1) * CELL
        self.journals[process].put(kind, cell + 1, lo, hi, token, lo if first is None else first, hi)

    def effect(self, process: str, cell: int, token: int, guarded: bool = True, take: bool = True) -> None:
        lo, hi = cell * CELL + 1, (cell + 1) * CELL
        fence = self.fence if guarded else self.loose
        if take:
            fence.take(lo, hi, token, lambda: self.put(process, j.TAKE, cell, token))
        self.put(process, j.UNGUARDED, cell, token)
        fence.apply(lo, hi, token, now(), lambda: self.put(process, j.APPLY, cell, token))

    def done(self, process: str, cell: int, token: int, **how: Any) -> None:
        """A whole attempt that ended well."""
        self.start(process, cell, token)
        self.effect(process, cell, token, **how)
        self.put(process, j.END, cell, token, j.COMPLETE)
        self.put(process, j.ACCEPTED, cell, token)

    def fault(self, number: int, kind: str, on: List[str]) -> None:
        self.events.put("begin", number=number, kind=kind)
        self.events.put("end", number=number, kind=kind, on=on, failure="")

    def judged(self) -> Audit:
        self.events.close()
        for journal in self.journals.values():
            journal.close()
        self.fence.close()
        self.loose.close()
        return Audit(self.folder, 2 * CELL)


@pytest.fixture
def scene(tmp_path: pathlib.Path) -> Scene:
    return Scene(tmp_path)


def gap(scene: Scene) -> None:
    scene.done("a", 0, 10)


def effect_twice(scene: Scene) -> None:
    scene.done("a", 0, 10)
    scene.done("b", 1, 11)
    scene.start("b", 1, 12)
    scene.effect("b", 1, 12, guarded=False)


def stale_write(scene: Scene) -> None:
    scene.done("a", 0, 10)
    scene.start("a", 1, 11)
    scene.start("b", 1, 12)
    scene.fence.take(CELL + 1, 2 * CELL, 12, lambda: scene.put("b", j.TAKE, 1, 12))
    scene.effect("a", 1, 11, guarded=False, take=False)


def completed_given_again(scene: Scene) -> None:
    scene.done("a", 0, 10)
    scene.done("b", 1, 11)
    scene.start("a", 1, 12)


def repeat_without_reason(scene: Scene) -> None:
    scene.done("a", 0, 10)
    scene.start("a", 1, 11)
    scene.put("a", j.UNGUARDED, 1, 11)
    scene.done("b", 1, 12)


def token_twice(scene: Scene) -> None:
    scene.done("a", 0, 10)
    scene.done("b", 1, 10)


def token_fell(scene: Scene) -> None:
    scene.done("a", 0, 10)
    scene.done("b", 1, 11)
    scene.events.put("born", name="c")
    scene.journals["c"] = Writer(str(scene.folder / "journal" / "c.bin"))
    scene.start("c", 1, 5)
    scene.put("c", j.STALE, 1, 5)


def effect_without_record(scene: Scene) -> None:
    scene.done("a", 0, 10)
    scene.fence.take(CELL + 1, 2 * CELL, 11, lambda: None)
    scene.fence.apply(CELL + 1, 2 * CELL, 11, now(), lambda: None)


WRONG = [
    (gap, "a gap: 500 IDs were never processed, as from 501"),
    (effect_twice, "guarded effects happened twice on 500 IDs, as from 501"),
    (stale_write, "1 guarded writes by a stale token: a on [501, 1000]"),
    (completed_given_again, "1 completions accepted that were not the newest holder's: [501, 1000]"),
    (repeat_without_reason, "1 unexplained duplicates: [501, 1000] by a (token 11), then by b (token 12)"),
    (token_twice, "1 tokens given out twice: 10"),
    (token_fell, "tokens fell 1 times: c got 5 on [501, 1000] after 11"),
    (effect_without_record, "1 cells hold an effect that no journal tells of"),
]


@pytest.mark.parametrize("wrong, said", WRONG, ids=lambda value: getattr(value, "__name__", ""))
def test_what_must_not_happen_is_a_violation(scene: Scene, wrong: Callable[[Scene], None], said: str) -> None:
    wrong(scene)
    violations = scene.judged().violations
    assert any(violation.startswith(said) for violation in violations), violations


def test_what_has_a_reason_is_counted_and_no_violation(scene: Scene) -> None:
    scene.done("a", 0, 10)
    scene.start("a", 1, 11)
    scene.put("a", j.UNGUARDED, 1, 11)
    scene.fault(1, "kill", ["a"])
    scene.events.put("ended", name="a", code=-9)
    scene.done("b", 1, 12)
    scene.fault(2, "data loss: flush", [])
    scene.done("b", 0, 13)
    scene.events.put("dismissed")
    audit = scene.judged()
    assert audit.violations == [] and audit.applied == 2 * CELL
    assert audit.why == {"the worker died": CELL, "the store lost its data": CELL}
    assert audit.blame == {"kill": CELL, "data loss: flush": CELL}
    assert audit.faults[0].recovery is not None and audit.faults[0].recovery >= 0.0


def test_the_auditor_imports_nothing_of_the_library() -> None:
    from_here = (pathlib.Path(j.__file__).parent / name for name in ("audit.py", "journal.py", "fence.py", "events.py"))
    for path in from_here:
        assert "elk_coordinator" not in path.read_text(encoding="utf-8"), path
