"""Notifications without Alertmanager: the leader looks, judges and tells, each notifier in a thread of its own.

Nothing here asks the store, and nobody waits for it: the look is at what recovery read anyway, a notifier that fails or
hangs costs its own queue only.
"""

from __future__ import annotations

import collections
import logging
from typing import Any, Callable, Deque, List, Optional, Tuple

import attr

from elk_coordinator.errors import ConfigError
from elk_coordinator.observability.conditions import Judge, Look, NotificationRules
from elk_coordinator.observability.notifiers import DeliveryError, Notification, Partly
from elk_coordinator.protocols import CoordinatorView, Event
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.runtime.threads import Role

#: Seconds between two looks; the counts looked at are read every five.
INTERVAL = 2.0
#: Notifications that may wait for one notifier; more are dropped.
MAX_WAITING = 100
#: Attempts of one notification, and the first and longest pause between them.
ATTEMPTS = 4
PAUSES = (5.0, 60.0)
MAX_NOTIFIERS = 8
#: Role names of the notifiers of one coordinator.
SENDERS: Tuple[str, ...] = tuple("notify-%d" % number for number in range(1, MAX_NOTIFIERS + 1))

#: Told an outcome ("sent", "failed", "dropped") and how many.
Count = Callable[[str, int], None]


def name_of(notifier: Any) -> str:
    """Return how a notifier is called in logs; never its ``repr``, which may hold a secret."""
    name = getattr(notifier, "name", None)
    return name if isinstance(name, str) else type(notifier).__name__


@attr.s(frozen=True, init=False, eq=False, repr=False)
class Notify:
    """Put one into ``listeners`` of a coordinator, and its leader tells people.

    ::

        Notify(WebhookNotifier(url, "slack"), rules=NotificationRules(stalled_after=600.0))

    Only the leader tells, so the same may be given to every worker, and to several coordinators.

    :param notifiers: objects with ``send(notification)``, at most eight; each gets a thread.
    :param rules: when to tell, see :class:`~elk_coordinator.observability.conditions.NotificationRules`.
    :raises ConfigError: for a bad value.
    """

    notifiers: Tuple[Any, ...] = attr.ib()
    rules: NotificationRules = attr.ib()

    def __init__(self, *notifiers: Any, rules: Optional[NotificationRules] = None) -> None:
        if not 1 <= len(notifiers) <= MAX_NOTIFIERS:
            raise ConfigError("Notify: needs 1 to %d notifiers, not %d" % (MAX_NOTIFIERS, len(notifiers)))
        for notifier in notifiers:
            if isinstance(notifier, type) or not callable(getattr(notifier, "send", None)):
                raise ConfigError(
                    "Notify: a notifier must be an object with send(notification); %s is none" % type(notifier).__name__
                )
        if rules is not None and not isinstance(rules, NotificationRules):
            raise ConfigError("Notify: rules must be NotificationRules(...), not a %s" % type(rules).__name__)
        object.__setattr__(self, "notifiers", notifiers)
        object.__setattr__(self, "rules", NotificationRules() if rules is None else rules)

    def __repr__(self) -> str:
        return "Notify(%s)" % ", ".join(name_of(notifier) for notifier in self.notifiers)


