"""The circuit breaker in a whole coordinator on a real server: what an outage costs, and how it ends."""

from __future__ import annotations

import threading
from typing import Any, Callable, Dict, List

from tenacity import stop_after_attempt, wait_none

from elk_coordinator import CircuitBreakerConfig, Coordinator, PartitionStatus
from elk_coordinator.partition.audit import verify
from elk_coordinator.testing import wait_until
from elk_coordinator.worker.circuit_breaker import BreakerState
from tests.integration.conftest import Numbers, Recorder, turns

Build = Callable[..., Coordinator]
PENDING = PartitionStatus.PENDING


class Backend:
    """The user's system, down at first."""

    def __init__(self) -> None:
        self.up = threading.Event()
        self.calls = 0
        self._lock = threading.Lock()

    def process(self, ctx: Any, min_id: int, max_id: int, options: Dict[str, Any]) -> None:
        with self._lock:
            self.calls += 1
        if not self.up.is_set():
            raise ConnectionError("the database is down")


def breaker(**options: Any) -> CircuitBreakerConfig:
    return CircuitBreakerConfig(**{"open_timeout": 3600.0, **options})


def attempts(partitions: Any) -> List[int]:
    return [p.attempt for p in partitions.get_all_partitions()]


def held(partitions: Any) -> int:
    stats = partitions.get_partition_stats()
    return int(stats.claimed + stats.running)


def test_while_it_is_open_nothing_is_claimed_and_no_attempt_is_burnt(build: Build, partitions: Any) -> None:
    work, recorder = Backend(), Recorder()
    coordinator = build(work, Numbers(300), task_window_size=4, circuit_breaker=breaker(), listeners=[recorder])
    with coordinator:
        found = coordinator.circuit_breaker
        assert found is not None
        wait_until(lambda: found.state is BreakerState.OPEN)
        wait_until(lambda: held(partitions) == 0, 10, "everything to be given back")
        burnt, calls = sum(attempts(partitions)), work.calls
        turns(coordinator, 5)
        assert (sum(attempts(partitions)), work.calls, held(partitions)) == (burnt, calls, 0)
        assert burnt <= 3 + 3, "those that opened it, and those that failed at that very moment"
        assert all(p.status is PENDING for p in partitions.get_all_partitions())
        health = coordinator.health()
        assert (health.breaker, health.breaker_trips) == ("open", 1) and health.healthy
        assert "ConnectionError: the database is down" in health.breaker_reason
        wait_until(lambda: partitions.workers()[0].info["breaker"] == "open", 10, "the registry to say so")
        assert "failures in a row" in partitions.workers()[0].info["breaker_reason"]
        assert coordinator.admin.status()["breakers"] == [
            {
                "worker_id": coordinator.worker_id, "state": "open", "trips": 1,
                "reason": partitions.workers()[0].info["breaker_reason"],
            }
        ]  # fmt: skip
        # Repaired, and an operator does not wait for the timeout.
        work.up.set()
        found.reset()
        assert coordinator.wait_idle(30)
        wait_until(lambda: coordinator.admin.status()["breakers"] == [], 10, "the status to say that it is closed")
    assert partitions.get_partition_stats().completed == 30
    changes = [(event.facts["previous"], event.facts["state"]) for event in recorder.of("breaker_changed")]
    assert changes == [("closed", "open"), ("open", "closed")]
    assert verify(partitions).problems == []


def test_it_resumes_by_itself_and_failing_probes_burn_nothing(build: Build, partitions: Any) -> None:
    work = Backend()
    coordinator = build(work, Numbers(300), task_window_size=4, circuit_breaker=breaker(open_timeout=0.05))
    with coordinator:
        found = coordinator.circuit_breaker
        assert found is not None
        wait_until(lambda: found.trips >= 1)
        turns(coordinator, 1)
        burnt = sum(attempts(partitions))
        wait_until(lambda: (coordinator._claimer.wake.set(), found.trips >= 5)[1], 20, "probes that fail")
        assert sum(attempts(partitions)) <= burnt + 3, "only reports that were on their way when it opened"
        assert all(p.status is not PartitionStatus.FAILED for p in partitions.get_all_partitions())
        work.up.set()
        assert coordinator.wait_idle(30)
        wait_until(lambda: found.state is BreakerState.CLOSED, 10, "the breaker to close")
    assert partitions.get_partition_stats().completed == 30
    assert verify(partitions).problems == []


def test_partitions_that_always_fail_do_not_keep_all_others_waiting(build: Build, partitions: Any) -> None:
    # A bad head of the queue: probes burn no attempt, so without looking elsewhere each of them would be one of those.
    def process(ctx: Any, min_id: int, max_id: int, options: Dict[str, Any]) -> None:
        if options["partition_id"] < 32:
            raise ValueError("no luck")

    coordinator = build(
        process, Numbers(1000), circuit_breaker=breaker(open_timeout=0.05), retry_backoff=(0.01, 0.01),
        worker_partition_multiple=20,
    )  # fmt: skip
    # Whether all the bad ones come to rest is left open: once nothing else is left, every probe is one of them, and a
    # probe burns no attempt.
    with coordinator:
        wait_until(lambda: partitions.get_partition_stats().completed == 69, 50)
    assert partitions.get_partition_stats().pending + partitions.get_partition_stats().failed == 31
    assert verify(partitions).problems == []


def test_retrying_rides_out_an_outage_without_costing_an_attempt(build: Build, partitions: Any) -> None:
    up, tries = threading.Event(), []

    def fetch() -> None:
        tries.append(1)
        if len(tries) == 2:
            up.set()
        if not up.is_set():
            raise ConnectionError("down")

    def process(ctx: Any, min_id: int, max_id: int, options: Dict[str, Any]) -> None:
        assert coordinator.circuit_breaker is not None
        coordinator.circuit_breaker.retrying(ctx.cancelled, stop=stop_after_attempt(5), wait=wait_none())(fetch)

    coordinator = build(process, Numbers(50), circuit_breaker=breaker(), task_window_size=1)
    with coordinator:
        assert coordinator.wait_idle(30)
    assert partitions.get_partition_stats().completed == 5
    assert attempts(partitions) == [0] * 5 and len(tries) == 6
