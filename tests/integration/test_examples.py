"""Every example runs from its start to its proof, as its first lines say, on a real server."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from typing import Any, Dict, List

import pytest
import redis

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"

CASES = {
    "quickstart.py": "orders without a total: 0",
    "database_batch/main.py": "accounts with exactly one bonus: 50000, with none or more: 0",
    "django_site/main.py": "orders with the right total, set once: 20000, others: 0",
    "gunicorn/main.py": "orders without a total: 0",
    "message_queue/main.py": "messages handled: 3000 of 3000, missing or wrong: 0",
    "flask_app/main.py": "orders with a wrong total: 0 of 6000",
    "sqlalchemy_backfill/main.py": "articles counted exactly once: 20000 of 20000",
    "monitoring/main.py": "leaders: 1, stores up: 3 of 3",
}


def run(name: str, directory: pathlib.Path, **environ: str) -> "subprocess.CompletedProcess[str]":
    environment: Dict[str, str] = {k: v for k, v in os.environ.items() if not k.startswith("ELK_")}
    environment.update(TMPDIR=str(directory), PYTHONPATH=str(ROOT), **environ)
    return subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", str(EXAMPLES / name)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, env=environment, cwd=str(directory),
        timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_example_runs_from_start_to_proof(name: str, redis_url: str, tmp_path: pathlib.Path) -> None:
    done = run(name, tmp_path, ELK_REDIS_URL=redis_url)
    assert done.returncode == 0, done.stdout
    assert CASES[name] in done.stdout
    assert "Traceback" not in done.stdout
    with redis.Redis.from_url(redis_url) as client:
        strays = [key for key in client.scan_iter() if not key.startswith(b"elk:{")]
    assert strays == []


def test_without_a_redis_of_the_users_one_is_started(tmp_path: pathlib.Path) -> None:
    done = run("quickstart.py", tmp_path)
    assert done.returncode == 0 and CASES["quickstart.py"] in done.stdout, done.stdout


def test_a_redis_that_does_not_answer_is_one_clear_line(tmp_path: pathlib.Path) -> None:
    done = run("quickstart.py", tmp_path, ELK_REDIS_URL="redis://127.0.0.1:1/0")
    assert done.returncode == 1 and "Traceback" not in done.stdout, done.stdout
    assert "quickstart: the store could not be reached" in done.stdout


def test_every_folder_has_a_readme_that_says_how_to_run_it() -> None:
    folders = sorted(path for path in EXAMPLES.iterdir() if path.is_dir() and path.name != "__pycache__")
    assert len(folders) >= 8
    contents = (EXAMPLES / "README.rst").read_text()
    for folder in folders:
        assert "\n``%s/``\n" % folder.name in contents
        text = (folder / "README.rst").read_text()
        if (folder / "main.py").exists():
            assert "python examples/%s/main.py" % folder.name in text


def test_every_example_says_how_to_run_it_and_is_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for name in CASES:
        text = (EXAMPLES / name).read_text()
        assert "python examples/%s" % name in text.split('"""')[1], name
        assert " %s" % name in makefile
    found: List[Any] = sorted(str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("main.py"))
    assert found == [name for name in sorted(CASES) if name.endswith("main.py")]
