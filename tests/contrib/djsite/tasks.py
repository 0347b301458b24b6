"""Work for the tests."""

import os

from django.db.models import F

from elk_coordinator.contrib.django import QuerySetPlanner, QuerySetProcessor

books = QuerySetPlanner("shelf.Book", partition_size=10)


class Double(QuerySetProcessor):
    """Doubles the pages. TEST_SITE_BREAKS=1 lets everything fail."""

    queryset = "shelf.Book"
    batch_size = 4

    def handle(self, rows, ctx):
        if os.environ.get("TEST_SITE_BREAKS"):
            raise ValueError("<b>broken</b>")
        return rows.update(pages=F("pages") * 2, visits=F("visits") + 1)


class Picky:
    def __init__(self, colour):
        self.colour = colour

    def process(self, ctx, min_id, max_id, options):
        return 0


class Idle:
    """No method process."""
