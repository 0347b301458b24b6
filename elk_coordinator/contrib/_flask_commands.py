"""``flask elk worker | status | retry | pause | resume``; added to the application by ``Elk.init_app()``."""

from __future__ import annotations

import json
import logging
import threading
from typing import Any, Callable, Dict, List, Optional, Tuple

import attr
import click
from flask import current_app
from flask.cli import AppGroup

from elk_coordinator import AdminClient
from elk_coordinator.contrib._worker import ERROR, run_worker
from elk_coordinator.errors import ConfigError, ElkError
from elk_coordinator.model import PartitionStats
from elk_coordinator.observability import log_format
from elk_coordinator.runtime.clock import Clock

LOGGER = logging.getLogger("elk_coordinator.cli")
USAGE = 2  # of click, and of ``elk``
LEVELS = ["debug", "info", "warning", "error"]

elk_commands = AppGroup("elk", short_help="Run and look at the workers of elk_coordinator.")


def _do(call: Callable[[Any], Optional[int]]) -> None:
    """Call with the application's Elk; errors of ours become one line, connections are closed behind it."""
    elk = current_app.extensions["elk"]
    try:
        code = call(elk)
    except ElkError as exc:
        click.echo("elk: %s" % " ".join(str(exc).split()), err=True)
        code = USAGE if isinstance(exc, ConfigError) else ERROR
    finally:
        elk.stop()
    if code:
        click.get_current_context().exit(code)


@elk_commands.command("worker")
@click.option("--until-done", is_flag=True, help="End when nothing is left to plan or to do; exit 3 if some failed.")
@click.option(
    "--log-level", type=click.Choice(LEVELS), default="info", show_default=True, help="Log on stderr from here."
)
@click.option(
    "--log-format",
    "format_name",
    type=click.Choice(log_format.FORMATS),
    help="text, or json: one document per line (default ELK_LOG_FORMAT, or text).",
)
def worker(until_done: bool, log_level: str, format_name: Optional[str]) -> None:
    """Run one worker until it is stopped.

    SIGTERM or SIGINT: claims nothing more and finishes what runs (up to ELK_STOP_TIMEOUT). A second one: out at once.
    """

    def run(elk: Any) -> int:
        # An application that set up its logging keeps it.
        name = log_format.log_format(format_name)
        log_format.configure(log_level, name)
        coordinator = elk.coordinator()

        def done(stats: PartitionStats) -> None:
            click.echo(
                "%s: %d partitions completed, %d failed" % (coordinator.namespace, stats.completed, stats.failed)
            )

        def say(text: str) -> None:
            if name == "json":
                LOGGER.info("%s", text)
            else:
                click.echo("elk: %s" % text, err=True)

        return run_worker(coordinator, until_done, say, done)

    _do(run)


@elk_commands.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--watch", type=click.FloatRange(min=0.1), metavar="SECONDS", help="Again and again, until Ctrl-C.")
def status(as_json: bool, watch: Optional[float]) -> None:
    """Show the leader, the live workers and the counts of the namespace."""

    def run(elk: Any) -> None:
        admin, clock, never = elk.admin(), Clock(), threading.Event()
        while True:
            document = dict(admin.status(), live=[attr.asdict(each) for each in admin.workers()])
            click.echo(
                json.dumps(document, indent=2, sort_keys=True, default=str) if as_json else status_text(document)
            )
            if watch is None:
                return
            clock.wait(never, watch)

    _do(run)


def status_text(document: Dict[str, Any]) -> str:
    """Return a status for people."""
    leader, stats = document["leader"], PartitionStats(**document["partitions"])
    lines = ["namespace   %s (%s)" % (document["namespace"], document["strategy"])]
    if document["paused"]:
        lines.append("paused      nothing is claimed until 'flask elk resume'")
    lines.append("leader      %s" % (leader["worker_id"] if leader else "none"))
    names = ("pending", "claimed", "running", "completed", "failed")
    counts = ", ".join("%d %s" % (getattr(stats, name), name) for name in names)
    lines.append("partitions  %d: %s (%.1f %% done)" % (stats.total, counts, 100 * stats.completion_rate))
    lines.append("commands    %d waiting" % document["commands"])
    lines.append("workers     %d" % document["workers"])
    for each in sorted(document["live"], key=lambda found: str(found["worker_id"])):
        info = each["info"]
        facts = (each["worker_id"], info.get("state", ""), info.get("in_flight", "?"), info.get("window", "?"))
        lines.append("  %s  %s  %s of %s running" % facts)
    for each in document["breakers"]:
        lines.append("  %s  breaker %s: %s" % (each["worker_id"], each["state"], each["reason"]))
    # What workers wrote is not to steer the terminal of whoever reads it.
    return "\n".join("".join(sign if sign.isprintable() else "?" for sign in line) for line in lines)


def _ask(what: str, ask: Callable[[AdminClient], str], wait: Optional[float]) -> None:
    def run(elk: Any) -> Optional[int]:
        admin = elk.admin()
        command_id = ask(admin)
        if wait is None:
            click.echo("command %s (%s) is queued; the leader carries it out" % (command_id, what))
            return None
        state = admin.wait(command_id, wait)
        told = "command %s (%s) is %s" % (command_id, what, state.state)
        if what == "retry" and state.state != "queued":
            told += "; partitions changed: %d" % state.done
        if state.error:
            told += "; %s" % " ".join(state.error.split())
        if not state.ended:
            told += "; not ended within %g s, it stays queued: is there a leader?" % wait
        click.echo(told)
        return None if state.state == "done" else ERROR

    _do(run)


_wait = click.option(
    "--wait",
    type=click.FloatRange(min=0.1),
    metavar="SECONDS",
    help="Wait for its end; exit 1 when there is none.",
)


@elk_commands.command("retry")
@click.argument("ids", type=int, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every partition that is failed now.")
@_wait
def retry(ids: Tuple[int, ...], everything: bool, wait: Optional[float]) -> None:
    """Make failed partitions pending again, with all their attempts and their checkpoint."""
    if bool(ids) == everything:
        raise click.UsageError("retry which partitions? Give their ids, or --all")
    chosen: Optional[List[int]] = list(ids) or None
    _ask("retry", lambda admin: admin.retry_failed(chosen), wait)


@elk_commands.command("pause")
@_wait
def pause(wait: Optional[float]) -> None:
    """Have no worker claim anything until 'flask elk resume'; what runs goes on."""
    _ask("pause", lambda admin: admin.pause(), wait)


@elk_commands.command("resume")
@_wait
def resume(wait: Optional[float]) -> None:
    """Have workers claim again."""
    _ask("resume", lambda admin: admin.resume(), wait)
