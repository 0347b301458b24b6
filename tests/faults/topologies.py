"""Real Sentinel sets and real Clusters on loopback, made of the same server as all other tests."""

from __future__ import annotations

import contextlib
import re
from typing import Any, Callable, Iterator, List, Optional, Tuple
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from elk_coordinator.testing import EmbeddedServer, wait_until
from elk_coordinator.testing.server import _free_port

MakeServer = Callable[..., EmbeddedServer]

SERVICE = "elk-main"
#: Seconds until a sentinel takes a silent primary for dead.
DOWN_AFTER = 1.0


@contextlib.contextmanager
def hand(server: EmbeddedServer) -> Iterator[Any]:
    """Give a plain client of one server, without retries."""
    client = redis.Redis.from_url(server.url, retry=Retry(NoBackoff(), 0), socket_timeout=5.0)
    try:
        yield client
    finally:
        client.close()
        client.connection_pool.disconnect()


def ask(server: EmbeddedServer, *words: Any) -> Any:
    """Send one command to one server; no callback of the driver changes the answer."""
    with hand(server) as client:
        client.response_callbacks.clear()
        return client.execute_command(*words)


def address(server: EmbeddedServer) -> Tuple[str, int]:
    """Return host and port of *server*."""
    host, _, port = server.url.split("@")[-1].replace("redis://", "").partition("/")[0].partition(":")
    return host, int(port)


def version(server: EmbeddedServer) -> Tuple[int, ...]:
    """Return the version of Redis that *server* is, or is compatible with."""
    found = re.search(rb"redis_version:(\d+)\.(\d+)", ask(server, "INFO", "server"))
    assert found is not None
    return int(found.group(1)), int(found.group(2))


def place(server: EmbeddedServer) -> str:
    """Return *server* as ``host:port``."""
    return "%s:%d" % address(server)


def _credentials(password: Optional[str]) -> str:
    return "" if password is None else ":%s@" % quote(password, safe="")


class SentinelSet:
    """One primary, one replica and three sentinels that know each other."""

    def __init__(self, new_server: MakeServer, password: Optional[str] = None) -> None:
        quick = ("--repl-diskless-sync-delay", "0")
        self._credentials = _credentials(password)
        self.primary = new_server(extra_args=quick, password=password)
        self.replica = new_server(extra_args=quick, password=password)
        for server in (self.primary, self.replica) if password else ():
            ask(server, "CONFIG", "SET", "masterauth", password)
        ask(self.replica, "REPLICAOF", *address(self.primary))
        wait_until(lambda: b"master_link_status:up" in ask(self.replica, "INFO", "replication"), 10.0, "a replica")
        self.sentinels = [new_server(extra_args=("--sentinel",)) for _ in range(3)]
        for sentinel in self.sentinels:
            ask(sentinel, "SENTINEL", "MONITOR", SERVICE, *address(self.primary), 2)
            for option, value in (("down-after-milliseconds", int(DOWN_AFTER * 1000)), ("failover-timeout", 4000)):
                ask(sentinel, "SENTINEL", "SET", SERVICE, option, value)
            if password:
                ask(sentinel, "SENTINEL", "SET", SERVICE, "auth-pass", password)
        wait_until(self._know_each_other, 15.0, "sentinels that know each other")

    @property
    def url(self) -> str:
        """The URL that ``RedisDataStore.from_url`` takes."""
        return "redis+sentinel://%s%s/%s/0" % (self._credentials, ",".join(map(place, self.sentinels)), SERVICE)

    def _know_each_other(self) -> bool:
        for sentinel in self.sentinels:
            facts = ask(sentinel, "SENTINEL", "MASTER", SERVICE)
            if not isinstance(facts, dict):  # RESP 2
                facts = dict(zip(facts[::2], facts[1::2]))
            if (facts[b"num-other-sentinels"], facts[b"num-slaves"]) != (b"2", b"1"):
                return False
        return True

    def synced(self) -> bool:
        """Return whether the replica has all that the primary had when asked."""
        with hand(self.primary) as client:
            return bool(client.wait(1, 5000) >= 1)


