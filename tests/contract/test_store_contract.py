"""What every DataStore must do, whatever stands behind it: values, locks, registry, wake-ups, rising numbers."""

from __future__ import annotations

import threading
from typing import Any, List

import pytest

from elk_coordinator.errors import ConfigError, StoreError, StoreUnavailable
from elk_coordinator.testing import wait_until

DAY = 86400.0
DAY_US = 86_400_000_000


@pytest.fixture
def store(store_backend: Any) -> Any:
    """Return a store bound to a namespace."""
    return store_backend.new_store().namespaced(store_backend.namespace)


@pytest.fixture
def other(store_backend: Any) -> Any:
    """Return another process's store on the same namespace."""
    return store_backend.new_store().namespaced(store_backend.namespace)


# -- values ----------------------------------------------------------------------------------------------------------


def test_a_value_that_was_never_set_is_absent_at_version_0(store: Any) -> None:
    value = store.get("plan")
    assert (value.data, value.version) == (None, 0)


def test_a_value_is_read_back_by_others_with_its_version(store: Any, other: Any) -> None:
    version = store.compare_and_set("plan", 0, b"one")
    assert version and version > 0
    assert other.get("plan")[:2] == (b"one", version)


@pytest.mark.parametrize("data", [b"", b"\0\r\n\xff" * 100, bytes(range(256)), b"x" * 1_000_000], ids=len)
def test_a_value_keeps_every_byte(store: Any, data: bytes) -> None:
    version = store.compare_and_set("plan", 0, data)
    assert store.get("plan")[:2] == (data, version)


def test_only_the_writer_who_knows_the_present_version_replaces_a_value(store: Any, other: Any) -> None:
    first = store.compare_and_set("plan", 0, b"one")
    second = other.compare_and_set("plan", first, b"two")
    assert second > first
    assert store.compare_and_set("plan", first, b"late") is None
    assert store.compare_and_set("plan", 0, b"late") is None
    assert store.compare_and_set("plan", second + 1, b"late") is None
    assert store.get("plan")[:2] == (b"two", second)


