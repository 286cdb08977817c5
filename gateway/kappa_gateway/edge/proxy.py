"""Functions that are web servers (`protocol: http`): requests are proxied unchanged, and both bodies stream with
back-pressure."""

import asyncio

from kappa_core.errors import BadAnswer, KappaError, RequestTooLarge
from kappa_gateway.edge import forwarding
from kappa_gateway.edge.answers import COLD_START, pass_body_on
from kappa_gateway.edge.asgi import CLIENT, Headers, Receive, Scope, Send
from kappa_gateway.edge.bodies import declared_length
from kappa_gateway.edge.target import Target
from kappa_gateway.invoke.invocation import Invocation
from kappa_gateway.invoke.outcome import ClientGone
from kappa_gateway.invoke.request import Request
from kappa_gateway.settings import Settings
from kappa_gateway.transport.connection import Connection

_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
_OWN = frozenset({b"date", b"x-amzn-requestid"})
"""Headers of an answer that the gateway writes itself."""


async def proxy(
    invocation: Invocation, scope: Scope, receive: Receive, send: Send, target: Target, settings: Settings
) -> None:
    """Serve one request from a pod. A body is read no faster than the pod takes it, and only once there is a pod.

    Raises what `Invocation.send` does until the answer's head is out, `BrokenAnswer` after.
    """
    limit = settings.max_request_bytes
    length = declared_length(scope["headers"])
    if length is not None and length > limit:
        raise RequestTooLarge(f"the request's body is larger than {limit} bytes, which is the limit")
    chunked = length is None and bool(forwarding.header(scope["headers"], b"transfer-encoding"))
    head = request_head(scope, target.path, target.prefix, chunked=chunked, trust=settings.trusted_proxies > 0)
    is_head = scope["method"] == "HEAD"
    upload: Upload | None = None
    if scope[CLIENT].body_is_here:
        body = (await receive()).get("body", b"")
        if chunked:
            body = _chunk(body) + b"0\r\n\r\n"
    else:
        body = b""
        upload = Upload(receive, chunked=chunked, limit=limit)
    try:
        connection = await invocation.send(
            Request(
                lambda _: head,
                body,
                idempotent=scope["method"] in _IDEMPOTENT and upload is None,
                is_head=is_head,
                more=upload.start if upload is not None else None,
            )
        )
        if connection is None:
            raise ClientGone
        await _answer(send, invocation, connection)
        if upload is not None and not upload.done:
            # answered before it had read everything: what is left of the body is of no use on this connection
            connection.keep_alive = False
    except KappaError as error:
        if upload is not None and upload.error is not None:
            raise upload.error from error
        raise
    finally:
        if upload is not None:
            await upload.stop()


def request_head(scope: Scope, path: bytes, prefix: bytes, *, chunked: bool, trust: bool) -> bytes:
    """The request's head for the pod: same method, host and headers, the function's own path, `X-Forwarded-…`."""
    query: bytes = scope["query_string"]
    lines = [b"%b %b%b HTTP/1.1\r\n" % (scope["method"].encode(), path, b"?" + query if query else b"")]
    for name, value in forwarding.end_to_end(scope["headers"]):
        if name != b"expect" and name not in forwarding.FORWARDED:
            lines.append(b"%b: %b\r\n" % (name, value))
    if chunked:
        lines.append(b"transfer-encoding: chunked\r\n")
    lines.append(forwarding.forwarded(scope, prefix, trust=trust))
    lines.append(b"\r\n")
    return b"".join(lines)


class Upload:
    """The rest of a request's body, on its way while the answer may begin already. One task, ended by `stop`."""

    def __init__(self, receive: Receive, *, chunked: bool, limit: int) -> None:
        self._receive = receive
        self._chunked = chunked
        self._limit = limit
        self._task: asyncio.Task[None] | None = None
        self.done = False
        self.error: KappaError | None = None

    async def start(self, connection: Connection) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(connection), name="upload")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, connection: Connection) -> None:
        total = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._fail(connection, ClientGone())
                return
            data = message.get("body", b"")
            total += len(data)
            if total > self._limit:
                self._fail(
                    connection,
                    RequestTooLarge(f"the request's body is larger than {self._limit} bytes, which is the limit"),
                )
                return
            if connection.transport.is_closing():
                return
            if data:
                connection.write(_chunk(data) if self._chunked else data)
            if not message.get("more_body"):
                if self._chunked:
                    connection.write(b"0\r\n\r\n")
                self.done = True
                return
            await connection.drain()

    def _fail(self, connection: Connection, error: KappaError) -> None:
        self.error = error
        connection.abort(error)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


async def _answer(send: Send, invocation: Invocation, connection: Connection) -> None:
    has_body = connection.status not in (204, 304)
    headers: Headers = [
        (name, value)
        for name, value in forwarding.end_to_end(connection.headers)
        if name not in _OWN and (has_body or name != b"content-length")
    ]
    headers.append((b"x-amzn-requestid", invocation.request_id.encode()))
    if invocation.cold_start is not None:
        headers.append((COLD_START, invocation.cold_start))
    try:
        await send({"type": "http.response.start", "status": connection.status, "headers": headers})
    except RuntimeError as error:
        raise BadAnswer(f"{invocation.function.key}: its answer has a malformed header ({error})") from None
    await pass_body_on(send, connection)
