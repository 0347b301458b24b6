"""What the network cases share: their timing, the seed, and scripts with a guard taken out."""

from __future__ import annotations

import os
from typing import Any, Callable, Dict

from tests.faults.fleet import SHORT, Fleet, Tally
from tests.faults.proxy import Proxy

MakeFleet = Callable[..., Fleet]
MakeProxy = Callable[..., Proxy]

SEED = int(os.environ.get("ELK_SEED") or 20261125)

#: Leases of 6 s: a call may take 1 s and one reply a third of that, so that a busy machine is no fault of its own.
LONGER: Dict[str, Any] = dict(SHORT, heartbeat_interval=2.0, worker_ttl=6.0, leader_lock_expiry=6.0)
#: Steps of 50 ms, so that a fault meets partitions in their middle.
STEPS: Dict[str, Any] = {"steps": 4, "pause": 0.05}

#: A request that comes again runs again: the memory of the last answer, switched off.
NO_REPLAY = ["partition/work", "if tonumber(seq) == tonumber(ARGV[2]) then", "if false then"]
#: A request runs whatever ran before it: the order of requests, switched off.
NO_ORDER = ["partition/work", "if tonumber(seq) > tonumber(ARGV[2]) then return {0} end", ""]


def start(fleet: Fleet, *names: str, work: Dict[str, Any] = STEPS, defaults: Any = LONGER, **config: Any) -> None:
    """Start workers, and wait until all are up."""
    for name in names:
        fleet.start(name, work, wait=False, defaults=defaults, **config)
    for worker in fleet.workers:
        worker.wait_for("up")


def resumed(fleet: Fleet, since: float, timeout: float = 20.0) -> float:
    """Wait until a completion is accepted again; return the seconds since then."""
    return float(fleet.wait_told("partition_completed", timeout, since)["t"] - since)


def granted_to_nobody(fleet: Fleet) -> bool:
    """Return whether a claim had to be taken back, or a report came for one that its holder did not know of."""
    return bool(fleet.told("partition_reclaimed") or fleet.told("write_refused"))


def calm(fleet: Fleet) -> Tally:
    """End the fleet and check it; no role died and no data was lost in it. Return what it counted."""
    fleet.end()
    tally = fleet.check()
    assert not fleet.told("role_died") and not fleet.told("store_lost_data")
    return tally


def scripts(proxy: Proxy) -> int:
    """Return how many script calls came through."""
    return proxy.commands["EVALSHA"] + proxy.commands["EVAL"]
