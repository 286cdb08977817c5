"""`POST /2015-03-31/functions/{name}/invocations`: Lambda's Invoke, as AWS' own clients call it.

https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html
"""

import base64
import binascii
import json
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, unquote

from kappa_core import function_name, wire
from kappa_core.errors import FunctionNotFound, InvalidRequest, InvalidRequestContent, KappaError, Unavailable
from kappa_core.function_name import FunctionName
from kappa_core.metrics import InvocationType, Outcome
from kappa_gateway import json_check
from kappa_gateway.answers import (
    COLD_START,
    JSON,
    Headers,
    Receive,
    Scope,
    Send,
    answer_error,
    new_request_id,
    pass_body_on,
)
from kappa_gateway.bodies import Body
from kappa_gateway.events.intake import EVENT, Intake
from kappa_gateway.exchange import Exchange, outcome_of
from kappa_gateway.http_server import CLIENT
from kappa_gateway.state import FunctionState

if TYPE_CHECKING:
    from kappa_gateway.connection import Connection
    from kappa_gateway.gateway import Gateway

PREFIX: Final = b"/2015-03-31/functions/"
SUFFIX: Final = b"/invocations"
_MAX_CONTEXT: Final = 3583
"""Bytes of `X-Amz-Client-Context`: Lambda's limit."""
_CACHED_NAMES: Final = 4096

_PASSED_ON: Final = {
    wire.FUNCTION_ERROR.lower().encode(): wire.FUNCTION_ERROR.encode(),
    wire.EXECUTED_VERSION.lower().encode(): wire.EXECUTED_VERSION.encode(),
    wire.LOG_RESULT.lower().encode(): wire.LOG_RESULT.encode(),
    b"content-length": b"content-length",
    wire.TRACE_ID.lower().encode(): wire.TRACE_ID.encode(),
}
"""Headers of a pod's answer that go on to the caller."""
_CONTEXT: Final = wire.CLIENT_CONTEXT.lower().encode()
_LOG_TYPE: Final = wire.LOG_TYPE.lower().encode()
_TRACE: Final = wire.TRACE_ID.lower().encode()
_COGNITO: Final = wire.COGNITO_IDENTITY.lower().encode()
_TYPE: Final = b"x-amz-invocation-type"


