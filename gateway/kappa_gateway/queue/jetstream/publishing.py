"""Storing messages in streams, repeated until the stream confirms it or time is up."""

import asyncio
import re
from typing import Final

from nats.errors import Error
from nats.js.api import PubAck, StreamConfig
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from kappa_core.errors import InvalidRequest, RequestTooLarge
from kappa_gateway.queue.jetstream.connection import Connection
from kappa_gateway.queue.jetstream.encoding import header_bytes
from kappa_gateway.queue.jetstream.link import Link, LinkBroken, NoAnswer
from kappa_gateway.queue.jetstream.management import PAUSE, Manager, explain, has_no_space, is_temporary
from kappa_gateway.queue.protocol import QueueFull, QueueMisconfigured
from kappa_gateway.settings import Settings

_SUBJECT: Final = re.compile(r"[^\s*>]+\Z")
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
        """Before the next try. Raises `QueueUnavailable` if no time is left for one."""
        if asyncio.get_running_loop().time() + PAUSE > deadline:
            raise self._connection.unavailable(str(error)) from error
        if self._connection.link is not None:
            await asyncio.sleep(PAUSE)

    def refused(self, stream: str, error: APIError) -> Exception:
        """The error for a stream that refused a message."""
        if has_no_space(error):
            return QueueFull(
                f"the queue is full: stream {stream} at {self._connection.address} takes no more ({explain(error)}); "
                "try again later. Its limit is queue_max_bytes (KAPPA_GATEWAY_QUEUE_MAX_BYTES), or the server's storage"
            )
        return self._connection.unavailable(f"stream {stream} refused: {explain(error)}")

    async def publish(self, subject: str, payload: bytes, headers: dict[str, str]) -> None:
        """See `Publisher.publish`. Looks for the stream each time: one may come or go, and deliveries are few."""
        if not _SUBJECT.match(subject):
            raise InvalidRequest(
                f"{subject!r} is not a NATS subject to publish to: spaces and wildcards are not allowed"
            )
        loop, deadline = asyncio.get_running_loop(), self._connection.deadline()
        while True:
            link = await self._connection.connected(deadline)
            self._check_size(link, payload, headers)
            try:
                if await self._is_stored(link, subject, deadline):
                    timeout = max(deadline - loop.time(), 0.0)
                    await link.js.publish(subject, payload, timeout, headers=headers or None)
                else:
                    await link.send(subject, payload, headers=headers or None)
                    await link.ping(deadline - loop.time())
                return
            except APIError as error:
                if not is_temporary(error):
                    raise QueueFull(
                        f"the stream that listens to {subject} took no message: {explain(error)}"
                    ) from error
                why = explain(error)
            except NoAnswer as error:
                raise self._connection.unavailable(str(error)) from error
            except NoStreamResponseError:
                why = f"the stream that listened to {subject} is gone"
            except Error as error:
                self._connection.gone(link)
                why = str(error)
            if loop.time() + PAUSE > deadline:
                raise self._connection.unavailable(why)
            await asyncio.sleep(PAUSE)

    async def _is_stored(self, link: Link, subject: str, deadline: float) -> bool:
        """Whether a stream listens to the subject."""
        manager = Manager(link, self._settings)
        try:
            await manager.call(lambda jsm: jsm.find_stream_name_by_subject(subject), deadline=deadline)
        except NotFoundError:
            return False
        return True

    def _check_size(self, link: Link, payload: bytes, headers: dict[str, str]) -> None:
        # The server would close the connection, with all requests that are under way on it.
        size = len(payload) + (header_bytes(headers) if headers else 0)
        if size > link.max_payload:
            raise RequestTooLarge(
                f"with its headers the message has {size} bytes, and the NATS server at {self._connection.address} "
                f"takes {link.max_payload}: send less, or raise max_payload in the server's configuration"
            )
