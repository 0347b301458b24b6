"""Loads the Lua scripts: one file per atomic operation, with the files its head names put in front."""

from __future__ import annotations

import hashlib
import pkgutil
import re
from typing import Dict, Tuple

_HOMES = {"store": "elk_coordinator.store", "partition": "elk_coordinator.partition"}
_INCLUDE = re.compile(r"\A-- include: ([\w. ]+)\n")


class Script:
    """The source of one script and its SHA1, by which a server that has it is asked."""

    __slots__ = ("name", "source", "sha")

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.source = source
        self.sha = hashlib.sha1(source.encode("utf-8")).hexdigest()


def _read(home: str, file: str) -> str:
    for package in (_HOMES[home], _HOMES["store"]):
        try:
            data = pkgutil.get_data(package, "lua/" + file)
        except FileNotFoundError:
            continue
        if data is not None:
            return data.decode("utf-8")
    raise FileNotFoundError("lua/%s is missing from the installed package" % file)


def load(path: str) -> Script:
    """Return the script ``"<home>/<name>"``, home being ``store`` or ``partition``."""
    home, name = path.split("/")
    source = _read(home, name + ".lua")
    head = _INCLUDE.match(source)
    if head:
        source = "".join(_read(home, file) for file in head.group(1).split()) + source
    return Script(name, source)


class Scripts:
    """The scripts of one house, loaded when first asked for. Thread-safe: loading twice does no harm."""

    def __init__(self) -> None:
        self._loaded: Dict[str, Script] = {}

    def get(self, path: str) -> Script:
        """Return the script at *path*."""
        script = self._loaded.get(path)
        if script is None:
            script = self._loaded[path] = load(path)
        return script

    def replace(self, path: str, old: str, new: str) -> Tuple[str, str]:
        """Change a script's text, for tests that switch a guard off; *old* must occur exactly once.

        :return: the text before and after.
        """
        before = self.get(path).source
        if before.count(old) != 1:
            raise ValueError("%s: %r occurs %d times, not once" % (path, old, before.count(old)))
        after = before.replace(old, new)
        self._loaded[path] = Script(path.split("/")[1], after)
        return before, after
