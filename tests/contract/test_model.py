"""Random lives of a namespace: the real thing and a plain Python model side by side, compared after every step.

Workers create, claim, start, renew, checkpoint, report, release and acquire; a leader is elected, plans, fills gaps,
compresses, drops, carries operators' commands on, and is late; requests are repeated and come late; time passes, the
store's clock goes back, and the store loses its data. The machine is in ``machine/``.

On a failure hypothesis prints the shortest life that shows it, and the seed is on stdout (``ELK_SEED`` sets it,
``ELK_EXAMPLES`` the number of lives).
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from elk_coordinator.partition import commands, hash_commands, simple_commands
from tests.contract.machine.life import a_seed, live
from tests.contract.machine.namespace import Namespace
from tests.contract.machine.plain_commands import STEP

#: The real server lives most: the others are imitations of it, or of nothing.
LIVES = {"hash-redis": 12, "simple-redis": 12, "simple-memory": 6, "hash-fakeredis": 3}
#: Seconds of the long run, for each backend of the real server.
LONG = 60.0


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands take several steps."""
    for module in (commands, hash_commands, simple_commands):
        monkeypatch.setattr(module, "MAX_BATCH", STEP)


@pytest.mark.timeout(120)
def test_random_lives_agree_with_the_plain_model(backend: Any) -> None:
    lived = live(Namespace, backend, a_seed(), int(os.environ.get("ELK_EXAMPLES") or LIVES[backend.name]), steps=60)
    print("%d lives; %s" % (lived.lives, ", ".join("%s: %d" % item for item in sorted(lived.seen.items()))))
