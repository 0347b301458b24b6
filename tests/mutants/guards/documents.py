"""The guards of the SIMPLE strategy and of the store in memory: one document, changed by compare-and-set."""

from __future__ import annotations

from typing import Tuple

from tests.mutants.guard import DOCUMENT, Guard


def contract(*names: str) -> Tuple[str, ...]:
    return tuple("tests/contract/test_strategy_contract.py::test_" + name for name in names)


def faults(*names: str) -> Tuple[str, ...]:
    return tuple("tests/contract/test_strategy_faults.py::test_" + name for name in names)


def plan(*names: str) -> Tuple[str, ...]:
    return tuple("tests/contract/test_strategy_plan.py::test_" + name for name in names)


def commands(*names: str) -> Tuple[str, ...]:
    return tuple("tests/contract/test_commands_contract.py::test_" + name for name in names)


def archive(*names: str) -> Tuple[str, ...]:
    return tuple("tests/contract/test_archive_contract.py::test_" + name for name in names)


def interplay(*names: str) -> Tuple[str, ...]:
    return tuple("tests/contract/test_archive_interplay.py::test_" + name for name in names)


def store(*names: str) -> Tuple[str, ...]:
    return tuple("tests/contract/test_store_contract.py::test_" + name for name in names)


DOC = "partition/document.py"
SIMPLE = "partition/simple_strategy.py"
ARCHIVE = "partition/simple_archive.py"
COMMANDS = "partition/simple_commands.py"
MEMORY = "store/memory_store.py"
IN_MEMORY = "memory"

