"""When people are told: durations, cooldown, the end, and who tells. No thread, no network."""

from __future__ import annotations

import json
import logging
from typing import Any, List, Optional

import attr
import pytest

from elk_coordinator import PartitionStats
from elk_coordinator.errors import ConfigError
from elk_coordinator.model import Survey, WorkerInfo
from elk_coordinator.observability import notify as notify_module
from elk_coordinator.observability.conditions import Judge, Look, NotificationRules, minutes
from elk_coordinator.observability.notifiers import DeliveryError, Notification, Partly
from elk_coordinator.observability.notify import Notify, Sender, Watch, build_roles
from elk_coordinator.protocols import Event
from elk_coordinator.testing import ManualClock

LOGGER = logging.getLogger("elk_coordinator.test")
OFF = {"stalled_after": None, "no_progress_after": None, "failed_partitions": None, "breaker_open_for": None,
       "planner_errors": None, "gap_ids": None}  # fmt: skip


def rules(**given: Any) -> NotificationRules:
    """Only the rules that are given."""
    return NotificationRules(**{**OFF, **given})


class Scene:
    """A judge, and what it sees."""

    def __init__(self, **given: Any) -> None:
        self.judge = Judge(rules(**given), "orders", "w1")
        self.now = 1000.0
        self.term: Optional[int] = 7
        self.paused = False
        self.stats = PartitionStats()
        self.breakers: List[Any] = ["closed"]

    def see(self, seconds: float = 0.0, **stats: int) -> List[str]:
        """Let time pass, look, and return what was told as ``rule state``."""
        return ["%s %s" % (n.rule, n.state) for n in self.tell(seconds, **stats)]

    def tell(self, seconds: float = 0.0, **stats: int) -> List[Notification]:
        self.now += seconds
        self.stats = attr.evolve(self.stats, **stats)
        workers = [WorkerInfo("w%d" % n, 9.0, {"breaker": b}) for n, b in enumerate(self.breakers, 1)]
        look = None if self.term is None else Look(self.term, self.paused, self.stats, Survey(workers=workers))
        return self.judge.judge(look, self.now, self.now + 1e9)


# ---------------------------------------------------------------- each rule


def test_stalled_is_told_when_work_waits_and_none_was_completed_for_so_long() -> None:
    scene = Scene(stalled_after=100.0)
    assert scene.see(0, pending=5, completed=3) == []
    assert scene.see(99) == []
    (told,) = scene.tell(1)
    assert (told.rule, told.state, told.severity) == ("stalled", "firing", "critical")
    assert "5 partitions wait and none was completed for 100 s" in told.summary
    assert told.details["pending"] == 5


@pytest.mark.parametrize("what", ["completed", "nothing waits", "paused"])
def test_stalled_counts_anew_after_a_completion_or_while_nothing_is_to_be_expected(what: str) -> None:
    scene = Scene(stalled_after=100.0)
    scene.see(0, pending=5)
    if what == "completed":
        scene.see(60, completed=1)
    elif what == "nothing waits":
        scene.see(60, pending=0)
    else:
        scene.paused = True
        scene.see(60)
        assert scene.see(1000) == []
        scene.paused = False
    assert scene.see(99, pending=5) == []
    assert scene.see(1) == ["stalled firing"]


def test_no_progress_is_told_also_when_nothing_waits_but_what_is_held_does_not_end() -> None:
    scene = Scene(no_progress_after=100.0, stalled_after=10.0)
    assert scene.see(0, pending=0, running=2) == []
    assert scene.see(100) == ["no_progress firing"]


def test_a_failing_partition_is_an_end_that_counts_as_progress_but_not_as_completion() -> None:
    scene = Scene(no_progress_after=100.0, stalled_after=100.0)
    scene.see(0, pending=2)
    scene.see(60, failed=1)
    assert scene.see(40) == ["stalled firing"]
    assert scene.see(60) == ["no_progress firing"]


