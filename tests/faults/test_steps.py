"""A worker killed at each named instant of the protocol: what is done stays done, the rest is done by another, once."""

from __future__ import annotations

import os
import pathlib
import random
import re
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import pytest

import elk_coordinator
from tests.faults.crash_case import Case, Cases, summary
from tests.faults.crash_points import SCRIPTS
from tests.faults.crash_table import CRASH_POINTS, LEADER_POINTS, WORKER_POINTS, Point
from tests.faults.fleet import must_fail

#: Draws how often a process passes its point before it dies there.
SEED = int(os.environ.get("ELK_SEED") or random.randrange(10**6))
HASH, SIMPLE = "hash", "simple"


@pytest.fixture
def cases(tmp_path: pathlib.Path, redis_url: str, namespace: str) -> Iterator[Cases]:
    """Return what runs cases; all that they started ends with the test."""
    made = Cases(tmp_path, redis_url, namespace, SEED)
    yield made
    made.dispose()


def judge(ran: Sequence[Case]) -> None:
    """Fail with all that failed, or print the numbers."""
    wrong = ["%s: %s" % (case.label, case.error) for case in ran if case.error is not None]
    assert wrong == [], "with ELK_SEED=%d:\n%s" % (SEED, "\n\n".join(wrong))
    print(summary(ran, SEED))


#: What holds a step together, switched off: in the scripts of everybody (``scripts``), half of the step missing in
#: those of the one that dies (``halved``), or something else in it.
NO_SWEEP = ["partition/sweep", "redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now_ms, 'LIMIT', 0, limit)", "{}"]
NO_CLAMP = ["partition/sweep", "tonumber(top[#top]) > now_ms + tonumber(ARGV[5])", "false"]
ONLY_RUNNING = ["partition/sweep", "(s.status == 'R' or s.status == 'C') then", "s.status == 'R' then"]
ENDLESS_ENTRY = ["partition/heartbeat", "text(now_ms + tonumber(ARGV[5]))", "text(now_ms + 1e6)"]
ENDLESS_LEASE = ["partition/heartbeat", "text(now_ms + tonumber(ARGV[7]))", "text(now_ms + 1e6)"]
ENDLESS_TERM = [
    ["store/lock_acquire", "'ttl', ARGV[2],\n  'deadline', text(now_ms + tonumber(ARGV[2])),",
     "'ttl', '1000000', 'deadline', text(now_ms + 1e6),"],
    ["store/lock_renew", "text(now_ms + tonumber(ARGV[2])), 'ttl', ARGV[2]", "text(now_ms + 1e6), 'ttl', '1000000'"],
]  # fmt: skip
KEEPS_TERM = ["store/lock_release", "redis.call('HSET', KEYS[1], 'deadline', '0', 'token', '0')", ""]
LOSES_CHECKPOINT = ["partition/checkpoint", "redis.call('HSET', KEYS[3], ARGV[2], write_state(s))", ""]
STAYS_RUNNING = [
    ["partition/work", "  redis.call('HDEL', KEYS[%d], unpack(del_state))\n" % key, ""] for key in (9, 10)
] + [["partition/work", "  redis.call('ZREM', KEYS[6], unpack(unleased))\n", ""]]
OUT_OF_THE_QUEUE = [
    [path, "if #to_pending > 0 then redis.call('ZADD', KEYS[%d], unpack(to_pending)) end" % key, ""]
    for path, key in (("partition/work", 3), ("partition/sweep", 5))
]  # fmt: skip
NOT_DELAYED = ["partition/work", "if #to_delayed > 0 then redis.call('ZADD', KEYS[5], unpack(to_delayed)) end", ""]
NOT_PLANNED = ["partition/plan", "redis.call('ZADD', KEYS[list == 2 and 3 or 4], unpack(scored))", ""]
NO_MARK = ["partition/plan", "if ARGV[job] ~= '' then write_step", "if false then write_step"]
NOT_QUEUED_ANEW = ["partition/command", "redis.call('ZADD', KEYS[6], unpack(to_pending))", ""]
NO_CHUNK = ["partition/archive_swap", "  redis.call('HSET', KEYS[4], ARGV[2], ARGV[5])\n", ""]

