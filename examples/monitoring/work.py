"""Mock work with good and bad times: it is slow, and one partition in ten fails at its first attempt.

elk --namespace monitored run work:Mock work:Endless
"""

from __future__ import annotations


class Endless:
    """A planner that always has more."""

    def partition_size(self, ctx):
        return 100

    def get_next_max_id(self, ctx, start_id, range_size):
        return start_id + range_size


class Mock:
    def process(self, ctx, min_id, max_id, options):
        ctx.wait(0.02 + 0.01 * (options["partition_id"] % 5))
        if ctx.attempt == 1 and options["partition_id"] % 10 == 0:
            raise TimeoutError("a mock failure")
        return max_id - min_id + 1
