"""How many pods a function should have: one pure decision, a rule in a sentence each way.

- Up: a pod is added when a waiting request would otherwise wait longer than a cold start takes.
- Down: a pod goes when it has not been needed for `keep_warm`.

The caller brings the time and keeps the `History`; the unit of time is seconds, of any monotonic clock.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from kappa_core.demand import FunctionDemand

DEFAULT_COLD_START: Final = 0.5
"""Seconds, until one was measured."""
DEFAULT_DURATION: Final = 1.0
"""Seconds an invocation is taken to last until one has ended: a slow guess starts pods sooner than a fast one."""


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
    """What a function needed, lately: a monotonic queue, so its size is bounded by `max_replicas`, not by traffic."""

    peaks: deque[tuple[float, int]] = field(default_factory=deque)
    """(when it was last needed, how many), counts strictly falling, times rising."""

    def add(self, now: float, needed: int) -> None:
        while self.peaks and self.peaks[-1][1] <= needed:
            self.peaks.pop()
        self.peaks.append((now, needed))

    def peak(self, now: float, window: float) -> int:
        """The most that was needed in the last `window` seconds; what is older is forgotten."""
        while self.peaks and self.peaks[0][0] + window <= now:
            self.peaks.popleft()
        return self.peaks[0][1] if self.peaks else 0


def needed(demand: FunctionDemand, spec: ScalingSpec) -> int:
    """Pods that this demand calls for at this moment, without bounds' lower end.

    A waiting request counts as the share of a cold start that it will occupy a slot for: one hundred waiting requests
    of 5 ms are served by the pods there are long before a new one would come up. So does an event in the queue.
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
    """The replicas a function should have now. `demand` is None where no gateway reports any.

    Adds to `history`. Deciding twice at one moment over the same demand gives the same number.
    """
    now_needed = needed(demand, spec) if demand else 0
    history.add(now, now_needed)
    wanted = max(spec.min_replicas, now_needed, history.peak(now, spec.keep_warm))
    return min(wanted, spec.max_replicas)
