"""Connections: our timeouts and no hidden retries; no password in what is said; an answer that is none is an outage."""

from __future__ import annotations

import socket
import threading
from typing import Any, Iterator, List

import pytest
import redis
import redis.backoff
import redis.retry

from elk_coordinator import ConfigError, RedisDataStore, StoreUnavailable
from elk_coordinator.store import connect, redis_store
from elk_coordinator.store.connect import mask


@pytest.mark.parametrize(
    "url, shown",
    [
        ("redis://user:hunter2@host:1/0", "redis://user:***@host:1/0"),
        ("redis://:hunter2@host", "redis://:***@host"),
        ("redis://:hunter2@hunter2@host/0", "redis://:***@host/0"),
        ("redis://:hunter2/hunter2@host/0", "redis://:***@host/0"),
        ("redis://host/0?password=hunter2&db=x", "redis://host/0?password=***&db=x"),
        ("redis://host/0?db=x&sentinel_password=hunter2", "redis://host/0?db=x&sentinel_password=***"),
        ("redis://host:6379/0", "redis://host:6379/0"),
    ],
)
def test_passwords_are_masked_wherever_they_stand(url: str, shown: str) -> None:
    assert mask(url) == shown


@pytest.mark.parametrize("sign", ["/", "?", "#"])
def test_no_part_of_a_password_that_cuts_the_url_is_in_the_error(sign: str) -> None:
    with pytest.raises(ConfigError, match="%2F") as caught:
        RedisDataStore.from_url("redis://:hunter2%shunter2@host:6379/0" % sign)
    assert "hunter2" not in str(caught.value)


def theirs() -> Any:
    """Return a client as an application has it: patient, and with retries."""
    patient = redis.retry.Retry(redis.backoff.ExponentialBackoff(), 5)
    return redis.Redis(host="127.0.0.1", socket_timeout=99, socket_connect_timeout=99, retry=patient)


@pytest.mark.parametrize(
    "factory",
    [
        lambda: connect.from_url("redis://127.0.0.1:1/0"),
        lambda: connect.from_url("redis+sentinel://127.0.0.1:1/service/0"),
        lambda: connect.from_client(theirs()),
    ],
    ids=["url", "sentinel", "client"],
)
def test_every_client_has_our_timeouts_and_no_retries_of_its_own(factory: Any) -> None:
    made = factory()(3.0, "name")
    settings = made.connection_pool.connection_kwargs
    assert settings["socket_timeout"] == settings["socket_connect_timeout"] == 1.0, "a third of a call's deadline"
    assert settings["retry"]._retries == 0
    assert (settings["retry_on_timeout"], settings["retry_on_error"]) == (False, [])
    made.close()


@pytest.mark.parametrize(("version", "attempts"), [("5.0.8", 0), ("4.6.0", 0), ("6.4.0", None), ("10.0.0", None)])
def test_a_cluster_client_has_no_retries_of_its_own(
    monkeypatch: pytest.MonkeyPatch, version: str, attempts: Any
) -> None:
    made: List[Any] = []
    monkeypatch.setattr(redis, "__version__", version)
    monkeypatch.setattr(connect._cluster_module, "RedisCluster", lambda **settings: made.append(settings))
    connect.from_url("redis+cluster://127.0.0.1:1")(3.0, "name")
    assert made[0]["retry"]._retries == 0 and made[0]["socket_timeout"] == 1.0
    assert made[0].get("cluster_error_retry_attempts") == attempts


def test_all_tries_of_one_call_end_with_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    budgets: List[float] = []

    def retry(call: Any, interrupt: Any, budget: float) -> Any:
        budgets.append(budget)
        return call()

    monkeypatch.setattr(redis_store, "retry_store_call", retry)
    store = RedisDataStore.from_url("redis://127.0.0.1:1/0", timeout=2.0)
    with pytest.raises(StoreUnavailable):
        store.namespaced("ns").now()
    assert len(budgets) == 1 and 0.0 < budgets[0] <= 2.0
    store.close()
@pytest.fixture
def babbler() -> Iterator[str]:
    """Yield the URL of a server that answers every request with the next of some nonsense."""
    listener = socket.create_server(("127.0.0.1", 0))
    gone = threading.Event()

    def serve() -> None:
        said = 0
        while not gone.is_set():
            client, _ = listener.accept()
            with client:
                client.settimeout(1.0)
                while not gone.is_set():
                    try:
                        if not client.recv(65536):
                            break
                        client.sendall(NONSENSE[said % len(NONSENSE)])
                    except OSError:
                        break
                    said += 1

    thread = threading.Thread(target=serve)
    thread.start()
    yield "redis://127.0.0.1:%d" % listener.getsockname()[1]
    gone.set()
    socket.create_connection(listener.getsockname()).close()
    thread.join()
    listener.close()


NONSENSE = (b"\x16\x03\x01 no reply\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b":one\r\n", b"$two\r\n", b"*-x\r\n")


def test_answers_that_are_none_are_an_outage_and_no_refusal(babbler: str) -> None:
    # A StoreError would end what is in hand: a checkpoint would raise it in the user's code and burn an attempt.
    for _ in range(len(NONSENSE)):
        store = RedisDataStore.from_url(babbler, timeout=0.05)
        with pytest.raises(StoreUnavailable):
            store.namespaced("ns").now()
        with pytest.raises(StoreUnavailable):
            store.namespaced("ns").notify("work")
        store.close()
