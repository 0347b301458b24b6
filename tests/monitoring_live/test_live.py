"""A real Prometheus watches a real fleet: targets are found, panels are answered, a killed worker is noticed.

Run by ``make test-monitoring``; needs ``prometheus`` (Debian: prometheus).
"""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from elk_coordinator.testing import wait_until
from monitoring.live.panels import answers
from monitoring.live.stand import CLOCK, ROOT, Stand, shorten

RULES = sorted((ROOT / "monitoring" / "prometheus" / "rules").glob("*.yml"))
#: Alerts of which at least one tells of a worker that was killed.
OF_A_DEATH = {"ElkCoordinatorTargetDown", "ElkCoordinatorWorkersMissing", "ElkCoordinatorWorkerHeartbeatStale",
            "ElkCoordinatorWorkerLost"}  # fmt: skip
#: Have nothing to say of a fleet without faults: they count faults by kind, or need an hour.
QUIET = {"slo / Time with nothing too old"}


@pytest.mark.timeout(120)
def test_a_fleet_is_found_its_panels_are_answered_and_a_killed_worker_is_noticed(tmp_path: pathlib.Path) -> None:
    with Stand(tmp_path, workers=3, rules=RULES, factor=60.0) as stand:
        wait_until(lambda: stand.targets_up() == 3, 30.0, lambda: str(stand.ask("targets")))
        began = CLOCK.time()

        def unanswered() -> Any:
            until = CLOCK.time()
            found = answers(stand, max(10, int(until - began)), until, step=2.0)
            return {"%s / %s" % (a.dashboard, a.panel.title[0]) for a in found if a.empty} - QUIET

        wait_until(lambda: not unanswered(), 20.0, lambda: "an answer to %s" % sorted(unanswered()))
        assert not set(stand.alerts()) & OF_A_DEATH

        stand.kill_worker()
        wait_until(lambda: set(stand.alerts()) & OF_A_DEATH, 20.0, lambda: "an alert, not %s" % stand.alerts())
        assert stand.targets_up() == 2


def test_shortening_divides_times_and_leaves_the_rest() -> None:
    rules = (
        "groups:\n- name: a\n  interval: 1m\n  rules:\n  - alert: B\n"
        "    expr: rate(x[5m]) > 300 and y[1h:1m] and z[30s]\n"
        "    for: 10m\n    annotations:\n      summary: for 10m\n"
    )
    assert shorten(rules, 60.0) == (
        "groups:\n- name: a\n  interval: 1s\n  rules:\n  - alert: B\n"
        "    expr: rate(x[5s]) > 300 and y[60s:1s] and z[5s]\n"
        "    for: 10s\n    annotations:\n      summary: for 10m\n"
    )
