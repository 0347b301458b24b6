"""AdminService: what an operator may see and ask, the same for Python, the command line and HTTP."""

from __future__ import annotations

import getpass
import socket
import threading
import uuid
from typing import Any, Dict, Iterable, List, Mapping, Optional

import attr

from elk_coordinator.errors import ConfigError, StateError
from elk_coordinator.model import Partition, PartitionFilter, StrategyType, WorkerInfo
from elk_coordinator.partition.commands import CommandStatus, checked_command
from elk_coordinator.partition.event_log import LoggedEvent
from elk_coordinator.partition.factory import command_store, open_strategy
from elk_coordinator.partition.gaps import GapReport, gap_report
from elk_coordinator.partition.strategy import PartitionStrategy
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.store.base import DataStore


def default_by() -> str:
    """Return who asks, as far as the system knows: ``user@host``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):
        user = "unknown"
    return "%s@%s" % (user, socket.gethostname())


class AdminService:
    """Operates one namespace. Every method is one round trip or few, and safe from any thread.

    Commands are queued durably and carried out by the leader, wherever it runs, in order of submission; each method
    that asks for one returns its id at once. With no leader they wait for one.

    :param by: who asks; shown with the command, and as the reason of what is cancelled.
    """

    def __init__(self, strategy: PartitionStrategy, by: Optional[str] = None) -> None:
        self._strategy = strategy
        self._commands = command_store(strategy)
        self._clock = Clock()
        self.namespace = strategy.namespace
        self.by = default_by() if by is None else by

    @property
    def strategy(self) -> PartitionStrategy:
        """The partitions of the namespace."""
        return self._strategy

    # ---------------------------------------------------------------- commands

    def submit(self, kind: str, args: Mapping[str, Any], command_id: Optional[str] = None) -> str:
        """Queue a command; return its id.

        :param command_id: drawn at random when not given. Give one to be able to send the same command again after
            an error whose outcome is unknown: it is queued once.
        :raises ConfigError: for anything malformed, naming it. :raises StateError: 1,000 commands wait already.
        :raises StoreUnavailable: the store could not be reached; whether the command was queued is unknown.
        """
        name = uuid.uuid4().hex if command_id is None else command_id
        plain = checked_command(kind, args, self.by, name)
        self._commands.submit(name, kind, plain, self.by)
        return name

    def retry_failed(self, ids: Optional[Iterable[int]] = None) -> str:
        """Make failed partitions pending again, with all their attempts; all that are failed now when no ids are given.

        "Now" is the submission: one that failed, or was changed, after it rests on. Checkpoints are kept. Named ones
        that are not failed are left as they are, and listed in the result.
        """
        return self.submit("retry_failed", {} if ids is None else {"ids": ids})

    def pause(self) -> str:
        """Have no worker claim anything until :meth:`resume`; what runs goes on."""
        return self.submit("pause", {})

    def resume(self) -> str:
        """Have workers claim again."""
        return self.submit("resume", {})

    def cancel(self, partition_id: int) -> str:
        """End a partition as failed ("cancelled by ..."); a running one when its processor has ended.

        Completed and failed ones are left as they are.
        """
        return self.submit("cancel", {"id": partition_id})

    def release(self, partition_id: int) -> str:
        """Take a partition from the worker that holds it; it is pending again when its processor has ended."""
        return self.submit("release", {"id": partition_id})

    def set_priority(self, ids: Iterable[int], priority: int) -> str:
        """Set the priority of pending partitions; others are left as they are, and listed in the result."""
        return self.submit("set_priority", {"ids": ids, "priority": priority})

    def delete(self, ids: Iterable[int]) -> str:
        """Delete partitions, completed ones too; held ones are left, and listed in the result. Ranges become gaps."""
        return self.submit("delete", {"ids": ids})

    def create(self, ranges: Iterable[Any]) -> str:
        """Create partitions of ``(min_id, max_id)``, or mappings with also ``priority`` and ``options``.

        The leader draws their ids. A range that meets a planned one fails the command; what was created before stays
        and is listed in the result.
        """
        return self.submit("create", {"ranges": ranges})

    def command(self, command_id: str) -> Optional[CommandStatus]:
        """Return how far a command is; None when there is none, or it is remembered no more.

        An ended one is remembered for a day, while it is among the newest 10,000 (with ``StrategyType.SIMPLE`` 200,
        and of its ids or ranges 100).
        """
        job = self._commands.get(command_id)
        return None if job is None else job.status()

    def commands(self, limit: int = 50) -> List[CommandStatus]:
        """Return the newest commands first, at most *limit* (up to 1,000)."""
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= 1000:
            raise ConfigError("limit must be from 1 to 1000, not %r" % (limit,))
        return [job.status() for job in self._commands.newest(limit)]

    def wait(self, command_id: str, timeout: float = 10.0) -> CommandStatus:
        """Wait until a command has ended, at most *timeout* seconds; return how far it is then.

        :raises StateError: when there is no such command. :raises ConfigError: for a timeout that is no number.
        """
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout != timeout:
            # NaN is neither over nor ahead: it would be waited for without end.
            raise ConfigError("timeout must be seconds, not %r" % (timeout,))
        until = self._clock.monotonic() + timeout
        pause, never = 0.01, threading.Event()
        while True:
            status = self.command(command_id)
            if status is None:
                raise StateError(
                    "there is no command %r (never queued, or ended so long ago that it is forgotten)" % command_id
                )
            left = until - self._clock.monotonic()
            if status.ended or left <= 0:
                return status
            self._clock.wait(never, min(pause, left))
            pause = min(pause * 1.5, 0.5)

    # ---------------------------------------------------------------- questions

    def status(self) -> Dict[str, Any]:
        """Return where the namespace stands, JSON-ready; a handful of round trips."""
        strategy = self._strategy
        leader = strategy.leader()
        workers = strategy.workers()
        return {
            "namespace": self.namespace,
            "strategy": strategy.strategy_type.value,
            "paused": strategy.is_paused(),
            "leader": None
            if leader is None
            else {"worker_id": leader[0], "term": leader[1], "lease_remaining": leader[2]},
            "partitions": attr.asdict(strategy.get_partition_stats()),
            "workers": len(workers),
            # Of those workers whose circuit breaker is not closed.
            "breakers": [
                {
                    "worker_id": worker.worker_id,
                    "state": worker.info["breaker"],
                    "trips": worker.info.get("breaker_trips", 0),
                    "reason": worker.info.get("breaker_reason", ""),
                }
                for worker in workers
                if worker.info.get("breaker") not in (None, "closed")
            ],
            "commands": self._commands.queued(),
        }

    def partitions(self, wanted: Optional[PartitionFilter] = None) -> List[Partition]:
        """Return the partitions that match, ordered by id."""
        return self._strategy.get_filtered_partitions(wanted or PartitionFilter())

    def partition(self, partition_id: int) -> Partition:
        """Return one partition, archived or not.

        :raises PartitionNotFound: for an unknown id. :raises ConfigError: for one that cannot be.
        """
        return self._strategy.get_partition(partition_id)

    def workers(self) -> List[WorkerInfo]:
        """Return the live workers."""
        return self._strategy.workers()

    def gaps(self) -> GapReport:
        """Return what no partition covers, and what the leader did about it.

        One round trip per 1,000 planned or skipped ranges.
        """
        return gap_report(self._strategy)

    def events(self, after: Optional[str] = None, limit: int = 100) -> List[LoggedEvent]:
        """Return what happened on the workers, oldest first: elections, failures, lost leases, outages.

        :param after: the id of an event: only what was written behind it. None: the newest *limit* ones.
        :param limit: from 1 to 1,000.
        :raises ConfigError: for a malformed *after* or *limit*.
        """
        return self._strategy.events(after, limit)


class AdminClient(AdminService):
    """An :class:`AdminService` for a namespace whose strategy it finds out; needs no coordinator.

    :param default: the strategy of a namespace that nobody has used yet; None refuses such a one.
    :raises StateError: nobody has used the namespace yet (a typing error, mostly).
    """

    def __init__(
        self,
        namespace: str,
        store: DataStore,
        *,
        by: Optional[str] = None,
        default: Optional[StrategyType] = None,
    ) -> None:
        super().__init__(open_strategy(namespace, store, default), by)
