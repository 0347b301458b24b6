"""Distributed processing of ID ranges over Redis, with threads, for Django and Flask code bases."""

import logging

from elk_coordinator.admin.service import AdminClient
from elk_coordinator.config import CircuitBreakerConfig, CoordinatorConfig
from elk_coordinator.coordinator import Coordinator
from elk_coordinator.errors import (
    ConfigError,
    ElkError,
    ForkedError,
    IllegalTransition,
    LeaseLost,
    NotOwner,
    PartitionError,
    PartitionNotFound,
    PermanentError,
    PlannerError,
    RangeConflict,
    StateError,
    StoreError,
    StoreUnavailable,
    TaskInterrupted,
    VersionConflict,
)
from elk_coordinator.model import (
    CancelReason,
    CreatePartition,
    Partition,
    PartitionFilter,
    PartitionStats,
    PartitionStatus,
    StrategyType,
)
from elk_coordinator.partition.factory import create_strategy
from elk_coordinator.protocols import Listener, PartitionPlanner, PlannerContext, ProcessContext, Processor
from elk_coordinator.store.redis_store import RedisDataStore
from elk_coordinator.version import __version__

# An application that configures no logging hears nothing from us; we configure none ourselves.
logging.getLogger("elk_coordinator").addHandler(logging.NullHandler())

__all__ = [
    # the object an application starts, and its settings
    "Coordinator",
    "CoordinatorConfig",
    "CircuitBreakerConfig",
    # where the data lives
    "RedisDataStore",
    "create_strategy",
    "StrategyType",
    # partitions
    "CreatePartition",
    "Partition",
    "PartitionStatus",
    "PartitionFilter",
    "PartitionStats",
    # operating it
    "AdminClient",
    # what users implement and are given
    "Processor",
    "PartitionPlanner",
    "ProcessContext",
    "PlannerContext",
    "CancelReason",
    "Listener",
    # errors
    "TaskInterrupted",
    "ElkError",
    "ConfigError",
    "StateError",
    "ForkedError",
    "StoreError",
    "StoreUnavailable",
    "LeaseLost",
    "PartitionError",
    "PartitionNotFound",
    "RangeConflict",
    "VersionConflict",
    "NotOwner",
    "IllegalTransition",
    "PlannerError",
    "PermanentError",
    "__version__",
]
