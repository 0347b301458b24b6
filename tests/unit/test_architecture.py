"""The house rules that a machine can check: who imports whom, who makes threads, who asks for the time, how long.

The rules are data; a sample that breaks every one of them shows that each check can fail.
"""

from __future__ import annotations

import ast
import pathlib
from typing import Dict, Iterator, List, Optional, Set, Tuple

import pytest

PACKAGE = "elk_coordinator"
ROOT = pathlib.Path(__file__).resolve().parents[2] / PACKAGE

#: Imports run downwards: a part may import parts of lower rank, and itself. The parts of rank 0 are one floor, on which
#: only cycles are forbidden; of the others no two parts of equal rank know each other.
RANKS = {
    "errors": 0,
    "runtime": 0,
    "model": 0,
    "protocols": 0,
    "version": 0,
    "config": 1,
    "store": 2,
    "partition": 3,
    "leader": 4,
    "worker": 4,
    "admin": 4,
    "observability": 4,
    "assembly": 5,
    "view": 6,
    "coordinator": 7,
    "": 8,  # elk_coordinator/__init__.py, the public names
    "testing": 9,
    "contrib": 10,  # the frameworks' test helpers are run_inline under another roof
    "cli": 11,  # shares the loop of a worker with contrib; the demo starts a server by elk_coordinator.testing
    "__main__": 12,
}
#: May be imported inside a function, since it may be absent; everything else stands at the top.
OPTIONAL = {"django", "flask", "sqlalchemy", "hiredis", "psycopg", "psycopg2", "fakeredis", "gevent", "uwsgi", "tomli"}
#: What may be used where only.
ONLY_IN = {
    "threading.Thread": {"runtime/threads.py", "observability/http.py"},
    "threading.Timer": set(),
    "_thread.start_new_thread": set(),
    "concurrent.futures.ThreadPoolExecutor": {"worker/window.py"},
    "time.sleep": set(),
    "datetime.datetime.now": set(),
    "datetime.datetime.utcnow": set(),
    "datetime.datetime.today": set(),
    "datetime.date.today": set(),
}
IMPORT_ONLY_IN = {
    "time": {"runtime/clock.py"},
    "prometheus_client": {"observability/metrics.py"},
    "pickle": set(),
}
MAX_LINES = 450


