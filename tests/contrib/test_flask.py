"""The Flask extension: settings, application contexts, commands in real processes, the mounted HTTP app."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
from typing import Any, Dict, Iterator, List

import flask
import pytest
from flask import Flask, current_app, g
from sqlalchemy import create_engine, text
from sqlalchemy.orm import scoped_session, sessionmaker
from sqlalchemy.pool import QueuePool

from elk_coordinator import ConfigError, Coordinator, PermanentError, PlannerError, StateError
from elk_coordinator.contrib.flask import Elk, Settings
from elk_coordinator.store.memory_store import MemoryDataStore
from elk_coordinator.testing import run_inline, wait_until

ROOT = pathlib.Path(__file__).resolve().parents[2]
QUIET = {"metrics_enabled": False, "heartbeat_interval": 1.0, "strategy": "simple"}


class Hundred:
    """A planner of 100 IDs that insists on an application context."""

    def partition_size(self, ctx: Any) -> int:
        assert current_app.name
        return 10

    def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> int:
        assert current_app.name
        return min(100, start_id + range_size)


def count(ctx: Any, min_id: int, max_id: int, options: Dict[str, Any]) -> int:
    assert current_app.name
    return max_id - min_id + 1


@pytest.fixture
def app(namespace: str) -> Flask:
    app = Flask("shop")
    app.config["ELK_NAMESPACE"] = namespace
    return app


# -- settings


def test_keys_of_the_config_become_options_as_text_or_as_values() -> None:
    settings = Settings.read(
        {
            "SECRET_KEY": "x",
            "ELK_NAMESPACE": "orders",
            "ELK_REDIS_URL": "redis://db:1/2",
            "ELK_TASK_WINDOW_SIZE": "8",
            "ELK_HEARTBEAT_INTERVAL": 2,
            "ELK_STRATEGY": "simple",
            "ELK_ADMIN_TOKEN": "12345678",
            "ELK_CIRCUIT_BREAKER_OPEN_TIMEOUT": "5",
        },
        stop_timeout=1.0,
    )
    assert (settings.namespace, settings.redis_url) == ("orders", "redis://db:1/2")
    config = settings.config
    assert (config.task_window_size, config.heartbeat_interval, config.stop_timeout) == (8, 2, 1.0)
    assert config.admin_token == "12345678" and config.circuit_breaker.open_timeout == 5  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "config, says",
    [
        ({"ELK_TASK_WINDOW_SIZE": 0}, "task_window_size"),
        ({"ELK_TASK_WINDOW_SIZE": "many"}, "ELK_TASK_WINDOW_SIZE"),
        ({"ELK_TASK_WINDOWSIZE": 3}, "did you mean ELK_TASK_WINDOW_SIZE"),
        ({"ELK_NAMESPACE": "with space"}, "namespace"),
        ({"ELK_REDIS_URL": "localhost:6379"}, "Redis URL"),
        ({"ELK_CIRCUIT_BREAKER": None, "ELK_CIRCUIT_BREAKER_OPEN_TIMEOUT": 1}, "not both"),
    ],
)
def test_a_wrong_setting_is_refused_by_the_factory_and_named(config: Dict[str, Any], says: str) -> None:
    app = Flask("shop")
    app.config.update(config)
    with pytest.raises(ConfigError, match=says):
        Elk(app)


def test_keys_that_others_use_with_the_same_letters_are_left_alone() -> None:
    assert Settings.read({"ELK_HOST": "logs.example", "ELK_KIBANA_URL": "http://k"}).namespace is None


def test_namespace_and_url_may_be_given_to_the_extension_and_go_before_the_config(app: Flask) -> None:
    elk = Elk(app, count, Hundred(), namespace="mine", redis_url="redis://db:1/2")
    settings = elk.settings(app)
    assert (settings.namespace, settings.redis_url) == ("mine", "redis://db:1/2")
    assert elk.coordinator(app).namespace == "mine"


# -- the factory


def test_making_an_application_starts_nothing_and_connects_to_nothing(app: Flask) -> None:
    app.config["ELK_REDIS_URL"] = "redis://127.0.0.1:1/0"
    before = set(threading.enumerate())
    elk = Elk(app, count, Hundred())
    elk.mount(app, "/elk")
    assert app.test_client().get("/nothing").status_code == 404
    assert set(threading.enumerate()) == before
    assert app.extensions["elk"] is elk
    assert not [value for value in vars(elk).values() if isinstance(value, Flask)]


def test_one_extension_serves_many_applications_each_with_a_coordinator_of_its_own() -> None:
    elk = Elk(processor=count, planner=Hundred(), store=MemoryDataStore(), **QUIET)
    found: List[Coordinator] = []
    for name in ("one", "two"):
        app = Flask(name)
        app.config["ELK_NAMESPACE"] = name
        elk.init_app(app)
        with app.app_context():
            found.append(elk.coordinator())
            assert elk.coordinator() is elk.coordinator(app)
    assert [coordinator.namespace for coordinator in found] == ["one", "two"]


def test_mistakes_of_the_caller_are_named(app: Flask) -> None:
    elk = Elk(app)
    with pytest.raises(StateError, match="has an Elk already"):
        elk.init_app(app)
    with pytest.raises(StateError, match="which application"):
        elk.coordinator()
    with pytest.raises(ConfigError, match="@elk.processor"):
        elk.coordinator(app)
    with pytest.raises(StateError, match="init_app"):
        elk.coordinator(Flask("other"))
    with pytest.raises(ConfigError, match="prefix"):
        elk.mount(app, "/")
    elk.processor(count)
    with pytest.raises(StateError, match="a processor already"):
        elk.processor(count)
    del app.config["ELK_NAMESPACE"]
    with pytest.raises(ConfigError, match="ELK_NAMESPACE"):
        elk.coordinator(app)


# -- inside the application context


def test_work_and_plan_run_inside_application_contexts(app: Flask) -> None:
    elk = Elk(app)

    @elk.processor
    def work(ctx: Any, min_id: int, max_id: int, options: Dict[str, Any]) -> int:
        assert not hasattr(g, "seen")  # a context of its own
        g.seen = True
        return count(ctx, min_id, max_id, options)

    @elk.planner
    class Plan(Hundred):
        pass

    result = run_inline(*elk.work(app))
    assert result.processed == 100 and len(result.partitions) == 10
    assert not flask.has_app_context()


def test_optional_methods_of_a_planner_are_seen_and_a_plan_keeps_its_context_from_step_to_step(app: Flask) -> None:
    open_contexts: List[str] = []

    class Sparse:
        def plan(self, ctx: Any, start_id: int, limit: int) -> Iterator[Any]:
            open_contexts.append(current_app.name)
            try:
                for low in range(start_id + 1, 1001, 10):
                    assert current_app.name and g.setdefault("step", low) is not None
                    yield low, low + 9
            finally:
                open_contexts.pop()

    elk = Elk(app, count, Sparse())  # type: ignore[arg-type]
    _, planner = elk.work(app)
    assert not hasattr(planner, "has_data") and not hasattr(planner, "first_id")
    # Fewer per round than there are: the generator is left in the middle, and its context ends all the same.
    result = run_inline(*elk.work(app), max_pending_partitions=7)
    assert result.processed == 1000
    assert open_contexts == [] and not flask.has_app_context()


def test_a_plan_that_goes_wrong_half_way_leaves_no_context_behind_while_its_error_is_kept(app: Flask) -> None:
    class Backwards:
        def plan(self, ctx: Any, start_id: int, limit: int) -> Iterator[Any]:
            yield 1, 10
            yield 5, 7
            yield 11, 20

    elk = Elk(app, count, Backwards())  # type: ignore[arg-type]
    with pytest.raises(PlannerError) as kept:
        run_inline(*elk.work(app))
    # The traceback holds the generator, which would hold the context open if the guard did not close it.
    assert kept.tb is not None and not flask.has_app_context()


def test_what_teardown_appcontext_ends_is_ended_behind_every_partition_in_its_own_thread(app: Flask) -> None:
    engine = create_engine("sqlite://", poolclass=QueuePool, connect_args={"check_same_thread": False}, pool_size=1)
    # The usual setting of old code bases: one session per thread, ended by teardown_appcontext.
    session = scoped_session(sessionmaker(bind=engine))
    ended: List[Any] = []
    used: List[Any] = []

    @app.teardown_appcontext
    def remove(error: Any) -> None:
        ended.append((threading.get_ident(), type(error).__name__))
        session.remove()

    class Work:
        def process(self, ctx: Any, min_id: int, max_id: int, options: Dict[str, Any]) -> int:
            used.append((threading.get_ident(), session()))
            assert session.execute(text("SELECT 1")).scalar() == 1
            assert engine.pool.checkedout() == 1  # type: ignore[attr-defined]
            if min_id == 91:
                raise PermanentError("no luck")
            return max_id - min_id + 1

    elk = Elk(app, Work(), Hundred(), store=MemoryDataStore(), task_window_size=1, circuit_breaker=None, **QUIET)
    coordinator = elk.start(app)
    assert elk.start(app) is coordinator
    assert coordinator.wait_idle(20.0)
    stats = coordinator.strategy.get_partition_stats()
    assert elk.stop(app)
    assert (stats.completed, stats.failed) == (9, 1)
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert len({id(each) for _, each in used}) == len(used) == 10  # no session lives on into another partition
    assert {thread for thread, _ in used} <= {thread for thread, _ in ended}
    assert [error for _, error in ended].count("PermanentError") == 1
    engine.dispose()


def test_after_a_stop_there_is_a_new_coordinator_to_start(app: Flask) -> None:
    elk = Elk(app, count, Hundred(), store=MemoryDataStore(), **QUIET)
    first = elk.start(app)
    assert elk.stop(app) and elk.stop(app)
    second = elk.start(app)
    assert second is not first and second.health().state == "running"
    assert elk.stop(app)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork_the_child_gets_a_coordinator_of_its_own(app: Flask) -> None:
    elk = Elk(app, count, Hundred(), store=MemoryDataStore(), **QUIET)
    parents = elk.start(app)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            mine = elk.start(app)
            code = 0 if mine is not parents and mine.health().state == "running" and elk.stop(app) else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert elk.coordinator(app) is parents
    assert elk.stop(app)


def test_the_first_two_threads_behind_a_fork_get_the_same_coordinator(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Built by the application's process, asked for in two requests of a forked one that come at the same moment.
    elk = Elk(app, count, Hundred(), store=MemoryDataStore(), **QUIET)
    parents, pid = elk.coordinator(app), os.getpid()
    both, found = threading.Barrier(2), []  # type: threading.Barrier, List[Coordinator]

    def getpid() -> int:
        if threading.current_thread().name == "request" and not both.broken:
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(2)
            both.abort()
        return pid + 1

    with monkeypatch.context() as patched:
        patched.setattr(os, "getpid", getpid)
        requests = [
            threading.Thread(target=lambda: found.append(elk.coordinator(app)), name="request") for _ in range(2)
        ]
        for each in requests:
            each.start()
        for each in requests:
            each.join()
    assert len(found) == 2 and found[0] is found[1] and found[0] is not parents


# -- the mounted HTTP app


def test_the_http_app_is_mounted_below_a_prefix_and_lives_with_the_coordinator_of_the_process(app: Flask) -> None:
    elk = Elk(app, count, Hundred(), store=MemoryDataStore(), **QUIET)
    elk.mount(app, "/ops/elk/")

    @app.route("/ops/elkhound")
    def other() -> str:
        return "a dog"

    client = app.test_client()
    assert client.get("/ops/elkhound").data == b"a dog"
    assert client.get("/ops/elk/ready").status_code == 503  # this process does not work yet
    elk.start(app)
    assert client.get("/ops/elk/ready").status_code == 200
    assert client.get("/ops/elk/api/v1/status").get_json()["namespace"] == elk.settings(app).namespace
    assert b"elk_coordinator_" in client.get("/ops/elk/metrics").data
    assert b'href="/ops/elk/health"' in client.get("/ops/elk").data
    assert client.post("/ops/elk/api/v1/commands", json={"kind": "pause"}).status_code in (401, 403)
    assert client.get("/ops/elk/nothing").status_code == 404
    assert elk.stop(app)


def test_whoever_may_not_see_it_gets_403(app: Flask) -> None:
    elk = Elk(app, count, store=MemoryDataStore(), **QUIET)
    elk.mount(app, allow=lambda environ: environ.get("HTTP_X_STAFF") == "yes")
    client = app.test_client()
    assert client.get("/elk/health").status_code == 403
    assert client.get("/elk/health", headers={"X-Staff": "yes"}).status_code == 503  # nothing runs here, and it says so


# -- the commands, as they are typed

SHOP = """
import os, pathlib, threading
from flask import Flask, current_app
from elk_coordinator.contrib.flask import Elk

