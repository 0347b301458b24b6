"""Leaders that die, freeze, hang or meet each other, planners with holes: the plan stays one and never runs dry."""

from __future__ import annotations

import threading
from typing import Any, Callable, Dict

from tests.faults.fleet import LEASE, SHORT, Fleet, let_pass, must_fail, now
from tests.faults.proxy import SCRIPTS, Proxy

MakeFleet = Callable[..., Fleet]

#: The plan of a leader whose term is over is accepted: the guard of the term, switched off.
NO_TERM_CHECK = ["partition/plan", "if term ~= ARGV[2] then", "if false then"]


def test_a_lost_leader_is_replaced_within_its_lease_and_2_seconds_and_one_that_stops_within_1(
    new_fleet: MakeFleet,
) -> None:
    fleet = new_fleet(8000)
    # Each question takes some time, so the leader is killed in the middle of planning.
    options = {"max_pending_partitions": 30, "task_window_size": 6}
    for name in ("a", "b", "c"):
        fleet.start(name, {"pause": 0.05}, planner={"pause": 0.02}, options=options)
    first = fleet.leader()
    fleet.wait_completed(30)
    first.wait_for("asked", since=now())
    killed = first.kill()
    second = fleet.wait_told("became_leader", LEASE + 5.0, since=killed)
    after_kill = second["t"] - killed
    stopping = fleet.leader()
    assert stopping.name == second["by"]
    done = fleet.completed()
    stopped = now()
    stopping.say("stop")
    third = fleet.wait_told("became_leader", since=stopped)
    after_stop = third["t"] - stopped
    stopping.ended()
    fleet.wait_completed(done + 60)
    fleet.wait_done()
    fleet.end()
    tally = fleet.check()
    print("new leader %.2f s after SIGKILL, %.3f s after a clean stop; %s" % (after_kill, after_stop, tally))
    assert after_kill < LEASE + 2.0
    assert after_stop < 1.0


class TwoLeaders:
    """A leader frozen in the middle of a plan, and another elected meanwhile that has not planned yet."""

    def __init__(self, fleet: Fleet, **config: Any) -> None:
        self.fleet = fleet
        tell = ["plan"]
        self.old = fleet.start("old", planner={"gate": True}, tell_also=tell, wait=False, **config)
        self.old.wait_for("asked")
        self.new = fleet.start("new", planner={"dry": True}, tell_also=tell)
        self.term = self.old.of("became_leader")[0]["term"]
        self.old.freeze()

    def elect(self) -> None:
        self.new.wait_for("became_leader", LEASE + 5.0)
        self.new.wait_for("asked")

    def resume(self) -> Dict[str, Any]:
        """Let the old one go on and send its plan; return what it tells of it."""
        self.old.thaw()
        self.old.wait_for("stepped_down")
        self.old.say("go")
        return self.old.wait_for("plan", term=self.term)

    def check_refused(self) -> None:
        told = self.resume()
        created = self.fleet.partitions.get_partition_stats().total
        assert (told["error"], created) == ("LeaseLost", 0), "a plan of an old term was accepted: %s" % told


def test_the_plan_of_a_leader_that_was_frozen_past_its_lease_is_refused(new_fleet: MakeFleet) -> None:
    two = TwoLeaders(new_fleet(500, "guarded"))
    control = TwoLeaders(new_fleet(500, "no-term-check"), scripts=[NO_TERM_CHECK])
    for pair in (two, control):
        pair.elect()
    two.check_refused()
    with must_fail("a plan of an old term was accepted"):
        control.check_refused()
    two.new.say("data")
    two.fleet.wait_done()
    two.fleet.end()
    terms = len({told["term"] for told in two.fleet.told("became_leader")})
    print("%d terms of leaders; 1 plan of the old one offered, 0 accepted; %s" % (terms, two.fleet.check()))


def test_a_leader_whose_planner_hangs_steps_down_and_does_not_stand_until_it_returned(new_fleet: MakeFleet) -> None:
    fleet = new_fleet(500)
    hung = fleet.start("hung", planner={"gate": True}, tell_also=["plan"], wait=False)
    hung.wait_for("asked")
    other = fleet.start("other")
    began = now()
    down = hung.wait_for("stepped_down", LEASE + 5.0)
    assert "has not answered" in down["reason"]
    other.wait_for("became_leader", 2.0)
    fleet.wait_done()
    elected = other.of("became_leader")[0]["t"]
    hung.say("health")
    health = hung.wait_for("health")
    assert not health["healthy"] and any("planner has not answered" in problem for problem in health["problems"])
    # The other leaves: nobody leads, since the one that is left still hangs.
    other.end()
    let_pass(LEASE)
    assert fleet.partitions.leader() is None and len(hung.of("became_leader")) == 1
    hung.say("go")
    again = hung.wait_for("became_leader", 5.0, since=now())
    late = hung.wait_for("plan")
    assert late["error"] in ("LeaseLost", "VersionConflict") and late["term"] < again["term"]
    fleet.end()
    tally = fleet.check()
    print("the leader stepped down %.2f s after its planner began to hang, another led %.3f s later; "
          "%s" % (down["t"] - began, elected - down["t"], tally))  # fmt: skip


