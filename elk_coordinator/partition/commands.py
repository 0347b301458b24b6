"""Operator commands: what may be asked, how far each is, and the steps in which a leader carries them out.

A command is queued with one request and carried out by the leader, oldest first, in steps of at most 500 partitions.
Each step changes the partitions and the command's progress mark at once, guarded by the leader's term and by the mark
as it was read: a step that is sent twice, or by a leader of before, changes nothing.
"""

from __future__ import annotations

import abc
import json
import re
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import attr

from elk_coordinator.errors import ConfigError, ElkError
from elk_coordinator.model import (
    MAX_BATCH,
    MAX_PARTITION_ID,
    CreatePartition,
    check_partition_id,
    check_priority,
)
from elk_coordinator.partition.selection import checked_input

#: Partition ids, or ranges, of one command.
MAX_ITEMS = 10_000
#: Bytes of a command's arguments as JSON.
MAX_ARGS_BYTES = 1024 * 1024
#: Commands that wait at the same time.
MAX_QUEUED = 1000
#: Ids that a result names of those left as they were.
MAX_LISTED = 1000
#: Seconds for which the result of an ended command can be read.
KEEP_SECONDS = 86400.0
#: Ended commands that are kept for that long; beyond, the oldest go sooner.
MAX_ENDED = 10_000
#: Ids or ranges that are kept of an ended command's arguments.
MAX_KEPT_ITEMS = 100

_COMMAND_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_BY = re.compile(r"[^\x00-\x1f\x7f]{1,200}\Z")


#: What goes to a script that changes the plan when it is no step of a command.
NO_JOB: Sequence[Any] = ("", "", "", "")


class CarriedOn(Exception):
    """Somebody carried a command on since it was read; nothing was changed. Stays inside this package."""


@attr.s(auto_attribs=True, frozen=True, slots=True)
class CommandStatus:
    """An operator command and how far it is; ``AdminService.command`` says how long. Instants by the store's clock."""

    command_id: str
    kind: str
    #: Of more than 100 ids or ranges an ended command keeps the first 100, and ``ids_total`` or ``ranges_total``.
    args: Mapping[str, Any]
    #: ``queued``, ``running``, ``done`` or ``failed``.
    state: str
    by: str
    submitted_at: float
    updated_at: float
    #: Items changed so far.
    done: int = 0
    #: ``changed``, ``skipped`` (the first 1,000 ids left as they were), ``skipped_total``; for ``cancel`` and
    #: ``release`` also ``outcome``, for ``create`` also ``created`` (pairs of first and last partition id).
    result: Mapping[str, Any] = attr.Factory(dict)
    #: Why it failed; "" = it did not.
    error: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in ("done", "failed")

    def to_dict(self) -> Dict[str, Any]:
        """Return a JSON-ready dict."""
        return attr.asdict(self)


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Job:
    """A command as the leader works on it."""

    command_id: str
    kind: str
    args: Mapping[str, Any]
    by: str
    #: Stamp of the submission: what changed or came after it is not touched.
    submitted: int
    state: str = "queued"
    updated_us: int = 0
    #: Items changed so far.
    done: int = 0
    #: How far it is: a place in the list of ids, or the last partition id looked at.
    cursor: int = 0
    skipped: int = 0
    #: Ids left as they were, or for ``create`` first and last ids in turn.
    listed: Sequence[int] = ()
    #: What became of the one partition of ``cancel`` or ``release``.
    note: str = ""
    error: str = ""
    #: How the store writes the progress mark; a step is accepted only for the mark it was computed from.
    mark: bytes = b""

    def status(self) -> CommandStatus:
        """Return what an operator sees of it."""
        result: Dict[str, Any] = {}
        if self.state != "queued":
            result["changed"] = self.done
            if self.kind == "create":
                result["created"] = [list(pair) for pair in zip(self.listed[::2], self.listed[1::2])]
            else:
                result["skipped"] = list(self.listed)
                result["skipped_total"] = self.skipped
            if self.note:
                result["outcome"] = self.note
        return CommandStatus(
            self.command_id, self.kind, self.args, self.state, self.by, self.submitted / 1e6, self.updated_us / 1e6,
            self.done, result, self.error,
        )  # fmt: skip

    @property
    def ids(self) -> Sequence[int]:
        """The partition ids it names."""
        return [self.args["id"]] if "id" in self.args else self.args.get("ids", ())


class CommandStore(abc.ABC):
    """The commands of one namespace. Safe from any thread; every method is one round trip, or few."""

    @abc.abstractmethod
    def submit(self, command_id: str, kind: str, args: Mapping[str, Any], by: str) -> None:
        """Queue a checked command; the same id again queues nothing.

        :raises StateError: when :data:`MAX_QUEUED` commands wait already.
        """

    @abc.abstractmethod
    def get(self, command_id: str) -> Optional[Job]:
        """Return one command, or None when there is none (any more)."""

    @abc.abstractmethod
    def newest(self, limit: int) -> List[Job]:
        """Return commands, the newest first."""

    @abc.abstractmethod
    def queued(self) -> int:
        """Return how many commands have not ended."""

    @abc.abstractmethod
    def first(self) -> Optional[Job]:
        """Return the oldest command that has not ended."""

    @abc.abstractmethod
    def step(self, term: int, job: Job) -> None:
        """Carry a command on by one atomic step; nothing happens when somebody carried it on since it was read.

        :raises LeaseLost: the term is over.
        """

    @abc.abstractmethod
    def fail(self, term: int, job: Job, error: str) -> None:
        """End a command as failed; what its earlier steps did stays. :raises LeaseLost: the term is over."""

    @abc.abstractmethod
    def expire(self, term: int, keep: float = KEEP_SECONDS) -> int:
        """Remove up to 500 commands that ended longer than *keep* seconds ago, or are too many; return how many.

        :raises LeaseLost: the term is over.
        """


