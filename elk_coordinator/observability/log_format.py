"""How log records look on the command line: text for people, or one JSON document per line for machines."""

from __future__ import annotations

import datetime
import json
import logging
import os
import sys
from typing import Any, Dict, Mapping, Optional

from elk_coordinator.errors import ConfigError
from elk_coordinator.runtime.logs import FIELDS, mask

#: What ``--log-format`` and ELK_LOG_FORMAT may say.
FORMATS = ("text", "json")
TEXT = "%(asctime)s %(levelname)-7s %(threadName)s %(name)s: %(message)s"
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
#: Every record has these; what else it carries came from ``extra=``.
_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}
#: Larger ones are text: most readers of JSON would round them.
_EXACT = 2**53


class TextFormatter(logging.Formatter):
    """Lines for people; passwords in URLs are masked."""

    def __init__(self) -> None:
        super().__init__(TEXT)

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        return mask(super().format(record))


class JsonFormatter(logging.Formatter):
    """One JSON document on one line of ASCII per record; never raises, whatever a record holds.

    ``time`` (UTC, ISO 8601, milliseconds), ``level``, ``logger``, ``thread``, ``message``; then those of our fields the
    record has, then what else it was given by ``extra=``; ``exception`` and ``stack`` as text. Passwords in URLs are
    masked, integers beyond 2**53 are text. Named in LOGGING by its path under the key ``"()"``; see docs/logging.rst.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the document of a record."""
        document: Dict[str, Any] = {
            "time": _time(record.created),
            "level": str(record.levelname),
            "logger": str(record.name),
            "thread": _plain(record.threadName),
            "message": mask(_message(record)),
        }
        held = record.__dict__
        names = [name for name in FIELDS if name in held]
        names += [name for name in held if name not in _STANDARD and name not in FIELDS and name not in document]
        for name in names:
            document[name] = _plain(held[name])
        for name, text in (("exception", self._exception(record)), ("stack", record.stack_info)):
            if text:
                document[name] = mask(str(text))
        return json.dumps(document)

    def _exception(self, record: logging.LogRecord) -> Optional[str]:
        if not record.exc_info and not record.exc_text:
            return None
        try:
            return record.exc_text or self.formatException(record.exc_info)  # type: ignore[arg-type]
        except Exception:
            # An exception whose own text cannot be made, or no exc_info at all.
            return "(an exception that cannot be shown)"


def _time(created: Any) -> str:
    try:
        at = _EPOCH + datetime.timedelta(milliseconds=int(created * 1000))
    except (TypeError, ValueError, OverflowError):
        return ""
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + "%03dZ" % (at.microsecond // 1000)


def _message(record: logging.LogRecord) -> str:
    try:
        return str(record.getMessage())
    except Exception:
        # The text does not fit its arguments, or one of them cannot be printed.
        return "%s (its arguments cannot be shown)" % (record.msg if isinstance(record.msg, str) else type(record.msg))


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if type(value) is int and -_EXACT < value < _EXACT:
        return value
    if type(value) is float and abs(value) < 1e300:
        return value
    try:
        return mask(str(value))
    except Exception:
        return type(value).__name__


def log_format(given: Optional[str], environ: Optional[Mapping[str, str]] = None) -> str:
    """Return the format: *given* on the command line, else that of ELK_LOG_FORMAT, else text.

    :raises ConfigError: there is no such format.
    """
    name = given or (os.environ if environ is None else environ).get("ELK_LOG_FORMAT") or "text"
    if name not in FORMATS:
        raise ConfigError("ELK_LOG_FORMAT: must be one of %s, not %r" % (", ".join(FORMATS), name))
    return name


def configure(level: str, name: str) -> None:
    """Log on stderr from *level* on in the format *name*; an application that has set up its logging keeps it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if name == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
