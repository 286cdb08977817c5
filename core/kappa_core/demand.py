"""The demand stream's wire format: what a gateway reports to the operator about the functions it serves.

One HTTP answer, NDJSON, one `DemandReport` per line. A *full* report comes every second. It lists each function that
had an invocation in flight or a waiting request since the last full report; any other function had none. A report with
`full: false` comes at once when a function's first request starts to wait, or when the gateway has claimed a pool pod.
It lists only what is new.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class FunctionDemand:
    """One function's demand at one gateway."""

    namespace: str
    name: str
    in_flight: int = 0
    """The most invocations in flight at one time since the last full report."""
    waiting: int = 0
    """Requests that wait for a slot now."""
    backlog: int = 0
    """Events of the function that no gateway has received from the queue. Every gateway reports the same number."""
    mean_duration: float = 0.0
    """Seconds, of recent invocations. While none has ended: how long the first one has run; 0 while none runs."""
    cold_start: float = 0.0
    """Seconds, of recent cold starts by the Deployment path; 0 if there were none."""
    pods: dict[str, int] = field(default_factory=dict)
    """Pod name → this gateway's invocations in flight at it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A pool pod to which the gateway has sent a function. The pod's `/readyz` says whether it accepted it."""

    namespace: str
    function: str
    """The Function's name."""
    pod: str
    pod_uid: str
    spec_hash: str
    """`pool.spec_hash` of the Function that the gateway sent."""


@dataclass(frozen=True, slots=True)
class DemandReport:
    gateway: str
    full: bool
    functions: tuple[FunctionDemand, ...]
    claims: tuple[Claim, ...] = ()
    """In a full report, all claims whose pods do not carry the function's label yet; otherwise the new ones."""


def encode(report: DemandReport) -> bytes:
    """One line of the stream, with its newline."""
    return json.dumps(asdict(report), separators=(",", ":")).encode() + b"\n"


def decode(line: bytes | str) -> DemandReport:
    """Raises `ValueError` for a line that is not a report. Ignores unknown fields, which a newer gateway may send."""
    try:
        raw: Any = json.loads(line)
        return DemandReport(
            gateway=str(raw["gateway"]),
            full=bool(raw["full"]),
            functions=tuple(_function(entry) for entry in raw["functions"]),
            claims=tuple(_claim(entry) for entry in raw.get("claims", ())),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"not a demand report: {error!r} in {line[:200]!r}") from error


def _function(entry: Any) -> FunctionDemand:
    return FunctionDemand(
        namespace=str(entry["namespace"]),
        name=str(entry["name"]),
        in_flight=_count(entry.get("in_flight", 0)),
        waiting=_count(entry.get("waiting", 0)),
        backlog=_count(entry.get("backlog", 0)),
        mean_duration=_seconds(entry.get("mean_duration", 0.0)),
        cold_start=_seconds(entry.get("cold_start", 0.0)),
        pods={str(pod): _count(count) for pod, count in entry.get("pods", {}).items()},
    )


def _claim(entry: Any) -> Claim:
    return Claim(**{name: str(entry[name]) for name in ("namespace", "function", "pod", "pod_uid", "spec_hash")})


def _count(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def _seconds(value: Any) -> float:
    # Python's JSON reader accepts NaN and Infinity, which would break the scaling rule's arithmetic.
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"{value!r} is not a time in seconds")
    return float(value)


def merge(demands: list[FunctionDemand]) -> FunctionDemand:
    """One function's demand over several gateways. Counts add up; mean durations are weighted by each gateway's
    requests."""
    if not demands:
        raise ValueError("merge needs at least one demand")
    pods: dict[str, int] = {}
    for demand in demands:
        for pod, count in demand.pods.items():
            pods[pod] = pods.get(pod, 0) + count
    return FunctionDemand(
        namespace=demands[0].namespace,
        name=demands[0].name,
        in_flight=sum(demand.in_flight for demand in demands),
        waiting=sum(demand.waiting for demand in demands),
        backlog=max(demand.backlog for demand in demands),
        mean_duration=_weighted([(d.mean_duration, d.in_flight + d.waiting) for d in demands]),
        cold_start=max(demand.cold_start for demand in demands),
        pods=pods,
    )


def _weighted(values: list[tuple[float, int]]) -> float:
    known = [(value, weight or 1) for value, weight in values if value > 0]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else 0.0