def test_failed_partitions_are_told_at_once_and_more_of_them_after_the_cooldown() -> None:
    scene = Scene(failed_partitions=2, cooldown=50.0)
    assert scene.see(0) == []
    assert scene.see(1, failed=1) == []
    assert scene.see(1, failed=2) == ["failed_partitions firing"]
    assert scene.see(49, failed=9) == [], "within the cooldown"
    (told,) = scene.tell(1)
    assert told.details == {"failed": 9}
    assert scene.see(60) == [], "nothing new: that is for the reminder"
    assert scene.see(14400) == ["failed_partitions firing"]


def test_a_breaker_is_told_when_it_was_not_closed_for_so_long() -> None:
    scene = Scene(breaker_open_for=60.0)
    scene.breakers = ["closed", None]
    assert scene.see() == []
    scene.breakers = ["open", "closed"]
    assert scene.see() == []
    scene.breakers = ["half_open", "closed"]
    assert scene.see(59) == []
    (told,) = scene.tell(1)
    assert told.severity == "warning" and "1 of 2 workers (w1)" in told.summary
    assert told.since == told.at - 60


def test_a_breaker_that_closes_before_its_time_is_not_told() -> None:
    scene = Scene(breaker_open_for=60.0)
    scene.see()
    for _ in range(5):
        scene.breakers = ["open"]
        assert scene.see(50) == []
        scene.breakers = ["closed"]
        assert scene.see(50) == []


def test_many_open_breakers_are_shortened_and_all_of_them_are_critical() -> None:
    scene = Scene(breaker_open_for=0.0)
    scene.see()
    scene.breakers = ["open"] * 30
    (told,) = scene.tell(1)
    assert told.severity == "critical" and "and 25 more" in told.summary and len(told.summary) < 200


def test_planner_errors_are_told_when_there_were_enough_in_five_minutes_and_forgotten_after() -> None:
    scene = Scene(planner_errors=3)
    scene.see()
    for expected in ([], [], ["planner_errors firing"]):
        scene.judge.planner_error(scene.now)
        assert scene.see(1) == expected
    assert scene.see(298) == []
    assert scene.see(10) == [], "not seen any more, from now on"
    assert scene.see(60) == ["planner_errors resolved"]


def test_errors_of_the_planner_that_are_far_apart_are_not_told() -> None:
    scene = Scene(planner_errors=3)
    scene.see()
    for _ in range(10):
        scene.judge.planner_error(scene.now)
        assert scene.see(200) == []


def test_gaps_are_told_once_and_those_of_the_cooldown_together_at_its_end() -> None:
    scene = Scene(gap_ids=1, cooldown=50.0)
    scene.see()
    scene.judge.gap_found(-5, 4)
    (told,) = scene.tell(1)
    assert (told.state, told.severity) == ("event", "info") and "1 gaps with data were found, 10 IDs" in told.summary
    assert told.details["ranges"] == [["-5", "4"]]
    for low in range(100, 1000, 100):
        scene.judge.gap_found(low, low)
    assert scene.see(49) == []
    (told,) = scene.tell(1)
    assert told.details["gaps"] == 9 and told.summary.endswith("[500, 500] and more.")
    assert scene.see(1000) == []


# ---------------------------------------------------------------- for, cooldown, the end


def test_the_end_is_told_once_when_it_was_clear_for_long_enough() -> None:
    scene = Scene(failed_partitions=1, resolve_after=60.0)
    scene.see()
    assert scene.see(1, failed=3) == ["failed_partitions firing"]
    assert scene.see(1, failed=0) == []
    assert scene.see(59) == []
    (told,) = scene.tell(1)
    assert told.state == "resolved" and told.severity == "critical"
    assert told.title == "[RESOLVED] orders: failed_partitions"
    assert scene.see(1000) == []


def test_what_comes_and_goes_is_one_condition() -> None:
    scene = Scene(failed_partitions=1, resolve_after=60.0, cooldown=1e6, remind_every=None)
    scene.see()
    told = []
    for _ in range(20):
        told += scene.see(30, failed=1)
        told += scene.see(30, failed=0)
    assert told == ["failed_partitions firing"]
    assert scene.see(60) == ["failed_partitions resolved"]


