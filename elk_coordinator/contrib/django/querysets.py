"""Planner and processor for a model: which primary keys exist, and the rows of one partition in batches."""

from __future__ import annotations

import contextlib
from typing import Any, Dict, Iterator, Optional, Tuple

from django.apps import apps
from django.db import router, transaction

from elk_coordinator.contrib.django.database import DjangoDatabase
from elk_coordinator.errors import ConfigError
from elk_coordinator.model import MAX_ID, MIN_ID
from elk_coordinator.protocols import PlannerContext, ProcessContext


def rows_of(source: Any, using: Optional[str] = None) -> Any:
    """Return a fresh queryset of *source*: a queryset, a manager, a model, or its name ``"app.Model"``.

    :raises ConfigError: it is none of these, it is sliced, or its primary key is no integer.
    """
    if isinstance(source, str):
        try:
            source = apps.get_model(source)
        except (LookupError, ValueError) as exc:
            raise ConfigError("queryset=%r: there is no such model (%s)" % (source, exc)) from exc
    source = getattr(source, "_default_manager", source)
    if not callable(getattr(source, "all", None)):
        raise ConfigError("queryset=%r: must be a queryset, a manager, a model or 'app.Model'" % (source,))
    found = source.all()
    if found.query.is_sliced:
        raise ConfigError("queryset=%r: must not be sliced; a partition is a range of primary keys" % (source,))
    key = found.model._meta.pk
    while key.remote_field is not None:
        key = key.target_field
    if not key.get_internal_type().endswith(("IntegerField", "AutoField")):
        raise ConfigError(
            "queryset: the primary key of %s is a %s; partitions are ranges of integers"
            % (found.model._meta.label, key.get_internal_type())
        )
    found = found.order_by()
    return found if using is None else found.using(using)


