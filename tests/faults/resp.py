"""What passes through a proxy, as far as it must be understood: the commands in what a client sends."""

from __future__ import annotations

from typing import List, Optional, Tuple

SCRIPTS = ("EVALSHA", "EVAL")


class Commands:
    """Finds the commands in what a client sends."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> List[str]:
        """Return the names of the commands that end in *data*, in capitals."""
        self._data += data
        found: List[str] = []
        while True:
            end = self._parse()
            if end is None:
                return found
            words, length = end
            self._data = self._data[length:]
            found.append(words)

    def _parse(self) -> Optional[Tuple[str, int]]:
        data = self._data
        line = data.find(b"\r\n")
        if line < 0:
            return None
        if data[:1] != b"*":
            return data[:line].decode("latin-1").split(" ")[0].upper(), line + 2
        at, name = line + 2, ""
        for number in range(int(data[1:line])):
            line = data.find(b"\r\n", at)
            if line < 0:
                return None
            size = int(data[at + 1 : line])
            at = line + 2 + size + 2
            if len(data) < at:
                return None
            if number == 0:
                name = data[line + 2 : line + 2 + size].decode("latin-1").upper()
        return name, at