class Sender(Role):
    """Hands notifications to one notifier, one after the other.

    A failed one is tried again, ATTEMPTS times in all; then, or when too many wait, it is given up and counted. What is
    wrong is logged once, until a delivery succeeds again.
    """

    def __init__(self, name: str, notifier: Any, clock: Clock, logger: logging.Logger, count: Count) -> None:
        super().__init__()
        self.name = name
        self._notifier = notifier
        self._clock = clock
        self._logger = logger
        self._count = count
        self._waiting: Deque[Notification] = collections.deque()
        self._attempts = 0
        self._not_before = 0.0
        #: Failures since the last success, and whether the queue was told to be full since then.
        self.streak = 0
        self._full = False
        #: A delivery in part was logged since the last whole one.
        self._partly = False

    def put(self, notification: Notification) -> None:
        """Have it sent; never waits."""
        if len(self._waiting) >= MAX_WAITING:
            self._count("dropped", 1)
            if not self._full:
                self._full = True
                self._logger.warning(
                    "notifications: %s is too slow, %d wait; new ones are dropped", name_of(self._notifier), MAX_WAITING
                )
            return
        self._waiting.append(notification)
        self.wake.set()

    def run_once(self) -> float:
        """Try the oldest once, if it is time; return the seconds until the next turn makes sense."""
        if not self._waiting:
            return 60.0
        left = self._not_before - self._clock.monotonic()
        if left > 0:
            return left
        if self._send(self._waiting[0]):
            self._waiting.popleft()
            self._attempts = 0
            return 0.0
        self._attempts += 1
        first, longest = PAUSES
        pause = min(longest, first * float(3 ** (self._attempts - 1)))
        if self._attempts >= ATTEMPTS:
            self._waiting.popleft()
            self._attempts = 0
            self._count("failed", 1)
        self._not_before = self._clock.monotonic() + pause
        return pause

    def pause(self, did: float) -> float:
        return did

    def finish(self) -> None:
        # One try each for what is left: the last word of a short run. Not against a wall.
        while self._waiting and not self.streak:
            if self._send(self._waiting[0]):
                self._waiting.popleft()
        if self._waiting:
            self._count("dropped", len(self._waiting))
            self._logger.warning(
                "notifications: %d for %s are dropped at the end", len(self._waiting), name_of(self._notifier)
            )
            self._waiting.clear()

    def _send(self, notification: Notification) -> bool:
        name = name_of(self._notifier)
        try:
            self._notifier.send(notification)
        except Partly as exc:
            if not self._partly:
                self._logger.warning("notifications: %s failed in part, is not tried again: %s", name, exc)
            self.streak, self._full, self._partly = 0, False, True
            self._count("failed", 1)
            return True
        except BaseException as exc:
            # SystemExit and friends too: a notifier ends no thread of ours. The text of a foreign error may hold a
            # secret, its class does not.
            self.streak += 1
            if self.streak == 1:
                what = str(exc) if isinstance(exc, DeliveryError) else type(exc).__name__
                self._logger.warning("notifications: %s failed, is tried again: %s", name, what)
            return False
        if self.streak:
            self._logger.info("notifications: %s works again after %d failures", name, self.streak)
        self.streak, self._full, self._partly = 0, False, False
        self._count("sent", 1)
        return True


class Watch(Role):
    """Looks every INTERVAL seconds and gives what is to be told to the senders. Never waits for anything.

    Also one of the engine's own listeners: ``on_...`` only take note.
    """

    name = "notify"

    def __init__(self, view: CoordinatorView, clock: Clock, watches: List[Tuple[Judge, List[Sender]]]) -> None:
        super().__init__()
        self._view = view
        self._clock = clock
        self._watches = watches
        #: What happened since the last look: the time of a planner's error, or a range.
        self._noted: Deque[Tuple[str, Any]] = collections.deque(maxlen=1000)

    def on_planner_error(self, event: Event) -> None:
        self._noted.append(("planner_error", (self._clock.monotonic(),)))

    def on_gap_found(self, event: Event) -> None:
        if event.facts.get("action") == "planned":
            self._noted.append(("gap_found", (event.facts["min_id"], event.facts["max_id"])))

    def look(self) -> Optional[Look]:
        """Return what the leader sees; None when this worker does not lead or has not looked yet."""
        stats, survey = self._view.cached_stats(), self._view.cached_survey()
        health = self._view.health()
        if stats is None or survey is None or health.term is None:
            return None
        return Look(health.term, health.paused, stats, survey)

    def run_once(self) -> int:
        """Look once; return how many notifications there were."""
        look, now, at = self.look(), self._clock.monotonic(), self._clock.time()
        noted = []
        while self._noted:
            noted.append(self._noted.popleft())
        told = 0
        for judge, senders in self._watches:
            for what, args in noted:
                getattr(judge, what)(*args)
            for notification in judge.judge(look, now, at):
                told += 1
                for sender in senders:
                    sender.put(notification)
        return told

    def pause(self, did: int) -> float:
        return INTERVAL


def build_roles(
    listeners: Tuple[Any, ...],
    view: CoordinatorView,
    namespace: str,
    worker_id: str,
    clock: Clock,
    logger: logging.Logger,
    count: Count,
) -> Tuple[Optional[Watch], List[Sender]]:
    """Return the roles for every :class:`Notify` among *listeners*; (None, []) when there is none.

    :raises ConfigError: together they have too many notifiers.
    """
    given = [listener for listener in listeners if isinstance(listener, Notify)]
    senders: List[Sender] = []
    watches = []
    for notify in given:
        own = []
        for notifier in notify.notifiers:
            if len(senders) == MAX_NOTIFIERS:
                raise ConfigError("listeners: at most %d notifiers in all" % MAX_NOTIFIERS)
            own.append(Sender(SENDERS[len(senders)], notifier, clock, logger, count))
            senders.append(own[-1])
        watches.append((Judge(notify.rules, namespace, worker_id), own))
    return (Watch(view, clock, watches), senders) if watches else (None, [])
