"""DataStore: the little a store must be able to do for the library to coordinate through it.

Implement it for another backend and the SIMPLE strategy, the election and the worker registry run on it. Every method
is safe from any thread, answers within the store's deadline or raises
:class:`~elk_coordinator.errors.StoreUnavailable`, and lets no driver exception out.

Tokens and versions must grow over the namespace's whole life, also after a delete and after the store lost its data:
draw them as ``max(last + 1, microseconds of the store's clock, floor + 1)``.
"""

from __future__ import annotations

import abc
import logging
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from elk_coordinator.model import WorkerInfo
from elk_coordinator.store import log_document

Observer = Callable[[str, float, Optional[Exception]], None]


class Value(NamedTuple):
    """A value with its version and the store's time of reading, in epoch seconds."""

    data: Optional[bytes]
    version: int
    now: float


class DataStore(abc.ABC):
    """A store, bound to a namespace by :meth:`namespaced`; the same data seen by every worker that uses it."""

    #: How long one call may take, in seconds, retries included.
    timeout: float

    @abc.abstractmethod
    def namespaced(self, namespace: str) -> "DataStore":
        """Return this store bound to *namespace*; shares the connections. Namespaces never touch each other."""

    @abc.abstractmethod
    def with_deadline(self, seconds: float, name: str = "") -> "DataStore":
        """Return the same data over connections of its own, with *seconds* per call; close it when done.

        :param name: a label the server may show for the connections.
        """

    @abc.abstractmethod
    def now(self) -> float:
        """Return the store's clock in epoch seconds."""

    @abc.abstractmethod
    def get(self, name: str) -> Value:
        """Return the value called *name*; data None and version 0 when there is none."""

    @abc.abstractmethod
    def compare_and_set(self, name: str, expected_version: int, data: Optional[bytes]) -> Optional[int]:
        """Replace (None: delete) the value if it is still at *expected_version* (0: absent); None when it is not."""

    @abc.abstractmethod
    def acquire_lock(self, name: str, owner: str, ttl: float, floor: int) -> Optional[int]:
        """Take a free or expired lock for *ttl* seconds; return its token, above *floor* and every earlier one."""

    @abc.abstractmethod
    def renew_lock(self, name: str, token: int, ttl: float) -> bool:
        """Extend a lock still held under *token*; False when it is gone or ran out."""

    @abc.abstractmethod
    def release_lock(self, name: str, token: int) -> bool:
        """Give up a lock held under *token*, waking those who wait for it; False when it was not."""

    @abc.abstractmethod
    def read_lock(self, name: str) -> Tuple[str, int, float]:
        """Return owner, token and remaining seconds; remaining 0.0 when free."""

    @abc.abstractmethod
    def beat(self, worker: str, ttl: float, info: Optional[Dict[str, Any]] = None) -> None:
        """Enter *worker* in the registry for *ttl* seconds, or keep it there."""

    @abc.abstractmethod
    def forget(self, worker: str) -> None:
        """Take *worker* out of the registry."""

    @abc.abstractmethod
    def workers(self) -> List[WorkerInfo]:
        """Return the live workers."""

    @abc.abstractmethod
    def notify(self, topic: str) -> None:
        """Send a hint to everybody who waits for *topic*; losing it costs time, nothing else."""

    @abc.abstractmethod
    def wait(self, topic: str, timeout: float) -> Optional[str]:
        """Wait up to *timeout* seconds for a hint; return its topic, or None. ``"*"`` waits for any.

        To be called from one thread per store object only.
        """

    def observe(self, tell: Observer) -> None:
        """Tell *tell* of every round trip over the connections of this object from now on, from the thread that made
        it: operation (of a small fixed set), seconds, and the error or None. Stores need not tell anything."""

    def append_log(self, name: str, batch: str, entries: Sequence[bytes], keep: int) -> None:
        """Append *entries* (UTF-8, at most 100) to the log called *name*, which keeps about the newest *keep*.

        The same *batch* again is stored once. Stores need not override it: this one keeps some hundred in a value.
        """
        log_document.append(self, name, batch, entries, keep)

    def read_log(self, name: str, after: Optional[str], limit: int) -> List[Tuple[str, bytes]]:
        """Return up to *limit* (id, entry) behind the id *after*, oldest first; with None the newest ones."""
        return log_document.read(self, name, after, limit)

    def eviction_policy(self) -> Optional[str]:
        """Return what the store does when memory runs out (``noeviction`` is the safe one); None = unknown."""
        return None

    @abc.abstractmethod
    def close(self) -> None:
        """Close the connections this object opened, and end its waits."""


def warn_of_eviction(store: DataStore, logger: logging.Logger) -> None:
    """Log an error when *store* may throw work away under memory pressure."""
    policy = store.eviction_policy()
    if policy not in (None, "noeviction"):
        logger.error("the store evicts keys (maxmemory-policy %s): partitions may vanish; set it to noeviction", policy)
