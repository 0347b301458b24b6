"""The files of deploy/ and the Dockerfile: they parse, what they name exists, and their times fit together."""

from __future__ import annotations

import json
import pathlib
import re
import shlex
from typing import Any, Dict, List

import pytest
import yaml

from elk_coordinator import Coordinator, CoordinatorConfig
from elk_coordinator.cli.main import build_parser
from elk_coordinator.store.memory_store import MemoryDataStore

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
#: Seconds between stop_timeout and the kill: the last reports, threads, the interpreter.
SLACK = 5.0


def manifests() -> List[Dict[str, Any]]:
    found: List[Dict[str, Any]] = []
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        found.extend(yaml.safe_load_all(path.read_text()))
    return found


def kind(name: str) -> Dict[str, Any]:
    (found,) = [each for each in manifests() if each["kind"] == name]
    return found


def pod() -> Dict[str, Any]:
    spec: Dict[str, Any] = kind("Deployment")["spec"]["template"]["spec"]
    return spec


def unit() -> Dict[str, List[str]]:
    found: Dict[str, List[str]] = {}
    for line in (DEPLOY / "systemd" / "elk-worker@.service").read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def dockerfile() -> Dict[str, List[str]]:
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    found: Dict[str, List[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            found.setdefault(name, []).append(rest.strip())
    return found


def environment(*pairs: str) -> CoordinatorConfig:
    """Return what a worker makes of these variables."""
    return CoordinatorConfig.from_env(environ=dict(pair.split("=", 1) for pair in pairs))


def known_paths() -> List[str]:
    store = MemoryDataStore()
    coordinator = Coordinator("paths", store, lambda *a: None, strategy="simple", metrics_addr="127.0.0.1:0")
    app = coordinator._parts.http_app(coordinator, coordinator._logger)
    coordinator.stop()
    store.close()
    return list(app._routes)


def check_command(words: List[str]) -> None:
    args = build_parser().parse_args(words)
    assert args.command == "run"
    assert re.match(r"\w+:\w+$", args.processor) and re.match(r"\w+:\w+$", args.planner)


def test_kubernetes_waits_longer_than_a_worker_takes_to_stop() -> None:
    config = CoordinatorConfig.from_env(environ=kind("ConfigMap")["data"])
    assert pod()["terminationGracePeriodSeconds"] >= config.stop_timeout + SLACK
    (container,) = pod()["containers"]
    startup, live = container["startupProbe"], container["livenessProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 10, "start() may take 5 s"
    assert live["periodSeconds"] * live["failureThreshold"] >= config.lease, "others would not take over sooner"


def test_every_probe_asks_for_a_path_and_port_that_exist() -> None:
    paths = known_paths()
    (container,) = pod()["containers"]
    config = CoordinatorConfig.from_env(environ=kind("ConfigMap")["data"])
    (port,) = container["ports"]
    assert config.metrics_addr == "0.0.0.0:%d" % port["containerPort"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["path"] in paths and asked["port"] == port["name"]
    (endpoint,) = kind("PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint["path"] in paths and endpoint["port"] == port["name"]
    (endpoint,), (served,) = kind("ServiceMonitor")["spec"]["endpoints"], kind("Service")["spec"]["ports"]
    assert endpoint["path"] in paths and endpoint["port"] == served["name"]
    assert (served["targetPort"], served["port"]) == (port["name"], port["containerPort"])


def test_kubernetes_runs_a_command_that_elk_understands_with_what_is_defined_beside_it() -> None:
    (container,) = pod()["containers"]
    assert "command" not in container, "the image's entrypoint, no shell"
    check_command(container["args"])
    named = [source[key]["name"] for source in container["envFrom"] for key in source]
    assert named == [kind("ConfigMap")["metadata"]["name"], kind("Secret")["metadata"]["name"]]
    variables = {**kind("ConfigMap")["data"], **kind("Secret")["stringData"]}
    assert {"ELK_NAMESPACE", "ELK_REDIS_URL"} <= set(variables)
    assert all(isinstance(value, str) for value in variables.values()), "Kubernetes refuses numbers here"


def test_every_selector_finds_the_pods() -> None:
    labels = kind("Deployment")["spec"]["template"]["metadata"]["labels"]
    for name in ("Deployment", "PodDisruptionBudget", "PodMonitor"):
        assert kind(name)["spec"]["selector"]["matchLabels"].items() <= labels.items()
    service = kind("Service")
    assert service["spec"]["selector"].items() <= labels.items()
    assert kind("ServiceMonitor")["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()


def test_no_container_runs_as_root() -> None:
    security = pod()["securityContext"]
    assert security["runAsNonRoot"] and dockerfile()["USER"][-1] == "%(runAsUser)d:%(runAsGroup)d" % security


def test_the_image_starts_elk_itself_without_a_shell() -> None:
    found = dockerfile()
    assert json.loads(found["ENTRYPOINT"][-1]) == ["elk"]
    assert json.loads(found["CMD"][-1])[0] == "run"
    assert found["STOPSIGNAL"] == ["SIGTERM"]
    (addr,) = re.findall(r"ELK_METRICS_ADDR=(\S+)", found["ENV"][-1])
    assert environment("ELK_METRICS_ADDR=" + addr).metrics_addr.rpartition(":")[2] == found["EXPOSE"][-1]
    (path,) = re.findall(r"http://127.0.0.1:9464(/\w+)", found["HEALTHCHECK"][-1])
    assert path in known_paths()


def test_the_image_holds_everything_that_the_build_copies() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        word
        for line in dockerfile()["COPY"]
        if not line.startswith("--from")
        for word in line.split()[:-1]
    }  # fmt: skip
    assert copied == allowed and all((ROOT / name).exists() for name in copied)


def test_systemd_waits_longer_than_a_worker_takes_to_stop_and_signals_only_elk() -> None:
    found = unit()
    config = environment(*shlex.split(found["Environment"][0]))
    assert float(found["TimeoutStopSec"][0]) >= config.stop_timeout + SLACK
    assert found["KillSignal"] == ["SIGTERM"] and found["KillMode"] == ["mixed"] and found["Restart"] == ["always"]
    program, *words = shlex.split(found["ExecStart"][0])
    assert program.startswith("/") and program.endswith("/elk")
    check_command(words)


@pytest.mark.parametrize("name", ["gunicorn.conf.py", "uwsgi.ini"])
def test_the_web_servers_of_the_example_wait_longer_than_a_worker_takes_to_stop(name: str) -> None:
    text = (ROOT / "examples" / "gunicorn" / name).read_text()
    limits = re.findall(r"^(?:graceful_timeout|timeout|worker-reload-mercy) = (\d+)", text, re.M)
    assert len(limits) in (1, 2)
    assert all(float(limit) >= CoordinatorConfig().stop_timeout + SLACK for limit in limits)
