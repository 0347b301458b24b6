"""A whole coordinator in this process, against a real server: its life in every order of calls, and what it tells."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Iterator, List, Tuple

import pytest
import redis

from elk_coordinator import (
    ConfigError,
    Coordinator,
    PartitionStatus,
    PermanentError,
    RedisDataStore,
    StateError,
    StoreError,
    StoreUnavailable,
    StrategyType,
    create_strategy,
)
from elk_coordinator.partition.audit import verify
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.testing import EmbeddedServer, wait_until
from tests.integration.conftest import QUICK, Counting, Numbers, Recorder, once_each

Build = Callable[..., Coordinator]


def threads_of(coordinator: Coordinator) -> List[str]:
    ending = "-" + coordinator.namespace
    return sorted(t.name for t in threading.enumerate() if t.name.startswith("elk-") and ending in t.name)


def roles_of(coordinator: Coordinator) -> List[str]:
    return [name for name in threads_of(coordinator) if not name.startswith("elk-task-")]


def assert_no_threads(coordinator: Coordinator) -> None:
    """Its roles have ended; the idle threads of its pool are told to and take a moment."""
    wait_until(lambda: not threads_of(coordinator), 2.0, lambda: "no thread: %s" % threads_of(coordinator))


@pytest.fixture
def raw(redis_url: str) -> Iterator[Any]:
    """Return a plain client on the test's database: the operator's hand."""
    with contextlib.closing(redis.Redis.from_url(redis_url, decode_responses=True)) as client:
        yield client


def meta(namespace: str) -> str:
    return "elk:{%s}:meta" % namespace


# ---------------------------------------------------------------- the work is done


def test_a_namespace_is_drained_and_every_id_is_handled_once(build: Build, partitions: Any) -> None:
    work = Counting()
    coordinator = build(work, Numbers(2005), task_window_size=4).start()
    assert coordinator.wait_idle(20.0)
    assert dict(work.seen) == once_each(2005)
    stats = coordinator.stats()
    assert (stats.total, stats.completed, stats.open, stats.failed) == (201, 201, 0, 0)
    assert stats.completion_rate == 1.0 and stats.last_allocated_id == 2005
    assert coordinator.stop() is True
    report = verify(partitions)
    assert report.ok, report.problems
    assert report.planned_ids == report.partition_ids == 2005
    done = partitions.get_all_partitions()
    assert sum(p.processed for p in done) == 2005
    assert len({p.fencing_token for p in done}) == len(work.tokens) == 201
    print("201 partitions, tokens %d..%d" % (min(work.tokens), max(work.tokens)))


def test_a_plain_function_is_a_processor_and_gets_its_options(build: Build) -> None:
    seen: List[Any] = []

    def process(ctx: Any, min_id: int, max_id: int, options: Any) -> None:
        seen.append((min_id, max_id, options["partition_id"], options["worker_id"], ctx.attempt))

    coordinator = build(process, Numbers(10), worker_id="me").start()
    assert coordinator.wait_idle(20.0)
    assert seen == [(1, 10, 1, "me", 1)]


def test_the_context_manager_starts_and_stops(build: Build, partitions: Any) -> None:
    coordinator = build(Counting(), Numbers(100))
    with coordinator as entered:
        assert entered is coordinator
        assert coordinator.wait_idle(20.0)
    assert coordinator.health().state == "stopped"
    assert_no_threads(coordinator)
    assert partitions.workers() == [] and partitions.leader() is None


def test_the_context_manager_stops_also_after_an_exception(build: Build) -> None:
    coordinator = build(Counting(), Numbers(100))
    with pytest.raises(ZeroDivisionError), coordinator:
        raise ZeroDivisionError
    assert coordinator.health().state == "stopped"


def test_failures_are_retried_then_rest_and_wait_idle_does_not_wait_for_them(build: Build, partitions: Any) -> None:
    tries: List[int] = []

    def process(ctx: Any, min_id: int, max_id: int, options: Any) -> None:
        tries.append(min_id)
        if min_id == 11:
            raise ValueError("no luck")
        if min_id == 21:
            raise PermanentError("never")

    coordinator = build(process, Numbers(50), max_attempts=3, circuit_breaker=None).start()
    assert coordinator.wait_idle(20.0)
    assert (tries.count(11), tries.count(21), tries.count(1)) == (3, 1, 1)
    assert coordinator.stats().failed == 2 and coordinator.stats().completed == 3
    failed = partitions.get_partition(2)
    assert (failed.status, failed.attempt) == (PartitionStatus.FAILED, 3)
    assert "no luck" in failed.error and "Traceback" not in failed.error.splitlines()[-1]


def test_two_coordinators_with_default_options_share_the_work(store: RedisDataStore, namespace: str) -> None:
    met = threading.Event()

    def meet(ctx: Any) -> None:
        if len(work.workers) == 2:
            met.set()
        met.wait(20.0)

    work = Counting(meet)
    a = Coordinator(namespace, store, work, Numbers(1000))
    b = Coordinator(namespace, store, work, Numbers(1000))
    with a, b:
        assert a.wait_idle(30.0) and b.wait_idle(30.0)
        assert a.is_leader != b.is_leader
        assert {info.worker_id for info in a.fleet()} == {a.worker_id, b.worker_id}
        assert a.http_address and b.http_address and a.http_address != b.http_address
    assert dict(work.seen) == once_each(1000)
    assert set(work.workers) == {a.worker_id, b.worker_id}
    print("shares: %s" % sorted(work.workers.values()))


def test_two_coordinators_with_the_same_worker_id_stay_correct(build: Build, partitions: Any) -> None:
    met = threading.Event()
    running = {"a": 0, "b": 0}

    def meet(who: str) -> Callable[[Any], None]:
        def before(ctx: Any) -> None:
            running[who] += 1
            if running["a"] and running["b"]:
                met.set()
            met.wait(20.0)

        return before

    first, second = Counting(meet("a")), Counting(meet("b"))
    a = build(first, Numbers(1500), worker_id="same").start()
    b = build(second, Numbers(2000), worker_id="same").start()
    wait_until(met.is_set, 20.0, "both to have work")
    # One leaves and takes the shared label out of the registry; the other goes on and is back with its next beat.
    assert a.stop() is True
    wait_until(lambda: [w.worker_id for w in partitions.workers()] == ["same"], 5.0, "the label to be back")
    wait_until(lambda: b.is_leader, 5.0, "the other to lead")
    assert b.wait_idle(20.0)
    assert dict(first.seen + second.seen) == once_each(2000)
    assert len(set(first.tokens + second.tokens)) == len(first.tokens + second.tokens)
    assert all(p.deliveries == p.attempt == 0 for p in partitions.get_all_partitions())
    assert verify(partitions).problems == []
    print("runs: %d and %d" % (running["a"], running["b"]))


def test_two_namespaces_on_one_server_never_touch(build: Build, store: RedisDataStore, raw: Any) -> None:
    one, two = Counting(), Counting()
    # One name is the beginning of the other, and both hold what a glob would take for a pattern's part.
    a = build(one, Numbers(500), namespace="shop.1", worker_id="same").start()
    b = build(two, Numbers(300), namespace="shop.11", worker_id="same").start()
    assert a.wait_idle(20.0) and b.wait_idle(20.0)
    assert dict(one.seen) == once_each(500) and dict(two.seen) == once_each(300)
    assert a.is_leader and b.is_leader
    keys = raw.keys("*")
    of_one = [key for key in keys if key.startswith("elk:{shop.1}:")]
    of_two = [key for key in keys if key.startswith("elk:{shop.11}:")]
    assert of_one and of_two and sorted(of_one + of_two) == sorted(keys)
    before = {key: raw.dump(key) for key in of_two if not key.endswith((":workers", ":meta", ":streams", "leader"))}
    assert a.stop() is True
    raw.delete(*raw.keys("elk:{shop.1}:*"))
    assert b.is_leader and b.stats().completed == 30
    assert {key: raw.dump(key) for key in before} == before
    assert verify(create_strategy(StrategyType.HASH, "shop.11", store)).problems == []


def test_a_worker_without_planner_never_leads_and_works_for_others(build: Build, partitions: Any) -> None:
    work = Counting()
    hand = build(work, None).start()
    wait_until(lambda: partitions.workers(), 5.0, "the worker to be registered")
    head = build(work, Numbers(300)).start()
    assert head.wait_idle(20.0) and hand.wait_idle(20.0)
    assert head.is_leader and not hand.is_leader
    assert head.stop() is True
    assert partitions.leader() is None and not hand.is_leader
    # Nobody leads and nothing is open: there is nobody to ask, so that is idle.
    assert hand.wait_idle(10.0)
    assert dict(work.seen) == once_each(300)


def test_a_plan_made_before_we_listened_for_hints_is_taken_up_at_once(build: Build) -> None:
    # The leader plans some milliseconds after the start, the subscription comes at about the same time.
    planner, seconds = Numbers(0), []
    for _ in range(15):
        planner.last += 100
        began = Clock().monotonic()
        with build(Counting(), planner) as coordinator:
            assert coordinator.wait_idle(20.0)
            seconds.append(Clock().monotonic() - began)
    print("15 starts to idle: median %.3f s, slowest %.3f s" % (sorted(seconds)[7], max(seconds)))
    # Without it 4 in 10 wait for the poll, at least 1.5 s; a busy machine may delay one or two.
    assert sum(value > 1.0 for value in seconds) <= 2


# ---------------------------------------------------------------- every order of calls


def test_start_twice_starts_once(build: Build) -> None:
    events = Recorder()
    coordinator = build(Counting(), Numbers(100), listeners=(events,))
    assert coordinator.start() is coordinator
    roles = roles_of(coordinator)
    assert coordinator.start() is coordinator
    assert coordinator.wait_idle(20.0)
    assert roles_of(coordinator) == roles and len(set(roles)) == len(roles)
    coordinator.stop()
    assert len(events.of("started")) == 1


def test_start_from_many_threads_starts_once(build: Build, partitions: Any) -> None:
    coordinator = build(Counting(), Numbers(100))
    together = threading.Barrier(8)

    def start(_: int) -> Any:
        together.wait(10.0)
        return coordinator.start()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(start, range(8))) == {coordinator}
    roles = roles_of(coordinator)
    assert len(roles) == len(set(roles))
    assert len(partitions.workers()) == 1


def test_stop_twice_and_from_many_threads_gives_one_answer(build: Build) -> None:
    coordinator = build(Counting(), Numbers(100)).start()
    together = threading.Barrier(4)

    def stop(_: int) -> Any:
        together.wait(10.0)
        return coordinator.stop()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(stop, range(4))) == [True] * 4
    assert coordinator.stop() is True
    assert_no_threads(coordinator)


def test_a_second_stop_ends_nothing_under_the_first(build: Build) -> None:
    running, go = threading.Semaphore(0), threading.Event()

    def before(ctx: Any) -> None:
        running.release()
        assert go.wait(20.0)

    coordinator = build(Counting(before), Numbers(10)).start()
    assert running.acquire(timeout=10.0)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(coordinator.stop)
        wait_until(lambda: coordinator.health().state == "draining", 5.0, "the drain to begin")
        assert coordinator.stop(0.0) is False, "it has not ended"
        assert coordinator.health().state == "draining" and not first.done()
        go.set()
        assert first.result(10.0) is True
    assert coordinator.stop() is True


def test_stop_without_start_is_clean_and_final(build: Build) -> None:
    coordinator = build(Counting(), Numbers(100))
    assert coordinator.stop() is True
    assert coordinator.stop() is True
    with pytest.raises(StateError, match="build a new one"):
        coordinator.start()
    assert_no_threads(coordinator)


def test_a_stopped_coordinator_is_not_started_again_but_a_new_one_is(build: Build) -> None:
    work = Counting()
    first = build(work, Numbers(100)).start()
    assert first.wait_idle(20.0) and first.stop()
    with pytest.raises(StateError, match="build a new one"):
        first.start()
    second = build(work, Numbers(200)).start()
    assert second.wait_idle(20.0)
    assert dict(work.seen) == once_each(200)


def test_stop_right_after_start_leaves_nothing_behind(build: Build, partitions: Any, raw: Any, namespace: str) -> None:
    work = Counting()
    slowest = 0.0
    for _ in range(25):
        coordinator = build(work, Numbers(10_000)).start()
        began = Clock().monotonic()
        assert coordinator.stop() is True
        slowest = max(slowest, Clock().monotonic() - began)
        assert_no_threads(coordinator)
        assert partitions.workers() == []
        assert partitions.leader() is None
        assert partitions.get_partition_stats().held == 0
    assert raw.hlen("elk:{%s}:streams" % namespace) == 0
    assert max(work.seen.values(), default=1) == 1
    assert verify(partitions).problems == []
    print("25 rounds, slowest stop %.3f s" % slowest)
    assert slowest < 2.0


def test_start_and_stop_at_the_same_time_end_stopped(build: Build, partitions: Any) -> None:
    for _ in range(10):
        coordinator = build(Counting(), Numbers(100))
        together = threading.Barrier(2)

        def start(coordinator: Coordinator = coordinator, together: Any = together) -> None:
            together.wait(10.0)
            with contextlib.suppress(StateError):
                coordinator.start()

        with ThreadPoolExecutor(1) as pool:
            started = pool.submit(start)
            together.wait(10.0)
            coordinator.stop()
            started.result(10.0)
        assert coordinator.stop() is True
        assert coordinator.health().state == "stopped"
        assert_no_threads(coordinator)
    assert partitions.workers() == []


def test_stop_from_a_task_returns_at_once_and_the_task_is_still_reported(build: Build, partitions: Any) -> None:
    answers: List[Any] = []

    def process(ctx: Any, min_id: int, max_id: int, options: Any) -> None:
        if min_id == 11:
            began = Clock().monotonic()
            # It cannot wait for the task it is called from: False says that not everything has ended yet.
            answers.append((coordinator.stop(), Clock().monotonic() - began))

    coordinator = build(process, Numbers(50), task_window_size=1).start()
    wait_until(lambda: answers, 10.0, "stop() to return inside the task")
    ((answer, seconds),) = answers
    assert answer is False and seconds < 1.0
    assert coordinator.stop() is True
    assert_no_threads(coordinator)
    stats = partitions.get_partition_stats()
    assert (stats.completed, stats.held, stats.failed) == (2, 0, 0)
    assert all(p.deliveries == p.attempt == 0 for p in partitions.get_all_partitions())
    assert verify(partitions).problems == []


def test_an_interrupted_stop_ends_all_our_threads(
    build: Build, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One that is left over can be frozen inside the driver's lock at the interpreter's end, and hang it.
    coordinator = build(lambda *args: None, Numbers(20)).start()
    assert coordinator.wait_idle(20.0)

    def ctrl_c(until: float) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(coordinator._window, "wait_empty", ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        coordinator.stop()
    roles = ("heartbeat", "claimer", "allocator", "recovery", "commands", "archiver", "election", "wakeup", "journal")
    ours = {"elk-%s-%s" % (role, namespace) for role in roles}
    assert [thread.name for thread in threading.enumerate() if thread.name in ours] == []
    assert coordinator.stop() is False


def test_stop_from_a_listener_does_not_hang(build: Build) -> None:
    answers: List[bool] = []

    class Impatient(Recorder):
        def on_partition_completed(self, event: Any) -> None:
            answers.append(coordinator.stop())

    coordinator = build(Counting(), Numbers(10), listeners=(Impatient(),)).start()
    wait_until(lambda: answers, 10.0, "stop() to return")
    assert coordinator.stop() is True
    assert_no_threads(coordinator)


# ---------------------------------------------------------------- stopping while work runs


class HeldStore(RedisDataStore):
    """A store whose answers to a worker's turns can be held back: they ran, but the worker does not know yet."""

    turns = threading.Semaphore(0)
    free = threading.Event()

    def run(self, path: str, *args: Any, **kwargs: Any) -> Any:
        reply = super().run(path, *args, **kwargs)
        if path == "partition/work" and len(reply) > 7:
            self.turns.release()
            self.free.wait(20.0)
        return reply


