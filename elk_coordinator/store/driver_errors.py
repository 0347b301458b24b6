"""What the driver raises, in our words: whether it passes by itself, and what to do about it if not."""

from __future__ import annotations

import re
from typing import Any, Tuple

import redis
import redis.exceptions as driver
from redis.sentinel import MasterNotFoundError

from elk_coordinator.errors import StoreError, StoreUnavailable

#: Error replies that pass by themselves: the same request is sent again within the deadline.
_PASSING = (
    "LOADING",
    "READONLY",
    "MASTERDOWN",
    "BUSY",
    "OOM",
    "MISCONF",
    "NOREPLICAS",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "MOVED",
    "ASK",
    "UNKILLABLE",
    "max number of clients",
)


def _types(*names: str) -> Tuple[Any, ...]:
    """Return those of the driver's exceptions that this version of it has."""
    return tuple(getattr(driver, name) for name in names if hasattr(driver, name))


#: All that the driver raises; what a cluster client raises about its nodes is none of its RedisErrors.
DRIVER = (redis.RedisError, driver.RedisClusterException)
#: The same as types: for codes that the driver knows it cuts them off the text.
_PASSING_TYPES = _types("OutOfMemoryError", "ClusterError", "AskError", "MovedError", "TryAgainError")
#: After these a cluster client asks again which node serves what.
LAYOUT = (*_types("ConnectionError", "TimeoutError", "ClusterError", "ClusterDownError", "MovedError"), DRIVER[1])
_REFUSING = ("NOAUTH", "WRONGPASS", "NOPERM", "Authentication required", "invalid password", "invalid username")
_REFUSING_TYPES = _types("AuthenticationError", "AuthorizationError", "NoPermissionError")
_AWAY = ("ConnectionError", "TimeoutError", "ReadOnlyError", "ClusterDownError", "InvalidResponse")
_AWAY_TYPES = (*_types(*_AWAY), DRIVER[1])
#: After these the connections lead to the wrong server or to none.
RECONNECT = ("READONLY", "MASTERDOWN", "UNBLOCKED")


def _no_primary(exc: Exception) -> str:
    """Return what the driver says without its description of whole clients, and which sentinels were silent."""
    found, _, clients = str(exc).partition(" : ")
    silent = ["%s:%s" % pair for pair in re.findall(r"\bhost=([^,)]+),port=(\d+)", clients)]
    if silent:
        return "%s; these sentinels did not answer: %s" % (found.rstrip("."), ", ".join(silent))
    return "%s; is the name of the service right, its primary up, and do the sentinels answer?" % found.rstrip(".")


def translate(exc: Exception) -> StoreError:
    """Turn a driver's exception into ours: unavailable when repeating may help, else a StoreError that says what."""
    text = (_no_primary(exc) if isinstance(exc, MasterNotFoundError) else str(exc).rstrip(".")) or type(exc).__name__
    # What stood in the way of the nodes is at the end of what a cluster client says.
    cause = text.rpartition("reachable node: ")[2] if isinstance(exc, driver.RedisClusterException) else text
    if isinstance(exc, _REFUSING_TYPES) or cause.startswith(_REFUSING):
        told = "the store refuses this user: %s; check user, password and ACL in the URL" % text
        return StoreError(told, refused=not isinstance(exc, _types("NoPermissionError")) or "eval" in text)
    if isinstance(exc, driver.RedisClusterException) and "not enabled" in text:
        return StoreError("%s: give a redis:// URL for a server that is no cluster" % text)
    if isinstance(exc, _AWAY_TYPES):
        return StoreUnavailable("the store could not be reached: %s" % text)
    if any(mark in text for mark in _PASSING) or isinstance(exc, _PASSING_TYPES):
        return StoreUnavailable("the store cannot serve now: %s" % text)
    if "WRONGTYPE" in text:
        return StoreError("a key of this namespace has another type than ours (%s): something else writes there" % text)
    return StoreError("the store refused the request: %s" % text)
