"""`POST /2015-03-31/functions/{name}/invocations`: Lambda's Invoke, as AWS' own clients call it.

https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html
"""

import asyncio
import base64
import binascii
import json
from typing import Final
from urllib.parse import parse_qs, unquote

from kappa_core import function_name, wire
from kappa_core.errors import InvalidRequest, InvalidRequestContent, KappaError
from kappa_core.function_name import FunctionName
from kappa_core.metrics import InvocationType, Outcome
from kappa_gateway import json_check
from kappa_gateway.edge.answers import COLD_START, JSON, answer_error, new_request_id, pass_body_on
from kappa_gateway.edge.asgi import CLIENT, Headers, Receive, Scope, Send
from kappa_gateway.edge.async_intake import EVENT, AsyncIntake
from kappa_gateway.edge.bodies import Body, BodyMemory
from kappa_gateway.edge.lookup import Lookup
from kappa_gateway.invoke.invocation import Invocation
from kappa_gateway.invoke.invoker import Invoker
from kappa_gateway.invoke.outcome import ClientGone, outcome_of
from kappa_gateway.invoke.request import Request
from kappa_gateway.pods.state import FunctionState
from kappa_gateway.settings import Settings
from kappa_gateway.transport.connection import Connection

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

    def __init__(
        self, lookup: Lookup, invoker: Invoker, intake: AsyncIntake, bodies: BodyMemory, settings: Settings
    ) -> None:
        self._lookup = lookup
        self._invoker = invoker
        self._intake = intake
        self._bodies = bodies
        self._settings = settings
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
        if self._cache_version != self._lookup.version:
            self._cache.clear()
            self._cache_version = self._lookup.version
        path = scope["raw_path"]
        function = self._cache.get(path) if not scope["query_string"] else None
        if function is not None:
            return function
        try:
            function = self._lookup.by_name(self._parse(scope))
        except KappaError as error:
            self._lookup.count_refusal(error.error_type)
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
            default_namespace=self._settings.default_namespace,
            qualifier=qualifier,
        )

    # -- the invocation

    async def _invoke(
        self, scope: Scope, receive: Receive, send: Send, function: FunctionState, request_id: str
    ) -> None:
        client = scope[CLIENT]
        invocation = Invocation(self._invoker, function, InvocationType.REQUEST_RESPONSE, request_id)
        client.on_disconnect = invocation.abort
        headers: Headers = scope["headers"]
        body = Body(
            receive,
            headers,
            self._bodies,
            limit=self._settings.max_request_bytes,
            timeout=self._settings.body_timeout,
        )
        outcome = Outcome.ERROR
        try:
            invocation_type, more = _read_headers(headers)
            if function.protocol != "lambda":
                raise InvalidRequest(
                    f"{function.key} is a web server (code.image.protocol: http): call it at /fn/{function.key}/"
                )
            if invocation_type == EVENT:
                await self._intake.from_lambda_api(invocation, scope, receive, send)
                return
            self._invoker.dispatcher.admit(function)
            payload = await body.read(is_here=client.body_is_here)
            if payload:
                json_check.check(payload)
            match invocation_type:
                case b"RequestResponse":
                    tail = b"%b\r\n%bContent-Length: %d\r\n\r\n" % (request_id.encode(), more, len(payload or b"{}"))
                    connection = await invocation.send(
                        Request(lambda function: function.request_head + tail, payload or b"{}")
                    )
                    if connection is None:
                        raise ClientGone
                    body.close()
                    await _answer(send, invocation, connection)
                case b"DryRun":
                    invocation.kind = InvocationType.DRY_RUN
                    headers = [(b"x-amzn-requestid", request_id.encode())]
                    await send({"type": "http.response.start", "status": 204, "headers": headers})
                    await send({"type": "http.response.body"})
                case other:
                    raise InvalidRequest(
                        f"X-Amz-Invocation-Type: {other.decode('latin-1')!r} is not RequestResponse, Event or DryRun"
                    )
            outcome = Outcome.FUNCTION_ERROR if invocation.function_error else Outcome.SUCCESS
        except BaseException as error:
            outcome = outcome_of(error)
            raise
        finally:
            client.on_disconnect = None
            body.close()
            # in the loop's next turn: the answer leaves at the end of this one
            asyncio.get_running_loop().call_soon(invocation.end, outcome)


async def _answer(send: Send, invocation: Invocation, connection: Connection) -> None:
    """Pass a pod's answer on as it comes."""
    headers: Headers = [JSON, (b"x-amzn-requestid", invocation.request_id.encode())]
    for name, value in connection.headers:
        passed = _PASSED_ON.get(name)
        if passed is not None:
            headers.append((passed, value))
    if invocation.cold_start is not None:
        headers.append((COLD_START, invocation.cold_start))
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
