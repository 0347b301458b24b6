"""Input and output of partitions in numbers: checking what is to be created, choosing what is to be listed."""

from __future__ import annotations

from typing import Dict, Iterable, List, Optional

from elk_coordinator.errors import ConfigError, RangeConflict
from elk_coordinator.model import HELD, CreatePartition, Partition, PartitionFilter, PartitionStatus
from elk_coordinator.partition import codec


def new_partition(item: CreatePartition, stamp: int) -> Partition:
    """Return the partition as it is right after its creation."""
    return Partition(
        partition_id=item.partition_id,
        min_id=item.min_id,
        max_id=item.max_id,
        priority=item.priority,
        options=dict(item.options or {}),
        version=stamp,
        created_at=stamp / 1e6,
        updated_at=stamp / 1e6,
    )


def checked_input(partitions: Iterable[CreatePartition]) -> List[CreatePartition]:
    """Return the partitions ordered by id, each once.

    :raises RangeConflict: when they contradict each other. :raises ConfigError: for anything else wrong.
    """
    by_id: Dict[int, CreatePartition] = {}
    for item in partitions:
        if not isinstance(item, CreatePartition):
            raise ConfigError("partitions must be CreatePartition objects, not %r" % (item,))
        codec.dump_options(item.options, item.partition_id)
        twin = by_id.setdefault(item.partition_id, item)
        if (twin.min_id, twin.max_id) != (item.min_id, item.max_id):
            raise RangeConflict(
                (item.partition_id, item.min_id, item.max_id),
                (twin.min_id, twin.max_id),
                "is given twice in this call, with another range",
            )
    before: Optional[CreatePartition] = None
    for item in sorted(by_id.values(), key=lambda p: p.min_id):
        if before is not None and item.min_id <= before.max_id:
            raise RangeConflict(
                (item.partition_id, item.min_id, item.max_id),
                (before.min_id, before.max_id),
                "overlaps partition %d of this call" % before.partition_id,
            )
        before = item
    return [by_id[i] for i in sorted(by_id)]


def indexes(wanted: PartitionFilter) -> List[str]:
    """Return the smallest set of indexes that holds every match."""
    statuses = wanted.statuses
    out = []
    if wanted.include_archived or PartitionStatus.COMPLETED in statuses:
        out.append("done")
    active = statuses - {PartitionStatus.COMPLETED}
    if wanted.stale_for is not None or (active and active <= HELD):
        # Stale is said of held ones only.
        return out + ["held"] if active or not statuses else out
    if active and active <= {PartitionStatus.FAILED} | HELD:
        return out + ["failed"] + (["held"] if active & HELD else [])
    # Active first, done last: one that completes in between is then seen in at least one of them.
    return ["active"] + out if active or not statuses else out


def matches(p: Partition, wanted: PartitionFilter, now: float) -> bool:
    """Return whether *p* is what the filter wants; *now* by the store's clock."""
    if wanted.statuses and p.status not in wanted.statuses:
        return False
    if not wanted.statuses and p.status is PartitionStatus.COMPLETED and not wanted.include_archived:
        return False
    if wanted.worker_id is not None and p.worker_id != wanted.worker_id:
        return False
    if wanted.exclude_worker_id is not None and p.worker_id == wanted.exclude_worker_id:
        return False
    if wanted.stale_for is not None:
        return p.last_heartbeat is not None and now - p.last_heartbeat >= wanted.stale_for
    return True
