"""Rows of the fault table: leader and planner. Ids begin with L."""

from __future__ import annotations

from typing import List

from tests.faults.catalogue.row import Fault

TITLE = "Leader and planner"

_LEADER = "tests/faults/test_leader.py::"
_MORE = "tests/faults/test_planner_faults_leader.py::"
_ODD = "tests/faults/test_planner_faults.py::test_nonsense_of_a_planner_is_told_and_planned_around_once_it_behaves"
_ASKED = "tests/integration/test_planner_contract.py::"
_ALLOCATOR = "tests/unit/test_allocator.py::"
_EXPLORE = "tests/unit/test_explore.py::"
_LATE = "tests/contrib/test_sql_planners.py::"
_FROZEN = _LEADER + "test_the_plan_of_a_leader_that_was_frozen_past_its_lease_is_refused"
_CUT = _MORE + "test_a_leader_that_is_cut_off_steps_down_before_another_is_elected_and_follows_when_it_is_back"
_HALF = _MORE + "test_a_leader_killed_after_half_of_the_batches_of_a_plan_leaves_no_gap_and_nothing_twice"
_FAR = (
    _MORE
    + "test_a_leader_behind_a_link_that_takes_a_twentieth_of_its_lease_leads_on_and_half_of_it_costs_one_change"
)

