"""What the gateway serves on its internal port, to the operator, to pool pods and to the other gateways.

`GET /v1/demand`: NDJSON for as long as the reader keeps up. `GET /v1/code/{sha256}`: an archive for a pool pod.
`POST` of an invocation, or of a function's backlog: from another gateway, with a proof (`invoke.peers`).
"""

import asyncio
import json
from collections.abc import Callable, Sequence

from kappa_core import errors, wire
from kappa_core.demand import encode
from kappa_core.errors import FunctionNotFound, KappaError
from kappa_core.metrics import Outcome
from kappa_gateway.edge.answers import COLD_START, log_error
from kappa_gateway.edge.asgi import Headers, Receive, Scope, Send
from kappa_gateway.edge.bodies import Body, BodyMemory
from kappa_gateway.edge.forwarding import end_to_end, header
from kappa_gateway.invoke.invocation import Invocation
from kappa_gateway.invoke.invoker import Invoker
from kappa_gateway.invoke.outcome import ClientGone, outcome_of
from kappa_gateway.invoke.peers import Peers
from kappa_gateway.invoke.request import Request
from kappa_gateway.pods.demand import DemandFeed, Overrun
from kappa_gateway.pods.functions import Functions
from kappa_gateway.pods.state import FunctionState
from kappa_gateway.pods.warm.code import CodeCache
from kappa_gateway.settings import Settings

_PROOF = wire.PEER_PROOF.lower().encode()
_FUNCTION = wire.FUNCTION.lower().encode()
_REFUSED = wire.REFUSED.lower().encode()
_REQUEST_ID = wire.REQUEST_ID.lower().encode()
_PASSED_ON = frozenset(
    name.lower().encode() for name in (wire.CLIENT_CONTEXT, wire.LOG_TYPE, wire.TRACE_ID, wire.COGNITO_IDENTITY)
)
"""Headers of an invocation that go on to the pod."""


