"""How often and how patiently something is tried again. Every wait here ends at once when an event is set."""

from __future__ import annotations

import random
import threading
from typing import Callable, TypeVar

from tenacity import Retrying
from tenacity.nap import sleep_using_event
from tenacity.retry import retry_if_exception_type
from tenacity.stop import stop_after_delay, stop_any, stop_when_event_set
from tenacity.wait import wait_random_exponential

from elk_coordinator.errors import StoreUnavailable

T = TypeVar("T")


def retry_store_call(call: Callable[[], T], interrupt: threading.Event, budget: float) -> T:
    """Run *call* again while it raises StoreUnavailable, for at most *budget* seconds or until *interrupt* is set.

    To be used after a first failure: wrapping every call would cost more than many calls take.

    :raises StoreUnavailable: the last one, unchanged.
    """
    # The event must not be set for the wait to be a wait; a set one ends the retrying after the first try.
    policy = Retrying(
        retry=retry_if_exception_type(StoreUnavailable),
        wait=wait_random_exponential(multiplier=0.02, max=0.5),
        stop=stop_any(stop_when_event_set(interrupt), stop_after_delay(max(0.0, budget))),
        sleep=sleep_using_event(interrupt),
        reraise=True,
    )
    return policy(call)


def backoff_delay(failures: int, first: float, longest: float) -> float:
    """Return the seconds to wait after so many failures in a row: exponential, with up to 20 % taken off at random.

    The jitter keeps many workers that failed together from coming back together.
    """
    exponent = min(max(failures, 1) - 1, 60)
    return min(longest, first * 2.0**exponent) * random.uniform(0.8, 1.0)
