"""Clocks and timers, which a test replaces by ones that it moves."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

Clock = Callable[[], float]
"""Monotonic seconds."""
Sleep = Callable[[float], Awaitable[None]]


class Timer(Protocol):
    def cancel(self) -> None: ...


CallLater = Callable[[float, Callable[[], None]], Timer]


def call_later(seconds: float, callback: Callable[[], None]) -> Timer:
    """The running event loop's timer."""
    return asyncio.get_running_loop().call_later(seconds, callback)
