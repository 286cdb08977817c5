"""The connection to NATS, reopened for ever. Each one is a new `Link`; only requests that are repeated survive one."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from nats.errors import Error

from kappa_core.errors import KappaError
from kappa_gateway.queue.jetstream.link import Link, LinkBroken, NoAnswer, open_link, unavailable
from kappa_gateway.queue.jetstream.options import address
from kappa_gateway.queue.protocol import QueueMisconfigured, QueueUnavailable
from kappa_gateway.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 2.0
"""Seconds between two attempts to connect."""
CANCEL_AGAIN: Final = 5.0
"""Seconds: longer than a link takes to end."""


class Connection:
    def __init__(self, settings: Settings, prepare: Callable[[Link], Awaitable[None]]) -> None:
        """`prepare` creates over a new link what is needed before others may use it. It raises `QueueMisconfigured`."""
        self._settings: Final = settings
        self._prepare: Final = prepare
        self.address: Final = address(settings)
        self.link: Link | None = None
        """None while there is none: then use `connected`."""
        self._up = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._first: asyncio.Future[None] | None = None
        self._trouble = "not connected yet"

    async def open(self) -> None:
        """Returns after the first attempt, and goes on trying. Raises `QueueMisconfigured` where the first attempt
        does."""
        self._first = asyncio.get_running_loop().create_future()
        self._supervisor = asyncio.create_task(self._supervise(), name="queue connection")
        await asyncio.wait([self._first], timeout=self._settings.queue_timeout)
        if self._first.done() and (error := self._first.exception()) is not None:
            await self.close()
            raise error

    async def close(self) -> None:
        while self._supervisor is not None and not self._supervisor.done():
            self._supervisor.cancel()
            # Once more if it goes on: before Python 3.12, `asyncio.wait_for` in nats-py may swallow a cancellation.
            await asyncio.wait([self._supervisor], timeout=CANCEL_AGAIN)
        self._trouble = "this gateway stops"

    def deadline(self) -> float:
        """Loop time by which a call must have ended."""
        return asyncio.get_running_loop().time() + self._settings.queue_timeout

    def unavailable(self, what: str = "") -> QueueUnavailable:
        return unavailable(self._settings, what or self._trouble)

    async def connected(self, deadline: float) -> Link:
        """Raises `QueueUnavailable` when there is no connection by then."""
        while self.link is None:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._up.wait()
            except TimeoutError:
                raise self.unavailable() from None
        return self.link

    async def run(self, operation: Callable[[Link], Awaitable[T]], *, deadline: float) -> T:
        """Repeats `operation` over the next link when one breaks, so it is for what may happen twice.

        Raises what `operation` raises, and `QueueUnavailable` at the deadline.
        """
        while True:
            link = await self.connected(deadline)
            try:
                return await operation(link)
            except LinkBroken:
                self.gone(link)
            except NoAnswer as error:
                raise self.unavailable(str(error)) from error

    def gone(self, link: Link) -> None:
        """Do not use this link again: it failed."""
        link.broken.set()
        if self.link is link:
            self.link = None
            self._up.clear()

    async def _supervise(self) -> None:
        pause = FIRST_PAUSE
        while True:
            link: Link | None = None
            try:
                link = await open_link(self._settings)
                await self._prepare(link)
                pause = FIRST_PAUSE
                self._begin(link)
                await link.watch()
                self._trouble = link.trouble
                logger.warning("the connection to the queue at %s broke: %s", self.address, link.trouble)
            except (KappaError, Error, OSError) as error:
                self._failed(error)
            except Exception as error:  # nats-py lets any error through that a strange server causes in it
                logger.exception("the connection to the queue at %s failed", self.address)
                self._failed(error)
            finally:
                self.link = None
                self._up.clear()
                if link is not None:
                    await link.end()
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _begin(self, link: Link) -> None:
        logger.info("connected to the queue at %s", self.address)
        self._trouble = link.trouble
        self.link = link
        self._up.set()
        if self._first is not None and not self._first.done():
            self._first.set_result(None)

    def _failed(self, error: Exception) -> None:
        trouble = str(error) or type(error).__name__
        if trouble != self._trouble:
            logger.warning("the queue at %s cannot be used: %s", self.address, trouble)
        self._trouble = trouble
        if self._first is not None and not self._first.done():
            if isinstance(error, QueueMisconfigured):
                self._first.set_exception(error)
            else:
                self._first.set_result(None)
