"""The chart's Grafana dashboard, generated from Kappa's own metrics.

Grafana's model of a dashboard: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""

import json
from typing import Any, Final

from kappa_core import metrics as m
from kappa_core.metrics import Metric

COLUMNS: Final = 24
HEIGHT: Final = 8
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
CHOSEN: Final = '{namespace=~"$namespace", function=~"$function"}'
"""Nearly every metric has both labels."""
EACH: Final = "{{namespace}}/{{function}}"

Panel = dict[str, Any]


# -- queries


def rate(metric: Metric, *by: str, where: str = CHOSEN) -> str:
    grouped = f"sum by ({', '.join(by)}) " if by else "sum"
    return f"{grouped}(rate({metric.name}{where}[$__rate_interval]))"


def quantile(share: float, metric: Metric, where: str = CHOSEN) -> str:
    return f"histogram_quantile({share}, sum by (le) (rate({metric.name}_bucket{where}[$__rate_interval])))"


def mean(metric: Metric, where: str) -> str:
    total, count = (f"sum(rate({metric.name}_{part}{where}[$__rate_interval]))" for part in ("sum", "count"))
    return f"{total} / {count}"


def seen_by_each_gateway(metric: Metric, *by: str) -> str:
    """A gauge of which every gateway reports the same value: the maximum, not the sum."""
    return f"max by ({', '.join(by)}) ({metric.name}{CHOSEN})"


def where(**labels: str) -> str:
    further = ", ".join(f"{label}{condition}" for label, condition in labels.items())
    return CHOSEN[:-1] + f", {further}}}"


# -- how panels look

COLORS: Final = {
    "green": (m.Outcome.SUCCESS, "succeeded", "ready", "free"),
    "red": (
        *(m.Outcome.FUNCTION_ERROR, m.Outcome.FAILED, m.Outcome.TIMEOUT, m.Outcome.LOST, m.Outcome.BAD_ANSWER),
        *(m.Outcome.ERROR, "init_failed"),
    ),
    "yellow": (m.Outcome.THROTTLED, m.Outcome.CANCELLED, m.Outcome.BAD_REQUEST, "expired", "starting"),
    "blue": ("draining",),
}
"""Color → last words of legends that mean good or bad. With Grafana's own order failures were green."""

SOFT_MAX: Final = {"short": 1, "reqps": 0.1, "eps": 0.1, "percentunit": 0.1}
"""Unit → the smallest maximum of the axis. Grafana's own is 100 if all values are zero: 10,000 % for a ratio."""


def _colors_by_meaning() -> list[dict[str, Any]]:
    return [
        {
            "matcher": {"id": "byRegexp", "options": f"/(^|[ ,])({'|'.join(words)})$/"},
            "properties": [{"id": "color", "value": {"mode": "shades", "fixedColor": color}}],
        }
        for color, words in COLORS.items()
    ]


# -- panels


def panel(
    title: str,
    queries: dict[str, str],
    *,
    about: str,
    unit: str = "short",
    soft_max: float | None = None,
    stack: bool = False,
    last: bool = False,
    meaning: bool = False,
    width: int = 8,
) -> Panel:
    """Lines over time. `queries` are legend → expression, in stacking order.

    `last` adds each line's last value to the legend, for panels where one line dwarfs the others. `meaning` colors
    lines by COLORS.
    """
    soft_max = soft_max or SOFT_MAX.get(unit)
    custom: dict[str, Any] = {
        "fillOpacity": 30 if stack else 8,
        "showPoints": "never",
        "stacking": {"mode": "normal" if stack else "none", "group": "A"},
    }
    if soft_max is not None:
        custom["axisSoftMax"] = soft_max
    return {
        "type": "timeseries",
        "title": title,
        "description": about,
        "fieldConfig": {
            "defaults": {"unit": unit, "min": 0, "custom": custom},
            "overrides": _colors_by_meaning() if meaning else [],
        },
        "options": {
            "tooltip": {"mode": "multi", "sort": "desc"},
            "legend": {
                "showLegend": True,
                "displayMode": "list",
                "placement": "bottom",
                "calcs": ["lastNotNull"] if last else [],
            },
        },
        "targets": _targets(queries),
        "gridPos": {"w": width, "h": HEIGHT},
    }


def heatmap(title: str, metric: Metric, *, about: str, unit: str = "s", width: int = 8) -> Panel:
    query = f"sum by (le) (increase({metric.name}_bucket{CHOSEN}[$__rate_interval]))"
    return {
        "type": "heatmap",
        "title": title,
        "description": about,
        "options": {"calculate": False, "yAxis": {"unit": unit}, "color": {"mode": "scheme", "scheme": "Blues"}},
        "targets": [{**target, "format": "heatmap"} for target in _targets({"{{le}}": query})],
        "gridPos": {"w": width, "h": HEIGHT},
    }


