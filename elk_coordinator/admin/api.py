"""AdminApi: what an operator may see and ask over HTTP, under ``/api/v1``.

It knows nothing of the server: :meth:`AdminApi.routes` lists handlers, and :mod:`elk_coordinator.assembly` adds them to
the application that answers ``/metrics`` and ``/health``.

Numbers: an integer whose size a JavaScript number cannot hold exactly (2**53 and more, either sign) is written as a
string of its digits, any other as a number. On input both forms are taken, for every id and every end of a range.
"""

from __future__ import annotations

import logging
import re
import threading
import uuid
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Protocol, Sequence, Tuple
from urllib.parse import parse_qs

import attr

from elk_coordinator.admin.access import Access, ApiRequest, Refusal, read_json
from elk_coordinator.errors import ConfigError, ElkError, PartitionNotFound, StateError, StoreError
from elk_coordinator.model import Partition, PartitionFilter, PartitionStatus, WorkerInfo

DEFAULT_LIMIT, MAX_LIMIT = 100, 1000
#: Requests answered at the same time; further ones get 503. Half of what the server takes: while the store hangs, the
#: dashboards that wait leave room for /health and /metrics.
MAX_AT_ONCE = 8
#: The largest integer that every reader of JSON keeps exact.
MAX_EXACT = 2**53 - 1
_DIGITS = re.compile(r"-?[0-9]{1,19}\Z")
_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
#: Characters of an error text that anybody may see.
_SUMMARY = 300
#: Characters of a message about a wrong request.
_MESSAGE = 1000
_FILTERS = (
    "status", "worker_id", "min_partition_id", "max_partition_id", "after", "limit", "include_archived", "stale_for",
)  # fmt: skip
#: Binds that mean "every address", which nobody can connect to from elsewhere.
_ANYWHERE = ("0.0.0.0", "[::]", "")


class Told(Protocol):
    """How far a command is (:class:`elk_coordinator.partition.commands.CommandStatus`), or the gaps
    (:class:`elk_coordinator.partition.gaps.GapReport`)."""

    def to_dict(self) -> Dict[str, Any]: ...


class Service(Protocol):
    """What this needs of the operator's service (:class:`elk_coordinator.admin.service.AdminService`)."""

    def submit(self, kind: str, args: Mapping[str, Any], command_id: Optional[str] = None) -> str: ...

    def command(self, command_id: str) -> Optional[Told]: ...

    def status(self) -> Dict[str, Any]: ...

    def partitions(self, wanted: PartitionFilter) -> List[Partition]: ...

    def partition(self, partition_id: int) -> Partition: ...

    def workers(self) -> List[WorkerInfo]: ...

    def gaps(self) -> Told: ...


class Answer(NamedTuple):
    """What a handler returns: a status, a JSON-ready document, and headers."""

    status: int
    document: Any
    headers: Sequence[Tuple[str, str]] = ()


ApiHandler = Callable[[ApiRequest], Answer]


