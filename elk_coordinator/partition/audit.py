"""The audit behind ``elk verify``: is everything planned accounted for once, and do the indexes agree with the records?

It reads page by page while work goes on. Each partition is read with all its indexes in one step, so work in flight
cannot look like damage; what needs the whole picture (coverage, counts) is looked at again when the plan or the counts
moved meanwhile.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import attr

from elk_coordinator.model import MAX_BATCH, Partition, PartitionStats, PartitionStatus, Range
from elk_coordinator.partition import intervals
from elk_coordinator.partition.strategy import PartitionStrategy

#: How often a picture that moved while it was taken is taken again.
TRIES = 5
#: Findings of one kind that are listed singly.
LISTED = 20


@attr.s(auto_attribs=True, frozen=True, slots=True)
class VerifyReport:
    """What an audit found. ``ok`` when :attr:`problems` is empty."""

    problems: List[str]
    info: List[str]
    partitions: int
    planned_ids: int
    partition_ids: int
    skipped_ids: int
    counts: Dict[str, int]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_dict(self) -> Dict[str, Any]:
        """Return a JSON-ready dict."""
        out = attr.asdict(self)
        out["ok"] = self.ok
        return out


class _Picture(NamedTuple):
    stats: PartitionStats
    planned: List[Range]
    skipped: List[Range]
    #: Before the partitions were read: none of them may lie there.
    pruned: List[Range]
    #: The same behind their reading: what is not among them may lie here.
    pruned_since: List[Range]
    found: Dict[int, Partition]
    broken: List[str]
    steady: bool


def verify(strategy: PartitionStrategy) -> VerifyReport:
    """Audit a namespace. Takes a look at every partition, 500 a round trip; safe to run beside live workers."""
    picture = _take(strategy)
    for _ in range(TRIES - 1):
        if picture.steady and not _wrong(picture):
            break
        picture = _take(strategy)
    problems = picture.broken + _wrong(picture)
    counted = Counter(partition.status.value for partition in picture.found.values())
    info = _information(picture)
    if not picture.steady:
        info.append("work went on while this was read: counts may differ by what moved meanwhile")
    return VerifyReport(
        problems=problems,
        info=info,
        partitions=len(picture.found),
        planned_ids=intervals.size(picture.planned),
        partition_ids=intervals.size((p.min_id, p.max_id) for p in picture.found.values()),
        skipped_ids=intervals.size(picture.skipped),
        counts=dict(counted),
    )


def _take(strategy: PartitionStrategy) -> _Picture:
    before, version = strategy.get_partition_stats(), strategy.plan_state().version
    planned, skipped = strategy.planned_intervals(), strategy.skipped_intervals()
    pruned = strategy.pruned_intervals()
    found: Dict[int, Partition] = {}
    broken: List[str] = strategy.archive_problems()
    ids = sorted(set(strategy.indexed_ids(broken)))
    for start in range(0, len(ids), MAX_BATCH):
        for partition_id, partition, wrong in strategy.inspect(ids[start : start + MAX_BATCH]):
            if partition is not None:
                found[partition_id] = partition
            broken += ["partition %d: %s" % (partition_id, text) for text in wrong]
    pruned_since = strategy.pruned_intervals()
    after = strategy.get_partition_stats()
    steady = before == after and strategy.plan_state().version == version
    return _Picture(after, planned, skipped, pruned, pruned_since, found, broken, steady)


def _wrong(picture: _Picture) -> List[str]:
    """Return what contradicts: coverage, overlaps, counts."""
    out: List[str] = []
    ranges = sorted((p.min_id, p.max_id, p.partition_id) for p in picture.found.values())
    last: Optional[Tuple[int, int, int]] = None
    for item in ranges:
        if last is not None and item[0] <= last[1]:
            out.append("partitions %d [%d, %d] and %d [%d, %d] overlap" % (last[2], *last[:2], item[2], *item[:2]))
        last = item
    covered = intervals.merge((low, high) for low, high, _ in ranges)
    for what, holes in (("skipped", picture.skipped), ("pruned", picture.pruned)):
        for low, high in intervals.merge(holes):
            clash = intervals.find_overlap(covered, (low, high))
            if clash is not None:
                out.append("%s range [%d, %d] overlaps partitions [%d, %d]" % (what, low, high, *clash))
        covered = intervals.merge([*covered, *holes])
    covered = intervals.merge([*covered, *picture.pruned_since])
    if bool(picture.pruned) != bool(picture.stats.pruned) and picture.steady:
        out.append("%d partitions are said to be pruned, in %d ranges" % (picture.stats.pruned, len(picture.pruned)))
    for low, high in intervals.subtract(picture.planned, covered):
        out.append("planned but held by no partition, nor skipped or pruned: [%d, %d]" % (low, high))
    if picture.steady:
        for low, high in intervals.subtract(covered, picture.planned):
            out.append("held by a partition or skipped, but not planned: [%d, %d]" % (low, high))
        out += _miscounted(picture)
    return _shortened(out)


def _miscounted(picture: _Picture) -> List[str]:
    counted = Counter(partition.status for partition in picture.found.values())
    said = {
        PartitionStatus.PENDING: picture.stats.pending,
        PartitionStatus.CLAIMED: picture.stats.claimed,
        PartitionStatus.RUNNING: picture.stats.running,
        PartitionStatus.COMPLETED: picture.stats.completed - picture.stats.pruned,
        PartitionStatus.FAILED: picture.stats.failed,
    }
    return [
        "the counter of %s says %d, a recount %d" % (status.value, said[status], counted[status])
        for status in PartitionStatus
        if said[status] != counted[status]
    ]


def _information(picture: _Picture) -> List[str]:
    out = []
    if picture.planned:
        low, high = picture.planned[0][0], picture.planned[-1][1]
        for hole in intervals.subtract([(low, high)], picture.planned)[:LISTED]:
            out.append("gap: [%d, %d] is not planned (never was, or its partition was deleted)" % hole)
    held = picture.stats.claimed + picture.stats.running
    if held:
        out.append("%d partitions are in flight" % held)
    if picture.stats.failed:
        out.append("%d partitions rest as failed" % picture.stats.failed)
    return out


def _shortened(lines: List[str]) -> List[str]:
    if len(lines) <= LISTED:
        return lines
    return [*lines[:LISTED], "... and %d more" % (len(lines) - LISTED)]
