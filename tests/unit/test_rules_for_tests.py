"""The rules of ``tests/conftest.py``, each broken once: a rule that nothing can break guards nothing."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

BREAKERS = {
    "a test that hangs in a lock": (
        "import threading, pytest\n@pytest.mark.timeout(0.3)\ndef test_it():\n    threading.Event().wait()\n",
        "took longer than 0.3 s",
    ),
    "a test that swallows every exception": (
        "import threading, pytest\n"
        "@pytest.mark.timeout(0.3)\n"
        "def test_it():\n"
        "    try:\n"
        "        threading.Event().wait()\n"
        "    except Exception:\n"
        "        pass\n",
        "took longer than 0.3 s",
    ),
    "a fixture that hangs at its end": (
        "import threading, pytest\n"
        "@pytest.fixture\n"
        "def slow():\n"
        "    yield\n"
        "    threading.Event().wait()\n"
        "@pytest.mark.timeout(0.3)\n"
        "def test_it(slow):\n"
        "    pass\n",
        "took longer than 0.3 s",
    ),
    "a thread left behind": (
        "import threading\n"
        "def test_it():\n"
        "    threading.Thread(target=threading.Event().wait, name='elk-left', daemon=True).start()\n",
        "the test left threads: elk-left",
    ),
    "a warning": ("import warnings\ndef test_it():\n    warnings.warn('careful')\n", "UserWarning: careful"),
    "a socket left open": (
        "import socket, gc\ndef test_it():\n    socket.socket()\n    gc.collect()\n",
        "ResourceWarning",
    ),
    "a mark nobody knows": ("import pytest\n@pytest.mark.slowly\ndef test_it():\n    pass\n", "slowly"),
}

#: Its thread ends by itself after the test; the rule waits for it.
GOOD = """
import threading
def test_it():
    threading.Thread(target=threading.Event().wait, args=(0.05,), name='elk-soon').start()
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Run all of them once under the rules, and return what pytest said."""
    folder = tmp_path_factory.mktemp("breakers")
    rules = (ROOT / "tests" / "conftest.py").read_text()
    assert "THREADS_END = 5.0" in rules
    (folder / "conftest.py").write_text(rules.replace("THREADS_END = 5.0", "THREADS_END = 0.2"))
    for what, (text, _) in BREAKERS.items():
        (folder / ("test_%s.py" % what.replace(" ", "_"))).write_text(text)
    (folder / "test_good.py").write_text(GOOD)
    settings = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *settings, "--continue-on-collection-errors", "-rA", str(folder)],
        cwd=str(ROOT),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        timeout=50,
    )
    return done.stdout


@pytest.mark.parametrize("what", sorted(BREAKERS))
def test_breaking_a_rule_fails_the_test(what: str, report: str) -> None:
    _, complaint = BREAKERS[what]
    name = "test_%s.py" % what.replace(" ", "_")
    lines = [line for line in report.splitlines() if line.startswith(("FAILED ", "ERROR ")) and name in line]
    assert len(lines) == 1, report
    assert complaint in report


def test_keeping_the_rules_fails_nothing(report: str) -> None:
    lines = [line for line in report.splitlines() if "test_good.py::" in line]
    assert [line.split()[0] for line in lines if line.startswith(("PASSED", "FAILED", "ERROR"))] == ["PASSED"], report