def _positive(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError("%s: must be a whole number from 1 on, not %r" % (name, value))
    return value


class QuerySetPlanner:
    """Plans ranges of primary keys, for tables whose keys are dense; sparse ones: :class:`SparseQuerySetPlanner`.

    ::

        PLANNER = QuerySetPlanner("shop.Order", partition_size=2000)
        PLANNER = QuerySetPlanner(Order.objects.using("replica").filter(total=None))

    A filter must only ever lose rows below the planned edge: a row that enters it later, or is committed later with a
    smaller key, is behind the planner and not seen. Give such tables an *edge*.

    :param queryset: a queryset, a manager, a model, or "app.Model" (looked up at the first question).
    :param partition_size: primary keys per partition.
    :param using: the database alias; default: what the queryset says.
    :param edge: where planning ends, so that no row appears below it later: an edge of
        :mod:`elk_coordinator.contrib.sql` (one for each planner), or a function without arguments that returns a key or
        None when none is known yet. Without an edge: the table's largest key, right for tables that rest.
    """

    def __init__(
        self, queryset: Any, partition_size: int = 1000, using: Optional[str] = None, edge: Any = None
    ) -> None:
        self._source = queryset
        self._size = _positive("partition_size", partition_size)
        self._using = using
        if edge is not None and not callable(edge) and not callable(getattr(edge, "safe_max", None)):
            raise ConfigError("edge: must be an edge of contrib.sql or a function that returns a key, not %r" % (edge,))
        self._edge = edge
        self._database: Optional[DjangoDatabase] = None

    def rows(self) -> Any:
        """Return the queryset that is planned, without an order."""
        return rows_of(self._source, self._using)

    def partition_size(self, ctx: PlannerContext) -> int:
        return self._size

    def first_id(self, ctx: PlannerContext) -> int:
        first = self.rows().order_by("pk").values_list("pk", flat=True).first()
        return 1 if first is None else min(int(first), 1)

    def get_next_max_id(self, ctx: PlannerContext, start_id: int, range_size: int) -> int:
        last = self._last(start_id + range_size)
        found = self.rows().filter(pk__gt=start_id, pk__lte=last).order_by("-pk").values_list("pk", flat=True).first()
        return start_id if found is None else int(found)

    def has_data(self, ctx: PlannerContext, min_id: int, max_id: int) -> bool:
        return bool(self.rows().filter(pk__gte=min_id, pk__lte=max_id).exists())

    def _last(self, wanted: int) -> int:
        # The edge first, then the rows: what is committed between the two questions is above the edge.
        if self._edge is None:
            return min(wanted, MAX_ID)
        found = self._asked_edge()
        return MIN_ID if found is None else min(wanted, int(found), MAX_ID)

    def _asked_edge(self) -> Any:
        if not callable(getattr(self._edge, "safe_max", None)):
            return self._edge()
        rows = self.rows()
        if self._database is None:
            # One for good: an edge remembers which table it watches. Where rows are read is where it must look.
            self._database = DjangoDatabase(rows.db)
        meta = rows.model._meta
        return self._edge.safe_max(self._database, meta.db_table, meta.pk.column)


class SparseQuerySetPlanner(QuerySetPlanner):
    """Plans so many *rows* per partition, whatever their keys: for snowflakes, and filters that match few rows.

    The ranges join each other; the cost follows the rows, never the span of the keys.

    :param rows_per_partition: rows of the queryset in each partition; the last one may have fewer.
    """

    def __init__(
        self, queryset: Any, rows_per_partition: int = 1000, using: Optional[str] = None, edge: Any = None
    ) -> None:
        super().__init__(queryset, _positive("rows_per_partition", rows_per_partition), using, edge)

    def plan(self, ctx: PlannerContext, start_id: int, limit: int) -> Iterator[Tuple[int, int]]:
        """Yield joined ranges behind *start_id*, at most *limit*."""
        last = self._last(MAX_ID)
        for _ in range(limit):
            keys = self.rows().filter(pk__gt=start_id, pk__lte=last).order_by("pk").values_list("pk", flat=True)
            full = keys[self._size - 1 : self._size].first()
            end = keys.last() if full is None else full
            if end is None or ctx.cancelled:
                return
            yield start_id + 1, int(end)
            start_id = int(end)


class QuerySetProcessor:
    """Base of a processor that handles the rows of a partition in batches, each in a transaction, with a checkpoint.

    ::

        class Recalculate(QuerySetProcessor):
            queryset = "shop.Order"

            def handle(self, rows, ctx):
                return rows.update(total=F("price") * F("pieces"))

    A worker can die between the commit of a batch and its checkpoint; then the batch is done again. What must not
    happen twice needs a guard in the same transaction: see the guards of :mod:`elk_coordinator.contrib.sql`.
    """

    #: A queryset, a manager, a model, or "app.Model".
    queryset: Any = None
    #: The database alias; None: what the queryset says, or else where the model is written.
    using: Optional[str] = None
    #: Rows per batch.
    batch_size = 500
    #: Whether each batch is a transaction.
    atomic = True

    def get_queryset(self) -> Any:
        """Return all rows that this job is about. Override it for a filter that needs arguments."""
        return rows_of(self.queryset, self.using)

    def handle(self, rows: Any, ctx: ProcessContext) -> Optional[int]:
        """Do the work on *rows*, a queryset of one batch; return how many items that were (None: all of them)."""
        raise NotImplementedError("%s: write handle(self, rows, ctx)" % type(self).__name__)

    def process(self, ctx: ProcessContext, min_id: int, max_id: int, options: Dict[str, Any]) -> int:
        """Hand the rows of ``[min_id, max_id]`` to :meth:`handle`, batch by batch."""
        size, done, start = _positive("batch_size", self.batch_size), 0, min_id
        while start <= max_id:
            ctx.raise_if_cancelled()
            batch = self._rows().filter(pk__gte=start, pk__lte=max_id)
            keys = list(batch.order_by("pk").values_list("pk", flat=True)[:size])
            if not keys:
                break
            end = int(keys[-1]) if len(keys) == size else max_id
            with self._transaction(batch.db):
                # By range, not by the list of keys: a short statement. Rows that came meanwhile are handled, too.
                count = self.handle(self._rows().filter(pk__gte=start, pk__lte=end), ctx)
            done += len(keys) if count is None else int(count)
            if end < max_id:
                ctx.checkpoint(end, processed=done)
            start = end + 1
        return done

    def _rows(self) -> Any:
        rows = self.get_queryset()
        # Where they are written, so inside the transaction; a router may send reading to a replica that lags, and what
        # is not there yet would count as done.
        return rows if rows._db else rows.using(router.db_for_write(rows.model))

    def _transaction(self, using: str) -> Any:
        return transaction.atomic(using=using) if self.atomic else contextlib.nullcontext()
