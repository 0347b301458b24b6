"""The task window: really parallel, never more than its size, and never short of a slot because one hangs."""

from __future__ import annotations

import collections
import concurrent.futures.thread
import itertools
import logging
import random
import threading
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import pytest

from elk_coordinator.errors import ConfigError
from elk_coordinator.model import CancelReason, Outcome, Partition, PartitionStatus, Report
from elk_coordinator.testing import ManualClock, wait_until
from elk_coordinator.worker.context import Task
from elk_coordinator.worker.window import TaskWindow

LOGGER = logging.getLogger("elk_coordinator.test")
LEASE = 30.0
HANGING = [CancelReason.TIMEOUT, CancelReason.CANCELLED, CancelReason.LEASE_LOST]


def in_daemon(call: Callable[[], Any]) -> Any:
    """Do *call* in a daemon thread, as the claimer's is, and return what it returned."""
    answers: List[Any] = []
    thread = threading.Thread(target=lambda: answers.append(call()), daemon=True)
    thread.start()
    thread.join(20)
    return answers[0]


class Bench:
    """A window whose tasks do what the test says, partition by partition."""

    def __init__(self, size: int) -> None:
        self.clock = ManualClock()
        self.finished = threading.Event()
        self.work: Callable[[Task], Any] = lambda task: None
        self.window = TaskWindow("test", size, self.run, self.clock, LOGGER, self.finished)
        self.lock = threading.Lock()
        self.started: List[int] = []
        self.now = 0
        self.most = 0
        #: Let go of everything that waits in :meth:`hold`, at the latest when the test ends.
        self.gates: Dict[int, threading.Event] = collections.defaultdict(threading.Event)
        self.ids = itertools.count(1)

    def run(self, task: Task) -> Report:
        task.begin(None)
        with self.lock:
            self.started.append(task.partition.partition_id)
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            self.work(task)
        finally:
            with self.lock:
                self.now -= 1
        return Report(task.partition.partition_id, task.token, Outcome.COMPLETED)

    def hold(self, task: Task) -> None:
        """Work that lasts until the gate of its partition is opened."""
        assert self.gates[task.partition.partition_id].wait(50)

    def tasks(self, count: int, status: PartitionStatus = PartitionStatus.RUNNING, trust: float = 1e6) -> List[Task]:
        ids = [next(self.ids) for _ in range(count)]
        return [
            Task(Partition(i, i, i, status, fencing_token=10**15 + i), self.clock.monotonic() + trust, self.clock)
            for i in ids
        ]

    def offer(self, tasks: List[Task]) -> List[Task]:
        return list(in_daemon(lambda: self.window.offer(tasks)))

    def reported(self) -> List[int]:
        return [report.partition_id for _, report in self.window.take_reports(10**6)]

    def running(self) -> int:
        with self.lock:
            return self.now

    def wait_running(self, count: int) -> None:
        wait_until(lambda: self.running() == count, 10, lambda: "%d run, not %d" % (self.running(), count))

    def threads(self) -> int:
        return sum(thread.name.startswith("elk-task-test") for thread in threading.enumerate())

    def hang(self, reason: CancelReason = CancelReason.TIMEOUT) -> List[Tuple[Task, float, str]]:
        """Cancel all that runs and let a lease pass; return what was found hung."""
        for task in self.window.running():
            task.cancel(reason)
        self.clock.advance(LEASE + 0.1)
        return list(in_daemon(lambda: self.window.find_hung(LEASE)))

    def close(self) -> None:
        for i in range(1, next(self.ids) + 1):
            self.gates[i].set()
        self.window.close()


@pytest.fixture
def make() -> Iterator[Callable[[int], Bench]]:
    made: List[Bench] = []

    def build(size: int) -> Bench:
        made.append(Bench(size))
        return made[-1]

    yield build
    for bench in made:
        bench.close()


Make = Callable[[int], Bench]


# ---------------------------------------------------------------- parallel


@pytest.mark.parametrize("size", [1, 3, 64])
def test_as_many_tasks_as_the_window_is_wide_run_at_the_same_time(make: Make, size: int) -> None:
    bench = make(size)
    barrier = threading.Barrier(size)
    # Passes only when all of them are inside at once.
    bench.work = lambda task: barrier.wait(20)
    bench.offer(bench.tasks(size))
    wait_until(lambda: bench.window.unreported == size)
    assert bench.most == size
    assert not barrier.broken


