"""WebSockets to functions that are web servers: the handshake goes to a pod, then bytes are passed on both ways.

uvicorn hands a connection over when it has read a head that asks for the upgrade (`ws=` in its configuration). What
follows is not parsed here: the pod answers the handshake, and each side is read no faster than the other takes it.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, Final, cast

from kappa_core.errors import InvalidRequest, KappaError
from kappa_core.metrics import InvocationType, Outcome
from kappa_gateway.edge import forwarding
from kappa_gateway.edge.answers import log_error, new_request_id, send_error
from kappa_gateway.edge.async_intake import is_event
from kappa_gateway.edge.lookup import Lookup
from kappa_gateway.edge.proxy import request_head
from kappa_gateway.edge.target import PREFIX, Target
from kappa_gateway.invoke.invocation import Invocation
from kappa_gateway.invoke.invoker import Invoker
from kappa_gateway.invoke.outcome import ClientGone, outcome_of
from kappa_gateway.pods.state import FunctionState
from kappa_gateway.transport.endpoint import Endpoint

logger = logging.getLogger(__name__)

_MAX_EARLY: Final = 64 * 1024
"""Bytes that a client may send before the pod has answered the handshake."""


@dataclass(frozen=True, slots=True)
class Settings:
    idle_timeout: float
    """Seconds without a byte in either direction after which a WebSocket is closed."""
    connect_timeout: float
    """Seconds in which a pod must accept a connection."""
    trusts_forwarded: bool
    """Whether what a client says about X-Forwarded-Proto and -Host counts."""


class _Half(asyncio.Protocol):
    """The pod's end of a WebSocket: everything it receives goes to the client."""

    def __init__(self, relay: "Relay") -> None:
        self._relay = relay
        self.transport = cast(asyncio.Transport, None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._relay.active_at = self._relay.loop.time()
        self._relay.transport.write(data)

    def pause_writing(self) -> None:
        self._relay.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self._relay.transport.is_closing():
            self._relay.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.pod_lost()


class Relay(asyncio.Protocol):
    """The client's end. uvicorn creates it and passes the request's head as the first data. Its `ws=` takes this class
    with the last three arguments bound."""

    def __init__(
        self,
        config: Any,
        server_state: Any,
        app_state: dict[str, Any],
        *,
        lookup: Lookup,
        invoker: Invoker,
        settings: Settings,
    ) -> None:
        self._lookup = lookup
        self._invoker = invoker
        self._settings = settings
        # uvicorn's own types, of which only the set of connections and tasks is used
        self._connections: set[Any] = server_state.connections
        self._tasks: set[asyncio.Task[None]] = server_state.tasks
        self.loop = asyncio.get_running_loop()
        self.transport = cast(asyncio.Transport, None)
        self.active_at = self.loop.time()
        self._early: bytes | None = None
        self._half: _Half | None = None
        self._invocation: Invocation | None = None
        self._closed = asyncio.Event()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        self.active_at = self.loop.time()
        if self._early is None:
            self._early = b""
            task = self.loop.create_task(self._run(data), name="websocket")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif self._half is not None:
            self._half.transport.write(data)
        else:
            self._early += data
            if len(self._early) > _MAX_EARLY:
                self.transport.abort()

    def pause_writing(self) -> None:
        if self._half is not None:
            self._half.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._half is not None and not self._half.transport.is_closing():
            self._half.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self._half is not None:
            self._half.transport.close()
        elif self._invocation is not None:
            self._invocation.abort()
        self._closed.set()

    # -- uvicorn and the sweeper

    def shutdown(self) -> None:
        """The server stops: close, as a WebSocket may stay open indefinitely."""
        self.transport.close()

    def sweep(self, now: float) -> None:
        if now - self.active_at > self._settings.idle_timeout:
            self.transport.close()

    def pod_lost(self) -> None:
        self.transport.close()

    # -- the handshake

    async def _run(self, data: bytes) -> None:
        request_id = new_request_id()
        scope = _scope(data, self.transport)
        target = Target(scope["raw_path"])
        outcome = Outcome.ERROR
        invocation: Invocation | None = None
        function: FunctionState | None = None
        try:
            if not scope["raw_path"].startswith(PREFIX):
                raise InvalidRequest("WebSockets are served at /fn/NAMESPACE/NAME/… only")
            function = self._lookup.by_url(target)
            if function.protocol != "http":
                raise InvalidRequest(
                    f"{function.key} is not a web server: a WebSocket needs a Function with code.image.protocol: http"
                )
            if is_event(scope["headers"]):
                raise InvalidRequest(
                    "a WebSocket cannot be an asynchronous invocation: leave out Kappa-Invocation-Type"
                )
            invocation = self._invocation = Invocation(
                self._invoker, function, InvocationType.FUNCTION_URL, request_id, stays=True
            )
            await self._connect(invocation, _handshake(scope, target, trust=self._settings.trusts_forwarded))
            await self._closed.wait()
            outcome = Outcome.SUCCESS
        except ClientGone:
            outcome = Outcome.CANCELLED
        except KappaError as error:
            outcome = outcome_of(error)
            log_error(error, request_id, function)
            await self._refuse(error, request_id)
        finally:
            if invocation is not None:
                invocation.end(outcome)
            self.transport.close()

    async def _connect(self, invocation: Invocation, head: bytes) -> None:
        pod = await invocation.slot()
        while (half := await self._dial(pod.endpoint)) is None:
            pod = await invocation.next_slot()
        pod.start.answered = True
        if self.transport.is_closing():
            half.transport.close()
            raise ClientGone
        half.transport.write(head + (self._early or b""))
        self._half = half

    async def _dial(self, endpoint: Endpoint | None) -> _Half | None:
        """None where the pod takes no connection."""
        if endpoint is None:
            return None
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                _, half = await self.loop.create_connection(lambda: _Half(self), endpoint.host, endpoint.port)
        except OSError:
            return None
        return half

    async def _refuse(self, error: KappaError, request_id: str) -> None:
        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                lines = [b"HTTP/1.1 %d Refused\r\nconnection: close\r\n" % message["status"]]
                lines += [b"%b: %b\r\n" % header for header in message["headers"] if header[0] != b"connection"]
                self.transport.write(b"".join(lines) + b"\r\n")
            else:
                self.transport.write(message.get("body", b""))

        await send_error(send, error, request_id)


def _scope(data: bytes, transport: asyncio.Transport) -> dict[str, Any]:
    """The head that uvicorn has read and wrote out again, as much of an ASGI scope as a request's head needs."""
    first, *lines = data.rstrip(b"\r\n").split(b"\r\n")
    _, target, _ = first.split(b" ", 2)
    path, _, query = target.partition(b"?")
    headers = [(name.lower(), value) for name, _, value in (line.partition(b": ") for line in lines)]
    return {
        "method": "GET",
        "raw_path": path,
        "query_string": query,
        "headers": headers,
        "client": transport.get_extra_info("peername"),
        "scheme": "http",
    }


def _handshake(scope: dict[str, Any], target: Target, *, trust: bool) -> bytes:
    head = request_head(scope, target.path, target.prefix, chunked=False, trust=trust)
    return head[:-2] + b"connection: upgrade\r\nupgrade: %b\r\n\r\n" % forwarding.header(scope["headers"], b"upgrade")