class ThreeNodes:
    """A Cluster of three nodes, all slots covered; nodes are named by their place in ``nodes``."""

    def __init__(self, new_server: MakeServer, persistence: str = "no", password: Optional[str] = None) -> None:
        self._credentials = _credentials(password)
        self.nodes: List[EmbeddedServer] = []
        self._buses: List[int] = []
        chooses = version(new_server()) >= (7, 0)
        for _ in range(3):
            options = {
                "cluster-enabled": "yes", "cluster-node-timeout": "1000", "cluster-require-full-coverage": "no",
            }  # fmt: skip
            if chooses:
                # The default, the port plus 10,000, may be taken by somebody's outgoing connection.
                options["cluster-port"] = str(_free_port())
            args = [word for name, value in options.items() for word in ("--" + name, value)]
            self.nodes.append(new_server(persistence=persistence, extra_args=args, password=password))
            self._buses.append(int(options.get("cluster-port", address(self.nodes[-1])[1] + 10_000)))
        edges = (0, 5461, 10923, 16384)
        for number, node in enumerate(self.nodes):
            ask(node, "CLUSTER", "ADDSLOTS", *range(edges[number], edges[number + 1]))
            # Different epochs, or two nodes might have to agree first which of them counts.
            ask(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number:
                ask(self.nodes[0], "CLUSTER", "MEET", *address(node), self._buses[number])
        self.ids = [ask(node, "CLUSTER", "MYID").decode("ascii") for node in self.nodes]
        wait_until(self.agree, 15.0, "a cluster")

    @property
    def url(self) -> str:
        """The URL that ``RedisDataStore.from_url`` takes."""
        return "redis+cluster://%s%s" % (self._credentials, ",".join(map(place, self.nodes)))

    def agree(self) -> bool:
        """Return whether all nodes see all slots served."""
        for node in self.nodes:
            info = ask(node, "CLUSTER", "INFO")
            if b"cluster_state:ok" not in info or b"cluster_slots_ok:16384" not in info:
                return False
            if b"cluster_known_nodes:3" not in info:
                return False
        return True

    def slot(self, namespace: str) -> int:
        """Return the slot of all keys of *namespace*."""
        return int(key_slot(namespace.encode("utf-8")))

    def owner(self, namespace: str) -> int:
        """Return which node holds *namespace* when no slot was moved."""
        slot = self.slot(namespace)
        return 0 if slot < 5461 else 1 if slot < 10923 else 2

    def begin_move(self, namespace: str, to: int) -> None:
        """Open the slot of *namespace* for a move to node *to*: nothing is moved yet."""
        slot, owner = self.slot(namespace), self.owner(namespace)
        ask(self.nodes[to], "CLUSTER", "SETSLOT", slot, "IMPORTING", self.ids[owner])
        ask(self.nodes[owner], "CLUSTER", "SETSLOT", slot, "MIGRATING", self.ids[to])

    def move_keys(self, namespace: str, to: int, most: int = 1000) -> int:
        """Move at most so many keys of the open slot; return how many went."""
        slot, source = self.slot(namespace), self.nodes[self.owner(namespace)]
        keys = ask(source, "CLUSTER", "GETKEYSINSLOT", slot, most)
        if keys:
            ask(source, "MIGRATE", *address(self.nodes[to]), "", 0, 5000, "KEYS", *keys)
        return len(keys)

    def end_move(self, namespace: str, to: int) -> None:
        """Move what is left and close the slot."""
        while self.move_keys(namespace, to):
            pass
        slot = self.slot(namespace)
        for node in (to, self.owner(namespace), *range(3)):
            ask(self.nodes[node], "CLUSTER", "SETSLOT", slot, "NODE", self.ids[to])
