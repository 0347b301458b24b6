"""The guards of the archive's chunks, of a purge, and of effects in SQL databases."""

from __future__ import annotations

from typing import Tuple

from tests.mutants.guard import Guard


def unit(module: str, *names: str) -> Tuple[str, ...]:
    return tuple("tests/unit/test_%s.py::test_%s" % (module, name) for name in names)


def scenes(*names: str) -> Tuple[str, ...]:
    return tuple("tests/contrib/test_sql_guards.py::TestOnSqlite::test_" + name for name in names)


FENCE = "contrib/sql/fence.py"
PURGE = "store/purge.py"
CODEC = "partition/archive_codec.py"

GUARDS = [
    # -- archive and purge
    Guard(
        "archive: checksum",
        CODEC,
        "        if zlib.crc32(body) != crc:\n",
        "        if False:\n",
        "a damaged chunk is an error and never other rows",
        unit("archive_codec", "any_damage_is_an_error_and_never_other_rows"),
    ),
    Guard(
        "archive: magic",
        CODEC,
        "        if magic != _MAGIC:\n",
        "        if False:\n",
        "what is no chunk is not read as one",
        unit("archive_codec", "any_damage_is_an_error_and_never_other_rows"),
    ),
    Guard(
        "archive: no more than announced",
        CODEC,
        "        if len(out) != size:\n",
        "        if False:\n",
        "a column holds what it announces",
        unit("archive_codec", "a_column_of_another_length_than_announced_is_an_error"),
    ),
    Guard(
        "archive: what the index says",
        "partition/archive.py",
        "        if len(rows) != ChunkLine.parse(bucket, line).count or any(i // BUCKET != bucket for i in rows):\n",
        "        if False:\n",
        "a sound chunk in the wrong place is damage",
        (
            "tests/contract/test_archive_contract.py::test_a_sound_chunk_in_the_wrong_place_is_damage",
            "tests/contract/test_archive_contract.py::test_half_a_chunk_is_damage",
        ),
        "redis and not fakeredis and not simple",
    ),
    Guard(
        "purge: live workers",
        PURGE,
        "    _refuse_if_alive(store)\n    if not store.all_keys():\n",
        "    if not store.all_keys():\n",
        "a namespace is not purged while workers live",
        (
            "tests/integration/test_purge.py::test_it_is_refused_while_workers_live",
            "tests/integration/test_purge.py::test_it_is_refused_while_somebody_leads",
        ),
    ),
    Guard(
        "purge: workers that start meanwhile",
        PURGE,
        "            if workers:\n                raise _refusal(store, workers)\n",
        "",
        "a worker that starts meanwhile is left alone",
        ("tests/integration/test_purge.py::test_a_worker_that_starts_meanwhile_is_left_alone",),
    ),
    Guard(
        "purge: nobody is elected",
        PURGE,
        "        for _ in range(_PASSES):\n            names = [name for name in store.all_keys() if name != lock]\n",
        "        for _ in range(_PASSES):\n            names = store.all_keys()\n",
        "nobody is elected while the keys go",
        ("tests/integration/test_purge.py::test_nobody_can_be_elected_while_the_keys_go",),
    ),
    # -- SQL
    Guard(
        "fence: token",
        FENCE,
        "        if token != self._token:\n",
        "        if False:\n",
        "a write of a stale worker is refused by the database",
        scenes("a_worker_that_was_frozen_in_front_of_its_write_is_refused"),
    ),
    Guard(
        "fence: tokens only rise",
        FENCE,
        "DO UPDATE SET token = excluded.token WHERE held.token < excluded.token",
        "DO UPDATE SET token = excluded.token",
        "whoever was given the partition later keeps the fence",
        scenes("a_stale_worker_cannot_take_the_fence_back"),
    ),
    Guard(
        "fence: done_to with the effects",
        FENCE,
        '            "UPDATE %s SET done_to = :done_to, processed',
        '            "UPDATE %s SET done_to = done_to + 0 * :done_to, processed',
        "each effect happens once, also when the worker dies before it reports",
        scenes(
            "a_worker_killed_between_commit_and_checkpoint_has_nothing_done_twice",
            "effects_and_fence_are_rolled_back_together",
        ),
    ),
    Guard(
        "fence: starts behind done_to",
        FENCE,
        "                self.done_to, self.processed = self._locked(session)\n",
        "                self._locked(session)\n",
        "an attempt starts behind what is done",
        scenes("a_worker_killed_between_commit_and_checkpoint_has_nothing_done_twice"),
    ),
    Guard(
        "fence: one thread of an attempt",
        FENCE,
        "        if done_to != self.done_to:\n",
        "        if False:\n",
        "two threads of one attempt do no effect twice",
        scenes("two_threads_of_one_attempt_do_no_effect_twice"),
    ),
    Guard(
        "fence: bounds of a write",
        FENCE,
        "        if not self.done_to < last_id <= self.hi:\n",
        "        if False:\n",
        "a write stays in its range and moves forward",
        scenes("the_fence_moves_inside_the_callers_own_transaction"),
    ),
    Guard(
        "fence: other bounds",
        FENCE,
        "            if hi >= self.lo and (lo, hi) != (self.lo, self.hi):\n",
        "            if False:\n",
        "IDs planned anew with other bounds are refused",
        scenes("a_range_known_under_other_bounds_is_refused_until_it_is_forgotten"),
    ),
    Guard(
        "fence: other bounds at once",
        FENCE,
        "            overlap = overlap or self._overlap(session)\n",
        "            pass\n",
        "of two overlapping ranges that enter at once the later sees the other",
        scenes("of_two_overlapping_ranges_that_enter_at_once_the_later_sees_the_other"),
    ),
    Guard(
        "row guard: token",
        "contrib/sql/rowguard.py",
        'return "(%s IS NULL OR %s <= :elk_token)" % (column, column)',
        'return "(%s IS NULL OR %s <= :elk_token OR 1 = 1)" % (column, column)',
        "a late worker does not overwrite what a newer one wrote",
        scenes("a_late_worker_does_not_overwrite_what_a_newer_one_wrote"),
    ),
    Guard(
        "row guard: token written",
        "contrib/sql/rowguard.py",
        'return "%s = :elk_token" % quote_name(dialect, self._column)',
        'return "%s = 0 * :elk_token" % quote_name(dialect, self._column)',
        "a guarded write leaves its token",
        scenes("a_late_worker_does_not_overwrite_what_a_newer_one_wrote"),
    ),
    Guard(
        "batches: refused by the fence",
        "contrib/sql/processor.py",
        "            ctx.raise_if_cancelled()\n            if ctx.wait(_PATIENCE):\n                ctx.raise_if_cancelled()\n            raise\n",
        "            raise\n",
        "an attempt refused by the fence ends as a lost lease and no failure",
        scenes("a_refused_attempt_whose_heartbeat_learns_the_loss_ends_as_a_lost_lease"),
    ),
]
