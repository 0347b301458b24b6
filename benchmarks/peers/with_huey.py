"""Huey with threads. https://huey.readthedocs.io/en/latest/consumer.html (options), .../guide.html (results)."""

from __future__ import annotations

import threading

import huey

from benchmarks.peers import tally

NAME = "Huey"
PACKAGES = ("huey",)
SETTINGS = "RedisHuey (blocking pop), results=False, thread workers, no periodic tasks, no health check"
KILLED = (
    "none: a task is popped from its list and no copy is kept, so what ran in a killed process is lost. "
    "Nothing is written when a task ends"
)


def _app(url):
    app = huey.RedisHuey("peers", url=url, results=False)
    return app, app.task(name="job")(tally.job)


def enqueue(url, count, seconds):
    _, job = _app(url)
    for _ in range(count):
        job(seconds)


def work(url, width, defaults):
    app, _ = _app(url)
    more = {"workers": 1} if defaults else {"workers": width, "periodic": False, "check_worker_health": False}
    app.create_consumer(**more).start()
    threading.Event().wait()


def outstanding(client):
    return None
