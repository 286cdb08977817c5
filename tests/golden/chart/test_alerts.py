"""The chart's alerts: they use only existing metrics, labels and values, fire when they should, and are documented."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from promql import ROOT, labels_of, metric_of, operator_series, series_in, wrong_values

FILE = ROOT / "charts" / "kappa" / "files" / "alerts.yaml"
SCENES = Path(__file__).with_name("alerts.test.yaml")
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(FILE.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]
]
each_rule = pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])


@each_rule
def test_every_metric_label_and_value_that_is_asked_for_exists(rule: dict[str, Any]) -> None:
    expression = rule["expr"]
    allowed = {"le", "job"}
    assert series_in(expression) or "up{" in expression
    for series in series_in(expression):
        if series.startswith("kappa_operator_"):
            assert series in operator_series(), f"there is no metric {series}"
        else:
            allowed |= set(metric_of(series).labels)
    if "up{" in expression:
        allowed |= {"namespace"}
    assert labels_of(expression) <= allowed
    assert not wrong_values(expression)


@each_rule
def test_what_it_says_names_labels_that_the_expression_keeps(rule: dict[str, Any]) -> None:
    named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    kept = [set(re.findall(r"\w+", group)) for group in re.findall(r"\bby \(([^)]*)\)", rule["expr"])]
    assert all(named <= group for group in kept)
    assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_a_page_says_what_to_do_about_each() -> None:
    page = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (Kappa\w+)$", page, re.MULTILINE) == [rule["alert"] for rule in RULES]


def test_every_alert_has_a_scene_in_which_it_fires() -> None:
    scenes = yaml.safe_load(SCENES.read_text(encoding="utf-8"))["tests"]
    fired = {test["alertname"] for scene in scenes for test in scene["alert_rule_test"] if test.get("exp_alerts")}
    assert fired == {rule["alert"] for rule in RULES}


@pytest.mark.helm
def test_the_scenes_play_as_they_are_written(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    assert promtool, "this test needs promtool in PATH, of Prometheus (Debian: apt-get install prometheus)"
    shutil.copy(FILE, tmp_path / "alerts.yaml")
    shutil.copy(SCENES, tmp_path / "scenes.yaml")
    for command in (["check", "rules", "alerts.yaml"], ["test", "rules", "scenes.yaml"]):
        done = subprocess.run(
            [promtool, *command], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