Control = Tuple[str, str, Dict[str, Any]]
UNFENCED = "effects applied twice behind the fence"
QUICK_CONTROLS: List[Control] = [
    ("report.sent", "completions accepted twice", {"halved": STAYS_RUNNING, "nth": 2}),
    ("work.effect", UNFENCED, {"fenced": False}),
]
CONTROLS: List[Control] = [
    ("register.sent", "the dead worker is still registered", {"scripts": [ENDLESS_ENTRY]}),
    ("claim.sent", "was not taken over", {"scripts": [NO_SWEEP]}),
    ("start.sent", "it is claimed, but the indexes say", {"scripts": [ONLY_RUNNING]}),
    ("renew.sent", "was not taken over", {"scripts": [NO_CLAMP, ENDLESS_LEASE]}),
    ("checkpoint.sent", "effects repeated", {"halved": [LOSES_CHECKPOINT]}),
    ("work.returned", UNFENCED, {"fenced": False, "strategy": SIMPLE}),
    ("release.sent", "it is pending, but the indexes say", {"halved": OUT_OF_THE_QUEUE[:1]}),
    ("sweep.sent", "it is pending, but the indexes say", {"halved": OUT_OF_THE_QUEUE[1:]}),
    ("plan.sent", "overlap", {"halved": [NOT_PLANNED]}),
    ("elect.sent", "was not taken over", {"scripts": ENDLESS_TERM}),
    ("extend.sent", "was not taken over", {"scripts": ENDLESS_TERM[1:]}),
    ("resign.sent", "left {'leads': True}", {"scripts": [KEEPS_TERM], "looks": True}),
    ("command.sent", "the command is otherwise", {"halved": [NO_MARK], "nth": 1}),
    ("order.sent", "the priority of 3 was raised", {"halved": [NOT_QUEUED_ANEW], "nth": 1}),
    ("fail.sent", "it is pending, but the indexes say", {"halved": [NOT_DELAYED]}),
    ("archive.sent", "held by no partition", {"halved": [NO_CHUNK]}),
    ("archive.sent", "its bytes are missing", {"broken": ["chunk last"], "strategy": SIMPLE}),
]


def pairs(controls: Sequence[Control]) -> List[Any]:
    """Return what to run: not stopped by what is left at the death, so that what comes of it is seen."""
    return [(CRASH_POINTS[name], dict({"strategy": HASH, "looks": False}, **config)) for name, _, config in controls]


def must_be_seen(ran: Sequence[Case], controls: Sequence[Control]) -> None:
    for case, (_, what, _) in zip(ran, controls):
        with must_fail(what):
            case.result()


def test_a_worker_killed_with_the_answer_unread_leaves_what_the_server_did(cases: Cases) -> None:
    names = ("report.sent", "checkpoint.sent", "plan.sent", "elect.sent")
    wanted = [(CRASH_POINTS[name], {"strategy": HASH}) for name in names]
    wanted.append((CRASH_POINTS["archive.written"], {"strategy": SIMPLE}))
    ran = cases.run_all(wanted + pairs(QUICK_CONTROLS))
    judge(ran[: len(wanted)])
    must_be_seen(ran[len(wanted) :], QUICK_CONTROLS)


def test_every_step_has_its_three_points_and_no_name_is_given_twice() -> None:
    assert len(CRASH_POINTS) == len(WORKER_POINTS) + len(LEADER_POINTS)
    for step in SCRIPTS:
        assert {"%s.%s" % (step, moment) for moment in ("before", "sent", "after")} <= set(CRASH_POINTS), step
    assert {point.step for point in CRASH_POINTS.values()} == {*SCRIPTS, "work", "question"}
    tried = {name for name, _, _ in QUICK_CONTROLS + CONTROLS}
    assert {name.partition(".")[0] for name in tried} == {*SCRIPTS, "work"}, "a step without a control"


#: Scripts that write and are no step of the protocol between workers, or one that its points reach by another script.
NO_STEPS = {
    "acquire": "a claim by name, through the public face", "update": "the public face", "delete": "a command's step",
    "quarantine": "sets an unreadable record aside; comes again with the next claim", "mark": "a leader's hint",
    "plan_state": "clears a hint, which comes again", "submit": "an operator's request, sent again under its id",
    "command_trim": "shortens what ended", "forget_commands": "removes what ended", "forget": "an instance's end",
    "log_append": "the event log", "workers": "drops entries an hour old",
}  # fmt: skip
WRITES = re.compile(r"redis\.p?call\('(H(?:SET|DEL|INCRBY)|Z(?:ADD|REM)|S(?:ADD|REM)|DEL|XADD)'")


def test_every_script_that_writes_is_a_step_with_points_or_said_to_be_none() -> None:
    library = pathlib.Path(elk_coordinator.__file__).parent
    scripts = [path for home in ("partition", "store") for path in (library / home / "lua").glob("*.lua")]
    included = {"stamp", "state", "progress", "intervals"}
    writing = {path.stem for path in scripts if WRITES.search(path.read_text())} - included
    assert writing == {name for names in SCRIPTS.values() for name in names} | set(NO_STEPS)


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.parametrize("strategy", [HASH, SIMPLE])
@pytest.mark.parametrize("points", [WORKER_POINTS, LEADER_POINTS], ids=["worker", "leader"])
def test_a_worker_killed_at_any_point_is_replaced_and_nothing_is_lost_or_done_twice(
    cases: Cases, points: List[Point], strategy: str
) -> None:
    judge(cases.run([point for point in points if point.only in (None, strategy)], strategy))


@pytest.mark.long
@pytest.mark.timeout(180)
def test_with_its_guard_switched_off_a_death_at_each_step_is_seen(cases: Cases) -> None:
    nowhere = Point("work.nowhere", "a point of the table that no process passes", lambda n: {})
    wanted = pairs(CONTROLS) + [(nowhere, {"strategy": HASH, "patience": 5.0})]
    ran = cases.run_all(wanted)
    must_be_seen(ran, [*CONTROLS, ("", "was never reached", {})])
