"""What the store's clock set back must not do, beside prolonging leases: keep retries waiting, mix commands up."""

from __future__ import annotations

from typing import Any

import pytest

from elk_coordinator.admin.service import AdminService
from elk_coordinator.model import Outcome
from elk_coordinator.partition.factory import command_store
from tests.contract.kit import claim_one, ids, report, sound, turn
from tests.contract.test_commands_contract import lead, role_of

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


def test_commands_stay_in_the_order_of_their_submission_after_the_clock_went_back(strategy: Any, clock: Any) -> None:
    term, names = lead(strategy), []
    admin = AdminService(strategy, "eve")
    for back in (0.0, 3600.0, 0.0):
        clock.advance(1.0 - back)
        names += [admin.pause(), admin.resume()]
        for _ in range(2):
            role_of(strategy, term).run_once()
    names.append(admin.pause())
    newest = names[::-1]
    assert [command.command_id for command in admin.commands()] == newest
    assert [command.command_id for command in admin.commands(limit=4)] == newest[:4]
    # Told of for a day from their end, by a clock that showed less.
    store = command_store(strategy)
    clock.advance(3600.0)
    assert store.expire(term, 3000.0) == 4
    assert [command.command_id for command in admin.commands()] == [names[6], names[1], names[0]]


def test_the_oldest_results_go_first_when_there_are_too_many_whatever_the_clock_did(
    strategy: Any, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("hash_commands", "simple_commands"):
        monkeypatch.setattr("elk_coordinator.partition.%s.MAX_ENDED" % module, 2)
    admin, term = AdminService(strategy, "eve"), lead(strategy)
    names = []
    for back in (0.0, 3600.0, 0.0):
        clock.advance(1.0 - back)
        names.append(admin.pause())
        role_of(strategy, term).run_once()
    command_store(strategy).expire(term)
    assert [command.command_id for command in admin.commands()] == [names[2], names[1]]


def test_control_a_strategy_that_knows_no_longest_pause_makes_it_wait_that_hour(backend: Any, clock: Any) -> None:
    strategy = backend.new_strategy()
    delayed(strategy, 10.0)
    clock.advance(-3600.0)
    strategy.sweep()
    clock.advance(LONGEST)
    assert turn(strategy, free=1).granted == []
