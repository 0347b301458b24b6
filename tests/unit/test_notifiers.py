"""Webhook and mail against loopback servers that answer well, badly, late or not at all; bodies; secrets."""

from __future__ import annotations

import base64
import contextlib
import email
import email.policy
import hashlib
import hmac
import http.server
import json
import logging
import pathlib
import socketserver
import ssl
import threading
import traceback
import urllib.parse
from typing import Any, Dict, Iterator, List, Tuple

import attr
import pytest

from elk_coordinator.errors import ConfigError
from elk_coordinator.observability.notifiers import (
    FORMATS,
    DeliveryError,
    Notification,
    Partly,
    SmtpNotifier,
    Unverified,
    WebhookNotifier,
)
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.testing import ManualClock

NOTE = Notification(
    "stalled", "firing", "critical", "orders", "w<1>&", "5 partitions wait.", 1.7e9, 1.7e9 - 900, {"pending": 5}
)
SECRET = "SEC-do-not-show"

#: Of nobody and for nothing but a server on loopback that must not be believed.
CERTIFICATE = """-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgdjTBVVqmzoYzjwRi
imF605GP2dYMsFHZhTTkb6cpFyahRANCAAS7qQrvlMmg0+JsE+hSOCzd+qudmvgU
eCWRefWjYLzkabdsgMZNZqlGhzY1VAbpxnmUGIycMxg1PZk8zZG7yNVj
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBljCCATugAwIBAgIUfZ37304PNCNTH7cy7eYQPwBGGOwwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyNTEzMTUxOFoYDzIxMjYxMTAx
MTMxNTE4WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAS7qQrvlMmg0+JsE+hSOCzd+qudmvgUeCWRefWjYLzkabdsgMZNZqlG
hzY1VAbpxnmUGIycMxg1PZk8zZG7yNVjo2kwZzAdBgNVHQ4EFgQU74v9tIURIIJG
s3U7qSUJ3Y3qbjowHwYDVR0jBBgwFoAU74v9tIURIIJGs3U7qSUJ3Y3qbjowDwYD
VR0TAQH/BAUwAwEB/zAUBgNVHREEDTALgglsb2NhbGhvc3QwCgYIKoZIzj0EAwID
SQAwRgIhAJgeqcOjPz+OwCcgUX35SlwuVCA38Zss+ifQ9iHG7fOvAiEAlQJ4zAvP
Q7ZDqGG/W5QfTMg5P7j/L+xU4/uMO1+vbd4=
-----END CERTIFICATE-----
"""


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def server_context(folder: pathlib.Path) -> ssl.SSLContext:
    path = folder / "server.pem"
    path.write_text(CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(str(path))
    return context


def credulous() -> ssl.SSLContext:
    """The control: what believes every certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@contextlib.contextmanager
def serving(server: Any) -> Iterator[Any]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        thread.join()
        server.server_close()


# ---------------------------------------------------------------- HTTP


class Hooks(http.server.ThreadingHTTPServer):
    """Answers as it is told, and keeps what it was sent."""

    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hook)
        self.status, self.headers, self.answer = 200, {}, b"ok"  # type: Tuple[int, Dict[str, str], bytes]
        self.hang = False
        self.release = threading.Event()
        self.got: List[Tuple[str, str, Any, bytes]] = []

    @property
    def url(self) -> str:
        return "http://127.0.0.1:%d/hook/%s?key=%s" % (self.server_address[1], SECRET, SECRET)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The other side broke off, as some tests want."""


class Hook(http.server.BaseHTTPRequestHandler):
    server: Hooks

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.command, self.path, self.headers, body))
        if self.server.hang:
            self.server.release.wait(20)
            return
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(self.server.answer)))
        self.end_headers()
        self.wfile.write(self.server.answer)

    do_GET = do_POST

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    with serving(Hooks()) as server:
        yield server


