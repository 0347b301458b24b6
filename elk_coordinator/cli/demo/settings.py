"""What the parent and the worker processes of the demo agree on."""

from __future__ import annotations

import json
import random
from typing import Any, Dict, List, Optional, Tuple

import attr

from elk_coordinator.errors import ConfigError

#: Partitions and batches aimed at, whatever the number of rows: the story needs some of each.
PARTITIONS = 200
BATCHES_PER_PARTITION = 4
WINDOW = 3
#: Seconds all artificial pauses take at most, and at least, when every worker is there: on a fast machine the work
#: would be over before anybody could watch a lease run out. In between a pause is as long as the work before it.
PACE = 6.0
LEAST_PACE = 3.0

#: Short leases, so that every recovery can be watched. The ratios are those of the defaults.
OPTIONS: Dict[str, Any] = {
    "heartbeat_interval": 1.0,
    "worker_ttl": 3.0,
    "leader_lock_expiry": 3.0,
    "leader_election_interval": 3.0,
    "allocation_interval": 2.0,
    # Planned this far ahead, the others find work while there is no leader.
    "worker_partition_multiple": 15,
    "retry_backoff": (0.5, 2.0),
    "task_window_size": WINDOW,
    "stop_timeout": 10.0,
    "metrics_addr": "127.0.0.1:0",
}


@attr.s(auto_attribs=True, frozen=True, kw_only=True)
class DemoSettings:
    """One run of the demo. Travels to the workers as JSON on their standard input (the URLs may hold passwords)."""

    namespace: str
    redis_url: str
    #: Path of the SQLite file, or None when a PostgreSQL URL is given.
    sqlite: Optional[str]
    postgres: Optional[str]
    #: PostgreSQL schema that holds the demo's tables, so that nobody else's ``orders`` is touched.
    schema: str
    rows: int
    workers: int
    seed: int
    #: IDs per partition and per transaction.
    partition_size: int
    batch_size: int
    #: Longest and shortest artificial pause before each transaction, in seconds.
    pause: float
    least_pause: float
    #: The order whose partition fails twice.
    unlucky_order: int
    #: Whether writes check the fence; without it the proof must fail.
    fenced: bool
    parent_pid: int

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(attr.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "DemoSettings":
        """Undo :meth:`to_json`."""
        return cls(**json.loads(text))


def sizes(rows: int, workers: int, pace: float) -> Tuple[int, int, float, float]:
    """Return IDs per partition and per batch, and the longest and shortest pause that keep to *pace* seconds in all."""
    batch = max(1, rows // (PARTITIONS * BATCHES_PER_PARTITION))
    batches = -(-rows // batch)
    slots = workers * WINDOW
    return batch * BATCHES_PER_PARTITION, batch, pace * slots / batches, min(pace, LEAST_PACE) * slots / batches


def order_ids(rows: int, seed: int) -> List[int]:
    """Return the ids of *rows* orders in order: every nineteenth id is missing, and there are a few wide holes.

    The widest is a million ids: a plan that walked through it partition by partition would be seen.
    """
    dice = random.Random(seed)
    holes = {dice.randrange(rows // 10, rows): dice.randrange(50, 5000) for _ in range(5)}
    holes[rows // 2] = 1000000
    ids, shift = [], 0
    for number in range(1, rows + 1):
        shift += holes.get(number, 0)
        ids.append(number + number // 19 + shift)
    return ids


def pick_unlucky(ids: List[int], seed: int) -> int:
    """Return the order whose partition shall fail twice: in the first tenth, so that its retries end early."""
    return random.Random(seed + 1).choice(ids[len(ids) // 50 : len(ids) // 10])


def check_sizes(rows: int, workers: int) -> None:
    """Refuse a demo too small to tell its story.

    :raises ConfigError: naming the rule.
    """
    if rows < 2000:
        raise ConfigError("--rows: must be at least 2000, or it is over before anything can go wrong (got %d)" % rows)
    if not 2 <= workers <= 64:
        raise ConfigError("--workers: must be from 2 to 64, one of them will be killed (got %d)" % workers)
