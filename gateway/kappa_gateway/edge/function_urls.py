"""`ANY /fn/{namespace}/{name}/{path}`: functions as web pages. Lambda functions get Lambda's event, web servers the request."""

import json
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from kappa_core import function_url
from kappa_core.errors import BadAnswer, FunctionNotFound, Unavailable
from kappa_core.metrics import InvocationType, Outcome
from kappa_core.names import function_key
from kappa_gateway import forwarding
from kappa_gateway.answers import COLD_START, JSON, Headers, Receive, Scope, Send, answer_error, new_request_id
from kappa_gateway.bodies import Body
from kappa_gateway.connection import Connection
from kappa_gateway.events.intake import Intake, is_event
from kappa_gateway.exchange import Exchange, outcome_of
from kappa_gateway.http_server import CLIENT
from kappa_gateway.proxy import proxy
from kappa_gateway.state import FunctionState
from kappa_gateway.url_event import url_event

if TYPE_CHECKING:
    from kappa_gateway.gateway import Gateway

PREFIX: Final = b"/fn/"


class Target:
    """What a function URL's path says."""

    __slots__ = ("name", "namespace", "path", "prefix")

    def __init__(self, raw_path: bytes) -> None:
        namespace, _, rest = raw_path[len(PREFIX) :].partition(b"/")
        name, slash, path = rest.partition(b"/")
        self.namespace = unquote(namespace.decode("latin-1"))
        self.name = unquote(name.decode("latin-1"))
        self.path = slash + path or b"/"
        """What the function sees, as it came."""
        self.prefix = PREFIX + namespace + b"/" + name


class FunctionUrls:
    """ASGI, for paths that start with `PREFIX`."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._intake = Intake(gateway)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = new_request_id()
        target = Target(scope["raw_path"])
        function: FunctionState | None = None
        try:
            function = find(self._gateway, target)
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
        gateway = self._gateway
        client = scope[CLIENT]
        exchange = Exchange(gateway, function, InvocationType.FUNCTION_URL, request_id)
        client.on_disconnect = exchange.abort
        outcome = Outcome.ERROR
        try:
            if is_event(scope["headers"]):
                await self._intake.from_url(exchange, scope, receive, send, target)
            elif function.protocol == "http":
                await proxy(gateway, exchange, scope, receive, send, target.path, target.prefix)
            else:
                await self._invoke(exchange, scope, receive, send, target)
            outcome = Outcome.FUNCTION_ERROR if exchange.function_error else Outcome.SUCCESS
        except BaseException as error:
            outcome = outcome_of(error)
            raise
        finally:
            client.on_disconnect = None
            gateway.loop.call_soon(exchange.end, outcome)

    async def _invoke(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send, target: Target) -> None:
        gateway = self._gateway
        headers: Headers = scope["headers"]
        body = Body(
            receive,
            headers,
            gateway.bodies,
            limit=gateway.settings.max_request_bytes,
            timeout=gateway.settings.body_timeout,
        )
        try:
            gateway.dispatcher.admit(exchange.function)
            data = await body.read(is_here=scope[CLIENT].body_is_here)
            event = url_event(gateway.settings, scope, target, data, exchange.request_id)
            trace = forwarding.header(headers, b"x-amzn-trace-id")
            more = b"X-Amzn-Trace-Id: %b\r\n" % trace if trace else b""
            connection = await exchange.request(
                lambda function: (
                    b"%b%b\r\n%bContent-Length: %d\r\n\r\n"
                    % (function.request_head, exchange.request_id.encode(), more, len(event))
                ),
                event,
            )
            answer = await self._read(connection)
        finally:
            body.close()
        if exchange.function_error:
            await _send_function_error(send, answer, exchange.request_id)
            return
        if connection.status != 200:
            raise BadAnswer(
                f"{exchange.function.key}: its pod answered {connection.status}: {answer[:200].decode('utf-8', 'replace')}"
            )
        try:
            response = function_url.from_answer(answer)
        except BadAnswer as error:
            raise BadAnswer(f"{exchange.function.key}: {error.message}") from None
        sent = [*response.headers, (b"x-amzn-requestid", exchange.request_id.encode())]
        if exchange.cold_start is not None:
            sent.append((COLD_START, exchange.cold_start))
        has_body = response.status not in (204, 304)
        if has_body:
            sent.append((b"content-length", b"%d" % len(response.body)))
        await send({"type": "http.response.start", "status": response.status, "headers": sent})
        await send({"type": "http.response.body", "body": response.body if has_body else b""})

    async def _read(self, connection: Connection) -> bytes:
        limit = self._gateway.settings.max_response_bytes
        answer = bytearray()
        while (chunk := await connection.chunk()) is not None:
            answer += chunk
            if len(answer) > limit:
                connection.keep_alive = False
                raise BadAnswer(f"the function's answer is larger than {limit} bytes, which is the limit")
        return bytes(answer)


def find(gateway: "Gateway", target: Target) -> FunctionState:
    function = gateway.registry.get(target.namespace, target.name)
    if function is None:
        if not gateway.registry.synced.is_set():
            raise Unavailable("this gateway has not yet seen every function: try again in a moment")
        gateway.metrics.refuse(FunctionNotFound.error_type)
        key = function_key(target.namespace, target.name)
        raise FunctionNotFound(
            f"Function not found: there is no Function {key} (a function URL is /fn/NAMESPACE/NAME/)"
        )
    return function


async def _send_function_error(send: Send, answer: bytes, request_id: str) -> None:
    """Lambda's own: 502 without a word of the error's message, which is for the function's owner and in its log."""
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
