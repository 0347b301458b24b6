"""Look at the monitoring while things go wrong: faults, the alerts they bring, and pictures of every dashboard.

python -m monitoring.live.look                    # five minutes; needs prometheus and the extra "look"
python -m monitoring.live.look --images FOLDER    # elsewhere than docs/images

Exit 1 when an alert that should fire did not, another one did, or a panel had no answer that should have one.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile
import threading
from typing import Callable, Dict, List, NamedTuple, Set

from elk_coordinator.testing import wait_until
from monitoring.live import render
from monitoring.live.panels import answers
from monitoring.live.stand import CLOCK, ROOT, Missing, Stand

RULES = ROOT / "monitoring" / "prometheus" / "rules"
#: By how much the rules' times are shortened: five minutes become five seconds.
FACTOR = 60.0
WORKERS = 4


def _break(stand: Stand, how: str) -> None:
    stand.fault.write_text(how)


class Fault(NamedTuple):
    """What is done to the fleet, what must fire, and what may as well."""

    name: str
    begin: Callable[[Stand], None]
    end: Callable[[Stand], None]
    must: Set[str]
    may: Set[str]
    seconds: float


def _kill(stand: Stand) -> None:
    for _ in range(WORKERS - 1):
        print("  killed the worker at %s" % stand.kill_worker())


def _start_again(stand: Stand) -> None:
    for _ in range(WORKERS - 1):
        stand.add_worker()


FAULTS = [
    Fault(
        "three of four killed", _kill, _start_again,
        {"ElkCoordinatorTargetDown", "ElkCoordinatorWorkersMissing", "ElkCoordinatorWorkerLost"}, set(), 35.0,
    ),
    Fault(
        "one in three attempts fails", lambda stand: _break(stand, "some"), lambda stand: stand.fault.unlink(),
        {"ElkCoordinatorFailureRatioHigh", "ElkCoordinatorErrorBudgetBurn"}, set(), 40.0,
    ),
    Fault(
        # The breakers open so soon, and their probes burn no attempts, that neither ratio nor budget sees it.
        "every attempt fails", lambda stand: _break(stand, "all"), lambda stand: stand.fault.unlink(),
        {"ElkCoordinatorCircuitBreakerOpen"},
        {"ElkCoordinatorFailureRatioHigh", "ElkCoordinatorErrorBudgetBurn", "ElkCoordinatorPartitionsFailed",
         "ElkCoordinatorStalled"}, 30.0,
    ),
    Fault(
        "the store is gone", lambda stand: stand.server.kill(), lambda stand: stand.server.restart(),
        {"ElkCoordinatorStoreDown", "ElkCoordinatorStoreErrors", "ElkCoordinatorWorkerHeartbeatStale"},
        {"ElkCoordinatorLeaseLostHigh"}, 30.0,
    ),
]  # fmt: skip
#: What goes on burning or resting after a fault, because that is what it says.
LINGER = {"ElkCoordinatorPartitionsFailed", "ElkCoordinatorErrorBudgetBurn", "ElkCoordinatorTargetDown",
          "ElkCoordinatorWorkerLost"}  # fmt: skip
#: Panels without an answer in a run like this, and why.
MAY_BE_EMPTY: Dict[str, str] = {}


def watch(stand: Stand, seconds: float) -> Set[str]:
    """Return the alerts that fired within the *seconds*."""
    fired: Set[str] = set()
    until = CLOCK.monotonic() + seconds
    while CLOCK.monotonic() < until:
        fired |= {name for name, state in stand.alerts().items() if state == "firing"}
        threading.Event().wait(0.5)
    return fired


def look(images: pathlib.Path, folder_of_rules: pathlib.Path) -> List[str]:
    """Run everything; return what was not as it should be."""
    wrong: List[str] = []
    spans: List[render.Span] = []
    rules = sorted(folder_of_rules.glob("*.yml"))
    with tempfile.TemporaryDirectory() as folder, Stand(pathlib.Path(folder), WORKERS, rules, FACTOR) as stand:
        wait_until(lambda: stand.targets_up() == WORKERS, 30.0, "all targets found by service discovery")
        began = CLOCK.time()
        print("%d workers, %d files of rules, %s" % (WORKERS, len(rules), stand.server.label))
        # The first seconds of a fleet are no fault: rates have no past yet.
        early = watch(stand, 15.0)
        quiet = watch(stand, 25.0)
        print("without a fault fired: %s" % (", ".join(sorted(quiet)) or "nothing"))
        print("  (while everything started: %s)" % (", ".join(sorted(early)) or "nothing"))
        wrong += ["%s fired without a fault" % name for name in sorted(quiet)]
        lingering: Set[str] = set()
        for fault in FAULTS:
            since = CLOCK.time()
            print("%s:" % fault.name)
            fault.begin(stand)
            fired = watch(stand, fault.seconds)
            fault.end(stand)
            spans.append((since, CLOCK.time(), fault.name))
            print("  fired: %s" % ", ".join(sorted(fired)))
            wrong += ["%s: %s did not fire" % (fault.name, name) for name in sorted(fault.must - fired)]
            others = fired - fault.must - fault.may - lingering
            wrong += ["%s: %s fired" % (fault.name, name) for name in sorted(others)]
            watch(stand, 20.0)
            left = {name for name, state in stand.alerts().items() if state == "firing"}
            print("  still firing 20 s after it was over: %s" % (", ".join(sorted(left)) or "none"))
            wrong += ["%s: %s does not end" % (fault.name, name) for name in sorted(left - LINGER)]
            lingering |= left
        until = CLOCK.time()
        found = list(answers(stand, int(until - began), until))
        for answer in found:
            title = "%s / %s" % (answer.dashboard, answer.panel.title[0])
            if answer.empty:
                print("no answer: %s (%s)" % (title, MAY_BE_EMPTY.get(title, "unexpected")))
                if title not in MAY_BE_EMPTY:
                    wrong.append("panel without an answer: %s" % title)
        render.draw(images, found, began, until, spans)
        print("%d panels, %d with an answer; pictures in %s" % (len(found), sum(not a.empty for a in found), images))
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=pathlib.Path, default=ROOT / "docs" / "images")
    parser.add_argument("--rules", type=pathlib.Path, default=RULES, help="a folder with *.yml, ours by default")
    asked = parser.parse_args()
    try:
        wrong = look(asked.images, asked.rules)
    except Missing as exc:
        sys.exit("look: %s" % exc)
    for line in wrong:
        print("WRONG: %s" % line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
