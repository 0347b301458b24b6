"""A proxy that may suffer several things at once, each of which ends by itself: one for each worker."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any, Dict, Iterator

from tests.faults.proxy import Proxy


class Wire(Proxy):
    """The proxy of the fault tests, and two faults more: everything in one direction is lost."""

    def __init__(self, url: str) -> None:
        self._one_way = ""
        self._suffers: Dict[str, Any] = {}
        self._turn = threading.Lock()
        super().__init__(url)

    @contextlib.contextmanager
    def suffering(self, what: str, value: Any) -> Iterator[None]:
        """Suffer *what* for a block: "mode" ("drop", "hold"), "delay", "every" or "one_way" ("requests", "replies")."""
        with self._turn:
            self._suffers[what] = value
            self._bring_about()
        try:
            yield
        finally:
            with self._turn:
                self._suffers.pop(what, None)
                self._bring_about()

    def calm(self) -> None:
        with self._turn:
            self._suffers.clear()
            self._bring_about()

    def _bring_about(self) -> None:
        self._one_way = self._suffers.get("one_way", "")
        wanted = {key: value for key, value in self._suffers.items() if key != "one_way"}
        if "mode" not in wanted:
            self.heal()
        if wanted:
            self._set(**wanted)

    def _pass_on(self, source: socket.socket) -> None:
        pair = self._pairs[source]
        lost = self._one_way == ("requests" if source is pair.client else "replies")
        if not lost or self._mode != "forward":
            super()._pass_on(source)
            return
        try:
            data = source.recv(65536)
        except OSError:
            data = b""
        pair.torn = True
        if not data:
            self._end(pair)
