"""What happens to live coordinators when the interpreter ends or the process forks.

Exit. From Python 3.9 on, the threads of every ThreadPoolExecutor are joined *before* ``atexit`` callbacks run, so a
plain ``atexit`` stop comes too late: a running task blocks the exit for ever. ``threading._register_atexit`` runs in
time (private; a test fails loudly on a Python that lost it). On 3.8 ``atexit`` itself is early enough. Threads that
still run after the grace are taken off the list that the interpreter joins; being daemons, they end with the process.

Fork. A child has none of its parent's threads, and a future given to an inherited executor never completes. Inherited
coordinators are therefore marked: their methods raise ForkedError, and a new one may be built in the child. uWSGI forks
without telling Python; there the pid tells.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import thread as _pool_module
from typing import Any, List, Protocol


class Stoppable(Protocol):
    """What is told about exit and fork."""

    def stop_at_exit(self) -> None:
        """End within some seconds: the interpreter is going away."""

    def after_fork_in_child(self) -> None:
        """Become invalid; touch no lock that another thread of the parent may have held."""


_live: "weakref.WeakSet[Any]" = weakref.WeakSet()
#: In which process each was registered.
_homes: "weakref.WeakKeyDictionary[Any, int]" = weakref.WeakKeyDictionary()
_hooked: List[str] = []


def register(thing: Stoppable) -> None:
    """Have *thing* told of exit and fork for as long as it lives or until :func:`unregister`."""
    _homes[thing] = os.getpid()
    _live.add(thing)
    if not _hooked:
        _hooked.append("done")
        early = getattr(threading, "_register_atexit", None)
        if early is not None:
            early(_at_exit)
        else:
            atexit.register(_at_exit)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_after_fork)


def unregister(thing: Stoppable) -> None:
    """Forget *thing*."""
    _live.discard(thing)


def _at_exit() -> None:
    for thing in list(_live):
        if _homes.get(thing) != os.getpid():
            continue  # inherited by a fork that nobody told us of: the parent's to stop
        try:
            thing.stop_at_exit()
        except Exception:
            # Nothing may keep the interpreter from ending; stop_at_exit has logged what it could.
            continue


def _after_fork() -> None:
    for thing in list(_live):
        thing.after_fork_in_child()
    _live.clear()


def end_stray_child(home: int, logger: logging.Logger) -> None:
    """End this process if it is not *home*: a child that the processor forked and that came back from it.

    It holds the parent's claim and the parent's waiting tasks and would work on both, then wait for more for ever.
    """
    if os.getpid() == home:
        return
    logger.error(
        "process() came back in a child that it forked; the child ends here. Leave a child by os._exit(), or use "
        "multiprocessing or subprocess"
    )
    os._exit(1)


def abandon(pool: ThreadPoolExecutor) -> None:
    """Take the pool's threads off the list that the interpreter joins at exit, so that a hung one cannot hold it."""
    queues = getattr(_pool_module, "_threads_queues", None)
    if queues is not None:
        for thread in list(getattr(pool, "_threads", ())):
            queues.pop(thread, None)
