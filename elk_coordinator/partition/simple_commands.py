"""Operator commands of the SIMPLE strategy: rows of the document, each step one compare-and-set of it."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import attr

from elk_coordinator.errors import ConfigError, LeaseLost, RangeConflict, StateError, StoreError
from elk_coordinator.model import HELD, MAX_BATCH, PartitionStatus
from elk_coordinator.partition import intervals
from elk_coordinator.partition.codec import clip_error
from elk_coordinator.partition.commands import (
    KEEP_SECONDS,
    MAX_LISTED,
    CommandStore,
    Job,
    kept_args,
    numbered,
    page_of,
)
from elk_coordinator.partition.document import Document, Record
from elk_coordinator.partition.selection import new_partition
from elk_coordinator.partition.simple_strategy import MAX_ACTIVE, SimplePartitionStrategy

#: The document is written with every move of a worker, so it must stay small: commands that wait, bytes of their
#: arguments together; ended ones that are kept (for a day), and bytes of those together.
MAX_QUEUED = 200
MAX_QUEUED_BYTES = 2 * 1024 * 1024
MAX_ENDED = 200
MAX_ENDED_BYTES = 256 * 1024

_PENDING, _FAILED, _COMPLETED = PartitionStatus.PENDING, PartitionStatus.FAILED, PartitionStatus.COMPLETED


class SimpleCommands(CommandStore):
    """The commands of a namespace that runs SIMPLE."""

    def __init__(self, strategy: SimplePartitionStrategy) -> None:
        self._strategy = strategy

    def submit(self, command_id: str, kind: str, args: Mapping[str, Any], by: str) -> None:
        def move(document: Document) -> Tuple[None, bool]:
            if command_id in document.commands:
                return None, False
            waiting = [job for job in _jobs(document) if not _ended(job)]
            size = len(json.dumps(args)) + (sum(len(json.dumps(job.args)) for job in waiting) if waiting else 0)
            if len(waiting) >= MAX_QUEUED or size > MAX_QUEUED_BYTES:
                raise StateError(
                    "%d commands wait already, with %d bytes of arguments; wait until the leader has carried some out"
                    % (len(waiting), size)
                )
            stamp = document.draw(self._strategy.memory.floor)
            _store(document, Job(command_id, kind, args, by, stamp, updated_us=int(document.now * 1e6)))
            return None, True

        self._strategy.change(move)
        self._hint("command")

    def _hint(self, topic: str) -> None:
        try:
            self._strategy.store.notify(topic)
        except StoreError as exc:
            # The leader looks once a second, hint or not.
            self._strategy.logger.debug("no hint %r: %s", topic, exc)

    # ---------------------------------------------------------------- reading

    def _all(self) -> List[Job]:
        return sorted(_jobs(self._strategy.look()), key=lambda job: job.submitted)

    def get(self, command_id: str) -> Optional[Job]:
        return next((job for job in self._all() if job.command_id == command_id), None)

    def newest(self, limit: int) -> List[Job]:
        return self._all()[::-1][:limit]

    def queued(self) -> int:
        return sum(1 for job in self._all() if not _ended(job))

    def first(self) -> Optional[Job]:
        return next((job for job in self._all() if not _ended(job)), None)

    # ---------------------------------------------------------------- steps

    def step(self, term: int, job: Job) -> None:
        if job.kind == "delete":
            return self._delete(term, job)

        def move(document: Document, stamp: int) -> Job:
            if job.kind == "create":
                return self._create(document, job, stamp)
            return _move(self._strategy, document, job, stamp)

        self._step(term, job, move)
        if job.kind in ("retry_failed", "resume", "create"):
            self._hint("work")

    def fail(self, term: int, job: Job, error: str) -> None:
        self._step(term, job, lambda document, stamp: attr.evolve(job, state="failed", error=clip_error(error)))

    def _step(self, term: int, job: Job, change: Callable[[Document, int], Optional[Job]]) -> bool:
        """Carry a command on by *change*; False when nothing was done: somebody else carried it on, or *change* said
        None."""

        def move(document: Document) -> Tuple[bool, bool]:
            self._check_term(document, term)
            row = document.commands.get(job.command_id)
            if row is None or _job(job.command_id, row).mark != job.mark:
                return False, False
            stamp = document.draw(self._strategy.memory.floor)
            after = change(document, stamp)
            if after is None:
                return False, False
            _store(document, attr.evolve(_trimmed(after), updated_us=int(document.now * 1e6)))
            if _ended(after):
                _keep_small(document)
            # Once a later leader has written, an earlier one is known to be late.
            document.meta["term"] = term
            return True, True

        return self._strategy.change(move)

    def _check_term(self, document: Document, term: int) -> None:
        if term < document.meta.get("term", 0) or not self._strategy.leads(term):
            raise LeaseLost(0, term, "a command's step in this leader's term")

    def expire(self, term: int, keep: float = KEEP_SECONDS) -> int:
        def move(document: Document) -> Tuple[int, bool]:
            self._check_term(document, term)
            until = (document.now - keep) * 1e6
            ended = sorted((job for job in _jobs(document) if _ended(job)), key=lambda job: job.submitted)
            old = [job.command_id for job in ended if job.updated_us <= until]
            old = (old or [job.command_id for job in ended[: max(0, len(ended) - MAX_ENDED)]])[:MAX_BATCH]
            for command_id in old:
                del document.commands[command_id]
            return len(old), bool(old)

        return self._strategy.change(move)

    def _create(self, document: Document, job: Job, stamp: int) -> Job:
        active = sum(1 for r in document.records.values() if r.p.status is not PartitionStatus.COMPLETED)
        page = page_of(job)
        if active + len(page) > MAX_ACTIVE:
            raise ConfigError(
                "StrategyType.SIMPLE keeps at most %d active partitions, there are %d; use StrategyType.HASH"
                % (MAX_ACTIVE, active)
            )
        first = int(document.meta.get("max_id", 0)) + 1
        items = numbered(page, first)
        for item in items:
            clash = intervals.find_overlap(document.planned, (item.min_id, item.max_id))
            if clash is not None:
                asked = (item.partition_id, item.min_id, item.max_id)
                raise RangeConflict(asked, clash, "overlaps the planned range")
        gone, come = intervals.added(document.planned, [(p.min_id, p.max_id) for p in items])
        document.planned[:] = sorted((set(document.planned) - set(gone)) | set(come))
        for item in items:
            document.records[item.partition_id] = Record(new_partition(item, stamp))
        document.meta.update(max_id=items[-1].partition_id, planned_version=stamp)
        listed = [*job.listed, first, items[-1].partition_id]
        return _after(job, len(page), len(items), [], listed, len(job.args["ranges"]))

    def _delete(self, term: int, job: Job) -> None:
        strategy, page = self._strategy, page_of(job)
        # Recent ones first: one that moves to its chunk in between is found there.
        recent = set(strategy._read_recent(page))
        archived = strategy.archived([i for i in page if i not in recent])
        leaving = [i for i, p in archived.items() if _stamp(p.created_at) < job.submitted]
        changes, gone = strategy._without(leaving)
        if len(gone) < len(leaving):
            # Dropped from its chunk since it was read: its range is not ours. The leader looks again.
            return
        # Written before the document names them, so that no partition is ever in neither.
        strategy.write_chunks(changes)

        def move(document: Document, stamp: int) -> Optional[Job]:
            if not recent <= set(document.records) or not strategy.exchange(document, changes):
                # Something moved to its chunk meanwhile, or a chunk was written anew: the leader looks again.
                return None
            left, ranges = [], [(archived[i].min_id, archived[i].max_id) for i in leaving]
            for partition_id in page:
                record = document.records.get(partition_id)
                if record is None:
                    if partition_id in archived and partition_id not in leaving:
                        left.append(partition_id)
                elif record.p.status in HELD or _stamp(record.p.created_at) >= job.submitted:
                    left.append(partition_id)
                else:
                    ranges.append((record.p.min_id, record.p.max_id))
                    del document.records[partition_id]
            if ranges:
                document.planned[:] = intervals.subtract(document.planned, ranges)
                document.meta["planned_version"] = stamp
            return _after(job, len(page), len(ranges), left, [*job.listed, *left][:MAX_LISTED], len(job.ids))

        strategy.settle_chunks(changes, self._step(term, job, move))


def _after(job: Job, looked_at: int, changed: int, left: Sequence[int], listed: Sequence[int], total: int) -> Job:
    """Return *job* after a step over the next *looked_at* of its *total* items."""
    cursor = job.cursor + looked_at
    return attr.evolve(
        job, state="done" if cursor >= total else "running", cursor=cursor, done=job.done + changed,
        skipped=job.skipped + len(left), listed=listed,
    )  # fmt: skip


def _move(strategy: SimplePartitionStrategy, document: Document, job: Job, stamp: int) -> Job:
    """Make one step of a command that moves partitions, or pauses."""
    if job.kind in ("pause", "resume"):
        before = bool(document.meta.pop("paused", False))
        if job.kind == "pause":
            document.meta["paused"] = True
        return attr.evolve(job, state="done", done=int(before != (job.kind == "pause")))
    if job.kind == "retry_failed" and "ids" not in job.args:
        failed = sorted(i for i, r in document.records.items() if r.p.status is _FAILED and i > job.cursor)
        page = failed[:MAX_BATCH]
        changed = sum(_retry(document.records[i], job, stamp) for i in page)
        state = "done" if len(page) < MAX_BATCH else "running"
        return attr.evolve(job, state=state, cursor=page[-1] if page else job.cursor, done=job.done + changed)
    left: List[int] = []
    changed, note = 0, job.note
    items = page_of(job)
    for partition_id in items:
        record = document.records.get(partition_id)
        if record is not None and record.p.status is not _COMPLETED and _stamp(record.p.created_at) >= job.submitted:
            # It came after the command; of a completed one that is not asked, wherever it is kept.
            record = None
        done = False
        if job.kind in ("cancel", "release"):
            done, note = _end(document, record, job, stamp)
            if note == "unknown" and strategy.archived([partition_id]):
                note = "unchanged:completed"
        elif record is not None and job.kind == "retry_failed":
            done = _retry(record, job, stamp)
        elif record is not None and record.p.status is _PENDING:
            record.change(stamp, priority=job.args["priority"])
            done = True
        changed += done
        if not done:
            left.append(partition_id)
    listed = [*job.listed, *left][:MAX_LISTED]
    return attr.evolve(_after(job, len(items), changed, left, listed, len(job.ids)), note=note)


def _retry(record: Record, job: Job, stamp: int) -> bool:
    if record.p.status is not _FAILED or record.p.version >= job.submitted:
        return False
    record.change(stamp, status=_PENDING, attempt=0, deliveries=0, retry_at=None)
    return True


def _end(document: Document, record: Optional[Record], job: Job, stamp: int) -> Tuple[bool, str]:
    """Cancel or release one partition; return whether anything was done, and what became of it."""
    if record is None:
        return False, "unknown"
    p, key = record.p, str(record.p.partition_id)
    if p.status in HELD and (job.kind == "cancel" or p.fencing_token < job.submitted):
        # Its worker hears of it with its next beat. A release is meant for the claim of then; a cancel outranks it.
        if job.kind == "cancel":
            document.cancels[key] = ["C", job.by]
        else:
            document.cancels.setdefault(key, ["R", job.by])
        return True, "asked"
    if job.kind == "cancel" and p.status is _PENDING:
        record.change(stamp, status=_FAILED, retry_at=None, error="cancelled by %s" % job.by)
        return True, "failed"
    return False, "unchanged:%s" % p.status.value


def _stamp(seconds: float) -> int:
    return round(seconds * 1e6)


def _ended(job: Job) -> bool:
    return job.state in ("done", "failed")


def _trimmed(job: Job) -> Job:
    return attr.evolve(job, args=kept_args(job.args)) if _ended(job) else job


def _keep_small(document: Document) -> None:
    """Let the oldest ended commands go when there are too many, or their rows too long; the newest always stays."""
    ended = sorted((job for job in _jobs(document) if _ended(job)), key=lambda job: job.submitted, reverse=True)
    room = MAX_ENDED_BYTES
    for place, job in enumerate(ended):
        room -= len(json.dumps(document.commands[job.command_id]))
        if place >= MAX_ENDED or (place > 0 and room < 0):
            del document.commands[job.command_id]


def _store(document: Document, job: Job) -> None:
    document.commands[job.command_id] = [
        job.kind, job.args, job.by, job.submitted, job.state, job.updated_us, job.done, job.cursor, job.skipped,
        list(job.listed), job.note, job.error,
    ]  # fmt: skip


def _job(command_id: str, row: Sequence[Any]) -> Job:
    mark = "%s %s %s %s %s" % (row[4], row[5], row[6], row[7], row[8])
    return attr.evolve(Job(command_id, *row), mark=mark.encode("ascii"))


def _jobs(document: Document) -> List[Job]:
    rows: Dict[str, Any] = document.commands
    return [_job(command_id, row) for command_id, row in rows.items()]
