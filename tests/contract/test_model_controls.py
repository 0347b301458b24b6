"""Controls of the random lives: one guard after the other is switched off, and each must be noticed.

Each prints how many lives it took. A guard that could go unnoticed would mean that the machine never comes near it.
"""

from __future__ import annotations

import os
from typing import Any, Dict, Tuple

import pytest

from elk_coordinator.partition import commands, hash_commands, simple_commands
from tests.contract.machine.life import live
from tests.contract.machine.namespace import Namespace
from tests.contract.machine.plain_commands import STEP

#: Lives after which an unnoticed guard counts as such.
MOST = 60
SEED = 20261125

#: guard -> script, its text, the text without the guard
SCRIPTS: Dict[str, Tuple[str, str, str]] = {
    "token check of a report": ("partition/work", "and s.token == token\n      and (s.status", "\n      and (s.status"),
    "token check of a checkpoint": ("partition/checkpoint", "s.token ~= ARGV[3] or", ""),
    "token check of a renewal": ("partition/heartbeat", "s.token == ARGV[10 + i * 2] and", ""),
    "deadline check of a renewal": (
        "partition/heartbeat", "and scores[i] and tonumber(scores[i]) > now_ms then", "and scores[i] then",
    ),
    "deadline check of a checkpoint": (
        "partition/checkpoint", "tonumber(deadline) <= math.floor(now / 1000)", "false",
    ),
    "checkpoints only move forward": (
        "partition/checkpoint", "if s.checkpoint ~= '-' and s.checkpoint >= ARGV[4] then return {1} end", "",
    ),
    "term check of a plan": ("partition/plan", "if term ~= ARGV[2] then", "if false then"),
    "version check of a plan": ("partition/plan", "if found ~= ARGV[1] then", "if false then"),
    "term check of a command's step": ("partition/command", "if holder ~= term then", "if false then"),
    "mark check of a command's step": (
        "partition/command", "if redis.call('HGET', state_key, id) ~= expected then", "if false then",
    ),
    "sequence check of a turn": ("partition/work", "if tonumber(seq) > tonumber(ARGV[2]) then return {0} end", ""),
    "answer again to a repeated turn": (
        "partition/work", "if tonumber(seq) == tonumber(ARGV[2]) then", "if false then",
    ),
    "sequence check of a beat": (
        "partition/heartbeat", "if previous and tonumber(previous) > tonumber(ARGV[2]) then return {0} end", "",
    ),
    "floor of the tokens": (
        "partition/work", "return math.max(last + 1, now, floor + 1)", "return math.max(last + 1, now)",
    ),
    "a retry is a fresh start": (
        "partition/command", "s.status, s.attempt, s.deliveries, s.retry = 'P', 0, 0, '0'",
        "s.status, s.retry = 'P', '0'",
    ),
    "a retry leaves the index of the failed": ("partition/command", "unfailed[#unfailed + 1] = id", ""),
    "a priority moves its place in the queue": (
        "partition/update", "if score then redis.call('ZADD', index, text(0 - tonumber(s.priority)), id) end", "",
    ),
    "counter of the archive": ("partition/archive_swap", "redis.call('HINCRBY', KEYS[1], 'archived', ARGV[6])", ""),
    "term check of the archive": (
        "partition/archive_swap", "if term ~= ARGV[1] then return {-2, term or '0'} end", "",
    ),
    "pruned ranges stay covered": ("partition/archive_swap", "redis.call('ZADD', KEYS[6], unpack(scored))", ""),
    "a pause stops claims": ("partition/work", "if want > 0 and not meta[2] then", "if want > 0 then"),
    "a cancel outranks another attempt": (
        "partition/work", "if who and s.status == 'P' then s.status, s.err = 'F', 'cancelled by ' .. who end", "",
    ),
    "only what is not held is deleted": (
        "partition/delete", "if leases[i] then held[#held + 1] = id end", "",
    ),
    "version check of a delete": (
        "partition/delete", "if (meta[2] or '0') ~= ARGV[1] then return {0, meta[2] or '0'} end", "",
    ),
    "chunk check of the archive": ("partition/archive_swap", "if line ~= ARGV[3] then", "if false then"),
    "record check of the archive": (
        "partition/archive_swap", "if version ~= ARGV[at + i * 2 - 1] then return {0} end", "",
    ),
    "leases end at most their own length from now": (
        "partition/sweep", "if #clamped > 0 then redis.call('ZADD', KEYS[2], unpack(clamped)) end", "",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands take several steps."""
    for module in (commands, hash_commands, simple_commands):
        monkeypatch.setattr(module, "MAX_BATCH", STEP)


def noticed(backend: Any, guard: str) -> None:
    """Live until the missing *guard* is noticed; print after how many lives."""
    try:
        live(Namespace, backend, int(os.environ.get("ELK_SEED") or SEED), MOST, steps=60, shrink=False)
    except (Exception, pytest.fail.Exception) as exc:
        lives = exc.noticed  # type: ignore[union-attr]
        print("without %s: noticed in life %d (%s: %.60s)" % (guard, lives, type(exc).__name__, str(exc).strip()))
    else:
        pytest.fail("nobody noticed that the guard was switched off in %d lives: %s" % (MOST, guard))


@pytest.mark.parametrize("guard", SCRIPTS)
def test_a_missing_guard_of_a_script_is_noticed(real_backend: Any, guard: str) -> None:
    real_backend.mutate(*SCRIPTS[guard])
    noticed(real_backend, guard)
