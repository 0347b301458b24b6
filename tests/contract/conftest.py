"""What the contract suite runs on: every strategy on every store that it must work with.

A backend is one set of data that several "processes" share, each with a store and a strategy object of its own. To add
a strategy or a store: subclass :class:`Backend`, and name it in ``STORES`` and ``STRATEGIES``. Tests that ask for
``hash_backend`` look into the keys and scripts of the HASH strategy and do not run on others.
"""

from __future__ import annotations

import pathlib
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import fakeredis
import pytest
import redis

import elk_coordinator
from elk_coordinator.errors import StoreUnavailable
from elk_coordinator.model import StrategyType
from elk_coordinator.partition.factory import create_strategy
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.store.base import DataStore
from elk_coordinator.store.memory_store import MemoryDataStore
from elk_coordinator.store.redis_store import RedisDataStore
from tests.contract.kit import LEASE

#: Scripts that change something, by their names.
CHANGES = (
    "work", "checkpoint", "sweep", "plan", "acquire", "update", "delete", "heartbeat", "value_cas",
    "submit", "command", "forget_commands", "command_trim", "archive_swap",
)  # fmt: skip


class StoreClock(Clock):
    """The clock of a store, standing still until a test moves it."""

    def __init__(self, write: Callable[[int], None] = lambda us: None) -> None:
        super().__init__()
        self._write = write
        self.move_to(1_700_000_000_000_000)

    @property
    def seconds(self) -> float:
        return self.us / 1e6

    def time(self) -> float:
        return self.us / 1e6

    def advance(self, seconds: float) -> None:
        """Move it; back, when negative, as an operator does who sets a server's clock."""
        self.move_to(self.us + int(round(seconds * 1e6)))

    def move_to(self, us: int) -> None:
        self.us = us
        self._write(us)


class SwitchedClock(Clock):
    """The system's clock, until it is told to show another."""

    shown: Optional[StoreClock] = None

    def time(self) -> float:
        return super().time() if self.shown is None else self.shown.time()


class Backend:
    """One set of data. ``name`` is the id in the test report."""

    def __init__(self, name: str, namespace: str) -> None:
        self.name = name
        self.namespace = namespace
        self.strategy_type = StrategyType.HASH
        self.clock: Optional[StoreClock] = None
        self._stores: List[DataStore] = []

    def new_store(self, **options: Any) -> Any:
        """Return another store on the same data, as another process has one; closed at the end of the test."""
        store = self._make_store(**options)
        self._stores.append(store)
        return store

    def new_strategy(self, store: Optional[DataStore] = None, namespace: Optional[str] = None, **options: Any) -> Any:
        """Return another strategy on the same data, with a memory and request streams of its own."""
        return create_strategy(self.strategy_type, namespace or self.namespace, store or self.new_store(), **options)

    def stop_time(self) -> StoreClock:
        """Make the store's clock stand still, for stores made before and after; return it."""
        raise NotImplementedError

    def lose_data(self) -> None:
        """Empty the store behind everybody's back."""
        raise NotImplementedError

    def lose_reply(self, strategy: Any, nth: int) -> None:
        """Let the *nth* change that *strategy* makes be done and its reply be lost, as on a broken connection."""
        raise NotImplementedError

    def close(self) -> None:
        for store in self._stores:
            store.close()

    def _make_store(self, **options: Any) -> DataStore:
        raise NotImplementedError


