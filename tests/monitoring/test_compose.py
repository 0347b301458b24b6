"""The stack of docker-compose.yml hangs together: what it mounts, starts and names exists. Docker is not needed."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any, Dict, Iterator, List, Tuple

import pytest
import yaml

from elk_coordinator.cli.loading import load
from elk_coordinator.config import CoordinatorConfig

ROOT = pathlib.Path(__file__).resolve().parents[2]
MONITORING = ROOT / "monitoring"
STACK: Dict[str, Any] = yaml.safe_load((MONITORING / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: Dict[str, Dict[str, Any]] = STACK["services"]
WORKERS = sorted(name for name in SERVICES if name.startswith("worker"))


def mounts(service: str) -> Iterator[Tuple[str, str]]:
    for volume in SERVICES[service].get("volumes", []):
        source, target = volume.split(":")[:2]
        yield source, target


def yaml_of(path: str) -> Any:
    return yaml.safe_load((MONITORING / path).read_text(encoding="utf-8"))


def test_the_stack_has_a_store_a_fleet_and_all_that_watches_it() -> None:
    assert set(SERVICES) == {"store", "prometheus", "alertmanager", "alert-log", "grafana", *WORKERS}
    assert len(WORKERS) == 3


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_an_image_is_pinned_and_what_is_mounted_exists(service: str) -> None:
    # Ours is built; the others name a version down to its last number.
    assert re.search(r":v?\d+\.\d+\.\d+(-\w+)?$", SERVICES[service]["image"]) or SERVICES[service]["build"] == ".."
    for source, _ in mounts(service):
        if source.startswith("."):
            assert (MONITORING / source).resolve().is_dir(), source
        else:
            assert source in STACK["volumes"]
    assert set(SERVICES[service].get("depends_on", ())) <= set(SERVICES)


def test_every_volume_is_used() -> None:
    assert {source for name in SERVICES for source, _ in mounts(name) if not source.startswith(".")} == set(
        STACK["volumes"]
    )


def test_ports_are_open_on_this_machine_only_and_once() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)
    assert len({port.split(":")[1] for port in ports}) == len(ports)


@pytest.mark.parametrize("service", WORKERS)
def test_a_worker_starts_with_options_and_work_that_exist(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = SERVICES[service]
    environment = worker["environment"]
    config = CoordinatorConfig.from_env(environ=environment)
    options = {"ELK_" + name.upper() for name in vars(CoordinatorConfig()) or CoordinatorConfig.__slots__}
    assert set(environment) - options == {"ELK_REDIS_URL", "ELK_NAMESPACE"}
    assert environment["ELK_REDIS_URL"] == "redis://store:6379/0"
    assert config.metrics_addr == "0.0.0.0:9464"
    assert worker["hostname"] == service  # what service discovery answers with
    verb, processor, planner = worker["command"]
    assert verb == "run"
    ((source, target),) = mounts(service)
    assert target == "/app"  # the working directory of our image
    monkeypatch.syspath_prepend(str((MONITORING / source).resolve()))
    monkeypatch.delitem(sys.modules, "work", raising=False)
    for name in (processor, planner):
        assert load(name, "work") is not None
    monkeypatch.delitem(sys.modules, "work", raising=False)


def test_the_image_of_the_workers_runs_elk_in_the_folder_that_is_mounted() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert '\nENTRYPOINT ["elk"]\n' in text and "\nWORKDIR /app\n" in text and "\nEXPOSE 9464\n" in text


def test_prometheus_asks_every_worker_and_tells_alertmanager() -> None:
    config = yaml_of("prometheus/prometheus.yml")
    (job,) = [job for job in config["scrape_configs"] if job["job_name"] == "elk_coordinator"]
    seeds = {re.match(r"http://([\w-]+):9464/", seed["url"]).group(1) for seed in job["http_sd_configs"]}  # type: ignore[union-attr]
    assert seeds == set(WORKERS)
    targets = config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    assert targets == ["alertmanager:9093"]
    assert ("./prometheus", "/etc/prometheus") in set(mounts("prometheus"))
    assert "--config.file=/etc/prometheus/prometheus.yml" in SERVICES["prometheus"]["command"]


def test_alertmanager_tells_the_log_of_alerts() -> None:
    config = yaml_of("alertmanager/alertmanager.yml")
    receivers = {receiver["name"]: receiver for receiver in config["receivers"]}
    used = {config["route"]["receiver"], *(route["receiver"] for route in config["route"]["routes"])}
    for name in used:
        assert [hook["url"] for hook in receivers[name]["webhook_configs"]] == ["http://alert-log:8080/"]
    assert SERVICES["alert-log"]["command"][1:] == ["/app/print_alerts.py", "0.0.0.0:8080"]


def test_grafana_finds_its_datasource_and_its_dashboards() -> None:
    inside = {target: source for source, target in mounts("grafana")}
    (source,) = yaml_of("grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090" and source["type"] == "prometheus"
    scrape = yaml_of("prometheus/prometheus.yml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrape
    folders = [
        provider["options"]["path"] for provider in yaml_of("grafana/provisioning/dashboards/elk.yml")["providers"]
    ]
    assert folders == ["/etc/elk-dashboards/en", "/etc/elk-dashboards/zh"]
    assert inside["/etc/elk-dashboards"] == "./grafana/dashboards"
    assert inside["/etc/grafana/provisioning"] == "./grafana/provisioning"


def test_the_log_of_alerts_prints_a_line_per_alert_and_refuses_what_is_none() -> None:
    command = [sys.executable, "-u", str(MONITORING / "alertmanager" / "print_alerts.py"), "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, universal_newlines=True)
    try:
        assert process.stdout is not None
        url = "http://" + process.stdout.readline().rpartition(" ")[2].strip()
        alert = {
            "status": "firing",
            "labels": {"severity": "critical"},
            "annotations": {"summary": "Work of orders stands still", "runbook_url": "https://runbook"},
        }
        assert post(url, {"alerts": [alert]}) == 204
        for wrong in ({"alerts": [{}]}, [], {"alerts": 7}):
            with pytest.raises(urllib.error.HTTPError) as caught:
                post(url, wrong)
            assert caught.value.code == 400
            caught.value.close()
        told = process.stdout.readline()
        assert told == "FIRING critical: Work of orders stands still (https://runbook)\n"
    finally:
        process.kill()
        process.communicate()


def post(url: str, body: Any) -> int:
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=10) as answer:
        return int(answer.status)


def every_receiver(config: Dict[str, Any]) -> List[str]:
    return [receiver["name"] for receiver in config["receivers"]]


def test_no_secret_stands_in_the_configuration() -> None:
    config = yaml_of("alertmanager/alertmanager.yml")
    assert {"mail", "slack", "wecom"} <= set(every_receiver(config))
    (wecom,) = [receiver for receiver in config["receivers"] if receiver["name"] == "wecom"]
    assert wecom["wechat_configs"][0]["api_secret"] == "replace-me"
    assert "api_url:" not in (MONITORING / "alertmanager" / "alertmanager.yml").read_text(encoding="utf-8")
