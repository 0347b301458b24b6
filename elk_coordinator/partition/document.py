"""The whole active state of a namespace as one document, and every move on it as a plain function of the present time.

The SIMPLE strategy reads the document, makes one move on it here, and writes it back if nobody wrote meanwhile. Moves
are those of the Lua scripts (``partition/lua``), held to the same contract tests. Nothing here waits or asks a store.
"""

from __future__ import annotations

import json
import math
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import attr

from elk_coordinator.errors import StoreError
from elk_coordinator.model import (
    HELD,
    SUSPECT_DELIVERIES,
    CancelReason,
    Outcome,
    Partition,
    PartitionStatus,
    Range,
    Reclaimed,
    Report,
)
from elk_coordinator.partition.codec import clip_error
from elk_coordinator.partition.requests import LOOK, TurnRequest, bucket_of

_DAY_US = 86_400_000_000
#: Streams remembered in the document; the oldest go first.
_MAX_STREAMS = 2000
_LETTER = {
    PartitionStatus.PENDING: "P",
    PartitionStatus.CLAIMED: "C",
    PartitionStatus.RUNNING: "R",
    PartitionStatus.FAILED: "F",
    PartitionStatus.COMPLETED: "D",
}
_STATUS = {letter: status for status, letter in _LETTER.items()}
#: What must be whole numbers in a dumped record.
_NUMBERS = (0, 1, 4, 6, 7, 8, 9)


@attr.s(auto_attribs=True, slots=True)
class Record:
    """One partition in the document; the public facts are in :attr:`p`."""

    p: Partition
    #: What the last claim reported (letter of Outcome), "" while held or never held.
    outcome: str = ""
    #: Length and end of the lease, seconds by the store's clock.
    lease: float = 0.0
    deadline: float = 0.0

    def dump(self) -> List[Any]:
        """Return it as a JSON-ready list."""
        p = self.p
        return [
            p.min_id, p.max_id, _LETTER[p.status], p.worker_id, p.priority, p.options, p.attempt, p.deliveries,
            p.version, p.fencing_token, p.checkpoint, p.processed, p.error, p.retry_at, p.created_at,
            self.outcome, self.lease, self.deadline,
        ]  # fmt: skip

    @classmethod
    def load(cls, partition_id: int, data: Sequence[Any]) -> "Record":
        """Read what :meth:`dump` returned."""
        if len(data) != 18 or not all(isinstance(data[place], int) for place in _NUMBERS):
            raise ValueError("no record: %r" % (data,))
        status = _STATUS[data[2]]
        version = data[8]
        done = status is PartitionStatus.COMPLETED
        return cls(
            Partition(
                partition_id, data[0], data[1], status, data[3], data[4], data[5], data[6], data[7], version, data[9],
                data[10], data[11], data[12], data[13], data[14], version / 1e6,
                data[17] - data[16] if status in HELD else None, version / 1e6 if done else None,
            ),
            data[15], data[16], data[17],
        )  # fmt: skip

    def change(self, stamp: int, **facts: Any) -> None:
        """Change public facts; every change moves the version."""
        self.p = attr.evolve(self.p, version=stamp, updated_at=stamp / 1e6, **facts)


