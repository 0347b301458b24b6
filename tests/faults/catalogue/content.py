"""Rows of the fault table: content of the work. Ids begin with W."""

from __future__ import annotations

from typing import List

from tests.faults.catalogue.row import Fault

TITLE = "Content of the work"

_CONTENT = "tests/faults/test_content.py::"
_WORK = "tests/faults/test_process_processors.py::"
_DEAD = "tests/faults/test_process.py::"
_BREAKER = "tests/integration/test_breaker.py::"
_RULES = "tests/unit/test_circuit_breaker.py::"
_SQL = "tests/contrib/test_sql_database.py::"
_DJANGO = "tests/contrib/test_django_work.py::"
_ON_SERVERS = "tests/databases/test_guards.py::TestOnServers::"
_EDGES = "tests/databases/test_edges.py::"

_BAD_ID = _CONTENT + "test_one_bad_id_in_a_million_costs_one_partition_which_rests_just_before_it"
_AWAY = _CONTENT + "test_a_database_that_is_away_opens_the_breakers_burns_few_attempts_and_work_resumes_by_itself"
_STORM = _CONTENT + "test_a_storm_in_which_sixty_percent_fail_holds_the_run_with_its_reason"
_AGAIN = _CONTENT + "test_a_range_that_is_deleted_and_created_anew_runs_again_under_a_new_token"
_CRASHED = _WORK + "test_partitions_that_crash_the_interpreter_rest_as_failed_and_the_rest_completes"
_RAISED = _WORK + "test_whatever_a_processor_raises_or_returns_costs_no_slot_and_no_neighbour"

FAULTS: List[Fault] = [
    Fault(
        id="W1",
        fault="One ID in 10**6 cannot be processed",
        expected="Its partition rests as failed after max_attempts, with its traceback and its checkpoint just before "
        "that ID; nothing in front of it is done again; everything else completes",
        tests=(_BAD_ID,),
        control="Checkpoints that are not kept; attempts without an end",
        controls=(_BAD_ID,),
    ),
    Fault(
        id="W2",
        fault="Everything fails: the user's database is down",
        expected="Breakers open after a few failures; while they are open nothing is claimed and no attempt is burnt, "
        "by failing probes neither; work resumes by itself",
        tests=(
            _AWAY,
            _BREAKER + "test_while_it_is_open_nothing_is_claimed_and_no_attempt_is_burnt",
            _BREAKER + "test_it_resumes_by_itself_and_failing_probes_burn_nothing",
            _BREAKER + "test_retrying_rides_out_an_outage_without_costing_an_attempt",
        ),
        control="No circuit breaker: partitions rest as failed, and attempts begin all the time",
        controls=(_AWAY,),
    ),
    Fault(
        id="W3",
        fault="A storm of failures: 60 % of the partitions fail",
        expected="The breaker opens by the share of failures, with its reason, and bounds the attempts wasted; "
        "all completes when the storm is over",
        tests=(_STORM, _RULES + "test_distinct_failures_open_it_when_they_outnumber_successes"),
        control="The threshold is out of reach: attempts are burnt as long as the storm lasts",
        controls=(_STORM,),
    ),
    Fault(
        id="W4",
        fault="A few partitions always fail while the others are well",
        expected="They do not keep the others waiting: probes prefer what has not failed yet",
        tests=(_BREAKER + "test_partitions_that_always_fail_do_not_keep_all_others_waiting",),
        control="A preference among probes, no guard: without it the run takes longer and ends all the same",
    ),
    Fault(
        id="W5",
        fault="A partition kills every worker that takes it",
        expected="It rests as failed after max_deliveries; from the second on it is claimed singly, so its neighbours "
        "complete",
        tests=(_CRASHED, _DEAD + "test_a_poison_partition_rests_as_failed_and_its_neighbours_complete"),
        control="Deliveries without an end: workers go on dying",
        controls=(_CRASHED,),
    ),
    Fault(
        id="W6",
        fault="The connection to the user's database is dropped between partitions, or inside a batch",
        expected="It is replaced before it is used again; a batch is done again whole; a commit whose answer was lost "
        "is settled by the fence",
        tests=(
            _DJANGO + "test_a_connection_that_broke_is_replaced_before_the_next_partition",
            _SQL + "test_a_connection_that_broke_is_never_handed_out_again",
            _SQL + "test_a_connection_that_idled_is_asked_before_it_is_used",
            _SQL + "test_where_one_connection_died_the_idle_ones_are_asked_before_they_are_used",
            "tests/databases/test_database.py::test_a_connection_that_the_server_ended_is_told_and_replaced",
            _ON_SERVERS + "test_a_connection_that_is_dropped_inside_a_batch_has_it_done_again",
            _ON_SERVERS + "test_a_lost_answer_to_a_commit_is_settled_by_the_fence",
        ),
        control="Without the guards of contrib the attempt fails and is retried: rows are safe by their transaction",
    ),
    Fault(
        id="W7",
        fault="A processor returns a wrong type, a count beyond its range, or None",
        expected="The partition completes, what is no count is recorded as none and warned of, and no slot is lost",
        tests=(_RAISED, "tests/unit/test_runner.py::test_a_nonsense_return_value_completes_with_a_warning"),
        control="Whatever is returned is counted",
        controls=(_RAISED,),
    ),
    Fault(
        id="W8",
        fault="Rows are committed late, with IDs below what is planned already",
        expected="The planner of contrib stays behind the oldest open transaction: no row is missed",
        tests=(
            _EDGES + "test_of_200_writers_who_commit_out_of_order_no_row_is_missed",
            "tests/contrib/test_sql_planners.py::test_a_maximum_waits_for_who_was_open_then_and_not_for_who_came_later",
        ),
        control="A settle time instead of a look at transactions: what commits after it is missed",
        controls=(_EDGES + "test_a_row_that_commits_after_the_settle_time_is_missed",),
    ),
    Fault(
        id="W9",
        fault="An operator has a range done again by hand: deletes its partition and creates it anew",
        expected="It runs again under a larger token; guarded effects happen once; a range that meets a planned one, "
        "whole or in part, is refused",
        tests=(
            _AGAIN,
            "tests/unit/test_gaps.py::test_a_deleted_completed_range_comes_back_under_a_new_id",
            "tests/integration/test_gaps.py::"
            "test_late_rows_and_deleted_partitions_are_processed_while_new_data_keeps_coming",
        ),
        control="Effects without the fence happen twice",
        controls=(_AGAIN,),
    ),
]
