"""One death at a named point, the standby that starts at that moment, and what must have become of the work."""

from __future__ import annotations

import pathlib
import random
import re
import signal
from typing import Any, Callable, Dict, List, Optional, Sequence

from elk_coordinator import (
    Coordinator,
    CreatePartition,
    PartitionStatus,
    RedisDataStore,
    StrategyType,
    create_strategy,
)
from elk_coordinator.admin.service import AdminService
from elk_coordinator.errors import ElkError
from elk_coordinator.model import Outcome, Report
from elk_coordinator.partition.factory import command_store
from elk_coordinator.protocols import EVENT_KINDS, Event, Listener
from elk_coordinator.testing import wait_until
from tests.faults.crash_points import INTERVAL, Steady
from tests.faults.crash_table import LEADS_TO, PARTITIONS, WIDTH, WORKER_POINTS, Point
from tests.faults.fleet import SHORT, Fleet, Worker, now
from tests.faults.worker import Numbers

#: Lease of what dies. The standby has a longer one: nothing of it may run out on a busy machine.
LEASE = 2.0
DYING: Dict[str, Any] = dict(
    SHORT, heartbeat_interval=0.6, worker_ttl=LEASE, leader_lock_expiry=LEASE, task_window_size=1
)
STANDBY: Dict[str, Any] = dict(SHORT, heartbeat_interval=2.0, worker_ttl=8.0, leader_lock_expiry=8.0)
#: A lease, a scan of the leader's recovery, a poll of a worker for work; and what a busy machine may add.
BOUND, BUSY = LEASE + 1.0 + 2.0, 3.0
#: What the operator gives to all.
PRIORITY = 5
_OF_WORKERS = {point.name for point in WORKER_POINTS}


class Standby(Listener):
    """A coordinator in the test's own process that takes over; to the fleet it looks like one of its workers."""

    of = Worker.of

    def __init__(self, case: "Case") -> None:
        self.name = "standby"
        self.told: List[Dict[str, Any]] = []
        self.process = self
        blocks = [] if case.point.step == "command" else [[1, case.last]]
        self._store = RedisDataStore.from_url(case.url)
        for script in case.scripts:
            self._store.scripts.replace(*script)
        never: Any = None
        self._coordinator = Coordinator(
            case.namespace, self._store, Steady(case.journal, checkpoint=False, fenced=case.fenced),
            Numbers({"blocks": blocks, "size": WIDTH}, never, never), worker_id=self.name, listeners=(self,),
            strategy=case.strategy, **STANDBY,
        )  # fmt: skip
        self._running = True
        self.began = now()
        self._coordinator.start()

    def poll(self) -> int:
        """Say to the fleet that there is no process to wait for."""
        return 0

    def tail(self) -> str:
        return "%s %s" % (self._coordinator.health().problems, self.told[-12:])

    def stop(self) -> bool:
        self._running = False
        return self._coordinator.stop()

    def dispose(self) -> None:
        if self._running:
            self.stop()
        self._store.close()


def _hear(kind: str) -> Any:
    def handler(self: Standby, event: Event) -> None:
        self.told.append(dict(event.facts, event=kind, t=now()))

    return handler


for _kind in EVENT_KINDS:
    setattr(Standby, "on_" + _kind, _hear(_kind))


