"""The faults of the demo. Each scene is a generator: it looks at the stage, does something, and yields until the next
look; it ends when what it shows has been seen. Its findings go into ``stage.findings``.
"""

from __future__ import annotations

import random
from typing import Any, Dict, Iterator, List, Optional, Tuple

from elk_coordinator.admin.telling import count
from elk_coordinator.cli.demo.crew import Crew, Message, Worker
from elk_coordinator.cli.demo.database import Database
from elk_coordinator.cli.demo.progress import Screen
from elk_coordinator.cli.demo.settings import DemoSettings
from elk_coordinator.model import HELD, PartitionFilter
from elk_coordinator.partition.strategy import PartitionStrategy
from elk_coordinator.runtime.clock import Clock

FREEZE_AT = 0.04
KILL_AT = 0.40
#: Patience with one scene, in seconds; it takes one lease when all is well.
PATIENCE = 60.0

Scene = Iterator[None]


class Stage:
    """What the scenes see and touch."""

    def __init__(
        self,
        settings: DemoSettings,
        database: Database,
        strategy: PartitionStrategy,
        crew: Crew,
        screen: Screen,
        clock: Clock,
    ) -> None:
        self.settings = settings
        self.database = database
        self.strategy = strategy
        self.crew = crew
        self.screen = screen
        self.clock = clock
        self.dice = random.Random(settings.seed)
        #: Share of the rows that is done, from 0 to 1.
        self.fraction = 0.0
        #: Messages of the workers, oldest first.
        self.heard: List[Tuple[Worker, Message]] = []
        self.findings: Dict[str, Any] = {}

    def leader(self) -> Optional[Worker]:
        """Return the worker that holds the leader's lease, dead or alive."""
        found = self.strategy.leader()
        return None if found is None else self.crew.named(found[0])

    def fence(self, lo: int, hi: int) -> Tuple[int, str]:
        """Return token and worker of a partition's fence; (0, "") before its first start."""
        rows = self.database.query(
            "SELECT token, worker FROM fence WHERE namespace = ? AND lo = ? AND hi = ?",
            (self.settings.namespace, lo, hi),
        )
        return (int(rows[0][0]), str(rows[0][1])) if rows else (0, "")

    def find(self, kind: str, worker: Optional[Worker] = None, **facts: Any) -> Optional[Message]:
        """Return the first message of that kind with these facts."""
        for sender, message in self.heard:
            if message["event"] == kind and (worker is None or sender is worker):
                if all(message.get(name) == value for name, value in facts.items()):
                    return message
        return None


def a_worker_is_frozen(stage: Stage) -> Scene:
    """Freeze a worker between its last look and its write, past its lease, and let it write."""
    while stage.fraction < FREEZE_AT:
        yield
    victim = None
    while victim is None:
        leader = stage.leader()
        others = [worker for worker in stage.crew.usable if worker.started and worker is not leader]
        if leader is not None and others:
            victim = stage.dice.choice(others)
        else:
            yield
    victim.tell("hold")
    held = None
    while held is None:
        held = stage.find("held", victim)
        if held is None:
            yield
    victim.freeze()
    started = stage.clock.monotonic()
    stage.screen.say(
        "FROZEN    %s (SIGSTOP) within partition %d, about to write orders %d-%d with token %d"
        % (victim.name, held["partition"], held["first"], held["last"], held["token"])
    )
    token, taker = stage.fence(held["lo"], held["hi"])
    while token <= held["token"]:
        yield
        token, taker = stage.fence(held["lo"], held["hi"])
    taken = stage.clock.monotonic() - started
    stage.screen.say(
        "TAKEN     partition %d by %s after %.1f s; its fence now holds token %d"
        % (held["partition"], taker, taken, token)
    )
    victim.tell("go")
    victim.thaw()
    outcome = None
    while outcome is None:
        for kind in ("refused", "written"):
            outcome = outcome or stage.find(kind, victim, token=held["token"])
        if outcome is None:
            yield
    refused = outcome["event"] == "refused"
    if refused:
        stage.screen.say(
            "REFUSED   orders %d-%d, %s woke and wrote with token %d: the fence holds %d, 0 rows changed"
            % (outcome["first"], outcome["last"], victim.name, outcome["token"], outcome["current"])
        )
    else:
        stage.screen.say(
            "LATE      orders %d-%d, %s woke and wrote with token %d: nothing stopped it, %d rows changed"
            % (held["first"], held["last"], victim.name, held["token"], outcome["rows"])
        )
    stage.findings["frozen"] = {
        "worker": victim.name,
        "partition": held["partition"],
        "orders": [held["first"], held["last"]],
        "token": held["token"],
        "fence_token": token,
        "taken_by": taker,
        "taken_over_after": round(taken, 2),
        "late_write_refused": refused,
    }


