"""Builds the strategy a configuration names."""

from __future__ import annotations

from typing import Any, Optional

from elk_coordinator.config import check_namespace
from elk_coordinator.errors import ConfigError, StateError
from elk_coordinator.model import StrategyType
from elk_coordinator.partition.commands import CommandStore
from elk_coordinator.partition.hash_commands import HashCommands
from elk_coordinator.partition.hash_strategy import HashPartitionStrategy
from elk_coordinator.partition.simple_commands import SimpleCommands
from elk_coordinator.partition.simple_strategy import DOCUMENT, SimplePartitionStrategy
from elk_coordinator.partition.strategy import PartitionStrategy
from elk_coordinator.store.base import DataStore
from elk_coordinator.store.redis_store import RedisDataStore


def create_strategy(strategy_type: StrategyType, namespace: str, store: DataStore, **options: Any) -> PartitionStrategy:
    """Build the partitions of *namespace* in *store*, without a coordinator.

    :param options: ``partition_lock_expiry`` (seconds; the lease of public claims), ``max_attempts``,
        ``max_deliveries``, ``logger``, ``longest_retry`` (seconds that a retry may wait, for :meth:`sweep`).
    :raises ConfigError: for an unknown type, or a store the strategy cannot use.
    """
    if strategy_type is StrategyType.HASH:
        return HashPartitionStrategy(namespace, store, **options)
    if strategy_type is StrategyType.SIMPLE:
        return SimplePartitionStrategy(namespace, store, **options)
    raise ConfigError("strategy: must be a StrategyType member, not %r" % (strategy_type,))


def open_strategy(
    namespace: str, store: DataStore, default: Optional[StrategyType] = None, **options: Any
) -> PartitionStrategy:
    """Build the strategy that *namespace* runs, found out from the store in at most two round trips.

    :param default: what to build for a namespace that nobody has used yet; None refuses such a one.
    :param options: as for :func:`create_strategy`.
    :raises StateError: nobody has used the namespace yet. :raises ConfigError: the store is no DataStore.
    """
    check_namespace(namespace)
    if not isinstance(store, DataStore):
        raise ConfigError("store: must be a DataStore, not %r" % (store,))
    bound = store.namespaced(namespace)
    found = default
    if bound.get(DOCUMENT).data is not None:
        found = StrategyType.SIMPLE
    elif isinstance(bound, RedisDataStore):
        strategy, planned = bound.run("partition/kind", [bound.keys["meta"]])
        if strategy == b"hash" or planned != b"0":
            found = StrategyType.HASH
    if found is None:
        raise StateError(
            "nobody has used the namespace %r in this store yet: check its name and the store's URL" % namespace
        )
    return create_strategy(found, namespace, store, **options)


def command_store(strategy: PartitionStrategy) -> CommandStore:
    """Return the operator commands of a strategy's namespace."""
    if isinstance(strategy, HashPartitionStrategy):
        return HashCommands(strategy)
    if isinstance(strategy, SimplePartitionStrategy):
        return SimpleCommands(strategy)
    raise ConfigError("strategy: %s has no operator commands" % type(strategy).__name__)
