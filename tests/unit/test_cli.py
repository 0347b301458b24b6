"""The command line without a server: parsing, messages, exit codes, and the parts that the demo is made of."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import socket
import sys
import threading
from types import SimpleNamespace
from typing import Any, Callable, Iterator, List, Optional

import attr
import pytest

from elk_coordinator.admin import telling
from elk_coordinator.cli import common, run, verify
from elk_coordinator.cli.common import UsageError
from elk_coordinator.cli.demo import worker as demo_worker
from elk_coordinator.cli.demo.database import SqliteDatabase, invoice, orders
from elk_coordinator.cli.demo.fence import RangeFence, StaleToken
from elk_coordinator.cli.demo.progress import RateMeter, Screen, Snapshot, progress_line
from elk_coordinator.cli.demo.settings import DemoSettings, check_sizes, order_ids, pick_unlucky, sizes
from elk_coordinator.cli.demo.story import Attention, Interrupted
from elk_coordinator.cli.loading import load
from elk_coordinator.cli.main import COMMANDS, build_parser, main
from elk_coordinator.errors import ConfigError, StateError, StoreError
from elk_coordinator.partition.audit import VerifyReport
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.runtime.signals import StopSignals, on_stop
from elk_coordinator.testing import ManualClock, wait_until
from elk_coordinator.version import __version__


@pytest.fixture(autouse=True)
def no_elk_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("ELK_"):
            monkeypatch.delenv(name)


def errors_of(capsys: pytest.CaptureFixture[str]) -> List[str]:
    return capsys.readouterr().err.splitlines()


# -- parsing


@pytest.mark.parametrize(
    "argv",
    [
        ["--namespace", "orders", "--redis", "redis://h:1/2", "--json", "status"],
        ["status", "--namespace", "orders", "--redis", "redis://h:1/2", "--json"],
        ["--namespace", "orders", "status", "--json", "--redis", "redis://h:1/2"],
        ["--namespace", "other", "status", "--namespace", "orders", "--redis", "redis://h:1/2", "--json"],
    ],
)
def test_common_options_may_stand_before_or_after_the_command(argv: List[str]) -> None:
    args = build_parser().parse_args(argv)
    assert (args.namespace, args.redis, args.json) == ("orders", "redis://h:1/2", True)


def test_namespace_and_url_come_from_the_environment_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELK_NAMESPACE", "from-env")
    monkeypatch.setenv("ELK_REDIS_URL", "redis://env:1/0")
    args = build_parser().parse_args(["status"])
    assert (common.namespace_of(args), common.redis_url_of(args)) == ("from-env", "redis://env:1/0")
    args = build_parser().parse_args(["status", "--namespace", "given", "--redis", "redis://given:1/0"])
    assert (common.namespace_of(args), common.redis_url_of(args)) == ("given", "redis://given:1/0")


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "--namespace" in text and "--redis" in text and "--json" in text


def test_no_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "which command" in errors_of(capsys)[-1]


@pytest.mark.parametrize("argv", [["nonsense"], ["status", "--nonsense"], ["run"]])
def test_a_wrong_command_line_exits_with_2(argv: List[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2


@pytest.mark.parametrize(
    "argv, words",
    [
        (["status"], "which namespace"),
        (["status", "--namespace", "not good"], "namespace must be"),
        (["status", "--namespace", "n", "--redis", "http://h/"], "scheme must be"),
        (["status", "--namespace", "n", "--redis", "redis://:hunter2@:0/"], "host"),
        (["run", "nomodule:X", "nomodule:Y", "--namespace", "n"], "no module 'nomodule'"),
        (["run", "nocolon", "--namespace", "n"], "module:Name"),
        (["run", "json:dumps", "--namespace", "n", "--set", "task_window_size=0"], "task_window_size"),
        (["run", "json:dumps", "--namespace", "n", "--set", "no_such_option=1"], "no such option"),
        (["run", "json:dumps", "--namespace", "n", "--set", "task-window-size=x"], "--set task_window_size: 'x'"),
        (["run", "json:dumps", "--namespace", "n", "--set", "task_window_size"], "option=value"),
        (["demo", "--rows", "10"], "at least 2000"),
        (["demo", "--workers", "1"], "from 2 to 64"),
        (["demo", "--pace", "-1"], "--pace"),
    ],
)
def test_a_wrong_value_is_one_line_and_exit_code_2(
    argv: List[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    (line,) = errors_of(capsys)
    assert line.startswith("elk: ") and words in line
    assert "hunter2" not in line


def test_a_refused_connection_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        port = nobody.getsockname()[1]
        clock = Clock()
        began = clock.monotonic()
        assert main(["status", "--namespace", "n", "--redis", "redis://:hunter2@127.0.0.1:%d/0" % port]) == 1
    assert clock.monotonic() - began < 6.0
    (line,) = errors_of(capsys)
    assert line.startswith("elk: ") and "hunter2" not in line


def test_a_server_that_never_answers_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        clock = Clock()
        began = clock.monotonic()
        url = "redis://127.0.0.1:%d/0" % silent.getsockname()[1]
        assert main(["status", "--namespace", "n", "--redis", url]) == 1
    assert clock.monotonic() - began < 6.0
    assert len(errors_of(capsys)) == 1


def test_a_reader_that_goes_away_is_no_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    def broken(args: argparse.Namespace) -> int:
        raise BrokenPipeError

    with open(str(tmp_path / "out"), "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(verify, "open_strategy", broken)
        assert main(["verify", "--namespace", "n"]) == 1


# -- verify, on what a strategy answers (status: test_cli_admin.py)


class Answers:
    """A strategy that says what it was given."""

    def __init__(self, **answers: Any) -> None:
        self._answers = answers

    def __getattr__(self, name: str) -> Callable[[], Any]:
        return lambda: self._answers[name]


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def set_answers(**answers: Any) -> None:
        @contextlib.contextmanager
        def fake(args: argparse.Namespace) -> Iterator[Any]:
            yield Answers(**answers)

        monkeypatch.setattr(verify, "open_strategy", fake)

    return set_answers


@pytest.mark.parametrize("problems, code", [([], 0), (["counter failed is 3, recounted 2"], 1)])
def test_verify_exits_with_1_when_something_is_wrong(
    problems: List[str],
    code: int,
    answer: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report = VerifyReport(
        problems=problems,
        info=["2 partitions in flight"],
        partitions=3,
        planned_ids=1234567,
        partition_ids=1234567,
        skipped_ids=0,
        counts={},
    )
    answer()
    monkeypatch.setattr(verify, "audit", lambda strategy: report)
    assert main(["verify", "--namespace", "orders"]) == code
    text = capsys.readouterr().out
    assert "1,234,567 IDs" in text and "2 partitions in flight" in text
    assert all("WRONG: " + problem in text for problem in problems)
    assert main(["verify", "--namespace", "orders", "--json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is (not problems) and document["problems"] == problems
    assert document["planned_ids"] == 1234567 and document["namespace"] == "orders"


def test_an_error_of_the_store_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(args: argparse.Namespace) -> Any:
        raise StoreError("NOAUTH\n  Authentication required")

    monkeypatch.setattr(verify, "open_strategy", refuse)
    assert main(["verify", "--namespace", "n"]) == 1
    assert errors_of(capsys) == ["elk: NOAUTH Authentication required"]


# -- elk run: what it loads and how it is set


@pytest.fixture
def module(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "elk_test_work.py").write_text(
        "class Work:\n"
        "    def process(self, ctx, min_id, max_id, options): return 1\n"
        "class Needy:\n"
        "    def __init__(self, url, timeout=3): pass\n"
        "class Holder:\n"
        "    inner = Work()\n"
        "def function(ctx, min_id, max_id, options): return 2\n"
        "instance = Work()\n"
    )
    (tmp_path / "elk_test_broken.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "elk_test_work"
    sys.modules.pop("elk_test_work", None)


def test_a_class_is_called_and_anything_else_is_used(module: str) -> None:
    loaded = sys.modules
    assert type(load(module + ":Work", "processor")).__name__ == "Work"
    assert load(module + ":function", "processor") is loaded[module].function
    assert load(module + ":instance", "processor") is loaded[module].instance
    assert load(module + ":Holder.inner", "processor") is loaded[module].Holder.inner


@pytest.mark.parametrize(
    "target, words",
    [
        ("{m}", "module:Name"),
        (":X", "module:Name"),
        ("{m}:", "module:Name"),
        ("{m}:Nothing", "has no Nothing"),
        ("{m}.sub:X", "no module"),
        ("{m}:Needy", "needs url"),
    ],
)
def test_what_cannot_be_loaded_is_named(module: str, target: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load(target.format(m=module), "processor")


def test_an_import_that_fails_inside_the_users_module_is_shown_as_it_is(module: str) -> None:
    with pytest.raises(ImportError, match="a_module_that_is_not_there"):
        load("elk_test_broken:X", "processor")


def test_set_goes_before_the_environment_and_that_before_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELK_TASK_WINDOW_SIZE", "7")
    monkeypatch.setenv("ELK_HEARTBEAT_INTERVAL", "2.5")
    options = run.options_of(["task-window-size=9", "circuit_breaker_open_timeout=5", "worker_id=w=1"])
    assert options["task_window_size"] == 9
    assert options["heartbeat_interval"] == 2.5
    assert options["circuit_breaker"].open_timeout == 5
    assert options["worker_id"] == "w=1"
    assert options["max_attempts"] == 3


# -- signals


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with on_stop(lambda signum: None):
        assert signal.getsignal(signal.SIGTERM) is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_handlers_are_put_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError):
        with on_stop(lambda signum: None):
            raise ValueError
    assert signal.getsignal(signal.SIGTERM) is before


def test_only_the_main_thread_may_install_handlers() -> None:
    caught: List[Optional[BaseException]] = []

    def attempt() -> None:
        try:
            with on_stop(lambda signum: None):
                caught.append(None)
        except StateError as exc:
            caught.append(exc)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert isinstance(caught[0], StateError)


def test_a_signal_wakes_the_main_thread() -> None:
    signals = StopSignals()
    with on_stop(signals.put):
        assert signals.poll() is None
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert [signals.wait(5.0), signals.wait(5.0)] == [signal.SIGTERM, signal.SIGINT]
        assert signals.wait(0.0) is None


def test_the_demo_notices_the_first_signal_at_its_next_look_and_the_second_breaks_off_what_hangs() -> None:
    attention = Attention()
    with on_stop(attention.signal):
        with pytest.raises(Interrupted) as stop, attention.breakable():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(5.0)
        assert stop.value.signum == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)  # tidying up: nothing is broken off any more
        with pytest.raises(Interrupted) as noticed:
            attention.check()
    assert noticed.value.signum == signal.SIGTERM


# -- the demo's table and fence


def settings(path: str, **changes: Any) -> DemoSettings:
    original = DemoSettings(
        namespace="demo",
        redis_url="",
        sqlite=path,
        postgres=None,
        schema="",
        rows=2000,
        workers=2,
        seed=1,
        partition_size=100,
        batch_size=25,
        pause=0.0,
        least_pause=0.0,
        unlucky_order=1,
        fenced=True,
        parent_pid=os.getpid(),
    )
    return attr.evolve(original, **changes)


@pytest.fixture
def table(tmp_path: Any) -> Iterator[SqliteDatabase]:
    database = SqliteDatabase(str(tmp_path / "demo.db"))
    database.create()
    database.insert_orders(orders(range(1, 101)))
    yield database
    database.close()


def fence(table: SqliteDatabase, token: int, enforced: bool = True) -> RangeFence:
    return RangeFence(table, "demo", 1, 100, token, "w%d" % token, enforced)


def write(table: SqliteDatabase, guard: RangeFence, first: int, last: int) -> int:
    rows = table.query("SELECT id, quantity, price_cents FROM orders WHERE id BETWEEN ? AND ?", (first, last))
    return guard.write(last, lambda: table.apply_invoices([invoice(*row) for row in rows], "w"))


def applied(table: SqliteDatabase) -> List[Any]:
    return table.query("SELECT applied, count(*) FROM orders GROUP BY applied ORDER BY applied")


def test_the_fence_lets_its_holder_write_and_remembers_how_far(table: SqliteDatabase) -> None:
    guard = fence(table, 10)
    assert guard.take() == 0
    assert write(table, guard, 1, 50) == 50
    assert fence(table, 11).take() == 50
    assert applied(table) == [(0, 50), (1, 50)]


def test_a_stale_token_cannot_take_the_fence(table: SqliteDatabase) -> None:
    fence(table, 11).take()
    with pytest.raises(StaleToken) as refusal:
        fence(table, 10).take()
    assert (refusal.value.token, refusal.value.current) == (10, 11)


def test_a_late_write_changes_nothing(table: SqliteDatabase) -> None:
    late = fence(table, 10)
    late.take()
    fence(table, 11).take()
    with pytest.raises(StaleToken):
        write(table, late, 1, 50)
    assert applied(table) == [(0, 100)]


def test_without_the_check_a_late_write_goes_through(table: SqliteDatabase) -> None:
    late = fence(table, 10, enforced=False)
    late.take()
    newer = fence(table, 11)
    newer.take()
    assert write(table, newer, 1, 50) == 50
    assert write(table, late, 1, 50) == 50
    assert applied(table) == [(0, 50), (2, 50)]


def test_a_write_that_fails_half_way_leaves_neither_effect_nor_progress(table: SqliteDatabase) -> None:
    guard = fence(table, 10)
    guard.take()

    def half_way() -> int:
        table.execute("UPDATE orders SET applied = applied + 1 WHERE id <= 25")
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        guard.write(50, half_way)
    assert applied(table) == [(0, 100)]
    assert fence(table, 11).take() == 0


def test_order_ids_are_as_many_as_asked_for_with_holes_and_follow_from_the_seed() -> None:
    ids = order_ids(5000, seed=3)
    assert len(ids) == 5000 and ids == sorted(set(ids)) and ids == order_ids(5000, seed=3)
    assert ids != order_ids(5000, seed=4)
    assert max(b - a for a, b in zip(ids, ids[1:])) > 1000000
    assert pick_unlucky(ids, 3) in ids[:500]


@pytest.mark.parametrize("rows", [2000, 20000, 200000, 1000000])
def test_a_table_of_any_size_makes_enough_partitions_for_the_story(rows: int) -> None:
    check_sizes(rows, 4)
    partition, batch, pause, least = sizes(rows, 4, pace=6.0)
    assert 0 < least < pause
    assert 150 <= rows / partition <= 300
    assert partition == 4 * batch
    assert pause * rows / batch / 12 == pytest.approx(6.0, rel=0.2)


def test_settings_survive_the_way_to_the_worker() -> None:
    original = settings("/a/path", seed=2**62)
    assert DemoSettings.from_json(original.to_json()) == original


def test_a_bad_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="--rows"):
        check_sizes(1999, 4)


def test_the_gate_holds_the_first_writer_in_the_middle_of_a_partition_and_keeps_the_others_out() -> None:
    said: List[Any] = []
    voice = SimpleNamespace(tell=lambda kind, **facts: said.append((kind, facts)))
    gate = demo_worker.Gate(voice)  # type: ignore[arg-type]
    gate.hold()
    assert gate.enter(False) is False
    gate.leave()
    passed: List[bool] = []

    def writer() -> None:
        passed.append(gate.enter(True, partition=7))
        gate.leave()

    threads = [threading.Thread(target=writer) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: said, what="the held writer to say so")
    assert passed == [] and said == [("held", {"partition": 7})]
    gate.go()
    for thread in threads:
        thread.join(5.0)
    assert sorted(passed) == [False, True]


# -- the progress line


def snapshot(rows: int, total: int = 200000, rate: float = 8000.0) -> Snapshot:
    return Snapshot(rows=rows, total=total, rate=rate, running=12, failed=0, workers=4)


def test_the_progress_line_shows_share_rate_and_time_left() -> None:
    line = progress_line(snapshot(80000), 120)
    for words in ("40.0 %", "80,000/200,000 rows", "8,000 rows/s", "ETA 15 s", "running 12", "failed 0"):
        assert words in line
    assert line.startswith("[###") and "-]" in line


@pytest.mark.parametrize("width", [20, 60, 79, 100, 200])
def test_the_progress_line_fits(width: int) -> None:
    line = progress_line(snapshot(80000), width)
    assert len(line) <= width
    assert width < 79 or "[####" in line


@pytest.mark.parametrize("shot", [snapshot(0, rate=0.0), snapshot(200000), snapshot(0, total=0), snapshot(10, total=5)])
def test_the_progress_line_bears_odd_numbers(shot: Snapshot) -> None:
    assert "%" in progress_line(shot, 100)


def test_the_rate_forgets_what_is_long_ago() -> None:
    meter = RateMeter()
    assert meter.update(0.0, 0) == 0.0
    assert meter.update(1.0, 100) == 100.0
    for second in range(2, 8):
        rate = meter.update(float(second), 100)
    assert rate == 0.0


def test_without_a_terminal_there_is_one_plain_line_a_second() -> None:
    out, clock = io.StringIO(), ManualClock()
    screen = Screen(out, clock)
    for _ in range(30):
        screen.show(snapshot(1000))
        clock.advance(0.1)
    assert 2 <= len(out.getvalue().splitlines()) <= 4
    assert "\r" not in out.getvalue() and "\x1b" not in out.getvalue()


def test_on_a_terminal_events_appear_above_the_line_that_is_redrawn() -> None:
    out, clock = io.StringIO(), ManualClock()
    screen = Screen(out, clock, redraw=True)
    screen.show(snapshot(1000))
    screen.say("KILLED somebody")
    screen.finish()
    clear, event = out.getvalue().split("KILLED somebody\n")
    assert clear.count("\r\x1b[K") == 2 and event.startswith("[") and event.endswith("\n")


# -- small things


@pytest.mark.parametrize(
    "value, text",
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.7, "1 min 0 s"),
        (200, "3 min 20 s"),
        (18600, "5 h 10 min"),
    ],
)
def test_durations_are_for_people(value: float, text: str) -> None:
    assert telling.seconds(value) == text


def test_columns_are_aligned() -> None:
    assert telling.table([["a", "bb", ""], ["ccc", "d", "e"]], indent="") == ["a    bb", "ccc  d   e"]
    assert telling.table([]) == []


def test_the_version_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0 and capsys.readouterr().out == "elk_coordinator %s\n" % __version__
