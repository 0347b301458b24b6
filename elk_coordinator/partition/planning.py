"""Planning: creating and deleting partitions together with the merged intervals that remember what was planned."""

from __future__ import annotations

from typing import Iterable, List, Optional, Sequence, Tuple

import attr

from elk_coordinator.errors import IllegalTransition, RangeConflict, VersionConflict
from elk_coordinator.model import HELD, MAX_BATCH, CreatePartition, Partition, PlanState, Range, check_partition_id
from elk_coordinator.partition import intervals
from elk_coordinator.partition.archive import Archive
from elk_coordinator.partition.selection import checked_input, new_partition

#: Attempts of one change against others who change the plan at the same time.
_PLAN_TRIES = 50


class Planning(Archive):
    """Changes of the plan, by compare-and-set on its version."""

    def create_partitions_if_not_exist(self, partitions: Iterable[CreatePartition]) -> List[Partition]:
        """Create those that do not exist yet; return the new ones, ordered by id.

        Batches of at most 500, each atomic, in id order.

        :raises RangeConflict: a known id with another range, or an overlap with a planned range. Earlier batches are
            kept and listed in the error.
        """
        wanted = checked_input(partitions)
        created: List[Partition] = []
        state: Optional[PlanState] = None
        for start in range(0, len(wanted), MAX_BATCH):
            batch = wanted[start : start + MAX_BATCH]
            state = self._append_batch(batch, state or self.plan_state())
            if state is not None:
                created.extend(new_partition(item, state.version) for item in batch)
                continue
            try:
                created.extend(self._create_batch(batch))
            except RangeConflict as exc:
                raise RangeConflict(exc.requested, exc.existing, "conflicts with", created) from exc
        return created

    def _append_batch(self, batch: Sequence[CreatePartition], state: PlanState) -> Optional[PlanState]:
        """Create a batch whose ids and ranges lie behind all that there ever was: nothing to read, nothing to collide.

        :return: the state after it; None when it is no such batch, or the plan is no longer at *state*.
        """
        if batch[0].partition_id <= state.max_partition_id:
            return None
        if state.last is not None and min(p.min_id for p in batch) <= state.last[1]:
            return None
        known = [state.last] if state.last is not None else []
        gone, come = intervals.added(known, [(p.min_id, p.max_id) for p in batch])
        try:
            version = self._plan(state.version, None, batch, (gone, come), ((), ()))
        except VersionConflict:
            return None
        return attr.evolve(state, version=version, last=come[-1], max_partition_id=batch[-1].partition_id)

    def _create_batch(self, batch: Sequence[CreatePartition]) -> List[Partition]:
        for _ in range(_PLAN_TRIES):
            low, high = min(p.min_id for p in batch), max(p.max_id for p in batch)
            version, window = self.planned_window(low - 1, high + 1)
            known = self.read([p.partition_id for p in batch])
            fresh = []
            for item in batch:
                asked = (item.partition_id, item.min_id, item.max_id)
                there = known.get(item.partition_id)
                if there is not None:
                    if (there.min_id, there.max_id) != (item.min_id, item.max_id):
                        raise RangeConflict(asked, (there.min_id, there.max_id), "exists with another range")
                    continue
                clash = intervals.find_overlap(window, (item.min_id, item.max_id))
                if clash is not None:
                    raise RangeConflict(asked, clash, "overlaps the planned range")
                fresh.append(item)
            if not fresh:
                return []
            change = intervals.added(window, [(p.min_id, p.max_id) for p in fresh])
            try:
                stamp = self._plan(version, None, fresh, change, ((), ()))
            except VersionConflict:
                continue
            return [new_partition(item, stamp) for item in fresh]
        raise VersionConflict("the plan kept changing while partitions were created", None, None)

    def plan_partitions(
        self,
        state: PlanState,
        term: int,
        partitions: Sequence[CreatePartition],
        skipped: Sequence[Range],
    ) -> PlanState:
        """Create what the leader planned behind the last planned ID, and record what it skipped; one atomic step.

        :param state: what the plan was made from; refused when it is no longer the present one.
        :return: the state after it.
        :raises VersionConflict: somebody else planned. :raises LeaseLost: the term is over.
        """
        news = intervals.merge([(p.min_id, p.max_id) for p in partitions] + list(skipped))
        if state.last is not None and news and news[0][0] <= state.last[1]:
            raise IllegalTransition("planned ranges must lie behind the last planned ID %d" % state.last[1])
        known = [state.last] if state.last is not None else []
        gone, come = intervals.added(known, news)
        version = self._plan(state.version, term, partitions, (gone, come), ((), intervals.merge(skipped)))
        top = max([state.max_partition_id] + [p.partition_id for p in partitions])
        last = come[-1] if come else state.last
        return attr.evolve(
            state, version=version, last=last, max_partition_id=top, pending=state.pending + len(partitions)
        )

    def fill_gaps(self, version: int, term: int, partitions: Sequence[CreatePartition], empty: Sequence[Range]) -> int:
        """Create *partitions* inside gaps, and record *empty* as skipped; one atomic step.

        A gap is what no partition covers: never planned, deleted, or skipped. What becomes a partition is taken out of
        the skipped ranges. At most 500 partitions, and as many empty ranges.

        :param version: of the plan the gaps were found in. :param term: of the leader that fills them.
        :return: the version after it; *version* when there was nothing to change.
        :raises IllegalTransition: a partition (completed or pruned ones too) covers some of it: that is never planned
            again. :raises VersionConflict: the plan is at another version. :raises LeaseLost: the term is over.
        """
        wanted = [(p.min_id, p.max_id) for p in partitions]
        news = sorted(wanted + list(empty))
        if not news:
            return version
        for before, after in zip(news, news[1:]):
            if after[0] <= before[1]:
                raise IllegalTransition("ranges [%d, %d] and [%d, %d] for gaps overlap" % (*before, *after))
        low, high = news[0][0] - 1, news[-1][1] + 1
        found, planned = self.planned_window(low, high)
        again, skipped = self.planned_window(low, high, "skipped")
        if found != version or again != version:
            raise VersionConflict("the plan of %r" % self.namespace, version, again)
        covered = intervals.subtract(planned, skipped)
        for item in news:
            clash = intervals.find_overlap(covered, item)
            if clash is not None:
                raise IllegalTransition("[%d, %d] is no gap: partitions cover [%d, %d]" % (*item, *clash))
        left = intervals.merge([*intervals.subtract(skipped, wanted), *empty])
        change = (sorted(set(skipped) - set(left)), sorted(set(left) - set(skipped)))
        if not partitions and change == ([], []):
            return version
        return self._plan(version, term, partitions, intervals.added(planned, news), change)

    def planned_window(self, low: int, high: int, which: str = "planned") -> Tuple[int, List[Range]]:
        """Return the plan's version and all its intervals that touch ``[low, high]``, of one moment."""
        while True:
            out: List[Range] = []
            version, page = self._interval_page(which, max(low, -(2**63)), 1000)
            while True:
                out.extend(item for item in page if item[0] <= high)
                if len(page) < 1000 or page[-1][1] >= high:
                    return version, out
                again, page = self._interval_page(which, page[-1][1] + 1, 1000)
                if again != version:
                    break

    def interval_page(self, which: str, first: Optional[int] = None, limit: int = 1000) -> Tuple[int, List[Range]]:
        """Return the plan's version and up to *limit* intervals of ``planned`` or ``skipped`` that end at *first* or
        later, in order; one round trip."""
        return self._interval_page(which, first, limit)

    def planned_intervals(self) -> List[Range]:
        """Return everything planned, as merged intervals (partitions, skipped and pruned ranges together)."""
        return self.planned_window(-(2**63), 2**63)[1]

    def skipped_intervals(self) -> List[Range]:
        """Return the ranges recorded as holding no data."""
        return self.planned_window(-(2**63), 2**63, "skipped")[1]

    def pruned_intervals(self) -> List[Range]:
        """Return the ranges of completed partitions whose details were dropped (``archive_keep``)."""
        return self.planned_window(-(2**63), 2**63, "pruned")[1]

    def _pruned_near(self, low: int, high: int) -> List[Range]:
        return self.planned_window(low, high, "pruned")[1]

    def delete_partition(self, partition_id: int) -> bool:
        """Delete one partition, completed ones too; its range becomes a gap. False when somebody holds it."""
        return not self.delete_partitions([partition_id])

    def delete_partitions(self, partition_ids: Iterable[int]) -> List[int]:
        """Delete partitions; unknown ones are no error. Return those that were skipped because they are held.

        Batches of at most 500, each atomic, in id order. Their ranges are taken out of the plan: they become gaps.
        """
        wanted = sorted({check_partition_id(partition_id) for partition_id in partition_ids})
        held: List[int] = []
        for start in range(0, len(wanted), MAX_BATCH):
            held += self._delete_batch(wanted[start : start + MAX_BATCH])
        return held

    def _delete_batch(self, batch: Sequence[int]) -> List[int]:
        for _ in range(_PLAN_TRIES):
            version = self.plan_state().version
            # Recent ones first: one that moves to its chunk in between is found there.
            known = self._read_recent(batch)
            chunks, archived = self._without([i for i in batch if i not in known])
            held = [i for i, p in known.items() if p.status in HELD]
            recent = [p.partition_id for p in known.values() if p.status not in HELD]
            free = [p for p in known.values() if p.status not in HELD] + archived
            if not free:
                return sorted(held)
            low, high = min(p.min_id for p in free), max(p.max_id for p in free)
            again, window = self.planned_window(low - 1, high + 1)
            if again != version:
                continue
            left = intervals.subtract(window, [(p.min_id, p.max_id) for p in free])
            gone, come = sorted(set(window) - set(left)), sorted(set(left) - set(window))
            try:
                if not self._delete(recent, version, (gone, come), chunks):
                    return sorted(held)
            except VersionConflict:
                continue
        raise VersionConflict("the plan kept changing while partitions were deleted", None, None)