@pytest.mark.parametrize("size", [1, 5])
def test_never_more_than_the_window_is_wide(make: Make, size: int) -> None:
    bench = make(size)
    bench.work = lambda task: threading.Event().wait(0.001)
    offered: List[int] = []
    for _ in range(10):
        tasks = bench.tasks(15)
        offered += [task.partition.partition_id for task in tasks]
        assert bench.offer(tasks) == []
    assert in_daemon(lambda: bench.window.wait_empty(bench.clock.monotonic() + 1)) is True
    assert bench.most == size
    assert sorted(bench.reported()) == offered


def test_every_task_is_reported_exactly_once_under_load(make: Make) -> None:
    bench = make(8)
    reports: List[int] = []

    def feed() -> None:
        for _ in range(200):
            bench.window.offer(bench.tasks(10))
            reports.extend(report.partition_id for _, report in bench.window.take_reports(7))

    in_daemon(feed)
    assert in_daemon(lambda: bench.window.wait_empty(bench.clock.monotonic() + 1)) is True
    reports += bench.reported()
    assert sorted(reports) == list(range(1, 2001))
    assert bench.window.load() == (0, 0)
    wait_until(lambda: bench.window._slots == 0)


def test_waiting_tasks_run_in_the_order_they_came(make: Make) -> None:
    bench = make(1)
    bench.offer(bench.tasks(10))
    bench.offer(bench.tasks(10))
    wait_until(lambda: bench.window.unreported == 20)
    assert bench.started == list(range(1, 21))
    assert bench.reported() == list(range(1, 21))


def test_load_tells_busy_slots_and_waiting_tasks(make: Make) -> None:
    bench = make(2)
    bench.work = bench.hold
    assert bench.window.load() == (0, 0)
    bench.offer(bench.tasks(5))
    bench.wait_running(2)
    assert bench.window.load() == (2, 3)
    bench.gates[1].set()
    wait_until(lambda: bench.window.load() == (2, 2))


# ---------------------------------------------------------------- reports


def test_an_end_sets_the_event_that_wakes_the_claimer(make: Make) -> None:
    bench = make(1)
    bench.work = bench.hold
    bench.offer(bench.tasks(1))
    bench.wait_running(1)
    assert not bench.finished.is_set()
    bench.gates[1].set()
    assert bench.finished.wait(10)
    wait_until(lambda: bench.window.unreported == 1)


def test_reports_are_taken_once_in_order_and_at_most_so_many(make: Make) -> None:
    bench = make(1)
    bench.offer(bench.tasks(5))
    wait_until(lambda: bench.window.unreported == 5)
    assert [report.partition_id for _, report in bench.window.take_reports(2)] == [1, 2]
    assert bench.window.unreported == 3
    assert bench.reported() == [3, 4, 5]
    assert bench.reported() == []


def test_a_report_that_did_not_come_from_running_wakes_too(make: Make) -> None:
    bench = make(1)
    (task,) = bench.tasks(1)
    bench.window.put_back(task, Report(1, task.token, Outcome.RELEASED))
    assert bench.finished.is_set()
    ((taken, report),) = bench.window.take_reports(10)
    assert (taken, report.outcome) == (task, Outcome.RELEASED)


def test_the_store_is_told_only_of_starts_that_it_does_not_know(make: Make) -> None:
    bench = make(3)
    bench.work = bench.hold
    (known,), (prefetched, waiting) = bench.tasks(1), bench.tasks(2, PartitionStatus.CLAIMED)
    bench.window.resize(2)
    bench.offer([known, prefetched, waiting])
    bench.wait_running(2)
    assert bench.window.unmarked(10) == [prefetched]
    assert bench.window.unmarked(0) == []
    prefetched.marked = True
    assert bench.window.unmarked(10) == []


# ---------------------------------------------------------------- taking back


def test_waiting_tasks_can_be_taken_back_and_those_kept_stay_in_order(make: Make) -> None:
    bench = make(1)
    bench.work = bench.hold
    tasks = bench.tasks(6)
    bench.offer(tasks)
    bench.wait_running(1)
    gone = bench.window.take_waiting(lambda task: task.partition.partition_id % 2 == 0)
    assert gone == [tasks[2], tasks[4]]
    assert bench.window.take_waiting() == [tasks[1], tasks[3], tasks[5]]
    assert bench.window.load() == (1, 0)


