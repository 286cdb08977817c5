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
from typing import Final, cast

import httptools

from kappa_core.errors import BadAnswer, GatewayTimeout, KappaError, PodLost
from kappa_gateway.state import PodState

HIGH_WATER: Final = 256 * 1024
"""Bytes of an answer that wait here for a slow client before the pod is no longer read."""
MAX_HEAD_BYTES: Final = 64 * 1024
FRESH: Final = 0.5
"""Seconds of idleness for which a connection is taken to be open still, whatever server is at the other end."""


class Connection(asyncio.Protocol):
    """One connection to a pod. `begin`, `write`, `await head()`, `await chunk()` until None, `finish`."""

    __slots__ = (
        "_closed",
        "_drained",
        "_head_bytes",
        "_head_done",
        "_interim",
        "_is_head",
        "_paused",
        "_until_close",
        "_waiter",
        "active",
        "body",
        "complete",
        "deadline",
        "error",
        "headers",
        "idle_since",
        "keep_alive",
        "parser",
        "pool",
        "received",
        "size",
        "status",
        "transport",
        "used",
    )

    def __init__(self, pool: "Pool") -> None:
        self.pool = pool
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

    def begin(self, deadline: float, *, is_head: bool = False) -> None:
        """A request follows; `deadline` by `time.monotonic` is when its whole answer must be here."""
        self.active = True
        self.deadline = deadline
        self.status = 0
        self.headers = []
        self.body = []
        self.size = 0
        self.complete = self.received = self._head_done = self._until_close = False
        self._head_bytes = 0
        self._is_head = is_head
        self.pool.upstream.active.add(self)

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    async def drain(self) -> None:
        """Wait until the pod has taken most of what was written."""
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

    def finish(self) -> None:
        """The request is over: keep the connection if it can be used again, else close it."""
        if not self.active:
            return
        self.active = False
        self.pool.upstream.active.discard(self)
        if self.complete and self.keep_alive and not self._closed and self._drained is None and not self.pool.closed:
            if self._paused:
                self._paused = False
                self.transport.resume_reading()
            self.used = True
            self.idle_since = self.pool.upstream.now
            self.pool.idle.append(self)
        else:
            self.close()

    def abort(self, error: KappaError) -> None:
        """Give up at once: whoever waits gets `error`, the pod sees the connection break."""
        if self.error is None:
            self.error = error
        if self.transport is not None and not self._closed:
            self.transport.abort()
        self._wake()

    def close(self) -> None:
        self._closed = True
        if self.transport is not None:
            self.transport.close()

    async def _wait(self) -> None:
        waiter = self._waiter = self.pool.upstream.loop.create_future()
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
        self.pool.lost(self)
        if self.active and not self.complete:
            if self._until_close and exc is None:
                self.complete = True
            elif self.error is None:
                self.error = PodLost(
                    f"{self.pool.pod.function.key}: the connection to pod {self.pool.pod.pod.name} broke before its answer was "
                    "complete; the invocation may have run. See the pod's log"
                )
        self.resume_writing()
        self._wake()

    def pause_writing(self) -> None:
        if self._drained is None:
            self._drained = self.pool.upstream.loop.create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def data_received(self, data: bytes) -> None:
        if not self.active or self.complete:
            # bytes that nobody asked for: this connection cannot be trusted to frame the next answer
            self.keep_alive = False
            self.pool.lost(self)
            self.close()
            return
        self.received = True
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._bad(f"its answer is no HTTP ({error})")
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
            self.abort(BadAnswer(f"{self.pool.pod.function.key}: pod {self.pool.pod.pod.name}: {what}"))
        else:
            self.close()
            self._wake()

    # -- httptools

    def on_message_begin(self) -> None:
        if self.complete:
            raise ValueError("an answer that nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self.parser.get_status_code()
        if status < 200:
            if status == 101:
                raise ValueError("it changed the protocol though nobody asked")
            self._interim = True
            return
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