def up(title: str, query: str, *, about: str, width: int = 4) -> Panel:
    """Green for 1, red for less."""
    steps = [{"color": "red", "value": None}, {"color": "green", "value": 1}]
    texts = [{"type": "value", "options": {"0": {"text": "unreachable"}, "1": {"text": "reachable"}}}]
    return {
        "type": "stat",
        "title": title,
        "description": about,
        "fieldConfig": {
            "defaults": {"mappings": texts, "thresholds": {"mode": "absolute", "steps": steps}, "noValue": "no queue"},
            "overrides": [],
        },
        "options": {"colorMode": "background", "graphMode": "none", "reduceOptions": {"calcs": ["lastNotNull"]}},
        "targets": _targets({"queue": query}),
        "gridPos": {"w": width, "h": HEIGHT},
    }


def _targets(queries: dict[str, str]) -> list[dict[str, Any]]:
    return [
        {"refId": chr(ord("A") + index), "expr": query, "legendFormat": legend, "datasource": DATASOURCE}
        for index, (legend, query) in enumerate(queries.items())
    ]


QUANTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}

INVOCATIONS: Final = [
    panel(
        "Invocations",
        {"{{type}}, {{outcome}}": rate(m.INVOCATIONS, "type", "outcome")},
        unit="reqps",
        stack=True,
        meaning=True,
        about="By type and outcome.",
    ),
    panel(
        "Failure ratio, by function",
        {
            EACH: rate(m.INVOCATIONS, *m.FUNCTION, where=where(outcome='!~"success|cancelled"'))
            + " / "
            + rate(m.INVOCATIONS, *m.FUNCTION)
        },
        unit="percentunit",
        about="Invocations that did not succeed, except those whose callers disconnected. Outcomes: previous panel.",
    ),
    panel(
        "Latency",
        {name: quantile(share, m.INVOCATION_DURATION) for name, share in QUANTILES.items()},
        unit="s",
        last=True,
        about="From the request's head to the end of its answer, including the wait for a pod.",
    ),
    panel(
        "In flight, by function",
        {EACH: f"sum by (namespace, function) ({m.INFLIGHT.name}{CHOSEN})"},
        about="Invocations that pods are running now.",
    ),
    panel(
        "Gateway overhead",
        {name: quantile(share, m.GATEWAY_OVERHEAD) for name, share in QUANTILES.items()},
        unit="s",
        last=True,
        about="The gateway's part of an invocation's time: without the wait for a pod and without the pod's time.",
    ),
    panel(
        "Requests without a function",
        {"{{error}}": rate(m.REFUSED_REQUESTS, "error", where="")},
        unit="reqps",
        about="Requests that named a function that does not exist, or were not valid HTTP.",
    ),
]

CAPACITY: Final = [
    panel(
        "Pods by state",
        {"{{state}}": f"sum by (state) ({seen_by_each_gateway(m.PODS, *m.FUNCTION, 'state')})"},
        stack=True,
        meaning=True,
        about="Pods as the gateways see them.",
    ),
    panel(
        "Waiting requests, by function",
        {EACH: f"sum by (namespace, function) ({m.QUEUE_DEPTH.name}{CHOSEN})"},
        about="Requests that wait for a pod. Events in the queue are in the panel Backlog.",
    ),
    panel(
        "Throttled, by function",
        {EACH: rate(m.THROTTLES, *m.FUNCTION)},
        unit="reqps",
        about="Invocations refused with 429. Raise maxReplicas or concurrency, or call less often.",
    ),
    panel(
        "Cold starts",
        {"{{path}}: {{reason}}": rate(m.COLD_STARTS, "path", "reason")},
        unit="reqps",
        stack=True,
        about="Invocations that had to wait for a pod, by path and the reason for it.",
    ),
    panel(
        "Warm ratio",
        {"warm": f"1 - {rate(m.COLD_STARTS)} / {rate(m.INVOCATIONS)}"},
        unit="percentunit",
        soft_max=1,
        about="Share of invocations that were not cold starts.",
    ),
    panel(
        "Pool pods by state",
        {
            "{{runtime}} {{state}}": "sum by (runtime, state) (max by (namespace, runtime, state) "
            f'({m.POOL_PODS.name}{{namespace=~"$namespace"}}))'
        },
        stack=True,
        meaning=True,
        about="Pool pods that no function has claimed. While none is free, cold starts take the Deployment path.",
    ),
    *(
        panel(
            f"Cold start duration, {path} path",
            {
                name: quantile(share, m.COLD_START, where(path=f'="{path}"', phase='="total"'))
                for name, share in QUANTILES.items()
            },
            unit="s",
            last=True,
            about="From the request to the beginning of its answer.",
            width=6,
        )
        for path in ("Pool", "Deployment")
    ),
    *(
        panel(
            f"Cold start phases, {path} path",
            {
                phase: mean(m.COLD_START, where(path=f'="{path}"', phase=f'="{phase}"'))
                for phase in m.Phase
                if phase not in (m.Phase.TOTAL, *elsewhere)
            },
            unit="s",
            stack=True,
            about="The mean of each phase of a cold start; the first phase is at the bottom.",
            width=6,
        )
        for path, elsewhere in (
            ("Pool", (m.Phase.SCHEDULE, m.Phase.SANDBOX)),
            ("Deployment", (m.Phase.VERIFY, m.Phase.CODE)),
        )
    ),
]

