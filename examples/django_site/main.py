"""A Django site with 20,000 orders without a total; two elk_worker processes fill them in; a query proves it.

    pip install '.[demo,django]'                 # in a clone of the repository
    python examples/django_site/main.py          # ELK_REDIS_URL=redis://... for a Redis of yours

What you would write: shop/tasks.py, and INSTALLED_APPS and ELK_COORDINATOR in settings.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import uuid

from elk_coordinator.errors import StoreError
from elk_coordinator.testing import EmbeddedServer

HERE = os.path.dirname(os.path.abspath(__file__))
ROWS = 20_000


def manage(environment, *arguments):
    return subprocess.Popen([sys.executable, os.path.join(HERE, "manage.py"), *arguments], env=environment, cwd=HERE)


def seed(order, connection):
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode = WAL")  # stays with the file: readers and the writer do not wait
    # A table with a hole of a billion, as tables get over the years: the planner steps over it.
    ids = [*range(1, ROWS // 2 + 1), *range(10**9, 10**9 + ROWS // 2)]
    order.objects.bulk_create([order(pk=pk, pieces=pk % 7, price=100 + pk % 13) for pk in ids], batch_size=150)


def prove(order, f):
    right = order.objects.filter(total=f("pieces") * f("price"), visits=1).count()
    wrong = order.objects.exclude(total=f("pieces") * f("price"), visits=1).count()
    print("orders with the right total, set once: %d, others: %d" % (right, wrong))
    return right == ROWS and wrong == 0


def main():
    # The server at ELK_REDIS_URL, or one of our own.
    with EmbeddedServer() as server, tempfile.TemporaryDirectory(prefix="elk-site-") as directory:
        environment = dict(
            os.environ, DJANGO_SETTINGS_MODULE="settings", ELK_REDIS_URL=server.url,
            SHOP_DB=os.path.join(directory, "shop.db"), SHOP_NAMESPACE="shop-%s" % uuid.uuid4().hex[:8],
        )  # fmt: skip
        if manage(environment, "migrate", "--verbosity", "0").wait() != 0:
            return 1
        os.environ.update(environment)
        import django

        django.setup()
        from django.db import connection
        from django.db.models import F
        from shop.models import Order

        seed(Order, connection)
        print("%d orders without a total, two workers, %s" % (Order.objects.filter(total=None).count(), server.label))
        workers = [manage(environment, "elk_worker", "--until-done") for _ in range(2)]
        try:
            codes = [process.wait() for process in workers]
        finally:
            for process in workers:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
        manage(environment, "elk_status").wait()
        print("the workers ended with", codes)
        proven = prove(Order, F)
        connection.close()
        return 0 if proven and codes == [0, 0] else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StoreError as exc:  # no server: the message says what was tried and what to do
        sys.exit("django_site: %s" % exc)
