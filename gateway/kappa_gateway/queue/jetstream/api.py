"""JetStream's API over a `Link` or a `Connection`: JSON requests, and its errors as ours.

https://docs.nats.io/reference/reference-protocols/nats_api_reference; the codes are the server's `errors.json`.
"""

import asyncio
import json
from typing import Any, Final, Protocol

from nats.aio.msg import Msg

from kappa_gateway.queue.jetstream.client import address
from kappa_gateway.queue.jetstream.link import NoResponders, unavailable
from kappa_gateway.queue.jetstream.streams import Config
from kappa_gateway.queue.protocol import QueueFull, QueueMisconfigured, QueueUnavailable
from kappa_gateway.settings import Settings

NOT_FOUND: Final = 404
NAME_IN_USE: Final = 10058
"""A stream of this name has other settings."""
STORE_FAILED: Final = 10077
_NO_SPACE: Final = frozenset({10002, 10023, 10028, 10047, 10052, STORE_FAILED})
"""The account's or the server's storage is used up, or the stream's own limit."""
_TEMPORARY: Final = frozenset({10008, 10009, 10014, 10118})
"""No leader or quorum right now."""
PAUSE: Final = 0.1
"""Seconds until what nobody could answer is asked again."""


class Asker(Protocol):
    """A `Link`, or a `Connection`, which asks again over the next link."""

    async def ask(
        self, subject: str, payload: bytes = b"", headers: dict[str, str] | None = None, *, deadline: float
    ) -> Msg: ...


class ApiError(Exception):
    def __init__(self, error: dict[str, Any]) -> None:
        self.code = int(error.get("code", 0))
        self.err_code = int(error.get("err_code", 0))
        self.description = str(error.get("description", ""))
        super().__init__(f"{self.description} (JetStream error {self.err_code or self.code})")

    @property
    def no_space(self) -> bool:
        return self.err_code in _NO_SPACE

    @property
    def temporary(self) -> bool:
        return self.err_code in _TEMPORARY

    @property
    def second_of_subject(self) -> bool:
        return self.err_code == STORE_FAILED and "per subject" in self.description


class StreamGone(Exception):
    """Somebody deleted the stream meanwhile: make it again."""


class Api:
    def __init__(self, asker: Asker, settings: Settings) -> None:
        self._asker: Final = asker
        self._settings: Final = settings

    async def call(self, what: str, body: Config | None = None, *, deadline: float) -> Config:
        """One request, repeated while nobody is there to answer it. Raises `ApiError`, and what the asker raises."""
        payload = b"" if body is None else json.dumps(body).encode()
        while True:
            try:
                return parse((await self._asker.ask(f"$JS.API.{what}", payload, deadline=deadline)).data)
            except ApiError as error:
                if not error.temporary:
                    raise
                reason = str(error)
            except NoResponders:
                reason = "JetStream is not enabled there, or has no leader now"
            if asyncio.get_running_loop().time() + PAUSE > deadline:
                raise unavailable(self._settings, reason)
            await asyncio.sleep(PAUSE)

    async def publish(self, subject: str, payload: bytes, headers: dict[str, str], *, deadline: float) -> Config:
        """The stream's acknowledgement. Raises `ApiError`, and what the asker raises."""
        return parse((await self._asker.ask(subject, payload, headers, deadline=deadline)).data)

    async def ensure_stream(self, config: Config, *, deadline: float) -> Config:
        """Make it, or bring it up to these settings; its info (`config`, `state`). Raises `QueueMisconfigured`, `QueueFull`."""
        name = config["name"]
        try:
            try:
                return await self.call(f"STREAM.CREATE.{name}", config, deadline=deadline)
            except ApiError as error:
                if error.err_code != NAME_IN_USE:
                    raise
            found = await self.call(f"STREAM.INFO.{name}", deadline=deadline)
            if all(found["config"].get(key) == value for key, value in config.items()):
                return found
            return await self.call(f"STREAM.UPDATE.{name}", {**found["config"], **config}, deadline=deadline)
        except ApiError as error:
            if error.no_space:
                raise QueueFull(
                    f"the NATS server at {address(self._settings)} has no room for stream {name}: {error}"
                ) from error
            raise QueueMisconfigured(
                f"stream {name} cannot be made or brought up to date at {address(self._settings)}: {error}; mend the server's "
                "or the gateway's settings, or give this installation its own KAPPA_GATEWAY_QUEUE_PREFIX"
            ) from error

    async def ensure_consumer(self, stream: str, config: Config, *, deadline: float) -> Config:
        name = config["durable_name"]
        try:
            return await self.call(
                f"CONSUMER.DURABLE.CREATE.{stream}.{name}", {"stream_name": stream, "config": config}, deadline=deadline
            )
        except ApiError as error:
            if error.code == NOT_FOUND:
                raise StreamGone(str(error)) from error
            raise QueueMisconfigured(
                f"consumer {name} of stream {stream} cannot be made at {address(self._settings)}: {error}"
            ) from error


def parse(data: bytes) -> Config:
    """Raises `ApiError`, and `QueueUnavailable` for what is no answer of JetStream."""
    try:
        answer = json.loads(data)
        error = answer.get("error")
    except (ValueError, AttributeError) as problem:
        raise QueueUnavailable(f"somebody else than JetStream answered: {data[:100]!r}") from problem
    if error:
        raise ApiError(error)
    return answer  # type: ignore[no-any-return]
