"""The event loop and what runs on it: connections, HTTP, the container log. It knows no invocation and no process.

May import `kappa_runtime.platform`, `kappa_runtime.imports` and the core.
"""
