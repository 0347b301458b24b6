"""The worker processes as their parent sees them: started, told, killed, frozen, and always ended."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from typing import IO, Any, Dict, List, Optional, Tuple

import attr

from elk_coordinator.cli.demo.settings import DemoSettings

Message = Dict[str, Any]


@attr.s(auto_attribs=True, eq=False)
class Worker:
    """One worker process."""

    name: str
    process: "subprocess.Popen[bytes]"
    log_path: str
    started: bool = False
    frozen: bool = False
    #: Killed by the demo, so its end is no news.
    killed: bool = False
    _unread: bytes = b""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether the process exists (a frozen one does)."""
        return self.process.poll() is None

    @property
    def usable(self) -> bool:
        """Whether it is alive and works."""
        return self.alive and not self.frozen and not self.killed

    def tell(self, line: str) -> None:
        """Send one line; a frozen worker finds it when it wakes up. Nothing happens when it is dead."""
        stdin = self.process.stdin
        assert stdin is not None
        try:
            stdin.write(line.encode("utf-8") + b"\n")
            stdin.flush()
        except OSError:
            pass

    def kill(self) -> None:
        """End it as a power cut would."""
        self.killed = True
        self.process.kill()

    def freeze(self) -> None:
        """Stop it where it stands, as a suspended virtual machine or a long garbage collection would."""
        self.frozen = True
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.frozen = False
        self.process.send_signal(signal.SIGCONT)

    def read(self) -> Tuple[List[Message], bool]:
        """Return the messages that are there, and whether there may be more later."""
        stdout = self.process.stdout
        assert stdout is not None
        data = os.read(stdout.fileno(), 65536)
        lines = (self._unread + data).split(b"\n")
        self._unread = lines.pop()
        return [json.loads(line.decode("ascii")) for line in lines if line], bool(data)


class Crew:
    """All worker processes of one demo. For the main thread only.

    The parent's death ends them: they read end of file, and on Linux the kernel kills them, frozen or not.
    """

    def __init__(self, settings: DemoSettings, directory: str) -> None:
        self._settings = settings
        self._directory = directory
        self._selector = selectors.DefaultSelector()
        self.workers: List[Worker] = []

    def hire(self, name: str) -> Worker:
        """Start one worker."""
        environment = dict(os.environ)
        # The worker imports what we imported, wherever we were started from, and nothing from its own directory.
        environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        log_path = os.path.join(self._directory, name + ".log")
        with open(log_path, "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "elk_coordinator.cli.demo.worker", name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                cwd=self._directory,
            )
        worker = Worker(name, process, log_path)
        self.workers.append(worker)
        self._selector.register(_pipe(process.stdout), selectors.EVENT_READ, worker)
        worker.tell(self._settings.to_json())
        return worker

    def listen(self, timeout: float) -> List[Tuple[Worker, Message]]:
        """Wait up to *timeout* seconds for messages; return them, with ``{"event": "ended"}`` for an ended worker."""
        heard: List[Tuple[Worker, Message]] = []
        for key, _ in self._selector.select(timeout):
            worker: Worker = key.data
            messages, more = worker.read()
            heard.extend((worker, message) for message in messages)
            if not more:
                self._selector.unregister(key.fileobj)
                heard.append((worker, {"event": "ended", "code": worker.process.wait()}))
        return heard

    def named(self, name: str) -> Optional[Worker]:
        """Return the worker of that name."""
        for worker in self.workers:
            if worker.name == name:
                return worker
        return None

    @property
    def usable(self) -> List[Worker]:
        """The workers that are alive and not frozen."""
        return [worker for worker in self.workers if worker.usable]

    def end(self) -> None:
        """Kill and bury all that are left. Safe to call again."""
        for worker in self.workers:
            if worker.alive:
                worker.process.kill()  # reaches a frozen process too
        for worker in self.workers:
            worker.process.wait()
            for pipe in (worker.process.stdin, worker.process.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except OSError:  # a line that could not be sent any more
                        pass
        self._selector.close()


def _pipe(stream: Optional[IO[bytes]]) -> IO[bytes]:
    assert stream is not None
    return stream
