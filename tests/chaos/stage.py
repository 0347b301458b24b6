"""What the faults of a chaos run act upon: the crew, the server, the namespace, and the numbers of the run."""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Iterator, List, Optional

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from elk_coordinator import AdminClient, RedisDataStore, StrategyType, create_strategy
from elk_coordinator.errors import ElkError
from elk_coordinator.testing import EmbeddedServer
from tests.chaos.crew import Crew, Slot
from tests.chaos.events import EventLog
from tests.chaos.fence import Space


class Stage:
    """Used by the threads of faults; they serialise what may be done by one at a time themselves."""

    def __init__(self, server: EmbeddedServer, namespace: str, strategy: StrategyType, crew: Crew, space: Space,
                 events: EventLog, rate: float, last: int) -> None:  # fmt: skip
        self.server = server
        self.namespace = namespace
        self.crew = crew
        self.space = space
        self.events = events
        self.rate = rate
        self.last = last
        self.store = RedisDataStore.from_url(server.url, timeout=2.0)
        self.partitions: Any = create_strategy(strategy, namespace, self.store)
        self.admin = AdminClient(namespace, self.store, by="chaos", default=strategy)
        #: The server's process is one fault's at a time.
        self.server_turn = threading.Lock()
        self._grow = threading.Lock()
        #: No more faults.
        self.over = threading.Event()

    def lasts(self, seconds: float) -> None:
        """Let a fault last; shorter when the run is broken off."""
        self.over.wait(seconds)

    def grow(self, ids: int) -> None:
        """Have *ids* more of them exist."""
        with self._grow:
            self.space.top = min(self.last, self.space.top + ids)

    def free_memory(self) -> None:
        """Let the server have memory again; another fault may cut the connection just then."""
        for _ in range(50):
            with self.hand() as client:
                client.config_set("maxmemory", 0)
                return
            threading.Event().wait(0.1)

    def slot(self, number: int) -> Slot:
        """Return the slot of that number, or the next one with a living process."""
        slots = self.crew.slots
        for turn in range(len(slots)):
            slot = slots[(number + turn) % len(slots)]
            if slot.alive and slot.wanted:
                return slot
        return slots[number % len(slots)]

    def leader(self) -> Optional[Slot]:
        """Return the slot of the leader; None when nobody leads, or the store does not say."""
        with contextlib.suppress(ElkError):
            held = self.partitions.leader()
            return self.crew.named(held[0]) if held else None
        return None

    @contextlib.contextmanager
    def hand(self) -> Iterator[Any]:
        """Give a plain client at the server itself, without retries. What it cannot do is not done."""
        client = redis.Redis.from_url(self.server.url, retry=Retry(NoBackoff(), 0), socket_timeout=5.0)
        try:
            yield client
        except redis.RedisError:
            pass
        finally:
            client.close()
            client.connection_pool.disconnect()

    def running_ids(self, limit: int) -> List[int]:
        """Return ids of some partitions that are open."""
        with contextlib.suppress(ElkError):
            return [p.partition_id for p in self.partitions.get_all_active_partitions()[:limit]]
        return []

    def close(self) -> None:
        self.store.close()
