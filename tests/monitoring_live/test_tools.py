"""The tools of Prometheus and Alertmanager themselves take our files: promtool and amtool, in Debian's packages."""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.request
from typing import Callable, Iterator, List

import pytest
import yaml

from elk_coordinator import Coordinator, RedisDataStore
from elk_coordinator.observability.families import PREFIX
from elk_coordinator.testing import wait_until

MONITORING = pathlib.Path(__file__).resolve().parents[2] / "monitoring"
ALERTMANAGER = MONITORING / "alertmanager" / "alertmanager.yml"
PACKAGES = {"promtool": "prometheus", "amtool": "prometheus-alertmanager"}
#: The names of the system we replace, kept for dashboards that exist: what promtool says of them.
KEPT = {"partitions_total": "_total", "active_workers_count": "_count"}


def run(tool: str, *args: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    if shutil.which(tool) is None:
        pytest.fail("%s was not found; on Debian or Ubuntu: sudo apt-get install -y %s" % (tool, PACKAGES[tool]))
    return subprocess.run(
        [tool, *args],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        timeout=50,
        cwd=str(MONITORING / "prometheus" / "tests"),
    )


def succeeded(tool: str, *args: str) -> str:
    done = run(tool, *args)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_prometheus_takes_its_configuration_and_the_rules() -> None:
    told = succeeded("promtool", "check", "config", "../prometheus.yml")
    assert told.count("SUCCESS: ") >= 3  # one line per file of rules
    rules = sorted(str(path) for path in (MONITORING / "prometheus" / "rules").glob("*.yml"))
    succeeded("promtool", "check", "rules", "--lint=all", "--lint-fatal", *rules)


def test_every_alert_fires_when_it_should_and_not_otherwise() -> None:
    files = sorted(path.name for path in (MONITORING / "prometheus" / "tests").glob("*_test.yml"))
    told = succeeded("promtool", "test", "rules", *files)
    assert told.count("SUCCESS") == len(files) >= 3


def test_the_cases_notice_an_alert_that_is_broken(tmp_path: pathlib.Path) -> None:
    copy = tmp_path / "prometheus"
    shutil.copytree(str(MONITORING / "prometheus"), str(copy))
    rules, cases = copy / "rules" / "causes.yml", copy / "tests" / "causes_test.yml"
    few = yaml.safe_load(cases.read_text(encoding="utf-8"))
    few["tests"] = [case for case in few["tests"] if "StoreDown" in case["name"]]
    cases.write_text(yaml.safe_dump(few), encoding="utf-8")
    assert run("promtool", "test", "rules", str(cases)).returncode == 0
    good = rules.read_text(encoding="utf-8")
    for broken in ("== 1", "== 2"):  # fires when it should not; never fires
        assert good.count("(elk_coordinator_store_up) == 0") == 1
        rules.write_text(good.replace("(elk_coordinator_store_up) == 0", "(elk_coordinator_store_up) " + broken))
        done = run("promtool", "test", "rules", str(cases))
        assert done.returncode == 1 and "ElkCoordinatorStoreDown" in done.stdout


def test_what_a_running_coordinator_exposes_follows_the_conventions_but_for_the_names_we_keep(
    redis_url: str, namespace: str
) -> None:
    store = RedisDataStore.from_url(redis_url)
    with Coordinator(namespace, store, lambda ctx, low, high, options: 1, metrics_addr="127.0.0.1:0") as coordinator:
        wait_until(lambda: coordinator.http_address, 10.0)
        with urllib.request.urlopen("http://%s/metrics" % coordinator.http_address, timeout=10) as answer:
            text = answer.read().decode()
    store.close()
    done = run("promtool", "check", "metrics", stdin=text)
    complaints = [line for line in done.stdout.splitlines() if line.strip()]
    for line in complaints:
        name, _, said = line.partition(" ")
        assert name.startswith(PREFIX) and KEPT.get(name[len(PREFIX) :], "nothing of this") in said, line
    assert PREFIX + "store_up" in text


def test_alertmanager_takes_its_configuration_and_its_texts() -> None:
    assert "1 templates" in succeeded("amtool", "check-config", str(ALERTMANAGER))


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        (["alertname=ElkCoordinatorStalled", "severity=critical"], "pager"),
        (["alertname=ElkCoordinatorBacklogOld", "severity=warning"], "team"),
        (["alertname=ElkCoordinatorPausedTooLong", "severity=info"], "daily"),
        (["alertname=SomebodyElses", "severity=critical"], "local"),
    ],
)
def test_an_alert_goes_where_its_severity_says(labels: List[str], receiver: str) -> None:
    told = succeeded(
        "amtool",
        "config",
        "routes",
        "test",
        "--config.file=%s" % ALERTMANAGER,
        "--verify.receivers=" + receiver,
        *labels,
    )
    assert receiver in told.splitlines()


