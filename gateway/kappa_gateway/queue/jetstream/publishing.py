"""Putting messages into streams, again and again until it is certain or too late."""

import asyncio
from typing import Final

from kappa_core.errors import RequestTooLarge
from kappa_gateway.queue.jetstream.api import PAUSE, Api, ApiError, parse
from kappa_gateway.queue.jetstream.connection import Connection
from kappa_gateway.queue.jetstream.encoding import header_bytes
from kappa_gateway.queue.jetstream.link import Link, LinkBroken, NoAnswer, NoResponders
from kappa_gateway.queue.jetstream.streams import Config
from kappa_gateway.queue.protocol import QueueFull, QueueMisconfigured
from kappa_gateway.settings import Settings

TRY: Final = 2.0
"""Seconds that one try may take: a stream's leader may have died with it."""


class TryAgain(Exception):
    """Not acknowledged, and there may be time for another try."""

    def __init__(self, why: str, *, may_have_happened: bool) -> None:
        super().__init__(why)
        self.may_have_happened = may_have_happened


class Publishing:
    def __init__(self, settings: Settings, connection: Connection) -> None:
        self._settings: Final = settings
        self._connection: Final = connection
        self._api: Final = Api(connection, settings)

    async def store(self, config: Config, subject: str, payload: bytes, headers: dict[str, str]) -> None:
        """Into a shared stream, which is made again if somebody deleted it, and where repeating does no harm. Raises `QueueFull`, `RequestTooLarge`, `QueueUnavailable`."""
        deadline = self._connection.deadline()
        stream = config["name"]
        while True:
            link = await self._connection.connected(deadline)
            try:
                await self.once(link, stream, subject, payload, headers, deadline)
                return
            except TryAgain as error:
                await self.pause(error, deadline)
                if not error.may_have_happened:
                    await self._api.ensure_stream(config, deadline=deadline)
            except ApiError as error:
                raise self.refused(stream, error) from error

    async def once(
        self, link: Link, stream: str, subject: str, payload: bytes, headers: dict[str, str], deadline: float
    ) -> Config:
        """One try: the stream's acknowledgement. Raises `TryAgain`, `ApiError`, `RequestTooLarge`, `QueueMisconfigured`, `QueueUnavailable`."""
        self._check_size(link, payload, headers)
        until = min(deadline, asyncio.get_running_loop().time() + TRY)
        try:
            answer = parse((await link.ask(subject, payload, headers or None, deadline=until)).data)
        except LinkBroken as error:
            self._connection.gone(link)
            raise TryAgain(str(error) or "the connection broke", may_have_happened=True) from error
        except NoAnswer as error:
            raise TryAgain(str(error), may_have_happened=True) from error
        except NoResponders:
            raise TryAgain(f"stream {stream} is not there", may_have_happened=False) from None
        except ApiError as error:
            if error.temporary:
                raise TryAgain(str(error), may_have_happened=True) from error
            raise
        if answer.get("stream") != stream:
            raise QueueMisconfigured(
                f"stream {answer.get('stream')!r} at {self._connection.address} listens to {subject}, which is for stream "
                f"{stream}: take it away from that stream, or set another KAPPA_GATEWAY_QUEUE_PREFIX"
            )
        return answer

    async def pause(self, error: TryAgain, deadline: float) -> None:
        """Before the next try. Raises `QueueUnavailable` where there is no time for one."""
        if asyncio.get_running_loop().time() + PAUSE > deadline:
            raise self._connection.unavailable(str(error)) from error
        if self._connection.link is not None:
            await asyncio.sleep(PAUSE)

    def refused(self, stream: str, error: ApiError) -> Exception:
        """What to tell of a stream that said no."""
        if error.no_space:
            return QueueFull(
                f"the queue is full: stream {stream} at {self._connection.address} takes no more ({error}); try again "
                "later. What limits it is queue_max_bytes (KAPPA_GATEWAY_QUEUE_MAX_BYTES), or the server's storage"
            )
        return self._connection.unavailable(f"stream {stream} refused: {error}")

    def _check_size(self, link: Link, payload: bytes, headers: dict[str, str]) -> None:
        # The server would close the connection, with all that is under way on it.
        size = len(payload) + (header_bytes(headers) if headers else 0)
        if size > link.max_payload:
            raise RequestTooLarge(
                f"with its headers the event has {size} bytes, and the NATS server at {self._connection.address} takes "
                f"{link.max_payload}: send less, or raise max_payload in the server's configuration"
            )
