"""Named instants at which a worker process kills itself: the library's own methods, wrapped from outside.

Of each step of the protocol three: ``.before`` (nothing was sent), ``.sent`` (the server has run it, its answer lies
unread in the socket) and ``.after`` (the answer was decoded, nothing local was done about it); and some inside user
work, the planner and the archive. ``crash_table.py`` lists them. Nothing here is installed unless a worker is told to.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from typing import Any, Callable, Dict, List, Optional, Sequence

import redis

from elk_coordinator.leader import allocator, archiver
from elk_coordinator.leader.planner import GuardedPlanner
from elk_coordinator.model import Outcome
from elk_coordinator.partition import commands
from elk_coordinator.partition.hash_commands import HashCommands
from elk_coordinator.partition.hash_strategy import HashPartitionStrategy
from elk_coordinator.partition.planning import Planning
from elk_coordinator.partition.simple_archive import SimpleArchive
from elk_coordinator.partition.simple_commands import SimpleCommands
from elk_coordinator.partition.simple_strategy import SimplePartitionStrategy
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.store import redis_store
from elk_coordinator.worker import claimer
from elk_coordinator.worker.claimer import Claimer
from elk_coordinator.worker.runner import Runner
from tests.faults.journal import Journal

CLOCK = Clock()
#: IDs between two checkpoints of :class:`Steady`.
INTERVAL = 5
#: The script by which a step reaches the server: with HASH, with SIMPLE (there the document's compare-and-set).
SCRIPTS: Dict[str, Sequence[str]] = {
    "register": ("heartbeat", "beat"), "renew": ("heartbeat", "value_cas"), "claim": ("work", "value_cas"),
    "start": ("work", "value_cas"), "report": ("work", "value_cas"), "release": ("work", "value_cas"),
    "checkpoint": ("checkpoint", "value_cas"), "plan": ("plan", "value_cas"), "elect": ("lock_acquire",),
    "extend": ("lock_renew",), "resign": ("lock_release",), "sweep": ("sweep", "value_cas"),
    "command": ("plan", "value_cas"), "order": ("command", "value_cas"), "fail": ("work", "value_cas"),
    "archive": ("archive_swap", "value_cas"),
}  # fmt: skip
COMPARE_AND_SET = "value_cas"


class Crash:
    """The one point at which this process dies: the *nth* time that it gets there."""

    def __init__(self, point: str, nth: int, tell: Callable[..., None]) -> None:
        self.step, _, self.moment = point.partition(".")
        self._nth = nth
        self._tell = tell
        self._lock = threading.Lock()
        self._count = 0
        self._local = threading.local()

    def reach(self, point: str) -> None:
        """Pass a point that is no moment of a step."""
        if point == "%s.%s" % (self.step, self.moment):
            with self._lock:
                self._count += 1
                if self._count >= self._nth:
                    self._die()

    def _die(self) -> None:
        self._tell("crash", point="%s.%s" % (self.step, self.moment), nth=self._nth)
        os.kill(os.getpid(), signal.SIGKILL)

    # -- the three moments of a step

    def wrap(self, owner: type, method: str, steps: Callable[..., Sequence[str]]) -> None:
        """Die in *owner*'s *method* where it makes the step; *steps* tells from its arguments which it makes."""
        original = getattr(owner, method)

        def wrapped(this: Any, *args: Any, **kwargs: Any) -> Any:
            if self.step not in steps(*args, **kwargs):
                return original(this, *args, **kwargs)
            with self._lock:
                self._count += 1
                due = self._count >= self._nth
                if due and self.moment == "before":
                    self._die()
            self._local.armed = due and self.moment == "sent"
            try:
                answer = original(this, *args, **kwargs)
            finally:
                self._local.armed = False
            if due and self.moment == "after":
                self._die()
            return answer

        setattr(owner, method, wrapped)

    def watch_the_wire(self) -> None:
        """Die between the sending of a step and the reading of its answer, once the answer is there to be read."""
        call, parse, local = redis_store._Link.call, redis.Redis.parse_response, self._local

        def watched(link: Any, script: Any, keys: Sequence[str], args: Sequence[Any]) -> Any:
            mine = getattr(local, "armed", False) and script.name in SCRIPTS[self.step]
            local.dying = mine and (script.name != COMPARE_AND_SET or keys[1].endswith(":value:simple"))
            if local.dying:
                # By its text: a server that does not know it yet would answer an EVALSHA without having run it.
                link._unloaded.add(script.sha)
            return call(link, script, keys, args)

        def read(client: Any, connection: Any, command: Any, **options: Any) -> Any:
            if getattr(local, "dying", False):
                select.select([connection._sock], [], [], 10.0)
                # Looked at, not read: another of this worker's own threads may have written the document before.
                if not connection._sock.recv(8, socket.MSG_PEEK).startswith((b"-", b"*2\r\n:0")):
                    self._die()
            return parse(client, connection, command, **options)

        redis_store._Link.call = watched  # type: ignore[method-assign,assignment]
        redis.Redis.parse_response = read  # type: ignore[method-assign,assignment]


