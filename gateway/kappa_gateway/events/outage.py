"""The queue is away: said once when it begins and once when it is over, and asked again ever more slowly."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from kappa_core.errors import QueueUnavailable

logger = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
QUIET: Final = 3.0
"""Seconds without an error after which an outage is over: parts of a queue may be away while others answer."""

T = TypeVar("T")


class Outage:
    """What this gateway's event loop knows of the queue's availability."""

    def __init__(self) -> None:
        self.since: float | None = None
        """By the monotonic clock; None while the queue answers."""
        self._last = 0.0

    def seen(self, error: QueueUnavailable) -> None:
        self._last = time.monotonic()
        if self.since is None:
            self.since = time.monotonic()
            logger.warning(
                "the queue cannot be reached; events wait, and synchronous invocations go on: %s", error.message
            )

    def over(self) -> None:
        if self.since is not None and time.monotonic() - self._last > QUIET:
            logger.warning("the queue is back", extra={"outage_seconds": round(time.monotonic() - self.since, 1)})
            self.since = None

    async def through(self, step: Callable[[], Awaitable[T]]) -> T:
        """The result of `step`, which may be repeated, once the queue has answered: for as long as that takes."""
        pause = FIRST_PAUSE
        while True:
            try:
                result = await step()
            except QueueUnavailable as error:
                self.seen(error)
            else:
                self.over()
                return result
            # not all at once when it is back
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - nobody is to guess it
            pause = min(pause * 2, LONGEST_PAUSE)
