"""A pod's readiness, asked over the connection that then serves its first request."""

import json
import time
from typing import Final

from kappa_core import wire
from kappa_gateway.transport.connection import Connection

READY_WAIT: Final = 20
"""Seconds for which an agent is asked to hold its answer."""
_DIALS_PER_SECOND: Final = 4000
"""Of all pods together: with many pods starting at once, each is dialled less often."""


def pause(elapsed: float, dialling: int) -> float:
    """Seconds until the next attempt: 5 ms at first, less often for a pod that takes long or among many."""
    if elapsed < 1.0:
        base = 0.005
    elif elapsed < 5.0:
        base = 0.01
    elif elapsed < 60.0:
        base = 0.1
    else:
        base = 1.0
    return max(base, dialling / _DIALS_PER_SECOND)


def connect_timeout(elapsed: float) -> float:
    """Seconds. A SYN that is lost while the pod's network is set up would be sent again only after a second."""
    return 0.1 if elapsed < 5.0 else 1.0


async def ask_ready(connection: Connection, host: str, wait: int, timeout: float) -> tuple[int, bytes]:
    """Status and body of the agent's readiness, which it may hold for `wait` seconds.

    Raises `KappaError` when the connection breaks, or no answer comes within `timeout` seconds.
    """
    connection.begin(time.monotonic() + timeout)
    try:
        connection.write(f"GET {wire.READY_PATH}?wait={wait} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        await connection.head()
        body = b""
        while (chunk := await connection.chunk()) is not None:
            body = (body + chunk)[:65536]
        return connection.status, body
    finally:
        connection.leave()


def read_ready(body: bytes) -> tuple[str, str]:
    """The state and the function (`namespace/name`) that an agent's readiness names; an empty string for what is
    missing."""
    try:
        answer = json.loads(body)
        return str(answer.get("state", "")), str(answer.get("function", ""))
    except (ValueError, AttributeError):
        return "", ""
