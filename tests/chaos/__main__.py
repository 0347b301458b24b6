"""``python -m tests.chaos --seconds 600 --seed 1234``: exit code 1 on any violation, with what replays it."""

from __future__ import annotations

import argparse
import json
import pathlib
import random
import sys
from typing import List, Optional

from tests.chaos.report import write_report
from tests.chaos.run import BROKEN, Run, Settings, judge
from tests.chaos.schedule import CLASSES, KINDS

TEN_MINUTES_MUST_PROCESS = 10**7


def words(text: str) -> List[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def arguments(argv: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, help="drawn when not given, and printed")
    parser.add_argument("--strategy", choices=("hash", "simple"), default="hash")
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--without", type=words, default=[], help="classes of faults: " + ", ".join(CLASSES))
    parser.add_argument("--only", type=words, default=[], help="kinds of faults: " + ", ".join(KINDS))
    parser.add_argument("--out", default="build/chaos", help="a folder, which is emptied")
    parser.add_argument("--break", dest="broken", choices=sorted(BROKEN), default="", help="switch a guard off")
    parser.add_argument("--rate", type=float, help="new IDs a second")
    parser.add_argument("--gap", type=float, default=3.0, help="mean seconds between two faults")
    parser.add_argument("--pause", type=float, default=0.2, help="mean seconds that a processor takes for 500 IDs")
    parser.add_argument("--blind", type=int, default=20, help="of 100 attempts so many never look at their context")
    parser.add_argument("--no-picture", action="store_true", help="the table alone")
    parser.add_argument("--report", metavar="FOLDER", help="make the report of an earlier run again")
    args = parser.parse_args(argv)
    for word in args.without:
        if word not in CLASSES:
            parser.error("no such class: %s; there are %s" % (word, ", ".join(CLASSES)))
    for word in args.only:
        if word not in KINDS:
            parser.error("no such kind: %s; there are %s" % (word, ", ".join(KINDS)))
    return args


def main(argv: Optional[List[str]] = None) -> int:
    args = arguments(argv)
    if args.report:
        folder = pathlib.Path(args.report)
        outcome = judge(folder, json.loads((folder / "run.json").read_text()))
    else:
        rate = args.rate or (40_000.0 if args.strategy == "hash" else 25_000.0)
        folder = pathlib.Path(args.out)
        outcome = Run(Settings(
            seconds=args.seconds, seed=random.SystemRandom().randrange(10**6) if args.seed is None else args.seed,
            strategy=args.strategy, workers=args.workers, without=args.without, only=args.only, out=args.out,
            broken=args.broken, rate=rate, gap=args.gap, pause=args.pause, blind=args.blind,
            at_least=TEN_MINUTES_MUST_PROCESS if args.seconds >= 600 and rate >= 25_000.0 else 0,
        )).go()  # fmt: skip
    print(write_report(folder, outcome, picture=not args.no_picture))
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())