ASYNC: Final = [
    up(
        "Queue",
        f"min({m.QUEUE_UP.name})",
        about="Whether every gateway reaches the queue. While one does not, it answers Event with 503.",
    ),
    panel(
        "Events received",
        {
            "received": rate(m.EVENTS_RECEIVED),
            "duplicates, not enqueued": rate(m.EVENTS_DEDUPLICATED),
        },
        unit="eps",
        about="Events enqueued durably, and repeated submissions with the same idempotency key.",
        width=10,
    ),
    panel(
        "Events delivered",
        {"{{status}}": rate(m.EVENTS_DELIVERED, "status")},
        unit="eps",
        stack=True,
        meaning=True,
        about="Settled events, by status.",
        width=10,
    ),
    panel(
        "Backlog, by function",
        {f"{EACH} {{{{state}}}}": seen_by_each_gateway(m.EVENT_BACKLOG, *m.FUNCTION, "state")},
        stack=True,
        about="waiting: can be received now. held: a gateway has received it, or it waits for its next attempt.",
    ),
    panel(
        "Oldest event, by function",
        {EACH: seen_by_each_gateway(m.EVENT_OLDEST_AGE, *m.FUNCTION)},
        unit="s",
        soft_max=1,
        about="The age of the oldest event in the queue. An event expires at the Function's maxAge.",
    ),
    panel(
        "Age at delivery",
        {name: quantile(share, m.EVENT_AGE) for name, share in QUANTILES.items()},
        unit="s",
        last=True,
        about="Age of events when a pod first got them.",
    ),
    heatmap("Ages at delivery", m.EVENT_AGE, about="Events by their age when a pod first got them.", width=6),
    panel(
        "Retries",
        {"{{reason}}": rate(m.EVENTS_RETRIED, "reason")},
        unit="eps",
        stack=True,
        meaning=True,
        about="Events that returned to the queue for another attempt, by what went wrong.",
        width=6,
    ),
    panel(
        "Dead-lettered, by function",
        {f"{EACH} {{{{condition}}}}": rate(m.EVENTS_DEAD_LETTERED, *m.FUNCTION, "condition")},
        unit="eps",
        about="Events that failed for good. See kappa async ls --dead and kappa async redrive.",
        width=6,
    ),
    panel(
        "Deliveries to destinations",
        {"{{destination}}, {{outcome}}": rate(m.DELIVERIES, "destination", "outcome")},
        unit="eps",
        stack=True,
        meaning=True,
        about="Attempts to deliver an invocation record.",
        width=6,
    ),
]

ROWS: Final = {"Invocations": INVOCATIONS, "Pods and cold starts": CAPACITY, "Asynchronous invocations": ASYNC}


def dashboard() -> str:
    """The dashboard as JSON text."""
    panels: list[Panel] = []
    top = 0
    for title, row in ROWS.items():
        panels.append({"type": "row", "title": title, "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1}})
        top += 1
        left = 0
        for each in row:
            width = each["gridPos"]["w"]
            if left + width > COLUMNS:
                left, top = 0, top + HEIGHT
            panels.append({**each, "datasource": DATASOURCE, "gridPos": {"x": left, "y": top, "w": width, "h": HEIGHT}})
            left += width
        top += HEIGHT
    model = {
        "uid": "kappa",
        "title": "Kappa",
        "tags": ["kappa"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_datasource(), _label("namespace"), _label("function", 'namespace=~"$namespace"')]},
        "panels": [{"id": number, **each} for number, each in enumerate(panels, start=1)],
    }
    return json.dumps(model, indent=1) + "\n"


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _label(name: str, within: str = "") -> dict[str, Any]:
    selector = f"{{{within}}}" if within else ""
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": DATASOURCE,
        # this metric covers every function, called or not
        "query": f"label_values({m.PODS.name}{selector}, {name})",
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
