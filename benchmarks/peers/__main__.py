"""``make bench-peers``; ARGS="--quick", ARGS="--recovery", ARGS="--only huey --only elk"."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from importlib import metadata

import attr
import redis

from benchmarks.peers import recovery, report, rounds
from elk_coordinator.testing import EmbeddedServer

#: label, jobs, seconds each, processes
CASES = (
    (report.NOOP, 10000, 0.0, 1),
    ("no-op, 2 processes", 10000, 0.0, 2),
    ("10 ms, 1 process", 1000, 0.01, 1),
    ("10 ms, 2 processes", 1000, 0.01, 2),
)
QUICK = ((report.NOOP, 1000, 0.0, 1), ("10 ms, 1 process", 100, 0.01, 1))
QUICK_WHO = ("elk, window 8", "elk, window 64", "Huey", "Dramatiq")


def main():
    args = _arguments()
    began = time.monotonic()

    def say(line):
        print("%6.1f s  %s" % (time.monotonic() - began, line), flush=True)

    contestants = tuple(
        each
        for each in rounds.CONTESTANTS
        if (each.name in QUICK_WHO or not args.quick)
        and (not args.only or any(part.lower() in each.name.lower() for part in args.only))
    )
    with EmbeddedServer(own=True, prefer="path", extra_args=("--databases", "32")) as server:
        client = redis.Redis.from_url(server.url)
        if args.only_recovery:
            recovery.measure(contestants, server.url, args.cap, say)
            return
        load = os.getloadavg()
        found, enqueued = rounds.in_rounds(
            contestants, client, server.url, QUICK if args.quick else CASES, args.rounds, args.limit, say
        )
        data = {
            "about": _about(contestants, server, args, load),
            "limit": args.limit,
            "cases": [
                report.case(*case, {name: [_facts(run) for run in runs] for name, runs in found[case[0]].items()})
                for case in (QUICK if args.quick else CASES)
            ],
            "enqueuing": {name: max(count / took for count, took in runs) for name, runs in enqueued.items()},
            "words": {each.code.NAME: (each.code.SETTINGS, each.code.KILLED) for each in contestants},
        }
        ours = [each.name for each in contestants if each.ours]
        data["goals"] = report.goals(data["cases"], ours)
        if args.recovery:
            client.flushall()
            data["recovery"] = recovery.measure(contestants, server.url, args.cap, say)
            data["recovery_cap"] = args.cap
        client.close()
    os.makedirs(args.out, exist_ok=True)
    with open(os.path.join(args.out, "peers.json"), "w", encoding="utf-8") as file:
        json.dump(data, file, indent=1)
    with open(os.path.join(args.out, "peers.txt"), "w", encoding="utf-8") as file:
        file.write(report.text(data))
    report.plot(data, ours, os.path.join(args.out, "peers.png"))
    print("\n%s\n%.0f s; peers.json, peers.txt, peers.png in %s" % (
        report.text(data), time.monotonic() - began, args.out
    ))


def _facts(run):
    return attr.astuple(run)


def _about(contestants, server, args, load):
    packages = sorted({package for each in contestants for package in each.code.PACKAGES})
    return {
        "server": server.label,
        "machine": "%s, %d CPUs, load %.1f at the start and %.1f at the end" % (
            platform.platform(), os.cpu_count(), load[0], os.getloadavg()[0]
        ),
        "python": platform.python_version(),
        "versions": ", ".join("%s %s" % (package, metadata.version(package)) for package in packages),
        "rounds": "%d, all contestants in each, beginning with the next one; nothing is random" % args.rounds,
    }


def _arguments():
    parser = argparse.ArgumentParser(prog="make bench-peers", description=__doc__)
    parser.add_argument("--rounds", type=int, help="3 by default, 1 with --quick")
    parser.add_argument("--limit", type=float, default=3.0, help="seconds after which a drain is cut (3)")
    parser.add_argument("--quick", action="store_true", help="two peers, few jobs, one round")
    parser.add_argument("--only", action="append", default=[], metavar="PART", help="contestants whose name has this")
    parser.add_argument("--recovery", action="store_true", help="also kill -9 of a worker, with default settings")
    parser.add_argument("--only-recovery", action="store_true", help="nothing but that; prints only")
    parser.add_argument("--cap", type=float, default=150.0, help="seconds to wait for a recovery (150)")
    parser.add_argument("--out", default=os.path.join("build", "bench-peers"))
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.quick else 3)
    return args


if __name__ == "__main__":
    main()
