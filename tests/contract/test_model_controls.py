"""Controls of the random lives: one guard after the other is switched off, and each must be noticed.

Each prints how many lives it took. A guard that could go unnoticed would mean that the machine never comes near it.
"""

from __future__ import annotations

import os
import traceback
from typing import Any, Dict, Tuple

import pytest

from elk_coordinator.errors import ElkError
from elk_coordinator.model import PartitionStatus
from elk_coordinator.partition import commands, hash_commands, simple_commands
from elk_coordinator.partition.document import Document
from elk_coordinator.partition.simple_strategy import SimplePartitionStrategy
from tests.contract.machine.life import live
from tests.contract.machine.namespace import Deletions, Desk, Forgetful, Leaders, Operators, SetBack, Workers, about
from tests.contract.machine.plain_commands import STEP

#: Lives after which an unnoticed guard counts as such: three times as many as any was seen to need.
MOST = 60
SEED = 20261125
#: Lives of each machine that find nothing while all guards are on.
SOUND = 10
LONG = pytest.mark.long
#: Those that make test has time for.
QUICK = ("term check of a plan", "a retry leaves the index of the failed", "counter of the archive")

BEATS = about(Workers, "fetch", "beat", "time_passes", "a_request_comes_again")
LEASED = about(SetBack, "fetch", "the_clock_is_set_back", "sweep")
QUEUE = about(Operators, "update", "fetch", "finish")
WISHES = about(Operators, "want_back", "fetch", "finish")
COMMANDS = about(Operators, "submit", "carry_commands_on", "fetch", "finish")
RETRIES = about(Desk, "failed_and_retried")
PAUSES = about(Desk, "paused_for_a_while", "fetch", "finish")
POINTS = about(Workers, "fetch", "checkpoint", "time_passes")
TAKEN = about(Workers, "fetch", "checkpoint", "acquire")
PRUNED = about(Leaders, "work", "tidy")
DELETED = about(Deletions, "deleted_meanwhile", "create")
CHUNKS = about(Deletions, "archived_meanwhile", "create")
LOST = about(Forgetful, "everything_is_forgotten", "fetch", "create", "beat")
ABOUT = (BEATS, LEASED, QUEUE, WISHES, COMMANDS,
         RETRIES, PAUSES, POINTS, TAKEN, PRUNED, DELETED, CHUNKS, LOST)  # fmt: skip
VERSION = "if (meta[2] or '0') ~= ARGV[1] then return {0, meta[2] or '0'} end"
RECORD = "if version ~= ARGV[at + i * 2 - 1] then return {0} end"
FLOOR = ("local stamp = next_stamp(last, now, floor)", "local stamp = next_stamp(last, now, 0)")

