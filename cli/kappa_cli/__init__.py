"""The command `kappa`.

`main` is the entry point and `app` the list of commands. `commands` holds the arguments, help texts and output of each
command, `api` the HTTP client of a gateway, and `local` everything behind `kappa local up`: functions without a
cluster.

Imports go downwards: `main > app > commands > api | local`. Besides itself the package imports the core, and in
`local.gateway` and `local.processes.pods` the gateway. It imports neither the operator nor the runtime: agents are
started as processes. No other package imports this one.
"""
