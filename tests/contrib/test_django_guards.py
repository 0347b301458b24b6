"""Guards and batch processor of contrib.sql on Django's own connections: the common scenes, and the ORM among them."""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Dict

import pytest
from django.db import transaction

from elk_coordinator.contrib.django import DjangoDatabase, QuerySetPlanner, build
from elk_coordinator.contrib.sql import Database, RangeFence, Session, SqlBatchProcessor, StaleToken
from elk_coordinator.store.memory_store import MemoryDataStore
from tests.contrib.djsite.shelf.models import Book
from tests.contrib.guard_scenes import HI, LO, Attempt, GuardScenes


@pytest.fixture
def database(database: str) -> Database:
    """The database of the site's settings, with the site's tables."""
    return DjangoDatabase()


def fill() -> None:
    Book.objects.bulk_create([Book(pk=pk) for pk in range(LO, HI + 1)])


def visits() -> Dict[int, int]:
    """How many books were visited how often."""
    seen = list(Book.objects.values_list("visits", flat=True))
    return {times: seen.count(times) for times in seen}


def visit(session: Session, ctx: Any, lo: int, hi: int) -> int:
    """By the ORM, on the connection of the session; not idempotent on purpose."""
    books = list(Book.objects.filter(pk__range=(lo, hi)))
    for book in books:
        book.visits += 1
        book.save()
    return len(books)


class TestOnDjango(GuardScenes):
    def test_the_fence_moves_with_the_orms_writes_or_not_at_all(self) -> None:
        fill()
        attempt = Attempt(5)
        held = self.fence.enter(attempt.ctx)
        with contextlib.suppress(ZeroDivisionError), transaction.atomic():
            held.write(10, lambda session: visit(session, attempt.ctx, LO, 10))
            raise ZeroDivisionError
        assert visits() == {0: 20} and self.fences() == [(LO, HI, 5, LO - 1, 0)]
        late = self.fence.enter(attempt.ctx)
        Attempt(6).run(self.processor(visit))
        with pytest.raises(StaleToken), self.db.transaction() as session:
            Book.objects.all().delete()
            late.guard(session, HI, lambda session: 0)
        assert visits() == {1: 20} and self.fences() == [(LO, HI, 6, HI, 20)]


def test_a_batch_processor_of_the_settings_visits_every_book_once(
    database: Database, configure: Callable[..., None]
) -> None:
    fill()
    fence = RangeFence(database)
    fence.create_table()
    options = {"strategy": "simple", "metrics_enabled": False, "allocation_interval": 0.1}
    processor = SqlBatchProcessor(database, visit, batch_rows=3, table="shelf_book", fence=fence, statement_timeout=20)
    configure(PROCESSOR=processor, PLANNER=QuerySetPlanner(Book, 5), OPTIONS=options)
    with contextlib.closing(MemoryDataStore()) as store:
        with build(store=store) as coordinator:
            assert coordinator.wait_idle(20)
    assert visits() == {1: 20}
    with database.reading() as session:
        assert session.rows("SELECT sum(processed), min(hi - done_to), count(*) FROM elk_fence") == [(20, 0, 4)]