# -- at the door -------------------------------------------------------------------------------------------------------


def checked_command(kind: Any, args: Any, by: Any, command_id: Any) -> Dict[str, Any]:
    """Return the arguments of a command in their plain form.

    :raises ConfigError: naming what is wrong.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError("kind: there is no command %r; there are %s" % (kind, ", ".join(sorted(KINDS))))
    if not isinstance(args, Mapping):
        raise ConfigError("%s: args must be a mapping, not %r" % (kind, args))
    if not isinstance(by, str) or not _BY.match(by):
        raise ConfigError("by: must be 1 to 200 characters without control characters, not %r" % (by,))
    if not isinstance(command_id, str) or not _COMMAND_ID.match(command_id):
        raise ConfigError("command_id: must be 1 to 64 letters, digits, '-_.', not %r" % (command_id,))
    names, check = KINDS[kind]
    wrong = sorted(str(name) for name in args if name not in names)
    if wrong:
        takes = ", ".join(names) or "none"
        raise ConfigError("%s: no argument %s; it takes %s" % (kind, ", ".join(wrong), takes))
    missing = [name for name in names if name not in args and not (kind == "retry_failed" and name == "ids")]
    if missing:
        raise ConfigError("%s: the argument %s is missing" % (kind, ", ".join(missing)))
    try:
        plain = check(args)
        size = len(json.dumps(plain))
    except ConfigError as exc:
        raise ConfigError("%s: %s" % (kind, exc)) from exc
    if size > MAX_ARGS_BYTES:
        raise ConfigError("%s: the arguments are %d bytes of JSON; at most %d are taken" % (kind, size, MAX_ARGS_BYTES))
    return plain


def _many(name: str, value: Any) -> List[Any]:
    if isinstance(value, (str, bytes, Mapping)):
        raise ConfigError("%s must be a list, not %r" % (name, value))
    try:
        out = list(value)
    except TypeError as exc:
        raise ConfigError("%s must be a list, not %r" % (name, value)) from exc
    if not 1 <= len(out) <= MAX_ITEMS:
        raise ConfigError("%s must have 1 to %d items, not %d" % (name, MAX_ITEMS, len(out)))
    return out


def _ids(value: Any) -> List[int]:
    return sorted({check_partition_id(item) for item in _many("ids", value)})


def _retry(args: Mapping[str, Any]) -> Dict[str, Any]:
    return {} if args.get("ids") is None else {"ids": _ids(args["ids"])}


def _range(item: Any) -> Dict[str, Any]:
    if isinstance(item, Mapping):
        wrong = sorted(str(name) for name in item if name not in ("min_id", "max_id", "priority", "options"))
        if wrong or "min_id" not in item or "max_id" not in item:
            raise ConfigError("ranges: %r needs min_id and max_id, and may have priority and options" % (item,))
        return {name: item[name] for name in item if item[name] is not None}
    if isinstance(item, (list, tuple)) and 2 <= len(item) <= 4:
        return {n: v for n, v in zip(("min_id", "max_id", "priority", "options"), item) if v is not None}
    raise ConfigError("ranges: %r is neither (min_id, max_id) nor a mapping with them" % (item,))


def _create(args: Mapping[str, Any]) -> Dict[str, Any]:
    ranges = [_range(item) for item in _many("ranges", args["ranges"])]
    try:
        checked_input(numbered(ranges, 1))
    except ConfigError:
        raise
    except ElkError as exc:
        raise ConfigError("ranges: %s" % exc) from exc
    return {"ranges": ranges}


def numbered(ranges: Sequence[Mapping[str, Any]], first: int) -> List[CreatePartition]:
    """Return the partitions to create, with ids from *first* on.

    :raises ConfigError: for a range that is none, or when no ids are left.
    """
    if first + len(ranges) - 1 > MAX_PARTITION_ID:
        raise ConfigError("there are not enough partition ids left above %d" % (first - 1))
    return [
        CreatePartition(first + i, r.get("min_id"), r.get("max_id"), r.get("priority", 0), r.get("options"))  # type: ignore[arg-type]
        for i, r in enumerate(ranges)
    ]


_Check = Callable[[Mapping[str, Any]], Dict[str, Any]]

#: kind -> the names of its arguments, and what makes plain values of them.
KINDS: Mapping[str, Tuple[Sequence[str], _Check]] = {
    "retry_failed": (("ids",), _retry),
    "pause": ((), lambda args: {}),
    "resume": ((), lambda args: {}),
    "cancel": (("id",), lambda args: {"id": check_partition_id(args["id"])}),
    "release": (("id",), lambda args: {"id": check_partition_id(args["id"])}),
    "set_priority": (
        ("ids", "priority"),
        lambda args: {"ids": _ids(args["ids"]), "priority": check_priority(args["priority"])},
    ),
    "delete": (("ids",), lambda args: {"ids": _ids(args["ids"])}),
    "create": (("ranges",), _create),
}


def kept_args(args: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what is kept of the arguments of a command that has ended: the first of its items, and their number."""
    for name in ("ids", "ranges"):
        items = args.get(name, ())
        if len(items) > MAX_KEPT_ITEMS:
            return {**args, name: items[:MAX_KEPT_ITEMS], name + "_total": len(items)}
    return args


def page_of(job: Job) -> Sequence[Any]:
    """Return what the next step works on, of a command that names its items."""
    items: Sequence[Any] = job.args["ranges"] if job.kind == "create" else job.ids
    return items[job.cursor : job.cursor + MAX_BATCH]