class AdminApi:
    """Answers the requests of operators. Every handler is safe from any thread and costs few round trips.

    :param service: reads and queues commands.
    :param token: the ``admin_token``; None switches writing off.
    """

    def __init__(
        self,
        service: Service,
        namespace: str,
        token: Optional[str],
        logger: logging.Logger,
    ) -> None:
        self._service = service
        self._namespace = namespace
        self._access = Access(token)
        self._logger = logger
        self._places = threading.BoundedSemaphore(MAX_AT_ONCE)

    def routes(self) -> List[Tuple[str, str, ApiHandler]]:
        """Return method, path and handler of everything there is."""
        table: List[Tuple[str, str, ApiHandler]] = [
            ("GET", "status", self._status),
            ("GET", "workers", self._workers),
            ("GET", "partitions", self._partitions),
            ("GET", "partitions/{id}", self._one_partition),
            ("GET", "gaps", self._gap_report),
            ("GET", "commands/{id}", self._command),
            ("GET", "prometheus-targets", self._targets),
            ("POST", "commands", self._submit),
            ("POST", "retry-failed-partitions", self._retry),
        ]
        return [(method, "/api/v1/" + path, self._told(handler)) for method, path, handler in table]

    def _told(self, handler: ApiHandler) -> ApiHandler:
        """Return the handler with a place taken, errors turned into answers, and numbers made exact."""

        def answer(request: ApiRequest) -> Answer:
            try:
                if not self._places.acquire(blocking=False):
                    raise Refusal(503, "too many requests at the same time; try again", [("Retry-After", "1")])
                try:
                    found = handler(request)
                finally:
                    self._places.release()
            except (Refusal, ElkError) as exc:
                refusal = _refusal(exc)
                document = dict(refusal.more, status=refusal.status, error=refusal.message)
                return Answer(refusal.status, exact(document), refusal.headers)
            return Answer(found.status, exact(found.document), found.headers)

        return answer

    # -- reading
    def _status(self, request: ApiRequest) -> Answer:
        return Answer(200, self._service.status())

    def _workers(self, request: ApiRequest) -> Answer:
        workers = sorted(self._service.workers(), key=lambda worker: worker.worker_id)
        return Answer(200, {"workers": [attr.asdict(worker) for worker in workers]})

    def _partitions(self, request: ApiRequest) -> Answer:
        wanted = partition_filter(request.environ)
        found = self._service.partitions(wanted)
        whole = self._access.trusted(request.environ)
        more = found[-1].partition_id if found and len(found) == wanted.limit else None
        return Answer(200, {"partitions": [shown(p.to_dict(), whole) for p in found], "next_after": more})

    def _one_partition(self, request: ApiRequest) -> Answer:
        found = self._service.partition(number("the partition id", request.params["id"]))
        return Answer(200, shown(found.to_dict(), self._access.trusted(request.environ)))

    def _gap_report(self, request: ApiRequest) -> Answer:
        return Answer(200, self._service.gaps().to_dict())

    def _command(self, request: ApiRequest) -> Answer:
        name = request.params["id"]
        found = self._service.command(name)
        if found is None:
            raise Refusal(404, "there is no command %.100s (never queued, or ended long ago and forgotten)" % name)
        return Answer(200, shown(found.to_dict(), self._access.trusted(request.environ)))

    def _targets(self, request: ApiRequest) -> Answer:
        # Labels of our own would collide with those of the metrics (exported_coordinator, ...): what is known of a
        # worker goes into __meta_elk_..., from which relabel_configs take what they like.
        out = []
        for worker in sorted(self._service.workers(), key=lambda worker: worker.worker_id):
            target = reachable(worker)
            if target is not None:
                known = {"namespace": self._namespace, "worker_id": worker.worker_id}
                known.update({name: worker.info.get(name) or "" for name in ("host", "version")})
                labels = {"__meta_elk_" + name: str(value) for name, value in known.items()}
                out.append({"targets": [target], "labels": labels})
        return Answer(200, out)

    # -- writing
    def _submit(self, request: ApiRequest) -> Answer:
        body = self._written(request, ("kind", "args", "command_id"))
        kind, args = body.get("kind"), body.get("args", {})
        if not isinstance(kind, str):
            raise Refusal(400, "kind: must be the name of a command, not %s" % _type(kind))
        if not isinstance(args, dict):
            raise Refusal(400, "args: must be an object, not %s" % _type(args))
        command_id = self._queue(request, kind, plain_args(args), body)
        return Answer(202, {"command_id": command_id}, [("Location", _location(request, command_id))])

    def _retry(self, request: ApiRequest) -> Answer:
        try:
            body = self._written(request, ("partition_ids", "command_id"))
            ids = body.get("partition_ids")
            if ids is not None and not isinstance(ids, list):
                raise Refusal(400, "partition_ids: must be a list of ids, not %s" % _type(ids))
            args: Dict[str, Any] = {}
            if ids:
                args["ids"] = [number("partition_ids[%d]" % i, value) for i, value in enumerate(ids)]
            command_id = self._queue(request, "retry_failed", args, body)
        except (Refusal, ElkError) as exc:
            # Every answer of this path has the fields that its callers know.
            refusal = _refusal(exc)
            refusal.more = dict(refusal.more, success=False, message=refusal.message)
            raise refusal from exc
        what = "%d named partitions" % len(ids) if ids else "all failed partitions"
        message = "retry of %s queued; the leader carries it out" % what
        return Answer(200, {"success": True, "message": message, "command_id": command_id})

    def _written(self, request: ApiRequest, fields: Sequence[str]) -> Dict[str, Any]:
        """Return the body of a write that may be made; {} when it is empty."""
        self._access.check_write(request.environ)
        body = read_json(request.environ)
        if body is None:
            return {}
        if not isinstance(body, dict):
            raise Refusal(400, "the body must be an object, not %s" % _type(body))
        unknown = sorted(set(body) - set(fields))
        if unknown:
            raise Refusal(400, "unknown field %.100r; known are %s" % (unknown[0], ", ".join(fields)))
        name = body.get("command_id")
        if name is not None and not (isinstance(name, str) and re.match(r"[A-Za-z0-9_.-]{1,64}\Z", name)):
            raise Refusal(400, "command_id: must be 1 to 64 letters, digits, '-', '_' and '.'")
        return body

    def _queue(self, request: ApiRequest, kind: str, args: Mapping[str, Any], body: Mapping[str, Any]) -> str:
        command_id = body.get("command_id") or uuid.uuid4().hex
        try:
            self._service.submit(kind, args, command_id)
        except StoreError as exc:
            refusal = _refusal(exc)
            refusal.message += "; whether the command was queued is unknown: send it again with this command_id"
            refusal.more = {"command_id": command_id}
            raise refusal from exc
        who = request.environ.get("REMOTE_ADDR") or "?"
        self._logger.info("command %s (%s) was queued over HTTP by %s", command_id, kind, who)
        return str(command_id)


# -- requests


