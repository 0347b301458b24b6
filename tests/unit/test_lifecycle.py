"""How a process ends, and what a fork leaves: real processes against a real server, each ended in time."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.thread
import contextlib
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import weakref
from typing import Any, Callable, Iterator, List, Optional

import pytest

from elk_coordinator import Coordinator, RedisDataStore, StrategyType, create_strategy
from elk_coordinator.runtime import lifecycle
from elk_coordinator.testing import EmbeddedServer, wait_until

ROOT = pathlib.Path(__file__).resolve().parents[2]
#: Seconds that stop() waits for running work in the scripts here.
STOP_TIMEOUT = 1.0
#: Seconds from the end of the main program to the end of the process: the above, the last reports, a busy machine.
IN_TIME = 8.0

#: What every script begins with; ``worker()`` starts a coordinator whose processor is ``process``.
PRELUDE = (
    """
import faulthandler, os, signal, sys, threading
from elk_coordinator import Coordinator, ForkedError, RedisDataStore

faulthandler.enable()  # SIGABRT shows the stacks of all threads
url, namespace = sys.argv[1:3]
for_ever = threading.Event()
running = threading.Event()


def say(what):
    os.write(1, (what + chr(10)).encode())  # whole lines, whoever else says something


class Planner:
    def partition_size(self, ctx):
        return 10

    def get_next_max_id(self, ctx, start_id, range_size):
        return min(100, start_id + range_size)


def short(ctx, min_id, max_id, options):
    return max_id - min_id + 1


def hangs(ctx, min_id, max_id, options):
    running.set()
    for_ever.wait()


def obeys(ctx, min_id, max_id, options):
    running.set()
    ctx.cancelled.wait()
    say("cancelled")


def worker(process, name=namespace, **options):
    settings = dict(heartbeat_interval=0.5, worker_ttl=6.0, stop_timeout=%g, metrics_enabled=False)
    settings.update(options)
    return Coordinator(name, RedisDataStore.from_url(url), process, Planner(), **settings)
"""
    % STOP_TIMEOUT
)


class Child:
    """A Python process that runs a script; its lines can be waited for."""

    def __init__(self, script: str, url: str, namespace: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + script, url, namespace],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True,
            cwd=str(ROOT), start_new_session=True,
        )  # fmt: skip
        self.lines: "queue.SimpleQueue[Optional[str]]" = queue.SimpleQueue()
        self.errors: List[str] = []
        self._readers = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=lambda: self.errors.extend(self.process.stderr or ()), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def expect(self, what: str, timeout: float = 30.0) -> None:
        """Wait for a line; other lines before it are passed over."""
        while True:
            try:
                line = self.lines.get(timeout=timeout)
            except queue.Empty:
                self.fail("it did not say %r within %g s" % (what, timeout))
            if line == what:
                return
            if line is None:
                self.fail("it ended without saying %r" % what)

    def fail(self, why: str) -> None:
        """Fail the test with *why*, and with what the process said and does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGABRT)
        self._readers[1].join(5)
        pytest.fail("%s; stderr:\n%s" % (why, "".join(self.errors)))

    def tell(self, line: str = "go") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def code(self, timeout: float = IN_TIME) -> int:
        """Return the exit code; fails when it does not end in time."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.fail("it did not end within %g s" % timeout)
        for reader in self._readers:
            reader.join(10)
        return int(self.process.returncode)

    def close(self) -> None:
        # With its own children, which hold the pipes too.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for reader in self._readers:
            reader.join(10)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def run(redis_url: str, namespace: str) -> Iterator[Callable[..., Child]]:
    children: List[Child] = []

    def start(script: str, url: str = redis_url) -> Child:
        children.append(Child(script, url, namespace))
        return children[-1]

    yield start
    for child in children:
        child.close()


@pytest.fixture
def partitions(redis_url: str, namespace: str) -> Iterator[Any]:
    """Return the partitions of the namespace, seen from outside."""
    store = RedisDataStore.from_url(redis_url)
    yield create_strategy(StrategyType.HASH, namespace, store)
    store.close()


Run = Callable[..., Child]

#: How the main program may end, and the code the process must end with.
ENDS = {
    "falling off the end": ("", 0),
    "sys.exit(3)": ("sys.exit(3)", 3),
    "an exception": ("raise ValueError('the last words')", 1),
    "SystemExit with a text": ("raise SystemExit('goodbye')", 1),
}


# ---------------------------------------------------------------- what it all rests on


def test_this_python_still_has_what_a_timely_exit_needs() -> None:
    # Private, both: on a Python that lost one of them this fails loudly, instead of a process that never ends.
    if sys.version_info >= (3, 9):
        assert callable(getattr(threading, "_register_atexit", None)), "threads would be joined before we are asked"
    assert isinstance(getattr(concurrent.futures.thread, "_threads_queues", None), weakref.WeakKeyDictionary), (
        "hung threads could not be taken off the list that the interpreter joins"
    )


def test_abandoned_threads_are_not_joined_at_exit() -> None:
    queues = concurrent.futures.thread._threads_queues  # type: ignore[attr-defined]
    gate = threading.Event()
    pool = concurrent.futures.ThreadPoolExecutor(2)
    other = concurrent.futures.ThreadPoolExecutor(1)
    try:
        futures = [pool.submit(gate.wait, 20) for _ in range(2)] + [other.submit(gate.wait, 20)]
        before = {thread for thread in list(queues) if thread.is_alive()}
        lifecycle.abandon(pool)
        gone = before - {thread for thread in list(queues) if thread.is_alive()}
        assert len(gone) == 2
        assert not gone & set(getattr(other, "_threads", ())), "only those of that pool"
        lifecycle.abandon(pool)
    finally:
        gate.set()
        assert [future.result(10) for future in futures] == [True] * 3
        pool.shutdown()
        other.shutdown()


class Thing:
    def __init__(self, error: Optional[BaseException] = None) -> None:
        self.told: List[str] = []
        self.error = error

    def stop_at_exit(self) -> None:
        self.told.append("exit")
        if self.error is not None:
            raise self.error

    def after_fork_in_child(self) -> None:
        self.told.append("fork")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what other tests registered out of these, and these out of the interpreter's real end."""
    monkeypatch.setattr(lifecycle, "_live", weakref.WeakSet())
    monkeypatch.setattr(lifecycle, "_hooked", ["done"])


