"""What the doors on a terminal say: ``elk``, Django's and Flask's commands tell the same, in the same words."""

from __future__ import annotations

import threading
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

import attr

from elk_coordinator.admin.service import AdminService
from elk_coordinator.errors import StoreError, StoreUnavailable
from elk_coordinator.model import PartitionStats, WorkerInfo
from elk_coordinator.partition.commands import CommandStatus
from elk_coordinator.runtime.clock import Clock

#: Commands shown with a status, the newest ones.
SHOWN_COMMANDS = 5
#: Skipped ids named in the text; JSON has up to 1,000.
LISTED = 20
#: What a leader notes about one partition, for people.
OUTCOMES = {"unknown": "there is no such partition", "asked": "its worker is told with its next heartbeat"}


# -- values


def seconds(value: float) -> str:
    """Return a duration for people: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``5 h 10 min``."""
    if value < 9.95:
        return "%.1f s" % value
    whole = int(value + 0.5)
    if whole < 60:
        return "%d s" % whole
    if whole < 3600:
        return "%d min %d s" % divmod(whole, 60)
    return "%d h %d min" % divmod(whole // 60, 60)


def count(number: int, singular: str, plural: Optional[str] = None) -> str:
    """Return ``1 partition``, ``2,000 partitions``."""
    return "{:,} {}".format(number, singular if number == 1 else plural or singular + "s")


def table(rows: Sequence[Sequence[str]], indent: str = "  ") -> List[str]:
    """Return the rows as lines with aligned columns."""
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [(indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths))).rstrip() for row in rows]


def one_line(error: BaseException) -> str:
    """Return the error's message on one line, or the name of its class when it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def printable(line: str) -> str:
    """Return *line* with "?" for what would steer the terminal of whoever reads it: workers wrote parts of it."""
    return "".join(sign if sign.isprintable() else "?" for sign in line)


def describe(stats: PartitionStats) -> str:
    """Return the counts as one line."""
    if not stats.total:
        return "none planned"
    names = ("pending", "claimed", "running", "completed", "failed")
    parts = ["{:,} {}".format(getattr(stats, name), name) for name in names]
    return "{:,}: {} ({:.1f} % done)".format(stats.total, ", ".join(parts), 100 * stats.completion_rate)


# -- a namespace at one glance


@attr.s(auto_attribs=True, frozen=True)
class Situation:
    """What a namespace looks like at one moment; from :func:`look`."""

    #: As :meth:`AdminService.status` gives it.
    state: Mapping[str, Any]
    #: By their ids.
    workers: Sequence[WorkerInfo]
    #: The newest commands, and the store's time.
    commands: Sequence[CommandStatus] = ()
    now: float = 0.0

    def to_dict(self) -> Dict[str, Any]:
        """Return a JSON-ready dict: the state, with the workers themselves and the newest commands."""
        return dict(
            self.state,
            workers=[attr.asdict(worker) for worker in self.workers],
            newest_commands=[command.to_dict() for command in self.commands],
        )

    def lines(self, resume: str, where: str = "") -> List[str]:
        """Return lines for people. :param resume: the command that ends a pause. :param where: of which store."""
        state, leader = self.state, self.state["leader"]
        stats = PartitionStats(**state["partitions"])
        out = ["namespace   %s (%s)%s" % (state["namespace"], state["strategy"], where)]
        if state["paused"]:
            out.append("paused      nothing is claimed until '%s'" % resume)
        if leader is None:
            out.append("leader      none")
        else:
            values = (leader["worker_id"], leader["term"], seconds(max(0.0, leader["lease_remaining"])))
            out.append("leader      %s (term %d, lease for %s)" % values)
        out.append("partitions  %s" % describe(stats))
        if stats.last_allocated_id is not None:
            out.append("planned     up to ID %d" % stats.last_allocated_id)
        out.append("commands    %s" % _waiting(state["commands"], leader is not None))
        out += table([_command_row(command, self.now) for command in self.commands])
        tripped = [worker for worker in self.workers if worker.info.get("breaker") not in (None, "closed")]
        breakers = ", the circuit breaker of %s is not closed" % count(len(tripped), "worker") if tripped else ""
        out.append("workers     %d%s" % (len(self.workers), breakers))
        out += table(_worker_rows(self.workers))
        return [printable(line) for line in out]


def look(admin: AdminService) -> Situation:
    """Ask the store; some round trips."""
    state, commands = admin.status(), admin.commands(SHOWN_COMMANDS)
    workers = sorted(admin.workers(), key=lambda worker: worker.worker_id)
    return Situation(state, workers, commands, admin.strategy.store.now() if commands else 0.0)


def _waiting(commands: int, led: bool) -> str:
    if not commands:
        return "none waiting"
    return "%d waiting%s" % (commands, "" if led else "; they are carried out when there is a leader")


def _command_row(command: CommandStatus, now: float) -> List[str]:
    """Return one command as a row: what, how far, by whom, since when."""
    return [
        command.kind,
        command.state,
        "%d changed" % command.done if command.state != "queued" else "",
        "by %s" % command.by,
        "%s ago" % seconds(max(0.0, now - command.submitted_at)),
        command.error.splitlines()[0][:200] if command.error.strip() else "",
    ]


def _worker_rows(workers: Sequence[WorkerInfo]) -> List[List[str]]:
    """Return one row per worker: name, load, breaker, metrics, how long it counts as alive, why the breaker tripped."""
    rows = []
    for worker in workers:
        info = worker.info
        load = ""
        if info.get("window") is not None:
            load = "%s of %s running" % (info.get("in_flight", "?"), info["window"])
        rows.append(
            [
                worker.worker_id,
                str(info.get("state", "")),
                load,
                "breaker %s" % info["breaker"] if info.get("breaker") else "",
                str(info.get("http") or ""),
                "counts as alive for %s" % seconds(max(0.0, worker.remaining)),
                _why_tripped(info),
            ]
        )
    return rows


def _why_tripped(info: Mapping[str, Any]) -> str:
    """Return why a worker's circuit breaker is not closed, as the worker says; "" when it is."""
    if info.get("breaker") in (None, "closed") or not info.get("breaker_reason"):
        return ""
    # Signs that are no part of a line part words here.
    reason = "".join(sign if sign.isprintable() else " " for sign in str(info["breaker_reason"]))
    return "%s trips so far: %s" % (info.get("breaker_trips", "?"), " ".join(reason.split())[:200])


