"""What Prometheus' expressions ask for, held against the metrics that Kappa has."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Final

from kappa_core import metrics
from kappa_core.metrics import ColdStartReason, InvocationType, Metric, Outcome, Phase
from kappa_operator.metrics import Metrics as OperatorMetrics

ROOT: Final = Path(__file__).resolve().parents[2]
METRICS: Final = {value.name: value for value in vars(metrics).values() if isinstance(value, Metric)}
"""The gateway's."""
VALUES: Final[dict[str, type[StrEnum]]] = {
    "outcome": Outcome,
    "type": InvocationType,
    "phase": Phase,
    "reason": ColdStartReason,
}
"""Labels whose values are known."""


def series_in(expression: str) -> list[str]:
    return re.findall(r"\bkappa_\w+", expression)


def metric_of(series: str) -> Metric:
    """The gateway's metric that a series' name belongs to; a histogram has three series, none of which has its own
    name."""
    base = re.sub(r"_(bucket|sum|count)$", "", series)
    if base in METRICS and METRICS[base].kind == "histogram":
        assert base != series, f"{series} is a histogram: ask for its _bucket, _sum or _count"
        return METRICS[base]
    assert series in METRICS, f"there is no metric {series}"
    return METRICS[series]


def operator_series() -> set[str]:
    """The operator's own, histograms by their three names."""
    found = set()
    for family in OperatorMetrics().registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        found |= {family.name + suffix for suffix in suffixes}
    source = (ROOT / "operator" / "kappa_operator" / "app.py").read_text(encoding="utf-8")
    return found | {f"kappa_operator_{name}" for name in re.findall(r"metrics\.gauge\(\s*\"(\w+)\"", source)}


def labels_of(expression: str) -> set[str]:
    """Every label that it groups by, matches or joins on."""
    groups = re.findall(r"\b(?:by|on) \(([^)]*)\)", expression)
    grouped = {each.strip() for group in groups for each in group.split(",")}
    return (grouped | set(re.findall(r"(\w+)(?:=~|!=|!~|=)\"", expression))) - {""}


def wrong_values(expression: str) -> set[str]:
    """Label values that are asked for and never are."""
    wrong = set()
    for label, _, values in re.findall(r"(\w+)(=~|!=|!~|=)\"([^\"]*)\"", expression):
        if label in VALUES:
            wrong |= {f"{label}={value}" for value in values.split("|")} - {f"{label}={each}" for each in VALUES[label]}
    return wrong
