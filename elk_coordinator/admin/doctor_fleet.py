"""The part of ``elk doctor`` that looks at the fleet: who lives, who leads, what is stuck, whose settings differ."""

from __future__ import annotations

import json
from typing import Any, Dict, FrozenSet, List, Optional

import attr

from elk_coordinator.admin.findings import INFO, OK, WARNING, Notes, some, word
from elk_coordinator.partition.factory import command_store
from elk_coordinator.partition.strategy import PartitionStrategy
from elk_coordinator.store.redis_store import RedisDataStore

#: Workers looked at.
MOST = 2000
#: Seconds a pause, a waiting command or a namespace without a leader may last before it is worth a warning.
LONG_PAUSE = 3600.0
LONG_WAIT = 60.0
#: Settings that should be equal everywhere -> what happens when they are not.
SETTINGS = {
    "strategy": "workers of the other strategy refuse the namespace",
    "lease": "how fast the work of a dead worker is taken up depends on who held it",
    "worker_ttl": "how fast a dead worker is noticed depends on which",
    "leader_lock_expiry": "how fast a dead leader is followed depends on which",
    "max_attempts": "how often a partition is tried depends on who happens to hold it",
    "max_deliveries": "how often a partition that kills workers is tried depends on who leads",
    "archive_keep": "how many completed partitions are kept depends on who leads",
}


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Fleet:
    """The registry, as it was read: what each live worker says of itself, and who is silent beyond his time."""

    workers: Dict[str, Dict[str, Any]] = attr.Factory(dict)
    unreadable: List[str] = attr.Factory(list)
    silent: int = 0

    @property
    def alive(self) -> FrozenSet[str]:
        """The names of live workers."""
        return frozenset(self.workers)

    def settings(self, name: str) -> Dict[str, Any]:
        """Return worker -> its setting *name*, of those that tell."""
        told = {worker: info.get("settings") for worker, info in self.workers.items()}
        return {worker: known[name] for worker, known in told.items() if isinstance(known, dict) and name in known}

    def numbers(self, name: str) -> List[float]:
        """Return the values of a setting that are positive numbers."""
        return [
            float(value)
            for value in self.settings(name).values()
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
        ]


def read_fleet(store: RedisDataStore) -> Fleet:
    """Read the registry without cleaning it."""
    now_ms = int(store.now() * 1000)
    flat = store.ask("ZRANGEBYSCORE", store.keys["workers"], "(%d" % now_ms, "+inf", "LIMIT", 0, MOST)
    silent = len(store.ask("ZRANGEBYSCORE", store.keys["workers"], "-inf", now_ms, "LIMIT", 0, MOST))
    infos = store.ask("HMGET", store.keys["worker_info"], *flat) if flat else []
    fleet = Fleet(silent=silent)
    for name, text in zip(flat, infos):
        known: Any = None
        try:
            known = json.loads(text or b"{}")
        except ValueError:
            pass
        if not isinstance(known, dict):
            fleet.unreadable.append(word(name))
            known = {}
        fleet.workers[word(name)] = known
    return fleet


def examine_fleet(strategy: PartitionStrategy, store: RedisDataStore, fleet: Fleet, notes: Notes) -> None:
    """Look at workers, leader, pause and commands."""
    _workers(fleet, notes)
    _configuration(fleet, notes)
    leader: Optional[str] = None
    with notes.looking("leader", "the leader", WARNING):
        found = strategy.leader()
        leader = found[0] if found else None
        planners = sorted(worker for worker, info in fleet.workers.items() if info.get("plans"))
        if leader is None and planners:
            notes.add(
                WARNING,
                "leader",
                "nobody leads, though workers with a planner live: %s" % some(planners),
                "Nothing is planned or taken back, and commands wait. For some seconds after a leader died that is so.",
                "If it stays so, look at the health of these workers (a planner that hangs, the role 'election').",
            )
        elif leader is None:
            notes.add(INFO, "leader", "nobody leads, and no worker with a planner lives")
        else:
            notes.add(OK, "leader", "%s leads" % leader)
    with notes.looking("commands", "the operator's commands", WARNING):
        _commands(strategy, store, notes, leader)


