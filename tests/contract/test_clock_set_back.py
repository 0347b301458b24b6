"""What the store's clock set back must not do, beside prolonging leases: keep a retry waiting for as long."""

from __future__ import annotations

from typing import Any

import pytest

from elk_coordinator.model import Outcome
from tests.contract.kit import claim_one, ids, report, sound, turn

LONGEST = 60.0


def delayed(strategy: Any, delay: float) -> None:
    claim = claim_one(strategy)
    assert report(strategy, claim, Outcome.ERROR, delay=delay).status is not None


@pytest.mark.parametrize("back", [3600.0, 86400.0])
def test_a_retry_waits_no_longer_than_the_longest_pause_after_the_clock_went_back(
    backend: Any, clock: Any, back: float
) -> None:
    strategy = backend.new_strategy(longest_retry=LONGEST)
    delayed(strategy, 10.0)
    clock.advance(-back)
    strategy.sweep()
    (waiting,) = strategy.get_all_partitions()
    assert waiting.retry_at == pytest.approx(clock.seconds + LONGEST, abs=0.01)
    assert turn(strategy, free=1).granted == []
    clock.advance(LONGEST)
    assert ids(turn(strategy, free=1).granted) == [1]
    sound(strategy)


def test_a_retry_within_the_longest_pause_is_left_alone(backend: Any, clock: Any) -> None:
    strategy = backend.new_strategy(longest_retry=LONGEST)
    delayed(strategy, LONGEST)
    clock.advance(1.0)
    before = strategy.get_all_partitions()
    strategy.sweep()
    assert strategy.get_all_partitions() == before


def test_control_a_strategy_that_knows_no_longest_pause_makes_it_wait_that_hour(backend: Any, clock: Any) -> None:
    strategy = backend.new_strategy()
    delayed(strategy, 10.0)
    clock.advance(-3600.0)
    strategy.sweep()
    clock.advance(LONGEST)
    assert turn(strategy, free=1).granted == []
