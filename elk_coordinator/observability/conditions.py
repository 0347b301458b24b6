"""When people should be told: a few rules over what the leader sees anyway. No threads, no clock, no store here."""

from __future__ import annotations

import collections
from typing import Any, Deque, Dict, List, Mapping, Optional, Tuple

import attr

from elk_coordinator.errors import ConfigError
from elk_coordinator.model import PartitionStats, Survey
from elk_coordinator.observability.notifiers import EVENT, FIRING, RESOLVED, Notification

CRITICAL, WARNING, INFO = "critical", "warning", "info"
#: Seconds for which errors of the planner are remembered.
PLANNER_WINDOW = 300.0
#: Names in one message.
MAX_NAMES = 5


def _check(_: Any, attribute: "attr.Attribute[Any]", value: Any) -> None:
    least, optional = attribute.metadata["least"], attribute.metadata["optional"]
    if value is None and optional:
        return
    whole = attribute.metadata["whole"]
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not least <= value < 1e12:
        raise ConfigError(
            "notification rules: %s must be %s from %g on%s, not %r"
            % (attribute.name, "a whole number" if whole else "seconds", least, " or None" if optional else "", value)
        )


def _field(default: Any, least: float = 0, optional: bool = True, whole: bool = False) -> Any:
    return attr.ib(default=default, validator=_check, metadata={"least": least, "optional": optional, "whole": whole})


@attr.s(auto_attribs=True, frozen=True, kw_only=True)
class NotificationRules:
    """What is told, and how often. Durations are seconds; None switches a rule off.

    :raises ConfigError: for a bad value.
    """

    #: Partitions wait and none was completed for so long. Set it above the time of your longest partition.
    stalled_after: Optional[float] = _field(900.0, 1)
    #: Work is open and for so long no partition was completed or failed, whether others wait or not.
    no_progress_after: Optional[float] = _field(3600.0, 1)
    #: At least so many partitions rest as failed.
    failed_partitions: Optional[int] = _field(1, 1, whole=True)
    #: Some worker's circuit breaker has not been closed for so long.
    breaker_open_for: Optional[float] = _field(60.0)
    #: The planner failed at least so often within five minutes.
    planner_errors: Optional[int] = _field(3, 1, whole=True)
    #: Gaps with data of at least so many IDs were found (and planned).
    gap_ids: Optional[int] = _field(1, 1, whole=True)
    #: The same rule is not told as firing twice within so long; what happens meanwhile is told at its end.
    cooldown: float = _field(900.0, optional=False)
    #: While it lasts it is told again after so long.
    remind_every: Optional[float] = _field(14400.0, 1)
    #: Over only when it was not seen for so long: what comes and goes is one condition.
    resolve_after: float = _field(60.0, optional=False)
    #: Whether the end of what was told is told.
    tell_resolved: bool = attr.ib(default=True, validator=attr.validators.instance_of(bool))


@attr.s(auto_attribs=True, frozen=True)
class Look:
    """What the leader sees at one moment."""

    term: int
    paused: bool
    stats: PartitionStats
    survey: Survey


@attr.s(auto_attribs=True, frozen=True)
class Finding:
    """A condition that holds: how to say it, and how much of it there is (more is news)."""

    severity: str
    summary: str
    amount: float = 0
    details: Mapping[str, Any] = attr.Factory(dict)


@attr.s(auto_attribs=True)
class _State:
    """Where one rule stands; instants of the monotonic clock."""

    since: Optional[float] = None
    #: Not seen from here on.
    clear_since: Optional[float] = None
    #: What holds now was told.
    told: bool = False
    #: When the rule was last told as firing; outlives the condition, for the cooldown.
    told_at: Optional[float] = None
    amount: float = 0
    #: It held when this worker began to lead: perhaps told by the one before, so told at the end of the cooldown.
    inherited: bool = False
    severity: str = INFO

    def over(self) -> None:
        self.since = self.clear_since = None
        self.told = self.inherited = False


