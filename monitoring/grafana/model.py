"""What a dashboard is made of, and how it becomes Grafana's JSON.

A dashboard is described once; every text a person reads is a pair of an English and a Chinese one. Nothing here knows
which metrics there are.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

#: Grafana 10.3 and 11 read this; newer ones migrate it.
SCHEMA_VERSION = 39
LANGUAGES = ("en", "zh")
#: Where the pages of docs/runbooks are read. The one place to change for a fork or an internal mirror.
RUNBOOKS = "https://github.com/elk-coordinator/elk_coordinator/blob/main/docs/runbooks/%s.rst"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24


class Text(NamedTuple):
    """The same words for each of :data:`LANGUAGES`."""

    en: str
    zh: str


Words = Union[str, Text]
#: (value from which on, colour)
Threshold = Tuple[Optional[float], str]


def say(words: Words, language: str) -> str:
    """Return the words in one language; a plain string is the same in all."""
    return words if isinstance(words, str) else str(getattr(words, language))


class Query(NamedTuple):
    """One expression and what its series are called."""

    expr: str
    legend: Words
    #: Asked for the end of the time range only: tables, bars.
    instant: bool = False


class Panel(NamedTuple):
    """One question, and the queries that answer it."""

    #: "timeseries", "stat", "bargauge", "state-timeline", "heatmap" or "table"
    kind: str
    title: Words
    #: The question this panel answers, and what a good answer looks like.
    question: Text
    queries: Tuple[Query, ...]
    unit: str
    width: int = 8
    height: int = 8
    thresholds: Tuple[Threshold, ...] = ((None, "green"),)
    #: Value -> (what it is called, colour)
    names: Dict[str, Tuple[Words, str]] = {}
    stacked: bool = False
    minimum: Optional[float] = 0
    maximum: Optional[float] = None
    decimals: Optional[int] = None
    #: The alert whose runbook goes on from here.
    runbook: str = ""
    #: Draw the thresholds as lines: they are limits, not only colours.
    limits: bool = False
    #: Shown by a stat when the query has no answer.
    absent: Words = "-"

    def to_json(self, number: int, x: int, y: int, language: str) -> Dict[str, Any]:
        """Return Grafana's panel at a place of the grid."""
        defaults: Dict[str, Any] = {
            "unit": self.unit,
            "thresholds": {
                "mode": "absolute",
                "steps": [{"value": value, "color": colour} for value, colour in self.thresholds],
            },
            "color": {"mode": "palette-classic" if self.kind == "timeseries" else "thresholds"},
            "mappings": self._mappings(language),
            "custom": self._custom(),
            "noValue": say(self.absent, language),
        }
        for key, value in (("min", self.minimum), ("max", self.maximum), ("decimals", self.decimals)):
            if value is not None:
                defaults[key] = value
        panel: Dict[str, Any] = {
            "id": number,
            "type": self.kind,
            "title": say(self.title, language),
            "description": say(self.question, language),
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "fieldConfig": {"defaults": defaults, "overrides": []},
            "options": self._options(),
            "targets": [
                {
                    "refId": chr(ord("A") + at),
                    "datasource": DATASOURCE,
                    "editorMode": "code",
                    "expr": query.expr,
                    "legendFormat": say(query.legend, language),
                    "instant": query.instant,
                    "range": not query.instant,
                    "format": {"table": "table", "heatmap": "heatmap"}.get(self.kind, "time_series"),
                }
                for at, query in enumerate(self.queries)
            ],
        }
        if self.kind == "table":
            panel["transformations"] = [
                {"id": "merge", "options": {}},
                {"id": "organize", "options": {"excludeByName": {"Time": True, "__name__": True, "Value": True}}},
            ]
        if self.runbook:
            title = Text("Runbook: %s", "处置手册：%s")
            panel["links"] = [
                {"title": say(title, language) % self.runbook, "url": RUNBOOKS % self.runbook, "targetBlank": True}
            ]
        return panel

    def _mappings(self, language: str) -> List[Dict[str, Any]]:
        if not self.names:
            return []
        options = {
            value: {"text": say(text, language), "color": colour, "index": at}
            for at, (value, (text, colour)) in enumerate(self.names.items())
        }
        return [{"type": "value", "options": options}]

    def _custom(self) -> Dict[str, Any]:
        if self.kind == "timeseries":
            return {
                "drawStyle": "line",
                "lineWidth": 1,
                "fillOpacity": 40 if self.stacked else 10,
                "showPoints": "never",
                "spanNulls": False,
                "stacking": {"mode": "normal" if self.stacked else "none", "group": "A"},
                "thresholdsStyle": {"mode": "line" if self.limits else "off"},
            }
        if self.kind == "state-timeline":
            return {"lineWidth": 0, "fillOpacity": 80}
        return {}

    def _options(self) -> Dict[str, Any]:
        last = {"calcs": ["lastNotNull"], "fields": "", "values": False}
        if self.kind == "timeseries":
            return {
                "legend": {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": ["last", "max"]},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }
        if self.kind == "stat":
            return {"reduceOptions": last, "colorMode": "value", "graphMode": "area", "textMode": "auto"}
        if self.kind == "bargauge":
            return {"reduceOptions": last, "orientation": "horizontal", "displayMode": "basic", "showUnfilled": True}
        if self.kind == "state-timeline":
            return {"mergeValues": True, "showValue": "auto", "rowHeight": 0.8}
        if self.kind == "heatmap":
            return {"calculate": False, "yAxis": {"unit": self.unit}, "color": {"scheme": "Oranges", "mode": "scheme"}}
        return {"showHeader": True, "cellHeight": "sm"}


class Row(NamedTuple):
    """A heading and the panels below it, from left to right."""

    title: Text
    panels: Tuple[Panel, ...]


class Variable(NamedTuple):
    """A choice at the top of a dashboard. *query* asks Prometheus; *choices* are fixed (text, value) pairs."""

    name: str
    label: Text
    query: str = ""
    choices: Tuple[Tuple[str, str], ...] = ()

    def to_json(self, language: str) -> Dict[str, Any]:
        common: Dict[str, Any] = {"name": self.name, "label": say(self.label, language), "hide": 0}
        if self.choices:
            options = [
                {"text": text, "value": value, "selected": at == 0} for at, (text, value) in enumerate(self.choices)
            ]
            current = {"text": self.choices[0][0], "value": self.choices[0][1]}
            query = ",".join("%s : %s" % pair for pair in self.choices)
            return dict(
                common, type="custom", query=query, options=options, current=current, multi=False, includeAll=False
            )
        if not self.query:
            return dict(common, type="datasource", query="prometheus", current={}, multi=False, includeAll=False)
        return dict(
            common,
            type="query",
            datasource=DATASOURCE,
            query={"query": self.query, "refId": "Variable"},
            definition=self.query,
            # 2: asked again when the time range changes; workers come and go.
            refresh=2,
            sort=1,
            multi=True,
            includeAll=True,
            allValue=".+",
            current={"text": ["All"], "value": ["$__all"]},
        )


class Dashboard(NamedTuple):
    """A page: who reads it, what they ask, in which order."""

    name: str
    title: Text
    text: Text
    variables: Tuple[Variable, ...]
    rows: Tuple[Row, ...]
    since: str = "now-1h"

    def panels(self) -> List[Panel]:
        """Return every panel, in order."""
        return [panel for row in self.rows for panel in row.panels]

    def to_json(self, language: str) -> Dict[str, Any]:
        """Return the whole as Grafana loads it from a file."""
        tag = "elk-coordinator-" + language
        return {
            "uid": "elk-%s-%s" % (self.name, language),
            "title": say(self.title, language),
            "description": say(self.text, language),
            "tags": ["elk-coordinator", tag],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "timezone": "browser",
            "refresh": "30s",
            "time": {"from": self.since, "to": "now"},
            "links": [
                {
                    "type": "dashboards",
                    "title": say(Text("Elk dashboards", "Elk 仪表盘"), language),
                    "tags": [tag],
                    "asDropdown": True,
                    "includeVars": True,
                    "keepTime": True,
                }
            ],
            "templating": {"list": [variable.to_json(language) for variable in self.variables]},
            "annotations": {"list": [_leader_changes(language)]},
            "panels": self._placed(language),
        }

    def _placed(self, language: str) -> List[Dict[str, Any]]:
        out: List[Dict[str, Any]] = []
        y = 0
        for row in self.rows:
            out.append(
                {
                    "id": len(out) + 1,
                    "type": "row",
                    "title": say(row.title, language),
                    "collapsed": False,
                    "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
                    "panels": [],
                }
            )
            y += 1
            x = height = 0
            for panel in row.panels:
                if x + panel.width > COLUMNS:
                    x, y, height = 0, y + height, 0
                out.append(panel.to_json(len(out) + 1, x, y, language))
                x, height = x + panel.width, max(height, panel.height)
            y += height
        return out


def _leader_changes(language: str) -> Dict[str, Any]:
    return {
        "name": say(Text("Leader changes", "主节点切换"), language),
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": "purple",
        "expr": 'changes(max by (coordinator) (elk_coordinator_leader_term{job=~"$job", coordinator=~"$coordinator"})'
        "[$__rate_interval:]) > 0",
        "titleFormat": say(Text("Another leader for {{coordinator}}", "{{coordinator}} 更换了主节点"), language),
    }


# -- short hands for the descriptions


def query(expr: str, legend: Words = "{{coordinator}}") -> Tuple[Query, ...]:
    """Return the only query of a panel."""
    return (Query(expr, legend),)


def queries(*pairs: Tuple[str, Words]) -> Tuple[Query, ...]:
    """Return several, each an expression and its legend."""
    return tuple(Query(*pair) for pair in pairs)


def stat(title: Words, question: Text, expr: str, unit: str, **more: Any) -> Panel:
    """Return one large number."""
    more.setdefault("width", 4)
    more.setdefault("height", 4)
    return Panel("stat", title, question, query(expr, more.pop("legend", "{{coordinator}}")), unit, **more)


def lines(title: Words, question: Text, asked: Sequence[Query], unit: str, **more: Any) -> Panel:
    """Return curves over time."""
    return Panel("timeseries", title, question, tuple(asked), unit, **more)
