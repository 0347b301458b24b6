"""One worker process of the demo: ``python -m elk_coordinator.cli.demo.worker NAME``.

It is told what to do on its standard input, one line each: the settings as JSON, then ``hold`` (stop in front of the
next write and say so), ``go`` (go on), ``stop`` (drain and end). End of input means that the parent is gone. It tells
what happens on its standard output, one JSON document per line. Its log goes to standard error.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import threading
from typing import Any, Dict, Optional, Sequence

from elk_coordinator import Coordinator, RedisDataStore
from elk_coordinator.cli.demo.database import Database, Invoice, invoice, open_database
from elk_coordinator.cli.demo.fence import RangeFence, StaleToken
from elk_coordinator.cli.demo.settings import OPTIONS, DemoSettings
from elk_coordinator.errors import ElkError
from elk_coordinator.protocols import Event, Listener, PlannerContext, ProcessContext
from elk_coordinator.runtime.clock import Clock

_PR_SET_PDEATHSIG = 1


class ScriptedFailure(Exception):
    """The failure that the demo's script asks for."""


class Voice:
    """Tells the parent, one line per message. Thread-safe: a line shorter than PIPE_BUF is written in one piece."""

    def tell(self, kind: str, **facts: Any) -> None:
        """Write one message; a parent that is gone is noticed elsewhere."""
        line = json.dumps(dict(facts, event=kind)) + "\n"
        try:
            os.write(1, line.encode("ascii"))
        except OSError:
            pass


class Gate:
    """Every write transaction passes here, one at a time.

    When the parent asks to hold, the next writer in the middle of its partition stops *inside* the gate and says so.
    No other thread of this process has a transaction open then, so the process can be frozen without freezing a lock
    of the database with it.
    """

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self._lock = threading.Lock()
        self._wanted = False
        self._go = threading.Event()

    def hold(self) -> None:
        """Stop the next writer that is in the middle of a partition."""
        self._wanted = True

    def go(self) -> None:
        """Let it go on."""
        self._go.set()

    def enter(self, in_the_middle: bool, **facts: Any) -> bool:
        """Wait for our turn; when the parent asked to hold, say so and wait for *go*. Return whether that happened."""
        self._lock.acquire()
        if not (in_the_middle and self._wanted):
            return False
        self._wanted = False
        self._voice.tell("held", **facts)
        self._go.wait()
        return True

    def leave(self) -> None:
        """Let the next writer in."""
        self._lock.release()


class Invoices:
    """The processor: gives each order its total and its receipt, and counts how often it did, which must end as 1."""

    def __init__(self, settings: DemoSettings, database: Database, gate: Gate, voice: Voice, worker: str) -> None:
        self._settings = settings
        self._db = database
        self._gate = gate
        self._voice = voice
        self._worker = worker
        self._clock = Clock()

    def process(self, ctx: ProcessContext, min_id: int, max_id: int, options: Dict[str, Any]) -> int:
        """Do one partition, batch by batch, each in one transaction behind the fence."""
        settings = self._settings
        lo, hi = ctx.partition.min_id, ctx.partition.max_id
        fence = RangeFence(
            self._db, settings.namespace, lo, hi, ctx.fencing_token, self._worker, enforced=settings.fenced
        )
        self._gate.enter(False)
        try:
            done_to = fence.take()
        finally:
            self._gate.leave()
        unlucky = lo <= settings.unlucky_order <= hi and ctx.attempt <= 2
        began = self._clock.monotonic()
        paused = 0.0
        while done_to < hi:
            ctx.raise_if_cancelled()
            first, last = done_to + 1, min(done_to + settings.batch_size, hi)
            invoices = [
                invoice(*row)
                for row in self._db.query(
                    "SELECT id, quantity, price_cents FROM orders WHERE id BETWEEN ? AND ?", (first, last)
                )
            ]
            # As long as the work took, so that no more than half of the time is artificial.
            pause = min(settings.pause, max(settings.least_pause, self._clock.monotonic() - began))
            ctx.wait(pause)
            paused += pause
            ctx.raise_if_cancelled()
            began = self._clock.monotonic()
            self._write(ctx, fence, first, last, invoices)
            done_to = last
            if unlucky:
                raise ScriptedFailure(
                    "order %d: the tax service is down (scripted, %d of 2)" % (settings.unlucky_order, ctx.attempt)
                )
        self._voice.tell("paused", seconds=paused)
        return int(
            self._db.scalar(
                "SELECT rows_done FROM fence WHERE namespace = ? AND lo = ? AND hi = ?", (settings.namespace, lo, hi)
            )
        )

    def _write(
        self, ctx: ProcessContext, fence: RangeFence, first: int, last: int, invoices: Sequence[Invoice]
    ) -> None:
        lo, hi = ctx.partition.min_id, ctx.partition.max_id
        in_the_middle = first > lo and len(invoices) > 0
        held = self._gate.enter(
            in_the_middle,
            partition=ctx.partition.partition_id,
            lo=lo,
            hi=hi,
            first=first,
            last=last,
            token=ctx.fencing_token,
        )
        # From here to the commit nothing looks at ctx: this is the write of a worker that believes in its lease.
        try:
            changed = fence.write(last, lambda: self._db.apply_invoices(invoices, self._worker))
        except StaleToken as refusal:
            self._db.execute(
                "INSERT INTO refusals (namespace, lo, hi, batch_lo, batch_hi, token, fence_token, worker)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (self._settings.namespace, lo, hi, first, last, refusal.token, refusal.current, self._worker),
            )
            self._voice.tell(
                "refused",
                partition=ctx.partition.partition_id,
                first=first,
                last=last,
                token=refusal.token,
                current=refusal.current,
            )
            raise
        finally:
            self._gate.leave()
        if held:
            self._voice.tell("written", partition=ctx.partition.partition_id, token=ctx.fencing_token, rows=changed)
        if changed != len(invoices):
            raise RuntimeError("orders %d-%d: read %d rows, changed %d" % (first, last, len(invoices), changed))