def test_a_new_outbreak_within_the_cooldown_is_told_at_its_end_and_only_if_it_lasts() -> None:
    scene = Scene(failed_partitions=1, resolve_after=0.0, cooldown=100.0)
    scene.see()
    assert scene.see(0, failed=1) == ["failed_partitions firing"]
    assert scene.see(10, failed=0) == ["failed_partitions resolved"]
    assert scene.see(10, failed=1) == []
    assert scene.see(10, failed=0) == [], "what was not told has no end to tell"
    assert scene.see(10, failed=1) == []
    assert scene.see(59) == []
    assert scene.see(1) == ["failed_partitions firing"]


def test_without_a_cooldown_each_outbreak_is_told() -> None:
    """The control of the cooldown."""
    scene = Scene(failed_partitions=1, resolve_after=0.0, cooldown=0.0)
    scene.see()
    told = [scene.see(10, failed=n % 2) for n in range(1, 5)]
    assert told == [["failed_partitions firing"], ["failed_partitions resolved"]] * 2


def test_the_end_is_not_told_when_nobody_wants_to_know() -> None:
    scene = Scene(failed_partitions=1, resolve_after=0.0, tell_resolved=False)
    scene.see()
    assert scene.see(1, failed=1) == ["failed_partitions firing"]
    assert scene.see(1, failed=0) == []
    assert scene.see(1000, failed=1) == ["failed_partitions firing"]


# ---------------------------------------------------------------- who tells


def test_who_does_not_lead_tells_nothing() -> None:
    scene = Scene(failed_partitions=1, stalled_after=10.0)
    scene.term = None
    assert [scene.see(100, failed=5, pending=5) for _ in range(5)] == [[]] * 5


def test_a_new_leader_does_not_tell_at_once_what_the_old_one_told() -> None:
    scene = Scene(failed_partitions=1, cooldown=900.0)
    assert scene.see(0, failed=4) == [], "perhaps told by the leader before"
    assert scene.see(899) == []
    assert scene.see(1) == ["failed_partitions firing"], "but if that one died before it could, told all the same"
    assert scene.see(5000) == []


def test_a_new_leader_tells_at_once_what_begins_under_it() -> None:
    """The control: it is the state at its first look that is taken as told."""
    scene = Scene(failed_partitions=1)
    assert scene.see() == []
    assert scene.see(2, failed=4) == ["failed_partitions firing"]


def test_a_new_leader_tells_the_end_of_what_it_found() -> None:
    scene = Scene(failed_partitions=1, resolve_after=60.0)
    scene.see(0, failed=4)
    scene.see(10, failed=0)
    assert scene.see(60) == ["failed_partitions resolved"]


def test_durations_count_from_the_beginning_of_the_term() -> None:
    scene = Scene(stalled_after=100.0, breaker_open_for=100.0)
    scene.see(0, pending=1)
    scene.see(90)
    scene.term = None
    scene.see(5)
    scene.term = 8
    assert scene.see(20) == []
    assert scene.see(99) == []
    assert scene.see(1) == ["stalled firing"]


def test_a_leader_that_was_away_for_a_moment_keeps_its_cooldown() -> None:
    scene = Scene(stalled_after=10.0, cooldown=900.0)
    scene.see(0, pending=1)
    assert scene.see(10) == ["stalled firing"]
    scene.term = 8
    assert scene.see(1) == []
    assert scene.see(100) == []
    assert scene.see(800) == ["stalled firing"]


# ---------------------------------------------------------------- bad values


@pytest.mark.parametrize(
    "bad",
    [{"stalled_after": 0}, {"stalled_after": "900"}, {"cooldown": None}, {"cooldown": -1}, {"failed_partitions": 0},
     {"failed_partitions": 1.5}, {"gap_ids": True}, {"remind_every": float("nan")}, {"resolve_after": float("inf")}],
    ids=str,
)  # fmt: skip
def test_a_bad_rule_is_refused_by_name(bad: Any) -> None:
    with pytest.raises(ConfigError, match="notification rules: %s must be" % next(iter(bad))):
        NotificationRules(**bad)


def test_durations_are_written_for_people() -> None:
    assert [minutes(s) for s in (0.0, 119.9, 900.0, 9000.0)] == ["0 s", "119 s", "15 min", "2.5 h"]


