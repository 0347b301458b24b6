"""Rows of the fault table: processes, all but the crash points of P1."""

from __future__ import annotations

from typing import List

from tests.faults.catalogue.row import Fault

DEAD = "tests/faults/test_process.py::"
PAUSE = "tests/faults/test_process_pause.py::"
ROLES = "tests/faults/test_process_roles.py::"
WORK = "tests/faults/test_process_processors.py::"
DEPLOY = "tests/faults/test_process_restarts.py::"
AROUND = "tests/faults/test_process_surroundings.py::"
RUN = "tests/integration/test_run.py::"
WHOLE = "tests/integration/test_coordinator.py::"
LIFE = "tests/unit/test_lifecycle.py::"
RUNNER = "tests/unit/test_runner.py::"
SERVERS = "tests/contrib/test_servers.py::"

FROZEN = DEAD + "test_a_frozen_worker_loses_nothing_early_and_is_refused_everything_late"
HUNG = DEAD + "test_a_hung_processor_is_named_with_its_stack_and_its_slot_replaced"
TEN_HUNG = WORK + "test_ten_hung_processors_cost_their_slots_then_claims_stop_and_health_says_so"
RAISED = WORK + "test_whatever_a_processor_raises_or_returns_costs_no_slot_and_no_neighbour"
CRASHED = WORK + "test_partitions_that_crash_the_interpreter_rest_as_failed_and_the_rest_completes"
GIL = WORK + "test_a_processor_that_holds_the_gil_is_let_be_for_half_a_lease_and_fenced_after_two"
FORKED = WORK + "test_a_processor_that_forks_leaves_one_coordinator_and_its_work_to_the_parent"
ABA = PAUSE + "test_a_worker_that_loses_its_partition_and_claims_it_again_is_refused_the_first_completion"
TEN_LEASES = PAUSE + "test_a_leader_frozen_for_ten_leases_is_refused_all_its_writes_and_works_again"
SUSPENDED = PAUSE + "test_a_host_that_is_suspended_with_its_server_goes_on_and_effects_happen_once"
DEPLOYED = DEPLOY + "test_a_deploy_one_by_one_or_all_at_once_repeats_no_id_and_makes_no_long_pause"
HURRIED = DEPLOY + "test_a_second_signal_ends_at_once_and_leaves_no_lease_behind"
ROLE_DIES = ROLES + "test_every_role_whose_thread_dies_is_started_again_and_the_work_goes_on"
NO_BEAT = ROLES + "test_a_worker_without_a_heartbeat_claims_nothing_ends_its_work_and_says_so"
NO_DUTY = ROLES + "test_a_leader_that_lost_a_duty_for_good_makes_way_for_another"
BROKEN_LOG = AROUND + "test_a_log_listeners_and_a_port_that_fail_cost_no_work"
FULL = AROUND + "test_elk_run_whose_stdout_and_stderr_are_full_does_its_work"

