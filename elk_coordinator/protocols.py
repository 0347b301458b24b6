"""What users implement, what they are given, and what they are told: the seams of the library.

Structural types: any object with the right methods will do, none of these needs to be a base class.
"""

from __future__ import annotations

from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    List,
    Mapping,
    Optional,
    Protocol,
    Sequence,
    Tuple,
    Union,
    runtime_checkable,
)

import attr

from elk_coordinator.model import CancelReason, Partition, PartitionStats, Survey, WorkerInfo


class Cancelled(Protocol):
    """The ``cancelled`` of a context: like an Event, but computed from deadlines by the clock."""

    def is_set(self) -> bool:
        """Return whether the work should end now."""
        ...

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Wait until it is set or *timeout* seconds passed; return whether it is set."""
        ...

    def __bool__(self) -> bool: ...


class ProcessContext(Protocol):
    """What a processor knows of its partition. Belongs to one attempt; usable from the processor's own threads."""

    @property
    def partition(self) -> Partition:
        """The partition as it was when claimed."""
        ...

    @property
    def namespace(self) -> str: ...

    @property
    def worker_id(self) -> str: ...

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        ...

    @property
    def options(self) -> Dict[str, Any]:
        """The same dict that ``process`` got."""
        ...

    @property
    def fencing_token(self) -> int:
        """Larger for every later grant in the namespace; put it into your writes."""
        ...

    @property
    def cancelled(self) -> Cancelled: ...

    @property
    def cancel_reason(self) -> Optional[CancelReason]: ...

    def raise_if_cancelled(self) -> None:
        """Raise :class:`~elk_coordinator.errors.TaskInterrupted` when cancelled."""
        ...

    def checkpoint(self, last_done_id: int, processed: int = 0) -> bool:
        """Make progress up to *last_done_id* durable; the next attempt starts behind it.

        :param processed: items this attempt counted so far.
        :return: True when durable, False when the store could not be asked in time (go on, try later).
        :raises TaskInterrupted: when the claim is gone.
        :raises ValueError: outside ``[min_id - 1, max_id]``.
        """
        ...

    def wait(self, seconds: float) -> bool:
        """Sleep; wake at once when cancelled. Return whether it is cancelled."""
        ...


class PlannerContext(Protocol):
    """What a planner knows of the leader that asks it."""

    @property
    def namespace(self) -> str: ...

    @property
    def term(self) -> int:
        """Token of the leader's lease."""
        ...

    @property
    def cancelled(self) -> Cancelled:
        """Set when this leader stops or can no longer prove its lease."""
        ...

    def wait(self, seconds: float) -> bool:
        """Sleep; wake at once when cancelled. Return whether it is cancelled."""
        ...


@runtime_checkable
class Processor(Protocol):
    """The user's work: blocking code that handles the IDs of one partition."""

    def process(self, ctx: ProcessContext, min_id: int, max_id: int, options: Dict[str, Any]) -> Optional[int]:
        """Handle every ID in ``[min_id, max_id]``; return how many items that were, or None.

        Called from a thread of the task window, for several partitions at the same time.
        """
        ...


@runtime_checkable
class PartitionPlanner(Protocol):
    """Tells the leader which IDs exist. Called from the leader's allocator thread, one call at a time.

    Optional methods: ``first_id(ctx) -> int``, ``has_data(ctx, min_id, max_id) -> bool`` and
    ``plan(ctx, start_id, limit) -> iterable of (min_id, max_id)``.
    """

    def partition_size(self, ctx: PlannerContext) -> int:
        """Return the IDs per partition."""
        ...

    def get_next_max_id(self, ctx: PlannerContext, start_id: int, range_size: int) -> int:
        """Return the largest existing ID in ``(start_id, start_id + range_size]``; ``<= start_id`` means none."""
        ...


class RangePlanner(Protocol):
    """A planner that names the ranges itself, for sparse IDs; asked instead of the methods of PartitionPlanner."""

    def plan(self, ctx: PlannerContext, start_id: int, limit: int) -> Iterable[Tuple[int, int]]:
        """Return at most *limit* ranges (both ends included) behind *start_id*, in order; none when nothing is new."""
        ...