def minutes(seconds: float) -> str:
    """Return a duration for people."""
    if seconds < 120:
        return "%d s" % seconds
    return "%d min" % (seconds // 60) if seconds < 7200 else "%.1f h" % (seconds / 3600)


class Judge:
    """Decides what to tell. Belongs to one thread.

    :meth:`judge` is called again and again with what the leader sees, and with None while another leads.
    """

    def __init__(self, rules: NotificationRules, namespace: str, worker_id: str) -> None:
        self._rules = rules
        self._namespace = namespace
        self._worker_id = worker_id
        self._states: Dict[str, _State] = collections.defaultdict(_State)
        self._term: Optional[int] = None
        #: (completed, failed) as last seen, and since when each is what it is.
        self._completed: Tuple[Optional[int], float] = (None, 0.0)
        self._ended: Tuple[Optional[int], float] = (None, 0.0)
        # No more than the rule can ask for: a planner may fail for hours.
        self._planner: Deque[float] = collections.deque(maxlen=max(1000, rules.planner_errors or 0))
        #: Gaps that were found and not told.
        self._gaps: List[Tuple[int, int]] = []
        self._gap_count = self._gap_ids = 0

    def planner_error(self, now: float) -> None:
        """Take note of a failed question to the planner."""
        self._planner.append(now)

    def gap_found(self, low: int, high: int) -> None:
        """Take note of a gap with data, both ends included."""
        self._gap_count += 1
        self._gap_ids += high - low + 1
        if len(self._gaps) < MAX_NAMES:
            self._gaps.append((low, high))

    def judge(self, look: Optional[Look], now: float, at: float) -> List[Notification]:
        """Return what to tell at *now* (monotonic), which is *at* by the wall clock."""
        if look is None:
            self._term = None
            return []
        begins = look.term != self._term
        if begins:
            # Another may have led meanwhile: durations count from here.
            self._term = look.term
            self._completed = self._ended = (None, now)
            for state in self._states.values():
                state.over()
        out = []
        for name, wait, finding in self._findings(look, now):
            state = self._states[name]
            if begins and finding is not None:
                state.since = state.told_at = now
                state.told = state.inherited = True
                state.severity, state.amount = finding.severity, finding.amount
                continue
            word = self._step(state, wait, finding, now)
            if word is not None:
                since = now if state.since is None else state.since
                found = finding or Finding(state.severity, "It is over; it lasted %s." % minutes(now - since))
                out.append(self._tell(name, word, found, at, at - (now - since)))
                if word == RESOLVED:
                    state.over()
        out += self._tell_gaps(now, at)
        return out

    # -- one rule
    def _step(self, state: _State, wait: float, finding: Optional[Finding], now: float) -> Optional[str]:
        """Return the state to tell, or None."""
        rules = self._rules
        if finding is None:
            if state.since is None:
                return None
            if not state.told:
                state.over()
                return None
            if state.clear_since is None:
                state.clear_since = now
            if now - state.clear_since < rules.resolve_after:
                return None
            if rules.tell_resolved:
                return RESOLVED
            state.over()
            return None
        state.clear_since = None
        if state.since is None:
            state.since = now
        if now - state.since < wait or not self._due(state, finding, now):
            return None
        state.told, state.told_at, state.inherited = True, now, False
        state.amount, state.severity = finding.amount, finding.severity
        return FIRING

    def _due(self, state: _State, finding: Finding, now: float) -> bool:
        if state.told_at is None:
            return True
        ago = now - state.told_at
        if ago < self._rules.cooldown:
            return False
        if not state.told or state.inherited or finding.amount > state.amount:
            return True
        return self._rules.remind_every is not None and ago >= self._rules.remind_every

    def _tell(self, name: str, word: str, finding: Finding, at: float, since: float) -> Notification:
        return Notification(
            name, word, finding.severity, self._namespace, self._worker_id, finding.summary, at, since,
            dict(finding.details),
        )  # fmt: skip

    # -- what holds
    def _findings(self, look: Look, now: float) -> List[Tuple[str, float, Optional[Finding]]]:
        """Return (rule, seconds it must hold, what holds) of every rule that is switched on."""
        rules, out = self._rules, []
        if rules.stalled_after is not None:
            out.append(("stalled", 0.0, self._stalled(look, now, rules.stalled_after)))
        if rules.no_progress_after is not None:
            out.append(("no_progress", 0.0, self._no_progress(look, now, rules.no_progress_after)))
        if rules.failed_partitions is not None:
            failed = look.stats.failed
            text = "%d partitions rest as failed; 'elk partitions --status failed' shows why, 'elk retry' tries again."
            found = Finding(CRITICAL, text % failed, failed, {"failed": failed})
            out.append(("failed_partitions", 0.0, found if failed >= rules.failed_partitions else None))
        if rules.breaker_open_for is not None:
            out.append(("breaker_open", rules.breaker_open_for, self._breaker(look)))
        if rules.planner_errors is not None:
            while self._planner and now - self._planner[0] > PLANNER_WINDOW:
                self._planner.popleft()
            count = len(self._planner)
            text = (
                "The planner failed %d times in %s: little or nothing new is planned. The log of the leader says why."
            )
            found = Finding(WARNING, text % (count, minutes(PLANNER_WINDOW)), 0, {"errors": count})
            out.append(("planner_errors", 0.0, found if count >= rules.planner_errors else None))
        return out

    def _stalled(self, look: Look, now: float, after: float) -> Optional[Finding]:
        stats = look.stats
        if self._completed[0] != stats.completed or not stats.pending or look.paused:
            self._completed = (stats.completed, now)
        idle = now - self._completed[1]
        if idle < after or not stats.pending or look.paused:
            return None
        workers = len(look.survey.workers)
        return Finding(
            CRITICAL,
            "%d partitions wait and none was completed for %s; %d workers live."
            % (stats.pending, minutes(idle), workers),
            0,
            {"pending": stats.pending, "held": stats.held, "workers": workers, "seconds": round(idle)},
        )

    def _no_progress(self, look: Look, now: float, after: float) -> Optional[Finding]:
        stats = look.stats
        ended = stats.completed + stats.failed
        if self._ended[0] != ended or not stats.open or look.paused:
            self._ended = (ended, now)
        idle = now - self._ended[1]
        if idle < after or not stats.open or look.paused:
            return None
        return Finding(
            CRITICAL,
            "%d partitions are open (%d held by workers) and none ended for %s."
            % (stats.open, stats.held, minutes(idle)),
            0,
            {"pending": stats.pending, "held": stats.held, "seconds": round(idle)},
        )

    def _breaker(self, look: Look) -> Optional[Finding]:
        # Half-open counts: a breaker that goes to and fro between its probes is one that is open.
        workers = look.survey.workers
        names = sorted(w.worker_id for w in workers if w.info.get("breaker") not in (None, "closed"))
        if not names:
            return None
        more = " and %d more" % (len(names) - MAX_NAMES) if len(names) > MAX_NAMES else ""
        shown = ", ".join(names[:MAX_NAMES]) + more
        return Finding(
            CRITICAL if len(names) == len(workers) else WARNING,
            "The circuit breaker is open on %d of %d workers (%s): they claim nothing."
            % (len(names), len(workers), shown),
            len(names),
            {"open": len(names), "workers": len(workers), "worker_ids": names[:MAX_NAMES]},
        )

    # -- what happens and does not last
    def _tell_gaps(self, now: float, at: float) -> List[Notification]:
        least, state = self._rules.gap_ids, self._states["gap_found"]
        if least is None or not self._gap_count:
            self._forget_gaps()
            return []
        if state.told_at is not None and now - state.told_at < self._rules.cooldown:
            return []
        if self._gap_ids < least:
            return []
        state.told_at = now
        shown = ", ".join("[%d, %d]" % gap for gap in self._gaps)
        text = "%d gaps with data were found, %d IDs, and are planned now: %s%s" % (
            self._gap_count, self._gap_ids, shown, " and more." if self._gap_count > len(self._gaps) else ".",
        )  # fmt: skip
        details = {"gaps": self._gap_count, "ids": self._gap_ids, "ranges": [[str(a), str(b)] for a, b in self._gaps]}
        self._forget_gaps()
        return [self._tell("gap_found", EVENT, Finding(INFO, text, 0, details), at, at)]

    def _forget_gaps(self) -> None:
        self._gaps, self._gap_count, self._gap_ids = [], 0, 0
