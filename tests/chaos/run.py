"""One chaos run: start everything, let the schedule loose, let it calm down, ask ``elk verify``, audit the journals."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
from typing import Any, Dict, List, Optional

import attr

from elk_coordinator import StrategyType
from elk_coordinator.errors import ElkError
from elk_coordinator.testing import EmbeddedServer
from tests.chaos import schedule
from tests.chaos.audit import Audit
from tests.chaos.crew import ROOT, Crew
from tests.chaos.events import EventLog
from tests.chaos.faults import strike
from tests.chaos.fence import CELL, Fence, Space
from tests.chaos.journal import now
from tests.chaos.schedule import LEASE, Planned
from tests.chaos.stage import Stage
from tests.chaos.wire import Wire

NAMESPACE = "chaos"
#: Shares of the time: IDs grow and faults begin; after that it must calm down by itself.
FAULTS_UNTIL = 0.85
#: Seconds without any progress, once the faults have ended, after which it is stuck.
STUCK_AFTER = 60.0
#: Seconds until the first partition is done.
BEGIN_WITHIN = 60.0
OPTIONS: Dict[str, Any] = {
    "heartbeat_interval": LEASE / 3, "worker_ttl": LEASE, "leader_lock_expiry": LEASE, "allocation_interval": 1.0,
    "retry_backoff": [0.1, 1.0], "stop_timeout": 8.0, "metrics_enabled": False, "task_window_size": 8,
    "task_timeout": 6.0, "max_pending_partitions": 400,
    "circuit_breaker": {"consecutive_failures": 5, "total_failures": 20, "open_timeout": 2.0},
}  # fmt: skip
#: The controls: a guard of the library, or of the user, switched off. Each run with one must end with violations.
BROKEN: Dict[str, List[List[str]]] = {
    "report": [["partition/work", "not handled[id] and s.token == token\n", "not handled[id]\n"]],
    "tokens": [["*", "return math.max(last + 1, now, floor + 1)", "return last + 1"]],
    "fence": [],
}


@attr.s(auto_attribs=True, frozen=True, kw_only=True)
class Settings:
    """What a run is asked for."""

    seconds: float
    seed: int
    strategy: str = "hash"
    workers: int = 6
    without: List[str] = attr.Factory(list)
    only: List[str] = attr.Factory(list)
    out: str = "build/chaos"
    broken: str = ""
    #: IDs a second that come to exist.
    rate: float = 40_000.0
    #: Seconds that a processor takes for 500 of them, in the mean.
    pause: float = 0.2
    #: Of 100 attempts so many never look at ``ctx``.
    blind: int = 20
    #: Seconds between two faults, in the mean.
    gap: float = 3.0
    at_least: int = 0

    def command(self) -> str:
        """Return what replays the schedule."""
        words = ["python -m tests.chaos --seconds %g --seed %d --strategy %s --workers %d --rate %g --gap %g "
                 "--pause %g --blind %d" % (self.seconds, self.seed, self.strategy, self.workers, self.rate, self.gap,
                                            self.pause, self.blind)]  # fmt: skip
        words += ["--without %s" % ",".join(self.without)] if self.without else []
        words += ["--only '%s'" % ",".join(self.only)] if self.only else []
        words += ["--break %s" % self.broken] if self.broken else []
        return " ".join(words)


@attr.s(auto_attribs=True)
class Outcome:
    """What a run ended with."""

    audit: Audit
    violations: List[str]
    facts: Dict[str, Any]


class Run:
    """Everything of one run; :meth:`go` does it, and leaves nothing running behind."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folder = pathlib.Path(settings.out).resolve()
        shutil.rmtree(str(self.folder), ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.faults_end = settings.seconds * FAULTS_UNTIL
        self.schedule = schedule.draw(settings.seed, self.faults_end, settings.workers, settings.gap, settings.without,
                                      settings.only)  # fmt: skip
        schedule.save(str(self.folder / "schedule.json"), self.schedule)
        # Jumps come on top of the steady growth.
        jumps = sum(f.n for f in self.schedule if f.kind == "IDs jump")
        self.last = int((self.faults_end + jumps + 10) * settings.rate) // CELL * CELL + CELL
        self.broken_off = threading.Event()
        self.problems: List[str] = []
        self._threads: List[threading.Thread] = []

    # ---------------------------------------------------------------- the course

    def go(self) -> Outcome:
        previous = signal.signal(signal.SIGINT, self._interrupt)
        try:
            with contextlib.ExitStack() as stack:
                facts = self._course(stack)
        finally:
            signal.signal(signal.SIGINT, previous)
        facts.update(problems=self.problems, settings=attr.asdict(self.settings), command=self.settings.command(),
                     broken_off=self.broken_off.is_set())  # fmt: skip
        return judge(self.folder, facts)

    def _interrupt(self, *_: Any) -> None:
        if self.broken_off.is_set():
            raise KeyboardInterrupt
        print("breaking off: no more faults, the rest is done and audited; once more ends at once", flush=True)
        self.broken_off.set()

    def _course(self, stack: contextlib.ExitStack) -> Dict[str, Any]:
        settings = self.settings
        events = EventLog(str(self.folder / "events.jsonl"))
        stack.callback(events.close)
        # "no" writes before each answer, as "always" does, and leaves to the kernel when the disk has it: processes are
        # killed here, not machines. "everysec" may answer first, which would be one more loss of data.
        server = EmbeddedServer(own=True, persistence="aof", extra_args=("--appendfsync", "no"),
                                prefer=os.environ.get("ELK_TEST_SERVER") or None)  # fmt: skip
        stack.enter_context(server)
        space = Space(str(self.folder / "space.bin"))
        stack.callback(space.close)
        space.top = int(5 * settings.rate) // CELL * CELL
        Fence(str(self.folder / "fence.bin"), self.last).close()
        config = {
            "namespace": NAMESPACE, "strategy": settings.strategy, "fence": str(self.folder / "fence.bin"),
            "space": str(self.folder / "space.bin"), "cells": self.last // CELL, "seed": settings.seed,
            "pause": settings.pause, "blind": settings.blind, "options": OPTIONS, "broken": settings.broken,
            "scripts": BROKEN[settings.broken] if settings.broken else [],
        }  # fmt: skip
        wires = [Wire(server.url) for _ in range(settings.workers + 1)]
        crew = Crew(self.folder, events, config, wires)
        stack.callback(crew.dispose)
        crew.slots[-1].wanted = False  # for who joins and leaves
        stage = Stage(server, NAMESPACE, StrategyType(settings.strategy), crew, space, events, settings.rate, self.last)
        stack.callback(stage.close)
        print("chaos: seed %d, %d faults in %g s, %d workers, strategy %s, %s" % (
            settings.seed, len(self.schedule), self.faults_end, settings.workers, settings.strategy, server.label),
            flush=True)  # fmt: skip
        self._begin_work(stage)
        origin = now()
        events.put("started")
        self._let_loose(stage, origin)
        ended = now()
        stage.over.set()
        for thread in self._threads:
            thread.join(30.0)
            if thread.is_alive():
                self.problems.append("a fault did not end: %s" % thread.name)
        events.put("calm")
        calmed = self._calm_down(stage, ended)
        events.put("dismissed")
        self.problems += crew.strange + crew.dismiss(30.0)
        verified = self._verify(server.url)
        return {
            "top": space.top, "faults_ended": ended - origin, "calmed": calmed, "server": server.label,
            "seconds": now() - origin, "verify": verified,
        }  # fmt: skip

    def _begin_work(self, stage: Stage) -> None:
        """Wait until something was done: from then on faults count."""
        until = now() + BEGIN_WITHIN
        while now() < until and not self.broken_off.is_set():
            stage.crew.tend()
            with contextlib.suppress(ElkError):
                if stage.partitions.get_partition_stats().completed:
                    return
            self.broken_off.wait(0.1)
        self.problems.append("nothing was done within %g s of the start" % BEGIN_WITHIN)

    def _let_loose(self, stage: Stage, origin: float) -> None:
        coming = list(self.schedule)
        grown, told, noted = origin, origin, 0.0
        while now() - origin < self.faults_end and not self.broken_off.is_set():
            stage.crew.tend()
            at = now()
            ids = int((at - grown) * self.settings.rate) // CELL * CELL
            if ids:
                stage.grow(ids)
                grown += ids / self.settings.rate
            if at - noted >= 1.0:
                noted = at
                stage.events.put("top", top=stage.space.top)
            while coming and at - origin >= coming[0].at:
                self._begin(stage, coming.pop(0))
            if at - told >= min(10.0, self.settings.seconds / 6.0):
                told = at
                self._tell(stage, at - origin)
            self.broken_off.wait(0.05)

    def _begin(self, stage: Stage, fault: Planned) -> None:
        thread = threading.Thread(target=strike, args=(stage, fault), name="fault-%d-%s" % (fault.number, fault.kind))
        thread.daemon = True
        self._threads.append(thread)
        thread.start()

    def _tell(self, stage: Stage, elapsed: float) -> None:
        running = [thread.name.split("-", 2)[2] for thread in self._threads if thread.is_alive()]
        with contextlib.suppress(ElkError):
            stats = stage.partitions.get_partition_stats()
            print("%5.0f s  IDs %s, planned to %s, partitions %d done %d open %d failed, now: %s" % (
                elapsed, "{:,}".format(stage.space.top), "{:,}".format(stats.last_allocated_id or 0), stats.completed,
                stats.open, stats.failed, ", ".join(running) or "-"), flush=True)  # fmt: skip
            return
        print("%5.0f s  the store does not answer, now: %s" % (elapsed, ", ".join(running) or "-"), flush=True)

    # ---------------------------------------------------------------- the end

    def _calm_down(self, stage: Stage, ended: float) -> Optional[float]:
        """No more faults: wait until all is done, as an operator who looks now and then would."""
        for slot in stage.crew.slots:
            slot.wire.calm()
        stage.crew.thaw()
        stage.space.cure()
        if stage.server.pid is None:
            stage.server.restart()
        stage.free_memory()
        asked, seen, moved = 0.0, "", now()
        while now() - moved < STUCK_AFTER:
            stage.crew.tend()
            with contextlib.suppress(ElkError):
                stats = stage.partitions.get_partition_stats()
                if seen != repr(stats):
                    seen, moved = repr(stats), now()
                if stats.last_allocated_id == stage.space.top and not stats.open and not stats.failed:
                    print("calm %.1f s after the last fault" % (now() - ended))
                    return now() - ended
                if now() - asked > 2.0:
                    asked = now()
                    if stage.partitions.is_paused():
                        stage.admin.resume()
                    if stats.failed:
                        stage.admin.retry_failed()
            threading.Event().wait(0.1)
        self.problems.append("stuck: nothing moved for %g s after the last fault: IDs up to %d; %s" % (
            STUCK_AFTER, stage.space.top, seen))  # fmt: skip
        return None

    def _verify(self, url: str) -> str:
        """Ask ``elk verify``; return its last line."""
        command = [sys.executable, "-m", "elk_coordinator", "--namespace", NAMESPACE, "--redis", url, "verify"]
        env = dict(os.environ, PYTHONPATH=str(ROOT))
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, timeout=300.0)
        text = done.stdout.decode("utf-8", "replace").strip()
        if done.returncode:
            self.problems.append("elk verify: exit code %d: %s" % (done.returncode, text[-1000:]))
        return text.splitlines()[-1] if text else ""


def judge(folder: pathlib.Path, facts: Dict[str, Any]) -> Outcome:
    """Audit what is in *folder*; keep the facts beside it, so that the report can be made again."""
    (folder / "run.json").write_text(json.dumps(facts, indent=1))
    audit = Audit(folder, facts["top"])
    violations = [*facts["problems"], *audit.violations]
    wanted = facts["settings"]["at_least"]
    if audit.applied < wanted and not facts["broken_off"]:
        violations.append("only %d IDs were processed, not %d" % (audit.applied, wanted))
    return Outcome(audit, violations, facts)