HERE = pathlib.Path(__file__).parent
elk = Elk(metrics_enabled=False, heartbeat_interval=1.0)

@elk.processor
def work(ctx, min_id, max_id, options):
    (HERE / ("started-%d" % min_id)).touch()
    if current_app.config["MODE"] == "fails" and min_id == 11:
        raise ValueError("no luck")
    while current_app.config["MODE"] == "polite":
        ctx.wait(60.0)
        ctx.raise_if_cancelled()
    return max_id - min_id + 1

@elk.planner
class Plan:
    def partition_size(self, ctx):
        return 10
    def get_next_max_id(self, ctx, start_id, range_size):
        return min(40, start_id + range_size)

def create_app():
    app = Flask(__name__)
    app.config.update({k: v for k, v in os.environ.items() if k.startswith("ELK_")}, MODE=os.environ.get("MODE"))
    elk.init_app(app)
    return app
"""


class Shop:
    def __init__(self, directory: pathlib.Path, url: str, namespace: str) -> None:
        self.directory = directory
        (directory / "shop.py").write_text(SHOP)
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith(("ELK_", "FLASK_"))}
        self.environ.update(ELK_REDIS_URL=url, ELK_NAMESPACE=namespace, PYTHONPATH=str(ROOT))
        self.started: List["subprocess.Popen[str]"] = []

    def start(self, *args: str, **variables: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "flask", "elk", *args],
            cwd=str(self.directory),
            env=dict(self.environ, FLASK_APP="shop:create_app", **variables),
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


@pytest.fixture
def shop(tmp_path: pathlib.Path, redis_url: str, namespace: str) -> Iterator[Shop]:
    shop = Shop(tmp_path, redis_url, namespace)
    yield shop
    for process in shop.started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_flask_elk_worker_works_until_done_and_the_other_commands_tell_and_ask(shop: Shop) -> None:
    unknown = shop.call("status")
    assert unknown.returncode == 1 and unknown.stderr.startswith("elk: "), unknown
    done = shop.call("worker", "--until-done", MODE="fails", ELK_MAX_ATTEMPTS="1")
    assert done.returncode == 3, done
    assert "3 partitions completed, 1 failed" in done.stdout
    asked = shop.call("retry", "--all")
    assert asked.returncode == 0 and "queued" in asked.stdout, asked
    alone = shop.call("retry", "--all", "--wait", "0.1")
    assert alone.returncode == 1 and "it stays queued: does the namespace have a leader?" in alone.stderr, alone
    again = shop.call("worker", "--until-done", ELK_LOG_FORMAT="json")
    assert again.returncode == 0, again
    told = [json.loads(line) for line in again.stderr.splitlines()]
    assert {"started", "stopped"} <= {document.get("event") for document in told}
    status = shop.call("status", "--json")
    assert json.loads(status.stdout)["partitions"]["completed"] == 4, status
    assert "40" not in status.stderr
    wrong = shop.call("status", ELK_TASK_WINDOW_SIZE="many")
    assert wrong.returncode != 0 and "ELK_TASK_WINDOW_SIZE" in wrong.stderr


def test_flask_elk_worker_drains_at_sigterm_and_gives_back_what_it_held(shop: Shop) -> None:
    worker = shop.start("worker", MODE="polite")
    wait_until(
        lambda: list(shop.directory.glob("started-*")) or worker.poll() is not None, 20.0, "a partition to start"
    )
    told = shop.call("status")
    assert "1 live" in told.stdout or "workers     1" in told.stdout, told
    worker.send_signal(signal.SIGTERM)
    out, err = worker.communicate(timeout=20.0)
    assert worker.returncode == 0, (out, err)
    assert "finishing what runs" in err
    status = json.loads(shop.call("status", "--json").stdout)
    assert status["partitions"]["running"] == 0 and status["workers"] == []
