"""Words that the contract tests are written in: short ways to ask a strategy, and to check that it is sound."""

from __future__ import annotations

from typing import Any, List, Sequence

from elk_coordinator.model import CreatePartition, Outcome, Partition, PartitionStatus, Report
from elk_coordinator.partition.audit import verify
from elk_coordinator.partition.requests import BeatRequest, TurnRequest

PENDING = PartitionStatus.PENDING
CLAIMED = PartitionStatus.CLAIMED
RUNNING = PartitionStatus.RUNNING
COMPLETED = PartitionStatus.COMPLETED
FAILED = PartitionStatus.FAILED

#: Seconds that claims of these tests last.
LEASE = 30.0
#: The least time that tests let pass: a whole number of milliseconds and exact in binary, so no clock rounds it.
TICK = 0.125


def parts(*numbers: int, width: int = 10, **facts: Any) -> List[CreatePartition]:
    """Return partitions whose range follows from their id."""
    return [CreatePartition(i, i * width, i * width + width - 1, **facts) for i in numbers]


def turn(strategy: Any, worker: str = "w", stream: str = "test", **what: Any) -> Any:
    """Make one round trip of a worker."""
    name = strategy.stream(stream)
    lease = what.pop("lease", LEASE)
    return strategy.turn(TurnRequest(worker, name, strategy.next_sequence(name), lease, **what))


def beat(strategy: Any, worker: str = "w", claims: Sequence[Any] = (), ttl: float = 60.0, **what: Any) -> Any:
    """Send one heartbeat."""
    name = strategy.stream("testbeat")
    lease, info = what.pop("lease", LEASE), what.pop("info", {})
    return strategy.beat(BeatRequest(worker, name, strategy.next_sequence(name), ttl, lease, info, claims))


def report(strategy: Any, claim: Partition, outcome: Outcome, worker: str = "w", **facts: Any) -> Any:
    """Report what became of one claim."""
    return strategy.report_partitions(worker, [Report(claim.partition_id, claim.fencing_token, outcome, **facts)])[0]


def claim_one(strategy: Any, worker: str = "w", partition_id: int = 1) -> Partition:
    """Create one partition and claim it."""
    strategy.create_partitions_if_not_exist(parts(partition_id))
    (claim,) = strategy.claim_partitions(worker)
    assert claim.partition_id == partition_id
    return claim


def key_of(claim: Partition) -> Any:
    """Return a claim as (partition id, token)."""
    return claim.partition_id, claim.fencing_token


def ids(partitions: Sequence[Any]) -> List[int]:
    """Return the ids of partitions."""
    return [p.partition_id for p in partitions]


def make_suspects(strategy: Any, *numbers: int) -> None:
    """Create partitions and have workers lose each of them twice; nothing else may be claimable."""
    strategy.create_partitions_if_not_exist(parts(*numbers))
    for _ in range(2 * len(numbers)):
        for claim in turn(strategy, stream="suspects", free=len(numbers)).granted:
            if claim.deliveries < 2:
                report(strategy, claim, Outcome.LOST)
            else:
                report(strategy, claim, Outcome.RELEASED)
    found = strategy.read(numbers)
    assert all(found[i].deliveries == 2 and found[i].status is PENDING for i in numbers)


def sound(strategy: Any) -> None:
    """Check that the counters are a recount, and that everything planned is accounted for once."""
    assert verify(strategy).problems == []
    stats = strategy.get_partition_stats()
    counts = dict.fromkeys(PartitionStatus, 0)
    for partition in strategy.get_all_partitions():
        counts[partition.status] += 1
    said = [stats.pending, stats.claimed, stats.running, stats.completed, stats.failed]
    assert said == list(counts.values())
    assert stats.total == sum(said)
