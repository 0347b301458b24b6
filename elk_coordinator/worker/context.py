"""What one running partition knows: whether it may go on, and how to make its progress durable.

Cancellation is computed from deadlines by the clock, never set by a thread that might itself be frozen: a worker that
wakes up after its lease sees ``cancelled`` before it can believe anything else. The first reason stays.
"""

from __future__ import annotations

import logging
import threading
from typing import Any, Callable, Dict, Optional

from elk_coordinator.errors import StoreUnavailable, TaskInterrupted
from elk_coordinator.model import CancelReason, Partition
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.runtime.logs import about

#: Stores a checkpoint: (partition_id, token, checkpoint, processed of all attempts) -> durable.
Saver = Callable[[int, int, int, int], bool]


class Task:
    """One claim as this worker believes in it: its trust window, and why it should end. Thread-safe."""

    __slots__ = (
        "partition", "token", "permit", "granted_at", "started_at", "thread_id", "marked", "abandoned", "seen",
        "saved", "saved_processed", "_clock", "_lock", "_wake", "_trusted_until", "_timeout_at", "_reason", "_since",
        "cancelled_by", "_loss_told",
    )  # fmt: skip

    def __init__(self, partition: Partition, trusted_until: float, clock: Clock) -> None:
        self.partition = partition
        self.token = partition.fencing_token
        self.permit: Any = None
        self.granted_at = clock.monotonic()
        self.started_at: Optional[float] = None
        self.thread_id: Optional[int] = None
        #: Whether the store knows that it runs.
        self.marked = partition.status.value == "running"
        #: Hung: its slot was replaced.
        self.abandoned = False
        #: Whether the processor has looked at the cancellation.
        self.seen = False
        #: Last checkpoint of this attempt made durable, and the items counted with it.
        self.saved: Optional[int] = None
        self.saved_processed = 0
        self.cancelled_by = ""
        self._loss_told = False
        self._clock = clock
        self._lock = threading.Lock()
        self._wake: Optional[threading.Event] = None
        self._trusted_until = trusted_until
        self._timeout_at: Optional[float] = None
        self._reason: Optional[CancelReason] = None
        self._since = 0.0

    def begin(self, timeout: Optional[float]) -> None:
        """Take note that the processor starts now, in this thread."""
        self.started_at = self._clock.monotonic()
        self.thread_id = threading.get_ident()
        if timeout is not None:
            self._timeout_at = self.started_at + timeout

    def reason(self) -> Optional[CancelReason]:
        """Return why it should end, or None; asks the clock."""
        if self._reason is None:
            now = self._clock.monotonic()
            timeout = self._timeout_at
            if now >= self._trusted_until or (timeout is not None and now >= timeout):
                with self._lock:
                    lost = self._trusted_until
                    if self._reason is None and now >= min(lost, lost if timeout is None else timeout):
                        if timeout is not None and timeout < lost:
                            self._set(CancelReason.TIMEOUT, timeout, "")
                        else:
                            self._set(CancelReason.LEASE_LOST, lost, "")
        return self._reason

    def since(self) -> float:
        """Return when (monotonic) the reason came to be."""
        return self._since

    def cancel(self, reason: CancelReason, by: str = "") -> bool:
        """Have it end for *reason* unless there is one already; wakes whoever waits. Whether this was the first."""
        self.reason()
        with self._lock:
            if self._reason is not None:
                return False
            self._set(reason, self._clock.monotonic(), by)
            return True

    def _set(self, reason: CancelReason, at: float, by: str) -> None:
        self._reason, self._since, self.cancelled_by = reason, at, by
        if self._wake is not None:
            self._wake.set()

    def trust(self, until: float) -> bool:
        """Believe in the lease until *until* (monotonic); a lease given up before is never revived."""
        with self._lock:
            if self._reason is CancelReason.LEASE_LOST or self._clock.monotonic() >= self._trusted_until:
                return False
            self._trusted_until = max(self._trusted_until, until)
            return True

    def lost(self) -> bool:
        """Return whether the lease can no longer be proved, whatever reason came first."""
        return self.reason() is CancelReason.LEASE_LOST or self._clock.monotonic() >= self._trusted_until

    def tell_loss(self, emit: Callable[..., None], logger: logging.Logger) -> None:
        """Say that the lease was lost, if it was and nobody has said so; the heartbeat and the runner both call it."""
        if self.reason() is not CancelReason.LEASE_LOST:
            return
        with self._lock:
            told, self._loss_told = self._loss_told, True
        if not told:
            why = "gone from the store" if self.cancelled_by else "could not be renewed in time"
            partition_id = self.partition.partition_id
            extra = about("lease_lost", partition_id=partition_id, token=self.token)
            text = "partition %d: the lease with token %d was lost (%s)"
            logger.warning(text, partition_id, self.token, why, extra=extra)
            emit("lease_lost", partition_id=partition_id, token=self.token, reason=why)

    def progressed(self, checkpoint: int, processed: int) -> None:
        """Take note of a durable checkpoint; one overtaken by a later one (another thread's) changes nothing."""
        with self._lock:
            if self.saved is None or checkpoint > self.saved:
                self.saved, self.saved_processed = checkpoint, processed

    def wait(self, timeout: Optional[float]) -> bool:
        """Wait until cancelled or *timeout* seconds passed; return whether cancelled.

        :raises ValueError: for NaN, which is neither over nor ahead: the wait would spin.
        """
        if timeout is not None and timeout != timeout:
            raise ValueError("a wait needs a number of seconds, not %r" % (timeout,))
        until = None if timeout is None else self._clock.monotonic() + timeout
        with self._lock:
            if self._wake is None:
                self._wake = threading.Event()
        while self.reason() is None:
            now = self._clock.monotonic()
            # Renewals move the end of trust, so look again when the present one comes.
            ends = [end for end in (until, self._trusted_until, self._timeout_at) if end is not None]
            if until is not None and now >= until:
                return False
            self._clock.wait(self._wake, max(0.001, min(ends) - now))
        return True


