"""Switches off each guard of the table in turn, in a copy of the package, and shows which tests die of it.

::

    make mutants                         all of them
    make mutants ARGS="-k report"        those with "report" in their name or path
    make mutants ARGS="-k report --list" name them only

Ends with 1 when a guard is missed by nobody (a survivor), when its text is no longer in the code, or when what died did
not die of the guard (a script that does not compile, say).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import pathlib
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from typing import Any, Dict, List, Optional, Sequence, Tuple

import attr
import pytest

from tests.mutants.guard import PACKAGE, ROOT, Guard
from tests.mutants.guards import AREAS

#: Seconds after which a run of one guard's tests is given up.
LIMIT = 240.0
#: What the tests need beside the package.
_FILES = ("pyproject.toml", "setup.cfg")
#: Signs that a test died of something else than the missing guard.
_WRONG = (
    ("Error compiling script", "the mutated script does not compile"),
    ("times, not once", "a test replaces the same text itself"),
    ("SyntaxError", "the mutated module does not compile"),
    ("ImportError while loading", "the tests cannot be loaded"),
)
#: Loaded once and inherited by every run: most of the time of a short run would go there.
_HEAVY = (
    "asyncio", "concurrent.futures.thread", "fakeredis", "flask", "http.server", "hypothesis", "logging.handlers",
    "prometheus_client", "redis.cluster", "redis.sentinel", "sqlalchemy", "sqlite3", "tenacity",
    "wsgiref.simple_server",
)  # fmt: skip
#: Hypothesis was loaded before pytest could rewrite its assertions; nobody looks at those.
_QUIET = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
_FIRST = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)

Verdict = Dict[str, Any]


class Copy:
    """A copy of package and tests that one guard after the other is switched off in."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        skip = shutil.ignore_patterns("__pycache__", "*.pyc")
        for name in (PACKAGE, "tests"):
            shutil.copytree(str(ROOT / name), str(root / name), ignore=skip)
        for name in _FILES:
            shutil.copy(str(ROOT / name), str(root / name))

    def put(self, path: str, text: str) -> None:
        """Write one module or script; the compiled form of the former text goes."""
        target = self.root / PACKAGE / path
        target.write_text(text, encoding="utf-8")
        for compiled in target.parent.glob("__pycache__/%s.*.pyc" % target.stem):
            compiled.unlink()

    def start(self, args: Sequence[str]) -> int:
        """Start pytest in a child of this process, which has loaded what is not ours already; return its pid."""
        said = open(str(self.root / "said.txt"), "wb")
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                os.setsid()
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
                os.chdir(str(self.root))
                os.environ["PYTHONPATH"] = str(self.root)
                sys.path.insert(0, str(self.root))
                for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", PACKAGE)]:
                    del sys.modules[name]
                if not str(importlib.import_module(PACKAGE).__file__).startswith(str(self.root)):
                    raise RuntimeError("the copy in %s is not what Python imports" % self.root)
                code = int(pytest.main(["-p", "no:cacheprovider", "-q", "--tb=short", "-m", "", *_QUIET, *args]))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        said.close()
        return pid

    def said(self) -> str:
        """Return what pytest said."""
        return (self.root / "said.txt").read_text(encoding="utf-8", errors="replace")


@attr.s(auto_attribs=True)
class Trial:
    """Tests that run in a copy, of a guard or (None) of the code as it is."""

    copy: Copy
    guard: Optional[Guard]
    pid: int
    began: float

    def wait(self) -> Optional[int]:
        """Return pytest's exit code when it has ended, -1 when it was given up, None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 70
        if time.monotonic() - self.began > LIMIT:
            self.end()
            return -1
        return None

    def end(self) -> None:
        """End it now, with whatever it started in its group."""
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class Bench:
    """The copies and what runs in them; nothing runs on behind its end."""

    def __init__(self, copies: Sequence[Copy]) -> None:
        self.free = list(copies)
        self.trials: List[Trial] = []

    def start(self, guard: Optional[Guard], args: Sequence[str]) -> None:
        """Run tests in the last free copy."""
        copy = self.free.pop()
        self.trials.append(Trial(copy, guard, copy.start(args), time.monotonic()))

    def ended(self) -> List[Tuple[Trial, int]]:
        """Return what has ended since the last call, with pytest's exit codes; waits a moment first."""
        time.sleep(0.02)
        out = []
        for trial in list(self.trials):
            code = trial.wait()
            if code is not None:
                self.trials.remove(trial)
                self.free.append(trial.copy)
                out.append((trial, code))
        return out

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *exc: Any) -> None:
        for trial in self.trials:
            trial.end()


def selection(guard: Guard) -> str:
    # Controls switch a guard off themselves, by its text, which is gone here.
    return "not control" + (" and (%s)" % guard.only if guard.only else "")