class SlowGoodbye(RedisDataStore):
    """A store that takes half a second to take back the leader's lease."""

    def release_lock(self, name: str, token: int) -> bool:
        threading.Event().wait(0.5)
        return super().release_lock(name, token)


def test_stop_tells_running_work_at_once_also_when_the_store_is_slow(build: Build, redis_url: str) -> None:
    heard: List[float] = []

    def process(ctx: Any, min_id: int, max_id: int, options: Any) -> None:
        ctx.wait(30.0)
        heard.append(Clock().monotonic())

    with contextlib.closing(SlowGoodbye.from_url(redis_url)) as store:
        coordinator = build(process, Numbers(10), store=store).start()
        wait_until(lambda: coordinator.health().in_flight, 10.0, "work to run")
        began = Clock().monotonic()
        assert coordinator.stop() is True
        assert heard[0] - began < 0.4


def test_stop_lets_short_work_end_that_does_not_look(build: Build, partitions: Any) -> None:
    running, go = threading.Semaphore(0), threading.Event()

    def before(ctx: Any) -> None:
        running.release()
        assert go.wait(20.0)

    work = Counting(before)
    coordinator = build(work, Numbers(100), task_window_size=3).start()
    for _ in range(3):
        assert running.acquire(timeout=10.0)
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(coordinator.stop)
        wait_until(lambda: coordinator.health().state == "draining", 5.0, "the drain to begin")
        # Heartbeats go on: the leases outlive several of their lengths' thirds.
        before_beat = max(p.last_heartbeat for p in partitions.get_all_active_partitions() if p.last_heartbeat)
        wait_until(
            lambda: min(p.last_heartbeat for p in partitions.get_all_active_partitions() if p.last_heartbeat)
            > before_beat,
            5.0, "renewals while draining",
        )  # fmt: skip
        go.set()
        assert stopping.result(10.0) is True
    stats = partitions.get_partition_stats()
    assert (stats.completed, stats.held, stats.pending) == (3, 0, 7)
    assert len(work.seen) == 30


