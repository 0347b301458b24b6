"""Ways to tell people: a webhook with the bodies that common chats take, and mail.

A notifier is any object with ``send(notification)``: it returns when the other side has accepted, and raises otherwise.
Errors raised here never carry a URL, a password or the answer's text: the URL of a chat's webhook *is* its password.
"""

from __future__ import annotations

import base64
import email.message
import email.utils
import hashlib
import hmac
import http.client
import json
import smtplib
import ssl
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import attr

from elk_coordinator.errors import ConfigError, ElkError
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.version import __version__

#: Seconds for each step of the conversation: connect, handshake, each read.
TIMEOUT = 5.0
#: The most of an answer that is read.
MAX_ANSWER = 64 * 1024
#: The longest text a group robot of WeCom takes, in bytes of UTF-8; the other services take more.
MAX_TEXT = 2048

FIRING, RESOLVED, EVENT = "firing", "resolved", "event"


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Notification:
    """One message to people. Holds no text from user code: errors and data of the application stay in the log."""

    #: Name of the rule: ``stalled``, ``no_progress``, ``failed_partitions``, ``breaker_open``, ``planner_errors``,
    #: ``gap_found``.
    rule: str
    #: ``"firing"``, ``"resolved"``, or ``"event"`` for what happened and does not last.
    state: str
    #: ``"critical"``, ``"warning"`` or ``"info"``.
    severity: str
    namespace: str
    #: The leader that tells it.
    worker_id: str
    #: One sentence.
    summary: str
    #: Epoch seconds of this host: now, and since when it is so.
    at: float
    since: float
    #: JSON-ready facts of the rule.
    details: Mapping[str, Any] = attr.Factory(dict)

    @property
    def title(self) -> str:
        """One line: ``[FIRING critical] orders: stalled``."""
        word = "RESOLVED" if self.state == RESOLVED else "%s %s" % (self.state.upper(), self.severity)
        return "[%s] %s: %s" % (word, self.namespace, self.rule)

    @property
    def text(self) -> str:
        """Title, summary, and who says so."""
        return "%s\n%s\n(elk_coordinator, leader %s)" % (self.title, self.summary, self.worker_id)

    def to_dict(self) -> Dict[str, Any]:
        """Return a JSON-ready dict."""
        return attr.asdict(self)


class DeliveryError(ElkError):
    """A notification was not accepted. Its text is fit for a log: no URL, no secret."""


class Unverified(DeliveryError):
    """The other side cannot prove who it is; nothing was sent."""


class Partly(DeliveryError):
    """Accepted for some and refused for others: not tried again, or the first would be told again and again."""


# ---------------------------------------------------------------- bodies


def _shortened(text: str) -> str:
    raw = text.encode("utf-8", "replace")
    return text if len(raw) <= MAX_TEXT else raw[: MAX_TEXT - 3].decode("utf-8", "ignore") + "..."


def _json(notification: Notification) -> Dict[str, Any]:
    return dict(notification.to_dict(), version=1, title=notification.title)


def _slack(notification: Notification) -> Dict[str, Any]:
    # The three characters that Slack's text gives a meaning: a name may not become a link or a mention.
    text = notification.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {"text": _shortened(text)}


def _msgtype(notification: Notification) -> Dict[str, Any]:
    return {"msgtype": "text", "text": {"content": _shortened(notification.text)}}


def _feishu(notification: Notification) -> Dict[str, Any]:
    return {"msg_type": "text", "content": {"text": _shortened(notification.text)}}


Body = Callable[[Notification], Mapping[str, Any]]
#: Name of a format -> what makes its body.
FORMATS: Mapping[str, Body] = {
    "json": _json,
    "slack": _slack,
    "dingtalk": _msgtype,
    "feishu": _feishu,
    "wecom": _msgtype,
}
#: Services that answer 200 to what they refuse, and the fields of the answer that are 0 only when they accepted.
CODES: Mapping[str, Tuple[str, ...]] = {
    "dingtalk": ("errcode",),
    "wecom": ("errcode",),
    "feishu": ("code", "StatusCode"),
}


def _digest(key: str, message: str) -> str:
    return base64.b64encode(hmac.new(key.encode("utf-8"), message.encode("utf-8"), hashlib.sha256).digest()).decode()


# ---------------------------------------------------------------- webhook


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET without its body, perhaps on another scheme: none is followed."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _checked_url(url: Any) -> str:
    """Return *url*; the error never repeats it.

    :raises ConfigError: when it cannot be the address of a webhook.
    """
    try:
        parts = urllib.parse.urlsplit(url if isinstance(url, str) else "")
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or any(not "!" <= character <= "~" for character in url):
        raise ConfigError(
            "webhook: the URL must be http(s)://host/..., plain ASCII without spaces (it is not shown here)"
        )
    if parts.username is not None or parts.password is not None:
        raise ConfigError("webhook: the URL holds a user name; give it as headers={'Authorization': ...} instead")
    return str(url)


