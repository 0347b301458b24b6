"""A processor for tables: batches inside a partition, each in a transaction of its own, with a checkpoint after it."""

from __future__ import annotations

import logging
from typing import Any, Callable, Dict, List, Optional, Tuple, TypeVar

from elk_coordinator.contrib.sql.connections import transient
from elk_coordinator.contrib.sql.database import Database, Session, quote_name
from elk_coordinator.contrib.sql.fence import FencedRange, RangeFence, StaleToken, check_fence
from elk_coordinator.contrib.sql.limits import check_timeout, statement_timeout
from elk_coordinator.contrib.sql.throttle import Throttle, give_way
from elk_coordinator.errors import ConfigError, ElkError
from elk_coordinator.protocols import ProcessContext

T = TypeVar("T")

#: Does the effects of the IDs from lo to hi through the session; returns how many items, None = all of the batch.
Handle = Callable[[Session, ProcessContext, int, int], Optional[int]]

#: First and longest pause before a batch is repeated, seconds.
_PAUSE = (0.1, 5.0)
#: Seconds that an attempt refused by the fence waits for the heartbeat to learn why, before it fails with the refusal.
_PATIENCE = 60.0

_logger = logging.getLogger("elk_coordinator.contrib.sql")


class CommitUnknown(ElkError):
    """The connection died while a batch was being committed: nobody knows whether it happened.

    The attempt fails, the next one repeats the batch. With a :class:`RangeFence` this is not raised: it knows.
    """


