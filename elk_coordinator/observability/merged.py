"""Our series in an application's own registry: one collector for all coordinators of the process.

Every coordinator exports every family, and an exposition may hold a family once only. So one collector per registry
joins them, and gives each series the label ``coordinator``: some of the inherited names lack it, and two coordinators
would say different things under the same name and labels.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any, Dict, List, MutableMapping, Tuple

from elk_coordinator.errors import ConfigError
from elk_coordinator.observability.metrics import Metrics

_lock = threading.Lock()
_merged: "MutableMapping[Any, Merged]" = weakref.WeakKeyDictionary()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # the old one may have been held by a thread of the parent


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Merged:
    """The collector that a registry asks. Thread-safe."""

    def __init__(self) -> None:
        self.members: List[Metrics] = []

    def describe(self) -> List[Any]:
        """Return nothing: a registry that wants to know names beforehand would ask for all values."""
        return []

    def collect(self) -> List[Any]:
        """Return the families of all members, each once."""
        # A forked child has what was registered before the fork, but the coordinator lives in the parent: its numbers
        # stand still here, and a lock of it may have been held at the fork, for ever. So neither is touched, nor ours.
        members = [member for member in list(self.members) if member.pid == os.getpid()]
        out: Dict[Tuple[str, str], Any] = {}
        for member in members:
            for family in member.collect():
                named = [
                    sample._replace(labels=dict(sample.labels, coordinator=member.namespace))
                    for sample in family.samples
                ]
                # By kind as well: the client names a counter without its "_total", as another family may be called.
                first = out.setdefault((family.name, family.type), family)
                first.samples = named if first is family else first.samples + named
        return list(out.values())


def register(metrics: Metrics, registry: Any) -> None:
    """Show *metrics* in *registry* as well, from now on; again changes nothing.

    :raises ConfigError: when *registry* is no registry of prometheus_client.
    """
    if not callable(getattr(registry, "register", None)):
        raise ConfigError("registry: must be a CollectorRegistry of prometheus_client, not %r" % (registry,))
    with _lock:
        merged = _merged.get(registry)
        if merged is None:
            merged = _merged[registry] = Merged()
            registry.register(merged)
        if metrics not in merged.members:
            merged.members.append(metrics)


def unregister(metrics: Metrics, registry: Any) -> None:
    """Take *metrics* out of *registry* again; what is not there changes nothing."""
    with _lock:
        merged = _merged.get(registry)
        if merged is None or metrics not in merged.members:
            return
        merged.members.remove(metrics)
        if not merged.members:
            del _merged[registry]
            registry.unregister(merged)