def _checked_timeout(timeout: Any) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= 60:
        raise ConfigError("notifier: timeout must be seconds, above 0 and at most 60, not %r" % (timeout,))
    return float(timeout)


class WebhookNotifier:
    """Posts each notification to a URL as JSON. Thread-safe.

    :param url: ``https://...``; as secret as a password for most chats, so it is in no log and no ``repr``.
    :param format: ``"json"``, ``"slack"``, ``"dingtalk"``, ``"feishu"``, ``"wecom"``, or a function that makes the
        body, a JSON-ready mapping, of a :class:`Notification`.
    :param secret: signs the request; of DingTalk's and Feishu's robots with "signature" switched on.
    :param headers: sent with it, for example an ``Authorization``.
    :param timeout: seconds for each step: connecting, the TLS handshake, each read.
    :param context: for TLS; the default verifies certificate and host name.
    :raises ConfigError: for a bad value; the message does not repeat it.

    Proxies are taken from the environment (``https_proxy``, ``no_proxy``). Redirects are not followed.
    """

    def __init__(
        self,
        url: str,
        format: Union[str, Body] = "json",
        *,
        secret: Optional[str] = None,
        headers: Optional[Mapping[str, str]] = None,
        timeout: float = TIMEOUT,
        context: Optional[ssl.SSLContext] = None,
        clock: Optional[Clock] = None,
    ) -> None:
        self._url = _checked_url(url)
        if not callable(format) and format not in FORMATS:
            raise ConfigError("webhook: format must be one of %s, not %r" % (", ".join(FORMATS), format))
        self._format = "custom" if callable(format) else format
        self._body = format if callable(format) else FORMATS[format]
        if secret is not None and self._format not in ("dingtalk", "feishu"):
            raise ConfigError("webhook: a secret is for the formats dingtalk and feishu; use headers for others")
        self._secret = secret
        self._headers = {
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": "elk_coordinator/" + __version__,
        }
        for name, value in (headers or {}).items():
            if not isinstance(value, str) or not all(c == "\t" or " " <= c <= "~" for c in "%s%s" % (name, value)):
                raise ConfigError("webhook: header %r must be text of one line in plain ASCII" % (name,))
            self._headers[name] = value
        self._timeout = _checked_timeout(timeout)
        self._clock = clock or Clock()
        self._opener = urllib.request.build_opener(
            _NoRedirects, urllib.request.HTTPSHandler(context=context or ssl.create_default_context())
        )
        #: Names it in logs; the host alone.
        self.name = "webhook (%s) at %s" % (self._format, urllib.parse.urlsplit(url).hostname)

    def __repr__(self) -> str:
        return "<%s>" % self.name

    def send(self, notification: Notification) -> None:
        """Post it.

        :raises DeliveryError: it was not accepted.
        """
        url, body = self._url, dict(self._body(notification))
        if self._secret is not None:
            now = self._clock.time()
            if self._format == "dingtalk":
                stamp = str(int(now * 1000))
                sign = _digest(self._secret, "%s\n%s" % (stamp, self._secret))
                url += ("&" if "?" in url else "?") + urllib.parse.urlencode({"timestamp": stamp, "sign": sign})
            else:
                stamp = str(int(now))
                body.update(timestamp=stamp, sign=_digest("%s\n%s" % (stamp, self._secret), ""))
        data = json.dumps(body).encode("ascii")
        request = urllib.request.Request(url, data, self._headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                answer = response.read(MAX_ANSWER)
        except urllib.error.HTTPError as exc:
            exc.close()
            redirected = "; redirects are not followed, give the final URL" if 300 <= exc.code < 400 else ""
            raise DeliveryError("HTTP status %d%s" % (exc.code, redirected)) from None
        except (OSError, http.client.HTTPException) as exc:
            raise _failure(exc) from None
        self._check(answer)

    def _check(self, answer: bytes) -> None:
        if self._format not in CODES:
            return
        try:
            told = json.loads(answer.decode("utf-8"))
            codes = [told[name] for name in CODES[self._format] if name in told]
        except (ValueError, TypeError, RecursionError):
            codes = []
        # Field by field as they come: Feishu's older answer has the second name only.
        if not codes or type(codes[0]) is not int or codes[0] != 0:
            shown = codes[0] if codes and type(codes[0]) is int else "no code that can be read"
            raise DeliveryError("the service did not accept it: %s" % shown)


def _failure(exc: BaseException) -> DeliveryError:
    """Return what may be said of *exc*: kinds and numbers, none of the texts that repeat what was sent."""
    reason = exc.reason if isinstance(exc, urllib.error.URLError) else exc
    if isinstance(reason, ssl.SSLCertVerificationError):
        return Unverified("the certificate is not valid: %s" % reason.verify_message)
    if isinstance(reason, TimeoutError) or "timed out" in str(reason):
        return DeliveryError("no answer in time")
    number = getattr(reason, "errno", None)
    return DeliveryError(type(reason).__name__ + (" (errno %s)" % number if isinstance(number, int) else ""))


# ---------------------------------------------------------------- mail

STARTTLS, TLS, NONE = "starttls", "tls", "none"
_PORTS = {STARTTLS: 587, TLS: 465, NONE: 25}


class SmtpNotifier:
    """Mails each notification. Thread-safe: every mail has a connection of its own.

    :param host: the mail server. :param port: default 587, 465 or 25, as *security* says.
    :param sender: address of the sender. :param recipients: addresses.
    :param security: ``"starttls"`` (nothing is sent to a server that has it not), ``"tls"`` from the first byte, or
        ``"none"``.
    :param username: logs in, with *password*; needs ``"starttls"`` or ``"tls"``.
    :param timeout: seconds for each step. :param context: for TLS; the default verifies certificate and host name.
    :raises ConfigError: for a bad value.
    """

    def __init__(
        self,
        host: str,
        *,
        sender: str,
        recipients: Sequence[str],
        port: Optional[int] = None,
        security: str = STARTTLS,
        username: Optional[str] = None,
        password: Optional[str] = None,
        timeout: float = TIMEOUT,
        context: Optional[ssl.SSLContext] = None,
    ) -> None:
        if security not in _PORTS:
            raise ConfigError("smtp: security must be one of %s, not %r" % (", ".join(_PORTS), security))
        if (username is None) != (password is None):
            raise ConfigError("smtp: give username and password, or neither")
        if username is not None and security == NONE:
            raise ConfigError("smtp: a password is not sent in the clear; security must be 'starttls' or 'tls'")
        if isinstance(recipients, str) or not recipients:
            raise ConfigError("smtp: recipients must be a list of addresses, not %r" % (recipients,))
        for address in (sender, *recipients):
            if not isinstance(address, str) or "@" not in address or any(not "!" <= c <= "~" for c in address):
                raise ConfigError("smtp: %r is no address (name@host, plain ASCII)" % (address,))
        if not isinstance(host, str) or not host:
            raise ConfigError("smtp: host must be the name of the mail server, not %r" % (host,))
        self._host, self._port = host, _PORTS[security] if port is None else port
        self._security = security
        self._sender, self._recipients = sender, list(recipients)
        self._login: Optional[Tuple[str, str]] = None if username is None else (username, str(password))
        self._timeout = _checked_timeout(timeout)
        self._context = context or ssl.create_default_context()
        self.name = "smtp at %s:%d" % (host, self._port)

    def __repr__(self) -> str:
        return "<%s>" % self.name

    def send(self, notification: Notification) -> None:
        """Mail it to every recipient.

        :raises Partly: some of them were refused; the others have it. :raises DeliveryError: it was not accepted.
        """
        refused: List[str] = []
        try:
            with self._connect() as server:
                if self._security == STARTTLS:
                    server.starttls(context=self._context)
                if self._login is not None:
                    server.login(*self._login)
                refused = list(server.send_message(self._message(notification), self._sender, self._recipients))
        except smtplib.SMTPResponseException as exc:
            raise DeliveryError("%s (code %s)" % (type(exc).__name__, exc.smtp_code)) from None
        except (OSError, ValueError) as exc:  # SMTPException is an OSError
            raise _failure(exc) from None
        if refused:
            raise Partly("refused for %d of %d recipients" % (len(refused), len(self._recipients)))

    def _connect(self) -> smtplib.SMTP:
        if self._security == TLS:
            return smtplib.SMTP_SSL(self._host, self._port, timeout=self._timeout, context=self._context)
        return smtplib.SMTP(self._host, self._port, timeout=self._timeout)

    def _message(self, notification: Notification) -> email.message.EmailMessage:
        message = email.message.EmailMessage()
        message["Subject"] = notification.title
        message["From"] = self._sender
        message["To"] = ", ".join(self._recipients)
        message["Date"] = email.utils.formatdate(notification.at)
        message["Message-ID"] = email.utils.make_msgid(domain="elk-coordinator.invalid")
        message["Auto-Submitted"] = "auto-generated"
        facts = "".join("%s: %s\n" % item for item in sorted(notification.details.items()))
        message.set_content("%s\n\n%s" % (notification.text, facts))
        return message
