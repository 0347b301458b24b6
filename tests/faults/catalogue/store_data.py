"""Rows of the fault table: the store's data and the server itself. S20 to S49."""

from __future__ import annotations

from typing import List

from tests.faults.catalogue.row import Fault

_LOST = "tests/faults/test_data_lost.py::test_"
_SERVER = "tests/faults/test_data_server.py::test_"
_DAMAGE = "tests/faults/test_data_damage.py::test_"
_CONTRACT = "tests/contract/test_damage.py::test_"
_DOCTOR = "tests/integration/test_doctor.py::test_"
_COUNTER = "tokens become a plain counter: they fall, or one is given out twice"
_HALF = _SERVER + "half_a_lease_without_service_of_whatever_kind_costs_nothing"
_TWO = _SERVER + "two_leases_without_service_have_everybody_stop_in_time_and_then_go_on"
_RIGHTS = _SERVER + "rights_taken_and_a_password_changed_are_said_and_forgotten_when_they_are_back"
_OLD = _LOST + "a_server_that_comes_back_with_an_old_snapshot_has_its_work_repeated_behind_the_fence"
_FAILOVER = _LOST + "a_failover_that_loses_writes_and_the_old_primarys_return_leave_no_gap_and_no_stale_write"
_EMPTY = "tests/faults/test_store.py::test_a_server_that_lost_its_data_has_the_plan_start_again_loudly_and_tokens_rise"
_SHORT = "the same fault with leases shorter than it: partitions are lost and run again"
_LEASE = "a worker that never believes its lease over: it is not told while the store is silent"

