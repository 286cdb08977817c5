"""The operator's own metrics."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.reconcile_seconds = Histogram(
            "kappa_operator_reconcile_duration_seconds",
            "How long bringing one Function to its spec takes.",
            buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
            registry=self.registry,
        )
        self.reconcile_errors = Counter(
            "kappa_operator_reconcile_errors_total",
            "Reconciles that failed and are tried again.",
            registry=self.registry,
        )
        scaled = Counter("kappa_operator_scale_total", "Changes of replicas.", ["direction"], registry=self.registry)
        self.scaled = {direction: scaled.labels(direction) for direction in ("up", "down")}
        self.scale_seconds = Histogram(
            "kappa_operator_scale_duration_seconds",
            "From the decision, at once upon a gateway's report, to the API server's answer.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 10),
            registry=self.registry,
        )
        pool_pods = Counter(
            "kappa_operator_claimed_pool_pods_total",
            "What became of claimed pool pods: taken over from the pool, then adopted by a ReplicaSet, or retired.",
            ["outcome"],
            registry=self.registry,
        )
        self.pool_pods = {outcome: pool_pods.labels(outcome) for outcome in ("taken_over", "adopted", "retired")}
        self.relist_seconds = Histogram(
            "kappa_operator_relist_duration_seconds", "How long a full list takes.", registry=self.registry
        )

    def scale(self, direction: str, seconds: float) -> None:
        """Replicas were changed `up` or `down`, `seconds` after the decision."""
        self.scaled[direction].inc()
        self.scale_seconds.observe(seconds)

    def pool_pod(self, outcome: str) -> None:
        """`taken_over`, `adopted` or `retired`."""
        self.pool_pods[outcome].inc()

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        Gauge(f"kappa_operator_{name}", text, registry=self.registry).set_function(read)
