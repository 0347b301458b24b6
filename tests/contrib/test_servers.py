"""The recipes of examples/gunicorn on real gunicorn and uWSGI processes: who works, who is seen, and how each ends."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import sysconfig
import urllib.request
from typing import Any, Callable, Dict, Iterator, List, Set

import pytest

from elk_coordinator import Partition, RedisDataStore, StrategyType, create_strategy
from elk_coordinator.testing import wait_until

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECIPE = ROOT / "examples" / "gunicorn"
#: Seconds for anything here to happen, on a busy machine.
SOON = 25.0
#: Seconds that the work on one partition of 100 orders takes.
PAUSE = 0.1
#: A warning of ours in the log, as logging.basicConfig() writes it; uWSGI has warnings of its own.
WARNING = "WARNING:elk_coordinator"
SETTINGS = {
    "ELK_HEARTBEAT_INTERVAL": "0.5", "ELK_WORKER_TTL": "5", "ELK_LEADER_LOCK_EXPIRY": "5",
    "ELK_ALLOCATION_INTERVAL": "1", "ELK_STOP_TIMEOUT": "8", "PYTHONUNBUFFERED": "1",
    "ELK_METRICS_ADDR": "127.0.0.1:19464-19495",
}  # fmt: skip

GUNICORN = [sys.executable, "-m", "gunicorn", "-c", str(RECIPE / "gunicorn.conf.py")]
UWSGI = [str(pathlib.Path(sysconfig.get_path("scripts")) / "pyuwsgi")]

#: A processor that never asks whether it is cancelled.
DEAF = """
import pathlib, time, work
from work import application


class Totals:
    def process(self, ctx, min_id, max_id, options):
        pathlib.Path(__file__).with_name("began-%d" % min_id).touch()
        time.sleep(1.5)
        with work.database() as db:
            return db.execute("UPDATE orders SET total = 6 WHERE id BETWEEN ? AND ?", (min_id, max_id)).rowcount


work.Totals = Totals
"""
#: uWSGI's hook after the fork; uwsgidecorators.postfork does the same.
HOOK = """
import uwsgi
from work import application, elk
uwsgi.post_fork_hook = elk
"""
#: The child of a fork looks at what it inherited, and starts its own.
INHERITED = """
from elk_coordinator import ForkedError
from work import build, elk
inherited = build().start()


def application(environ, start_response):
    try:
        inherited.health()
        said = "inherited and believed to be alive"
    except ForkedError as exc:
        said = str(exc)
    elk()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [__import__("json").dumps({"said": said, "pid": __import__("os").getpid()}).encode()]
"""


class Shop:
    """A web server with the application of the recipe, its database, and a look at the namespace from outside."""

    def __init__(self, folder: pathlib.Path, redis_url: str, namespace: str) -> None:
        self.folder = folder
        self.database = folder / "shop.db"
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith("ELK_")}
        self.environ.update(SETTINGS, ELK_REDIS_URL=redis_url, ELK_NAMESPACE=namespace, SHOP_PAUSE=str(PAUSE))
        self.environ.update(SHOP_DATABASE=str(self.database), PYTHONPATH=os.pathsep.join([str(folder), str(RECIPE)]))
        self.store = RedisDataStore.from_url(redis_url)
        self.strategy = create_strategy(StrategyType.HASH, namespace, self.store)
        self.processes: List["subprocess.Popen[bytes]"] = []
        self.add_orders(1, 0)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = "127.0.0.1:%d" % probe.getsockname()[1]

    def add_orders(self, first: int, last: int) -> None:
        with contextlib.closing(sqlite3.connect(str(self.database), timeout=30)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, quantity, price, total)")
            db.executemany("INSERT INTO orders VALUES (?, 2, 3, NULL)", ((i,) for i in range(first, last + 1)))
            db.commit()

    def missing(self) -> int:
        with contextlib.closing(sqlite3.connect(str(self.database), timeout=30)) as db:
            return int(db.execute("SELECT count(*) FROM orders WHERE total IS NULL").fetchone()[0])

    def gunicorn(self, *options: str, application: str = "work:application") -> "subprocess.Popen[bytes]":
        return self._start([*GUNICORN, "--bind", self.address, *options, application])

    def uwsgi(self, *options: str, module: str = "work") -> "subprocess.Popen[bytes]":
        fixed = ["--http-socket", self.address, "--module", module + ":application", "--die-on-term", "--need-app"]
        return self._start([*UWSGI, *fixed, *options])

    def _start(self, command: List[str]) -> "subprocess.Popen[bytes]":
        with open(str(self.folder / "log"), "ab") as log:
            process = subprocess.Popen(
                command, cwd=str(RECIPE), env=self.environ, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def wait(self, what: Callable[[], Any], why: str, timeout: float = SOON) -> Any:
        return wait_until(what, timeout, lambda: "%s; the server said:\n%s" % (why, self.log()))

    def page(self, path: str = "/") -> Any:
        with urllib.request.urlopen("http://%s%s" % (self.address, path), timeout=10) as answer:
            return json.loads(answer.read().decode())

    def answers(self) -> Any:
        try:
            return self.page()
        except OSError:  # not there yet
            return None

    def workers(self, count: int) -> Dict[int, str]:
        """Wait for that many coordinators; return {pid: address of its metrics}."""

        def found() -> Any:
            infos = [worker.info for worker in self.strategy.workers()]
            # The address comes with the second beat.
            return {info["pid"]: info["http"] for info in infos if info["http"]} if len(infos) == count else {}

        return dict(self.wait(lambda: len(found()) == count and found(), "%d coordinators" % count))

    def done(self, partitions: int) -> None:
        self.wait(lambda: self.strategy.get_partition_stats().completed == partitions, "%d partitions" % partitions)
        assert self.missing() == 0

    def lost(self) -> List[Partition]:
        """Return the partitions whose lease ran out at least once: that a process did not drain."""
        return [each for each in self.strategy.get_all_partitions() if each.deliveries]

    def end(self, process: "subprocess.Popen[bytes]", timeout: float = SOON) -> None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            pytest.fail("the server did not end; it said:\n%s" % self.log())

    def close(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.strategy.stop()
        self.store.close()


@pytest.fixture
def shop(tmp_path: pathlib.Path, redis_url: str, namespace: str) -> Iterator[Shop]:
    made = Shop(tmp_path, redis_url, namespace)
    yield made
    made.close()


def children(pid: int) -> Set[int]:
    """Return the processes whose parent is *pid*."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], stdout=subprocess.PIPE, universal_newlines=True).stdout
    return {int(line.split()[0]) for line in listed.splitlines() if int(line.split()[1]) == pid}