class Module:
    """One parsed module: its name below the package ("" for the package itself) and what it imports, where."""

    def __init__(self, root: pathlib.Path, path: pathlib.Path) -> None:
        self.path = path.relative_to(root).as_posix()
        parts = path.relative_to(root).with_suffix("").parts
        self.is_package = parts[-1] == "__init__"
        self.name = ".".join(parts[:-1] if self.is_package else parts)
        self.part = parts[0] if not (len(parts) == 1 and self.is_package) else ""
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)
        #: (absolute dotted name, line, whether inside a function)
        self.imports: List[Tuple[str, int, bool]] = []
        #: local name -> absolute dotted name
        self.names: Dict[str, str] = {}
        self._collect(self.tree, hidden=False)

    def _collect(self, node: ast.AST, hidden: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    self.imports.append((alias.name, child.lineno, hidden))
                    self.names[alias.asname or alias.name.partition(".")[0]] = (
                        alias.name if alias.asname else alias.name.partition(".")[0]
                    )
            elif isinstance(child, ast.ImportFrom):
                base = self._base(child)
                for alias in child.names:
                    self.imports.append(("%s.%s" % (base, alias.name), child.lineno, hidden))
                    self.names[alias.asname or alias.name] = "%s.%s" % (base, alias.name)
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            self._collect(child, hidden or inside)

    def _base(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        here = [PACKAGE] + (self.name.split(".") if self.name else [])
        above = here[: len(here) - node.level + self.is_package]
        return ".".join(above + ([node.module] if node.module else []))

    def dotted(self, node: ast.AST) -> Optional[str]:
        """Return the absolute dotted name of a Name or Attribute, or None."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if isinstance(node, ast.Attribute):
            value = self.dotted(node.value)
            return None if value is None else "%s.%s" % (value, node.attr)
        return None


def load(root: pathlib.Path) -> List[Module]:
    return [Module(root, path) for path in sorted(root.rglob("*.py"))]


def targets(module: Module, names: Set[str]) -> Iterator[Tuple[str, int, bool]]:
    """Yield the modules of the package that *module* imports, each by its name below the package."""
    for dotted, line, hidden in module.imports:
        head, _, rest = dotted.partition(".")
        if head == PACKAGE:
            # "from elk_coordinator.model import Partition": the longest part that is a module
            while rest and rest not in names:
                rest = rest.rpartition(".")[0]
            yield rest, line, hidden


def part_of(name: str) -> str:
    return name.partition(".")[0]


def wrong_directions(modules: List[Module]) -> List[str]:
    names = {module.name for module in modules}
    found = []
    for module in modules:
        if module.part not in RANKS:
            found.append("%s: %r is no known part of the house" % (module.path, module.part))
            continue
        for target, line, _ in targets(module, names):
            part = part_of(target)
            here, there = RANKS[module.part], RANKS.get(part, 99)
            if part != module.part and (there > here or (there == here and here > 0)):
                found.append("%s:%d imports %s" % (module.path, line, target or PACKAGE))
    return found


def cycles(modules: List[Module]) -> List[str]:
    names = {module.name for module in modules}
    graph = {module.name: {t for t, _, _ in targets(module, names) if t != module.name} for module in modules}
    found, done = [], set()

    def visit(name: str, trail: List[str]) -> None:
        if name in trail:
            found.append(" -> ".join(trail[trail.index(name) :] + [name]))
            return
        if name not in done:
            for target in sorted(graph.get(name, ())):
                visit(target, [*trail, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])
    return found


def hidden_imports(modules: List[Module]) -> List[str]:
    return [
        "%s:%d imports %s inside a function" % (module.path, line, dotted)
        for module in modules
        for dotted, line, hidden in module.imports
        if hidden and part_of(dotted) not in OPTIONAL
    ]


def out_of_place(modules: List[Module]) -> List[str]:
    found = []
    for module in modules:
        for dotted, line, _ in module.imports:
            allowed = IMPORT_ONLY_IN.get(part_of(dotted))
            if allowed is not None and module.path not in allowed:
                found.append("%s:%d imports %s" % (module.path, line, part_of(dotted)))
        for node in ast.walk(module.tree):
            bases = node.bases if isinstance(node, ast.ClassDef) else []
            used = [node.func] if isinstance(node, ast.Call) else bases
            for expression in used:
                name = module.dotted(expression) or ""
                if name in ONLY_IN and module.path not in ONLY_IN[name]:
                    found.append("%s:%d uses %s" % (module.path, expression.lineno, name))
    return found


def too_long(modules: List[Module]) -> List[str]:
    return [
        "%s has %d lines" % (module.path, module.text.count("\n"))
        for module in modules
        if module.text.count("\n") > MAX_LINES
    ]


CHECKS = [wrong_directions, cycles, hidden_imports, out_of_place, too_long]


@pytest.fixture(scope="module")
def modules() -> List[Module]:
    return load(ROOT)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_package_keeps_the_rule(check: "type", modules: List[Module]) -> None:
    assert len(modules) > 20, "the package was not found"
    assert check(modules) == []


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for path in ROOT.rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_every_module_puts_off_its_annotations() -> None:
    missing = [
        module.path
        for module in load(ROOT)
        if "__future__.annotations" not in {dotted for dotted, _, _ in module.imports}
        and any(isinstance(node, (ast.FunctionDef, ast.AnnAssign)) for node in ast.walk(module.tree))
    ]
    assert missing == [], "on Python 3.8 these lack: from __future__ import annotations"


# -- the controls: a house that breaks every rule

SAMPLES = {
    wrong_directions: [
        ("store/a.py", "from elk_coordinator.partition import b", "store/a.py:1 imports partition"),
        ("leader/a.py", "from elk_coordinator.worker.c import d", "leader/a.py:1 imports worker"),
        ("model.py", "from . import config", "model.py:1 imports config"),
        ("worker/a.py", "from ..leader import b", "worker/a.py:1 imports leader"),
        ("config.py", "import elk_coordinator.store", "config.py:1 imports store"),
        ("worker/a.py", "from elk_coordinator import __version__", "worker/a.py:1 imports elk_coordinator"),
        ("misc/a.py", "", "'misc' is no known part"),
        ("errors.py", "if TYPE_CHECKING:\n    from elk_coordinator import coordinator", "errors.py:2 imports coordi"),
    ],
    cycles: [
        ("model.py", "import elk_coordinator.errors\nfrom elk_coordinator import config", "config -> model -> config"),
        ("store/__init__.py", "from .b import x", "store -> store.b -> store"),
    ],
    hidden_imports: [
        ("cli/a.py", "def f():\n    import json", "cli/a.py:2 imports json inside"),
        ("cli/a.py", "class A:\n    def f(self):\n        from . import b", "cli/a.py:3 imports elk_coordinator.cli.b"),
    ],
    out_of_place: [
        ("store/a.py", "import time", "store/a.py:1 imports time"),
        ("store/a.py", "from time import monotonic", "store/a.py:1 imports time"),
        ("runtime/clock.py", "import time\ntime.sleep(1)", "runtime/clock.py:2 uses time.sleep"),
        ("runtime/clock.py", "from time import sleep as nap\nnap(1)", "runtime/clock.py:2 uses time.sleep"),
        ("worker/a.py", "import threading\nthreading.Thread(target=f)", "a.py:2 uses threading.Thread"),
        ("worker/a.py", "from threading import Thread as T\nclass A(T): pass", "a.py:2 uses threading.Thread"),
        ("leader/a.py", "import concurrent.futures\nconcurrent.futures.ThreadPoolExecutor(1)", "a.py:2 uses concurr"),
        ("leader/a.py", "from datetime import datetime as d\nd.now()", "a.py:2 uses datetime.datetime.now"),
        ("leader/a.py", "from prometheus_client import Counter", "a.py:1 imports prometheus_client"),
    ],
    too_long: [("store/a.py", "\n" * (MAX_LINES + 1), "store/a.py has 451 lines")],
}


@pytest.mark.parametrize(
    "check, path, text, complaint",
    [(check, *sample) for check, samples in SAMPLES.items() for sample in samples],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_the_check_finds_what_breaks_the_rule(
    tmp_path: pathlib.Path, check: "type", path: str, text: str, complaint: str
) -> None:
    files = {"%s/__init__.py" % part: "" for part in ("store", "partition", "leader", "worker", "cli", "runtime")}
    files.update({"__init__.py": "", "config.py": "import elk_coordinator.model", "model.py": "", "coordinator.py": ""})
    files.update({"store/b.py": "import elk_coordinator.store", "cli/b.py": "", "errors.py": ""})
    for name, content in files.items():
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        target.write_text(content)
    assert check(load(tmp_path)) == []
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(text)
    found = check(load(tmp_path))
    assert len(found) == 1 and complaint in found[0], found


def test_what_is_allowed_is_not_found(tmp_path: pathlib.Path) -> None:
    for name, content in {
        "__init__.py": "from elk_coordinator.coordinator import C",
        "errors.py": "",
        "coordinator.py": "import datetime\nfrom .worker import window\ndatetime.datetime.fromtimestamp(0)",
        "worker/__init__.py": "",
        "worker/window.py": "from concurrent.futures import ThreadPoolExecutor\nThreadPoolExecutor(1)",
        "runtime/__init__.py": "",
        "runtime/clock.py": "import time\ntime.monotonic()",
        "runtime/threads.py": "import threading\nfrom ..errors import E\nthreading.Thread(target=f)",
        "contrib/__init__.py": "def f():\n    import django",
        "cli/__init__.py": "from elk_coordinator import C\nfrom elk_coordinator import testing",
        "testing/__init__.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    sample = load(tmp_path)
    assert [check(sample) for check in CHECKS] == [[], [], [], [], []]