#: guard -> the machine that shall notice, then pairs of a text and the text without the guard, per script
SCRIPTS: Dict[str, Tuple[Any, ...]] = {
    "token check of a report": (
        Workers, ("partition/work", "and s.token == token\n      and (s.status", "\n      and (s.status")),
    "token check of a checkpoint": (
        TAKEN, ("partition/checkpoint", "s.token ~= ARGV[3] or", "")),
    "token check of a renewal": (
        Workers, ("partition/heartbeat", "s.token == ARGV[10 + i * 2] and", "")),
    "deadline check of a renewal": (
        BEATS, ("partition/heartbeat", "and scores[i] and tonumber(scores[i]) > now_ms then", "and scores[i] then")),
    "deadline check of a checkpoint": (
        POINTS, ("partition/checkpoint", "tonumber(deadline) <= math.floor(now / 1000)", "false")),
    "checkpoints only move forward": (
        TAKEN,
        ("partition/checkpoint", "if s.checkpoint ~= '-' and s.checkpoint >= ARGV[4] then return {1} end", "")),
    "term check of a plan": (
        Leaders, ("partition/plan", "if term ~= ARGV[2] then", "if false then")),
    "version check of a plan": (
        Leaders, ("partition/plan", "if found ~= ARGV[1] then", "if false then")),
    "term check of a command's step": (
        COMMANDS, ("partition/command", "if holder ~= term then", "if false then")),
    "mark check of a command's step": (
        COMMANDS,
        ("partition/command", "if redis.call('HGET', state_key, id) ~= expected then", "if false then")),
    "sequence check of a turn": (
        Workers, ("partition/work", "if tonumber(seq) > tonumber(ARGV[2]) then return {0} end", "")),
    "answer again to a repeated turn": (
        Workers, ("partition/work", "if tonumber(seq) == tonumber(ARGV[2]) then", "if false then")),
    "sequence check of a beat": (
        BEATS,
        ("partition/heartbeat", "if previous and tonumber(previous) > tonumber(ARGV[2]) then return {0} end", "")),
    "a retry is a fresh start": (
        RETRIES,
        ("partition/command", "s.status, s.attempt, s.deliveries, s.retry = 'P', 0, 0, '0'",
         "s.status, s.retry = 'P', '0'")),
    "a retry leaves the index of the failed": (
        RETRIES, ("partition/command", "if #unfailed > 0 then", "if false then")),
    "a priority moves its place in the queue": (
        QUEUE,
        ("partition/update", "if score then redis.call('ZADD', index, text(0 - tonumber(s.priority)), id) end", "")),
    "counter of the archive": (
        Leaders, ("partition/archive_swap", "redis.call('HINCRBY', KEYS[1], 'archived', ARGV[6])", "")),
    "term check of the archive": (
        Leaders, ("partition/archive_swap", "if term ~= ARGV[1] then return {-2, term or '0'} end", "")),
    "pruned ranges stay covered": (
        PRUNED, ("partition/archive_swap", "redis.call('ZADD', KEYS[6], unpack(scored))", "")),
    "a pause stops claims": (
        PAUSES, ("partition/work", "if want > 0 and not meta[2] then", "if want > 0 then")),
    "a cancel outranks another attempt": (
        WISHES,
        ("partition/work", "if who and s.status == 'P' then s.status, s.err = 'F', 'cancelled by ' .. who end", "")),
    "only what is not held is deleted": (
        DELETED, ("partition/delete", "if leases[i] then held[#held + 1] = id end", "")),
    "version check of a delete": (
        DELETED, ("partition/delete", VERSION, "")),
    "version check of a delete, and that of its intervals behind it": (
        DELETED, ("partition/delete", VERSION, ""), ("partition/delete", "if not scores[i] then return {-3} end", "")),
    "chunk check of the archive": (
        CHUNKS, ("partition/archive_swap", "if line ~= ARGV[3] then", "if false then")),
    "record check of the archive": (
        CHUNKS, ("partition/archive_swap", RECORD, "")),
    "chunk and record check of the archive": (
        CHUNKS, ("partition/archive_swap", "if line ~= ARGV[3] then", "if false then"),
        ("partition/archive_swap", RECORD, "")),
    "leases end at most their own length from now": (
        LEASED,
        ("partition/sweep", "if #clamped > 0 then redis.call('ZADD', KEYS[2], unpack(clamped)) end", "")),
    "floor of a turn": (LOST, ("partition/work", *FLOOR)),
    "floor of a plan": (LOST, ("partition/plan", *FLOOR)),
    "floor of a beat": (LOST, ("partition/heartbeat", *FLOOR)),
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands take several steps."""
    for module in (commands, hash_commands, simple_commands):
        monkeypatch.setattr(module, "MAX_BATCH", STEP)


#: The same for SIMPLE, whose moves are Python: guard -> the machine, a class, its method, and that without the guard.
MOVES: Dict[str, Tuple[Any, Any, str, Any]] = {
    "term check of SIMPLE": (Leaders, SimplePartitionStrategy, "leads", lambda self, term: True),
    "token check of SIMPLE's checkpoint": (
        TAKEN, Document, "checkpoint",
        lambda self, number, token, *rest: CHECKPOINT(self, number, _token(self, number), *rest),
    ),
    "token check of SIMPLE's renewal": (
        Workers, Document, "renew", lambda self, number, token, lease: RENEW(self, number, _token(self, number), lease),
    ),
    "a retry of SIMPLE is a fresh start": (
        RETRIES, simple_commands, "_retry", lambda record, job, stamp: _half_a_retry(record, job, stamp),
    ),
}  # fmt: skip
CHECKPOINT, RENEW = Document.checkpoint, Document.renew


def _token(self: Document, number: int) -> int:
    return self.records[number].p.fencing_token if number in self.records else 0


def _half_a_retry(record: Any, job: Any, stamp: int) -> bool:
    if record.p.status is not PartitionStatus.FAILED or record.p.version >= job.submitted:
        return False
    record.change(stamp, status=PartitionStatus.PENDING, retry_at=None)
    return True


@pytest.mark.timeout(300)
@pytest.mark.parametrize("guard", [g if g in QUICK else pytest.param(g, marks=LONG) for g in SCRIPTS])
def test_a_missing_guard_of_a_script_is_noticed(real_backend: Any, guard: str) -> None:
    machine, *mutations = SCRIPTS[guard]
    for mutation in mutations:
        real_backend.mutate(*mutation)
    noticed(machine, real_backend, guard)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("backend", ["hash-redis"], indirect=True)
def test_the_lives_about_one_thing_find_nothing_when_nothing_is_missing(backend: Any) -> None:
    for machine in ABOUT:
        live(machine, backend, int(os.environ.get("ELK_SEED") or SEED), SOUND, steps=50, shrink=False)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("backend", ["simple-memory"], indirect=True)
@pytest.mark.parametrize("guard", MOVES)
def test_a_missing_guard_of_simple_is_noticed(backend: Any, guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, owner, name, without = MOVES[guard]
    monkeypatch.setattr(owner, name, without)
    noticed(machine, backend, guard)


def noticed(machine: Any, backend: Any, guard: str) -> None:
    """Live until the missing *guard* is noticed; print after how many lives."""
    seed = int(os.environ.get("ELK_SEED") or SEED)
    try:
        live(machine, backend, seed, MOST, steps=50, shrink=False)
    except (AssertionError, ElkError, pytest.fail.Exception) as exc:
        text = str(exc).strip().splitlines()[:1] or [""]
        if "took longer than" in text[0]:
            raise
        where = traceback.extract_tb(exc.__traceback__)[-1].name
        print("without %s: noticed in life %d (%s: %.70s, in %s)"
              % (guard, exc.noticed, type(exc).__name__, text[0], where))  # type: ignore[union-attr]  # fmt: skip
    else:
        pytest.fail("ELK_SEED=%d: in %d lives nobody noticed that this guard was off: %s" % (seed, MOST, guard))