class RedisBackend(Backend):
    """RedisDataStores on a real server (``url``) or in front of fakeredis (``fake``)."""

    #: Holds the time while it stands still; no key of a namespace.
    CLOCK_KEY = "elk-test-clock"

    def __init__(self, name: str, namespace: str, url: str = "", fake: Optional[fakeredis.FakeServer] = None) -> None:
        super().__init__(name, namespace)
        self.url = url
        #: A plain client, for looking and for doing damage.
        self.raw: Any = redis.Redis.from_url(url) if url else fakeredis.FakeRedis(server=fake)
        self._mutations: List[Tuple[str, str, str]] = []

    def _make_store(self, **options: Any) -> RedisDataStore:
        store = RedisDataStore.from_url(self.url, **options) if self.url else RedisDataStore(self.raw, **options)
        for mutation in self._mutations:
            store.scripts.replace(*mutation)
        return store

    def mutate(self, path: str, old: str, new: str) -> None:
        """Change the text of a script in every store of this backend, to switch a guard off."""
        for store in self._stores:
            assert isinstance(store, RedisDataStore)
            store.scripts.replace(path, old, new)
        self._mutations.append((path, old, new))

    def stop_time(self) -> StoreClock:
        if self.clock is None:
            ask = "redis.call('TIME')"
            scripts = RedisDataStore(self.raw).scripts
            for path in script_paths():
                if ask in scripts.get(path).source:
                    self.mutate(path, ask, "redis.call('HMGET', '%s', 's', 'us')" % self.CLOCK_KEY)
            self.clock = StoreClock(self._write_clock)
        return self.clock

    def _write_clock(self, us: int) -> None:
        self.raw.hset(self.CLOCK_KEY, mapping={"s": us // 1_000_000, "us": us % 1_000_000})

    def lose_data(self) -> None:
        self.raw.flushdb()
        if self.clock is not None:
            self._write_clock(self.clock.us)

    def lose_reply(self, strategy: Any, nth: int) -> None:
        link = strategy.store._link
        call, left = link.call, [nth]

        def lossy(script: Any, keys: Any, args: Any) -> Any:
            answer = call(script, keys, args)
            left[0] -= script.name in CHANGES
            if left[0] == 0 and script.name in CHANGES:
                raise StoreUnavailable("the reply was lost")
            return answer

        link.call = lossy

    def key(self, name: str) -> str:
        """Return a key of the namespace, as ``store/keys.py`` builds it."""
        return "elk:{%s}:%s" % (self.namespace, name)

    def dump(self) -> Dict[bytes, Any]:
        """Return everything in the database, for comparing before and after."""
        out: Dict[bytes, Any] = {}
        for key in self.raw.keys("*"):
            kind = self.raw.type(key)
            if key == self.CLOCK_KEY.encode():
                continue
            if kind == b"hash":
                out[key] = self.raw.hgetall(key)
            elif kind == b"zset":
                out[key] = self.raw.zrange(key, 0, -1, withscores=True)
            elif kind == b"set":
                out[key] = self.raw.smembers(key)
            else:
                out[key] = self.raw.get(key)
        return out

    def close(self) -> None:
        super().close()
        self.raw.close()
        self.raw.connection_pool.disconnect()


class MemoryBackend(Backend):
    """Copies of one MemoryDataStore."""

    def __init__(self, name: str, namespace: str) -> None:
        super().__init__(name, namespace)
        self._switch = SwitchedClock()
        self._root = MemoryDataStore(self._switch)

    def _make_store(self, **options: Any) -> MemoryDataStore:
        return self._root.with_deadline(options.get("timeout", 5.0))

    def stop_time(self) -> StoreClock:
        if self.clock is None:
            self.clock = self._switch.shown = StoreClock()
        return self.clock

    def lose_data(self) -> None:
        self._root.clear()

    def lose_reply(self, strategy: Any, nth: int) -> None:
        store = strategy.store
        change, left = store.compare_and_set, [nth]

        def lossy(name: str, expected_version: int, data: Optional[bytes]) -> Any:
            answer = change(name, expected_version, data)
            left[0] -= 1
            if left[0] == 0:
                raise StoreUnavailable("the reply was lost")
            return answer

        store.compare_and_set = lossy


def script_paths() -> List[str]:
    """Return every script of the package as ``home/name``, without the files that others include."""
    out = []
    for home in ("store", "partition"):
        for path in sorted((pathlib.Path(elk_coordinator.__file__).parent / home / "lua").glob("*.lua")):
            if path.stem not in ("stamp", "state"):
                out.append("%s/%s" % (home, path.stem))
    return out


# -- the matrix ------------------------------------------------------------------------------------------------------


def _redis(request: pytest.FixtureRequest, name: str) -> Backend:
    return RedisBackend(name, request.getfixturevalue("namespace"), url=request.getfixturevalue("redis_url"))


def _fakeredis(request: pytest.FixtureRequest, name: str) -> Backend:
    return RedisBackend(name, request.getfixturevalue("namespace"), fake=request.getfixturevalue("fake_server"))


def _memory(request: pytest.FixtureRequest, name: str) -> Backend:
    return MemoryBackend(name, request.getfixturevalue("namespace"))


Maker = Callable[[pytest.FixtureRequest, str], Backend]

STORES: Dict[str, Maker] = {"redis": _redis, "fakeredis": _fakeredis, "memory": _memory}
#: SIMPLE knows nothing of Redis: the fake in its place would prove nothing that the real server does not.
STRATEGIES: Dict[str, Tuple[StrategyType, Maker]] = {
    "hash-redis": (StrategyType.HASH, _redis),
    "hash-fakeredis": (StrategyType.HASH, _fakeredis),
    "simple-redis": (StrategyType.SIMPLE, _redis),
    "simple-memory": (StrategyType.SIMPLE, _memory),
}


def _made(request: pytest.FixtureRequest, kind: StrategyType, maker: Maker) -> Iterator[Backend]:
    backend = maker(request, request.param)
    backend.strategy_type = kind
    yield backend
    backend.close()


@pytest.fixture(params=list(STRATEGIES))
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Every strategy on every store."""
    yield from _made(request, *STRATEGIES[request.param])


@pytest.fixture(params=list(STORES))
def store_backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Every store."""
    yield from _made(request, StrategyType.SIMPLE, STORES[request.param])


@pytest.fixture(params=["redis", "fakeredis"])
def hash_backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """The HASH strategy, whose keys and scripts the test knows."""
    yield from _made(request, StrategyType.HASH, STORES[request.param])


@pytest.fixture(params=["redis"])
def real_backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """The HASH strategy on the real server, for what a simulation cannot prove."""
    yield from _made(request, StrategyType.HASH, STORES[request.param])


@pytest.fixture
def clock(backend: Any) -> StoreClock:
    """Stop the time of the store."""
    stopped: StoreClock = backend.stop_time()
    return stopped


@pytest.fixture
def strategy(backend: Any) -> Any:
    """Return the strategy of one process."""
    return backend.new_strategy(partition_lock_expiry=LEASE)


@pytest.fixture
def other(backend: Any) -> Any:
    """Return another process's strategy on the same namespace."""
    return backend.new_strategy(partition_lock_expiry=LEASE)
