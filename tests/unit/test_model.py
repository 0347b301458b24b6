"""The vocabulary: ranges, partitions, filters and the table of moves."""

from __future__ import annotations

import json
from typing import Any

import attr
import pytest

from elk_coordinator.errors import ConfigError
from elk_coordinator.model import (
    HELD,
    MAX_ID,
    MAX_PARTITION_ID,
    MAX_PRIORITY,
    MIN_ID,
    MOVES,
    SUSPECT_DELIVERIES,
    Beat,
    CreatePartition,
    Outcome,
    Partition,
    PartitionFilter,
    PartitionStats,
    PartitionStatus,
    ReportResult,
    StrategyType,
    check_partition_id,
    check_priority,
    check_range,
)

NO_INTS = [None, True, 1.0, "1", b"1", [1], float("nan")]


# -- bounds


def test_bounds_are_those_of_the_contract() -> None:
    assert (MIN_ID, MAX_ID) == (-9223372036854775807, 9223372036854775807)
    assert MAX_PARTITION_ID == 9007199254740991 == int(float(MAX_PARTITION_ID))
    assert (MAX_PRIORITY, SUSPECT_DELIVERIES) == (1000, 2)


@pytest.mark.parametrize("low, high", [(1, 1), (MIN_ID, MAX_ID), (MIN_ID, MIN_ID), (MAX_ID, MAX_ID), (-5, 0)])
def test_ordered_64_bit_ranges_are_taken(low: int, high: int) -> None:
    check_range("it", low, high)
    created = CreatePartition(1, low, high)
    assert (created.min_id, created.max_id) == (low, high)


@pytest.mark.parametrize("low, high", [(2, 1), (MIN_ID - 1, 0), (0, MAX_ID + 1), (MAX_ID, MIN_ID), (10**30, 10**31)])
def test_ranges_out_of_order_or_bounds_are_refused(low: int, high: int) -> None:
    with pytest.raises(ConfigError, match=r"^it: min_id=.*above|^it: m.._id=-?\d+ is outside"):
        check_range("it", low, high)
    with pytest.raises(ConfigError, match="^partition 7: "):
        CreatePartition(7, low, high)


@pytest.mark.parametrize("value", NO_INTS, ids=repr)
def test_ids_are_ints_and_nothing_like_them(value: Any) -> None:
    with pytest.raises(ConfigError, match="it: min_id must be an int, not"):
        check_range("it", value, 5)
    with pytest.raises(ConfigError, match="it: max_id must be an int, not"):
        check_range("it", 5, value)
    with pytest.raises(ConfigError, match="partition_id must be an int"):
        check_partition_id(value)
    with pytest.raises(ConfigError, match="partition_id must be an int"):
        CreatePartition(value, 1, 2)
    with pytest.raises(ConfigError, match="priority must be an int"):
        check_priority(value)


@pytest.mark.parametrize("value", [0, -1, MAX_PARTITION_ID + 1])
def test_partition_ids_stay_exact_in_a_double(value: int) -> None:
    with pytest.raises(ConfigError, match=r"partition_id=-?\d+ is outside \[1, 2\*\*53 - 1\]"):
        CreatePartition(value, 1, 2)
    assert [check_partition_id(good) for good in (1, MAX_PARTITION_ID)] == [1, MAX_PARTITION_ID]


def test_priorities_have_bounds() -> None:
    for value in (-1001, 1001, 10**20):
        with pytest.raises(ConfigError, match=r"\[-1000, 1000\]"):
            CreatePartition(1, 1, 2, priority=value)
    assert [check_priority(good) for good in (-1000, 0, 1000)] == [-1000, 0, 1000]


@pytest.mark.parametrize("options", [[], "a", 5, [("a", 1)]], ids=repr)
def test_options_are_a_dict(options: Any) -> None:
    with pytest.raises(ConfigError, match="partition 1: options must be a dict"):
        CreatePartition(1, 1, 2, options=options)
    assert CreatePartition(1, 1, 2, options={"a": 1}).options == {"a": 1}
    assert CreatePartition(1, 1, 2).options is None


# -- statuses


def test_statuses_and_strategies_have_their_names() -> None:
    assert {status.name: status.value for status in PartitionStatus} == {
        "PENDING": "pending",
        "CLAIMED": "claimed",
        "RUNNING": "running",
        "COMPLETED": "completed",
        "FAILED": "failed",
    }
    assert {strategy.name for strategy in StrategyType} == {"HASH", "SIMPLE"}


