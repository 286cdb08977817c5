"""Function URLs, `ANY /fn/{namespace}/{name}/{path}`: a Lambda function gets an event, a web server the request
itself."""

import asyncio
import json

from kappa_core import function_url
from kappa_core.errors import BadAnswer
from kappa_core.metrics import InvocationType, Outcome
from kappa_gateway.edge import forwarding
from kappa_gateway.edge.answers import COLD_START, JSON, answer_error, new_request_id
from kappa_gateway.edge.asgi import CLIENT, Headers, Receive, Scope, Send
from kappa_gateway.edge.async_intake import AsyncIntake, is_event
from kappa_gateway.edge.bodies import Body, BodyMemory
from kappa_gateway.edge.lookup import Lookup
from kappa_gateway.edge.proxy import proxy
from kappa_gateway.edge.target import Target
from kappa_gateway.edge.url_event import url_event
from kappa_gateway.invoke.invocation import Invocation
from kappa_gateway.invoke.invoker import Invoker
from kappa_gateway.invoke.outcome import ClientGone, outcome_of
from kappa_gateway.invoke.request import Request
from kappa_gateway.pods.state import FunctionState
from kappa_gateway.settings import Settings
from kappa_gateway.transport.connection import Connection


class FunctionUrls:
    """ASGI, for paths that start with `target.PREFIX`."""

    def __init__(
        self, lookup: Lookup, invoker: Invoker, intake: AsyncIntake, bodies: BodyMemory, settings: Settings
    ) -> None:
        self._lookup = lookup
        self._invoker = invoker
        self._intake = intake
        self._bodies = bodies
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = new_request_id()
        target = Target(scope["raw_path"])
        function: FunctionState | None = None
        try:
            function = self._lookup.by_url(target)
            await self._serve(scope, receive, send, function, target, request_id)
        except Exception as error:
            await answer_error(scope, send, error, request_id, function)

    async def _serve(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        function: FunctionState,
        target: Target,
        request_id: str,
    ) -> None:
        client = scope[CLIENT]
        invocation = Invocation(self._invoker, function, InvocationType.FUNCTION_URL, request_id)
        client.on_disconnect = invocation.abort
        outcome = Outcome.ERROR
        try:
            if is_event(scope["headers"]):
                await self._intake.from_url(invocation, scope, receive, send, target)
            elif function.protocol == "http":
                await proxy(invocation, scope, receive, send, target, self._settings)
            else:
                await self._invoke(invocation, scope, receive, send, target)
            outcome = Outcome.FUNCTION_ERROR if invocation.function_error else Outcome.SUCCESS
        except BaseException as error:
            outcome = outcome_of(error)
            raise
        finally:
            client.on_disconnect = None
            asyncio.get_running_loop().call_soon(invocation.end, outcome)

    async def _invoke(self, invocation: Invocation, scope: Scope, receive: Receive, send: Send, target: Target) -> None:
        headers: Headers = scope["headers"]
        body = Body(
            receive,
            headers,
            self._bodies,
            limit=self._settings.max_request_bytes,
            timeout=self._settings.body_timeout,
        )
        try:
            self._invoker.dispatcher.admit(invocation.function)
            data = await body.read(is_here=scope[CLIENT].body_is_here)
            event = url_event(self._settings, scope, target, data, invocation.request_id)
            trace = forwarding.header(headers, b"x-amzn-trace-id")
            more = b"X-Amzn-Trace-Id: %b\r\n" % trace if trace else b""
            tail = b"%b\r\n%bContent-Length: %d\r\n\r\n" % (invocation.request_id.encode(), more, len(event))
            connection = await invocation.send(Request(lambda function: function.request_head + tail, event))
            if connection is None:
                raise ClientGone
            answer = await self._read(connection)
        finally:
            body.close()
        if invocation.function_error:
            await _send_function_error(send, answer, invocation.request_id)
            return
        if connection.status != 200:
            raise BadAnswer(
                f"{invocation.function.key}: its pod answered {connection.status}: "
                f"{answer[:200].decode('utf-8', 'replace')}"
            )
        try:
            response = function_url.from_answer(answer)
        except BadAnswer as error:
            raise BadAnswer(f"{invocation.function.key}: {error.message}") from None
        sent = [*response.headers, (b"x-amzn-requestid", invocation.request_id.encode())]
        if invocation.cold_start is not None:
            sent.append((COLD_START, invocation.cold_start))
        has_body = response.status not in (204, 304)
        if has_body:
            sent.append((b"content-length", b"%d" % len(response.body)))
        await send({"type": "http.response.start", "status": response.status, "headers": sent})
        await send({"type": "http.response.body", "body": response.body if has_body else b""})

    async def _read(self, connection: Connection) -> bytes:
        limit = self._settings.max_response_bytes
        answer = bytearray()
        while (chunk := await connection.chunk()) is not None:
            answer += chunk
            if len(answer) > limit:
                connection.keep_alive = False
                raise BadAnswer(f"the function's answer is larger than {limit} bytes, which is the limit")
        return bytes(answer)


async def _send_function_error(send: Send, answer: bytes, request_id: str) -> None:
    """As Lambda does: 502 without the error's message, which is meant for the function's owner and is in its log."""
    error_type = b"Unhandled"
    try:
        given = json.loads(answer).get("errorType")
        if isinstance(given, str) and given.isascii() and given.isprintable():
            error_type = given[:200].encode()
    except (ValueError, AttributeError):
        pass
    body = b'{"message":"Internal Server Error"}'
    headers = [
        JSON,
        (b"content-length", b"%d" % len(body)),
        (b"x-amzn-errortype", error_type),
        (b"x-amzn-requestid", request_id.encode()),
    ]
    await send({"type": "http.response.start", "status": 502, "headers": headers})
    await send({"type": "http.response.body", "body": body})
