"""Rows of the fault table: operators and observers. Ids begin with O."""

from __future__ import annotations

from typing import List

from tests.faults.catalogue.row import Fault

TITLE = "Operators and observers"

_OPERATORS = "tests/faults/test_operators.py::"
_OBSERVERS = "tests/faults/test_observers.py::"
_COMMANDS = "tests/contract/test_commands_contract.py::"
_DOORS = "tests/integration/test_admin_doors.py::"
_ADMIN = "tests/integration/test_admin.py::"
_CONFIG = "tests/unit/test_config.py::"
_API = "tests/unit/test_admin_api.py::"
_HTTP = "tests/unit/test_http.py::"
_METRICS = "tests/unit/test_metrics.py::"
_PURGE = "tests/integration/test_purge.py::"
_LOAD = "tests/integration/test_worker_load.py::"

_TWICE = _OPERATORS + "test_commands_of_every_kind_twice_from_two_doors_leave_nothing_standing"
_CUT = _OPERATORS + "test_a_worker_that_is_cut_off_when_all_are_paused_stops_by_itself_and_hears_of_it_later"
_ALL = _OPERATORS + "test_a_retry_of_a_hundred_thousand_goes_in_short_steps_beside_which_others_work"
_FIFTY = _OBSERVERS + "test_fifty_dashboards_cost_a_bounded_number_of_commands_and_little_throughput"
_SCRAPE = _OBSERVERS + "test_a_scrape_while_the_store_is_down_answers_in_time_and_shows_no_ghosts"
_GUARDS = _COMMANDS + "test_the_guards_of_a_step_are_needed"