def test_no_task_falls_between_keeping_and_taking_when_the_answer_changes(make: Make) -> None:
    bench = make(1)
    bench.work = bench.hold
    tasks = bench.tasks(9)
    bench.offer(tasks)
    bench.wait_running(1)
    # As when a deadline passes between two looks.
    flip = itertools.cycle([True, False, False])
    gone = bench.window.take_waiting(lambda task: next(flip))
    left = bench.window.take_waiting()
    assert sorted(task.partition.partition_id for task in gone + left) == list(range(2, 10))


def test_find_tells_running_and_waiting_tasks_by_partition(make: Make) -> None:
    bench = make(1)
    bench.work = bench.hold
    first, second = bench.tasks(2)
    bench.offer([first, second])
    bench.wait_running(1)
    assert bench.window.find(1) is first
    assert bench.window.find(2) is second
    assert bench.window.find(3) is None


def test_held_are_running_then_waiting_without_those_whose_lease_is_lost(make: Make) -> None:
    bench = make(2)
    bench.work = bench.hold
    tasks = bench.tasks(6)
    bench.offer(tasks)
    bench.wait_running(2)
    assert bench.window.held() == tasks
    tasks[0].cancel(CancelReason.LEASE_LOST)
    tasks[3].cancel(CancelReason.LEASE_LOST)
    tasks[1].cancel(CancelReason.STOP)
    assert bench.window.held() == [tasks[1], tasks[2], tasks[4], tasks[5]], "a stop still renews"


# ---------------------------------------------------------------- size


@pytest.mark.parametrize("daemon", [True, False])
def test_a_larger_window_starts_what_waits_at_once_and_wakes_the_claimer(make: Make, daemon: bool) -> None:
    bench = make(2)
    bench.work = bench.hold
    bench.offer(bench.tasks(6))
    bench.wait_running(2)
    bench.finished.clear()
    if daemon:
        in_daemon(lambda: bench.window.resize(5))
    else:
        assert not threading.current_thread().daemon
        bench.window.resize(5)
    bench.wait_running(5)
    assert bench.finished.is_set()
    assert bench.window.load() == (5, 1)
    assert bench.started == [1, 2, 3, 4, 5]
    pool = [thread for thread in threading.enumerate() if thread.name.startswith("elk-task-test")]
    assert pool and all(thread.daemon for thread in pool)


def test_a_smaller_window_lets_tasks_end_and_then_keeps_its_size(make: Make) -> None:
    bench = make(5)
    bench.work = bench.hold
    bench.offer(bench.tasks(12))
    bench.wait_running(5)
    bench.finished.clear()
    bench.window.resize(2)
    assert bench.finished.is_set() and bench.window.has_shrunk() and not bench.window.has_shrunk()
    for i in (1, 2, 3):
        bench.gates[i].set()
        wait_until(lambda i=i: bench.window.unreported == i)
        bench.offer([])
    assert bench.started == [1, 2, 3, 4, 5], "three ended and none was started"
    for i in range(4, 13):
        bench.gates[i].set()
        with bench.lock:
            bench.most = bench.now
    wait_until(lambda: bench.window.unreported == 12)
    assert bench.most <= 2
    assert sorted(bench.reported()) == list(range(1, 13))


def test_a_window_that_grew_beyond_what_it_was_made_with_is_as_wide_as_it_says(make: Make) -> None:
    bench = make(1)
    bench.work = bench.hold
    bench.offer(bench.tasks(40))
    bench.window.resize(30)
    bench.wait_running(30)
    bench.window.resize(40)
    bench.wait_running(40)


def test_resized_at_random_under_load_it_never_runs_more_than_its_largest_size_and_loses_nothing(make: Make) -> None:
    bench = make(4)
    rng = random.Random(5)
    tasks = bench.tasks(400)
    sizes = [4]
    for start in range(0, 400, 10):
        bench.offer(tasks[start : start + 10])
        sizes.append(rng.randint(1, 8))
        bench.window.resize(sizes[-1])
    wait_until(lambda: bench.window.unreported == 400)
    assert sorted(bench.reported()) == list(range(1, 401))
    assert bench.most <= max(sizes)


