"""Sentinel and Cluster, real ones: work goes on over a failover, a moved slot and lost nodes."""

from __future__ import annotations

import collections
import contextlib
import itertools
import threading
from typing import Any, Callable, Counter, Dict, List

import pytest
import redis
import redis.cluster
import redis.sentinel

from elk_coordinator import (
    AdminClient,
    Coordinator,
    CreatePartition,
    PermanentError,
    RedisDataStore,
    StateError,
    StoreError,
    StoreUnavailable,
    StrategyType,
    create_strategy,
)
from elk_coordinator.partition.audit import verify
from elk_coordinator.store.purge import purge
from elk_coordinator.testing import EmbeddedServer, wait_until
from tests.faults.fleet import LEASE, SHORT, Fleet, let_pass, now
from tests.faults.topologies import SERVICE, SentinelSet, ThreeNodes, address, ask, place, version
from tests.integration.conftest import Numbers

MakeFleet = Callable[..., Fleet]
MakeServer = Callable[..., EmbeddedServer]

#: Steps of 50 ms, so that a fault meets partitions in their middle.
STEPS: Dict[str, Any] = {"steps": 4, "pause": 0.05}
numbers = itertools.count(1)


def start_two(fleet: Fleet, work: Dict[str, Any] = STEPS) -> None:
    for name in ("a", "b"):
        fleet.start(name, work, wait=False)


def resumed(fleet: Fleet, since: float, timeout: float = LEASE + 8.0) -> float:
    """Wait until a completion is accepted again; return the seconds since then."""
    return fleet.wait_told("partition_completed", timeout, since)["t"] - since


def cut_off(fleet: Fleet) -> List[str]:
    """Return which workers say that the store does not answer them."""
    return sorted(w.name for w in fleet.workers if len(w.of("store_unavailable")) > len(w.of("store_recovered")))


# ---------------------------------------------------------------- Sentinel


def test_work_goes_on_after_sentinel_has_replaced_a_killed_primary(
    new_fleet: MakeFleet, new_server: MakeServer
) -> None:
    sentinels = SentinelSet(new_server)
    fleet = new_fleet(600, url=sentinels.url)
    start_two(fleet)
    fleet.wait_completed(15)
    assert sentinels.synced()
    at = now()
    sentinels.primary.kill()
    wait_until(lambda: fleet.told("store_unavailable", at), 10.0, fleet.story)
    seconds = resumed(fleet, fleet.told("store_unavailable", at)[0]["t"], 20.0)
    fleet.wait_done()
    fleet.end()
    assert ask(sentinels.replica, "ROLE")[0] == b"master"
    assert not fleet.told("role_died")
    # Replication is asynchronous: a write that was answered may be gone, and tokens tell; never a silent hole.
    lost = bool(fleet.told("store_lost_data"))
    tally = fleet.check(fresh_plan=lost)
    print("primary killed: back to work on the new one %.2f s after the first error; lost data was told: %s; "
          "%s" % (seconds, lost, tally))  # fmt: skip


def test_a_wrong_service_and_sentinels_out_of_reach_are_told_apart_in_time(new_server: MakeServer) -> None:
    sentinel = new_server(extra_args=("--sentinel",))
    away = "for '%s'; .*answer" % SERVICE
    for url, says in (
        ("redis+sentinel://%s/nobody/0" % place(sentinel), "No master found for 'nobody'; .*is the name"),
        ("redis+sentinel://127.0.0.1:1,127.0.0.1:2/%s/0" % SERVICE, away),
    ):
        refused(url, says, StoreUnavailable)


def refused(url: str, says: str, kind: Any) -> None:
    """Check that a store at *url* ends in a typed error within its 2 s and a bit."""
    with contextlib.closing(RedisDataStore.from_url(url, timeout=2.0)) as store:
        at = now()
        with pytest.raises(kind, match=says) as caught:
            store.namespaced("ns").now()
        print("refused after %.2f s: %s" % (now() - at, caught.value))
        assert now() - at < 4.0


