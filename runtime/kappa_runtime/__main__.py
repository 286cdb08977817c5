"""`python -m kappa_runtime`: first what a cold start must not wait for, then the rest of the agent."""

import os
import sys

# -m puts the working directory first; in a pod that is the function's code, whose json.py must not be the agent's
if not sys.flags.safe_path:
    del sys.path[0]


def main() -> int:
    """0 after a graceful stop, 2 when the configuration cannot be used."""
    from kappa_runtime import launch

    launch.heed_stop()
    try:
        settings = launch.Settings(os.environ)
        if settings.function_name:
            if settings.parent_death:
                from kappa_runtime import parent

                parent.die_with(os.getppid())
            start = launch.begin(settings, os.environ)
        from kappa_core.agent_config import AgentConfig

        config = AgentConfig.from_env(os.environ)
    except ValueError:
        # read again, by what names the variable
        from kappa_core.agent_config import AgentConfig

        try:
            AgentConfig.from_env(os.environ)
        except ValueError as error:
            print(f"kappa-agent: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except OSError as error:
        print(f"kappa-agent: {error}", file=sys.stderr)  # noqa: T201
        return 2
    from kappa_runtime import no_tls

    with no_tls.active():
        from kappa_runtime.agent import run

    return run(config, start)


if __name__ == "__main__":
    sys.exit(main())