@pytest.mark.parametrize("bad", [(), (object(),), (Sender,), ("https://x",), (None,)], ids=str)
def test_notify_refuses_what_cannot_send(bad: Any) -> None:
    with pytest.raises(ConfigError, match="Notify: "):
        Notify(*bad)
    with pytest.raises(ConfigError, match="rules must be"):
        Notify(Box(), rules={"stalled_after": 3})  # type: ignore[arg-type]


# ---------------------------------------------------------------- the roles


class Box:
    """A notifier that keeps what it gets, or fails."""

    def __init__(self, *errors: Optional[BaseException]) -> None:
        self.errors = list(errors)
        self.got: List[Notification] = []
        self.tries = 0

    def send(self, notification: Notification) -> None:
        self.tries += 1
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        self.got.append(notification)


class View:
    """What a watch asks of a coordinator."""

    def __init__(self) -> None:
        self.term: Optional[int] = 7
        self.paused = False
        self.stats: Optional[PartitionStats] = PartitionStats()
        self.survey: Optional[Survey] = Survey()

    def cached_stats(self) -> Any:
        return self.stats

    def cached_survey(self) -> Any:
        return self.survey

    def health(self) -> Any:
        return self


class Bench:
    def __init__(self, *notifiers: Any, **given: Any) -> None:
        self.clock, self.view, self.counts = ManualClock(), View(), {}
        watch, self.senders = build_roles(
            (object(), Notify(*notifiers, rules=rules(**given))), self.view,  # type: ignore[arg-type]
            "orders", "w1", self.clock, LOGGER, self.count,
        )  # fmt: skip
        assert watch is not None
        self.watch: Watch = watch

    def count(self, outcome: str, amount: int) -> None:
        self.counts[outcome] = self.counts.get(outcome, 0) + amount

    def fail(self, failed: int) -> int:
        self.view.stats = PartitionStats(failed=failed)
        return self.watch.run_once()


def note(number: int = 1) -> Notification:
    return Notification("stalled", "firing", "critical", "orders", "w1", "Number %d." % number, 1.7e9, 1.7e9)


def test_without_a_notify_among_the_listeners_there_are_no_roles() -> None:
    view: Any = View()
    assert build_roles((object(),), view, "orders", "w1", ManualClock(), LOGGER, lambda o, n: None) == (None, [])


def test_the_watch_gives_to_every_notifier_and_never_sends_itself() -> None:
    first, second = Box(), Box()
    bench = Bench(first, second, failed_partitions=1)
    assert bench.fail(0) == 0
    assert bench.fail(2) == 1
    assert first.got == second.got == []
    assert [sender.run_once() for sender in bench.senders] == [0.0, 0.0]
    assert [n.summary for n in first.got] == [n.summary for n in second.got] and len(first.got) == 1
    assert bench.counts == {"sent": 2}
    assert [sender.name for sender in bench.senders] == ["notify-1", "notify-2"]


def test_the_watch_is_silent_until_this_worker_leads_and_has_looked() -> None:
    bench = Bench(Box(), failed_partitions=1, cooldown=0.0)
    bench.view.term = None
    assert bench.fail(3) == 0
    bench.view.term, bench.view.survey = 7, None
    assert bench.fail(3) == 0
    bench.view.survey = Survey()
    assert bench.fail(3) == 0, "the first look"
    assert bench.fail(3) == 1


def test_the_watch_hears_of_gaps_with_data_and_of_the_planner() -> None:
    bench = Bench(Box(), gap_ids=1, planner_errors=2)
    bench.watch.run_once()
    for action in ("empty", "planned"):
        facts = {"min_id": 1, "max_id": 10, "ids": 10, "gap": "hole", "action": action, "partitions": 1}
        bench.watch.on_gap_found(Event("gap_found", "orders", "w1", 1.7e9, facts))
        bench.watch.on_planner_error(Event("planner_error", "orders", "w1", 1.7e9, {}))
    assert bench.watch.run_once() == 2
    sender = bench.senders[0]
    assert [n.rule for n in sender._waiting] == ["planner_errors", "gap_found"]
    assert sender._waiting[1].details["gaps"] == 1, "an empty one is no news"


