"""`python -m kappa_runtime.start.python_runtime HANDLER`: what Python functions run in, awslambdaric.

The difference to `python -m awslambdaric`: it waits for work in its main thread. awslambdaric itself makes a new thread
for every invocation from python3.12 on, so that signal handlers run while it waits; that costs 160 µs each time, more
than all the rest. Here the agent cuts the wait off when it stops, so a SIGTERM handler runs too.
"""

import gc
import os
import sys


def ensure_runtime_client() -> frozenset[str]:
    """Call it before awslambdaric is imported. Its native module is built for Linux only; without one it cannot serve.

    The result: modules that were loaded because the native one is missing.
    """
    try:
        import runtime_client  # noqa: F401
    except ImportError:
        return _load_runtime_client(os.environ.get("LAMBDA_TASK_ROOT", ""))
    return frozenset()


def _load_runtime_client(task_root: str) -> frozenset[str]:
    """Put `http_runtime_client` in the native module's place. What it imports comes from the standard library, and
    where the function has a module of such a name (`email`, say), the function gets that one."""
    before, path = set(sys.modules), sys.path[:]
    sys.path[:] = [entry for entry in path if entry != task_root]
    try:
        from kappa_runtime.start import http_runtime_client
    finally:
        sys.path[:] = path
    loaded = frozenset(sys.modules.keys() - before)
    sys.modules["runtime_client"] = http_runtime_client
    if task_root:
        own = {name.partition(".")[0] for name in os.listdir(task_root)}
        for name in loaded:
            if name.partition(".")[0] in own:
                del sys.modules[name]
    return loaded


def main() -> int:
    ensure_runtime_client()
    from awslambdaric import bootstrap
    from awslambdaric.lambda_runtime_client import LambdaRuntimeClient

    gc.freeze()
    gc.enable()  # off in a process that the agent forked
    bootstrap.run(sys.argv[1], LambdaRuntimeClient(os.environ["AWS_LAMBDA_RUNTIME_API"]))
    return 0


def main_in_fork() -> int:
    """As `main`, in a process that was started as the agent: code that looks up the main module finds this one."""
    sys.modules["__main__"] = sys.modules[__name__]
    return main()


if __name__ == "__main__":
    main()
