"""The named crash points: what each means, and what the store and the journal hold when a worker has died there.

A worker that works has partitions of :data:`WIDTH` IDs, one at a time, :data:`INTERVAL` IDs between two checkpoints,
and none behind the last. One that leads does not work: it plans 6 partitions a step, creates 5 a step of a command.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional

import attr

from tests.faults.crash_points import INTERVAL

#: IDs of a partition.
WIDTH = 3 * INTERVAL
#: Partitions that a worker finds.
PARTITIONS = 8
#: IDs that a leader finds.
LEADS_TO = 30 * WIDTH

Left = Callable[[int], Dict[str, Any]]


@attr.s(auto_attribs=True, frozen=True)
class Point:
    """An instant at which a process dies."""

    name: str
    meaning: str
    #: What is there right after the death at the n-th time, as far as it is known: see ``Case.seen``.
    left: Left
    #: The largest n; each run draws one.
    most: int = 1
    #: With this strategy only.
    only: Optional[str] = None

    @property
    def step(self) -> str:
        return self.name.partition(".")[0]


def _at(completed: int, running: int = 1, begun: Optional[int] = None, steps: int = 0, saved: int = 0,
        **more: Any) -> Dict[str, Any]:  # fmt: skip
    """Return what one is left with that had *steps* of its present partition done, *saved* of them by a checkpoint."""
    begun = completed + running if begun is None else begun
    effects = WIDTH * completed + INTERVAL * steps
    return dict(
        completed=completed, running=running, attempts=begun, effects=effects, checkpoint=INTERVAL * saved, lost=0,
        **more
    )  # fmt: skip


def _step(name: str, does: str, before: Left, since: Left, most: int = 1) -> List[Point]:
    return [
        Point(name + ".before", "about to %s, nothing sent" % does, before, most),
        Point(name + ".sent", "the server has done it (%s), the answer was not read" % does, since, most),
        Point(name + ".after", "the answer was decoded (%s), nothing done about it" % does, since, most),
    ]


WORKER_POINTS: List[Point] = [
    *_step(
        "register", "enter the registry", lambda n: _at(0, 0, registered=False), lambda n: _at(0, 0, registered=True)
    ),
    # A claim reports what ended before it.
    *_step(
        "claim", "claim",
        lambda n: _at(n - 2, 1, n - 1, 3, 2) if n > 1 else _at(0, 0),
        lambda n: _at(n - 1, 1, n - 1), 4,
    ),
    # Two are prefetched: the one whose turn it is runs already while its start is on its way. Effects: not known.
    *_step(
        "start", "mark the start of a prefetched one",
        lambda n: {"completed": n - 1, "running": 1, "claimed": 2, "lost": 0},
        lambda n: {"completed": n, "running": 1, "claimed": 2, "lost": 0}, 3,
    ),
    *_step("renew", "renew the lease of what runs", lambda n: _at(0), lambda n: _at(0), 2),
    *_step(
        "checkpoint", "make progress durable",
        lambda n: _at((n - 1) // 2, steps=(n - 1) % 2 + 1, saved=(n - 1) % 2),
        lambda n: _at((n - 1) // 2, steps=(n - 1) % 2 + 1, saved=(n - 1) % 2 + 1), 6,
    ),
    *_step("report", "report a completion", lambda n: _at(n - 1, 1, n, 3, 2), lambda n: _at(n, 1, n), 4),
    # What failed waits for its next attempt, and the next partition is claimed.
    *_step(
        "fail", "report an exception",
        lambda n: dict(_at(0), failures=0), lambda n: dict(_at(0, begun=1), failures=1, pending=PARTITIONS - 1),
    ),
    *_step(
        "release", "give back what it holds, at stop",
        lambda n: _at(0, 1, 1), lambda n: _at(0, 0, 1, pending=PARTITIONS),
    ),
    Point("work.claimed", "claimed, the processor not called yet", lambda n: _at(n - 1, 1, n - 1), 4),
    Point("work.began", "the fence is taken, no effect yet", lambda n: _at(n - 1, 1, n), 4),
    Point(
        "work.effect", "an effect is committed, its checkpoint is not sent",
        lambda n: _at((n - 1) // 3, steps=(n - 1) % 3 + 1, saved=(n - 1) % 3), 9,
    ),
    Point(
        "work.checkpointed", "a checkpoint is durable, the next effect not begun",
        lambda n: _at((n - 1) // 2, steps=(n - 1) % 2 + 1, saved=(n - 1) % 2 + 1), 6,
    ),
    Point("work.returned", "the processor has returned, no report yet", lambda n: _at(n - 1, 1, n, 3, 2), 4),
]  # fmt: skip

LEADER_POINTS: List[Point] = [
    *_step("elect", "stand", lambda n: {"total": 0, "leads": False}, lambda n: {"total": 0, "leads": True}),
    Point("question.before", "elected or in mid-plan, before a question to the planner",
          lambda n: {"total": 6 * (n - 1), "leads": True}, 3),
    Point("question.after", "the planner has answered, nothing planned of it yet",
          lambda n: {"total": 6 * (n - 1), "leads": True}, 3),
    *_step(
        "plan", "create the next of several batches of partitions",
        lambda n: {"total": 6 * (n - 1), "leads": True}, lambda n: {"total": 6 * n, "leads": True}, 3,
    ),
    *_step("extend", "renew the leader's lease", lambda n: {"leads": True}, lambda n: {"leads": True}, 2),
    *_step("resign", "step down, at stop", lambda n: {"leads": True}, lambda n: {"leads": False}),
    *_step(
        "sweep", "take back what a dead worker held",
        lambda n: {"running": 2, "lost": 0}, lambda n: {"running": 0, "lost": 2}
    ),
    *_step(
        "command", "carry an operator's command to create on by a step",
        lambda n: {"total": 5 * (n - 1)}, lambda n: {"total": min(5 * n, PARTITIONS)}, 2,
    ),
    # The priority of all, in two steps; then the end of the pause.
    *_step(
        "order", "carry an operator's commands on that change what is there by a step",
        lambda n: {"raised": min(5 * (n - 1), PARTITIONS), "paused": True},
        lambda n: {"raised": min(5 * n, PARTITIONS), "paused": n < 3}, 3,
    ),
    *_step(
        "archive", "compress what completed, in the place of a chunk",
        lambda n: {"completed": PARTITIONS, "archived": PARTITIONS // 2},
        lambda n: {"completed": PARTITIONS, "archived": PARTITIONS},
    ),
    Point("archive.written", "the new chunk is written, the document still names the old one",
          lambda n: {"completed": PARTITIONS, "archived": PARTITIONS // 2, "chunks": 2}, 1, "simple"),
    Point("archive.settling", "the document names the new chunk, the old one is not dropped yet",
          lambda n: {"completed": PARTITIONS, "archived": PARTITIONS, "chunks": 2}, 1, "simple"),
]  # fmt: skip

CRASH_POINTS: Dict[str, Point] = {point.name: point for point in WORKER_POINTS + LEADER_POINTS}
