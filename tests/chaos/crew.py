"""The worker processes of a chaos run: each slot always has one, as a supervisor of services would see to it."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any, Dict, List, Optional, Sequence

from tests.chaos.events import EventLog
from tests.chaos.journal import now
from tests.chaos.wire import Wire

ROOT = pathlib.Path(__file__).resolve().parents[2]
#: Seconds until the supervisor starts what ended.
RESTART_AFTER = 0.5


class Slot:
    """One place for a worker, and the wire from it to the server. Its processes are called ``w2.1``, ``w2.2``, ..."""

    def __init__(self, number: int, wire: Wire) -> None:
        self.number = number
        self.wire = wire
        self.born = 0
        self.name = ""
        self.process: Optional["subprocess.Popen[bytes]"] = None
        #: The supervisor keeps a process here.
        self.wanted = True
        self.due = 0.0
        self.started = 0.0
        self.frozen = 0

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def order(self, what: str, seconds: float = 0.0, times: int = 1) -> None:
        """Have the process suffer something."""
        process = self.process
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                line = json.dumps({"what": what, "seconds": seconds, "times": times})
                process.stdin.write(line.encode("ascii") + b"\n")
                process.stdin.flush()

    def signal(self, number: int) -> bool:
        process = self.process
        if process is None or process.poll() is not None:
            return False
        process.send_signal(number)
        return True


class Crew:
    """All slots. Processes are started by :meth:`tend` alone: they end with the thread that started them."""

    def __init__(self, folder: pathlib.Path, events: EventLog, config: Dict[str, Any], wires: Sequence[Wire]) -> None:
        self._folder = folder
        self._events = events
        self._config = config
        self.slots = [Slot(number, wire) for number, wire in enumerate(wires)]
        #: (name, code) of those that ended as nothing that was done to them explains.
        self.strange: List[str] = []
        (folder / "journal").mkdir(exist_ok=True)

    def named(self, name: str) -> Optional[Slot]:
        for slot in self.slots:
            if slot.name == name and slot.alive:
                return slot
        return None

    def tend(self) -> None:
        """Note who ended, start who is due. From one thread only, which lives as long as the crew."""
        for slot in self.slots:
            if slot.process is not None and slot.process.poll() is not None:
                self._note_end(slot)
            if slot.process is None and slot.wanted and now() >= slot.due:
                self._start(slot)

    def _note_end(self, slot: Slot) -> None:
        process, slot.process = slot.process, None
        assert process is not None and process.stdin is not None
        process.wait()
        with contextlib.suppress(OSError):
            process.stdin.close()
        slot.due = now() + RESTART_AFTER
        slot.frozen = 0
        code = process.returncode
        self._events.put("ended", name=slot.name, slot=slot.number, code=code)
        # 9: os._exit in a processor; 1: what hangs on purpose is not waited for; 3: no store to be had at the start.
        if code not in (0, 1, 3, 9, -signal.SIGKILL) and not self._too_young(slot, code):
            log = (self._folder / "journal" / (slot.name + ".log")).read_text(errors="replace")[-2000:]
            self.strange.append("%s ended with %s: %s" % (slot.name, code, log))

    def _too_young(self, slot: Slot, code: int) -> bool:
        """Return whether SIGTERM came before Python was so far as to hear it."""
        return code == -signal.SIGTERM and now() - slot.started < 10.0

    def _start(self, slot: Slot) -> None:
        slot.born += 1
        slot.started = now()
        slot.name = "w%d.%d" % (slot.number, slot.born)
        base = self._folder / "journal" / slot.name
        document = dict(
            self._config, name=slot.name, url=slot.wire.url, parent=os.getpid(), journal=str(base) + ".bin",
            seed=self._config["seed"] * 1000 + slot.number * 100 + slot.born, require_store=slot.born % 2 == 0,
        )  # fmt: skip
        env = {key: value for key, value in os.environ.items() if not key.startswith("ELK_")}
        env.update(PYTHONPATH=str(ROOT), PYTHONDONTWRITEBYTECODE="1")
        with open(str(base) + ".log", "ab") as log:
            slot.process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.worker"], stdin=subprocess.PIPE, stdout=log, stderr=log, env=env,
                cwd=str(ROOT), start_new_session=True,
            )  # fmt: skip
        self._events.put("born", name=slot.name, slot=slot.number, pid=slot.process.pid)
        assert slot.process.stdin is not None
        with contextlib.suppress(OSError):
            slot.process.stdin.write(json.dumps(document).encode("ascii") + b"\n")
            slot.process.stdin.flush()

    def thaw(self) -> None:
        for slot in self.slots:
            slot.signal(signal.SIGCONT)

    def dismiss(self, timeout: float) -> List[str]:
        """Have everybody drain and end; return what was not as it should be."""
        wrong = []
        for slot in self.slots:
            slot.wanted = False
            slot.signal(signal.SIGCONT)
            slot.signal(signal.SIGTERM)
        until = now() + timeout
        for slot in self.slots:
            if slot.process is None:
                continue
            try:
                code = slot.process.wait(max(0.1, until - now()))
            except subprocess.TimeoutExpired:
                slot.process.kill()
                slot.process.wait()
                wrong.append("%s did not end within %g s of SIGTERM" % (slot.name, timeout))
            else:
                # 1: a processor ran on; the audit asks for which.
                if code not in (0, 1) and not self._too_young(slot, code):
                    wrong.append("%s ended with code %s at the end of the run" % (slot.name, code))
            self._note_end(slot)
        return wrong

    def dispose(self) -> None:
        for slot in self.slots:
            if slot.process is not None:
                slot.process.kill()
                self._note_end(slot)
            slot.wire.close()
