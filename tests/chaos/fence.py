"""The resource that all processes write to, with a fence of its own, in shared memory. Only the standard library.

IDs are fenced in cells of :data:`CELL`. One word of 64 bits a cell holds the token of whoever may write and how often
the effect was applied: a single store moves fence and effect together, so a process killed anywhere leaves both or
none, as a transaction would. Two more words say by whom and when, for the audit. Cells, not partitions: after a loss of
data the IDs are planned again with other bounds, and the fence holds all the same.

The lock is the kernel's, on the bytes of the range: it goes with its process, and one frozen in it stops nobody else.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
from typing import Callable, List, Tuple

CELL = 500
_WORDS = 3
_BYTES = 8 * _WORDS
#: Of the first word: times applied.
_COUNT = 8
_HEAD = 64


class StaleToken(Exception):
    """Somebody with a larger token has, or had, these IDs: nothing was written."""


class Shared:
    """A file of 64-bit words that all processes see at once."""

    def __init__(self, path: str, words: int) -> None:
        self.file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if os.fstat(self.file).st_size < 8 * words:
            os.ftruncate(self.file, 8 * words)
        self._map = mmap.mmap(self.file, 8 * words)
        self.words = memoryview(self._map).cast("Q")

    def close(self) -> None:
        self.words.release()
        self._map.close()
        os.close(self.file)


class Fence:
    """Cells of IDs from 1 to *last*. ``enforced`` False is the control: nobody asks whose token it is."""

    def __init__(self, path: str, last: int, enforced: bool = True) -> None:
        self.cells = last // CELL
        self._shared = Shared(path, _WORDS * self.cells)
        self._words = self._shared.words
        self._enforced = enforced
        self._lock = threading.Lock()

    def take(self, lo: int, hi: int, token: int, inside: Callable[[], None]) -> None:
        """Put *token* before the cells of ``[lo, hi]``. *inside* runs under the lock.

        :raises StaleToken: when a larger one is there; nothing was changed.
        """
        with self._lock, self._locked(lo, hi):
            self._check(lo, hi, token, takes=True)
            inside()
            for cell in _cells(lo, hi):
                word = self._words[cell * _WORDS]
                if word >> _COUNT < token:
                    self._words[cell * _WORDS] = token << _COUNT | (word & 0xFF)

    def apply(self, first: int, last: int, token: int, at: float, inside: Callable[[], None]) -> bool:
        """Apply the effect to the one cell ``[first, last]``, unless it was; return whether it was applied now.

        :raises StaleToken: when another token is there; nothing was applied.
        """
        with self._lock, self._locked(first, last):
            self._check(first, last, token, takes=False)
            at_word = cell_of(first) * _WORDS
            word = self._words[at_word]
            if word & 0xFF and self._enforced:
                return False
            inside()
            self._words[at_word + 1] = token
            self._words[at_word + 2] = int(at * 1e6)
            # The commit. Without the fence a writer also knows nothing of the token there.
            self._words[at_word] = word + 1
            return True

    def done(self, first: int) -> bool:
        """Return whether the effect on the cell of *first* has happened."""
        return bool(self._words[cell_of(first) * _WORDS] & 0xFF)

    def close(self) -> None:
        self._shared.close()

    def _check(self, lo: int, hi: int, token: int, takes: bool) -> None:
        if not self._enforced:
            return
        for cell in _cells(lo, hi):
            there = self._words[cell * _WORDS] >> _COUNT
            if there > token or (there < token and not takes):
                raise StaleToken("cell %d holds token %d, not %d" % (cell, there, token))

    def _locked(self, lo: int, hi: int) -> "_Lock":
        return _Lock(self._shared.file, cell_of(lo) * _BYTES, (cell_of(hi) - cell_of(lo) + 1) * _BYTES)


class _Lock:
    def __init__(self, file: int, at: int, length: int) -> None:
        self._args = (length, at)
        self._file = file

    def __enter__(self) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_EX, *self._args)

    def __exit__(self, *exc: object) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, *self._args)


def cell_of(number: int) -> int:
    return (number - 1) // CELL


def _cells(lo: int, hi: int) -> range:
    return range(cell_of(lo), cell_of(hi) + 1)


def steps(lo: int, hi: int) -> List[Tuple[int, int]]:
    """Return ``[lo, hi]`` cut at the cells' ends. Plans begin and end with cells, so each step is one."""
    return [(first, min(first + CELL - 1, hi)) for first in range(lo, hi + 1, CELL)]


class Space:
    """How far the IDs reach by now; and the one partition that is poisoned: ``[lo, hi]`` kills *left* more workers."""

    def __init__(self, path: str) -> None:
        self._shared = Shared(path, 8)
        self._words = self._shared.words

    @property
    def top(self) -> int:
        return int(self._words[0])

    @top.setter
    def top(self, value: int) -> None:
        self._words[0] = value

    def poison(self, times: int) -> None:
        """Poison the next partition that anybody starts."""
        self._words[2] = self._words[3] = 0
        self._words[1] = times

    def cure(self) -> None:
        self._words[1] = 0

    def bites(self, lo: int, hi: int) -> bool:
        """Return whether the holder of ``[lo, hi]`` must die now; counts it."""
        if not self._words[1]:
            return False
        with _Lock(self._shared.file, 0, 64):
            if not self._words[1] or (self._words[3] and not self._words[2] <= lo <= self._words[3]):
                return False
            self._words[2], self._words[3] = lo, hi
            self._words[1] -= 1
            return True

    def close(self) -> None:
        self._shared.close()


def read_cells(path: str) -> List[Tuple[int, int, int, float]]:
    """Return (token, times applied, applied by, applied at) of every cell, for who audits the file."""
    with open(path, "rb") as file:
        data = file.read()
    words = struct.unpack("<%dQ" % (len(data) // 8), data)
    return [
        (words[at] >> _COUNT, words[at] & 0xFF, words[at + 1], words[at + 2] / 1e6)
        for at in range(0, len(words) - _WORDS + 1, _WORDS)
    ]
