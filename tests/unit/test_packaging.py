"""What an installation gets: the wheel with its data, the metadata, the public names."""

from __future__ import annotations

import ast
import configparser
import email
import importlib
import pathlib
import shutil
import subprocess
import sys
import zipfile
from typing import Iterator

import pytest

import elk_coordinator
from elk_coordinator import errors

ROOT = pathlib.Path(__file__).resolve().parents[2]
#: Section 1 of the contract, and the protocols and reasons that users name in annotations; every public error on top.
NAMES = {
    "AdminClient",
    "CancelReason",
    "CircuitBreakerConfig",
    "Coordinator",
    "CoordinatorConfig",
    "CreatePartition",
    "Listener",
    "Partition",
    "PartitionFilter",
    "PartitionPlanner",
    "PartitionStats",
    "PartitionStatus",
    "PlannerContext",
    "ProcessContext",
    "Processor",
    "RedisDataStore",
    "StrategyType",
    "create_strategy",
}
ERRORS = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, BaseException)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """Build the wheel from a copy, so that nothing is left in the source folder."""
    copy = tmp_path_factory.mktemp("source")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(str(ROOT / "elk_coordinator"), str(copy / "elk_coordinator"), ignore=ignore)
    for name in ("setup.cfg", "setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.rst"):
        if (ROOT / name).exists():
            shutil.copy(str(ROOT / name), str(copy))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "."]
    built = subprocess.run(
        command, cwd=str(copy), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, timeout=50
    )
    assert built.returncode == 0, built.stdout
    (path,) = copy.glob("*.whl")
    with zipfile.ZipFile(str(path)) as opened:
        yield opened


def test_wheel_holds_every_module_script_and_asset(wheel: zipfile.ZipFile) -> None:
    source = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "elk_coordinator").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in wheel.namelist() if name.startswith("elk_coordinator/")}
    assert packed == source
    assert "elk_coordinator/py.typed" in packed
    assert sum(name.endswith(".lua") for name in packed) > 10


def test_wheel_holds_nothing_beside_the_package(wheel: zipfile.ZipFile) -> None:
    assert {name.partition("/")[0].partition("-")[0] for name in wheel.namelist()} == {"elk_coordinator"}


def test_metadata_says_what_it_needs(wheel: zipfile.ZipFile) -> None:
    (path,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = email.message_from_bytes(wheel.read(path))
    assert metadata["Name"].replace("_", "-") == "elk-coordinator"
    assert metadata["Version"] == elk_coordinator.__version__
    assert metadata["Requires-Python"] == ">=3.8"
    assert metadata["License"] == "MIT"
    needed = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    names = {line.replace("(", " ").replace("<", " ").replace("!", " ").replace(">", " ").split()[0] for line in needed}
    assert names == {"redis", "prometheus-client", "attrs", "tenacity"}
    extras = {"hiredis", "django", "flask", "sqlalchemy", "demo", "examples", "test", "test-databases", "look", "dev"}
    assert set(metadata.get_all("Provides-Extra", [])) == extras


def test_command_elk_leads_to_a_function(wheel: zipfile.ZipFile) -> None:
    (path,) = [name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt")]
    parser = configparser.ConfigParser()
    parser.read_string(wheel.read(path).decode())
    module, _, function = parser["console_scripts"]["elk"].partition(":")
    assert callable(getattr(importlib.import_module(module.strip()), function.strip()))


def test_version_can_be_read_without_importing() -> None:
    tree = ast.parse((ROOT / "elk_coordinator" / "version.py").read_text())
    values = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["__version__"]
    ]
    assert values == [elk_coordinator.__version__]


def test_public_names_are_listed_once_and_can_be_imported() -> None:
    listed = elk_coordinator.__all__
    assert len(listed) == len(set(listed))
    assert [name for name in listed if not hasattr(elk_coordinator, name)] == []
    assert ERRORS <= set(listed)
    assert set(listed) - NAMES - ERRORS <= {"__version__"}
    assert {"Coordinator", "RedisDataStore"} <= set(listed)


def test_import_starts_nothing_and_configures_no_logging() -> None:
    code = (
        "import logging, sys, threading, elk_coordinator\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert not logging.getLogger().handlers\n"
        "assert [type(h).__name__ for h in logging.getLogger('elk_coordinator').handlers] == ['NullHandler']\n"
        "bad = {'django', 'flask', 'sqlalchemy', 'fakeredis', 'pytest'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=str(ROOT),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stdout
