"""The gateway's metrics: counted in plain lists on the hot path, turned into Prometheus' form only when scraped.

`prometheus_client`'s own children cost several times what these do, and a scrape must not stop the event loop:
`render` may be called on another thread.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from kappa_core import metrics
from kappa_core.metrics import ColdStartReason, Phase
from kappa_gateway.state import FunctionState, PodStatus


class Histogram:
    """Counts by bucket, the last one unbounded, and the sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> tuple[list[tuple[str, float]], float]:
        """What Prometheus calls buckets: (upper bound, how many were at most that), and the sum."""
        counts = list(self.counts)
        running, buckets = 0, []
        for bound, count in zip([*self.bounds, float("inf")], counts, strict=True):
            running += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), float(running)))
        return buckets, self.total


class FunctionMetrics:
    """What is counted about one function."""

    __slots__ = ("cold_phases", "cold_starts", "duration", "invocations", "overhead", "throttles")

    def __init__(self) -> None:
        self.invocations: dict[tuple[str, str], int] = {}
        """By type and outcome."""
        self.duration = Histogram(metrics.LATENCY_BUCKETS)
        self.overhead = Histogram(metrics.OVERHEAD_BUCKETS)
        self.throttles = 0
        self.cold_starts: dict[tuple[str, str], int] = {}
        """By path and reason."""
        self.cold_phases: dict[tuple[str, str], Histogram] = {}
        """By path and phase."""

    def count(self, kind: str, outcome: str) -> None:
        key = (kind, outcome)
        self.invocations[key] = self.invocations.get(key, 0) + 1

    def cold_start(self, path: str, reason: ColdStartReason, phases: Mapping[Phase, float]) -> None:
        key = (path, reason.value)
        self.cold_starts[key] = self.cold_starts.get(key, 0) + 1
        for phase, seconds in phases.items():
            histogram = self.cold_phases.get((path, phase))
            if histogram is None:
                histogram = self.cold_phases[path, phase] = Histogram(metrics.COLD_START_BUCKETS)
            histogram.observe(seconds)


class GatewayCollector(Collector):
    """Reads the functions' counts at the moment of a scrape."""

    def __init__(self, functions: Iterable[FunctionState]) -> None:
        self._functions = functions
        self.refused: dict[str, int] = {}
        """Requests without a function, by error type."""
        self.pool_pods: Callable[[], Mapping[tuple[str, str, str], int]] = dict
        """Free pods of pools, by namespace, runtime and state."""

    def collect(self) -> Iterator[Family]:
        counters = {
            metric.name: CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
            for metric in (metrics.INVOCATIONS, metrics.THROTTLES, metrics.COLD_STARTS, metrics.REFUSED_REQUESTS)
        }
        gauges = {
            metric.name: GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
            for metric in (metrics.INFLIGHT, metrics.QUEUE_DEPTH, metrics.PODS, metrics.POOL_PODS)
        }
        histograms = {
            metric.name: HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
            for metric in (metrics.INVOCATION_DURATION, metrics.GATEWAY_OVERHEAD, metrics.COLD_START)
        }
        for error, count in list(self.refused.items()):
            counters[metrics.REFUSED_REQUESTS.name].add_metric([error], count)
        for pool, count in self.pool_pods().items():
            gauges[metrics.POOL_PODS.name].add_metric(list(pool), count)
        for function in list(self._functions):
            if function.metrics is not None:
                _collect(function, function.metrics, counters, gauges, histograms)
        yield from (*counters.values(), *gauges.values(), *histograms.values())


def _collect(
    function: FunctionState,
    counted: FunctionMetrics,
    counters: dict[str, CounterMetricFamily],
    gauges: dict[str, GaugeMetricFamily],
    histograms: dict[str, HistogramMetricFamily],
) -> None:
    labels = [function.namespace, function.name]
    for (kind, outcome), count in list(counted.invocations.items()):
        counters[metrics.INVOCATIONS.name].add_metric([*labels, kind, outcome], count)
    counters[metrics.THROTTLES.name].add_metric(labels, counted.throttles)
    for (path, reason), count in list(counted.cold_starts.items()):
        counters[metrics.COLD_STARTS.name].add_metric([*labels, path, reason], count)
    gauges[metrics.INFLIGHT.name].add_metric(labels, function.in_flight)
    gauges[metrics.QUEUE_DEPTH.name].add_metric(labels, len(function.waiters))
    pods = [pod.status for pod in list(function.pods.values())]
    for status in PodStatus:
        if status is not PodStatus.GONE:
            gauges[metrics.PODS.name].add_metric([*labels, status.value], pods.count(status))
    histograms[metrics.INVOCATION_DURATION.name].add_metric(labels, *counted.duration.cumulative())
    histograms[metrics.GATEWAY_OVERHEAD.name].add_metric(labels, *counted.overhead.cumulative())
    for (path, phase), histogram in list(counted.cold_phases.items()):
        histograms[metrics.COLD_START.name].add_metric([*labels, path, phase], *histogram.cumulative())


class Metrics:
    """The gateway's own registry: functions, the process, Python's garbage collector."""

    def __init__(self, functions: Iterable[FunctionState]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self.collector = GatewayCollector(functions)
        self._registry.register(self.collector)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def register(self, collector: Collector) -> None:
        """Have further counts on the page."""
        self._registry.register(collector)

    def refuse(self, error: str) -> None:
        """Count a request that belongs to no function."""
        refused = self.collector.refused
        refused[error] = refused.get(error, 0) + 1

    def render(self, accept: str) -> tuple[bytes, str]:
        """The page for a scraper that sent this Accept header, and its content type. May run on any thread."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type
