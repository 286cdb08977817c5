"""What the dispatcher keeps of functions, pods and requests: plain records, changed by `dispatcher.Dispatcher` alone."""

from collections import OrderedDict
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from kappa_core.errors import KappaError
from kappa_core.function import Function
from kappa_core.metrics import ColdStartReason
from kappa_gateway.backend import Pod

if TYPE_CHECKING:
    from kappa_gateway.metrics import FunctionMetrics
    from kappa_gateway.pools.claim import Claim
    from kappa_gateway.upstream import Pool


class PodStatus(Enum):
    """What this gateway itself knows of a pod, from talking to it."""

    STARTING = "starting"
    """Not yet seen to be ready, or no longer reached: the dialer is at it."""
    READY = "ready"
    INIT_FAILED = "init_failed"
    """Its runtime process did not start: used only where the function has no pod that is ready or starting."""
    DRAINING = "draining"
    """Terminating, or it said that it drains: nothing new is sent there."""
    GONE = "gone"


class PodState:
    """A pod and the slots of it that this gateway uses."""

    __slots__ = (
        "accepted_at",
        "addressed_at",
        "backoff",
        "capacity",
        "claim",
        "function",
        "held_until",
        "limit",
        "outstanding",
        "pod",
        "pool",
        "ready_at",
        "seen_at",
        "served",
        "status",
    )

    def __init__(self, pod: Pod, function: "FunctionState", seen_at: float) -> None:
        self.pod = pod
        self.function = function
        self.status = PodStatus.STARTING
        self.capacity = pod.concurrency
        self.limit = pod.concurrency
        """`capacity`, or less while another gateway's load keeps the pod busy."""
        self.outstanding = 0
        """Requests of this gateway that are at the pod; never above `capacity`."""
        self.held_until = 0.0
        """Until when `limit` is below `capacity`; 0: it is not."""
        self.backoff = 0.0
        self.served = False
        """Whether a request was ever sent there: the first one has the cold start."""
        self.claim: Claim | None = None
        """How this gateway took it from a pool; None for any other pod."""
        self.pool: Pool | None = None
        """Its connections; made by whoever does the I/O."""
        self.seen_at = seen_at
        self.addressed_at: float | None = None
        self.accepted_at: float | None = None
        self.ready_at: float | None = None
        """When (seconds since the epoch): the pod was first seen, its address known, TCP accepted, ready."""

    def __repr__(self) -> str:
        return f"<pod {self.pod.namespace}/{self.pod.name} {self.status.value} {self.outstanding}/{self.limit}>"


class FunctionState:
    """A function: its pods, the requests that wait for one, and what is counted about it."""

    __slots__ = (
        "arn",
        "available",
        "backlog",
        "busy_since",
        "claimable",
        "cold_reason",
        "cold_start",
        "failure",
        "function",
        "in_flight",
        "key",
        "max_replicas",
        "mean_duration",
        "metrics",
        "name",
        "namespace",
        "peak_in_flight",
        "pods",
        "protocol",
        "request_head",
        "timeout",
        "waiters",
    )

    def __init__(self, namespace: str, name: str) -> None:
        self.namespace = namespace
        self.name = name
        self.key = f"{namespace}/{name}"
        self.function: Function | None = None
        """None while only pods of it are known, and after it was deleted."""
        self.max_replicas = 0
        self.timeout = 30.0
        self.protocol = "lambda"
        self.failure: KappaError | None = None
        """Why no pod can come, from its Ready condition."""
        self.pods: dict[str, PodState] = {}
        self.available: dict[PodState, None] = {}
        """Ready pods with a free slot, the one used last at the end: the others may become idle and go."""
        self.waiters: OrderedDict[Ticket, None] = OrderedDict()
        """First come, first served."""
        self.in_flight = 0
        self.peak_in_flight = 0
        """The most in flight since the last full demand report."""
        self.mean_duration = 0.0
        """Seconds, moving average of invocations; 0 while none has ended."""
        self.busy_since = 0.0
        """When the first of those in flight was given its slot, by the dispatcher's clock."""
        self.cold_start = 0.0
        """Seconds, moving average of its Deployment's cold starts; 0 while none was seen."""
        self.claimable = False
        """Whether its requests may claim pool pods instead of waiting."""
        self.cold_reason = ColdStartReason.NOT_ELIGIBLE
        """Why the last request that waited got no pool pod."""
        self.backlog = 0
        """Its events that no gateway has taken from the queue, as last heard."""
        self.arn = ""
        self.request_head = b""
        """What every invocation's head to a pod shares (`lambda` protocol)."""
        self.metrics: FunctionMetrics | None = None

    def __repr__(self) -> str:
        return f"<function {self.key} in flight {self.in_flight}, waiting {len(self.waiters)}>"


class Ticket:
    """One request's claim to a slot: `pod` is set while it holds one; it waits while it is in its function's `waiters`."""

    __slots__ = ("cold_reason", "error", "function", "number", "pod", "since", "wake")

    def __init__(self, function: FunctionState) -> None:
        self.function = function
        self.pod: PodState | None = None
        self.error: KappaError | None = None
        """Why it will get no slot."""
        self.wake: Callable[[], None] | None = None
        """Called once when a waiting ticket gets its slot or its error."""
        self.number = 0
        """Order in which slots were asked for; kept when it has to wait again."""
        self.cold_reason: ColdStartReason | None = None
        """Why it waited rather than got a pool pod; None while it has not waited."""
        self.since = 0.0
        """When it asked for a slot, by the dispatcher's clock."""
