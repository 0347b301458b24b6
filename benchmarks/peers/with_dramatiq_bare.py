"""Dramatiq without what it does around a message by default. See with_dramatiq.py."""

from __future__ import annotations

from benchmarks.peers import with_dramatiq
from benchmarks.peers.with_dramatiq import KILLED, PACKAGES, enqueue, outstanding

NAME = "Dramatiq bare"
SETTINGS = "as Dramatiq above without any middleware: no retries, no time limits, no age limit"

__all__ = ["KILLED", "NAME", "PACKAGES", "SETTINGS", "enqueue", "outstanding", "work"]


def work(url, width, defaults):
    with_dramatiq.work(url, width, defaults, middleware=[])
