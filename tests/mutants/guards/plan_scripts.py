"""The guards of the scripts that change the plan, the archive and operators' commands, and of the store's own."""

from __future__ import annotations

from typing import Tuple

from tests.mutants.guard import SCRIPTS, Guard


def plan(*names: str) -> Tuple[str, ...]:
    return tuple("tests/contract/test_strategy_plan.py::test_" + name for name in names)


def commands(*names: str) -> Tuple[str, ...]:
    return tuple("tests/contract/test_commands_contract.py::test_" + name for name in names)


def archive(*names: str) -> Tuple[str, ...]:
    return tuple("tests/contract/test_archive_contract.py::test_" + name for name in names)


def store(*names: str) -> Tuple[str, ...]:
    return tuple("tests/contract/test_store_contract.py::test_" + name for name in names)


PLAN = "partition/lua/plan.lua"
DELETE = "partition/lua/delete.lua"
SWAP = "partition/lua/archive_swap.lua"
COMMAND = "partition/lua/command.lua"
PROGRESS = "partition/lua/progress.lua"
UPDATE = "partition/lua/update.lua"
STAMP = "store/lua/stamp.lua"

GUARDS = [
    Guard(
        "plan: term", PLAN,
        "  if term ~= ARGV[2] then return {-2, term or '0'} end\n",
        "",
        "the plan of a leader whose term is over is refused",
        plan("the_plan_of_a_leader_whose_term_is_over_is_refused", "a_leader_that_stepped_down_plans_no_more"), SCRIPTS,
    ),
    Guard(
        "plan: version", PLAN,
        "  return {0, found}\nend\nlocal now",
        "end\nlocal now",
        "a plan made from an older state is refused: no ID is planned twice",
        plan("a_plan_made_from_an_older_state_is_refused", "two_leaders_cannot_plan_the_same_ids_twice"), SCRIPTS,
    ),
    Guard(
        "plan: version moves", PLAN,
        "'planned_version', version, 'max_id'",
        "'planned_version', found, 'max_id'",
        "every change of the plan moves its version",
        plan("versions_of_the_plan_rise_and_never_repeat"), SCRIPTS,
    ),
    Guard(
        "plan: repeated request", PLAN,
        "  if meta[4] == ARGV[5] .. ' ' .. found then return {1, found} end\n",
        "",
        "a plan whose reply was lost gets its answer again",
        plan("a_leader_that_repeats_a_plan_whose_reply_was_lost_gets_its_answer", "the_creator_is_told_of_his_partitions_even_when_the_first_reply_was_lost"), SCRIPTS,
    ),
    Guard(
        "plan: intervals as read", PLAN,
        "      if not scores[i] then return {-3} end\n",
        "",
        "intervals that were changed by hand are found before anything is written",
        plan("intervals_that_were_changed_by_hand_are_refused_and_nothing_is_written"), SCRIPTS,
    ),
    Guard(
        "plan: intervals with partitions", PLAN,
        "      redis.call('ZADD', key, unpack(scored))\n",
        "",
        "planned ranges are remembered in the step that creates their partitions",
        plan("skipped_ranges_are_planned_and_nobody_else_creates_there", "a_plan_starts_empty_and_follows_what_is_planned"), SCRIPTS,
    ),
    Guard(
        "delete: version", DELETE,
        "if (meta[2] or '0') ~= ARGV[1] then return {0, meta[2] or '0'} end",
        "",
        "a deletion made from an older plan is refused",
        plan("a_deletion_made_from_an_older_plan_is_made_anew"), SCRIPTS,
    ),
    Guard(
        "delete: version moves", DELETE,
        "'last', text(stamp), 'planned_version', text(stamp))",
        "'last', text(stamp))",
        "a plan made before a deletion is refused",
        plan("a_plan_made_before_a_deletion_is_refused"), SCRIPTS,
    ),
    Guard(
        "delete: held", DELETE,
        "    if leases[i] then held[#held + 1] = id end\n",
        "",
        "what somebody holds is not deleted",
        plan("what_was_claimed_since_it_was_read_is_not_deleted"), SCRIPTS,
    ),
    Guard(
        "delete: moved to its chunk", DELETE,
        "    if not specs[i] and not done[i] then return {0, ARGV[1]} end\n",
        "",
        "a range does not leave the plan without its partition",
        archive("a_partition_that_moves_to_its_chunk_while_it_is_deleted_is_deleted_there"), SCRIPTS,
    ),
    Guard(
        "delete: chunk as read", DELETE,
        "    if (found[i] or '') ~= ARGV[base + 1] then return {0, ARGV[1]} end\n",
        "",
        "a chunk that was written anew meanwhile is not overwritten by a deletion",
        archive("a_chunk_that_was_written_anew_meanwhile_is_not_overwritten_by_a_deletion"), SCRIPTS,
    ),
    Guard(
        "delete: intervals as read", DELETE,
        "    if not scores[i] then return {-3} end\n",
        "",
        "intervals that were changed by hand are found before anything is deleted",
        plan("intervals_that_were_changed_by_hand_are_refused_and_nothing_is_deleted"), SCRIPTS,
    ),
    Guard(
        "archive: term", SWAP,
        "if term ~= ARGV[1] then return {-2, term or '0'} end",
        "",
        "a leader whose term is over archives nothing",
        archive("a_leader_whose_term_is_over_archives_nothing"), SCRIPTS,
    ),
    Guard(
        "archive: chunk as read", SWAP,
        "  return {0}\nend\nlocal n, at",
        "end\nlocal n, at",
        "a chunk that changed since it was read is not overwritten",
        archive("a_chunk_that_changed_since_it_was_read_is_not_overwritten"), SCRIPTS,
    ),
    Guard(
        "archive: record as read", SWAP,
        "    if version ~= ARGV[at + i * 2 - 1] then return {0} end\n",
        "",
        "a record that changed since it was read is not replaced by its old form",
        archive("a_record_that_changed_since_it_was_read_stays", "a_partition_deleted_since_it_was_read_is_not_archived"), SCRIPTS,
    ),
    Guard(
        "archive: repeated request", SWAP,
        "  if line ~= '' and line == ARGV[4] then return {1} end\n",
        "",
        "a swap whose reply was lost is known to be done",
        archive("a_swap_whose_reply_was_lost_is_known_to_be_done"), SCRIPTS,
    ),
    Guard(
        "archive: counters in the step", SWAP,
        "redis.call('HINCRBY', KEYS[1], 'archived', ARGV[6])",
        "",
        "counters equal a recount through every swap",
        archive("archived_partitions_read_as_before", "thousands_that_end_out_of_order"), SCRIPTS,
    ),
    Guard(
        "archive: age", "partition/lua/archive_due.lua",
        "if version and version <= cutoff then",
        "if version then",
        "only what is old enough is archived",
        archive("only_what_is_old_enough_is_archived_and_later_ones_join_their_chunk"), SCRIPTS,
    ),
    Guard(
        "command: term", PROGRESS,
        "  if holder ~= term then return {-2, holder or '0'} end\n",
        "",
        "a leader whose term is over carries out no command",
        commands("a_new_leader_goes_on_behind_the_last_step"), SCRIPTS,
    ),
    Guard(
        "command: mark", PROGRESS,
        "  if redis.call('HGET', state_key, id) ~= expected then return {-4} end\n",
        "",
        "a step that is sent twice is done once",
        commands("a_step_that_is_sent_twice_is_done_once", "a_step_whose_reply_was_lost_counts_once"), SCRIPTS,
    ),
    Guard(
        "command: only what was there", COMMAND,
        "local there = created and s and tonumber(created) < before",
        "local there = created and s",
        "what was created after the submission is not touched",
        commands("what_was_created_after_the_submission_is_not_touched"), SCRIPTS,
    ),
    Guard(
        "command: failed before", COMMAND,
        "if s.status == 'F' and tonumber(s.version) < before then",
        "if s.status == 'F' then",
        "a retry of all leaves what failed after the submission",
        commands("retry_of_all_leaves_what_failed_after_the_submission"), SCRIPTS,
    ),
    Guard(
        "command: release of the claim", COMMAND,
        "elseif tonumber(s.token) < before then",
        "elseif true then",
        "a release is for the claim of its submission",
        commands("a_release_is_for_the_claim_of_its_submission"), SCRIPTS,
    ),
    Guard(
        "command: queue bounded", "partition/lua/submit.lua",
        "if waiting >= tonumber(ARGV[4]) then return {2, waiting} end",
        "",
        "the queue of commands is bounded",
        commands("the_queue_is_bounded"), SCRIPTS,
    ),
    Guard(
        "command: same again", "partition/lua/submit.lua",
        "if redis.call('HEXISTS', KEYS[2], ARGV[2]) == 1 then return {1} end",
        "",
        "a command sent again is queued once",
        commands("the_same_command_sent_again_is_queued_once", "a_submission_whose_reply_was_lost_is_queued_once"), SCRIPTS,
    ),
    Guard(
        "command: forgotten by the leader", "partition/lua/forget_commands.lua",
        "if holder ~= ARGV[1] then return {-2, holder or '0'} end",
        "",
        "only the leader of the term forgets results",
        commands("a_new_leader_goes_on_behind_the_last_step"), SCRIPTS,
    ),
    Guard(
        "command: trimmed at its end", "partition/lua/command_trim.lua",
        "if not head or (state ~= 'done' and state ~= 'failed') then return {0} end",
        "if not head then return {0} end",
        "a command keeps its arguments until it has ended",
        commands("a_command_keeps_its_arguments_until_it_has_ended"), SCRIPTS,
    ),
    Guard(
        "mark: term", "partition/lua/mark.lua",
        "if ARGV[1] ~= '' and redis.call('HGET', KEYS[2], 'token') ~= ARGV[1] then return {0} end",
        "",
        "only the leader of the term says that nothing is left",
        plan("idleness_is_what_a_full_round_found_about_the_present_plan"), SCRIPTS,
    ),
    Guard(
        "update: version", UPDATE,
        "if ARGV[3] ~= '' and ARGV[3] ~= s.version then return {0, s.version} end",
        "",
        "an update by somebody who read an older version is refused",
        plan("an_update_that_was_overtaken_on_its_way_is_refused"), SCRIPTS,
    ),
    Guard(
        "update: priority while pending", UPDATE,
        "if s.priority ~= ARGV[6] and s.status ~= 'P' then return {2, s.version} end",
        "",
        "a priority is changed only while pending",
        plan("a_priority_is_changed_only_while_pending"), SCRIPTS,
    ),
    Guard(
        "update: repeated request", UPDATE,
        "if seq == ARGV[8] then return {1, version} end",
        "",
        "an update whose reply was lost is no conflict with itself",
        plan("an_update_whose_reply_was_lost_is_no_conflict_with_itself"), SCRIPTS,
    ),
    # -- tokens, terms and versions
    Guard(
        "stamp: last", STAMP,
        "return math.max(last + 1, now, floor + 1)",
        "return math.max(now, floor + 1)",
        "tokens rise while the server's clock stands still or goes back",
        store("tokens_rise_while_the_stores_clock_stands_still_or_goes_back"), SCRIPTS,
    ),
    Guard(
        "stamp: clock", STAMP,
        "return math.max(last + 1, now, floor + 1)",
        "return math.max(last + 1, floor + 1)",
        "tokens rise over a loss of data that nobody remembers",
        store("tokens_rise_over_data_loss_because_the_clock_went_on"), SCRIPTS,
    ),
    Guard(
        "stamp: floor", STAMP,
        "return math.max(last + 1, now, floor + 1)",
        "return math.max(last + 1, now)",
        "tokens rise over a loss of data with the clock set back while a process remembers them",
        store("tokens_rise_over_data_loss_with_the_clock_set_back_when_the_caller_remembers"), SCRIPTS,
    ),
    Guard(
        "stamp: floor believed for a day", STAMP,
        "  if floor > math.max(last, now) + DAY_US then\n",
        "  if false then\n",
        "one corrupt caller cannot push the tokens to where they stop rising",
        store("a_floor_more_than_a_day_ahead_is_refused_and_changes_nothing"), SCRIPTS,
    ),
    Guard(
        "stamp: digits", STAMP,
        "return string.format('%.0f', number)",
        "return tostring(number)",
        "tokens keep every digit",
        store("versions_and_tokens_are_drawn_from_one_rising_row"), SCRIPTS,
    ),
    Guard(
        "stamp: loss told", STAMP,
        "  if floor > last then redis.call('HSET', meta, 'lost', text(stamp)) end\n",
        "",
        "a loss of data that a caller proves is told to every worker",
        ("tests/contract/test_strategy_faults.py::test_a_loss_that_a_turn_proves_is_read_by_every_beat",), SCRIPTS,
    ),
    # -- locks and values
    Guard(
        "lock: deadline", "store/lua/lock_acquire.lua",
        "  if tonumber(lock[1]) > now_ms then return {0, 0, 0} end\n",
        "",
        "a held lock is nobody else's",
        store("a_held_lock_is_nobody_elses_not_even_its_owners_again"), SCRIPTS,
    ),
    Guard(
        "lock: clamp", "store/lua/lock_acquire.lua",
        "    redis.call('HSET', KEYS[2], 'deadline', text(now_ms + tonumber(lock[2])))\n",
        "",
        "a server's clock set back makes no lock longer than its length",
        store("a_lock_never_lasts_longer_than_its_length_after_the_clock_went_back"), SCRIPTS,
    ),
    Guard(
        "lock: renewal by token", "store/lua/lock_renew.lua",
        "if lock[1] ~= ARGV[1] or tonumber(lock[2])",
        "if tonumber(lock[2])",
        "a lock is renewed by its token only",
        store("neither_renewal_nor_release_work_under_another_token", "a_late_release_or_renewal_does_not_touch_the_next_holder"), SCRIPTS,
    ),
    Guard(
        "lock: renewal in time", "store/lua/lock_renew.lua",
        "or tonumber(lock[2]) <= now_ms then",
        "then",
        "a lock that ran out is not revived",
        store("a_lock_that_ran_out_is_not_revived_by_a_renewal"), SCRIPTS,
    ),
    Guard(
        "lock: release by token", "store/lua/lock_release.lua",
        "if lock[1] ~= ARGV[1] or lock[2] == '0' then return {0} end",
        "if lock[2] == '0' then return {0} end",
        "a late release does not touch the next holder",
        store("a_late_release_or_renewal_does_not_touch_the_next_holder"), SCRIPTS,
    ),
    Guard(
        "lock: token dies with its release", "store/lua/lock_release.lua",
        "'deadline', '0', 'token', '0')",
        "'deadline', '0')",
        "a leader that stepped down plans no more",
        plan("a_leader_that_stepped_down_plans_no_more"), SCRIPTS,
    ),
    Guard(
        "value: version", "store/lua/value_cas.lua",
        "if version ~= ARGV[1] then return {0, version} end",
        "",
        "only the writer who knows the present version replaces a value",
        store("only_the_writer_who_knows_the_present_version_replaces_a_value"), SCRIPTS,
    ),
    Guard(
        "value: version drawn like a token", "store/lua/value_cas.lua",
        "local stamp = text(next_stamp(last, now_us(), 0))",
        "local stamp = text(last + 1)",
        "a writer frozen over a loss of data is refused",
        store("a_writer_frozen_over_data_loss_is_refused"), SCRIPTS,
    ),
    Guard(
        "value: last moves", "store/lua/value_cas.lua",
        "redis.call('HSET', KEYS[1], 'last', stamp)\nif",
        "if",
        "versions and tokens never repeat",
        store("versions_and_tokens_are_drawn_from_one_rising_row", "versions_do_not_repeat_after_a_delete", "tokens_rise_while_the_stores_clock_stands_still_or_goes_back"), SCRIPTS,
    ),
    Guard(
        "registry: dead are not listed", "store/lua/workers.lua",
        "redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. text(now_ms), '+inf',",
        "redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '+inf',",
        "a worker that is silent for its time is not counted",
        store("a_worker_is_registered_as_long_as_it_beats"), SCRIPTS,
    ),
    Guard(
        "events: batch", "store/lua/log_append.lua",
        "  if found[2][2] == ARGV[2] then return {0} end\n",
        "",
        "a batch of events sent twice is stored once",
        ("tests/contract/test_event_log.py::test_a_batch_sent_twice_is_stored_once",), SCRIPTS,
    ),
]