def test_everything_alive_is_told_of_the_exit_whatever_one_of_them_raises(alone: None) -> None:
    things = [Thing(), Thing(ValueError("no")), Thing(), Thing()]
    for thing in things:
        lifecycle.register(thing)
    lifecycle.unregister(things[3])
    lifecycle.unregister(things[3])
    lifecycle._at_exit()
    assert [thing.told for thing in things] == [["exit"], ["exit"], ["exit"], []]


def test_what_a_fork_brought_along_without_telling_us_is_the_parents_to_stop(
    alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    inherited, own = Thing(), Thing()
    lifecycle.register(inherited)
    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)  # uWSGI: the same memory, another process
    lifecycle.register(own)
    lifecycle._at_exit()
    assert (inherited.told, own.told) == ([], ["exit"])


def test_what_is_forgotten_elsewhere_is_not_kept_alive(alone: None) -> None:
    thing = Thing()
    lifecycle.register(thing)
    gone = weakref.ref(thing)
    del thing
    assert gone() is None
    lifecycle._at_exit()


def test_a_fork_is_told_once_and_the_child_begins_with_an_empty_list(alone: None) -> None:
    thing = Thing()
    lifecycle.register(thing)
    lifecycle._after_fork()
    lifecycle._after_fork()
    lifecycle._at_exit()
    assert thing.told == ["fork"], "the parent's coordinator is not the child's to stop"


@pytest.mark.parametrize("options, most", [({}, 10.0), ({"stop_timeout": 4.0}, 4.0), ({"worker_ttl": 20.0}, 10.0),
                                           ({"heartbeat_interval": 1.0, "worker_ttl": 6.0}, 3.0)])  # fmt: skip