def judge(guard: Guard, code: int, said: str, seconds: float) -> Verdict:
    """Return what became of a guard whose tests ended with *code*."""
    verdict: Verdict = {
        "guard": guard.name, "path": guard.path, "promise": guard.promise, "outcome": "unclear", "killed_by": "",
        "said": "", "seconds": round(seconds, 1),
    }  # fmt: skip
    first = _FIRST.search(said)
    wrong = [why for sign, why in _WRONG if sign in said]
    if code == 0:
        verdict["outcome"] = "survived"
    elif code == 1 and first is not None and not wrong:
        verdict.update(outcome="killed", killed_by=first.group(1))
    else:
        why = wrong[0] if wrong else "pytest ended with %d" % code
        verdict["said"] = "%s\n%s" % (why, said[-3000:])
    return verdict


def baseline(copies: Sequence[Copy], guards: Sequence[Guard]) -> Optional[str]:
    """Run the tests of all these guards on the code as it is; return what failed, or None."""
    chosen: Dict[str, List[str]] = {}
    for guard in guards:
        tests = chosen.setdefault(selection(guard), [])
        tests += [name for name in guard.tests if name not in tests]
    waiting = [["-x", "-k", only, *names] for only, names in sorted(chosen.items())]
    with Bench(copies) as bench:
        while waiting or bench.trials:
            while waiting and bench.free:
                bench.start(None, waiting.pop())
            for trial, code in bench.ended():
                if code != 0:
                    return trial.copy.said()[-6000:]
    return None


def run(guards: Sequence[Guard], jobs: int, check: bool) -> List[Verdict]:
    """Try all guards, *jobs* at the same time."""
    verdicts: Dict[str, Verdict] = {}
    waiting = list(guards)

    def end(guard: Guard, verdict: Verdict) -> None:
        verdicts[guard.name] = verdict
        noticed = verdict["killed_by"].rpartition("::")[2] or verdict["said"].partition("\n")[0]
        print("%-9s %5.1f s  %s: %s" % (verdict["outcome"], verdict["seconds"], guard.name, noticed), flush=True)

    with tempfile.TemporaryDirectory(prefix="elk-mutants-") as folder:
        copies = [Copy(pathlib.Path(folder).resolve() / str(number)) for number in range(jobs)]
        if check:
            print("the chosen tests on the code as it is ...", flush=True)
            failed = baseline(copies, guards)
            if failed is not None:
                raise SystemExit("%s\nthe tests fail without any guard switched off" % failed)
        with Bench(copies) as bench:
            while waiting or bench.trials:
                while waiting and bench.free:
                    guard = waiting.pop(0)
                    try:
                        mutated = guard.mutate(guard.source())
                    except (OSError, ValueError) as exc:
                        end(guard, judge(guard, 70, str(exc), 0.0))
                        continue
                    bench.free[-1].put(guard.path, mutated)
                    bench.start(guard, ["-x", "-k", selection(guard), *guard.tests])
                for trial, code in bench.ended():
                    assert trial.guard is not None
                    trial.copy.put(trial.guard.path, trial.guard.source())
                    end(trial.guard, judge(trial.guard, code, trial.copy.said(), time.monotonic() - trial.began))
    return [verdicts[guard.name] for guard in guards]


def table(verdicts: Sequence[Verdict]) -> str:
    """Return the verdicts as a table in reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", "", "   * - guard", "     - promise", "     - noticed by", ""]
    for verdict in verdicts:
        noticed = verdict["killed_by"].rpartition("::")[2] or "**%s**" % verdict["outcome"]
        words = re.sub(r"\[.*", "", noticed).replace("test_", "", 1).replace("_", " ")
        lines += ["   * - ``%s``" % verdict["guard"], "     - %s" % verdict["promise"], "     - %s" % words]
    return "\n".join(lines) + "\n"


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-k", default="", help="only guards with this in name or path; several, parted by commas")
    parser.add_argument("--jobs", type=int, default=2, help="guards tried at the same time")
    parser.add_argument("--list", action="store_true", help="name the guards and end")
    parser.add_argument("--no-baseline", action="store_true", help="do not run the tests on the code as it is first")
    parser.add_argument("--out", default="build", help="folder for mutants.json and mutants.rst")
    asked = parser.parse_args(argv)
    everything = [guard for area in AREAS.values() for guard in area]
    words = [word for word in asked.k.split(",") if word]
    guards = [g for g in everything if not words or any(word in g.name or word in g.path for word in words)]
    if asked.list:
        print("\n".join("%-34s %s" % (guard.name, guard.promise) for guard in guards))
        return 0
    # Copies go and runs end also when this is terminated.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    for name in _HEAVY:
        importlib.import_module(name)
    verdicts = run(guards, asked.jobs, not asked.no_baseline)
    out = pathlib.Path(asked.out)
    out.mkdir(parents=True, exist_ok=True)
    seconds = round(time.monotonic() - began, 1)
    report = {"guards": len(guards), "seconds": seconds, "verdicts": verdicts}
    (out / "mutants.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (out / "mutants.rst").write_text(table(verdicts), encoding="utf-8")
    wrong = [verdict for verdict in verdicts if verdict["outcome"] != "killed"]
    print()
    for verdict in wrong:
        print("%s: %s (%s)\n%s" % (verdict["outcome"].upper(), verdict["guard"], verdict["promise"], verdict["said"]))
    print("%d of %d guards are missed when they are switched off; %.0f s" % (
        len(guards) - len(wrong), len(guards), seconds))  # fmt: skip
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
