"""The dashboards without a Grafana: well formed, in step in both languages, and asking only for what there is."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any, Iterator, List, Set, Tuple

import pytest

from monitoring.grafana import build
from monitoring.grafana.model import COLUMNS, LANGUAGES, RUNBOOKS
from tests.monitoring.expressions import complaints, promql_parser, selectors, series

#: Windows that are not the graph's step: the time range of the page, and the fixed windows of a burn rate.
WINDOWS = {"$__rate_interval", "$__range", "5m", "1h", "6h"}
#: Grafana's names of units that we use.
UNITS = {"short", "s", "percentunit", "cps", "ops", "bytes", "none"}
ROOT = pathlib.Path(__file__).resolve().parents[2]
CHINESE = re.compile("[\u4e00-\u9fff]")
TARGET_LABELS = {"job", "instance"}

FILES = [(dashboard, language) for dashboard in build.DASHBOARDS for language in LANGUAGES]
EXPRESSIONS = [
    pytest.param(query.expr, id="%s-%s-%d" % (dashboard.name, panel.title[0], at))
    for dashboard in build.DASHBOARDS
    for panel in dashboard.panels()
    for at, query in enumerate(panel.queries)
]


def problems(expression: str) -> List[str]:
    """Return what is wrong with one expression, in words: what holds for every PromQL, and what for a dashboard."""
    found = complaints(expression)
    exported = series()
    for name, labels, _ in selectors(expression) if not found else ():
        if "job" not in labels:
            found.append("%s: not held to $job" % name)
        if "coordinator" in exported[name].labels and "coordinator" not in labels:
            found.append("%s: not held to $coordinator" % name)
    for inner in re.findall(r"histogram_quantile\([^,]+, (.*)", expression):
        if not re.match(r"sum by \(([^)]*, )?le\) \(\(?rate\(\w+_bucket\{", inner):
            found.append("histogram_quantile is not over sum by (..., le) (rate(..._bucket))")
    windows = set(re.findall(r"\[([^\]:]+)[\]:]", expression)) - WINDOWS
    found += ["window [%s] is neither $__rate_interval nor a window of an objective" % w for w in sorted(windows)]
    return found


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_asks_for_what_there_is(expression: str) -> None:
    assert problems(expression) == []


CHOSEN = '{job=~"$job", coordinator=~"$coordinator"}'


@pytest.mark.parametrize(
    "expression, complaint",
    [
        pytest.param(
            "sum(", "does not parse", marks=pytest.mark.skipif(promql_parser is None, reason="no parser on this Python")
        ),
        ("elk_coordinator_backlog%s" % CHOSEN, "there is no such metric"),
        ("elk_coordinator_paused", "not held to $job"),
        ('elk_coordinator_paused{job=~"$job"}', "not held to $coordinator"),
        ('elk_coordinator_paused{job=~"$job", coordinator=~"$coordinator", status="a"}', "has no label status"),
        ("elk_coordinator_planner_errors_total%s" % CHOSEN, "only ever grows"),
        ("rate(elk_coordinator_paused%s[$__rate_interval])" % CHOSEN, "is a gauge"),
        ("rate(elk_coordinator_planner_errors_total%s[1m])" % CHOSEN, "window [1m]"),
        (
            "histogram_quantile(0.9, rate(elk_coordinator_claim_duration_seconds_bucket%s[$__rate_interval]))" % CHOSEN,
            "histogram_quantile is not over",
        ),
        (
            "histogram_quantile(0.9, sum by (le) (rate(elk_coordinator_claim_duration_seconds_sum%s[5m])))" % CHOSEN,
            "histogram_quantile is not over",
        ),
        ("elk_coordinator_claim_duration_seconds%s" % CHOSEN, "there is no such metric"),
    ],
)
def test_the_check_of_expressions_finds(expression: str, complaint: str) -> None:
    found = problems(expression)
    assert any(complaint in problem for problem in found), found


def test_the_files_are_what_the_description_says() -> None:
    written = {path: path.read_text(encoding="utf-8") for path in build.FOLDER.rglob("*.json")}
    assert written == build.files(), "python -m monitoring.grafana.build"


@pytest.mark.parametrize("dashboard, language", FILES, ids=lambda value: getattr(value, "name", value))
def test_a_dashboard_is_well_formed(dashboard: Any, language: str) -> None:
    page = dashboard.to_json(language)
    panels = page["panels"]
    assert page["uid"] and page["title"] and page["description"] and page["editable"] and page["schemaVersion"] >= 38
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)

    cells: Set[Tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not own & cells, "%s overlaps another panel" % panel["title"]
        assert at["x"] + at["w"] <= COLUMNS, "%s sticks out" % panel["title"]
        cells |= own

    for panel in (panel for panel in panels if panel["type"] != "row"):
        defaults = panel["fieldConfig"]["defaults"]
        assert panel["title"] and len(panel["description"]) > 5 and panel["targets"], panel["title"]
        assert "?" in panel["description"] or "？" in panel["description"], "a panel answers a question"
        assert defaults["unit"] in UNITS and defaults["thresholds"]["steps"][0]["value"] is None, panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert panel["type"] == "table" or target["legendFormat"], panel["title"]


@pytest.mark.parametrize("dashboard", build.DASHBOARDS, ids=lambda dashboard: dashboard.name)
def test_the_variables_in_use_are_defined_and_the_defined_are_in_use(dashboard: Any) -> None:
    page = dashboard.to_json("en")
    variables = {variable["name"]: variable for variable in page["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z_]+)\}?", json.dumps(page).replace("$__", "")))
    assert used == set(variables)
    asked = [variable for variable in variables.values() if variable["type"] == "query"]
    assert {"job", "coordinator"} <= {variable["name"] for variable in asked}
    for variable in asked:
        assert variable["refresh"] == 2, "workers come and go: ask again when the time range changes"
        assert variable["includeAll"] and variable["multi"] and variable["datasource"]["uid"] == "${datasource}"
        inner = re.match(r"label_values\((.+), (\w+)\)\Z", variable["definition"])
        assert inner, variable["definition"]
        ((name, _, _),) = selectors(inner.group(1))
        assert inner.group(2) in {*series()[name].labels, *TARGET_LABELS}


def shape(value: Any) -> Any:
    """Return the JSON with every text a person reads taken out."""
    if isinstance(value, dict):
        texts = {"title", "description", "label", "legendFormat", "text", "noValue", "titleFormat", "uid", "tags"}
        return {key: shape(inner) for key, inner in value.items() if key not in texts and value.get("enable") is None}
    return [shape(inner) for inner in value] if isinstance(value, list) else value


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("title", "description") and isinstance(inner, str):
                yield inner
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


@pytest.mark.parametrize("dashboard", build.DASHBOARDS, ids=lambda dashboard: dashboard.name)
def test_both_languages_differ_in_their_words_only(dashboard: Any) -> None:
    english, chinese = (dashboard.to_json(language) for language in LANGUAGES)
    assert shape(english) == shape(chinese)
    assert [text for text in texts(english) if CHINESE.search(text)] == []
    assert [text for text in texts(chinese) if not CHINESE.search(text) and not text.startswith("Elk /")] == []


def test_the_links_lead_to_runbooks_that_are_there() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "runbooks").glob("*.rst")}
    linked = {panel.runbook for dashboard in build.DASHBOARDS for panel in dashboard.panels()} - {""}
    assert linked - pages == set()
    urls = {url for text in build.files().values() for url in re.findall(r'"url": "([^"]+)"', text)}
    assert {url.rpartition("/")[0] for url in urls} == {RUNBOOKS.rpartition("/")[0]}
    rules = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "monitoring").glob("prometheus/rules/*.yml"))
    assert RUNBOOKS % "ElkCoordinatorStalled" in rules, "alerts and panels name one place"


def test_no_two_dashboards_share_a_uid() -> None:
    uids = [dashboard.to_json(language)["uid"] for dashboard, language in FILES]
    assert len(set(uids)) == len(uids) == 8
