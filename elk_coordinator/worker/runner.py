"""Runs the user's processor on one partition and decides what its end means: the outcome table of the contract."""

from __future__ import annotations

import logging
import os
import traceback
from typing import Any, Callable, Dict, Optional

from elk_coordinator.config import CoordinatorConfig
from elk_coordinator.errors import ConfigError, PermanentError, TaskInterrupted
from elk_coordinator.model import CancelReason, Outcome, Report
from elk_coordinator.partition.codec import clip_error
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.runtime.events import Events
from elk_coordinator.runtime.lifecycle import end_stray_child
from elk_coordinator.runtime.logs import about
from elk_coordinator.runtime.retry import backoff_delay
from elk_coordinator.worker.circuit_breaker import BreakerState, CircuitBreaker, Permit
from elk_coordinator.worker.context import Saver, Task, TaskContext, cancelled_text

Process = Callable[[Any, int, int, Dict[str, Any]], Optional[int]]


def processor_function(processor: Any) -> Process:
    """Return the callable behind a processor: its ``process`` method, or itself.

    :raises ConfigError: when it is neither.
    """
    method = getattr(processor, "process", None)
    if isinstance(processor, type):
        raise ConfigError("processor: pass an instance of %s, not the class" % processor.__name__)
    if callable(method):
        return method  # type: ignore[no-any-return]
    if callable(processor):
        return processor  # type: ignore[no-any-return]
    raise ConfigError(
        "processor: needs a method process(ctx, min_id, max_id, options), or must be such a function; got %r"
        % (processor,)
    )


