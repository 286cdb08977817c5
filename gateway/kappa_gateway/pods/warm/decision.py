"""How many pool pods a function should claim now: one pure decision.

A pool pod is claimed when a waiting request would otherwise wait longer than starting a pod takes. All requests in
flight or waiting must be done within that time, so `(in flight + waiting) × mean duration ÷ cold start` pods are
needed, rounded up, at least one. Example: 40 requests of 0.1 s and a cold start of 2 s need 2 pods. The cold start is
the Deployment's, although a pool's is much shorter: the pool has to start a new pod for each one claimed, so that is
the cost of a claim. Claiming does not change the result, so a burst that comes one request at a time claims as many
pods as one that comes at once. `scaling.needed` counts each request in flight as one slot, so it is never below this.

Until a first answer shows how long an invocation takes, one pod is claimed at first, and the number may double every 50
ms.

Pods that the Deployment has just created, and that have no address yet, do not make a claim unnecessary: a claimed pod
serves sooner, and replaces one of them once it is adopted. They do count towards `maxReplicas`.

One gateway at a time claims for a function (`ownership`), so it sees every claim. Where this rule would have another
gateway claim, that gateway passes requests on instead.
"""

import math
from dataclasses import dataclass
from typing import Final

from kappa_core.metrics import ColdStartReason
from kappa_core.scaling import DEFAULT_COLD_START

DOUBLING: Final = 0.05
"""Seconds. A start from a pool takes a few milliseconds, and as long again as the function's own imports."""
_MOST_DOUBLINGS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """One function at this gateway, now."""

    waiting: int
    in_flight: int
    max_replicas: int
    concurrency: int = 1
    mean_duration: float = 0.0
    """Seconds; 0 while no invocation has ended."""
    running: float = 0.0
    """Seconds since the first of those in flight was given its pod; matters while `mean_duration` is 0."""
    cold_start: float = 0.0
    """Seconds, of the Deployment; 0 while none was seen."""
    pods: int = 0
    """Pods that serve, or will in a moment: claimed ones among them. Not those that have no address yet."""
    begun: int = 0
    """Those that have no address yet."""
    free: int = 0
    """Pool pods that can be claimed."""


@dataclass(frozen=True, slots=True)
class Decision:
    claims: int
    reason: ColdStartReason
    """Why not more."""
    look_again: float | None = None
    """Seconds after which the decision may change even if nothing happens."""


def decide(now: Situation) -> Decision:
    """How many of the free pods to claim. After those are claimed the result is 0, as long as nothing else changes."""
    if not now.waiting:
        return Decision(0, ColdStartReason.CLAIMED)
    wanted, look_again = _wanted(now)
    lacking = wanted - now.pods
    room = now.max_replicas - now.pods - now.begun
    if lacking <= 0 or room <= 0:
        return Decision(0, ColdStartReason.STARTING, look_again)
    claims = min(lacking, now.free, now.waiting, room)
    if now.free < lacking:
        return Decision(claims, ColdStartReason.POOL_EMPTY, look_again)
    return Decision(claims, ColdStartReason.STARTING if room < lacking else ColdStartReason.CLAIMED, look_again)


def _wanted(now: Situation) -> tuple[int, float | None]:
    """How many pods are needed, and after how many seconds that may change even if nothing happens."""
    work = float(now.in_flight + now.waiting)
    look_again, doublings = None, 0
    if now.mean_duration:
        work *= min(1.0, now.mean_duration / (now.cold_start or DEFAULT_COLD_START))
        most = now.max_replicas
    elif not now.in_flight:
        most = 1
    else:
        doublings = min(int(now.running / DOUBLING + 1e-9), _MOST_DOUBLINGS)
        most = 1 << doublings
        look_again = (doublings + 1) * DOUBLING - now.running
    pods = max(math.ceil(work / now.concurrency - 1e-9), 1)
    return min(pods, most, now.max_replicas), (look_again if most < pods and doublings < _MOST_DOUBLINGS else None)