class Orders:
    """The planner: what a user writes for a table with an integer key."""

    def __init__(self, settings: DemoSettings, database: Database) -> None:
        self._settings = settings
        self._db = database

    def partition_size(self, ctx: PlannerContext) -> int:
        """IDs per partition."""
        return self._settings.partition_size

    def get_next_max_id(self, ctx: PlannerContext, start_id: int, range_size: int) -> int:
        """The largest existing id in ``(start_id, start_id + range_size]``."""
        top = self._db.scalar("SELECT max(id) FROM orders WHERE id > ? AND id <= ?", (start_id, start_id + range_size))
        return start_id if top is None else int(top)

    def has_data(self, ctx: PlannerContext, min_id: int, max_id: int) -> bool:
        """Whether a range holds any order."""
        return bool(
            self._db.scalar(
                "SELECT count(*) FROM (SELECT 1 FROM orders WHERE id BETWEEN ? AND ? LIMIT 1) AS found",
                (min_id, max_id),
            )
        )


class Reporter(Listener):
    """Passes the events that the story needs on to the parent."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice

    def on_became_leader(self, event: Event) -> None:
        self._voice.tell("leader", term=event.facts.get("term"))

    def on_partition_retried(self, event: Event) -> None:
        error = str(event.facts.get("error"))
        self._voice.tell(
            "retry",
            partition=event.facts.get("partition_id"),
            attempt=event.facts.get("attempt"),
            delay=event.facts.get("delay"),
            error=error[-300:],
            scripted=ScriptedFailure.__name__ in error,
        )

    def on_partition_failed(self, event: Event) -> None:
        self._voice.tell(
            "failed", partition=event.facts.get("partition_id"), error=str(event.facts.get("error"))[-300:]
        )

    def on_write_refused(self, event: Event) -> None:
        self._voice.tell(
            "report_refused",
            partition=event.facts.get("partition_id"),
            token=event.facts.get("token"),
            what=str(event.facts.get("what")),
        )

    def on_lease_lost(self, event: Event) -> None:
        self._voice.tell("lease_lost", partition=event.facts.get("partition_id"), token=event.facts.get("token"))


def die_with(parent_pid: int) -> None:
    """Arrange that this process ends when its parent does, even while it is frozen.

    The end of standard input tells a running worker; a frozen one can only be reached by the kernel (Linux). Elsewhere
    the terminal's hang-up wakes it and it finds its input at the end.
    """
    if sys.platform.startswith("linux"):
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        except (OSError, AttributeError):
            pass
    if os.getppid() != parent_pid:  # it died before we asked
        os._exit(1)


def main() -> int:
    """Work until the parent says stop or goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what it means
    name = sys.argv[1]
    first = sys.stdin.readline()
    if not first:
        return 1
    settings = DemoSettings.from_json(first)
    die_with(settings.parent_pid)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(threadName)s %(message)s"
    )
    voice = Voice()
    gate = Gate(voice)
    database = open_database(settings)
    store = RedisDataStore.from_url(settings.redis_url)
    coordinator = Coordinator(
        settings.namespace,
        store,
        Invoices(settings, database, gate, voice, name),
        Orders(settings, database),
        worker_id=name,
        listeners=(Reporter(voice),),
        **OPTIONS,
    )
    try:
        coordinator.start()
    except ElkError as exc:
        voice.tell("error", message=str(exc))
        return 1
    voice.tell("started", http=coordinator.http_address)
    if not obey(gate):
        os._exit(1)  # the parent is gone: nobody reads what we do, and nothing may be left behind
    clean = coordinator.stop()
    store.close()
    voice.tell("stopped", clean=clean)
    return 0 if clean else 1


def obey(gate: Gate) -> bool:
    """Do what the parent says; return True for ``stop``, False when the parent is gone."""
    while True:
        line: Optional[str] = sys.stdin.readline()
        if not line:
            return False
        word = line.strip()
        if word == "hold":
            gate.hold()
        elif word == "go":
            gate.go()
        elif word == "stop":
            return True


if __name__ == "__main__":
    sys.exit(main())