def test_a_leader_that_stops_gives_its_lease_up_and_leaves_the_registry_at_once(build: Build, partitions: Any) -> None:
    coordinator = build(Counting(), Numbers(10), leader_lock_expiry=60.0).start()
    wait_until(lambda: coordinator.is_leader, 10.0, "leadership")
    assert coordinator.stop() is True
    assert partitions.leader() is None
    assert partitions.workers() == []


def test_stop_has_long_work_checkpointed_and_given_back(build: Build, partitions: Any) -> None:
    saved = threading.Event()

    def process(ctx: Any, min_id: int, max_id: int, options: Any) -> None:
        assert ctx.checkpoint(min_id + 4, processed=5)
        saved.set()
        while not ctx.wait(30.0):
            pass

    coordinator = build(process, Numbers(10), task_window_size=1).start()
    assert saved.wait(10.0)
    began = Clock().monotonic()
    assert coordinator.stop() is True
    assert Clock().monotonic() - began < 2.0
    left = partitions.get_partition(1)
    assert (left.status, left.checkpoint, left.attempt, left.deliveries) == (PartitionStatus.PENDING, 5, 0, 0)
    # The next attempt goes on behind the checkpoint.
    work = Counting()
    again = build(work, Numbers(10)).start()
    assert again.wait_idle(20.0)
    assert sorted(work.seen) == [6, 7, 8, 9, 10]
    assert partitions.get_partition(1).processed == 10


