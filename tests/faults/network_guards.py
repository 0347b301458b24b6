"""Guards against network faults, each switched off by a function: the controls of tests/faults/test_network*.py."""

from __future__ import annotations

import os
import socket
from typing import Any, Callable, Dict, List

import redis.exceptions
from tenacity.wait import wait_none

from elk_coordinator.errors import StoreUnavailable
from elk_coordinator.runtime import retry, threads
from elk_coordinator.store import connect, redis_store
from elk_coordinator.worker import claimer, context
from tests.faults.journal import Journal


def _no_timeout() -> None:
    """Wait for a reply as long as it takes."""
    original = connect._settings

    def settings(*args: Any) -> Dict[str, Any]:
        return dict(original(*args), socket_timeout=None, socket_connect_timeout=None)

    connect._settings = settings


def _no_retry() -> None:
    """A call that was not answered is given up."""

    def give_up(call: Callable[[], Any], interrupt: Any, budget: float) -> Any:
        raise StoreUnavailable("given up after the first try")

    redis_store.retry_store_call = give_up


def _no_back_off() -> None:
    """Try again at once, always."""
    retry.wait_random_exponential = lambda **_: wait_none()  # type: ignore[assignment, misc]
    threads.backoff_delay = lambda *_: 0.0


def _trust_from_the_answer() -> None:
    """Count a lease from when its grant arrived."""
    original = claimer.Claimer._take

    def take(self: Any, request: Any, turn: Any, first_sent: float) -> None:
        original(self, request, turn, self._clock.monotonic())

    claimer.Claimer._take = take  # type: ignore[method-assign]


def _no_polling() -> None:
    """Look for work when a hint says so, and only then."""
    claimer.IDLE_POLL = 1e6


def _no_source() -> None:
    """Believe that the server knows the scripts it was once given."""
    original = redis_store._Link.call

    def call(self: Any, script: Any, keys: List[str], args: List[Any]) -> Any:
        if not getattr(self, "loaded", None):
            self.loaded = set()
        if script.sha not in self.loaded:
            answer = original(self, script, keys, args)
            self.loaded.add(script.sha)
            return answer
        try:
            return self.client().execute_command("EVALSHA", script.sha, len(keys), *keys, *args)
        except redis.exceptions.RedisError as exc:
            raise redis_store.translate(exc) from exc

    redis_store._Link.call = call  # type: ignore[method-assign, assignment]


def _linger() -> None:
    """No guard but a fault: whoever has saved all of its partition stays there until it is cancelled."""
    original = context.TaskContext.checkpoint

    def checkpoint(self: Any, last_done_id: int, processed: int = 0) -> bool:
        durable = original(self, last_done_id, processed)
        if durable and last_done_id == self.partition.max_id:
            self._task.wait(None)
        return durable

    context.TaskContext.checkpoint = checkpoint  # type: ignore[method-assign]


def _no_effects() -> None:
    """Say what is done without doing it."""
    Journal.apply = lambda *_, **__: None  # type: ignore[method-assign]


#: What _names() resolves, to this machine, while there is no file of the other name where the worker runs.
NAME, NO_SUCH_NAME = "store.elk.test", "no-such-name"


def _names() -> None:
    """No guard but a fault: a name that is resolved until a file says otherwise."""
    original = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host != NAME:
            return original(host, *args, **kwargs)
        if os.path.exists(NO_SUCH_NAME):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return original("127.0.0.1", *args, **kwargs)

    socket.getaddrinfo = getaddrinfo


GUARDS: Dict[str, Callable[[], None]] = {
    "timeout": _no_timeout,
    "retry": _no_retry,
    "back off": _no_back_off,
    "trust": _trust_from_the_answer,
    "polling": _no_polling,
    "source": _no_source,
    "names": _names,
    "linger": _linger,
    "effects": _no_effects,
}