@pytest.mark.parametrize("size", [0, -1, 1001, 2.5, True, None, "3", float("nan")])
def test_a_size_that_is_no_size_is_refused_and_changes_nothing(make: Make, size: Any) -> None:
    bench = make(2)
    with pytest.raises(ConfigError, match="task_window_size: must be a whole number from 1 to 1000"):
        bench.window.resize(size)
    assert bench.window.size == 2 and not bench.finished.is_set()


# ---------------------------------------------------------------- hung


@pytest.mark.parametrize("reason", HANGING)
def test_hung_is_what_still_runs_a_lease_after_its_cancellation(make: Make, reason: CancelReason) -> None:
    bench = make(2)
    bench.work = bench.hold
    (task,) = bench.tasks(1)
    bench.offer([task])
    bench.wait_running(1)
    bench.clock.advance(10 * LEASE)
    assert in_daemon(lambda: bench.window.find_hung(LEASE)) == [], "long work is not hung"
    task.cancel(reason)
    bench.clock.advance(LEASE)
    assert in_daemon(lambda: bench.window.find_hung(LEASE)) == []
    bench.clock.advance(0.5)
    bench.finished.clear()
    ((found, seconds, stack),) = in_daemon(lambda: bench.window.find_hung(LEASE))
    assert found is task and task.abandoned
    assert seconds == LEASE + 0.5
    assert "in hold" in stack and "wait(50)" in stack, "the stack says where it hangs"
    assert bench.window.hung == 1
    assert bench.finished.is_set(), "the claimer has a free slot again"
    assert bench.window.held() == [], "no more renewals"
    assert in_daemon(lambda: bench.window.find_hung(LEASE)) == [], "told once"


def test_a_lease_that_ran_out_by_the_clock_counts_from_its_end(make: Make) -> None:
    bench = make(1)
    bench.work = bench.hold
    bench.offer(bench.tasks(1, trust=27.0))
    bench.wait_running(1)
    bench.clock.advance(27.0 + LEASE)
    assert in_daemon(lambda: bench.window.find_hung(LEASE)) == []
    bench.clock.advance(0.1)
    assert len(in_daemon(lambda: bench.window.find_hung(LEASE))) == 1


def test_a_stop_makes_nothing_hung(make: Make) -> None:
    bench = make(1)
    bench.work = bench.hold
    bench.offer(bench.tasks(1))
    bench.wait_running(1)
    assert bench.hang(CancelReason.STOP) == []


def test_the_slot_of_a_hung_task_is_replaced_and_a_waiting_task_gets_it_at_once(make: Make) -> None:
    bench = make(1)
    bench.work = bench.hold
    bench.offer(bench.tasks(3))
    bench.wait_running(1)
    assert len(bench.hang()) == 1
    bench.wait_running(2)
    assert bench.started == [1, 2]
    assert bench.window.load() == (1, 1), "the hung one is not counted"


def test_at_most_the_windows_size_of_extra_threads_then_it_is_exhausted(make: Make) -> None:
    bench = make(3)
    bench.work = bench.hold
    bench.offer(bench.tasks(20))
    bench.wait_running(3)
    assert len(bench.hang()) == 3
    bench.wait_running(6)
    assert not bench.window.exhausted, "each hung slot was replaced"
    assert bench.window.load() == (3, 14)
    assert len(bench.hang()) == 3
    assert bench.window.exhausted
    assert bench.window.hung == 6
    bench.offer(bench.tasks(5))
    assert bench.window.load() == (0, 19)
    assert (bench.running(), bench.threads()) == (6, 6), "twice the size, however much waits"


def test_one_hung_task_too_many_costs_one_slot_not_all(make: Make) -> None:
    bench = make(2)
    bench.work = bench.hold
    bench.offer(bench.tasks(10))
    bench.wait_running(2)
    bench.hang()
    bench.wait_running(4)
    bench.window.find(3).cancel(CancelReason.TIMEOUT)  # type: ignore[union-attr]
    bench.clock.advance(LEASE + 1)
    assert len(in_daemon(lambda: bench.window.find_hung(LEASE))) == 1
    assert bench.window.exhausted
    bench.gates[4].set()
    wait_until(lambda: 5 in bench.started)
    assert bench.running() == 4, "three hang, one slot goes on with what was claimed already"
    assert bench.most == 4


