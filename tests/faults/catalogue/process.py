"""Rows of the fault table: processes. Ids begin with P."""

from __future__ import annotations

from typing import List

from tests.faults.catalogue.process_rest import REST
from tests.faults.catalogue.row import Fault

TITLE = "Processes"
FAULTS: List[Fault] = [
    Fault(
        id="P1",
        fault="A worker is killed (SIGKILL) at any instant of the protocol: 57 named points, on both strategies",
        expected="What the server has done stays, what was not sent was not done; another goes on within lease + scan "
        "+ poll; each partition is completed once; at most one checkpoint interval is repeated without a fence",
        tests=(
            "tests/faults/test_steps.py::test_a_worker_killed_with_the_answer_unread_leaves_what_the_server_did",
            "tests/faults/test_steps.py::"
            "test_a_worker_killed_at_any_point_is_replaced_and_nothing_is_lost_or_done_twice",
            "tests/faults/test_steps.py::test_every_script_that_writes_is_a_step_with_points_or_said_to_be_none",
            "tests/faults/test_steps.py::test_every_step_has_its_three_points_and_no_name_is_given_twice",
        ),
        control="For each step its script halved (as if the other half were sent after it), its lease without an end, "
        "the sweep off, effects without the fence, the chunk written after the document; a point that is never passed",
        controls=(
            "tests/faults/test_steps.py::test_with_its_guard_switched_off_a_death_at_each_step_is_seen",
            "tests/faults/test_steps.py::test_a_worker_killed_with_the_answer_unread_leaves_what_the_server_did",
        ),
    ),
    *REST,
]
