"""Log records: fields with stable names on every record of ours, and one JSON document per line for machines."""

from __future__ import annotations

import ast
import json
import logging
import pathlib
import re
import sys
import threading
from typing import Any, Dict, Iterator, List

import pytest

import elk_coordinator
from elk_coordinator.errors import ConfigError
from elk_coordinator.observability import log_format
from elk_coordinator.observability.log_format import JsonFormatter, TextFormatter
from elk_coordinator.observability.notify import SENDERS
from elk_coordinator.protocols import EVENT_KINDS
from elk_coordinator.runtime.logs import FIELDS, BoundLogger, about, mask, role_of
from elk_coordinator.runtime.threads import Role

PACKAGE = pathlib.Path(elk_coordinator.__file__).parent
DOCS = PACKAGE.parent / "docs" / "logging.rst"


class Keeper(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: List[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class Desk:
    """A logger of the application's, one of ours bound to it, and what was logged."""

    def __init__(self, target: logging.Logger) -> None:
        self.target = target
        self.keeper = Keeper()
        target.addHandler(self.keeper)
        target.setLevel(logging.INFO)
        self.logger = BoundLogger(target, namespace="orders", worker_id="w1")

    def last(self) -> Dict[str, Any]:
        return vars(self.keeper.records[-1])


@pytest.fixture
def desk() -> Desk:
    return Desk(logging.Logger("shop"))


# ---------------------------------------------------------------- fields


def test_every_record_says_of_whom_it_is_and_what_it_is_about(desk: Desk) -> None:
    desk.logger.warning("partition %d", 7, extra=about("partition_retried", partition_id=7, token=2**52))
    found = desk.last()
    assert {name: found[name] for name in FIELDS if name in found} == {
        "namespace": "orders", "worker_id": "w1", "event": "partition_retried", "partition_id": 7, "token": 2**52,
    }  # fmt: skip
    assert (found["name"], found["message"] if "message" in found else desk.keeper.records[-1].getMessage()) == (
        "shop", "partition 7",
    )  # fmt: skip
    assert found["filename"] == "test_logs.py", "the caller is who logged, not we"


def test_a_record_of_a_role_names_the_role(desk: Desk) -> None:
    thread = threading.Thread(target=desk.logger.info, args=("beat",), name="elk-heartbeat-or-ders")
    thread.start()
    thread.join()
    assert desk.last()["role"] == "heartbeat"
    desk.logger.info("from the application")
    assert "role" not in desk.last()
    assert [role_of(name) for name in ("elk-task-orders_3", "MainThread", "", None, "elk-")] == [
        "task", None, None, None, "",
    ]  # fmt: skip


def test_level_filters_and_switches_of_the_given_logger_hold(desk: Desk) -> None:
    desk.logger.debug("no")
    desk.logger.info("yes")
    desk.target.addFilter(lambda record: "secret" not in record.getMessage())
    desk.logger.error("secret")
    desk.target.disabled = True
    desk.logger.error("no")
    assert [record.getMessage() for record in desk.keeper.records] == ["yes"]


def test_a_level_that_is_changed_later_holds() -> None:
    desk = Desk(logging.getLogger("elk_coordinator.test_logs"))
    try:
        desk.logger.debug("no")
        desk.target.setLevel(logging.DEBUG)
        desk.logger.debug("yes")
        assert [record.getMessage() for record in desk.keeper.records] == ["yes"]
    finally:
        desk.target.setLevel(logging.NOTSET)
        desk.target.removeHandler(desk.keeper)


@pytest.fixture
def factory() -> Iterator[None]:
    """The application's own record factory, which knows fields of the same names."""
    before = logging.getLogRecordFactory()

    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        record.namespace = record.event = "the application's"
        return record

    logging.setLogRecordFactory(make)
    yield
    logging.setLogRecordFactory(before)


def test_fields_the_application_sets_itself_are_left_alone_and_harm_nobody(desk: Desk, factory: None) -> None:
    desk.logger.info("x", extra=about("started", partition_id=1))
    found = desk.last()
    assert (found["namespace"], found["event"], found["worker_id"], found["partition_id"]) == (
        "the application's", "the application's", "w1", 1,
    )  # fmt: skip
    with pytest.raises(KeyError):
        desk.target.info("x", extra=about("started"))  # what would have become of it


def test_no_field_is_an_attribute_of_a_record_already() -> None:
    assert not set(FIELDS) & log_format._STANDARD
    assert not set(FIELDS) & {"time", "level", "logger", "thread", "message", "exception", "stack"}


def test_every_field_and_event_that_the_code_gives_a_record_is_a_known_one() -> None:
    events, fields = set(), set()
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "about":
                events |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
                fields |= {keyword.arg for keyword in node.keywords if keyword.arg}
    assert len(events) > 15 and events <= set(EVENT_KINDS)
    assert {"partition_id", "token", "term", "command_id"} <= fields <= set(FIELDS)


def test_the_documentation_names_every_role() -> None:
    import elk_coordinator.assembly  # noqa: F401  (every role is imported by it)

    ours = [cls for cls in Role.__subclasses__() if cls.__module__.startswith("elk_coordinator.")]
    names = {cls.__dict__["name"] for cls in ours if "name" in cls.__dict__} | {role_of("elk-%s-x" % SENDERS[0])}
    told = DOCS.read_text(encoding="utf-8").partition("* - ``role``")[2].partition("* - ")[0]
    assert names - set(re.findall("``([a-z]+)``", told)) == set() and len(names) >= 11


def test_the_page_describes_every_field_and_no_other() -> None:
    table = DOCS.read_text(encoding="utf-8").partition("Fields\n")[2].partition("\nJSON")[0]
    assert re.findall(r"^   \* - ``(\w+)``", table, re.MULTILINE) == list(FIELDS)


# ---------------------------------------------------------------- formatters


class Awkward:
    def __str__(self) -> str:
        raise RuntimeError("not even that")


def document(**attributes: Any) -> Dict[str, Any]:
    """Return what JsonFormatter makes of a record with these attributes; checks that it is one line of ASCII."""
    record = logging.LogRecord("shop", logging.ERROR, "f.py", 1, "hello %s", ("you",), None)
    for name, value in attributes.items():
        setattr(record, name, value)
    line = JsonFormatter().format(record)
    assert line.isascii() if hasattr(line, "isascii") else True
    assert "\n" not in line and "\r" not in line
    found: Dict[str, Any] = json.loads(line, parse_constant=lambda text: pytest.fail("no JSON: %s" % text))
    return found


def test_a_document_has_time_level_logger_thread_message_and_our_fields() -> None:
    found = document(created=1700000000.0129, token=2**52, namespace="orders", rows=5, threadName="elk-task-orders_1")
    assert found == {
        "time": "2023-11-14T22:13:20.012Z", "level": "ERROR", "logger": "shop", "thread": "elk-task-orders_1",
        "message": "hello you", "namespace": "orders", "token": 2**52, "rows": 5,
    }  # fmt: skip
    assert list(found)[5:] == ["namespace", "token", "rows"], "ours first"


@pytest.mark.parametrize(
    "given, shown",
    [
        (None, None), (True, True), (2**53 - 1, 2**53 - 1), (2**63 - 1, str(2**63 - 1)), (10**400, str(10**400)),
        (0.5, 0.5), (float("nan"), "nan"), (float("inf"), "inf"), ("a\nb\u2028\udcff", "a\nb\u2028\udcff"),
        (Awkward(), "Awkward"), ([1, 2], "[1, 2]"), (b"x", "b'x'"), ("redis://me:hunter2@h/0", "redis://me:***@h/0"),
        (OSError("amqp://a:b@c"), "amqp://a:***@c"),
    ],
)  # fmt: skip
def test_odd_values_are_shown_somehow_and_passwords_are_not(given: Any, shown: Any) -> None:
    assert document(partition_id=given)["partition_id"] == shown
    assert document(theirs=given)["theirs"] == shown


@pytest.mark.parametrize(
    "odd",
    [
        {"args": ()}, {"args": ("a", "b")}, {"args": (Awkward(),)}, {"msg": Awkward(), "args": ()},
        {"msg": None, "args": ()},
        {"msg": 5}, {"created": float("nan")}, {"created": 1e300}, {"created": None}, {"exc_info": True},
        {"exc_info": (1, 2, 3)}, {"exc_info": (None, None, None)}, {"exc_text": 7}, {"levelname": None},
        {"threadName": None}, {"stack_info": 5}, {"name": None}, {5: "five"},
    ],
)  # fmt: skip
def test_a_record_however_odd_is_a_document(odd: Dict[Any, Any]) -> None:
    record = logging.LogRecord("shop", logging.ERROR, "f.py", 1, "hello %s", ("you",), None)
    vars(record).update(odd)
    assert {"time", "level", "logger", "thread", "message"} <= set(json.loads(JsonFormatter().format(record)))


def test_an_exception_is_text_in_the_same_line_without_passwords() -> None:
    try:
        raise ValueError("redis://me:hunter2@host:1/0 refused\nsecond line")
    except ValueError:
        found = document(exc_info=sys.exc_info(), stack_info="Stack (most recent call last):\n  x")
    assert found["exception"].startswith("Traceback") and "me:***@host" in found["exception"]
    assert "second line" in found["exception"] and "hunter2" not in json.dumps(found)
    assert found["stack"].startswith("Stack")


def test_an_exception_that_cannot_be_shown_costs_only_itself() -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    found = document(exc_info=(Silent, Silent(), None))
    assert "exception" in found and found["message"] == "hello you"


def test_lines_for_people_mask_passwords_too() -> None:
    record = logging.LogRecord("shop", logging.ERROR, "f.py", 1, "no redis://me:hunter2@host:1/0", (), None)
    line = TextFormatter().format(record)
    assert line.endswith("ERROR   %s shop: no redis://me:***@host:1/0" % threading.current_thread().name)


@pytest.mark.parametrize("url, shown", [
    ("redis://:p@ss@host:1/0", "redis://:***@host:1/0"), ("redis://me:a@b:c@host", "redis://me:***@host"),
    ("mysql://me@corp.org:pw@host/db", "mysql://me@corp.org:***@host/db"),
    ("redis://host:6379/0 told a@b", "redis://host:6379/0 told a@b"),
    ("redis://host:1,redis://me:pw@host:2", "redis://host:1,redis://me:***@host:2"),
    ("redis://:a/b@host:1/0 is away", "redis://:***@host:1/0 is away"),
    ("redis://host/0?db=1&sentinel_password=pw is away", "redis://host/0?db=1&sentinel_password=*** is away"),
    ("https://host:8080/users/me@corp.org", "https://host:8080/users/me@corp.org"),
])  # fmt: skip
def test_the_whole_password_is_masked_also_one_that_holds_the_sign_before_the_host(url: str, shown: str) -> None:
    assert mask(url) == shown


@pytest.mark.parametrize("given, environ, name", [
    (None, {}, "text"), (None, {"ELK_LOG_FORMAT": ""}, "text"), (None, {"ELK_LOG_FORMAT": "json"}, "json"),
    ("text", {"ELK_LOG_FORMAT": "json"}, "text"), ("json", {}, "json"),
])  # fmt: skip
def test_the_format_is_that_of_the_command_line_then_of_the_environment(
    given: Any, environ: Dict[str, str], name: str
) -> None:
    assert log_format.log_format(given, environ) == name


def test_an_unknown_format_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="ELK_LOG_FORMAT: must be one of text, json, not 'xml'"):
        log_format.log_format(None, {"ELK_LOG_FORMAT": "xml"})


def test_what_a_handler_raises_goes_to_stderr_and_not_into_our_work(
    desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("no space left on device")

    broken = Broken()
    desk.logger.target.addHandler(broken)
    try:
        monkeypatch.setattr(logging, "raiseExceptions", True)
        desk.logger.error("the news")
        assert "no space left on device" in capsys.readouterr().err
        monkeypatch.setattr(logging, "raiseExceptions", False)
        desk.logger.error("more news")
        assert capsys.readouterr().err == ""
    finally:
        desk.logger.target.removeHandler(broken)