def test_a_task_that_comes_back_late_is_reported_and_its_thread_ends(make: Make) -> None:
    bench = make(2)
    bench.work = bench.hold
    bench.offer(bench.tasks(8))
    bench.wait_running(2)
    bench.hang()
    bench.wait_running(4)
    bench.gates[1].set()
    wait_until(lambda: bench.window.hung == 1)
    assert bench.reported() == [1]
    bench.wait_running(3)
    bench.gates[2].set()
    wait_until(lambda: bench.window.hung == 0)
    bench.wait_running(2)
    assert bench.started == [1, 2, 3, 4], "the thread that was one too many took nothing new"
    with bench.lock:
        bench.most = bench.now
    for i in range(3, 9):
        bench.gates[i].set()
    wait_until(lambda: bench.window.unreported == 7)
    assert bench.most <= 2
    assert sorted(bench.reported()) == [2, 3, 4, 5, 6, 7, 8]
    wait_until(lambda: bench.window._slots == 0)


def test_a_window_whose_hung_tasks_came_back_is_exhausted_no_more(make: Make) -> None:
    bench = make(1)
    bench.work = bench.hold
    bench.offer(bench.tasks(4))
    bench.wait_running(1)
    bench.hang()
    bench.wait_running(2)
    bench.hang()
    assert bench.window.exhausted
    bench.finished.clear()
    bench.gates[1].set()
    wait_until(lambda: not bench.window.exhausted)
    assert bench.finished.wait(10), "the claimer hears of it"
    bench.offer([])
    wait_until(lambda: 3 in bench.started)
    assert bench.running() == 2


# ---------------------------------------------------------------- how long tasks take


def test_the_mean_is_that_of_the_tasks_that_ended(make: Make) -> None:
    bench = make(1)
    assert bench.window.mean_seconds() is None
    bench.work = lambda task: bench.clock.advance(0.5 if task.partition.partition_id == 1 else 1.5)
    bench.offer(bench.tasks(2))
    wait_until(lambda: bench.window.unreported == 2)
    assert bench.window.mean_seconds() == pytest.approx(1.0)


def test_a_slot_that_is_busy_for_long_says_that_the_mean_is_too_small(make: Make) -> None:
    bench = make(1)
    bench.offer(bench.tasks(1))
    wait_until(lambda: bench.window.unreported == 1)
    assert bench.window.mean_seconds() == pytest.approx(0.0)
    bench.work = bench.hold
    (task,) = bench.tasks(1)
    bench.offer([task])
    bench.wait_running(1)
    bench.clock.advance(40)
    assert bench.window.mean_seconds() == pytest.approx(10.0)
    bench.hang()
    assert bench.window.mean_seconds() == pytest.approx(0.0), "a hung one says nothing"


def test_the_mean_forgets_the_past_by_halves(make: Make) -> None:
    bench = make(1)
    bench.work = lambda task: bench.clock.advance(1.0)
    bench.offer(bench.tasks(600))
    wait_until(lambda: bench.window.unreported == 600)
    assert bench.window.mean_seconds() == pytest.approx(1.0)
    bench.work = lambda task: None
    bench.offer(bench.tasks(300))
    wait_until(lambda: bench.window.unreported == 900)
    assert bench.window.mean_seconds() == pytest.approx(0.5)


def test_a_task_given_back_without_having_run_does_not_count(make: Make) -> None:
    bench = make(1)
    window = TaskWindow(
        "test", 1, lambda task: Report(1, task.token, Outcome.RELEASED), bench.clock, LOGGER, bench.finished
    )
    try:
        in_daemon(lambda: window.offer(bench.tasks(3)))
        wait_until(lambda: window.unreported == 3)
        assert window.mean_seconds() is None
    finally:
        window.close()


# ---------------------------------------------------------------- the end


def test_tasks_are_taken_from_daemon_threads_only(make: Make) -> None:
    bench = make(1)
    raised: List[Optional[BaseException]] = []

    def offer() -> None:
        try:
            bench.window.offer(bench.tasks(1))
        except RuntimeError as exc:
            raised.append(exc)

    thread = threading.Thread(target=offer, daemon=False)
    thread.start()
    thread.join(10)
    offer()  # the main thread, which is none either
    assert ["daemon thread" in str(exc) for exc in raised] == [True, True]
    assert bench.window.load() == (0, 0)
    assert bench.threads() == 0


def test_the_threads_of_the_pool_are_daemons(make: Make) -> None:
    bench = make(3)
    daemons: List[bool] = []
    bench.work = lambda task: daemons.append(threading.current_thread().daemon)
    bench.offer(bench.tasks(20))
    wait_until(lambda: bench.window.unreported == 20)
    assert daemons == [True] * 20


