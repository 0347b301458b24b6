"""A right that is taken away ends scripts in their middle: whatever was written by then, no partition is lost."""

from __future__ import annotations

from typing import Any, Callable

import pytest

from elk_coordinator.errors import ElkError
from elk_coordinator.model import Outcome
from elk_coordinator.partition.audit import verify
from elk_coordinator.store.scripts import Script
from tests.contract.kit import LEASE, ids, parts, report, turn
from tests.contract.test_archive_contract import archive
from tests.contract.test_commands_contract import Desk

#: Stands before a script: one command is refused, as by a rule of the server's ACL.
REFUSAL = """
local server = redis
local redis = setmetatable({call = function(name, ...)
  if name == '%s' then error('NOPERM this user has no permissions to run it') end
  return server.call(name, ...)
end}, {__index = server})
"""


class Right:
    """The right to one command, for all scripts of a store."""

    def __init__(self, store: Any, command: str) -> None:
        self.given = True
        self._command = command
        self._call = store._link.call
        store._link.call = self.call

    def call(self, script: Any, keys: Any, args: Any) -> Any:
        if not self.given:
            script = Script(script.name, REFUSAL % self._command + script.source)
        return self._call(script, keys, args)

    def without(self, *calls: Callable[[], Any]) -> None:
        self.given = False
        for call in calls:
            try:
                call()
            except ElkError:
                pass
        self.given = True


@pytest.mark.parametrize("command", ["HSET", "HDEL", "HINCRBY", "ZADD", "ZREM", "SADD", "SREM"])
def test_no_step_that_is_refused_half_way_loses_a_partition(hash_backend: Any, command: str) -> None:
    clock = hash_backend.stop_time()
    strategy = hash_backend.new_strategy(partition_lock_expiry=LEASE, max_deliveries=2)
    desk = Desk(strategy)
    right = Right(strategy.store, command)
    strategy.create_partitions_if_not_exist(parts(*range(1, 13)))
    for claim in turn(strategy, free=4).granted:
        report(strategy, claim, Outcome.PERMANENT if claim.partition_id < 3 else Outcome.COMPLETED)
    for _ in range(2):
        lost = turn(strategy, free=2, lease=1.0).granted
        clock.advance(2.0)
        if lost[0].deliveries == 0:
            strategy.sweep()
    held = turn(strategy, free=2).granted
    version = strategy.plan_state()
    last = parts(13, 14, 15)
    right.without(
        lambda: strategy.plan_partitions(version, desk.term, last, ()),
        lambda: [strategy.acquire_partition(i, "x") for i in ids(lost)],
        strategy.sweep,
        lambda: report(strategy, held[0], Outcome.COMPLETED),
        lambda: report(strategy, held[1], Outcome.ERROR, delay=1.0),
        lambda: turn(strategy, free=2, prefetch=1),
        lambda: (desk.admin.submit("retry_failed", {"ids": [1]}), desk.work()),
        lambda: (desk.admin.submit("cancel", {"id": 11}), desk.work()),
        lambda: archive(strategy, desk.term),
        lambda: strategy.delete_partitions([12]),
    )
    assert strategy.delete_partitions([12]) == []
    strategy.create_partitions_if_not_exist(parts(*range(1, 16)))
    for _ in range(12):
        clock.advance(LEASE + 70.0)
        strategy.sweep()
        desk.do("retry_failed")
        for claim in turn(strategy, free=5).granted:
            report(strategy, claim, Outcome.COMPLETED)
    archive(strategy, desk.term)
    stats = strategy.get_partition_stats()
    assert (stats.pending, stats.held, stats.failed, stats.completed) == (0, 0, 0, 15)
    assert verify(strategy).problems == []
