"""The task window: a bounded number of partitions running at the same time on a ThreadPoolExecutor.

The pool is made once, larger than the window ever gets; the window is *our* count of busy slots. So resizing is a
number, and a hung slot is one that is no longer counted. A slot runs one waiting task after the other and ends when
none is left: no hand-off between two short tasks.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Deque, Dict, List, Optional, Tuple

from elk_coordinator.config import LARGEST_WINDOW, check_window_size
from elk_coordinator.model import CancelReason, Report
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.runtime.lifecycle import abandon
from elk_coordinator.runtime.threads import has_phantoms, spawn
from elk_coordinator.worker.context import Task

#: Threads of the pool: this many times the largest window, so that replaced slots find one.
POOL_FACTOR = 4
_HANGING = (CancelReason.TIMEOUT, CancelReason.CANCELLED, CancelReason.LEASE_LOST)


class TaskWindow:
    """Holds the tasks of one worker: those waiting for a slot, those running, and the reports of those that ended.

    Thread-safe. New tasks must come from a daemon thread (pool threads inherit that), which :meth:`offer` checks.
    """

    def __init__(
        self,
        namespace: str,
        size: int,
        run: Callable[[Task], Report],
        clock: Clock,
        logger: logging.Logger,
        finished: threading.Event,
    ) -> None:
        self._size = size
        self._namespace = namespace
        self._shrunk = False
        self._run = run
        self._clock = clock
        self._logger = logger
        self._finished_event = finished
        self._lock = threading.Lock()
        self._waiting: Deque[Task] = deque()
        self._running: Dict[int, Task] = {}
        self._reports: Deque[Tuple[Task, Report]] = deque()
        self._slots = 0
        self._hung = 0
        self._done = 0
        self._busy = 0.0
        self._ending = False
        self._idle = threading.Condition(self._lock)
        # Made for the largest window there may ever be: a bound costs nothing, threads are made as they are needed.
        self._pool = ThreadPoolExecutor(
            max_workers=POOL_FACTOR * LARGEST_WINDOW, thread_name_prefix="elk-task-%s" % namespace
        )

    # ---------------------------------------------------------------- size

    @property
    def size(self) -> int:
        """Tasks that may run at the same time."""
        return self._size

    def resize(self, size: int) -> None:
        """Change how many tasks may run at the same time, now and in any thread.

        Larger: waiting tasks start at once, and the claimer is woken to get more. Smaller: what runs may end, nothing
        starts until fewer than *size* run, and the claimer gives back what waits beyond that.

        :raises ConfigError: when *size* is no whole number from 1 to ``LARGEST_WINDOW``; nothing is changed.
        """
        size = check_window_size(size)
        with self._lock:
            self._shrunk = self._shrunk or size < self._size
            self._size = size
            self._idle.notify_all()
        if threading.current_thread().daemon:
            self._fill()
        else:
            # Threads of the pool inherit being a daemon from whoever makes them start.
            spawn("elk-resize-%s" % self._namespace, self._fill)
        self._finished_event.set()

    def has_shrunk(self) -> bool:
        """Return whether the window was made smaller since the last call; asked by the claimer alone."""
        with self._lock:
            shrunk, self._shrunk = self._shrunk, False
            return shrunk

    # ---------------------------------------------------------------- from the claimer

    def offer(self, tasks: List[Task]) -> List[Task]:
        """Take granted tasks; run as many as there are free slots, keep the rest waiting in order.

        :return: the tasks not taken: all of them once the window is ending, else none.
        """
        if not threading.current_thread().daemon:
            # Pool threads would inherit it and hold the interpreter at exit.
            raise RuntimeError("tasks must be offered from a daemon thread")
        with self._lock:
            if self._ending:
                return tasks
            self._waiting.extend(tasks)
        self._fill()
        return []

    def _fill(self) -> None:
        """Start a slot for every waiting task that may have one; the size may have grown, a slot may have been lost."""
        with self._lock:
            new = 0 if self._ending else max(0, min(self._most() - self._slots, len(self._waiting)))
            self._slots += new
        for _ in range(new):
            self._pool.submit(self._slot)

    def _most(self) -> int:
        """Return the slots there may be now: the size, less the hung ones beyond what may be replaced."""
        return self.size - max(0, self._hung - self.size)

    def take_reports(self, limit: int) -> List[Tuple[Task, Report]]:
        """Return what ended since the last call, at most *limit*."""
        out: List[Tuple[Task, Report]] = []
        while self._reports and len(out) < limit:
            out.append(self._reports.popleft())
        return out

    def put_back(self, task: Task, report: Report) -> None:
        """Add a report that did not come from running: a task given back unstarted, say."""
        self._reports.append((task, report))
        self._finished_event.set()

    def take_waiting(self, keep: Optional[Callable[[Task], bool]] = None) -> List[Task]:
        """Remove and return the waiting tasks, except those that *keep* wants to stay."""
        with self._lock:
            gone: List[Task] = []
            kept: Deque[Task] = deque()
            for task in self._waiting:
                # Asked once: a deadline may pass between two answers.
                (kept if keep is not None and keep(task) else gone).append(task)
            self._waiting = kept
            self._idle.notify_all()
        return gone

    def unmarked(self, limit: int) -> List[Task]:
        """Return running tasks whose start the store has not been told."""
        with self._lock:
            return [task for task in self._running.values() if not task.marked][:limit]

    def load(self) -> Tuple[int, int]:
        """Return the busy slots and the waiting tasks."""
        with self._lock:
            return len(self._running) - self._hung, len(self._waiting)

    def oldest_waiting(self) -> Optional[float]:
        """Return when (monotonic) the task that waits longest for a slot was granted; None when none waits."""
        with self._lock:
            return self._waiting[0].granted_at if self._waiting else None

    def mean_seconds(self) -> Optional[float]:
        """Return how long tasks took lately, None before the first; halves its memory now and then to stay recent."""
        with self._lock:
            if not self._done:
                return None
            mean = self._busy / self._done
            if self._done >= 512:
                self._done, self._busy = self._done // 2, self._busy / 2
            # A slot that has been busy for longer than the mean says the mean is too small.
            now = self._clock.monotonic()
            for task in self._running.values():
                if task.started_at is not None and not task.abandoned:
                    mean = max(mean, (now - task.started_at) / 4)
            return mean

    # ---------------------------------------------------------------- the slots

    def _slot(self) -> None:
        task: Optional[Task] = None
        report: Optional[Report] = None
        while True:
            with self._lock:
                if task is not None and report is not None:
                    # One step: a task is either running or reported, never both and never neither.
                    del self._running[task.token]
                    self._reports.append((task, report))
                    if task.started_at is not None:
                        self._done += 1
                        self._busy += self._clock.monotonic() - task.started_at
                    if not self._finished_event.is_set():
                        self._finished_event.set()
                    if task.abandoned:
                        # Its slot was replaced while it hung: this thread is one too many now.
                        self._hung -= 1
                        self._idle.notify_all()
                        return
                if not self._waiting or self._slots > self._most() or self._ending:
                    self._slots -= 1
                    self._idle.notify_all()
                    return
                task = self._waiting.popleft()
                self._running[task.token] = task
            report = self._run(task)

    # ---------------------------------------------------------------- from the heartbeat

    def held(self) -> List[Task]:
        """Return every task this worker holds: running first, then waiting; hung and lost ones are not renewed."""
        with self._lock:
            tasks = list(self._running.values()) + list(self._waiting)
        return [task for task in tasks if not task.abandoned and not task.lost()]

    def find_hung(self, lease: float) -> List[Tuple[Task, float, str]]:
        """Return tasks newly found hung: task, seconds since its cancellation, stack. Their slots are replaced.

        Hung is what still runs one lease after it was cancelled for TIMEOUT, CANCELLED or LEASE_LOST.
        """
        out = []
        now = self._clock.monotonic()
        with self._lock:
            for task in self._running.values():
                if not task.abandoned and task.reason() in _HANGING and now - task.since() > lease:
                    task.abandoned = True
                    self._hung += 1
                    self._slots -= 1
                    out.append((task, now - task.since(), _stack(task.thread_id)))
            if out:
                self._idle.notify_all()
        if out:
            self._fill()
            self._finished_event.set()
        return out

    @property
    def hung(self) -> int:
        """Slots lost to hung tasks so far (those that came back are no longer counted)."""
        return self._hung

    @property
    def exhausted(self) -> bool:
        """Whether so many tasks hang that no slot may be replaced any more."""
        return self._hung > self.size

    # ---------------------------------------------------------------- stop

    def cancel_all(self, reason: CancelReason) -> None:
        """Tell every running task to end, and start no other."""
        with self._lock:
            self._ending = True
            tasks = list(self._running.values())
        for task in tasks:
            task.cancel(reason)

    def running(self) -> List[Task]:
        """Return the tasks that run now, hung ones included."""
        with self._lock:
            return list(self._running.values())

    def find(self, partition_id: int) -> Optional[Task]:
        """Return the task for a partition, running or waiting."""
        with self._lock:
            for task in list(self._running.values()) + list(self._waiting):
                if task.partition.partition_id == partition_id:
                    return task
        return None

    def wait_empty(self, until: float) -> bool:
        """Wait until no task runs or waits, at most until the monotonic instant *until*; hung ones do not count."""
        with self._lock:
            while len(self._running) > self._hung or self._waiting:
                left = until - self._clock.monotonic()
                if left <= 0:
                    return False
                self._idle.wait(min(left, 1.0))
        return True

    def wake_waiters(self) -> None:
        """Have :meth:`wait_empty` look again."""
        with self._lock:
            self._idle.notify_all()

    def is_mine(self) -> bool:
        """Return whether the calling thread runs a task of this window."""
        me = threading.get_ident()
        with self._lock:
            return any(task.thread_id == me for task in self._running.values())

    @property
    def unreported(self) -> int:
        """Ended tasks whose reports were not taken yet."""
        return len(self._reports)

    def close(self) -> List[Task]:
        """Take no more tasks and let the pool go without waiting; return what still runs."""
        with self._lock:
            self._ending = True
            left = list(self._running.values())
        self._pool.shutdown(wait=False)
        if left:
            abandon(self._pool)
        return left


def _stack(thread_id: Optional[int]) -> str:
    if has_phantoms():
        return "(cannot be read safely: this process was forked unannounced from one with threads)"
    frame = sys._current_frames().get(thread_id or 0)
    return "".join(traceback.format_stack(frame)) if frame is not None else "(the thread is gone)"
