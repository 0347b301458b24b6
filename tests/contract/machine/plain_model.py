"""The partitions of a namespace as plain Python: what the contract says, without a store, a script or an encoding.

Written from the contract and the tables in ``model.py``, to run beside the real thing. It is told the tokens that the
real thing hands out (and checks that they rise); everything else it works out by itself.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

import attr

from elk_coordinator.model import (
    HELD,
    CreatePartition,
    Outcome,
    Partition,
    PartitionStatus,
    Report,
)
from elk_coordinator.partition.requests import TurnRequest
from tests.contract.machine.plain_commands import Command, Conflict, PlainCommands

PENDING = PartitionStatus.PENDING
CLAIMED = PartitionStatus.CLAIMED
RUNNING = PartitionStatus.RUNNING
COMPLETED = PartitionStatus.COMPLETED
FAILED = PartitionStatus.FAILED

Claim = Tuple[int, int]


@attr.s(auto_attribs=True)
class Record:
    """One partition: its public facts, and what only the store knows."""

    p: Partition
    outcome: Optional[Outcome] = None
    #: Milliseconds by the store's clock.
    length: int = 0
    deadline: int = 0
    due: int = 0
    #: Places in the order of all changes: of its creation, of its last change, of its last grant.
    born: int = 0
    changed: int = 0
    granted: int = 0


class Stale(Exception):
    """A request that a later one of its stream overtook."""


class PlainModel(PlainCommands):
    """The state of one namespace. Methods change it and return what the real thing must answer."""

    def __init__(self, max_attempts: int, max_deliveries: int) -> None:
        self.max_attempts = max_attempts
        self.max_deliveries = max_deliveries
        self.now = 0  # ms
        self.lose_data()

    def lose_data(self) -> None:
        """Forget everything, as the store does; the time goes on."""
        self.records: Dict[int, Record] = {}
        self.planned: Set[int] = set()
        self.skipped: Set[int] = set()
        self.term: Optional[int] = None
        self.term_deadline = 0
        self.term_length = 0
        #: stream -> (sequence, answers, claims granted)
        self.streams: Dict[str, Tuple[int, List[Any], List[Claim]]] = {}
        self.beats: Dict[str, int] = {}
        #: Ids changed since the last look: their version must have risen.
        self.touched: Set[int] = set()
        self.top = 0
        #: IDs whose partition was deleted, and IDs and number of partitions whose details were dropped.
        self.deleted: Set[int] = set()
        self.pruned: Set[int] = set()
        self.pruned_count = 0
        #: Completed partitions in chunks.
        self.archived: Set[int] = set()
        #: Counts every change, so that what came first can be told without looking at any clock.
        self.order = 0
        self.paused = False
        #: What operators want of held partitions: ("C" or "R", by whom).
        self.wishes: Dict[int, Tuple[str, str]] = {}
        self.commands: Dict[str, Command] = {}

    # ---------------------------------------------------------------- questions

    def get(self, partition_id: int) -> Optional[Record]:
        return self.records.get(partition_id)

    def held(self, claim: Claim) -> Optional[Record]:
        """Return the record that this claim holds, if it does."""
        record = self.records.get(claim[0])
        if record is None or record.p.fencing_token != claim[1] or record.p.status not in HELD:
            return None
        return record

    def any_held(self) -> bool:
        return any(record.p.status in HELD for record in self.records.values())

    def valid(self, claim: Claim) -> Optional[Record]:
        """Return the record that this claim holds under a lease that has not run out."""
        record = self.held(claim)
        return record if record is not None and record.deadline > self.now else None

    def counts(self) -> List[int]:
        return [sum(1 for r in self.records.values() if r.p.status is status) for status in PartitionStatus]

    def queue(self) -> List[Record]:
        """Return what is claimable now: priority first, then the lowest id."""
        ready = [r for r in self.records.values() if r.p.status is PENDING and r.due <= self.now]
        return sorted(ready, key=lambda r: (-r.p.priority, r.p.partition_id))

    def change(self, record: Record, **facts: Any) -> None:
        record.p = attr.evolve(record.p, **facts)
        record.changed = self.next()
        self.touched.add(record.p.partition_id)

    def next(self) -> int:
        """Return the next place in the order of changes."""
        self.order += 1
        return self.order

    # ---------------------------------------------------------------- plan

    def create(self, items: Sequence[CreatePartition]) -> List[int]:
        """Create what is new; return its ids.

        :raises Conflict: nothing was created.
        """
        seen: Dict[int, Tuple[int, int]] = {}
        taken: Set[int] = set()
        for item in items:
            bounds = (item.min_id, item.max_id)
            if seen.setdefault(item.partition_id, bounds) != bounds:
                raise Conflict
        unique = {item.partition_id: item for item in reversed(list(items))}
        for item in unique.values():
            wanted = set(range(item.min_id, item.max_id + 1))
            if wanted & taken:
                raise Conflict
            taken |= wanted
        new = []
        for number in sorted(unique):
            item = unique[number]
            there = self.records.get(number)
            if there is not None:
                if (there.p.min_id, there.p.max_id) != (item.min_id, item.max_id):
                    raise Conflict
            elif set(range(item.min_id, item.max_id + 1)) & self.planned:
                raise Conflict
            else:
                new.append(item)
        self.add(new)
        return [item.partition_id for item in new]

    def add(self, items: Sequence[CreatePartition], skipped: Sequence[Tuple[int, int]] = ()) -> None:
        for item in items:
            p = Partition(
                item.partition_id, item.min_id, item.max_id, priority=item.priority, options=dict(item.options or {})
            )
            place = self.next()
            self.records[item.partition_id] = Record(p, born=place, changed=place)
            self.touched.add(item.partition_id)
            self._plan(item.min_id, item.max_id)
            self.skipped -= set(range(item.min_id, item.max_id + 1))
            self.top = max(self.top, item.partition_id)
        for low, high in skipped:
            self._plan(low, high)
            self.skipped |= set(range(low, high + 1))

    def _plan(self, low: int, high: int) -> None:
        self.planned |= set(range(low, high + 1))
        self.deleted -= set(range(low, high + 1))

    def delete(self, numbers: Sequence[int]) -> List[int]:
        """Delete what nobody holds; return what is held."""
        kept = []
        for number in sorted(set(numbers)):
            record = self.records.get(number)
            if record is None:
                continue
            if record.p.status in HELD:
                kept.append(number)
                continue
            span = set(range(record.p.min_id, record.p.max_id + 1))
            self.planned -= span
            self.deleted |= span
            self.archived.discard(number)
            del self.records[number]
        return kept

    def archive(self) -> List[int]:
        """Compress what completed; nobody may see a difference."""
        moved = [i for i, r in self.records.items() if r.p.status is COMPLETED and i not in self.archived]
        self.archived.update(moved)
        return moved

    def prune(self, keep: int, versions: Dict[int, int]) -> List[int]:
        """Drop the details of the oldest compressed partitions while more than *keep* completed ones are kept."""
        excess = sum(1 for r in self.records.values() if r.p.status is COMPLETED) - keep
        gone = sorted(self.archived, key=lambda i: (versions[i], i))[: max(0, excess)]
        for number in gone:
            p = self.records.pop(number).p
            self.archived.discard(number)
            self.pruned |= set(range(p.min_id, p.max_id + 1))
        self.pruned_count += len(gone)
        return gone

    # ---------------------------------------------------------------- the worker's round trip

    def turn(self, request: TurnRequest, granted: Sequence[Partition]) -> Tuple[List[Any], List[Claim], Dict[int, Any]]:
        """Apply one round trip; *granted* is what the real thing granted, for the tokens.

        :return: the status after each report (None: refused), the claims, and the ids with their status.
        :raises Stale: a later request of the stream ran already.
        """
        before = self.streams.get(request.stream)
        if before is not None and before[0] > request.sequence:
            raise Stale
        if before is not None and before[0] == request.sequence:
            standing = [claim for claim in before[2] if self.held(claim) is not None]
            return before[1], standing, {i: self.records[i].p.status for i, _ in standing}
        ended: Dict[int, Tuple[int, Outcome, PartitionStatus]] = {}
        answers = [self._report(report, ended) for report in request.reports]
        for claim in request.starts:
            record = self.held(claim)
            if record is not None and claim[0] not in ended and record.p.status is CLAIMED:
                self.change(record, status=RUNNING)
        expected = self._claim(request, granted)
        self.streams[request.stream] = (request.sequence, answers, expected)
        return answers, expected, {i: self.records[i].p.status for i, _ in expected}

    def report(self, report: Report) -> Any:
        """Apply one report; return the status that follows, None when the claim is gone."""
        return self._report(report, {})

    def _report(self, report: Report, ended: Dict[int, Tuple[int, Outcome, PartitionStatus]]) -> Any:
        number, token, outcome = report.partition_id, report.token, report.outcome
        if number in ended:
            return ended[number][2] if ended[number][:2] == (token, outcome) else None
        record = self.held((number, token))
        if record is None:
            there = self.records.get(number)
            same = there is not None and there.p.fencing_token == token and there.outcome is outcome
            return there.p.status if there is not None and same else None
        p = record.p
        wish = self.wishes.pop(number, None)
        record.outcome, record.deadline, record.due = outcome, 0, 0
        if outcome is Outcome.COMPLETED:
            self.change(
                record, status=COMPLETED, checkpoint=p.max_id, processed=report.processed, error=None, retry_at=None
            )
            ended[number] = (token, outcome, COMPLETED)
            return COMPLETED
        attempt = p.attempt + (outcome in (Outcome.ERROR, Outcome.PERMANENT))
        deliveries = p.deliveries + (outcome is Outcome.LOST)
        rests = (
            outcome in (Outcome.PERMANENT, Outcome.CANCELLED)
            or (outcome is Outcome.ERROR and attempt >= self.max_attempts)
            or (outcome is Outcome.LOST and deliveries >= self.max_deliveries)
        )
        error = report.error or p.error
        if not rests and wish is not None and wish[0] == "C":
            rests, error = True, "cancelled by %s" % wish[1]
        if not rests and outcome is not Outcome.LOST and report.delay:
            record.due = self.now + int(report.delay * 1000)
        self.change(
            record,
            status=FAILED if rests else PENDING,
            attempt=attempt,
            deliveries=deliveries,
            error=error,
            retry_at=record.due / 1000 if record.due else None,
        )
        ended[number] = (token, outcome, record.p.status)
        return record.p.status

    def _claim(self, request: TurnRequest, granted: Sequence[Partition]) -> List[Claim]:
        want = 0 if self.paused else request.free + request.prefetch
        ready = self.queue()
        suspects = [r for r in ready if r.p.deliveries >= 2]
        plain = [r for r in ready if r.p.deliveries < 2]
        chosen = plain[:want]
        if want and request.suspects and request.free and suspects and ready[0] is suspects[0]:
            chosen = suspects[:1]
        tokens = {p.partition_id: p.fencing_token for p in granted}
        out = []
        for place, record in enumerate(chosen):
            # A grant that the real thing did not make gets a token that matches nothing; the comparison will tell.
            token = tokens.get(record.p.partition_id, -1)
            self.grant(record, request.worker_id, token, request.lease, RUNNING if place < request.free else CLAIMED)
            out.append((record.p.partition_id, token))
        return out

    def grant(self, record: Record, worker: str, token: int, lease: float, status: PartitionStatus) -> None:
        record.outcome, record.due = None, 0
        record.length = int(lease * 1000)
        record.deadline = self.now + record.length
        record.granted = self.next()
        self.change(record, status=status, worker_id=worker, fencing_token=token, retry_at=None)

    def acquire(self, number: int, preempt: bool, force: bool) -> Optional[Record]:
        """Return the record when it may be had by name (its deliveries counted), for :meth:`grant`."""
        record = self.records[number]
        p = record.p
        if self.paused and not force:
            return None
        if p.status is PENDING:
            return record
        if p.status not in HELD:
            return None
        wish = self.wishes.get(number, ("", ""))[0]
        if not force:
            if not preempt or min(record.deadline, self.now + record.length) > self.now:
                return None
            if p.deliveries + 1 >= self.max_deliveries or wish == "C":
                self._lose(record)
                return None
            record.p = attr.evolve(p, deliveries=p.deliveries + 1)
        if wish == "R":
            # A release was meant for the claim that ends here; a cancel is meant for the partition.
            del self.wishes[number]
        return record

    # ---------------------------------------------------------------- leases

    def beat(
        self, stream: str, sequence: int, lease: float, claims: Sequence[Claim], leaves_trace: bool = True
    ) -> Set[Claim]:
        """Renew; return what is gone.

        :raises Stale: a later beat of the stream ran already.
        """
        if self.beats.get(stream, 0) > sequence:
            raise Stale
        if leaves_trace:
            self.beats[stream] = sequence
        gone = set()
        for claim in claims:
            record = self.valid(claim)
            if record is None:
                gone.add(claim)
            else:
                record.length = int(lease * 1000)
                record.deadline = self.now + record.length
        return gone

    def checkpoint(self, claim: Claim, checkpoint: int, processed: int) -> bool:
        record = self.valid(claim)
        if record is None:
            return False
        if record.p.checkpoint is None or record.p.checkpoint < checkpoint:
            self.change(record, checkpoint=checkpoint, processed=processed, deliveries=0)
        return True

    def sweep(self, limit: int, clamp_above: int) -> List[Tuple[int, int, int, PartitionStatus]]:
        """Take back what ran out; return (id, token, deliveries, status).

        :param clamp_above: deadlines are compared with their own length when any is further ahead than so many ms.
        """
        leased = sorted((r.deadline, r.p.partition_id) for r in self.records.values() if r.p.status in HELD)
        if leased and leased[-1][0] > self.now + clamp_above:
            for _, number in leased[-limit:]:
                record = self.records[number]
                record.deadline = min(record.deadline, self.now + record.length)
            leased = sorted((r.deadline, r.p.partition_id) for r in self.records.values() if r.p.status in HELD)
        out = []
        for _, number in [item for item in leased if item[0] <= self.now][:limit]:
            record = self.records[number]
            self._lose(record)
            out.append((number, record.p.fencing_token, record.p.deliveries, record.p.status))
        return out

    def _lose(self, record: Record) -> None:
        deliveries = record.p.deliveries + 1
        rests = deliveries >= self.max_deliveries
        text = "lost %d times by workers that died or froze while they held it, last by %s" % (
            deliveries,
            record.p.worker_id,
        )
        wish = self.wishes.pop(record.p.partition_id, ("", ""))
        if wish[0] == "C":
            rests, text = True, "cancelled by %s" % wish[1]
        record.outcome, record.deadline, record.due = Outcome.LOST, 0, 0
        self.change(
            record,
            status=FAILED if rests else PENDING,
            deliveries=deliveries,
            error=text if rests else record.p.error,
            retry_at=None,
        )

    def expected(self, number: int) -> Partition:
        """Return the partition as everybody must see it, but for version and instants that follow from it."""
        record = self.records[number]
        if record.p.status in HELD:
            return attr.evolve(record.p, last_heartbeat=(record.deadline - record.length) / 1000)
        return record.p

    # ---------------------------------------------------------------- the leader

    def elect(self, ttl: float) -> bool:
        """Return whether the leader's lock can be had."""
        if self.term is not None and self.term_deadline > self.now:
            # A lock never lasts longer than its own length from now, whatever the clock did.
            self.term_deadline = min(self.term_deadline, self.now + self.term_length)
            return False
        self.term_length = int(ttl * 1000)
        self.term_deadline = self.now + self.term_length
        return True

    def leads(self, term: int) -> bool:
        return self.term is not None and self.term == term

    def renew_term(self, term: int, ttl: float) -> bool:
        if not self.leads(term) or self.term_deadline <= self.now:
            return False
        self.term_length = int(ttl * 1000)
        self.term_deadline = self.now + self.term_length
        return True

    def resign(self, term: int) -> bool:
        if not self.leads(term):
            return False
        self.term, self.term_deadline = None, 0
        return True
