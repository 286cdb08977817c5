"""The Grafana dashboard asks only for metrics and labels that there are, and shows each of them."""

import json
import re
from pathlib import Path
from typing import Any

from promql import METRICS, labels_of, metric_of, series_in, wrong_values

from kappa_core.metrics import Outcome, Phase

FILE = Path(__file__).resolve().parents[3] / "charts" / "kappa" / "files" / "dashboards" / "kappa.json"


def dashboard() -> dict[str, Any]:
    model: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return model


def expressions() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]


def test_every_metric_that_is_asked_for_exists() -> None:
    for expression in expressions():
        series = series_in(expression)
        assert series, expression
        for name in series:
            metric_of(name)


def test_every_label_that_is_asked_for_exists() -> None:
    for expression in expressions():
        labels = {label for name in series_in(expression) for label in metric_of(name).labels} | {"le"}
        assert labels_of(expression) <= labels, expression
        assert not wrong_values(expression), expression


def test_legends_name_labels_that_the_query_keeps() -> None:
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            kept = {
                each.strip() for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for each in group.split(",")
            }
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= kept, target


def test_every_metric_of_the_gateway_is_shown() -> None:
    shown = {metric_of(name).name for each in expressions() for name in series_in(each)}
    assert shown == set(METRICS)


def test_counters_are_never_shown_as_they_are() -> None:
    for expression in expressions():
        for name in series_in(expression):
            if metric_of(name).kind != "gauge":
                assert re.search(rf"(rate|increase)\({name}\b", expression), expression


def test_panels_have_titles_explanations_and_room() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for grid in [panel["gridPos"]]
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(set(cells)) == len(cells), "panels overlap"
    assert all(0 <= x < 24 for x, _ in cells)
    assert all(panel["title"] and (panel["type"] == "row" or panel["description"]) for panel in panels)


def graphs() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] == "timeseries"]


def test_titles_are_each_panels_own_and_fit() -> None:
    titles = [panel["title"] for panel in dashboard()["panels"] if panel["type"] != "row"]
    assert len(set(titles)) == len(titles)
    # 44 letters were all that Grafana showed in a panel of six columns
    assert not [panel["title"] for panel in graphs() if len(panel["title"]) > 7 * panel["gridPos"]["w"]]


def test_an_idle_panel_has_no_axis_to_100() -> None:
    for panel in graphs():
        defaults = panel["fieldConfig"]["defaults"]
        if defaults["unit"] != "s":
            assert 0 < defaults["custom"]["axisSoftMax"] <= 1, panel["title"]


def test_each_outcome_has_one_color_and_only_success_is_green() -> None:
    (panel,) = (panel for panel in graphs() if panel["title"] == "Invocations")
    colors = {
        outcome: [
            override["properties"][0]["value"]["fixedColor"]
            for override in panel["fieldConfig"]["overrides"]
            if re.search(override["matcher"]["options"].strip("/"), f"Event, {outcome}")
        ]
        for outcome in Outcome
    }
    assert all(len(each) == 1 for each in colors.values()), colors
    assert [outcome for outcome, (color,) in colors.items() if color == "green"] == [Outcome.SUCCESS]


def test_a_cold_starts_phases_are_stacked_in_order() -> None:
    stacked = [[target["legendFormat"] for target in panel["targets"]] for panel in graphs()]
    phases = [names for names in stacked if names[0] == Phase.QUEUE]
    assert len(phases) == 2
    assert {name for names in phases for name in names} == set(Phase) - {Phase.TOTAL}
    assert all(names == [phase for phase in Phase if phase in names] for names in phases)
