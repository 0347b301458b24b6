"""System checks: what is wrong with the settings, before a worker finds out. They ask nobody over the network."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Tuple

from django.core import checks

from elk_coordinator.contrib.django import conf
from elk_coordinator.errors import ConfigError

TAG = "elk_coordinator"
DOCS = "See docs/django.rst of elk_coordinator for the keys of ELK_COORDINATOR."


def register() -> None:
    """Register the checks with Django."""
    checks.register(check_settings, TAG)


def check_settings(app_configs: Optional[Iterable[Any]] = None, **kwargs: Any) -> List[Any]:
    """Return what is wrong with ELK_COORDINATOR.

    elk.E001 the setting or an entry is no dict; E002 an unknown key; E003 NAMESPACE; E004 REDIS_URL and STORE; E005 a
    path that cannot be imported; E006 no processor or planner is there; E007 OPTIONS; E008 CLOSE_CONNECTIONS;
    elk.W001 no coordinator at all; W002 two entries share one namespace.
    """
    try:
        given = conf.all_settings()
    except ConfigError as exc:
        return [checks.Error(str(exc), hint=DOCS, id="elk.E001")]
    if not given:
        text = "ELK_COORDINATOR is missing or empty: there is nothing to run"
        return [checks.Warning(text, hint=DOCS, id="elk.W001")]
    found: List[Any] = []
    for alias, values in given.items():
        found += _check_entry(str(alias), values)
    return found + _shared(given)


def _check_entry(alias: str, values: Any) -> List[Any]:
    if not isinstance(values, Mapping):
        text = "ELK_COORDINATOR[%r]: must be a dict, not %s" % (alias, type(values).__name__)
        return [checks.Error(text, hint=DOCS, id="elk.E001")]
    found: List[Any] = []
    for key in values:
        if key not in conf.KEYS:
            text = "ELK_COORDINATOR[%r]: %s: no such key%s" % (alias, key, conf.close_to(key, conf.KEYS))
            hint = "Options of the coordinator stand inside OPTIONS. " + DOCS
            found.append(checks.Error(text, hint=hint, id="elk.E002"))
    entry = conf.Entry(alias, values)
    trials: List[Tuple[str, Callable[[], Any]]] = [
        ("elk.E003", entry.namespace),
        ("elk.E004", lambda: _store(entry)),
        ("elk.E007", entry.config),
    ]
    for number, trial in trials:
        try:
            trial()
        except ConfigError as exc:
            found.append(checks.Error(str(exc), id=number))
    for key in ("PROCESSOR", "PLANNER", "STORE"):
        found += _check_path(entry, key)
    if not isinstance(values.get("CLOSE_CONNECTIONS", True), bool):
        found.append(checks.Error("%s: CLOSE_CONNECTIONS: must be True or False" % entry.where, id="elk.E008"))
    return found


def _store(entry: conf.Entry) -> None:
    # One that is named by a path is the user's code: looked up below, and not called.
    if entry.values.get("STORE") is None or entry.values.get("REDIS_URL") is not None:
        entry.store(conf.ANSWER_WITHIN).close()


def _check_path(entry: conf.Entry, key: str) -> List[Any]:
    try:
        target = entry.look_up(key)
    except ConfigError as exc:
        hint = "A dotted path, 'app.tasks.Recalculate': the module must be importable where manage.py runs."
        return [checks.Error(str(exc), hint=hint, id="elk.E005")]
    except Exception as exc:  # the user's module fails while it is imported; the worker would show its traceback
        text = "%s: %s: %r fails while it is imported: %s: %s" % (
            entry.where, key, entry.values.get(key), type(exc).__name__, exc,
        )  # fmt: skip
        return [checks.Error(text, id="elk.E005")]
    if key != "STORE":
        try:
            entry.check_shape(key, target)
        except ConfigError as exc:
            return [checks.Error(str(exc), id="elk.E006")]
    return []


def _shared(given: Mapping[str, Any]) -> List[Any]:
    """Two entries over one namespace are one plan with two processors: whoever claims decides which one runs."""
    seen: Dict[Tuple[str, str], str] = {}
    found: List[Any] = []
    for alias, values in given.items():
        if not isinstance(values, Mapping) or values.get("NAMESPACE") is None:
            continue
        place = (str(values["NAMESPACE"]), str(values.get("REDIS_URL", values.get("STORE"))))
        other = seen.setdefault(place, str(alias))
        if other != str(alias) and given[other].get("PROCESSOR") != values.get("PROCESSOR"):
            text = "ELK_COORDINATOR[%r] and [%r] share the namespace %r but not the processor" % (
                other, alias, values["NAMESPACE"],
            )  # fmt: skip
            hint = "A partition runs with the processor of whichever worker claims it. Give each job its own NAMESPACE."
            found.append(checks.Warning(text, hint=hint, id="elk.W002"))
    return found
