"""``elk run --notify``: where the webhook comes from, and that its URL is shown by nobody."""

from __future__ import annotations

import argparse
from typing import Any, Dict

import pytest

from elk_coordinator.cli import run as run_module
from elk_coordinator.cli.common import UsageError
from elk_coordinator.cli.main import main
from elk_coordinator.errors import ConfigError
from elk_coordinator.observability.notifiers import WebhookNotifier

SECRET = "T0-do-not-show"
URL = "https://hooks.example/" + SECRET


def listeners(environ: Dict[str, str], url: Any = None, kind: Any = None) -> Any:
    return run_module.listeners_of(argparse.Namespace(notify=url, notify_format=kind), environ)


@pytest.mark.parametrize(
    "environ, url, kind, shown",
    [
        ({"ELK_NOTIFY_WEBHOOK": URL}, None, None, "webhook (json) at hooks.example"),
        ({"ELK_NOTIFY_WEBHOOK": URL, "ELK_NOTIFY_FORMAT": "slack"}, None, None, "webhook (slack) at hooks.example"),
        ({"ELK_NOTIFY_WEBHOOK": URL, "ELK_NOTIFY_FORMAT": "slack"}, None, "wecom", "webhook (wecom) at hooks.example"),
        ({"ELK_NOTIFY_WEBHOOK": URL}, "http://127.0.0.1:1/", None, "webhook (json) at 127.0.0.1"),
        ({"ELK_NOTIFY_WEBHOOK": URL, "ELK_NOTIFY_FORMAT": "feishu", "ELK_NOTIFY_SECRET": SECRET}, None, None,
         "webhook (feishu) at hooks.example"),
    ],
)  # fmt: skip
def test_the_webhook_comes_from_flag_or_environment(environ: Any, url: Any, kind: Any, shown: str) -> None:
    (notify,) = listeners(environ, url, kind)
    (notifier,) = notify.notifiers
    assert isinstance(notifier, WebhookNotifier) and notifier.name == shown
    assert repr(notify) == "Notify(%s)" % shown


def test_nothing_asked_for_is_nothing_and_a_format_alone_is_a_mistake() -> None:
    assert listeners({}) == [] and listeners({"ELK_NOTIFY_WEBHOOK": ""}) == []
    with pytest.raises(UsageError, match="there is no webhook"):
        listeners({}, None, "slack")


@pytest.mark.parametrize(
    "environ", [{"ELK_NOTIFY_WEBHOOK": "ftp://hooks.example/" + SECRET},
                {"ELK_NOTIFY_WEBHOOK": URL, "ELK_NOTIFY_FORMAT": "teams"},
                {"ELK_NOTIFY_WEBHOOK": URL, "ELK_NOTIFY_SECRET": SECRET}],
)  # fmt: skip
def test_what_is_refused_ends_the_command_and_shows_no_secret(
    environ: Dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert main(["--namespace", "orders", "--redis", "redis://127.0.0.1:1", "run", "work:Work", "work:Plan"]) == 2
    out = capsys.readouterr()
    assert "webhook: " in out.err and SECRET not in out.out + out.err
    with pytest.raises(ConfigError):
        listeners(environ)


def test_the_worker_gets_the_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELK_NOTIFY_WEBHOOK", URL)
    given: Dict[str, Any] = {}

    class Stub:
        def __init__(self, *args: Any, **options: Any) -> None:
            given.update(options)

    monkeypatch.setattr(run_module, "Coordinator", Stub)
    monkeypatch.setattr(run_module, "load", lambda text, what: object())
    monkeypatch.setattr(run_module, "run_worker", lambda *args: 0)
    monkeypatch.setattr(run_module.logging, "basicConfig", lambda **options: None)
    assert main(["--namespace", "orders", "--redis", "redis://127.0.0.1:1", "run", "work:Work", "work:Plan"]) == 0
    assert [repr(listener) for listener in given["listeners"]] == ["Notify(webhook (json) at hooks.example)"]
