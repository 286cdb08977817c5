"""What is counted about asynchronous invocations: plain numbers, turned into Prometheus' form when scraped."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from kappa_core import metrics
from kappa_core.event import Condition, Lane, Status
from kappa_gateway.pods.counts import Histogram
from kappa_gateway.queue.protocol import LaneState

WAITING: Final = "waiting"
HELD: Final = "held"
"""The label `state`: events that could be received now, and those that are held or not due yet."""


class FunctionEventCounts:
    """Of one function. `waiting`, `held` and `oldest_at` are what the queue reported last."""

    __slots__ = (
        "age",
        "dead",
        "deduplicated",
        "delivered",
        "deliveries",
        "held",
        "oldest_at",
        "received",
        "retried",
        "waiting",
    )

    def __init__(self) -> None:
        self.received = 0
        self.deduplicated = 0
        self.delivered: dict[str, int] = {}
        self.retried: dict[str, int] = {}
        self.dead: dict[str, int] = {}
        self.deliveries: dict[tuple[str, str], int] = {}
        """By destination and outcome."""
        self.age = Histogram(metrics.AGE_BUCKETS)
        self.waiting = 0
        self.held = 0
        self.oldest_at: float | None = None

    def end(self, status: Status) -> None:
        self.delivered[status] = self.delivered.get(status, 0) + 1

    def retry(self, reason: str) -> None:
        self.retried[reason] = self.retried.get(reason, 0) + 1

    def dead_lettered(self, condition: Condition) -> None:
        self.dead[condition] = self.dead.get(condition, 0) + 1

    def delivery_tried(self, destination: str, outcome: str) -> None:
        key = (destination, outcome)
        self.deliveries[key] = self.deliveries.get(key, 0) + 1


class EventCounts:
    """Of all functions, by namespace and name."""

    def __init__(self) -> None:
        self.functions: dict[tuple[str, str], FunctionEventCounts] = {}

    def of(self, lane: Lane) -> FunctionEventCounts:
        key = (lane.namespace, lane.function)
        counted = self.functions.get(key)
        if counted is None:
            counted = self.functions[key] = FunctionEventCounts()
        return counted

    def replace_lanes(self, states: Iterable[LaneState]) -> None:
        """What the queue reports of all lanes of invocations; nothing while it is away."""
        for counted in self.functions.values():
            counted.waiting = counted.held = 0
            counted.oldest_at = None
        for state in states:
            counted = self.of(state.lane)
            counted.waiting, counted.held, counted.oldest_at = state.waiting, state.held, state.oldest_at

    def discard(self, namespace: str, name: str) -> None:
        self.functions.pop((namespace, name), None)


class EventCollector(Collector):
    """Reads the counts at the moment of a scrape, which may be on another thread."""

    def __init__(
        self,
        functions: Mapping[tuple[str, str], FunctionEventCounts],
        *,
        available: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._functions = functions
        self._available = available
        self._clock = clock

    def collect(self) -> Iterator[Family]:
        received, deduplicated, delivered, retried, dead, deliveries = counters = [
            CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
            for metric in (
                metrics.EVENTS_RECEIVED,
                metrics.EVENTS_DEDUPLICATED,
                metrics.EVENTS_DELIVERED,
                metrics.EVENTS_RETRIED,
                metrics.EVENTS_DEAD_LETTERED,
                metrics.DELIVERIES,
            )
        ]
        backlog, oldest, up = gauges = [
            GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
            for metric in (metrics.EVENT_BACKLOG, metrics.EVENT_OLDEST_AGE, metrics.QUEUE_UP)
        ]
        age = HistogramMetricFamily(metrics.EVENT_AGE.name, metrics.EVENT_AGE.help, labels=metrics.EVENT_AGE.labels)
        now = self._clock()
        for labels, counted in list(self._functions.items()):
            received.add_metric(labels, counted.received)
            deduplicated.add_metric(labels, counted.deduplicated)
            for family, counts in ((delivered, counted.delivered), (retried, counted.retried), (dead, counted.dead)):
                for label, count in list(counts.items()):
                    family.add_metric([*labels, label], count)
            for pair, count in list(counted.deliveries.items()):
                deliveries.add_metric([*labels, *pair], count)
            backlog.add_metric([*labels, WAITING], counted.waiting)
            backlog.add_metric([*labels, HELD], counted.held)
            oldest.add_metric(labels, max(now - counted.oldest_at, 0.0) if counted.oldest_at is not None else 0.0)
            age.add_metric(labels, *counted.age.cumulative())
        up.add_metric([], 1.0 if self._available() else 0.0)
        yield from (*counters, *gauges, age)