DATA: List[Fault] = [
    Fault(
        id="S20", fault="the server crashes, or is restarted, and comes back with its append-only file",
        expected="work resumes within seconds; nothing is lost, repeated or refused",
        tests=("tests/faults/test_store.py::test_a_server_that_crashes_and_comes_back_with_its_data_loses_nothing",),
        control="nothing of ours to switch off: the server keeps the data; S21 and S22 are the same without them",
    ),
    Fault(
        id="S21", fault="the server comes back with an old snapshot: all writes since then are lost",
        expected="store_lost_data at every worker; tokens rise; what was forgotten runs again, its effects do not",
        tests=(_OLD,), control=_COUNTER + "; and without the mark of the loss nobody tells of it", controls=(_OLD,),
    ),
    Fault(
        id="S22", fault="the server comes back empty, or somebody runs FLUSHALL in the middle of the work",
        expected="store_lost_data at every worker; the plan starts again; tokens rise over the loss",
        tests=(_EMPTY,), control=_COUNTER, controls=(_EMPTY,),
    ),
    Fault(
        id="S23", fault="FLUSHALL while nobody has anything to do, again and again",
        expected="every loss is noticed within a beat by every worker and planned anew",
        tests=("tests/integration/test_coordinator.py::"
               "test_an_idle_fleet_notices_every_time_that_the_store_lost_its_data",),
        control="without the mark of the loss nobody tells of it", controls=(_OLD,),
    ),
    Fault(
        id="S24", fault="the document of the SIMPLE strategy vanishes in the middle of the work, or while all are idle",
        expected="store_lost_data at every worker; the plan starts again; effects behind the fence happen once",
        tests=(_LOST + "the_document_of_the_simple_strategy_that_vanishes_is_planned_anew_with_rising_tokens",),
        control=_COUNTER + " (shown on HASH: both draw tokens alike)", controls=(_EMPTY,),
    ),
    Fault(
        id="S25", fault="one key of the namespace is deleted by hand",
        expected="verify or doctor names it; the loss of registers, hints and memories costs nothing",
        tests=(_DAMAGE + "one_key_deleted_by_hand_is_always_seen",),
        control="doctor without the audit of the records sees less", controls=(
            _DAMAGE + "one_key_deleted_by_hand_is_always_seen",),
    ),
    Fault(
        id="S26", fault="Sentinel promotes a replica that lacks the last writes; then the old primary comes back",
        expected="as with an old snapshot (S21); the old primary becomes a replica and nobody works on it",
        tests=(_FAILOVER,), control=_COUNTER, controls=(_FAILOVER,),
    ),
    Fault(
        id="S27", fault="two primaries at once: two groups of workers on two servers that share a past",
        expected="both run; behind the fence nothing is applied twice; healed, they converge and all is done",
        tests=(_LOST + "two_primaries_at_once_both_run_nothing_is_applied_twice_and_after_it_all_is_one_again",),
        control="the user's writes without the fence: effects are applied twice",
        controls=(_LOST + "two_primaries_at_once_both_run_nothing_is_applied_twice_and_after_it_all_is_one_again",),
    ),
    Fault(
        id="S28", fault="READONLY: the server is a replica for half a lease",
        expected="claims wait; what ends meanwhile is reported later; nothing is lost or run again",
        tests=(_HALF,), control=_SHORT, controls=(_HALF,),
    ),
    Fault(
        id="S29", fault="NOREPLICAS: min-replicas-to-write is not met for half a lease", expected="as S28",
        tests=(_HALF,), control=_SHORT, controls=(_HALF,),
    ),
    Fault(
        id="S30", fault="MISCONF: a snapshot failed and the server stops writes for half a lease", expected="as S28",
        tests=(_HALF,), control=_SHORT, controls=(_HALF,),
    ),
    Fault(
        id="S31", fault="the server is frozen (SIGSTOP, a slow disk, CLIENT PAUSE) for half a lease", expected="as S28",
        tests=(_HALF,), control=_SHORT, controls=(_HALF,),
    ),
    Fault(
        id="S32", fault="BUSY: an endless script of another application for half a lease, then SCRIPT KILL",
        expected="as S28", tests=(_HALF,), control=_SHORT, controls=(_HALF,),
    ),
    Fault(
        id="S33", fault="the server is frozen, busy or read-only for twice the lease",
        expected="every worker stops by its own clock before its lease is over; then all goes on by itself",
        tests=(_TWO,), control=_LEASE, controls=(_TWO,),
    ),
    Fault(
        id="S34", fault="LOADING: the server reads a large snapshot before it serves",
        expected="waited for; back to work when it serves",
        tests=(_SERVER + "a_server_that_loads_its_data_is_waited_for",),
        control="nothing to switch off: until it has loaded the server answers nobody",
    ),
    Fault(
        id="S35", fault="OOM under noeviction: writes are refused for longer than the leases",
        expected="waited for; half of nothing is written; back to work when there is memory",
        tests=("tests/faults/test_store.py::"
               "test_a_server_out_of_memory_is_waited_for_and_half_of_nothing_is_written",),
        control="nothing to switch off: the server refuses a script before its first write",
    ),
    Fault(
        id="S36", fault="the server evicts (allkeys-lru) and takes keys of ours",
        expected="start warns, doctor fails; what was taken is found",
        tests=(_SERVER + "a_server_that_evicts_is_warned_of_and_what_it_took_is_found",
               _DOCTOR + "the_server_evicts"),
        control="doctor without the audit of the records sees less",
        controls=(_DAMAGE + "one_key_deleted_by_hand_is_always_seen",),
    ),
    Fault(
        id="S37", fault="a key of ours is of a wrong type: something else writes there",
        expected="doctor names it; steps that need it wait and are refused whole; when it is back nothing is missing",
        tests=(_DAMAGE + "a_key_of_a_wrong_type_is_named_and_waited_for_and_costs_nothing_when_it_is_back",
               _CONTRACT + "a_turn_refused_half_way_loses_nothing", _DOCTOR + "a_key_of_a_wrong_type"),
        control="the order of writes is the guard; with the old order the contract test lost partitions",
    ),
    Fault(
        id="S38", fault="damaged records: state, range, memory of a request, last token",
        expected="those partitions are set aside and named by verify and doctor; all others are done",
        tests=(_DAMAGE + "damaged_records_and_foreign_entries_are_set_aside_and_named_while_the_rest_is_done",
               _CONTRACT + "a_damaged_record_is_not_taken_for_pending_by_name",
               "tests/contract/test_scenarios.py::test_a_corrupt_record_is_set_aside_and_hides_no_other"),
        control="a worker that trusts the damaged memory of its last request: it waits for ever",
        controls=(_DAMAGE + "damaged_records_and_foreign_entries_are_set_aside_and_named_while_the_rest_is_done",),
    ),
    Fault(
        id="S39", fault="foreign entries in our hashes, sets and sorted sets",
        expected="named by verify and doctor; nobody works on them and nobody stops for them",
        tests=(_DAMAGE + "damaged_records_and_foreign_entries_are_set_aside_and_named_while_the_rest_is_done",
               _CONTRACT + "entries_that_are_no_partitions_are_named_and_hide_no_other"),
        control="a worker that trusts the damaged memory of its last request: it waits for ever",
        controls=(_DAMAGE + "damaged_records_and_foreign_entries_are_set_aside_and_named_while_the_rest_is_done",),
    ),
    Fault(
        id="S40", fault="damage among the planned intervals, or of the highest partition id",
        expected="nothing is planned over it, with a typed error; what is planned is done; doctor names it",
        tests=(_CONTRACT + "damage_of_the_plan_is_an_error_that_says_where",),
        control="nothing to switch off: what cannot be read cannot be planned over",
    ),
    Fault(
        id="S41", fault="a damaged chunk of the archive",
        expected="named by verify and doctor, left as it is; its partitions are known as completed by the plan",
        tests=(_DOCTOR + "a_damaged_chunk",), control="nothing to switch off: a chunk carries its own checksum",
    ),
    Fault(
        id="S42", fault="a damaged record in the document of the SIMPLE strategy, or a damaged document",
        expected="the record is kept, named, and the rest done; a document as a whole is an error, never an empty plan",
        tests=(_DAMAGE + "a_damaged_record_in_the_document_of_the_simple_strategy_stops_only_its_partition",
               "tests/contract/test_scenarios.py::"
               "test_an_empty_document_is_nothing_and_a_damaged_one_is_an_error_and_no_empty_namespace"),
        control="nothing to switch off: a record that cannot be read cannot be granted",
    ),
    Fault(
        id="S43", fault="an administrator takes the right to run scripts, or to write, and gives it back",
        expected="told by event, log and health; work goes on within seconds of the right's return, nothing is lost",
        tests=(_RIGHTS, _DOCTOR + "a_command_is_forbidden", _DOCTOR + "scripts_are_forbidden"),
        control="while nothing is wrong health says nothing", controls=(_RIGHTS,),
    ),
    Fault(
        id="S44", fault="the password is changed, or the user switched off, in the middle of the work",
        expected="as S43; a wrong password at start is a clear error and the right one starts",
        tests=(_RIGHTS, "tests/integration/test_coordinator.py::"
                        "test_a_wrong_password_is_a_clear_error_and_the_right_one_starts"),
        control="while nothing is wrong health says nothing", controls=(_RIGHTS,),
    ),
    Fault(
        id="S45", fault="data of a newer schema, of one older, or of another strategy",
        expected="newer and other are refused with the reason; one older is read",
        tests=("tests/integration/test_coordinator.py::test_a_namespace_of_another_kind_refuses_us_with_the_reason",
               "tests/integration/test_coordinator.py::test_a_namespace_one_schema_older_is_read",
               _DOCTOR + "a_newer_schema"),
        control="nothing to switch off: the tests hold both sides, what is refused and what is read",
    ),
    Fault(
        id="S46", fault="an older or another server: Redis 6.2, 7, Valkey",
        expected="contract and integration tests pass on each (make test, test-debian); doctor names older ones",
        tests=(_DOCTOR + "an_old_server",),
        control="nothing to switch off: the whole suite runs on the server of the wheel and on Debian's",
    ),
]  # fmt: skip