def test_moves_hold_what_the_outcome_table_needs_and_no_way_out_of_completed() -> None:
    pending, claimed, running, completed, failed = PartitionStatus
    needed = {(pending, claimed), (pending, running), (claimed, running), (failed, pending)}
    needed |= {(held, after) for held in (claimed, running) for after in (pending, completed, failed)}
    assert needed <= set(MOVES)
    assert not [move for move in MOVES if move[0] is completed or move[0] is move[1] or move == (pending, completed)]
    assert not [move for move in MOVES if move[0] is failed and move[1] is not pending]
    assert all(MOVES.values())
    assert HELD == {claimed, running}


def test_every_status_can_be_reached_and_outcome_letters_differ() -> None:
    assert {after for _, after in MOVES} == set(PartitionStatus)
    letters = [outcome.value for outcome in Outcome]
    assert len(set(letters)) == len(letters) == len(Outcome.__members__)
    assert all(len(letter) == 1 for letter in letters)


# -- values


def test_partition_is_frozen_and_compares_by_value() -> None:
    one = Partition(1, 1, 10)
    assert one == Partition(1, 1, 10) != Partition(1, 1, 11)
    with pytest.raises(attr.exceptions.FrozenInstanceError):
        one.status = PartitionStatus.COMPLETED  # type: ignore[misc]
    assert Partition(1, 1, 10).options is not one.options


def test_partition_becomes_json_without_losing_digits() -> None:
    partition = Partition(MAX_PARTITION_ID, MIN_ID, MAX_ID, options={"a": [1, {"b": None}]}, checkpoint=MAX_ID - 1)
    facts = json.loads(json.dumps(partition.to_dict()))
    assert (facts["min_id"], facts["max_id"], facts["checkpoint"]) == (MIN_ID, MAX_ID, MAX_ID - 1)
    assert facts["status"] == "pending"
    assert facts["options"] == {"a": [1, {"b": None}]}
    assert set(facts) == {field.name for field in attr.fields(Partition)}


@pytest.mark.parametrize("deliveries, suspect", [(0, False), (1, False), (2, True), (9, True)])
def test_a_partition_lost_twice_is_a_suspect(deliveries: int, suspect: bool) -> None:
    assert Partition(1, 1, 10, deliveries=deliveries).is_suspect is suspect


def test_stats_add_up() -> None:
    stats = PartitionStats(total=15, pending=1, claimed=2, running=3, completed=4, failed=5)
    assert (stats.held, stats.open) == (5, 6)
    assert stats.held + stats.pending + stats.completed + stats.failed == stats.total
    empty = PartitionStats()
    assert (empty.completion_rate, empty.failure_rate, empty.last_allocated_id) == (0.0, 0.0, None)


def test_small_values() -> None:
    assert ReportResult(1, 2, None).refused
    assert not ReportResult(1, 2, PartitionStatus.FAILED).refused
    assert Beat().cancels is not Beat().cancels


# -- filters


def test_filter_statuses_may_be_one_or_several() -> None:
    pending, failed = PartitionStatus.PENDING, PartitionStatus.FAILED
    assert PartitionFilter().statuses == frozenset()
    assert PartitionFilter(statuses=None).statuses == frozenset()  # type: ignore[arg-type]
    assert PartitionFilter(statuses=pending).statuses == {pending}  # type: ignore[arg-type]
    assert PartitionFilter(statuses=[pending, failed]).statuses == {pending, failed}  # type: ignore[arg-type]
    assert PartitionFilter(exclude_ids=[1, 2, 2]).exclude_ids == {1, 2}  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["pending", ["pending"], [PartitionStatus.PENDING, 5]], ids=repr)
def test_filter_refuses_statuses_that_are_none(value: Any) -> None:
    with pytest.raises(ConfigError, match="statuses must be PartitionStatus members"):
        PartitionFilter(statuses=value)


@pytest.mark.parametrize("value", [0, -1, True, False, 1.5, "3"])
def test_filter_refuses_a_limit_below_one(value: Any) -> None:
    with pytest.raises(ConfigError, match="limit must be an int of at least 1"):
        PartitionFilter(limit=value)


@pytest.mark.parametrize("name", ["statuses", "exclude_ids"])
def test_filter_refuses_what_is_no_collection(name: str) -> None:
    with pytest.raises(ConfigError, match="PartitionFilter.%s" % name):
        PartitionFilter(**{name: 5})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), float("-inf"), True, "3"])
def test_filter_refuses_a_negative_age(value: Any) -> None:
    with pytest.raises(ConfigError, match="stale_for must be seconds of at least 0"):
        PartitionFilter(stale_for=value)
    assert PartitionFilter(stale_for=0).stale_for == 0


def test_filter_takes_keywords_only() -> None:
    with pytest.raises(TypeError):
        PartitionFilter(frozenset())  # type: ignore[misc]
