"""TCP connections on the agent's loop: a listening socket makes a protocol per connection, as asyncio's servers do.

A protocol has `connection_made(transport)`, `data_received(data)`, `eof_received() -> bool` (true: go on writing) and
`connection_lost(error)`.
"""

from __future__ import annotations

import sys

from kappa_runtime.imports import socket
from kappa_runtime.io.loop import EventLoop

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol as _Protocol

    class Protocol(_Protocol):
        def connection_made(self, transport: Transport) -> None: ...
        def connection_lost(self, error: Exception | None) -> None: ...
        def data_received(self, data: bytes) -> None: ...
        def eof_received(self) -> bool: ...


READ_BYTES = 16 * 1024
"""Small: every read allocates as much; beyond malloc's mmap threshold that costs an invocation 15 µs three times."""
_ACCEPTS = 64
_ACCEPT_PAUSE = 0.1
"""Seconds without accepting when the process has no descriptor left."""


class Server:
    """A listening socket; it owns `fd`."""

    def __init__(self, loop: EventLoop, fd: int, factory: Callable[[], Protocol]) -> None:
        self._loop = loop
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._factory = factory
        self._open = True
        loop.add_reader(fd, self._accept)

    def hand_to(self, factory: Callable[[], Protocol]) -> None:
        """Make the protocols of new connections by this factory from now on."""
        self._factory = factory

    def close(self) -> None:
        """Accept no more connections; the open ones go on."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            if not self._open:
                return
            try:
                fd, _ = self._socket._accept()  # type: ignore[attr-defined]  # what socket.socket.accept itself calls
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:
                print(f"kappa-agent: cannot accept: {error}", file=sys.stderr)  # noqa: T201
                self._loop.remove_reader(self._socket.fileno())
                self._loop.call_later(_ACCEPT_PAUSE, self._resume)
                return
            connection = socket.socket(fileno=fd)
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            Transport(self._loop, connection, self._factory())

    def _resume(self) -> None:
        if self._open:
            self._loop.add_reader(self._socket.fileno(), self._accept)


class Transport:
    __slots__ = ("_buffer", "_closing", "_fd", "_loop", "_lost", "_protocol", "_reading", "_sock")

    def __init__(self, loop: EventLoop, sock: socket.socket, protocol: Protocol) -> None:
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._protocol = protocol
        self._buffer = bytearray()
        self._closing = False
        self._lost = False
        self._reading = True
        loop.add_reader(self._fd, self._on_readable)
        protocol.connection_made(self)

    def write(self, data: bytes) -> None:
        """Sends what the socket takes now and keeps the rest; the writer bounds how much that is."""
        if self._lost or self._closing:
            return
        if self._buffer:
            self._buffer += data
            return
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._fail(error)
            return
        if sent < len(data):
            self._buffer += memoryview(data)[sent:]
            self._loop.add_writer(self._fd, self._on_writable)

    def close(self) -> None:
        """Send what is left, then close."""
        if self._closing or self._lost:
            return
        self._closing = True
        self.pause_reading()
        if not self._buffer:
            self._end(None)

    def abort(self) -> None:
        """Close at once, and discard what is left."""
        if not self._lost:
            self._end(None)

    def pause_reading(self) -> None:
        if self._reading and not self._lost:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def resume_reading(self) -> None:
        if not self._reading and not self._lost and not self._closing:
            self._reading = True
            self._loop.add_reader(self._fd, self._on_readable)

    def _on_readable(self) -> None:
        try:
            data = self._sock.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error)
            return
        if data:
            self._protocol.data_received(data)
        elif self._protocol.eof_received():
            self.pause_reading()
        else:
            self.close()

    def _on_writable(self) -> None:
        try:
            sent = self._sock.send(self._buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error)
            return
        del self._buffer[:sent]
        if not self._buffer:
            self._loop.remove_writer(self._fd)
            if self._closing:
                self._end(None)

    def _fail(self, error: OSError) -> None:
        """The connection broke. The protocol is notified in the loop's next turn, not inside its own `write`."""
        self._end(error)

    def _end(self, error: Exception | None) -> None:
        self._lost = True
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._buffer.clear()
        self._loop.call_soon(self._finish, error)

    def _finish(self, error: Exception | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._sock.close()
