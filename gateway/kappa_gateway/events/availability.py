"""Whether the queue answers: logged once when it stops and once when it is back, asked ever more slowly meanwhile."""

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
Sleep = Callable[[float], Awaitable[None]]


class QueueAvailability:
    """What this gateway has seen of the queue. `clock`: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, sleep: Sleep = asyncio.sleep) -> None:
        self._clock = clock
        self._sleep = sleep
        self._away_since: float | None = None
        self._last_error = 0.0

    def failed(self, error: QueueUnavailable) -> None:
        self._last_error = self._clock()
        if self._away_since is None:
            self._away_since = self._last_error
            logger.warning(
                "the queue cannot be reached; events wait, and synchronous invocations go on: %s", error.message
            )

    def answered(self) -> None:
        now = self._clock()
        if self._away_since is not None and now - self._last_error > QUIET:
            logger.warning("the queue is back", extra={"outage_seconds": round(now - self._away_since, 1)})
            self._away_since = None

    async def until_answered(self, step: Callable[[], Awaitable[T]]) -> T:
        """The result of `step`, which may be repeated, once the queue has answered: for as long as that takes."""
        pause = FIRST_PAUSE
        while True:
            try:
                result = await step()
            except QueueUnavailable as error:
                self.failed(error)
            else:
                self.answered()
                return result
            # spread, so that not every event asks at the moment when it is back
            await self._sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            pause = min(pause * 2, LONGEST_PAUSE)
