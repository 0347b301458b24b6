"""The work: what you would put into your own project. The settings name both."""

from django.db.models import F

from elk_coordinator.contrib.django import QuerySetPlanner, QuerySetProcessor

#: All orders, 500 keys per partition. Looked up when it is asked, so models need not be imported here.
orders = QuerySetPlanner("shop.Order", partition_size=500)


class Totals(QuerySetProcessor):
    """Fills in the totals. The filter makes it harmless to do a batch again: what has a total is left alone."""

    queryset = "shop.Order"
    batch_size = 100

    def handle(self, rows, ctx):
        ctx.wait(0.01)  # so that there is something to see
        return rows.filter(total=None).update(total=F("pieces") * F("price"), visits=F("visits") + 1)
