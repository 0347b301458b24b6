"""A worker killed at each named instant of the protocol: what was done stays done, the rest is done by another, once."""

from __future__ import annotations

import os
import pathlib
from typing import Any, Callable, Iterator, List

import pytest

from tests.faults.crash_case import Case, Cases, summary
from tests.faults.crash_table import CRASH_POINTS, LEADER_POINTS, WORKER_POINTS, Point
from tests.faults.fleet import must_fail

SEED = int(os.environ.get("ELK_SEED") or 20260101)
QUICK = ("report.sent", "checkpoint.sent", "plan.sent", "elect.sent")

Run = Callable[..., List[Case]]


@pytest.fixture
def cases(tmp_path: pathlib.Path, redis_url: str, namespace: str) -> Iterator[Cases]:
    """Return what runs cases; all that they started ends with the test."""
    made = Cases(tmp_path, redis_url, namespace, SEED)
    yield made
    made.dispose()


def judge(ran: List[Case]) -> None:
    """Fail with all that failed, or print the numbers."""
    wrong = [case for case in ran if case.error is not None]
    print("\n\n".join("%s: %s" % (case.label, case.error) for case in wrong))
    assert [case.label for case in wrong] == []
    print(summary(ran, SEED))


def test_a_worker_killed_with_the_answer_unread_leaves_what_the_server_did(cases: Cases) -> None:
    ran = cases.run_all(
        [(CRASH_POINTS[name], {"strategy": "hash"}) for name in QUICK]
        + [(CRASH_POINTS["archive.written"], {"strategy": "simple"})]
    )
    judge(ran)


@pytest.mark.long
@pytest.mark.timeout(150)
@pytest.mark.parametrize("strategy", ["hash", "simple"])
@pytest.mark.parametrize("points", [WORKER_POINTS, LEADER_POINTS], ids=["worker", "leader"])
def test_a_worker_killed_at_any_point_is_replaced_and_nothing_is_lost_or_done_twice(
    cases: Cases, points: List[Point], strategy: str
) -> None:
    judge(cases.run([point for point in points if point.only in (None, strategy)], strategy))


#: What holds a step together, switched off: in the scripts of everybody, or in the one that dies.
NO_SWEEP = ["partition/sweep", "redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now_ms, 'LIMIT', 0, limit)", "{}"]
NO_CLAMP = ["partition/sweep", "tonumber(top[#top]) > now_ms + tonumber(ARGV[5])", "false"]
CONTROLS: List[Any] = [
    # point, what must be seen, configuration
    ("register.sent", "the dead worker is still registered",
     {"scripts": [["partition/heartbeat", "text(now_ms + tonumber(ARGV[5]))", "text(now_ms + 1e6)"]]}),
    ("claim.sent", "was not taken over", {"scripts": [NO_SWEEP]}),
    ("start.sent", "claimed", {"scripts": [["partition/sweep", "redis.call('SREM', KEYS[4], unpack(expired))", ""]]}),
    ("renew.sent", "was not taken over",
     {"scripts": [NO_CLAMP, ["partition/heartbeat", "text(now_ms + tonumber(ARGV[7]))", "text(now_ms + 1e6)"]]}),
    ("checkpoint.sent", "effects repeated",
     {"scripts": [["partition/checkpoint", "redis.call('HSET', KEYS[3], ARGV[2], write_state(s))", ""]]}),
    ("report.sent", "?",
     {"scripts": [["partition/work", "  redis.call('HDEL', KEYS[9], unpack(del_state))\n"
                   "  redis.call('HDEL', KEYS[10], unpack(del_state))\n", ""],
                  ["partition/work", "  redis.call('ZREM', KEYS[6], unpack(unleased))\n", ""]]}),
    ("work.returned", "effects applied twice behind the fence", {"fenced": False}),
    ("work.effect", "effects applied twice behind the fence", {"fenced": False}),
    ("release.sent", "?", {"scripts": [["partition/work", "  redis.call('ZREM', KEYS[6], unpack(unleased))\n", ""]]}),
    ("plan.sent", "?", {"scripts": [["partition/plan", "redis.call('ZADD', key, unpack(scored))", ""]]}),
    ("question.after", "?", {"scripts": [["partition/plan", "redis.call('ZADD', key, unpack(scored))", ""]]}),
    ("elect.sent", "was not taken over",
     {"scripts": [["store/lock_acquire", "text(now_ms + tonumber(ARGV[2])))\nredis.call('HSET', KEYS[1]",
                   "text(now_ms + 1e6), 'ttl', '1000000')\nredis.call('HSET', KEYS[1]"]]}),
    ("extend.sent", "was not taken over",
     {"scripts": [["store/lock_renew", "text(now_ms + tonumber(ARGV[2])), 'ttl', ARGV[2]",
                   "text(now_ms + 1e6), 'ttl', '1000000'"]]}),
    ("resign.sent", "a lease that was given up was waited for",
     {"scripts": [["store/lock_release", "redis.call('HSET', KEYS[1], 'deadline', '0', 'token', '0')", ""]]}),
    ("sweep.sent", "?", {"scripts": [["partition/sweep", "  redis.call('ZREM', KEYS[2], unpack(expired))\n", ""]]}),
    ("command.sent", "?",
     {"scripts": [["partition/plan", "if ARGV[job] ~= '' then write_step", "if false then write_step"]]}),
    ("archive.sent", "?",
     {"scripts": [["partition/archive_swap", "  redis.call('HSET', KEYS[4], ARGV[2], ARGV[5])\n", ""]]}),
    ("archive.sent", "?", {"strategy": "simple", "broken": ["chunk last"]}),
]  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(120)
def test_with_a_guard_switched_off_the_death_at_its_step_is_seen(cases: Cases) -> None:
    wanted = [
        (CRASH_POINTS[name], dict({"strategy": "hash", "looks": False}, **config)) for name, _, config in CONTROLS
    ]
    ran = cases.run_all(wanted)
    for case, (_, what, _) in zip(ran, CONTROLS):
        with must_fail(what):
            case.result()
