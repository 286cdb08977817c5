"""Asks an agent whether its runtime process can serve invocations."""

import asyncio
import json
from enum import Enum
from typing import Final

from kappa_core import wire

_HOLD: Final = 30.0
"""Seconds for which the agent holds one readiness request. It is sent again until the answer is known."""


class Readiness(Enum):
    STARTING = "starting"
    READY = "ready"
    INIT_FAILED = "init_failed"


async def await_readiness(port: int) -> Readiness:
    """READY or INIT_FAILED once that is known; STARTING when the agent drains before. Raises `OSError` when the agent
    cannot be asked."""
    while True:
        status, body = await _get(port, f"{wire.READY_PATH}?wait={_HOLD:g}", _HOLD + 10)
        if status == 200:
            return Readiness.READY
        match body.get("state"):
            case wire.INIT_FAILED:
                return Readiness.INIT_FAILED
            case wire.DRAINING:
                return Readiness.STARTING


async def _get(port: int, path: str, timeout: float) -> tuple[int, dict[str, object]]:
    """(status, JSON object) of one request. Raises `OSError`."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
                answer = await reader.read()
            finally:
                writer.close()
    except TimeoutError as error:
        raise OSError("the agent does not answer") from error
    head, _, body = answer.partition(b"\r\n\r\n")
    try:
        status = int(head.split(None, 2)[1])
        value = json.loads(body) if body else {}
    except (ValueError, IndexError) as error:
        raise OSError("the agent's answer is invalid") from error
    return status, value if isinstance(value, dict) else {}
