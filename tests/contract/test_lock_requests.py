"""An acquisition of a lock may lose its reply, or run late: the lock knows the request that took it."""

from __future__ import annotations

from typing import Any, List

import pytest

from elk_coordinator.errors import StoreUnavailable

TTL = 10.0


class Line:
    """The way from a store to its server; it loses the next *losses* replies, and can send again what it sent."""

    def __init__(self, store: Any) -> None:
        self.losses = 0
        self.sent: List[Any] = []
        self._call = store._link.call
        store._link.call = self.call

    def call(self, script: Any, keys: Any, args: Any) -> Any:
        answer = self._call(script, keys, args)
        if script.name == "lock_acquire":
            self.sent.append((script, keys, list(args)))
            if self.losses:
                self.losses -= 1
                raise StoreUnavailable("the reply was lost")
        return answer

    def again(self, nth: int) -> Any:
        """Have an earlier request arrive once more."""
        return self._call(*self.sent[nth])[:2]


@pytest.fixture
def store(hash_backend: Any) -> Any:
    return hash_backend.new_strategy().store


@pytest.fixture
def other(hash_backend: Any) -> Any:
    return hash_backend.new_strategy().store


def test_an_acquisition_whose_reply_was_lost_has_its_token_when_sent_again(store: Any, other: Any) -> None:
    line = Line(store)
    line.losses = 1
    token = store.acquire_lock("leader", "me", TTL, 0)
    assert token is not None and len(line.sent) == 2, "within one call"
    assert other.read_lock("leader")[:2] == ("me", token)
    assert store.acquire_lock("leader", "me", TTL, 0) is None, "answered: the next one is another request"
    assert other.acquire_lock("leader", "me", TTL, 0) is None, "another process of the same label"


def test_a_call_that_was_given_up_is_taken_up_by_the_next_one_for_its_full_time(
    hash_backend: Any, store: Any, other: Any
) -> None:
    clock = hash_backend.stop_time()
    store.timeout = 0.0
    line = Line(store)
    line.losses = 1
    with pytest.raises(StoreUnavailable):
        store.acquire_lock("leader", "me", TTL, 0)
    clock.advance(TTL - 1.0)
    assert store.acquire_lock("leader", "somebody else", TTL, 0) is None, "not this one's request"
    token = store.acquire_lock("leader", "me", TTL, 0)
    assert token is not None and other.read_lock("leader") == ("me", token, TTL)


def test_an_acquisition_sent_again_shortens_no_renewal(hash_backend: Any, store: Any) -> None:
    hash_backend.stop_time()
    line = Line(store)
    token = store.acquire_lock("leader", "me", TTL, 0)
    assert store.renew_lock("leader", token, 3 * TTL)
    assert line.again(0)[0] == 1
    assert store.read_lock("leader") == ("me", token, 3 * TTL)


def test_a_late_acquisition_takes_nothing_that_its_caller_gave_up_since(
    hash_backend: Any, store: Any, other: Any
) -> None:
    clock = hash_backend.stop_time()
    line = Line(store)
    first = store.acquire_lock("leader", "me", TTL, 0)
    assert store.release_lock("leader", first)
    assert line.again(0) == [0, 0] and other.read_lock("leader")[2] == 0.0, "given up"
    store.acquire_lock("leader", "me", TTL, 0)
    assert line.again(0) == [0, 0], "overtaken by the next of the same caller"
    clock.advance(TTL)
    assert line.again(0) == [0, 0] and line.again(1) == [0, 0] and store.read_lock("leader")[2] == 0.0, "run out"
    successor = other.acquire_lock("leader", "you", TTL, 0)
    assert line.again(0) == [0, 0] and line.again(1) == [0, 0]
    assert other.read_lock("leader") == ("you", successor, TTL)


def test_a_damaged_name_of_a_request_is_none(hash_backend: Any, store: Any) -> None:
    first = store.acquire_lock("leader", "me", TTL, 0)
    store.release_lock("leader", first)
    hash_backend.raw.hset(hash_backend.key("lock:leader"), "request", "damaged")
    assert store.acquire_lock("leader", "me", TTL, 0) > first
