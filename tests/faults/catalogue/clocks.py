"""Rows of the fault table: clocks. Ids begin with C."""

from __future__ import annotations

from typing import List

from tests.faults.catalogue.row import Fault

TITLE = "Clocks"

_HOSTS = "tests/faults/test_clocks.py::"
_SERVER = "tests/faults/test_clocks_server.py::"
_STRATEGY = "tests/contract/test_strategy_contract.py::"
_LOSS = "tests/contract/test_strategy_faults.py::"
_STORE = "tests/contract/test_store_contract.py::"
_BACK = "tests/contract/test_clock_set_back.py::"
_DAY = _SERVER + "test_a_server_clock_set_back_by_a_day_and_the_controls"

FAULTS: List[Fault] = [
    Fault(
        id="C1",
        fault="One worker's wall clock is an hour behind, another's an hour ahead, a third's steps by an hour.",
        expected="No takeover, no healthy work cancelled, no change of the leader: leases are judged by other clocks.",
        tests=(_HOSTS + "test_wall_clocks_an_hour_off_and_steps_of_an_hour_cost_no_lease",),
        control="Leases judged by the wall clock of the host: a step of an hour cancels healthy work.",
        controls=(_HOSTS + "test_wall_clocks_an_hour_off_and_steps_of_an_hour_cost_no_lease",),
    ),
    Fault(
        id="C2",
        fault="The same with the system's own clock, faked by libfaketime (where installed, else injected).",
        expected="As C1.",
        tests=(_HOSTS + "test_the_same_with_the_clocks_of_the_system_faked",),
        control="As C1: what is judged by the wall clock is switched on there, inside the process.",
        controls=(_HOSTS + "test_wall_clocks_an_hour_off_and_steps_of_an_hour_cost_no_lease",),
    ),
    Fault(
        id="C3",
        fault="The clocks of a worker's host run a tenth too slow or too fast, and the host is cut off from the store.",
        expected="It sees that its lease is over before anybody else holds the partition.",
        tests=(_HOSTS + "test_hosts_whose_clocks_run_a_tenth_slow_or_fast_give_up_before_anybody_takes",),
        control="A clock at half its rate, beyond the tenth of a lease that nobody trusts: two hold it at once.",
        controls=(_HOSTS + "test_hosts_whose_clocks_run_a_tenth_slow_or_fast_give_up_before_anybody_takes",),
    ),
    Fault(
        id="C4",
        fault="A host is suspended for longer than a lease and resumes: only its boot clock went on.",
        expected="The work is cancelled at its first look; what it still writes is refused; it ran elsewhere.",
        tests=(_HOSTS + "test_a_host_that_wakes_from_suspension_sees_at_once_that_its_lease_is_over",),
        control="A clock that stood still meanwhile, as CLOCK_MONOTONIC does: it still believes in its lease.",
        controls=(_HOSTS + "test_a_host_that_wakes_from_suspension_sees_at_once_that_its_lease_is_over",),
    ),
    Fault(
        id="C5",
        fault="The server's clock is set back by an hour or a day, and a worker that leads dies right then.",
        expected="Its work runs elsewhere, another leads within two leases and 5 s; healthy work goes on; tokens rise.",
        tests=(
            _SERVER + "test_a_server_clock_set_back_by_an_hour_costs_a_dead_worker_its_lease_and_no_hour",
            _DAY,
            _STRATEGY + "test_a_lease_never_lasts_longer_than_its_length_after_the_clock_went_back",
            _STRATEGY + "test_a_live_worker_keeps_its_lease_when_the_clock_goes_back",
            _STORE + "test_a_lock_never_lasts_longer_than_its_length_after_the_clock_went_back",
        ),
        control="Deadlines ahead of their length are believed: nobody takes over. Tokens by the time alone: they fall.",
        controls=(_DAY,),
    ),
    Fault(
        id="C6",
        fault="The server's clock is set forward by an hour: every lease runs out at once.",
        expected="Work goes on within two leases; what ran twice is refused behind the fence; no effect twice.",
        tests=(
            _SERVER + "test_a_server_clock_set_forward_by_an_hour_costs_fenced_duplicates_only",
            _STRATEGY + "test_a_clock_that_jumps_forward_costs_a_delivery_and_breaks_nothing",
            _STORE + "test_a_clock_that_jumps_forward_frees_a_lock",
        ),
        control="Effects without the fence: they are applied twice.",
        controls=(_SERVER + "test_a_server_clock_set_forward_by_an_hour_costs_fenced_duplicates_only",),
    ),
    Fault(
        id="C7",
        fault="The server's clock is set back while partitions wait for a retry.",
        expected="No retry waits longer than the longest pause of retry_backoff from then on.",
        tests=(_BACK + "test_a_retry_waits_no_longer_than_the_longest_pause_after_the_clock_went_back",),
        control="A strategy that knows no longest pause: the retry waits for as long as the clock was set back.",
        controls=(_BACK + "test_control_a_strategy_that_knows_no_longest_pause_makes_it_wait_that_hour",),
    ),
    Fault(
        id="C8",
        fault="The server's clock is set back while somebody waits for the end of the work (wait_idle, --until-done).",
        expected="It is answered by a round that begins then, neither an hour later nor by a round of before.",
        tests=(
            "tests/unit/test_idle_clock.py::test_a_clock_set_back_while_it_waits_costs_no_hour",
            "tests/unit/test_idle_clock.py::test_a_round_of_before_the_clock_was_set_back_answers_nobody",
        ),
        control="None: two lines decide; the tests fail without them, and there is no switch for them.",
    ),
    Fault(
        id="C9",
        fault="The store loses its data and its clock is set back in the same moment.",
        expected="Tokens rise while any process lives that remembers one; with none they may fall: the known residual.",
        tests=(
            _LOSS + "test_tokens_rise_over_data_loss_also_with_the_clock_set_back",
            _STORE + "test_tokens_rise_over_data_loss_with_the_clock_set_back_when_the_caller_remembers",
            _STORE + "test_without_a_floor_the_token_would_have_fallen",
        ),
        control="A caller that remembers nothing: the token falls.",
        controls=(_STORE + "test_without_a_floor_the_token_would_have_fallen",),
    ),
    Fault(
        id="C10",
        fault="The server's clock stands still or goes back a little at a time (slewing).",
        expected="Tokens and versions rise all the same.",
        tests=(_STORE + "test_tokens_rise_while_the_stores_clock_stands_still_or_goes_back",),
        control="Tokens by the server's time alone: they fall.",
        controls=(_DAY,),
    ),
]
