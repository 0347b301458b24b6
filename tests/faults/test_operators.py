"""Operators who ask for everything twice from two doors, at bad moments, and observers who look too often."""

from __future__ import annotations

import collections
import concurrent.futures
import json
import os
import random
import threading
from typing import Any, Callable, Counter, Dict, List, Sequence, Tuple

import pytest
import redis

from elk_coordinator import AdminClient, CreatePartition, PartitionNotFound
from elk_coordinator.partition.audit import verify
from elk_coordinator.partition.commands import CommandStatus
from elk_coordinator.testing import EmbeddedServer, wait_until
from tests.faults.doors import WITH_HTTP, ask, door_of, measure, raw_client
from tests.faults.fleet import LEASE, Fleet, let_pass, must_fail, now
from tests.faults.proxy import Proxy

MakeFleet = Callable[..., Fleet]
MakeProxy = Callable[..., Proxy]
CONTENT = "content_worker.py"
SEED = int(os.environ.get("ELK_SEED") or 20261125)
# -- everything twice, from two doors


class Operator:
    """Submits each command twice at the same time: from Python and over HTTP."""

    def __init__(self, fleet: Fleet, address: str) -> None:
        self.fleet = fleet
        self.admin = AdminClient(fleet.namespace, fleet.store, by="python")
        self.pairs: List[Tuple[str, int, str, str]] = []
        self.met: Counter[str] = collections.Counter()
        self._address = address
        self._other = concurrent.futures.ThreadPoolExecutor(1)

    def close(self) -> None:
        self._other.shutdown()

    def do(self, kind: str, number: int = 1, **args: Any) -> None:
        same = self._other.submit(self._over_http, kind, args)
        mine = self.admin.submit(kind, args)
        self.pairs.append((kind, number, mine, same.result()))

    def _over_http(self, kind: str, args: Dict[str, Any]) -> str:
        status, text = ask(self._address, "/api/v1/commands", {"kind": kind, "args": args})
        assert status == 202, text
        return str(json.loads(text)["command_id"])

    def to_one(self, kind: str, partition_id: int, **more: Any) -> None:
        try:
            state = self.fleet.partitions.get_partition(partition_id).status.value
        except PartitionNotFound:
            state = "unknown"
        self.met["%s of a %s one" % (kind, state)] += 1
        wanted = {"id": partition_id} if kind in ("cancel", "release") else {"ids": [partition_id]}
        self.do(kind, **wanted, **more)

    def ended(self, name: str) -> CommandStatus:
        status = self.admin.wait(name, 20.0)
        assert status.state == "done", status
        return status

    def check_pairs(self) -> int:
        """Check that of two equal commands at most one changed anything; return how many changed nothing."""
        idle = 0
        for kind, number, first, second in self.pairs:
            both = [self.ended(first), self.ended(second)]
            changed = sum(each.done for each in both if each.result.get("outcome") != "asked")
            assert changed <= number or kind == "set_priority", "%s had its effect twice: %d" % (kind, changed)
            idle += sum(1 for each in both if each.done == 0)
        return idle


