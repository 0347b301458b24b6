"""``elk run``: one worker process, until it is told to stop or the work is done."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from typing import Any, Callable, Dict, List, NoReturn, Optional, Tuple

import attr

from elk_coordinator import CircuitBreakerConfig, Coordinator, CoordinatorConfig, RedisDataStore, create_strategy
from elk_coordinator.cli.common import (
    ERROR,
    OK,
    SOME_FAILED,
    Command,
    UsageError,
    count,
    namespace_of,
    note,
    one_line,
    print_json,
    redis_url_of,
)
from elk_coordinator.cli.loading import load, put_working_directory_first
from elk_coordinator.errors import ConfigError, ElkError
from elk_coordinator.model import HELD, MAX_BATCH, Outcome, PartitionFilter, PartitionStats, Report
from elk_coordinator.runtime.signals import StopSignals, on_stop
from elk_coordinator.runtime.threads import spawn

LOG_FORMAT = "%(asctime)s %(levelname)-7s %(threadName)s %(name)s: %(message)s"
LOG_LEVELS = ("debug", "info", "warning", "error")
#: Seconds for the store to answer at the start: with what Python needs to start itself, an error comes within 5 s.
START_WITHIN = 3.5
#: Seconds per call while giving back what is held, when a second signal came.
GIVE_BACK_WITHIN = 1.0
#: What errands put among the signals.
IDLE, DRAINED = 0, -1


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
    parser.add_argument("--log-level", choices=LOG_LEVELS, default="info", help="log on stderr from here, default info")


class Errand:
    """One blocking call in a thread of its own, so that the main thread hears signals meanwhile.

    A signal handler runs in the main thread; raising out of it into a call to the store could leave a connection with
    half an answer in it.

    :param ended: called in that thread when the call has ended.
    """

    def __init__(self, name: str, call: Callable[[], bool], ended: Callable[[], None]) -> None:
        self._call = call
        self._ended = ended
        self.result: Optional[bool] = None
        self.error: Optional[Exception] = None
        # Not "elk-...": threads of that name belong to a coordinator, which does not wait for itself.
        spawn("run-" + name, self._run)

    def _run(self) -> None:
        try:
            self.result = self._call()
        except Exception as exc:
            self.error = exc
        finally:
            self._ended()


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


def run(args: argparse.Namespace) -> int:
    """Run one worker in this process."""
    namespace, url = namespace_of(args), redis_url_of(args)
    options = options_of(args.settings)
    logging.basicConfig(level=args.log_level.upper(), stream=sys.stderr, format=LOG_FORMAT)
    put_working_directory_first()
    processor = load(args.processor, "processor")
    planner = None if args.planner is None else load(args.planner, "planner")
    with contextlib.closing(RedisDataStore.from_url(url, timeout=START_WITHIN)) as store:
        coordinator = Coordinator(namespace, store, processor, planner, **options)
        signals = StopSignals()
        with on_stop(signals.put):
            coordinator.start()
            note("%s: worker %s runs; %s" % (namespace, coordinator.worker_id, _where(coordinator)))
            signum, stats, clean = _work(coordinator, signals, args)
    if stats is None:
        # A stop is what a service is for; under --until-done it means that the work is not done.
        return 128 + signum if args.until_done else OK if clean else ERROR
    if args.json:
        print_json(dict(attr.asdict(stats), namespace=namespace))
    else:
        print("%s: %s completed, %d failed" % (namespace, count(stats.completed, "partition"), stats.failed))
    return SOME_FAILED if stats.failed else OK


def _where(coordinator: Coordinator) -> str:
    address = coordinator.http_address
    return "metrics and health on http://%s" % address if address else "no metrics and health over HTTP"


def _work(
    coordinator: Coordinator, signals: StopSignals, args: argparse.Namespace
) -> Tuple[int, Optional[PartitionStats], bool]:
    """Wait for a signal or the end of the work, then drain; return the signal, the last counts, and whether clean."""
    stats: Optional[PartitionStats] = None
    if args.until_done:
        Errand("wait", coordinator.wait_idle, lambda: signals.put(IDLE))
    signum = signals.wait() or IDLE
    try:
        if signum == IDLE:
            stats = coordinator.strategy.get_partition_stats()
        else:
            note("signal %d: finishing what runs; another signal stops at once" % signum)
    finally:
        stop = Errand("stop", coordinator.stop, lambda: signals.put(DRAINED))
        while True:
            heard = signals.wait()
            if heard == DRAINED:
                break
            if heard is not None and heard > 0:
                _exit_now(coordinator, heard)
    if stop.error is not None:
        raise stop.error
    if not stop.result:
        note("not everything ended within stop_timeout; what still ran is left to its lease and done again elsewhere")
    return signum, stats, bool(stop.result)


def _exit_now(coordinator: Coordinator, signum: int) -> NoReturn:
    """Give back what is held if the store answers quickly, then leave without waiting for anybody."""
    note("signal %d again: stopping at once" % signum)
    strategy = coordinator.strategy
    try:
        # Connections of our own: those of the coordinator may be in the middle of something.
        with contextlib.closing(strategy.store.with_deadline(GIVE_BACK_WITHIN)) as store:
            own = create_strategy(strategy.strategy_type, coordinator.namespace, store)
            me = coordinator.worker_id
            held = own.get_filtered_partitions(PartitionFilter(worker_id=me, statuses=HELD))
            reports = [Report(p.partition_id, p.fencing_token, Outcome.RELEASED) for p in held]
            for start in range(0, len(reports), MAX_BATCH):
                own.report_partitions(me, reports[start : start + MAX_BATCH])
            leader = own.leader()
            if leader is not None and leader[0] == me:
                own.store.release_lock("leader", leader[1])
            own.store.forget(me)
            note("gave back %s" % count(len(held), "partition"))
    except ElkError as exc:
        note("could not give back what is held, its leases will run out: %s" % one_line(exc))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(128 + signum)


COMMAND = Command(
    name="run",
    help="run one worker of a namespace until it is stopped, or until everything is done",
    configure=configure,
    run=run,
    epilog="""SIGTERM or SIGINT: claims nothing more, finishes what runs (up to stop_timeout), gives back the rest. A
second one: out at once. Options: --set, then ELK_<OPTION> variables, then the defaults. The working
directory is importable. Log on stderr.""",
)