class Document:
    """Everything active in a namespace. Not thread-safe: made, changed once, and thrown away."""

    SCHEMA = 1

    def __init__(self, data: Optional[bytes], version: int, now: float, known: int = 0) -> None:
        """Read a document as a store gave it (None: there is none yet), at the store's time *now*.

        :param known: the highest ``last`` this process ever read; a lower one proves that the store lost data.
        """
        self.stored_version = version
        self.now = now
        self.known = known
        try:
            raw: Dict[str, Any] = {} if data is None else json.loads(data)
            if data is not None and "records" not in raw:
                # Taking damage for an empty namespace would have everything planned and done again.
                raise ValueError("it holds no records")
            self.meta: Dict[str, Any] = raw.get("meta", {})
            self.records: Dict[int, Record] = {}
            #: Records that cannot be read, as they are: nobody works on them, and verify names them.
            self.unreadable: Dict[str, Any] = {}
            for i, item in raw.get("records", {}).items():
                try:
                    self.records[int(i)] = Record.load(int(i), item)
                except (ValueError, KeyError, IndexError, TypeError):
                    self.unreadable[i] = item
            self.planned: List[Range] = [(low, high) for low, high in raw.get("planned", [])]
            self.skipped: List[Range] = [(low, high) for low, high in raw.get("skipped", [])]
            self.pruned: List[Range] = [(low, high) for low, high in raw.get("pruned", [])]
            #: The line of each chunk of completed partitions, by bucket (archive.py).
            self.chunks: Dict[int, str] = {int(bucket): line for bucket, line in raw.get("chunks", {}).items()}
            #: stream -> [sequence, letters, first token, granted ids]
            self.streams: Dict[str, List[Any]] = raw.get("streams", {})
            self.cancels: Dict[str, List[str]] = raw.get("cancels", {})
            #: command id -> row of simple_commands
            self.commands: Dict[str, List[Any]] = raw.get("commands", {})
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as exc:
            raise StoreError("the document of this namespace cannot be read: %s" % exc) from exc

    def dump(self, operation: str) -> bytes:
        """Return it for the store, naming the *operation* that changed it: a lost reply is settled by that name."""
        self.meta["operation"] = operation
        return json.dumps(
            {
                "meta": self.meta,
                "records": dict(self.unreadable, **{str(i): record.dump() for i, record in self.records.items()}),
                "planned": self.planned,
                "skipped": self.skipped,
                "pruned": self.pruned,
                "chunks": {str(bucket): line for bucket, line in self.chunks.items()},
                "streams": self.streams,
                "cancels": self.cancels,
                "commands": self.commands,
            },
            separators=(",", ":"),
        ).encode("utf-8")

    # ---------------------------------------------------------------- stamps

    @property
    def last(self) -> int:
        """The last stamp given out."""
        return int(self.meta.get("last", 0))

    @property
    def lost_data(self) -> bool:
        """Whether this document is older than one that was read before."""
        return self.known > self.last

    def draw(self, floor: int) -> int:
        """Return the next stamp, above *floor* too; leaves a mark when the store is known to have lost data."""
        now_us = int(self.now * 1e6)
        if floor > max(self.last, now_us) + _DAY_US:
            raise StoreError("the remembered token %d is more than a day ahead of the store" % floor)
        stamp = max(self.last + 1, now_us, floor + 1)
        if self.lost_data:
            self.meta["lost"] = stamp
        self.meta["last"] = stamp
        return stamp

    # ---------------------------------------------------------------- moves

    def report(self, item: Report, stamp: int, max_attempts: int, max_deliveries: int) -> Optional[PartitionStatus]:
        """Apply one report; return the status that follows, None when the claim is gone."""
        record = self.records.get(item.partition_id)
        if record is None or record.p.fencing_token != item.token:
            return None
        if record.p.status not in HELD:
            # Reported before: the same report gets the same answer.
            return record.p.status if record.outcome == item.outcome.value else None
        p = record.p
        record.outcome, record.lease, record.deadline = item.outcome.value, 0.0, 0.0
        wish = self.cancels.pop(str(item.partition_id), None)
        if item.outcome is Outcome.COMPLETED:
            record.change(
                stamp, status=PartitionStatus.COMPLETED, processed=item.processed, checkpoint=p.max_id, error=None,
                retry_at=None, last_heartbeat=None, completed_at=stamp / 1e6,
            )  # fmt: skip
            return PartitionStatus.COMPLETED
        attempt = p.attempt + (item.outcome in (Outcome.ERROR, Outcome.PERMANENT))
        deliveries = p.deliveries + (item.outcome is Outcome.LOST)
        failed = (
            item.outcome in (Outcome.PERMANENT, Outcome.CANCELLED)
            or (item.outcome is Outcome.ERROR and attempt >= max_attempts)
            or (item.outcome is Outcome.LOST and deliveries >= max_deliveries)
        )
        error = clip_error(item.error) if item.error else p.error
        if wish is not None and wish[0] == "C" and not failed:
            # An operator's cancel outranks another attempt.
            failed, error = True, "cancelled by %s" % wish[1]
        delay = 0.0 if failed or item.outcome is Outcome.LOST else item.delay
        record.change(
            stamp, status=PartitionStatus.FAILED if failed else PartitionStatus.PENDING, attempt=attempt,
            deliveries=deliveries, error=error,
            retry_at=self.now + delay if delay > 0 else None, last_heartbeat=None,
        )  # fmt: skip
        return record.p.status

    def start(self, partition_id: int, token: int, stamp: int) -> None:
        """Mark a claimed partition as running."""
        record = self.records.get(partition_id)
        if record is not None and record.p.fencing_token == token and record.p.status is PartitionStatus.CLAIMED:
            record.change(stamp, status=PartitionStatus.RUNNING)

    def claimable(self, suspects: bool) -> List[Record]:
        """Return what may be claimed now, in order: priority, then id; a suspect comes alone."""
        ready = [
            record
            for record in self.records.values()
            if record.p.status is PartitionStatus.PENDING and (record.p.retry_at or 0.0) <= self.now
        ]
        ready.sort(key=lambda record: (-record.p.priority, record.p.partition_id))
        if suspects and ready and ready[0].p.deliveries >= SUSPECT_DELIVERIES:
            return ready[:1]
        return [record for record in ready if record.p.deliveries < SUSPECT_DELIVERIES]

    def remember(self, request: TurnRequest, letters: str, first: int, ids: List[int]) -> None:
        """Keep the answer to a turn, for the same request coming again."""
        self.streams.pop(request.stream, None)
        self.streams[request.stream] = [request.sequence, letters, first, ids]
        while len(self.streams) > _MAX_STREAMS:
            del self.streams[next(iter(self.streams))]

    def due_in(self) -> Optional[float]:
        """Return the seconds until the next retry may be claimed; None when none waits, or all are paused."""
        if self.meta.get("paused"):
            return None
        waits = [r.p.retry_at - self.now for r in self.records.values()
                 if r.p.status is PartitionStatus.PENDING and r.p.retry_at is not None]  # fmt: skip
        return max(0.0, min(waits)) if waits else None

    def claim(self, request: TurnRequest, first: int, limit: int) -> List[Record]:
        """Grant up to free + prefetch partitions, with tokens from *first* on."""
        wanted = min(request.free + request.prefetch, limit)
        chosen = self.claimable(request.suspects and request.free > 0)
        if request.owned:
            # The best priority first, within it one's own first, then by id (sorting keeps the order of equals).
            chosen = chosen[: max(wanted, LOOK)]
            chosen.sort(key=lambda r: (-r.p.priority, request.owned[bucket_of(r.p.partition_id)] != "1"))
        chosen = chosen[: max(0, wanted)]
        for offset, record in enumerate(chosen):
            token = first + offset
            record.outcome, record.lease, record.deadline = "", request.lease, self.now + request.lease
            record.change(
                token, fencing_token=token, worker_id=request.worker_id, retry_at=None, last_heartbeat=self.now,
                status=PartitionStatus.RUNNING if offset < request.free else PartitionStatus.CLAIMED,
            )  # fmt: skip
        if chosen:
            self.meta["last"] = first + len(chosen) - 1
        return chosen

    def acquire(
        self, record: Record, worker_id: str, lease: float, stamp: int, preempt: bool, force: bool, max_deliveries: int
    ) -> bool:
        """Grant one partition by name; whether it could be had."""
        p = record.p
        deliveries = p.deliveries
        if p.status in HELD and not force:
            if not preempt or min(record.deadline, self.now + record.lease) > self.now:
                return False
            deliveries += 1
            if deliveries >= max_deliveries or self.cancels.get(str(p.partition_id), "")[:1] == ["C"]:
                self._lose(record, stamp, deliveries, max_deliveries)
                return False
        elif p.status not in HELD and p.status is not PartitionStatus.PENDING:
            return False
        # A release was meant for the claim that ends here; a cancel is meant for the partition.
        if self.cancels.get(str(p.partition_id), "")[:1] == ["R"]:
            del self.cancels[str(p.partition_id)]
        record.outcome, record.lease, record.deadline = "", lease, self.now + lease
        record.change(
            stamp, status=PartitionStatus.RUNNING, fencing_token=stamp, worker_id=worker_id, deliveries=deliveries,
            retry_at=None, last_heartbeat=self.now,
        )  # fmt: skip
        return True

    def renew(self, partition_id: int, token: int, lease: float) -> bool:
        """Extend a lease that has not run out; renewals do not move the version."""
        record = self.records.get(partition_id)
        if record is None or record.p.fencing_token != token or record.p.status not in HELD:
            return False
        if record.deadline <= self.now:
            return False
        record.deadline, record.lease = self.now + lease, lease
        return True

    def checkpoint(self, partition_id: int, token: int, checkpoint: int, processed: int, floor: int) -> Optional[bool]:
        """Move a checkpoint forward; False when the claim is gone, None when a later one is there already."""
        record = self.records.get(partition_id)
        if record is None or record.p.fencing_token != token or record.p.status not in HELD:
            return False
        if record.deadline <= self.now:
            return False
        if record.p.checkpoint is not None and record.p.checkpoint >= checkpoint:
            return None
        # Progress proves that it is not poison: the count of deliveries starts again.
        record.change(self.draw(floor), checkpoint=checkpoint, processed=processed, deliveries=0)
        return True

    def sweep(
        self, limit: int, max_deliveries: int, floor: int, longest_retry: Optional[float] = None
    ) -> Tuple[List[Reclaimed], bool]:
        """Take back what has run out by the store's clock; return it, and whether anything was changed."""
        out: List[Reclaimed] = []
        clamped = False
        latest = math.inf if longest_retry is None else self.now + longest_retry
        for record in self.records.values():
            # The store's clock was set back: no retry waits for as long as that.
            if record.p.status is PartitionStatus.PENDING and (record.p.retry_at or 0.0) > latest:
                record.p, clamped = attr.evolve(record.p, retry_at=latest), True
            if record.p.status not in HELD:
                continue
            # The store's clock was set back: no lease outlives its own length from now.
            if record.deadline > self.now + record.lease:
                record.deadline, clamped = self.now + record.lease, True
        expired = [r for r in self.records.values() if r.p.status in HELD and r.deadline <= self.now]
        expired.sort(key=lambda record: record.deadline)
        if not expired:
            return out, clamped
        stamp = self.draw(floor)
        for record in expired[:limit]:
            p = record.p
            self._lose(record, stamp, p.deliveries + 1, max_deliveries)
            out.append(
                Reclaimed(
                    p.partition_id, p.worker_id, p.fencing_token, p.deliveries + 1, record.p.status,
                    record.p.error or "",
                )
            )  # fmt: skip
        return out, True

    def _lose(self, record: Record, stamp: int, deliveries: int, max_deliveries: int) -> None:
        """Take a partition from a claim that ran out: pending again, or failed when it was lost too often."""
        failed = deliveries >= max_deliveries
        error = record.p.error
        wish = self.cancels.pop(str(record.p.partition_id), None)
        if wish is not None and wish[0] == "C":
            failed, error = True, "cancelled by %s" % wish[1]
        elif failed:
            text = "lost %d times by workers that died or froze while they held it, last by %s"
            error = text % (deliveries, record.p.worker_id)
        record.outcome, record.lease, record.deadline = Outcome.LOST.value, 0.0, 0.0
        record.change(
            stamp, status=PartitionStatus.FAILED if failed else PartitionStatus.PENDING, deliveries=deliveries,
            error=error, retry_at=None, last_heartbeat=None,
        )  # fmt: skip

    # ---------------------------------------------------------------- questions

    def count(self) -> Dict[PartitionStatus, int]:
        """Return how many partitions have each status; completed ones in chunks included."""
        out = dict.fromkeys(PartitionStatus, 0)
        for record in self.records.values():
            out[record.p.status] += 1
        out[PartitionStatus.COMPLETED] += int(self.meta.get("archived", 0))
        return out

    @property
    def waits(self) -> bool:
        """Whether an operator's command has not ended."""
        return any(row[4] in ("queued", "running") for row in self.commands.values())

    def wishes(self, claims: Sequence[Tuple[int, int]]) -> Mapping[int, Tuple[CancelReason, str]]:
        """Return what operators want of these claims."""
        out = {}
        for partition_id, _ in claims:
            wish = self.cancels.get(str(partition_id))
            if wish is not None:
                out[partition_id] = (CancelReason.CANCELLED if wish[0] == "C" else CancelReason.STOP, wish[1])
        return out