def _workers(fleet: Fleet, notes: Notes) -> None:
    notes.add(OK if fleet.workers else INFO, "workers", "%d workers live" % len(fleet.workers))
    if fleet.silent:
        notes.add(INFO, "workers-silent", "%d workers ended without saying so, within the last hour" % fleet.silent)
    if fleet.unreadable:
        notes.add(
            WARNING,
            "worker-info",
            "what these workers say of themselves cannot be read: %s" % some(fleet.unreadable),
            "Something else writes to the registry, or they run a version very different from this one.",
            "Look at these workers' versions.",
        )
    hung = ["%s: %s" % (worker, info["hung"]) for worker, info in sorted(fleet.workers.items()) if info.get("hung")]
    if hung:
        notes.add(
            WARNING,
            "hung",
            "tasks that did not end though they were cancelled (%s)" % some(hung),
            "Their threads are lost to the worker until the process ends; others took over their partitions.",
            "Find out what the processor waits for and give that a timeout; then restart the worker.",
        )
    open_ = [
        "%s is %s: %s" % (worker, info["breaker"], info.get("breaker_reason") or "no reason given")
        for worker, info in sorted(fleet.workers.items())
        if info.get("breaker") not in (None, "closed")
    ]
    if open_:
        notes.add(
            WARNING,
            "breaker",
            "circuit breakers that are not closed: %s" % some(open_),
            "These workers claim nothing, or one probe at a time, because their processors fail.",
            "Cure what the processor depends on; the breaker closes by itself after a good probe.",
        )


def _configuration(fleet: Fleet, notes: Notes) -> None:
    versions = {worker: info["version"] for worker, info in fleet.workers.items() if "version" in info}
    different = False
    for name, values, means in [
        ("version", versions, "that is so during an upgrade, and should not stay so"),
        *((name, fleet.settings(name), means) for name, means in SETTINGS.items()),
    ]:
        by_value: Dict[str, List[str]] = {}
        for worker, value in sorted(values.items()):
            by_value.setdefault(json.dumps(value, sort_keys=True), []).append(worker)
        if len(by_value) > 1:
            different = True
            notes.add(
                WARNING,
                "config-" + name.replace("_", "-"),
                "workers disagree on %s: %s"
                % (name, "; ".join("%s: %s" % (value, some(who)) for value, who in sorted(by_value.items()))),
                "Both work, but %s." % means if name != "strategy" else "Then %s." % means,
                "Give all workers of a namespace the same %s." % name,
            )
    if fleet.workers and not different:
        notes.add(OK, "config", "workers agree on version and settings")


def _commands(strategy: PartitionStrategy, store: RedisDataStore, notes: Notes, leader: Optional[str]) -> None:
    commands = command_store(strategy)
    now = store.now()
    first = commands.first()
    waiting = commands.queued()
    age = 0.0 if first is None else now - first.status().submitted_at
    if waiting and (leader is None or age > LONG_WAIT):
        notes.add(
            WARNING,
            "commands",
            "%d commands wait, the first for %.0f s, %s"
            % (waiting, age, "and %s leads" % leader if leader else "and nobody leads"),
            "Commands are carried out by the leader, in order.",
            "Start a worker with a planner."
            if leader is None
            else "A long one may be under way ('elk status'); else look at the leader's log for the role 'commands'.",
        )
    if not strategy.is_paused():
        return
    # The HASH strategy remembers since when; of the other the command may still be known.
    since = 0.0
    mark = store.ask("HGET", store.keys["meta"], "paused")
    if mark is not None:
        since = int(mark) / 1e6
    else:
        asked = [job.status() for job in commands.newest(50)]
        since = max([job.updated_at for job in asked if job.kind == "pause" and job.state == "done"] or [0.0])
    lasts = now - since
    notes.add(
        WARNING if lasts > LONG_PAUSE else INFO,
        "paused",
        "the namespace is paused" + (" for %.0f minutes" % (lasts / 60) if since else ", since when is not known"),
        "Nothing is claimed.",
        "'elk resume', when the reason is gone.",
    )
