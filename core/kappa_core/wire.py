"""The wire between gateway, agent and runtime process, and the paths of the gateway's internal port.

Gateway → agent is HTTP/1.1 with keep-alive on the pod's port (`names.AGENT_PORT`):

| request | answer |
| --- | --- |
| `POST INVOKE_PATH`, body = payload | 200, body = the answer, or Lambda's error JSON with `FUNCTION_ERROR` |
| the same, every slot taken | 429 with `REFUSED: busy`; the function did not run |
| the same, the agent is stopping | 503 with `REFUSED: draining`; the function did not run |
| the same with `ATTEMPT`, for an event | as without it; and the agent keeps the answer, see below |
| the same, for an attempt that runs or has a kept answer | that run's answer; no second run, and no slot is taken |
| `GET KEPT_PATH + request id + "/" + attempt` | the kept answer, unchanged; or 102 now and the answer later; or 404 |
| `DELETE` of the same | 200; the event is settled, and the agent forgets the answer |
| `GET READY_PATH` | 200 once the runtime process asks for work; 503 with an `InitError` JSON if its start failed |
| `GET READY_PATH?wait=SECONDS` | the same, held back until either is known |
| `GET HEALTH_PATH` | 200 while the agent's loop runs |

*Kept answers*: an agent keeps the answer to an event's attempt until the next request on the same connection; if the
connection closes before that, for `KEPT_SECONDS`. The `GET` answers 102 at once while the invocation runs, and with the
answer when it has ended; 404 means that this agent does not know the attempt. A gateway sends `DELETE` before it closes
a connection that will have no next request.

A pool pod's agent has no function until it accepts a `POST SPECIALIZE_PATH`. From then on it answers as above:

| request | answer |
| --- | --- |
| `POST SPECIALIZE_PATH`, headers of an invocation, body of `specialize` | that invocation's answer, and `PHASES` |
| the same, after an earlier one was accepted | 409 with `REFUSED: taken`; the function did not run |
| the same, unsigned, altered, for another pod, old | 403 with `REFUSED: signature`, `altered`, `other-pod`, `stale` |
| `POST INVOKE_PATH` before it | 503 with `REFUSED: pool`; nothing ran |
| `GET READY_PATH` before it | 200 `{"state": "pool"}` once the runtime process waits, until then 503 `initializing` |
| `GET READY_PATH` after it | as above, each answer with `"function": "namespace/name", "specHash": "…"` too |

After a 403 nothing has run, and the pod stays free. Agent → runtime process is the Lambda Runtime API, version
`RUNTIME_API_VERSION`. Every function pod imports this module: standard library only.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` itself would cost every cold start milliseconds
if TYPE_CHECKING:
    from typing import Final

INVOKE_PATH: Final = "/2015-03-31/functions/function/invocations"
"""The path that Lambda's runtime interface emulator serves, so an image with that emulator works unchanged."""
SPECIALIZE_PATH: Final = "/specialize"
HEALTH_PATH: Final = "/healthz"
READY_PATH: Final = "/readyz"
DRAIN_PATH: Final = "/drain"
"""`GET` is answered once the agent has got SIGTERM and no invocation runs. It is the preStop hook of the container
beside the agent's, so that this container outlives its invocations."""
KEPT_PATH: Final = "/kept/"
KEPT_SECONDS: Final = 120.0
"""Longer than an event lease, so that the gateway that receives a dead gateway's events finds the answers to them."""
KEPT_DRAIN_SECONDS: Final = 40.0
"""How much longer a stopping agent stays while it holds kept answers: one event lease, and some seconds for another
gateway to ask. The pod's grace period includes it."""
RUNTIME_API_VERSION: Final = "2018-06-01"
DEMAND_PATH: Final = "/v1/demand"
"""On the gateway's internal port: NDJSON, one `demand.DemandReport` per line, see `kappa_core.demand`."""
CODE_PATH: Final = "/v1/code/"
"""On the same port: `GET CODE_PATH + sha256` returns an archive that some Function names, for a pool pod that gets that
Function. Knowing the hash is the permission."""
BACKLOG_PATH: Final = "/v1/backlog"
"""On the same port: `POST` with `PEER_PROOF` and `FUNCTION` notifies the gateway that claims pool pods for a function
that the function has events in the queue."""
# On the same port, `POST INVOKE_PATH` with `PEER_PROOF` and `FUNCTION` passes an invocation on to the gateway that
# claims pool pods for the function. The answer is a pod's, or it has `REFUSED: error` and a body as `errors.encode`
# writes it. Without a valid proof it is 403 with `REFUSED: signature`, and nothing ran.
PEER_PROOF: Final = "Kappa-Peer-Proof"
"""Proof that the request is a gateway's of this installation: `SECONDS.HEX`, see `kappa_gateway.invoke.peers`."""
FUNCTION: Final = "Kappa-Function"
"""On such a request: the function, as `namespace/name`."""

# Request headers, gateway → agent. All are optional: without them the agent makes an id and uses its own timeout.
REQUEST_ID: Final = "Kappa-Request-Id"
DEADLINE_MS: Final = "Kappa-Deadline-Ms"
"""When the caller gives up, in milliseconds since the epoch. The agent aborts then, or at its own timeout if that is
sooner. Gateways do not send it today."""
INVOKED_ARN: Final = "Kappa-Invoked-Function-Arn"
TRACE_ID: Final = "X-Amzn-Trace-Id"
CLIENT_CONTEXT: Final = "X-Amz-Client-Context"
"""Base64 JSON, as Lambda's Invoke takes it."""
COGNITO_IDENTITY: Final = "X-Amz-Cognito-Identity"
ATTEMPT: Final = "Kappa-Attempt"
"""On an event's invocation: the attempt's number, from 1. The gateway sends no other request on the connection until it
has settled the event, so that the agent keeps the answer, and the function need not run again if the gateway dies."""
LOG_TYPE: Final = "X-Amz-Log-Type"
"""`Tail` asks for the last 4 KiB of the invocation's log in `LOG_RESULT`."""

# Answer headers, agent → gateway. Those with X-Amz go on to the caller unchanged.
FUNCTION_ERROR: Final = "X-Amz-Function-Error"
"""`Unhandled` (or `Handled`): the body is Lambda's error JSON."""
EXECUTED_VERSION: Final = "X-Amz-Executed-Version"
LOG_RESULT: Final = "X-Amz-Log-Result"
REFUSED: Final = "Kappa-Refused"
INIT_DURATION_MS: Final = "Kappa-Init-Duration-Ms"
"""On the first answer after a runtime process has started: how long the start took."""
DURATION_MS: Final = "Kappa-Duration-Ms"
"""How long the handler ran."""
PHASES: Final = "Kappa-Phases"
"""On the same answer: the start's phases, in ms by the agent's clock; see `kappa_core.phases`."""

COLD_START: Final = "Kappa-Cold-Start"
"""On the gateway's answer to an invocation that was a cold start: `pool;total=8.1;queue=0.1;init=2.2…`, the phases of
`metrics.Phase` in ms."""

REFUSED_ERROR: Final = "error"
"""A gateway's answer to an invocation that another gateway passed on: the body says which error it is."""
REFUSED_BUSY: Final = "busy"
REFUSED_DRAINING: Final = "draining"
REFUSED_POOL: Final = "pool"
"""For an invocation sent to a pool pod without a function. A claimed pod whose container was restarted is one again."""
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
`{"state": "ready", "initDurationMs": 31.2}`, or
`{"state": "init_failed", "errorType": "Runtime.ImportModuleError", "errorMessage": "…", "stackTrace": […]}`."""
