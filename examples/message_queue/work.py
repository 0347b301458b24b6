"""The work: handle the messages of a Redis stream. What you would put into your own code base.

    elk --namespace mail run work:Mail work:Messages

Message number n has the stream id ``n-0``, so a partition [min_id, max_id] is one XRANGE. Any queue whose messages are
numbered in the order they become visible will do: a Kafka offset, an append-only table, a log.
"""

from __future__ import annotations

import os

import redis

NAME = os.environ.get("MAIL_STREAM", "mail")
RESULTS = NAME + ":results"

client = redis.Redis.from_url(os.environ.get("ELK_REDIS_URL", "redis://localhost:6379/0"), decode_responses=True)


def number(stream_id):
    return int(stream_id.partition("-")[0])


class Messages:
    """The planner: the largest message there is, at most *range_size* ahead. It is asked again and again, so the queue
    may grow for ever; the last partition before the growing edge is simply smaller than the others.

    Numbers must not appear behind ones that are visible already. Redis gives that for a stream. For a table with
    auto-increment and several writers it does not hold: there, answer the largest id older than the longest
    transaction.
    """

    def partition_size(self, ctx):
        return 100

    def get_next_max_id(self, ctx, start_id, range_size):
        newest = client.xrevrange(NAME, "%d-0" % (start_id + range_size), "%d-0" % (start_id + 1), count=1)
        return number(newest[0][0]) if newest else start_id


class Mail:
    """The processor. Its result is stored under the message's own number, so doing it twice changes nothing."""

    def process(self, ctx, min_id, max_id, options):
        handled = 0
        for stream_id, fields in client.xrange(NAME, "%d-0" % min_id, "%d-0" % max_id):
            ctx.raise_if_cancelled()
            client.hset(RESULTS, number(stream_id), fields["text"].upper())
            handled += 1
        return handled
