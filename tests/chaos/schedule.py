"""Which fault strikes when, for how long and whom: drawn from a seed before anything runs, and again from the same."""

from __future__ import annotations

import json
import random
from typing import Dict, List, NamedTuple, Sequence

#: Seconds of a lease in a chaos run; what lasts so many leases is measured in them.
LEASE = 3.0

#: Kind -> (group, class for ``--without``, shortest and longest duration in seconds).
KINDS: Dict[str, Sequence[object]] = {
    "kill": ("process", "process", 0.0, 0.0),
    "kill leader": ("process", "process", 0.0, 0.0),
    "kill half": ("process", "process", 0.0, 0.0),
    "freeze 0.5 leases": ("process", "freeze", 0.5 * LEASE, 0.5 * LEASE),
    "freeze 1.5 leases": ("process", "freeze", 1.5 * LEASE, 1.5 * LEASE),
    "freeze 3 leases": ("process", "freeze", 3.0 * LEASE, 3.0 * LEASE),
    "freeze leader": ("process", "freeze", 1.5 * LEASE, 3.0 * LEASE),
    "rolling deploy": ("process", "process", 0.5, 1.0),
    "join and leave": ("process", "process", 4.0, 10.0),
    "os._exit": ("process", "process", 2.0, 4.0),
    "GIL held": ("process", "process", 1.5 * LEASE, 1.5 * LEASE),
    "processor raises": ("content", "content", 2.0, 5.0),
    "all processors raise": ("content", "content", 1.0, 2.0),
    "processor hangs": ("content", "content", 14.0, 20.0),
    "poison": ("content", "content", 6.0, 10.0),
    "planner raises": ("leader", "planner", 2.0, 6.0),
    "planner hangs": ("leader", "planner", 1.5 * LEASE, 2.5 * LEASE),
    "planner nonsense": ("leader", "planner", 2.0, 6.0),
    "IDs jump": ("leader", "planner", 0.0, 0.0),
    "server restart": ("store", "server", 0.2, 1.0),
    "server kill": ("store", "server", 0.5, 5.0),
    "server frozen": ("store", "server", 1.0, 5.0),
    "data loss: flush": ("store", "data-loss", 0.0, 0.0),
    "data loss: restart": ("store", "data-loss", 0.5, 2.0),
    "out of memory": ("store", "server", 2.0, 6.0),
    "slow script": ("store", "server", 1.0, 3.0),
    "scripts flushed": ("store", "server", 3.0, 6.0),
    "clients killed": ("store", "server", 3.0, 6.0),
    "latency": ("network", "network", 3.0, 8.0),
    "latency for all": ("network", "network", 3.0, 8.0),
    "black hole": ("network", "network", 2.0, 9.0),
    "black hole for all": ("network", "network", 1.0, 5.0),
    "requests lost": ("network", "network", 2.0, 8.0),
    "replies lost": ("network", "network", 2.0, 8.0),
    "late delivery": ("network", "network", 2.0, 6.0),
    "every nth reply lost": ("network", "network", 4.0, 10.0),
    "connections reset": ("network", "network", 0.0, 0.0),
    "pause": ("operator", "operator", 1.0, 4.0),
    "cancel and retry": ("operator", "operator", 1.0, 3.0),
    "release": ("operator", "operator", 0.0, 0.0),
    "priorities": ("operator", "operator", 0.0, 0.0),
    "retry all": ("operator", "operator", 0.0, 0.0),
}
CLASSES = tuple(sorted({str(kind[1]) for kind in KINDS.values()}))
#: In the order of the picture.
GROUPS = ("process", "content", "leader", "store", "network", "operator")
#: A loss of data sends the plan back to its beginning; so often in ten minutes, and not at the end.
LOSSES_IN_TEN_MINUTES = 3


class Planned(NamedTuple):
    """A fault to come: *at* seconds after the start; *slot* says which worker, *n* is a number for who needs one."""

    number: int
    at: float
    kind: str
    seconds: float
    slot: int
    n: int


def group_of(kind: str) -> str:
    return str(KINDS[kind][0])


def draw(seed: int, seconds: float, workers: int, mean_gap: float, without: Sequence[str] = (),
         only: Sequence[str] = ()) -> List[Planned]:  # fmt: skip
    """Draw the faults of *seconds*; each kind comes once before any comes again."""
    chance = random.Random(seed)
    losses = max(1, round(LOSSES_IN_TEN_MINUTES * seconds / 600.0))
    kinds = [kind for kind, facts in KINDS.items() if facts[1] not in without and (not only or kind in only)]
    out: List[Planned] = []
    deck: List[str] = []
    at = min(2.0, seconds / 20.0)
    while kinds:
        at += min(4.0 * mean_gap, chance.expovariate(1.0 / mean_gap))
        if not deck:
            deck = list(kinds)
            chance.shuffle(deck)
        kind = deck.pop()
        low, high = KINDS[kind][2:]
        lasts = round(chance.uniform(float(str(low)), float(str(high))), 2)
        slot, n = chance.randrange(workers), chance.randint(2, 10)
        if at >= seconds:
            break
        if kind.startswith("data loss"):
            if at < 0.25 * seconds:  # there is nothing to lose yet
                deck.insert(0, kind)
                continue
            if not losses or at > 0.7 * seconds:
                continue
            losses -= 1
        out.append(Planned(len(out) + 1, round(at, 2), kind, min(lasts, round(seconds - at, 2)), slot, n))
    return out


def save(path: str, faults: Sequence[Planned]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump([fault._asdict() for fault in faults], file, indent=1)
