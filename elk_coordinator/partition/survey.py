"""A look at what is open, for monitoring: what a strategy reads in one step, and what can be said from it."""

from __future__ import annotations

from typing import Dict, Iterable, List, Optional, Sequence, Tuple

import attr

from elk_coordinator.model import Partition, PartitionStatus, Range
from elk_coordinator.partition import codec

#: The most active partitions of which every range is read; of more, so many are sampled.
MOST = 2000
SAMPLE = 500
#: Values of the label ``priority``; the rest is "other".
PRIORITIES = 10
DELAYED, OTHER = "delayed", "other"


@attr.s(auto_attribs=True, frozen=True, slots=True)
class OpenWork:
    """What is open in a namespace, as one step read it; instants by the store's clock."""

    now: float
    #: priority -> pending partitions that may be claimed now.
    priorities: Dict[int, int]
    #: Pending partitions that wait for their next attempt.
    delayed: int
    #: When the oldest pending partition was created.
    oldest: Optional[float]
    #: Ranges of active partitions, and which of those rest as failed; all there are if :attr:`complete`, else a sample.
    open_ranges: Sequence[Range]
    failed_ranges: Sequence[Range]
    complete: bool
    archived: int
    archive_bytes: int
    commands: int

    def pending(self, total: int) -> Dict[str, int]:
        """Return the values of ``partitions_pending`` by label; their sum is *total*, or what was read if more."""
        shown = sorted(self.priorities, reverse=True)
        if len(shown) > PRIORITIES:
            shown = shown[: PRIORITIES - 1] + shown[-1:]
        out = {str(priority): self.priorities[priority] for priority in shown}
        out[DELAYED] = self.delayed
        rest = total - sum(out.values())
        if rest > 0:
            out[OTHER] = rest
        return out

    def backlog(self, open_: int) -> Optional[int]:
        """Return how many IDs lie in the *open_* partitions that are neither completed nor failed."""
        found = sum(high - low + 1 for low, high in self.open_ranges)
        if self.complete:
            return found
        return round(found / len(self.open_ranges) * open_) if self.open_ranges else None

    def watermark(self, last_planned: Optional[int]) -> Optional[int]:
        """Return the largest ID up to which all that is planned is completed; None when not every range was read."""
        if not self.complete or last_planned is None:
            return None
        lows = [low for low, _ in [*self.open_ranges, *self.failed_ranges]]
        return min(lows) - 1 if lows else last_planned


def of_partitions(
    now: float, partitions: Iterable[Partition], archived: int, archive_bytes: int, commands: int
) -> OpenWork:
    """Return what there is to say of all active *partitions*."""
    priorities: Dict[int, int] = {}
    delayed, created = 0, []
    ranges: Dict[bool, List[Range]] = {True: [], False: []}
    for p in partitions:
        if p.status is PartitionStatus.COMPLETED:
            continue
        ranges[p.status is PartitionStatus.FAILED].append((p.min_id, p.max_id))
        if p.status is PartitionStatus.PENDING:
            created.append(p.created_at)
            if p.retry_at is not None:
                delayed += 1
            else:
                priorities[p.priority] = priorities.get(p.priority, 0) + 1
    oldest = min(created) if created else None
    return OpenWork(
        now, priorities, delayed, oldest, ranges[False], ranges[True], True, archived, archive_bytes, commands
    )


def _spec(text: bytes) -> Tuple[int, int, int]:
    low, span, created = codec.read_head(*text.split(b" ")[:3])
    return low, low + span, created


def of_reply(reply: Sequence[object]) -> OpenWork:
    """Decode what survey.lua answered; records that cannot be read are left out, 'elk verify' names them."""
    now, archived, commands, chunks, size, looked, _, delayed, complete, groups, oldest, ranges = reply
    priorities: Dict[int, int] = {}
    flat = list(groups)  # type: ignore[call-overload]
    for score, count in zip(flat[::2], flat[1::2]):
        priority = -int(float(score))
        priorities[priority] = priorities.get(priority, 0) + int(count)
    created = [_spec(text)[2] / 1e6 for text in oldest if text]  # type: ignore[attr-defined]
    known = [text for text in ranges if not text.startswith(b" ") and text]  # type: ignore[attr-defined]
    return OpenWork(
        int(now) / 1e6,  # type: ignore[call-overload]
        priorities,
        int(delayed),  # type: ignore[call-overload]
        min(created) if created else None,
        [_spec(text)[:2] for text in known if not text.endswith(b"F")],
        [_spec(text)[:2] for text in known if text.endswith(b"F")],
        bool(complete),
        int(archived),  # type: ignore[call-overload]
        round(size / looked * chunks) if looked else 0,  # type: ignore[operator]
        int(commands),  # type: ignore[call-overload]
    )
