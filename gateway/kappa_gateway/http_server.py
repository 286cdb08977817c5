"""uvicorn's HTTP protocol with what a gateway that faces the world needs on top of it.

- A request head must come within a time and a size; a connection that stays silent is closed.
- A client that disconnects is told of at once (`on_disconnect`): in ASGI the handler would have to ask for it.
- What is no HTTP gets 400 in the gateway's own form, and never into the middle of another answer.

uvicorn's protocol class is semi-internal: pyproject.toml pins its minor version, and tests/contract watches what is used.
"""

import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio

    from kappa_gateway.gateway import Gateway

logger = logging.getLogger(__name__)

CLIENT: Final = "kappa.client"
"""In the ASGI scope: the `ClientProtocol` that the request came over."""
GATEWAY: Final = "kappa.gateway"
"""In the server's state: the `Gateway`."""
MAX_HEAD_BYTES: Final = 64 * 1024
_PHRASES: Final = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}


class ClientProtocol(HttpToolsProtocol):
    """One client connection."""

    gateway: "Gateway"
    """Set by the subclass that `server` makes for its gateway."""

    on_disconnect: Callable[[], None] | None = None
    """Called once if the client goes away while its request is served."""

    def connection_made(self, transport: "asyncio.Transport") -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_bytes = 0
        self._head_deadline = self.loop.time() + self.gateway.settings.head_timeout
        """When the head that is awaited must be here; 0 while none is."""
        if len(self.connections) > self.gateway.settings.max_connections:
            logger.warning("too many connections", extra={"connections": len(self.connections)})
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        callback, self.on_disconnect = self.on_disconnect, None
        if callback is not None:
            callback()

    def data_received(self, data: bytes) -> None:
        if self.parser is None or self.transport.is_closing():
            return
        if not self._head_deadline and (self.cycle is None or self.cycle.response_complete):
            self._head_deadline = self.loop.time() + self.gateway.settings.head_timeout
            self._head_bytes = 0
        super().data_received(data)
        if self._head_deadline:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.refuse(431, f"the request's head is larger than {MAX_HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[CLIENT] = self  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        self._head_deadline = 0.0
        super().on_headers_complete()

    @property
    def body_is_here(self) -> bool:
        """Whether the whole body was received already (so that reading it needs no deadline)."""
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

    def send_400_response(self, msg: str) -> None:
        self.refuse(400, "this is no valid HTTP/1.1 request")

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade that is not offered is ignored, as RFC 9110 §7.8 has it, and no news."""

    def refuse(self, status: int, message: str) -> None:
        """Answer and close; only close if another answer is being written."""
        self.gateway.metrics.refuse(f"Http{status}")
        if self.cycle is not None and not self.cycle.response_complete:
            if self.cycle.more_body and not self.cycle.response_started:
                # the very request that is being read turned out to be broken
                self._write_refusal(status, message)
            self.transport.close()
            return
        self._write_refusal(status, message)
        self.transport.close()

    def _write_refusal(self, status: int, message: str) -> None:
        body = json.dumps({"Type": "User", "Message": message}).encode()
        self.transport.write(
            f"HTTP/1.1 {status} {_PHRASES[status]}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n".encode()
            + body
        )


def protocol_for(gateway: "Gateway") -> type[ClientProtocol]:
    """The protocol class for one gateway, as uvicorn's `http=` takes it."""
    return type("GatewayProtocol", (ClientProtocol,), {"gateway": gateway})


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