class _Cancelled:
    """``ctx.cancelled``."""

    __slots__ = ("_task",)

    def __init__(self, task: Task) -> None:
        self._task = task

    def is_set(self) -> bool:
        if self._task.reason() is None:
            return False
        self._task.seen = True
        return True

    __bool__ = is_set

    def wait(self, timeout: Optional[float] = None) -> bool:
        if self._task.wait(timeout):
            self._task.seen = True
            return True
        return False


class TaskContext:
    """The :class:`~elk_coordinator.ProcessContext` of one attempt."""

    __slots__ = ("_task", "_save", "_refused", "namespace", "worker_id", "options", "min_id", "cancelled")

    def __init__(
        self,
        task: Task,
        namespace: str,
        worker_id: str,
        options: Dict[str, Any],
        save: Saver,
        refused: Callable[[Task, str], None],
    ) -> None:
        self._task = task
        self._save = save
        self._refused = refused
        self.namespace = namespace
        self.worker_id = worker_id
        self.options = options
        self.min_id = first_id(task.partition)
        self.cancelled = _Cancelled(task)

    @property
    def partition(self) -> Partition:
        return self._task.partition

    @property
    def attempt(self) -> int:
        return self._task.partition.attempt + 1

    @property
    def fencing_token(self) -> int:
        return self._task.token

    @property
    def cancel_reason(self) -> Optional[CancelReason]:
        # Whoever is told the reason has seen the cancellation: what it returns then is no completion.
        return self._task.reason() if self.cancelled.is_set() else None

    def raise_if_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise self._interrupted()

    def _interrupted(self) -> TaskInterrupted:
        reason = self._task.reason()
        return TaskInterrupted(
            "partition %d was cancelled: %s" % (self.partition.partition_id, reason.value if reason else "unknown")
        )

    def wait(self, seconds: float) -> bool:
        return self.cancelled.wait(seconds)

    def checkpoint(self, last_done_id: int, processed: int = 0) -> bool:
        task = self._task
        low, high = self.min_id - 1, task.partition.max_id
        if isinstance(last_done_id, bool) or not isinstance(last_done_id, int) or not low <= last_done_id <= high:
            raise ValueError("checkpoint must be an int in [%d, %d], not %r" % (low, high, last_done_id))
        if isinstance(processed, bool) or not isinstance(processed, int) or not 0 <= processed < 2**53:
            raise ValueError("processed must be an int of at least 0, not %r" % (processed,))
        if task.lost():
            task.seen = True
            raise self._interrupted()
        if last_done_id < self.min_id or (task.saved is not None and last_done_id <= task.saved):
            return True
        try:
            durable = self._save(
                task.partition.partition_id, task.token, last_done_id, task.partition.processed + processed
            )
        except StoreUnavailable:
            return False
        if not durable:
            task.cancel(CancelReason.LEASE_LOST)
            task.seen = True
            self._refused(task, "checkpoint")
            raise self._interrupted()
        task.progressed(last_done_id, processed)
        return True


def cancelled_text(task: Task) -> str:
    """Return the error text of a partition that an operator cancelled."""
    return "cancelled by %s" % (task.cancelled_by or "an operator")


def first_id(partition: Partition) -> int:
    """Return where an attempt begins: behind the last checkpoint."""
    return partition.min_id if partition.checkpoint is None else partition.checkpoint + 1
