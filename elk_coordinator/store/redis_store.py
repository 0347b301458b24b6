"""RedisDataStore: a DataStore on Redis 6.2+ or Valkey 7.2+, single, behind Sentinel or in a Cluster."""

from __future__ import annotations

import itertools
import json
import os
import threading
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple, Union

import redis
import redis.exceptions as driver

from elk_coordinator.config import check_namespace, new_nonce
from elk_coordinator.errors import ConfigError, StateError, StoreError, StoreUnavailable
from elk_coordinator.model import WorkerInfo
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.runtime.retry import retry_store_call
from elk_coordinator.store import connect
from elk_coordinator.store.base import DataStore, Observer, Value
from elk_coordinator.store.driver_errors import DRIVER, LAYOUT, RECONNECT, translate
from elk_coordinator.store.keys import KeySpace
from elk_coordinator.store.observed import observed
from elk_coordinator.store.scripts import Script, Scripts

Arg = Union[str, int, bytes]


class RedisDataStore(DataStore):
    """Coordination data on Redis. Thread-safe; one object serves a whole process.

    ::

        RedisDataStore.from_url("redis://localhost:6379/0")
        RedisDataStore(my_redis_client)        # cloned with our settings, never changed

    :param client: a ``redis.Redis`` or ``RedisCluster`` client.
    :param timeout: seconds one call may take, retries included.
    """

    def __init__(self, client: Any, timeout: float = 5.0) -> None:
        self._setup(connect.from_client(client), timeout)

    def _setup(self, factory: connect.ClientFactory, timeout: float) -> None:
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0.01 <= timeout <= 3600:
            raise ConfigError("timeout: must be seconds from 0.01 to 3600 (got %r)" % (timeout,))
        self.timeout = float(timeout)
        self._factory = factory
        self._name = "elk"
        self._link = _Link(factory, self.timeout, self._name)
        self._owns_link = True
        self._keys: Optional[KeySpace] = None
        self._hints: Any = None
        self._hints_at = 0.0
        self._hints_asked = False
        self.scripts = Scripts()
        #: Names of acquisitions, each sent again under its own name until it is answered: (lock, owner) -> name.
        self._nonce, self._numbers = new_nonce(), itertools.count(1)
        self._unanswered: Dict[Tuple[str, str], str] = {}

    @classmethod
    def from_url(cls, url: str, timeout: float = 5.0) -> "RedisDataStore":
        """Connect by URL; nothing is sent before the first call.

        ``redis://user:password@host:port/db``, ``rediss://...``, ``unix:///path?db=0``,
        ``redis+sentinel://host:port,host:port/service/db``, ``redis+cluster://host:port,host:port``.

        :raises ConfigError: when the URL is none of these.
        """
        self = cls.__new__(cls)
        self._setup(connect.from_url(url), timeout)
        return self

    def _copy(self) -> "RedisDataStore":
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._hints = None
        return twin

    def namespaced(self, namespace: str) -> "RedisDataStore":
        """Return this store bound to *namespace*, over the same connections."""
        twin = self._copy()
        twin._keys = KeySpace(check_namespace(namespace))
        twin._owns_link = False
        return twin

    def with_deadline(self, seconds: float, name: str = "") -> "RedisDataStore":
        """Return the same data over connections of its own, with *seconds* per call."""
        twin = self._copy()
        twin.timeout = float(seconds)
        twin._name = name or self._name
        twin._link = _Link(self._factory, twin.timeout, twin._name)
        twin._owns_link = True
        return twin

    @property
    def keys(self) -> KeySpace:
        """The keys of the namespace this store is bound to.

        :raises StateError: when it is bound to none yet.
        """
        if self._keys is None:
            raise StateError("this store is bound to no namespace: use store.namespaced('...')")
        return self._keys

    def run(self, path: str, keys: Sequence[str], args: Sequence[Arg] = (), budget: Optional[float] = None) -> Any:
        """Run the script at *path*; send the same request again until it is answered or the deadline has passed.

        Every script gives the same answer to the same request, which is what makes that safe.

        :raises StoreUnavailable: no answer in time; whether it ran is unknown.
        :raises StoreError: an answer that repeating will not cure.
        """
        script, link = self.scripts.get(path), self._link
        started = link.clock.monotonic()
        call = observed(link.observer, link.clock, script.name, lambda: link.call(script, keys, args))
        try:
            return call()
        except StoreUnavailable:
            left = (self.timeout if budget is None else budget) - (link.clock.monotonic() - started)
            if left <= 0 or link.closed.is_set():
                raise
            return retry_store_call(call, link.closed, left)

    def observe(self, tell: Observer) -> None:
        self._link.observer = tell

    def now(self) -> float:
        return int(self.run("store/time", [self.keys["meta"]])[0]) / 1e6

    def get(self, name: str) -> Value:
        found, data, version, now = self.run("store/value_get", [self.keys["value:" + name]])
        return Value(bytes(data) if found else None, int(version), int(now) / 1e6)

    def compare_and_set(self, name: str, expected_version: int, data: Optional[bytes]) -> Optional[int]:
        keys = [self.keys["meta"], self.keys["value:" + name]]
        action: List[Arg] = ["delete", b""] if data is None else ["set", data]
        code, version = self.run("store/value_cas", keys, [expected_version, *action])
        return int(version) if code == 1 else None

    def acquire_lock(self, name: str, owner: str, ttl: float, floor: int) -> Optional[int]:
        keys = [self.keys["meta"], self.keys["lock:" + name]]
        asked = (keys[1], owner)
        # With the pid: a forked child goes on from the same nonce and number.
        request = self._unanswered.pop(asked, "") or "%s-%d:%d" % (self._nonce, os.getpid(), next(self._numbers))
        try:
            code, token, _ = self.run("store/lock_acquire", keys, [owner, int(ttl * 1000), floor, request])
        except StoreUnavailable:
            self._unanswered[asked] = request
            raise
        if code == -1:
            raise StoreError(floor_refused(floor))
        return int(token) if code == 1 else None

    def renew_lock(self, name: str, token: int, ttl: float) -> bool:
        return bool(self.run("store/lock_renew", [self.keys["lock:" + name]], [token, int(ttl * 1000)])[0])

    def release_lock(self, name: str, token: int) -> bool:
        args: List[Arg] = [token, self.keys.channel, name]
        return bool(self.run("store/lock_release", [self.keys["lock:" + name]], args)[0])

    def read_lock(self, name: str) -> Tuple[str, int, float]:
        owner, token, remaining = self.run("store/lock_read", [self.keys["lock:" + name]])
        return owner.decode("utf-8", "replace"), int(token), int(remaining) / 1000

    def beat(self, worker: str, ttl: float, info: Optional[Dict[str, Any]] = None) -> None:
        self.run("store/beat", self.keys.many("workers worker_info"), [worker, int(ttl * 1000), json.dumps(info or {})])

    def forget(self, worker: str, streams: Sequence[str] = ()) -> None:
        self.run("store/forget", self.keys.many("workers worker_info streams"), [worker, *streams])

    def workers(self) -> List[WorkerInfo]:
        flat = self.run("store/workers", self.keys.many("workers worker_info streams"), [10000])
        out = []
        for name, remaining, info in zip(flat[::3], flat[1::3], flat[2::3]):
            try:
                known = json.loads(info)
            except ValueError:
                known = {}
            out.append(WorkerInfo(name.decode("utf-8", "replace"), int(remaining) / 1000, known))
        return sorted(out, key=lambda worker: worker.worker_id)

    def append_log(self, name: str, batch: str, entries: Sequence[bytes], keep: int) -> None:
        self.run("store/log_append", [self.keys[name]], [keep, batch, *entries])

    def read_log(self, name: str, after: Optional[str], limit: int) -> List[Tuple[str, bytes]]:
        flat = self.run("store/log_read", [self.keys[name]], [after or "", limit])
        return [(entry_id.decode("ascii"), bytes(entry)) for entry_id, entry in zip(flat[::2], flat[1::2])]

    def ask(self, *words: Arg) -> Any:
        """Send one command as it is, for audits; in a Cluster to the node that holds the namespace.

        :raises StoreError: the server refuses it, to this user or to everybody.
        """
        client: Any = self._link.client()
        if hasattr(client, "get_node_from_key"):
            return self._link.command(*words, target_nodes=client.get_node_from_key(self.keys["meta"]))
        return self._link.command(*words)

    def all_keys(self) -> List[str]:
        """Return every key of the namespace, by SCAN: the cost follows the size of the whole database."""
        prefix = self.keys.pattern[:-1]
        try:
            found = self._link.client().scan_iter(match=self.keys.pattern, count=1000)
            names = {key.decode("utf-8", "replace") for key in found}
        except DRIVER as exc:
            raise translate(exc) from exc
        # A namespace holds no character with a meaning in a glob; looking again costs nothing.
        return sorted(name for name in names if name.startswith(prefix))

    def count_entries(self, key: str) -> int:
        """Return how many entries a key of ours holds (1 for a value or a lock); 0 when there is none."""
        kind = self._link.command("TYPE", key)
        word = {b"hash": "HLEN", b"zset": "ZCARD", b"set": "SCARD", b"list": "LLEN", b"stream": "XLEN"}.get(kind)
        return int(kind != b"none") if word is None else int(self._link.command(word, key))

    def unlink(self, names: Sequence[str]) -> int:
        """Remove keys of the namespace; return how many there were.

        :raises StateError: for a key of another namespace; nothing is removed then.
        """
        prefix = self.keys.pattern[:-1]
        if any(not name.startswith(prefix) for name in names):
            raise StateError("only keys that begin with %s may be removed here" % prefix)
        return sum(int(self._link.command("UNLINK", *names[i : i + 500])) for i in range(0, len(names), 500))

    def notify(self, topic: str) -> None:
        self._link.command("PUBLISH", self.keys.channel, topic)

    def wait(self, topic: str, timeout: float) -> Optional[str]:
        """Wait for a hint on a subscription that stays open between calls; call it from one thread only."""
        clock = self._link.clock
        until = clock.monotonic() + timeout
        try:
            if self._hints is None:
                self._hints = self._link.listening = self._link.client().pubsub(ignore_subscribe_messages=True)
                self._hints.subscribe(self.keys.channel)
                self._hints_at, self._hints_asked = clock.monotonic(), False
            while not self._link.closed.is_set():
                left = until - clock.monotonic()
                if left <= 0:
                    break
                message = self._hints.get_message(timeout=min(left, 1.0))
                silent = clock.monotonic() - self._hints_at
                if message is not None:
                    self._hints_at, self._hints_asked = clock.monotonic(), False
                    if message.get("type") == "message":
                        heard = bytes(message["data"]).decode("utf-8", "replace")
                        if topic in ("*", heard):
                            return heard
                elif silent > 60.0:
                    # Not even the answer to a ping: the connection is half open, so ask for a new one.
                    raise StoreUnavailable("the connection for wake-ups has been silent for %.0f s" % silent)
                elif silent > 30.0 and not self._hints_asked:
                    self._hints_asked = True
                    self._hints.ping("elk")
            return None
        except DRIVER as exc:
            self._close_hints()
            raise translate(exc) from exc
        except StoreUnavailable:
            self._close_hints()
            raise
        except (OSError, AttributeError, TypeError, ValueError) as exc:
            # close() from another thread takes the socket away under the read.
            self._close_hints()
            raise StoreUnavailable("the connection for wake-ups broke: %s" % exc) from exc

    def _close_hints(self) -> None:
        hints, self._hints = self._hints, None
        if hints is not None:
            try:
                hints.close()
            except (*DRIVER, OSError):
                pass

    def eviction_policy(self) -> Optional[str]:
        try:
            answer = self._link.command("CONFIG", "GET", "maxmemory-policy")
        except StoreError:
            return None
        if isinstance(answer, dict):
            answer = [item for pair in answer.items() for item in pair]
        return answer[1].decode("ascii", "replace") if answer and len(answer) > 1 else None

    def close(self) -> None:
        """Close the connections this object opened; calls after it raise StoreUnavailable."""
        if self._owns_link:
            self._link.close()