REST: List[Fault] = [
    Fault(
        id="P2",
        fault="A worker is killed (SIGKILL, out of memory) with work in hand",
        expected="Everything it held runs elsewhere within its lease and 5 s; nothing else is disturbed",
        tests=(DEAD + "test_a_killed_worker_is_replaced_within_its_lease_and_5_seconds",),
        control="Who takes over is the sweep of run-out leases; the crash points of P1 switch it off",
    ),
    Fault(
        id="P3",
        fault="A worker stands still (SIGSTOP) for 0.5, 1.5 or 3 leases and goes on inside its write",
        expected="Half a lease: nothing is taken. Longer: its ctx is cancelled at the first look, and its checkpoint, "
        "guarded write and completion are refused, whether it looks or not",
        tests=(FROZEN,),
        control="Reports of any token accepted; a lease believed for ever, effects without the fence",
        controls=(FROZEN,),
    ),
    Fault(
        id="P4",
        fault="A leader stands still for 10 leases and goes on inside its write",
        expected="Another leads within a lease; its checkpoint, write and completion are refused; it then works again",
        tests=(TEN_LEASES,),
        control="The guards are those of P3, switched off there",
        controls=(FROZEN,),
    ),
    Fault(
        id="P5",
        fault="The same worker loses a partition and claims it again while its first attempt still runs",
        expected="The late completion of the first attempt is refused, that of the second accepted; accepted stale: 0",
        tests=(ABA, HUNG),
        control="Reports of any token accepted: then the first attempt completes what the second works on",
        controls=(ABA,),
    ),
    Fault(
        id="P6",
        fault="The whole host is suspended for 2 leases, all workers and the server at once",
        expected="All clocks have jumped: work goes on within a lease, and guarded effects happen once (simulated by "
        "stopping every process, the server's included; the library's clock counts the time of a suspend, too)",
        tests=(SUSPENDED,),
        control="A lease believed for ever and effects without the fence",
        controls=(SUSPENDED,),
    ),
    Fault(
        id="P7",
        fault="SIGTERM while short work runs that never looks",
        expected="It ends within stop_timeout, is completed, and no ID runs again; exit 0",
        tests=(
            DEAD + "test_sigterm_lets_short_work_end_that_does_not_look_and_nothing_runs_again",
            RUN + "test_the_first_signal_lets_short_work_end_and_claims_nothing_more",
        ),
        control="Leaving without draining is the control of a deploy (P10)",
        controls=(DEPLOYED,),
    ),
    Fault(
        id="P8",
        fault="SIGTERM while long work runs, that looks or that is deaf",
        expected="What looks is checkpointed and given back, no attempt is counted, and the next holder goes on behind "
        "the checkpoint; what is deaf is left to its lease after stop_timeout",
        tests=(
            DEAD + "test_sigterm_has_long_work_checkpointed_given_back_and_not_completed",
            RUN + "test_the_first_signal_has_long_work_checkpointed_and_given_back",
            RUN + "test_work_that_does_not_end_is_left_after_stop_timeout",
        ),
        control="Leaving without draining is the control of a deploy (P10)",
        controls=(DEPLOYED,),
    ),
    Fault(
        id="P9",
        fault="A second SIGTERM or SIGINT during the drain",
        expected="The process is gone in seconds with 128 + the signal's number, and every lease was given back",
        tests=(HURRIED, RUN + "test_the_second_signal_stops_at_once_and_gives_back"),
        control="Nothing is given back at the second signal: leases stay behind",
        controls=(HURRIED,),
    ),
    Fault(
        id="P10",
        fault="A deploy: every worker is replaced, one by one and then all at once",
        expected="No ID runs again beyond a checkpoint, no partition is left to its lease, no pause beyond the "
        "recovery bound; after all went at once the first new worker works at once",
        tests=(DEPLOYED,),
        control="Workers that leave without draining or giving back",
        controls=(DEPLOYED,),
    ),
    Fault(
        id="P11",
        fault="A partition ends its process: os._exit, a segfault in a C extension",
        expected="It is run max_deliveries times, alone in its worker from the second on, then rests as failed; all "
        "others complete",
        tests=(CRASHED, DEAD + "test_a_poison_partition_rests_as_failed_and_its_neighbours_complete"),
        control="Deliveries without a limit: it goes on killing workers",
        controls=(CRASHED,),
    ),
    Fault(
        id="P12",
        fault="The processor raises: Exception, BaseException, KeyboardInterrupt, SystemExit, GeneratorExit, "
        "MemoryError, RecursionError, an error without a text",
        expected="The attempt fails with its traceback, is retried, then rests as failed; every slot lives afterwards",
        tests=(RAISED, RUNNER + "test_whatever_is_raised_fails_the_attempt_and_goes_no_further"),
        control="Only Exceptions are caught: each of the others costs a slot",
        controls=(RAISED,),
    ),
    Fault(
        id="P13",
        fault="The processor returns nonsense: a wrong type, a negative, huge or NaN count, more than there are",
        expected="The partition is completed with a warning; what is no count is not counted",
        tests=(RAISED, RUNNER + "test_a_nonsense_return_value_completes_with_a_warning"),
        control="Whatever is returned is counted: the counts are wrong",
        controls=(RAISED,),
    ),
    Fault(
        id="P14",
        fault="The processor hangs for ever, once or ten times",
        expected="Named with its stack one lease after its timeout, its slot replaced; beyond twice the window claims "
        "stop and health fails; late completions are refused; it is healthy again once they came back",
        tests=(HUNG, TEN_HUNG),
        control="Slots are replaced without a limit: health says nothing",
        controls=(TEN_HUNG,),
    ),
    Fault(
        id="P15",
        fault="A processor runs 20 times its lease",
        expected="One attempt: its lease is renewed as long as it runs",
        tests=("tests/faults/test_twenty_leases.py::test_a_processor_that_runs_for_twenty_leases_has_one_attempt",),
        control="Renewal is the guard: without a heartbeat long work is lost (P18)",
        controls=(NO_BEAT,),
    ),
    Fault(
        id="P16",
        fault="A C extension holds the GIL for 0.5 or 2 leases",
        expected="Half: a late beat, nothing is taken. Two: taken over; its ctx is cancelled at the first look and its "
        "write and completion are refused",
        tests=(GIL,),
        control="A lease believed for ever and effects without the fence",
        controls=(GIL,),
    ),
    Fault(
        id="P17",
        fault="The thread of a role dies (any of ten: heartbeat, claimer, allocator, election, ...)",
        expected="It is started again within seconds, event role_died, no lease is lost and no work disturbed",
        tests=(
            ROLE_DIES,
            "tests/unit/test_threads.py::test_a_role_that_died_is_told_and_started_again_by_any_other",
        ),
        control="Nobody looks after dead threads",
        controls=(ROLE_DIES,),
    ),
    Fault(
        id="P18",
        fault="The heartbeat's thread dies again and again until it stays dead",
        expected="The worker claims nothing more, its work ends or is cancelled by the clock, health names the thread",
        tests=(NO_BEAT,),
        control="Every thread counts as alive: the worker goes on claiming",
        controls=(NO_BEAT,),
    ),
    Fault(
        id="P19",
        fault="A leader's allocator, recovery or election thread, or a worker's claimer, stays dead",
        expected="It steps down and does not stand again, another leads; health names the thread; the work is done",
        tests=(
            NO_DUTY,
            "tests/unit/test_election.py::test_a_planner_that_does_not_come_back_costs_the_leadership_until_it_does",
        ),
        control="Every thread counts as alive: it leads on (allocator, recovery); the others end by the clock",
        controls=(NO_DUTY,),
    ),
    Fault(
        id="P20",
        fault="The processor forks: os.fork, a child that comes back from it, multiprocessing, subprocess",
        expected="One coordinator; the child that comes back ends at once; the parent completes its work once",
        tests=(FORKED,),
        control="The child goes on as the parent's thread would",
        controls=(FORKED,),
    ),
    Fault(
        id="P21",
        fault="The process forks after start: gunicorn preload, uWSGI with and without lazy-apps, os.fork",
        expected="The inherited coordinator is refused with the reason, a new one works; one per process",
        tests=(
            LIFE + "test_after_a_fork_the_old_one_is_refused_and_a_new_one_works",
            LIFE + "test_a_child_that_never_looks_at_the_coordinator_ends_like_any_other",
            SERVERS + "test_a_coordinator_started_in_gunicorns_arbiter_is_explained_and_the_workers_start_cleanly",
            SERVERS + "test_a_coordinator_started_in_uwsgis_master_is_explained_and_the_workers_start_cleanly",
            SERVERS + "test_each_gunicorn_worker_has_its_coordinator_and_is_seen_by_prometheus",
        ),
        control="The system takes the threads away at a fork; the refusal is a typed error, nothing to switch off",
    ),
    Fault(
        id="P22",
        fault="The main program ends without stop(): falls off its end, sys.exit, an exception; also with hung work",
        expected="It drains for half a lease at most, exits with the code of the program, and no lease is left",
        tests=(
            LIFE + "test_a_process_that_ends_without_stop_drains_and_exits_with_the_right_code",
            LIFE + "test_a_hung_processor_does_not_hold_a_process_that_ends_without_stop",
        ),
        control="The hook before the interpreter joins its threads, and leaving hung threads out of that",
        controls=(LIFE + "test_control_without_the_guard_a_hung_processor_holds_the_process",),
    ),
    Fault(
        id="P23",
        fault="A log handler that raises at every record, listeners that raise, a metrics port that is taken, a full "
        "disk for log, stdout and stderr",
        expected="Work goes on, no thread dies, nothing is lost; event http_unavailable",
        tests=(
            BROKEN_LOG,
            FULL,
            WHOLE + "test_a_listener_that_raises_or_blocks_holds_up_no_work",
            WHOLE + "test_a_taken_metrics_port_is_a_warning_an_event_and_no_address",
        ),
        control="What a log handler raises comes out of the library's own calls: it plans nothing any more",
        controls=(BROKEN_LOG,),
    ),
    Fault(
        id="P24",
        fault="A process without a planner beside others",
        expected="It never stands for election and works for others",
        tests=(WHOLE + "test_a_worker_without_planner_never_leads_and_works_for_others",),
        control="It has no election thread: there is nothing to switch off",
    ),
    Fault(
        id="P25",
        fault="Another application or version: a namespace of the other strategy, one schema older, one newer",
        expected="Older is read; the other strategy and anything newer are refused with the reason, nothing is changed",
        tests=(
            WHOLE + "test_a_namespace_of_another_kind_refuses_us_with_the_reason",
            WHOLE + "test_a_namespace_one_schema_older_is_read",
            "tests/integration/test_doctor.py::test_a_newer_schema",
        ),
        control="The refusal is the check itself; older and newer stand side by side",
    ),
]
