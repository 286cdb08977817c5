"""`python -m kappa_runtime`: the agent, of a Function's pod or of a pool's."""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from collections.abc import Callable

# What is loaded now stays: looking through it for garbage again and again would take a tenth of the start.
gc.disable()

# -m puts the working directory first; in a pod that is the function's code, whose json.py must not be the agent's
if not sys.flags.safe_path:
    del sys.path[0]


def main() -> int:
    """0 after a graceful stop, 2 when the configuration cannot be used."""
    try:
        go_on = begin()
    except (ValueError, OSError) as error:
        print(f"kappa-agent: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return go_on()


def begin() -> Callable[[], int]:
    """Start what must not wait. The result is what the process goes on with: as the agent, or as a fork of it."""
    from kappa_core.agent_config import POOL, AgentConfig, PoolConfig
    from kappa_runtime.imports import signal

    # for a container's first process a SIGTERM of the first moments would be lost, and the stop would wait in vain
    stops: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stops.append(number))
    if os.environ.get(POOL) == "1":
        from kappa_runtime import pool_pod

        return pool_pod.begin(PoolConfig.from_env(os.environ), os.environ, lambda: bool(stops))
    from kappa_runtime import function_pod

    return function_pod.begin(AgentConfig.from_env(os.environ), os.environ, lambda: bool(stops))


if __name__ == "__main__":
    sys.exit(main())
