"""``elk run``, ``elk status`` and ``elk verify`` as a user types them: real processes, a real server, real signals."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any, Callable, Dict, Iterator, List

import pytest

from elk_coordinator import PartitionStatus, RedisDataStore, StrategyType, create_strategy
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.testing import EmbeddedServer, wait_until

ROOT = pathlib.Path(__file__).resolve().parents[2]

#: Marks on disk tell the test what the processor does; MODE says how it behaves.
WORK = """
import os, pathlib, threading

HERE = pathlib.Path(__file__).parent
MODE = os.environ.get("MODE", "quick")

def mark(name):
    (HERE / name).touch()

class Work:
    def process(self, ctx, min_id, max_id, options):
        mark("started-%d" % min_id)
        if MODE == "fails" and min_id == 101:
            raise ValueError("no luck with %d" % min_id)
        if MODE == "blind":                         # short work that never looks at ctx
            while not (HERE / "finish").exists():
                threading.Event().wait(0.01)
        if MODE == "polite":                        # long work that looks at ctx
            ctx.checkpoint(min_id + 9)
            while True:
                ctx.wait(60.0)
                ctx.raise_if_cancelled()
        if MODE == "deaf":                          # long work that never looks at anything
            threading.Event().wait(600.0)
        mark("ended-%d" % min_id)
        return max_id - min_id + 1

class Plan:
    def partition_size(self, ctx):
        return 100
    def get_next_max_id(self, ctx, start_id, range_size):
        return min(400, start_id + range_size)

class Needs:
    def __init__(self, url):
        pass
