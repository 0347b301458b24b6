"""The operator's commands of ``elk`` on what a fake service answers: words, documents, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from typing import Any, Callable, Dict, Iterator, List, Optional

import attr
import pytest

from elk_coordinator.cli import commands, partitions, status, workers
from elk_coordinator.cli.main import main
from elk_coordinator.errors import PartitionNotFound, StoreUnavailable
from elk_coordinator.model import Partition, PartitionFilter, PartitionStats, PartitionStatus, WorkerInfo
from elk_coordinator.partition.commands import CommandStatus
from elk_coordinator.runtime.clock import Clock

STATS = PartitionStats(
    total=2000, pending=10, claimed=1, running=2, completed=1986, failed=1, completion_rate=0.993,
    last_allocated_id=10**15,
)  # fmt: skip
TRACE = '  File "work.py", line 7, in process\n    pay(card)\nValueError: no luck\n'
NOW = 1_790_000_000.0


def command_status(state: str = "done", **more: Any) -> CommandStatus:
    values: Dict[str, Any] = {
        "command_id": "c1", "kind": "retry_failed", "args": {}, "state": state, "by": "ops@host",
        "submitted_at": NOW - 12.0, "updated_at": NOW,
    }  # fmt: skip
    return CommandStatus(**dict(values, **more))


class Fake:
    """A namespace: the operator's service, its strategy and its store in one."""

    namespace = "orders"

    def __init__(self) -> None:
        self.asked: List[Any] = []
        self.filters: List[PartitionFilter] = []
        self.state: Dict[str, Any] = {
            "namespace": "orders", "strategy": "simple", "paused": False, "leader": None,
            "partitions": attr.asdict(PartitionStats()), "workers": 0, "commands": 0,
        }  # fmt: skip
        self.fleet: List[WorkerInfo] = []
        self.lead: Optional[Any] = None
        self.found: List[Partition] = []
        self.newest: List[CommandStatus] = []
        self.outcome: Any = command_status()
        self.waited: List[float] = []
        self.strategy = self.store = self

    def __getattr__(self, name: str) -> Callable[..., str]:
        if name not in ("retry_failed", "pause", "resume", "cancel", "release"):
            raise AttributeError(name)
        return lambda *args: self.asked.append((name, *args)) or "c1"

    def wait(self, command_id: str, timeout: float) -> CommandStatus:
        assert command_id == "c1"
        self.waited.append(timeout)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome  # type: ignore[no-any-return]

    def status(self) -> Dict[str, Any]:
        return self.state

    def commands(self, limit: int) -> List[CommandStatus]:
        return self.newest[:limit]

    def workers(self) -> List[WorkerInfo]:
        return self.fleet

    def leader(self) -> Any:
        return self.lead

    def now(self) -> float:
        return NOW

    def get_partition(self, partition_id: int) -> Partition:
        for partition in self.found:
            if partition.partition_id == partition_id:
                return partition
        raise PartitionNotFound(partition_id)

    def get_filtered_partitions(self, wanted: PartitionFilter) -> List[Partition]:
        self.filters.append(wanted)
        return self.found[: wanted.limit]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    for name in list(os.environ):
        if name.startswith("ELK_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ELK_NAMESPACE", "orders")
    made = Fake()

    @contextlib.contextmanager
    def opened(args: argparse.Namespace) -> Iterator[Any]:
        yield made

    for module, name in (
        (status, "open_admin"), (commands, "open_admin"), (partitions, "open_strategy"), (workers, "open_strategy"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, opened)
    return made


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit):
        main(list(argv))
    return capsys.readouterr().err


