"""Rows of the fault table: the network between worker and store, S1 to S19."""

from __future__ import annotations

from typing import List

from tests.faults.catalogue.row import Fault

STORE = "tests/faults/test_store.py::"
LINKS = "tests/faults/test_network_links.py::"
SLOW = "tests/faults/test_network_slow.py::"
LATE = "tests/faults/test_network_late.py::"
SERVER = "tests/faults/test_network_server.py::"
TOPOLOGIES = "tests/faults/test_topologies.py::"

NETWORK: List[Fault] = [
    Fault(
        id="S1",
        fault="A black hole between a worker and the store, longer than the lease",
        expected="The worker sees its leases end before another has them; it works again when the link does",
        tests=(STORE + "test_a_black_hole_longer_than_the_lease_is_seen_by_the_worker_before_another_has_its_work",),
        control="The end of trust by the worker's own clock, switched off",
        controls=(STORE + "test_a_black_hole_longer_than_the_lease_is_seen_by_the_worker_before_another_has_its_work",),
    ),
    Fault(
        id="S2",
        fault="Half-open connections: the other end, or a NAT, has forgotten them and says nothing",
        expected="The next use ends in time and goes over a new connection; wake-ups come again within a minute",
        tests=(
            LINKS + "test_links_broken_for_less_than_a_lease_hold_work_up_and_lose_nothing",
            LINKS + "test_connections_that_a_nat_forgot_while_idle_are_replaced_at_their_first_use",
            LINKS + "test_a_subscription_that_is_half_open_is_made_anew_within_a_minute",
        ),
        control="No time limit on replies: nothing is completed any more; a silence too short to be noticed: deaf",
        controls=(
            LINKS + "test_links_broken_for_less_than_a_lease_hold_work_up_and_lose_nothing",
            LINKS + "test_a_subscription_that_is_half_open_is_made_anew_within_a_minute",
        ),
    ),
    Fault(
        id="S3",
        fault="A link that works one way: requests arrive, replies are lost",
        expected="What was granted unheard is given back by its token, never begun after its lease",
        tests=(
            LINKS + "test_grants_whose_reply_comes_after_their_lease_are_not_believed",
            LINKS + "test_links_broken_for_less_than_a_lease_hold_work_up_and_lose_nothing",
        ),
        control="The lease counted from its answer instead of from before its request",
        controls=(LINKS + "test_grants_whose_reply_comes_after_their_lease_are_not_believed",),
    ),
    Fault(
        id="S4",
        fault="A link that works the other way: replies would arrive, requests are lost",
        expected="Shorter than a lease nothing is lost or begun again; work resumes with the link",
        tests=(LINKS + "test_links_broken_for_less_than_a_lease_hold_work_up_and_lose_nothing",),
        control="No time limit on replies: nothing is completed any more",
        controls=(LINKS + "test_links_broken_for_less_than_a_lease_hold_work_up_and_lose_nothing",),
    ),
    Fault(
        id="S5",
        fault="New connections are refused, or their first packet is never answered",
        expected="As a short outage: nothing is lost, work resumes with the link",
        tests=(LINKS + "test_links_broken_for_less_than_a_lease_hold_work_up_and_lose_nothing",),
        control="No time limit on connects and replies: nothing is completed any more",
        controls=(LINKS + "test_links_broken_for_less_than_a_lease_hold_work_up_and_lose_nothing",),
    ),
    Fault(
        id="S6",
        fault="A slow link: 50 ms, 500 ms with jitter, 64 kB/s, below the budget of a call",
        expected="No leader changes, no lease is lost, nobody takes over",
        tests=(
            SLOW + "test_a_slow_link_costs_nobody_a_lease",
            SLOW + "test_half_a_second_costs_nobody_a_lease_that_has_room_for_it",
        ),
        control="A lease that leaves no room for the round trip: the leader changes",
        controls=(SLOW + "test_half_a_second_costs_nobody_a_lease_that_has_room_for_it",),
    ),
    Fault(
        id="S7",
        fault="A link too slow for any call: 2000 ms, or byte by byte",
        expected="An outage with a name; the leader steps down by its own clock; all is well when the link is",
        tests=(SLOW + "test_a_link_slower_than_a_call_may_be_is_an_outage_that_ends",),
        control="The same link with room for it is no outage: see S6, whose control is the lease too short for it",
        controls=(SLOW + "test_half_a_second_costs_nobody_a_lease_that_has_room_for_it",),
    ),
    Fault(
        id="S8",
        fault="Five of a hundred requests and replies are lost",
        expected="Nothing is granted to nobody or counted twice, no lease is lost, no leader changes",
        tests=(SLOW + "test_five_of_a_hundred_requests_and_replies_lost_count_nothing_twice",),
        control="The memory of the last answer: a request that comes again runs again",
        controls=(SLOW + "test_five_of_a_hundred_requests_and_replies_lost_count_nothing_twice",),
    ),
    Fault(
        id="S9",
        fault="Replies that break off in the middle, by a reset or an end, or are nonsense",
        expected="Asked again; no attempt is burnt, nothing is counted twice",
        tests=(
            LINKS + "test_replies_that_break_off_or_are_nonsense_count_nothing_twice",
            "tests/unit/test_connect.py::test_answers_that_are_none_are_an_outage_and_no_refusal",
        ),
        control="The memory of the last answer: a request that comes again runs again",
        controls=(LINKS + "test_replies_that_break_off_or_are_nonsense_count_nothing_twice",),
    ),
    Fault(
        id="S10",
        fault="The reply is lost after the script ran, every n-th time, for a hundred thousand commands",
        expected="Counters are what a recount finds, one completion each, attempts and deliveries untouched",
        tests=(
            STORE + "test_replies_lost_after_the_script_ran_count_nothing_twice",
            LATE + "test_a_reply_lost_again_and_again_for_a_hundred_thousand_commands_counts_nothing_twice",
            LINKS + "test_the_drivers_own_retries_would_run_a_request_twice",
            "tests/contract/test_strategy_faults.py::test_a_lost_reply_counts_nothing_twice",
        ),
        control="The memory of the last answer; and the driver's silent retries, which run a counting script twice",
        controls=(
            STORE + "test_replies_lost_after_the_script_ran_count_nothing_twice",
            LATE + "test_a_reply_lost_again_and_again_for_a_hundred_thousand_commands_counts_nothing_twice",
            LINKS + "test_the_drivers_own_retries_would_run_a_request_twice",
        ),
    ),
    Fault(
        id="S11",
        fault="A request that was given up runs after its successors",
        expected="It changes nothing",
        tests=(
            STORE + "test_requests_that_arrive_after_they_were_given_up_change_nothing",
            LATE + "test_requests_that_run_after_their_successors_change_nothing",
            LATE + "test_what_was_saved_to_its_end_is_completed_by_its_next_holder_without_an_attempt",
            "tests/contract/test_strategy_faults.py::test_a_late_turn_is_refused_and_changes_nothing",
        ),
        control="The order of requests: a script runs whatever its number is",
        controls=(LATE + "test_requests_that_run_after_their_successors_change_nothing",),
    ),
    Fault(
        id="S12",
        fault="All connections are killed, five and ten times a second",
        expected="Work goes on; a call that meets it is asked again within its time",
        tests=(
            STORE + "test_connections_killed_and_scripts_forgotten_all_the_time_hold_up_nothing",
            SERVER + "test_connections_killed_ten_times_a_second_cost_no_more_than_the_calls_they_meet",
        ),
        about=("CLIENT-KILL", "connections killed (guarded)"),
        control="Our own retries: calls are given up",
        controls=(SERVER + "test_connections_killed_ten_times_a_second_cost_no_more_than_the_calls_they_meet",),
    ),
    Fault(
        id="S13",
        fault="The server forgets all scripts, ten times a second",
        expected="It is given them again, unnoticed",
        tests=(
            STORE + "test_connections_killed_and_scripts_forgotten_all_the_time_hold_up_nothing",
            SERVER + "test_a_server_that_forgets_its_scripts_is_given_them_again",
        ),
        about=("SCRIPT-FLUSH", "scripts forgotten"),
        control="The script's text, sent where its name is not known",
        controls=(SERVER + "test_a_server_that_forgets_its_scripts_is_given_them_again",),
    ),
    Fault(
        id="S14",
        fault="The server takes no more connections (maxclients)",
        expected="Waited for with growing pauses; connections per process stay few; work resumes",
        tests=(SERVER + "test_a_server_that_takes_no_more_connections_is_not_hammered",),
        control="The pauses between tries: the server is hammered",
        controls=(SERVER + "test_a_server_that_takes_no_more_connections_is_not_hammered",),
    ),
    Fault(
        id="S15",
        fault="The server stands still: the kernel takes connections, nobody answers",
        expected="An outage with a name, shorter and longer than the leases; work resumes when it goes on",
        tests=(SERVER + "test_a_server_that_stands_still_is_an_outage_with_a_name",),
        control="No time limit on replies: workers hang and tell nothing",
        controls=(SERVER + "test_a_server_that_stands_still_is_an_outage_with_a_name",),
    ),
    Fault(
        id="S16",
        fault="The store's address is gone for a while: a name that is not resolved, a socket's path",
        expected="An outage with a name; work resumes when it is there again",
        tests=(SERVER + "test_an_address_that_is_gone_for_a_while_is_waited_for",),
        control="None of ours: the system cannot connect; the case shows that nothing is completed meanwhile",
        controls=(),
    ),
    Fault(
        id="S17",
        fault="Sentinel replaces a killed primary",
        expected="Work resumes on the new one; what the old one had not replicated is told as lost, never a hole",
        tests=(TOPOLOGIES + "test_work_goes_on_after_sentinel_has_replaced_a_killed_primary",),
        control="None here: the driver finds the new primary; tokens over lost writes have their controls elsewhere",
        controls=(),
    ),
    Fault(
        id="S18",
        fault="Cluster: the slot moves to another node (MOVED, ASK), a node dies, all nodes die",
        expected="Work is held up while it moves or is away; nothing lost, nothing twice",
        tests=(
            TOPOLOGIES + "test_a_slot_that_moves_to_another_node_holds_work_up_only_while_it_moves",
            TOPOLOGIES + "test_a_node_that_is_not_ours_dies_unnoticed_and_ours_comes_back_with_its_data",
        ),
        control="None of ours: the driver follows redirections; the case checks that the new node serves the slot",
        controls=(),
    ),
    Fault(
        id="S19",
        fault="Wake-ups are lost, and only those: subscriptions cut all the time, or not allowed to this user",
        expected="All is found by polling; not allowed is warned of once",
        tests=(
            SERVER + "test_without_hints_from_the_store_work_is_found_by_polling",
            "tests/integration/test_coordinator.py::test_a_user_who_may_not_subscribe_works_by_polling_and_that_is_no_outage",
        ),
        control="Polling: nobody comes for the work",
        controls=(SERVER + "test_without_hints_from_the_store_work_is_found_by_polling",),
    ),
]
