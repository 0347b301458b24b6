"""A fleet and a Prometheus that watches it, on loopback, for as long as a ``with`` block lasts."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Dict, List, Optional, Sequence

from elk_coordinator import RedisDataStore, StrategyType, create_strategy
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.testing import EmbeddedServer, wait_until

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMESPACE = "looked-at"
JOB = "elk_coordinator"
#: Everything fast, so that a fault shows within seconds.
SETTINGS = {
    "heartbeat_interval": "1", "worker_ttl": "4", "leader_lock_expiry": "3", "allocation_interval": "1",
    "retry_backoff": "0.2,1", "max_pending_partitions": "200", "task_window_size": "4", "stop_timeout": "5",
    "circuit_breaker_open_timeout": "3", "circuit_breaker_consecutive_failures": "12",
}  # fmt: skip
_PR_SET_PDEATHSIG = 1
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
CLOCK = Clock()


class Missing(Exception):
    """A program that is needed is not installed; the message names its package."""


def shorten(rules: str, factor: float) -> str:
    """Return rules with their times divided by *factor*: ``for:``, intervals and steps 1 s at least, windows 5 s."""

    def divided(text: str, least: int) -> str:
        seconds = sum(int(n) * _SECONDS[unit] for n, unit in re.findall(r"(\d+)([smhd])", text))
        return "%ds" % max(least, round(seconds / factor))

    rules = re.sub(
        r"(?m)^(\s*(?:- )?(?:for|interval|keep_firing_for):\s*)(\d+[smhd]\S*)",
        lambda m: m.group(1) + divided(m.group(2), 1),
        rules,
    )
    rules = re.sub(r"\[((?:\d+[smhd])+)(?=[\]:])", lambda m: "[" + divided(m.group(1), 5), rules)
    return re.sub(r"(?<=:)((?:\d+[smhd])+)\]", lambda m: divided(m.group(1), 1) + "]", rules)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_us() -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


class Stand:
    """One server, some workers, one Prometheus. Used from one thread.

    :param folder: for configuration, data and logs.
    :param rules: files with alerting and recording rules.
    :param factor: by how much their times are shortened.
    :raises Missing: from ``with``, when there is no prometheus.
    """

    def __init__(
        self, folder: pathlib.Path, workers: int = 3, rules: Sequence[pathlib.Path] = (), factor: float = 1.0
    ) -> None:
        self.folder = folder
        self.fault = folder / "fault"
        self.workers: List[subprocess.Popen[bytes]] = []
        self.url = ""
        self._number = workers
        self._rules = rules
        self._factor = factor
        self._stack = contextlib.ExitStack()
        self.server: Any = None

    def __enter__(self) -> Stand:
        program = shutil.which("prometheus")
        if program is None:
            raise Missing("prometheus was not found; on Debian or Ubuntu: sudo apt-get install -y prometheus")
        with contextlib.ExitStack() as stack:
            self.server = stack.enter_context(EmbeddedServer(persistence="aof", own=True))
            store = RedisDataStore.from_url(self.server.url)
            stack.callback(store.close)
            self.strategy = create_strategy(StrategyType.HASH, NAMESPACE, store)
            stack.callback(self.strategy.stop)
            stack.callback(self._end_workers)
            for _ in range(self._number):
                self.add_worker()
            seeds = wait_until(self._addresses, 40.0, self._logs)
            self._watch(stack, program, seeds)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    # -- the fleet

    def add_worker(self) -> None:
        """Start one more worker; it is found by itself."""
        settings = [word for pair in SETTINGS.items() for word in ("--set", "%s=%s" % pair)]
        with open(str(self.folder / "workers.log"), "ab") as log:
            self.workers.append(
                subprocess.Popen(
                    [sys.executable, "-m", "elk_coordinator", "--namespace", NAMESPACE, "--redis", self.server.url,
                     "run", "--log-level", "warning", *settings, "--set", "metrics_addr=127.0.0.1:0",
                     "monitoring.live.work:Work", "monitoring.live.work:Numbers"],
                    cwd=str(ROOT), stdout=log, stderr=log, preexec_fn=_die_with_us,
                    env=dict(os.environ, ELK_LOOK_FAULT=str(self.fault)),
                )
            )  # fmt: skip

    def kill_worker(self) -> str:
        """Kill one that does not lead, as the kernel does when memory runs out; return its address."""
        held = self.strategy.leader()
        for worker in self.strategy.workers():
            pid = worker.info.get("pid")
            for process in self.workers:
                if str(process.pid) == str(pid) and process.poll() is None and held and worker.worker_id != held[0]:
                    process.kill()
                    process.wait()
                    return str(worker.info.get("http"))
        raise AssertionError("there is no follower to kill")

    def _addresses(self) -> Optional[List[str]]:
        found = [str(worker.info["http"]) for worker in self.strategy.workers() if worker.info.get("http")]
        return found if len(found) == self._number else None

    def _end_workers(self) -> None:
        for process in self.workers:
            if process.poll() is None:
                process.terminate()
        for process in self.workers:
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _logs(self) -> str:
        return "the workers\n" + (self.folder / "workers.log").read_text(errors="replace")[-3000:]

    # -- Prometheus

    def _watch(self, stack: contextlib.ExitStack, program: str, seeds: List[str]) -> None:
        rules = []
        for path in self._rules:
            copy = self.folder / ("rules-" + path.name)
            copy.write_text(shorten(path.read_text(encoding="utf-8"), self._factor), encoding="utf-8")
            rules.append(str(copy))
        sources = [
            {"url": "http://%s/api/v1/prometheus-targets" % seed, "refresh_interval": "1s"} for seed in seeds
        ]
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": rules,
            "scrape_configs": [{"job_name": JOB, "http_sd_configs": sources}],
        }
        (self.folder / "prometheus.json").write_text(json.dumps(config))  # JSON is YAML
        port = free_port()
        with open(str(self.folder / "prometheus.log"), "ab") as log:
            process = subprocess.Popen(
                [program, "--config.file", str(self.folder / "prometheus.json"), "--log.level", "warn",
                 "--storage.tsdb.path", str(self.folder / "data"), "--web.listen-address", "127.0.0.1:%d" % port],
                stdout=log, stderr=log, preexec_fn=_die_with_us,
            )  # fmt: skip
        stack.callback(process.wait)
        stack.callback(process.terminate)
        self.url = "http://127.0.0.1:%d" % port
        wait_until(self._ready, 30.0, lambda: (self.folder / "prometheus.log").read_text(errors="replace"))

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + "/-/ready", timeout=5) as answer:
                return int(answer.status) == 200
        except OSError:
            return False

    def ask(self, path: str, **parameters: Any) -> Any:
        """Return the data of an answer of Prometheus's HTTP API."""
        url = "%s/api/v1/%s?%s" % (self.url, path, urllib.parse.urlencode(parameters))
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as exc:
            with exc:
                raise AssertionError("%s: %s" % (parameters, exc.read().decode("utf-8", "replace"))) from None

    def query(self, expression: str) -> List[Dict[str, Any]]:
        """Return the samples of an expression now."""
        found: List[Dict[str, Any]] = self.ask("query", query=expression)["result"]
        return found

    def alerts(self) -> Dict[str, str]:
        """Return alert -> "pending" or "firing", the worse of its instances."""
        states: Dict[str, str] = {}
        for alert in self.ask("alerts")["alerts"]:
            name = alert["labels"]["alertname"]
            if states.get(name) != "firing":
                states[name] = alert["state"]
        return states

    def targets_up(self) -> int:
        """Return how many targets Prometheus found and could scrape."""
        return sum(1 for target in self.ask("targets")["activeTargets"] if target["health"] == "up")
