"""Coordinator: the object an application starts. Wires the parts together and owns their life."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Any, Dict, Optional

import attr

from elk_coordinator.assembly import LEADER_ROLES, UNHURRIED, HttpRole, Parts
from elk_coordinator.config import CoordinatorConfig, CoordinatorOptions, check_namespace, check_options
from elk_coordinator.errors import ConfigError, ForkedError, StateError, StoreError, StoreUnavailable
from elk_coordinator.leader.election import STOPPING
from elk_coordinator.model import Beat, CancelReason
from elk_coordinator.observability.app import App
from elk_coordinator.observability.http import HttpServer
from elk_coordinator.partition.factory import command_store, create_strategy
from elk_coordinator.partition.idle import wait_until_idle
from elk_coordinator.protocols import (
    DRAINING,
    FORKED,
    NEW,
    RUNNING,
    STARTING,
    STOPPED,
    AnyPlanner,
    AnyProcessor,
    Health,
)
from elk_coordinator.runtime import environment, lifecycle
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.runtime.logs import BoundLogger, about
from elk_coordinator.runtime.store_watch import StoreWatch
from elk_coordinator.runtime.threads import spawn
from elk_coordinator.store.base import DataStore, warn_of_eviction
from elk_coordinator.view import View
from elk_coordinator.worker.circuit_breaker import BreakerState

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: Seconds for the round trip of start(): of the 5 that are promised, what a slow refusal may add is left over.
START_TIMEOUT = 4.5
#: Longest wait for running work when the interpreter ends without stop().
EXIT_GRACE = 10.0
#: Seconds beyond stop()'s timeout for the last reports and for threads to end.
STOP_SLACK = 1.5


class Coordinator(View):
    """Processes a growing space of IDs together with every other worker of the same namespace.

    ::

        with Coordinator("orders", RedisDataStore.from_url("redis://localhost"), Reindex(), Orders()) as coordinator:
            coordinator.wait_idle()

    :param namespace: 1 to 100 letters, digits, ``-_.``; workers of one namespace share the work.
    :param store: the store; never closed by the coordinator.
    :param processor: an object with ``process(ctx, min_id, max_id, options)``, or such a function.
    :param planner: tells which IDs exist; None makes a worker that never leads.
    :param config: all options in one object; ``options`` given beside it replace its fields.
    :raises ConfigError: for a bad value; nothing was started.

    Every method is safe from any thread, also from a task.
    """

    def __init__(
        self,
        namespace: str,
        store: DataStore,
        processor: AnyProcessor,
        planner: Optional[AnyPlanner] = None,
        *,
        config: Optional[CoordinatorConfig] = None,
        clock: Optional[Clock] = None,
        **options: Unpack[CoordinatorOptions],
    ) -> None:
        check_options(list(options))
        self.namespace = check_namespace(namespace)
        self.config = attr.evolve(config, **options) if config is not None else CoordinatorConfig(**options)
        if not isinstance(store, DataStore):
            raise ConfigError(
                "store: must be a DataStore such as RedisDataStore.from_url('redis://...'), not %r" % (store,)
            )
        self._clock = clock or Clock()
        self._logger = BoundLogger(self.config.logger or logging.getLogger("elk_coordinator"), namespace=namespace)
        self._given_store = store
        self._state = NEW
        self._life = threading.Lock()
        self._stopped = threading.Event()
        self._clean = True
        self._pid = os.getpid()
        self._eviction_checked = False
        self._accepted = threading.Event()
        self._paused = False
        self._lost_mark: Optional[int] = None
        self._born = self._clock.monotonic()
        self._http_address: Optional[str] = None
        self._server: Optional[HttpServer] = None
        self._parts = Parts(self, namespace, store, processor, planner, self.config, self._clock, self._logger)
        self.worker_id = self._parts.worker_id
        self._strategy = self._parts.strategy
        self._window = self._parts.window
        self._claimer = self._parts.claimer
        self._crew = self._parts.crew
        self._emit = self._parts.events.emit
        self._watch = StoreWatch(self._clock, self._emit, self._logger)
        self._parts.metrics.attach(self)

    # ---------------------------------------------------------------- life

    def start(self, require_store: bool = True) -> "Coordinator":
        """Register with the namespace in one round trip (at most 5 s), then start the threads.

        :param require_store: False also starts while the store cannot be reached; :meth:`health` tells, and until the
            namespace has accepted this worker it neither leads nor claims.
        :raises StoreUnavailable: the store cannot be reached. :raises StoreError: it refuses us (password, ACL).
        :raises ConfigError: the namespace runs another strategy or schema. Nothing was started; call again when mended.
        :raises StateError: the coordinator was stopped. :raises ForkedError: it was made before a fork.
        """
        self._check_fork()
        with self._life:
            if self._state in (DRAINING, STOPPED):
                raise StateError("this coordinator was stopped; build a new one to start again")
            if self._state != NEW:
                return self
            self._state = STARTING
            try:
                # The port first: the registration says where to scrape this worker.
                self._bind_http()
                self._register(require_store)
            except BaseException:
                self._state = NEW
                if self._server is not None:
                    self._server.close()
                    self._server = self._http_address = None
                raise
            if self._server is not None:
                self._crew.add(HttpRole(self._server))
            self._state = RUNNING
            lifecycle.register(self)
            self._crew.start()
        config = self.config
        environment.look().announce(
            self._logger, self.namespace, self.worker_id, config.task_window_size, config.lease, config.recovery_bound
        )
        self._emit("started", lease=self.config.lease, recovery_bound=self.config.recovery_bound)
        return self

    def _register(self, require_store: bool) -> None:
        store = self._given_store.with_deadline(min(START_TIMEOUT, self._given_store.timeout), "elk:start")
        try:
            probe = create_strategy(self.config.strategy, self.namespace, store)
            # The same stream and memory as the later beats: this is the first of them.
            beat = probe.beat(self._parts.heartbeat.request())
        except StoreUnavailable:
            if require_store:
                raise
            self._logger.warning("the store cannot be reached; started all the same, waiting for it", exc_info=True)
        else:
            self.on_beat(beat)
        finally:
            store.close()

    def _bind_http(self) -> None:
        if not self.config.metrics_enabled:
            return
        server = HttpServer(self._parts.http_app(self, self._logger), self.config.metrics_addr, self._logger)
        try:
            self._http_address = server.bind()
        except OSError as exc:
            addr = self.config.metrics_addr
            self._logger.warning("no port for metrics and health at %s: %s", addr, exc, extra=about("http_unavailable"))
            self._emit("http_unavailable", address=addr, error=str(exc))
            return
        self._server = server

    def stop(self, timeout: Optional[float] = None) -> bool:
        """Drain and end; return True when everything ended within *timeout* (default ``stop_timeout``) seconds.

        Running partitions see ``cancelled`` (STOP) at once and may finish; leases are renewed until they have. What has
        not ended by then is left to its lease. A second call waits for the first.
        """
        self._check_fork()
        with self._life:
            first = self._state in (NEW, RUNNING)
            started = self._state == RUNNING
            if first:
                self._state = DRAINING if started else STOPPED
        wait = self.config.stop_timeout if timeout is None else max(0.0, timeout)
        if first and started:
            # At once and in this thread: nothing more starts, and what runs is told.
            self._window.cancel_all(CancelReason.STOP)
        if self._parts.breaker is not None:
            self._parts.breaker.stop()
        # A task or listener of ours cannot wait for its own end: the stop goes on without it.
        inside = self._crew.is_mine() or self._window.is_mine()
        if not first:
            self._stopped.wait(0.0 if inside else wait + STOP_SLACK)
        elif inside and started:
            spawn("elk-stop-%s" % self.namespace, lambda: self._end(wait, True))
        else:
            self._end(wait, started)
        return self._clean and self._stopped.is_set()

    def _end(self, wait: float, started: bool) -> None:
        began = self._clock.monotonic()
        try:
            self._clean = self._drain(began + wait) if started else True
        except BaseException:
            # Ctrl-C in the middle. Our threads end before the interpreter does: one that it freezes inside the driver's
            # pool would hold that lock for ever, and the collected pool takes it to close.
            self._clean = False
            self._parts.lease_store.close()
            self._crew.stop(None, 0.5)
            raise
        finally:
            self._close()
            with self._life:
                self._state = STOPPED
            self._stopped.set()
        if started:
            seconds = self._clock.monotonic() - began
            how = "" if self._clean else ", not everything ended in time"
            self._logger.info("worker %s stopped in %.1f s%s", self.worker_id, seconds, how, extra=about("stopped"))

    def _drain(self, until: float) -> bool:
        """The order of stopping. One deadline for all of it; heartbeats go on to the end of the drain."""
        clock = self._clock
        began = clock.monotonic()
        # 1. Claim nothing more; what has not started goes back with the next report. (The tasks were told by stop().)
        self._claimer.wake.set()
        # 2. Step down, so that a follower plans on while we drain.
        left = self._crew.stop(LEADER_ROLES, min(1.0, max(0.1, until - clock.monotonic())))
        if self._parts.leader is not None:
            self._parts.leader.election.step_down(STOPPING)
        # 3. Drain while heartbeats and reports go on.
        drained = self._window.wait_empty(until)
        # 4. The last reports, also of what was given back.
        last = max(until, clock.monotonic() + 0.2) + STOP_SLACK / 3
        while not self._claimer.idle() and clock.monotonic() < last:
            self._claimer.wake.set()
            clock.wait(self._stopped, 0.01)
        reported = self._claimer.idle()
        if self._watch.error is not None:
            # Nobody answers: end the calls that wait for it. Leases and the registry run out by themselves.
            self._parts.lease_store.close()
        # 5. End the claimer, then the heartbeat; leave the registry.
        left += self._crew.stop(["claimer", "heartbeat"], 0.5)
        try:
            self._strategy.store.forget(self.worker_id)
            self._strategy.stop()
        except StoreError as exc:
            self._logger.debug("could not leave the registry, it forgets us by itself: %s", exc)
        running = self._window.close()
        for task in running:
            text, claim = "partition %d still runs at the end of stop(); left to its lease", task.partition.partition_id
            self._logger.error(text, claim, extra=about(partition_id=claim, token=task.token))
        clean = drained and reported and not running and not left
        self._emit("stopped", clean=clean, seconds=clock.monotonic() - began)
        # 6. The rest: the log of events, connections (which ends the wait for hints), HTTP, listeners.
        self._crew.stop(["journal"], 0.5)
        self._crew.stop(UNHURRIED, 0.0)
        self._parts.lease_store.close()
        left += self._crew.stop(["wakeup", "http", "events", "journal"], 0.5)
        if left:
            self._logger.error("threads did not end in time: %s", ", ".join(left))
        return clean and not left

    def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._window.close()
        self._parts.lease_store.close()
        lifecycle.unregister(self)

    def stop_at_exit(self) -> None:
        """End within some seconds because the interpreter does; called by :mod:`elk_coordinator.runtime.lifecycle`."""
        if self._state == RUNNING:
            self._logger.warning("the process ends without stop(); draining")
            self.stop(min(self.config.stop_timeout, EXIT_GRACE, self.config.lease / 2))
        elif self._state == DRAINING:
            self._stopped.wait(EXIT_GRACE)

    def after_fork_in_child(self) -> None:
        """Become invalid: the threads stayed in the parent. Takes no lock, another thread may have held it."""
        self._state = FORKED
        if self._server is not None:
            # Or the child would keep the port open after the parent's end.
            self._server.close_after_fork()

    def __enter__(self) -> "Coordinator":
        return self.start()

    def __exit__(self, *exc: Any) -> None:
        self.stop()

    def _check_fork(self) -> None:
        if self._state == FORKED or self._pid != os.getpid():
            raise ForkedError(
                "this coordinator was made in process %d and its threads stayed there; build a new one after the fork "
                "(gunicorn: in post_fork; uWSGI: lazy-apps; or elk_coordinator.contrib.per_process)" % self._pid
            )

    def resize_window(self, size: int) -> None:
        """Change how many partitions this worker runs at the same time, now; what runs too many may end.

        :raises ConfigError: when *size* is no legal ``task_window_size``; nothing is changed.
        """
        self._check_fork()
        before = self._window.size
        self._window.resize(size)
        self._logger.info("task window resized from %d to %d", before, size, extra=about("config_changed"))
        if size != before:
            self._emit("config_changed", option="task_window_size", value=size, previous=before)

    # ---------------------------------------------------------------- what the parts ask and tell (assembly.Owner)

    def may_claim(self) -> bool:
        """Return whether work may be claimed now."""
        # Without a heartbeat nothing is renewed: long work would be lost again and again, until it rests as failed.
        beats = self._crew.alive("heartbeat")
        return self._state == RUNNING and self._accepted.is_set() and not self._paused and beats

    def may_lead(self) -> bool:
        """Return whether this worker may stand for election."""
        return self._state == RUNNING and self._accepted.is_set()

    def info(self) -> Dict[str, Any]:
        """Return what this worker says of itself with every beat."""
        return self._parts.describe(self._state, self._pid, self._http_address)

    def on_beat(self, beat: Beat) -> None:
        if beat.paused != self._paused:
            # Paused, what waits goes back; resumed, there may be work: neither waits for the claimer's next poll.
            self._paused = beat.paused
            if self._accepted.is_set():
                self._emit("config_changed", option="paused", value=beat.paused, previous=not beat.paused)
            self._claimer.wake.set()
        if self._lost_mark is not None and beat.lost_mark != self._lost_mark:
            self._lost_data(beat.lost_mark)
        self._lost_mark = beat.lost_mark
        if not self._accepted.is_set():
            self._accepted.set()
            self._parts.journal.open()
            self._claimer.wake.set()
            if self._parts.leader is not None:
                self._parts.leader.election.wake.set()
        elif not self._eviction_checked:
            # After start, so that start() is one round trip.
            self._eviction_checked = True
            warn_of_eviction(self._strategy.store, self._logger)
        self.on_store_answer()

    def on_wish(self, partition_id: int, reason: CancelReason, who: str) -> None:
        self._claimer.cancel(partition_id, reason, who)

    def on_breaker(self, state: BreakerState, old: BreakerState, reason: str) -> None:
        level = logging.WARNING if state is BreakerState.OPEN else logging.INFO
        effect = "; this worker claims nothing for now" if state is BreakerState.OPEN else ""
        told, extra = (old.value, state.value, reason, effect), about("breaker_changed")
        self._logger.log(level, "circuit breaker: %s -> %s (%s)%s", *told, extra=extra)
        self._emit("breaker_changed", state=state.value, previous=old.value, reason=reason)
        self._claimer.wake.set()

    def _lost_data(self, mark: int) -> None:
        self._logger.error(
            "the store of namespace %s lost data (noticed at stamp %d: it had forgotten tokens a worker remembers); "
            "what it forgot is planned and processed again, tokens go on rising",
            self.namespace, mark, extra=about("store_lost_data"),
        )  # fmt: skip
        self._emit("store_lost_data", mark=mark)

    def on_store_answer(self) -> None:
        self._watch.answered()

    def on_store_failure(self, role: str, exc: StoreError) -> None:
        self._watch.failed(role, exc)

    def on_role_death(self, role: str, error: str) -> None:
        self._emit("role_died", role=role, error=error)

    # ---------------------------------------------------------------- questions

    def wsgi_app(self) -> App:
        """Return what the built-in HTTP thread serves as a WSGI application, to mount elsewhere; needs no start()."""
        return self._parts.http_app(self, self._logger)

    def wait_idle(self, timeout: Optional[float] = None) -> bool:
        """Wait until nothing is left: no command of before, nothing new from the planner, nothing pending, held or due.

        Asks the leader, wherever it is, for a full round that begins after this call. Failed partitions rest and do not
        count. Goes on waiting while the store cannot be reached.

        :return: False when *timeout* seconds passed, or the coordinator was stopped.
        """
        self._check_fork()
        return wait_until_idle(
            self._strategy,
            timeout,
            self._parts.leader is not None,
            self._stopped,
            self._clock,
            self._logger,
            command_store(self._strategy).queued,
        )

    def health(self) -> Health:
        """Return how this worker is doing; never asks the store."""
        self._check_fork()
        uptime = self._clock.monotonic() - self._born
        return self._parts.health(
            self._state, self._accepted.is_set(), self._paused, self._watch, self._http_address, uptime
        )