@runtime_checkable
class GapDetector(Protocol):
    """Says where the leader looks for gaps; replaces the built-in detector. Called from the leader's allocator thread,
    when leadership begins, when somebody waits for the namespace to be idle, and every ``interval`` seconds (an
    optional attribute; default 30)."""

    def detect(
        self, ctx: PlannerContext, planned: Sequence[Tuple[int, int]], skipped: Sequence[Tuple[int, int]]
    ) -> Iterable[Tuple[int, int]]:
        """Return the ranges (both ends included) to look at; the first 1,000 are taken.

        What lies in them, is not covered by a partition and lies below the last planned ID is looked at: a planner with
        ``has_data`` is asked, without it all of that becomes partitions. What raises, or is no pair of ordered 64-bit
        integers, is a :class:`~elk_coordinator.errors.PlannerError` in log and event; nothing is planned then.

        :param planned: all planned ranges, merged, in order. :param skipped: the part of them found without data.
        """
        ...


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Event:
    """Something that happened on one worker. ``facts`` holds what the kind's entry in :class:`Listener` names."""

    kind: str
    namespace: str
    worker_id: str
    #: This host's epoch seconds; for people, not for decisions.
    at: float
    facts: Mapping[str, Any] = attr.Factory(dict)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.facts[name]
        except KeyError:
            raise AttributeError("event %r has no fact %r; it has %s" % (self.kind, name, sorted(self.facts))) from None


class Listener:
    """Base with one empty method per kind of event: override what interests you.

    Called outside all locks, from a thread of its own, in order; an exception is logged and goes no further. A listener
    that blocks delays later events of itself and others, never the work; beyond 10,000 waiting events new ones are
    dropped and counted in the log.
    """

    # -- life of the coordinator
    def on_started(self, event: Event) -> None:
        """Threads run. Facts: lease, recovery_bound."""

    def on_stopped(self, event: Event) -> None:
        """Everything ended, or the timeout passed. Facts: clean (bool), seconds."""

    def on_role_died(self, event: Event) -> None:
        """A thread of ours ended by an error; it is restarted. Facts: role, error."""

    def on_http_unavailable(self, event: Event) -> None:
        """No port for the built-in HTTP thread could be had. Facts: address, error."""

    def on_config_changed(self, event: Event) -> None:
        """A setting of this worker was changed while it ran. Facts: option (task_window_size; paused, when it heard of
        a pause or its end), value, previous."""

    # -- leader
    def on_became_leader(self, event: Event) -> None:
        """Facts: term, seconds (of the election)."""

    def on_stood(self, event: Event) -> None:
        """This worker asked for the leader's lease. Facts: failure ("" when it was granted, "held" when another holds
        it, "store" when the store did not answer)."""

    def on_stepped_down(self, event: Event) -> None:
        """Facts: term, reason."""

    def on_planned(self, event: Event) -> None:
        """One allocation round created something. Facts: created, skipped_ids, last_id, seconds, questions."""

    def on_gap_found(self, event: Event) -> None:
        """A gap was looked at. Facts: min_id, max_id, ids, gap (hole, deleted or skipped), action (planned: partitions
        were created in it; empty: it holds no data), partitions (created in this turn)."""

    def on_planner_error(self, event: Event) -> None:
        """Facts: error (PlannerError), method."""

    def on_partition_reclaimed(self, event: Event) -> None:
        """A lease ran out and the partition came back. Facts: partition_id, token, owner, deliveries, status, error."""

    def on_worker_joined(self, event: Event) -> None:
        """The leader saw a worker it had not seen before. Facts: worker, host, version."""

    def on_worker_left(self, event: Event) -> None:
        """The leader saw that a worker had signed off, which every clean stop does. Facts: worker, host."""

    def on_worker_lost(self, event: Event) -> None:
        """The leader saw that a worker was forgotten, having been silent for its ``worker_ttl``: killed, cut off or
        frozen. Facts: worker, host."""

    def on_command_ended(self, event: Event) -> None:
        """The leader carried out what an operator asked for. Facts: command_id, command (pause, resume, ...),
        by, state (done or failed), changed, error."""

    # -- worker
    def on_heartbeat(self, event: Event) -> None:
        """Facts: ok, seconds (round trip), lateness (seconds behind schedule), held, error, clock_offset (this host's
        wall clock minus the store's; None when unknown)."""

    def on_claimed(self, event: Event) -> None:
        """One round trip brought partitions. Facts: count, seconds."""

    def on_reported(self, event: Event) -> None:
        """The store answered reports. Facts: count, seconds (since they were first sent)."""

    def on_task_started(self, event: Event) -> None:
        """Facts: partition_id, token, attempt."""

    def on_task_finished(self, event: Event) -> None:
        """A processor ended. Facts: partition_id, token, outcome (Outcome), seconds, processed, error_type."""

    def on_partition_completed(self, event: Event) -> None:
        """The store accepted the completion. Facts: partition_id, token, processed."""

    def on_partition_retried(self, event: Event) -> None:
        """An attempt failed; another is due. Facts: partition_id, token, attempt, delay, error."""

    def on_partition_failed(self, event: Event) -> None:
        """It rests as failed. Facts: partition_id, token, error."""

    def on_partition_released(self, event: Event) -> None:
        """It went back unfinished. Facts: partition_id, token."""

    def on_lease_lost(self, event: Event) -> None:
        """A claim can no longer be proved or is gone. Facts: partition_id, token, reason."""

    def on_write_refused(self, event: Event) -> None:
        """The store refused a report or checkpoint of a claim that is gone. Facts: partition_id, token, what."""

    def on_task_hung(self, event: Event) -> None:
        """Still running one lease after its cancellation. Facts: partition_id, token, seconds, stack."""

    def on_breaker_changed(self, event: Event) -> None:
        """Facts: state, previous, reason."""

    # -- store
    def on_store_unavailable(self, event: Event) -> None:
        """The first failed call after a good one. Facts: role, error."""

    def on_store_recovered(self, event: Event) -> None:
        """The first good call after failed ones. Facts: seconds."""

    def on_store_lost_data(self, event: Event) -> None:
        """The store went back in time; the plan may start again. Facts: mark (stamp when it was noticed)."""


