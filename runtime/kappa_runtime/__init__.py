"""The agent: PID 1 of a function's pod.

It serves invocations to the gateway and the Lambda Runtime API to the runtime processes, enforces the timeout and the
concurrency limit, captures logs and drains. `python -m kappa_runtime` starts it with a
`kappa_core.agent_config.AgentConfig` from the environment; `-I` beside `-m` keeps a function's own PYTHON* variables
from the agent.

| folder or module | holds |
| --- | --- |
| `__main__`, `function_pod`, `pool_pod`, `pool_agent` | the order of a start, and the composition of everything below |
| `post_start` | a container's hook: it waits until the agent listens |
| `agent/` | invocations from the gateway: accepting, queueing and answering them, readiness, draining |
| `worker/` | one runtime process: its life, its Runtime API, its log |
| `start/` | the ways to start one, the function's code and variables |
| `io/` | the event loop, connections, HTTP, the container log |
| `platform` | the only module that may use what Linux alone has |
| `imports` | the only module with import tricks, and what each saves |

Each row may import the ones below it. It may import the core, and nothing heavy: a function's pod pays for it.
"""
