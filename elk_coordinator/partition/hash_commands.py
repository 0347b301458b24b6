"""Operator commands of the HASH strategy: a queue in sorted sets, each step one script."""

from __future__ import annotations

import json
from typing import Any, List, Mapping, Optional, Sequence, Tuple

from elk_coordinator.errors import LeaseLost, RangeConflict, StateError, StoreError, VersionConflict
from elk_coordinator.model import HELD, MAX_BATCH
from elk_coordinator.partition import codec, intervals
from elk_coordinator.partition.commands import (
    KEEP_SECONDS,
    MAX_ENDED,
    MAX_LISTED,
    MAX_QUEUED,
    CarriedOn,
    CommandStore,
    Job,
    numbered,
    page_of,
)
from elk_coordinator.partition.hash_strategy import HashPartitionStrategy
from elk_coordinator.store.redis_store import floor_refused

_STEP_KEYS = (
    "meta lock:leader command_state command_queue command_ended pending suspects delayed failed specs state "
    "cancels done"
)
#: Attempts of one step against others who change the plan at the same time; the next turn tries again.
_PLAN_TRIES = 20
_MOVES = {"cancel": "C", "release": "L", "set_priority": "N", "pause": "P", "resume": "M"}


class HashCommands(CommandStore):
    """The commands of a namespace that runs HASH."""

    def __init__(self, strategy: HashPartitionStrategy) -> None:
        self._strategy = strategy
        self._store = strategy.store
        self._keys = self._store.keys.many(_STEP_KEYS)

    def submit(self, command_id: str, kind: str, args: Mapping[str, Any], by: str) -> None:
        keys = self._store.keys.many("meta commands command_state command_queue")
        head = json.dumps({"kind": kind, "args": args, "by": by}, separators=(",", ":"))
        floor = self._strategy.memory.floor
        request: List[Any] = [floor, command_id, head, MAX_QUEUED, self._store.keys.channel]
        reply = self._store.run("partition/submit", keys, request)
        if reply[0] == -1:
            raise StoreError(floor_refused(floor))
        if reply[0] == 2:
            raise StateError("%d commands wait already; wait until the leader has carried some out" % reply[1])

    # ---------------------------------------------------------------- reading

    def _read(self, which: str, what: Any) -> Tuple[int, List[Job]]:
        keys = self._store.keys.many("commands command_state command_queue command_ended")
        reply = self._store.run("partition/commands", keys, [which, what])
        return int(reply[0]), [_decode(*reply[i : i + 3]) for i in range(1, len(reply), 3)]

    def get(self, command_id: str) -> Optional[Job]:
        found = self._read("id", command_id)[1]
        return found[0] if found else None

    def newest(self, limit: int) -> List[Job]:
        return self._read("newest", limit)[1]

    def queued(self) -> int:
        return self._read("newest", 1)[0]

    def first(self) -> Optional[Job]:
        found = self._read("first", "")[1]
        return found[0] if found else None

    # ---------------------------------------------------------------- steps

    def step(self, term: int, job: Job) -> None:
        if job.kind == "create":
            self._create(term, job)
        elif job.kind == "delete":
            self._delete(term, job)
        else:
            if job.kind == "retry_failed":
                move, what = ("T" if "ids" in job.args else "A"), ""
            else:
                move = _MOVES[job.kind]
                what = str(job.args["priority"]) if job.kind == "set_priority" else job.by
            page = page_of(job)
            after = job.cursor + len(page)
            if job.kind in ("cancel", "release") and self._is_archived(page[0]):
                # The script looks into no chunks: it would call it unknown.
                move, what = "D", "unchanged:completed"
            self._step(term, job, move, what, after, after >= len(job.ids), [codec.pad(i) for i in page])

    def _is_archived(self, partition_id: int) -> bool:
        strategy = self._strategy
        return not strategy._read_recent([partition_id]) and bool(strategy.archived([partition_id]))

    def fail(self, term: int, job: Job, error: str) -> None:
        self._step(term, job, "X", codec.clip_error(error), job.cursor, True, [])

    def _step(self, term: int, job: Job, move: str, what: str, after: int, last: bool, ids: Sequence[str]) -> None:
        floor = self._strategy.memory.floor
        request: List[Any] = [term, floor, self._store.keys.channel, job.command_id, job.mark, job.submitted]
        request += [move, what, after, int(last), MAX_LISTED, MAX_BATCH, *ids]
        reply = self._store.run("partition/command", self._keys, request)
        if reply[0] == -1:
            raise StoreError(floor_refused(floor))
        if reply[0] == -2:
            raise LeaseLost(0, term, "a command's step in this leader's term")

    def expire(self, term: int, keep: float = KEEP_SECONDS) -> int:
        keys = self._store.keys.many("lock:leader commands command_state command_ended")
        reply = self._store.run("partition/forget_commands", keys, [term, int(keep * 1e6), MAX_BATCH, MAX_ENDED])
        if reply[0] == -2:
            raise LeaseLost(0, term, "the removal of old commands in this leader's term")
        return int(reply[1])

    def _create(self, term: int, job: Job) -> None:
        strategy = self._strategy
        page = page_of(job)
        for _ in range(_PLAN_TRIES):
            state = strategy.plan_state()
            first = state.max_partition_id + 1
            items = numbered(page, first)
            low, high = min(p.min_id for p in items), max(p.max_id for p in items)
            version, window = strategy.planned_window(low - 1, high + 1)
            if version != state.version:
                # Somebody created partitions in between: the ids may be taken.
                continue
            for item in items:
                clash = intervals.find_overlap(window, (item.min_id, item.max_id))
                if clash is not None:
                    now = self.get(job.command_id)
                    if now is None or now.mark != job.mark:
                        # It met what an earlier sending of this step created.
                        return
                    asked = (item.partition_id, item.min_id, item.max_id)
                    raise RangeConflict(asked, clash, "overlaps the planned range")
            change = intervals.added(window, [(p.min_id, p.max_id) for p in items])
            listed = [*job.listed, first, items[-1].partition_id]
            mark = _mark(job, job.done + len(items), len(page), listed, 0, len(job.args["ranges"]))
            try:
                strategy._plan(version, term, items, change, ((), ()), mark)
                return
            except VersionConflict:
                continue
            except CarriedOn:
                return

    def _delete(self, term: int, job: Job) -> None:
        strategy = self._strategy
        page = page_of(job)
        for _ in range(_PLAN_TRIES):
            version = strategy.plan_state().version
            # Recent ones first: one that moves to its chunk in between is found there.
            recent = strategy._read_recent(page)
            known = {**strategy.archived([i for i in page if i not in recent]), **recent}
            before = {i: p for i, p in known.items() if round(p.created_at * 1e6) < job.submitted}
            free = {i: p for i, p in before.items() if p.status not in HELD}
            left = [i for i in page if i in known and i not in free]
            chunks, _ = strategy._without([i for i in free if i not in recent])
            if not free:
                after = job.cursor + len(page)
                self._step(term, job, "D", "", after, after >= len(job.ids), [codec.pad(i) for i in left])
                return
            low, high = min(p.min_id for p in free.values()), max(p.max_id for p in free.values())
            again, window = strategy.planned_window(low - 1, high + 1)
            if again != version:
                continue
            rest = intervals.subtract(window, [(p.min_id, p.max_id) for p in free.values()])
            change = (sorted(set(window) - set(rest)), sorted(set(rest) - set(window)))
            listed = [*job.listed, *left][:MAX_LISTED]
            mark = _mark(job, job.done + len(free), len(page), listed, len(left), len(job.ids))
            try:
                if not strategy._delete(sorted(i for i in free if i in recent), version, change, chunks, term, mark):
                    return
            except VersionConflict:
                continue
            except CarriedOn:
                return


def _mark(job: Job, done: int, looked_at: int, listed: Sequence[int], left: int, total: int) -> List[Any]:
    """Return what plan.lua and delete.lua need to carry a command on."""
    after = job.cursor + looked_at
    rest = "%d %d %d %s - " % (done, after, job.skipped + left, ",".join(str(i) for i in listed) or "-")
    return [job.command_id, job.mark, "done" if after >= total else "running", rest]


def _decode(command_id: bytes, head: bytes, line: bytes) -> Job:
    try:
        stamp, _, body = head.partition(b" ")
        facts = json.loads(body)
        parts = line.split(b" ", 7)
        return Job(
            command_id.decode("ascii"), facts["kind"], facts["args"], facts["by"], int(stamp),
            parts[0].decode("ascii"), int(parts[1]), int(parts[2]), int(parts[3]), int(parts[4]),
            [] if parts[5] == b"-" else [int(item) for item in parts[5].split(b",")],
            "" if parts[6] == b"-" else parts[6].decode("ascii"), parts[7].decode("utf-8", "replace"), bytes(line),
        )  # fmt: skip
    except (ValueError, KeyError, IndexError) as exc:
        raise StoreError("the command %r cannot be read: %s" % (command_id, exc)) from exc