def test_every_text_is_rendered_with_what_people_need(tmp_path: pathlib.Path) -> None:
    alert = {
        "status": "firing",
        "labels": {"alertname": "ElkCoordinatorStalled", "severity": "critical", "coordinator": "orders"},
        "annotations": {
            "summary": "Work of orders stands still",
            "description": "40 partitions of orders are open.",
            "runbook_url": "https://runbooks/Stalled.rst",
        },
        "startsAt": "2026-11-25T12:00:00Z",
    }
    told = {
        "receiver": "team",
        "status": "firing",
        "alerts": [alert],
        "groupLabels": {"alertname": "ElkCoordinatorStalled"},
        "commonLabels": alert["labels"],
        "commonAnnotations": alert["annotations"],
        "externalURL": "",
    }
    data = tmp_path / "data.json"
    data.write_text(json.dumps(told))

    def render(name: str) -> str:
        return succeeded(
            "amtool",
            "template",
            "render",
            "--template.glob=%s" % (MONITORING / "alertmanager" / "templates" / "*.tmpl"),
            "--template.data=%s" % data,
            "--template.text={{ template %s . }}" % json.dumps("elk." + name),
        )

    assert render("title").strip() == "[FIRING:1] Work of orders stands still"
    assert render("color").strip() == "danger" and render("runbook").strip() == "https://runbooks/Stalled.rst"
    for name in ("text", "html", "slack", "wecom"):
        text = render(name)
        assert "40 partitions of orders are open." in text and "https://runbooks/Stalled.rst" in text, name
    used = ALERTMANAGER.read_text(encoding="utf-8")
    for name in ("title", "color", "runbook", "text", "html", "slack", "wecom"):
        assert '{{ template "elk.%s" . }}' % name in used


def test_without_a_store_only_the_store_is_told_of() -> None:
    rules = yaml.safe_load(ALERTMANAGER.read_text(encoding="utf-8"))["inhibit_rules"]
    (rule,) = [rule for rule in rules if rule["source_matchers"] == ['alertname="ElkCoordinatorStoreDown"']]
    assert rule["equal"] == ["job", "coordinator"]
    assert 'alertname!="ElkCoordinatorStoreDown"' in rule["target_matchers"]


@pytest.mark.timeout(50)
def test_a_real_alertmanager_tells_of_the_store_and_not_of_what_follows_from_it(tmp_path: pathlib.Path) -> None:
    if shutil.which("prometheus-alertmanager") is None:
        pytest.fail("prometheus-alertmanager was not found; sudo apt-get install -y prometheus-alertmanager")
    with contextlib.ExitStack() as stack:
        printer = [sys.executable, "-u", str(ALERTMANAGER.parent / "print_alerts.py"), "127.0.0.1:0"]
        listening = stack.enter_context(_running(printer, tmp_path / "printed"))
        hook = listening("waiting for alerts on ")
        text = ALERTMANAGER.read_text(encoding="utf-8").replace("alert-log:8080", hook)
        text = re.sub(r"group_(wait|interval): \d+[sm]", r"group_\1: 1s", text)
        shutil.copytree(str(ALERTMANAGER.parent / "templates"), str(tmp_path / "templates"))
        (tmp_path / "alertmanager.yml").write_text(text, encoding="utf-8")
        manager = ["prometheus-alertmanager", "--config.file=%s" % (tmp_path / "alertmanager.yml")]
        manager += ["--storage.path=%s" % (tmp_path / "data"), "--cluster.listen-address="]
        manager += ["--web.listen-address=127.0.0.1:0"]
        listening = stack.enter_context(_running(manager, tmp_path / "managed"))
        url = "http://%s" % listening("address=127.0.0.1:", "127.0.0.1:")

        def tell(*names: str) -> None:
            common = {"job": "elk_coordinator", "coordinator": "orders", "severity": "critical"}
            alerts = [
                {"labels": dict(common, alertname=name), "annotations": {"summary": name, "runbook_url": "https://r"}}
                for name in names
            ]
            request = urllib.request.Request(url + "/api/v2/alerts", json.dumps(alerts).encode())
            request.add_header("Content-Type", "application/json")
            urllib.request.urlopen(request, timeout=10).close()

        def printed() -> str:
            return (tmp_path / "printed").read_text(encoding="utf-8")

        tell("ElkCoordinatorStoreDown", "ElkCoordinatorStoreErrors", "ElkCoordinatorNoLeader", "SomebodyElses")
        # The last one told of comes later than what would have been told with the first.
        wait_until(lambda: "StoreDown" in printed() and "SomebodyElses" in printed(), 20.0, printed)
        lines = printed().splitlines()
    assert "FIRING critical: ElkCoordinatorStoreDown (https://r)" in lines
    assert not [line for line in lines if "StoreErrors" in line or "NoLeader" in line]


@contextlib.contextmanager
def _running(command: List[str], log: pathlib.Path) -> Iterator[Callable[..., str]]:
    """Run *command*; yield what waits for a line of its log and returns the address that follows in it."""
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)

    def said(mark: str, prefix: str = "") -> str:
        def found() -> str:
            at = log.read_text(encoding="utf-8").partition(mark)[2]
            return prefix + at.split()[0] if "\n" in at else ""

        return str(wait_until(found, 20.0, lambda: log.read_text(encoding="utf-8")))

    try:
        yield said
    finally:
        process.terminate()
        process.wait(timeout=20)
