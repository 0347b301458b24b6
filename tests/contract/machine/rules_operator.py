"""What operators do: change facts of partitions, and submit commands that leaders carry out step by step."""

from __future__ import annotations

import contextlib
from typing import Any, Dict, Optional, Tuple

import attr
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from elk_coordinator.errors import IllegalTransition, LeaseLost, RangeConflict, VersionConflict
from elk_coordinator.model import Outcome, PartitionStatus, Report
from elk_coordinator.partition.commands import Job, checked_command
from tests.contract.machine.life import LEASES, WORKERS, Worker
from tests.contract.machine.plain_commands import STEP, Command, Conflict
from tests.contract.machine.rules_plan import PlanRules

COMPLETED = PartitionStatus.COMPLETED
PENDING = PartitionStatus.PENDING

IDS = st.lists(st.integers(1, 9), min_size=1, max_size=4)
#: Pauses are undone as often as they come, or nothing would be claimed for half of a life.
KINDS = ("retry_failed", "retry_failed", "retry_all", "pause", "resume", "resume", "cancel", "cancel", "release",
         "set_priority", "delete", "create")  # fmt: skip


class OperatorRules(PlanRules):
    """Operators, and the leader as it does what they asked for."""

    @precondition(lambda self: bool(self.model.records))
    @rule(worker=WORKERS, priority=st.integers(-1, 1), late=st.booleans(), force=st.booleans(), data=st.data())
    def update(self, worker: int, priority: int, late: bool, force: bool, data: Any) -> None:
        self.tick()
        if not self.model.records:
            return
        number = data.draw(st.sampled_from(sorted(self.model.records)), "id")
        strategy, record = self.workers[worker].strategy, self.model.records[number]
        wanted = attr.evolve(strategy.get_partition(number), options={"p": priority}, priority=priority, error=None)
        expected = wanted.version - 1 if late else None
        if late and not force:
            with pytest.raises(VersionConflict):
                strategy.update_partition(wanted, expected, force=force)
        elif record.p.status is COMPLETED or (record.p.status is not PENDING and priority != record.p.priority):
            with pytest.raises(IllegalTransition):
                strategy.update_partition(wanted, expected, force=force)
        else:
            self.model.change(record, options={"p": priority}, priority=priority, error=None)
            strategy.update_partition(wanted, expected, force=force)

    # ---------------------------------------------------------------- commands

    @rule(
        worker=WORKERS,
        kind=st.sampled_from(KINDS),
        what=st.sampled_from(["queue", "do", "do", "again"]),
        data=st.data(),
    )
    def submit(self, worker: int, kind: str, what: str, data: Any) -> None:
        """Submit a command (and *do* it), or *again* one whose answer was lost."""
        if what == "again" and self.model.commands:
            self.tick()
            known = self.model.commands[data.draw(st.sampled_from(sorted(self.model.commands)), "command")]
            self.seen["submitted again"] += 1
            self.workers[worker].commands.submit(known.command_id, known.kind, known.args, known.by)
            return
        self._submit(worker, *self._draw_command(kind, data), what == "do")

    def _submit(self, worker: int, kind: str, args: Dict[str, Any], do: bool) -> None:
        self.tick()
        me = self.workers[worker]
        name, by = "c%d" % self.model.next(), "ann%d" % worker
        plain = checked_command(kind, args, by, name)
        self.seen["submitted %s" % kind] += 1
        me.commands.submit(name, kind, plain, by)
        self.model.submit(name, kind, plain, by)
        if do:
            self._carry_commands_on(worker, True, 4, 0)

    @precondition(lambda self: bool(self.model.records))
    @rule(
        worker=WORKERS,
        kind=st.sampled_from(["cancel", "release"]),
        then=st.sampled_from(["beat", "lost", "error", "nothing"]),
        data=st.data(),
    )
    def want_back(self, worker: int, kind: str, then: str, data: Any) -> None:
        """Ask for a held one back; its worker hears of it, or gives it up for a reason of its own."""
        if not any(map(self.model.valid, self.claims)):
            self.request(self.workers[worker], LEASES[1], free=1)
        held = [claim for claim in self.claims if self.model.valid(claim)]
        if not held:
            return
        claim = data.draw(st.sampled_from(held), "claim")
        leader = next((i for i, each in enumerate(self.workers) if self.model.leads(each.term)), worker)
        self._submit(leader, kind, {"id": claim[0]}, True)
        if then == "beat":
            self.send_beat(self.workers[worker], [claim])
        elif then != "nothing":
            outcome = Outcome.LOST if then == "lost" else Outcome.ERROR
            self.request(self.workers[worker], LEASES[0], [Report(*claim, outcome, 1)])

    def _draw_command(self, kind: str, data: Any) -> Tuple[str, Dict[str, Any]]:
        if kind in ("pause", "resume"):
            return kind, {}
        if kind == "retry_all":
            return "retry_failed", {}
        if kind == "create":
            low = data.draw(st.integers(30, 60), "low")
            widths = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4), "widths")
            spans = []
            for width in widths:
                spans.append({"min_id": low, "max_id": low + width - 1, "priority": width - 2})
                low += width + data.draw(st.integers(0, 1), "gap")
            return kind, {"ranges": spans}
        known = sorted(self.model.records) or [1]
        if kind in ("cancel", "release"):
            return kind, {"id": data.draw(st.one_of(st.sampled_from(known), st.integers(1, 12)), "id")}
        ids = data.draw(st.one_of(st.lists(st.sampled_from(known), min_size=1, max_size=4), IDS), "ids")
        if kind == "set_priority":
            return kind, {"ids": ids, "priority": data.draw(st.integers(-2, 2), "priority")}
        return kind, {"ids": ids}

    @precondition(lambda self: bool(self.model.commands))
    @rule(
        worker=WORKERS,
        stand=st.sampled_from([True, True, False]),
        most=st.integers(1, 4),
        late=st.sampled_from([0, 0, 0, 1, 2]),
    )
    def carry_commands_on(self, worker: int, stand: bool, most: int, late: int) -> None:
        """Do up to *most* steps of what waits; *late*: also one that was read so many steps before."""
        self._carry_commands_on(worker, stand, most, late)

    def _carry_commands_on(self, worker: int, stand: bool, most: int, late: int) -> None:
        me = self.leader_or_not(worker, stand)
        if late and len(me.jobs) >= late:
            self._step(me, *me.jobs[-late])
        for _ in range(most):
            expected = self.model.first_command()
            job = me.commands.first()
            assert (job is None) == (expected is None)
            if job is None or expected is None:
                return
            assert job.command_id == expected.command_id
            me.jobs.append((job, expected.steps))
            if not self._step(me, job, expected.steps):
                return

    def _step(self, me: Worker, job: Job, steps: int) -> bool:
        """Carry a command on from where it was when it was read; return whether that was of any use."""
        self.tick()
        command = self.model.commands.get(job.command_id)
        if not self.model.leads(me.term):
            self.seen["step of an old term"] += 1
            carried_on = command is None or command.steps != steps
            # A create that meets what it created before, whoever did it, has nothing left to be refused.
            silent = carried_on and job.kind == "create"
            refused: Any = pytest.raises((LeaseLost, RangeConflict))
            with contextlib.suppress(LeaseLost, RangeConflict) if silent else refused:
                me.commands.step(me.term, job)
            with pytest.raises(LeaseLost):
                me.commands.fail(me.term, job, "too late")
            return False
        if command is None or command.steps != steps:
            self.seen["step repeated"] += 1
            me.commands.step(me.term, job)
            me.commands.fail(me.term, job, "too late")
            return False
        self._carry_on(me, job, command)
        return True

    def _carry_on(self, me: Worker, job: Job, command: Command) -> None:
        archived = set(self.model.archived)
        before = set(self.model.records)
        error: Optional[str] = None
        try:
            self.model.carry_on(command)
        except Conflict:
            error = "conflict"
        self.gone(sorted(before - set(self.model.records)))
        self.seen["step of %s" % command.kind] += 1
        self.seen["step that deletes from the archive"] += bool(archived - self.model.archived)
        if error is None:
            me.commands.step(me.term, job)
        else:
            with pytest.raises(RangeConflict):
                me.commands.step(me.term, job)
            me.commands.fail(me.term, job, error)
            self.model.fail(command)

    @precondition(lambda self: any(c.ended for c in self.model.commands.values()))
    @rule(worker=WORKERS, stand=st.booleans(), keep=st.sampled_from([1.0, 5.0]))
    def forget_old_commands(self, worker: int, stand: bool, keep: float) -> None:
        me = self.leader_or_not(worker, stand)
        if not self.model.leads(me.term):
            with pytest.raises(LeaseLost):
                me.commands.expire(me.term, keep)
            return
        expected = self.model.expire(int(keep * 1000), None if self.simple else STEP)
        self.seen["commands forgotten"] += expected
        # A few at a time, as the leader does.
        assert sum(iter(lambda: me.commands.expire(me.term, keep), 0)) == expected