@pytest.mark.parametrize("hanging", [False, True])
def test_stopping_tells_all_that_runs_and_starts_nothing_more(make: Make, hanging: bool) -> None:
    bench = make(2)
    bench.work = bench.hold
    tasks = bench.tasks(5)
    bench.offer(tasks)
    bench.wait_running(2)
    if hanging:
        tasks[0].cancel(CancelReason.TIMEOUT)
    bench.window.cancel_all(CancelReason.STOP)
    assert tasks[1].reason() is CancelReason.STOP
    assert tasks[0].reason() is (CancelReason.TIMEOUT if hanging else CancelReason.STOP)
    assert tasks[2].reason() is None, "it goes back unstarted"
    late = bench.tasks(2)
    assert bench.offer(late) == late, "a claim that the stop overtook is handed back to who offers it"
    bench.gates[1].set()
    bench.gates[2].set()
    wait_until(lambda: bench.window.unreported == 2)
    wait_until(lambda: bench.window._slots == 0)
    assert bench.started == [1, 2]
    assert bench.window.take_waiting() == tasks[2:]


def test_wait_empty_waits_for_what_runs_and_what_waits(make: Make) -> None:
    bench = make(1)
    assert bench.window.wait_empty(bench.clock.monotonic()) is True
    bench.work = bench.hold
    bench.offer(bench.tasks(2))
    bench.wait_running(1)
    assert bench.window.wait_empty(bench.clock.monotonic()) is False
    answers: List[bool] = []
    until = bench.clock.monotonic() + 100
    thread = threading.Thread(target=lambda: answers.append(bench.window.wait_empty(until)), daemon=True)
    thread.start()
    bench.gates[1].set()
    wait_until(lambda: bench.window.load() == (1, 0))
    assert answers == []
    bench.gates[2].set()
    thread.join(10)
    assert answers == [True]


def test_wait_empty_ends_when_its_time_is_over(make: Make) -> None:
    bench = make(1)
    bench.work = bench.hold
    bench.offer(bench.tasks(1))
    bench.wait_running(1)
    answers: List[bool] = []
    until = bench.clock.monotonic() + 100
    thread = threading.Thread(target=lambda: answers.append(bench.window.wait_empty(until)), daemon=True)
    thread.start()
    bench.clock.advance(100)
    bench.window.wake_waiters()
    thread.join(10)
    assert answers == [False]


def test_wait_empty_does_not_wait_for_hung_tasks(make: Make) -> None:
    bench = make(2)
    bench.work = bench.hold
    bench.offer(bench.tasks(2))
    bench.wait_running(2)
    bench.gates[1].set()
    wait_until(lambda: bench.window.unreported == 1)
    assert not bench.window.wait_empty(bench.clock.monotonic())
    bench.hang()
    assert bench.window.wait_empty(bench.clock.monotonic()) is True


def test_closing_returns_what_still_runs_and_lets_the_threads_go(make: Make) -> None:
    bench = make(3)
    bench.work = bench.hold
    tasks = bench.tasks(3)
    bench.offer(tasks)
    bench.wait_running(3)
    bench.gates[3].set()
    wait_until(lambda: bench.window.unreported == 1)
    queues = concurrent.futures.thread._threads_queues  # type: ignore[attr-defined]

    def joined_at_exit() -> int:
        return sum(thread.name.startswith("elk-task-test") and thread.is_alive() for thread in list(queues))

    assert joined_at_exit() == 3
    assert bench.window.close() == tasks[:2]
    assert joined_at_exit() == 0, "the interpreter would wait for them"
    assert bench.offer(bench.tasks(1)) != []
    for i in (1, 2):
        bench.gates[i].set()
    wait_until(lambda: bench.threads() == 0)
    assert sorted(bench.reported()) == [1, 2, 3], "what ends after closing can still be reported"
    assert bench.window.close() == []


def test_a_thread_knows_whether_it_runs_a_task_of_the_window(make: Make) -> None:
    bench = make(1)
    answers: List[bool] = []
    bench.work = lambda task: answers.append(bench.window.is_mine())
    bench.offer(bench.tasks(1))
    wait_until(lambda: bench.window.unreported == 1)
    assert answers == [True]
    assert bench.window.is_mine() is False
