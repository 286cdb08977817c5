"""Request bodies: read from the client within a size, a time, and the memory that all of them share."""

import asyncio
from collections import deque
from typing import Any, Final

from kappa_core.errors import InvalidRequest, RequestTooLarge
from kappa_gateway.edge.asgi import Headers, Receive
from kappa_gateway.invoke.outcome import ClientGone

FREE_BYTES: Final = 64 * 1024
"""Of each body, not counted: the server holds about so much of every connection anyway."""


class BodyTimeout(InvalidRequest):
    status = 408
    error_type = "RequestTimeoutException"


class BodyMemory:
    """The memory that large request bodies may occupy together. While a request waits for its share, its connection is
    not read."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._free = limit
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def free(self) -> int:
        return self._free

    async def take(self, size: int) -> None:
        """Wait, first come first served, until `size` bytes may be held. A size above the limit counts as the limit."""
        size = min(size, self.limit)
        if not self._waiting and self._free >= size:
            self._free -= size
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size, future)
        self._waiting.append(entry)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give(size)
            elif entry in self._waiting:
                self._waiting.remove(entry)
                self._serve()
            raise

    def give(self, size: int) -> None:
        self._free += min(size, self.limit)
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            size, future = self._waiting.popleft()
            if not future.done():
                self._free -= size
                future.set_result(None)


def declared_length(headers: Headers) -> int | None:
    """Content-Length, None without one. The server has checked that it is a number."""
    for name, value in headers:
        if name == b"content-length":
            return int(value)
    return None


class Body:
    """The complete body of one request: `await read()`, then `close()` when it is no longer needed. It occupies memory
    until then."""

    __slots__ = ("_headers", "_held", "_limit", "_memory", "_receive", "_timeout")

    def __init__(
        self,
        receive: Receive,
        headers: Headers,
        memory: BodyMemory,
        *,
        limit: int,
        timeout: float,
    ) -> None:
        self._receive = receive
        self._headers = headers
        self._memory = memory
        self._limit = limit
        self._timeout = timeout
        self._held = 0

    async def read(self, *, is_here: bool) -> bytes:
        """`is_here`: the server has received all of it, so no deadline is needed.

        Raises `RequestTooLarge`, `BodyTimeout`, `ClientGone`.
        """
        if is_here:
            message = await self._receive()
            if message["type"] == "http.request" and not message.get("more_body"):
                data: bytes = message.get("body", b"")
                if len(data) > self._limit:
                    raise self._too_large()
                return data
        else:
            message = None
        try:
            async with asyncio.timeout(self._timeout):
                return await self._read_on(message)
        except TimeoutError:
            raise BodyTimeout(f"the request's body was not here after {self._timeout:g} s") from None

    def close(self) -> None:
        if self._held:
            held, self._held = self._held, 0
            self._memory.give(held)

    async def _read_on(self, message: dict[str, Any] | None) -> bytes:
        length = declared_length(self._headers)
        if length is not None and length > self._limit:
            raise self._too_large()
        if length is not None and length > FREE_BYTES:
            await self._hold(length)
        data = bytearray()
        while True:
            if message is None:
                message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            data += message.get("body", b"")
            if len(data) > self._limit:
                raise self._too_large()
            if not message.get("more_body"):
                return bytes(data)
            if length is None and len(data) > FREE_BYTES and not self._held:
                await self._hold(self._limit)  # chunked: it may become as long as is allowed
            message = None

    async def _hold(self, size: int) -> None:
        await self._memory.take(size)
        self._held = min(size, self._memory.limit)

    def _too_large(self) -> RequestTooLarge:
        return RequestTooLarge(f"the request's body is larger than {self._limit} bytes, which is the limit")
