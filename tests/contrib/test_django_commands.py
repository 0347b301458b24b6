"""manage.py: nothing starts by itself, and the commands do their work on a real server."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
from typing import Any, Callable, Dict, Iterator, List

import pytest
from django.core.management import CommandError, call_command

from elk_coordinator import AdminClient, CreatePartition, RedisDataStore, StrategyType, create_strategy
from elk_coordinator.contrib.django import build, get_admin
from elk_coordinator.contrib.django.management.commands.elk_worker import log_without_settings
from elk_coordinator.errors import StateError
from elk_coordinator.testing import wait_until
from tests.contrib.djsite.shelf.models import Book

ROOT = pathlib.Path(__file__).resolve().parents[2]
Manage = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def manage(database: str, redis_url: str, namespace: str) -> Iterator[Manage]:
    """Return a function that starts manage.py on the database and server of this test; what still runs is killed."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str, **environ: str) -> "subprocess.Popen[str]":
            environment: Dict[str, str] = dict(
                os.environ, DJANGO_SETTINGS_MODULE="tests.contrib.djsite.settings", TEST_SITE_DB=database,
                TEST_SITE_REDIS=redis_url, TEST_SITE_NAMESPACE=namespace, PYTHONPATH=str(ROOT), PYTHONUNBUFFERED="1",
            )  # fmt: skip
            environment.update(environ)
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "django", *arguments], env=environment, cwd=str(ROOT),
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True,
                )
            )  # fmt: skip
            stack.callback(lambda: process.poll() is None and process.kill())
            return process

        yield start


@pytest.fixture
def site(configure: Callable[..., None], redis_url: str, namespace: str) -> None:
    """Have the settings of this process name the server and namespace of this test."""
    configure(REDIS_URL=redis_url, NAMESPACE=namespace)


def output(name: str, *arguments: Any, **options: Any) -> str:
    out = io.StringIO()
    call_command(name, *arguments, stdout=out, **options)
    return out.getvalue()


def fill(count: int) -> None:
    Book.objects.bulk_create([Book(pk=pk) for pk in range(1, count + 1)])


@pytest.mark.parametrize(
    "arguments",
    [
        ["migrate", "-v0"],
        ["check"],
        ["shell", "-c", "print(1)"],
        ["showmigrations"],
        ["test", "-v0", "tests.contrib.djsite.django_case.Case"],
    ],
)
def test_a_command_of_djangos_starts_nothing(database: str, arguments: List[str]) -> None:
    # The store of the settings is a port where nobody listens: whoever asked it would fail.
    code = (
        "import sys, threading\n"
        "from django.core.management import execute_from_command_line\n"
        "execute_from_command_line(['manage.py'] + sys.argv[1:])\n"
        "print('threads:', [t.name for t in threading.enumerate()])\n"
    )
    environment = dict(
        os.environ, DJANGO_SETTINGS_MODULE="tests.contrib.djsite.settings", TEST_SITE_DB=database, PYTHONPATH=str(ROOT)
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, cwd=str(ROOT), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, universal_newlines=True, timeout=40,
    )  # fmt: skip
    assert done.returncode == 0 and "threads: ['MainThread']" in done.stdout, done.stdout


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="reads the threads of a process from /proc")
def test_both_processes_of_the_autoreloader_start_nothing(
    manage: Manage, redis_url: str, namespace: str
) -> None:  # fmt: skip
    server = manage("runserver", "127.0.0.1:0")
    assert server.stdout is not None
    try:
        for line in server.stdout:
            if "development server at" in line:
                break
        else:
            raise AssertionError("runserver ended")
        with contextlib.closing(RedisDataStore.from_url(redis_url)) as store:
            with pytest.raises(StateError, match="nobody has used"):
                AdminClient(namespace, store)
    finally:
        # Its child, which serves, ends with the pipe of its parent's.
        for child in children(server.pid):
            os.kill(child, signal.SIGTERM)
        server.terminate()
        server.wait(20)
        server.stdout.read()


def children(pid: int) -> List[int]:
    return [
        int(child)
        for task in pathlib.Path("/proc/%d/task" % pid).iterdir()
        for child in (task / "children").read_text().split()
    ]


def test_a_worker_works_until_done_and_says_how_it_ended(manage: Manage) -> None:
    fill(50)
    worker = manage("elk_worker", "--until-done")
    text, _ = worker.communicate(timeout=40)
    assert worker.returncode == 0 and "5 partitions completed, 0 failed" in text, text
    assert set(Book.objects.values_list("pages", "visits")) == {(2, 1)}