#: Every kind of event, from the methods of Listener.
EVENT_KINDS: Tuple[str, ...] = tuple(sorted(name[3:] for name in vars(Listener) if name.startswith("on_")))


#: The life of a coordinator, as its health tells it.
NEW, STARTING, RUNNING, DRAINING, STOPPED, FORKED = "new", "starting", "running", "draining", "stopped", "forked"


@attr.s(auto_attribs=True, frozen=True, slots=True)
class RoleHealth:
    """How one thread of ours is doing."""

    name: str
    alive: bool
    #: Seconds since its last turn that ended well; None before the first.
    last_ok_age: Optional[float]
    last_error: Optional[str]
    #: Seconds the present turn has been running.
    busy_for: float = 0.0
    restarts: int = 0


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Health:
    """The coordinator's answer to "how are you"; :attr:`problems` says in words what is wrong."""

    state: str
    #: Process in order: nothing dead or stuck.
    healthy: bool
    #: Registered with the namespace, store answering, no role dead: work can be done.
    ready: bool
    problems: Sequence[str]
    namespace: str
    worker_id: str
    is_leader: bool
    term: Optional[int]
    #: Whether the namespace accepted this worker.
    accepted: bool
    #: Seconds since the store last answered; None before the first answer.
    store_age: Optional[float]
    store_error: Optional[str]
    window_size: int
    in_flight: int
    hung: int
    prefetched: int
    breaker: Optional[str]
    paused: bool
    roles: Sequence[RoleHealth]
    http_address: Optional[str]
    uptime: float
    #: Why the breaker last changed, and how often it opened.
    breaker_reason: str = ""
    breaker_trips: int = 0

    def to_dict(self) -> Dict[str, Any]:
        """Return a JSON-ready dict."""
        return attr.asdict(self)


class CoordinatorView(Protocol):
    """What the HTTP app and the metrics collector may ask of a coordinator. Every method is safe from any thread and
    none waits for the store, except :meth:`fleet` and :meth:`stats`, which make one round trip each."""

    @property
    def namespace(self) -> str: ...

    @property
    def worker_id(self) -> str: ...

    @property
    def is_leader(self) -> bool: ...

    def health(self) -> Health: ...

    def cached_stats(self) -> Optional[PartitionStats]:
        """The leader's last look at the counts (at most some seconds old); None on a follower."""
        ...

    def cached_workers(self) -> Optional[int]:
        """Live workers at the leader's last look; None on a follower."""
        ...

    def cached_survey(self) -> Optional[Survey]:
        """The leader's last look at plan, fleet and archive (at most some seconds old); None on a follower."""
        ...

    def stats(self) -> PartitionStats: ...

    def fleet(self) -> List[WorkerInfo]: ...


#: A processor may be a plain function: ``process(ctx, min_id, max_id, options)``.
ProcessFunction = Callable[[ProcessContext, int, int, Dict[str, Any]], Optional[int]]
AnyProcessor = Union[Processor, ProcessFunction]
AnyPlanner = Union[PartitionPlanner, RangePlanner]
Ranges = Iterable[Tuple[int, int]]
