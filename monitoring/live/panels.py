"""The queries of the dashboards as Grafana sends them: variables filled in, steps chosen."""

from __future__ import annotations

import math
import re
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

from monitoring.grafana.build import DASHBOARDS
from monitoring.grafana.model import Panel, say
from monitoring.live.stand import Stand

#: What the variables that are no question to Prometheus stand at.
FIXED = {"$objective": "0.99", "$max_age": "3600"}


def filled(expression: str, seconds: int) -> str:
    """Return the expression over a time range, scraped every second."""
    values = dict(FIXED, **{"$__rate_interval": "6s", "$__range": "%ds" % seconds})
    for name, value in values.items():
        expression = expression.replace(name, value)
    return re.sub(r'"\$\w+"', '".+"', expression)


class Answered(NamedTuple):
    """A panel and what Prometheus answered: for each query, series as (name, [(time, value)])."""

    dashboard: str
    panel: Panel
    series: List[List[Tuple[str, List[Tuple[float, float]]]]]

    @property
    def empty(self) -> bool:
        """Whether no query brought a series."""
        return not any(self.series)


def _legend(template: str, labels: Dict[str, str]) -> str:
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda m: labels.get(m.group(1), ""), template).strip()


def answers(stand: Stand, seconds: int, until: float, language: str = "en", step: float = 1.0) -> Iterator[Answered]:
    """Ask what every panel asks, over the *seconds* before *until*."""
    for dashboard in DASHBOARDS:
        for panel in dashboard.panels():
            series = []
            for query in panel.queries:
                expression = filled(query.expr, seconds)
                data: Any = stand.ask(
                    "query_range", query=expression, start=until - seconds, end=until, step=step
                )["result"]
                series.append([
                    (
                        _legend(say(query.legend, language), found["metric"]) or str(found["metric"]),
                        [(float(at), float(value)) for at, value in found["values"] if not math.isnan(float(value))],
                    )
                    for found in data
                ])  # fmt: skip
            yield Answered(dashboard.name, panel, series)
