"""Celery with a child process for each job at once: its default pool. See with_celery.py."""

from __future__ import annotations

from benchmarks.peers import with_celery
from benchmarks.peers.with_celery import KILLED, PACKAGES, enqueue, outstanding

NAME = "Celery prefork"
SETTINGS = "as Celery above, with the default pool: each process is a parent with one child that works"

__all__ = ["KILLED", "NAME", "PACKAGES", "SETTINGS", "enqueue", "outstanding", "work"]


def work(url, width, defaults):
    with_celery.work(url, width, defaults, pool="prefork")
