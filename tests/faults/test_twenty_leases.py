"""The last of the fault tests by name: what began before the first of them has by now run for twenty leases."""

from __future__ import annotations

import pytest

from tests.faults.fleet import LEASE, Fleet


@pytest.mark.timeout(30 * LEASE)
def test_a_processor_that_runs_for_twenty_leases_has_one_attempt(long_run: Fleet) -> None:
    long_run.wait_done(25 * LEASE)
    long_run.end()
    tally = long_run.check()
    longest = max(told["t"] for told in long_run.told("partition_completed")) - min(
        attempt.at for attempt in long_run.journal.attempts()
    )
    assert longest >= 20 * LEASE
    assert (tally["attempts"], tally["deliveries"], tally["lost"], tally["refused"]) == (2, 0, 0, 0)
    print("one attempt ran for %.0f leases with %d heartbeats; "
          "%s" % (longest / LEASE, len(long_run.told("heartbeat")), tally))  # fmt: skip
