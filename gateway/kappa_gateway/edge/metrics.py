"""The gateway's metrics in Prometheus' form, made at each scrape from what the layers below have counted.

A scrape must not stop the event loop, so `render` may be called on another thread.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from kappa_core import metrics
from kappa_gateway.pods.counts import FunctionCounts
from kappa_gateway.pods.state import FunctionState, PodStatus


class GatewayCollector(Collector):
    """Reads the functions' counts at the moment of a scrape."""

    def __init__(
        self, functions: Iterable[FunctionState], pool_pods: Callable[[], Mapping[tuple[str, str, str], int]]
    ) -> None:
        self._functions = functions
        self._pool_pods = pool_pods
        self.refused: dict[str, int] = {}
        """Requests without a function, by error type."""

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
        for pool, count in self._pool_pods().items():
            gauges[metrics.POOL_PODS.name].add_metric(list(pool), count)
        for function in list(self._functions):
            _collect(function, function.counts, counters, gauges, histograms)
        yield from (*counters.values(), *gauges.values(), *histograms.values())


def _collect(
    function: FunctionState,
    counted: FunctionCounts,
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

    def __init__(
        self, functions: Iterable[FunctionState], pool_pods: Callable[[], Mapping[tuple[str, str, str], int]]
    ) -> None:
        """`functions` are the gateway's; `pool_pods` counts them by (namespace, runtime, state)."""
        self._registry = CollectorRegistry(auto_describe=False)
        self._collector = GatewayCollector(functions, pool_pods)
        self._registry.register(self._collector)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def register(self, collector: Collector) -> None:
        """Have further counts on the page."""
        self._registry.register(collector)

    def refuse(self, error: str) -> None:
        """Count a request that belongs to no function."""
        refused = self._collector.refused
        refused[error] = refused.get(error, 0) + 1

    def render(self, accept: str) -> tuple[bytes, str]:
        """The page for a scraper that sent this Accept header, and its content type. May run on any thread."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type
