"""Every alert is complete: texts, a runbook, cases that fire and that do not, and only metrics that exist."""

from __future__ import annotations

import pathlib
import re
from typing import Any, Dict, List

import pytest
import yaml

from tests.monitoring import expressions

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "monitoring" / "prometheus"
RUNBOOKS = ROOT / "docs" / "runbooks"
#: One place for them all; monitoring/README.rst has the line that moves every rule to another.
RUNBOOK_URL = "https://github.com/elk-coordinator/elk_coordinator/blob/main/docs/runbooks/"
SEVERITIES = {"critical", "warning", "info"}
SECTIONS = ("How to look", "What to do", "When it is over")


def load(path: pathlib.Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


FILES = [load(path) for path in sorted((PROMETHEUS / "rules").glob("*.yml"))]
RULES: List[Dict[str, Any]] = [rule for text in FILES for group in text["groups"] for rule in group["rules"]]
ALERTS: Dict[str, Dict[str, Any]] = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = [rule["record"] for rule in RULES if "record" in rule]
CASES = [case for path in sorted((PROMETHEUS / "tests").glob("*_test.yml")) for case in load(path)["tests"]]


def test_there_are_about_twenty_alerts_with_names_of_one_kind() -> None:
    assert len(ALERTS) >= 20 and len(ALERTS) + len(RECORDED) == len(RULES)  # no name twice
    assert all(re.match(r"ElkCoordinator([A-Z][a-z]+)+$", name) for name in ALERTS)
    assert all(re.match(r"coordinator:elk_coordinator_\w+:\w+$", name) for name in RECORDED)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.get("alert") or rule["record"]))
def test_a_rule_reads_only_metrics_and_labels_that_exist(rule: Dict[str, Any]) -> None:
    assert expressions.complaints(rule["expr"], recorded=RECORDED) == []


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_an_alert_says_how_bad_what_and_where_to_read_on(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in SEVERITIES
    assert re.match(r"\d+[mh]$", alert["for"])
    texts = alert["annotations"]
    assert set(texts) == {"summary", "description", "runbook_url"}
    assert len(texts["summary"]) <= 100 and not texts["summary"].endswith(".")
    assert texts["description"].endswith(".")
    assert texts["runbook_url"] == "%s%s.rst" % (RUNBOOK_URL, name)


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_an_alert_has_a_runbook_with_every_section_and_a_place_in_the_list(name: str) -> None:
    page = (RUNBOOKS / (name + ".rst")).read_text(encoding="utf-8")
    assert page.startswith("%s\n%s\n" % (name, "=" * len(name)))
    for section in SECTIONS:
        assert "\n%s\n%s\n" % (section, "-" * len(section)) in page
    assert "<%s.rst>" % name in (RUNBOOKS / "README.rst").read_text(encoding="utf-8")


def test_no_runbook_is_left_of_an_alert_that_is_gone() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.rst")} == set(ALERTS) | {"README"}


def test_every_metric_a_runbook_names_exists() -> None:
    known = set(expressions.series()) | set(RECORDED)
    for path in RUNBOOKS.glob("*.rst"):
        named = set(re.findall(r"\b(?:coordinator:)?elk_coordinator_\w+(?::\w+)?", path.read_text(encoding="utf-8")))
        assert named <= known, path.name


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_an_alert_has_a_case_that_fires_and_one_that_does_not(name: str) -> None:
    asked = [
        bool(question["exp_samples"])
        for case in CASES
        for question in case.get("promql_expr_test", ())
        if 'alertname="%s"' % name in question["expr"]
    ]
    assert asked.count(True) >= 1 and asked.count(False) >= 1


def test_the_cases_feed_only_series_that_exist() -> None:
    for case in CASES:
        for given in case["input_series"]:
            assert expressions.complaints("increase(%s[5m])" % given["series"]) in ([], _gauge(given["series"])), case
    assert all("name" in case for case in CASES)


def _gauge(series: str) -> List[str]:
    return ["%s is a gauge: rate() and increase() are for counters" % series.partition("{")[0]]


def test_prometheus_discovers_the_workers_over_http_from_several_seeds_under_the_job_of_the_rules() -> None:
    config = load(PROMETHEUS / "prometheus.yml")
    (job,) = [job for job in config["scrape_configs"] if job["job_name"] == "elk_coordinator"]
    seeds = [seed["url"] for seed in job["http_sd_configs"]]
    assert len(seeds) >= 2 and all(url.endswith("/api/v1/prometheus-targets") for url in seeds)
    used = {job for rule in RULES for job in re.findall(r'job="(\w+)"', rule["expr"])}
    assert used == {"elk_coordinator"}
    assert config["rule_files"] == ["rules/*.yml"] and config["alerting"]["alertmanagers"]