def test_stop_gives_up_on_deaf_work_in_time_and_says_so(build: Build, caplog: pytest.LogCaptureFixture) -> None:
    running, go = threading.Event(), threading.Event()

    def process(ctx: Any, min_id: int, max_id: int, options: Any) -> None:
        running.set()
        go.wait(30.0)

    events = Recorder()
    coordinator = build(process, Numbers(10), task_window_size=1, listeners=(events,)).start()
    assert running.wait(10.0)
    began = Clock().monotonic()
    assert coordinator.stop(0.5) is False
    seconds = Clock().monotonic() - began
    go.set()
    assert 0.5 <= seconds < 0.5 + 2.0
    assert "still runs at the end of stop()" in caplog.text
    (stopped,) = events.of("stopped")
    assert stopped.clean is False
    assert abs(stopped.seconds - seconds) < 1.0
    assert coordinator.stop() is False


def test_work_granted_while_stopping_is_given_back_and_never_started(
    build: Build, redis_url: str, partitions: Any
) -> None:
    started: List[int] = []

    def process(ctx: Any, min_id: int, max_id: int, options: Any) -> None:
        started.append(min_id)
        ctx.wait(30.0)

    HeldStore.turns, HeldStore.free = threading.Semaphore(0), threading.Event()
    with contextlib.closing(HeldStore.from_url(redis_url)) as store:
        coordinator = build(process, Numbers(100), store=store).start()
        assert HeldStore.turns.acquire(timeout=10.0)
        with ThreadPoolExecutor(1) as pool:
            stopping = pool.submit(coordinator.stop)
            wait_until(lambda: partitions.leader() is None, 5.0, "the stop to be under way")
            assert partitions.get_partition_stats().held == 3
            began = Clock().monotonic()
            HeldStore.free.set()
            assert stopping.result(20.0) is True
            seconds = Clock().monotonic() - began
    stats = partitions.get_partition_stats()
    assert (stats.held, stats.completed) == (0, 0) and not started
    assert all(p.deliveries == p.attempt == 0 for p in partitions.get_all_partitions())
    assert seconds < 2.0


