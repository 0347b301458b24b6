"""What ``elk doctor`` finds: each with what it means and what to do, and the list they are gathered in."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Mapping, Sequence

import attr

from elk_coordinator.errors import StoreError

OK = "ok"
INFO = "info"
WARNING = "warning"
PROBLEM = "problem"
SEVERITIES = (OK, INFO, WARNING, PROBLEM)
#: Names listed in one finding.
LISTED = 10


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    #: What was looked at; stays the same over releases, for programs.
    code: str
    #: "ok", "info", "warning" (may hurt later) or "problem" (hurts now, or work may be lost).
    severity: str
    found: str
    means: str = ""
    do: str = ""


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Diagnosis:
    """Everything that was found in one examination, the worst first."""

    namespace: str
    findings: List[Finding]

    @property
    def healthy(self) -> bool:
        """Whether there is no problem; warnings do not count."""
        return not self.of(PROBLEM)

    def of(self, severity: str) -> List[Finding]:
        """Return the findings of one severity."""
        return [finding for finding in self.findings if finding.severity == severity]

    def to_dict(self) -> Dict[str, Any]:
        """Return a JSON-ready dict."""
        return dict(attr.asdict(self), healthy=self.healthy)


class Notes:
    """Gathers findings; what goes wrong while one thing is looked at does not keep the others from being seen."""

    def __init__(self) -> None:
        self.findings: List[Finding] = []

    def add(self, severity: str, code: str, found: str, means: str = "", do: str = "") -> None:
        """Note one finding."""
        self.findings.append(Finding(code, severity, found, means, do))

    @contextmanager
    def looking(self, code: str, what: str, severity: str = INFO) -> Iterator[None]:
        """Turn what the store refuses, or answers in a form unknown to us, into a finding of this severity."""
        try:
            yield
        except (StoreError, ValueError, KeyError, IndexError, TypeError, AttributeError) as exc:
            text = " ".join(str(exc).split()) or type(exc).__name__
            self.add(
                severity,
                code,
                "%s could not be looked at: %s" % (what, text[:300]),
                "Whether anything is wrong there is not known. Managed servers often forbid such questions.",
                "Ask as a user who may, or look at the provider's own console.",
            )


def some(names: Sequence[Any]) -> str:
    """Return the first names in one text, and how many more there are."""
    more = len(names) - LISTED
    return ", ".join(str(name) for name in names[:LISTED]) + (" and %d more" % more if more > 0 else "")


def pairs(answer: Any) -> Dict[Any, Any]:
    """Return a reply of names and values as a dict, whatever protocol and driver made of it."""
    if isinstance(answer, Mapping):
        return dict(answer)
    items = list(answer or ())
    if items and isinstance(items[0], (list, tuple)):
        return {item[0]: item[1] for item in items}
    return dict(zip(items[::2], items[1::2]))


def word(value: Any) -> str:
    """Return a reply as text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
