"""What was done to the fleet, beside the processors' journals: one JSON document a line. Only the standard library."""

from __future__ import annotations

import json
import threading
from typing import Any, Dict, List

from tests.chaos.journal import now


class EventLog:
    """Append-only; any number of threads."""

    def __init__(self, path: str) -> None:
        self._lock = threading.Lock()
        self._file = open(path, "a", encoding="utf-8")

    def put(self, event: str, **facts: Any) -> None:
        with self._lock:
            self._file.write(json.dumps(dict(facts, event=event, t=now())) + "\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_events(path: str) -> List[Dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]
