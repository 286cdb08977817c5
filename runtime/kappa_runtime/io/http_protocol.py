"""One keep-alive HTTP/1.1 connection: the base of the agent's two servers, to the gateway and for the Runtime API.

A subclass says which headers it wants and handles one request at a time. Requests that arrive meanwhile wait, and
reading stops when too many of them do.
"""

from __future__ import annotations

from kappa_runtime.imports import deque, load_http_parser
from kappa_runtime.io.transport import Transport

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from typing import Final

_parser = load_http_parser()
HttpParserError: type[Exception] = _parser.HttpParserError
HttpParserUpgrade: type[Exception] = _parser.HttpParserUpgrade
HttpRequestParser = _parser.HttpRequestParser

MAX_DISCARD: Final = 64 * 1024 * 1024
"""Bytes of a body over the limit that are read and discarded, so that the sender reads the answer."""
_MAX_PIPELINED: Final = 8

REASONS: Final = {
    200: b"OK",
    202: b"Accepted",
    400: b"Bad Request",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    409: b"Conflict",
    413: b"Payload Too Large",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    503: b"Service Unavailable",
}


class Request:
    """One request: `headers` holds the wanted ones only, names in lower case."""

    __slots__ = ("body", "headers", "keep_alive", "method", "path", "query", "size", "too_large")

    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: dict[bytes, bytes],
        body: bytes,
        keep_alive: bool,
        size: int,
        too_large: bool,
    ) -> None:
        self.method = method
        self.path, _, self.query = target.partition(b"?")
        self.headers = headers
        self.body = body
        self.keep_alive = keep_alive
        self.size = size
        self.too_large = too_large
        """The body was over the limit, and was discarded."""


class HttpProtocol:
    WANTED: frozenset[bytes] = frozenset()
    MAX_HEAD = 64 * 1024

    def __init__(self, max_body: int) -> None:
        self.max_body = max_body
        self.transport: Transport | None = None
        self._parser = HttpRequestParser(self)
        self._queue: deque[Request] = deque()
        self._current: Request | None = None
        self._paused = False
        self._in_head = True
        self._head_bytes = 0
        self._refused = 0
        self._reset()

    # what a subclass fills in

    def handle(self, request: Request) -> None:
        """Answer now, or later, with `respond`."""
        raise NotImplementedError

    def error_body(self, status: int, message: str) -> bytes:
        raise NotImplementedError

    def closed(self) -> None:
        """The connection is gone."""

    # transport.Protocol

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self._queue.clear()
        self._current = None
        self.closed()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._in_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            # a server may ignore the upgrade, but what follows is in a protocol that is not known here
            self._refuse(400, "protocol upgrades are not supported here")
        except HttpParserError as error:
            self._refuse(400, f"this is no HTTP/1.1 request: {error}")
        else:
            if self._in_head and self._head_bytes > self.MAX_HEAD:
                self._refuse(431, f"the request's head is over {self.MAX_HEAD} bytes")
            elif self._refused:
                self._refuse(self._refused, f"the body is over {self.max_body} bytes")
        if self._queue and self._current is None:
            self._next()

    def eof_received(self) -> bool:
        # a client that shuts its side and still reads the answer gets it
        return self._close_after_last()

    # httptools

    def on_message_begin(self) -> None:
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in self.WANTED or name in _FRAMING:
            self._headers[name] = value

    def on_headers_complete(self) -> None:
        self._in_head = False
        length = self._headers.get(b"content-length")
        size = int(length) if length else 0
        if size > self.max_body:
            self._too_large = True
            if size > MAX_DISCARD or b"expect" in self._headers:
                self._refused = 413
                return
        if b"expect" in self._headers and self.transport is not None and self._current is None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > self.max_body:
            self._too_large = True
            self._chunks.clear()
            if self._size > MAX_DISCARD:
                self._refused = 413
        elif not self._too_large:
            self._chunks.append(body)

    def on_message_complete(self) -> None:
        parser = self._parser
        chunks = self._chunks
        if not self._refused:
            self._queue.append(
                Request(
                    parser.get_method(),
                    self._target,
                    self._headers,
                    chunks[0] if len(chunks) == 1 else b"".join(chunks),
                    parser.should_keep_alive(),
                    self._size,
                    self._too_large,
                )
            )
            if len(self._queue) > _MAX_PIPELINED and not self._paused and self.transport is not None:
                self._paused = True
                self.transport.pause_reading()
        self._reset()

    # answers

    def respond(self, status: int, head: bytes, body: bytes) -> None:
        """Answer the request at hand. `head` is complete header lines; Content-Length and Connection are added."""
        request = self._current
        if request is None or self.transport is None:
            return
        self._current = None
        close = not request.keep_alive
        self.transport.write(
            b"HTTP/1.1 %d %b\r\n%bContent-Length: %d\r\n%b\r\n%b"
            % (status, REASONS[status], head, len(body), b"Connection: close\r\n" if close else b"", body)
        )
        if close:
            self._queue.clear()
            self.transport.close()
        elif self._queue:
            self._next()

    def respond_json(self, status: int, body: bytes) -> None:
        self.respond(status, b"Content-Type: application/json\r\n", body)

    def close_after(self) -> None:
        """The answer to the request at hand is the connection's last."""
        if self._current is not None:
            self._current.keep_alive = False

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    @property
    def busy(self) -> bool:
        """A request is being answered."""
        return self._current is not None

    def _next(self) -> None:
        while self._queue and self._current is None and self.transport is not None:
            self._current = request = self._queue.popleft()
            if self._paused and not self._queue:
                self._paused = False
                self.transport.resume_reading()
            self.handle(request)

    def _refuse(self, status: int, message: str) -> None:
        """Answer and close: what follows cannot be parsed. Complete requests before it are answered."""
        self._refused = status
        if self.transport is None or self._close_after_last():
            return
        body = self.error_body(status, message)
        self.transport.write(
            b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
            % (status, REASONS[status], len(body), body)
        )
        self.transport.close()

    def _close_after_last(self) -> bool:
        """Close once every request that came is answered. False when there is none."""
        last = self._queue[-1] if self._queue else self._current
        if last is not None:
            last.keep_alive = False
        return last is not None

    def _reset(self) -> None:
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._chunks: list[bytes] = []
        self._size = 0
        self._too_large = False
        self._head_bytes = 0
        self._in_head = True


_FRAMING: Final = frozenset((b"content-length", b"expect"))
