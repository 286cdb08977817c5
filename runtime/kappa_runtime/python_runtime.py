"""`python -m kappa_runtime.python_runtime HANDLER`: the runtime process of Python functions, which is awslambdaric.

The difference to `python -m awslambdaric`: it waits for work in its main thread. awslambdaric itself makes a new thread
for every invocation from python3.12 on, so that signal handlers run while it waits; that costs 160 µs each time, more
than all the rest. Here the agent cuts the wait off when it stops, so a SIGTERM handler runs too.

The process that the agent forks in a cold start begins in `bootstrap` instead, and comes to awslambdaric when it needs it.
"""

import gc
import os
import sys


def main() -> None:
    from awslambdaric import bootstrap
    from awslambdaric.lambda_runtime_client import LambdaRuntimeClient

    gc.freeze()
    gc.enable()  # off in a process that the agent forked
    bootstrap.run(sys.argv[1], LambdaRuntimeClient(os.environ["AWS_LAMBDA_RUNTIME_API"]))


if __name__ == "__main__":
    main()
