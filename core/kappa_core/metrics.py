"""Every metric that Kappa exports: name, help, labels and buckets, once. Base units, and labels whose values are bounded.

Function metrics carry `namespace` and `function`; their series go when the Function is deleted.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds, without +Inf; histograms only."""


FUNCTION: Final = ("namespace", "function")


class InvocationType(StrEnum):
    """The label `type`."""

    REQUEST_RESPONSE = "RequestResponse"
    DRY_RUN = "DryRun"
    FUNCTION_URL = "FunctionUrl"
    EVENT = "Event"
    """A try of an asynchronous invocation, or one that was not accepted."""


class Outcome(StrEnum):
    """The label `outcome`: who is to look at it, and whether the function ran."""

    SUCCESS = "success"
    FUNCTION_ERROR = "function_error"
    """The function ran and failed, or did not load."""
    THROTTLED = "throttled"
    FAILED = "failed"
    """The Function cannot run, as its Ready condition says."""
    CANCELLED = "cancelled"
    """The caller went away."""
    TIMEOUT = "timeout"
    """The pod did not answer by the deadline."""
    LOST = "lost"
    """The connection to the pod broke."""
    BAD_REQUEST = "bad_request"
    BAD_ANSWER = "bad_answer"
    ERROR = "error"
    """Anything else: a bug, or a gateway that stops."""


class Phase(StrEnum):
    """The label `phase` of a cold start, in order; all but the last add up to `total`.

    `schedule` and `sandbox` are a Deployment's alone, `verify` and `code` a pool's.
    """

    QUEUE = "queue"
    """Until the pod exists, or a pool pod is claimed."""
    SCHEDULE = "schedule"
    """Until it has a node."""
    SANDBOX = "sandbox"
    """Until its process runs."""
    AGENT = "agent"
    """Until it takes a connection."""
    VERIFY = "verify"
    """Until its agent has found the request for a function good."""
    CODE = "code"
    """Until the code is in its place."""
    INIT = "init"
    """Until the runtime process asks for work."""
    RUN = "run"
    """Until the function has answered."""
    FIRST_BYTE = "first_byte"
    """The rest, until the answer begins: the ways there and back."""
    TOTAL = "total"


class ColdStartReason(StrEnum):
    """The label `reason` of a cold start: why it went the way it did."""

    CLAIMED = "claimed"
    """Pool: a free pod was there."""
    NOT_ELIGIBLE = "not_eligible"
    """Deployment, as all below: `status.coldStart` says why."""
    NO_POOL = "no_pool"
    """No pool of this runtime in this namespace has a pod, or there are no pools."""
    POOL_EMPTY = "pool_empty"
    """Every pod of the pool was taken, or had not started yet."""
    HANDOVER = "handover"
    """The gateways changed, and another one claims for the function from now on: for a second, none does."""
    STARTING = "starting"
    """As many pods of the function as the load calls for were there or about to serve."""


LATENCY_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
OVERHEAD_BUCKETS: Final = (0.00005, 0.0001, 0.00015, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25)
COLD_START_BUCKETS: Final = (
    0.001,
    0.0025,
    0.005,
    0.0075,
    0.01,
    0.015,
    0.025,
    0.05,
    0.1,
    0.2,
    0.3,
    0.5,
    0.75,
    1.0,
    1.5,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
)

INVOCATIONS: Final = Metric(
    "kappa_invocations_total", "counter", "Invocations that ended, by how.", (*FUNCTION, "type", "outcome")
)
INVOCATION_DURATION: Final = Metric(
    "kappa_invocation_duration_seconds",
    "histogram",
    "From a request's head to the end of its answer, waiting for a pod included; of invocations that reached a pod.",
    FUNCTION,
    LATENCY_BUCKETS,
)
GATEWAY_OVERHEAD: Final = Metric(
    "kappa_gateway_overhead_seconds",
    "histogram",
    "The gateway's own share of an invocation: neither waiting for a pod nor the pod's own time.",
    FUNCTION,
    OVERHEAD_BUCKETS,
)
INFLIGHT: Final = Metric("kappa_inflight", "gauge", "Invocations that are at pods now.", FUNCTION)
QUEUE_DEPTH: Final = Metric("kappa_queue_depth", "gauge", "Invocations that wait for a pod now.", FUNCTION)
PODS: Final = Metric("kappa_pods", "gauge", "Pods as this gateway sees them.", (*FUNCTION, "state"))
THROTTLES: Final = Metric("kappa_throttles_total", "counter", "Invocations that were answered 429.", FUNCTION)
COLD_STARTS: Final = Metric(
    "kappa_cold_starts_total", "counter", "Invocations that waited for a pod to start.", (*FUNCTION, "path", "reason")
)
COLD_START: Final = Metric(
    "kappa_cold_start_seconds",
    "histogram",
    "How long a cold start took, by phase.",
    (*FUNCTION, "path", "phase"),
    COLD_START_BUCKETS,
)
POOL_PODS: Final = Metric(
    "kappa_pool_pods",
    "gauge",
    "Pods of warm pools as this gateway sees them; what no function has taken yet.",
    ("namespace", "runtime", "state"),
)
REFUSED_REQUESTS: Final = Metric(
    "kappa_gateway_refused_requests_total",
    "counter",
    "Requests that named no function there is, or were no proper HTTP, by error.",
    ("error",),
)

# -- asynchronous invocations

AGE_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 21600.0)

EVENTS_RECEIVED: Final = Metric(
    "kappa_async_events_received_total", "counter", "Events that were accepted, durably.", FUNCTION
)
EVENTS_DEDUPLICATED: Final = Metric(
    "kappa_async_events_deduplicated_total",
    "counter",
    "Submissions that came again within the deduplication window, and were not added.",
    FUNCTION,
)
EVENTS_DELIVERED: Final = Metric(
    "kappa_async_events_delivered_total",
    "counter",
    "Events that the function ended with success, or without for good.",
    (*FUNCTION, "status"),
)
EVENTS_RETRIED: Final = Metric(
    "kappa_async_events_retried_total",
    "counter",
    "Tries that are followed by another one, by what went wrong.",
    (*FUNCTION, "reason"),
)
EVENTS_DEAD_LETTERED: Final = Metric(
    "kappa_async_events_dead_lettered_total",
    "counter",
    "Events that went to the dead letter, by condition.",
    (*FUNCTION, "condition"),
)
EVENT_AGE: Final = Metric(
    "kappa_async_event_age_seconds", "histogram", "An event's age when a pod first got it.", FUNCTION, AGE_BUCKETS
)
EVENT_BACKLOG: Final = Metric(
    "kappa_async_backlog",
    "gauge",
    "Events in the queue, as the queue counts them: take the maximum over gateways, not the sum.",
    (*FUNCTION, "state"),
)
EVENT_OLDEST_AGE: Final = Metric(
    "kappa_async_oldest_event_age_seconds",
    "gauge",
    "Age of the oldest event in the queue; 0 when there is none. Take the maximum over gateways.",
    FUNCTION,
)
DELIVERIES: Final = Metric(
    "kappa_async_deliveries_total",
    "counter",
    "Tries to deliver a record to a destination.",
    (*FUNCTION, "destination", "outcome"),
)
QUEUE_UP: Final = Metric("kappa_async_queue_up", "gauge", "1 while this gateway reaches the queue.")