# ---------------------------------------------------------------- gunicorn

KINDS = {
    "sync": ["--worker-class", "sync", "--threads", "1"],
    "gthread": [],
    "preload": ["--preload"],
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_gunicorn_worker_has_its_coordinator_and_is_seen_by_prometheus(shop: Shop, kind: str) -> None:
    shop.add_orders(1, 1500)
    server = shop.gunicorn("--workers", "3", *KINDS[kind])
    workers = shop.workers(3)
    assert set(workers) <= children(server.pid), "in the workers, not in the arbiter"
    assert len(set(workers.values())) == 3, "each found a port of the range"
    assert shop.wait(shop.answers, "a page")["pid"] in workers
    for address in workers.values():
        with urllib.request.urlopen("http://%s/api/v1/prometheus-targets" % address, timeout=10) as answer:
            listed = {group["targets"][0] for group in json.loads(answer.read().decode())}
        assert listed == set(workers.values()), "any one of them tells of all"
    shop.done(15)
    shop.end(server)
    assert shop.strategy.workers() == [] and shop.lost() == []
    log = shop.log()
    assert "Traceback" not in log and "elk_coordinator" not in log, "the library says nothing unless asked to"


def test_recycled_gunicorn_workers_drain_and_nothing_is_lost(shop: Shop) -> None:
    shop.add_orders(1, 3000)
    server = shop.gunicorn("--workers", "2", "--max-requests", "3", "--max-requests-jitter", "0")
    first = set(shop.workers(2))
    shop.wait(shop.answers, "a page")

    def all_new() -> bool:
        shop.answers()
        now = children(server.pid)
        return len(now) == 2 and not now & first

    shop.wait(all_new, "two new workers")
    shop.done(30)
    assert shop.lost() == [], "every worker gave back what it held"
    assert not first & set(shop.workers(2))
    shop.end(server)


def test_gunicorns_graceful_stop_lets_running_partitions_finish(shop: Shop) -> None:
    shop.write("slow.py", DEAF)
    shop.add_orders(1, 600)
    server = shop.gunicorn("--workers", "1", "--preload", "--graceful-timeout", "12", application="slow:application")
    shop.workers(1)
    # Begun, not only granted: what has not begun when the stop comes is given back.
    shop.wait(lambda: len(list(shop.folder.glob("began-*"))) >= 3, "a full window")
    shop.end(server, 12.0)
    stats = shop.strategy.get_partition_stats()
    assert stats.completed >= 3 and stats.running == stats.claimed == 0, "finished what ran, gave back what waited"
    assert stats.pending == 6 - stats.completed and shop.lost() == [] and shop.strategy.workers() == []


def test_a_coordinator_started_in_gunicorns_arbiter_is_explained_and_the_workers_start_cleanly(shop: Shop) -> None:
    shop.environ["GUNICORN_CMD_ARGS"] = "--log-level warning"
    shop.write("inherits.py", "import logging\nlogging.basicConfig(level='INFO')\n" + INHERITED)
    shop.write("plain.conf.py", "")
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "-c",
        str(shop.folder / "plain.conf.py"),
        "--preload",
        "--workers",
        "2",
    ]
    server = shop._start([*command, "--bind", shop.address, "inherits:application"])
    answer = shop.wait(shop.answers, "a page")
    assert re.search(r"made in process %d and its threads stayed there.*post_fork" % server.pid, answer["said"])
    assert answer["pid"] in shop.wait(lambda: {w.info["pid"] for w in shop.strategy.workers()}, "workers")
    log = shop.log()
    assert "(pid %d, gunicorn arbiter)" % server.pid in log and "started in gunicorn's arbiter" in log
    assert "(pid %d, gunicorn worker)" % answer["pid"] in log and log.count(WARNING) == 1
    shop.end(server)


