"""The agent: it takes invocations from the gateway, gives them to runtime processes, and ends in order.

| module | does |
| --- | --- |
| `agent` | which runtime process takes which invocation |
| `gateway_http`, `gateway_wire` | HTTP to the gateway: connections and routes; the form of requests and answers |
| `kept_answers` | answers to events, until a gateway has handled them |
| `readiness` | whether the pod can take invocations, and who waits for it |
| `drain` | how the agent stops |
| `pool`, `specialize` | a pool pod before it has a function; the request that gives it one |

May import `kappa_runtime.worker`, `kappa_runtime.start`, `kappa_runtime.io`, `kappa_runtime.platform`,
`kappa_runtime.imports` and the core.
"""
