"""Judge PromQL expressions of alerts, recording rules and dashboards: they parse, and every name in them exists.

:func:`complaints` is what a test asks; an empty list means that the expression is fit to ship. The parser is a wheel
that older Pythons cannot get (see setup.cfg, extra ``test``): there the names are still looked at, by their tokens.
"""

from __future__ import annotations

import re
from typing import Any, Dict, FrozenSet, Iterable, Iterator, List, Mapping, Set, Tuple

from elk_coordinator.observability.families import FAMILIES, PREFIX, Family

try:
    import promql_parser
except ImportError:  # tests/monitoring/test_expressions.py says on which Pythons that is allowed
    promql_parser = None  # type: ignore[assignment]

#: What Prometheus itself writes for every target.
OF_PROMETHEUS = frozenset(["up", "scrape_duration_seconds", "scrape_samples_scraped", "ALERTS", "ALERTS_FOR_STATE"])
#: Labels that a scrape, a rule or the relabelling of ``prometheus.yml`` adds to every series.
OF_THE_TARGET = frozenset(["job", "instance", "host", "cluster", "__name__"])
#: Grafana's macros and variables, which the parser does not know. Durations and numbers of any size do.
MACROS = (
    (re.compile(r"\$__(rate_interval|interval|range)\b|\$\{__(rate_interval|interval|range)(:\w+)?\}"), "5m"),
    (re.compile(r"\$__(range_s|interval_ms|range_ms)\b|\$\{__(from|to)(:\w+)?\}|\$__(from|to)\b"), "300"),
    (re.compile(r"\[\$(\{\w+(:\w+)?\}|\w+)\]"), "[5m]"),
    (re.compile(r"\$(\{\w+(:\w+)?\}|\w+)"), "1"),
)
RATES = frozenset(["rate", "irate", "increase", "resets", "changes"])

#: Of these, what makes sense for counters only; a gauge may change.
FOR_COUNTERS = frozenset(["rate", "irate", "increase", "resets"])

#: Name, labels it is matched by, functions of RATES around it.
Selector = Tuple[str, Tuple[str, ...], FrozenSet[str]]


def plain(expression: str) -> str:
    """Return *expression* with Grafana's macros and variables replaced by what the parser takes."""
    for pattern, value in MACROS:
        expression = pattern.sub(value, expression)
    return expression


def series() -> Dict[str, Family]:
    """Return every series that a worker exports (a histogram has three) with its family."""
    out: Dict[str, Family] = {}
    for family in FAMILIES:
        for suffix in ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",):
            out[PREFIX + family.name + suffix] = family
    return out


def _walk(node: Any, inside: Tuple[str, ...] = ()) -> Iterator[Tuple[Any, Tuple[str, ...]]]:
    """Yield every node with the functions around it. (The parser's own ``walk`` came later than our floor.)"""
    yield node, inside
    func = getattr(node, "func", None)
    around = inside + ((func.name,) if func is not None else ())
    below = [getattr(node, name, None) for name in ("lhs", "rhs", "expr", "param", "vector_selector")]
    args = getattr(node, "args", None)
    if args is not None:
        below.extend(args)
    for child in below:
        if child is not None and not isinstance(child, (str, int, float)):
            for found in _walk(child, around):
                yield found


def selectors(expression: str) -> List[Selector]:
    """Return every selector of *expression*; ValueError when it does not parse."""
    text = plain(expression)
    if promql_parser is None:
        return _selectors_by_token(text)
    out: List[Selector] = []
    for node, inside in _walk(promql_parser.parse(text)):
        if type(node).__name__ == "VectorSelector":
            matchers = node.matchers.matchers
            labels = tuple(matcher.name for matcher in matchers)
            named = [matcher.value for matcher in matchers if matcher.name == "__name__"]
            out.append((node.name or (named[0] if named else ""), labels, RATES.intersection(inside)))
    return out


_TOKEN = re.compile(r"(?:\b(\w+)\s*\(\s*)?\b((?:elk_coordinator_|coordinator:elk_)[\w:]*)\s*(?:\{([^}]*)\})?\s*")


def _selectors_by_token(text: str) -> List[Selector]:
    return [
        (
            match.group(2),
            tuple(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", match.group(3) or "")),
            RATES.intersection([match.group(1) or ""]),
        )
        for match in _TOKEN.finditer(text)
    ]


def names(expression: str) -> Set[str]:
    """Return the names of all series that *expression* reads."""
    return {name for name, _, _ in selectors(expression)}


def grouping(expression: str) -> Set[str]:
    """Return all labels that aggregations and matchings name."""
    found = re.findall(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)", plain(expression))
    return {label.strip() for labels in found for label in labels.split(",") if label.strip()}


def complaints(expression: str, recorded: Iterable[str] = (), extra_labels: Iterable[str] = ()) -> List[str]:
    """Return what is wrong with *expression*, in words.

    :param recorded: names that recording rules define.
    :param extra_labels: labels which these carry, or that a relabelling adds.
    """
    try:
        found = selectors(expression)
    except ValueError as exc:
        return ["does not parse: %s" % exc]
    out: List[str] = []
    exported: Mapping[str, Family] = series()
    known = set(recorded)
    every = OF_THE_TARGET.union(extra_labels)
    for name, labels, rated in found:
        family = exported.get(name)
        if family is None:
            if name not in known and name not in OF_PROMETHEUS:
                out.append("%s: there is no such metric" % (name or "{}"))
            continue
        own = set(family.labels) | ({"le"} if name.endswith("_bucket") else set())
        for label in sorted(set(labels) - own - every):
            out.append("%s has no label %s" % (name, label))
        if family.kind != "gauge" and not rated:
            out.append("%s only ever grows: put rate() or increase() around it" % name)
        if family.kind == "gauge" and FOR_COUNTERS.intersection(rated):
            out.append("%s is a gauge: rate() and increase() are for counters" % name)
    labels_of_all = {label for name, _, _ in found if name in exported for label in exported[name].labels}
    for label in sorted(grouping(expression) - labels_of_all - every - {"le"}):
        if not any(name in known for name, _, _ in found):
            out.append("aggregates by %s, which none of its metrics has" % label)
    return out
