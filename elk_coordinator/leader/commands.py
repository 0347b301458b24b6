"""Commands: the leader carries out what operators asked for, in order of submission, one atomic step after another."""

from __future__ import annotations

import logging
from typing import Callable, Optional

from elk_coordinator.errors import ElkError, LeaseLost, StoreError, StoreUnavailable
from elk_coordinator.model import Sweep
from elk_coordinator.partition.commands import CommandStore, Job
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.runtime.events import Events
from elk_coordinator.runtime.logs import about
from elk_coordinator.runtime.threads import Role

#: Seconds between two looks for commands that ended more than a day ago.
EXPIRE_INTERVAL = 600.0
#: Longest pause; a hint or recovery's once-a-second look ends it at once.
IDLE = 60.0


class Commands(Role):
    """Carries out commands while leading.

    Rate policy: one step a turn, turn after turn while there is something to do; else it waits for the hint of a new
    command, or for the once-a-second look of recovery to find one. Idle, it asks the store once in ten minutes.
    """

    name = "commands"

    def __init__(
        self,
        store: CommandStore,
        term: Callable[[], Optional[int]],
        clock: Clock,
        logger: logging.Logger,
        stuck_after: float,
        events: Optional[Events] = None,
    ) -> None:
        super().__init__()
        self._store = store
        self._term = term
        self._clock = clock
        self._logger = logger
        self._events = events
        #: The command whose end has not been told yet.
        self._current: Optional[str] = None
        self._seen_term: Optional[int] = None
        self._waiting = False
        self._expire_at = 0.0
        self.stuck_after = stuck_after

    def hint(self) -> None:
        """Hear that a command may have been queued."""
        self._waiting = True
        self.wake.set()

    def on_sweep(self, sweep: Sweep) -> None:
        """Hear what the once-a-second look found; called by the recovery thread."""
        if sweep.commands:
            self.hint()

    def run_once(self) -> Optional[Job]:
        """Do one step of the oldest command, if this worker leads; return the command as it was before."""
        term = self._term()
        if term is None:
            self._seen_term = self._current = None
            return None
        if term != self._seen_term:
            # Whatever the leader of before left undone goes on behind its last step.
            self._seen_term, self._waiting, self._expire_at = term, True, 0.0
        job: Optional[Job] = None
        try:
            if self._waiting:
                self._waiting = False
                try:
                    job = self._store.first()
                    self._tell_end(job)
                    if job is not None:
                        self._waiting = True
                        self._carry_on(term, job)
                except StoreError:
                    self._waiting = True
                    raise
            now = self._clock.monotonic()
            if job is None and now >= self._expire_at:
                full = self._store.expire(term) > 0
                self._expire_at = now if full else now + EXPIRE_INTERVAL
        except LeaseLost as exc:
            # The election learns it by itself; whoever leads now carries on.
            self._logger.debug("commands: %s", exc)
            # It may take some seconds to learn it: recovery's look, once a second, is often enough to ask again.
            self._waiting, self._expire_at = False, self._clock.monotonic() + 1.0
            return None
        return job

    def _tell_end(self, first: Optional[Job]) -> None:
        """Tell what became of the command that was the first one, once another is or none."""
        ended, self._current = self._current, None if first is None else first.command_id
        if self._events is None or ended is None or ended == self._current:
            return
        try:
            job = self._store.get(ended)
        except StoreUnavailable:
            self._current = ended
            raise
        except ElkError:
            return  # the next command must not wait for what is only told
        if job is not None:
            self._events.emit(
                "command_ended", command_id=ended, command=job.kind, by=job.by, state=job.state, changed=job.done,
                error=job.error,
            )  # fmt: skip

    def _carry_on(self, term: int, job: Job) -> None:
        if job.state == "queued":
            extra = about(command_id=job.command_id, term=term)
            self._logger.info("command %s: %s, by %s", job.command_id, job.kind, job.by, extra=extra)
        try:
            self._store.step(term, job)
        except (LeaseLost, StoreUnavailable):
            raise
        except ElkError as exc:
            extra = about("command_ended", command_id=job.command_id, term=term)
            self._logger.warning("command %s (%s) failed: %s", job.command_id, job.kind, exc, extra=extra)
            self._store.fail(term, job, str(exc))

    def pause(self, did: Optional[Job]) -> float:
        if self._term() is None:
            return IDLE
        if did is not None or self._waiting:
            return 0.0
        return max(0.0, min(self._expire_at - self._clock.monotonic(), IDLE))
