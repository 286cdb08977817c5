"""The agent processes of this machine, which stand for the pods of a cluster.

`agent_process` is one of them from its start to its end, with what `launch` gives it, the output that `pipes` reads and
the state that `readiness` asks for. `function_processes` keeps as many as scaling decides for one function, and
`spare_processes` those that a cold start takes. `pods` shows them to the gateway. `platforms` holds what differs
between Linux and macOS.

It may import `local.manifests`, `local.console` and the core; `pods` alone imports the gateway.
"""
