"""``elk run``: one worker process, until it is told to stop or the work is done."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
from typing import Any, Dict, List, Mapping

import attr

from elk_coordinator import CircuitBreakerConfig, Coordinator, CoordinatorConfig, RedisDataStore
from elk_coordinator.admin.telling import count, one_line
from elk_coordinator.cli.common import ERROR, USAGE, Command, UsageError, namespace_of, note, print_json, redis_url_of
from elk_coordinator.cli.loading import load, put_working_directory_first
from elk_coordinator.contrib._worker import START_WITHIN, Note, run_worker
from elk_coordinator.errors import ConfigError, ElkError
from elk_coordinator.model import PartitionStats
from elk_coordinator.observability import notifiers
from elk_coordinator.observability.log_format import FORMATS, log_format
from elk_coordinator.observability.log_format import configure as configure_log
from elk_coordinator.observability.notify import Notify

LOGGER = logging.getLogger("elk_coordinator.cli")
LOG_LEVELS = ("debug", "info", "warning", "error")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of a worker."""
    parser.add_argument("processor", metavar="module:Processor", help="a class, an instance, or a function")
    parser.add_argument(
        "planner", metavar="module:Planner", nargs="?", help="left out: a worker that never leads and never plans"
    )
    parser.add_argument(
        "--until-done", action="store_true", help="end when nothing is left to plan or to do; exit 3 if some failed"
    )
    parser.add_argument(
        "--set",
        dest="settings",
        metavar="option=value",
        action="append",
        default=[],
        help="an option of the coordinator: task_window_size=8, circuit_breaker_open_timeout=5; may be repeated",
    )
    parser.add_argument(
        "--notify", metavar="URL", help="a webhook that the leader tells what is wrong; better in ELK_NOTIFY_WEBHOOK"
    )
    parser.add_argument(
        "--notify-format", choices=tuple(notifiers.FORMATS), help="who reads it, default ELK_NOTIFY_FORMAT or json"
    )
    parser.add_argument("--log-level", choices=LOG_LEVELS, default="info", help="log on stderr from here, default info")
    parser.add_argument(
        "--log-format",
        choices=FORMATS,
        default=None,
        help="text, or json: one document per line on stderr (default ELK_LOG_FORMAT, or text)",
    )


def options_of(settings: List[str]) -> Dict[str, Any]:
    """Return the coordinator's options: ``--set`` before ELK_* variables before defaults.

    :raises UsageError: for text that is not ``option=value`` or an option that does not exist.
    :raises ConfigError: for a value that is refused.
    """
    objects = ("listeners", "logger", "gap_detector")  # nothing that a text could name
    names = [field.name for field in attr.fields(CoordinatorConfig) if field.name not in objects]
    known = set(names) | {"circuit_breaker_" + field.name for field in attr.fields(CircuitBreakerConfig)}
    environ, given = dict(os.environ), set()
    for setting in settings:
        name, equals, value = setting.partition("=")
        name = name.strip().lower().replace("-", "_")
        if not equals:
            raise UsageError("--set %s: must be option=value" % setting)
        if name not in known:
            raise UsageError("--set %s: no such option; known are %s" % (setting, ", ".join(sorted(known))))
        environ["ELK_" + name.upper()] = value
        given.add(name)
    try:
        config = CoordinatorConfig.from_env(environ=environ)
    except ConfigError as exc:
        name, colon, rest = str(exc).partition(":")
        option = name[4:].lower()
        if not name.startswith("ELK_") or option not in given:
            raise
        raise ConfigError("--set %s%s%s" % (option, colon, rest)) from exc
    return {name: getattr(config, name) for name in names}


def listeners_of(args: argparse.Namespace, environ: Mapping[str, str]) -> List[Notify]:
    """Return the notifier that was asked for. What is secret is taken from the environment and shown by nobody.

    :raises ConfigError: for a URL or format that is refused.
    """
    url = args.notify or environ.get("ELK_NOTIFY_WEBHOOK")
    if not url:
        if args.notify_format:
            raise UsageError("--notify-format: there is no webhook; set ELK_NOTIFY_WEBHOOK or give --notify URL")
        return []
    kind = args.notify_format or environ.get("ELK_NOTIFY_FORMAT") or "json"
    return [Notify(notifiers.WebhookNotifier(url, kind, secret=environ.get("ELK_NOTIFY_SECRET") or None))]


def run(args: argparse.Namespace) -> int:
    """Run one worker in this process."""
    namespace, url = namespace_of(args), redis_url_of(args)
    options = options_of(args.settings)
    options["listeners"] = listeners_of(args, os.environ)
    format_name = log_format(args.log_format)
    configure_log(args.log_level, format_name)
    try:
        return work(args, namespace, url, options, note if format_name == "text" else LOGGER.info)
    except (ElkError, UsageError) as exc:
        if format_name == "text":
            raise
        # Whoever reads documents gets this one, too.
        LOGGER.error("%s", one_line(exc))
        return USAGE if isinstance(exc, (ConfigError, UsageError)) else ERROR


def work(args: argparse.Namespace, namespace: str, url: str, options: Dict[str, Any], say: Note) -> int:
    """Load what the command line names and run it; *say* is told what happens."""
    put_working_directory_first()
    processor = load(args.processor, "processor")
    planner = None if args.planner is None else load(args.planner, "planner")
    with contextlib.closing(RedisDataStore.from_url(url, timeout=START_WITHIN)) as store:
        coordinator = Coordinator(namespace, store, processor, planner, **options)

        def done(stats: PartitionStats) -> None:
            if args.json:
                print_json(dict(attr.asdict(stats), namespace=namespace))
            else:
                print("%s: %s completed, %d failed" % (namespace, count(stats.completed, "partition"), stats.failed))

        return run_worker(coordinator, args.until_done, say, done)


COMMAND = Command(
    name="run",
    help="run one worker of a namespace until it is stopped, or until everything is done",
    configure=configure,
    run=run,
    epilog="""SIGTERM or SIGINT: claims nothing more, finishes what runs (up to stop_timeout), gives back the rest. A
second one: out at once. Options: --set, then ELK_<OPTION> variables, then the defaults. The working
directory is importable. Log on stderr. Notifications: ELK_NOTIFY_WEBHOOK (or --notify, which others on this
machine can see in the list of processes), ELK_NOTIFY_FORMAT, ELK_NOTIFY_SECRET (signature of DingTalk and Feishu).""",
)
