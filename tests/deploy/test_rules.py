"""Prometheus' own tools read its configuration and try the alerts on made-up series."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from dashboard import ALERTS, REPOSITORY

PROMETHEUS = REPOSITORY / "deploy" / "prometheus"
CASES = Path(__file__).with_name("alerts_test.yml")


def promtool_run(promtool: str, *arguments: str, cwd: Path) -> None:
    done = subprocess.run([promtool, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_is_one(promtool: str):
    promtool_run(promtool, "check", "config", "prometheus.yml", cwd=PROMETHEUS)


def test_alerts_fire_where_they_should_and_nowhere_else(promtool: str, tmp_path: Path):
    for file in (ALERTS, CASES):
        shutil.copy(file, tmp_path / file.name)
    promtool_run(promtool, "test", "rules", CASES.name, cwd=tmp_path)


def test_a_threshold_that_was_moved_is_noticed(promtool: str, tmp_path: Path):
    shutil.copy(CASES, tmp_path / CASES.name)
    moved = ALERTS.read_text().replace("anysize_max_queued_requests > 0.8", "anysize_max_queued_requests > 0.95")
    (tmp_path / ALERTS.name).write_text(moved)
    with pytest.raises(AssertionError, match="AnysizeQueueFull"):
        promtool_run(promtool, "test", "rules", CASES.name, cwd=tmp_path)


def test_every_alert_is_tried_and_says_what_to_do():
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    for rule in rules:
        assert rule["alert"] in CASES.read_text()
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "what_to_do"}
