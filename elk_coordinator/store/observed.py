"""Tells how long the round trips of a store take, and which fail; at one place, for every script."""

from __future__ import annotations

from typing import Any, Callable, Optional

from elk_coordinator.errors import StoreError
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.store.base import Observer


def observed(tell: Optional[Observer], clock: Clock, op: str, call: Callable[[], Any]) -> Callable[[], Any]:
    """Return *call*, of which *tell* hears each time it is made; *call* itself while nobody wants to hear."""
    if tell is None:
        return call

    def told() -> Any:
        began = clock.monotonic()
        try:
            answer = call()
        except StoreError as exc:
            tell(op, clock.monotonic() - began, exc)
            raise
        tell(op, clock.monotonic() - began, None)
        return answer

    return told
