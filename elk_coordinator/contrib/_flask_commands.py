"""``flask elk worker | status | retry | pause | resume``; added to the application by ``Elk.init_app()``."""

from __future__ import annotations

import json
import logging
from typing import Any, Callable, List, Optional, Tuple

import click
from flask import current_app
from flask.cli import AppGroup

from elk_coordinator import AdminClient
from elk_coordinator.admin.telling import ask, look, one_line, watch
from elk_coordinator.contrib._worker import ERROR, run_worker
from elk_coordinator.errors import ConfigError, ElkError
from elk_coordinator.model import PartitionStats
from elk_coordinator.observability import log_format

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
        _note(one_line(exc))
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
                _note(text)

        return run_worker(coordinator, until_done, say, done)

    _do(run)


@elk_commands.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--watch", "pause", type=click.FloatRange(min=0.1), metavar="SECONDS", help="Again, until Ctrl-C.")
def status(as_json: bool, pause: Optional[float]) -> None:
    """Show the leader, the live workers and the counts of the namespace."""

    def run(elk: Any) -> None:
        admin = elk.admin()

        def show() -> None:
            found = look(admin)
            click.echo(_json(found.to_dict()) if as_json else "\n".join(found.lines("flask elk resume")))

        if pause is None:
            show()
        else:
            watch(show, pause, _note)

    _do(run)


def _json(document: Any) -> str:
    return json.dumps(document, indent=2, sort_keys=True, default=str)


def _note(text: str) -> None:
    click.echo("elk: %s" % text, err=True)


def _ask(submit: Callable[[AdminClient], str], wait: Optional[float]) -> None:
    def run(elk: Any) -> Optional[int]:
        admin = elk.admin()
        answer = ask(admin, lambda: submit(admin), wait)
        if answer.text:
            click.echo(answer.text)
        if answer.problem:
            _note(answer.problem)
        return None if answer.ok else ERROR

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
    _ask(lambda admin: admin.retry_failed(chosen), wait)


@elk_commands.command("pause")
@_wait
def pause(wait: Optional[float]) -> None:
    """Have no worker claim anything until 'flask elk resume'; what runs goes on."""
    _ask(lambda admin: admin.pause(), wait)


@elk_commands.command("resume")
@_wait
def resume(wait: Optional[float]) -> None:
    """Have workers claim again."""
    _ask(lambda admin: admin.resume(), wait)
