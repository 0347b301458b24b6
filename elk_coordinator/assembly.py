"""Puts the parts of a coordinator together: one place that knows what depends on what."""

from __future__ import annotations

import logging
import platform
import socket
from typing import Any, Callable, Dict, List, Optional, Protocol

from elk_coordinator.admin.api import AdminApi, ApiHandler
from elk_coordinator.admin.service import AdminService
from elk_coordinator.config import CoordinatorConfig, default_worker_id
from elk_coordinator.errors import StoreError
from elk_coordinator.leader.allocator import Allocator
from elk_coordinator.leader.archiver import Archiver
from elk_coordinator.leader.commands import Commands
from elk_coordinator.leader.election import Election, Leadership
from elk_coordinator.leader.gaps import GapFiller
from elk_coordinator.leader.planner import GuardedPlanner
from elk_coordinator.leader.recovery import Recovery
from elk_coordinator.model import Beat, CancelReason, Sweep
from elk_coordinator.observability.app import App, Handler, Request, Response, json_response
from elk_coordinator.observability.gauges import fingerprint
from elk_coordinator.observability.http import HttpServer
from elk_coordinator.observability.metrics import Metrics
from elk_coordinator.observability.notify import SENDERS, Watch, build_roles
from elk_coordinator.partition.event_log import EventWriter
from elk_coordinator.partition.factory import command_store, create_strategy
from elk_coordinator.partition.gaps import Gaps
from elk_coordinator.partition.strategy import PartitionStrategy
from elk_coordinator.protocols import DRAINING, RUNNING, STARTING, CoordinatorView, Health
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.runtime.events import Events
from elk_coordinator.runtime.logs import BoundLogger
from elk_coordinator.runtime.store_watch import StoreWatch
from elk_coordinator.runtime.threads import Crew, Role
from elk_coordinator.runtime.wakeup import Wakeup
from elk_coordinator.store.base import DataStore
from elk_coordinator.version import __version__
from elk_coordinator.worker.affinity import Affinity
from elk_coordinator.worker.circuit_breaker import BreakerState, CircuitBreaker
from elk_coordinator.worker.claimer import Claimer
from elk_coordinator.worker.heartbeat import Heartbeat
from elk_coordinator.worker.runner import Runner, processor_function
from elk_coordinator.worker.window import TaskWindow

#: The roles that end when a coordinator steps down to stop.
LEADER_ROLES = ("allocator", "recovery", "commands", "archiver", "election", Watch.name)
#: What a leader owes the fleet; one that cannot lets another lead.
DUTIES = ("allocator", "recovery", "commands", "archiver")
#: Those that may wait for somebody else; nobody waits for them.
UNHURRIED = ("wakeup", *SENDERS)


class Owner(CoordinatorView, Protocol):
    """What the parts ask of, and tell, the coordinator they belong to."""

    def may_claim(self) -> bool: ...

    def may_lead(self) -> bool: ...

    def info(self) -> Dict[str, Any]: ...

    def on_beat(self, beat: Beat) -> None: ...

    def on_wish(self, partition_id: int, reason: CancelReason, who: str) -> None: ...

    def on_breaker(self, state: BreakerState, old: BreakerState, reason: str) -> None: ...

    def on_store_answer(self) -> None: ...

    def on_store_failure(self, role: str, exc: StoreError) -> None: ...

    def on_role_death(self, role: str, error: str) -> None: ...


class HttpRole(Role):
    """Serves the built-in HTTP thread."""

    name = "http"

    def __init__(self, server: HttpServer) -> None:
        super().__init__()
        self._server = server

    def run_once(self) -> None:
        self._server.serve_forever()

    def pause(self, did: None) -> float:
        return 0.0

    def interrupt(self) -> None:
        self._server.close()


def add_admin_api(app: App, api: AdminApi) -> None:
    """Let *app* answer what *api* knows; the two know nothing of each other."""

    def serve(handler: ApiHandler) -> Handler:
        def answer(request: Request) -> Response:
            return json_response(*handler(request))

        return answer

    for method, path, handler in api.routes():
        app.add(path, serve(handler), (method,))


class LeaderParts:
    """What only a worker with a planner has."""

    def __init__(
        self,
        planner: GuardedPlanner,
        allocator: Allocator,
        recovery: Recovery,
        commands: Commands,
        archiver: Archiver,
        election: Election,
    ) -> None:
        self.archiver = archiver
        self.planner = planner
        self.allocator = allocator
        self.recovery = recovery
        self.commands = commands
        self.election = election


