"""Streams and consumers through nats-py's manager: repeated while nobody can answer, and with the queue's errors.

Records and the dead letter are plain streams, not nats-py's key-value buckets: those keep no headers beside a value,
leave a marker where a key was deleted, and cannot list the newest first.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar

from nats.errors import NoRespondersError
from nats.js import JetStreamManager
from nats.js.api import ConsumerConfig, ConsumerInfo, StreamConfig, StreamInfo
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

from kappa_gateway.queue.jetstream.link import Link, NoAnswer, unavailable
from kappa_gateway.queue.jetstream.options import address
from kappa_gateway.queue.protocol import QueueFull, QueueMisconfigured, QueueUnavailable
from kappa_gateway.settings import Settings

T = TypeVar("T")

NAME_IN_USE: Final = 10058
"""A stream of this name has other settings. The codes are the server's `errors.json`."""
STORE_FAILED: Final = 10077
_NO_SPACE: Final = frozenset({10002, 10023, 10028, 10047, 10052, STORE_FAILED})
"""The storage of the account or the server is used up, or the stream's own limit is reached."""
_TEMPORARY: Final = frozenset({10008, 10009, 10014, 10118})
"""There is no leader or quorum right now."""
PAUSE: Final = 0.1
"""Seconds until a request that nobody could answer is repeated."""


class Links(Protocol):
    """A `Link`; or a `Connection`, which repeats an operation over the next link when one breaks."""

    async def run(self, operation: Callable[[Link], Awaitable[T]], *, deadline: float) -> T: ...


class StreamGone(Exception):
    """The stream was deleted meanwhile: create it again."""


class Manager:
    def __init__(self, links: Links, settings: Settings) -> None:
        self._links: Final = links
        self._settings: Final = settings

    async def call(self, operation: Callable[[JetStreamManager], Awaitable[T]], *, deadline: float) -> T:
        """One operation of nats-py's manager, to be done by `deadline` (loop time). Raises `APIError`, and what the
        links raise."""
        return await self._repeat(lambda link, timeout: operation(link.jsm(timeout=timeout)), deadline)

    async def request(self, what: str, body: dict[str, object], *, deadline: float) -> dict[str, Any]:
        """The answer to `$JS.API.<what>`, for what nats-py's manager has no parameter. Raises as `call` (`Any`:
        JSON)."""

        async def ask(link: Link, timeout: float) -> dict[str, Any]:
            answer = json.loads((await link.request(f"$JS.API.{what}", json.dumps(body).encode(), timeout)).data)
            if "error" in answer:
                APIError.from_error(answer["error"])
            return answer  # type: ignore[no-any-return]

        return await self._repeat(ask, deadline)

    async def _repeat(self, operation: Callable[[Link, float], Awaitable[T]], deadline: float) -> T:
        loop = asyncio.get_running_loop()

        async def over(link: Link) -> T:
            try:
                return await operation(link, max(deadline - loop.time(), 0.0))
            except NoAnswer as error:
                raise unavailable(self._settings, str(error)) from error
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise QueueUnavailable(f"{address(self._settings)} gave no answer of JetStream: {error!r}") from error

        while True:
            try:
                return await self._links.run(over, deadline=deadline)
            except (APIError, NoRespondersError) as error:
                if not is_temporary(error):
                    raise
                if loop.time() + PAUSE > deadline:
                    raise unavailable(self._settings, explain(error)) from error
            await asyncio.sleep(PAUSE)

    async def ensure_stream(self, config: StreamConfig, *, deadline: float) -> StreamInfo:
        """Create it, or update it to these settings. Raises `QueueMisconfigured`, `QueueFull`."""
        name = config.name or ""
        try:
            try:
                return await self.call(lambda manager: manager.add_stream(config), deadline=deadline)
            except APIError as error:
                if error.err_code != NAME_IN_USE:
                    raise
            found = await self.call(lambda manager: manager.stream_info(name), deadline=deadline)
            # What these settings leave out stays as somebody else may have set it.
            wanted = {key: value for key, value in vars(config).items() if value is not None and value is not False}
            updated = found.config.evolve(**wanted)
            if updated == found.config:
                return found
            return await self.call(lambda manager: manager.update_stream(updated), deadline=deadline)
        except APIError as error:
            if has_no_space(error):
                raise QueueFull(
                    f"the NATS server at {address(self._settings)} has no room for stream {name}: {explain(error)}"
                ) from error
            raise QueueMisconfigured(
                f"stream {name} cannot be created or updated at {address(self._settings)}: {explain(error)}; correct "
                "the settings of the server or the gateway, or give this installation its own "
                "KAPPA_GATEWAY_QUEUE_PREFIX"
            ) from error

    async def ensure_consumer(self, stream: str, config: ConsumerConfig, *, deadline: float) -> ConsumerInfo:
        """Raises `StreamGone`, `QueueMisconfigured`."""
        try:
            return await self.call(lambda manager: manager.add_consumer(stream, config), deadline=deadline)
        except NotFoundError as error:
            raise StreamGone(explain(error)) from error
        except APIError as error:
            raise QueueMisconfigured(
                f"consumer {config.durable_name} of stream {stream} cannot be created at {address(self._settings)}: "
                f"{explain(error)}"
            ) from error


def is_temporary(error: Exception) -> bool:
    """Whether the request may succeed soon. Without a code, nobody listened to it."""
    if isinstance(error, APIError):
        return error.err_code in _TEMPORARY or (isinstance(error, ServiceUnavailableError) and error.err_code is None)
    return isinstance(error, NoRespondersError)


def has_no_space(error: APIError) -> bool:
    return error.err_code in _NO_SPACE


def is_second_of_subject(error: APIError) -> bool:
    return error.err_code == STORE_FAILED and "per subject" in (error.description or "")


def explain(error: Exception) -> str:
    """What it says, for a message."""
    if isinstance(error, APIError) and error.description:
        return f"{error.description} (JetStream error {error.err_code or error.code})"
    if isinstance(error, ServiceUnavailableError | NoRespondersError):
        return "JetStream is not enabled there, or has no leader now"
    return str(error)
