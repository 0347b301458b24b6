"""The election: one worker at a time holds the leader's lease, and knows by its own clock when to stop believing in it.

The trust window starts before a request is sent and ends a margin before the lease does, so a leader that is frozen or
cut off stops acting before anybody else can be elected (assuming only a bounded clock rate). What it sends all the same
is refused by its term.
"""

from __future__ import annotations

import logging
import random
import threading
from typing import Callable, List, Optional

from elk_coordinator.config import CoordinatorConfig, lease_margin
from elk_coordinator.errors import StoreError, StoreUnavailable
from elk_coordinator.partition.requests import Memory
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.runtime.events import Events
from elk_coordinator.runtime.logs import about
from elk_coordinator.runtime.threads import Role
from elk_coordinator.store.base import DataStore

LOCK = "leader"
#: The reason of a leader that goes as it should.
STOPPING = "stopping"


class Leadership:
    """Whether this worker leads, and under which term. Thread-safe; computed by the clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._term: Optional[int] = None
        self._until = 0.0
        #: Set when leadership begins, so that planning and recovery start at once.
        self.wakes: List[threading.Event] = []

    @property
    def term(self) -> Optional[int]:
        """The term while it can be trusted, else None."""
        with self._lock:
            return self._term if self._clock.monotonic() < self._until else None

    def remaining(self) -> float:
        """Seconds for which the term can still be trusted."""
        with self._lock:
            return max(0.0, self._until - self._clock.monotonic()) if self._term is not None else 0.0

    def grant(self, term: int, until: float) -> None:
        """Begin a term."""
        with self._lock:
            self._term, self._until = term, until

    def extend(self, term: int, until: float) -> None:
        """Extend a term; one that ended, by the clock or given up by another thread meanwhile, is not revived."""
        with self._lock:
            if self._term == term and self._clock.monotonic() < self._until:
                self._until = until

    def end(self) -> Optional[int]:
        """Stop leading; return the term that ended, if there was one."""
        with self._lock:
            term, self._term, self._until = self._term, None, 0.0
            return term

    def held(self) -> Optional[int]:
        """The term as last granted, whether or not the clock still trusts it."""
        with self._lock:
            return self._term


class Election(Role):
    """Stands, renews, steps down.

    Rate policy: a leader renews at a third of its lease; a follower tries when the holder's lease runs out, when a hint
    says it was given up, and at the latest after ``leader_election_interval``.
    """

    name = "election"

    def __init__(
        self,
        store: DataStore,
        worker_id: str,
        config: CoordinatorConfig,
        clock: Clock,
        events: Events,
        leadership: Leadership,
        memory: Memory,
        may_stand: Callable[[], bool],
        planner_problem: Callable[[], Optional[str]],
        logger: logging.Logger,
    ) -> None:
        super().__init__()
        self._store = store
        self._worker_id = worker_id
        self._config = config
        self._clock = clock
        self._events = events
        self._leadership = leadership
        self._memory = memory
        self._may_stand = may_stand
        self._planner_problem = planner_problem
        self._logger = logger
        self.stuck_after = config.leader_lock_expiry
        self.error_pause = (0.1, min(2.0, config.leader_lock_expiry / 6))

    def run_once(self) -> float:
        """Stand or renew; return the seconds until it makes sense to look again."""
        term = self._leadership.held()
        if term is not None:
            return self._lead(term)
        if not self._may_stand() or self._planner_problem() is not None:
            return min(1.0, self._config.leader_election_interval)
        return self._stand()

    def pause(self, did: float) -> float:
        return did

    def _trust_from(self, sent: float) -> float:
        length = self._config.leader_lock_expiry
        return sent + length - lease_margin(length)

    def _lead(self, term: int) -> float:
        problem = self._planner_problem()
        if problem is not None:
            self.step_down(problem)
            return self._config.leader_lock_expiry / 3
        if self._leadership.term is None:
            self.step_down("the lease could not be renewed in time")
            return 0.0
        sent = self._clock.monotonic()
        try:
            renewed = self._store.renew_lock(LOCK, term, self._config.leader_lock_expiry)
        except StoreUnavailable as exc:
            # Keep believing until the clock says otherwise, and keep trying.
            self._logger.warning("leader: renewal failed, %.1f s of trust left: %s", self._leadership.remaining(), exc)
            return min(0.2, max(0.01, self._leadership.remaining()))
        if not renewed:
            self.step_down("the lease is gone from the store")
            return 0.0
        self._leadership.extend(term, self._trust_from(sent))
        return self._config.leader_lock_expiry / 3

    def _stand(self) -> float:
        length = self._config.leader_lock_expiry
        sent = self._clock.monotonic()
        try:
            token = self._store.acquire_lock(LOCK, self._worker_id, length, self._memory.floor)
        except StoreError:
            self._events.emit("stood", failure="store")
            raise
        now = self._clock.monotonic()
        self._events.emit("stood", failure="held" if token is None else "")
        if token is None:
            _, _, remaining = self._store.read_lock(LOCK)
            # Just after it runs out; the jitter keeps followers from standing all at once.
            return min(remaining + random.uniform(0.05, 0.35), self._config.leader_election_interval)
        self._memory.saw(token)
        self._leadership.grant(token, self._trust_from(sent))
        self._logger.info("became leader, term %d", token, extra=about("became_leader", term=token))
        self._events.emit("became_leader", term=token, seconds=now - sent)
        for wake in self._leadership.wakes:
            wake.set()
        return length / 3

    def step_down(self, reason: str) -> None:
        """Stop leading and give the lease up, so that a follower need not wait for its end."""
        term = self._leadership.end()
        if term is None:
            return
        level = logging.INFO if reason == STOPPING else logging.WARNING
        extra = about("stepped_down", term=term)
        self._logger.log(level, "stepped down as leader, term %d: %s", term, reason, extra=extra)
        self._events.emit("stepped_down", term=term, reason=reason)
        try:
            self._store.release_lock(LOCK, term)
        except StoreError as exc:
            self._logger.debug("the leader's lease could not be given up, it runs out by itself: %s", exc)
