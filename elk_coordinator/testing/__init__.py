"""Helpers for tests of code that uses this library; its own tests use them too. Nothing here is needed at run time.

* :func:`run_inline` - a processor and a planner at work in the calling thread, without a server.
* :class:`ManualClock` - time that passes only when the test says so.
* :func:`wait_until` - instead of a sleep.
* :class:`EmbeddedServer` - a real Redis or Valkey server on a free loopback port, which can be killed, frozen, emptied.
* :class:`Faulty` - any object, failing on the n-th call, before or after the call took effect.
"""

from elk_coordinator.testing.clock import ManualClock, wait_until
from elk_coordinator.testing.faulty import Faulty
from elk_coordinator.testing.inline import InlineError, InlineFailure, InlineResult, run_inline
from elk_coordinator.testing.server import EmbeddedServer

__all__ = [
    "EmbeddedServer",
    "Faulty",
    "InlineError",
    "InlineFailure",
    "InlineResult",
    "ManualClock",
    "run_inline",
    "wait_until",
]
