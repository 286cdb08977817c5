"""The records of functions, pods and waiting requests. Each says which module writes it; everybody may read."""

from collections import OrderedDict
from collections.abc import Callable
from enum import Enum

from kappa_core import agent_config, wire
from kappa_core.errors import FunctionFailed, KappaError
from kappa_core.function import Function
from kappa_core.metrics import ColdStartReason
from kappa_core.reasons import BLOCKING, ConditionType
from kappa_gateway.pods.claim import Claim
from kappa_gateway.pods.counts import FunctionCounts
from kappa_gateway.pods.platform import Peer, Pod
from kappa_gateway.transport.endpoint import Endpoint


class PodStatus(Enum):
    """What this gateway has learned about a pod from its own requests to it."""

    STARTING = "starting"
    """Not known to be ready yet, or no longer reachable: the dialer keeps trying."""
    READY = "ready"
    INIT_FAILED = "init_failed"
    """Its runtime process did not start: used only where the function has no pod that is ready or starting."""
    DRAINING = "draining"
    """Terminating, or it answered that it drains: nothing new is sent there."""
    GONE = "gone"


class StartTimes:
    """When a pod's start reached each step, in seconds since the epoch; None: not seen yet."""

    __slots__ = ("accepted", "addressed", "answered", "ready", "seen")

    def __init__(self, seen: float) -> None:
        self.seen = seen
        """The gateway first saw the pod. Written, like `addressed`, by the registry."""
        self.addressed: float | None = None
        """Its address was known."""
        self.accepted: float | None = None
        """TCP was accepted. Written, like `ready`, by the dialer."""
        self.ready: float | None = None
        self.answered = False
        """Whether it has answered a request: the first answer has the cold start. Written by the invocation."""


class PodState:
    """A pod and the slots of it that this gateway uses."""

    __slots__ = (
        "backoff",
        "capacity",
        "claim",
        "endpoint",
        "function",
        "held_until",
        "limit",
        "name",
        "observed",
        "outstanding",
        "start",
        "status",
    )

    def __init__(
        self,
        observed: Pod,
        function: "FunctionState",
        seen_at: float,
        *,
        endpoint: Endpoint | None = None,
        claim: Claim | None = None,
    ) -> None:
        self.name = observed.name
        self.function = function
        self.claim = claim
        """How this gateway took it from a pool; None for any other pod."""
        self.start = StartTimes(seen_at)
        # by the registry
        self.observed = observed
        """As the platform last showed it."""
        self.endpoint = endpoint
        """Its connections; None until its address is known."""
        # by the dispatcher
        self.status = PodStatus.STARTING
        self.capacity = observed.concurrency
        self.limit = observed.concurrency
        """`capacity`, or less while another gateway's load keeps the pod busy."""
        self.outstanding = 0
        """Requests of this gateway that are at the pod; never above `capacity`."""
        self.held_until = 0.0
        """Until when `limit` is below `capacity`; 0: it is not."""
        self.backoff = 0.0

    @property
    def key(self) -> tuple[str, str]:
        return self.observed.namespace, self.observed.name

    @property
    def is_counted(self) -> bool:
        """Whether it counts towards `maxReplicas`: it serves, or may serve one day."""
        return self.status is not PodStatus.DRAINING and self.status is not PodStatus.GONE

    def __repr__(self) -> str:
        return f"<pod {'/'.join(self.key)} {self.status.value} {self.outstanding}/{self.limit}>"


