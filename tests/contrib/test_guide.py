"""docs/from-a-loop.rst is run as a reader would: files written, commands typed, output compared."""

from __future__ import annotations

import doctest
import os
import pathlib
import re
import shlex
import subprocess
import sys
import textwrap
from typing import Dict, Iterator, List, Tuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "from-a-loop.rst"
#: One directive with its mark in front: ".. file: work.py" writes, ".. append: work.py" goes on.
BLOCK = re.compile(
    r"(?:^\.\. (?P<mark>file|append): (?P<name>\S+)\n)?"
    r"^\.\. code-block:: (?P<language>\w+)\n\n(?P<body>(?:    .*\n|\n)+)",
    re.MULTILINE,
)
Command = Tuple[str, str]


def blocks(text: str) -> Iterator["re.Match[str]"]:
    found = list(BLOCK.finditer(text))
    assert len(found) == text.count(".. code-block::"), "a block of the guide is not understood"
    yield from found


def commands(body: str) -> List[Command]:
    """Split a console block into commands with what they print."""
    found: List[Command] = []
    for line in textwrap.dedent(body).strip("\n").splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        else:
            command, output = found[-1]
            found[-1] = (command, output + line + "\n")
    return found


def typed(command: str, directory: pathlib.Path, environ: Dict[str, str]) -> str:
    words = shlex.split(command)
    program = {"python": [sys.executable], "elk": [sys.executable, "-m", "elk_coordinator"]}[words[0]]
    done = subprocess.run(
        [*program, *words[1:]], cwd=str(directory), env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        universal_newlines=True, timeout=40,
    )  # fmt: skip
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def follow(text: str, directory: pathlib.Path, environ: Dict[str, str]) -> int:
    """Do what the guide says; return how many commands were typed."""
    checker, count = doctest.OutputChecker(), 0
    for block in blocks(text):
        if block["language"] == "python":
            path = directory / block["name"]
            with path.open("a" if block["mark"] == "append" else "w") as file:
                file.write("\n\n" + textwrap.dedent(block["body"]))
            continue
        for command, expected in commands(block["body"]):
            printed, count = typed(command, directory, environ), count + 1
            assert checker.check_output(expected, printed, doctest.ELLIPSIS), (command, expected, printed)
    return count


@pytest.fixture
def environ(redis_url: str) -> Dict[str, str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("ELK_")}
    variables.update(ELK_REDIS_URL=redis_url, PYTHONPATH=str(ROOT), PYTHONDONTWRITEBYTECODE="1")
    return variables


def test_a_reader_who_pastes_every_block_gets_what_the_guide_shows(
    tmp_path: pathlib.Path, environ: Dict[str, str]
) -> None:
    assert follow(GUIDE.read_text(), tmp_path, environ) == 9


def test_every_block_of_the_guide_has_a_place(tmp_path: pathlib.Path, environ: Dict[str, str]) -> None:
    for block in blocks(GUIDE.read_text()):
        assert block["language"] in ("python", "console")
        assert bool(block["name"]) == (block["language"] == "python")


def test_a_guide_that_shows_another_output_fails(tmp_path: pathlib.Path, environ: Dict[str, str]) -> None:
    text = '.. code-block:: console\n\n    $ python -c "print(1)"\n    2\n'
    with pytest.raises(AssertionError):
        follow(text, tmp_path, environ)
