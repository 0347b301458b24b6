"""What start() says about the process it runs in. The real servers are in ``tests/contrib/test_servers_*.py``."""

from __future__ import annotations

import logging
import os
import sys
import types
from typing import Any, Dict, Sequence

import pytest

from elk_coordinator import Coordinator
from elk_coordinator.runtime.environment import Environment, Process, look
from elk_coordinator.store.memory_store import MemoryDataStore

PID = 4711


def frame_in(module: str, **of_self: Any) -> types.FrameType:
    """Return a frame inside a method that stands in *module*, of an object with these attributes."""
    scope: Dict[str, Any] = {"__name__": module, "sys": sys}
    exec("def inner():\n    return sys._getframe()\ndef run(self):\n    return inner()", scope)
    frame = scope["run"](types.SimpleNamespace(**of_self))
    assert isinstance(frame, types.FrameType)
    return frame


def seen(
    modules: Sequence[Any] = (), argv: Sequence[str] = ("/srv/bin/work.py",), frame: Any = None, **env: str
) -> Any:
    loaded = {each: None for each in modules if isinstance(each, str)}
    loaded.update({each.__name__: each for each in modules if not isinstance(each, str)})
    return look(Process(loaded, env, argv, PID, lambda: frame))


def module(name: str, **content: Any) -> types.ModuleType:
    made = types.ModuleType(name)
    made.__dict__.update(content)
    return made


def uwsgi(worker: int = 0, mule: int = 0, numproc: int = 2, **options: Any) -> types.ModuleType:
    named = {name.replace("_", "-"): value for name, value in options.items()}
    return module("uwsgi", opt=named, worker_id=lambda: worker, mule_id=lambda: mule, numproc=numproc)


def test_an_ordinary_program_is_named_and_nothing_is_wrong() -> None:
    assert seen() == Environment("work.py")
    assert seen(argv=["-c"]) == Environment("python")
    assert seen(argv=[]) == Environment("python")
    assert seen(["mod_wsgi"]) == Environment("mod_wsgi")


def test_this_process_can_be_looked_at() -> None:
    assert look().server and look().findings == ()


def test_gunicorns_arbiter_and_workers_are_told_apart_by_the_arbiters_pid() -> None:
    worker = seen(["gunicorn.arbiter"], frame=frame_in("gunicorn.arbiter", pid=PID - 1))
    assert worker == Environment("gunicorn worker")
    loading = seen(["gunicorn.arbiter"], frame=frame_in("gunicorn.arbiter"))
    started = seen(["gunicorn.arbiter"], frame=frame_in("gunicorn.arbiter", pid=PID))
    for arbiter in (loading, started):
        assert arbiter.server == "gunicorn arbiter" and "post_fork" in arbiter.findings[0]


def test_a_gunicorn_that_cannot_be_read_is_not_accused() -> None:
    assert seen(["gunicorn.arbiter"], frame=frame_in("somewhere", pid=1)) == Environment("gunicorn")
    assert seen(["gunicorn.arbiter"]) == Environment("gunicorn")


def test_uwsgi_says_whether_it_has_forked() -> None:
    assert seen([uwsgi(worker=2, master=True, enable_threads=True)]) == Environment("uWSGI worker 2")
    master = seen([uwsgi(master=True, enable_threads=True)])
    assert master.server == "uWSGI master" and "lazy-apps" in master.findings[0] and len(master.findings) == 1
    assert seen([uwsgi(mule=1, master=True, threads=b"2")]) == Environment("uWSGI mule")
    assert seen([uwsgi(numproc=1, threads=b"2")]) == Environment("uWSGI"), "one process loads and serves"


def test_stacks_are_read_under_gunicorn_only_since_that_crashes_in_some_forks_of_uwsgi() -> None:
    def crash() -> None:
        raise AssertionError("asked for the stack")

    worker = uwsgi(worker=1, enable_threads=True)
    for modules, server in (({"uwsgi": worker}, "uWSGI worker 1"), ({"gunicorn.arbiter": None}, "python"), ({}, "job")):
        assert look(Process(modules, {}, ["job"], PID, crash)).server == server