def test_of_many_writers_at_once_exactly_one_wins_each_version(store_backend: Any, store: Any) -> None:
    store.compare_and_set("count", 0, b"0")

    def add(mine: Any) -> None:
        done = 0
        while done < 20:
            value = mine.get("count")
            if mine.compare_and_set("count", value.version, b"%d" % (int(value.data) + 1)) is not None:
                done += 1

    stores = [store_backend.new_store().namespaced(store_backend.namespace) for _ in range(4)]
    threads = [threading.Thread(target=add, args=(mine,)) for mine in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.get("count").data == b"80"


def test_a_deleted_value_is_absent_and_only_its_present_version_deletes_it(store: Any) -> None:
    first = store.compare_and_set("plan", 0, b"one")
    assert store.compare_and_set("plan", first + 1, None) is None
    assert store.get("plan").data == b"one"
    assert store.compare_and_set("plan", first, None) > first
    assert store.get("plan")[:2] == (None, 0)


def test_values_of_different_names_and_namespaces_do_not_meet(store_backend: Any, store: Any) -> None:
    foreign = store_backend.new_store().namespaced(store_backend.namespace + "x")
    store.compare_and_set("a", 0, b"1")
    foreign.compare_and_set("a", 0, b"2")
    store.compare_and_set("b", 0, b"3")
    assert [store.get("a").data, foreign.get("a").data, store.get("b").data] == [b"1", b"2", b"3"]
    assert foreign.get("b").data is None


def test_a_value_comes_with_the_time_at_which_the_store_read_it(store_backend: Any, store: Any) -> None:
    clock = store_backend.stop_time()
    assert store.now() == store.get("plan").now == clock.seconds
    clock.advance(12.5)
    assert store.now() == store.get("plan").now == clock.seconds


# -- versions and tokens only rise -----------------------------------------------------------------------------------


def test_versions_do_not_repeat_after_a_delete(store: Any) -> None:
    seen = [store.compare_and_set("plan", 0, b"one")]
    for _ in range(5):
        seen.append(store.compare_and_set("plan", seen[-1], None))
        seen.append(store.compare_and_set("plan", 0, b"one"))
    assert seen == sorted(set(seen))


def test_a_writer_frozen_over_a_delete_and_a_new_value_is_refused(store: Any, other: Any) -> None:
    old = store.compare_and_set("plan", 0, b"old")
    gone = other.compare_and_set("plan", old, None)
    new = other.compare_and_set("plan", 0, b"new")
    for version in (old, gone):
        assert store.compare_and_set("plan", version, b"late") is None
        assert store.compare_and_set("plan", version, None) is None
    assert store.get("plan")[:2] == (b"new", new)


def test_versions_and_tokens_are_drawn_from_one_rising_row(store: Any) -> None:
    row = [
        store.compare_and_set("a", 0, b"1"),
        store.acquire_lock("x", "me", 10.0, 0),
        store.compare_and_set("b", 0, b"1"),
        store.acquire_lock("y", "me", 10.0, 0),
    ]
    row.append(store.compare_and_set("a", row[0], b"2"))
    assert row == sorted(set(row))


def test_tokens_rise_while_the_stores_clock_stands_still_or_goes_back(store_backend: Any, store: Any) -> None:
    clock = store_backend.stop_time()
    row: List[int] = []
    for step in (0.0, 0.0, -5.0, -3600.0, 1.0):
        clock.advance(step)
        row.append(store.acquire_lock("lock%d" % len(row), "me", 10.0, 0))
        row.append(store.compare_and_set("value%d" % len(row), 0, b"x"))
    assert row == sorted(set(row))


def test_a_writer_frozen_over_data_loss_is_refused(store_backend: Any, store: Any, other: Any) -> None:
    old = store.compare_and_set("plan", 0, b"old")
    store_backend.lose_data()
    assert store.compare_and_set("plan", old, b"late") is None
    new = other.compare_and_set("plan", 0, b"new")
    assert new > old
    assert store.compare_and_set("plan", old, b"late") is None
    assert store.get("plan")[:2] == (b"new", new)


def test_tokens_rise_over_data_loss_because_the_clock_went_on(store_backend: Any, store: Any) -> None:
    clock = store_backend.stop_time()
    before = store.acquire_lock("leader", "me", 10.0, 0)
    clock.advance(0.001)
    store_backend.lose_data()
    assert store.acquire_lock("leader", "you", 10.0, 0) > before


def test_tokens_rise_over_data_loss_with_the_clock_set_back_when_the_caller_remembers(
    store_backend: Any, store: Any
) -> None:
    clock = store_backend.stop_time()
    before = store.acquire_lock("leader", "me", 10.0, 0)
    store_backend.lose_data()
    clock.advance(-3600.0)
    after = store.acquire_lock("leader", "you", 10.0, before)
    assert after > before
    assert store.acquire_lock("other", "somebody new", 10.0, 0) > after


def test_without_a_floor_the_token_would_have_fallen(store_backend: Any, store: Any) -> None:
    """The control of the test above, and the residual that the guarantees name."""
    clock = store_backend.stop_time()
    before = store.acquire_lock("leader", "me", 10.0, 0)
    store_backend.lose_data()
    clock.advance(-3600.0)
    assert store.acquire_lock("leader", "you", 10.0, 0) < before


def test_a_floor_up_to_a_day_ahead_is_believed(store_backend: Any, store: Any) -> None:
    clock = store_backend.stop_time()
    assert store.acquire_lock("leader", "me", 10.0, clock.us + DAY_US) == clock.us + DAY_US + 1


def test_a_floor_more_than_a_day_ahead_is_refused_and_changes_nothing(store_backend: Any, store: Any) -> None:
    clock = store_backend.stop_time()
    for floor in (clock.us + DAY_US + 1, 2**53, 2**63):
        with pytest.raises(StoreError, match="a day ahead"):
            store.acquire_lock("leader", "me", 10.0, floor)
    assert store.read_lock("leader")[2] == 0.0
    assert store.acquire_lock("leader", "me", 10.0, 0) == clock.us


def test_a_floor_a_day_above_the_last_token_is_believed_when_the_clock_was_set_back(
    store_backend: Any, store: Any
) -> None:
    clock = store_backend.stop_time()
    last = store.acquire_lock("a", "me", 10.0, 0)
    clock.advance(-2 * DAY)
    assert store.acquire_lock("b", "me", 10.0, last + DAY_US) == last + DAY_US + 1


# -- locks -----------------------------------------------------------------------------------------------------------


def test_a_free_lock_is_taken_and_read_with_owner_token_and_remaining_time(store_backend: Any, store: Any) -> None:
    clock = store_backend.stop_time()
    assert store.read_lock("leader")[2] == 0.0
    token = store.acquire_lock("leader", "me é", 10.0, 0)
    assert token > 0
    assert store.read_lock("leader") == ("me é", token, 10.0)
    clock.advance(2.5)
    assert store.read_lock("leader") == ("me é", token, 7.5)


def test_a_held_lock_is_nobody_elses_not_even_its_owners_again(store: Any, other: Any) -> None:
    token = store.acquire_lock("leader", "me", 10.0, 0)
    assert other.acquire_lock("leader", "you", 10.0, 0) is None
    assert store.acquire_lock("leader", "me", 10.0, 0) is None
    assert other.read_lock("leader")[:2] == ("me", token)


def test_of_many_who_want_a_lock_exactly_one_gets_it(store_backend: Any) -> None:
    stores = [store_backend.new_store().namespaced(store_backend.namespace) for _ in range(6)]
    start = threading.Barrier(len(stores))
    got: List[Any] = []

    def take(mine: Any, owner: str) -> None:
        start.wait()
        got.append(mine.acquire_lock("leader", owner, 60.0, 0))

    threads = [threading.Thread(target=take, args=(mine, "w%d" % i)) for i, mine in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([token for token in got if token is not None]) == 1


def test_a_lock_is_free_at_its_deadline_and_not_before(store_backend: Any, store: Any, other: Any) -> None:
    clock = store_backend.stop_time()
    first = store.acquire_lock("leader", "me", 10.0, 0)
    clock.advance(9.999)
    assert other.acquire_lock("leader", "you", 10.0, 0) is None
    clock.advance(0.001)
    assert other.read_lock("leader")[2] == 0.0
    second = other.acquire_lock("leader", "you", 20.0, 0)
    assert second > first
    assert store.read_lock("leader") == ("you", second, 20.0)


def test_a_renewal_lasts_from_now_for_exactly_the_time_it_carries(store_backend: Any, store: Any) -> None:
    clock = store_backend.stop_time()
    token = store.acquire_lock("leader", "me", 10.0, 0)
    clock.advance(9.0)
    assert store.renew_lock("leader", token, 4.0) is True
    assert store.read_lock("leader") == ("me", token, 4.0)


def test_a_lock_that_ran_out_is_not_revived_by_a_renewal(store_backend: Any, store: Any, other: Any) -> None:
    clock = store_backend.stop_time()
    token = store.acquire_lock("leader", "me", 10.0, 0)
    clock.advance(10.0)
    assert store.renew_lock("leader", token, 10.0) is False
    assert store.read_lock("leader")[2] == 0.0
    assert other.acquire_lock("leader", "you", 10.0, 0) is not None


def test_neither_renewal_nor_release_work_under_another_token(store: Any, other: Any) -> None:
    token = store.acquire_lock("leader", "me", 10.0, 0)
    for wrong in (0, 1, token - 1, token + 1):
        assert other.renew_lock("leader", wrong, 99.0) is False
        assert other.release_lock("leader", wrong) is False
    owner, held, remaining = store.read_lock("leader")
    assert (owner, held) == ("me", token) and 0.0 < remaining <= 10.0


def test_renewal_and_release_of_a_lock_that_never_was_are_false(store: Any) -> None:
    for token in (0, 1):
        assert store.renew_lock("nobody", token, 1.0) is False
        assert store.release_lock("nobody", token) is False


def test_a_released_lock_is_free_at_once_and_its_token_is_dead(store: Any, other: Any) -> None:
    first = store.acquire_lock("leader", "me", 10.0, 0)
    assert store.release_lock("leader", first) is True
    assert store.release_lock("leader", first) is False
    assert store.renew_lock("leader", first, 10.0) is False
    assert store.read_lock("leader")[2] == 0.0
    second = other.acquire_lock("leader", "you", 10.0, 0)
    assert second > first
    assert store.release_lock("leader", first) is False
    assert other.read_lock("leader")[1] == second


def test_a_late_release_or_renewal_does_not_touch_the_next_holder(store_backend: Any, store: Any, other: Any) -> None:
    clock = store_backend.stop_time()
    first = store.acquire_lock("leader", "me", 10.0, 0)
    clock.advance(10.0)
    second = other.acquire_lock("leader", "you", 10.0, 0)
    clock.advance(3.0)
    assert store.renew_lock("leader", first, 60.0) is False
    assert store.release_lock("leader", first) is False
    assert other.read_lock("leader") == ("you", second, 7.0)


def test_a_lock_never_lasts_longer_than_its_length_after_the_clock_went_back(
    store_backend: Any, store: Any, other: Any
) -> None:
    clock = store_backend.stop_time()
    first = store.acquire_lock("leader", "me", 10.0, 0)
    clock.advance(-3600.0)
    assert store.read_lock("leader") == ("me", first, 10.0)
    assert other.acquire_lock("leader", "you", 10.0, 0) is None
    clock.advance(10.0)
    second = other.acquire_lock("leader", "you", 10.0, 0)
    assert second is not None and second > first


def test_a_clock_that_jumps_forward_frees_a_lock(store_backend: Any, store: Any, other: Any) -> None:
    clock = store_backend.stop_time()
    first = store.acquire_lock("leader", "me", 10.0, 0)
    clock.advance(DAY)
    assert store.renew_lock("leader", first, 10.0) is False
    assert other.acquire_lock("leader", "you", 10.0, 0) > first


def test_a_lock_is_gone_after_data_loss_and_its_token_is_dead(store_backend: Any, store: Any, other: Any) -> None:
    first = store.acquire_lock("leader", "me", 10.0, 0)
    store_backend.lose_data()
    assert store.renew_lock("leader", first, 10.0) is False
    assert store.release_lock("leader", first) is False
    assert other.acquire_lock("leader", "you", 10.0, first) > first


def test_locks_of_different_names_and_namespaces_do_not_meet(store_backend: Any, store: Any) -> None:
    foreign = store_backend.new_store().namespaced(store_backend.namespace + "x")
    assert store.acquire_lock("leader", "me", 10.0, 0)
    assert store.acquire_lock("other", "me", 10.0, 0)
    assert foreign.acquire_lock("leader", "you", 10.0, 0)
    assert store.read_lock("leader")[0] == "me"


# -- registry --------------------------------------------------------------------------------------------------------


def test_a_worker_is_registered_as_long_as_it_beats(store_backend: Any, store: Any, other: Any) -> None:
    clock = store_backend.stop_time()
    assert other.workers() == []
    store.beat("w1", 10.0, {"pid": 7, "host": "é"})
    other.beat("w2", 20.0)
    clock.advance(4.0)
    first, second = other.workers()
    assert (first.worker_id, first.remaining, first.info) == ("w1", 6.0, {"pid": 7, "host": "é"})
    assert (second.worker_id, second.remaining, second.info) == ("w2", 16.0, {})
    store.beat("w1", 10.0, {"pid": 8})
    assert [(w.worker_id, w.remaining, w.info) for w in other.workers()][0] == ("w1", 10.0, {"pid": 8})
    clock.advance(10.0)
    assert [w.worker_id for w in other.workers()] == ["w2"]


def test_a_worker_that_was_silent_too_long_comes_back_with_its_next_beat(store_backend: Any, store: Any) -> None:
    clock = store_backend.stop_time()
    store.beat("w1", 10.0)
    for silence in (10.0, 3000.0, 5000.0):
        clock.advance(silence)
        assert store.workers() == []
    store.beat("w1", 10.0, {"pid": 9})
    assert [(w.worker_id, w.info) for w in store.workers()] == [("w1", {"pid": 9})]


def test_a_forgotten_worker_is_gone_at_once_and_forgetting_strangers_is_no_error(store: Any) -> None:
    store.beat("w1", 10.0)
    store.beat("w2", 10.0)
    store.forget("w1")
    store.forget("w1")
    store.forget("never seen")
    assert [w.worker_id for w in store.workers()] == ["w2"]


def test_a_worker_is_visible_again_one_beat_after_data_loss(store_backend: Any, store: Any) -> None:
    store.beat("w1", 10.0)
    store_backend.lose_data()
    assert store.workers() == []
    store.beat("w1", 10.0)
    assert [w.worker_id for w in store.workers()] == ["w1"]


def test_a_thousand_workers_are_listed_in_order(store: Any) -> None:
    for i in range(1000):
        store.beat("w%04d" % i, 60.0)
    assert [w.worker_id for w in store.workers()] == ["w%04d" % i for i in range(1000)]


# -- wake-ups --------------------------------------------------------------------------------------------------------


def test_a_hint_reaches_who_waits_for_its_topic(store: Any, other: Any) -> None:
    assert store.wait("work", 0.01) is None  # subscribes
    other.notify("work")
    assert store.wait("work", 10.0) == "work"


def test_the_star_hears_every_topic_and_a_name_only_its_own(store: Any, other: Any) -> None:
    assert store.wait("*", 0.01) is None
    other.notify("hungry")
    assert store.wait("*", 10.0) == "hungry"
    other.notify("hungry")
    other.notify("work")
    assert store.wait("work", 10.0) == "work"


def test_a_wait_without_a_hint_ends_with_its_time(store: Any) -> None:
    assert store.wait("work", 0.0) is None
    assert store.wait("work", 0.05) is None


def test_hints_stay_in_their_namespace(store_backend: Any, store: Any) -> None:
    foreign = store_backend.new_store().namespaced(store_backend.namespace + "x")
    assert store.wait("*", 0.01) is None
    foreign.notify("work")
    assert store.wait("*", 0.1) is None


def test_a_hint_wakes_a_thread_that_waits(store: Any, other: Any) -> None:
    heard: List[Any] = []
    thread = threading.Thread(target=lambda: heard.append(store.wait("leader", 30.0)))
    thread.start()
    # Repeated, because the first may be sent before the thread has subscribed.
    wait_until(lambda: other.notify("leader") or heard, what="the waiting thread")
    thread.join()
    assert heard == ["leader"]


def test_a_released_lock_wakes_who_waits_for_it(store: Any, other: Any) -> None:
    token = store.acquire_lock("leader", "me", 60.0, 0)
    assert other.wait("leader", 0.01) is None
    store.release_lock("leader", token)
    assert other.wait("leader", 10.0) == "leader"


def test_a_release_that_released_nothing_wakes_nobody(store: Any, other: Any) -> None:
    token = store.acquire_lock("leader", "me", 60.0, 0)
    assert other.wait("*", 0.01) is None
    store.release_lock("leader", token + 1)
    assert other.wait("*", 0.1) is None


# -- life ------------------------------------------------------------------------------------------------------------


def test_a_store_derived_with_a_deadline_sees_the_same_data_and_closes_alone(store: Any) -> None:
    version = store.compare_and_set("plan", 0, b"x")
    derived = store.with_deadline(0.5)
    assert derived.timeout == 0.5
    assert derived.get("plan")[:2] == (b"x", version)
    derived.close()
    with pytest.raises(StoreUnavailable):
        derived.get("plan")
    assert store.get("plan").data == b"x"


def test_a_derived_store_outlives_the_one_it_came_from(store_backend: Any) -> None:
    base = store_backend.new_store()
    derived = base.namespaced(store_backend.namespace).with_deadline(0.5, "label")
    try:
        base.close()
        assert derived.get("plan").data is None
    finally:
        derived.close()


def test_closing_a_namespaced_store_leaves_the_one_it_came_from_open(store_backend: Any) -> None:
    base = store_backend.new_store()
    base.namespaced(store_backend.namespace).close()
    assert base.namespaced(store_backend.namespace).get("plan").data is None


def test_a_closed_store_says_so_and_closing_twice_is_safe(store_backend: Any) -> None:
    base = store_backend.new_store()
    store = base.namespaced(store_backend.namespace)
    store.get("plan")
    base.close()
    base.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        store.get("plan")


def test_closing_ends_a_wait(store_backend: Any, other: Any) -> None:
    base = store_backend.new_store()
    store = base.namespaced(store_backend.namespace)
    heard: List[str] = []
    ended = threading.Event()

    def wait() -> None:
        try:
            heard.append(store.wait("*", 30.0))
            store.wait("*", 50.0)
        except StoreUnavailable:
            pass
        finally:
            ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: other.notify("work") or heard, what="the waiting thread")
    try:
        base.close()
    except (
        ValueError
    ):  # fakeredis's sockets cannot bear to be closed while another thread sends; the flag is set by now
        assert store_backend.name == "fakeredis"
    assert ended.wait(5.0), "wait() went on after close()"
    thread.join()


@pytest.mark.parametrize("name", ["", "a b", "a{b}", "ü", "x" * 101, "a/b", "a\n", None, 7])
def test_a_namespace_that_may_not_be_part_of_a_key_is_refused(store_backend: Any, name: Any) -> None:
    with pytest.raises(ConfigError):
        store_backend.new_store().namespaced(name)
