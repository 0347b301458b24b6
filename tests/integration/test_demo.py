"""``elk demo``: the proof holds, it fails without the guard, and nothing is left behind however the demo ends."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any, Callable, Dict, Iterator, List

import pytest
import redis

from elk_coordinator.runtime.clock import Clock
from elk_coordinator.testing import wait_until

ROOT = pathlib.Path(__file__).resolve().parents[2]
SMALL = ("--rows", "40000", "--pace", "4")


class Demo:
    """A running demo with a directory for temporary files of its own."""

    def __init__(self, directory: pathlib.Path, *args: str) -> None:
        self.directory = directory
        environment: Dict[str, str] = {k: v for k, v in os.environ.items() if not k.startswith("ELK_")}
        environment.update(TMPDIR=str(directory), PYTHONPATH=str(ROOT))
        self.log = directory / "output"
        with open(str(self.log), "wb") as log:
            # A session of its own, so that a signal can be sent to the group as a terminal does.
            self.process = subprocess.Popen(
                [sys.executable, "-m", "elk_coordinator", "demo", *args],
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    def finish(self) -> Dict[str, Any]:
        """Wait for the end and return the JSON document."""
        out, _ = self.process.communicate(timeout=100.0)
        assert out, self.said
        document: Dict[str, Any] = json.loads(out.decode())
        return document

    def until(self, words: str) -> None:
        wait_until(
            lambda: words in self.said or self.process.poll() is not None, 60.0, lambda: "%s in %s" % (words, self.said)
        )
        assert self.process.poll() is None, self.said

    def pids(self) -> List[int]:
        """The worker processes, from what the demo says."""
        line = [line for line in self.said.splitlines() if "WORKERS" in line][0]
        return [int(pid) for pid in line.split("pids ")[1].split(")")[0].split()]

    def left_behind(self) -> List[str]:
        return [path.name for path in self.directory.iterdir() if path.name.startswith("elk-")]

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


def is_gone(pid: int) -> bool:
    try:
        with open("/proc/%d/stat" % pid) as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return os.path.isdir("/proc/self")  # with a /proc that did not know it, it ended in between


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Callable[..., Demo]]:
    started: List[Demo] = []

    def begin(*args: str) -> Demo:
        started.append(Demo(tmp_path, "--json", *args))
        return started[-1]

    yield begin
    for demo in started:
        demo.end()


@pytest.mark.timeout(120)
def test_every_row_is_applied_once_although_workers_are_killed_and_frozen(
    start: Callable[..., Demo], redis_url: str
) -> None:
    demo = start(*SMALL, "--redis", redis_url, "--seed", "7")
    result = demo.finish()
    print(json.dumps(result["findings"]))
    assert demo.process.returncode == 0, demo.said
    assert result["proved"] and all(check["proved"] for check in result["checks"])
    frozen, killed, retried = (result["findings"][name] for name in ("frozen", "killed", "retried"))
    assert frozen["late_write_refused"] and frozen["fence_token"] > frozen["token"]
    assert frozen["taken_by"] != frozen["worker"] != killed["worker"] != killed["new_leader"]
    # The leases are 3 s; what was killed must run elsewhere within the lease + 5 s, and have a leader within + 2 s.
    assert killed["new_leader_after"] < 3.0 + 2.0
    assert killed["running_elsewhere_after"] < 3.0 + 5.0
    assert [text.split("(")[1] for text in retried["failures"]] == ["scripted, 1 of 2)", "scripted, 2 of 2)"]
    for words in ("FROZEN", "TAKEN", "REFUSED", "KILLED", "ELECTED", "RESUMED", "RETRIED", "PROVED", "ETA"):
        assert words in demo.said
    assert "\x1b" not in demo.said
    assert all(is_gone(pid) for pid in demo.pids())
    assert demo.left_behind() == []
    client = redis.Redis.from_url(redis_url)
    assert client.dbsize() == 0
    client.close()


@pytest.mark.timeout(120)
def test_control_without_the_fence_the_proof_fails(start: Callable[..., Demo], redis_url: str) -> None:
    demo = start(*SMALL, "--redis", redis_url, "--without-fence", "--workers", "3")
    result = demo.finish()
    assert demo.process.returncode == 1, demo.said
    assert not result["proved"] and not result["findings"]["frozen"]["late_write_refused"]
    once = result["checks"][0]
    assert once["claim"] == "every order was applied exactly once" and not once["proved"]
    # What the engine promises without the user's guard still holds: every partition completed, nothing lost.
    assert "0 |" not in once["answer"]
    assert all(check["proved"] for check in result["checks"] if "partition is completed" in check["claim"])
    # A failed proof is worth looking at: the table is kept.
    assert demo.left_behind() and os.path.exists(os.path.join(result["kept"], "demo.db"))


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGINT, signal.SIGINT, signal.SIGINT], [signal.SIGTERM]])
def test_a_signal_ends_everything_also_what_is_frozen(start: Callable[..., Demo], signals: List[int]) -> None:
    demo = start(*SMALL)
    demo.until("FROZEN")
    clock = Clock()
    began = clock.monotonic()
    for signum in signals:
        os.killpg(demo.process.pid, signum)
    out, _ = demo.process.communicate(timeout=20.0)
    assert demo.process.returncode == 128 + signals[0], demo.said
    assert clock.monotonic() - began < 6.0
    assert "Traceback" not in demo.said and out == b""
    assert all(is_gone(pid) for pid in demo.pids())
    assert demo.left_behind() == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a frozen orphan is killed by the Linux kernel")
def test_workers_die_with_their_parent_also_what_is_frozen(start: Callable[..., Demo]) -> None:
    demo = start(*SMALL)
    demo.until("FROZEN")
    pids = demo.pids()
    os.kill(demo.process.pid, signal.SIGKILL)
    wait_until(lambda: all(is_gone(pid) for pid in pids), 10.0, "the workers to end")


@pytest.mark.timeout(120)
@pytest.mark.skipif("ELK_TEST_POSTGRES_URL" not in os.environ, reason="ELK_TEST_POSTGRES_URL names no server")
def test_the_same_on_postgresql(start: Callable[..., Demo], redis_url: str) -> None:
    demo = start(*SMALL, "--redis", redis_url, "--postgres", os.environ["ELK_TEST_POSTGRES_URL"])
    assert demo.finish()["proved"], demo.said
