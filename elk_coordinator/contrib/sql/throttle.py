"""Giving way between two batches: the user's callable says whether to wait; a stop wakes the wait."""

from __future__ import annotations

import math
from typing import Callable, Optional, Union

from elk_coordinator.contrib.sql.database import Database
from elk_coordinator.errors import ConfigError
from elk_coordinator.protocols import ProcessContext

#: Called before every batch. True: wait and ask again. Seconds: wait so long, then go on. False, None, 0: go on.
Throttle = Callable[[], Union[None, bool, int, float]]

_LAG = {
    # What was sent and not replayed, as the primary sees its replicas; NULL while a replica has nothing to catch up on.
    "postgresql": "SELECT COALESCE(EXTRACT(EPOCH FROM max(replay_lag)), 0) FROM pg_stat_replication",
}


def give_way(ctx: ProcessContext, throttle: Optional[Throttle], pause: float) -> None:
    """Wait as long as *throttle* says; *pause* seconds between two questions.

    :raises TaskInterrupted: the attempt was cancelled meanwhile. :raises ConfigError: the answer is no answer.
    """
    while throttle is not None:
        answer = throttle()
        if answer is True:
            seconds = pause
        elif not answer:
            return
        elif isinstance(answer, (int, float)) and math.isfinite(answer) and answer > 0:
            seconds = float(answer)
        else:
            raise ConfigError("throttle: it answered %r; it must be True, False, None or seconds from 0 on" % (answer,))
        if ctx.wait(seconds):
            ctx.raise_if_cancelled()
        if answer is not True:
            return


def replica_lag(database: Database, limit: float) -> Throttle:
    """Return a throttle that waits while a replica of the PostgreSQL primary *database* is over *limit* seconds late.

    The role needs ``pg_monitor`` (or to be the replicas' own): others see no lag. For MySQL and MariaDB, whose
    primaries do not know, pass a callable that asks the replica.
    """
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit > 0:
        raise ConfigError("limit=%r: it must be seconds above 0" % (limit,))

    def behind() -> bool:
        sql = _LAG.get(database.dialect)
        if sql is None:
            raise ConfigError("replica_lag: only a PostgreSQL primary knows; pass a callable that asks the replica")
        with database.reading() as session:
            return float(session.scalar(sql)) > limit

    return behind
