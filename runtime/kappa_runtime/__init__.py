"""The agent: PID 1 of a function's pod.

It serves invocations to the gateway and the Lambda Runtime API to the runtime processes, enforces the timeout and the
concurrency limit, captures logs and drains. `python -m kappa_runtime` starts it with a `kappa_core.agent_config.AgentConfig`
from the environment; `-I` beside `-m` keeps a function's own PYTHON* variables from the agent.

| module | does |
| --- | --- |
| `launch` | what must not wait for imports: sockets, code, the first runtime process |
| `environment` | the runtime process's command and variables |
| `code`, `archive` | code into the task root |
| `agent` | accepts, queues and answers invocations; readiness; draining |
| `process` | one runtime process: its states, its timeout, its output |
| `invocation`, `readiness` | what is on its way, and whether the pod is ready |
| `runtime_api` | the Lambda Runtime API, to the runtime process |
| `server` | HTTP to the gateway |
| `loop`, `transport` | the event loop and its TCP connections |
| `http_protocol` | what both have in common |
| `journal` | Lambda's log lines of one runtime process, what it printed, its memory |
| `output` | the container log, without ever blocking |
| `logs`, `errors` | Lambda's log lines and error JSON |
| `python_runtime` | the runtime process of Python functions |
| `pool` | the start of an agent in a pool: the runtime process is started ahead |
| `ahead`, `waiting` | that process's own side, and the agent's |
| `pool_server` | a pool pod's agent while it is nobody's |
| `specialize` | how it becomes a Function's |
| `sidecar` | a runtime process in another container |
"""
