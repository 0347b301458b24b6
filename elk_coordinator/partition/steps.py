"""Steps: the atomic moves a strategy consists of. Everything else is built on them, once, for all strategies."""

from __future__ import annotations

import abc
import logging
import threading
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from elk_coordinator.config import check_namespace, new_nonce
from elk_coordinator.model import (
    MAX_BATCH,
    Beat,
    CreatePartition,
    IdleState,
    Partition,
    PartitionStats,
    PlanState,
    Range,
    StrategyType,
    Sweep,
    Turn,
)
from elk_coordinator.partition.requests import BeatRequest, Claim, Memory, TurnRequest
from elk_coordinator.partition.survey import OpenWork
from elk_coordinator.store.base import DataStore


class Steps(abc.ABC):
    """The atomic moves on the partitions of one namespace. Safe from any thread."""

    strategy_type: StrategyType

    def __init__(
        self,
        namespace: str,
        store: DataStore,
        partition_lock_expiry: float = 180.0,
        max_attempts: int = 3,
        max_deliveries: int = 5,
        logger: Optional[logging.Logger] = None,
        longest_retry: Optional[float] = None,
    ) -> None:
        self.namespace = check_namespace(namespace)
        self.store = store
        self.lease = partition_lock_expiry
        self.max_attempts = max_attempts
        self.max_deliveries = max_deliveries
        #: Seconds that a retry waits at most, also when the store's clock was set back; None: as long as it was told.
        self.longest_retry = longest_retry
        self.logger = logger or logging.getLogger("elk_coordinator")
        self.memory = Memory()
        #: Names this instance's streams of requests; drawn anew for every instance, so never reused.
        self.nonce = new_nonce()
        self._sequences: Dict[str, int] = {}
        self._sequence_lock = threading.Lock()
        self._public = threading.Lock()
        #: Claims made through the public methods and not reported yet.
        self._own: Dict[Claim, str] = {}

    @abc.abstractmethod
    def turn(self, request: TurnRequest) -> Turn:
        """Report, mark starts and claim in one atomic step; an equal request gets its first answer."""

    @abc.abstractmethod
    def beat(self, request: BeatRequest) -> Beat:
        """Register the worker and renew its leases in one step.

        :raises ConfigError: when the namespace runs another strategy or a schema this library does not read.
        """

    @abc.abstractmethod
    def save_checkpoint(self, partition_id: int, token: int, checkpoint: int, processed: int) -> bool:
        """Make progress durable; False when the claim is gone or its lease ran out. Never moves back."""

    @abc.abstractmethod
    def sweep(self, limit: int = MAX_BATCH, term: Optional[int] = None) -> Sweep:
        """Take back partitions whose lease ran out; with a *term* also answer and clear the leader's mark."""

    @abc.abstractmethod
    def plan_state(self, calls_heard: bool = False) -> PlanState:
        """Return where the plan stands; *calls_heard* clears the mark of hungry workers: who still is calls again."""

    @abc.abstractmethod
    def note_round(self, term: int, low_water: int, exhausted_version: Optional[int], began: float) -> bool:
        """Record below how many pending partitions workers call for more, and the plan's version at which a full
        round found nothing new; False when the term is over.

        :param began: when that round began, by the store's clock: who asked for a round later than that is not
            answered by it, it may have asked the planner before there was something new.
        """

    @abc.abstractmethod
    def ask_for_round(self) -> None:
        """Have the leader do a full round soon."""

    @abc.abstractmethod
    def idle_state(self) -> IdleState:
        """Return whether anything is left to do, and what the leader's last full round found."""

    @abc.abstractmethod
    def _plan(
        self,
        expected_version: int,
        term: Optional[int],
        partitions: Sequence[CreatePartition],
        planned: Tuple[Sequence[Range], Sequence[Range]],
        skipped: Tuple[Sequence[Range], Sequence[Range]],
    ) -> int:
        """Create *partitions* and exchange intervals (removed, added); return the new version.

        :raises VersionConflict: when the plan is at another version.
        :raises LeaseLost: when *term* is over.
        """

    @abc.abstractmethod
    def _interval_page(self, which: str, first: Optional[int], limit: int) -> Tuple[int, List[Range]]:
        """Return the plan's version and intervals of ``planned``, ``skipped`` or ``pruned`` that end at *first* or
        later."""

    @abc.abstractmethod
    def read(self, partition_ids: Sequence[int]) -> Dict[int, Partition]:
        """Return those of at most 500 partitions that exist.

        An unreadable record is logged and left out; asked for alone it raises StoreError.
        """

    @abc.abstractmethod
    def _scan_ids(self, index: str) -> Iterator[int]:
        """Return the ids in ``active``, ``done``, ``held`` or ``failed``, unordered, each at least once."""

    @abc.abstractmethod
    def indexed_ids(self, wrong: Optional[List[str]] = None) -> Iterator[int]:
        """Return every id that any record or index mentions, unordered; for audits.

        :param wrong: is given a line for what stands there and is no partition, or cannot be read.
        """

    @abc.abstractmethod
    def inspect(self, partition_ids: Sequence[int]) -> List[Tuple[int, Optional[Partition], List[str]]]:
        """Return, of one moment, at most 500 partitions with what is wrong with their records and indexes."""

    @abc.abstractmethod
    def get_partition_stats(self) -> PartitionStats:
        """Return the counts, in one round trip."""

    @abc.abstractmethod
    def open_work(self) -> OpenWork:
        """Return what is open, for monitoring; its cost does not follow the number of partitions."""

    @abc.abstractmethod
    def is_paused(self) -> bool:
        """Return whether an operator paused the namespace."""

    @abc.abstractmethod
    def _acquire(
        self, partition_id: int, worker_id: str, sequence: int, preempt: bool, force: bool
    ) -> Optional[Partition]:
        """Claim one partition by id in the stream ``acquire``; None when it is not to be had.

        :raises PartitionNotFound: when there is no such active partition.
        """

    @abc.abstractmethod
    def _update(self, wanted: Partition, expected_version: Optional[int]) -> int:
        """Set options, error and (while pending) priority of an active partition; return the new version.

        :raises VersionConflict: it is at another version. :raises IllegalTransition: priority while not pending.
        :raises PartitionNotFound: when there is no such active partition.
        """

    # ---------------------------------------------------------------- names of requests

    def next_sequence(self, stream: str) -> int:
        """Return the next sequence number of a stream of requests."""
        with self._sequence_lock:
            number = self._sequences[stream] = self._sequences.get(stream, 0) + 1
        return number

    def stream(self, name: str) -> str:
        """Return the full name of one of this instance's streams."""
        return "%s:%s" % (self.nonce, name)
