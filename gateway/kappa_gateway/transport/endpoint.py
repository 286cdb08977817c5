"""Addresses and the keep-alive connections to them.

What is sent twice and what is not. A request may go to another connection or pod only if nothing of it can have run:
the connection could not be made, or the answer says that the request was refused. A connection that breaks after a byte
of the request was written to the socket is `PodLost`: the pod may have run it. Two measures keep that from happening on
connections that a server closes while they idle. They are closed here first (`idle_timeout`). And where the server is
not our agent, a method that is not idempotent uses only a connection that was used a moment ago (`FRESH`), else a new
one. Idempotent requests (RFC 9110 §9.2.2) that break before the first byte of an answer, on a connection that was used
before, are sent again by the caller.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from kappa_gateway.transport.connection import Connection

FRESH: Final = 0.5
"""Seconds of idleness for which a connection is taken to be still open, whatever server is at the other end."""


class Endpoint:
    """One address and its connections. It needs no limit of its own: a request to a pod holds one of the pod's slots.

    Made by `Upstream.endpoint`. `name` is for messages. `on_lost` is called when a connection is closed.
    """

    __slots__ = ("_connections", "_on_lost", "_upstream", "host", "idle", "name", "port", "retired")

    def __init__(
        self, upstream: "Upstream", host: str, port: int, name: str, on_lost: Callable[[], None] | None = None
    ) -> None:
        self.host = host
        self.port = port
        self.name = name
        self.idle: list[Connection] = []
        """The one used last at the end."""
        self.retired = False
        self._upstream = upstream
        self._on_lost = on_lost
        self._connections: set[Connection] = set()

    def take(self, max_idle: float | None = None) -> Connection | None:
        """An open connection that was idle for at most `max_idle` seconds: the one used last."""
        idle = self.idle
        while idle:
            connection = idle[-1]
            if max_idle is not None and time.monotonic() - connection.idle_since > max_idle:
                return None
            idle.pop()
            if not connection.transport.is_closing():
                return connection
        return None

    async def connect(self, timeout: float) -> Connection:
        """A new connection. Raises `OSError`, `TimeoutError` among them."""
        loop = self._upstream.loop
        async with asyncio.timeout(timeout):
            _, connection = await loop.create_connection(lambda: Connection(loop, self), self.host, self.port)
        self._connections.add(connection)
        return connection

    def keep(self, connection: Connection) -> None:
        """Keep a connection for its next request."""
        if self.retired or connection.transport.is_closing():
            connection.close()
        else:
            connection.idle_since = self._upstream.now
            self.idle.append(connection)

    def retire(self) -> None:
        """Nothing new is sent here: idle connections are closed, those in use once their answer is complete."""
        self.retired = True
        self._upstream.forget(self)
        for connection in list(self._connections):
            if not connection.active:
                connection.close()

    def close(self) -> None:
        """Close every connection, those in use too."""
        self.retire()
        for connection in list(self._connections):
            connection.close()

    def close_idle(self, before: float) -> None:
        """Close connections that have been idle since before that moment."""
        while self.idle and self.idle[0].idle_since < before:
            self.idle.pop(0).close()

    # -- for its connections

    def began(self, connection: Connection) -> None:
        self._upstream.active.add(connection)

    def ended(self, connection: Connection) -> None:
        self._upstream.active.discard(connection)

    def lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)
        if self._on_lost is not None:
            self._on_lost()


class Upstream:
    """Every endpoint, and the one sweep over all requests' deadlines instead of a timer for each."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, idle_timeout: float = 30.0) -> None:
        self.loop = loop
        self.active: set[Connection] = set()
        """Those that carry a request."""
        self.now = time.monotonic()
        """Monotonic time at the last sweep: exact enough for idleness."""
        self._idle_timeout = idle_timeout
        self._endpoints: set[Endpoint] = set()

    def endpoint(self, host: str, port: int, name: str, on_lost: Callable[[], None] | None = None) -> Endpoint:
        """To be `retire`d by whoever asked for it."""
        endpoint = Endpoint(self, host, port, name, on_lost)
        self._endpoints.add(endpoint)
        return endpoint

    def forget(self, endpoint: Endpoint) -> None:
        self._endpoints.discard(endpoint)

    def sweep(self) -> None:
        """To be called a few times a second: deadlines of requests, and connections that have idled for too long."""
        now = self.now = time.monotonic()
        for connection in [connection for connection in self.active if connection.deadline <= now]:
            connection.time_out()
        for endpoint in self._endpoints:
            endpoint.close_idle(now - self._idle_timeout)

    def close(self) -> None:
        for endpoint in list(self._endpoints):
            endpoint.close()
