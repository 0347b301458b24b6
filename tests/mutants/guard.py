"""What a row of the table of guards says."""

from __future__ import annotations

import pathlib
from typing import Tuple

import attr

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = "elk_coordinator"

#: Which parameters of the contract suite a row wants (a -k expression): scripts on the real server, or the document.
SCRIPTS = "redis and not fakeredis and not simple"
DOCUMENT = "simple-memory"


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Guard:
    """One check of the library, and how to switch it off."""

    #: A name to select it by: ``make mutants ARGS="-k report"``.
    name: str
    #: Path of its file below the package.
    path: str
    #: The text that is the guard; occurs exactly once in the file.
    old: str
    #: What stands there when it is switched off.
    new: str
    #: The promise that falls with it.
    promise: str
    #: Tests of which at least one must fail, as pytest names them.
    tests: Tuple[str, ...]
    #: A -k expression that narrows them down.
    only: str = ""
    #: Further replacements (old, new) in the same file: two guards of which each does the other's work.
    also: Tuple[Tuple[str, str], ...] = ()

    def mutate(self, source: str) -> str:
        """Return *source* with the guard switched off.

        :raises ValueError: when a text does not occur exactly once, so that the table cannot rot.
        """
        for old, new in ((self.old, self.new), *self.also):
            if source.count(old) != 1:
                raise ValueError(
                    "%s: %r occurs %d times in %s, not once" % (self.name, old, source.count(old), self.path)
                )
            source = source.replace(old, new)
        return source

    def source(self) -> str:
        """Return the text of its file as it is."""
        return (ROOT / PACKAGE / self.path).read_text(encoding="utf-8")
