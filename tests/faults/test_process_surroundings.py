"""What surrounds a worker fails: its log, its listeners, its port, its disk. The work goes on and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from typing import Any, Callable, Dict

from elk_coordinator.testing import wait_until
from tests.faults import test_process
from tests.faults.fleet import LEASE, Fleet, must_fail
from tests.faults.test_process_processors import ODD

MakeFleet = Callable[..., Fleet]

WORK: Dict[str, Any] = {"pause": 0.02, "deeds": {"51": "raise:OSError", "101": "raise:BaseException"}}


def test_a_log_listeners_and_a_port_that_fail_cost_no_work(new_fleet: MakeFleet) -> None:
    fleet, control = new_fleet(300), new_fleet(300, "control")
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = {"metrics_enabled": True, "metrics_addr": "127.0.0.1:%d" % taken.getsockname()[1]}
        options = dict(port, max_attempts=2)
        broken = ["listeners", "log", "full"]
        one = fleet.start("one", WORK, options=options, program=ODD, broken=broken)
        fleet.start("two", WORK, options=options, program=ODD, broken=broken)
        # The control: what the log's handler raises comes out of our own calls.
        control.start("one", WORK, options=options, program=ODD, broken=["log", "log-guard"], wait=False)
        fleet.wait_done(failed=2)
        one.say("health")
        health = one.wait_for("health")
    assert health["ready"] is True and health["http_address"] is None, health
    assert one.of("http_unavailable")
    assert [role["restarts"] for role in health["roles"] if role["restarts"]] == []
    fleet.end()
    tally = fleet.check(failed=frozenset([6, 11]))
    assert tally["deliveries"] == tally["lost"] == 0
    print("a raising log handler, raising listeners, a full disk for log and stdout, a taken port: all done; "
          "%s" % tally)  # fmt: skip
    with must_fail("the end of the work"):
        control.wait_done(2.0, failed=2)


def test_elk_run_whose_stdout_and_stderr_are_full_does_its_work(new_fleet: MakeFleet) -> None:
    fleet = new_fleet(200)
    (fleet.folder / "work.py").write_text(test_process.MODULE)
    config = {
        "work": {"pause": 0.02}, "journal": fleet.journal_path, "namespace": fleet.namespace,
        "planner": {"blocks": [[1, fleet.last]], "size": fleet.size},
    }  # fmt: skip
    settings = " ".join(
        "--set %s=%s" % item
        for item in {
            "heartbeat_interval": 1,
            "worker_ttl": LEASE,
            "leader_lock_expiry": LEASE,
            "metrics_enabled": "no",
        }.items()
    )
    script = "exec %s -m elk_coordinator run work:processor work:planner %s --until-done >/dev/full 2>/dev/full" % (
        sys.executable, settings)  # fmt: skip
    run = fleet.launch("elk-run", ["/bin/sh", "-c", script], FAULTS=json.dumps(config), ELK_REDIS_URL=fleet.url,
                       ELK_NAMESPACE=fleet.namespace)  # fmt: skip
    wait_until(lambda: fleet.done() or run.process.poll() is not None, 20.0, "the end of the work")
    code = run.process.wait(20.0)
    assert fleet.done(), "elk run ended with %d before the work was done" % code
    tally = fleet.check()
    print("elk run on a full disk did its work and ended with %d; %s" % (code, tally))
