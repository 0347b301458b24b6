"""The independent reader of what a chaos run wrote down. It imports nothing of the library and asks no store.

What must hold: every ID's guarded effect happened exactly once; nobody wrote behind the fence with an older token than
was there; no token was given out twice, none fell; no completed partition was given out again; and whatever a processor
did twice without a guard has a reason in the journals or in what was done to the fleet.
"""

from __future__ import annotations

import bisect
import collections
import pathlib
from typing import Any, Counter, Dict, List, Optional, Tuple

from tests.chaos import journal as j
from tests.chaos.events import read_events
from tests.chaos.fence import CELL, cell_of, read_cells
from tests.chaos.journal import Record

LISTED = 10
DEATH_SEEN_WITHIN = 15.0


class Attempt:
    """One START, and what became of it."""

    def __init__(self, process: str, start: Record) -> None:
        self.process = process
        self.start = start
        self.end: Optional[Record] = None
        self.said: Dict[int, float] = {}


class Fault:
    """One fault as it was carried out."""

    def __init__(self, begin: Dict[str, Any]) -> None:
        self.number, self.kind, self.begin = begin["number"], begin["kind"], begin["t"]
        self.end = self.begin
        self.on: List[str] = []
        self.failure = ""
        #: Seconds from its end until the work it met was done and new work was; None: it stopped nothing.
        self.recovery: Optional[float] = None

    def struck(self, process: str) -> bool:
        return not self.on or process in self.on

    @property
    def loses_data(self) -> bool:
        return self.kind.startswith("data loss")


