"""The report of make bench-peers: how it compares and what it shows. No peer is needed for it."""

from __future__ import annotations

import pytest

from benchmarks.peers import report

CPU = (90.0, 20.0)
OURS = ("elk, window 8", "elk, window 64")


def noop(**runs):
    named = {name.replace("_", " ").replace("elk ", "elk, "): each for name, each in runs.items()}
    return report.case(report.NOOP, 100, 0.0, 1, {name: [run + CPU for run in each] for name, each in named.items()})


def test_a_goal_is_judged_by_the_fastest_peer_of_the_same_round():
    # A machine that is half as fast in the second round: the ratios are what they were.
    both = noop(
        elk_window_8=[(100, 0.1, True), (100, 0.2, True)],
        elk_window_64=[(100, 0.05, True), (100, 0.1, True)],
        Huey=[(100, 0.5, True), (100, 2.0, True)],
        Dramatiq=[(100, 1.0, True), (100, 1.0, True)],
    )
    eight, sixty_four = report.goals([both], OURS)
    assert eight["ratios"] == [pytest.approx(5.0), pytest.approx(5.0)]
    assert eight["fastest"] == ["Huey", "Dramatiq"]
    assert eight["reached"]
    assert sixty_four["ratio"] == pytest.approx(10.0)


def test_a_ratio_below_its_goal_is_not_called_reached():
    slow = noop(elk_window_8=[(100, 0.1, True)], elk_window_64=[(100, 0.1, True)], RQ=[(100, 0.39, True)])
    assert [row["reached"] for row in report.goals([slow], OURS)] == [False, False]


def test_without_a_peer_there_is_nothing_to_compare():
    assert report.goals([noop(elk_window_8=[(100, 0.1, True)])], OURS) == []


def test_the_text_marks_what_was_cut_and_what_did_not_come_back():
    both = noop(elk_window_8=[(100, 0.1, True)], RQ=[(50, 3.0, False)])
    shown = report.text(
        {
            "about": {"server": "Redis 7"},
            "limit": 3,
            "cases": [both],
            "enqueuing": {"RQ": 5000.0},
            "goals": report.goals([both], OURS),
            "recovery": {"elk": 31.5, "RQ": None},
            "recovery_cap": 150,
            "words": {"RQ": ("SimpleWorker", "not run again")},
        }
    )
    assert "17 (17 - 17) *" in shown
    assert "1000 (1000 - 1000)\n" in shown
    assert "(RQ): 60.0 (60.0 - 60.0), goal 4: reached" in shown
    assert "90 + 20" in shown
    assert "31.5 s" in shown and "not within 150 s" in shown