def some_id(fleet: Fleet, rng: random.Random) -> int:
    """Return the id of a partition in a random state, of none as yet, or of none at all."""
    wanted = rng.choice(["held", "failed", "pending", "completed", "any"])
    everything = fleet.partitions.get_all_active_partitions()
    active = [p for p in everything if wanted in (p.status.value, p.status.value == "running" and "held")]
    if active:
        return rng.choice(active).partition_id
    return rng.randint(1, fleet.completed() if wanted == "completed" else fleet.last // 10 + 10)


def everything_to_a_failed_one(operator: Operator) -> None:
    """Do to one that is cancelled what chance may not."""
    last = max(p.partition_id for p in operator.fleet.partitions.get_all_active_partitions())
    for kind, more in [("cancel", {}), ("cancel", {}), ("release", {}), ("set_priority", {"priority": 5}),
                       ("retry_failed", {})]:  # fmt: skip
        operator.to_one(kind, last, **more)
        for name in operator.pairs[-1][2:]:
            operator.ended(name)


KINDS = ("cancel", "cancel", "cancel", "release", "set_priority", "retry_failed", "retry_all", "pause")


def command_storm(
    fleet: Fleet, rng: random.Random, times: int, kinds: Sequence[str] = KINDS, **config: Any
) -> Operator:
    """Have a fleet at work disturbed by *times* pairs of random commands; return who gave them, when all have ended."""
    work = {"steps": 2, "pause": 0.02, "seed": SEED, "slow": 0.08}
    for name in ("a", "b", "c"):
        options = dict(WITH_HTTP, retry_backoff=[0.05, 0.2], worker_ttl=8.0, leader_lock_expiry=8.0)
        fleet.start(name, work, program=CONTENT, options=options, wait=False, **config)
    fleet.wait_completed(40)
    operator = Operator(fleet, door_of(fleet, "b"))
    try:
        if "cancel" in kinds:
            everything_to_a_failed_one(operator)
        # What runs now is mostly what takes long.
        for p in fleet.partitions.get_all_active_partitions():
            if p.status.value == "running":
                operator.to_one("cancel" if "cancel" in kinds else "retry_failed", p.partition_id)
        for _ in range(times):
            kind = rng.choice(kinds)
            one = some_id(fleet, rng)
            if kind == "pause":
                operator.do("pause")
                operator.do("resume")
            elif kind == "retry_all":
                operator.do("retry_failed", number=times)
            else:
                operator.to_one(kind, one, **({"priority": rng.randint(-9, 9)} if kind == "set_priority" else {}))
        for _, _, first, second in operator.pairs:
            operator.ended(first), operator.ended(second)
    finally:
        operator.close()
    return operator


def ended_well(fleet: Fleet, operator: Operator) -> None:
    """Retry what was cancelled until all is done; nothing of any command is left then."""

    def done() -> bool:
        if fleet.partitions.get_partition_stats().failed:
            operator.ended(operator.admin.retry_failed())
        return fleet.done()

    wait_until(done, 30.0, lambda: "the end of the work\n%s" % fleet.story())
    status = operator.admin.status()
    assert (status["paused"], status["commands"]) == (False, 0), status
    with raw_client(fleet.url) as raw:
        assert raw.hlen(fleet.partitions.store.keys["cancels"]) == 0, "a wish of an operator was left standing"


def assert_sound(fleet: Fleet) -> None:
    report = verify(fleet.partitions)
    assert report.problems == [], "counters and records disagree: %s" % report.problems


def assert_claims_kept(fleet: Fleet) -> None:
    """Check that no holder lost what it held: leases are too long here to run out by themselves."""
    lost = fleet.told("write_refused") + fleet.told("lease_lost")
    assert lost == [], "commands took claims from who held them: %d times" % len(lost)


@pytest.mark.long
@pytest.mark.timeout(120)
def test_commands_of_every_kind_twice_from_two_doors_leave_nothing_standing(new_fleet: MakeFleet) -> None:
    fleet, control = new_fleet(4500), new_fleet(1500, "control")
    operator = command_storm(fleet, random.Random(SEED), 150)
    idle = operator.check_pairs()
    ended_well(fleet, operator)
    fleet.end()
    assert_claims_kept(fleet)
    tally = fleet.check()
    assert tally["rerun"] > 0
    states = {text.rsplit(" ", 2)[1] for text in operator.met}
    assert states >= {"pending", "running", "completed", "failed"}, operator.met
    cancels = sum(1 for kind, _, first, _ in operator.pairs
                  if kind == "cancel" and operator.ended(first).result.get("outcome") == "asked")  # fmt: skip
    print("seed %d: %d pairs of commands (%s), %d of them changed nothing, %d running ones were asked; %s" % (
        SEED, len(operator.pairs), ", ".join(sorted("%d %s" % (n, t) for t, n in operator.met.items())), idle,
        cancels, tally))  # fmt: skip

    # The control: a second pause is taken for a change, and a retry for one that runs, too.
    running = ["partition/command", "if s.status == 'F' and", "if s.status ~= 'P' and"]
    every = ["partition/command", "redis.call('HEXISTS', KEYS[1], 'paused') == 0 and 1 or 0", "1"]
    twice = command_storm(control, random.Random(SEED), 15, scripts=[every, running], kinds=["pause", "retry_failed"])
    with must_fail("had its effect twice"):
        twice.check_pairs()
    control.end()
    with must_fail("commands took claims"):
        assert_claims_kept(control)


# -- a pause while a worker is cut off


def begun_between(fleet: Fleet, first: float, last: float) -> int:
    return sum(1 for a in fleet.journal.attempts() if first < a.at < last)


@pytest.mark.long
@pytest.mark.timeout(100)
def test_a_worker_that_is_cut_off_when_all_are_paused_stops_by_itself_and_hears_of_it_later(
    new_fleet: MakeFleet, new_proxy: MakeProxy
) -> None:
    work = {"steps": 4, "pause": 0.2}
    fleet, control = new_fleet(400), new_fleet(900, "control")
    proxy = new_proxy(fleet.url)
    deaf = ["partition/work", "KEYS[1], 'last', 'paused'", "KEYS[1], 'last', 'nothing'"]
    fleet.start("near", work, program=CONTENT)
    # The other's partitions take longer than its lease.
    far = fleet.start("far", dict(work, pause=1.5), planner=False, url=proxy.url, program=CONTENT,
                      tell_also=["heartbeat", "task_started"])  # fmt: skip
    control.start("deaf", work, program=CONTENT, broken=["pause"], scripts=[deaf])
    fleet.wait_completed(10)
    control.wait_completed(3)
    far.wait_for("task_started", since=now())
    far.wait_for("heartbeat", since=now(), ok=True)
    proxy.drop()
    cut = now()
    admin = AdminClient(fleet.namespace, fleet.store)
    others = AdminClient(control.namespace, control.store)
    others.pause()
    assert admin.wait(admin.pause(), 10.0).state == "done"
    fleet.workers[0].wait_for("config_changed", 10.0, option="paused", value=True)
    paused = now()
    # What the cut-off worker holds is given up on its own clock, without a word from the store.
    looks = lambda: [k for k in fleet.journal.looks() if k.worker == "far" and k.cancelled and k.at > cut]  # noqa: E731
    wait_until(looks, LEASE + 5.0, lambda: "it to stop by itself\n%s" % fleet.story())
    stopped = looks()[0]
    assert stopped.reason == "lease_lost", stopped
    wait_until(lambda: fleet.partitions.get_partition_stats().running == 0, 15.0, "all to end")
    proxy.heal()
    healed = now()
    heard = far.wait_for("config_changed", 15.0, since=healed, option="paused", value=True)["t"]
    let_pass(3.0)
    resumed = now()
    begun = begun_between(fleet, paused + 0.5, resumed)
    assert begun == 0, "%d partitions were begun during the pause" % begun
    with must_fail("were begun during the pause"):
        begun = begun_between(control, paused + 0.5, resumed)
        assert begun == 0, "%d partitions were begun during the pause" % begun
    admin.resume()
    back = far.wait_for("config_changed", 10.0, since=resumed, option="paused", value=False)["t"]
    fleet.wait_done(40.0)
    fleet.end()
    tally = fleet.check()
    print("cut off: stopped by itself after %.2f s; heard of the pause %.2f s after the link, of its end %.2f s after "
          "the command; 0 begun meanwhile; %s" % (stopped.at - cut, heard - healed, back - resumed, tally))  # fmt: skip
    assert stopped.at - cut < LEASE + 1.0


# -- retry of all


FAILED_MANY = 100_000


def fail_many(fleet: Fleet, count: int, first: int) -> None:
    """Have so many partitions fail that nobody works on, without the time that it would take."""
    width = 2
    lowest = first * width
    for at in range(0, count, 500):
        fleet.partitions.create_partitions_if_not_exist([
            CreatePartition(first + i, lowest + i * width, lowest + (i + 1) * width - 1, priority=-1000)
            for i in range(at, min(at + 500, count))
        ])  # fmt: skip
    keys = fleet.partitions.store.keys
    with raw_client(fleet.url) as raw:
        for at in range(first, first + count, 5000):
            ids = ["%014x" % i for i in range(at, min(at + 5000, first + count))]
            raw.hset(keys["state"], mapping=dict.fromkeys(ids, "F 5 6 0 3 3 -1000 - 0 E 0 w broken"))
            raw.zrem(keys["pending"], *ids)
            raw.zadd(keys["failed"], dict.fromkeys(ids, 0))


class Neighbour:
    """A client of the same server who asks for little, all the time: what it waits is what scripts cost others."""

    def __init__(self, url: str) -> None:
        self.waits: List[float] = []
        self._client = redis.Redis.from_url(url)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Neighbour":
        self._thread.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._closed.set()
        self._thread.join(10.0)
        self._client.close()

    def _run(self) -> None:
        while not self._closed.wait(0.002):
            at = now()
            self._client.ping()
            self.waits.append(now() - at)


def retry_all(fleet: Fleet, raw: Any, count: int) -> Tuple[float, List[int], int]:
    """Retry all that failed; return the seconds, what its steps took in microseconds, what else was done meanwhile."""
    admin = AdminClient(fleet.namespace, fleet.store)
    done, at = fleet.completed(), now()
    raw.slowlog_reset()
    status = admin.wait(admin.retry_failed(), 40.0)
    assert (status.state, status.done) == ("done", count), status
    took = now() - at
    # A step names the command and its move, which questions about the command do not.
    name = status.command_id.encode()
    log = [entry for entry in raw.slowlog_get(100_000) if name in entry["command"] and b" A " in entry["command"]]
    steps = [int(entry["duration"]) for entry in log]
    return took, sorted(steps), fleet.completed() - done


def assert_in_pages(count: int, steps: List[int]) -> None:
    """Check that no step touched more than 500; the last one finds nothing."""
    page = count // (len(steps) - 1)
    assert page <= 500, "%d partitions in one step of %.0f ms" % (page, steps[-1] / 1e3)


@pytest.mark.long
@pytest.mark.timeout(150)
def test_a_retry_of_a_hundred_thousand_goes_in_short_steps_beside_which_others_work(new_fleet: MakeFleet) -> None:
    args = ["--slowlog-log-slower-than", "0", "--slowlog-max-len", "100000"]
    with EmbeddedServer(own=True, prefer=os.environ.get("ELK_TEST_SERVER") or None, extra_args=args) as server:
        raw = redis.Redis.from_url(server.url)
        fleet = new_fleet(100_000, url=server.url)
        control = new_fleet(10, "control", url=server.url)
        first = 100_000
        for each, count in ((fleet, FAILED_MANY), (control, 10_500)):
            fail_many(each, count, first)
        fleet.start("leads", {"pause": 0.02}, program=CONTENT, options={"max_pending_partitions": 200_000})
        fleet.wait_completed(50)
        quiet = measure(fleet, 2.0)[0]
        with Neighbour(server.url) as neighbour:
            took, steps, meanwhile = retry_all(fleet, raw, FAILED_MANY)
        waits = sorted(neighbour.waits)
        fleet.end()
        assert_sound(fleet)
        control.start("leads", {"pause": 0.02}, program=CONTENT, broken=["steps"], options={"task_window_size": 1})
        control.leader()
        _, long_steps, _ = retry_all(control, raw, 10_500)
        raw.close()
        middle = steps[len(steps) // 2] / 1e3
        print("100,000 retried in %.1f s and %d steps of %.1f ms, the longest %.1f ms; a neighbour waited %.1f ms "
              "(p99), %.1f ms at most; %.0f partitions/s meanwhile, %.0f/s before" % (
                  took, len(steps), middle, steps[-1] / 1e3, 1e3 * waits[int(0.99 * (len(waits) - 1))],
                  1e3 * waits[-1], meanwhile / took, quiet))  # fmt: skip
        assert_in_pages(FAILED_MANY, steps)
        # Busy machines stretch them; this is far below what anybody's time limit is.
        assert steps[-1] < 1e6 and meanwhile > 0
        with must_fail("partitions in one step"):
            assert_in_pages(10_500, long_steps)
