"""``elk``: parse the command line, run one command, turn errors into one line and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Optional, Sequence

from elk_coordinator.admin.telling import one_line
from elk_coordinator.cli import commands, doctor, events, gaps, partitions, purge, run, status, verify, workers
from elk_coordinator.cli.common import ERROR, USAGE, Command, UsageError, add_common_options, note
from elk_coordinator.cli.demo import command as demo
from elk_coordinator.errors import ConfigError, ElkError
from elk_coordinator.version import __version__

#: Every command, in the order ``elk --help`` lists them. A new one is a module with a COMMAND, and a line here.
COMMANDS: Sequence[Command] = (
    demo.COMMAND,
    run.COMMAND,
    status.COMMAND,
    partitions.COMMAND,
    workers.COMMAND,
    *commands.COMMANDS,
    gaps.COMMAND,
    verify.COMMAND,
    doctor.COMMAND,
    events.COMMAND,
    purge.COMMAND,
)


def build_parser(commands: Sequence[Command] = COMMANDS) -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="elk",
        description="Run and look at elk_coordinator: many workers, one huge space of IDs, every partition done.",
        epilog="Exit codes: 0 done, 1 an error or a problem found, 2 the command line is wrong, 3 'run --until-done' "
        "ended with failed partitions. The common options may also follow the command.",
    )
    parser.add_argument("--version", action="version", version="elk_coordinator %s" % __version__)
    add_common_options(parser, before_command=True)
    children = parser.add_subparsers(metavar="COMMAND", dest="command", title="commands")
    for command in commands:
        child = children.add_parser(
            command.name,
            help=command.help,
            description=command.help[:1].upper() + command.help[1:] + ".",
            epilog=command.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_common_options(child, before_command=False)
        command.configure(child)
        child.set_defaults(run=command.run)
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one command and return its exit code. The entry point of ``elk`` and ``python -m elk_coordinator``."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_usage(sys.stderr)
        note("which command? 'elk --help' lists them")
        return USAGE
    try:
        code = args.run(args)
        sys.stdout.flush()
    except (UsageError, ConfigError) as exc:
        note(one_line(exc))
        return USAGE
    except ElkError as exc:
        note(one_line(exc))
        return ERROR
    except KeyboardInterrupt:
        note("interrupted")
        return 130
    except BrokenPipeError:
        # The reader of our output went away (``elk status | head``). What is left in the buffer must not raise again
        # at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ERROR
    return int(code)