def test_a_worker_whose_partitions_fail_ends_with_three(manage: Manage) -> None:
    fill(5)
    worker = manage("elk_worker", "default", "--until-done", TEST_SITE_BREAKS="1")
    text, _ = worker.communicate(timeout=40)
    assert worker.returncode == 3 and "0 partitions completed, 1 failed" in text, text
    # The settings say nothing of logging: whoever looks at the terminal is told the reason all the same.
    assert "ValueError" in text and "failed for good" in text and "INFO" not in text, text


@pytest.mark.parametrize("name", ["", "elk_coordinator"])
def test_logging_of_the_settings_is_left_as_it_is(name: str) -> None:
    chosen, ours = logging.getLogger(name), logging.getLogger("elk_coordinator")
    handler = logging.StreamHandler()
    chosen.addHandler(handler)
    try:
        before = list(ours.handlers), ours.level
        log_without_settings(2)
        assert (list(ours.handlers), ours.level) == before
    finally:
        chosen.removeHandler(handler)


def test_a_worker_drains_at_the_first_signal(manage: Manage, database: str) -> None:
    fill(20)
    worker = manage("elk_worker")
    with contextlib.closing(sqlite3.connect(database)) as db:
        query = "SELECT count(*) FROM shelf_book WHERE visits = 1"
        wait_until(lambda: db.execute(query).fetchone()[0] == 20, 30)
    worker.send_signal(signal.SIGTERM)
    text, _ = worker.communicate(timeout=30)
    assert worker.returncode == 0 and "finishing what runs" in text, text


def test_wrong_settings_are_explained_before_anything_runs(manage: Manage) -> None:
    worker = manage("elk_worker", TEST_SITE_NAMESPACE="not good")
    text, _ = worker.communicate(timeout=30)
    assert worker.returncode == 1 and "elk.E003" in text and "Traceback" not in text, text


@pytest.mark.usefixtures("site")
def test_without_a_worker_so_far_status_says_that_nobody_used_the_namespace() -> None:
    with pytest.raises(CommandError, match="nobody has used the namespace"):
        output("elk_status")
    with pytest.raises(CommandError, match="has no 'nothing'"):
        output("elk_status", "nothing")


@pytest.mark.usefixtures("site", "database")
def test_an_operator_sees_retries_pauses_and_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    fill(20)
    monkeypatch.setenv("TEST_SITE_BREAKS", "1")
    with build() as coordinator:
        assert coordinator.wait_idle(20)
        assert "2 failed" in output("elk_status") and coordinator.worker_id in output("elk_status")
        monkeypatch.delenv("TEST_SITE_BREAKS")
        assert "(pause) is done" in output("elk_pause", wait=10)
        state = json.loads(output("elk_status", json=True))
        assert state["paused"] is True and state["partitions"]["failed"] == 2 and len(state["workers"]) == 1
        assert "nothing is claimed" in output("elk_status")
        for arguments in ([], [1, "--all"]):
            with pytest.raises(CommandError, match="retry which partitions"):
                output("elk_retry", *arguments)
        assert "1 partition changed" in output("elk_retry", 1, wait=10)
        assert "is queued" in output("elk_retry", "--all")
        assert "(resume) is done" in output("elk_resume", "default", wait=10)
        assert coordinator.wait_idle(20)
        assert "2 completed, 0 failed (100.0 % done)" in output("elk_status")
    assert set(Book.objects.values_list("visits", flat=True)) == {1}


@pytest.mark.usefixtures("site")
def test_a_command_without_a_leader_stays_queued_and_says_so(redis_url: str, namespace: str) -> None:
    with contextlib.closing(RedisDataStore.from_url(redis_url)) as store:
        strategy = create_strategy(StrategyType.HASH, namespace, store)
        strategy.create_partitions_if_not_exist([CreatePartition(1, 1, 10)])
        strategy.stop()
    with pytest.raises(CommandError, match="does the namespace have a leader"):
        output("elk_pause", wait=0.1)
    with get_admin(by="me") as admin:
        assert [command.state for command in admin.commands()] == ["queued"]


@pytest.mark.usefixtures("site")
def test_watch_shows_again_until_ctrl_c(manage: Manage) -> None:
    with build(planner=False):
        watching = manage("elk_status", "--watch", "0.05")
        assert watching.stdout is not None
        shown = 0
        for line in watching.stdout:
            shown += line.startswith("namespace")
            if shown == 3:
                break
        watching.send_signal(signal.SIGINT)
        text, _ = watching.communicate(timeout=20)
        assert watching.returncode == 0 and "Traceback" not in text, text
    with pytest.raises(CommandError, match="--watch"):
        output("elk_status", watch=0.0)
