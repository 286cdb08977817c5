"""The wire between gateway, agent and runtime process, and the demand stream's path.

Gateway → agent is HTTP/1.1 with keep-alive on the pod's port (`names.AGENT_PORT`):

| request | answer |
| --- | --- |
| `POST INVOKE_PATH`, body = event | 200, body = the function's answer or Lambda's error JSON (then `FUNCTION_ERROR` is set) |
| the same, every slot taken | 429 with `REFUSED: busy`; nothing was run |
| the same, stopping | 503 with `REFUSED: draining`; nothing was run |
| the same with `ATTEMPT`, for an event | as without; and the answer is kept until the next request on this connection, or, if the connection closes before, for `KEPT_SECONDS` |
| the same, for an attempt that runs or whose answer is kept | that run's answer; it is not run again, and takes no slot |
| `GET KEPT_PATH + request id + "/" + attempt` | the answer that is kept, as it was given; if the invocation runs, 102 at once and its answer once it has ended; 404 if nothing is known of it |
| `DELETE` of the same | 200; the event was seen to, and the answer is forgotten: before a connection is closed that will see no next request |
| `GET READY_PATH` | 200 once the runtime process asks for work; 503 with an `InitError` JSON if its start failed; `?wait=SECONDS` holds the answer until either is known |
| `GET HEALTH_PATH` | 200 while the agent's loop runs |

A pool pod's agent is nobody's until it takes a `POST SPECIALIZE_PATH`; from then on it is as above:

| request | answer |
| --- | --- |
| `POST SPECIALIZE_PATH`, headers as of an invocation (`ATTEMPT` too), body as in `kappa_core.specialize` | as of that invocation, and `PHASES` |
| the same, taken by an earlier one | 409 with `REFUSED: taken`; nothing was run |
| the same, not signed, altered, for another pod, too old | 403 with `REFUSED: signature`, `altered`, `other-pod`, `stale`; nothing was run, the pod stays free |
| `POST INVOKE_PATH` before it | 503 with `REFUSED: pool`; nothing was run |
| `GET READY_PATH` before it | 200 `{"state": "pool"}` once the runtime process waits, until then 503 `{"state": "initializing"}` |
| `GET READY_PATH` after it | as above, and in each answer also `"function": "namespace/name", "specHash": "…"` |

Agent → runtime process is the Lambda Runtime API, version `RUNTIME_API_VERSION`.
Imported by every function pod: standard library only.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` itself would cost every cold start milliseconds
if TYPE_CHECKING:
    from typing import Final

INVOKE_PATH: Final = "/2015-03-31/functions/function/invocations"
"""Also what Lambda's runtime interface emulator serves, so an image with that emulator works unchanged."""
SPECIALIZE_PATH: Final = "/specialize"
HEALTH_PATH: Final = "/healthz"
READY_PATH: Final = "/readyz"
DRAIN_PATH: Final = "/drain"
"""`GET` is answered once the agent was told to stop (SIGTERM) and no invocation runs: the preStop hook of a container
beside the agent's, which so outlives the invocations that it runs."""
KEPT_PATH: Final = "/kept/"
KEPT_SECONDS: Final = 120.0
"""Longer than a queue's lease: whoever takes over a dead gateway's events finds the answers that it did not see to."""
KEPT_DRAIN_SECONDS: Final = 40.0
"""How much longer a stopping agent stays while there are answers that no gateway has seen to: a lease of the queue, and
some seconds for another gateway to come. The pod's grace period has room for it."""
RUNTIME_API_VERSION: Final = "2018-06-01"
DEMAND_PATH: Final = "/v1/demand"
"""On the gateway's internal port: NDJSON, one `demand.DemandReport` a line, see `kappa_core.demand`."""
CODE_PATH: Final = "/v1/code/"
"""There too: `GET CODE_PATH + sha256` is an archive that some Function names, for a pool pod that becomes it. Who knows
the hash may have it."""
LOANS_PATH: Final = "/v1/loans"
"""There too: `POST` with a request as in `kappa_gateway.pools.loans`; 200 if a place of `maxReplicas` is lent, 409 if not,
403 if the request is not a gateway's of this installation."""
SIGNATURE: Final = "Kappa-Signature"
"""Base64, on such a request."""

# Request headers, gateway → agent. All optional: without them the agent makes an id and uses its own timeout.
REQUEST_ID: Final = "Kappa-Request-Id"
DEADLINE_MS: Final = "Kappa-Deadline-Ms"
"""When the caller gives up, in milliseconds since the epoch: the agent aborts by then, and by its own timeout if sooner."""
INVOKED_ARN: Final = "Kappa-Invoked-Function-Arn"
TRACE_ID: Final = "X-Amzn-Trace-Id"
CLIENT_CONTEXT: Final = "X-Amz-Client-Context"
"""Base64 JSON, as Lambda's Invoke takes it."""
COGNITO_IDENTITY: Final = "X-Amz-Cognito-Identity"
ATTEMPT: Final = "Kappa-Attempt"
"""On an event's invocation: which of its attempts this is, from 1. A gateway sends nothing else over the connection until
it has seen to the answer, so that an answer whose gateway died is not lost and the function not run a second time."""
LOG_TYPE: Final = "X-Amz-Log-Type"
"""`Tail` asks for the last 4 KiB of the invocation's log in `LOG_RESULT`."""

# Answer headers, agent → gateway (the X-Amz ones go on to the caller as they are).
FUNCTION_ERROR: Final = "X-Amz-Function-Error"
"""`Unhandled` (or `Handled`): the body is Lambda's error JSON."""
EXECUTED_VERSION: Final = "X-Amz-Executed-Version"
LOG_RESULT: Final = "X-Amz-Log-Result"
REFUSED: Final = "Kappa-Refused"
INIT_DURATION_MS: Final = "Kappa-Init-Duration-Ms"
"""On the first answer after a runtime process started: how long its start took."""
DURATION_MS: Final = "Kappa-Duration-Ms"
"""How long the handler ran."""
PHASES: Final = "Kappa-Phases"
"""On the same answer: where the start's time went, in ms by the agent's one clock; see `kappa_core.phases`."""

COLD_START: Final = "Kappa-Cold-Start"
"""On the gateway's answer to the invocation that waited for a pod: `pool;total=8.1;queue=0.1;init=2.2…`, phases as in
`metrics.Phase`, in ms."""

REFUSED_BUSY: Final = "busy"
REFUSED_DRAINING: Final = "draining"
REFUSED_POOL: Final = "pool"
"""An invocation to a pool pod that is nobody's; a function's pod whose container was started again is one, too."""
REFUSED_TAKEN: Final = "taken"
REFUSED_SIGNATURE: Final = "signature"
REFUSED_ALTERED: Final = "altered"
REFUSED_OTHER_POD: Final = "other-pod"
REFUSED_STALE: Final = "stale"

LOG_TAIL_BYTES: Final = 4096
MAX_RESPONSE_BYTES: Final = 6 * 1024 * 1024
"""Lambda's limit on a synchronous answer: 6 MB."""
MAX_REQUEST_BYTES: Final = 6 * 1024 * 1024

INITIALIZING: Final = "initializing"
READY: Final = "ready"
INIT_FAILED: Final = "init_failed"
DRAINING: Final = "draining"
POOL: Final = "pool"
"""The values of `state` in the JSON body of `READY_PATH`:
`{"state": "ready", "initDurationMs": 31.2}` or `{"state": "init_failed", "errorType": "Runtime.ImportModuleError", "errorMessage": "…", "stackTrace": […]}`."""
