"""Connecting: what is wrong with a URL is said without its password; an answer that is none is an outage."""

from __future__ import annotations

import socket
import threading
from typing import Iterator

import pytest

from elk_coordinator import ConfigError, RedisDataStore, StoreUnavailable
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
