"""Storing messages in streams, repeated until the stream confirms it or time is up."""

import asyncio
from typing import Final

from nats.js.api import PubAck, StreamConfig
from nats.js.errors import APIError, NoStreamResponseError

from kappa_core.errors import RequestTooLarge
from kappa_gateway.queue.jetstream.connection import Connection
from kappa_gateway.queue.jetstream.encoding import header_bytes
from kappa_gateway.queue.jetstream.link import Link, LinkBroken, NoAnswer
from kappa_gateway.queue.jetstream.management import PAUSE, Manager, explain, has_no_space, is_temporary
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
        self._manager: Final = Manager(connection, settings)

    async def store(self, config: StreamConfig, subject: str, payload: bytes, headers: dict[str, str]) -> None:
        """Into a shared stream, which is created again if it was deleted, and where a repetition does no harm. Raises
        `QueueFull`, `RequestTooLarge`, `QueueUnavailable`."""
        deadline = self._connection.deadline()
        stream = config.name or ""
        while True:
            link = await self._connection.connected(deadline)
            try:
                await self.once(link, stream, subject, payload, headers, deadline)
                return
            except TryAgain as error:
                await self.pause(error, deadline)
                if not error.may_have_happened:
                    await self._manager.ensure_stream(config, deadline=deadline)
            except APIError as error:
                raise self.refused(stream, error) from error

    async def once(
        self, link: Link, stream: str, subject: str, payload: bytes, headers: dict[str, str], deadline: float
    ) -> PubAck:
        """One try. Raises `TryAgain`, `APIError`, `RequestTooLarge`, `QueueMisconfigured`, `QueueUnavailable`."""
        self._check_size(link, payload, headers)
        timeout = min(TRY, max(deadline - asyncio.get_running_loop().time(), 0.0))
        try:
            answer = await link.js.publish(subject, payload, timeout, headers=headers or None)
        except LinkBroken as error:
            self._connection.gone(link)
            raise TryAgain(str(error) or "the connection broke", may_have_happened=True) from error
        except NoAnswer as error:
            raise TryAgain(str(error), may_have_happened=True) from error
        except NoStreamResponseError:
            raise TryAgain(f"stream {stream} is not there", may_have_happened=False) from None
        except APIError as error:
            if is_temporary(error):
                raise TryAgain(explain(error), may_have_happened=True) from error
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise self._connection.unavailable(f"no answer of JetStream to {subject}: {error!r}") from error
        if answer.stream != stream:
            raise QueueMisconfigured(
                f"stream {answer.stream!r} at {self._connection.address} listens to {subject}, which is for stream "
                f"{stream}: remove it from that stream, or set another KAPPA_GATEWAY_QUEUE_PREFIX"
            )
        return answer

    async def pause(self, error: TryAgain, deadline: float) -> None:
        """Before the next try. Raises `QueueUnavailable` where there is no time for one."""
        if asyncio.get_running_loop().time() + PAUSE > deadline:
            raise self._connection.unavailable(str(error)) from error
        if self._connection.link is not None:
            await asyncio.sleep(PAUSE)

    def refused(self, stream: str, error: APIError) -> Exception:
        """The error for a stream that refused a message."""
        if has_no_space(error):
            return QueueFull(
                f"the queue is full: stream {stream} at {self._connection.address} takes no more ({explain(error)}); try again "
                "later. What limits it is queue_max_bytes (KAPPA_GATEWAY_QUEUE_MAX_BYTES), or the server's storage"
            )
        return self._connection.unavailable(f"stream {stream} refused: {explain(error)}")

    def _check_size(self, link: Link, payload: bytes, headers: dict[str, str]) -> None:
        # The server would close the connection, with all requests that are under way on it.
        size = len(payload) + (header_bytes(headers) if headers else 0)
        if size > link.max_payload:
            raise RequestTooLarge(
                f"with its headers the event has {size} bytes, and the NATS server at {self._connection.address} takes "
                f"{link.max_payload}: send less, or raise max_payload in the server's configuration"
            )