def test_what_some_recipients_got_is_not_sent_to_them_again(caplog: pytest.LogCaptureFixture) -> None:
    box = Box(Partly("refused for 1 of 2 recipients"), Partly("refused for 1 of 2 recipients"))
    bench = Bench(box)
    sender = bench.senders[0]
    with caplog.at_level(logging.INFO, "elk_coordinator"):
        for number in range(3):
            sender.put(note(number))
            assert sender.run_once() == 0.0
    assert box.tries == 3 and not sender._waiting and bench.counts == {"failed": 2, "sent": 1}
    assert len([r for r in caplog.records if "failed in part" in r.message]) == 1


def test_a_failing_notifier_is_tried_again_and_logged_once_per_streak(caplog: pytest.LogCaptureFixture) -> None:
    box = Box(DeliveryError("HTTP status 500"), DeliveryError("HTTP status 500"))
    bench = Bench(box)
    sender = bench.senders[0]
    with caplog.at_level(logging.INFO, "elk_coordinator"):
        sender.put(note())
        assert sender.run_once() == 5.0
        sender.wake.set()
        assert sender.run_once() == 5.0 and box.tries == 1, "a hint makes it no quicker"
        bench.clock.advance(5.0)
        assert sender.run_once() == 15.0
        bench.clock.advance(15.0)
        assert sender.run_once() == 0.0
    assert bench.counts == {"sent": 1} and len(box.got) == 1
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "notifications: Box failed, is tried again: HTTP status 500",
        "notifications: Box works again after 2 failures",
    ]


def test_a_notification_is_given_up_after_four_attempts_and_the_next_one_gets_its_own() -> None:
    box = Box(*[ValueError()] * 4)
    bench = Bench(box)
    sender = bench.senders[0]
    sender.put(note(1))
    sender.put(note(2))
    for _ in range(5):
        bench.clock.advance(sender.run_once())
    assert box.tries == 5 and [n.summary for n in box.got] == ["Number 2."]
    assert bench.counts == {"failed": 1, "sent": 1}


def test_the_text_of_a_foreign_error_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    sender = Bench(Box(ValueError("https://hooks.example/T0/s3cret"))).senders[0]
    sender.put(note())
    sender.run_once()
    assert "s3cret" not in caplog.text and "ValueError" in caplog.text


def test_system_exit_of_a_notifier_ends_no_thread_of_ours() -> None:
    sender = Bench(Box(SystemExit(3))).senders[0]
    sender.put(note())
    assert sender.run_once() == 5.0


def test_too_many_waiting_are_dropped_and_counted_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify_module, "MAX_WAITING", 3)
    bench = Bench(Box())
    for number in range(10):
        bench.senders[0].put(note(number))
    assert bench.counts == {"dropped": 7}
    assert caplog.text.count("new ones are dropped") == 1
    while bench.senders[0]._waiting:
        bench.senders[0].run_once()
    assert bench.counts == {"dropped": 7, "sent": 3}


def test_what_waits_at_the_end_is_tried_once() -> None:
    box = Box()
    bench = Bench(box)
    bench.senders[0].put(note(1))
    bench.senders[0].put(note(2))
    bench.senders[0].finish()
    assert len(box.got) == 2 and bench.counts == {"sent": 2}


def test_at_the_end_nobody_runs_against_a_wall() -> None:
    box = Box(*[DeliveryError("no answer in time")] * 9)
    bench = Bench(box)
    for number in range(5):
        bench.senders[0].put(note(number))
    bench.senders[0].finish()
    assert box.tries == 1 and bench.counts == {"dropped": 5}


def test_notifications_are_ready_for_json() -> None:
    scene = Scene(failed_partitions=1, stalled_after=1.0, no_progress_after=1.0, breaker_open_for=0.0, gap_ids=1)
    scene.see(0, pending=1)
    scene.breakers = ["open"]
    scene.judge.gap_found(1, 2**62)
    told = scene.tell(10, failed=1) + scene.tell(10)
    assert {n.rule for n in told} == {"failed_partitions", "stalled", "no_progress", "breaker_open", "gap_found"}
    for notification in told:
        assert json.loads(json.dumps(notification.to_dict()))["rule"] == notification.rule
        assert "\n" not in notification.title + notification.summary and notification.summary.endswith(".")
