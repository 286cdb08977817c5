"""`python -m kappa_runtime.post_start`: wait until the agent in this container listens; exit status 1 if it does not.

The postStart hook of an agent beside a user's container, which the kubelet starts only after it.
"""

import os
import sys
import time

from kappa_core.agent_config import AgentConfig
from kappa_runtime.imports import socket

DEADLINE = 30.0
"""Seconds; the kubelet starts the container again when the hook fails."""


def main() -> int:
    config = AgentConfig.from_env(os.environ)
    until = time.monotonic() + DEADLINE
    # the Runtime API listens first, then the agent's own port
    while not all(listens(port) for port in (config.port, config.runtime_api_port)):
        if time.monotonic() > until:
            print(f"kappa-agent: does not listen after {DEADLINE:.0f} s", file=sys.stderr)  # noqa: T201
            return 1
        time.sleep(0.005)
    return 0


def listens(port: int) -> bool:
    """Whether something on this machine accepts connections at a port of the loopback address."""
    probe = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        probe.connect(("127.0.0.1", port))
    except OSError:
        return False
    finally:
        probe.close()
    return True


if __name__ == "__main__":
    sys.exit(main())
