"""Where a cold start's time went, by phase: for the metrics, the log and the answer's `Kappa-Cold-Start` header. Pure.

Each phase ends when the next one begins, so they add up to the total. The gateway's clock gives the total and where the
request was; how long the agent took for each of its steps is by the agent's own clock, and fits in between.
"""

from collections.abc import Mapping
from typing import Final

from kappa_core import phases, wire
from kappa_core.metrics import Phase
from kappa_gateway.pods.state import PodState

POOL: Final = "Pool"
DEPLOYMENT: Final = "Deployment"
"""The label `path` (`status.coldStart.path`)."""

_AGENT: Final = {phases.VERIFY: Phase.VERIFY, phases.CODE: Phase.CODE, phases.INIT: Phase.INIT, phases.RUN: Phase.RUN}
_PHASES: Final = wire.PHASES.lower().encode()


def agent_phases(headers: list[tuple[bytes, bytes]]) -> dict[Phase, float]:
    """Seconds by phase, as the agent's answer says."""
    for name, value in headers:
        if name == _PHASES:
            return {_AGENT[phase]: ms / 1000 for phase, ms in phases.read(value.decode("latin-1")).items()}
    return {}


def pool_phases(
    asked: float, granted: float, sent: float, answered: float, agent: Mapping[Phase, float]
) -> dict[Phase, float]:
    """The phases of a start from a pool, in seconds. The four times are of one clock: when the request asked for a pod,
    was given a claimed one, was sent to it, and when the answer began."""
    found = {Phase.QUEUE: granted - asked, Phase.AGENT: sent - granted}
    left = answered - sent
    for phase in (Phase.VERIFY, Phase.CODE, Phase.INIT, Phase.RUN):
        found[phase] = min(agent.get(phase, 0.0), left)
        left -= found[phase]
    found[Phase.FIRST_BYTE] = left
    found[Phase.TOTAL] = answered - asked
    return found


def deployment_phases(asked: float, pod: PodState, first_byte: float, run: float = 0.0) -> dict[Phase, float]:
    """The phases of a start by the Deployment, in seconds. All times are seconds since the epoch. A phase whose times
    are unknown takes no time. `run` is how long the agent says that the function took."""
    known, start = pod.observed.phases, pod.start
    ends = (
        (Phase.QUEUE, start.seen),
        (Phase.SCHEDULE, known.get("scheduled")),
        (Phase.SANDBOX, known.get("started", start.addressed)),
        (Phase.AGENT, start.accepted),
        (Phase.INIT, start.ready),
    )
    found: dict[Phase, float] = {}
    before = asked
    for phase, end in ends:
        end = min(max(before, before if end is None else end), first_byte)
        found[phase] = end - before
        before = end
    left = max(first_byte - before, 0.0)
    found[Phase.RUN] = min(run, left)
    found[Phase.FIRST_BYTE] = left - found[Phase.RUN]
    found[Phase.TOTAL] = max(first_byte - asked, 0.0)
    return found


def header(path: str, found: Mapping[Phase, float]) -> bytes:
    """The value of `wire.COLD_START`: the path, the total, then each phase that took a while, in ms."""
    parts = [
        f"{phase.value}={found[phase] * 1000:.2f}" for phase in Phase if phase in found and phase is not Phase.TOTAL
    ]
    return ";".join((path.lower(), f"total={found[Phase.TOTAL] * 1000:.2f}", *parts)).encode()
