"""SQL text: named parameters in every driver's style, and names that are checked before they are quoted."""

from __future__ import annotations

import functools
import re
from typing import Any, Dict, List, Mapping, Tuple, Union

from elk_coordinator.errors import ConfigError

PARAMSTYLES = ("qmark", "numeric", "named", "format", "pyformat")

Arguments = Union[Tuple[Any, ...], Dict[str, Any]]

#: What is copied as it stands: text in quotes, comments, casts. Only what is left may hold a parameter.
_QUOTED = {
    "mysql": r"'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.|\"\")*\"|`[^`]*`|\#[^\n]*",
    "postgresql": r"[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\"[^\"]*\"|\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$",
    "sqlite": r"'(?:[^']|'')*'|\"[^\"]*\"|`[^`]*`|\[[^\]]*\]",
}
_COMMON = r"|--[^\n]*|/\*.*?\*/|::|(?<![\w:]):(?P<name>[^\W\d]\w*)|%"
_TOKENS = {dialect: re.compile(quoted + _COMMON, re.DOTALL) for dialect, quoted in _QUOTED.items()}

_NAME = re.compile(r"[^\W\d][\w$]{0,62}\Z")


def render(sql: str, params: Mapping[str, Any], dialect: str, paramstyle: str) -> Tuple[str, Arguments]:
    """Return the text and arguments that a driver of *paramstyle* takes for *sql* with its ``:name`` parameters. Where
    there are no arguments the driver must be given none.

    :raises ConfigError: a parameter of the text has no value. Values without a parameter are no error.
    """
    text, names = _translate(sql, dialect, paramstyle)
    missing = [name for name in names if name not in params]
    if missing:
        raise ConfigError("params: the statement needs :%s, which was not given: %s" % (", :".join(missing), sql))
    if paramstyle in ("named", "pyformat"):
        return text, {name: params[name] for name in names}
    return text, tuple(params[name] for name in names)


@functools.lru_cache(maxsize=256)
def _translate(sql: str, dialect: str, paramstyle: str) -> Tuple[str, Tuple[str, ...]]:
    names: List[str] = []
    # Without parameters nothing is passed, and then no driver looks for marks (some double ones stay double then).
    percent = paramstyle in ("format", "pyformat") and any(m.group("name") for m in _TOKENS[dialect].finditer(sql))

    def replace(match: "re.Match[str]") -> str:
        name = match.group("name")
        if name is None:
            # These drivers look for their marks everywhere, also inside quotes.
            return match.group().replace("%", "%%") if percent else match.group()
        names.append(name)
        marks = {"qmark": "?", "numeric": ":%d" % len(names), "named": ":%s" % name, "format": "%s"}
        return marks.get(paramstyle, "%%(%s)s" % name)

    return _TOKENS[dialect].sub(replace, sql), tuple(names)


def quote_name(dialect: str, name: str) -> str:
    """Return *name* (``table``, ``schema.table``, a column), checked and quoted, as the database itself spells it.

    Quoted names are compared exactly: PostgreSQL keeps ``CREATE TABLE Orders`` as ``orders``.

    :raises ConfigError: it is more than dotted parts of letters, digits, ``_`` and ``$``, or an unknown dialect.
    """
    if dialect not in _TOKENS:
        raise ConfigError("dialect=%r: it must be one of %s" % (dialect, ", ".join(sorted(_TOKENS))))
    parts = name.split(".") if isinstance(name, str) else []
    if not 1 <= len(parts) <= 3 or not all(_NAME.match(part) for part in parts):
        raise ConfigError(
            "name=%r: a table or column is named by letters, digits, _ and $ (up to 63), with dots between schema "
            "and table, as the database spells it and without quotes" % (name,)
        )
    mark = "`" if dialect == "mysql" else '"'
    return ".".join(mark + part + mark for part in parts)
