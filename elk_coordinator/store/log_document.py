"""A short log in one value, by compare-and-set: what a DataStore offers that has nothing better for it."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Optional, Protocol, Sequence, Tuple

from elk_coordinator.errors import StoreError, StoreUnavailable

#: Entries kept, whatever is asked for: each append writes all of them again.
MAX_ENTRIES = 500
#: Batches remembered, so that one sent twice is stored once.
_BATCHES = 100
_TRIES = 50


class Values(Protocol):
    """The part of a DataStore that this needs."""

    def get(self, name: str) -> Any: ...

    def compare_and_set(self, name: str, expected_version: int, data: Optional[bytes]) -> Optional[int]: ...


def append(store: Values, name: str, batch: str, entries: Sequence[bytes], keep: int) -> None:
    """Append *entries* unless the same *batch* is there already; keep the newest.

    :raises StoreUnavailable: no answer, or other writers were always quicker; whether it was stored is unknown.
    """
    for _ in range(_TRIES):
        value = store.get(name)
        document = _load(value.data)
        if batch in document["batches"]:
            return
        last = document["entries"][-1][0] if document["entries"] else 0
        # By the clock, so that numbers go on rising for a reader when the store lost its data.
        first = max(last + 1, int(value.now * 1e6))
        fresh = [[first + i, entry.decode("utf-8")] for i, entry in enumerate(entries)]
        document["entries"] = (document["entries"] + fresh)[-min(keep, MAX_ENTRIES) :]
        document["batches"] = [*document["batches"], batch][-_BATCHES:]
        data = json.dumps(document, separators=(",", ":")).encode("utf-8")
        try:
            if store.compare_and_set(name, value.version, data) is not None:
                return
        except StoreUnavailable:
            # Whether it was written is unknown: read again. A store that is gone says so there.
            continue
    raise StoreUnavailable("the log %r kept changing while it was written" % name)


def read(store: Values, name: str, after: Optional[str], limit: int) -> List[Tuple[str, bytes]]:
    """Return up to *limit* entries behind *after*, oldest first; without *after* the newest ones."""
    entries = _load(store.get(name).data)["entries"]
    if after is None:
        entries = entries[-limit:]
    else:
        edge = int(after.partition("-")[0])
        entries = [entry for entry in entries if entry[0] > edge][:limit]
    return [(str(number), text.encode("utf-8")) for number, text in entries]


def _load(data: Optional[bytes]) -> Dict[str, Any]:
    if data is None:
        return {"batches": [], "entries": []}
    try:
        document = json.loads(data)
        return {"batches": list(document["batches"]), "entries": list(document["entries"])}
    except (ValueError, KeyError, TypeError) as exc:
        raise StoreError("the log cannot be read: %s" % exc) from exc
