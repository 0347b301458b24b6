"""Removes a namespace: all its keys and nothing else, never under the feet of a live worker."""

from __future__ import annotations

from typing import Dict, List

import attr

from elk_coordinator.errors import StateError
from elk_coordinator.store.redis_store import RedisDataStore

#: Seconds for which nobody is elected while the keys go.
_GUARD = 60.0
#: Goes last: as long as it is there, nobody leads the namespace.
_LOCK = "leader"
#: Passes over the database before we say that somebody keeps writing.
_PASSES = 5


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Inventory:
    """What a namespace consists of."""

    #: Name of the key in the table of ``store/keys.py`` -> entries in it; values count together as ``value:*``.
    entries: Dict[str, int]
    keys: int
    #: Names of live workers, and of a leader that is none of them.
    alive: List[str]


def take_inventory(store: RedisDataStore) -> Inventory:
    """Look at the namespace *store* is bound to; changes nothing."""
    prefix = store.keys.pattern[:-1]
    names = store.all_keys()
    entries: Dict[str, int] = {}
    for name in names:
        short = name[len(prefix) :]
        if short.startswith("value:"):
            entries["value:*"] = entries.get("value:*", 0) + 1
        else:
            entries[short] = store.count_entries(name)
    return Inventory(entries, len(names), alive(store))


def alive(store: RedisDataStore) -> List[str]:
    """Return who works in the namespace now."""
    names = [worker.worker_id for worker in store.workers()]
    owner, _, remaining = store.read_lock(_LOCK)
    if remaining > 0 and owner not in names:
        names.append("%s (leader)" % owner)
    return names


def purge(store: RedisDataStore, by: str) -> int:
    """Remove every key of the namespace; return how many there were.

    :param by: a name for whoever is told that the namespace is being purged.
    :raises StateError: somebody works in it, also when he came in the middle: then some keys are gone, and what he
        wrote stays.
    """
    _refuse_if_alive(store)
    if not store.all_keys():
        return 0
    # Nobody plans while keys go: a leader elected half way would begin the plan again from what is left.
    token = store.acquire_lock(_LOCK, "purge by %s" % by, _GUARD, 0)
    if token is None:
        _refuse_if_alive(store)
        raise StateError("a leader was elected in namespace %s just now; nothing was removed" % store.keys.namespace)
    lock = store.keys["lock:" + _LOCK]
    removed = 0
    try:
        for _ in range(_PASSES):
            names = [name for name in store.all_keys() if name != lock]
            workers = [worker.worker_id for worker in store.workers()]
            if workers:
                raise _refusal(store, workers)
            if not names:
                break
            removed += store.unlink(names)
        else:
            raise StateError("somebody keeps writing to namespace %s; stop it and purge again" % store.keys.namespace)
    except BaseException:
        store.release_lock(_LOCK, token)
        raise
    # Only while it is still ours: after a pause longer than the guard somebody may lead.
    if store.release_lock(_LOCK, token):
        removed += store.unlink([lock])
    return removed


def _refuse_if_alive(store: RedisDataStore) -> None:
    names = alive(store)
    if names:
        raise _refusal(store, names)


def _refusal(store: RedisDataStore, names: List[str]) -> StateError:
    return StateError(
        "namespace %s is in use by %s; stop them first (a dead worker counts as alive until its worker_ttl is over)"
        % (store.keys.namespace, ", ".join(names[:20]) + (" and %d more" % (len(names) - 20) if names[20:] else ""))
    )
