"""The guards of threads and processes: restart, fork, exit, start and stop."""

from __future__ import annotations

from typing import Tuple

from tests.mutants.guard import Guard


def unit(module: str, *names: str) -> Tuple[str, ...]:
    return tuple("tests/unit/test_%s.py::test_%s" % (module, name) for name in names)


THREADS = "runtime/threads.py"
COORDINATOR = "coordinator.py"

GUARDS = [
    Guard(
        "role: restart after its end",
        THREADS,
        "                if thread.alive:\n                    continue\n",
        "                if thread.alive and name not in self._dead:\n                    continue\n",
        "a dead role is started again only after its thread has ended",
        unit(
            "threads",
            "a_dead_role_is_started_again_only_after_its_thread_has_ended",
            "no_role_ever_runs_twice_at_the_same_time_whoever_looks_after_it",
        ),
    ),
    Guard(
        "role: one looks after the dead",
        THREADS,
        "        if now - self._looked_at < _LOOK or not self._lock.acquire(False):\n",
        "        self._lock.acquire(False)\n        if now - self._looked_at < _LOOK:\n",
        "no role runs twice, whoever looks after it",
        unit(
            "threads",
            "starting_is_not_overtaken_by_those_that_run_already",
            "no_role_ever_runs_twice_at_the_same_time_whoever_looks_after_it",
        ),
    ),
    Guard(
        "role: restarts end",
        THREADS,
        "thread.restarts < MAX_RESTARTS:\n",
        "True:\n",
        "a role that goes on dying stays dead, and health says so",
        unit("threads", "a_role_that_goes_on_dying_stays_dead_and_health_says_so"),
    ),
    Guard(
        "role: no restart while stopping",
        THREADS,
        "                if not thread.stopping and thread.restarts",
        "                if thread.restarts",
        "a stopped role is not started again",
        unit("threads", "a_stopped_role_is_not_started_again_by_the_others"),
    ),
    Guard(
        "role: errors end the turn only",
        THREADS,
        "            except Exception as exc:\n                self._failed(exc)\n",
        "            except FloatingPointError as exc:\n                self._failed(exc)\n",
        "an error ends the turn, not the thread",
        unit("threads", "an_error_ends_the_turn_and_the_next_comes_after_a_growing_pause"),
    ),
    Guard(
        "role: stuck is told",
        THREADS,
        "health.busy_for > self.role.stuck_after:\n",
        "False:\n",
        "a role that does not come back fails health",
        unit("threads", "a_turn_that_takes_too_long_is_stuck_and_never_started_beside_itself"),
    ),
    Guard(
        "role: wakes are not lost",
        THREADS,
        "            role.wake.clear()\n            self._turn_began = clock.monotonic()\n",
        "            self._turn_began = clock.monotonic()\n",
        "a wake brings one turn, and the next pause is a pause",
        unit(
            "threads",
            "a_turn_follows_when_the_pause_is_over",
            "a_wake_brings_the_next_turn_at_once",
            "a_wake_during_a_turn_is_not_lost",
        ),
    ),
    Guard(
        "fork: told",
        "runtime/lifecycle.py",
        "        thing.after_fork_in_child()\n    _live.clear()\n",
        "        pass\n    _live.clear()\n",
        "a forked coordinator is invalid in the child",
        unit("lifecycle", "a_fork_is_told_once_and_the_child_begins_with_an_empty_list"),
    ),
    Guard(
        "fork: noticed without being told",
        COORDINATOR,
        "        if self._state == FORKED or self._pid != os.getpid():\n",
        "        if self._state == FORKED:\n",
        "a fork that nobody told Python of is noticed by the pid",
        unit("lifecycle", "a_coordinator_made_but_not_started_is_refused_after_a_fork_too"),
    ),
    Guard(
        "fork: the parent's are not stopped",
        "runtime/lifecycle.py",
        "        if _homes.get(thing) != os.getpid():\n",
        "        if False:\n",
        "a child's exit stops nothing of its parent's",
        unit("lifecycle", "what_a_fork_brought_along_without_telling_us_is_the_parents_to_stop"),
    ),
    Guard(
        "exit: hung threads let go",
        "runtime/lifecycle.py",
        "            queues.pop(thread, None)\n",
        "            pass\n",
        "a hung processor does not hold the process at its end",
        unit("lifecycle", "abandoned_threads_are_not_joined_at_exit"),
    ),
    Guard(
        "exit: in time",
        "runtime/lifecycle.py",
        "        if early is not None:\n",
        "        if False:\n",
        "a process that ends without stop() drains",
        unit(
            "lifecycle",
            "a_hung_processor_does_not_hold_a_process_that_ends_without_stop",
            "a_process_that_ends_without_stop_drains_and_exits_with_the_right_code",
        ),
    ),
    Guard(
        "start: once",
        COORDINATOR,
        "            if self._state != NEW:\n                return self\n",
        "",
        "start() twice starts once",
        ("tests/integration/test_coordinator.py::test_start_twice_starts_once",),
    ),
    Guard(
        "start: not after stop",
        COORDINATOR,
        "            if self._state in (DRAINING, STOPPED):\n",
        "            if False:\n",
        "a stopped coordinator is not started again",
        ("tests/integration/test_coordinator.py::test_a_stopped_coordinator_is_not_started_again_but_a_new_one_is",),
    ),
    Guard(
        "start: failed start may be tried again",
        COORDINATOR,
        "            except BaseException:\n                self._state = NEW\n",
        "            except BaseException:\n",
        "start() may be called again after it failed",
        ("tests/integration/test_coordinator.py::test_a_wrong_password_is_a_clear_error_and_the_right_one_starts",),
    ),
    Guard(
        "start: accepted first",
        COORDINATOR,
        "return self._state == RUNNING and self._accepted.is_set() and not self._paused and beats",
        "return self._state == RUNNING and not self._paused and beats",
        "until the namespace has accepted it, a worker claims nothing",
        (
            "tests/integration/test_coordinator.py::test_without_require_store_a_namespace_that_refuses_later_is_never_worked_on",
        ),
    ),
    Guard(
        "lead: accepted first",
        COORDINATOR,
        "        return self._state == RUNNING and self._accepted.is_set()\n\n    def info",
        "        return self._state == RUNNING\n\n    def info",
        "until the namespace has accepted it, a worker does not lead",
        (
            "tests/integration/test_coordinator.py::test_without_require_store_a_namespace_that_refuses_later_is_never_worked_on",
        ),
    ),
    Guard(
        "stop: once",
        COORDINATOR,
        "            first = self._state in (NEW, RUNNING)\n",
        "            first = True\n",
        "a second stop() waits for the first",
        ("tests/integration/test_coordinator.py::test_a_second_stop_ends_nothing_under_the_first",),
    ),
    Guard(
        "stop: from a task",
        COORDINATOR,
        "        inside = self._crew.is_mine() or self._window.is_mine()\n",
        "        inside = False\n",
        "stop() from a task returns at once",
        (
            "tests/integration/test_coordinator.py::test_stop_from_a_task_returns_at_once_and_the_task_is_still_reported",
        ),
    ),
    Guard(
        "stop: tells running work",
        COORDINATOR,
        "            self._window.cancel_all(CancelReason.STOP)\n",
        "            pass\n",
        "stop() tells running work at once",
        ("tests/integration/test_coordinator.py::test_stop_tells_running_work_at_once_also_when_the_store_is_slow",),
    ),
    Guard(
        "stop: heartbeats during the drain",
        COORDINATOR,
        "        # 3. Drain while heartbeats and reports go on.\n",
        '        left += self._crew.stop(["heartbeat"], 0.5)\n',
        "heartbeats go on while stop() drains",
        ("tests/integration/test_coordinator.py::test_stop_lets_short_work_end_that_does_not_look",),
    ),
    Guard(
        "stop: drains",
        COORDINATOR,
        "        drained = self._window.wait_empty(until)\n",
        "        drained = True\n",
        "stop() lets short work end",
        ("tests/integration/test_coordinator.py::test_stop_lets_short_work_end_that_does_not_look",),
    ),
    Guard(
        "stop: last reports",
        COORDINATOR,
        "        while not self._claimer.idle() and clock.monotonic() < last:\n",
        "        while False:\n",
        "what ended before the end of stop() is reported",
        (
            "tests/integration/test_coordinator.py::test_stop_lets_short_work_end_that_does_not_look",
            "tests/integration/test_coordinator.py::test_stop_has_long_work_checkpointed_and_given_back",
            "tests/integration/test_coordinator.py::test_work_granted_while_stopping_is_given_back_and_never_started",
        ),
    ),
    Guard(
        "stop: steps down",
        COORDINATOR,
        "            self._parts.leader.election.step_down(STOPPING)\n",
        "            pass\n",
        "a leader that stops gives its lease up",
        (
            "tests/integration/test_coordinator.py::test_a_leader_that_stops_gives_its_lease_up_and_leaves_the_registry_at_once",
        ),
    ),
    Guard(
        "stop: leaves the registry",
        COORDINATOR,
        "            self._strategy.store.forget(self.worker_id)\n",
        "            pass\n",
        "a stopped worker is not counted",
        (
            "tests/integration/test_coordinator.py::test_a_leader_that_stops_gives_its_lease_up_and_leaves_the_registry_at_once",
        ),
    ),
    Guard(
        "loss of data: told once by every worker",
        COORDINATOR,
        "        if self._lost_mark is not None and beat.lost_mark != self._lost_mark:\n",
        "        if False:\n",
        "an idle fleet notices that the store lost its data",
        ("tests/integration/test_coordinator.py::test_an_idle_fleet_notices_every_time_that_the_store_lost_its_data",),
    ),
]
