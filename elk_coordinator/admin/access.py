"""Who may write over HTTP, and how a request's body is read: the guard in front of :mod:`elk_coordinator.admin.api`.

A write needs three things at once: a Host that belongs to us, proof that no foreign web page sent it, and the token.
"""

from __future__ import annotations

import hmac
import json
import re
from typing import Any, Dict, List, Mapping, Optional, Protocol, Sequence, Tuple
from urllib.parse import urlsplit

#: Bytes of a request's body.
MAX_BODY = 1024 * 1024
#: Digits of the longest number in a body that can mean anything: 64 bits and a sign. Longer ones are not even parsed.
MAX_DIGITS = 20
_CHUNK = 64 * 1024
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?\Z")
_READ_ONLY = (
    "writing over HTTP is switched off on this worker: start it with admin_token=... (ELK_ADMIN_TOKEN) and send it as "
    "'Authorization: Bearer <admin_token>'"
)


class ApiRequest(Protocol):
    """What a handler asks of a request: the WSGI environment and the ``{name}`` parts of the route."""

    @property
    def environ(self) -> Dict[str, Any]: ...

    @property
    def params(self) -> Mapping[str, str]: ...


class Refusal(Exception):
    """Answer with *status* and a JSON body that says *message*; ``more`` adds to that body."""

    def __init__(
        self,
        status: int,
        message: str,
        headers: Sequence[Tuple[str, str]] = (),
        more: Optional[Mapping[str, Any]] = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers
        self.more = more or {}


class Access:
    """Checks tokens and origins. Keeps no state, so it is safe from any thread.

    :param token: the ``admin_token``; None refuses every write.
    """

    def __init__(self, token: Optional[str]) -> None:
        self._token = None if token is None else token.encode("utf-8")

    def trusted(self, environ: Mapping[str, Any]) -> bool:
        """Return whether the request carries the token."""
        given = _bearer(environ)
        # In constant time: how long the answer takes tells nothing of how much of a guess was right.
        return given is not None and self._token is not None and hmac.compare_digest(given, self._token)

    def check_write(self, environ: Mapping[str, Any]) -> None:
        """Refuse a write by anybody but the holder of the token.

        :raises Refusal: 403 (switched off, or sent by a foreign page), 400 (no good Host), 401 (token), 415 (neither
            JSON nor from our own origin).
        """
        host = environ.get("HTTP_HOST", "")
        if not _HOST.match(host):
            raise Refusal(400, "the Host header must name this server")
        own_page = _same_origin(environ, host)
        if own_page is False:
            raise Refusal(403, "requests that change something are not taken from pages of another origin")
        if self._token is None:
            raise Refusal(403, _READ_ONLY)
        if not self.trusted(environ):
            what = "the bearer token is wrong" if _bearer(environ) is not None else "a bearer token is needed"
            raise Refusal(
                401,
                what + ": send 'Authorization: Bearer <admin_token>'",
                [("WWW-Authenticate", 'Bearer realm="elk_coordinator"')],
            )
        # What a foreign form could send without asking first (text/plain, urlencoded) is no JSON.
        kind = str(environ.get("CONTENT_TYPE") or "").partition(";")[0].strip().lower()
        if kind != "application/json" and not own_page:
            raise Refusal(415, "send 'Content-Type: application/json', not %r" % kind[:100])


def _bearer(environ: Mapping[str, Any]) -> Optional[bytes]:
    """Return the bearer token of a request, or None: another scheme belongs to somebody in front of us."""
    scheme, _, value = str(environ.get("HTTP_AUTHORIZATION") or "").strip().partition(" ")
    return value.strip().encode("latin-1", "replace") if scheme.lower() == "bearer" else None


def _same_origin(environ: Mapping[str, Any], host: str) -> Optional[bool]:
    """Return whether a page of ours sent the request; None when nothing says that a page did."""
    site = environ.get("HTTP_SEC_FETCH_SITE")
    if site:
        # Set by the browser itself, and true behind a proxy that rewrites Host. "none": typed by the user.
        return None if site == "none" else bool(site == "same-origin")
    origin = environ.get("HTTP_ORIGIN")
    if origin:
        try:
            return urlsplit(str(origin)).netloc.lower() == host.lower()
        except ValueError:
            return False
    return None


def read_json(environ: Mapping[str, Any], limit: int = MAX_BODY) -> Any:
    """Return the body as JSON; None when it is empty.

    :raises Refusal: 400 (no JSON), 408 (did not come in time), 411 (no length), 413 (too long).
    """
    data = read_body(environ, limit)
    if not data.strip():
        return None
    try:
        return json.loads(
            data.decode("utf-8-sig"), parse_int=_whole, parse_constant=_refuse, object_pairs_hook=_each_once
        )
    except RecursionError:
        raise Refusal(400, "the body is nested too deeply") from None
    except ValueError as exc:  # UnicodeDecodeError and JSONDecodeError too
        raise Refusal(400, "the body is no JSON: %s" % str(exc)[:200]) from exc


def read_body(environ: Mapping[str, Any], limit: int = MAX_BODY) -> bytes:
    """Return the bytes of a request's body, at most *limit*.

    A server of ours gives up a client that is slow; so does, or should, any other that this is mounted in.
    """
    text = str(environ.get("CONTENT_LENGTH") or "").strip()
    wanted = limit + 1
    if text:
        if not (text.isascii() and text.isdigit()):
            raise Refusal(400, "Content-Length must be a number")
        if len(text) > MAX_DIGITS or int(text) > limit:
            raise Refusal(413, "the body is larger than %d bytes" % limit)
        wanted = int(text)
    elif not environ.get("wsgi.input_terminated"):
        # Nobody between us and the socket decodes chunks.
        if environ.get("HTTP_TRANSFER_ENCODING"):
            raise Refusal(411, "send the body with a Content-Length, not in chunks")
        return b""
    out = bytearray()
    stream = environ["wsgi.input"]
    try:
        while len(out) < wanted:
            data = stream.read(min(_CHUNK, wanted - len(out)))
            if not data:
                break
            out += data
    except OSError as exc:  # a timeout is one
        raise Refusal(408, "the body did not come in time") from exc
    if len(out) > limit:
        raise Refusal(413, "the body is larger than %d bytes" % limit)
    if text and len(out) < wanted:
        raise Refusal(400, "the body ended after %d of %d bytes" % (len(out), wanted))
    return bytes(out)


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError("the number %s... has too many digits" % text[:MAX_DIGITS])
    return int(text)


def _refuse(text: str) -> Any:
    raise ValueError("%s is no number" % text)


def _each_once(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a field is given twice")
    return out
