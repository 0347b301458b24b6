"""A fleet of worker processes of one namespace, what they tell, and what must hold of it after every fault."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
from typing import Any, Callable, Counter, Dict, FrozenSet, Iterator, List, Optional, Sequence, Tuple

from elk_coordinator import PartitionStatus, RedisDataStore, StoreUnavailable, StrategyType, create_strategy
from elk_coordinator.partition.audit import verify
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.testing import wait_until
from tests.faults.journal import Journal, merged, overlaps

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLOCK = Clock()

#: The timing of every case that does not name another: leases of 3 s.
LEASE = 3.0
SHORT: Dict[str, Any] = {
    "heartbeat_interval": 1.0, "worker_ttl": LEASE, "leader_lock_expiry": LEASE, "allocation_interval": 1.0,
    "retry_backoff": [0.1, 0.5], "stop_timeout": 10.0, "metrics_enabled": False, "circuit_breaker": None,
}  # fmt: skip


def now() -> float:
    """Return the clock that the workers' ``t`` and the journal's ``at`` are of."""
    return CLOCK.monotonic()


class Worker:
    """One process. Everything it told is in :attr:`told`, oldest first."""

    def __init__(self, name: str, argv: Sequence[str], log: pathlib.Path, env: Dict[str, str], cwd: str) -> None:
        self.name = name
        self.log = log
        self.told: List[Dict[str, Any]] = []
        self.killed = False
        with open(str(log), "ab") as err:
            self.process = subprocess.Popen(
                list(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err, env=env, cwd=cwd,
                start_new_session=True,
            )  # fmt: skip
        self._reader = threading.Thread(target=self._read, name="reader-" + name, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                self.told.append(json.loads(line.decode("utf-8")))

    # -- what it told

    def of(self, kind: str, since: float = 0.0, **facts: Any) -> List[Dict[str, Any]]:
        """Return what it told of one kind, not before *since*, with these facts."""
        return [
            told for told in list(self.told)
            if told["event"] == kind and told["t"] >= since and all(told.get(k) == v for k, v in facts.items())
        ]  # fmt: skip

    def wait_for(self, kind: str, timeout: float = 20.0, since: float = 0.0, **facts: Any) -> Dict[str, Any]:
        """Wait until it tells this; return the first."""
        wait_until(
            lambda: self.of(kind, since, **facts) or self.process.poll() is not None, timeout,
            lambda: "%s of %s %s\n%s" % (kind, self.name, facts, self.tail()),
        )  # fmt: skip
        found = self.of(kind, since, **facts)
        assert found, "%s ended with %s before %s\n%s" % (self.name, self.process.returncode, kind, self.tail())
        return found[0]

    def tail(self) -> str:
        """Return the end of what it told and logged, for messages."""
        told = ["%.3f %s" % (e["t"], {k: v for k, v in e.items() if k != "t"}) for e in self.told[-12:]]
        return "\n".join([*told, self.log.read_text(errors="replace")[-3000:]])

    # -- what is done to it

    def say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word.encode("ascii") + b"\n")
        self.process.stdin.flush()

    def kill(self) -> float:
        """Kill it as the kernel does when memory runs out; return when."""
        self.killed = True
        at = now()
        self.process.kill()
        self.process.wait()
        return at

    def freeze(self) -> float:
        """Stop it where it stands; return when, once it has stopped."""
        self.process.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), "%s ended instead of freezing" % self.name
        return now()

    def thaw(self) -> float:
        self.process.send_signal(signal.SIGCONT)
        return now()

    def freeze_after_a_beat(self) -> float:
        """Freeze it with a lease that was renewed just now."""
        for _ in range(5):
            beat = self.wait_for("heartbeat", since=now(), ok=True)
            at = self.freeze()
            if at - beat["t"] < 0.4:
                return at
            self.thaw()
        raise AssertionError("too slow to freeze %s right after a beat" % self.name)

    def end(self, clean: bool = True, timeout: float = 20.0) -> Dict[str, Any]:
        """Have it drain; check that it ended well and left no thread; return what it told about it."""
        self.say("stop")
        return self.ended(clean, timeout)

    def ended(self, clean: bool = True, timeout: float = 20.0) -> Dict[str, Any]:
        ended = self.wait_for("ended", timeout)
        code = self.process.wait(timeout)
        assert ended["threads"] == [], ended
        assert ended["clean"] is clean and code == (0 if clean else 1), "%s: %s\n%s" % (self.name, ended, self.tail())
        return ended

    def dispose(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        # With the children it forked, which hold its pipes.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self._reader.join(10.0)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class Fleet:
    """The workers of one namespace, its journal, and a look at its partitions from outside."""

    def __init__(self, folder: pathlib.Path, url: str, namespace: str, last: int, size: int = 10) -> None:
        self.folder = folder / namespace
        self.folder.mkdir()
        self.url = url
        self.namespace = namespace
        self.last = last
        self.size = size
        self.workers: List[Worker] = []
        self.journal_path = str(self.folder / "journal.db")
        self.journal = Journal(self.journal_path, namespace)
        self.store = RedisDataStore.from_url(url, timeout=2.0)
        self.partitions = create_strategy(StrategyType.HASH, namespace, self.store)

    def start(
        self, name: str, work: Optional[Dict[str, Any]] = None, planner: Any = True, url: Optional[str] = None,
        options: Optional[Dict[str, Any]] = None, journal: bool = True, wait: bool = True, defaults: Any = SHORT,
        env: Optional[Dict[str, str]] = None, program: str = "worker.py", **config: Any,
    ) -> Worker:  # fmt: skip
        """Start a worker. *planner*: True for all IDs, False for none, or the configuration of ``Numbers``."""
        plan: Dict[str, Any] = {"blocks": [[1, self.last]], "size": self.size}
        if isinstance(planner, dict):
            plan.update(planner)
        document = dict(
            config, name=name, namespace=self.namespace, url=url or self.url, parent=os.getpid(),
            journal=self.journal_path if journal else None, work=work or {}, planner=plan if planner else None,
            options=dict(defaults, **(options or {})),
        )  # fmt: skip
        worker = self.launch(name, [sys.executable, str(ROOT / "tests" / "faults" / program)], **(env or {}))
        worker.say(json.dumps(document))
        if wait:
            worker.wait_for("up")
        return worker

    def launch(self, name: str, argv: Sequence[str], **variables: str) -> Worker:
        """Start any process as a member of the fleet."""
        env = {key: value for key, value in os.environ.items() if not key.startswith("ELK_")}
        env.update(variables, PYTHONPATH=str(ROOT), PYTHONDONTWRITEBYTECODE="1")
        worker = Worker(name, argv, self.folder / (name + ".log"), env, str(self.folder))
        self.workers.append(worker)
        return worker

    # -- what happens in it

    def told(self, kind: str, since: float = 0.0, **facts: Any) -> List[Dict[str, Any]]:
        """Return what any worker told of one kind, in order of time, each with the teller's name as ``by``."""
        found = [dict(told, by=worker.name) for worker in self.workers for told in worker.of(kind, since, **facts)]
        return sorted(found, key=lambda told: told["t"])

    def wait_told(self, kind: str, timeout: float = 20.0, since: float = 0.0, **facts: Any) -> Dict[str, Any]:
        """Wait until somebody tells this; return the first."""
        wait_until(lambda: self.told(kind, since, **facts), timeout, lambda: "%s %s\n%s" % (kind, facts, self.story()))
        return self.told(kind, since, **facts)[0]

    def story(self) -> str:
        with contextlib.suppress(StoreUnavailable):
            print(self.partitions.get_partition_stats())
        return "\n".join("--- %s\n%s" % (worker.name, worker.tail()) for worker in self.workers)

    def leader(self) -> Worker:
        """Return the worker that leads, once one does."""

        def find() -> Any:
            held = self.partitions.leader()
            alive = [w for w in self.workers if held and w.name == held[0] and w.process.poll() is None]
            return alive and alive[0]

        found: Worker = wait_until(find, 20.0, lambda: "a leader\n%s" % self.story())
        return found

    def done(self, failed: int = 0) -> bool:
        """Return whether everything planned so far up to the last ID has ended."""
        try:
            stats = self.partitions.get_partition_stats()
        except StoreUnavailable:
            return False
        return stats.last_allocated_id == self.last and stats.open == 0 and stats.failed == failed

    def completed(self) -> int:
        return self.partitions.get_partition_stats().completed

    def wait_completed(self, number: int, timeout: float = 20.0) -> None:
        wait_until(lambda: self.completed() >= number, timeout, lambda: "%d completed\n%s" % (number, self.story()))

    def wait_done(self, timeout: float = 30.0, failed: int = 0) -> float:
        """Wait for the end of the work; return when it was seen."""
        wait_until(lambda: self.done(failed), timeout, lambda: "the end of the work\n%s" % self.story())
        return now()

    def end(self) -> List[Dict[str, Any]]:
        """Drain every worker that still runs, all at once; return what they told about it."""
        running = [worker for worker in self.workers if worker.process.poll() is None]
        for worker in running:
            worker.say("stop")
        return [worker.ended() for worker in running]

    def dispose(self) -> None:
        for worker in self.workers:
            worker.dispose()
        self.journal.close()
        self.store.close()

    # -- what must hold

    def check(
        self, failed: FrozenSet[int] = frozenset(), skipped: Sequence[Tuple[int, int]] = (), fresh_plan: bool = False
    ) -> "Tally":
        """Check what must hold after every fault: nothing lost, nothing twice behind the fence, tokens rose.

        :param failed: ids of the partitions that must rest as failed.
        :param fresh_plan: the store lost its data: what workers told of the plan before it is not in the store.
        """
        report = verify(self.partitions)
        assert report.problems == [], report.problems
        assert self.partitions.planned_intervals() == [(1, self.last)]
        assert self.partitions.skipped_intervals() == list(skipped)
        partitions = {p.partition_id: p for p in self.partitions.get_all_partitions()}
        for p in partitions.values():
            wanted = PartitionStatus.FAILED if p.partition_id in failed else PartitionStatus.COMPLETED
            assert p.status is wanted, "partition %d is %s: %s" % (p.partition_id, p.status.value, p.error)
        assert failed <= set(partitions)

        self.check_tokens()
        attempts = self.journal.attempts()
        newest: Dict[Tuple[int, int], int] = {}
        for attempt in attempts:
            newest[attempt.lo, attempt.hi] = attempt.token
        # One whose last checkpoint was at its end is completed by the next holder without an attempt: then an earlier
        # one has applied its effects to the end.
        made = {attempt.token for attempt in attempts}
        to_the_end = {(high, token) for _, high, token, _ in self.journal.applied_by()}
        wrong = []
        for p in partitions.values():
            token = newest.get((p.min_id, p.max_id))
            if p.status is PartitionStatus.COMPLETED and newest and token != p.fencing_token:
                later = token is None or token > p.fencing_token or p.fencing_token in made
                if later or not any(high == p.max_id and by < p.fencing_token for high, by in to_the_end):
                    wrong.append(p.partition_id)
        assert wrong == [], "completed by another token than the newest one: partitions %s" % wrong

        accepted: Counter[Any] = collections.Counter(
            told["partition_id"] for told in self.told("partition_completed")
            if not fresh_plan or partitions[told["partition_id"]].fencing_token == told["token"]
        )  # fmt: skip
        assert [p for p, times in accepted.items() if times > 1] == [], "completions accepted twice"

        applied = self.journal.applied()
        assert overlaps(applied) == [], "effects applied twice behind the fence"
        expected = merged([(p.min_id, p.max_id) for p in partitions.values() if p.status is PartitionStatus.COMPLETED])
        assert merged(applied) == expected or not attempts, "effects are missing: %s" % merged(applied)[:10]
        return Tally(
            partitions=len(partitions),
            attempts=len(attempts),
            rerun=len(attempts) - len({(a.lo, a.hi) for a in attempts}),
            repeated=self.journal.repeated_ids(),
            fence_refusals=len(self.journal.refusals()),
            refused=len(self.told("write_refused")),
            lost=len(self.told("lease_lost")),
            deliveries=sum(p.deliveries for p in partitions.values()),
        )

    def check_tokens(self) -> None:
        """Check that no token was given out twice, that each partition's and all terms rose."""
        attempts = self.journal.attempts()
        tokens = [attempt.token for attempt in attempts]
        assert len(set(tokens)) == len(tokens), "a token was given out twice"
        last: Dict[Tuple[int, int], int] = {}
        for attempt in attempts:
            before = last.get((attempt.lo, attempt.hi), 0)
            assert attempt.token > before, "tokens fell on [%d, %d]: %d after %d" % (
                attempt.lo, attempt.hi, attempt.token, before)  # fmt: skip
            last[attempt.lo, attempt.hi] = attempt.token
        terms = [told["term"] for told in self.told("became_leader")]
        assert terms == sorted(set(terms)), "terms fell: %s" % terms


