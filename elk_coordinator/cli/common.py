"""What every command shares: the shape of a command, the common options, the connection, the way things are printed."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from typing import Any, Callable, Iterator, Optional

import attr

from elk_coordinator import AdminClient, RedisDataStore
from elk_coordinator.config import check_namespace
from elk_coordinator.partition.factory import open_strategy as find_strategy
from elk_coordinator.partition.strategy import PartitionStrategy

#: Exit codes (contract, section 7).
OK = 0
ERROR = 1
USAGE = 2
SOME_FAILED = 3

#: Seconds a command waits for the store before it says that there is none.
ANSWER_WITHIN = 3.0

DEFAULT_URL = "redis://localhost:6379/0"


class UsageError(Exception):
    """The command line does not say what it must: one line on stderr, exit code 2."""


@attr.s(auto_attribs=True, frozen=True)
class Command:
    """One command of ``elk``: a module defines one and :mod:`elk_coordinator.cli.main` lists it."""

    name: str
    help: str
    #: Adds the command's own arguments; the common ones are there already.
    configure: Callable[[argparse.ArgumentParser], None]
    #: Does it; returns the exit code.
    run: Callable[[argparse.Namespace], int]
    #: Longer text under ``elk NAME --help``.
    epilog: Optional[str] = None


def add_common_options(parser: argparse.ArgumentParser, before_command: bool) -> None:
    """Add ``--namespace``, ``--redis`` and ``--json``, which may stand before or after the command.

    The parser of a command must not write its defaults over what stood before the command, so there they have none.
    """
    default: Any = None if before_command else argparse.SUPPRESS
    parser.add_argument(
        "-n", "--namespace", metavar="NAME", default=default, help="the namespace to work on (or ELK_NAMESPACE)"
    )
    parser.add_argument(
        "--redis", metavar="URL", default=default, help="the store, default %s (or ELK_REDIS_URL)" % DEFAULT_URL
    )
    parser.add_argument(
        "--json",
        action="store_true",
        default=False if before_command else argparse.SUPPRESS,
        help="print one JSON document instead of text",
    )


def namespace_of(args: argparse.Namespace) -> str:
    """Return the namespace of the command line or of ELK_NAMESPACE.

    :raises UsageError: when neither names one.
    :raises ConfigError: when it is not a good name.
    """
    name = args.namespace or os.environ.get("ELK_NAMESPACE")
    if not name:
        raise UsageError("which namespace? Give --namespace NAME or set ELK_NAMESPACE")
    return check_namespace(name)


def redis_url_of(args: argparse.Namespace) -> str:
    """Return the URL of the command line, of ELK_REDIS_URL, or the default."""
    return args.redis or os.environ.get("ELK_REDIS_URL") or DEFAULT_URL


@contextlib.contextmanager
def open_store(args: argparse.Namespace) -> Iterator[RedisDataStore]:
    """Give the store the command line names, and close it at the end. Nothing is sent before its first use."""
    store = RedisDataStore.from_url(redis_url_of(args), timeout=ANSWER_WITHIN)
    try:
        yield store
    finally:
        store.close()


@contextlib.contextmanager
def open_strategy(args: argparse.Namespace) -> Iterator[PartitionStrategy]:
    """Give the strategy that the namespace of the command line runs, without a coordinator.

    :raises StateError: nobody has used that namespace yet.
    """
    namespace = namespace_of(args)
    with open_store(args) as store:
        strategy = find_strategy(namespace, store)
        yield strategy
        # Not after an error: it asks the store, which may be what failed, and nothing is lost without it.
        strategy.stop()


@contextlib.contextmanager
def open_admin(args: argparse.Namespace) -> Iterator[AdminClient]:
    """Give the operator's service of the namespace the command line names, whatever strategy it runs.

    :raises StateError: nobody has used that namespace yet.
    """
    namespace = namespace_of(args)
    with open_store(args) as store:
        yield AdminClient(namespace, store)


def print_json(document: Any) -> None:
    """Print one JSON document. IDs and tokens are exact integers."""
    print(json.dumps(document, indent=2, sort_keys=True, default=str))


def note(text: str) -> None:
    """Print one line for people on stderr."""
    print("elk: %s" % text, file=sys.stderr, flush=True)
