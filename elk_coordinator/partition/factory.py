"""Builds the strategy a configuration names."""

from __future__ import annotations

from typing import Any

from elk_coordinator.errors import ConfigError
from elk_coordinator.model import StrategyType
from elk_coordinator.partition.hash_strategy import HashPartitionStrategy
from elk_coordinator.partition.simple_strategy import SimplePartitionStrategy
from elk_coordinator.partition.strategy import PartitionStrategy
from elk_coordinator.store.base import DataStore


def create_strategy(strategy_type: StrategyType, namespace: str, store: DataStore, **options: Any) -> PartitionStrategy:
    """Build the partitions of *namespace* in *store*, without a coordinator.

    :param options: ``partition_lock_expiry`` (seconds; the lease of public claims), ``max_attempts``,
        ``max_deliveries``, ``logger``.
    :raises ConfigError: for an unknown type, or a store the strategy cannot use.
    """
    if strategy_type is StrategyType.HASH:
        return HashPartitionStrategy(namespace, store, **options)
    if strategy_type is StrategyType.SIMPLE:
        return SimplePartitionStrategy(namespace, store, **options)
    raise ConfigError("strategy: must be a StrategyType member, not %r" % (strategy_type,))
