"""The demo from beginning to end: table, workers, faults, proof."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from typing import Any, Dict, Iterator, List, Optional, Tuple

import attr

from elk_coordinator.admin.telling import count, describe
from elk_coordinator.cli.demo.crew import Crew, Message, Worker
from elk_coordinator.cli.demo.database import Database, DemoError, orders
from elk_coordinator.cli.demo.progress import RateMeter, Screen, Snapshot
from elk_coordinator.cli.demo.proof import Check, check_database, check_store
from elk_coordinator.cli.demo.scenes import SCENES, Scene, Stage
from elk_coordinator.cli.demo.settings import WINDOW, DemoSettings
from elk_coordinator.model import PartitionStats
from elk_coordinator.partition.strategy import PartitionStrategy
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.runtime.signals import StopSignals

#: Seconds between two looks at the work; the counts are one small SELECT and one round trip.
LOOK_INTERVAL = 0.2
TICK = 0.05
#: Without any progress for so long the demo gives up and says where it stands.
STALLED = 60.0
#: Seconds the workers get to end by themselves.
STOP_PATIENCE = 15.0


class Interrupted(Exception):
    """A signal asked the demo to end."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__("signal %d" % signum)


@attr.s(auto_attribs=True, frozen=True)
class Result:
    """What came out."""

    checks: List[Check]
    findings: Dict[str, Any]
    seconds: float
    #: Of these, at most so many went into artificial pauses.
    artificial: float

    @property
    def proved(self) -> bool:
        """Whether every check holds."""
        return all(check.proved for check in self.checks)


class Attention:
    """Signals that reach the demo. The first is noticed at its next look, a twentieth of a second later. If that look
    does not come (the server hangs, say) the second breaks off what is running. Tidying up is quick, so it is never
    broken off.
    """

    def __init__(self) -> None:
        self._signals = StopSignals()
        self._received = 0
        self._breakable = False

    def signal(self, signum: int) -> None:
        """Take a signal. Runs in the handler."""
        self._received += 1
        if self._received > 1 and self._breakable:
            self._breakable = False
            raise Interrupted(signum)
        self._signals.put(signum)

    def check(self) -> None:
        """Raise :class:`Interrupted` when there was a signal."""
        signum = self._signals.poll()
        if signum is not None:
            raise Interrupted(signum)

    @contextlib.contextmanager
    def breakable(self) -> Iterator[None]:
        """Let a second signal break off the block."""
        self._breakable = True
        try:
            yield
        finally:
            self._breakable = False


class Workshop:
    """The directory of one run: the SQLite file and the logs. Removed at the end, with the table, unless kept."""

    def __init__(self, keep: bool) -> None:
        self.keep = keep
        self.path = tempfile.mkdtemp(prefix="elk-demo-")

    def __enter__(self) -> "Workshop":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        if not self.keep:
            shutil.rmtree(self.path, ignore_errors=True)

    def file(self, name: str) -> str:
        """Return the path of a file in it."""
        return os.path.join(self.path, name)

    def leave_table(self, database: Database) -> None:
        """Drop the table unless it is kept; close the connection."""
        if not self.keep:
            database.drop()
        database.close()


