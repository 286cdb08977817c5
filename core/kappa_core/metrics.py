"""Every metric that Kappa exports, defined once: name, help, labels and buckets. Base units; label values are bounded.

A function's metrics have the labels `namespace` and `function`. Their series end when the Function is deleted.
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
    """An attempt of an asynchronous invocation, or one that was not accepted."""


class Outcome(StrEnum):
    """The label `outcome`: it shows whether the function ran, and who has to act."""

    SUCCESS = "success"
    FUNCTION_ERROR = "function_error"
    """The function ran and failed, or did not load."""
    THROTTLED = "throttled"
    FAILED = "failed"
    """The Function cannot run, as its Ready condition says."""
    CANCELLED = "cancelled"
    """The caller disconnected."""
    TIMEOUT = "timeout"
    """The pod did not answer by the deadline."""
    LOST = "lost"
    """The connection to the pod broke."""
    BAD_REQUEST = "bad_request"
    BAD_ANSWER = "bad_answer"
    ERROR = "error"
    """Anything else: a bug, or a gateway that stops."""


class Phase(StrEnum):
    """The label `phase` of a cold start, in order. All but the last add up to `total`.

    Only the Deployment path has `schedule` and `sandbox`, only the pool path `verify` and `code`.
    """

    QUEUE = "queue"
    """Until the pod exists, or a pool pod was claimed."""
    SCHEDULE = "schedule"
    """Until it is scheduled to a node."""
    SANDBOX = "sandbox"
    """Until its process runs."""
    AGENT = "agent"
    """Until its agent accepts a connection."""
    VERIFY = "verify"
    """Until its agent has verified the `specialize` request."""
    CODE = "code"
    """Until the code is in the task root."""
    INIT = "init"
    """Until the runtime process asks for work."""
    RUN = "run"
    """Until the function has answered."""
    FIRST_BYTE = "first_byte"
    """The rest, until the answer begins: the network in both directions."""
    TOTAL = "total"


class ColdStartReason(StrEnum):
    """The label `reason` of a cold start: why it took its path."""

    CLAIMED = "claimed"
    """Pool path: there was a free pod."""
    NOT_ELIGIBLE = "not_eligible"
    """Deployment path, as all below: the Function is not eligible; `status.coldStart` says why."""
    NO_POOL = "no_pool"
    """There is no pool of this runtime in this namespace, or it has no pod."""
    POOL_EMPTY = "pool_empty"
    """Every pod of the pool was claimed or had not started yet."""
    HANDOVER = "handover"
    """The gateways changed, and another one claims for the function from now on. For a second, none does."""
    STARTING = "starting"
    """As many pods as the load needs were running or about to serve."""


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
    "kappa_invocations_total", "counter", "Invocations that ended, by outcome.", (*FUNCTION, "type", "outcome")
)
INVOCATION_DURATION: Final = Metric(
    "kappa_invocation_duration_seconds",
    "histogram",
    "From the request's head to the end of its answer, the wait for a pod included; of invocations that got a pod.",
    FUNCTION,
    LATENCY_BUCKETS,
)
GATEWAY_OVERHEAD: Final = Metric(
    "kappa_gateway_overhead_seconds",
    "histogram",
    "The gateway's own part of an invocation: without the wait for a pod and without the pod's time.",
    FUNCTION,
    OVERHEAD_BUCKETS,
)
INFLIGHT: Final = Metric("kappa_inflight", "gauge", "Invocations that pods are running now.", FUNCTION)
QUEUE_DEPTH: Final = Metric("kappa_queue_depth", "gauge", "Requests that wait for a pod now.", FUNCTION)
PODS: Final = Metric("kappa_pods", "gauge", "Pods as this gateway sees them.", (*FUNCTION, "state"))
THROTTLES: Final = Metric("kappa_throttles_total", "counter", "Invocations that were refused with 429.", FUNCTION)
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
    "Pool pods, which no function has claimed yet, as this gateway sees them.",
    ("namespace", "runtime", "state"),
)
REFUSED_REQUESTS: Final = Metric(
    "kappa_gateway_refused_requests_total",
    "counter",
    "Requests that named a function that does not exist, or were not valid HTTP, by error.",
    ("error",),
)

# -- asynchronous invocations

AGE_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 21600.0)

EVENTS_RECEIVED: Final = Metric(
    "kappa_async_events_received_total", "counter", "Events that were enqueued durably.", FUNCTION
)
EVENTS_DEDUPLICATED: Final = Metric(
    "kappa_async_events_deduplicated_total",
    "counter",
    "Submissions that repeated an event within the deduplication window and were not enqueued.",
    FUNCTION,
)
EVENTS_DELIVERED: Final = Metric(
    "kappa_async_events_delivered_total",
    "counter",
    "Events that are settled: the function succeeded, or the event failed for good.",
    (*FUNCTION, "status"),
)
EVENTS_RETRIED: Final = Metric(
    "kappa_async_events_retried_total",
    "counter",
    "Events that returned to the queue for another attempt, by what went wrong.",
    (*FUNCTION, "reason"),
)
EVENTS_DEAD_LETTERED: Final = Metric(
    "kappa_async_events_dead_lettered_total",
    "counter",
    "Events that were dead-lettered, by condition.",
    (*FUNCTION, "condition"),
)
EVENT_AGE: Final = Metric(
    "kappa_async_event_age_seconds", "histogram", "Age of an event when a pod first got it.", FUNCTION, AGE_BUCKETS
)
EVENT_BACKLOG: Final = Metric(
    "kappa_async_backlog",
    "gauge",
    "Events in the queue, as the queue counts them: every gateway reports all, so take the maximum, not the sum.",
    (*FUNCTION, "state"),
)
EVENT_OLDEST_AGE: Final = Metric(
    "kappa_async_oldest_event_age_seconds",
    "gauge",
    "Age of the oldest event in the queue; 0: there is none. Take the maximum over gateways.",
    FUNCTION,
)
DELIVERIES: Final = Metric(
    "kappa_async_deliveries_total",
    "counter",
    "Attempts to deliver an invocation record to a destination.",
    (*FUNCTION, "destination", "outcome"),
)
QUEUE_UP: Final = Metric("kappa_async_queue_up", "gauge", "1 while this gateway reaches the queue.")
