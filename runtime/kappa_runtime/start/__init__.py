"""The ways to start a runtime process, behind one protocol (`child.Starter`), and what it is started with.

| module | way |
| --- | --- |
| `fork` | a fork of the agent becomes the function's interpreter: the first process of a Python function |
| `spawn` | a new interpreter, or a custom runtime's `bootstrap` |
| `prepared` | a pool pod's process that has started and waits for its order; its own side is `prepared_process` |

A Python function runs in `python_runtime`, AWS' awslambdaric. Where that has no native module (macOS), it gets
`http_runtime_client` for it.

Much of this runs before the rest of the agent is imported, so it imports nothing heavy.
May import `kappa_runtime.platform`, `kappa_runtime.imports` and the core.
"""