class FunctionState:
    """A function: what its manifest says, its pods, and the requests that wait for one."""

    __slots__ = (
        "arn",
        "available",
        "busy_since",
        "cold_start",
        "counts",
        "failure",
        "in_flight",
        "is_pool_eligible",
        "key",
        "manifest",
        "max_replicas",
        "mean_duration",
        "name",
        "namespace",
        "passed_on",
        "peak_in_flight",
        "pods",
        "protocol",
        "request_head",
        "serving",
        "timeout",
        "waiters",
    )

    def __init__(self, namespace: str, name: str, *, region: str = "us-east-1", account: str = "000000000000") -> None:
        self.namespace = namespace
        self.name = name
        self.key = f"{namespace}/{name}"
        self.arn = agent_config.arn(region, account, namespace, name)
        self.request_head = (
            f"POST {wire.INVOKE_PATH} HTTP/1.1\r\nHost: {name}.{namespace}\r\nContent-Type: application/json\r\n"
            f"{wire.INVOKED_ARN}: {self.arn}\r\n{wire.REQUEST_ID}: "
        ).encode()
        """The beginning of the head of every invocation sent to a pod (`lambda` protocol)."""
        self.counts = FunctionCounts()
        # by the registry, through `apply`
        self.manifest: Function | None = None
        """None while only pods of it are known, and after it was deleted."""
        self.max_replicas = 0
        self.timeout = 30.0
        self.protocol = "lambda"
        self.failure: KappaError | None = None
        """Why no pod can come, from its Ready condition."""
        self.is_pool_eligible = False
        """Whether its cold starts may claim pool pods, as the operator reports for the current generation."""
        # by the dispatcher
        self.pods: dict[str, PodState] = {}
        self.serving: dict[PodState, None] = {}
        """Ready pods, at most `max_replicas` of them: no request goes to any other ready pod."""
        self.available: dict[PodState, None] = {}
        """Those that serve and have a free slot, the one used last at the end: the others may become idle and go."""
        self.waiters: OrderedDict[Ticket, None] = OrderedDict()
        """First come, first served."""
        self.passed_on = 0
        """Requests that are at the gateway which claims pool pods for this function."""
        self.in_flight = 0
        self.peak_in_flight = 0
        """The most in flight since the last full demand report."""
        self.mean_duration = 0.0
        """Seconds, moving average of invocations; 0 while none has ended."""
        self.busy_since = 0.0
        """When the first of those in flight was given its slot, by the dispatcher's clock."""
        self.cold_start = 0.0
        """Seconds, moving average of its Deployment's cold starts; 0 while none was seen."""

    def apply(self, manifest: Function | None) -> None:
        """The Function as it is now; None: it was deleted."""
        self.manifest = manifest
        if manifest is None:
            self.is_pool_eligible = False
            return
        self.max_replicas = manifest.spec.scaling.max_replicas
        self.timeout = manifest.spec.timeout_seconds
        self.protocol = manifest.spec.protocol
        self.failure = failure(manifest)
        cold_start = manifest.status.cold_start
        self.is_pool_eligible = (
            cold_start is not None
            and cold_start.path == "Pool"
            and manifest.status.observed_generation == manifest.metadata.generation
            and self.failure is None
        )

    def __repr__(self) -> str:
        return f"<function {self.key} in flight {self.in_flight}, waiting {len(self.waiters)}>"


class Ticket:
    """One request for a slot. Written by the dispatcher, but for `wake`.

    It waits while it is in its function's `waiters`. Then one of `pod`, `peer` and `error` is set.
    """

    __slots__ = ("cold_reason", "error", "function", "number", "peer", "pod", "since", "stays", "wake")

    def __init__(self, function: FunctionState, *, stays: bool = False) -> None:
        self.function = function
        self.stays = stays
        """It must not be passed on to another gateway."""
        self.pod: PodState | None = None
        """The slot's, while it holds one."""
        self.peer: Peer | None = None
        """The gateway that the request must be passed on to, which claims pool pods for the function."""
        self.error: KappaError | None = None
        """Why it will get no slot."""
        self.wake: Callable[[], None] | None = None
        """Called once when a ticket that waits gets its slot, its peer or its error."""
        self.number = 0
        """Order in which slots were asked for; kept when it has to wait again."""
        self.cold_reason: ColdStartReason | None = None
        """Why it waited rather than got a pool pod; None while it has not waited."""
        self.since = 0.0
        """When it asked for a slot, by the dispatcher's clock."""


def failure(function: Function) -> FunctionFailed | None:
    """Why no pod of the function can come, by its Ready condition for this very generation of it."""
    ready = function.condition(ConditionType.READY)
    if ready is None or ready.status != "False" or ready.reason not in BLOCKING:
        return None
    if ready.observed_generation is not None and ready.observed_generation != function.metadata.generation:
        return None
    return FunctionFailed(f"{function.key} cannot run ({ready.reason}): {ready.message}", reason=ready.reason)
