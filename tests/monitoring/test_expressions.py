"""The judge of expressions itself: it lets good ones pass, and names what is wrong with bad ones."""

from __future__ import annotations

import sys

import pytest

from tests.monitoring import expressions


def test_the_parser_is_missing_only_where_it_cannot_be_had() -> None:
    assert expressions.promql_parser is not None or sys.version_info < (3, 10)


@pytest.mark.parametrize(
    "good",
    [
        'sum by (coordinator) (rate(elk_coordinator_partition_attempts_total{outcome="failed"}[5m])) > 0',
        "histogram_quantile(0.95, sum by (le) (rate(elk_coordinator_claim_duration_seconds_bucket[$__rate_interval])))",
        'max by (coordinator) (elk_coordinator_partitions{status="pending", job=~"$job"}) unless on () (up == 0)',
        "topk($n, sum by (worker_id) (increase(elk_coordinator_node_tasks_errors_total[${__range}])))",
        'elk_coordinator_store_up{coordinator=~"$coordinator",instance=~"${instance:regex}"} == 0',
        "coordinator:elk_known:rate5m / 2",
    ],
)
def test_a_good_expression_passes(good: str) -> None:
    assert expressions.complaints(good, recorded=["coordinator:elk_known:rate5m"]) == []


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ("elk_coordinator_nonsense > 1", "elk_coordinator_nonsense: there is no such metric"),
        ("rate(elk_coordinator_claim_duration_seconds[5m])", "there is no such metric"),
        ("coordinator:elk_unknown:rate5m", "there is no such metric"),
        ('elk_coordinator_partitions{state="pending"}', "has no label state"),
        ("elk_coordinator_lease_lost_total > 5", "put rate() or increase() around it"),
        ("rate(elk_coordinator_partitions[5m])", "is a gauge"),
        ("sum by (node) (elk_coordinator_store_up)", "aggregates by node"),
    ],
)
def test_a_bad_expression_is_named(bad: str, complaint: str) -> None:
    found = expressions.complaints(bad)
    assert found and complaint in "; ".join(found)


@pytest.mark.skipif(sys.version_info < (3, 10), reason="the parser has no wheel for this Python")
@pytest.mark.parametrize("broken", ["rate(up", "sum by coordinator (up)", "up > > 1", "rate(elk_coordinator_store_up)"])
def test_what_does_not_parse_is_said(broken: str) -> None:
    assert expressions.complaints(broken)[0].startswith("does not parse: ")


def test_the_names_behind_a_function_a_subquery_and_a_matcher_are_found() -> None:
    text = "max_over_time((elk_coordinator_store_up)[5m:1m]) or -absent(elk_coordinator_paused) or elk_coordinator_gaps"
    assert expressions.names(text) == {
        "elk_coordinator_store_up",
        "elk_coordinator_paused",
        "elk_coordinator_gaps",
    }