class Audit:
    """Reads everything in *folder*; :attr:`violations` must be empty."""

    def __init__(self, folder: pathlib.Path, top: int) -> None:
        self.violations: List[str] = []
        self.top = top
        self.cells = read_cells(str(folder / "fence.bin"))
        self.faults: List[Fault] = []
        self.deaths: Dict[str, float] = {}
        self.births: Dict[str, float] = {}
        #: How far the IDs reached, when.
        self.tops: List[Tuple[float, int]] = []
        self.origin = 0.0
        self.dismissed = 0.0
        #: Who did not end in time when all were dismissed.
        self.unclean: List[str] = []
        self._read_events(folder)
        self.attempts: Dict[int, Attempt] = {}
        self._twice: List[str] = []
        self.records: List[Tuple[float, str, Record]] = []
        self.terms: List[Tuple[float, str, int]] = []
        self.counts: Counter[int] = collections.Counter()
        self._read_journals(folder)
        #: Partitions that rested as failed for a time, until an operator retried them.
        self.rested = {
            (a.start.lo, a.start.hi) for a in self.attempts.values() if j.FAILED in a.said
        }  # fmt: skip
        self.applied = 0
        #: Why unguarded effects happened again, in IDs; and which kind of fault had struck.
        self.why: Counter[str] = collections.Counter()
        self.blame: Counter[str] = collections.Counter()
        self._check_coverage()
        self._check_tokens()
        self._check_order()
        self._check_completions()
        self._check_repeats()
        self._check_ends()
        for fault in self.faults:
            fault.recovery = self._recovery(fault)

    # ---------------------------------------------------------------- reading

    def _read_events(self, folder: pathlib.Path) -> None:
        begun: Dict[int, Fault] = {}
        for event in read_events(str(folder / "events.jsonl")):
            what = event["event"]
            if what == "begin":
                begun[event["number"]] = Fault(event)
                self.faults.append(begun[event["number"]])
            elif what == "end":
                fault = begun[event["number"]]
                fault.end, fault.on, fault.failure = event["t"], event["on"], event["failure"]
            elif what == "ended":
                self.deaths[event["name"]] = event["t"]
                if self.dismissed and event["code"] == 1:
                    self.unclean.append(event["name"])
            elif what == "born":
                self.births[event["name"]] = event["t"]
            elif what == "started":
                self.origin = event["t"]
            elif what == "top":
                self.tops.append((event["t"], event["top"]))
            elif what == "dismissed":
                self.dismissed = event["t"]

    def _read_journals(self, folder: pathlib.Path) -> None:
        told: List[Tuple[str, Record]] = []
        for path in sorted((folder / "journal").glob("*.bin")):
            for record in j.read(str(path)):
                self.counts[record.kind] += 1
                if record.kind == j.START:
                    self._add_attempt(path.stem, record)
                elif record.kind in (j.TAKE, j.APPLY, j.UNGUARDED, j.STALE, j.POISON):
                    self.records.append((record.t, path.stem, record))
                elif record.kind == j.LEADER:
                    self.terms.append((record.t, path.stem, record.token))
                else:
                    told.append((path.stem, record))
        for _, record in told:
            attempt = self.attempts.get(record.token)
            if attempt is not None:
                attempt.said.setdefault(record.kind, record.t)
                if record.kind == j.END:
                    attempt.end = record
        self.records.sort(key=lambda entry: entry[0])
        self.terms.sort()

    def _add_attempt(self, process: str, start: Record) -> None:
        other = self.attempts.get(start.token)
        if other is not None:
            self._twice.append("%d to %s for [%d, %d] and to %s for [%d, %d]" % (
                start.token, other.process, other.start.lo, other.start.hi, process, start.lo, start.hi))  # fmt: skip
        self.attempts[start.token] = Attempt(process, start)

    def _wrong(self, text: str) -> None:
        self.violations.append(text)

    # ---------------------------------------------------------------- what must hold

    def _check_coverage(self) -> None:
        wanted = self.top // CELL
        times = collections.Counter(self.cells[cell][1] for cell in range(min(wanted, len(self.cells))))
        beyond = [cell for cell in range(wanted, len(self.cells)) if self.cells[cell][1]]
        self.applied = CELL * times[1]
        missing = [cell for cell in range(wanted) if not self.cells[cell][1]]
        again = [cell for cell in range(wanted) if self.cells[cell][1] > 1]
        if missing:
            self._wrong("a gap: %d IDs were never processed, as from %d" % (CELL * len(missing), 1 + CELL * missing[0]))
        if again:
            self._wrong("guarded effects happened twice on %d IDs, as from %d (%d times)" % (
                CELL * len(again), 1 + CELL * again[0], self.cells[again[0]][1]))  # fmt: skip
        if beyond:
            self._wrong("effects on IDs that do not exist: from %d" % (1 + CELL * beyond[0]))

    def _check_tokens(self) -> None:
        if self._twice:
            self._wrong("%d tokens given out twice: %s" % (len(self._twice), "; ".join(self._twice[:LISTED])))
        terms = [token for _, _, token in self.terms]
        twice = [token for token, times in collections.Counter(terms).items() if times > 1 or token in self.attempts]
        if twice:
            self._wrong("terms that were given out twice: %s" % twice[:LISTED])

    def _check_order(self) -> None:
        """Go through takes and effects in their order: under the lock of the cells, so the clock orders them."""
        newest: Dict[int, Tuple[int, float]] = {}
        by: Dict[int, int] = {}
        stale, fell = [], []
        for t, process, record in self.records:
            cells = range(cell_of(record.first), cell_of(record.last) + 1)
            if record.kind == j.TAKE:
                for cell in cells:
                    newest[cell] = max(newest.get(cell, (0, 0.0)), (record.token, t))
            elif record.kind == j.APPLY:
                by[cells[0]] = record.token
                if newest.get(cells[0], (0, 0.0))[0] > record.token:
                    stale.append("%s on [%d, %d] with token %d" % (process, record.first, record.last, record.token))
            elif record.kind == j.STALE:
                # Who was born after the newer token came cannot hold an older one, unless tokens fell.
                for cell in cells:
                    token, taken = newest.get(cell, (0, 0.0))
                    if token > record.token and self.births.get(process, 0.0) > taken:
                        fell.append("%s got %d on [%d, %d] after %d" % (
                            process, record.token, record.lo, record.hi, token))  # fmt: skip
                        break
        if stale:
            self._wrong("%d guarded writes by a stale token: %s" % (len(stale), "; ".join(stale[:LISTED])))
        if fell:
            self._wrong("tokens fell %d times: %s" % (len(fell), "; ".join(fell[:LISTED])))
        unknown = [c for c in range(self.top // CELL) if self.cells[c][1] and self.cells[c][2] != by.get(c)]
        if unknown:
            self._wrong("%d cells hold an effect that no journal tells of, as %d" % (len(unknown), unknown[0]))

    def _check_completions(self) -> None:
        """A completed partition is not given out again, and one that was given out again takes no older completion."""
        holders: Dict[int, List[Attempt]] = {}
        for attempt in sorted(self.attempts.values(), key=lambda attempt: attempt.start.token):
            for cell in range(cell_of(attempt.start.lo), cell_of(attempt.start.hi) + 1):
                holders.setdefault(cell, []).append(attempt)
        wrong = set()
        for several in holders.values():
            for a, b in zip(several, several[1:]):
                if j.ACCEPTED in a.said and not self._lost_data_between(a.start.t, b.start.t):
                    wrong.add("[%d, %d]: %s completed it with token %d, and %s was given token %d" % (
                        a.start.lo, a.start.hi, a.process, a.start.token, b.process, b.start.token))  # fmt: skip
        if wrong:
            self._wrong("%d completions accepted that were not the newest holder's: %s" % (
                len(wrong), "; ".join(sorted(wrong)[:LISTED])))  # fmt: skip

    def _lost_data_between(self, since: float, until: float) -> bool:
        return any(f.loses_data and f.begin <= until and f.end >= since for f in self.faults)

    # ---------------------------------------------------------------- what happened twice, and why

    def _check_repeats(self) -> None:
        last: Dict[int, int] = {}
        unexplained = []
        for _, process, record in self.records:
            if record.kind != j.UNGUARDED:
                continue
            cell = cell_of(record.first)
            before, last[cell] = last.get(cell), record.token
            if before is None:
                continue
            a, b = self.attempts[before], self.attempts[record.token]
            reason = self._reason(a, b)
            if reason:
                self.why[reason] += CELL
                self.blame[self._blamed(a, b)] += CELL
            else:
                unexplained.append("[%d, %d] by %s (token %d), then by %s (token %d)" % (
                    record.first, record.last, a.process, before, process, record.token))  # fmt: skip
        if unexplained:
            self._wrong("%d unexplained duplicates: %s" % (len(unexplained), "; ".join(unexplained[:LISTED])))

    def _reason(self, a: Attempt, b: Attempt) -> str:
        """Return why *b* did again what *a* had done; "" when nothing says so."""
        if a is b:
            return ""
        first, second = sorted((a, b), key=lambda attempt: attempt.start.token)
        if self._lost_data_between(first.start.t, max(a.start.t, b.start.t)):
            return "the store lost its data"
        said = first.said
        if j.ACCEPTED in said:
            return ""
        if j.HUNG in said:
            return "the processor hung"
        if j.LOST in said or j.REFUSED in said:
            return "the lease was lost"
        # Seen by the supervisor a little late; a stopping worker gives back before it ends.
        died = self.deaths.get(first.process, float("inf")) < second.start.t + DEATH_SEEN_WITHIN
        if first.end is None:
            return "the worker died" if died else ""
        if j.FAILED in said or j.RETRIED in said or first.end.first in (j.RAISED, j.GAVE_UP):
            return "the attempt failed"
        if j.RELEASED in said or first.end.first == j.INTERRUPTED:
            return "the attempt was interrupted"
        # Complete, and nobody told whether the report arrived: only a death explains that.
        return "the worker died before its report" if died else ""

    def _blamed(self, a: Attempt, b: Attempt) -> str:
        until = max(a.start.t, b.start.t)
        met = [f for f in self.faults if f.begin <= until and f.end >= a.start.t and f.struck(a.process)]
        worst = [f for f in met if f.loses_data] or met
        return worst[-1].kind if worst else "none of these"

    def _check_ends(self) -> None:
        for name in self.unclean:
            own = [attempt for attempt in self.attempts.values() if attempt.process == name]
            if all(attempt.end is not None and attempt.end.t < self.dismissed for attempt in own):
                self._wrong("%s did not end cleanly, and no processor of it ran on" % name)

    # ---------------------------------------------------------------- how long until it was well again

    def _recovery(self, fault: Fault) -> Optional[float]:
        if fault.on == ["nobody"]:
            return self._poison_recovery(fault) if fault.kind == "poison" else None
        met = [
            attempt for attempt in self.attempts.values()
            if fault.struck(attempt.process) and attempt.start.t <= fault.end
            and (attempt.start.lo, attempt.start.hi) not in self.rested
            and (attempt.end is None or attempt.end.t >= fault.begin)
        ]  # fmt: skip
        done = [self._done_at(attempt.start.lo, attempt.start.hi) for attempt in met]
        if not fault.on:
            at = bisect.bisect_left(self.records, (fault.end, "", ()))  # type: ignore[arg-type]
            done.append(next((t for t, _, record in self.records[at:] if record.kind == j.APPLY), fault.end))
        return max([0.0] + [t - fault.end for t in done])

    def _poison_recovery(self, fault: Fault) -> Optional[float]:
        bites = [r for t, _, r in self.records if r.kind == j.POISON and fault.begin <= t <= fault.end]
        return max(0.0, self._done_at(bites[-1].lo, bites[-1].hi) - bites[-1].t) if bites else None

    def _done_at(self, lo: int, hi: int) -> float:
        return max(self.cells[cell][3] for cell in range(cell_of(lo), cell_of(hi) + 1))
