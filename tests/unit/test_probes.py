"""Which partitions a half-open circuit breaker tries."""

from __future__ import annotations

import random

import pytest

from elk_coordinator.partition.requests import AREA, BUCKETS, bucket_of
from elk_coordinator.worker.probes import REMEMBERED, Probes


def test_at_first_everything_or_a_part_of_everything_may_be_tried() -> None:
    random.seed(1)
    seen = [Probes().preferred() for _ in range(50)]
    assert {len(owned) for owned in seen} == {BUCKETS}
    assert "1" * BUCKETS in seen
    assert all("1" in owned for owned in seen) and min(owned.count("1") for owned in seen) < BUCKETS / 8


def test_what_failed_is_tried_last() -> None:
    probes = Probes()
    for partition_id in (7, 8, 9, 40):
        probes.failed(partition_id)
    for _ in range(20):
        owned = probes.preferred()
        assert {owned[bucket_of(partition_id)] for partition_id in (7, 8, 40)} == {"0"}


def test_the_oldest_failures_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "randint", lambda low, high: 0)
    probes = Probes()
    for area in range(REMEMBERED + 1):
        probes.failed(area * AREA)
    owned = probes.preferred()
    assert owned == "1" + "0" * REMEMBERED + "1" * (BUCKETS - REMEMBERED - 1)
