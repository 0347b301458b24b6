"""What the demo says at the end: how long each recovery took, and the proof."""

from __future__ import annotations

from typing import Any, Dict, List

import attr

from elk_coordinator.cli.demo.database import Database
from elk_coordinator.cli.demo.server import Server
from elk_coordinator.cli.demo.settings import OPTIONS, DemoSettings
from elk_coordinator.cli.demo.story import Result, Workshop


def as_text(result: Result, database: Database, workshop: Workshop) -> str:
    """Return the end of the demo for people."""
    out: List[str] = ["", "Recoveries, with leases of %g s (default 30 s)" % OPTIONS["worker_ttl"]]
    killed, frozen = result.findings["killed"], result.findings["frozen"]
    out.append("  leader killed:   new leader after %.1f s" % killed["new_leader_after"])
    out.append(
        "  worker killed:   its %d partitions running elsewhere after %.1f s"
        % (len(killed["partitions"]), killed["running_elsewhere_after"])
    )
    out.append("  worker frozen:   its partition running elsewhere after %.1f s" % frozen["taken_over_after"])
    out += ["", "Proof, first the database (%s)" % database.how_to_open]
    for check in result.checks:
        if not check.sql:
            continue
        out += ["  %s;" % check.sql, "    -> %s" % check.answer, "    %s: %s" % (_verdict(check.proved), check.claim)]
    out.append("then the store")
    for check in result.checks:
        if not check.sql:
            out.append("  %s: %s (%s)" % (_verdict(check.proved), check.claim, check.answer))
    out.append("")
    out.append(
        "%s in %.1f s, at most %.1f s of it in artificial pauses%s"
        % (
            "PROVED" if result.proved else "NOT PROVED",
            result.seconds,
            result.artificial,
            "; kept: %s" % workshop.path if workshop.keep else " (--keep leaves the table and the logs)",
        )
    )
    return "\n".join(out)


def _verdict(proved: bool) -> str:
    return "ok" if proved else "WRONG"


def as_document(result: Result, settings: DemoSettings, server: Server, workshop: Workshop) -> Dict[str, Any]:
    """Return the end of the demo for programs."""
    return {
        "proved": result.proved,
        "seconds": round(result.seconds, 2),
        "artificial_seconds": round(result.artificial, 2),
        "server": server.label,
        "simulated": server.simulated,
        "namespace": settings.namespace,
        "rows": settings.rows,
        "workers": settings.workers,
        "seed": settings.seed,
        "fenced": settings.fenced,
        "findings": result.findings,
        "checks": [attr.asdict(check) for check in result.checks],
        "kept": workshop.path if workshop.keep else None,
    }
