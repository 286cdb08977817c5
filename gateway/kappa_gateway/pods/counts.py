"""What is counted about functions, in plain lists and dicts: `edge.metrics` turns it into Prometheus' form at a scrape.

An observation costs 0.2 µs here and 0.9 µs with a cached child of `prometheus_client`; an invocation makes two.
"""

from bisect import bisect_left
from collections.abc import Mapping

from kappa_core import metrics
from kappa_core.metrics import ColdStartReason, Phase


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
        """Prometheus' buckets as (upper bound, how many were at most that), and the sum."""
        counts = list(self.counts)
        running, buckets = 0, []
        for bound, count in zip([*self.bounds, float("inf")], counts, strict=True):
            running += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), float(running)))
        return buckets, self.total


class FunctionCounts:
    """What is counted about one function."""

    __slots__ = ("cold_phases", "cold_starts", "duration", "invocations", "overhead", "throttles")

    def __init__(self) -> None:
        self.invocations: dict[tuple[str, str], int] = {}
        """Invocations by type and outcome."""
        self.duration = Histogram(metrics.LATENCY_BUCKETS)
        self.overhead = Histogram(metrics.OVERHEAD_BUCKETS)
        self.throttles = 0
        self.cold_starts: dict[tuple[str, str], int] = {}
        """Cold starts by path and reason."""
        self.cold_phases: dict[tuple[str, str], Histogram] = {}
        """Durations of cold starts by path and phase."""

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
