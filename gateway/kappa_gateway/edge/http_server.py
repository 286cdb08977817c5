"""uvicorn's HTTP protocol, with what a gateway on a public network needs in addition.

- A request head must come within a time and a size; a connection that stays silent is closed.
- A client's disconnect is reported at once (`on_disconnect`): in ASGI the handler would have to ask for it.
- What is not HTTP gets 400 in the gateway's own form, and never into the middle of another answer.
- A connection that is closed with bytes unread is reset, and a reset takes an answer with it that the client has not
  read yet. So the gateway goes on reading from a client that still sends, for a while (`_Outlet.close`), and a stop
  drops no request that a connection has already received (`shutdown`).

uvicorn's protocol class is semi-internal: pyproject.toml pins its minor version, and tests/contract checks the parts
that are used.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import termios
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from kappa_gateway.edge.asgi import CLIENT

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES: Final = 64 * 1024
LINGER: Final = 10.0
"""Seconds for which a client that still sends is read after the last answer."""
FIRST_WORD: Final = 0.5
"""Seconds that a client which connected just before a stop has for its first bytes."""
_PHRASES: Final = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}


@dataclass(frozen=True, slots=True)
class Limits:
    head_timeout: float
    """Seconds in which a connection must send a complete request head."""
    max_connections: int
    count_refusal: Callable[[str], None]
    """Called with the error type of a request that is refused here."""


class ClientProtocol(HttpToolsProtocol):
    """One client connection. uvicorn's `http=` takes it with its limits bound: `functools.partial(…, limits=…)`."""

    def __init__(self, *args: Any, limits: Limits, **kwargs: Any) -> None:  # uvicorn's own arguments
        super().__init__(*args, **kwargs)
        self._limits = limits
        self.on_disconnect: Callable[[], None] | None = None
        """Called once if the client goes away while its request is served."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._outlet = _Outlet(self)
        self._last = False
        """Whether the next request is the last one."""
        self._discarding = False
        """Whether further input is discarded: the last answer was written, or will be written after those before it."""
        self._head_bytes = 0
        self._head_deadline = self.loop.time() + self._limits.head_timeout
        """When the awaited head must have arrived; 0 while no head is awaited."""
        if len(self.connections) > self._limits.max_connections:
            logger.warning("too many connections", extra={"connections": len(self.connections)})
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._report_disconnect()

    def data_received(self, data: bytes) -> None:
        if self._discarding or self.parser is None or self.transport.is_closing():
            return
        if not self._head_deadline and (self.cycle is None or self.cycle.response_complete):
            self._head_deadline = self.loop.time() + self._limits.head_timeout
            self._head_bytes = 0
        super().data_received(data)
        if self._head_deadline and not self._discarding:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.refuse(431, f"the request's head is larger than {MAX_HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[CLIENT] = self  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        self._head_deadline = 0.0
        super().on_headers_complete()
        if self.cycle is not None:  # an upgrade to WebSocket makes none
            self.cycle.transport = self._outlet  # type: ignore[assignment]  # tests/contract: it has all that is used
            if self._last:
                self.cycle.keep_alive = False

    @property
    def body_is_here(self) -> bool:
        """Whether the complete body has already been received, so that reading it needs no deadline."""
        return self.cycle is not None and not self.cycle.more_body

    @property
    def answer_has_begun(self) -> bool:
        return self.cycle is not None and self.cycle.response_started

    def abort(self) -> None:
        """Break the connection: the answer that is being written cannot be finished."""
        if self.cycle is not None:
            self.cycle.disconnected = True
        self.transport.abort()

    def sweep(self, now: float) -> None:
        if self._head_deadline and now > self._head_deadline and not self.transport.is_closing():
            if self._head_bytes:
                self.refuse(408, "the request's head was not complete in time")
            else:
                self.transport.close()

    def shutdown(self) -> None:
        """The server stops: close, unless a request is being served, has arrived unread, or is probably on its way."""
        if self.transport.is_closing():
            return
        self._last = True
        soon = self.loop.time() + FIRST_WORD
        if self._discarding and self._head_deadline:
            self._head_deadline = min(self._head_deadline, soon)
        elif self.cycle is None:
            self._head_deadline = self._head_deadline if self._head_bytes else soon
        elif not self.cycle.response_complete:
            self.cycle.keep_alive = False
        elif not self._head_deadline and not _has_unread(self.transport):
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        self.refuse(400, "this is not a valid HTTP/1.1 request")

    def _unsupported_upgrade_warning(self) -> None:
        """Ignore an upgrade that is not offered, as RFC 9110 §7.8 allows, and do not log it."""

    def refuse(self, status: int, message: str) -> None:
        """Answer and close; where requests before this one are being answered, close after the last of them."""
        self._limits.count_refusal(f"Http{status}")
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self._write_refusal(status, message)
            self.linger()
        elif not cycle.more_body:
            self._discarding = True
            cycle.keep_alive = False
        elif cycle.response_started or self.pipeline:
            self.transport.close()
        else:
            # the very request that is being read turned out to be broken
            self._write_refusal(status, message)
            cycle.disconnected = True
            cycle.message_event.set()
            self._report_disconnect()
            self.linger()

    def close(self) -> None:
        """Close once everything is written; gently if the client still sends."""
        if self._discarding or self.pipeline or (self.cycle is not None and self.cycle.more_body):
            self.linger()
        else:
            self.transport.close()

    def linger(self) -> None:
        """Write nothing more, and for a while discard what the client sends, until it closes."""
        if self.transport.is_closing():
            return
        self._discarding = True
        self._head_bytes = 0
        self._head_deadline = self.loop.time() + LINGER
        with contextlib.suppress(OSError):  # the client has gone, which was not reported yet
            self.transport.write_eof()
        self.flow.resume_reading()

    def _report_disconnect(self) -> None:
        callback, self.on_disconnect = self.on_disconnect, None
        if callback is not None:
            callback()

    def _write_refusal(self, status: int, message: str) -> None:
        body = json.dumps({"Type": "User", "Message": message}).encode()
        self.transport.write(
            f"HTTP/1.1 {status} {_PHRASES[status]}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n".encode()
            + body
        )


class _Outlet:
    """What an answer is written to: the connection's transport, but closed gently."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, protocol: ClientProtocol) -> None:
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing
        self.close = protocol.close


def _has_unread(transport: asyncio.Transport) -> bool:
    """Whether bytes have come that the loop has not read yet."""
    count = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, b"\0" * 4)
    return any(count)


class Swept(Protocol):
    """A connection that looks at its own deadlines."""

    def sweep(self, now: float) -> None: ...


def sweeper(connections: set[Swept]) -> Callable[[float], None]:
    """Looks at every connection once a second or so."""
    due = 0.0

    def sweep(now: float) -> None:
        nonlocal due
        if now < due:
            return
        due = now + 0.5
        for connection in list(connections):
            connection.sweep(now)

    return sweep
