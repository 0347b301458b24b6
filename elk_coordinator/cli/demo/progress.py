"""What the demo shows while it runs: one line that is redrawn on a terminal, a line a second anywhere else."""

from __future__ import annotations

import os
import shutil
from collections import deque
from typing import Deque, Optional, TextIO, Tuple

import attr

from elk_coordinator.admin.telling import seconds
from elk_coordinator.runtime.clock import Clock

#: Seconds between two lines where nothing can be redrawn, and between two drawings where it can.
PLAIN_INTERVAL = 1.0
REDRAW_INTERVAL = 0.2
BAR = 30
SHORTEST_BAR = 10
_LONG = (
    "%(percent)5.1f %%  %(rows)s/%(total)s rows  %(rate)s rows/s  ETA %(eta)s  running %(running)d  failed %(failed)d"
    "  workers %(workers)d"
)
_SHORT = "%(percent).0f %% %(rows)s/%(total)s %(rate)s/s ETA %(eta)s run %(running)d fail %(failed)d"
#: Seconds the rate looks back.
RATE_WINDOW = 3.0


@attr.s(auto_attribs=True, frozen=True)
class Snapshot:
    """Where the work stands at one moment."""

    rows: int
    total: int
    rate: float
    running: int
    failed: int
    workers: int

    @property
    def fraction(self) -> float:
        """Share of the rows that is done, from 0 to 1."""
        return min(1.0, self.rows / self.total) if self.total else 1.0

    @property
    def eta(self) -> Optional[float]:
        """Seconds left at the present rate, or None while nothing moves."""
        left = max(0, self.total - self.rows)
        if not left:
            return 0.0
        return left / self.rate if self.rate > 0 else None


def progress_line(shot: Snapshot, width: int) -> str:
    """Return one line of at most *width* characters; where it is narrow words go first, then the bar."""
    facts = {
        "percent": 100 * shot.fraction,
        "rows": "{:,}".format(shot.rows),
        "total": "{:,}".format(shot.total),
        "rate": "{:,.0f}".format(shot.rate),
        "eta": "-" if shot.eta is None else seconds(shot.eta),
        "running": shot.running,
        "failed": shot.failed,
        "workers": shot.workers,
    }
    numbers = ""
    for form in (_LONG, _SHORT):
        numbers = form % facts
        room = min(BAR, width - len(numbers) - 3)
        if room >= SHORTEST_BAR:
            filled = int(room * shot.fraction)
            return "[%s%s] %s" % ("#" * filled, "-" * (room - filled), numbers)
    return numbers[:width]


class RateMeter:
    """Rows per second over the last few seconds."""

    def __init__(self) -> None:
        self._seen: Deque[Tuple[float, int]] = deque()

    def update(self, now: float, rows: int) -> float:
        """Take one reading; return the rate."""
        self._seen.append((now, rows))
        while len(self._seen) > 2 and now - self._seen[0][0] > RATE_WINDOW:
            self._seen.popleft()
        then, before = self._seen[0]
        return max(0.0, (rows - before) / (now - then)) if now > then else 0.0


class Screen:
    """Prints events and progress to one stream so that neither tears the other. For one thread."""

    def __init__(self, stream: TextIO, clock: Clock, redraw: Optional[bool] = None) -> None:
        self._stream = stream
        self._clock = clock
        self._started = clock.monotonic()
        self._redraw = (stream.isatty() and os.environ.get("TERM") != "dumb") if redraw is None else redraw
        self._line = ""
        self._drawn_at: Optional[float] = None

    @property
    def elapsed(self) -> float:
        """Seconds since the screen was made."""
        return self._clock.monotonic() - self._started

    def say(self, text: str) -> None:
        """Print one event with the time it happened, above the progress line."""
        self.text("%s %s" % (("%.1f s" % self.elapsed).rjust(7), text))

    def text(self, text: str = "") -> None:
        """Print lines as they are, above the progress line."""
        self._stream.write("%s%s\n%s" % ("\r\x1b[K" if self._line else "", text, self._line))
        self._stream.flush()

    def show(self, shot: Snapshot) -> None:
        """Show how far the work is, if it is time to."""
        now = self._clock.monotonic()
        if self._drawn_at is not None and now - self._drawn_at < (REDRAW_INTERVAL if self._redraw else PLAIN_INTERVAL):
            return
        self._drawn_at = now
        if self._redraw:
            self._line = progress_line(shot, shutil.get_terminal_size().columns - 1)
            self._stream.write("\r\x1b[K" + self._line)
        else:
            self._stream.write("%s %s\n" % (("%.1f s" % self.elapsed).rjust(7), progress_line(shot, 140)))
        self._stream.flush()

    def finish(self, shot: Optional[Snapshot] = None) -> None:
        """Show the last state and leave the progress line for good."""
        if shot is not None:
            self._drawn_at = None
            self.show(shot)
        if self._line:
            self._stream.write("\n")
            self._line = ""
        self._stream.flush()
