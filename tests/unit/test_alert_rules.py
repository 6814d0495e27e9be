"""The alert rules and the dashboard as files; what promtool says of the rules."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler.commands import rewrap

FOLDER = Path(__file__).resolve().parents[2] / "deploy"
RULES = FOLDER / "prometheus" / "rules.yml"
TESTS = FOLDER / "prometheus" / "rules_test.yml"
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
}


@pytest.fixture(scope="module")
def promtool() -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not on the PATH: apt-get install prometheus")
    return program


def test_each_rule_fires_and_is_silent_as_its_test_says(promtool: str) -> None:
    ran = subprocess.run(
        [promtool, "test", "rules", TESTS.name],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_prometheus_takes_our_configuration(promtool: str, tmp_path: Path) -> None:
    config = (FOLDER / "prometheus" / "prometheus.yml").read_text()
    file = tmp_path / "prometheus.yml"
    file.write_text(config.replace("/etc/prometheus/rules.yml", str(RULES)))
    ran = subprocess.run(
        [promtool, "check", "config", file], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_each_rule_is_tested_both_ways() -> None:
    cases = [
        case
        for test in yaml.safe_load(TESTS.read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    firing = {case["alertname"] for case in cases if case["exp_alerts"]}
    assert firing == ALERTS.keys()
    # Of a test in which one of two fires, the other is the silent one: alerts are compared whole.
    silent = {case["alertname"] for case in cases if not case["exp_alerts"]}
    assert ALERTS.keys() - silent <= {"RewrapLocalKekNearLimit"}


@pytest.mark.parametrize("name", ALERTS)
def test_each_rule_says_what_is_untouched_and_what_to_type(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"].keys() == {"summary", "untouched", "next_command"}
    typed = re.findall(r"\brewrap ([a-z-]+)", rule["annotations"]["next_command"])
    assert typed
    assert set(typed) <= rewrap.commands.keys()


def test_the_documentation_lists_each_rule() -> None:
    text = (FOLDER.parent / "docs" / "metrics.md").read_text()
    assert set(re.findall(r"^\| `(Rewrap\w+)` \|", text, re.MULTILINE)) == ALERTS.keys()


def test_each_panel_of_the_dashboard_asks_the_chosen_data_source() -> None:
    dashboard = json.loads((FOLDER / "grafana" / "rewrap.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in panels:
        assert panel["title"]
        assert panel["targets"]
        asked = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(source["uid"] == "${datasource}" for source in asked)
        assert {target["refId"] for target in panel["targets"]} <= set("ABCDEF")
