"""``elk workers``: who is alive, and how each is doing."""

from __future__ import annotations

import argparse
from typing import List, Optional

import attr

from elk_coordinator.admin.telling import seconds, table
from elk_coordinator.cli.common import OK, Command, namespace_of, open_strategy, print_json
from elk_coordinator.model import WorkerInfo

HEADINGS = ["WORKER", "STATE", "RUNNING", "WAITING", "HUNG", "BREAKER", "HOST", "PID", "VERSION", "HTTP", "ALIVE FOR"]


def configure(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def run(args: argparse.Namespace) -> int:
    """Print one line per worker."""
    with open_strategy(args) as strategy:
        workers = sorted(strategy.workers(), key=lambda worker: worker.worker_id)
        leader = strategy.leader()
    name = None if leader is None else leader[0]
    if args.json:
        listed = [attr.asdict(worker) for worker in workers]
        print_json({"namespace": namespace_of(args), "leader": name, "workers": listed})
        return OK
    if not workers:
        print("%s has no live workers" % namespace_of(args))
        return OK
    for line in table([HEADINGS] + [row(worker, name) for worker in workers], indent=""):
        print(line)
    print("%sload as of each worker's last heartbeat" % ("* leads; " if name is not None else ""))
    return OK


def row(worker: WorkerInfo, leader: Optional[str]) -> List[str]:
    """Return what one worker says of itself, in the order of HEADINGS."""
    info = worker.info
    cells = [
        worker.worker_id + (" *" if worker.worker_id == leader else ""),
        info.get("state"),
        "%s of %s" % (info.get("in_flight", "?"), info["window"]) if info.get("window") is not None else None,
        info.get("prefetched"),
        info.get("hung"),
        info.get("breaker") or "off",
        info.get("host"),
        info.get("pid"),
        info.get("version"),
        info.get("http"),
        seconds(max(0.0, worker.remaining)),
    ]
    return ["-" if cell is None else str(cell) for cell in cells]


COMMAND = Command(
    name="workers",
    help="list the live workers: load, circuit breaker, host, where their metrics are",
    configure=configure,
    run=run,
)