def test_an_exit_waits_for_running_work_no_longer_than_half_a_lease(
    options: Any, most: float, redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RedisDataStore.from_url(redis_url)
    coordinator = Coordinator(namespace, store, lambda *args: None, metrics_enabled=False, **options)
    asked: List[Any] = []
    with coordinator:
        monkeypatch.setattr(coordinator, "stop", asked.append)
        coordinator.stop_at_exit()
        monkeypatch.undo()
    coordinator.stop_at_exit()
    store.close()
    assert asked == [most], "and nothing at all once it is stopped"


# ---------------------------------------------------------------- a process that ends without stop()


@pytest.mark.parametrize("how", sorted(ENDS))
def test_a_process_that_ends_without_stop_drains_and_exits_with_the_right_code(
    how: str, run: Run, partitions: Any
) -> None:
    ending, code = ENDS[how]
    child = run("coordinator = worker(obeys).start()\nassert running.wait(20)\nsay('ending')\n" + ending)
    child.expect("ending")
    child.expect("cancelled")
    assert child.code() == code
    stats = partitions.get_partition_stats()
    assert stats.pending == stats.total > 0, "what ran was told to end, and went back at once"
    assert partitions.workers() == [], "and it left the registry"
    assert partitions.leader() is None, "and gave up the lead"
    errors = "".join(child.errors)
    assert ("the last words" in errors) is (how == "an exception")
    assert "Fatal Python error" not in errors and "Exception ignored" not in errors


@pytest.mark.parametrize("how", sorted(ENDS))
def test_a_hung_processor_does_not_hold_a_process_that_ends_without_stop(how: str, run: Run, partitions: Any) -> None:
    ending, code = ENDS[how]
    child = run("coordinator = worker(hangs).start()\nassert running.wait(20)\nsay('ending')\n" + ending)
    child.expect("ending")
    assert child.code() == code
    assert partitions.get_partition_stats().held > 0, "its lease is left to run out"
    assert "Fatal Python error" not in "".join(child.errors)


def test_a_hung_processor_does_not_hold_a_process_after_stop(run: Run) -> None:
    child = run("coordinator = worker(hangs).start()\nassert running.wait(20)\n"
                "assert coordinator.stop() is False\nsay('ending')\nsys.exit(5)")  # fmt: skip
    child.expect("ending")
    assert child.code(3.0) == 5


def test_a_processor_that_hangs_after_it_had_been_found_hung_does_not_either(run: Run) -> None:
    child = run("coordinator = worker(hangs, heartbeat_interval=0.2, worker_ttl=1.0, task_timeout=0.1).start()\n"
                "while not coordinator.health().hung:\n    for_ever.wait(0.05)\n"
                "say('ending')\nsys.exit(5)")  # fmt: skip
    child.expect("ending")
    assert child.code() == 5


def test_many_coordinators_in_one_process_all_end_in_time(run: Run) -> None:
    child = run("all = [worker(hangs, '%s-%d' % (namespace, i)).start() for i in range(3)]\n"
                "assert running.wait(20)\nsay('ending')\nsys.exit(4)")  # fmt: skip
    child.expect("ending")
    assert child.code(3 * IN_TIME) == 4


def test_a_process_ends_in_time_also_when_the_store_is_gone(
    run: Run, new_server: Callable[..., EmbeddedServer]
) -> None:
    server = new_server()
    child = run("coordinator = worker(hangs).start()\nassert running.wait(20)\nsay('running')\n"
                "sys.stdin.readline()\nsay('ending')\nsys.exit(6)", server.url)  # fmt: skip
    child.expect("running")
    server.kill()
    child.tell()
    child.expect("ending")
    assert child.code() == 6


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_second_ctrl_c_during_stop_ends_the_process_now(run: Run) -> None:
    child = run("signal.signal(signal.SIGINT, signal.default_int_handler)\n\n\n"
                "def stubborn(*args):\n    obeys(*args)\n    for_ever.wait()\n\n\n"
                "with worker(stubborn, stop_timeout=600.0):\n    assert running.wait(20)\n    say('running')\n"
                # Not without a timeout: a signal that comes just before a wait begins is heard when it ends.
                "    while not for_ever.wait(0.2):\n        pass\n")  # fmt: skip
    child.expect("running")
    child.process.send_signal(signal.SIGINT)
    child.expect("cancelled")
    child.process.send_signal(signal.SIGINT)
    assert child.code() == -signal.SIGINT


def test_stop_from_another_thread_at_the_end_is_waited_for(run: Run, partitions: Any) -> None:
    child = run("coordinator = worker(obeys).start()\nassert running.wait(20)\nsay('ending')\n"
                "threading.Thread(target=coordinator.stop, daemon=True).start()\n")  # fmt: skip
    child.expect("ending")
    assert child.code() == 0
    assert partitions.get_partition_stats().held == 0
    assert partitions.workers() == []


# -- the controls: with either guard broken the same process does not end

BROKEN = {
    "hung threads are joined": "import elk_coordinator.worker.window as w\nw.abandon = lambda pool: None\n",
    "asked too late": "import elk_coordinator.runtime.lifecycle as l, atexit\n"
                      "l._hooked.append('done')\natexit.register(l._at_exit)\n",
}  # fmt: skip


@pytest.mark.parametrize("guard", sorted(BROKEN))
def test_control_without_the_guard_a_hung_processor_holds_the_process(guard: str, run: Run) -> None:
    if guard == "asked too late" and sys.version_info < (3, 9):
        pytest.skip("atexit is early enough on 3.8")
    child = run(BROKEN[guard] + "coordinator = worker(hangs).start()\nassert running.wait(20)\nsay('ending')\n")
    child.expect("ending")
    with pytest.raises(subprocess.TimeoutExpired):
        child.process.wait(STOP_TIMEOUT + 2.5)


# ---------------------------------------------------------------- fork

fork_only = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

FORK = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later advise against what is tested here


def refused(what, call):
    try:
        call()
    except ForkedError as exc:
        assert "fork" in str(exc), exc
    else:
        raise AssertionError("%s was not refused" % what)


def in_child():
    refused("start", coordinator.start)
    refused("stop", coordinator.stop)
    refused("health", coordinator.health)
    refused("strategy", lambda: coordinator.strategy)
    refused("wait_idle", lambda: coordinator.wait_idle(0.1))
    mine = worker(short, namespace + "-child").start()
    assert mine.wait_idle(20.0), "a new one works"
    assert mine.stats().completed == 10, mine.stats()
    say("child done")


def fork_and_wait():
    pid = os.fork()
    if pid == 0:
        try:
            in_child()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(99)
        ENDING
    _, status = os.waitpid(pid, 0)
    assert os.WIFEXITED(status), status
    say("child ended with %d" % os.WEXITSTATUS(status))
"""


@fork_only
@pytest.mark.parametrize("ending, code", [("sys.exit(7)", 7), ("os._exit(8)", 8), ("mine = None; raise ValueError", 1)])
@pytest.mark.parametrize("process", ["obeys", "hangs"])
def test_after_a_fork_the_old_one_is_refused_and_a_new_one_works(
    run: Run, ending: str, code: int, process: str
) -> None:
    child = run(FORK.replace("ENDING", ending) + "coordinator = worker(%s).start()\nassert running.wait(20)\n"
                "fork_and_wait()\nassert coordinator.health().state == 'running'\n"
                "say('ending')\nsys.exit(9)" % process)  # fmt: skip
    child.expect("child done")
    child.expect("child ended with %d" % code, IN_TIME)
    child.expect("ending")
    assert child.code() == 9, "and the parent goes on and ends as always"


@fork_only
def test_a_coordinator_made_but_not_started_is_refused_after_a_fork_too(run: Run) -> None:
    child = run(FORK.replace("ENDING", "sys.exit(0)") + "coordinator = worker(short)\nfork_and_wait()\n"
                "coordinator.start()\nassert coordinator.wait_idle(20.0)\n"
                "assert coordinator.stop()\nsay('ok')\n")  # fmt: skip
    child.expect("child done")
    child.expect("child ended with 0", IN_TIME)
    child.expect("ok")
    assert child.code() == 0


@fork_only
def test_a_child_that_never_looks_at_the_coordinator_ends_like_any_other(run: Run, partitions: Any) -> None:
    child = run(FORK.replace("ENDING", "") + "coordinator = worker(hangs).start()\nassert running.wait(20)\n"
                "in_child = lambda: sys.exit(0)\npid = os.fork()\nif pid == 0:\n    sys.exit(11)\n"
                "_, status = os.waitpid(pid, 0)\nsay('child ended with %d' % os.WEXITSTATUS(status))\n"
                "sys.stdin.readline()\n")  # fmt: skip
    child.expect("child ended with 11", IN_TIME)
    held = partitions.get_partition_stats().held
    assert held > 0 and len(partitions.workers()) == 1, "the parent's leases and registration are the parent's"
    child.tell()
    assert child.code() == 0


@fork_only
def test_the_parents_port_does_not_stay_open_in_a_child(run: Run) -> None:
    child = run(FORK.replace("ENDING", "") + "import socket\n"
                "coordinator = worker(short, metrics_enabled=True, metrics_addr='127.0.0.1:0').start()\n"
                "host, port = coordinator.http_address.split(':')\npid = os.fork()\n"
                "if pid == 0:\n    sys.stdin.readline()\n    os._exit(0)\n"
                "coordinator.stop()\n"
                "probe = socket.socket()\nsay('refused' if probe.connect_ex((host, int(port))) else 'open')\n"
                "say('look')\nos.waitpid(pid, 0)\n")  # fmt: skip
    child.expect("refused")
    child.expect("look")
    child.tell()
    assert child.code() == 0


def test_a_module_imported_twice_hooks_once(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    hooks: List[Any] = []
    monkeypatch.setattr(lifecycle, "_hooked", [])
    monkeypatch.setattr(threading, "_register_atexit", hooks.append, raising=False)
    monkeypatch.setattr(os, "register_at_fork", lambda **kw: hooks.append(kw["after_in_child"]), raising=False)
    things = [Thing() for _ in range(3)]
    for thing in things:
        lifecycle.register(thing)
    assert hooks == [lifecycle._at_exit, lifecycle._after_fork]
    wait_until(lambda: len(lifecycle._live) == 3)
