"""`python -m kappa_runtime`: first what a cold start must not wait for, then the rest of the agent."""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

# What is loaded now stays: looking through it for garbage again and again would take a tenth of the start.
gc.disable()

# -m puts the working directory first; in a pod that is the function's code, whose json.py must not be the agent's
if not sys.flags.safe_path:
    del sys.path[0]


def main() -> int:
    """0 after a graceful stop, 2 when the configuration cannot be used."""
    from kappa_core.agent_config import POOL, AgentConfig
    from kappa_runtime import launch

    launch.heed_stop()
    try:
        if os.environ.get(POOL) == "1":
            from kappa_runtime import pool

            status = pool.run(os.environ)
            if status is None:
                show_as_main().main()
                return 0
            return status
        config = AgentConfig.from_env(os.environ)
        if config.parent_death:
            from kappa_runtime import parent

            parent.die_with(os.getppid())
        start = launch.begin(config, os.environ)
    except (ValueError, OSError) as error:
        print(f"kappa-agent: {error}", file=sys.stderr)  # noqa: T201
        return 2
    if start is None:
        return become_runtime_process()
    from kappa_runtime.agent import run

    gc.freeze()
    gc.enable()
    return run(config, start)


def become_runtime_process() -> int:
    try:
        from kappa_runtime import bootstrap
    except (ImportError, AttributeError, TypeError):
        # an interpreter whose `_json`, which is no public module, is another one
        show_as_main().main()
        return 0
    show_as_main()
    gc.freeze()
    gc.enable()
    bootstrap.main(sys.argv[1])
    return 0


def show_as_main() -> ModuleType:
    """As with `-m`: who looks the main module up finds no agent."""
    from kappa_runtime import python_runtime

    sys.modules["__main__"] = python_runtime
    return python_runtime


if __name__ == "__main__":
    sys.exit(main())
