"""What must hold after every step, whatever happened: each promise by its name."""

from __future__ import annotations

from typing import Set

import attr
from hypothesis.stateful import invariant

from elk_coordinator.errors import PartitionNotFound
from elk_coordinator.model import HELD, Partition, PartitionStatus
from elk_coordinator.partition import intervals
from tests.contract.machine.life import Life, ranges
from tests.contract.machine.plain_commands import Command

COMPLETED = PartitionStatus.COMPLETED


class Invariants(Life):
    """Asked of the real thing after every step; ``look()`` reads it once."""

    # ---------------------------------------------------------------- tokens

    @invariant()
    def each_token_has_one_owner(self) -> None:
        tokens = []
        for number, p in self.look().partitions.items():
            if p.fencing_token:
                assert self.owners[p.fencing_token] == (number, p.worker_id)
                tokens.append(p.fencing_token)
        assert len(tokens) == len(set(tokens))

    @invariant()
    def the_token_of_a_partition_only_rises(self) -> None:
        if self.before is not None:
            for number, p in self.look().partitions.items():
                earlier = self.before.partitions.get(number)
                if earlier is not None and earlier.created_at == p.created_at:
                    assert p.fencing_token >= earlier.fencing_token

    @invariant()
    def a_claim_that_ended_never_holds_again(self) -> None:
        found = self.look().partitions
        held = {(i, p.fencing_token) for i, p in found.items() if p.status in HELD}
        assert not held & self.ended
        self.ended |= {claim for claim in self.claims[-30:] if claim not in held}

    @invariant()
    def a_completion_is_accepted_under_the_current_token_only_and_once(self) -> None:
        known = set(self.completed)
        for number, p in self.look().partitions.items():
            if p.status is not COMPLETED:
                assert number not in self.completed, "completed work was taken up again"
                continue
            first = self.completed.setdefault(number, p)
            assert first.fencing_token == p.fencing_token, "a second completion was accepted"
            earlier = self.before.partitions.get(number) if self.before is not None else None
            if earlier is not None and earlier.fencing_token == p.fencing_token:
                assert earlier.status in HELD or earlier.status is COMPLETED, "completed under a token that had ended"
            if number not in known:
                assert p.fencing_token == max(t for i, t in self.claims if i == number), "not the current token"

    @invariant()
    def a_checkpoint_never_moves_back_within_a_token(self) -> None:
        for number, p in self.look().partitions.items():
            if p.checkpoint is not None:
                claim = (number, p.fencing_token)
                assert p.checkpoint >= self.progress.get(claim, p.checkpoint)
                self.progress[claim] = p.checkpoint

    # ---------------------------------------------------------------- the plan

    @invariant()
    def everything_planned_is_accounted_for_once(self) -> None:
        look = self.look()
        covered: Set[int] = set()
        parts = [(p.min_id, p.max_id) for p in look.partitions.values()]
        for low, high in [*parts, *intervals.merge(look.skipped), *look.pruned]:
            span = set(range(low, high + 1))
            assert not covered & span, "held twice: %r" % sorted(covered & span)
            covered |= span
        assert intervals.size(look.skipped) == len(self.model.skipped), "skipped twice"
        assert look.planned == ranges(covered)
        assert not covered & self.model.deleted

    @invariant()
    def nothing_planned_is_forgotten_unless_it_was_deleted(self) -> None:
        look = self.look()
        assert look.planned == ranges(self.model.planned)
        assert intervals.merge(look.skipped) == ranges(self.model.skipped)
        assert look.pruned == ranges(self.model.pruned)
        if self.before is not None:
            assert look.plan.max_partition_id >= self.before.plan.max_partition_id
            assert look.plan.version >= self.before.plan.version
            if look.plan.version == self.before.plan.version:
                assert (look.planned, intervals.merge(look.skipped)) == (
                    self.before.planned,
                    intervals.merge(self.before.skipped),
                ), "the plan changed without a new version"
            left = intervals.subtract(self.before.planned, look.planned)
            assert all(i in self.model.deleted for low, high in left for i in range(low, high + 1))
        assert look.plan.max_partition_id == self.model.top

    # ---------------------------------------------------------------- counts, audit, the model

    @invariant()
    def the_counters_are_a_recount(self) -> None:
        look = self.look()
        stats = look.stats
        counted = [sum(1 for p in look.partitions.values() if p.status is s) for s in PartitionStatus]
        pruned = self.model.pruned_count
        said = [stats.pending, stats.claimed, stats.running, stats.completed - stats.pruned, stats.failed]
        assert said == counted == self.model.counts()
        assert (stats.pruned, stats.total) == (pruned, len(look.partitions) + pruned)
        assert stats.last_allocated_id == max(self.model.planned, default=None)
        assert (look.plan.pending, look.plan.held) == (stats.pending, stats.claimed + stats.running)

    @invariant()
    def the_audit_finds_nothing(self) -> None:
        assert self.look().problems == []

    @invariant()
    def every_partition_is_as_the_model_says(self) -> None:
        found = self.look().partitions
        assert sorted(found) == sorted(self.model.records)
        for number, there in found.items():
            self._compare(number, there)
        self.model.touched.clear()
        self.highest_version = max([self.highest_version, *(p.version for p in found.values())])

    def _compare(self, number: int, there: Partition) -> None:
        expected = self.model.expected(number)
        before = self.versions.get(number)
        if number in self.model.touched:
            assert there.version > self.highest_version, "a version was used twice"
        elif before is not None:
            assert there.version == before, "nothing changed"
        self.versions[number] = there.version
        done = there.status is COMPLETED
        assert there == attr.evolve(
            expected,
            version=there.version,
            created_at=there.created_at,
            updated_at=there.version / 1e6,
            completed_at=there.version / 1e6 if done else None,
        )

    # ---------------------------------------------------------------- archive and operators

    @invariant()
    def what_completed_is_found_by_its_id_as_it_was(self) -> None:
        """Recent or compressed, by another process; what was dropped is not found, and its IDs stay planned."""
        strategy = self.workers[2].strategy
        found = strategy.read(list(self.completed)[-20:])
        assert found == {number: self.completed[number] for number in found}
        assert sorted(found) == sorted(list(self.completed)[-20:])
        gone = set(range(1, self.model.top + 1)) - set(self.model.records)
        if gone:
            try:
                raise AssertionError(strategy.get_partition(max(gone)))
            except PartitionNotFound:
                pass

    @invariant()
    def commands_are_as_far_as_the_model_says(self) -> None:
        if not self.model.commands:
            return
        newest = self.workers[0].commands.newest(1000)
        assert [job.command_id for job in newest] == list(self.model.commands)[::-1]
        for job in newest:
            expected = self.model.commands[job.command_id]
            facts = (job.kind, job.by, job.state, job.done, job.cursor, job.skipped, list(job.listed), job.note)
            assert facts == _facts(expected)
            assert bool(job.error) == expected.failed


def _facts(c: Command) -> object:
    return (c.kind, c.by, c.state, c.done, c.cursor, c.skipped, c.listed, c.note)