# ---------------------------------------------------------------- Cluster


def test_a_wrong_cluster_url_ends_in_a_typed_error_in_time(new_server: MakeServer) -> None:
    refused("redis+cluster://127.0.0.1:1,127.0.0.1:2", "could not be reached", StoreUnavailable)
    refused("redis+cluster://" + place(new_server()), "give a redis:// URL", StoreError)


@pytest.mark.parametrize("kind", [StrategyType.HASH, StrategyType.SIMPLE])
def test_all_that_a_coordinator_does_works_on_a_cluster(new_server: MakeServer, namespace: str, kind: Any) -> None:
    cluster = ThreeNodes(new_server)
    seen: Counter[int] = collections.Counter()

    def work(ctx: Any, low: int, high: int, options: Dict[str, Any]) -> int:
        if low == 11 and not mended.is_set():
            raise PermanentError("not yet")
        ctx.checkpoint(high)
        seen.update(range(low, high + 1))
        return high - low + 1

    mended = threading.Event()
    # A neighbour in every slot range: what goes over all nodes must not touch it.
    neighbours = {}
    while len(neighbours) < 3:
        name = "other-%d" % next(numbers)
        neighbours.setdefault(cluster.owner(name), name)
    options = dict(SHORT, retry_backoff=(0.1, 0.5), strategy=kind)
    with contextlib.closing(RedisDataStore.from_url(cluster.url)) as store:
        for name in neighbours.values():
            create_strategy(kind, name, store).create_partitions_if_not_exist([CreatePartition(1, 1, 10)])
        coordinator = Coordinator(namespace, store, work, Numbers(600), **options)
        archiver = coordinator._parts.leader.archiver  # type: ignore[union-attr]
        archiver.age = 0.0
        with coordinator:
            wait_until(lambda: coordinator.strategy.get_partition_stats().completed == 59, 20.0, "the end of the work")
            admin = AdminClient(namespace, store)
            assert admin.wait(admin.pause()).state == admin.wait(admin.resume()).state == "done"
            mended.set()
            assert admin.wait(admin.retry_failed()).state == "done"
            wait_until(lambda: coordinator.strategy.get_partition_stats().completed == 60, 20.0, "the retried one")
            archiver._look_at = None
            archiver.wake.set()
            wait_until(lambda: len(list(coordinator.strategy.archived_ids())) == 60, 10.0, "the archive")
            # A hint comes over another node's connection; a coordinator looks by itself once a second besides.
            listener, heard = store.namespaced(namespace).with_deadline(5.0), []
            thread = threading.Thread(target=lambda: heard.append(listener.wait("greeting", 10.0)))
            thread.start()
            wait_until(lambda: store.namespaced(namespace).notify("greeting") or heard, 10.0, "a hint")
            thread.join()
            listener.close()
            assert heard == ["greeting"]
            assert verify(coordinator.strategy).problems == []
            assert seen == dict.fromkeys(range(1, 601), 1)
            with pytest.raises(StateError, match="in use by"):
                purge(store.namespaced(namespace), "test")
        assert {"became_leader", "partition_failed"} <= {event.kind for event in coordinator.strategy.events()}
        assert purge(store.namespaced(namespace), "test") > 3
        assert store.namespaced(namespace).all_keys() == []
        for name in neighbours.values():
            assert len(create_strategy(kind, name, store).get_all_partitions()) == 1


