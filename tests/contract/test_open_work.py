"""What the leader shows to monitoring of the plan, on every strategy: exact while there is little, a sample of much."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from elk_coordinator.admin.service import AdminService
from elk_coordinator.errors import StoreError, StoreUnavailable
from elk_coordinator.leader.surveyor import Surveyor
from elk_coordinator.model import CreatePartition, Outcome, PartitionStats, StrategyType, Survey
from elk_coordinator.partition import survey as module
from elk_coordinator.partition.survey import OpenWork
from elk_coordinator.testing import ManualClock
from tests.contract.kit import parts, report
from tests.contract.test_archive_contract import archive, complete, lead

LOGGER = logging.getLogger("elk_coordinator")


def take(strategy: Any, number: int) -> Any:
    """Claim a partition that is pending."""
    claim = strategy.acquire_partition(number, "w")
    assert claim is not None
    return claim


def pending(strategy: Any) -> Any:
    return strategy.open_work().pending(strategy.get_partition_stats().pending)


def watermark(strategy: Any) -> Any:
    return strategy.open_work().watermark(strategy.get_partition_stats().last_allocated_id)


def backlog(strategy: Any) -> Any:
    return strategy.open_work().backlog(strategy.get_partition_stats().open)


def test_an_empty_namespace_has_nothing_open(strategy: Any) -> None:
    assert (pending(strategy), watermark(strategy), backlog(strategy)) == ({"delayed": 0}, None, 0)
    work = strategy.open_work()
    assert (work.oldest, work.archived, work.archive_bytes, work.commands) == (None, 0, 0, 0)


def test_the_watermark_is_held_up_by_the_lowest_open_or_failed_range(strategy: Any) -> None:
    wanted = [CreatePartition(5, -(2**63) + 1, -(2**62)), *parts(1, 2, 3)]
    strategy.create_partitions_if_not_exist(wanted)
    assert watermark(strategy) == -(2**63)
    assert backlog(strategy) == 2**63 - 2**62 + 30
    report(strategy, take(strategy, 5), Outcome.COMPLETED)
    first = min(low for low, _ in strategy.open_work().open_ranges)
    assert watermark(strategy) == first - 1
    report(strategy, take(strategy, 1), Outcome.PERMANENT)
    assert watermark(strategy) == first - 1  # it is planned, and not done
    assert backlog(strategy) == 20
    for number in (2, 3):
        report(strategy, take(strategy, number), Outcome.COMPLETED)
    assert (watermark(strategy), backlog(strategy)) == (first - 1, 0)


def test_with_everything_completed_the_watermark_is_the_last_planned_id(strategy: Any) -> None:
    complete(strategy, parts(1, 2, 3))
    assert watermark(strategy) == strategy.get_partition_stats().last_allocated_id


def test_pending_is_counted_by_priority_and_retries_apart(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist([*parts(1, 2, priority=-1000), *parts(3, 4, 5, priority=7), *parts(6)])
    report(strategy, take(strategy, 6), Outcome.ERROR, error="x", delay=500.0)
    assert pending(strategy) == {"7": 3, "-1000": 2, "delayed": 1}
    take(strategy, 3)
    assert pending(strategy) == {"7": 2, "-1000": 2, "delayed": 1}


def test_of_many_priorities_the_nine_highest_and_the_lowest_are_named(strategy: Any) -> None:
    wanted = [part for number in range(1, 31) for part in parts(number, priority=number)]
    strategy.create_partitions_if_not_exist(wanted)
    named = [str(number) for number in range(30, 21, -1)] + ["1"]
    assert pending(strategy) == {**dict.fromkeys(named, 1), "delayed": 0, "other": 20}


def test_the_oldest_pending_one_is_found_in_every_corner(clock: Any, strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(9, priority=-5))
    clock.advance(10.0)
    strategy.create_partitions_if_not_exist(parts(1, 2, priority=5))
    clock.advance(10.0)
    oldest = strategy.open_work().oldest
    assert oldest == pytest.approx(strategy.get_partition(9).created_at, abs=0.001)
    claim = take(strategy, 9)
    assert strategy.open_work().oldest == pytest.approx(strategy.get_partition(1).created_at, abs=0.001)
    report(strategy, claim, Outcome.ERROR, error="x", delay=500.0)
    assert strategy.open_work().oldest == pytest.approx(oldest, abs=0.001)


def test_the_archive_is_measured_and_waiting_commands_are_counted(strategy: Any) -> None:
    complete(strategy, parts(*range(1, 300)))
    archive(strategy, lead(strategy))
    work = strategy.open_work()
    assert work.archived == 299
    chunks = strategy._archive_chunks(list(strategy._archive_index()))
    assert work.archive_bytes == sum(len(blob) for _, blob in chunks.values()) > 0
    assert strategy.open_work().archive_bytes == work.archive_bytes
    AdminService(strategy, "eve").retry_failed()
    assert strategy.open_work().commands == 1


def test_much_open_work_is_sampled_and_the_sample_says_so(strategy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if strategy.strategy_type is StrategyType.HASH:
        monkeypatch.setattr("elk_coordinator.partition.hash_archive.MOST", 50)
    strategy.create_partitions_if_not_exist(parts(*range(1, 700)))
    work = strategy.open_work()
    assert work.complete == (strategy.strategy_type is StrategyType.SIMPLE)
    assert work.backlog(699) == 6990
    assert (work.watermark(7000) is None) == (not work.complete)
    assert module.MOST == 2000


# -- the leader's surveyor ---------------------------------------------------------------------------------------------


def stats(completed: int, open_: int = 10) -> PartitionStats:
    return PartitionStats(total=completed + open_, pending=open_, completed=completed)


def test_the_end_is_told_from_the_rate_of_the_last_minutes(strategy: Any) -> None:
    clock = ManualClock()
    surveyor = Surveyor(strategy, clock, LOGGER)

    def left(completed: int, open_: int = 10) -> Any:
        seen = surveyor.look(stats(completed, open_), [])
        assert seen is not None
        end = seen.estimated_completion_timestamp_seconds
        return None if end is None else round(end - strategy.open_work().now)

    assert left(0) is None  # nothing to compare with
    clock.advance(10.0)
    assert left(5) is None  # too soon
    clock.advance(10.0)
    assert left(20) == pytest.approx(10, abs=1)
    assert left(20, 0) is None  # nothing is open
    clock.advance(590.0)
    assert left(20, 100) is not None
    clock.advance(601.0)
    assert left(20) is None  # nothing was completed for ten minutes
    clock.advance(20.0)
    assert left(3) is None  # the store lost data
    clock.advance(20.0)
    assert left(5) == pytest.approx(100, abs=1)
    surveyor.forget()
    assert left(50) is None


def test_nothing_is_asked_for_a_minute_while_nothing_is_open_and_no_count_moves(
    strategy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, asked, ask = ManualClock(), [], strategy.open_work

    def counted() -> OpenWork:
        asked.append(clock.monotonic())
        work: OpenWork = ask()
        return work

    monkeypatch.setattr(strategy, "open_work", counted)
    surveyor = Surveyor(strategy, clock, LOGGER)
    for seconds, seen, looks in ((0, stats(5, 1), 1), (5, stats(5, 1), 2), (5, stats(6, 0), 3), (5, stats(6, 0), 3),
                                 (54, stats(6, 0), 3), (2, stats(6, 0), 4), (1, stats(7, 0), 5)):  # fmt: skip
        clock.advance(float(seconds))
        survey = surveyor.look(seen, ["w"])  # type: ignore[list-item]
        assert survey.workers == ["w"]
        assert len(asked) == looks, (seconds, seen)
    surveyor.forget()
    surveyor.look(stats(7, 0), [])
    assert len(asked) == 6


def test_a_survey_that_is_refused_is_told_once_and_disturbs_nobody(
    strategy: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused() -> OpenWork:
        raise StoreError("NOPERM")

    surveyor = Surveyor(strategy, ManualClock(), LOGGER)
    monkeypatch.setattr(strategy, "open_work", refused)
    with caplog.at_level(logging.WARNING, "elk_coordinator"):
        for _ in range(2):
            # The fleet is seen all the same: notifications live by it.
            assert surveyor.look(stats(1), ["w"]) == Survey(workers=["w"])  # type: ignore[list-item]
    assert len([r for r in caplog.records if "some metrics are missing" in r.message]) == 1

    def away() -> OpenWork:
        raise StoreUnavailable("away")

    monkeypatch.setattr(strategy, "open_work", away)
    with pytest.raises(StoreUnavailable):
        surveyor.look(stats(1), [])