def fails(notifier: Any) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        notifier.send(NOTE)
    # Neither in the text nor in what a traceback would show.
    shown = "".join(traceback.format_exception(type(caught.value), caught.value, caught.value.__traceback__))
    assert SECRET not in shown + repr(caught.value) + repr(notifier)
    return caught.value


def test_json_is_posted_with_its_headers(hooks: Hooks) -> None:
    notifier = WebhookNotifier(hooks.url, headers={"Authorization": "Bearer " + SECRET})
    notifier.send(NOTE)
    ((method, path, headers, body),) = hooks.got
    assert method == "POST" and path.endswith("?key=" + SECRET)
    assert headers["Authorization"] == "Bearer " + SECRET
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    found = json.loads(body.decode("utf-8"))
    assert found == {
        "version": 1, "rule": "stalled", "state": "firing", "severity": "critical", "namespace": "orders",
        "worker_id": "w<1>&", "summary": "5 partitions wait.", "at": 1.7e9, "since": 1.7e9 - 900,
        "details": {"pending": 5}, "title": "[FIRING critical] orders: stalled",
    }  # fmt: skip
    assert SECRET not in repr(notifier) + notifier.name and notifier.name == "webhook (json) at 127.0.0.1"


@pytest.mark.parametrize("status", [400, 403, 404, 429, 500, 503])
def test_an_answer_that_is_no_success_is_a_failure(hooks: Hooks, status: int) -> None:
    hooks.status, hooks.answer = status, SECRET.encode()
    assert str(fails(WebhookNotifier(hooks.url))) == "HTTP status %d" % status


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("scheme", ["http", "ftp", "file"])
def test_no_redirect_is_followed(hooks: Hooks, status: int, scheme: str) -> None:
    target = hooks.url if scheme == "http" else scheme + ":///etc/hostname"
    hooks.status, hooks.headers = status, {"Location": target}
    error = fails(WebhookNotifier(hooks.url))
    assert "HTTP status %d; redirects are not followed" % status in str(error)
    assert len(hooks.got) == 1


def test_a_server_that_does_not_answer_costs_the_timeout(hooks: Hooks) -> None:
    hooks.hang = True
    clock = Clock()
    began = clock.monotonic()
    assert str(fails(WebhookNotifier(hooks.url, timeout=0.2))) == "no answer in time"
    assert 0.15 < clock.monotonic() - began < 5


def test_a_port_where_nobody_listens_is_a_failure(hooks: Hooks) -> None:
    url = hooks.url
    with serving(Hooks()) as other:
        url = other.url
    assert "ConnectionRefusedError" in str(fails(WebhookNotifier(url)))


def test_a_certificate_that_cannot_be_verified_is_not_believed(hooks: Hooks, tmp_path: pathlib.Path) -> None:
    hooks.socket = server_context(tmp_path).wrap_socket(hooks.socket, server_side=True, do_handshake_on_connect=False)
    url = hooks.url.replace("http:", "https:").replace("127.0.0.1", "localhost")
    assert isinstance(fails(WebhookNotifier(url)), Unverified)
    assert hooks.got == []
    WebhookNotifier(url, context=credulous()).send(NOTE)
    assert len(hooks.got) == 1, "the control"


@pytest.mark.parametrize(
    "url",
    ["", "hooks.example/x", "ftp://hooks.example/" + SECRET, "file:///etc/passwd", "http:///" + SECRET,
     "https://hooks.example/%s\nHost: other" % SECRET, "https://hooks.example/a b" + SECRET,
     "https://hooks.example:99999/" + SECRET, "https://user:%s@hooks.example/" % SECRET, "https://[" + SECRET, None, 7],
)  # fmt: skip
def test_a_bad_url_is_refused_and_not_repeated(url: Any) -> None:
    with pytest.raises(ConfigError, match="webhook: the URL") as caught:
        WebhookNotifier(url)
    assert SECRET not in str(caught.value)


