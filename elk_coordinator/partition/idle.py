"""Waiting until a namespace has nothing left to do."""

from __future__ import annotations

import logging
import threading
from typing import Callable, Optional

from elk_coordinator.errors import StoreUnavailable
from elk_coordinator.partition.strategy import PartitionStrategy
from elk_coordinator.runtime.clock import Clock


def wait_until_idle(
    strategy: PartitionStrategy,
    timeout: Optional[float],
    plans: bool,
    stopped: threading.Event,
    clock: Clock,
    logger: logging.Logger,
    queued: Callable[[], int],
) -> bool:
    """Wait until nothing is open and a full round of the leader, begun after this call, found nothing new.

    :param plans: whether this worker could lead; if not, and nobody leads, there is nobody to ask.
    :param queued: how many operator commands wait: those queued before this call (a retry) are carried out first.
    :return: False when *timeout* seconds passed or *stopped* was set.
    """
    until = None if timeout is None else clock.monotonic() + timeout
    asked_at: Optional[float] = None
    commanded = False
    pause = 0.02
    while not stopped.is_set():
        try:
            if asked_at is None:
                asked_at = strategy.idle_state().now
                strategy.ask_for_round()
            # Asked before the counts, so that these show what the commands did.
            commanded = commanded or queued() == 0
            idle = strategy.idle_state()
            if idle.now < asked_at:
                # The store's clock was set back: no round will begin after that moment for as long as it was set back.
                asked_at = idle.now
                strategy.ask_for_round()
            # A round later than now began before the clock was set back: it answers nobody.
            answered = asked_at < idle.exhausted_at <= idle.now
            if commanded and idle.open == 0 and idle.exhausted and answered:
                return True
            if idle.open == 0 and (answered or pause >= 1.0):
                # The answer is about an older plan, or the leader that was asked is gone: ask again.
                if not plans and strategy.leader() is None:
                    return True
                strategy.ask_for_round()
        except StoreUnavailable as exc:
            logger.debug("waiting for idle: %s", exc)
        left = pause if until is None else min(pause, until - clock.monotonic())
        if left <= 0:
            return False
        clock.wait(stopped, left)
        pause = min(pause * 1.5, 1.0)
    return False
