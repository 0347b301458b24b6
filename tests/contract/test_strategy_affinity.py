"""Affinity on every strategy: one's own first among equals, priority above it, and never idle for it."""

from __future__ import annotations

from typing import Any, List

import attr
import pytest

from elk_coordinator.model import MAX_BATCH, Outcome
from elk_coordinator.partition.requests import AREA, BUCKETS, LOOK, TurnRequest, bucket_of
from elk_coordinator.runtime.clock import Clock
from tests.contract.kit import CLAIMED, RUNNING, ids, make_suspects, parts, report, sound, turn


def owned(*buckets: int) -> str:
    """Return the preference of a worker that owns so many buckets."""
    return "".join("1" if bucket in buckets else "0" for bucket in range(BUCKETS))


def area(bucket: int) -> List[int]:
    return list(range(bucket * AREA, (bucket + 1) * AREA))


def test_ones_own_come_first_among_equals_and_the_rest_by_id(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(*range(1, 41)))
    first = turn(strategy, free=AREA + 2, owned=owned(3)).granted
    assert ids(first) == [*area(3), 1, 2]
    assert ids(turn(strategy, free=3, owned=owned(5, 7)).granted) == area(5)[:3]
    assert ids(turn(strategy, free=2, owned=owned(7)).granted) == area(7)[:2]
    sound(strategy)


def test_work_never_idles_for_it(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(*range(1, 9)))
    assert ids(turn(strategy, free=3, owned=owned(400)).granted) == [1, 2, 3]
    assert ids(turn(strategy, free=20, owned=owned(1)).granted) == [4, 5, 6, 7, 8]


def test_priority_is_above_it(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(*area(2)))
    strategy.create_partitions_if_not_exist(parts(100, 101, priority=5))
    strategy.create_partitions_if_not_exist(parts(*area(30), priority=-5))
    granted = turn(strategy, free=4, owned=owned(2, 30)).granted
    assert ids(granted) == [100, 101, *area(2)[:2]]
    assert [p.priority for p in granted] == [5, 5, 0, 0]
    assert ids(turn(strategy, free=4, owned=owned(30)).granted) == [*area(2)[2:], *area(30)[:2]]


def test_what_came_back_is_an_equal_of_what_was_never_tried(strategy: Any) -> None:
    # So many that the server keeps their scores as numbers, where "-0" is another spelling of "0".
    strategy.create_partitions_if_not_exist(parts(*range(1, 150)))
    held = turn(strategy, free=3).granted
    for claim in held:
        report(strategy, claim, Outcome.RELEASED)
    assert ids(turn(strategy, free=2, owned=owned(2)).granted) == area(2)[:2]
    assert ids(turn(strategy, free=2).granted) == [1, 2]


def test_free_slots_get_ones_own_running_and_prefetch_the_others_claimed(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(*range(1, 20)))
    granted = turn(strategy, free=2, prefetch=AREA, owned=owned(4)).granted
    assert ids(granted) == [*area(4), 1, 2]
    assert [p.status for p in granted] == [RUNNING] * 2 + [CLAIMED] * AREA


def test_one_look_goes_so_far_and_no_further(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(*range(AREA, AREA + LOOK + 1)))
    last = AREA + LOOK
    assert ids(turn(strategy, free=1, owned=owned(bucket_of(last))).granted) == [AREA], "just out of sight"
    assert ids(turn(strategy, free=1, owned=owned(bucket_of(last))).granted) == [last]


def test_a_claim_larger_than_the_look_gets_all_it_asks_for(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(*range(1, MAX_BATCH + 1)))
    granted = turn(strategy, free=MAX_BATCH, owned=owned(3, 90)).granted
    assert len(granted) == MAX_BATCH and ids(granted)[: 2 * AREA] == area(3) + area(90)
    tokens = [p.fencing_token for p in granted]
    assert tokens == sorted(set(tokens))


def test_large_ids_have_the_bucket_that_python_gives_them(strategy: Any) -> None:
    near_the_top = 2**53 - 1
    numbers = [near_the_top - 9 * AREA - 1, near_the_top - 1]
    strategy.create_partitions_if_not_exist(
        [attr.evolve(item, partition_id=number) for number, item in zip([1, *numbers], parts(1, 1000, 2000))]
    )
    assert ids(turn(strategy, free=1, owned=owned(bucket_of(numbers[1]))).granted) == [numbers[1]]


def test_a_suspect_still_comes_alone(strategy: Any) -> None:
    make_suspects(strategy, 1)
    strategy.create_partitions_if_not_exist(parts(*area(2)))
    assert ids(turn(strategy, free=3, owned=owned(2)).granted) == [1]
    assert ids(turn(strategy, free=3, owned=owned(2), suspects=False).granted) == area(2)[:3]


def test_a_repeated_request_gets_the_same_grants(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(*range(1, 40)))
    request = TurnRequest("w", strategy.stream("test"), 1, 30.0, free=3, owned=owned(6))
    first = strategy.turn(request).granted
    assert ids(first) == area(6)[:3]
    assert ids(strategy.turn(request).granted) == ids(first)
    done = [report(strategy, claim, Outcome.COMPLETED) for claim in first]
    assert not any(result.refused for result in done)
    sound(strategy)


def test_workers_of_one_fleet_share_without_meeting_while_each_finds_its_own(strategy: Any) -> None:
    strategy.create_partitions_if_not_exist(parts(*range(1, 4 * AREA * 4)))
    mine = [owned(*range(worker, BUCKETS, 4)) for worker in range(4)]
    got: List[List[int]] = [[], [], [], []]
    for _ in range(AREA):
        for worker in range(4):
            got[worker] += ids(turn(strategy, "w%d" % worker, "s%d" % worker, free=1, owned=mine[worker]).granted)
    assert all(bucket_of(i) % 4 == worker for worker in range(4) for i in got[worker]), got


@pytest.mark.parametrize("want", [1, 8, 100])
def test_without_it_nothing_changes_and_with_it_one_turn_stays_short(real_backend: Any, want: int) -> None:
    strategy = real_backend.new_strategy()
    strategy.create_partitions_if_not_exist(parts(*range(1, 5001)))
    raw, shown = real_backend.raw, {}
    clock = Clock()
    for name, preference in (("off", ""), ("on", owned(*range(0, BUCKETS, 7)))):
        raw.config_resetstat()
        turn(strategy, free=1, owned=preference)
        commands = raw.info("commandstats")
        shown[name] = {key: value["calls"] for key, value in commands.items() if key != "cmdstat_config|resetstat"}
        began, rounds = clock.monotonic(), 20
        for _ in range(rounds):
            turn(strategy, free=want, owned=preference)
        usec = raw.info("commandstats")["cmdstat_evalsha"]["usec_per_call"]
        print("%s, %d wanted: %.0f us in the server, %.2f ms a turn" % (
            name, want, usec, (clock.monotonic() - began) / rounds * 1e3))  # fmt: skip
        assert usec < 5000
    assert shown["on"] == shown["off"], "not one command more"