class Story:
    """Runs one demo. Main thread only; :meth:`end` must follow, whatever happened."""

    def __init__(
        self,
        settings: DemoSettings,
        database: Database,
        strategy: PartitionStrategy,
        workshop: Workshop,
        screen: Screen,
        attention: Attention,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._database = database
        self._strategy = strategy
        self._screen = screen
        self._workshop = workshop
        self._attention = attention
        self._clock = clock
        self._crew = Crew(settings, workshop.path)
        self._stage = Stage(settings, database, strategy, self._crew, screen, clock)
        self._meter = RateMeter()
        self._shot: Optional[Snapshot] = None
        self._stats = PartitionStats()
        self._looked_at: Optional[float] = None
        self._moved_at = clock.monotonic()
        self._artificial = 0.0

    def run(self, ids: List[int]) -> Result:
        """Tell it; return the proof.

        :raises Interrupted: by a signal.
        :raises DemoError: when it cannot go on.
        """
        with self._attention.breakable():
            self._prepare(ids)
            self._work(ids[-1])
            self._stop_workers()
            checks = check_database(self._database, self._settings) + check_store(self._strategy, self._settings)
        return Result(checks, self._stage.findings, self._screen.elapsed, self._artificial)

    def end(self) -> None:
        """End every worker that is left. Safe to call again."""
        try:
            self._screen.finish()
        finally:  # also when nobody reads any more
            self._crew.end()

    # -- the acts

    def _prepare(self, ids: List[int]) -> None:
        self._database.create()
        self._database.insert_orders(orders(ids))
        self._attention.check()
        self._screen.say(
            "TABLE     orders: %s with ids %d to %d, holes in between" % (count(len(ids), "row"), ids[0], ids[-1])
        )
        for number in range(1, self._settings.workers + 1):
            self._crew.hire("worker-%d" % number)
        self._screen.say(
            "WORKERS   %d processes (pids %s), window %d each"
            % (len(self._crew.workers), " ".join(str(worker.pid) for worker in self._crew.workers), WINDOW)
        )

    def _work(self, last_id: int) -> None:
        scenes: List[Tuple[str, Scene]] = [(name, scene(self._stage)) for name, scene in SCENES]
        self._moved_at = self._clock.monotonic()
        while True:
            self._listen(TICK)
            self._look()
            for name, scene in list(scenes):
                try:
                    next(scene)
                except StopIteration:
                    scenes.remove((name, scene))
                    self._moved_at = self._clock.monotonic()
            stats = self._stats
            planned = stats.last_allocated_id is not None and stats.last_allocated_id >= last_id
            if planned and not stats.open and not scenes:
                break
            if self._clock.monotonic() - self._moved_at > STALLED:
                raise self._broken(
                    "nothing moved for %g s; not seen yet: %s; partitions: %s"
                    % (STALLED, "; ".join(name for name, _ in scenes) or "the end", describe(stats)),
                    [worker for worker in self._crew.workers if not worker.killed],
                )
        self._looked_at = None
        self._look()
        self._screen.finish(self._shot)

    def _stop_workers(self) -> None:
        for worker in self._crew.usable:
            worker.tell("stop")
        deadline = self._clock.monotonic() + STOP_PATIENCE
        while any(worker.alive for worker in self._crew.workers):
            self._listen(TICK)
            if self._clock.monotonic() > deadline:
                late = [worker for worker in self._crew.workers if worker.alive]
                raise self._broken(
                    "%s did not stop within %g s" % (", ".join(worker.name for worker in late), STOP_PATIENCE), late
                )

    # -- looking

    def _listen(self, timeout: float) -> None:
        self._attention.check()
        for worker, message in self._crew.listen(timeout):
            self._hear(worker, message)

    def _hear(self, worker: Worker, message: Message) -> None:
        kind = message["event"]
        self._stage.heard.append((worker, message))
        if kind == "started":
            worker.started = True
        elif kind == "paused":
            # Pauses of slots that wait side by side take the time of one; some overlap with the work of others, too.
            self._artificial += message["seconds"] / (WINDOW * max(1, len(self._crew.usable)))
        elif kind == "leader":
            if "first_leader" not in self._stage.findings:
                self._stage.findings["first_leader"] = worker.name
                self._screen.say("ELECTED   %s leads, with term %s" % (worker.name, message["term"]))
        elif kind == "error":
            raise self._broken("%s could not start: %s" % (worker.name, message["message"]), [])
        elif kind == "failed":
            self._screen.say("FAILED    partition %s for good: %s" % (message["partition"], message["error"]))
        elif kind == "ended" and not worker.killed and message["code"]:
            self._attention.check()  # a signal to the whole group ends the workers as well; that is no failure
            raise self._broken("%s ended with code %d" % (worker.name, message["code"]), [worker])

    def _look(self) -> None:
        now = self._clock.monotonic()
        if self._looked_at is not None and now - self._looked_at < LOOK_INTERVAL:
            return
        self._looked_at = now
        rows = int(self._database.scalar("SELECT sum(rows_done) FROM fence") or 0)
        self._stats = stats = self._strategy.get_partition_stats()
        before = self._shot.rows if self._shot is not None else 0
        usable = len(self._crew.usable)
        if rows > before:
            self._moved_at = now
        self._shot = Snapshot(
            rows=min(rows, self._settings.rows),
            total=self._settings.rows,
            rate=self._meter.update(now, rows),
            running=stats.running,
            failed=stats.failed,
            workers=usable,
        )
        self._stage.fraction = self._shot.fraction
        self._screen.show(self._shot)

    def _broken(self, what: str, workers: List[Worker]) -> DemoError:
        """Show the ends of these workers' logs, keep everything, and return the error."""
        self._workshop.keep = True
        self._screen.finish()
        for worker in workers:
            self._screen.text("the end of %s:\n%s" % (worker.log_path, _tail(worker.log_path)))
        return DemoError("%s; logs and table are kept in %s" % (what, self._workshop.path))


def _tail(path: str, lines: int = 12) -> str:
    with open(path, "rb") as log:
        return b"".join(log.readlines()[-lines:]).decode("utf-8", "replace").rstrip()
