"""Between models and the text that the scripts keep: the only encoder and the only decoder.

IDs travel as text in both directions, so that no 64-bit number ever becomes a Lua number.
"""

from __future__ import annotations

import json
import re
from typing import Any, Dict, Optional, Tuple

from elk_coordinator.errors import ConfigError, StoreError
from elk_coordinator.model import (
    HELD,
    MAX_ERROR_BYTES,
    MAX_OPTIONS_BYTES,
    Partition,
    PartitionStatus,
    Range,
)

_OFFSET = 2**63
_PADDED = re.compile(rb"[0-9a-f]{14}\Z")

STATUS_OF_LETTER: Dict[str, PartitionStatus] = {
    "P": PartitionStatus.PENDING,
    "C": PartitionStatus.CLAIMED,
    "R": PartitionStatus.RUNNING,
    "F": PartitionStatus.FAILED,
}


def pad(partition_id: int) -> str:
    """Return a partition id as member and field: 14 hexadecimal digits, whose text order is number order.

    Not decimal: 14 characters are the most that fit the smallest allocation of the server (docs/decisions/0010).
    """
    return "%014x" % partition_id


def is_padded(name: bytes) -> bool:
    """Return whether *name* is what :func:`pad` makes; anything else was written by somebody else."""
    return _PADDED.match(name) is not None


def unpad(name: Any) -> int:
    """Return the partition id that :func:`pad` encoded."""
    return int(name, 16)


def bound(value: int) -> str:
    """Return an ID as 20 digits whose text order is number order."""
    return "%020d" % (value + _OFFSET)


def unbound(text: Any) -> int:
    """Return the ID that :func:`bound` encoded."""
    return int(text) - _OFFSET


def interval(item: Range) -> str:
    """Return a planned interval as a member, ordered by its upper end."""
    return "%s:%s" % (bound(item[1]), bound(item[0]))


def uninterval(member: bytes) -> Range:
    """Return the interval that :func:`interval` encoded."""
    try:
        high, low = member.split(b":")
        return unbound(low), unbound(high)
    except ValueError as exc:
        raise StoreError(
            "%r among the planned intervals is none: nothing is planned over it; see 'elk doctor'" % member[:60]
        ) from exc


def number(name: str, value: bytes) -> int:
    """Return a number out of ``meta``. :raises StoreError: when it is none."""
    try:
        return int(value)
    except ValueError as exc:
        raise StoreError("%s in meta is %r, no number; see 'elk doctor'" % (name, value[:60])) from exc


def unreadable(partition_id: int, reason: object = "no such form") -> StoreError:
    """Return the error for a record that cannot be read."""
    text = "the record of partition %d cannot be read (%s); 'elk verify' names such records"
    return StoreError(text % (partition_id, reason))


def spec_head(min_id: int, max_id: int) -> str:
    """Return the range part of a spec: the first ID and the span, hexadecimal."""
    return "%x %x" % (min_id, max_id - min_id)


def read_head(low: bytes, span: bytes, created: bytes) -> Tuple[int, int, int]:
    """Return first ID, span and stamp of creation: what every record begins with.

    :raises ValueError: when these are none.
    """
    if len(created) != 14:
        raise ValueError("no stamp of creation: %r" % created)
    return int(low, 16), int(span, 16), int(created, 16)


def dump_options(options: Optional[Dict[str, Any]], partition_id: int) -> str:
    """Return *options* as JSON, or "" for none.

    :raises ConfigError: when they are no JSON or larger than 16 KiB.
    """
    if not options:
        return ""
    try:
        text = json.dumps(options, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise ConfigError("partition %d: options must be JSON: %s" % (partition_id, exc)) from exc
    if len(text) > MAX_OPTIONS_BYTES:
        raise ConfigError(
            "partition %d: options are %d bytes of JSON; at most %d are kept with a partition: "
            "store a reference instead" % (partition_id, len(text), MAX_OPTIONS_BYTES)
        )
    return text


def clip_error(text: Optional[str]) -> str:
    """Return the last 4 KiB of an error text: the end of a traceback says most."""
    data = (text or "").replace("\0", "").encode("utf-8", "replace")
    if len(data) > MAX_ERROR_BYTES:
        data = b"... " + data[4 - MAX_ERROR_BYTES :]
    return data.decode("utf-8", "ignore")


def _options(text: bytes) -> Dict[str, Any]:
    return json.loads(text) if text else {}


def decode(
    partition_id: int, spec: bytes, state: bytes = b"", done: bytes = b"", lease: bytes = b"", score: bytes = b""
) -> Partition:
    """Build a Partition from what the scripts answered for one id.

    :raises StoreError: when a record cannot be read.
    """
    try:
        if done and not spec:
            return _decode_done(partition_id, done)
        return _decode_active(partition_id, spec, state, lease, score)
    except (ValueError, IndexError, KeyError, TypeError) as exc:
        raise unreadable(partition_id, exc) from exc


def _decode_done(partition_id: int, done: bytes) -> Partition:
    parts = done.split(b" ", 10)
    low, span, created = read_head(*parts[:3])
    token, version = int(parts[3]), int(parts[4])
    return Partition(
        partition_id=partition_id,
        min_id=low,
        max_id=low + span,
        status=PartitionStatus.COMPLETED,
        worker_id=parts[9].decode("utf-8", "replace"),
        priority=int(parts[7]),
        options=_options(parts[10]) if len(parts) > 10 else {},
        attempt=int(parts[6]),
        deliveries=int(parts[5]),
        version=version,
        fencing_token=token,
        checkpoint=low + span,
        processed=int(parts[8]),
        created_at=created / 1e6,
        updated_at=version / 1e6,
        completed_at=version / 1e6,
    )


def _decode_active(partition_id: int, spec: bytes, state: bytes, lease: bytes, score: bytes) -> Partition:
    head = spec.split(b" ", 3)
    low, span, created = read_head(*head[:3])
    options = _options(head[3]) if len(head) > 3 else {}
    if not state:
        return Partition(
            partition_id=partition_id,
            min_id=low,
            max_id=low + span,
            priority=-int(float(score)) if score else 0,
            options=options,
            version=created,
            created_at=created / 1e6,
            updated_at=created / 1e6,
        )
    parts = state.split(b" ", 12)
    status = STATUS_OF_LETTER[parts[0].decode("ascii")]
    version, length = int(parts[2]), int(parts[3])
    return Partition(
        partition_id=partition_id,
        min_id=low,
        max_id=low + span,
        status=status,
        worker_id="" if parts[11] == b"-" else parts[11].decode("utf-8", "replace"),
        priority=int(parts[6]),
        options=options,
        attempt=int(parts[5]),
        deliveries=int(parts[4]),
        version=version,
        fencing_token=int(parts[1]),
        checkpoint=None if parts[7] == b"-" else unbound(parts[7]),
        processed=int(parts[8]),
        error=parts[12].decode("utf-8", "replace") or None,
        retry_at=int(parts[10]) / 1000 if parts[10] != b"0" else None,
        created_at=created / 1e6,
        updated_at=version / 1e6,
        last_heartbeat=(float(lease) - length) / 1000 if lease and status in HELD else None,
    )