# ---------------------------------------------------------------- wait_idle


def test_wait_idle_times_out_while_something_runs_and_ends_when_it_is_done(build: Build) -> None:
    go = threading.Event()
    coordinator = build(Counting(lambda ctx: go.wait(20.0)), Numbers(10)).start()
    assert coordinator.wait_idle(0.3) is False
    go.set()
    assert coordinator.wait_idle(20.0) is True


def test_wait_idle_waits_for_a_retry_that_is_due_later(build: Build) -> None:
    tries: List[float] = []

    def process(ctx: Any, min_id: int, max_id: int, options: Any) -> None:
        tries.append(Clock().monotonic())
        if len(tries) == 1:
            raise ValueError("once")

    coordinator = build(process, Numbers(10), retry_backoff=(1.0, 1.0)).start()
    wait_until(lambda: tries, 10.0, "the first attempt")
    assert coordinator.wait_idle(20.0) is True
    assert len(tries) == 2 and tries[1] - tries[0] >= 0.8


def test_wait_idle_sees_what_the_planner_found_meanwhile(build: Build) -> None:
    work, planner = Counting(), Numbers(50)
    # Rounds come by themselves only once a minute: wait_idle must ask for one.
    coordinator = build(work, planner, allocation_interval=60.0).start()
    for last in (50, 120, 500):
        planner.last = last
        assert coordinator.wait_idle(10.0)
        assert dict(work.seen) == once_each(last)


def test_wait_idle_ends_when_the_coordinator_is_stopped(build: Build) -> None:
    go = threading.Event()
    coordinator = build(Counting(lambda ctx: go.wait(20.0)), Numbers(1000)).start()
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(coordinator.wait_idle)
        wait_until(lambda: coordinator.health().in_flight, 10.0, "work to run")
        stopping = pool.submit(coordinator.stop)
        wait_until(lambda: coordinator.health().state == "draining", 5.0, "the drain to begin")
        go.set()
        assert stopping.result(10.0) is True
        assert waiting.result(10.0) is False


# ---------------------------------------------------------------- health, listeners, HTTP


def test_health_before_during_and_after(build: Build) -> None:
    coordinator = build(Counting(), Numbers(100))
    new = coordinator.health()
    assert (new.state, new.ready, new.healthy, new.accepted, new.store_age) == ("new", False, False, False, None)
    assert not any(role.alive for role in new.roles)
    coordinator.start()
    assert coordinator.wait_idle(20.0)
    now = coordinator.health()
    assert (now.state, now.ready, now.healthy, now.accepted, list(now.problems)) == ("running", True, True, True, [])
    assert now.is_leader and now.term and now.window_size == 3 and now.in_flight == 0 and now.uptime > 0
    assert now.store_age is not None and now.store_age < 3.0 and now.store_error is None
    assert {role.name for role in now.roles} == {
        "heartbeat", "claimer", "allocator", "recovery", "commands", "archiver", "election", "wakeup", "journal",
    }  # fmt: skip
    assert all(role.alive and role.last_error is None for role in now.roles)
    coordinator.stop()
    after = coordinator.health()
    assert (after.state, after.ready, after.healthy, after.is_leader) == ("stopped", False, False, False)
    assert not any(role.alive for role in after.roles)
    assert after.to_dict()["problems"]


def test_listeners_hear_the_whole_story_in_order(build: Build) -> None:
    events = Recorder()
    coordinator = build(Counting(), Numbers(100), listeners=(events,)).start()
    assert coordinator.wait_idle(20.0)
    assert coordinator.stop() is True
    kinds = [event.kind for event in events.events]
    assert kinds.count("started") == kinds.count("stopped") == 1
    assert kinds.index("started") < kinds.index("stopped") == len(kinds) - 1
    assert kinds.count("became_leader") == kinds.count("stepped_down") == 1
    for kind in ("task_started", "task_finished", "partition_completed"):
        assert sorted(event.partition_id for event in events.of(kind)) == list(range(1, 11)), kind
    for partition_id in range(1, 11):
        own = [event.kind for event in events.events if event.facts.get("partition_id") == partition_id]
        assert own == ["task_started", "task_finished", "partition_completed"]
    assert sum(event.created for event in events.of("planned")) == 10
    assert all(event.namespace == coordinator.namespace and event.at > 1e9 for event in events.events)
    (stopped,) = events.of("stopped")
    assert stopped.clean is True and 0 <= stopped.seconds < 5.0
    (started,) = events.of("started")
    assert started.lease == 3.0 and started.recovery_bound >= 3.0


def test_the_last_event_is_heard_however_short_the_life(build: Build) -> None:
    for _ in range(15):
        events = Recorder()
        build(Counting(), None, listeners=(events,)).start().stop()
        assert [event.kind for event in events.events if event.kind in ("started", "stopped")] == ["started", "stopped"]


def test_a_listener_that_raises_or_blocks_holds_up_no_work(build: Build, caplog: pytest.LogCaptureFixture) -> None:
    go = threading.Event()

    class Broken(Recorder):
        def on_task_started(self, event: Any) -> None:
            raise RuntimeError("a broken listener")

        def on_partition_completed(self, event: Any) -> None:
            go.wait(20.0)

    good, work = Recorder(), Counting()
    coordinator = build(work, Numbers(200), listeners=(Broken(), good)).start()
    assert coordinator.wait_idle(20.0)
    assert dict(work.seen) == once_each(200)
    go.set()
    wait_until(lambda: len(good.of("partition_completed")) == 20, 10.0, "the other listener to hear all")
    assert "a broken listener" in caplog.text


