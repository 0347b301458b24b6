"""A process of one contestant: ``python -m benchmarks.peers.process MODULE enqueue|work '{...}'``.

``enqueue`` prints the seconds it took. ``work`` prints "loaded" and waits for a line, so that the start of Python is
not part of what is measured, then works until it is killed, or its parent is gone.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time

from benchmarks.peers import tally


def _end_with_parent():
    """At the end of stdin, kill our session, children too. Not by sys.stdin: a fork would find its lock taken."""
    while os.read(0, 100):
        pass
    os.killpg(0, signal.SIGKILL)


def main():
    contestant = importlib.import_module("benchmarks.peers." + sys.argv[1])
    given = json.loads(sys.argv[3])
    if sys.argv[2] == "enqueue":
        began = time.monotonic()
        contestant.enqueue(given["url"], given["count"], given["seconds"])
        print(time.monotonic() - began, flush=True)
    else:
        tally.begin()
        print("loaded", flush=True)
        os.read(0, 100)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        contestant.work(given["url"], given["width"], given["defaults"])


if __name__ == "__main__":
    main()
