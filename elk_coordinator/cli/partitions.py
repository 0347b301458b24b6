"""``elk partitions``: list partitions, or show some of them whole."""

from __future__ import annotations

import argparse
from typing import Any, Dict, List, Optional

from elk_coordinator.admin.api import summary
from elk_coordinator.admin.telling import seconds, table
from elk_coordinator.cli.common import OK, Command, UsageError, namespace_of, open_strategy, print_json
from elk_coordinator.model import Partition, PartitionFilter, PartitionStatus

DEFAULT_LIMIT = 50
HEADINGS = ["ID", "RANGE", "STATUS", "WORKER", "ATTEMPT", "LOST", "DONE", "CHANGED", "ERROR"]
STATUSES = tuple(status.value for status in PartitionStatus)
#: Options that choose; they have no meaning beside ids.
_CHOICES = ("status", "worker", "min", "max", "after", "limit", "archived", "stale")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the filters."""
    parser.add_argument("ids", metavar="ID", type=int, nargs="*", help="show these whole, with the text of their error")
    parser.add_argument(
        "--status",
        metavar="STATUS",
        action="append",
        help="%s; may be repeated, or name several with commas" % ", ".join(STATUSES),
    )
    parser.add_argument("--worker", metavar="WORKER", help="held, or last held, by this worker")
    parser.add_argument("--min", metavar="ID", type=int, help="the smallest partition id")
    parser.add_argument("--max", metavar="ID", type=int, help="the largest partition id")
    parser.add_argument("--after", metavar="ID", type=int, help="only ids above this one: the next page")
    parser.add_argument("--limit", metavar="N", type=int, help="at most so many, default %d" % DEFAULT_LIMIT)
    parser.add_argument("--archived", action="store_true", default=None, help="completed ones too")
    parser.add_argument("--stale", metavar="SECONDS", type=float, help="held, and not renewed for so long")


def filter_of(args: argparse.Namespace) -> PartitionFilter:
    """Return the filter that the command line asks for.

    :raises UsageError: for a status that there is none of. :raises ConfigError: for a number out of bounds.
    """
    statuses = []
    for word in ",".join(args.status or ()).split(","):
        word = word.strip().lower()
        if word and word not in STATUSES:
            raise UsageError("--status %s: known are %s" % (word, ", ".join(STATUSES)))
        if word:
            statuses.append(PartitionStatus(word))
    return PartitionFilter(
        statuses=statuses,
        worker_id=args.worker,
        stale_for=args.stale,
        min_partition_id=args.min,
        max_partition_id=args.max,
        include_archived=bool(args.archived),
        after=args.after,
        limit=DEFAULT_LIMIT if args.limit is None else args.limit,
    )


def run(args: argparse.Namespace) -> int:
    """List, or show."""
    wanted = filter_of(args)
    chosen = [name for name in _CHOICES if getattr(args, name) is not None]
    if args.ids and chosen:
        raise UsageError("--%s chooses among all partitions; leave it out, or the ids" % chosen[0])
    with open_strategy(args) as strategy:
        if args.ids:
            found = [strategy.get_partition(partition_id) for partition_id in args.ids]
        else:
            found = strategy.get_filtered_partitions(wanted)
        now = strategy.store.now() if found else 0.0
    more: Optional[int] = None
    if not args.ids and len(found) == wanted.limit:
        more = found[-1].partition_id
    if args.json:
        listed = [partition.to_dict() for partition in found]
        print_json({"namespace": namespace_of(args), "partitions": listed, "next_after": more})
    elif args.ids:
        print("\n\n".join("\n".join(details(partition, now)) for partition in found))
    elif not found:
        print("no partition of %s matches" % namespace_of(args))
    else:
        for line in table([HEADINGS] + [row(partition, now) for partition in found], indent=""):
            print(line)
        if more is not None:
            print("there may be more: --after %d" % more)
    return OK


def row(partition: Partition, now: float) -> List[str]:
    """Return one partition in the order of HEADINGS."""
    due = partition.retry_at
    later = " in %s" % seconds(due - now) if due is not None and due > now else ""
    return [
        str(partition.partition_id),
        "[%d, %d]" % (partition.min_id, partition.max_id),
        partition.status.value + later,
        partition.worker_id or "-",
        str(partition.attempt),
        str(partition.deliveries),
        str(partition.processed),
        "%s ago" % seconds(max(0.0, now - partition.updated_at)),
        summary(partition.error)[:80] if partition.error else "",
    ]


def details(partition: Partition, now: float) -> List[str]:
    """Return everything known of one partition, a line each."""
    facts: Dict[str, Any] = partition.to_dict()
    error = facts.pop("error")
    lines = []
    for name, value in facts.items():
        if name.endswith("_at") or name == "last_heartbeat":
            lines.append((name, "-" if value is None else _instant(value, now)))
        else:
            lines.append((name, "-" if value in (None, "") else str(value)))
    out = table([[name, value] for name, value in lines], indent="")
    if error:
        out += ["error"] + ["  " + line for line in error.splitlines()]
    return out


def _instant(at: float, now: float) -> str:
    how = "%s ago" % seconds(now - at) if at <= now else "in %s" % seconds(at - now)
    return "%.3f (%s)" % (at, how)


COMMAND = Command(
    name="partitions",
    help="list partitions by status, worker or id, or show some of them whole",
    configure=configure,
    run=run,
    epilog="Completed partitions are listed with --status completed or --archived, and are always found by their id.",
)
