"""Every Redis key of a namespace, in one place.

All keys share the hash tag ``{<namespace>}``: one slot in a Redis Cluster, so scripts may touch them together.
None ever gets a TTL: work must not disappear because nobody looked at it.

=================  ======  ===================================================================  ======================
key                type    content                                                              written by
=================  ======  ===================================================================  ======================
meta               hash    last (the last stamp), schema, strategy, planned_version, max_id,    every script
                           archived (partitions in chunks), pruned (partitions whose details were dropped),
                           hungry (workers ran low), low_water, paused, config_version, lost (stamp of the last
                           known loss of data), asked, exhausted_at (when that round began), exhausted_version,
                           planned_by (the request that made planned_version)
lock:<name>        hash    owner, token, deadline (ms), ttl (ms), request (the name of the      lock_*
                           one that took it); ``leader`` is the leader's
value:<name>       hash    version, data; ``gaps`` is what the leader did about gaps            value_cas
                           (JSON, the newest 500)
workers            zset    worker -> deadline (ms)                                              heartbeat, beat
worker_info        hash    worker -> JSON about it                                              heartbeat, beat
streams            hash    <nonce>:<stream> -> last sequence number and answer; goes with       work, heartbeat
                           the worker, an hour after its last beat
specs              hash    id -> "min span created [options]", the numbers hexadecimal: the     plan, update
                           immutable part (but for options); goes to ``done`` when completed
state              hash    id -> the mutable part (state.lua), only if not plainly pending      work, sweep, ...
pending            zset    id -> -priority: claimable now                                       plan, work, sweep
suspects           zset    the same, for partitions lost twice or more: claimed singly          work, sweep
delayed            zset    id -> due (ms): pending, waits for its next attempt                  work
leases             zset    id -> deadline (ms): claimed or running                              work, heartbeat, sweep
claimed            set     ids among the leases that have not started                           work, sweep
failed             zset    ids that rest as failed (all scores 0)                               work, sweep
done               hash    id -> "min span created token version deliveries attempt priority    work
                           processed worker [options]": completed; goes to ``archive`` when
                           older than ten minutes
archive            hash    id // 2000, 14 digits -> chunk of completed partitions in            archive_swap, delete
                           compressed columns (partition/archive_codec.py)
archive_index      hash    the same field -> "mark count oldest newest first last": the mark    archive_swap, delete
                           names the request that wrote the chunk, then its size, versions, ids
pruned             zset    like skipped: ranges of completed partitions whose details were      archive_swap
                           dropped (``archive_keep``); a part of planned
planned            zset    merged intervals "hi:lo", 20 digits of id + 2^63 each (scores 0)     plan
skipped            zset    the same, for IDs known to hold no data; a part of planned           plan
cancels            hash    id -> "C who" or "R who": an operator wants a held partition back    command
commands           hash    command id -> "stamp JSON": stamp of its submission, kind, arguments,   submit
                           by whom; most of a long list goes at its end, the rest a day after
command_state      hash    command id -> how far it is (progress.lua); goes with it             submit, command, ...
command_queue      zset    command id -> stamp of its submission, while it has not ended        submit, command, ...
command_ended      zset    command id -> stamp of its submission, once it has ended             command, ...
events             stream  batch, entry (JSON of one event: kind, worker, time, facts); the     log_append
                           newest 10,000, about; nothing depends on it
corrupt            set     ids whose record could not be read: set aside, named by verify       work, sweep
=================  ======  ===================================================================  ======================

Members and fields for partition ids are 14 hexadecimal digits (``printf %014x 1000``): text order is number order.
"""

from __future__ import annotations

from typing import Dict, List, Mapping, Optional

#: name in the table above -> its type; locks and values have names of their own behind a colon.
KEY_TYPES: Mapping[str, str] = {
    **dict.fromkeys(
        ("meta worker_info streams specs state done archive archive_index cancels commands command_state").split(),
        "hash",
    ),
    **dict.fromkeys(
        "workers pending suspects delayed leases failed pruned planned skipped command_queue command_ended".split(),
        "zset",
    ),
    **dict.fromkeys(("claimed", "corrupt"), "set"),
    "events": "stream",
}


def type_of(name: str) -> Optional[str]:
    """Return the type that the key called *name* must have; None when no key of ours is called so."""
    return "hash" if name.startswith(("lock:", "value:")) else KEY_TYPES.get(name)


class KeySpace:
    """Builds the keys of one namespace."""

    #: Schema of the data; a worker refuses a newer one, and one older than the one before.
    SCHEMA = 1

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._prefix = "elk:{%s}:" % namespace
        self._known: Dict[str, str] = {}
        #: Pub/sub channel for wake-up hints; nothing depends on a message arriving.
        self.channel = self._prefix + "wake"

    def __getitem__(self, name: str) -> str:
        """Return the key called *name* in the table above."""
        key = self._known.get(name)
        if key is None:
            key = self._known[name] = self._prefix + name
        return key

    def many(self, names: str) -> List[str]:
        """Return several keys, named in one text parted by spaces."""
        return [self[name] for name in names.split()]

    @property
    def pattern(self) -> str:
        """Glob for every key of the namespace (for ``elk purge`` and ACL rules)."""
        return self._prefix + "*"
