"""Work that does nothing, in good and bad times: for a fleet that is only there to be looked at.

elk --namespace looked-at run monitoring.live.work:Work monitoring.live.work:Numbers
"""

from __future__ import annotations

import os

#: While there is a file of this name attempts fail: with the word "some" in it the first two of every fourth partition,
#: otherwise all.
FAULT = os.environ.get("ELK_LOOK_FAULT", "")


def fault():
    """Return what goes wrong just now, or nothing."""
    try:
        with open(FAULT) as file:
            return file.read() or "all"
    except OSError:
        return ""


class Numbers:
    """A planner that always has more."""

    def partition_size(self, ctx):
        return 100

    def get_next_max_id(self, ctx, start_id, range_size):
        return start_id + range_size


class Work:
    """A mix of short and longer partitions; one in two hundred fails at its first attempt."""

    def process(self, ctx, min_id, max_id, options):
        number = options["partition_id"]
        bad = fault()
        if bad and (bad != "some" or (number % 4 == 0 and ctx.attempt <= 2)):
            raise ConnectionError("the database is gone, as far as this demonstration goes")
        ctx.wait(0.1 + 0.05 * (number % 7) + (0.5 if number % 40 == 0 else 0.0))
        ctx.raise_if_cancelled()
        if ctx.attempt == 1 and number % 200 == 0:
            raise TimeoutError("a statement took too long, as far as this demonstration goes")
        return max_id - min_id + 1
