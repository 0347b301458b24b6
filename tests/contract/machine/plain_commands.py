"""Operators' commands as plain Python: what each step does to partitions, and how far a command is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

import attr

from elk_coordinator.model import HELD, CreatePartition, PartitionStatus

if TYPE_CHECKING:
    from tests.contract.machine.plain_model import Record

PENDING = PartitionStatus.PENDING
FAILED = PartitionStatus.FAILED

#: Partitions that one step works on, in this machine (500 outside): two, so that commands take several steps.
STEP = 2


class Conflict(Exception):
    """A range that contradicts what is planned."""


@attr.s(auto_attribs=True)
class Command:
    """One command and how far it is."""

    command_id: str
    kind: str
    args: Mapping[str, Any]
    by: str
    #: Place in the order of changes.
    submitted: int
    state: str = "queued"
    done: int = 0
    cursor: int = 0
    skipped: int = 0
    listed: List[int] = attr.Factory(list)
    note: str = ""
    failed: bool = False
    #: Milliseconds by the store's clock; when it ended.
    updated: int = 0
    #: Counts the steps: a step is accepted only for the count it was computed from.
    steps: int = 0

    @property
    def ended(self) -> bool:
        return self.state in ("done", "failed")

    @property
    def items(self) -> Sequence[Any]:
        """What it names: ids, or ranges."""
        if self.kind == "create":
            return list(self.args["ranges"])
        return [self.args["id"]] if "id" in self.args else list(self.args.get("ids", ()))


class PlainCommands:
    """The queue of a namespace; a part of the plain model."""

    records: Dict[int, "Record"]
    planned: Set[int]
    commands: Dict[str, Command]
    wishes: Dict[int, Tuple[str, str]]
    paused: bool
    now: int
    top: int

    def next(self) -> int:
        raise NotImplementedError

    def change(self, record: "Record", **facts: Any) -> None:
        raise NotImplementedError

    def add(self, items: Sequence[CreatePartition], skipped: Sequence[Tuple[int, int]] = ()) -> None:
        raise NotImplementedError

    def delete(self, numbers: Sequence[int]) -> List[int]:
        raise NotImplementedError

    def submit(self, command_id: str, kind: str, args: Mapping[str, Any], by: str) -> None:
        """Queue a command; a known id queues nothing."""
        if command_id not in self.commands:
            self.commands[command_id] = Command(command_id, kind, args, by, self.next(), updated=self.now)

    def first_command(self) -> Optional[Command]:
        return next((command for command in self.commands.values() if not command.ended), None)

    def expire(self, keep: int, window: Optional[int]) -> int:
        """Forget what ended at least *keep* milliseconds ago; return how many.

        :param window: so many of the oldest are looked at: where the clock was set back, others wait behind them.
        """
        ended = [c for c in self.commands.values() if c.ended][:window]
        old = [c.command_id for c in ended if c.updated <= self.now - keep]
        for command_id in old:
            del self.commands[command_id]
        return len(old) + (self.expire(keep, window) if old else 0)

    def carry_on(self, command: Command) -> None:
        """Do the next step.

        :raises Conflict: a range to create is planned; nothing was done, and the leader fails the command.
        """
        before = attr.evolve(command, listed=list(command.listed))
        getattr(self, "_" + command.kind)(command)
        if command.state != "done":
            command.state = "running"
        command.updated = self.now
        command.steps = before.steps + 1

    def fail(self, command: Command) -> None:
        command.state, command.failed, command.updated = "failed", True, self.now
        command.steps += 1

    def _page(self, command: Command) -> Sequence[Any]:
        page = command.items[command.cursor : command.cursor + STEP]
        command.cursor += len(page)
        if command.cursor >= len(command.items):
            command.state = "done"
        return page

    def _leave(self, command: Command, number: int) -> None:
        command.skipped += 1
        command.listed.append(number)

    def _known(self, command: Command, number: int) -> Optional["Record"]:
        """Return a partition that was there when the command was submitted."""
        record = self.records.get(number)
        return record if record is not None and record.born < command.submitted else None

    def _pause(self, command: Command) -> None:
        command.state, command.done = "done", int(not self.paused)
        self.paused = True

    def _resume(self, command: Command) -> None:
        command.state, command.done = "done", int(self.paused)
        self.paused = False

    def _retry_failed(self, command: Command) -> None:
        everything = "ids" not in command.args
        if everything:
            failed = sorted(i for i, r in self.records.items() if r.p.status is FAILED and i > command.cursor)
            page: Sequence[int] = failed[:STEP]
            command.cursor = page[-1] if page else command.cursor
            if len(page) < STEP:
                command.state = "done"
        else:
            page = self._page(command)
        for number in page:
            record = self.records.get(number)
            if record is not None and record.p.status is FAILED and record.changed < command.submitted:
                # A fresh start: all attempts and deliveries again.
                self.change(record, status=PENDING, attempt=0, deliveries=0, retry_at=None)
                record.due = 0
                command.done += 1
            elif not everything:
                self._leave(command, number)

    def _set_priority(self, command: Command) -> None:
        for number in self._page(command):
            record = self._known(command, number)
            if record is not None and record.p.status is PENDING:
                self.change(record, priority=command.args["priority"])
                command.done += 1
            else:
                self._leave(command, number)

    def _cancel(self, command: Command) -> None:
        (number,) = self._page(command)
        record = self._known(command, number)
        if record is not None and record.p.status is PENDING:
            self.change(record, status=FAILED, retry_at=None, error="cancelled by %s" % command.by)
            record.due = 0
            command.done, command.note = 1, "failed"
        elif record is not None and record.p.status in HELD:
            self.wishes[number] = ("C", command.by)
            command.done, command.note = 1, "asked"
        else:
            self._untouched(command, number, record)

    def _release(self, command: Command) -> None:
        (number,) = self._page(command)
        record = self._known(command, number)
        if record is not None and record.p.status in HELD and record.granted < command.submitted:
            self.wishes.setdefault(number, ("R", command.by))
            command.done, command.note = 1, "asked"
        else:
            self._untouched(command, number, record)

    def _untouched(self, command: Command, number: int, record: Optional["Record"]) -> None:
        here = self.records.get(number)
        if here is not None and here.p.status is PartitionStatus.COMPLETED:
            # Whatever came first, it or the command: the archive does not say.
            record = here
        command.note = "unknown" if record is None else "unchanged:%s" % record.p.status.value
        self._leave(command, number)

    def _delete(self, command: Command) -> None:
        page = self._page(command)
        known = [i for i in page if i in self.records]
        before = [i for i in known if self.records[i].born < command.submitted]
        held = self.delete(before)
        for number in known:
            if number in self.records:
                self._leave(command, number)
        command.done += len(before) - len(held)

    def _create(self, command: Command) -> None:
        page = command.items[command.cursor : command.cursor + STEP]
        items = [
            CreatePartition(self.top + 1 + i, r["min_id"], r["max_id"], r.get("priority", 0))
            for i, r in enumerate(page)
        ]
        if any(set(range(item.min_id, item.max_id + 1)) & self.planned for item in items):
            raise Conflict
        self._page(command)
        self.add(items)
        command.done += len(items)
        command.listed += [items[0].partition_id, items[-1].partition_id]
