"""One runtime process: its life, its Runtime API, its invocations and its log.

`states` is its life as a table, `process` walks through it; `own` and `sidecar` are the two kinds of process that there
are, one that the agent starts and one of another container.
May import `kappa_runtime.start`, `kappa_runtime.io`, `kappa_runtime.platform`, `kappa_runtime.imports` and the core.
"""