class InternalApp:
    """ASGI. `peers` None: this gateway uses no pools. `notify_backlog(function)` is called when it has events."""

    def __init__(
        self,
        demand: DemandFeed,
        code: CodeCache,
        functions: Functions,
        invoker: Invoker,
        peers: Peers | None,
        bodies: BodyMemory,
        settings: Settings,
        notify_backlog: Callable[[FunctionState], None],
    ) -> None:
        self._demand = demand
        self._code = code
        self._functions = functions
        self._invoker = invoker
        self._peers = peers
        self._bodies = bodies
        self._settings = settings
        self._notify_backlog = notify_backlog

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        if method == "GET" and path == wire.DEMAND_PATH:
            await self._follow_demand(receive, send)
        elif method == "GET" and path.startswith(wire.CODE_PATH):
            await self._send_code(path.removeprefix(wire.CODE_PATH), send)
        elif method == "POST" and path in (wire.INVOKE_PATH, wire.BACKLOG_PATH):
            await self._from_peer(scope, receive, send)
        else:
            served = f"GET {wire.DEMAND_PATH} and {wire.CODE_PATH}, POST {wire.INVOKE_PATH} and {wire.BACKLOG_PATH}"
            await _answer(send, 404, f"only {served} are served here")

    # -- demand

    async def _follow_demand(self, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        following = asyncio.create_task(self._send_reports(send), name="demand reader")
        leaving = asyncio.create_task(_until_disconnect(receive), name="demand reader's end")
        try:
            await asyncio.wait([following, leaving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            following.cancel()
            leaving.cancel()
            await asyncio.gather(following, leaving, return_exceptions=True)
        if following.done() and not following.cancelled() and following.exception() is None:
            await send({"type": "http.response.body"})

    async def _send_reports(self, send: Send) -> None:
        reports = self._demand.subscribe()
        try:
            async for report in reports:
                await send({"type": "http.response.body", "body": encode(report), "more_body": True})
        except Overrun:
            pass
        finally:
            await reports.aclose()  # type: ignore[attr-defined]  # it is an async generator

    # -- code

    async def _send_code(self, sha256: str, send: Send) -> None:
        """Anyone who knows an archive's hash may read it: only a Function names the hash, and only that Function's pods
        learn it."""
        content = self._code.get(sha256)
        if content is None:
            await _answer(send, 404, "no such archive is kept here")
        else:
            await _send(send, 200, [(b"content-type", b"application/zip")], content)

    # -- other gateways

    async def _from_peer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Headers = scope["headers"]
        key, request_id = header(headers, _FUNCTION).decode("latin-1"), header(headers, _REQUEST_ID).decode("latin-1")
        if self._peers is None or not self._peers.is_valid(header(headers, _PROOF).decode("latin-1"), key, request_id):
            # the header keeps a gateway whose clock or key differs from taking this for the function's answer
            message = "the request is refused: it has no valid proof that a gateway sent it"
            await _answer(send, 403, message, [(_REFUSED, wire.REFUSED_SIGNATURE.encode())])
            return
        namespace, _, name = key.partition("/")
        function = self._functions.get(namespace, name)
        if scope["path"] == wire.BACKLOG_PATH:
            if function is not None:
                self._notify_backlog(function)
            await _send(send, 200, [], b"")
        elif function is None:
            await _send_error(send, FunctionNotFound(f"Function not found: {key} does not exist (or no longer)"))
        else:
            await self._invoke(function, request_id, headers, receive, send)

    async def _invoke(
        self, function: FunctionState, request_id: str, headers: Headers, receive: Receive, send: Send
    ) -> None:
        """As a pod's agent would answer. The other gateway counts the invocation."""
        invocation = Invocation(self._invoker, function, None, request_id, stays=True)
        body = Body(
            receive,
            headers,
            self._bodies,
            limit=self._settings.max_request_bytes,
            timeout=self._settings.body_timeout,
        )
        more = b"".join(b"%b: %b\r\n" % (name, value) for name, value in headers if name in _PASSED_ON)
        leaving: asyncio.Task[None] | None = None
        outcome, has_begun = Outcome.ERROR, False
        try:
            payload = await body.read(is_here=False)
            leaving = asyncio.create_task(_abort_on_disconnect(receive, invocation), name="other gateway's disconnect")
            tail = b"%b\r\n%bContent-Length: %d\r\n\r\n" % (request_id.encode("latin-1"), more, len(payload))
            connection = await invocation.send(Request(lambda function: function.request_head + tail, payload))
            if connection is None:
                raise ClientGone
            answer = end_to_end(connection.headers)
            if invocation.cold_start is not None:
                answer.append((COLD_START, invocation.cold_start))
            await send({"type": "http.response.start", "status": connection.status, "headers": answer})
            has_begun = True
            while (chunk := await connection.chunk()) is not None:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            outcome = Outcome.FUNCTION_ERROR if invocation.function_error else Outcome.SUCCESS
        except KappaError as error:
            outcome = outcome_of(error)
            log_error(error, request_id, function)
            # an answer that has begun is not completed, and so breaks the connection
            if not has_begun and not isinstance(error, ClientGone):
                await _send_error(send, error)
        except BaseException as error:
            outcome = outcome_of(error)
            raise
        finally:
            body.close()
            if leaving is not None:
                leaving.cancel()
                await asyncio.gather(leaving, return_exceptions=True)
            invocation.end(outcome)


async def _abort_on_disconnect(receive: Receive, invocation: Invocation) -> None:
    await _until_disconnect(receive)
    invocation.abort()


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_error(send: Send, error: KappaError) -> None:
    headers = [(b"content-type", b"application/json"), (_REFUSED, wire.REFUSED_ERROR.encode())]
    await _send(send, error.status, headers, errors.encode(error))


async def _answer(send: Send, status: int, message: str, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    headers = [(b"content-type", b"application/json"), *headers]
    await _send(send, status, headers, json.dumps({"Message": message}).encode())


async def _send(send: Send, status: int, headers: Headers, body: bytes) -> None:
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