class Case(Fleet):
    """A worker that dies at *point*.

    :param scripts: replacements in the scripts of everybody, for controls. :param halved: in those of the one that
        dies: half of a step, as if the other half were to be sent after it.
    :param broken: other guards switched off in it. :param fenced: whether effects respect the fence.
    :param looks: whether what is left is compared with the table before the standby starts.
    """

    def __init__(
        self, folder: pathlib.Path, url: str, namespace: str, point: Point, strategy: str, seed: int,
        scripts: Sequence[Sequence[str]] = (), halved: Sequence[Sequence[str]] = (), broken: Sequence[str] = (),
        fenced: bool = True, looks: bool = True, patience: float = 20.0, nth: Optional[int] = None,
    ) -> None:  # fmt: skip
        self.works = point.name in _OF_WORKERS
        small = self.works or point.step in ("sweep", "command", "order", "archive")
        super().__init__(folder, url, namespace, PARTITIONS * WIDTH if small else LEADS_TO, WIDTH)
        self.point, self.strategy = point, strategy
        self.nth = nth or random.Random("%d %s %s" % (seed, point.name, strategy)).randint(1, point.most)
        self.scripts, self.broken, self.fenced, self.looks = scripts, broken, fenced, looks
        self.label = "%s no. %d, %s" % (point.name, self.nth, strategy)
        #: Seconds from the death until others had all that the dead one had.
        self.seconds: Optional[float] = None
        self.error: Optional[BaseException] = None
        self.over = False
        self.repeated = 0
        kind = StrategyType(strategy)
        self.partitions = create_strategy(kind, namespace, self.store)
        self._standby: Optional[Standby] = None
        self._said = False
        self._left: Dict[str, Any] = {}
        self._held: List[int] = []
        self._patience = patience
        self._prepare(halved)
        self._began = now()

    # -- before it dies

    def _prepare(self, halved: Sequence[Sequence[str]]) -> None:
        step, crash = self.point.step, {"point": self.point.name, "nth": self.nth, "broken": self.broken}
        if self.works or step in ("sweep", "order", "archive"):
            ranges = [CreatePartition(i + 1, i * WIDTH + 1, (i + 1) * WIDTH) for i in range(PARTITIONS)]
            self.partitions.create_partitions_if_not_exist(ranges)
        planner: Any = not self.works
        if step == "sweep":
            kind = StrategyType(self.strategy)
            ghosts = create_strategy(kind, self.namespace, self.store, partition_lock_expiry=0.05)
            assert len(ghosts.claim_partitions("ghost", 2)) == 2
        elif step == "command":
            planner = {"blocks": []}
            ranges = [(i * WIDTH + 1, (i + 1) * WIDTH) for i in range(PARTITIONS)]
            self._command = AdminService(self.partitions, "test").create(ranges)
        elif step == "order":
            admin = AdminService(self.partitions, "test")
            admin.pause()
            commands = command_store(self.partitions)
            self._as_leader(lambda term: commands.step(term, commands.first()))
            self._command = admin.set_priority(range(1, PARTITIONS + 1), PRIORITY)
            admin.resume()
        elif step == "archive":
            self._complete(PARTITIONS // 2)
            assert self._archive() == PARTITIONS // 2
            self._complete(PARTITIONS // 2)
            crash["archive_every"] = 0.1
        crash["claims"] = self.works
        crash["pause"] = {"start": 0.2, "renew": 4.0, "release": 20.0}.get(step, 0.0)
        crash["prefetch"] = 2 if step == "start" else 0
        crash.update(fenced=self.fenced, fails=step == "fail")
        self._victim = self.start(
            "victim", planner=planner, wait=False, defaults=DYING, options={"strategy": self.strategy}, crash=crash,
            scripts=[*self.scripts, *halved],
        )  # fmt: skip

    def _complete(self, count: int) -> None:
        claimed = self.partitions.claim_partitions("earlier", count)
        reports = [Report(p.partition_id, p.fencing_token, Outcome.COMPLETED, WIDTH) for p in claimed]
        self.partitions.report_partitions("earlier", reports)

    def _as_leader(self, does: Callable[[int], Any]) -> Any:
        """Lead for a moment."""
        store = self.partitions.store
        term = store.acquire_lock("leader", "test", 5.0, 0)
        assert term is not None
        done = does(term)
        store.release_lock("leader", term)
        return done

    def _archive(self) -> Any:
        """Compress what completed; return how many."""
        return self._as_leader(lambda term: self.partitions.archive_page(term, 0, 2**62))

    def story(self) -> str:
        return "\n".join("--- %s\n%s" % (worker.name, worker.tail()) for worker in self.workers)

    # -- step by step, so that many cases share one loop

    def go_on(self) -> bool:
        """Do what can be done now, without waiting; return whether it is over."""
        if not self.over:
            try:
                if self._standby is None:
                    self._await_death()
                else:
                    self._await_end()
            except (AssertionError, ElkError) as exc:
                self.error, self.over = exc, True
            if self.over:
                self.dispose()
        return self.over

    def result(self) -> None:
        """Raise what failed."""
        if self.error is not None:
            raise AssertionError("%s: %s" % (self.label, self.error)) from self.error

    def _await_death(self) -> None:
        victim = self._victim
        if victim.process.poll() is None:
            waits = {"release": "began", "resign": "became_leader"}.get(self.point.step)
            if waits and not self._said and victim.of(waits):
                self._said = True
                victim.say("stop")
            assert now() - self._began < self._patience, "was never reached\n%s" % victim.tail()
            return
        victim._reader.join(5.0)
        told = victim.of("crash")
        assert told and told[0]["point"] == self.point.name, "was never reached\n%s" % victim.tail()
        assert victim.process.returncode == -signal.SIGKILL, victim.tail()
        self._died = told[0]["t"]
        seen, wanted = self._see(), self.point.left(self.nth)
        wrong = {name: seen[name] for name, value in wanted.items() if seen[name] != value}
        assert not wrong or not self.looks, "left %s, expected %s" % (wrong, wanted)
        self._left = dict(seen, **wanted)
        self._held = [p.partition_id for p in self._there() if p.status in _HELD]
        self._before = {p.partition_id: (p.min_id, p.max_id) for p in self.partitions.get_all_partitions()}
        self._standby = Standby(self)
        self.workers.append(self._standby)  # type: ignore[arg-type]

    def _there(self) -> List[Any]:
        return self.partitions.get_all_active_partitions()

    def _see(self) -> Dict[str, Any]:
        """Return what the store and the journal hold."""
        stats, held = self.partitions.get_partition_stats(), [p for p in self._there() if p.status in _HELD]
        everything = self.partitions.get_all_partitions()
        index, store = self.partitions._archive_index(), self.store.namespaced(self.namespace)
        return {
            "total": stats.total, "pending": stats.pending, "claimed": stats.claimed, "running": stats.running,
            "completed": stats.completed,
            # Both as they were written, also when their time has run out meanwhile.
            "leads": store.read_lock("leader")[1] > 0,
            "registered": store.ask("ZSCORE", store.keys["workers"], "victim") is not None,
            "attempts": len(self.journal.attempts()),
            "effects": sum(high - low + 1 for low, high in self.journal.applied()),
            "checkpoint": sum(p.checkpoint - p.min_id + 1 for p in held if p.checkpoint is not None),
            "lost": sum(p.deliveries for p in everything), "failures": sum(p.attempt for p in everything),
            "raised": sum(p.priority == PRIORITY for p in everything), "paused": self.partitions.is_paused(),
            "archived": sum(int(line.split()[1]) for line in index.values()),
            "chunks": sum(":value:chunk-" in key for key in store.all_keys()),
        }  # fmt: skip

    def _await_end(self) -> None:
        standby = self._standby
        assert standby is not None
        late = now() - standby.began > BOUND + BUSY
        if self.point.step in ("command", "order"):
            self._check_command(("queued", "running", "done"))
        if not self.done() or not standby.of("became_leader"):
            assert not late, "was not taken over within %g s\n%s" % (BOUND + BUSY, self.story())
            return
        if any(worker.worker_id == "victim" for worker in self.partitions.workers()):
            assert not late, "the dead worker is still registered"
            return
        assert standby.stop(), "the standby did not end"
        self.over = True
        self._check()

    # -- what must hold

    def _check(self) -> None:
        tally, left = self.check(), self._left
        stats = self.partitions.get_partition_stats()
        assert stats.completed == stats.total == self.last // WIDTH, "completed %s" % (stats,)
        ranges = {p.partition_id: (p.min_id, p.max_id) for p in self.partitions.get_all_partitions()}
        expected = [(i * WIDTH + 1, (i + 1) * WIDTH) for i in range(self.last // WIDTH)]
        assert [ranges[i] for i in sorted(ranges)] == expected, "planned otherwise: %s" % ranges
        assert {i: ranges.get(i) for i in self._before} == self._before, "the plan did not continue from where it was"
        # One more delivery for each that was held, and none for others; one attempt for each that was not completed.
        attempts = left["attempts"] + stats.total - left["completed"]
        assert tally["attempts"] == attempts, "%d attempts, expected %d" % (tally["attempts"], attempts)
        wanted = left["lost"] + left["running"] + left["claimed"]
        assert tally["deliveries"] == wanted, "%d deliveries, expected %d" % (tally["deliveries"], wanted)
        if self.works:
            repeated = left["effects"] - WIDTH * left["completed"] - left["checkpoint"]
            assert 0 <= repeated <= INTERVAL or self.point.step == "start", "more than a checkpoint interval"
            assert tally["repeated"] == repeated, "%d effects repeated, expected %d" % (tally["repeated"], repeated)
        self.repeated = tally["repeated"]
        seen = self._see()
        assert seen["failures"] == left["failures"], "%d failures, expected %d" % (seen["failures"], left["failures"])
        if self.point.step in ("command", "order"):
            self._check_command()
            assert seen["raised"] in (0, PARTITIONS), "the priority of %d was raised" % seen["raised"]
        if self.point.step == "archive":
            self._archive()
            assert self._see()["archived"] == PARTITIONS, "not all could be archived"
        self._check_time()

    def _check_command(self, states: Sequence[str] = ("done",)) -> None:
        told = AdminService(self.partitions, "test").command(self._command)
        assert told is not None and told.state in states, "the command is otherwise: %s" % (told,)
        assert told.state != "done" or told.done == PARTITIONS, "the command counts %d" % told.done

    def _check_time(self) -> None:
        first: Dict[int, float] = {}
        for attempt in self.journal.attempts():
            if attempt.worker == "standby":
                first.setdefault(attempt.partition_id, attempt.at)
        again = [first[i] for i in self._held if i in first]
        standby = self._standby
        assert standby is not None
        led = standby.of("became_leader")[0]["t"]
        self.seconds = max([led, *again]) - self._died
        assert max([led, *again]) - standby.began < BOUND + BUSY, "taken over after %.2f s" % self.seconds
        if self.point.name in ("claim.sent", "claim.after", "renew.sent", "renew.after"):
            # Its lease began right before: nobody may have it sooner.
            assert min(again) - self._died > LEASE - 0.5, "taken from a lease that had not run out"
        if self.point.name in ("resign.sent", "resign.after"):
            assert led - standby.began < LEASE / 2, "a lease that was given up was waited for"


_HELD = (PartitionStatus.CLAIMED, PartitionStatus.RUNNING)


class Cases:
    """Many cases on one server, so many at a time."""

    def __init__(self, folder: pathlib.Path, url: str, namespace: str, seed: int, at_once: int = 10) -> None:
        self._place = (folder, url)
        self._namespace = namespace
        self.seed = seed
        self._at_once = at_once
        self.all: List[Case] = []

    def run(self, points: Sequence[Point], strategy: str, **config: Any) -> List[Case]:
        """Run a case for each point to its end; return them. Failures are kept for ``result()``."""
        return self.run_all([(point, dict(config, strategy=strategy)) for point in points])

    def run_all(self, wanted: Sequence[Any]) -> List[Case]:
        """The same for pairs of a point and its configuration."""
        cases: List[Case] = []
        waiting = list(wanted)

        def all_over() -> bool:
            going = sum(not case.go_on() for case in cases)
            while waiting and going < self._at_once:
                point, config = waiting.pop(0)
                name = "%s.%s.%d" % (self._namespace, re.sub(r"\W", "-", point.name), len(self.all))
                case = Case(*self._place, name, point, seed=self.seed, **config)  # type: ignore[misc]
                cases.append(case)
                self.all.append(case)
                going += 1
            return not waiting and all(case.over for case in cases)

        wait_until(all_over, 300.0, "the end of all cases")
        return cases

    def dispose(self) -> None:
        for case in self.all:
            if not case.over:
                case.dispose()


def summary(cases: Sequence[Case], seed: int) -> str:
    """Return one line of numbers."""
    seconds = sorted(case.seconds for case in cases if case.seconds is not None)
    worst = max(cases, key=lambda case: case.seconds or 0.0)
    return "%d deaths (seed %d): taken over after %.2f s at the median, %.2f s at most (%s); of %d IDs %d %s" % (
        len(cases), seed, seconds[len(seconds) // 2], seconds[-1], worst.label, sum(case.last for case in cases),
        sum(case.repeated for case in cases), "written twice beside the fence, 0 behind it",
    )  # fmt: skip
