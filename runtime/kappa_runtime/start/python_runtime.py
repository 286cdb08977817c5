"""`python -m kappa_runtime.start.python_runtime HANDLER`: what Python functions run in, awslambdaric.

The difference to `python -m awslambdaric`: it waits for work in its main thread. awslambdaric itself makes a new thread
for every invocation from python3.12 on, so that signal handlers run while it waits; that costs 160 µs each time, more
than all the rest. Here the agent cuts the wait off when it stops, so a SIGTERM handler runs too.
"""

import gc
import os
import sys


def ensure_runtime_client() -> None:
    """Call it before awslambdaric is imported, which does without its native module where that is missing, but then
    cannot serve: AWS builds it for Linux alone."""
    try:
        import runtime_client  # noqa: F401
    except ImportError:
        from kappa_runtime.start import http_runtime_client

        sys.modules["runtime_client"] = http_runtime_client


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
