"""The connection to NATS, made again for ever. Each one is a `Link` of its own: nothing is carried over but what is asked again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from nats.aio.msg import Msg
from nats.errors import Error

from kappa_core.errors import KappaError
from kappa_gateway.queue.jetstream.client import address
from kappa_gateway.queue.jetstream.link import Link, LinkBroken, NoAnswer, NoResponders, open_link, unavailable
from kappa_gateway.queue.protocol import QueueMisconfigured, QueueUnavailable
from kappa_gateway.settings import Settings

logger = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 2.0
"""Seconds between two tries to connect."""


class Connection:
    def __init__(self, settings: Settings, prepare: Callable[[Link], Awaitable[None]]) -> None:
        """`prepare` makes what is needed over a new link before anybody may use it. It raises `QueueMisconfigured`."""
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
        """Returns once it was tried, and goes on trying. Raises `QueueMisconfigured` where the first try says so."""
        self._first = asyncio.get_running_loop().create_future()
        self._supervisor = asyncio.create_task(self._supervise(), name="queue connection")
        await asyncio.wait([self._first], timeout=self._settings.queue_timeout)
        if self._first.done() and (error := self._first.exception()) is not None:
            await self.close()
            raise error

    async def close(self) -> None:
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
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

    async def ask(
        self, subject: str, payload: bytes = b"", headers: dict[str, str] | None = None, *, deadline: float
    ) -> Msg:
        """The answer. Asks again over the next link when one breaks, so it is for what may be repeated.

        Raises `NoResponders`, `QueueUnavailable`.
        """
        while True:
            link = await self.connected(deadline)
            try:
                return await link.ask(subject, payload, headers, deadline=deadline)
            except LinkBroken:
                self.gone(link)
            except NoAnswer as error:
                raise self.unavailable(f"{error} in time") from error

    async def send(self, subject: str, payload: bytes = b"", *, deadline: float) -> None:
        """Raises `QueueUnavailable`."""
        while True:
            link = await self.connected(deadline)
            try:
                await link.send(subject, payload)
                return
            except LinkBroken:
                self.gone(link)

    def gone(self, link: Link) -> None:
        """A link that failed is not used again."""
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
            except (KappaError, Error, OSError, LinkBroken, NoAnswer, NoResponders) as error:
                self._failed(error)
            except Exception as error:  # nats-py lets through whatever a strange server makes it stumble over
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