def test_other_bad_values_are_refused() -> None:
    for given in ({"format": "teams"}, {"secret": "x"}, {"timeout": 0}, {"timeout": 61}, {"timeout": True},
                  {"headers": {"X": "a\r\nY: b"}}, {"headers": {"X": 3}}):  # fmt: skip
        with pytest.raises(ConfigError):
            WebhookNotifier("https://hooks.example/x", **given)  # type: ignore[arg-type]


# ---------------------------------------------------------------- bodies, as the services document them


def body_of(hooks: Hooks, format: str, note: Notification = NOTE, **options: Any) -> Dict[str, Any]:
    hooks.answer = b'{"errcode": 0, "errmsg": "ok", "code": 0}'
    WebhookNotifier(hooks.url, format, **options).send(note)
    return json.loads(hooks.got[-1][3].decode("ascii"))  # type: ignore[no-any-return]


TEXT = "[FIRING critical] orders: stalled\n5 partitions wait.\n(elk_coordinator, leader w<1>&)"


def test_slack_gets_a_text_in_which_nothing_is_a_link_or_a_mention(hooks: Hooks) -> None:
    assert body_of(hooks, "slack") == {"text": TEXT.replace("w<1>&", "w&lt;1&gt;&amp;")}


@pytest.mark.parametrize("format", ["dingtalk", "wecom"])
def test_dingtalk_and_wecom_get_a_text_message(hooks: Hooks, format: str) -> None:
    assert body_of(hooks, format) == {"msgtype": "text", "text": {"content": TEXT}}


def test_feishu_gets_a_text_message(hooks: Hooks) -> None:
    assert body_of(hooks, "feishu") == {"msg_type": "text", "content": {"text": TEXT}}


def test_a_function_makes_the_body_that_no_template_makes(hooks: Hooks) -> None:
    assert body_of(hooks, lambda n: {"who": n.namespace}) == {"who": "orders"}  # type: ignore[arg-type]


def test_a_text_is_cut_to_what_wecom_takes_without_halving_a_character(hooks: Hooks) -> None:
    long = attr.evolve(NOTE, summary="分区" * 2000)
    for format in sorted(set(FORMATS) - {"json"}):
        found = body_of(hooks, format, long)
        (text,) = [v for v in (found.get("text"), found.get("content")) if v]
        text = text if isinstance(text, str) else text.get("content", text.get("text"))
        assert 2040 <= len(text.encode("utf-8")) <= 2048 and text.endswith(("分...", "区...")), format


def test_dingtalk_is_signed_in_the_query(hooks: Hooks) -> None:
    assert "sign" not in body_of(hooks, "dingtalk", secret=SECRET, clock=ManualClock(time=1700000000.25))
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(hooks.got[0][1]).query)
    digest = hmac.new(SECRET.encode(), b"1700000000250\n" + SECRET.encode(), hashlib.sha256).digest()
    assert query == {"key": [SECRET], "timestamp": ["1700000000250"], "sign": [base64.b64encode(digest).decode()]}


def test_feishu_is_signed_in_the_body(hooks: Hooks) -> None:
    found = body_of(hooks, "feishu", secret=SECRET, clock=ManualClock(time=1700000000.25))
    digest = hmac.new(b"1700000000\n" + SECRET.encode(), b"", hashlib.sha256).digest()
    assert (found["timestamp"], found["sign"]) == ("1700000000", base64.b64encode(digest).decode())


@pytest.mark.parametrize(
    "format, answer, said",
    [
        ("dingtalk", b'{"errcode": 310000, "errmsg": "sign not match"}', "310000"),
        ("wecom", b'{"errcode": 93000, "errmsg": "invalid webhook url"}', "93000"),
        ("feishu", b'{"code": 19021, "msg": "sign match fail"}', "19021"),
        ("feishu", b'{"StatusCode": 9499}', "9499"),
        ("wecom", b"<html>portal</html>", "no code"),
        ("wecom", b"[]", "no code"),
        ("wecom", b"\xff", "no code"),
        ("wecom", b'{"errcode": false}', "no code"),
    ],
)
def test_a_refusal_with_status_200_is_a_failure(hooks: Hooks, format: str, answer: bytes, said: str) -> None:
    hooks.answer = answer
    assert said in str(fails(WebhookNotifier(hooks.url, format)))