GUARDS = [
    Guard(
        "simple: report by token",
        DOC,
        "        if record is None or record.p.fencing_token != item.token:\n",
        "        if record is None:\n",
        "once a partition was taken, everything the old holder reports is refused",
        contract("everything_is_refused_once_the_partition_was_taken"),
        DOCUMENT,
    ),
    Guard(
        "simple: report once",
        DOC,
        "            return record.p.status if record.outcome == item.outcome.value else None\n",
        "            pass\n",
        "a claim ends once",
        contract("a_repeated_report_gets_its_first_answer_and_changes_nothing"),
        DOCUMENT,
    ),
    Guard(
        "simple: repeated report",
        DOC,
        "            return record.p.status if record.outcome == item.outcome.value else None\n",
        "            return record.p.status\n",
        "a second report of another outcome is refused",
        contract("a_second_report_of_another_outcome_is_refused"),
        DOCUMENT,
    ),
    Guard(
        "simple: start by token",
        DOC,
        "record.p.fencing_token == token and record.p.status is PartitionStatus.CLAIMED:",
        "record.p.status is PartitionStatus.CLAIMED:",
        "only the holder of a claim marks it as started",
        contract("a_start_under_another_token_changes_nothing"),
        DOCUMENT,
    ),
    Guard(
        "simple: renewal by token",
        DOC,
        "        if record is None or record.p.fencing_token != token or record.p.status not in HELD:\n"
        "            return False\n        if record.deadline <= self.now:\n            return False\n        record.deadline",
        "        if record is None or record.p.status not in HELD:\n"
        "            return False\n        if record.deadline <= self.now:\n            return False\n        record.deadline",
        "no renewal without the present token",
        contract(
            "two_workers_of_the_same_name_do_not_renew_each_others_claims",
            "everything_is_refused_once_the_partition_was_taken",
        ),
        DOCUMENT,
    ),
    Guard(
        "simple: renewal in time",
        DOC,
        "        if record.deadline <= self.now:\n            return False\n        record.deadline",
        "        record.deadline",
        "a lease that ran out is never renewed",
        contract("a_lease_that_ran_out_is_not_renewed"),
        DOCUMENT,
    ),
    Guard(
        "simple: checkpoint by token",
        DOC,
        "        if record is None or record.p.fencing_token != token or record.p.status not in HELD:\n"
        "            return False\n        if record.deadline <= self.now:\n            return False\n        if record.p.checkpoint",
        "        if record is None or record.p.status not in HELD:\n"
        "            return False\n        if record.deadline <= self.now:\n            return False\n        if record.p.checkpoint",
        "no checkpoint without the present token",
        contract("no_checkpoint_without_the_present_token"),
        DOCUMENT,
    ),
    Guard(
        "simple: checkpoint in time",
        DOC,
        "        if record.deadline <= self.now:\n            return False\n        if record.p.checkpoint",
        "        if record.p.checkpoint",
        "no checkpoint under an expired lease",
        contract("no_checkpoint_under_an_expired_lease"),
        DOCUMENT,
    ),
    Guard(
        "simple: checkpoint forward",
        DOC,
        "            return None\n        # Progress proves",
        "            pass\n        # Progress proves",
        "a checkpoint never moves back",
        contract("a_checkpoint_never_moves_back_and_an_older_one_is_durable_too"),
        DOCUMENT,
    ),
    Guard(
        "simple: deadline",
        DOC,
        "if r.p.status in HELD and r.deadline <= self.now]",
        "if r.p.status in HELD]",
        "only the deadline takes a partition from its holder",
        contract("a_sweep_takes_back_what_ran_out_and_nothing_else"),
        DOCUMENT,
    ),
    Guard(
        "simple: clamp",
        DOC,
        "            if record.deadline > self.now + record.lease:\n",
        "            if False:\n",
        "a clock set back makes no lease longer than its length",
        contract("a_lease_never_lasts_longer_than_its_length_after_the_clock_went_back"),
        DOCUMENT,
    ),
    Guard(
        "simple: acquire under a lease",
        DOC,
        "            if not preempt or min(record.deadline, self.now + record.lease) > self.now:\n",
        "            if not preempt:\n",
        "a partition under a lease is not acquired",
        contract("a_partition_under_a_lease_is_not_acquired_not_even_by_its_holder"),
        DOCUMENT,
    ),
    Guard(
        "simple: suspects singly",
        DOC,
        "            return ready[:1]\n",
        "            return ready\n",
        "a suspect is claimed alone",
        contract("a_suspect_is_claimed_alone_however_much_was_asked_for"),
        DOCUMENT,
    ),
    Guard(
        "simple: deliveries end",
        DOC,
        "        failed = deliveries >= max_deliveries\n",
        "        failed = False\n",
        "a partition lost too often rests as failed",
        contract("a_partition_lost_too_often_rests_as_failed_and_says_so"),
        DOCUMENT,
    ),
    Guard(
        "simple: cancel outranks",
        DOC,
        '        if wish is not None and wish[0] == "C" and not failed:\n',
        "        if False:\n",
        "an operator's cancel outranks another attempt",
        commands("a_cancel_outranks_another_attempt"),
        DOCUMENT,
    ),
    Guard(
        "simple: stamp",
        DOC,
        "        stamp = max(self.last + 1, now_us, floor + 1)\n",
        "        stamp = max(self.last + 1, now_us)\n",
        "tokens rise over a loss of data with the clock set back",
        faults("tokens_rise_over_data_loss_also_with_the_clock_set_back"),
        DOCUMENT,
    ),
    Guard(
        "simple: stamp by last",
        DOC,
        "        stamp = max(self.last + 1, now_us, floor + 1)\n",
        "        stamp = max(now_us, floor + 1)\n",
        "no two grants ever have one token",
        contract("no_two_grants_have_one_token_while_the_clock_stands_still"),
        DOCUMENT,
    ),
    Guard(
        "simple: floor believed for a day",
        DOC,
        "        if floor > max(self.last, now_us) + _DAY_US:\n",
        "        if False:\n",
        "one corrupt caller cannot push the tokens to where they stop rising",
        faults("a_memory_more_than_a_day_ahead_is_refused_and_changes_nothing"),
        DOCUMENT,
    ),
    Guard(
        "simple: damage is no emptiness",
        DOC,
        '            if data is not None and "records" not in raw:\n',
        "            if False:\n",
        "a damaged document is not taken for an empty namespace",
        (
            "tests/contract/test_scenarios.py::test_an_empty_document_is_nothing_and_a_damaged_one_is_an_error_and_no_empty_namespace",
        ),
    ),
    Guard(
        "simple: lost replies",
        SIMPLE,
        '            if sent and document.meta.get("operation") == operation:\n',
        "            if False:\n",
        "a write whose reply was lost is known by its operation id",
        faults("a_lost_reply_counts_nothing_twice")
        + plan(
            "a_leader_that_repeats_a_plan_whose_reply_was_lost_gets_its_answer",
            "an_update_whose_reply_was_lost_is_no_conflict_with_itself",
        ),
        DOCUMENT,
    ),
    Guard(
        "simple: compare-and-set",
        SIMPLE,
        "self.store.compare_and_set(DOCUMENT, document.stored_version, document.dump(operation))",
        "self.store.compare_and_set(DOCUMENT, self.store.get(DOCUMENT).version, document.dump(operation))",
        "of two moves at once none is lost",
        contract(
            "a_partition_has_one_holder_however_many_claim",
            "of_many_sweeps_at_once_each_lost_partition_is_counted_once",
        ),
        DOCUMENT,
    ),
    Guard(
        "simple: late turn",
        SIMPLE,
        '            if previous is not None and previous[0] > request.sequence:\n                raise StateError("a turn',
        '            if False:\n                raise StateError("a turn',
        "a turn that runs after its successor changes nothing",
        faults("a_late_turn_is_refused_and_changes_nothing"),
        DOCUMENT,
    ),
    Guard(
        "simple: repeated turn",
        SIMPLE,
        "            if previous is not None and previous[0] == request.sequence:\n                return self._again",
        "            if False:\n                return self._again",
        "an equal turn gets its first answer again",
        faults("an_equal_turn_gets_its_first_answer_again"),
        DOCUMENT,
    ),
    Guard(
        "simple: late beat",
        SIMPLE,
        '            if previous is not None and previous[0] > request.sequence:\n                raise StateError("a heartbeat',
        '            if False:\n                raise StateError("a heartbeat',
        "a beat that arrives after its successor renews nothing",
        faults("a_late_beat_is_refused_and_an_equal_one_renews_again"),
        DOCUMENT,
    ),
    Guard(
        "simple: strategy",
        SIMPLE,
        "                strategy != self.strategy_type.value or not",
        "                not",
        "a worker is refused on a namespace of another strategy",
        contract("data_of_another_strategy_or_schema_refuses_the_worker"),
        DOCUMENT,
    ),
    Guard(
        "simple: schema",
        SIMPLE,
        "or not document.SCHEMA - 1 <= schema <= document.SCHEMA\n",
        "\n",
        "a worker is refused on data of a newer schema",
        contract("data_of_another_strategy_or_schema_refuses_the_worker"),
        DOCUMENT,
    ),
    Guard(
        "simple: pause",
        SIMPLE,
        '            if wanted > 0 and not document.meta.get("paused"):\n',
        "            if wanted > 0:\n",
        "while the namespace is paused nothing is claimed",
        commands("pause_stops_claims_at_once_and_every_beat_tells_it"),
        DOCUMENT,
    ),
    Guard(
        "simple: term of a plan",
        SIMPLE,
        "            if term is not None and not self.leads(term):\n",
        "            if False:\n",
        "the plan of a leader whose term is over is refused",
        plan("the_plan_of_a_leader_whose_term_is_over_is_refused", "a_leader_that_stepped_down_plans_no_more"),
        DOCUMENT,
    ),
    Guard(
        "simple: later term in the document",
        SIMPLE,
        '            if term is not None and term < meta.get("term", 0):\n',
        "            if False:\n",
        "once a later leader has written, an earlier one is known to be late, whatever it read of the lock",
        plan("once_a_later_leader_has_planned_an_earlier_one_is_refused"),
        DOCUMENT,
    ),
    Guard(
        "simple: version of a plan",
        SIMPLE,
        '            if found != expected_version:\n                raise VersionConflict("the plan of %r" % self.namespace, expected_version, found)\n            active',
        '            if False:\n                raise VersionConflict("the plan of %r" % self.namespace, expected_version, found)\n            active',
        "a plan made from an older state is refused",
        plan("a_plan_made_from_an_older_state_is_refused"),
        DOCUMENT,
    ),
    Guard(
        "simple: version of a deletion",
        SIMPLE,
        '            if found != expected_version:\n                raise VersionConflict("the plan of %r" % self.namespace, expected_version, found)\n            held',
        '            if False:\n                raise VersionConflict("the plan of %r" % self.namespace, expected_version, found)\n            held',
        "a deletion made from an older plan is refused",
        plan("a_deletion_made_from_an_older_plan_is_made_anew"),
        DOCUMENT,
    ),
    Guard(
        "simple: held are not deleted",
        SIMPLE,
        "            if held:\n                return held, False\n",
        "",
        "what somebody holds is not deleted",
        plan("what_was_claimed_since_it_was_read_is_not_deleted"),
        DOCUMENT,
    ),
    Guard(
        "simple: size",
        SIMPLE,
        "            if active + len(partitions) > MAX_ACTIVE:\n",
        "            if False:\n",
        "SIMPLE refuses more partitions than its document bears",
        plan("simple_refuses_more_active_ones_than_its_document_bears"),
        DOCUMENT,
    ),
    Guard(
        "simple: version of an update",
        SIMPLE,
        "            if expected_version is not None and expected_version != record.p.version:\n",
        "            if False:\n",
        "an update by somebody who read an older version is refused",
        plan("an_update_that_was_overtaken_on_its_way_is_refused"),
        DOCUMENT,
    ),
    Guard(
        "simple: round noted by the leader",
        SIMPLE,
        '            if term < document.meta.get("term", 0) or not self.leads(term):\n                return False, False\n            document.meta.update(term',
        "            if False:\n                return False, False\n            document.meta.update(term",
        "only the leader of the term says that nothing is left",
        plan("idleness_is_what_a_full_round_found_about_the_present_plan"),
        DOCUMENT,
    ),
    Guard(
        "simple: marks for the leader only",
        SIMPLE,
        "            clear = term is not None and asked and self.leads(term)\n",
        "            clear = term is not None and asked\n",
        "a call for work is cleared only for the leader of the term",
        plan("only_the_leader_of_the_term_clears_the_marks"),
        DOCUMENT,
    ),
    Guard(
        "simple: chunk before the document",
        ARCHIVE,
        "        self.write_chunks([change])\n\n        def move",
        "        def move",
        "a chunk is written before the document drops what it holds",
        archive("archived_partitions_read_as_before"),
        DOCUMENT,
    ),
    Guard(
        "simple: chunk surely written",
        ARCHIVE,
        "            if not written and self.store.get(_name(change.after)).data != change.blob:\n",
        "            if False:\n",
        "nothing is dropped for a chunk that was not written",
        archive("nothing_is_dropped_for_a_chunk_that_could_not_be_written"),
    ),
    Guard(
        "simple: term of the archiver",
        ARCHIVE,
        '            if term is not None and (term < document.meta.get("term", 0) or not self.leads(term)):\n',
        "            if False:\n",
        "a leader whose term is over archives nothing",
        archive("a_leader_whose_term_is_over_archives_nothing"),
        DOCUMENT,
    ),
    Guard(
        "simple: record as read",
        ARCHIVE,
        "            if any(r is None or r.p.version != row.version for r, row in zip(there, leaving)):\n",
        "            if any(r is None for r in there):\n",
        "a record that changed since it was read stays",
        archive("a_record_that_changed_since_it_was_read_stays"),
        DOCUMENT,
    ),
    Guard(
        "simple: chunk as read",
        ARCHIVE,
        '        if any(document.chunks.get(change.bucket, "") != change.before for change in changes):\n            return False\n',
        "",
        "a chunk that changed since it was read is not overwritten",
        archive("a_chunk_that_changed_since_it_was_read_is_not_overwritten"),
        DOCUMENT,
    ),
    Guard(
        "simple: named chunks stay",
        ARCHIVE,
        "            self.drop_chunks(line for line in lines if line not in named)\n",
        "            self.drop_chunks(lines)\n",
        "a swap that arrived unheard keeps its chunk",
        interplay("a_swap_that_arrived_unheard_keeps_its_chunk"),
        DOCUMENT,
    ),
    Guard(
        "simple: term of a command",
        COMMANDS,
        'if term < document.meta.get("term", 0) or not self._strategy.leads(term):',
        "if False:",
        "a leader whose term is over carries out no command",
        commands("a_new_leader_goes_on_behind_the_last_step"),
        DOCUMENT,
    ),
    Guard(
        "simple: later term of a command",
        COMMANDS,
        'if term < document.meta.get("term", 0) or not self._strategy.leads(term):',
        "if not self._strategy.leads(term):",
        "once a later leader has written, an earlier one carries out no command",
        commands("simple_remembers_the_later_term"),
        "simple",
    ),
    Guard(
        "simple: mark of a command",
        COMMANDS,
        "            if row is None or _job(job.command_id, row).mark != job.mark:\n",
        "            if row is None:\n",
        "a step that is sent twice is done once",
        commands("a_step_that_is_sent_twice_is_done_once"),
        DOCUMENT,
    ),
    Guard(
        "simple: queue bounded",
        COMMANDS,
        "            if len(waiting) >= MAX_QUEUED or size > MAX_QUEUED_BYTES:\n",
        "            if False:\n",
        "the queue of commands is bounded",
        commands("the_queue_is_bounded"),
        DOCUMENT,
    ),
    # -- the store in memory
    Guard(
        "memory: version",
        MEMORY,
        '            if space.values.get(name, (b"", 0))[1] != expected_version:\n',
        "            if False:\n",
        "only the writer who knows the present version replaces a value",
        store("only_the_writer_who_knows_the_present_version_replaces_a_value"),
        IN_MEMORY,
    ),
    Guard(
        "memory: lock",
        MEMORY,
        "            if held is not None and min(held[2], now + held[3]) > now:\n",
        "            if False:\n",
        "a held lock is nobody else's",
        store("a_held_lock_is_nobody_elses_not_even_its_owners_again"),
        IN_MEMORY,
    ),
    Guard(
        "memory: renewal",
        MEMORY,
        "            if held is None or held[1] != token or held[2] <= now:\n",
        "            if held is None or held[1] != token:\n",
        "a lock that ran out is not revived",
        store("a_lock_that_ran_out_is_not_revived_by_a_renewal"),
        IN_MEMORY,
    ),
    Guard(
        "memory: release by token",
        MEMORY,
        "            if held is None or held[1] != token or held[2] <= 0:\n",
        "            if held is None or held[2] <= 0:\n",
        "a late release does not touch the next holder",
        store("a_late_release_or_renewal_does_not_touch_the_next_holder"),
        IN_MEMORY,
    ),
    Guard(
        "memory: stamp",
        MEMORY,
        "        space.last = max(space.last + 1, now, floor + 1)\n",
        "        space.last = max(space.last + 1, now)\n",
        "tokens rise over a loss of data with the clock set back",
        store("tokens_rise_over_data_loss_with_the_clock_set_back_when_the_caller_remembers"),
        IN_MEMORY,
    ),
]
