"""What the contract suite runs on: every strategy on every store that it must work with.

A backend is one set of data that several "processes" share, each with a store and a strategy object of its own. To add
a strategy or a store: subclass :class:`Backend`, and name it in ``STRATEGIES`` or ``STORES``. Tests that ask for
``hash_backend`` look into the keys and scripts of the HASH strategy and do not run on others.
"""

from __future__ import annotations

import pathlib
from typing import Any, Callable, Dict, Iterator, List, Optional

import fakeredis
import pytest
import redis

import elk_coordinator
from elk_coordinator.model import StrategyType
from elk_coordinator.partition.factory import create_strategy
from elk_coordinator.store.base import DataStore
from elk_coordinator.store.redis_store import RedisDataStore


class StoreClock:
    """The clock of a store, standing still until a test moves it."""

    def __init__(self, write: Callable[[int], None], now_us: int = 1_700_000_000_000_000) -> None:
        self._write = write
        self.us = now_us
        write(now_us)

    @property
    def seconds(self) -> float:
        return self.us / 1e6

    @property
    def ms(self) -> int:
        return self.us // 1000

    def advance(self, seconds: float) -> None:
        """Move it; back, when negative, as an operator does who sets a server's clock."""
        self.move_to(self.us + int(round(seconds * 1e6)))

    def move_to(self, us: int) -> None:
        self.us = us
        self._write(us)

    def write_again(self) -> None:
        self._write(self.us)


class Backend:
    """One set of data. ``name`` is the id in the test report."""

    strategy_type: StrategyType

    def __init__(self, name: str, namespace: str) -> None:
        self.name = name
        self.namespace = namespace
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

    def close(self) -> None:
        for store in self._stores:
            store.close()

    def _make_store(self, **options: Any) -> DataStore:
        raise NotImplementedError


class RedisBackend(Backend):
    """RedisDataStores on a real server (``url``) or in front of fakeredis (``fake``)."""

    strategy_type = StrategyType.HASH
    #: Holds the time while it stands still; no key of a namespace.
    CLOCK_KEY = "elk-test-clock"

    def __init__(self, name: str, namespace: str, url: str = "", fake: Optional[fakeredis.FakeServer] = None) -> None:
        super().__init__(name, namespace)
        self.url = url
        self._fake = fake
        #: A plain client, for looking and for doing damage.
        self.raw: Any = redis.Redis.from_url(url) if url else fakeredis.FakeRedis(server=fake)
        #: Changes of script texts: (path, old, new).
        self._mutations: List[Any] = []

    def _make_store(self, **options: Any) -> RedisDataStore:
        store = RedisDataStore.from_url(self.url, **options) if self.url else RedisDataStore(self.raw, **options)
        for mutation in self._mutations:
            store.scripts.replace(*mutation)
        return store

    def mutate(self, path: str, old: str, new: str) -> None:
        """Change the text of a script in every store of this backend, to switch a guard off."""
        for store in self._stores:
            store.scripts.replace(path, old, new)  # type: ignore[attr-defined]
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
            self.clock.write_again()

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


def script_paths() -> List[str]:
    """Return every script of the package as ``home/name``, without the files that others include."""
    out = []
    for home in ("store", "partition"):
        for path in sorted((pathlib.Path(elk_coordinator.__file__).parent / home / "lua").glob("*.lua")):
            if path.stem not in ("stamp", "state"):
                out.append("%s/%s" % (home, path.stem))
    return out


def _redis(request: pytest.FixtureRequest, name: str) -> RedisBackend:
    return RedisBackend(name, request.getfixturevalue("namespace"), url=request.getfixturevalue("redis_url"))


def _fakeredis(request: pytest.FixtureRequest, name: str) -> RedisBackend:
    return RedisBackend(name, request.getfixturevalue("namespace"), fake=request.getfixturevalue("fake_server"))


Maker = Callable[[pytest.FixtureRequest, str], Backend]

#: strategy-store -> what makes the backend. SIMPLE and MemoryDataStore come in here.
STRATEGIES: Dict[str, Maker] = {"hash-redis": _redis, "hash-fakeredis": _fakeredis}
#: The stores alone; a strategy less, because a store knows of none.
STORES: Dict[str, Maker] = {"redis": _redis, "fakeredis": _fakeredis}
#: Those whose keys and scripts a test may look into.
HASHES: Dict[str, Maker] = {"redis": _redis, "fakeredis": _fakeredis}


def _made(request: pytest.FixtureRequest, makers: Dict[str, Maker]) -> Iterator[Backend]:
    backend = makers[request.param](request, request.param)
    yield backend
    backend.close()


@pytest.fixture(params=sorted(STRATEGIES))
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Every strategy on every store."""
    yield from _made(request, STRATEGIES)


@pytest.fixture(params=sorted(STORES))
def store_backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Every store."""
    yield from _made(request, STORES)


@pytest.fixture(params=sorted(HASHES))
def hash_backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """The HASH strategy, whose keys and scripts the test knows."""
    yield from _made(request, HASHES)


@pytest.fixture
def real_hash_backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """The HASH strategy on the real server, for what a simulation cannot prove."""
    backend = _redis(request, "redis")
    yield backend
    backend.close()


@pytest.fixture
def script_names() -> List[str]:
    """Every script of the package, as ``home/name``."""
    return script_paths()
