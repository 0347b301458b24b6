"""What the HASH strategy knows of a partition in all its places at once, for readers and audits."""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

from elk_coordinator.errors import StoreError
from elk_coordinator.model import Partition, PartitionStatus
from elk_coordinator.partition import codec
from elk_coordinator.partition.hash_archive import HashArchive

#: The letters of read.lua that a partition of each status may have.
_INDEXES_OF = {
    PartitionStatus.PENDING: ("p", "s", "d"),
    PartitionStatus.CLAIMED: ("lc",),
    PartitionStatus.RUNNING: ("l",),
    PartitionStatus.COMPLETED: ("",),
    PartitionStatus.FAILED: ("f",),
}


class HashAudit(HashArchive):
    """Records with the indexes that mention them."""

    def read_raw(self, partition_ids: Sequence[int]) -> List[Tuple[int, List[bytes]]]:
        """Return for each id: spec, state, done, lease, score and index letters, as the script answers them."""
        if not partition_ids:
            return []
        args = [codec.pad(partition_id) for partition_id in partition_ids]
        keys = self.store.keys.many("specs state done leases pending suspects delayed failed claimed")
        reply = self.store.run("partition/read", keys, args)
        return [(partition_id, reply[i * 6 : i * 6 + 6]) for i, partition_id in enumerate(partition_ids)]

    def inspect(self, partition_ids: Sequence[int]) -> List[Tuple[int, Optional[Partition], List[str]]]:
        out = []
        first = self.read_raw(partition_ids)
        archived = self.readable(partition_ids)
        twice = {i for i, raw in first if i in archived and (raw[0] or raw[2])}
        # What moved to its chunk between the two looks is only there by now.
        again = dict(self.read_raw(sorted(twice)))
        for partition_id, raw in first:
            raw = again.get(partition_id, raw)
            spec, _, done, _, _, letters = raw
            wrong: List[str] = []
            partition: Optional[Partition] = None
            if spec or done:
                try:
                    partition = codec.decode(partition_id, *raw[:5])
                except StoreError as exc:
                    wrong.append(str(exc))
            indexes = letters.decode("ascii")
            if partition is None and not wrong:
                partition = archived.get(partition_id)
            if (spec and done) or (partition_id in archived and (spec or done)):
                wrong.append("it is in more than one of: active, recently completed, archived")
            elif partition is None and not wrong and (raw[1] or indexes):
                wrong.append("an index or a state mentions it (%s), but it has no record" % (indexes or "state"))
            elif partition is not None and indexes not in _INDEXES_OF[partition.status]:
                wrong.append(
                    "it is %s, but the indexes say %r (l = leased, p = pending, s = suspect, d = delayed, c = claimed, "
                    "f = failed)" % (partition.status.value, indexes)
                )
            if partition is not None or wrong:
                out.append((partition_id, partition, wrong))
        return out
