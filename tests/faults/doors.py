"""The doors of a fleet: HTTP as operators and observers ask it, and what the server does for it."""

from __future__ import annotations

import contextlib
import http.client
import json
from typing import Any, Dict, Iterator, Optional, Tuple

import redis

from elk_coordinator.testing import wait_until
from tests.faults.fleet import Fleet, let_pass, now

TOKEN = "token-of-the-fault-tests"
WITH_HTTP: Dict[str, Any] = {"metrics_enabled": True, "metrics_addr": "127.0.0.1:0", "admin_token": TOKEN}


def door_of(fleet: Fleet, name: str) -> str:
    """Return the HTTP address of a worker, which it tells with its beats."""

    def find() -> Any:
        return [w.info["http"] for w in fleet.partitions.workers() if w.worker_id == name]

    return str(wait_until(find, 10.0, "the address of %s" % name)[0])


def ask(address: str, path: str, body: Optional[Dict[str, Any]] = None, timeout: float = 10.0) -> Tuple[int, str]:
    """Ask over HTTP; with a body as an operator with the token."""
    host, _, port = address.rpartition(":")
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=timeout)) as connection:
        if body is None:
            connection.request("GET", path)
        else:
            headers = {"Authorization": "Bearer " + TOKEN, "Content-Type": "application/json"}
            connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8")


@contextlib.contextmanager
def raw_client(url: str) -> Iterator[Any]:
    """Return a client that knows nothing of the library."""
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        yield client


def calls(fleet: Fleet) -> int:
    """Return how many scripts the server was sent."""
    with raw_client(fleet.url) as raw:
        stats = raw.info("commandstats")
    return sum(int(stats["cmdstat_" + name]["calls"]) for name in ("evalsha", "eval") if "cmdstat_" + name in stats)


def measure(fleet: Fleet, seconds: float) -> Tuple[float, float]:
    """Return partitions completed and scripts run, each per second, while so many seconds pass."""
    at, done, sent = now(), fleet.completed(), calls(fleet)
    let_pass(seconds)
    took = now() - at
    return (fleet.completed() - done) / took, (calls(fleet) - sent) / took