LOGGED = "import logging\nlogging.basicConfig(level='INFO')\n"
GEVENT = ["--workers", "1", "--worker-class", "gevent"]


def test_under_real_gevent_it_warns_works_and_drains(shop: Shop) -> None:
    shop.add_orders(1, 500)
    shop.write("patched.py", LOGGED + "from work import application\n")
    shop.write("plain.conf.py", "")
    plain = [*GUNICORN[:3], "-c", str(shop.folder / "plain.conf.py")]
    server = shop._start([*plain, *GEVENT, "--bind", shop.address, "patched:application"])
    shop.wait(shop.answers, "a page")
    shop.done(5)
    shop.end(server)
    assert "gevent has replaced threading" in shop.log() and "elk run" in shop.log()
    assert shop.strategy.workers() == [] and shop.lost() == []


def test_the_hook_of_a_gevent_worker_is_too_early_and_the_warning_says_so(shop: Shop) -> None:
    shop.write("early.conf.py", LOGGED + (RECIPE / "gunicorn.conf.py").read_text())
    command = [*GUNICORN[:3], "-c", str(shop.folder / "early.conf.py"), *GEVENT]
    shop._start([*command, "--bind", shop.address, "work:application"])  # its threads hang: close() ends it
    shop.wait(lambda: "before gevent replaces threading" in shop.log(), "the warning")


# ---------------------------------------------------------------- uWSGI


def threads(lazy: bool) -> List[str]:
    return ["--master", "--processes", "2", "--enable-threads", *(["--lazy-apps"] if lazy else [])]


@pytest.mark.parametrize("lazy", [True, False], ids=["lazy-apps", "forked after loading"])
def test_each_uwsgi_worker_has_its_coordinator_with_the_hook(shop: Shop, lazy: bool) -> None:
    shop.add_orders(1, 1000)
    shop.write("hooked.py", LOGGED + HOOK + ("elk()\n" if lazy else ""))  # with lazy-apps the hook ran before loading
    server = shop.uwsgi(*threads(lazy), module="hooked")
    workers = shop.workers(2)
    assert set(workers) <= children(server.pid)
    shop.done(10)
    shop.end(server)
    log = shop.log()
    assert log.count(WARNING) == log.count("the process ends without stop(); draining") == 2
    assert len(re.findall(r"\(pid \d+, uWSGI worker \d\)", log)) == 2
    assert shop.strategy.workers() == [] and shop.lost() == [], "drained by the end of the interpreter"


def test_the_first_request_starts_it_in_a_uwsgi_worker_without_any_hook(shop: Shop) -> None:
    shop.add_orders(1, 500)
    server = shop._start([*UWSGI, "--ini", str(RECIPE / "uwsgi.ini"), "--http-socket", shop.address])
    page = shop.wait(shop.answers, "a page")
    assert page["pid"] in children(server.pid)
    # A worker told to end while it loads the application takes its time over it.
    shop.wait(lambda: len(re.findall(r"WSGI app 0 .* ready", shop.log())) == 2, "both workers")
    shop.done(5)
    shop.end(server)
    assert shop.lost() == []


def test_a_coordinator_started_in_uwsgis_master_is_explained_and_the_workers_start_cleanly(shop: Shop) -> None:
    shop.write("inherits.py", LOGGED + INHERITED)
    # Without this option uWSGI tells Python nothing of the fork; a worker may then wait for ever for a lock that a
    # thread of the master held, whatever we do. The warning is all that can be had there.
    server = shop.uwsgi(*threads(False), "--py-call-uwsgi-fork-hooks", module="inherits")
    answer = shop.wait(shop.answers, "a page")
    assert re.search(r"made in process %d and its threads stayed there.*lazy-apps" % server.pid, answer["said"])
    assert answer["pid"] in {worker.info["pid"] for worker in shop.strategy.workers()}
    shop.end(server)
    log = shop.log()
    assert "(pid %d, uWSGI master)" % server.pid in log and "before it forks" in log
    assert log.count(WARNING) - log.count("the process ends without stop()") == 1
    assert not re.search("Traceback|ForkedError", log)


def test_uwsgi_without_threads_is_told_so(shop: Shop) -> None:
    shop.write("hooked.py", LOGGED + HOOK)
    server = shop.uwsgi("--master", "--processes", "1", module="hooked")
    shop.workers(1)
    shop.wait(lambda: "enable-threads = true" in shop.log(), "the warning")
    shop.end(server)
