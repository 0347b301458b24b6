"""Random lives of a namespace: the real thing and a plain Python model side by side, compared after every step.

Workers create, claim, start, renew, checkpoint, report, release and acquire; a leader is elected, plans, fills gaps,
compresses, drops, carries operators' commands on, and is late; requests are repeated and come late; time passes, the
store's clock goes back, and the store loses its data. The machine is in ``machine/``.

On a failure hypothesis prints the shortest life that shows it, and the seed is on stdout (``ELK_SEED`` sets it,
``ELK_EXAMPLES`` the number of lives).
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from typing import Any

import pytest

from elk_coordinator.model import StrategyType
from elk_coordinator.partition import commands, hash_commands, simple_commands
from tests.contract.machine.events import COMMON, EVENTS, ONLY_HASH, RARE
from tests.contract.machine.life import a_seed, live
from tests.contract.machine.namespace import Namespace
from tests.contract.machine.plain_commands import STEP

#: The real server lives most: the others are imitations of it, or of nothing.
LIVES = {"hash-redis": 25, "simple-redis": 20, "simple-memory": 10, "hash-fakeredis": 3}
#: Seconds of the long run, for each strategy on the real server, and lives of one seed in it.
LONG = 60.0
SOME = 20
#: Lives after which every kind of event has happened, and the rare ones in so many percent of them.
MANY, RARELY = 150, 1.0


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands take several steps."""
    for module in (commands, hash_commands, simple_commands):
        monkeypatch.setattr(module, "MAX_BATCH", STEP)


@pytest.mark.timeout(120)
def test_random_lives_agree_with_the_plain_model(backend: Any) -> None:
    lived = live(Namespace, backend, a_seed(), int(os.environ.get("ELK_EXAMPLES") or LIVES[backend.name]), steps=60)
    print("%d lives; %s" % (lived.lives, ", ".join("%s: %d" % item for item in sorted(lived.all_seen.items()))))
    if lived.lives >= 20:
        assert COMMON <= set(lived.seen_in), "dull lives: none with %r" % sorted(COMMON - set(lived.seen_in))


@pytest.mark.long
@pytest.mark.timeout(4000)
@pytest.mark.parametrize("backend", ["hash-redis", "simple-redis"], indirect=True)
def test_many_random_lives_agree_with_the_plain_model(backend: Any) -> None:
    """New lives for a minute or ``ELK_SECONDS``, by a new seed every few; the last seed printed replays a failure."""
    until = time.monotonic() + float(os.environ.get("ELK_SECONDS") or LONG)
    seed, lives = a_seed(), 0
    seen_in: "Counter[str]" = Counter()
    while time.monotonic() < until:
        print("ELK_SEED=%d" % seed)
        lived = live(Namespace, backend, seed, SOME, steps=60)
        lives, seed = lives + lived.lives, random.Random(seed).randrange(2**32)
        seen_in.update(lived.seen_in)
    print("%d lives; percent of them with: %s" % (lives, ", ".join(
        "%s %.0f" % (event, 100.0 * times / lives) for event, times in sorted(seen_in.items(), key=lambda item: item[1])
    )))  # fmt: skip
    if lives >= MANY:
        kinds = EVENTS - (ONLY_HASH if backend.strategy_type is StrategyType.SIMPLE else frozenset())
        assert kinds <= set(seen_in), "never: %r" % sorted(kinds - set(seen_in))
        rare = {event: seen_in[event] for event in RARE if seen_in[event] < RARELY * lives / 100}
        assert not rare, "in too few of %d lives: %r" % (lives, rare)