def test_a_slot_that_moves_to_another_node_holds_work_up_only_while_it_moves(
    new_fleet: MakeFleet, new_server: MakeServer
) -> None:
    cluster = ThreeNodes(new_server)
    fleet = new_fleet(600, url=cluster.url)
    target = (cluster.owner(fleet.namespace) + 1) % 3
    start_two(fleet)
    fleet.wait_completed(15)
    # Open, nothing moved: keys that are not there are asked for on the new node, the others on the old one.
    cluster.begin_move(fleet.namespace, target)
    cluster.move_keys(fleet.namespace, target, 3)
    # A single key that the old node does not have is asked for on the new one, whichever three were moved first.
    assert fleet.partitions.store.get("not-there").data is None
    let_pass(0.5)
    cluster.end_move(fleet.namespace, target)
    seconds = resumed(fleet, now())
    fleet.wait_done()
    fleet.end()
    tally = fleet.check()
    assert ask(cluster.nodes[target], "CLUSTER", "COUNTKEYSINSLOT", cluster.slot(fleet.namespace)) > 0
    assert not fleet.told("role_died") and not fleet.told("store_lost_data")
    assert (tally["deliveries"], tally["refused"], tally["lost"]) == (0, 0, 0)
    # Redirected one by one while it moved (ASK), and for good when it had (MOVED).
    redirected = [ask(node, "INFO", "errorstats") for node in cluster.nodes]
    assert b"cmdstat_asking" in ask(cluster.nodes[target], "INFO", "commandstats")
    if version(cluster.nodes[0]) >= (6, 2):
        assert any(b"errorstat_ASK" in stats for stats in redirected)
        assert any(b"errorstat_MOVED" in stats for stats in redirected)
    print("the slot moved: back to work %.2f s later; %s" % (seconds, tally))


def test_a_node_that_is_not_ours_dies_unnoticed_and_ours_comes_back_with_its_data(
    new_fleet: MakeFleet, new_server: MakeServer
) -> None:
    cluster = ThreeNodes(new_server, persistence="aof")
    fleet = new_fleet(900, url=cluster.url)
    owner = cluster.owner(fleet.namespace)
    start_two(fleet)
    fleet.wait_completed(15)
    cluster.nodes[(owner + 1) % 3].kill()
    fleet.wait_completed(fleet.completed() + 20)
    strangers = fleet.told("store_unavailable")
    cluster.nodes[(owner + 1) % 3].restart()
    at = now()
    cluster.nodes[owner].kill()
    cluster.nodes[owner].restart()
    seconds = resumed(fleet, now())
    took = now() - at
    wait_until(lambda: cut_off(fleet) == [], 10.0, fleet.story)
    # All at once: a driver that forgets failed nodes, one after the other, knows none in the end.
    for node in cluster.nodes:
        node.kill()
    wait_until(lambda: cut_off(fleet) == ["a", "b"], 10.0, fleet.story)
    for node in cluster.nodes:
        node.restart()
    outage = resumed(fleet, now())
    fleet.wait_done()
    fleet.end()
    tally = fleet.check()
    assert strangers == [] and not fleet.told("role_died") and not fleet.told("store_lost_data")
    print("our node killed: back to work %.2f s after it was there (%.2f s in all); all nodes killed: %.2f s; %s" % (
        seconds, took, outage, tally))  # fmt: skip


# ---------------------------------------------------------------- clients of the user's


def test_clients_are_cloned_with_all_that_they_know(new_server: MakeServer) -> None:
    secret = "p%40s:s@/ #"
    sentinels = SentinelSet(new_server, secret)
    cluster = ThreeNodes(new_server, password=secret)
    hosts = [redis.cluster.ClusterNode(*address(cluster.nodes[0]))]
    manager = redis.sentinel.Sentinel([address(sentinels.sentinels[0])], password=secret)
    for client in (redis.RedisCluster(startup_nodes=hosts, password=secret), manager.master_for(SERVICE)):
        with contextlib.closing(RedisDataStore(client, timeout=2.0)) as store:
            assert store.namespaced("ns").now() > 0
        client.close()
    for url in (sentinels.url, cluster.url):
        with contextlib.closing(RedisDataStore.from_url(url, timeout=2.0)) as store:
            assert store.namespaced("ns").now() > 0
        with contextlib.closing(RedisDataStore.from_url(url.replace("p%25", "q"), timeout=2.0)) as store:
            with pytest.raises(StoreError, match="refuses this user"):
                store.namespaced("ns").now()