class Runner:
    """Runs tasks. Called by several threads of the window at the same time."""

    def __init__(
        self,
        process: Process,
        namespace: str,
        worker_id: str,
        config: CoordinatorConfig,
        clock: Clock,
        events: Events,
        save: Saver,
        breaker: Optional[CircuitBreaker],
        logger: logging.Logger,
    ) -> None:
        self._process = process
        self._namespace = namespace
        self._worker_id = worker_id
        self._config = config
        self._clock = clock
        self._events = events
        self._save = save
        self._breaker = breaker
        self._logger = logger

    def run(self, task: Task) -> Report:
        """Run the processor and return what to report; never raises, whatever user code does."""
        if self._breaker is not None and task.permit is not None and not self._breaker.current(task.permit):
            # The breaker opened while the task waited for its slot: nothing may start, no attempt is burnt.
            self._breaker.give_back(task.permit)
            return self._report(task, Outcome.RELEASED)
        try:
            return self._run(task)
        except BaseException as exc:
            # Not the processor, whose errors are caught below: a log handler of the user's, say.
            report = self._failed(task, _text(exc))
            if self._breaker is not None and task.permit is not None:
                self._breaker.give_back(task.permit)
            return report

    def _run(self, task: Task) -> Report:
        partition = task.partition
        options = dict(partition.options)
        options["partition_id"] = partition.partition_id
        options["worker_id"] = self._worker_id
        context = TaskContext(task, self._namespace, self._worker_id, options, self._save, self._refused)
        task.begin(self._config.task_timeout)
        self._events.emit(
            "task_started", partition_id=partition.partition_id, token=task.token, attempt=partition.attempt + 1
        )
        result: Any = None
        error: Optional[BaseException] = None
        home = os.getpid()
        try:
            if context.min_id > partition.max_id:
                # An earlier attempt saved all of it and ended before it could say so: no ID is left to process.
                if self._breaker is not None and task.permit is not None:
                    self._breaker.give_back(task.permit)
            elif task.reason() is not None:
                # Cancelled before it began, or frozen between claim and start: somebody else may have it by now.
                task.seen = True
            else:
                if self._breaker is not None:
                    self._breaker.hold(task.permit)
                result = self._process(context, context.min_id, partition.max_id, options)
        except BaseException as exc:
            # SystemExit and friends end the attempt, never a thread of ours.
            error = exc
        finally:
            # Before anything that takes a lock: another thread of the parent may have held it at the fork.
            end_stray_child(home, self._logger)
            if self._breaker is not None:
                self._breaker.hold(None)
        # Work that ends as soon as it is cancelled is gone before the heartbeat looks.
        task.tell_loss(self._events.emit, self._logger)
        report = self._judge(task, result, error)
        self._settle(task, report)
        self._events.emit(
            "task_finished",
            partition_id=partition.partition_id,
            token=task.token,
            outcome=report.outcome,
            seconds=self._clock.monotonic() - (task.started_at or 0.0),
            processed=report.processed - partition.processed if report.outcome is Outcome.COMPLETED else 0,
            error_type=type(error).__name__ if error is not None else "",
        )
        return report

    def _judge(self, task: Task, result: Any, error: Optional[BaseException]) -> Report:
        reason = task.reason()
        # The reason counts when the attempt ended because of it: it broke off, or returned after it had seen it.
        if error is None:
            if not task.seen or task.saved == task.partition.max_id:
                return self._report(task, Outcome.COMPLETED, task.partition.processed + self._count(task, result))
            return self._interrupted(task, reason)
        if isinstance(error, TaskInterrupted) and reason is not None:
            return self._interrupted(task, reason)
        if isinstance(error, PermanentError):
            return self._report(task, Outcome.PERMANENT, 0, _text(error))
        if reason in (CancelReason.STOP, CancelReason.CANCELLED):
            return self._interrupted(task, reason)
        return self._failed(task, _text(error))

    def _interrupted(self, task: Task, reason: Optional[CancelReason]) -> Report:
        if reason is CancelReason.TIMEOUT:
            return self._failed(task, "timed out after %g s" % (self._config.task_timeout or 0.0))
        if reason is CancelReason.CANCELLED:
            return self._report(task, Outcome.CANCELLED, 0, cancelled_text(task))
        if reason is CancelReason.LEASE_LOST:
            return self._report(task, Outcome.LOST)
        return self._report(task, Outcome.RELEASED)

    def _failed(self, task: Task, error: str) -> Report:
        delay = backoff_delay(task.partition.attempt + 1, *self._config.retry_backoff)
        if self._system_is_down(task):
            return self._report(task, Outcome.RELEASED, 0, error, delay)
        return self._report(task, Outcome.ERROR, 0, error, delay)

    def _system_is_down(self, task: Task) -> bool:
        """Return whether a failure tells about the user's system and not about the partition: no attempt is burnt.

        So it is for a probe, and for what began before the breaker opened and fails while it is open.
        """
        permit: Optional[Permit] = task.permit
        if permit is None or self._breaker is None:
            return False
        return permit.probe or (not self._breaker.current(permit) and self._breaker.state is BreakerState.OPEN)

    def _report(
        self, task: Task, outcome: Outcome, processed: int = 0, error: Optional[str] = None, delay: float = 0.0
    ) -> Report:
        return Report(task.partition.partition_id, task.token, outcome, processed, error, delay)

    def _count(self, task: Task, result: Any) -> int:
        if result is None:
            return task.saved_processed
        if isinstance(result, bool) or not isinstance(result, int) or not 0 <= result < 2**53:
            # Its type, not its value: that may be a million rows.
            what = "a number that is no count" if type(result) is int else type(result).__name__
            self._logger.warning(
                "partition %d: process() returned %s; it must return a count from 0 on, or None: counted as %d",
                task.partition.partition_id, what, task.saved_processed,
                extra=about(partition_id=task.partition.partition_id, token=task.token),
            )  # fmt: skip
            return task.saved_processed
        return result

    def _settle(self, task: Task, report: Report) -> None:
        permit: Optional[Permit] = task.permit
        if permit is None or self._breaker is None:
            return
        if report.outcome is Outcome.COMPLETED:
            self._breaker.success(permit)
        elif report.outcome is Outcome.ERROR or (permit.probe and report.error is not None
                                                 and report.outcome is Outcome.RELEASED):  # fmt: skip
            self._breaker.failure(permit, report.partition_id, (report.error or "").rstrip().rpartition("\n")[2])
        else:
            self._breaker.give_back(permit)

    def _refused(self, task: Task, what: str) -> None:
        self._events.emit("write_refused", partition_id=task.partition.partition_id, token=task.token, what=what)


def _text(error: BaseException) -> str:
    """Return the traceback without our own frames, clipped to its end."""
    try:
        frames = traceback.extract_tb(error.__traceback__)[1:]
        shown = "".join(traceback.format_list(frames) + traceback.format_exception_only(type(error), error))
    except Exception:
        # Formatting runs user code (__str__), which may be what is broken.
        shown = type(error).__name__
    return clip_error(shown)