def test_a_taken_metrics_port_is_a_warning_an_event_and_no_address(
    build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        events, work = Recorder(), Counting()
        coordinator = build(work, Numbers(100), metrics_enabled=True, metrics_addr=address, listeners=(events,)).start()
        assert coordinator.wait_idle(20.0)
        assert coordinator.http_address is None and coordinator.health().http_address is None
        assert coordinator.health().ready
        (event,) = events.of("http_unavailable")
        assert event.address == address and event.error
        warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert any("no port for metrics" in record.getMessage() for record in warnings)
        assert dict(work.seen) == once_each(100)


def test_metrics_and_readiness_are_served_until_stop(build: Build) -> None:
    coordinator = build(Counting(), Numbers(100), metrics_enabled=True, metrics_addr="127.0.0.1:0").start()
    assert coordinator.wait_idle(20.0)
    assert coordinator.http_address is not None
    for path in ("/metrics", "/health", "/ready"):
        with urllib.request.urlopen("http://%s%s" % (coordinator.http_address, path), timeout=5.0) as answer:
            assert answer.status == 200
    coordinator.stop()
    with pytest.raises(OSError):
        urllib.request.urlopen("http://%s/health" % coordinator.http_address, timeout=5.0)


def test_the_registration_says_already_where_to_scrape_the_worker(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = build(Counting(), metrics_enabled=True, metrics_addr="127.0.0.1:0")
    with monkeypatch.context() as patch:
        # No second beat.
        patch.setattr(coordinator._crew, "start", lambda: None)
        coordinator.start()
    (worker,) = coordinator.strategy.workers()
    assert worker.info["http"] == coordinator.http_address is not None


def test_a_start_that_fails_keeps_no_port(build: Build) -> None:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with contextlib.closing(RedisDataStore.from_url("redis://127.0.0.1:1/0", timeout=0.2)) as nowhere:
        coordinator = build(store=nowhere, metrics_enabled=True, metrics_addr="127.0.0.1:%d" % port)
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                coordinator.start()
            assert coordinator.http_address is None
            with contextlib.closing(socket.socket()) as probe:
                probe.bind(("127.0.0.1", port))


def test_no_connection_is_left_after_stop(build: Build, raw: Any) -> None:
    # The store given to us stays open; what the coordinator opened beside it does not.
    coordinator = build(Counting(), Numbers(100)).start()
    assert coordinator.wait_idle(20.0)

    def ours() -> List[Any]:
        return [client for client in raw.client_list() if client["name"].endswith(coordinator.namespace)]

    assert ours()
    assert coordinator.stop() is True
    wait_until(lambda: not ours(), 5.0, lambda: "no connection of ours: %s" % ours())


# ---------------------------------------------------------------- pause


def test_a_paused_namespace_runs_on_but_claims_nothing(build: Build, raw: Any, namespace: str, partitions: Any) -> None:
    raw.hset(meta(namespace), "paused", "1")
    work = Counting()
    coordinator = build(work, Numbers(200)).start()
    wait_until(lambda: coordinator.stats().pending > 0, 10.0, "a plan")
    assert coordinator.health().paused and coordinator.is_leader
    assert not coordinator.wait_idle(1.0)
    assert not work.seen and coordinator.stats().held == 0
    raw.hdel(meta(namespace), "paused")
    assert coordinator.wait_idle(10.0)
    assert dict(work.seen) == once_each(200)
    assert not coordinator.health().paused


def test_a_pause_at_run_time_holds_within_a_heartbeat_and_what_runs_ends(
    build: Build, raw: Any, namespace: str
) -> None:
    step = threading.Semaphore(0)
    work = Counting(lambda ctx: step.acquire(timeout=20.0))
    coordinator = build(work, Numbers(200), task_window_size=2).start()
    wait_until(lambda: coordinator.health().in_flight == 2, 10.0, "work to run")
    raw.hset(meta(namespace), "paused", "1")
    wait_until(lambda: coordinator.health().paused, 2.0, "the worker to hear of the pause")
    for _ in range(20):
        step.release()
    wait_until(lambda: coordinator.stats().held == 0, 5.0, "what ran to end and be reported")
    assert sum(work.workers.values()) == coordinator.stats().completed == 2
    for _ in range(200):
        step.release()
    raw.hdel(meta(namespace), "paused")
    assert coordinator.wait_idle(20.0)
    assert dict(work.seen) == once_each(200)


# ---------------------------------------------------------------- a namespace that refuses


@pytest.mark.parametrize(
    "field, value, reason",
    [
        ("strategy", "simple", "runs strategy 'simple', this worker is configured for 'hash'"),
        ("schema", "2", "written with schema 2, this library reads 0 and 1"),
    ],
)
def test_a_namespace_of_another_kind_refuses_us_with_the_reason(
    build: Build, raw: Any, namespace: str, field: str, value: str, reason: str
) -> None:
    raw.hset(meta(namespace), mapping={"strategy": "hash", "schema": "1", field: value})
    before = {key: raw.dump(key) for key in raw.keys("*")}
    work = Counting()
    coordinator = build(work, Numbers(100))
    for require_store in (True, False):
        with pytest.raises(ConfigError, match=reason):
            coordinator.start(require_store=require_store)
        assert_no_threads(coordinator)
        assert coordinator.health().state == "new"
    assert {key: raw.dump(key) for key in raw.keys("*")} == before
    # Mended, the same object starts.
    raw.hset(meta(namespace), mapping={"strategy": "hash", "schema": "1"})
    coordinator.start()
    assert coordinator.wait_idle(20.0)
    assert dict(work.seen) == once_each(100)


def test_a_namespace_one_schema_older_is_read(build: Build, raw: Any, namespace: str) -> None:
    raw.hset(meta(namespace), mapping={"strategy": "hash", "schema": "0"})
    work = Counting()
    assert build(work, Numbers(100)).start().wait_idle(20.0)
    assert dict(work.seen) == once_each(100)


# ---------------------------------------------------------------- a store that cannot be had


def timed_failure(call: Callable[[], Any]) -> Tuple[BaseException, float]:
    """Run *call*, which must fail with an error of ours; return it and the seconds it took."""
    clock = Clock()
    began = clock.monotonic()
    try:
        call()
    except Exception as exc:
        assert type(exc).__module__.startswith("elk_coordinator"), exc
        return exc, clock.monotonic() - began
    raise AssertionError("it did not fail")


def assert_plain(exc: BaseException) -> None:
    """Whatever the driver's words, the message is one line without its classes and addresses of objects."""
    assert "\n" not in str(exc) and "redis.exceptions" not in str(exc) and "object at 0x" not in str(exc), str(exc)


@pytest.mark.parametrize(
    "url",
    ["localhost:6379", "http://localhost", "redis://", "redis://localhost:port/0", "redis+sentinel://a:1", "", None],
)
def test_a_bad_url_is_refused_where_it_is_written(url: Any) -> None:
    exc, seconds = timed_failure(lambda: RedisDataStore.from_url(url))
    assert isinstance(exc, ConfigError) and seconds < 1.0
    assert_plain(exc)


def test_a_wrong_password_is_a_clear_error_and_the_right_one_starts(
    new_server: Callable[..., EmbeddedServer], namespace: str
) -> None:
    server = new_server(password="correct horse")
    wrong = server.url.replace("correct", "wrong")
    for url in (wrong, wrong.replace(":wrong%20horse@", "")):
        with contextlib.closing(RedisDataStore.from_url(url)) as store:
            coordinator = Coordinator(namespace, store, Counting(), Numbers(10), **QUICK)
            for require_store in (True, False):
                exc, seconds = timed_failure(lambda r=require_store, c=coordinator: c.start(require_store=r))
                assert isinstance(exc, StoreError) and not isinstance(exc, StoreUnavailable)
                assert "check user, password and ACL" in str(exc) and "horse" not in str(exc)
                assert_plain(exc)
                assert seconds < 5.0
            assert_no_threads(coordinator)
    with contextlib.closing(RedisDataStore.from_url(server.url)) as store:
        with Coordinator(namespace, store, Counting(), Numbers(10), **QUICK) as coordinator:
            assert coordinator.wait_idle(20.0)


@contextlib.contextmanager
def listener(backlog: int = 16) -> Iterator[int]:
    """Give the port of a server that accepts connections and never says a word."""
    with contextlib.closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(backlog)
        yield silent.getsockname()[1]


@pytest.mark.parametrize("how", ["nothing listens", "never answers", "no such host"])
def test_a_store_that_cannot_be_reached_is_a_clear_error_within_5_seconds(build: Build, how: str) -> None:
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(listener())
        if how == "nothing listens":
            stack.close()
        host = "no-such-host.invalid" if how == "no such host" else "127.0.0.1"
        store = stack.enter_context(contextlib.closing(RedisDataStore.from_url("redis://%s:%d/0" % (host, port))))
        coordinator = build(Counting(), Numbers(10), store=store)
        exc, seconds = timed_failure(coordinator.start)
        print("%s: %.2f s: %s" % (how, seconds, exc))
        assert isinstance(exc, StoreUnavailable)
        assert_plain(exc)
        assert seconds < 5.0
        assert_no_threads(coordinator)
        assert coordinator.health().state == "new"
        assert coordinator.stop() is True


def test_the_same_object_starts_once_the_server_is_up(build: Build, new_server: Callable[..., EmbeddedServer]) -> None:
    server = new_server()
    with contextlib.closing(RedisDataStore.from_url(server.url, timeout=0.5)) as store:
        server.kill()
        work = Counting()
        coordinator = build(work, Numbers(100), store=store)
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                coordinator.start()
        server.restart()
        assert coordinator.start().wait_idle(20.0)
        assert dict(work.seen) == once_each(100)
        coordinator.stop()


def test_without_require_store_it_starts_waits_and_works_once_the_server_is_up(
    build: Build, new_server: Callable[..., EmbeddedServer]
) -> None:
    server = new_server()
    with contextlib.closing(RedisDataStore.from_url(server.url, timeout=1.0)) as store:
        server.kill()
        work, events = Counting(), Recorder()
        coordinator = build(work, Numbers(100), store=store, listeners=(events,))
        coordinator.start(require_store=False)
        wait_until(lambda: events.of("store_unavailable"), 5.0, "the outage to be told")
        health = coordinator.health()
        assert (health.state, health.healthy, health.ready, health.accepted) == ("running", True, False, False)
        assert any("not accepted" in problem for problem in health.problems)
        assert coordinator.wait_idle(0.5) is False
        assert not coordinator.is_leader and not work.seen
        server.restart()
        assert coordinator.wait_idle(20.0)
        assert dict(work.seen) == once_each(100)
        wait_until(lambda: coordinator.health().ready, 5.0, lambda: str(coordinator.health().problems))
        assert len(events.of("store_unavailable")) == len(events.of("store_recovered")) == 1
        coordinator.stop()


def test_without_require_store_a_namespace_that_refuses_later_is_never_worked_on(
    build: Build, new_server: Callable[..., EmbeddedServer], namespace: str
) -> None:
    server = new_server(persistence="aof")
    with contextlib.closing(redis.Redis.from_url(server.url)) as raw:
        raw.hset(meta(namespace), mapping={"strategy": "simple", "schema": "1"})
    with contextlib.closing(RedisDataStore.from_url(server.url, timeout=0.5)) as store:
        server.kill()
        work = Counting()
        coordinator = build(work, Numbers(100), store=store).start(require_store=False)
        server.restart()

        def told() -> bool:
            beat = [role for role in coordinator.health().roles if role.name == "heartbeat"][0]
            return "runs strategy 'simple'" in (beat.last_error or "")

        wait_until(told, 10.0, "health to tell why")
        assert not coordinator.health().accepted and not coordinator.health().ready

        def turned() -> bool:
            claimer = [role for role in coordinator.health().roles if role.name == "claimer"][0]
            return claimer.last_ok_age is not None and claimer.last_error is None

        wait_until(turned, 10.0, "the claimer to have had its turn")
        assert not coordinator.is_leader and not work.seen
        with contextlib.closing(redis.Redis.from_url(server.url)) as raw:
            assert raw.keys("*") == [meta(namespace).encode()]
        coordinator.stop()


def test_a_store_that_goes_away_is_told_once_and_stop_still_ends_in_time(
    build: Build, new_server: Callable[..., EmbeddedServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = new_server()
    with contextlib.closing(RedisDataStore.from_url(server.url, timeout=1.0)) as store:
        events = Recorder()
        coordinator = build(Counting(), Numbers(100), store=store, listeners=(events,)).start()
        assert coordinator.wait_idle(20.0)
        server.kill()
        wait_until(lambda: events.of("store_unavailable"), 10.0, "the outage to be told")
        wait_until(lambda: not coordinator.is_leader, 5.0, "the trust in the term to run out")
        wait_until(lambda: not coordinator.health().ready, 10.0, "readiness to fail")
        assert coordinator.health().store_error
        began = Clock().monotonic()
        coordinator.stop(1.0)
        assert Clock().monotonic() - began < 1.0 + 2.0
        assert len(events.of("store_unavailable")) == 1
        assert [r.levelname for r in caplog.records if "does not answer" in r.getMessage()] == ["ERROR"]


def test_a_user_who_may_not_subscribe_works_by_polling_and_that_is_no_outage(
    build: Build, raw: Any, redis_url: str, caplog: pytest.LogCaptureFixture, namespace: str
) -> None:
    raw.execute_command("ACL", "SETUSER", namespace, "on", ">secret", "~elk:*", "resetchannels", "+@all", "-subscribe")
    try:
        url = redis_url.replace("redis://", "redis://%s:secret@" % namespace)
        with contextlib.closing(RedisDataStore.from_url(url)) as store:
            work, events = Counting(), Recorder()
            coordinator = build(work, Numbers(100), store=store, listeners=(events,)).start()
            assert coordinator.wait_idle(20.0)
            wait_until(lambda: "no wake-ups from the store" in caplog.text, 5.0, "the warning")
            wait_until(lambda: len(events.of("heartbeat")) >= 3, 5.0, "some beats")
            assert dict(work.seen) == once_each(100)
            assert coordinator.health().ready, coordinator.health().problems
            assert not events.of("store_unavailable") and not events.of("role_died")
            assert [r.levelname for r in caplog.records if "wake-ups" in r.getMessage()] == ["WARNING"]
            coordinator.stop()
    finally:
        raw.execute_command("ACL", "DELUSER", namespace)


# ---------------------------------------------------------------- the store forgets


def test_an_idle_fleet_notices_every_time_that_the_store_lost_its_data(
    build: Build, raw: Any, caplog: pytest.LogCaptureFixture
) -> None:
    # Whoever comes first after the loss - a beat, a claim, an election - must not hide it from the rest.
    events, work = Recorder(), Counting()
    head = build(work, Numbers(40), listeners=(events,), leader_lock_expiry=1.0).start()
    hands = [build(work, None, listeners=(events,)).start() for _ in range(2)]
    assert head.wait_idle(20.0) and all(hand.wait_idle(20.0) for hand in hands)
    rounds = 8
    for number in range(1, rounds + 1):
        token = max(work.tokens)
        raw.flushdb()
        wait_until(
            lambda n=number: len(events.of("store_lost_data")) >= n, 5.0, "loss %d of the data to be told" % number
        )
        wait_until(lambda n=number: sum(work.seen.values()) == 40 * (n + 1), 10.0, "the plan to run again")
        assert head.wait_idle(10.0)
        assert min(work.tokens[-4:]) > token
    lost = [record for record in caplog.records if "lost data" in record.getMessage()]
    assert len(lost) >= rounds and {record.levelname for record in lost} == {"ERROR"}
    print("%d losses, %d events" % (rounds, len(events.of("store_lost_data"))))
