"""Scrape the workers of a namespace once and print the series that matter. Uses nothing but the standard library.

python examples/monitoring/scrape.py 127.0.0.1:9464 127.0.0.1:9465
"""

from __future__ import annotations

import re
import sys
import urllib.request

PREFIX = "elk_coordinator_"
#: What to look at first, and why.
SERIES = {
    "is_leader": "exactly one worker says 1",
    "workers": "by the leader: is somebody missing?",
    "partitions_total": "by the leader: how much was planned",
    "backlog_items": "by the leader: how many IDs are left",
    "node_tasks_processed_total": "rises while work is done",
    "node_tasks_errors_total": "failing attempts; which kind?",
    "node_tasks_active_processing": "of node_task_window_size: is the window full?",
    "node_circuit_breaker_state": "0 closed, 1 half-open, 2 open: the worker claims nothing",
    "lease_lost_total": "should stay 0: a worker was too slow or cut off",
    "writes_refused_total": "should stay 0: somebody worked on after its lease",
    "store_up": "0: this worker cannot reach the store",
}
LINE = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)(?P<labels>\{.*\})? (?P<value>\S+)")


def scrape(target):
    """Return {name without prefix: {labels: value}} of one worker."""
    with urllib.request.urlopen("http://%s/metrics" % target, timeout=5) as answer:
        text = answer.read().decode()
    found = {}
    for line in text.splitlines():
        match = LINE.match(line)
        if match and match.group("name").startswith(PREFIX):
            name = match.group("name")[len(PREFIX) :]
            found.setdefault(name, {})[match.group("labels") or ""] = float(match.group("value"))
    return found


def show(targets):
    """Print one line per series: the sum over its labels for each worker."""
    samples = [scrape(target) for target in targets]
    print("%-32s %s" % ("", "  ".join("%15s" % target for target in targets)))
    for name, why in SERIES.items():
        cells = ["%15g" % sum(sample[name].values()) if name in sample else "%15s" % "-" for sample in samples]
        print("%-32s %s   %s" % (name, "  ".join(cells), why))
    return samples


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    show(sys.argv[1:])