class Parts:
    """The parts of one coordinator, wired and not yet started.

    :raises ConfigError: for a processor, planner or store that cannot be used.
    """

    def __init__(
        self,
        owner: Owner,
        namespace: str,
        store: DataStore,
        processor: Any,
        planner: Any,
        config: CoordinatorConfig,
        clock: Clock,
        logger: BoundLogger,
    ) -> None:
        self.config = config
        process = processor_function(processor)
        guarded = GuardedPlanner(planner, clock, logger) if planner is not None else None
        # Everything under a lease goes through a store of our own with one short deadline; the given one stays as is.
        shortest = min(config.lease, config.leader_lock_expiry)
        self.lease_store = store.with_deadline(min(store.timeout, shortest / 6), "elk:%s" % namespace)
        options: Dict[str, Any] = {
            "partition_lock_expiry": config.lease,
            "max_attempts": config.max_attempts,
            "max_deliveries": config.max_deliveries,
            "longest_retry": config.retry_backoff[1],
            "logger": logger,
        }
        self.strategy: PartitionStrategy = create_strategy(config.strategy, namespace, self.lease_store, **options)
        # The users' view goes through the store they gave, so it outlives stop(); both remember the same tokens.
        self.public_strategy = create_strategy(config.strategy, namespace, store, **options)
        self.public_strategy.memory = self.strategy.memory
        self.worker_id = worker_id = config.worker_id or default_worker_id(self.strategy.nonce)
        logger.fields["worker_id"] = worker_id
        self.admin_api = AdminApi(
            AdminService(self.public_strategy, ("http on %s" % worker_id)[:200]),
            namespace,
            config.admin_token,
            logger,
        )
        self.metrics = Metrics(
            namespace,
            worker_id,
            clock,
            {
                "config_fingerprint": fingerprint(self.settings()),
                "lease_seconds": config.lease,
                "worker_ttl_seconds": config.effective_worker_ttl,
            },
        )
        self.lease_store.observe(self.metrics.store_answered)
        self.journal = EventWriter(self.strategy.store, namespace, worker_id, clock, logger)
        # Only who may lead has anything to tell.
        listeners = config.listeners if guarded is not None else ()
        watch, senders = build_roles(listeners, owner, namespace, worker_id, clock, logger, self.metrics.notified)
        own = [self.metrics, self.journal] if watch is None else [self.metrics, self.journal, watch]
        self.events = Events(namespace, worker_id, clock, logger, own, config.listeners)
        self.crew = Crew(namespace, clock, logger, owner.on_role_death, owner.on_store_failure)
        breaker = CircuitBreaker(config.circuit_breaker, clock, owner.on_breaker) if config.circuit_breaker else None
        self.breaker: Optional[CircuitBreaker] = breaker
        save = self.strategy.save_checkpoint
        runner = Runner(process, namespace, worker_id, config, clock, self.events, save, breaker, logger)
        self.claimer = Claimer(
            self.strategy,
            worker_id,
            config,
            clock,
            self.events,
            breaker,
            owner.may_claim,
            lambda: self.heartbeat.wake.set(),
            owner.on_store_answer,
            logger,
            Affinity(self.strategy, worker_id, config.beat_interval, clock, logger) if config.affinity else None,
        )
        self.window = TaskWindow(namespace, config.task_window_size, runner.run, clock, logger, self.claimer.wake)
        self.claimer.window = self.window
        self.heartbeat = Heartbeat(
            self.strategy,
            worker_id,
            config,
            clock,
            self.events,
            self.window,
            owner.info,
            lambda: self.claimer.last_turn_at,
            owner.on_wish,
            owner.on_beat,
            logger,
        )
        self.leadership = Leadership(clock)
        self.gaps = Gaps(self.public_strategy, self._look_for_gaps)
        self.leader: Optional[LeaderParts] = None
        roles: List[Role] = [self.heartbeat, self.claimer]
        hints: Dict[str, List[Callable[[], None]]] = {"work": [self.claimer.wake.set]}
        if guarded is not None:
            leader = self.leader = self._leader_parts(owner, guarded, config, clock, logger)
            # The allocator before the election: a worker whose allocator is dead does not stand.
            roles += [leader.allocator, leader.recovery, leader.commands, leader.archiver, leader.election]
            # Straight to the planning: while it knows of nothing new, a hungry worker's hint costs no round trip.
            hints["hungry"] = [leader.allocator.hint]
            hints["asked"] = [leader.recovery.wake.set]
            hints["command"] = [leader.commands.hint]
            hints["leader"] = [leader.election.wake.set]
        roles.append(Wakeup(self.strategy.store, hints, logger))
        roles.append(self.journal)
        if watch is not None:
            roles += [watch, *senders]
        if self.events.has_users:
            roles.append(self.events)
        for role in roles:
            self.crew.add(role)

    def _leader_parts(
        self, owner: Owner, planner: GuardedPlanner, config: CoordinatorConfig, clock: Clock, logger: logging.Logger
    ) -> LeaderParts:
        def problem() -> Optional[str]:
            return self.planner_problem(config.leader_lock_expiry)

        election = Election(
            self.strategy.store,
            self.worker_id,
            config,
            clock,
            self.events,
            self.leadership,
            self.strategy.memory,
            owner.may_lead,
            problem,
            logger,
        )
        allocator = Allocator(
            self.strategy, planner, self.leadership, config, clock, self.events, logger, election.step_down
        )
        allocator.gaps = GapFiller(self.strategy, planner, config, clock, self.events, logger)
        commands = Commands(
            command_store(self.strategy),
            lambda: self.leadership.term,
            clock,
            logger,
            config.leader_lock_expiry,
            self.events,
        )

        def on_sweep(sweep: Sweep) -> None:
            allocator.on_sweep(sweep)
            commands.on_sweep(sweep)

        recovery = Recovery(
            self.strategy, lambda: self.leadership.term, clock, on_sweep, self.events, logger, config.lease
        )
        self.leadership.wakes = [allocator.wake, recovery.wake, commands.wake]
        archiver = Archiver(self.strategy, lambda: self.leadership.term, config.archive_keep, clock, logger)
        return LeaderParts(planner, allocator, recovery, commands, archiver, election)

    def _look_for_gaps(self, mode: str) -> bool:
        if self.leader is None or self.leadership.term is None:
            return False
        self.leader.allocator.look(mode)
        return True

    def http_app(self, view: CoordinatorView, logger: logging.Logger) -> App:
        """Return the application that answers for a coordinator, the operator's API included."""
        app = App(view, self.metrics, logger)
        add_admin_api(app, self.admin_api)
        return app

    def settings(self) -> Dict[str, Any]:
        """Return what should be equal everywhere; ``elk doctor`` compares it, the metrics show a number of it."""
        return {
            "strategy": self.config.strategy.value,
            "lease": self.config.lease,
            "worker_ttl": self.config.effective_worker_ttl,
            "leader_lock_expiry": self.config.leader_lock_expiry,
            "max_attempts": self.config.max_attempts,
            "max_deliveries": self.config.max_deliveries,
            "archive_keep": self.config.archive_keep,
        }

    def describe(self, state: str, pid: int, http: Optional[str]) -> Dict[str, Any]:
        """Return what the registry shows of this worker; JSON-ready."""
        running, waiting = self.window.load()
        return {
            "nonce": self.strategy.nonce,
            "host": socket.gethostname(),
            "pid": pid,
            "version": __version__,
            "python": platform.python_version(),
            "window": self.window.size,
            "capacity": self.window.size + self.claimer.prefetched,
            "in_flight": running,
            "prefetched": waiting,
            "hung": self.window.hung,
            "plans": self.leader is not None,
            "settings": self.settings(),
            "state": state,
            **self.breaker_facts(),
            "http": http,
        }

    def health(
        self, state: str, accepted: bool, paused: bool, watch: StoreWatch, http: Optional[str], uptime: float
    ) -> Health:
        """Return how the worker is doing, from what the parts know and what the coordinator says of itself."""
        running, waiting = self.window.load()
        problems = []
        if state == RUNNING:
            problems += self.crew.problems()
        elif state != STARTING:
            problems.append("the coordinator is %s" % state)
        if self.window.exhausted:
            problems.append("%d tasks hang; no slot can be replaced any more, restart the process" % self.window.hung)
        planner_problem = self.planner_problem(self.config.leader_lock_expiry) if state == RUNNING else None
        if planner_problem is not None:
            problems.append(planner_problem)
        healthy = not problems or state == DRAINING
        age, error = watch.age(), watch.error
        if not accepted:
            errors = [role.last_error for role in self.crew.health() if role.name == "heartbeat" and role.last_error]
            problems.append("the namespace has not accepted this worker yet: %s" % (errors or ["no answer so far"])[0])
        elif error is not None or age is None or age > self.config.lease:
            problems.append("the store does not answer: %s" % (error or "no answer for longer than a lease"))
        return Health(
            state=state,
            healthy=healthy,
            ready=state == RUNNING and not problems,
            problems=problems,
            namespace=self.strategy.namespace,
            worker_id=self.worker_id,
            is_leader=self.leadership.term is not None,
            term=self.leadership.term,
            accepted=accepted,
            store_age=age,
            store_error=error,
            window_size=self.window.size,
            in_flight=running,
            hung=self.window.hung,
            prefetched=waiting,
            paused=paused,
            roles=self.crew.health(),
            http_address=http,
            uptime=uptime,
            **self.breaker_facts(),
        )

    def breaker_facts(self) -> Dict[str, Any]:
        """Return what health and registry show of the breaker."""
        breaker = self.breaker
        if breaker is None:
            return {"breaker": None}
        return {"breaker": breaker.state.value, "breaker_trips": breaker.trips, "breaker_reason": breaker.reason[:200]}

    def planner_problem(self, patience: float) -> Optional[str]:
        """Return why this worker should not lead: its planner hangs, or the thread of a leader's duty is dead."""
        if self.leader is None:
            return None
        busy = self.leader.planner.busy_for()
        if busy > patience:
            return "the planner has not answered for %.0f s" % busy
        dead = [name for name in DUTIES if not self.crew.alive(name)]
        return "the %s thread is dead" % dead[0] if dead else None
