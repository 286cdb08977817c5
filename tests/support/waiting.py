"""Waiting for a condition, never for a time."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(condition: Callable[[], T], what: str, *, within: float = 10.0) -> T:
    """What `condition` returns, once that is true. Fails the test after `within` seconds, naming what was waited for."""
    deadline = asyncio.get_running_loop().time() + within
    while not (value := condition()):
        assert asyncio.get_running_loop().time() < deadline, f"not seen within {within:g} s: {what}"
        await asyncio.sleep(0.005)
    return value