def told(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> str:
    assert main(list(argv)) == code
    return capsys.readouterr().out


# -- status


def test_a_status_is_shown_again_until_ctrl_c(
    fake: Fake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: List[float] = []

    def wait(clock: Clock, event: Any, pause: float) -> None:
        pauses.append(pause)
        if len(pauses) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Clock, "wait", wait)
    assert told(capsys, "status", "--watch", "0.5").count("namespace   orders") == 3 == len(pauses)
    assert set(pauses) == {0.5}
    for wrong in ("0", "nan", "soon"):
        assert "--watch" in refused(capsys, "status", "--watch", wrong)


def test_status_shows_counts_leader_workers_and_commands(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.state.update(
        paused=True, commands=2, partitions=attr.asdict(STATS),
        leader={"worker_id": "host-2", "term": 1790000000000000, "lease_remaining": 17.3},
    )  # fmt: skip
    info = {"window": 5, "in_flight": 3, "http": "127.0.0.1:9464", "state": "running", "breaker": "open",
            "breaker_trips": 2, "breaker_reason": "3 failures in a row,\nlast: OSError: \x1b[2Jdown\n"}  # fmt: skip
    fake.fleet = [WorkerInfo("host-2", 21.0, info), WorkerInfo("host-1", 4.25)]
    fake.newest = [command_status("queued"), command_status("failed", kind="create", done=2, error="a: taken\nmore")]
    text = told(capsys, "status", "--redis", "redis://:hunter2@localhost/0")
    assert "hunter2" not in text
    for words in (
        "orders (simple) on",
        "nothing is claimed until 'elk resume'",
        "host-2 (term 1790000000000000",
        "2,000: 10 pending",
        "1 failed (99.3 %",
        "ID 1000000000000000",
        "2 waiting\n",
        "the circuit breaker of 1 worker is not closed",
        "2 trips so far: 3 failures in a row, last: OSError: [2Jdown\n",
    ):
        assert words in text
    queued, failed = [line.split() for line in text.splitlines() if "ops@host" in line]
    assert queued == "retry_failed queued by ops@host 12 s ago".split()
    assert failed == "create failed 2 changed by ops@host 12 s ago a: taken".split()
    first, second = text.splitlines()[-2:]
    assert first.startswith("  host-1") and second.startswith("  host-2")
    assert "3 of 5 running" in second
    assert "breaker open" in second


def test_status_of_nothing_says_so(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "status")
    for words in ("none planned", "leader      none", "none waiting", "workers     0\n"):
        assert words in text
    assert "paused" not in text
    fake.state["commands"] = 1
    assert "1 waiting; they are carried out when there is a leader" in told(capsys, "status")


def test_status_json_is_one_document(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    leader = {"worker_id": "w", "term": 2**52 + 1, "lease_remaining": 1.5}
    fake.state.update(leader=leader, partitions=attr.asdict(STATS), commands=1)
    fake.fleet = [WorkerInfo("w", 3.0, {"pid": 7})]
    fake.newest = [command_status("queued")]
    document = json.loads(told(capsys, "status", "--json"))
    assert document["leader"] == leader and document["strategy"] == "simple" and document["paused"] is False
    assert document["partitions"]["completed"] == 1986
    assert document["workers"] == [{"worker_id": "w", "remaining": 3.0, "info": {"pid": 7}}]
    assert document["commands"] == 1 and document["newest_commands"][0]["command_id"] == "c1"


# -- workers


def test_workers_are_listed_with_load_and_breaker(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    info = {
        "window": 5, "in_flight": 3, "prefetched": 1, "hung": 0, "breaker": "half_open", "host": "h", "pid": 7,
        "version": "0.1", "http": "127.0.0.1:9464", "state": "running",
    }  # fmt: skip
    fake.fleet = [WorkerInfo("b", 21.0, info), WorkerInfo("a", 4.0)]
    fake.lead = ("b", 1, 2.0)
    heading, first, second, mark = told(capsys, "workers").splitlines()
    assert heading.split()[:3] == ["WORKER", "STATE", "RUNNING"]
    assert first.split() == ["a", "-", "-", "-", "-", "off", "-", "-", "-", "-", "4.0", "s"]
    assert second.split() == "b * running 3 of 5 1 0 half_open h 7 0.1 127.0.0.1:9464 21 s".split()
    assert mark == "* leads; load as of each worker's last heartbeat"
    document = json.loads(told(capsys, "workers", "--json"))
    assert document["leader"] == "b" and [worker["worker_id"] for worker in document["workers"]] == ["a", "b"]


def test_no_workers_is_said(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "workers") == "orders has no live workers\n"
    assert json.loads(told(capsys, "workers", "--json"))["workers"] == []


# -- partitions


def test_partitions_are_filtered_and_the_next_page_is_named(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.found = [
        Partition(3, -5, 2**62, PartitionStatus.FAILED, "w1", attempt=3, deliveries=1, processed=9, error=TRACE,
                  updated_at=NOW - 30.0),
        Partition(4, 8, 9, retry_at=NOW + 5.0, updated_at=NOW + 1.0),
    ]  # fmt: skip
    text = told(
        capsys, "partitions", "--status", "failed,pending", "--status", "RUNNING", "--worker", "w1", "--min", "2",
        "--max", "9", "--after", "1", "--limit", "2", "--archived", "--stale", "1.5",
    )  # fmt: skip
    heading, first, second, more = text.splitlines()
    assert heading.startswith("ID")
    assert first.split() == "3 [-5, 4611686018427387904] failed w1 3 1 9 30 s ago ValueError: no luck".split()
    assert second.split() == "4 [8, 9] pending in 5.0 s - 0 0 0 0.0 s ago".split()
    assert more == "there may be more: --after 4"
    assert fake.filters == [
        PartitionFilter(
            statuses=(PartitionStatus.FAILED, PartitionStatus.PENDING, PartitionStatus.RUNNING),
            worker_id="w1",
            stale_for=1.5,
            min_partition_id=2,
            max_partition_id=9,
            include_archived=True,
            after=1,
            limit=2,
        )
    ]
    document = json.loads(told(capsys, "partitions", "--json", "--limit", "2"))
    assert document["next_after"] == 4 and document["partitions"][0]["max_id"] == 2**62
    document = json.loads(told(capsys, "partitions", "--json"))
    assert document["next_after"] is None and fake.filters[-1] == PartitionFilter(limit=50)


def test_one_partition_is_shown_whole(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.found = [
        Partition(3, 1, 9, PartitionStatus.FAILED, "w1", error=TRACE, updated_at=NOW - 30.0, options={"a": 1}),
        Partition(4, 10, 19),
    ]
    text = told(capsys, "partitions", "3")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "status failed" in lines and "options {'a': 1}" in lines and "checkpoint -" in lines
    assert "updated_at 1789999970.000 (30 s ago)" in lines
    assert "pay(card)" in lines and lines[-1] == "ValueError: no luck"
    assert "\n\n" in told(capsys, "partitions", "3", "4")
    document = json.loads(told(capsys, "partitions", "3", "--json"))
    assert [p["error"] for p in document["partitions"]] == [TRACE]
    assert main(["partitions", "8"]) == 1
    assert "partition 8 does not exist" in capsys.readouterr().err


def test_no_match_is_said(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "partitions", "--status", "failed") == "no partition of orders matches\n"


@pytest.mark.parametrize(
    "argv, words",
    [
        (["partitions", "--status", "lost"], "known are pending, claimed"),
        (["partitions", "--limit", "0"], "limit"),
        (["partitions", "--after", "-1"], "after"),
        (["partitions", "--stale", "nan"], "stale_for"),
        (["partitions", "3", "--limit", "5"], "--limit chooses"),
        (["partitions", "3", "--status", "failed"], "--status chooses"),
        (["retry"], "Give their ids, or --all"),
        (["retry", "3", "--all"], "not both"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(
    fake: Fake, argv: List[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("elk: ") and words in line
    assert fake.asked == [] and fake.filters == []


# -- commands


@pytest.mark.parametrize(
    "argv, asked",
    [
        (["retry", "--all"], ("retry_failed", None)),
        (["retry", "3", "5"], ("retry_failed", [3, 5])),
        (["pause"], ("pause",)),
        (["resume"], ("resume",)),
        (["cancel", "7"], ("cancel", 7)),
        (["release", "7"], ("release", 7)),
    ],
)
def test_a_command_is_queued_and_not_waited_for_unless_asked(
    fake: Fake, argv: List[str], asked: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    text = told(capsys, *argv)
    assert text == "command c1 is queued; the leader of orders carries it out\n"
    assert json.loads(told(capsys, *argv, "--json")) == {"command_id": "c1", "state": "queued", "namespace": "orders"}
    assert fake.waited == []
    assert told(capsys, *argv, "--wait", "2.5").startswith("command c1 (retry_failed) is done")
    assert fake.waited == [2.5] and fake.asked == [asked] * 3


def test_the_result_says_what_changed_and_what_was_left(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.outcome = command_status(done=2, result={"changed": 2, "skipped": [4, 5], "skipped_total": 2})
    text = told(capsys, "retry", "3", "4", "5", "--wait", "1")
    left = "left as they were (not failed when asked)"
    assert text == "command c1 (retry_failed) is done; 2 partitions changed; 2 %s: 4, 5\n" % left
    fake.outcome = command_status(result={"skipped": list(range(1000)), "skipped_total": 4000})
    text = told(capsys, "retry", "--all", "--wait", "1")
    assert "0 partitions changed; 4000 %s: 0, 1," % left in text and text.endswith("19, ...\n")
    fake.outcome = command_status(kind="cancel", done=1, result={"outcome": "it was running"})
    assert "1 partition changed; it was running" in told(capsys, "cancel", "3", "--wait", "1")
    for outcome, words in (("unchanged:completed", "; it is completed"), ("unknown", "; there is no such partition")):
        fake.outcome = command_status(kind="cancel", result={"outcome": outcome, "skipped": [3], "skipped_total": 1})
        assert "1 left as they were: 3" + words in told(capsys, "cancel", "3", "--wait", "1")
    fake.outcome = command_status(kind="cancel", done=1, result={"outcome": "it was running"})
    document = json.loads(told(capsys, "cancel", "3", "--wait", "1", "--json"))
    assert document["state"] == "done" and document["result"] == {"outcome": "it was running"}


def test_a_failed_command_exits_with_1(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.outcome = command_status("failed", error="partition 3 does\nnot exist")
    assert told(capsys, "retry", "3", "--wait", "1", code=1).endswith("; partition 3 does not exist\n")
    assert json.loads(told(capsys, "retry", "3", "--wait", "1", "--json", code=1))["state"] == "failed"


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_command_that_has_not_ended_exits_with_1_and_says_that_it_stays(
    fake: Fake, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.outcome = command_status(state, done=3)
    assert main(["retry", "--all", "--wait", "0.5"]) == 1
    out, err = capsys.readouterr()
    assert "is %s" % state in out and ("3 partitions changed" in out) == (state == "running")
    assert err.startswith("elk: not ended within 0.5 s; it stays queued")


def test_a_store_that_goes_away_while_waiting_leaves_the_id(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.outcome = StoreUnavailable("gone")
    assert main(["pause", "--wait", "1"]) == 1
    assert capsys.readouterr().err == "elk: command c1 is queued, what became of it is unknown: gone\n"


@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan", "x"])
def test_only_a_time_can_be_waited(fake: Fake, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["pause", "--wait", value])
    assert stop.value.code == 2 and fake.asked == []


@pytest.mark.parametrize("argv", [["cancel"], ["cancel", "x"], ["release", "1", "2"], ["retry", "x"], ["pause", "1"]])
def test_a_command_line_without_sense_exits_with_2(
    fake: Fake, argv: List[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2 and fake.asked == []
