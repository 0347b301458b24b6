"""The exceptions of elk_coordinator: one tree, one file.

Every message says what happened, to what, and what to do about it; the attributes carry the same
facts for programs. "Somebody else has it" while acquiring is a return value, never an exception.
"""

from __future__ import annotations

from typing import Any, List, Optional, Sequence, Tuple


class ElkError(Exception):
    """Base of everything this library raises on purpose."""


class ConfigError(ElkError, ValueError):
    """A setting, or a combination of settings, is refused. Nothing was started or changed."""


class StateError(ElkError):
    """The call does not fit the state of the object (a stopped coordinator started again, say)."""


class ForkedError(StateError):
    """The object was made before a ``fork()`` and its threads stayed in the parent: build a new one."""


class StoreError(ElkError):
    """The store answered with an error that repeating the request will not cure.

    :ivar refused: whether it refuses this user altogether: a wrong password, a user switched off, no right to scripts.
    """

    def __init__(self, message: str = "", refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class StoreUnavailable(StoreError):
    """The store could not be asked in time; whether the request ran is unknown. Repeating it is safe."""


class LeaseLost(ElkError):
    """A report, release or renewal came from a claim that is gone; nothing was changed.

    :ivar partition_id: the partition the claim was for.
    :ivar token: the fencing token of the claim that is gone.
    """

    def __init__(self, partition_id: int, token: int, what: str = "this request") -> None:
        self.partition_id = partition_id
        self.token = token
        super().__init__(
            "partition %d: the claim with token %d is gone (its lease ran out and the partition was taken, or it was "
            "given back), so %s was refused and changed nothing" % (partition_id, token, what)
        )


class PartitionError(ElkError):
    """Base of the errors about one partition or one range of IDs."""


class PartitionNotFound(PartitionError):
    """No partition with that id exists, neither active nor archived."""

    def __init__(self, partition_id: int) -> None:
        self.partition_id = partition_id
        super().__init__("partition %d does not exist (never created, or deleted)" % partition_id)


class RangeConflict(PartitionError):
    """A new partition contradicts what is planned already: same id with another range, or an overlap.

    :ivar requested: ``(partition_id, min_id, max_id)`` that was refused.
    :ivar existing: ``(min_id, max_id)`` of the planned range it meets.
    :ivar created: partitions of earlier batches of the same call, which were kept.
    """

    def __init__(
        self,
        requested: Tuple[int, int, int],
        existing: Tuple[int, int],
        why: str,
        created: Sequence[Any] = (),
    ) -> None:
        self.requested = requested
        self.existing = existing
        self.created: List[Any] = list(created)
        kept = (
            "; kept from earlier batches of this call: partitions %s"
            % ", ".join(str(p.partition_id) for p in self.created[:20])
            if self.created
            else "; nothing was created"
        )
        super().__init__("partition %d [%d, %d] %s [%d, %d]%s" % (requested + (why,) + existing + (kept,)))


class VersionConflict(PartitionError):
    """The record changed since it was read: read it again and decide anew."""

    def __init__(self, what: str, expected: Optional[int], found: Optional[int]) -> None:
        self.expected = expected
        self.found = found
        super().__init__("%s: expected version %s, found %s; read it again and decide anew" % (what, expected, found))


class NotOwner(PartitionError):
    """This worker does not hold the partition, so it may not report, renew or release it."""

    def __init__(self, partition_id: int, worker_id: str, owner: str) -> None:
        self.partition_id = partition_id
        self.worker_id = worker_id
        self.owner = owner
        super().__init__(
            "partition %d is %s, not held by worker %r; nothing was changed"
            % (partition_id, "held by %r" % owner if owner else "held by nobody", worker_id)
        )


class IllegalTransition(PartitionError):
    """The table of moves (``model.MOVES``) has no arrow from the partition's status to the one asked for."""


class PlannerError(ElkError):
    """The user's planner raised, or answered with something that is no plan. The plan so far stays intact."""


class PermanentError(ElkError):
    """Raise it in a processor to fail the partition at once, without another attempt."""


class TaskInterrupted(BaseException):
    """The running partition was cancelled; raised by ``ctx.raise_if_cancelled()`` and ``ctx.checkpoint()``.

    It derives from BaseException so that it passes through ``except Exception`` in user code.
    """
