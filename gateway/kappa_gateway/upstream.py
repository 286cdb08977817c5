"""HTTP/1.1 to pods: keep-alive connections, one request in flight on each, bytes passed on as they come.

What is sent twice and what is not. A request may go to another connection or pod only if nothing of it can have run:
the connection could not be made, or the pod's answer says that it refused. A connection that breaks once a byte of
the request was handed to the kernel is `PodLost`: the pod may have run it. Two measures keep that from happening on
connections that a server closes while they idle: they are closed here first (`idle_timeout`), and what a person's own
server is asked with a method that is not idempotent goes only over a connection that was used a moment ago
(`FRESH`), else over a new one. Idempotent requests (RFC 9110 §9.2.2) that broke before the first byte of an answer on
a connection that had been used before are sent again by the caller.
"""

import asyncio
import time
from typing import Final

from kappa_core.errors import GatewayTimeout
from kappa_gateway.connection import Connection
from kappa_gateway.state import PodState

FRESH: Final = 0.5
"""Seconds of idleness for which a connection is taken to be open still, whatever server is at the other end."""
_QUESTIONS: Final = 256
"""How many questions for kept answers are asked at a time, of all pods together."""


class Pool:
    """The connections to one pod. It needs no limit of its own: a request holds one of the pod's slots."""

    __slots__ = ("closed", "connections", "idle", "pod", "upstream")

    def __init__(self, upstream: "Upstream", pod: PodState) -> None:
        self.upstream = upstream
        self.pod = pod
        self.idle: list[Connection] = []
        self.connections: set[Connection] = set()
        self.closed = False

    def take(self, max_idle: float | None = None) -> Connection | None:
        """An open connection that was idle for at most `max_idle` seconds; the one used last."""
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
        host = self.pod.pod.host
        assert host is not None
        async with asyncio.timeout(timeout):
            _, connection = await self.upstream.loop.create_connection(
                lambda: Connection(self), host, self.pod.pod.port
            )
        self.connections.add(connection)
        return connection

    def put(self, connection: Connection) -> None:
        """Keep a connection that was made ahead of its first request."""
        if self.closed or connection.transport.is_closing():
            connection.close()
        else:
            connection.idle_since = time.monotonic()
            self.idle.append(connection)

    def lost(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)

    def close(self) -> None:
        """Idle connections are closed; those in use go on until their answer is complete."""
        self.closed = True
        for connection in list(self.connections):
            if not connection.active:
                connection.close()


class Upstream:
    """Every connection to every pod."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, idle_timeout: float = 30.0) -> None:
        self.loop = loop
        self.idle_timeout = idle_timeout
        self.active: set[Connection] = set()
        self.pools: set[Pool] = set()
        self.questions = asyncio.Semaphore(_QUESTIONS)
        """For those that look for kept answers."""
        self.now = time.monotonic()
        """Monotonic time at the last sweep: exact enough for idleness."""

    def pool(self, pod: PodState) -> Pool:
        if pod.pool is None or pod.pool.closed:
            pod.pool = Pool(self, pod)
            self.pools.add(pod.pool)
        return pod.pool

    def drop(self, pod: PodState) -> None:
        """Nothing new goes to this pod."""
        if pod.pool is not None:
            pod.pool.close()
            self.pools.discard(pod.pool)

    def sweep(self) -> None:
        """To be called a few times a second: deadlines of requests, and connections that idle for too long."""
        now = self.now = time.monotonic()
        for connection in [connection for connection in self.active if connection.deadline <= now]:
            function = connection.pool.pod.function
            connection.abort(
                GatewayTimeout(
                    f"{function.key}: pod {connection.pool.pod.pod.name} gave no answer in time (timeout {function.timeout:g} s)"
                )
            )
        for pool in self.pools:
            while pool.idle and now - pool.idle[0].idle_since > self.idle_timeout:
                pool.idle.pop(0).close()

    def close(self) -> None:
        for pool in list(self.pools):
            pool.close()
            for connection in list(pool.connections):
                connection.close()
        self.pools.clear()
