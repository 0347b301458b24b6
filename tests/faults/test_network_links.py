"""Links between worker and store that break in other ways than by a clean end: half open, one way, refused, garbled."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import List

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from elk_coordinator import CreatePartition, RedisDataStore, StoreUnavailable
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.testing import wait_until
from tests.faults.fleet import LEASE, Fleet, let_pass, must_fail, now
from tests.faults.network import (
    LONGER,
    NO_REPLAY,
    STEPS,
    MakeFleet,
    MakeProxy,
    calm,
    granted_to_nobody,
    resumed,
    scripts,
    start,
)


@pytest.mark.long
@pytest.mark.timeout(120)
def test_links_broken_for_less_than_a_lease_hold_work_up_and_lose_nothing(
    new_fleet: MakeFleet, new_proxy: MakeProxy
) -> None:
    fleet, control = new_fleet(3000), new_fleet(3000, "no-timeout")
    proxy, controls = new_proxy(fleet.url), new_proxy(fleet.url)
    start(fleet, "a", "b", url=proxy.url)
    start(control, "a", url=controls.url, broken=["timeout"])
    for each in (fleet, control):
        each.wait_completed(10)

    # Half open: the other end has forgotten the connections, the workers' end believes in them. Nobody heals that.
    took = {}
    at = now()
    forgotten = proxy.forget()
    controls.forget()
    took["half open (%d)" % forgotten] = resumed(fleet, at + 0.01)
    for how in ("refused", "hanging", "requests lost", "replies lost", "black hole"):
        if how == "refused":
            proxy.refuse()
        elif how == "hanging":
            proxy.hang()
        elif how == "black hole":
            proxy.drop()
        else:
            proxy.lose(requests=how == "requests lost", replies=how == "replies lost")
        if how in ("refused", "hanging"):
            proxy.cut()
        let_pass(1.0)
        at = now()
        proxy.heal()
        took[how] = resumed(fleet, at)
    fleet.wait_done()
    tally = calm(fleet)
    assert (tally["lost"], tally["deliveries"], tally["refused"]) == (0, 0, 0)
    print("back to work after each: %s; %s" % (", ".join("%s %.2f s" % item for item in took.items()), tally))
    with must_fail("hangs"):
        assert control.completed() > 100, "hangs: without a time limit on replies nothing was completed any more"
    assert control.workers[0].process.poll() is None


@pytest.mark.long
def test_connections_that_a_nat_forgot_while_idle_are_replaced_at_their_first_use(
    new_fleet: MakeFleet, new_proxy: MakeProxy
) -> None:
    fleet = new_fleet(400)
    leader, proxy = new_proxy(fleet.url), new_proxy(fleet.url)
    fleet.start("leader", STEPS, {"dry": True}, url=leader.url, defaults=LONGER)
    fleet.start("idle", STEPS, planner=False, url=proxy.url, defaults=LONGER)
    fleet.leader()
    for each in (leader, proxy):
        each.forget_idle(0.8)
    # Idle for longer than that several times over: every beat meets a connection that leads nowhere.
    let_pass(5.0)
    forgotten = proxy.cut_off
    at = now()
    fleet.workers[0].say("data")
    seconds = resumed(fleet, at)
    idle = fleet.workers[1].wait_for("partition_completed", 10.0, at)["t"] - at
    fleet.wait_done()
    tally = calm(fleet)
    # A lease is never in danger: a beat that meets a dead connection is answered over the next one.
    assert forgotten >= 2
    assert (tally["lost"], tally["deliveries"], tally["refused"]) == (0, 0, 0)
    assert not fleet.told("stepped_down", reason="the lease could not be renewed in time")
    print("%d idle connections forgotten; new work began after %.2f s, on the idle worker after %.2f s; %s" % (
        leader.cut_off + proxy.cut_off, seconds, idle, tally))  # fmt: skip


class _Quick(Clock):
    """A minute in three seconds."""

    def monotonic(self) -> float:
        return 20.0 * super().monotonic()


def test_a_subscription_that_is_half_open_is_made_anew_within_a_minute(redis_url: str, new_proxy: MakeProxy) -> None:
    def hears(store: RedisDataStore, seconds: float) -> float:
        """Say something all the time until it is heard; return how long that took."""
        heard: List[float] = []
        gone = threading.Event()

        def listen() -> None:
            while not gone.is_set() and not heard:
                # As the wake-up thread does: an error is waited for and forgotten.
                with contextlib.suppress(StoreUnavailable):
                    if store.wait("*", 1e9 if gone.is_set() else 4.0) == "work":
                        heard.append(now())

        thread = threading.Thread(target=listen)
        at = now()
        thread.start()
        try:
            with contextlib.closing(RedisDataStore.from_url(redis_url)) as other:
                wait_until(lambda: other.namespaced("half-open").notify("work") or heard, seconds, "deaf")
        finally:
            gone.set()
            store.close()
            thread.join()
        return heard[0] - at

    proxy = new_proxy(redis_url)
    for quick in (True, False):
        with contextlib.closing(RedisDataStore.from_url(proxy.url)) as given:
            store = given.namespaced("half-open").with_deadline(0.5)
            assert store.wait("*", 0.2) is None
            if quick:
                store._link.clock = _Quick()
                store._hints_at = store._link.clock.monotonic()
            assert proxy.forget()
            if quick:
                seconds = 20.0 * hears(store, 20.0)
                assert 29.0 < seconds < 90.0
                print("wake-ups were heard again %.0f s after the connection was forgotten" % seconds)
            else:
                # The silence is not long enough to be noticed: nothing else would have told.
                with must_fail("deaf"):
                    hears(store, 3.0)


@pytest.mark.long
def test_grants_whose_reply_comes_after_their_lease_are_not_believed(
    new_fleet: MakeFleet, new_proxy: MakeProxy
) -> None:
    cases = []
    for name, config in (("guarded", {}), ("from-the-answer", {"broken": ["trust"]})):
        fleet = new_fleet(600, name)
        proxy = new_proxy(fleet.url)
        parts = [CreatePartition(n, 10 * n - 9, 10 * n) for n in range(1, 61)]
        fleet.partitions.create_partitions_if_not_exist(parts)
        # Nobody leads and nobody else works: what it was granted is there when it hears of it, but not its lease.
        fleet.start("one-way", STEPS, planner=False, url=proxy.url, wait=False, **config)
        cases.append((fleet, proxy))
    for fleet, proxy in cases:
        fleet.workers[0].wait_for("partition_completed", 30.0)
        proxy.lose(replies=True)
    at = now()
    let_pass(1.3 * LEASE)
    healed = now()
    for _, proxy in cases:
        proxy.heal()
    seconds = [resumed(fleet, healed) for fleet, _ in cases][0]

    def begun_late(fleet: Fleet) -> List[int]:
        """Return which partitions it began to work on when their lease was over. A token is the time of its grant."""
        ahead = time.time() - now()
        return [a.partition_id for a in fleet.journal.attempts() if a.at > a.token / 1e6 - ahead + LEASE]

    (fleet, _), (control, _) = cases
    assert begun_late(fleet) == []
    with must_fail("without a lease"):
        assert begun_late(control) == [], "worked without a lease: %s" % begun_late(control)
    fleet.wait_done(40.0)
    tally = calm(fleet)
    given_back = [told for told in fleet.told("partition_released") if told["t"] > healed]
    assert given_back, "nothing was granted whose reply was lost"
    print("replies lost for %.1f s: %d claims granted unheard were given back; back to work after %.2f s; %s" % (
        healed - at, len(given_back), seconds, tally))  # fmt: skip


@pytest.mark.long
def test_replies_that_break_off_or_are_nonsense_count_nothing_twice(new_fleet: MakeFleet, new_proxy: MakeProxy) -> None:
    fleet, control = new_fleet(6000), new_fleet(3000, "no-replay")
    proxy, controls = new_proxy(fleet.url), new_proxy(control.url)
    quick = {"pause": 0.01, "checkpoint": True, "steps": 2}
    options = {"task_window_size": 1}
    start(control, "a", "b", work=quick, url=controls.url, options=options, scripts=[NO_REPLAY])
    controls.spoil_every(3, "truncated")
    start(fleet, "a", "b", work=quick, url=proxy.url, options=options)
    spoilt = {}
    for how in ("reset", "truncated", "garbage"):
        before = proxy.swallowed
        proxy.spoil_every(4, how)
        wait_until(lambda upto=before + 25: proxy.swallowed >= upto, 30.0, fleet.story)
        spoilt[how] = proxy.swallowed - before
    proxy.heal()
    fleet.wait_done()
    tally = calm(fleet)
    assert (tally["attempts"], tally["deliveries"], tally["refused"], tally["lost"]) == (600, 0, 0, 0)
    assert not fleet.told("partition_retried") and min(spoilt.values()) >= 5
    print("replies spoilt: %s, of %d scripts; %s" % (
        ", ".join("%d %s" % (count, how) for how, count in spoilt.items()), scripts(proxy), tally))  # fmt: skip
    wait_until(lambda: granted_to_nobody(control) or control.done(), 30.0, control.story)
    with must_fail("granted to nobody"):
        assert not granted_to_nobody(control), "granted to nobody: %s" % control.told("partition_reclaimed")[:1]


def test_the_drivers_own_retries_would_run_a_request_twice(
    redis_url: str, new_proxy: MakeProxy, namespace: str
) -> None:
    # The fault is real: this is why every client of ours has them switched off.
    proxy = new_proxy(redis_url)
    proxy.swallow_every(2)
    key = "elk:{%s}:count" % namespace
    ran = {}
    for retries in (0, 3):
        with contextlib.closing(redis.Redis.from_url(
            proxy.url, retry=Retry(NoBackoff(), retries), retry_on_error=[redis.ConnectionError]
        )) as client:  # fmt: skip
            client.delete(key)
            asked = 0
            for _ in range(6):
                asked += 1
                with contextlib.suppress(redis.ConnectionError):
                    client.eval("return redis.call('INCR', KEYS[1])", 1, key)
            ran[retries] = int(client.get(key)) - asked
    assert ran[0] == 0
    with must_fail("counted twice"):
        assert ran[3] == 0, "counted twice: %d of 6 requests" % ran[3]
