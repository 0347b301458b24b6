"""What the in-process integration tests share: a planner over 1..n, a processor that counts, coordinators that end."""

from __future__ import annotations

import collections
import contextlib
import threading
from typing import Any, Callable, Counter, Dict, Iterator, List, Optional

import pytest

from elk_coordinator import Coordinator, Listener, RedisDataStore, StrategyType, create_strategy
from elk_coordinator.protocols import EVENT_KINDS, Event
from elk_coordinator.testing import wait_until

#: Leases of 3 s: nothing here needs one to run out, and a busy machine must not make one run out.
QUICK: Dict[str, Any] = {
    "heartbeat_interval": 0.5, "worker_ttl": 3.0, "leader_lock_expiry": 3.0, "allocation_interval": 1.0,
    "retry_backoff": (0.05, 0.1), "stop_timeout": 10.0, "metrics_enabled": False,
}  # fmt: skip


class Numbers:
    """A planner: the IDs 1 to ``last``, densely."""

    def __init__(self, last: int, size: int = 10) -> None:
        self.last = last
        self.size = size

    def partition_size(self, ctx: Any) -> int:
        return self.size

    def get_next_max_id(self, ctx: Any, start_id: int, range_size: int) -> int:
        return min(self.last, start_id + range_size)


class Counting:
    """A processor that counts how often each ID was handled and by whom; *before* runs first, with the context."""

    def __init__(self, before: Optional[Callable[[Any], Any]] = None) -> None:
        self._lock = threading.Lock()
        self._before = before
        self.seen: Counter[int] = collections.Counter()
        self.workers: Counter[str] = collections.Counter()
        self.tokens: List[int] = []

    def process(self, ctx: Any, min_id: int, max_id: int, options: Dict[str, Any]) -> int:
        with self._lock:
            self.workers[ctx.worker_id] += 1
            self.tokens.append(ctx.fencing_token)
        if self._before is not None:
            self._before(ctx)
        with self._lock:
            self.seen.update(range(min_id, max_id + 1))
        return max_id - min_id + 1


def once_each(last: int) -> Dict[int, int]:
    """Return what ``Counting.seen`` must be when each of 1..last was handled once."""
    return dict.fromkeys(range(1, last + 1), 1)


def turns(coordinator: Coordinator, count: int) -> None:
    """Have the claimer take so many turns."""
    claimer = coordinator._claimer
    for _ in range(count):
        before = claimer.last_turn_at
        claimer.wake.set()
        wait_until(lambda before=before: claimer.last_turn_at != before, 10, "a turn")


class Recorder(Listener):
    """Keeps every event."""

    def __init__(self) -> None:
        self.events: List[Event] = []

    def of(self, kind: str) -> List[Event]:
        return [event for event in list(self.events) if event.kind == kind]


def _keeper(kind: str) -> Any:
    def keep(self: Recorder, event: Event) -> None:
        self.events.append(event)

    keep.__name__ = "on_" + kind
    return keep


for _kind in EVENT_KINDS:
    setattr(Recorder, "on_" + _kind, _keeper(_kind))


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisDataStore]:
    """Return a store on this test's own database."""
    with contextlib.closing(RedisDataStore.from_url(redis_url)) as opened:
        yield opened


@pytest.fixture
def partitions(store: RedisDataStore, namespace: str) -> Any:
    """Return the partitions of this test's namespace, seen from outside any coordinator."""
    return create_strategy(StrategyType.HASH, namespace, store)


@pytest.fixture
def build(store: RedisDataStore, namespace: str) -> Iterator[Callable[..., Coordinator]]:
    """Return a function that builds a coordinator, not started; all are stopped when the test ends."""
    built: List[Coordinator] = []

    def make(processor: Any = None, planner: Any = None, **options: Any) -> Coordinator:
        options = dict(QUICK, **options)
        coordinator = Coordinator(
            options.pop("namespace", namespace), options.pop("store", store), processor or Counting(), planner,
            **options,
        )  # fmt: skip
        built.append(coordinator)
        return coordinator

    yield make
    for coordinator in built:
        coordinator.stop(2.0)
