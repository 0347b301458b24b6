"""Documents of completed partitions, for the SIMPLE strategy: written once, read when somebody asks."""

from __future__ import annotations

import json
import uuid
from typing import Dict, Mapping

from elk_coordinator.errors import StoreError
from elk_coordinator.model import Partition
from elk_coordinator.partition.document import Record
from elk_coordinator.store.base import DataStore


def write(store: DataStore, records: Mapping[int, Record]) -> str:
    """Store *records* as a new chunk; return its name."""
    name = "chunk-%s" % uuid.uuid4().hex
    body = {str(partition_id): record.dump() for partition_id, record in records.items()}
    if store.compare_and_set(name, 0, json.dumps(body, separators=(",", ":")).encode("utf-8")) is None:
        # Only a retry of ours can have written it: names are drawn at random.
        read(store, name)
    return name


def drop(store: DataStore, name: str) -> None:
    """Delete a chunk that no document mentions."""
    store.compare_and_set(name, store.get(name).version, None)


def read(store: DataStore, name: str) -> Dict[int, Partition]:
    """Return the partitions of a chunk.

    :raises StoreError: when it is missing or cannot be read; never an empty answer instead.
    """
    value = store.get(name)
    if value.data is None:
        raise StoreError("chunk %r of completed partitions is missing from the store" % name)
    try:
        return {int(i): Record.load(int(i), item).p for i, item in json.loads(value.data).items()}
    except (ValueError, KeyError, IndexError, TypeError) as exc:
        raise StoreError("chunk %r of completed partitions cannot be read: %s" % (name, exc)) from exc
