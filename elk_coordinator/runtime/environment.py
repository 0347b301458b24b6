"""What kind of process this is, and what speaks against starting threads in it.

Nothing is ever refused here: guesses about servers age, and a wrong refusal is worse than a needless warning. What is
found becomes one WARNING each, with what to do; the kind of process becomes part of the line that start() logs.

Only looks at what is loaded already, and at the stack of the main thread; imports nothing, asks nobody.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from types import FrameType
from typing import Any, Callable, List, Mapping, Optional, Sequence, Tuple

import attr

from elk_coordinator.runtime.logs import about

PER_PROCESS = "elk_coordinator.contrib.per_process"
_DEDICATED = "or, better, run the coordinator in a process of its own (elk run)"
_TRUE = ("1", "true", "yes", "on")


@attr.s(auto_attribs=True, frozen=True)
class Environment:
    """What :func:`look` saw."""

    #: "gunicorn worker", "uWSGI master", "Django runserver", the name of the program.
    server: str
    #: What is wrong with starting here, each a sentence that ends with what to do.
    findings: Tuple[str, ...] = ()

    def announce(
        self, logger: logging.Logger, namespace: str, worker_id: str, window: int, lease: float, bound: float
    ) -> None:
        """Log that a worker started and in what, then each finding as a warning. Durations in seconds."""
        logger.info(
            "worker %s started in namespace %s (pid %d, %s): window %d, lease %.1f s; work of a dead worker resumes "
            "within %.1f s", worker_id, namespace, os.getpid(), self.server, window, lease, bound,
            extra=about("started"),
        )  # fmt: skip
        for finding in self.findings:
            logger.warning("%s", finding)


@attr.s(auto_attribs=True, frozen=True)
class Process:
    """What is looked at: this process, or what a test made up."""

    modules: Mapping[str, Any]
    environ: Mapping[str, str]
    argv: Sequence[str]
    pid: int
    #: Returns the innermost frame of the main thread. Asked under gunicorn only: sys._current_frames() crashes the
    #: interpreter (seen on 3.11) in a process that uWSGI, telling Python nothing, forked from one with threads.
    frame: Callable[[], Optional[FrameType]]


def look(process: Optional[Process] = None) -> Environment:
    """Return what kind of process this is. Any thread; some microseconds. Never raises: a guess stops no worker."""
    try:
        return _look(process if process is not None else _this())
    except Exception:
        logging.getLogger("elk_coordinator").debug("what this process is could not be found out", exc_info=True)
        return Environment("python")


def _look(seen: Process) -> Environment:
    server, findings = "", []  # type: str, List[str]
    for question in (_uwsgi, _gunicorn, _reloader):
        answer = question(seen)
        if answer is not None:
            server, found = answer
            findings.extend(found)
            break
    findings.extend(_greenlets(seen))
    return Environment(server or _program(seen), tuple(findings))


def _this() -> Process:
    return Process(sys.modules, os.environ, list(getattr(sys, "argv", ())), os.getpid(), _main_frame)


def _main_frame() -> Optional[FrameType]:
    return sys._current_frames().get(threading.main_thread().ident or 0)


def _program(seen: Process) -> str:
    if "mod_wsgi" in seen.modules:
        return "mod_wsgi"
    name = os.path.basename(seen.argv[0]) if seen.argv else ""
    return name if name not in ("", "-c", "-m") else "python"


_Answer = Optional[Tuple[str, List[str]]]


def _gunicorn(seen: Process) -> _Answer:
    if "gunicorn.arbiter" not in seen.modules:
        return None
    # The main thread of the arbiter and of every worker stands inside a method of the same Arbiter; only its pid tells
    # them apart. It has none yet while --preload loads the application.
    frame = seen.frame()
    while frame is not None:
        if frame.f_globals.get("__name__") == "gunicorn.arbiter" and "self" in frame.f_locals:
            if getattr(frame.f_locals["self"], "pid", None) not in (None, 0, seen.pid):
                return "gunicorn worker", []
            return "gunicorn arbiter", [
                "started in gunicorn's arbiter (--preload, or a hook that runs before the fork): workers inherit no "
                "thread, so they have no coordinator, and this one competes with the arbiter's duty; start in the hook "
                "post_fork or with %s, %s" % (PER_PROCESS, _DEDICATED)
            ]
        frame = frame.f_back
    return "gunicorn", []


def _uwsgi(seen: Process) -> _Answer:
    uwsgi = seen.modules.get("uwsgi")
    options = getattr(uwsgi, "opt", None)
    if not isinstance(options, dict):  # also a module of that name that is something else
        return None
    names = {name.decode("latin-1") if isinstance(name, bytes) else str(name) for name in options}
    findings = []
    if not names & {"enable-threads", "threads"}:
        findings.append(
            "uWSGI runs without enable-threads: threads may stand still between requests, and leases run out; set "
            "enable-threads = true, %s" % _DEDICATED
        )
    if _ask(uwsgi, "i_am_the_spooler"):
        return "uWSGI spooler", findings
    if _ask(uwsgi, "mule_id"):
        return "uWSGI mule", findings
    worker = _ask(uwsgi, "worker_id")
    if worker:
        return "uWSGI worker %d" % worker, findings
    if "master" not in names and getattr(uwsgi, "numproc", 1) == 1:
        return "uWSGI", findings  # one process: it loads, and it serves
    findings.append(
        "started while uWSGI loads the application before it forks: its workers inherit no thread, so they have no "
        "coordinator, this one lives in the master, and a worker may hang for a lock that one of its threads held; "
        "set lazy-apps = true, or start in a function under "
        "@uwsgidecorators.postfork or with %s, %s" % (PER_PROCESS, _DEDICATED)
    )
    return "uWSGI master", findings


def _ask(module: Any, name: str) -> int:
    function: Optional[Callable[[], Any]] = getattr(module, name, None)
    try:
        return int(function() or 0) if callable(function) else 0
    except Exception:
        return 0


def _command(path: str) -> str:
    """Return the name of the program, or of the package under ``python -m``."""
    folder, name = os.path.split(path)
    return os.path.basename(folder) if name == "__main__.py" else name


def _reloader(seen: Process) -> _Answer:
    words = list(seen.argv[1:])
    if "runserver" in words[:1] and "django" in seen.modules:
        watched, child = "--noreload" not in words, seen.environ.get("RUN_MAIN") == "true"
        name = "Django runserver"
    elif "run" in words and _command(seen.argv[0]).startswith("flask"):
        debug = "--debug" in words or seen.environ.get("FLASK_DEBUG", "").lower() in _TRUE
        watched = ("--reload" in words or debug) and "--no-reload" not in words
        child = seen.environ.get("WERKZEUG_RUN_MAIN") == "true"
        name = "flask run"
    else:
        return None
    if not watched or child:
        return name, []
    return name + " (autoreloader)", [
        "started in the parent process of the autoreloader, which runs the application a second time in a child: two "
        "coordinators; start neither at import nor in AppConfig.ready(), but in a request with %s, %s"
        % (PER_PROCESS, _DEDICATED)
    ]


def _greenlets(seen: Process) -> List[str]:
    patched = []
    gevent = getattr(seen.modules.get("gevent.monkey"), "is_module_patched", None)
    eventlet = getattr(seen.modules.get("eventlet.patcher"), "is_monkey_patched", None)
    if callable(gevent) and gevent("threading"):
        patched.append("gevent")
    if callable(eventlet) and eventlet("thread"):
        patched.append("eventlet")
    # gunicorn loads the class of its workers before the fork, and it patches behind the hook post_fork.
    later = [
        name
        for name, module in (("gevent", "gunicorn.workers.ggevent"), ("eventlet", "gunicorn.workers.geventlet"))
        if module in seen.modules and name not in patched
    ]
    return [
        "started in a gunicorn worker before %s replaces threading there: the coordinator's threads will hang and its "
        "leases run out; use the worker class gthread, %s" % (name, _DEDICATED)
        for name in later
    ] + [
        "%s has replaced threading: the coordinator's threads are greenlets, and a processor that blocks without "
        "yielding (a database driver in C, a computation) stalls its heartbeats until its leases run out; run the "
        "coordinator in an unpatched process of its own (elk run)" % name
        for name in patched
    ]