def watch(show: Callable[[], None], pause: float, note: Callable[[str], None]) -> None:
    """Call *show* every *pause* seconds until Ctrl-C; a store that is away is waited for, and *note* told so once."""
    never, clock, away = threading.Event(), Clock(), False
    try:
        while True:
            try:
                show()
                away = False
            except StoreUnavailable as exc:
                if not away:
                    note("waiting for the store: %s" % one_line(exc))
                away = True
            clock.wait(never, pause)
    except KeyboardInterrupt:
        # The way to end it, not a mishap.
        pass


# -- what became of a command


@attr.s(auto_attribs=True, frozen=True)
class Answer:
    """What became of a command, as far as it was waited for."""

    command_id: str
    #: None: nobody waited, or nobody could say.
    status: Optional[CommandStatus]
    #: Lines for people: what is known, and what is wrong; either may be "".
    text: str
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong: queued when nobody waited, else done."""
        return not self.problem and (self.status is None or self.status.state == "done")


def ask(admin: AdminService, submit: Callable[[], str], wait: Optional[float]) -> Answer:
    """Queue a command and wait up to *wait* seconds for what becomes of it; None = do not wait.

    :raises StoreError: while it was being queued.
    """
    command_id = submit()
    if not wait:
        text = "command %s is queued; the leader of %s carries it out"
        return Answer(command_id, None, text % (command_id, admin.namespace))
    try:
        status = admin.wait(command_id, wait)
    except StoreError as exc:
        # It is queued: a leader carries it out as soon as it can, whatever happens to us.
        text = "command %s is queued, what became of it is unknown: %s"
        return Answer(command_id, None, "", text % (command_id, one_line(exc)))
    problem = "" if status.ended else "not ended within %g s; it stays queued: does the namespace have a leader?" % wait
    return Answer(command_id, status, told(status), problem)


def told(status: CommandStatus) -> str:
    """Return how far a command is, for people."""
    parts = ["command %s (%s) is %s" % (status.command_id, status.kind, status.state)]
    if status.state != "queued" and status.kind not in ("pause", "resume"):
        parts.append("%s changed" % count(status.done, "partition"))
    skipped = list(status.result.get("skipped") or ())
    if skipped:
        total = max(len(skipped), int(status.result.get("skipped_total") or 0))
        names = ", ".join(str(partition_id) for partition_id in skipped[:LISTED])
        why = " (not failed when asked)" if status.kind == "retry_failed" else ""
        parts.append("%d left as they were%s: %s%s" % (total, why, names, ", ..." if total > LISTED else ""))
    outcome = str(status.result.get("outcome") or "")
    if outcome.startswith("unchanged:"):
        outcome = "it is %s" % outcome.partition(":")[2]
    if outcome:
        parts.append(OUTCOMES.get(outcome, outcome))
    if status.error:
        parts.append(" ".join(status.error.split()))
    return printable("; ".join(parts))
