"""``elk purge``: everything of one namespace goes, nothing of another, and never under a live worker."""

from __future__ import annotations

import contextlib
import json
from typing import Any, Callable, Dict, Iterator, List

import pytest
import redis

from elk_coordinator import CreatePartition, RedisDataStore, StrategyType, create_strategy
from elk_coordinator.cli.main import main
from elk_coordinator.errors import StateError
from elk_coordinator.store.purge import purge, take_inventory

STRATEGIES = [StrategyType.HASH, StrategyType.SIMPLE]
#: Names that a careless pattern would confuse with "job".
NEIGHBOURS = ["jobs", "job.1", "job-", "jo", "Job", "j.b", "job_"]


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with contextlib.closing(redis.Redis.from_url(redis_url)) as made:
        yield made


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisDataStore]:
    with contextlib.closing(RedisDataStore.from_url(redis_url)) as made:
        yield made


def fill(store: RedisDataStore, strategy_type: StrategyType, namespace: str) -> None:
    strategy = create_strategy(strategy_type, namespace, store)
    strategy.create_partitions_if_not_exist(CreatePartition(n, n * 10, n * 10 + 9) for n in range(1, 21))
    for partition in strategy.claim_partitions("w", 10):
        strategy.release_partition(partition.partition_id, "w")
    strategy.stop()


def contents(client: Any) -> Dict[bytes, bytes]:
    return {key: client.dump(key) for key in client.scan_iter()}


@pytest.fixture(params=STRATEGIES, ids=lambda strategy: str(strategy.value))
def strategy_type(request: pytest.FixtureRequest) -> StrategyType:
    return request.param  # type: ignore[no-any-return]


def test_everything_of_the_namespace_goes_and_nothing_else(
    strategy_type: StrategyType, redis_url: str, client: Any, store: RedisDataStore, capsys: pytest.CaptureFixture[str]
) -> None:
    client.set("elk:{job}", "of somebody else")
    client.set("xelk:{job}:meta", "of somebody else")
    for neighbour in NEIGHBOURS:
        fill(store, strategy_type, neighbour)
    before = contents(client)
    fill(store, strategy_type, "job")
    assert len(contents(client)) > len(before)
    assert main(["purge", "--yes", "--namespace", "job", "--redis", redis_url]) == 0
    assert "removed" in capsys.readouterr().out
    assert contents(client) == before
    # A purged namespace may be used again, by either strategy.
    for other in STRATEGIES:
        fill(store, other, "job")
        assert purge(store.namespaced("job"), "test") > 0
    assert contents(client) == before


def test_without_yes_it_says_what_would_go_and_removes_nothing(
    strategy_type: StrategyType, redis_url: str, client: Any, store: RedisDataStore, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(store, strategy_type, "job")
    before = contents(client)
    assert main(["purge", "--namespace", "job", "--redis", redis_url]) == 2
    said = capsys.readouterr()
    assert "would be removed" in said.out and "say --yes" in said.err
    if strategy_type is StrategyType.HASH:
        assert "20  partitions that are not completed" in said.out
    assert main(["purge", "--namespace", "job", "--redis", redis_url, "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["keys"] == len(before) and document["workers"] == []
    assert contents(client) == before


def test_an_empty_namespace_is_no_error(redis_url: str, client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["purge", "--yes", "--namespace", "job", "--redis", redis_url]) == 0
    assert "0 keys removed" in capsys.readouterr().out
    assert main(["purge", "--namespace", "job", "--redis", redis_url]) == 2
    assert "nothing to remove" in capsys.readouterr().out
    assert client.dbsize() == 0


def test_it_is_refused_while_workers_live(
    strategy_type: StrategyType, redis_url: str, client: Any, store: RedisDataStore, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(store, strategy_type, "job")
    here = store.namespaced("job")
    here.beat("worker-7", 60.0)
    before = contents(client)
    assert main(["purge", "--yes", "--namespace", "job", "--redis", redis_url]) == 1
    assert "in use by worker-7" in capsys.readouterr().err
    assert contents(client) == before
    assert main(["purge", "--namespace", "job", "--redis", redis_url]) == 2
    assert "worker-7" in capsys.readouterr().err
    here.forget("worker-7")
    assert main(["purge", "--yes", "--namespace", "job", "--redis", redis_url]) == 0
    assert client.dbsize() == 0


def test_it_is_refused_while_somebody_leads(client: Any, store: RedisDataStore) -> None:
    here = store.namespaced("job")
    token = here.acquire_lock("leader", "worker-3", 60.0, 0)
    assert token is not None
    with pytest.raises(StateError, match=r"worker-3 \(leader\)"):
        purge(here, "test")
    here.release_lock("leader", token)
    assert purge(here, "test") == 2
    assert client.dbsize() == 0


class Meddling(RedisDataStore):
    """Somebody does something each time the keys are listed."""

    meddle: Callable[[RedisDataStore], None]

    def all_keys(self) -> List[str]:
        self.meddle(self)
        return super().all_keys()


def test_a_worker_that_starts_meanwhile_is_left_alone(redis_url: str) -> None:
    calls: List[int] = []

    def start(store: RedisDataStore) -> None:
        calls.append(len(calls))
        if len(calls) == 3:  # the second pass: the first one has removed the plan
            store.beat("late", 60.0)

    with contextlib.closing(Meddling.from_url(redis_url)) as store:
        fill(store, StrategyType.HASH, "job")
        Meddling.meddle = staticmethod(start)  # type: ignore[assignment]
        here = store.namespaced("job")
        with pytest.raises(StateError, match="in use by late"):
            purge(here, "test")
        assert [worker.worker_id for worker in here.workers()] == ["late"]
        assert here.read_lock("leader")[2] == 0.0, "the guard is given back: the worker may lead at once"


def test_nobody_can_be_elected_while_the_keys_go(redis_url: str) -> None:
    tries: List[Any] = []

    def stand(store: RedisDataStore) -> None:
        tries.append(store.acquire_lock("leader", "hasty", 1.0, 0) if tries else None)

    with contextlib.closing(Meddling.from_url(redis_url)) as store:
        fill(store, StrategyType.HASH, "job")
        Meddling.meddle = staticmethod(stand)  # type: ignore[assignment]
        purge(store.namespaced("job"), "test")
    assert len(tries) >= 3 and set(tries) == {None}


def test_keys_of_another_namespace_are_never_unlinked(client: Any, store: RedisDataStore) -> None:
    client.set("elk:{jobs}:meta", "x")
    with pytest.raises(StateError, match="only keys that begin with"):
        store.namespaced("job").unlink(["elk:{job}:meta", "elk:{jobs}:meta"])
    assert client.exists("elk:{jobs}:meta")


def test_the_inventory_finds_keys_beyond_one_batch_of_a_scan(client: Any, store: RedisDataStore) -> None:
    with client.pipeline(transaction=False) as pipe:
        for number in range(3000):
            pipe.set("noise:%d" % number, "x")
        pipe.execute()
    here = store.namespaced("job")
    for number in range(600):
        here.compare_and_set("chunk.%d" % number, 0, b"x")
    found = take_inventory(here)
    assert found.entries["value:*"] == 600 and found.keys == 601
    assert purge(here, "test") == 602
    assert client.dbsize() == 3000