def partition_filter(environ: Mapping[str, Any]) -> PartitionFilter:
    """Return the filter that a query string asks for.

    :raises Refusal: 400, naming the parameter. :raises ConfigError: for a value out of bounds.
    """
    try:
        given = parse_qs(str(environ.get("QUERY_STRING") or ""), keep_blank_values=True, max_num_fields=1000)
    except ValueError as exc:
        raise Refusal(400, "the query has too many parameters") from exc
    values: Dict[str, Any] = {"limit": DEFAULT_LIMIT}
    for name, texts in given.items():
        if name not in _FILTERS:
            raise Refusal(400, "unknown parameter %.100r; known are %s" % (name, ", ".join(_FILTERS)))
        if name == "status":
            words = [word.strip().lower() for text in texts for word in text.split(",")]
            values["statuses"] = [_status_named(word) for word in words if word]
            continue
        if len(texts) > 1:
            raise Refusal(400, "%s: give it once" % name)
        parse: Callable[[str, str], Any] = _PARSERS.get(name, number)
        values[name] = parse(name, texts[0])
    if not 1 <= values["limit"] <= MAX_LIMIT:
        raise Refusal(400, "limit: must be from 1 to %d" % MAX_LIMIT)
    return PartitionFilter(**values)


def _status_named(word: str) -> PartitionStatus:
    try:
        return PartitionStatus(word)
    except ValueError:
        known = ", ".join(status.value for status in PartitionStatus)
        raise Refusal(400, "status: %.100r is none of %s" % (word, known)) from None


def _text(name: str, text: str) -> str:
    return text


def _flag(name: str, text: str) -> bool:
    if text.lower() not in _WORDS:
        raise Refusal(400, "%s: must be true or false, not %.100r" % (name, text))
    return _WORDS[text.lower()]


def _seconds(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise Refusal(400, "%s: must be a number of seconds, not %.100r" % (name, text)) from None


_PARSERS: Mapping[str, Callable[[str, str], Any]] = {
    "worker_id": _text,
    "include_archived": _flag,
    "stale_for": _seconds,
}


def number(name: str, value: Any) -> int:
    """Return an integer that came as a number or as a string of its digits.

    :raises Refusal: 400, naming it.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _DIGITS.match(value):
        return int(value)
    shown = "%.100r" % value if isinstance(value, (str, float, bool)) else _type(value)
    raise Refusal(400, "%s: must be an integer, as a number or its digits in a string, not %s" % (name, shown))


def plain_args(args: Mapping[str, Any]) -> Dict[str, Any]:
    """Return a command's arguments with ids and ends of ranges as integers; what they must be, the service checks."""
    out = dict(args)
    for name in ("id", "ids"):
        if name in out:
            out[name] = _numbers(out[name])
    ranges = out.get("ranges")
    if isinstance(ranges, list):
        out["ranges"] = [
            {key: _numbers(value) if key in ("min_id", "max_id") else value for key, value in item.items()}
            if isinstance(item, dict)
            else _numbers(item)
            for item in ranges
        ]
    return out


def _numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return int(value) if isinstance(value, str) and _DIGITS.match(value) else value


def _location(request: ApiRequest, command_id: str) -> str:
    return "%s/api/v1/commands/%s" % (str(request.environ.get("SCRIPT_NAME") or "").rstrip("/"), command_id)


def _type(value: Any) -> str:
    names = {type(None): "null", dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number")


# -- answers


def _refusal(exc: Exception) -> Refusal:
    """Return what a client is told of an error; anything unexpected stays an error for the application's log."""
    if isinstance(exc, Refusal):
        return exc
    if isinstance(exc, PartitionNotFound):
        return Refusal(404, str(exc))
    if isinstance(exc, ConfigError):
        return Refusal(400, str(exc)[:_MESSAGE])  # it may repeat what was sent, up to a megabyte of it
    if isinstance(exc, StoreError):
        # Not its text: that may name hosts and users of the store. /health and the log have it.
        return Refusal(503, "the store does not answer", [("Retry-After", "1")])
    if isinstance(exc, StateError):
        return Refusal(503, str(exc), [("Retry-After", "1")])
    raise exc


def exact(value: Any) -> Any:
    """Return a JSON-ready value whose integers every reader keeps exact: the large ones as strings."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) <= MAX_EXACT else str(value)
    if isinstance(value, Mapping):
        return {str(key): exact(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [exact(item) for item in value]
    return value


def shown(document: Dict[str, Any], whole: bool) -> Dict[str, Any]:
    """Return a partition or command as its reader may see it: without the token no traceback, only what was raised."""
    if document.get("error") and not whole:
        document = dict(document, error=summary(document["error"]))
    return document


def summary(error: str) -> str:
    """Return the one line of an error text that says what was raised, without file names and source lines."""
    for line in error.splitlines():
        # Frames and source lines are indented; "... " is what was cut off in front.
        if line.strip() and not line.startswith((" ", "\t", "Traceback (", "... ")):
            return line[:_SUMMARY]
    return "the details need the token"


def reachable(worker: WorkerInfo) -> Optional[str]:
    """Return ``host:port`` of a worker's HTTP thread as others reach it, or None."""
    address = worker.info.get("http")
    if not isinstance(address, str) or ":" not in address:
        return None
    host, _, port = address.rpartition(":")
    if host in _ANYWHERE:
        host = str(worker.info.get("host") or "")
    return "%s:%s" % (host, port) if host else None
