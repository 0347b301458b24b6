"""What our log records carry beside their text: fields with stable names, for machines that read logs.

The message stays for people. docs/logging.rst describes every field; a name once given keeps its meaning.
"""

from __future__ import annotations

import logging
import re
from typing import Any, Dict, Mapping, Optional

#: Fields a record of ours may have, in the order a formatter shows them. None is an attribute of ``LogRecord``.
FIELDS = (
    "namespace", "worker_id", "role", "event", "partition_id", "token", "term", "attempt", "command_id",
)  # fmt: skip
#: Up to the last "@" of the word: a password may hold one, and so may a user name. Also over a "/", which a password
#: that was not percent-encoded may hold, unless what stands before it reads as a port.
_PASSWORD = re.compile(r"(://[^/\s\":]*):(?!\d{1,5}[/?#])(?:(?!://)[^\s\"])+@")
#: Shows what is wrong with somebody else's handler.
_FALLBACK = logging.NullHandler()
_PARAMETER = re.compile(r"([?&][^=&\s\"]*password=)[^&\s\"]+", re.IGNORECASE)


def mask(text: str) -> str:
    """Return *text* with the passwords in its URLs masked: ``redis://user:***@host``, ``?password=***``."""
    return _PARAMETER.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text)) if "://" in text else text


class BoundLogger(logging.Logger):
    """Logs to *target*, adding :attr:`fields` and the role of the calling thread to each record. Thread-safe.

    Level, filters, handlers and the kind of record are those of *target*; it is not known to ``logging.getLogger``. A
    record costs two microseconds more; what the level keeps out costs nothing more. A field that the application's own
    record factory has set is left alone, where ``extra=`` on a plain logger would raise KeyError into our work.
    """

    def __init__(self, target: logging.Logger, **fields: Any) -> None:
        super().__init__(target.name)
        self.parent = self.target = target
        self.fields: Dict[str, Any] = fields

    def isEnabledFor(self, level: int) -> bool:
        """Return whether *target* is."""
        # Not our own cache: nobody would clear it when a level changes.
        return self.target.isEnabledFor(level)

    def handle(self, record: logging.LogRecord) -> None:
        """Let *target* handle it, its filters included; what those and its handlers raise goes to stderr, not to us."""
        try:
            self.target.handle(record)
        except Exception:
            # As logging does itself with the errors of its own handlers: silent without logging.raiseExceptions.
            _FALLBACK.handleError(record)

    def makeRecord(
        self,
        name: str,
        level: int,
        fn: str,
        lno: int,
        msg: object,
        args: Any,
        exc_info: Any,
        func: Optional[str] = None,
        extra: Optional[Mapping[str, object]] = None,
        sinfo: Optional[str] = None,
    ) -> logging.LogRecord:
        """Return a record with our fields."""
        record = self.target.makeRecord(name, level, fn, lno, msg, args, exc_info, func, None, sinfo)
        there = record.__dict__
        for fields in (extra, self.fields):
            for field, value in (fields or {}).items():
                there.setdefault(field, value)
        role = role_of(record.threadName)
        if role is not None:
            there.setdefault("role", role)
        return record


def role_of(thread_name: Optional[str]) -> Optional[str]:
    """Return the role that runs in a thread of ours (``elk-heartbeat-orders``); None for the application's threads."""
    if not thread_name or not thread_name.startswith("elk-"):
        return None
    return thread_name.split("-", 2)[1]


def about(event: Optional[str] = None, **fields: Any) -> Dict[str, Any]:
    """Return ``extra=`` for a record: the kind of event it tells of, if any, and fields of :data:`FIELDS`."""
    if event is not None:
        fields["event"] = event
    return fields