def test_uwsgi_without_threads_is_told_what_to_set() -> None:
    (finding,) = seen([uwsgi(worker=1, master=True, lazy_apps=True)]).findings
    assert "enable-threads = true" in finding


def test_another_module_called_uwsgi_is_no_server() -> None:
    assert seen([module("uwsgi")]).server == "work.py"


MANAGE = ["manage.py", "runserver", "8000"]


@pytest.mark.parametrize(
    "argv, environ, warned",
    [
        (MANAGE, {}, True),
        (MANAGE, {"RUN_MAIN": "true"}, False),
        ([*MANAGE, "--noreload"], {}, False),
        (["manage.py", "migrate"], {}, False),
        (["/venv/bin/flask", "--app", "shop", "run", "--debug"], {}, True),
        (["/venv/bin/flask", "run"], {"FLASK_DEBUG": "1"}, True),
        (["/venv/bin/flask", "run", "--debug"], {"WERKZEUG_RUN_MAIN": "true"}, False),
        (["/venv/bin/flask", "run", "--debug", "--no-reload"], {}, False),
        (["/venv/bin/flask", "run"], {}, False),
        (["/venv/lib/python3.11/site-packages/flask/__main__.py", "run", "--debug"], {}, True),
        (["/venv/bin/flask", "elk", "worker"], {"FLASK_DEBUG": "1"}, False),
    ],
)
def test_only_the_reloaders_parent_is_warned(argv: Sequence[str], environ: Dict[str, str], warned: bool) -> None:
    found = seen(["django"], argv, **environ)
    assert bool(found.findings) == warned
    assert all("autoreloader" in finding for finding in found.findings)


@pytest.mark.parametrize("patched", [True, False])
def test_greenlets_in_the_place_of_threads_are_named(patched: bool) -> None:
    monkey = module("gevent.monkey", is_module_patched=lambda name: patched and name == "threading")
    patcher = module("eventlet.patcher", is_monkey_patched=lambda name: patched and name == "thread")
    found = seen([monkey, patcher]).findings
    assert [finding.split()[0] for finding in found] == (["gevent", "eventlet"] if patched else [])
    assert all("elk run" in finding for finding in found)


def test_gevent_under_gunicorn_is_found_beside_the_server() -> None:
    monkey = module("gevent.monkey", is_module_patched=lambda name: True)
    found = seen(["gunicorn.arbiter", monkey], frame=frame_in("gunicorn.arbiter", pid=PID - 1))
    assert found.server == "gunicorn worker" and len(found.findings) == 1


def test_a_gunicorn_worker_that_will_be_patched_behind_the_hook_is_named() -> None:
    modules = ["gunicorn.arbiter", "gunicorn.workers.ggevent"]
    frame = frame_in("gunicorn.arbiter", pid=PID - 1)
    (finding,) = seen(modules, frame=frame).findings
    assert "before gevent replaces threading" in finding and "gthread" in finding
    monkey = module("gevent.monkey", is_module_patched=lambda name: True)
    (finding,) = seen([*modules, monkey], frame=frame).findings
    assert "has replaced" in finding


def test_what_cannot_be_found_out_stops_nobody() -> None:
    def broken(name: str) -> bool:
        raise RuntimeError("not today")

    assert seen([module("gevent.monkey", is_module_patched=broken)]) == Environment("python")


def test_start_says_in_one_line_what_it_is_and_warns_of_each_finding(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, namespace: str
) -> None:
    monkeypatch.setitem(sys.modules, "uwsgi", uwsgi(master=True))
    caplog.set_level(logging.INFO, "elk_coordinator")
    store = MemoryDataStore()
    coordinator = Coordinator(namespace, store, lambda *a: None, strategy="simple", metrics_enabled=False)
    with coordinator:
        pass
    store.close()
    lines = [record for record in caplog.records if "started in namespace" in record.getMessage()]
    (line,) = lines
    for part in (coordinator.worker_id, namespace, "pid %d" % os.getpid(), "uWSGI master"):
        assert part in line.getMessage()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2 and "enable-threads" in warnings[0] and "lazy-apps" in warnings[1]