def test_the_older_answer_of_feishu_is_a_success(hooks: Hooks) -> None:
    hooks.answer = b'{"Extra": null, "StatusCode": 0, "StatusMessage": "success"}'
    WebhookNotifier(hooks.url, "feishu").send(NOTE)


# ---------------------------------------------------------------- mail


class Mails(socketserver.ThreadingTCPServer):
    """The least of a mail server."""

    daemon_threads = False
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Mail)
        self.release = threading.Event()
        self.hang = False
        self.offers: List[str] = []
        self.refuse: Dict[str, str] = {}
        self.refuse_recipient = ""
        self.context: Any = None
        self.said: List[str] = []
        self.mails: List[str] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The other side broke off, as some tests want."""

    def notifier(self, **options: Any) -> SmtpNotifier:
        options = {"security": "none", "sender": "elk@example.org", "recipients": ["a@example.org", "b@example.org"],
                   **options}  # fmt: skip
        return SmtpNotifier("localhost", port=self.server_address[1], **options)


class Mail(socketserver.StreamRequestHandler):
    server: Mails

    def reply(self, text: str) -> None:
        self.wfile.write(text.encode() + b"\r\n")

    def handle(self) -> None:
        server = self.server
        if server.hang:
            server.release.wait(20)
            return
        self.reply("220 stand-in")
        while True:
            line = self.rfile.readline().decode().strip()
            if not line:
                return
            server.said.append(line)
            verb = line.split()[0].upper()
            if verb == "RCPT" and server.refuse_recipient and server.refuse_recipient in line:
                self.reply("550 nobody")
            elif verb in server.refuse:
                self.reply(server.refuse[verb])
            elif verb == "EHLO":
                names = ["stand-in", *server.offers]
                for number, name in enumerate(names, 1):
                    self.reply("250%s%s" % (" " if number == len(names) else "-", name))
            elif verb == "STARTTLS":
                self.reply("220 go ahead")
                self.request = server.context.wrap_socket(self.request, server_side=True)
                self.rfile, self.wfile = self.request.makefile("rb"), self.request.makefile("wb", 0)
            elif verb == "AUTH":
                self.reply("235 welcome")
            elif verb == "DATA":
                self.reply("354 go on")
                lines = []
                while True:
                    line = self.rfile.readline().decode()
                    if line == ".\r\n":
                        break
                    lines.append(line)
                server.mails.append("".join(lines))
                self.reply("250 taken")
            elif verb == "QUIT":
                self.reply("221 bye")
                return
            else:
                self.reply("250 fine")

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()
        self.request.close()


@pytest.fixture
def mails() -> Iterator[Mails]:
    with serving(Mails()) as server:
        yield server


def test_a_mail_is_one_that_people_and_filters_can_read(mails: Mails) -> None:
    mails.notifier().send(NOTE)
    (text,) = mails.mails
    mail = email.message_from_string(text, policy=email.policy.default)
    assert mail["Subject"] == "[FIRING critical] orders: stalled"
    assert (mail["From"], mail["To"]) == ("elk@example.org", "a@example.org, b@example.org")
    assert mail["Auto-Submitted"] == "auto-generated" and mail["Message-ID"] and "14 Nov 2023" in mail["Date"]
    assert mail.get_content().replace("\r", "").strip() == TEXT + "\n\npending: 5"
    assert [said for said in mails.said if said.startswith("rcpt")] == [
        "rcpt TO:<a@example.org>", "rcpt TO:<b@example.org>",
    ]  # fmt: skip


def test_starttls_comes_before_the_password(mails: Mails, tmp_path: pathlib.Path) -> None:
    mails.context, mails.offers = server_context(tmp_path), ["STARTTLS", "AUTH PLAIN"]
    notifier = mails.notifier(security="starttls", username="elk", password=SECRET, context=credulous())
    notifier.send(NOTE)
    verbs = [said.split()[0].lower() for said in mails.said]
    assert verbs.index("starttls") < verbs.index("auth") and len(mails.mails) == 1
    assert SECRET not in repr(notifier)


def test_a_mail_server_that_cannot_prove_its_name_gets_no_password(mails: Mails, tmp_path: pathlib.Path) -> None:
    """The case before is the control."""
    mails.context, mails.offers = server_context(tmp_path), ["STARTTLS", "AUTH PLAIN"]
    assert isinstance(fails(mails.notifier(security="starttls", username="elk", password=SECRET)), Unverified)
    assert "auth" not in " ".join(mails.said).lower() and mails.mails == []


def test_without_starttls_nothing_is_sent(mails: Mails) -> None:
    assert "SMTPNotSupportedError" in str(fails(mails.notifier(security="starttls", username="e", password=SECRET)))
    assert mails.mails == [] and "auth" not in " ".join(mails.said).lower()


def test_tls_from_the_first_byte(mails: Mails, tmp_path: pathlib.Path) -> None:
    mails.socket = server_context(tmp_path).wrap_socket(mails.socket, server_side=True, do_handshake_on_connect=False)
    assert isinstance(fails(mails.notifier(security="tls")), Unverified)
    mails.notifier(security="tls", context=credulous()).send(NOTE)
    assert len(mails.mails) == 1


@pytest.mark.parametrize(
    "verb, answer, said",
    [
        ("RCPT", "550 nobody " + SECRET, "SMTPRecipientsRefused"),
        ("MAIL", "451 later " + SECRET, "code 451"),
        ("DATA", "554 no " + SECRET, "code 554"),
    ],
)
def test_what_the_server_refuses_is_a_failure(mails: Mails, verb: str, answer: str, said: str) -> None:
    mails.refuse[verb] = answer
    assert said in str(fails(mails.notifier()))


def test_a_mail_that_some_recipients_got_is_told_apart(mails: Mails) -> None:
    mails.refuse_recipient = "b@example.org"
    assert str(fails(mails.notifier())) == "refused for 1 of 2 recipients" and len(mails.mails) == 1
    assert isinstance(fails(mails.notifier()), Partly)


def test_a_wrong_password_is_a_failure_without_the_password(mails: Mails, tmp_path: pathlib.Path) -> None:
    mails.context, mails.offers = server_context(tmp_path), ["STARTTLS", "AUTH PLAIN"]
    mails.refuse["AUTH"] = "535 wrong: " + SECRET
    notifier = mails.notifier(security="starttls", username="elk", password=SECRET, context=credulous())
    assert "code 535" in str(fails(notifier))


def test_a_mail_server_that_does_not_answer_costs_the_timeout(mails: Mails) -> None:
    mails.hang = True
    assert str(fails(mails.notifier(timeout=0.2))) == "no answer in time"


@pytest.mark.parametrize(
    "given",
    [{"security": "ssl"}, {"username": "u"}, {"username": "u", "password": SECRET}, {"recipients": "a@example.org"},
     {"recipients": []}, {"sender": "nobody"}, {"recipients": ["a@example.org\r\nBcc: x@example.org"]},
     {"timeout": None}],
    ids=str,
)  # fmt: skip
def test_bad_values_of_mail_are_refused(mails: Mails, given: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        mails.notifier(**given)
    assert SECRET not in str(caught.value)


def test_nothing_of_the_url_is_logged_at_any_level(caplog: pytest.LogCaptureFixture, hooks: Hooks) -> None:
    with caplog.at_level(logging.DEBUG):
        WebhookNotifier(hooks.url).send(NOTE)
    assert SECRET not in caplog.text
