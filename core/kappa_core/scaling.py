"""How many pods a function should have: one pure decision, with one rule for each direction.

- Up: a pod is added when a waiting request would otherwise wait longer than a cold start takes.
- Down: a pod is removed when it has not been needed for `keep_warm`.

The caller passes the time and keeps the `History`. Times are seconds of any monotonic clock.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from kappa_core.demand import FunctionDemand

DEFAULT_COLD_START: Final = 0.5
"""Seconds, assumed until a cold start was measured."""
DEFAULT_DURATION: Final = 1.0
"""Seconds that an invocation is assumed to take until one has ended. A high guess starts pods sooner than a low one."""


@dataclass(frozen=True, slots=True)
class ScalingSpec:
    """The part of a Function that scaling needs."""

    min_replicas: int
    max_replicas: int
    keep_warm: float
    """Seconds."""
    concurrency: int


@dataclass(slots=True)
class History:
    """The recent peaks of a function's need: a monotonic queue, so `max_replicas` bounds its size, not traffic."""

    peaks: deque[tuple[float, int]] = field(default_factory=deque)
    """(when so many pods were last needed, how many): times rise, counts strictly fall."""

    def add(self, now: float, needed: int) -> None:
        while self.peaks and self.peaks[-1][1] <= needed:
            self.peaks.pop()
        self.peaks.append((now, needed))

    def peak(self, now: float, window: float) -> int:
        """The most pods that were needed in the last `window` seconds. Drops older entries."""
        while self.peaks and self.peaks[0][0] + window <= now:
            self.peaks.popleft()
        return self.peaks[0][1] if self.peaks else 0


def needed(demand: FunctionDemand, spec: ScalingSpec) -> int:
    """Pods that this demand needs at this moment, at most `max_replicas`; `min_replicas` is not considered.

    A waiting request counts as the part of a cold start for which it will occupy a slot. Example: with a cold start of
    500 ms, 100 waiting requests of 5 ms count as one, since running pods serve them before a new one is ready. Events
    in the backlog count the same.
    """
    busy = float(demand.in_flight)
    waiting = demand.waiting + demand.backlog
    if waiting:
        cold_start = demand.cold_start or DEFAULT_COLD_START
        duration = demand.mean_duration or DEFAULT_DURATION
        busy += waiting * min(1.0, duration / cold_start)
    pods = math.ceil(busy / spec.concurrency - 1e-9)
    if waiting or demand.in_flight:
        pods = max(pods, 1)
    return min(pods, spec.max_replicas)


def decide(now: float, demand: FunctionDemand | None, history: History, spec: ScalingSpec) -> int:
    """The replicas that a function should have now. `demand` is None if no gateway reports any.

    Adds to `history`. A second decision at the same moment with the same demand gives the same number.
    """
    now_needed = needed(demand, spec) if demand else 0
    history.add(now, now_needed)
    wanted = max(spec.min_replicas, now_needed, history.peak(now, spec.keep_warm))
    return min(wanted, spec.max_replicas)
