"""One random life of a namespace: the real thing and the plain model side by side, and how many such lives are lived.

The rules are in ``rules_*.py``, what must hold after every step in ``invariants.py``; ``namespace.py`` puts them
together.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

import attr
import hypothesis
from hypothesis import Phase
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, run_state_machine_as_test

from elk_coordinator.model import CreatePartition, Partition, PartitionStats, PlanState, Range, StrategyType
from elk_coordinator.partition import audit, intervals
from elk_coordinator.partition.commands import Job
from elk_coordinator.partition.factory import command_store
from elk_coordinator.partition.requests import BeatRequest, TurnRequest
from tests.contract.machine.plain_model import Claim, PlainModel

#: Every step lets so much time pass: whole milliseconds, exact in binary.
TICK = 0.125
LEASES = (4.0, 6.0)
TERM = 5.0
MAX_ATTEMPTS, MAX_DELIVERIES = 2, 3

WORKERS = st.integers(0, 2)


class Worker:
    """One process: a strategy with a memory of its own, and what it sent and read."""

    def __init__(self, name: str, strategy: Any) -> None:
        self.name = name
        self.strategy = strategy
        self.commands = command_store(strategy)
        self.turns: List[TurnRequest] = []
        self.beats: List[BeatRequest] = []
        self.term = 1  # never a real one
        self.plans: List[PlanState] = []
        self.jobs: List[Tuple[Job, int]] = []


@attr.s(auto_attribs=True, frozen=True)
class Look:
    """Everything public about the namespace after one step."""

    partitions: Dict[int, Partition]
    stats: PartitionStats
    plan: PlanState
    planned: List[Range]
    skipped: List[Range]
    pruned: List[Range]
    #: What the audit of the same reading found.
    problems: List[str]


class Life(RuleBasedStateMachine):
    """What rules and invariants share. ``backend`` and ``stores`` are set by :func:`live`."""

    backend: Any
    stores: List[Any]
    #: What happened in all lives of a run: how often, and in how many lives; to see that they were eventful.
    all_seen: "Counter[str]" = Counter()
    seen_in: "Counter[str]" = Counter()
    #: Lives begun in this run, and the first one that failed; hypothesis lives that one again a few times.
    lives = 0
    noticed = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).lives += 1
        #: What happened in this life.
        self.seen: "Counter[str]" = Counter()
        self.clock = self.backend.stop_time()
        # The same life has the same stamps whenever it is lived.
        self.clock.move_to(1_700_000_000_000_000)
        self.backend.lose_data()
        self.simple = self.backend.strategy_type is StrategyType.SIMPLE
        self.model = PlainModel(MAX_ATTEMPTS, MAX_DELIVERIES)
        self.workers = [self._new_worker(i) for i in range(3)]
        #: Every claim ever granted, and the versions that everybody saw last.
        self.claims: List[Claim] = []
        self.versions: Dict[int, int] = {}
        self.highest_version = 0
        self.tokens: List[int] = []
        self.terms: List[int] = []
        #: token -> what it was granted for, and to whom.
        self.owners: Dict[int, Tuple[int, str]] = {}
        #: Claims that were seen to have ended.
        self.ended: Set[Claim] = set()
        #: claim -> its furthest checkpoint.
        self.progress: Dict[Claim, int] = {}
        #: Completed partitions as they were right after their completion.
        self.completed: Dict[int, Partition] = {}
        self.lost = False
        self.before: Optional[Look] = None
        self._look: Optional[Look] = None

    @initialize(
        items=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.integers(-1, 1)), min_size=2, max_size=5)
    )
    def begin(self, items: List[Tuple[int, int, int]]) -> None:
        at = 0
        wanted = []
        for number, (gap, width, priority) in enumerate(items, 1):
            at += gap
            wanted.append(CreatePartition(number, at, at + width - 1, priority))
            at += width
        self.model.create(wanted)
        self.workers[0].strategy.create_partitions_if_not_exist(wanted)
        self.changed()

    def _new_worker(self, i: int) -> Worker:
        strategy = self.backend.new_strategy(
            self.stores[i],
            partition_lock_expiry=LEASES[i % 2],
            max_attempts=MAX_ATTEMPTS,
            max_deliveries=MAX_DELIVERIES,
        )
        return Worker("w%d" % i, strategy)

    def tick(self, seconds: float = TICK) -> None:
        """Let time pass; every rule that changes anything begins with it."""
        self.clock.advance(seconds)
        self.model.now = self.clock.us // 1000
        self.changed()

    def changed(self) -> None:
        """Forget the last look at the namespace: the next one sees something new."""
        if self._look is not None:
            self.before, self._look = self._look, None

    def look(self) -> Look:
        """Return what the namespace looks like after this step."""
        if self._look is None:
            strategy = self.workers[1].strategy
            # What verify() does, with its picture kept: everything is read once a step.
            picture = audit._take(strategy)
            self._look = Look(
                picture.found, picture.stats, strategy.plan_state(), picture.planned, picture.skipped, picture.pruned,
                picture.broken + audit._wrong(picture),
            )  # fmt: skip
        return self._look

    def teardown(self) -> None:
        """Ask once more at the end of a life, by other ways."""
        self.all_seen.update(self.seen)
        self.seen_in.update(event for event, times in self.seen.items() if times)
        failure = sys.exc_info()[1]
        if failure is not None:
            # StopTest: hypothesis had enough of this life.
            if type(failure).__name__ != "StopTest" and not type(self).noticed:
                type(self).noticed = self.lives
            return
        strategy = self.workers[0].strategy
        assert {p.partition_id: p for p in strategy.get_all_partitions()} == self.look().partitions
        assert strategy.is_paused() is self.model.paused
        assert audit.verify(strategy).problems == []

    def gone(self, numbers: Sequence[int]) -> None:
        """Forget what was known of partitions that are no more."""
        for number in numbers:
            self.versions.pop(number, None)
            self.completed.pop(number, None)

    def granted(self, worker: str, claims: Sequence[Claim]) -> None:
        """Take down new claims: their tokens are above every earlier one."""
        self.rose(self.tokens, [token for _, token in claims])
        self.claims += claims
        for number, token in claims:
            assert token not in self.owners, "a token was granted twice"
            self.owners[token] = (number, worker)

    def rose(self, row: List[int], tokens: List[int]) -> None:
        """Check that new tokens are above every earlier one, also those of before a loss of data."""
        highest = max(row + ([] if self.simple else self.tokens + self.terms), default=0)
        assert tokens == sorted(set(tokens)) and (not tokens or tokens[0] > highest), (tokens, highest)
        assert all(token < 2**53 for token in tokens)
        row.extend(tokens)

    def some_claims(self, data: Any, most: int, what: str) -> List[Claim]:
        """Draw claims, those of the last steps first, given up ones among them."""
        pool = list(reversed(self.claims[-10:]))
        if not pool:
            return []
        return [
            data.draw(st.sampled_from(pool), what) for _ in range(data.draw(st.integers(0, most), "how many " + what))
        ]


def draw_items(data: Any, model: PlainModel) -> List[CreatePartition]:
    """Draw partitions to create, known ones and contradictions among them."""
    items = []
    for _ in range(data.draw(st.integers(1, 3), "how many")):
        known = sorted(model.records)
        if known and data.draw(st.booleans(), "a known one"):
            p = model.records[data.draw(st.sampled_from(known), "which")].p
            items.append(CreatePartition(p.partition_id, p.min_id, p.max_id))
        else:
            low = data.draw(st.integers(-5, 40), "low")
            width = data.draw(st.integers(1, 5), "width")
            number = data.draw(st.integers(1, 12), "id")
            items.append(CreatePartition(number, low, low + width - 1, data.draw(st.integers(-1, 1), "priority")))
    return items


def ranges(ids: Set[int]) -> List[Range]:
    """Return a set of IDs as merged intervals."""
    return intervals.merge((i, i) for i in ids)


def live(machine: Any, backend: Any, seed: int, examples: int, steps: int, shrink: bool = True) -> Any:
    """Live so many random lives on *backend*; return the class that lived them."""
    shrink = shrink and not os.environ.get("NOSHRINK")
    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
    name = "Life_%s" % backend.name.replace("-", "_")
    counts = {"all_seen": Counter(), "seen_in": Counter(), "lives": 0, "noticed": 0}
    here: Any = type(name, (machine,), {"backend": backend, **counts})
    here.stores = [backend.new_store() for _ in range(3)]
    try:
        run_state_machine_as_test(
            hypothesis.seed(seed)(here),
            settings=hypothesis.settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                database=None,
                phases=phases,
                report_multiple_bugs=False,
                suppress_health_check=list(hypothesis.HealthCheck),
            ),
        )
    except BaseException as exc:
        exc.noticed = here.noticed  # type: ignore[attr-defined]
        raise
    return here


def a_seed() -> int:
    """Return the seed of this run, and print it."""
    # The same lives in every CI run, so that a failure there is of the change and not of the dice; new ones by hand.
    given = os.environ.get("ELK_SEED") or ("20261123" if os.environ.get("CI") else "")
    seed = int(given or random.SystemRandom().randrange(2**32))
    print("ELK_SEED=%d" % seed)
    return seed