def the_leader_is_killed(stage: Stage) -> Scene:
    """Kill the leader, which works as well, and watch both of its jobs pass to others."""
    while stage.fraction < KILL_AT:
        yield
    victim = None
    while victim is None:
        leader = stage.leader()
        # Two workers must be at work, or nobody is left to take over.
        if leader is not None and leader.usable and len(stage.crew.usable) >= 2:
            victim = leader
        else:
            yield
    victim.kill()
    started = stage.clock.monotonic()
    held = stage.strategy.get_filtered_partitions(PartitionFilter(worker_id=victim.name, statuses=HELD))
    stage.screen.say(
        "KILLED    %s (SIGKILL), the leader, with %s at work: %s"
        % (victim.name, count(len(held), "partition"), ", ".join(str(p.partition_id) for p in held) or "-")
    )
    waiting = {partition.partition_id: partition for partition in held}
    new_leader: Optional[Worker] = None
    leader_after = work_after = 0.0
    takers = set()
    while new_leader is None or waiting:
        if new_leader is None:
            found = stage.leader()
            if found is not None and found is not victim:
                new_leader, leader_after = found, stage.clock.monotonic() - started
                stage.screen.say("ELECTED   %s leads after %.1f s" % (new_leader.name, leader_after))
        for partition in list(waiting.values()):
            token, taker = stage.fence(partition.min_id, partition.max_id)
            if token > partition.fencing_token:
                del waiting[partition.partition_id]
                takers.add(taker)
                work_after = stage.clock.monotonic() - started
                if not waiting:
                    stage.screen.say(
                        "RESUMED   the partitions of %s run on %s after %.1f s"
                        % (victim.name, ", ".join(sorted(takers)), work_after)
                    )
        if new_leader is None or waiting:
            yield
    stage.findings["killed"] = {
        "worker": victim.name,
        "partitions": [partition.partition_id for partition in held],
        "new_leader": new_leader.name,
        "new_leader_after": round(leader_after, 2),
        "running_elsewhere_after": round(work_after, 2),
    }


def a_partition_fails_twice(stage: Stage) -> Scene:
    """Watch the unlucky partition fail twice, wait, and come through."""
    partition_id = 0
    failures: List[str] = []
    for attempt in (1, 2):
        message = None
        while message is None:
            message = stage.find("retry", attempt=attempt, scripted=True)
            if message is None:
                yield
        partition_id = message["partition"]
        failures.append(str(message["error"]).strip().splitlines()[-1].partition(": ")[2])
        stage.screen.say(
            "FAILED    partition %d, attempt %d; again in %.1f s: %s"
            % (partition_id, attempt, message["delay"] or 0.0, failures[-1])
        )
    partition = stage.strategy.get_partition(partition_id)
    while partition.completed_at is None:
        yield
        partition = stage.strategy.get_partition(partition_id)
    stage.screen.say("RETRIED   partition %d came through at attempt %d" % (partition_id, partition.attempt + 1))
    stage.findings["retried"] = {"partition": partition_id, "failures": failures}


#: Name for messages, scene.
SCENES = (
    ("a worker is frozen past its lease and resumed", a_worker_is_frozen),
    ("the leader is killed", the_leader_is_killed),
    ("a partition fails twice and is retried", a_partition_fails_twice),
)