class Steady:
    """The processor of these cases: :data:`INTERVAL` IDs, their effects, a checkpoint, and so on; no last checkpoint.

    Effects go through the fence, which knows what a dead one did behind its last checkpoint, and once more without it:
    what those repeat is what a processor without a fence would do twice.
    """

    def __init__(
        self, journal: Journal, pause: float = 0.0, checkpoint: bool = True, fenced: bool = True, fails: bool = False,
        reach: Callable[[str], None] = lambda point: None, tell: Callable[..., None] = lambda kind: None,
    ) -> None:  # fmt: skip
        self._journal = journal
        self._pause = pause
        self._checkpoint = checkpoint
        self._fenced = fenced
        self._fails = fails
        self._reach = reach
        self._tell = tell

    def process(self, ctx: Any, min_id: int, max_id: int, options: Dict[str, Any]) -> int:
        journal, lo, token, who = self._journal, ctx.partition.min_id, ctx.fencing_token, ctx.worker_id
        journal.attempt(ctx, CLOCK.monotonic())
        done_to = journal.take(lo, max_id, token, self._fenced)
        self._reach("work.began")
        self._tell("began")
        if self._fails:
            raise ValueError("this worker cannot do it")
        if self._pause and ctx.wait(self._pause):
            ctx.raise_if_cancelled()
        for first in range(min_id, max_id + 1, INTERVAL):
            last, at = min(first + INTERVAL - 1, max_id), CLOCK.monotonic()
            journal.unguarded(first, last, token, who, at)
            if last > done_to:
                journal.apply(lo, max_id, token, first, last, who, at, self._fenced)
            self._reach("work.effect")
            if self._checkpoint and last < max_id:
                ctx.checkpoint(last)
                self._reach("work.checkpointed")
        return max_id - min_id + 1


_last_turn: List[Any] = [None]


def _steps_of_turn(request: Any) -> Sequence[str]:
    if request is _last_turn[0]:
        return ()  # the same again: its answer did not come in time
    _last_turn[0] = request
    outcomes = {report.outcome for report in request.reports}
    return [
        name
        for name, there in (
            ("claim", request.free + request.prefetch > 0),
            ("start", bool(request.starts)),
            ("report", Outcome.COMPLETED in outcomes),
            ("fail", Outcome.ERROR in outcomes),
            ("release", Outcome.RELEASED in outcomes),
        )
        if there
    ]


def _steps_of_sweep(limit: int = 0, term: Optional[int] = None) -> Sequence[str]:
    return ("sweep",) if term is not None else ()


def install(config: Dict[str, Any], journal: Journal, tell: Callable[..., None]) -> Steady:
    """Have this process die as *config* says (``point``, ``nth``); return the processor to run.

    What makes a point come at a known time: ``prefetch`` (partitions fetched beyond the free slot, no more and no
    less), ``claims`` False (a leader that does not work), and steps of plan and commands small enough to be several.
    """
    for name in config.get("broken", ()):
        break_guard(name)
    crash = Crash(config["point"], config["nth"], tell)
    wrap = crash.wrap
    for strategy in (HashPartitionStrategy, SimplePartitionStrategy):
        wrap(strategy, "turn", _steps_of_turn)
        wrap(strategy, "beat", lambda request: ("renew",) if request.claims else ("register",))
        wrap(strategy, "save_checkpoint", lambda *args: ("checkpoint",))
        wrap(strategy, "sweep", _steps_of_sweep)
        wrap(strategy, "_archive_swap", lambda *args: ("archive",))
    wrap(Planning, "plan_partitions", lambda *args: ("plan",))
    wrap(redis_store.RedisDataStore, "acquire_lock", lambda *args: ("elect",))
    wrap(redis_store.RedisDataStore, "renew_lock", lambda *args: ("extend",))
    wrap(redis_store.RedisDataStore, "release_lock", lambda *args: ("resign",))
    wrap(GuardedPlanner, "next_max_id", lambda *args: ("question",))
    for store in (HashCommands, SimpleCommands):
        wrap(store, "step", lambda term, job: ("command" if job.kind == "create" else "order",))
    crash.watch_the_wire()
    _around(Runner, "run", lambda: crash.reach("work.claimed"), lambda: crash.reach("work.returned"))
    _around(SimpleArchive, "write_chunks", None, lambda: crash.reach("archive.written"))
    _around(SimpleArchive, "settle_chunks", lambda: crash.reach("archive.settling"), None)

    prefetch = config.get("prefetch", 0)
    Claimer._prefetch = lambda self: prefetch  # type: ignore[method-assign]
    claimer.HOARD_SECONDS = 60.0
    if not config.get("claims", True):
        Claimer._wanted = lambda self: (0, 0)  # type: ignore[method-assign]
    allocator.MAX_BATCH = 6  # type: ignore[misc]
    commands.MAX_BATCH = 5  # type: ignore[misc]
    archiver.AGE = archiver.INTERVAL = config.get("archive_every", archiver.AGE)
    return Steady(
        journal, config.get("pause", 0.0), fenced=config.get("fenced", True), fails=config.get("fails", False),
        reach=crash.reach, tell=tell,
    )  # fmt: skip


def _around(owner: Any, method: str, before: Optional[Callable[[], None]], after: Optional[Callable[[], None]]) -> None:
    original = getattr(owner, method)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before()
        answer = original(*args, **kwargs)
        if after is not None:
            after()
        return answer

    setattr(owner, method, wrapped)


def break_guard(name: str) -> None:
    """Switch off an order of things that only the death in between can tell from the right one."""
    if name != "chunk last":
        raise ValueError(name)
    original, write = SimpleArchive._archive_swap, SimpleArchive.write_chunks

    def swap(this: Any, term: Any, change: Any, *args: Any, **kwargs: Any) -> bool:
        this.write_chunks = lambda changes: None
        done = original(this, term, change, *args, **kwargs)
        write(this, [change])
        return done

    SimpleArchive._archive_swap = swap  # type: ignore[method-assign]