FAULTS: List[Fault] = [
    Fault(
        id="L1",
        fault="Two leaders at once: one frozen in the middle of a plan, another elected, the first goes on.",
        expected="The plan of the old term is refused; no ID is planned twice.",
        tests=(_FROZEN, _ALLOCATOR + "test_two_leaders_at_once_plan_nothing_twice_and_the_old_one_is_refused"),
        control="The store does not compare terms: the old plan is accepted.",
        controls=(
            _FROZEN,
            _ALLOCATOR + "test_control_without_the_guards_of_term_and_version_they_would_plan_the_same_ids",
        ),
    ),
    Fault(
        id="L2",
        fault="The leader is killed, or stops cleanly, while it plans.",
        expected="Another leads within the lease and 2 s after a kill, within 1 s after a clean stop.",
        tests=(_LEADER + "test_a_lost_leader_is_replaced_within_its_lease_and_2_seconds_and_one_that_stops_within_1",),
        control="None: the bounds are measured; what keeps the plan whole has its control in L1 and L3.",
    ),
    Fault(
        id="L3",
        fault="The leader is killed when half of the batches of a plan were accepted, before it knows of the last.",
        expected="The next one goes on behind them: no gap, nothing planned twice.",
        tests=(_HALF,),
        control="A batch that is created without being noted as planned: its IDs are planned again.",
        controls=(_HALF,),
    ),
    Fault(
        id="L4",
        fault="Whoever leads is killed, ten times, as soon as it does.",
        expected="Planning and work go on between the kills; terms rise; the plan has no gap.",
        tests=(_MORE + "test_a_leader_killed_every_lease_ten_times_over_does_not_stop_planning",),
        control="None: what could be switched off is switched off in L1 and L3; here the rate is measured.",
    ),
    Fault(
        id="L5",
        fault="The leader is cut off from the store and lives; beside it a follower and a worker without a planner.",
        expected="It steps down by its clock before another is elected, then follows; the planless never leads.",
        tests=(_CUT, "tests/unit/test_election.py::test_there_are_never_two_who_believe_to_lead"),
        control="A leader that believes in its term until it is told otherwise: two at once.",
        controls=(
            _CUT,
            "tests/unit/test_election.py::test_control_with_trust_from_after_the_answer_there_would_be_two",
        ),
    ),
    Fault(
        id="L6",
        fault="The leader's link is slow: an answer takes a twentieth of its lease, or half of it.",
        expected="A twentieth: no change. Half, more than a request may take: one change, to a nearer worker.",
        tests=(_FAR,),
        control="The slower of the two links: the check that nothing changed fails there.",
        controls=(_FAR,),
    ),
    Fault(
        id="L7",
        fault="A planner hangs.",
        expected="Its leader steps down within a lease, does not stand until it returned; its late plan is refused.",
        tests=(
            _LEADER + "test_a_leader_whose_planner_hangs_steps_down_and_does_not_stand_until_it_returned",
            "tests/unit/test_election.py::test_a_planner_that_does_not_come_back_costs_the_leadership_until_it_does",
        ),
        control="The term of the late plan is not compared: it is accepted.",
        controls=(_FROZEN,),
    ),
    Fault(
        id="L8",
        fault="get_next_max_id raises or answers None, a float, NaN, inf, a bool, a text, or more than 64 bits.",
        expected="A PlannerError each, tried again with growing pauses, the plan intact; good answers end it.",
        tests=(
            _ODD,
            _ASKED + "test_after_a_bad_answer_the_plan_is_intact_and_goes_on_once_it_is_a_good_one",
            _ALLOCATOR + "test_nonsense_is_a_planner_error_and_the_plan_stays",
            _ALLOCATOR + "test_whatever_a_planner_raises_is_a_planner_error_and_ends_no_thread",
            _ALLOCATOR + "test_rounds_of_a_failing_planner_back_off_up_to_the_interval",
        ),
        control="Answers are taken as they are: most of them are not told.",
        controls=(_ODD,),
    ),
    Fault(
        id="L9",
        fault="plan() raises in the middle, overlaps, goes back, never ends, or yields what is no pair.",
        expected="A PlannerError, none of its ranges is created; an endless one is asked for what may be pending.",
        tests=(
            _ODD,
            _ASKED + "test_a_bad_plan_creates_none_of_its_ranges",
            _ASKED + "test_a_plan_without_end_is_asked_for_no_more_than_it_may_create",
            _EXPLORE + "test_plan_that_gives_nonsense_is_a_planner_error",
        ),
        control="None of its own: the checks are those of L8, and overlaps are refused by the store's door as well.",
    ),
    Fault(
        id="L10",
        fault="Answers go down, stay as they were, or the table was truncated.",
        expected="Nothing new, no error, no range taken back or planned again.",
        tests=(
            _ODD,
            _ASKED + "test_a_table_that_shrinks_takes_nothing_back_and_plans_nothing_again",
            _ALLOCATOR + "test_an_answer_at_or_below_the_start_is_nothing_new_also_when_the_table_shrank",
        ),
        control="None: nothing new is no error, and nothing takes a planned range back that could be switched off.",
    ),
    Fault(
        id="L11",
        fault="partition_size raises, is 0, negative, None, 10**12, or another one with every call.",
        expected="3000 with one warning where it is none; every row is planned once.",
        tests=(
            _ASKED + "test_partition_sizes_that_change_with_every_call_plan_each_row_once",
            _ALLOCATOR + "test_a_partition_size_that_is_none_means_3000_with_one_warning",
            _EXPLORE + "test_partitions_as_large_as_the_whole_space_stay_inside_it",
        ),
        control="None: there is one way through; a size that is none cannot be cut by.",
    ),
    Fault(
        id="L12",
        fault="has_data or first_id answers nonsense.",
        expected="A PlannerError, never a no: nothing is skipped.",
        tests=(
            _ASKED + "test_a_bad_answer_of_has_data_skips_nothing",
            _ALLOCATOR + "test_nonsense_of_has_data_is_a_planner_error_never_a_no",
            _ALLOCATOR + "test_nonsense_of_first_id_plans_nothing_at_all",
        ),
        control="None of its own: a has_data that says False wrongly loses data, by its contract.",
    ),
    Fault(
        id="L13",
        fault="The IDs jump by 3*10**11 and more.",
        expected="The hole costs a logarithm of questions, one skipped interval, no partition.",
        tests=(
            _LEADER + "test_holes_of_a_million_millions_are_crossed_in_seconds_without_empty_partitions",
            _EXPLORE + "test_a_hole_is_crossed_in_log_questions_without_empty_partitions",
            _ALLOCATOR + "test_a_hole_costs_log_questions_no_partition_and_one_skipped_interval",
        ),
        control="A planner without has_data that ignores the range: the hole becomes empty partitions.",
        controls=(
            _EXPLORE + "test_without_has_data_such_a_hole_becomes_empty_partitions_lazily_with_one_warning",
        ),
    ),
    Fault(
        id="L14",
        fault="The table grows all the time.",
        expected="It is followed without planning anything twice; the workers are not starved by planning.",
        tests=(
            _ASKED + "test_a_growing_table_is_followed_without_planning_anything_again",
            _LEADER + "test_three_workers_with_a_window_of_64_and_no_work_to_do_are_never_starved_by_planning",
        ),
        control="Nobody calls the leader when work runs low: the fleet stands still for a second.",
        controls=(_LEADER + "test_three_workers_with_a_window_of_64_and_no_work_to_do_are_never_starved_by_planning",),
    ),
    Fault(
        id="L15",
        fault="IDs are committed late, below the largest one that is visible.",
        expected="contrib.sql waits for whoever was open; rows in skipped ranges are found by the sweep.",
        tests=(
            _LATE + "test_a_maximum_waits_for_who_was_open_then_and_not_for_who_came_later",
            _LATE + "test_a_maximum_is_planned_once_it_has_settled",
            "tests/unit/test_gaps.py::test_rows_that_appear_in_a_skipped_range_are_found_when_the_sweep_is_due",
        ),
        control="No sweep, or gaps in incremental mode: skipped ranges are not asked about again.",
        controls=(
            "tests/unit/test_gaps.py::"
            "test_without_a_sweep_age_or_in_incremental_mode_skipped_ranges_are_not_asked_again",
        ),
    ),
    Fault(
        id="L16",
        fault="IDs at the edges: 2**53 + 1, the first and the last of 64 bits, ints in all but name.",
        expected="They are planned exactly.",
        tests=(
            _ASKED + "test_the_first_and_the_last_id_that_64_bits_hold_are_planned",
            _EXPLORE + "test_ids_at_the_edges_are_planned_exactly",
            _ALLOCATOR + "test_ids_that_are_ints_in_all_but_name_are_taken",
        ),
        control="None: IDs stay text on their way through the store; there is no check to switch off.",
    ),
]
