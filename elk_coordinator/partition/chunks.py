"""Documents of completed partitions, for the SIMPLE strategy: written once, read when somebody asks."""

from __future__ import annotations

import json
import uuid
from typing import Callable, Dict, Iterator, Mapping, Sequence, Set

import attr

from elk_coordinator.errors import StoreError
from elk_coordinator.model import Outcome, Partition, PartitionStatus, Turn
from elk_coordinator.partition.document import Document, Record
from elk_coordinator.partition.requests import TurnRequest
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


def find(store: DataStore, document: Document, wanted: Set[int]) -> Dict[int, Partition]:
    """Return those of the *wanted* partitions that the document's chunks hold."""
    out: Dict[int, Partition] = {}
    for place, (name, first, last, _) in enumerate(document.chunks):
        missing = wanted - set(out) - document.gone_from(place)
        if any(first <= i <= last for i in missing):
            chunk = read(store, name)
            out.update({i: chunk[i] for i in missing if i in chunk})
    return out


def ids(store: DataStore, document: Document) -> Iterator[int]:
    """Return the ids of everything that the document's chunks hold."""
    for place, (name, _, _, _) in enumerate(document.chunks):
        gone = document.gone_from(place)
        yield from (i for i in read(store, name) if i not in gone)


def answer_again(request: TurnRequest, turn: Turn, look: Callable[[Sequence[int]], Mapping[int, Partition]]) -> Turn:
    """Give repeated reports of completions that have left the document for a chunk their first answer again."""
    late = {
        (result.partition_id, result.token)
        for report, result in zip(request.reports, turn.results)
        if result.refused and report.outcome is Outcome.COMPLETED
    }
    if not late:
        return turn
    done = PartitionStatus.COMPLETED
    found = look(sorted({partition_id for partition_id, _ in late}))
    known = late & {(p.partition_id, p.fencing_token) for p in found.values() if p.status is done}
    results = [
        attr.evolve(result, status=done)
        if report.outcome is Outcome.COMPLETED and (result.partition_id, result.token) in known
        else result
        for report, result in zip(request.reports, turn.results)
    ]
    return attr.evolve(turn, results=results)