class _Link:
    """One client with its deadline, made at the first call; shared by the namespaced copies of a store."""

    def __init__(self, factory: connect.ClientFactory, timeout: float, name: str) -> None:
        self.clock = Clock()
        self.closed = threading.Event()
        self._factory = factory
        self._timeout = timeout
        self._name = name
        self._client: Any = None
        self._lock = threading.Lock()
        self._unloaded: Set[str] = set()
        #: The subscription, if any: not every driver reaches its connection when a cluster client is closed.
        self.listening: Any = None
        self.observer: Optional[Observer] = None

    def client(self) -> Any:
        client = self._client
        if client is None:
            with self._lock:
                client = self._client
                if client is None:
                    if self.closed.is_set():
                        raise StoreUnavailable("the store was closed")
                    try:
                        # A cluster client asks the nodes for their layout as it is made.
                        client = self._client = self._factory(self._timeout, self._name)
                    except DRIVER as exc:
                        raise translate(exc) from exc
        return client

    def call(self, script: Script, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        client = self.client()
        try:
            if script.sha not in self._unloaded:
                try:
                    return client.execute_command("EVALSHA", script.sha, len(keys), *keys, *args)
                except driver.NoScriptError:
                    # Remembered, because the server may close the connection over it: the next try starts with EVAL.
                    self._unloaded.add(script.sha)
            answer = client.execute_command("EVAL", script.source, len(keys), *keys, *args)
            self._unloaded.discard(script.sha)
            return answer
        except (*DRIVER, OSError, ValueError, AttributeError, TypeError) as exc:
            raise self._said(exc) from exc

    def command(self, *words: Arg, **options: Any) -> Any:
        client = self.client()
        try:
            return client.execute_command(*words, **options)
        except (*DRIVER, OSError, ValueError, AttributeError, TypeError) as exc:
            raise self._said(exc) from exc

    def _said(self, exc: Exception) -> StoreError:
        """Return our error for what a call ended with; raise it when it is no fault of the store's."""
        if isinstance(exc, DRIVER):
            self._after(exc)
            return translate(exc)
        # The driver stumbles over a socket that close() took away under it, and over an answer that is none.
        nonsense = isinstance(exc, ValueError) and not isinstance(exc, UnicodeEncodeError)
        if isinstance(exc, OSError) or nonsense or self.closed.is_set():
            return StoreUnavailable("the store could not be reached: %s" % exc)
        raise exc

    def _after(self, exc: Exception) -> None:
        if str(exc).startswith(RECONNECT) or isinstance(exc, driver.ReadOnlyError):
            # A demoted master goes on answering: drop every connection, the next one finds the new master.
            pool = getattr(self._client, "connection_pool", None)
            if pool is not None:
                pool.disconnect()
        elif isinstance(self._client, redis.RedisCluster) and isinstance(exc, LAYOUT):
            client = self._client
            try:
                client.nodes_manager.initialize()
            except (*DRIVER, OSError):
                # Older drivers forget the nodes that failed, in the end all of them: the next client begins with
                # those of the URL again. Threads that still use this one see its end; it is not closed under them.
                with self._lock:
                    if self._client is client:
                        self._client = None

    def close(self) -> None:
        self.closed.set()
        with self._lock:
            client, self._client = self._client, None
        if client is None:
            return
        pool = getattr(client, "connection_pool", None)
        ends = [client.close, getattr(getattr(self.listening, "connection", None), "disconnect", None)]
        pools = [pool, *(s.connection_pool for s in getattr(getattr(pool, "sentinel_manager", None), "sentinels", ()))]
        nodes = getattr(getattr(client, "nodes_manager", None), "nodes_cache", {})
        pools += [getattr(node.redis_connection, "connection_pool", None) for node in list(nodes.values())]
        for end in ends + [getattr(each, "disconnect", None) for each in pools]:
            try:
                if end is not None:
                    end()
            except (*DRIVER, OSError, AttributeError, TypeError, ValueError):
                pass  # its own thread was quicker to hang up


def floor_refused(floor: int) -> str:
    """Return the text for a caller whose remembered stamp lies more than a day ahead of the store."""
    return (
        "the remembered token %d is more than a day ahead of the store's clock and its last token; this worker's "
        "memory or the server's clock is wrong: correct the clock, then restart this worker" % floor
    )