class SqlBatchProcessor:
    """Runs ``handle(session, ctx, lo, hi)`` for one batch of the partition after the other. Thread-safe if *handle* is.

    Each batch has its own transaction, committed before its checkpoint. Between batches a cancellation ends the attempt
    at the last checkpoint. A dropped connection or a deadlock repeats the batch on a new connection, if it did not
    commit.

    :param batch_ids: batches of so many consecutive IDs, for dense keys.
    :param batch_rows: batches of so many rows, found by keyset pagination in *table*, for sparse keys.
    :param table: with *key*: where ``batch_rows`` looks for rows.
    :param fence: every effect happens once, also across crashes; without it the last batch may happen twice.
    :param statement_timeout: seconds after which the database ends a statement; None = never.
    :param throttle: asked before every batch: True = wait *throttle_pause* seconds and ask again; seconds = wait so
        long; False or None = go on. It must be thread-safe.
    :param reconnects: how often in a row one batch is repeated after a dropped connection or a deadlock.
    :raises ConfigError: a bad value, or not exactly one of *batch_ids* and *batch_rows*.
    """

    def __init__(
        self,
        database: Database,
        handle: Handle,
        *,
        batch_ids: Optional[int] = None,
        batch_rows: Optional[int] = None,
        table: Optional[str] = None,
        key: str = "id",
        fence: Optional[RangeFence] = None,
        statement_timeout: Optional[float] = None,
        throttle: Optional[Throttle] = None,
        throttle_pause: float = 1.0,
        reconnects: int = 5,
    ) -> None:
        if not callable(handle):
            raise ConfigError("handle=%r: it must be a function of (session, ctx, lo, hi)" % (handle,))
        if (batch_ids is None) == (batch_rows is None):
            raise ConfigError("batch_ids, batch_rows: give exactly one of them")
        if batch_rows is not None and table is None:
            raise ConfigError("table: needed for batch_rows, to find the rows")
        _check_whole("batch_ids", batch_ids, 1)
        _check_whole("batch_rows", batch_rows, 1)
        _check_whole("reconnects", reconnects, 0)
        if throttle is not None and not callable(throttle):
            raise ConfigError("throttle=%r: it must be callable, without arguments" % (throttle,))
        number = isinstance(throttle_pause, (int, float)) and not isinstance(throttle_pause, bool)
        if not number or not 0 < throttle_pause < 1e6:
            raise ConfigError("throttle_pause=%r: it must be seconds above 0" % (throttle_pause,))
        for name in (table or "t", key):
            quote_name("sqlite", name)
        self._database = database
        self._handle = handle
        self._batch_ids = batch_ids
        self._batch_rows = batch_rows
        self._table = table or ""
        self._key = key
        self._fence = check_fence(fence)
        self._timeout = check_timeout(statement_timeout)
        self._throttle = throttle
        self._throttle_pause = throttle_pause
        self._reconnects = reconnects

    def process(self, ctx: ProcessContext, min_id: int, max_id: int, options: Dict[str, Any]) -> int:
        """Do one partition from *min_id* to *max_id*; return the items counted."""
        try:
            if self._fence is None:
                return self._plain(ctx, min_id, max_id)
            return self._fenced(ctx, self._fence, min_id, max_id)
        except StaleToken:
            # Somebody else has the partition. The heartbeat is about to learn it, and then this is a lost lease and no
            # failure of the partition; if it does not, token and store contradict each other, and people must know.
            ctx.raise_if_cancelled()
            if ctx.wait(_PATIENCE):
                ctx.raise_if_cancelled()
            raise

    def _plain(self, ctx: ProcessContext, min_id: int, max_id: int) -> int:
        done_to, processed = min_id - 1, 0
        while done_to < max_id:
            last, items = self._next(ctx, done_to, max_id)
            if items:
                first = done_to + 1
                processed += self._repeated(ctx, lambda: self._commit(ctx, first, last, items))  # noqa: B023
            done_to = last
            ctx.checkpoint(done_to, processed)
        return processed

    def _fenced(self, ctx: ProcessContext, fence: RangeFence, min_id: int, max_id: int) -> int:
        held = self._repeated(ctx, lambda: fence.enter(ctx))
        if held.done_to < min_id - 1:
            _logger.warning(
                "partition %d: the fence is done to %d, the checkpoint to %d (the database lost what the store kept?); "
                "going on behind the fence", ctx.partition.partition_id, held.done_to, min_id - 1,
            )  # fmt: skip
        before = ctx.partition.processed
        while held.done_to < max_id:
            last, items = self._next(ctx, held.done_to, max_id)
            self._repeated(ctx, lambda: self._write(ctx, held, last, items), held)  # noqa: B023
            if held.done_to >= min_id:
                ctx.checkpoint(held.done_to, max(0, held.processed - before))
        return max(0, held.processed - before)

    def _next(self, ctx: ProcessContext, done_to: int, max_id: int) -> Tuple[int, int]:
        """Return the last ID of the next batch and how many items it has, after the user's throttle has agreed."""
        ctx.raise_if_cancelled()
        # It may ask a database, too.
        self._repeated(ctx, lambda: give_way(ctx, self._throttle, self._throttle_pause))
        ctx.raise_if_cancelled()
        if self._batch_ids is not None:
            last = min(done_to + self._batch_ids, max_id)
            return last, last - done_to
        return self._repeated(ctx, lambda: self._rows(done_to, max_id))

    def _rows(self, done_to: int, max_id: int) -> Tuple[int, int]:
        with self._database.reading() as session, statement_timeout(session, self._timeout) as limited:
            key = quote_name(session.dialect, self._key)
            found: List[Tuple[Any, ...]] = limited.rows(
                "SELECT max(k), count(*) FROM (SELECT %s AS k FROM %s WHERE %s > :done_to AND %s <= :max_id"
                " ORDER BY %s LIMIT %d) AS batch"
                % (key, quote_name(session.dialect, self._table), key, key, key, self._batch_rows or 0),
                {"done_to": done_to, "max_id": max_id},
            )
        last, count = found[0]
        # The last batch reaches to the end of the partition, whatever is there.
        return (int(last), int(count)) if count == self._batch_rows else (max_id, int(count))

    def _commit(self, ctx: ProcessContext, first: int, last: int, items: int) -> int:
        """Do one batch without a fence."""
        handled = False
        try:
            with self._database.transaction() as session:
                count = self._handled(session, ctx, first, last, items)
                handled = True
        except Exception as exc:
            if handled and self._database.is_disconnect(exc):
                raise CommitUnknown(
                    "partition %d: the connection died while IDs %d to %d were being committed; whether they are is "
                    "unknown, the next attempt does them again (a RangeFence would know)"
                    % (ctx.partition.partition_id, first, last)
                ) from exc
            raise
        return count

    def _write(self, ctx: ProcessContext, held: FencedRange, last: int, items: int) -> None:
        """Do one batch behind the fence, unless it turned out to be done."""
        first = held.done_to + 1
        if first > last:
            return
        held.write(last, lambda session: self._handled(session, ctx, first, last, items) if items else 0)

    def _handled(self, session: Session, ctx: ProcessContext, first: int, last: int, items: int) -> int:
        with statement_timeout(session, self._timeout) as limited:
            count = self._handle(limited, ctx, first, last)
        if count is None:
            return items
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ConfigError("handle: it returned %r; it must return a count from 0 on, or None" % (count,))
        return count

    def _repeated(self, ctx: ProcessContext, do: Callable[[], T], held: Optional[FencedRange] = None) -> T:
        """Return what *do* returns; repeat it on a new connection as long as that may help."""
        broken = 0
        while True:
            try:
                if held is not None and broken:
                    # Locks the row, so the transaction of the lost connection has ended, and we see how.
                    held.refresh()
                return do()
            except ElkError:
                raise  # a verdict of ours, whatever it was made from
            except Exception as exc:
                if not (self._database.is_disconnect(exc) or transient(exc)) or broken >= self._reconnects:
                    raise
                broken += 1
                _logger.warning(
                    "partition %d: %s: %s; the batch is done again (%d of %d)", ctx.partition.partition_id,
                    type(exc).__name__, " ".join(str(exc).split()), broken, self._reconnects,
                )  # fmt: skip
            if ctx.wait(min(_PAUSE[1], _PAUSE[0] * 2.0 ** (broken - 1))):
                ctx.raise_if_cancelled()


def _check_whole(name: str, value: Optional[int], least: int) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise ConfigError("%s=%r: it must be a whole number from %d on" % (name, value, least))
