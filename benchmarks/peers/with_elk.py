"""This library, through its public API, with its defaults: leader, heartbeats, metrics, the HTTP thread are at work."""

from __future__ import annotations

import threading

from benchmarks.peers import tally
from elk_coordinator import Coordinator, CreatePartition, RedisDataStore, StrategyType, create_strategy

NAME = "elk"
PACKAGES = ("elk-coordinator", "redis", "hiredis")
SETTINGS = "a partition per job; task_window_size as in its name; all else by default, with leader, metrics and HTTP"
KILLED = (
    "leases of 30 s with fencing tokens: the partition comes back when the lease has run out, for each time its worker "
    "dies (up to max_deliveries); a completion by the old holder is refused by then. Records of all jobs stay"
)
NAMESPACE = "peers"
BATCH = 500
_stores = {}


class _NothingNew:
    """All partitions are there already; with a planner the process leads, as one in production would."""

    def partition_size(self, ctx):
        return 1

    def get_next_max_id(self, ctx, start_id, range_size):
        return start_id


def enqueue(url, count, seconds):
    store = RedisDataStore.from_url(url)
    strategy = create_strategy(StrategyType.HASH, NAMESPACE, store)
    options = {"seconds": seconds} if seconds else None
    for first in range(1, count + 1, BATCH):
        ids = range(first, min(first + BATCH, count + 1))
        strategy.create_partitions_if_not_exist([CreatePartition(i, i, i, options=options) for i in ids])
    strategy.stop()
    store.close()


def _process(ctx, min_id, max_id, options):
    tally.job(options.get("seconds", 0))


def work(url, width, defaults):
    more = {} if defaults else {"task_window_size": width}
    Coordinator(NAMESPACE, RedisDataStore.from_url(url), _process, _NothingNew(), **more).start()
    threading.Event().wait()


def outstanding(client):
    key = repr(client.connection_pool)
    if key not in _stores:
        _stores[key] = create_strategy(StrategyType.HASH, NAMESPACE, RedisDataStore(client))
    stats = _stores[key].get_partition_stats()
    return stats.total - stats.completed