"""


class Elk:
    """Runs ``elk`` in a directory with the module ``work``."""

    def __init__(self, directory: pathlib.Path, url: str, namespace: str) -> None:
        self.directory = directory
        self.namespace = namespace
        self.url = url
        self.started: List["subprocess.Popen[str]"] = []
        (directory / "work.py").write_text(WORK)

    def start(self, *args: str, **variables: str) -> "subprocess.Popen[str]":
        environment: Dict[str, str] = {k: v for k, v in os.environ.items() if not k.startswith("ELK_")}
        environment.update(variables, ELK_REDIS_URL=self.url, ELK_NAMESPACE=self.namespace, PYTHONPATH=str(ROOT))
        process = subprocess.Popen(
            [sys.executable, "-m", "elk_coordinator", *args],
            cwd=str(self.directory),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def call(self, *args: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        process = self.start(*args, **variables)
        out, err = process.communicate(timeout=40.0)
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    def worker(self, mode: str, *args: str) -> "subprocess.Popen[str]":
        """Start a worker with a window of 1 and wait until its first partition has begun."""
        process = self.start(
            "run",
            "work:Work",
            "work:Plan",
            "--set",
            "task_window_size=1",
            "--set",
            "heartbeat_interval=1",
            *args,
            MODE=mode,
        )
        wait_until(lambda: self.marks("started") or process.poll() is not None, 20.0, "the first partition to start")
        assert process.poll() is None, process.communicate()
        return process

    def marks(self, kind: str) -> List[str]:
        return sorted(path.name for path in self.directory.glob(kind + "-*"))

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def elk(tmp_path: pathlib.Path, redis_url: str, namespace: str) -> Iterator[Elk]:
    runner = Elk(tmp_path, redis_url, namespace)
    yield runner
    runner.end()


@pytest.fixture
def partitions(redis_url: str, namespace: str) -> Iterator[Any]:
    store = RedisDataStore.from_url(redis_url)
    yield create_strategy(StrategyType.HASH, namespace, store)
    store.close()


def test_until_done_does_the_work_and_exits_with_0(elk: Elk, partitions: Any) -> None:
    done = elk.call("run", "work:Work", "work:Plan", "--until-done")
    assert done.returncode == 0, done.stderr
    assert "4 partitions completed, 0 failed" in done.stdout
    assert len(elk.marks("ended")) == 4
    assert sum(p.processed for p in partitions.get_all_partitions()) == 400
    # Again: nothing is left, nothing is done twice.
    again = elk.call("--json", "run", "work:Work", "work:Plan", "--until-done", "--log-level", "error")
    assert again.returncode == 0
    assert json.loads(again.stdout)["completed"] == 4


def test_json_log_is_one_document_per_line_and_nothing_else(elk: Elk) -> None:
    done = elk.call(
        "run", "work:Work", "work:Plan", "--until-done", "--set", "max_attempts=2", "--set",
        "retry_backoff=[0.01, 0.02]", "--log-format", "json", MODE="fails",
    )  # fmt: skip
    assert done.returncode == 3
    documents = [json.loads(line) for line in done.stderr.splitlines()]
    assert all({"time", "level", "logger", "thread", "message"} <= set(document) for document in documents)
    ours = [document for document in documents if document["logger"] == "elk_coordinator"]
    assert {document["namespace"] for document in ours} == {elk.namespace}
    assert len({document["worker_id"] for document in ours}) == 1
    told = {document["event"]: document for document in ours if "event" in document}
    assert {"started", "became_leader", "partition_retried", "partition_failed", "stopped"} <= set(told)
    failed = told["partition_failed"]
    assert (failed["partition_id"], failed["attempt"], failed["role"]) == (2, 2, "claimer") and failed["token"] > 0
    assert "no luck with 101" in failed["message"]
    assert any("metrics and health" in document["message"] for document in documents), "what the command itself says"


def test_json_is_also_what_a_worker_that_cannot_start_says(elk: Elk) -> None:
    for arguments, code in ((("work:Work",), 1), (("work:Nothing",), 2)):
        done = elk.call("--redis", "redis://me:hunter2@127.0.0.1:1/0", "run", *arguments, ELK_LOG_FORMAT="json")
        (document,) = [json.loads(line) for line in done.stderr.splitlines()]
        assert (done.returncode, document["level"], document["logger"]) == (code, "ERROR", "elk_coordinator.cli")
        assert "hunter2" not in done.stderr
    done = elk.call("run", "work:Work", ELK_LOG_FORMAT="xml")
    assert done.returncode == 2 and done.stderr.startswith("elk: ELK_LOG_FORMAT: must be one of text, json")


def test_until_done_exits_with_3_when_some_failed(elk: Elk, partitions: Any) -> None:
    done = elk.call(
        "run",
        "work:Work",
        "work:Plan",
        "--until-done",
        "--set",
        "max_attempts=2",
        "--set",
        "retry_backoff=0.05,0.1",
        MODE="fails",
    )
    assert done.returncode == 3, done.stderr
    assert "3 partitions completed, 1 failed" in done.stdout
    (failed,) = [p for p in partitions.get_all_partitions() if p.status is PartitionStatus.FAILED]
    assert failed.min_id == 101 and failed.attempt == 2


def test_options_come_from_the_environment(elk: Elk) -> None:
    done = elk.call("run", "work:Work", "work:Plan", "--until-done", ELK_TASK_WINDOW_SIZE="nonsense")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "TASK_WINDOW_SIZE" in done.stderr


def test_a_class_that_needs_arguments_is_named(elk: Elk) -> None:
    done = elk.call("run", "work:Needs", "work:Plan")
    assert done.returncode == 2 and "needs url" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_short_work_end_and_claims_nothing_more(elk: Elk, partitions: Any, signum: int) -> None:
    worker = elk.worker("blind")
    worker.send_signal(signum)
    wait_until(lambda: partitions.leader() is None, 10.0, "the worker to step down as it stops")
    (elk.directory / "finish").touch()
    _, err = worker.communicate(timeout=20.0)
    assert worker.returncode == 0, err
    stats = partitions.get_partition_stats()
    assert stats.completed == len(elk.marks("started")) == len(elk.marks("ended"))
    assert stats.held == 0 and stats.pending == 4 - stats.completed > 0
    assert partitions.workers() == []


def test_the_first_signal_has_long_work_checkpointed_and_given_back(elk: Elk, partitions: Any) -> None:
    worker = elk.worker("polite")
    wait_until(lambda: partitions.get_partition(1).checkpoint == 10, 10.0, "the checkpoint")
    worker.send_signal(signal.SIGTERM)
    _, err = worker.communicate(timeout=20.0)
    assert worker.returncode == 0, err
    first = partitions.get_partition(1)
    assert (first.status, first.checkpoint, first.attempt, first.deliveries) == (PartitionStatus.PENDING, 10, 0, 0)


def test_work_that_does_not_end_is_left_after_stop_timeout(elk: Elk, partitions: Any) -> None:
    worker = elk.worker("deaf", "--set", "stop_timeout=0.5")
    clock = Clock()
    began = clock.monotonic()
    worker.send_signal(signal.SIGTERM)
    _, err = worker.communicate(timeout=20.0)
    assert worker.returncode == 1, err
    assert clock.monotonic() - began < 0.5 + 2.0 + 1.0
    assert "not everything ended" in err


@pytest.mark.parametrize("second, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_second_signal_stops_at_once_and_gives_back(elk: Elk, partitions: Any, second: int, code: int) -> None:
    worker = elk.worker("deaf")
    worker.send_signal(signal.SIGTERM)
    # Sent before the first was taken, two signals of a kind would be one.
    wait_until(lambda: partitions.leader() is None, 10.0, "the worker to step down as it stops")
    clock = Clock()
    began = clock.monotonic()
    worker.send_signal(second)
    _, err = worker.communicate(timeout=20.0)
    assert worker.returncode == code, err
    assert clock.monotonic() - began < 3.0
    stats = partitions.get_partition_stats()
    assert (stats.held, stats.pending) == (0, 4)
    assert partitions.workers() == []


def test_until_done_that_is_stopped_says_that_it_is_not_done(elk: Elk) -> None:
    worker = elk.worker("polite", "--until-done")
    worker.send_signal(signal.SIGTERM)
    out, err = worker.communicate(timeout=20.0)
    assert worker.returncode == 143, err
    assert out == ""


def test_status_and_verify_of_what_was_done(elk: Elk) -> None:
    assert elk.call("run", "work:Work", "work:Plan", "--until-done").returncode == 0
    shown = elk.call("status")
    assert shown.returncode == 0 and "4 completed" in shown.stdout
    assert json.loads(elk.call("status", "--json").stdout)["partitions"]["completed"] == 4
    audited = elk.call("verify", "--json")
    assert audited.returncode == 0, audited.stdout
    assert json.loads(audited.stdout)["problems"] == []


def test_a_wrong_password_is_one_line(new_server: Callable[..., EmbeddedServer], elk: Elk) -> None:
    server = new_server(password="right")
    for url in (server.url.replace("right", "wrong"), server.url.replace(":right@", "")):
        for args in (("status",), ("run", "work:Work", "work:Plan")):
            clock = Clock()
            began = clock.monotonic()
            failed = elk.call("--redis", url, *args)
            assert clock.monotonic() - began < 8.0
            assert failed.returncode == 1
            assert failed.stderr.count("\n") == 1 and failed.stderr.startswith("elk: "), failed.stderr
            assert "wrong" not in failed.stderr.replace("wrong password", "")


def test_a_server_that_is_down_is_one_line(new_server: Callable[..., EmbeddedServer], elk: Elk) -> None:
    server = new_server()
    server.kill()
    failed = elk.call("--redis", server.url, "run", "work:Work", "work:Plan")
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1 and failed.stderr.startswith("elk: "), failed.stderr