def test_holes_of_a_million_millions_are_crossed_in_seconds_without_empty_partitions(new_fleet: MakeFleet) -> None:
    far, farther = 10**12, 3 * 10**12
    blocks = [[1, 500], [far, far + 499], [farther + 7, farther + 506]]
    skipped = [(501, far - 1), (far + 500, farther + 6)]
    for name, sees_data in (("range-only", False), ("has-data", True)):
        fleet = new_fleet(farther + 506, name)
        began = now()
        fleet.start("a", planner={"blocks": blocks, "sees_data": sees_data})
        fleet.start("b", planner=False)
        seconds = fleet.wait_done() - began
        fleet.end()
        tally = fleet.check(skipped=skipped)
        found = [(p.min_id, p.max_id) for p in fleet.partitions.get_all_partitions()]
        assert len(found) == 150 and all(any(a <= low <= b for a, b in blocks) for low, _ in found)
        questions = sum(told["questions"] for told in fleet.told("planned"))
        print("planner %s: %.2f s from the first start to the end, %d questions; "
              "%s" % (name, seconds, questions, tally))  # fmt: skip
        assert seconds < 10.0


class Feed:
    """Looks at a fleet of three workers with a window of 64 and no-op work, for some seconds."""

    def __init__(self, fleet: Fleet, seconds: float, **config: Any) -> None:
        options = {"task_window_size": 64, "heartbeat_interval": 3.0, "worker_ttl": 9.0, "leader_lock_expiry": 9.0}
        for name in ("a", "b", "c"):
            fleet.start(name, journal=False, options=options, tell=["became_leader"], wait=False, **config)
        fleet.wait_completed(1000)
        never, began = threading.Event(), now()
        first = done = fleet.completed()
        self.looks = self.empty = self.idle = 0
        self.longest, progress_at = 0.0, began
        while now() - began < seconds:
            stats = fleet.partitions.get_partition_stats()
            at = now()
            self.looks += 1
            self.empty += stats.pending == 0
            self.idle += stats.pending == stats.held == 0
            if stats.completed > done:
                self.longest = max(self.longest, at - progress_at)
                done, progress_at = stats.completed, at
            never.wait(0.01)
        self.longest = max(self.longest, now() - progress_at)
        self.rate = (done - first) / (now() - began)
        for worker in fleet.workers:
            worker.say("stop")
        for worker in fleet.workers:
            worker.ended()
        stats = fleet.partitions.get_partition_stats()
        assert stats.held == stats.failed == 0
        assert fleet.partitions.planned_intervals() == [(1, stats.total)]

    def check(self) -> None:
        # What would wait for a look of the leader or for a poll stands still for a second and longer.
        assert self.longest < 0.6, "the fleet stood still for %.2f s" % self.longest

    def __str__(self) -> str:
        return "%.0f partitions/s; nothing was pending in %.0f %% of %d looks, nor held in %.0f %%; %s %.3f s" % (
            self.rate, 100.0 * self.empty / self.looks, self.looks, 100.0 * self.idle / self.looks,
            "longest time without a completion", self.longest,
        )  # fmt: skip


#: Nobody calls the leader when work runs low: it finds out by its look, once a second.
NO_CALL = ["partition/work", "if hungry and not meta[4] then redis.pcall", "if false then redis.pcall"]


def test_three_workers_with_a_window_of_64_and_no_work_to_do_are_never_starved_by_planning(
    new_fleet: MakeFleet,
) -> None:
    feed = Feed(new_fleet(10**9, "fed", size=1), 4.0)
    print(feed)
    feed.check()
    # The leader's own rounds must not make up for it: they come every 30 s.
    control = Feed(new_fleet(10**9, "no-call", size=1), 2.5, scripts=[NO_CALL], defaults=RARE_ROUNDS)
    with must_fail("the fleet stood still"):
        control.check()


#: The timing of the cases, with the default interval between rounds of planning.
RARE_ROUNDS = dict(SHORT, allocation_interval=30.0)


def test_idle_workers_cost_one_command_a_second_and_the_leader_three(
    new_fleet: MakeFleet, new_proxy: Callable[[str], Proxy]
) -> None:
    fleet = new_fleet(100)
    # Default timing: a heartbeat every 10 s.
    proxies: Dict[str, Proxy] = {}
    for name in ("a", "b", "c", "d"):
        proxies[name] = new_proxy(fleet.url)
        fleet.start(name, url=proxies[name].url, defaults={"metrics_enabled": False})
    fleet.wait_done()
    leader = fleet.leader().name
    # Rounds that find nothing come at growing intervals: until those are long.
    let_pass(8.0)
    began, before = now(), {name: sum(proxy.commands.values()) for name, proxy in proxies.items()}
    let_pass(12.0)
    seconds = now() - began
    rates = {name: (sum(p.commands.values()) - before[name]) / seconds for name, p in proxies.items()}
    print("idle, commands a second: the leader %.2f, the others %s" % (
        rates[leader], ", ".join("%.2f" % rate for name, rate in rates.items() if name != leader)))  # fmt: skip
    others = set().union(*(proxy.commands for proxy in proxies.values())) - set(SCRIPTS)
    assert others <= SETTING_UP, others
    fleet.end()
    fleet.check()
    assert rates.pop(leader) <= 3.0
    assert all(rate <= 1.0 for rate in rates.values())


#: What clients send besides scripts, once a connection.
SETTING_UP = {"HELLO", "CLIENT", "CONFIG", "SELECT", "AUTH", "SUBSCRIBE", "PING", "UNSUBSCRIBE"}