class Tally(Dict[str, Any]):
    """What a case counted; prints as one line."""

    def __str__(self) -> str:
        return (
            "{partitions} partitions in {attempts} attempts; IDs written twice: {repeated} beside the fence, 0 behind "
            "it; refused: {fence_refusals} writes, {refused} reports; leases: {deliveries} ran out, {lost} told as lost"
        ).format(**self)


def meanwhile(done: Callable[[], bool], every: float, action: Callable[[], Any], timeout: float = 40.0) -> int:
    """Do *action* at the given rate until *done*; return how often."""
    clock, never, times = Clock(), threading.Event(), 0
    until = clock.monotonic() + timeout
    while not done():
        assert clock.monotonic() < until, "not done within %g s of %d disturbances" % (timeout, times)
        action()
        times += 1
        never.wait(every)
    return times


def let_pass(seconds: float, since: Optional[float] = None) -> None:
    """Let a fault last until *seconds* after *since* (default: now); not for waiting until something has happened."""
    until = (now() if since is None else since) + seconds
    never = threading.Event()
    while now() < until:
        never.wait(until - now())


@contextlib.contextmanager
def must_fail(what: str) -> Iterator[None]:
    """The control of a case: with its guard switched off, the check inside must fail, and for this reason."""
    try:
        yield
    except AssertionError as exc:
        assert what in str(exc), "the control failed for another reason: %s" % exc
        print("control: %s" % str(exc).splitlines()[0])
    else:
        raise AssertionError("the control did not fail: the case cannot see that %r" % what)
