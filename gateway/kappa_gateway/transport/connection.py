"""One HTTP/1.1 connection: one request in flight, bytes passed on as they come, back-pressure in both directions."""

import asyncio
from typing import Final, Protocol, cast

import httptools

from kappa_core.errors import BadAnswer, GatewayTimeout, KappaError, PodLost

HIGH_WATER: Final = 256 * 1024
"""Bytes of an answer that wait here for a slow client before the connection is no longer read."""
MAX_HEAD_BYTES: Final = 64 * 1024


class Owner(Protocol):
    """The owner of a connection, which is an endpoint: it is notified when the connection carries a request, idles, or
    is lost."""

    @property
    def name(self) -> str:
        """For messages, such as `pod hello-7d4`."""

    def began(self, connection: "Connection") -> None: ...

    def ended(self, connection: "Connection") -> None:
        """Its request is over, whatever the outcome."""

    def keep(self, connection: "Connection") -> None:
        """It can carry another request: kept idle, or closed where nothing new goes to this address."""

    def lost(self, connection: "Connection") -> None:
        """It is closed, or cannot carry another request."""


class Connection(asyncio.Protocol):
    """`begin`, `write`, `await head()`, `await chunk()` until None, `finish`. Made by `endpoint.Endpoint.connect`."""

    __slots__ = (
        "_closed",
        "_drained",
        "_head_bytes",
        "_head_done",
        "_interim",
        "_is_head",
        "_loop",
        "_owner",
        "_paused",
        "_subject",
        "_timeout",
        "_until_close",
        "_waiter",
        "active",
        "body",
        "closing_request",
        "complete",
        "deadline",
        "error",
        "headers",
        "idle_since",
        "keep_alive",
        "parser",
        "received",
        "size",
        "status",
        "transport",
        "used",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: Owner) -> None:
        self._loop = loop
        self._owner = owner
        self._subject = ""
        self._timeout = 0.0
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.parser = httptools.HttpResponseParser(self)
        self.used = False
        """Whether a request went over it before this one."""
        self.active = False
        self.idle_since = 0.0
        self.deadline = 0.0
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        """The answer's, names in lower case."""
        self.body: list[bytes] = []
        self.size = 0
        self.complete = True
        self.keep_alive = True
        self.received = False
        """Whether a byte of the answer came."""
        self.error: KappaError | None = None
        self.closing_request = b""
        """A last request, sent if the connection is closed in good order before it carries another one."""
        self._head_done = True
        self._head_bytes = 0
        self._interim = False
        self._until_close = False
        self._is_head = False
        self._paused = False
        self._closed = False
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None

    # -- one request

    def begin(self, deadline: float, *, subject: str = "", timeout: float = 0.0, is_head: bool = False) -> None:
        """A request follows. By `deadline` (`time.monotonic`) its complete answer must have arrived.

        Errors name the `subject`, such as the function, and the `timeout` (seconds) that its owner set.
        """
        self.active = True
        self.deadline = deadline
        self._subject = f"{subject}: " if subject else ""
        self._timeout = timeout
        self.closing_request = b""
        self.status = 0
        self.headers = []
        self.body = []
        self.size = 0
        self.complete = self.received = self._head_done = self._until_close = False
        self._head_bytes = 0
        self._is_head = is_head
        self._owner.began(self)

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    async def drain(self) -> None:
        """Wait until the peer has taken most of what was written."""
        if self._drained is not None and self.error is None:
            await self._drained

    async def head(self) -> None:
        """Wait for the answer's head. Raises `PodLost`, `BadAnswer`, `GatewayTimeout`, or what `abort` was given."""
        while not self._head_done:
            if self.error is not None:
                raise self.error
            await self._wait()
        if self.error is not None and not self.complete:
            raise self.error

    async def chunk(self) -> bytes | None:
        """The next bytes of the answer's body, None at its end. Raises as `head` does."""
        while not self.body:
            if self.complete:
                return None
            if self.error is not None:
                raise self.error
            await self._wait()
        data = self.body[0] if len(self.body) == 1 else b"".join(self.body)
        self.body = []
        self.size = 0
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        return data

    def leave(self) -> None:
        """The request is over, and the caller goes on to hold the connection."""
        self.active = False
        self._owner.ended(self)

    def finish(self) -> None:
        """The request is over: keep the connection if it can be used again, else close it."""
        if not self.active:
            return
        self.leave()
        if self.complete and self.keep_alive and not self._closed and self._drained is None:
            if self._paused:
                self._paused = False
                self.transport.resume_reading()
            self.used = True
            self._owner.keep(self)
        else:
            self.close()

    def abort(self, error: KappaError) -> None:
        """Give up at once: whoever waits gets `error`, and the peer sees the connection break."""
        if self.error is None:
            self.error = error
        self.closing_request = b""
        if self.transport is not None and not self._closed:
            self.transport.abort()
        self._wake()

    def time_out(self) -> None:
        """The deadline has passed."""
        limit = f" (timeout {self._timeout:g} s)" if self._timeout else ""
        self.abort(GatewayTimeout(f"{self._subject}{self._owner.name} gave no answer in time{limit}"))

    def close(self) -> None:
        if self.closing_request and not self.active and not self._closed:
            self.transport.write(self.closing_request)
        self._closed = True
        if self.transport is not None:
            self.transport.close()

    async def _wait(self) -> None:
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._owner.lost(self)
        if self.active and not self.complete:
            if self._until_close and exc is None:
                self.complete = True
            elif self.error is None:
                self.error = PodLost(
                    f"{self._subject}the connection to {self._owner.name} broke before its answer was complete; "
                    "the invocation may have run. See its log"
                )
        self.resume_writing()
        self._wake()

    def pause_writing(self) -> None:
        if self._drained is None:
            self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def data_received(self, data: bytes) -> None:
        if not self.active or self.complete:
            # bytes that no request asked for: this connection cannot be trusted to frame the next answer
            self.keep_alive = False
            self._owner.lost(self)
            self.close()
            return
        self.received = True
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            ours = isinstance(error, httptools.HttpParserCallbackError)
            self._bad(f"its answer is not HTTP ({error.__context__ if ours else error})")
            return
        if self._head_done:
            if self.size > HIGH_WATER and not self.complete and not self._paused:
                self._paused = True
                self.transport.pause_reading()
            self._wake()
        else:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._bad(f"its answer's head is larger than {MAX_HEAD_BYTES} bytes")

    def _bad(self, what: str) -> None:
        if not self.complete:
            self.abort(BadAnswer(f"{self._subject}{self._owner.name}: {what}"))
        else:
            self.close()
            self._wake()

    # -- httptools

    def on_message_begin(self) -> None:
        if self.complete:
            raise ValueError("an answer that no request asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self.parser.get_status_code()
        if status < 200:
            if status == 101:
                raise ValueError("it changed the protocol unasked")
            self._interim = True
            return
        if status > 599:
            raise ValueError(f"status {status} is not one of HTTP's")
        self.status = status
        self._head_done = True
        if self._is_head:
            # the parser would wait for the body that a Content-Length promises: it is not used again
            self.complete = True
            self.keep_alive = False
        elif status != 204 and status != 304:
            self._until_close = not any(
                name == b"content-length" or name == b"transfer-encoding" for name, _ in self.headers
            )

    def on_body(self, body: bytes) -> None:
        if not self.complete:
            self.body.append(body)
            self.size += len(body)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            self.headers = []
        elif not self._is_head:
            self.complete = True
            self.keep_alive = self.parser.should_keep_alive()