FAULTS: List[Fault] = [
    Fault(
        id="O1",
        fault="Pause, resume, cancel, release, priority and retry at any moment, each twice at once from two doors",
        expected="Of two equal commands at most one changes anything; no claim is taken by them, no wish is left "
        "standing, and all work is done at the end",
        tests=(
            _TWICE,
            _COMMANDS + "test_cancel_in_every_state",
            _COMMANDS + "test_release_in_every_state",
            _COMMANDS + "test_priority_is_set_of_pending_ones",
            _COMMANDS + "test_retry_of_named_ones_takes_the_failed_and_lists_the_rest",
            _ADMIN + "test_a_running_partition_is_cancelled_released_and_retried",
        ),
        control="A second pause counts as a change; a retry takes what runs; a step is done twice",
        controls=(_TWICE, _GUARDS),
    ),
    Fault(
        id="O2",
        fault="The same command is sent again: its answer was lost, or its step was sent twice",
        expected="It is queued once and every step has its effect once",
        tests=(
            _DOORS + "test_the_same_command_sent_twice_happens_once",
            _COMMANDS + "test_a_submission_whose_reply_was_lost_is_queued_once",
            _COMMANDS + "test_a_step_whose_reply_was_lost_counts_once",
            _COMMANDS + "test_a_step_that_is_sent_twice_is_done_once",
        ),
        control="A step does not compare the mark it was computed from",
        controls=(_GUARDS,),
    ),
    Fault(
        id="O3",
        fault="The leader that carries out a command dies, or its term is over",
        expected="The next leader goes on behind the last step; what a stale one sends changes nothing",
        tests=(
            _ADMIN + "test_a_command_outlives_the_leader_it_was_sent_to",
            _COMMANDS + "test_a_new_leader_goes_on_behind_the_last_step",
            _COMMANDS + "test_a_stale_leader_changes_no_plan",
        ),
        control="A step does not compare the term",
        controls=(_COMMANDS + "test_the_check_of_the_term_is_needed",),
    ),
    Fault(
        id="O4",
        fault="All are paused while a worker cannot reach the store",
        expected="It stops on its own lease, claims nothing from then on, and hears of the pause when it is back; "
        "resumed, all work ends",
        tests=(_CUT, _ADMIN + "test_pause_and_resume_reach_a_worker_with_its_next_beat"),
        control="Neither the worker nor the store's claim heeds the pause",
        controls=(_CUT,),
    ),
    Fault(
        id="O5",
        fault="Bad values of the configuration, in code, in a mapping or in the environment",
        expected="Refused at construction, naming the option, the value and the rule; nothing is clamped",
        tests=(
            _CONFIG + "test_durations_are_positive_finite_numbers",
            _CONFIG + "test_counts_are_whole_numbers_in_their_bounds",
            _CONFIG + "test_worker_ttl_below_twice_the_heartbeat_is_refused",
            _CONFIG + "test_a_lease_under_a_second_is_refused",
            _CONFIG + "test_from_mapping_refuses_unknown_names",
            _CONFIG + "test_from_env_refuses_and_names_the_option",
            _CONFIG + "test_from_env_answers_any_text_with_a_config_or_a_config_error",
        ),
        control="Nothing to switch off: each value is a case of its own beside good ones that are taken",
    ),
    Fault(
        id="O6",
        fault="The task window is resized again and again under load",
        expected="Every worker shows its size; nothing is lost and no more run at a time than it says",
        tests=(
            _LOAD + "test_resizing_again_and_again_under_load_loses_nothing_and_keeps_the_bound",
            _LOAD + "test_a_running_window_grows_and_shrinks_and_everybody_can_see_it",
        ),
        control="The bound is counted by the processor itself, at every start; nothing stands between to switch off",
    ),
    Fault(
        id="O7",
        fault="50 dashboards poll status, partitions and metrics of one worker",
        expected="A question costs a fixed number of commands, a scrape none; too many at once are told to come "
        "again, and work goes on",
        tests=(_FIFTY, _API + "test_while_the_store_hangs_dashboards_leave_room_for_probes"),
        control="A scrape asks the store instead of what the leader knows",
        controls=(_FIFTY,),
    ),
    Fault(
        id="O8",
        fault="Metrics are scraped while the store is away, or the worker leads no more",
        expected="Answered at once; what only a leader knows vanishes when its lease has run out, and comes back",
        tests=(
            _SCRAPE,
            _DOORS + "test_while_the_store_is_away_http_says_503",
            _METRICS + "test_leader_only_series_vanish_on_step_down_and_come_back",
            "tests/integration/test_metrics_move.py::test_a_follower_exports_nothing_that_the_leader_says",
        ),
        control="A worker shows what it saw as a leader for ever",
        controls=(_SCRAPE,),
    ),
    Fault(
        id="O9",
        fault="10**5 failed partitions are retried at once while others work",
        expected="In steps of 500, each a few milliseconds; neighbours on the server and other work go on",
        tests=(_ALL, _COMMANDS + "test_a_hundred_thousand_failed_ones_are_retried_in_steps"),
        control="Steps of 3,500 partitions",
        controls=(_ALL,),
    ),
    Fault(
        id="O10",
        fault="A namespace is purged while workers live, or one starts meanwhile",
        expected="Refused while a worker lives or leads; a worker that starts meanwhile keeps its data; other "
        "namespaces are untouched",
        tests=(
            _PURGE + "test_it_is_refused_while_workers_live",
            _PURGE + "test_it_is_refused_while_somebody_leads",
            _PURGE + "test_a_worker_that_starts_meanwhile_is_left_alone",
            _PURGE + "test_nobody_can_be_elected_while_the_keys_go",
            _PURGE + "test_keys_of_another_namespace_are_never_unlinked",
        ),
        control="Without a living worker the same purge goes through",
        controls=(_PURGE + "test_everything_of_the_namespace_goes_and_nothing_else",),
    ),
    Fault(
        id="O11",
        fault="HTTP requests with a wrong body, path, query or token, too long, or never finished",
        expected="A clear error of the right status, nothing queued; clients that hang block nobody",
        tests=(
            _API + "test_a_wrong_body_is_400_and_names_the_field",
            _API + "test_a_write_by_anybody_else_is_refused",
            _API + "test_bodies_are_limited_and_measured",
            _DOORS + "test_a_malformed_command_is_400_and_queues_nothing",
            _DOORS + "test_writing_needs_the_token_and_the_token_is_nowhere_to_be_seen",
            _HTTP + "test_clients_that_send_nothing_or_half_a_request_block_nobody",
            _HTTP + "test_nonsense_is_answered_or_dropped_and_does_no_harm",
        ),
        control="The same write with the token and in a good form is taken",
        controls=(
            _API + "test_a_write_with_the_token_is_queued",
            _API + "test_a_write_in_another_good_form_is_taken",
        ),
    ),
    Fault(
        id="O12",
        fault="Malformed commands, too many of them, or one for a namespace that nobody has used",
        expected="Refused at the door with the reason; the queue is bounded, and nothing is half done",
        tests=(
            _COMMANDS + "test_malformed_ones_are_refused_at_the_door",
            _COMMANDS + "test_the_queue_is_bounded",
            _DOORS + "test_elk_refuses_a_namespace_that_nobody_has_used",
        ),
        control="Nothing to switch off: each is a case of its own beside good ones that are taken",
    ),
]
