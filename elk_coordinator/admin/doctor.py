"""The examination behind ``elk doctor``: server, rights, clocks, keys, records and fleet of one namespace.

It only reads, and at a bounded cost: whoever looks for the cause of a failure must not add to it. Even the look at the
registry of workers is its own, because the usual one removes those long dead.
"""

from __future__ import annotations

from typing import Optional

from elk_coordinator.admin.doctor_fleet import Fleet, examine_fleet, read_fleet
from elk_coordinator.admin.doctor_keys import examine_keys
from elk_coordinator.admin.doctor_records import examine_records
from elk_coordinator.admin.doctor_server import examine_server
from elk_coordinator.admin.findings import INFO, PROBLEM, SEVERITIES, Diagnosis, Notes
from elk_coordinator.config import CoordinatorConfig, check_namespace
from elk_coordinator.errors import ConfigError, StateError, StoreError, StoreUnavailable
from elk_coordinator.partition.factory import open_strategy
from elk_coordinator.partition.strategy import PartitionStrategy
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.store.base import DataStore
from elk_coordinator.store.redis_store import RedisDataStore

#: Partitions up to which every one is looked at.
EVERY_ONE = 200_000


def diagnose(
    namespace: str, store: DataStore, *, clock: Optional[Clock] = None, every_one: int = EVERY_ONE
) -> Diagnosis:
    """Examine *namespace*; changes nothing and may run beside live workers.

    :param every_one: up to so many partitions each is looked at; of more only the indexes are.
    :raises ConfigError: for a bad name, or a store that is no RedisDataStore.
    :raises StoreUnavailable: the server does not answer at all.
    """
    check_namespace(namespace)
    if not isinstance(store, RedisDataStore):
        raise ConfigError("store: only a RedisDataStore can be examined, not %r" % (type(store).__name__,))
    bound = store.namespaced(namespace)
    try:
        bound.ask("PING")
    except StoreUnavailable:
        raise
    except StoreError:
        pass  # it answers; what this user may not do is told below
    notes = Notes()
    clock = clock or Clock()
    fleet = Fleet()
    with notes.looking("fleet", "the registry of workers", PROBLEM):
        fleet = read_fleet(bound)
    leases = fleet.numbers("lease")
    examine_server(bound, notes, clock, min(leases) if leases else CoordinatorConfig().lease)
    with notes.looking("keys", "the keys of the namespace"):
        examine_keys(bound, notes)
    strategy: Optional[PartitionStrategy] = None
    with notes.looking("records", "the records", PROBLEM):
        try:
            strategy = open_strategy(namespace, store)
        except StateError:
            notes.add(INFO, "empty", "nobody has used the namespace %s yet" % namespace, "", "Check its name.")
    if strategy is not None:
        examine_records(strategy, bound, fleet, notes, every_one)
        examine_fleet(strategy, bound, fleet, notes)
    return Diagnosis(namespace, sorted(notes.findings, key=lambda finding: -SEVERITIES.index(finding.severity)))