class LambdaApi:
    """ASGI, for this one path. Knows nothing of other routes."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._intake = Intake(gateway)
        self._cache: dict[bytes, FunctionState] = {}
        self._cache_version = -1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = new_request_id()
        function: FunctionState | None = None
        try:
            function = self._find(scope)
            await self._invoke(scope, receive, send, function, request_id)
        except Exception as error:
            await answer_error(scope, send, error, request_id, function)

    # -- which function

    def _find(self, scope: Scope) -> FunctionState:
        registry = self._gateway.registry
        if self._cache_version != registry.version:
            self._cache.clear()
            self._cache_version = registry.version
        path = scope["raw_path"]
        function = self._cache.get(path) if not scope["query_string"] else None
        if function is not None:
            return function
        try:
            name = self._parse(scope)
            function = registry.get(name.namespace, name.name)
            if function is None:
                if not registry.synced.is_set():
                    raise Unavailable("this gateway has not yet seen every function: try again in a moment")
                raise FunctionNotFound(
                    f"Function not found: there is no Function {name.name!r} in namespace {name.namespace!r}"
                )
        except KappaError as error:
            self._gateway.metrics.refuse(error.error_type)
            raise
        if not scope["query_string"]:
            if len(self._cache) >= _CACHED_NAMES:
                self._cache.clear()
            self._cache[path] = function
        return function

    def _parse(self, scope: Scope) -> FunctionName:
        raw: bytes = scope["raw_path"]
        qualifier = None
        if scope["query_string"]:
            qualifier = parse_qs(scope["query_string"].decode("latin-1")).get("Qualifier", [None])[0]
        return function_name.parse(
            unquote(raw[len(PREFIX) : -len(SUFFIX)].decode("latin-1")),
            default_namespace=self._gateway.settings.default_namespace,
            qualifier=qualifier,
        )

    # -- the invocation

    async def _invoke(
        self, scope: Scope, receive: Receive, send: Send, function: FunctionState, request_id: str
    ) -> None:
        gateway = self._gateway
        client = scope[CLIENT]
        exchange = Exchange(gateway, function, InvocationType.REQUEST_RESPONSE, request_id)
        client.on_disconnect = exchange.abort
        headers: Headers = scope["headers"]
        body = Body(
            receive,
            headers,
            gateway.bodies,
            limit=gateway.settings.max_request_bytes,
            timeout=gateway.settings.body_timeout,
        )
        outcome = Outcome.ERROR
        try:
            invocation_type, more = _read_headers(headers)
            if function.protocol != "lambda":
                raise InvalidRequest(
                    f"{function.key} is a web server (code.image.protocol: http): call it at /fn/{function.key}/"
                )
            if invocation_type == EVENT:
                await self._intake.from_lambda_api(exchange, scope, receive, send)
                return
            gateway.dispatcher.admit(function)
            payload = await body.read(is_here=client.body_is_here)
            if payload:
                json_check.check(payload)
            match invocation_type:
                case b"RequestResponse":
                    connection = await exchange.request(
                        lambda function: (
                            b"%b%b\r\n%bContent-Length: %d\r\n\r\n"
                            % (function.request_head, request_id.encode(), more, len(payload or b"{}"))
                        ),
                        payload or b"{}",
                    )
                    body.close()
                    await _answer(send, exchange, connection)
                case b"DryRun":
                    exchange.kind = InvocationType.DRY_RUN
                    headers = [(b"x-amzn-requestid", request_id.encode())]
                    await send({"type": "http.response.start", "status": 204, "headers": headers})
                    await send({"type": "http.response.body"})
                case other:
                    raise InvalidRequest(
                        f"X-Amz-Invocation-Type: {other.decode('latin-1')!r} is none of RequestResponse, Event and DryRun"
                    )
            outcome = Outcome.FUNCTION_ERROR if exchange.function_error else Outcome.SUCCESS
        except BaseException as error:
            outcome = outcome_of(error)
            raise
        finally:
            client.on_disconnect = None
            body.close()
            # in the loop's next turn: the answer leaves at the end of this one
            gateway.loop.call_soon(exchange.end, outcome)


async def _answer(send: Send, exchange: Exchange, connection: "Connection") -> None:
    """Pass a pod's answer on as it comes."""
    headers: Headers = [JSON, (b"x-amzn-requestid", exchange.request_id.encode())]
    for name, value in connection.headers:
        passed = _PASSED_ON.get(name)
        if passed is not None:
            headers.append((passed, value))
    if exchange.cold_start is not None:
        headers.append((COLD_START, exchange.cold_start))
    await send({"type": "http.response.start", "status": connection.status, "headers": headers})
    await pass_body_on(send, connection)


def _read_headers(headers: Headers) -> tuple[bytes, bytes]:
    """The invocation type, and the header lines that go on to the pod."""
    invocation_type = b"RequestResponse"
    more = b""
    for name, value in headers:
        if name == _TYPE:
            invocation_type = value
        elif name == _LOG_TYPE:
            if value not in (b"Tail", b"None"):
                raise InvalidRequest(f"{wire.LOG_TYPE}: {value.decode('latin-1')!r} is neither Tail nor None")
            more += b"%b: %b\r\n" % (_LOG_TYPE, value)
        elif name == _CONTEXT:
            _check_context(value)
            more += b"%b: %b\r\n" % (name, value)
        elif name in (_TRACE, _COGNITO):
            more += b"%b: %b\r\n" % (name, value)
    return invocation_type, more


def _check_context(value: bytes) -> None:
    try:
        if len(value) > _MAX_CONTEXT or not isinstance(json.loads(base64.b64decode(value, validate=True)), dict):
            raise ValueError
    except (ValueError, binascii.Error):
        raise InvalidRequestContent(
            f"{wire.CLIENT_CONTEXT} must be a JSON object in base64, at most {_MAX_CONTEXT} bytes"
        ) from None
