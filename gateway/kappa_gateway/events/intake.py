"""Where asynchronous invocations come in: 202 is answered once the queue has the event, durably.

`X-Amz-Invocation-Type: Event` on the Lambda API, `Kappa-Invocation-Type: Event` on function URLs. No pod is asked for,
so a function that cannot run now, or has `maxReplicas: 0`, is no reason to refuse. Kept free of FastAPI, as the
invocations that wait for an answer are.

An event's `attributes`, as this module writes them:

| attribute | of | holds |
| --- | --- | --- |
| `x-amz-client-context`, `x-amzn-trace-id`, `x-amz-cognito-identity` | lambda functions | headers for the pod, by their name |
| `http.method`, `http.target` | web servers | the request line's: target is path and query as the server sees them |
| `http.headers` | web servers | JSON, `[[name, value], …]`: all but `Content-Length` |
"""

import json
import re
import time
from typing import TYPE_CHECKING, Final

from kappa_core import wire
from kappa_core.errors import InvalidRequest, QueueUnavailable, RequestTooLarge
from kappa_core.event import Event, Kind, Lane, Status, keyed_id
from kappa_core.metrics import InvocationType
from kappa_gateway import forwarding, json_check
from kappa_gateway.answers import JSON, REQUEST_ID, Headers, Receive, Scope, Send
from kappa_gateway.bodies import Body
from kappa_gateway.exchange import Exchange
from kappa_gateway.http_server import CLIENT
from kappa_gateway.url_event import url_event

if TYPE_CHECKING:
    from kappa_gateway.function_urls import Target
    from kappa_gateway.gateway import Gateway

EVENT: Final = b"Event"
TYPE_HEADER: Final = b"kappa-invocation-type"
"""On function URLs; the Lambda API has its own."""
HTTP_METHOD: Final = "http.method"
HTTP_TARGET: Final = "http.target"
HTTP_HEADERS: Final = "http.headers"
NO_QUEUE: Final = (
    "this gateway has no queue, so it takes no asynchronous invocations: set KAPPA_GATEWAY_QUEUE_URL "
    "(with the chart: queue.nats.enabled=true, or queue.url), or invoke with RequestResponse"
)
MAX_STORING: Final = 4096
"""Events that wait for the queue's confirmation at a time: what a slow queue may cost in memory."""

_KEY_HEADER: Final = b"kappa-idempotency-key"
_SDK_HEADER: Final = b"amz-sdk-invocation-id"
_KEY: Final = re.compile(rb"[\x20-\x7e]{1,256}")
_DUPLICATE: Final = (b"kappa-duplicate", b"true")
_TRACE: Final = wire.TRACE_ID.lower()
_PASSED_ON: Final = frozenset(
    name.lower().encode() for name in (wire.CLIENT_CONTEXT, wire.TRACE_ID, wire.COGNITO_IDENTITY)
)
_NOT_IN_EVENTS: Final = frozenset({b"content-length", b"expect", TYPE_HEADER, *forwarding.FORWARDED})


def is_event(headers: Headers) -> bool:
    """Whether a request to a function URL asks for an asynchronous invocation. Raises `InvalidRequest`."""
    for name, value in headers:
        if name == TYPE_HEADER:
            if value not in (EVENT, b"RequestResponse"):
                raise InvalidRequest(
                    f"Kappa-Invocation-Type: {value.decode('latin-1')!r} is neither RequestResponse nor Event"
                )
            return value == EVENT
    return False


class Intake:
    """One per gateway and way in. Its methods answer the request, or raise a `KappaError`."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._storing = 0

    async def from_lambda_api(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """The headers have been checked."""
        keyed = self._identify(exchange, scope)
        headers: Headers = scope["headers"]
        body = self._body(headers, receive)
        try:
            payload = await body.read(is_here=scope[CLIENT].body_is_here)
            if payload:
                json_check.check(payload)
            attributes = {name.decode(): value.decode("latin-1") for name, value in headers if name in _PASSED_ON}
            is_new = await self._store(exchange, payload or b"{}", attributes, keyed)
        finally:
            body.close()
        answer = [(b"x-amzn-requestid", exchange.request_id.encode()), (b"content-length", b"0")]
        if not is_new:
            answer.append(_DUPLICATE)
        await send({"type": "http.response.start", "status": 202, "headers": answer})
        await send({"type": "http.response.body"})

    async def from_url(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send, target: "Target") -> None:
        keyed = self._identify(exchange, scope)
        body = self._body(scope["headers"], receive)
        try:
            data = await body.read(is_here=scope[CLIENT].body_is_here)
            if exchange.function.protocol == "http":
                payload, attributes = data, self._web_attributes(scope, target)
            else:
                payload = url_event(self._gateway.settings, scope, target, data, exchange.request_id)
                trace = forwarding.header(scope["headers"], _TRACE.encode())
                attributes = {_TRACE: trace.decode("latin-1")} if trace else {}
            is_new = await self._store(exchange, payload, attributes, keyed)
        finally:
            body.close()
        function = exchange.function
        said: dict[str, str | bool] = {"requestId": exchange.request_id}
        said.update({"status": Status.QUEUED} if is_new else {"duplicate": True})
        said["statusUrl"] = status_path(function.namespace, function.name, exchange.request_id)
        text = json.dumps(said).encode()
        answer = [
            JSON,
            (b"content-length", b"%d" % len(text)),
            (b"x-amzn-requestid", exchange.request_id.encode()),
        ]
        if not is_new:
            answer.append(_DUPLICATE)
        await send({"type": "http.response.start", "status": 202, "headers": answer})
        await send({"type": "http.response.body", "body": text})

    # -- inside

    def _identify(self, exchange: Exchange, scope: Scope) -> bool:
        """Give the request the id of its idempotency key, where it has one: also for its errors. Says whether it has."""
        exchange.kind = InvocationType.EVENT
        if self._gateway.events is None:
            raise InvalidRequest(NO_QUEUE)
        key = sdk_key = b""
        for name, value in scope["headers"]:
            if name == _KEY_HEADER:
                if not _KEY.fullmatch(value):
                    raise InvalidRequest("Kappa-Idempotency-Key must be 1 to 256 printable ASCII characters")
                key = value
            elif name == _SDK_HEADER and _KEY.fullmatch(value):
                sdk_key = value
        key = key or sdk_key
        if not key:
            return False
        function = exchange.function
        exchange.request_id = scope[REQUEST_ID] = keyed_id(function.namespace, function.name, key.decode())
        return True

    def _body(self, headers: Headers, receive: Receive) -> Body:
        settings = self._gateway.settings
        return Body(
            receive,
            headers,
            self._gateway.bodies,
            limit=settings.event_max_bytes,
            timeout=settings.body_timeout,
        )

    def _web_attributes(self, scope: Scope, target: "Target") -> dict[str, str]:
        query: bytes = scope["query_string"]
        headers = [
            [name.decode("latin-1"), value.decode("latin-1")]
            for name, value in forwarding.end_to_end(scope["headers"])
            if name not in _NOT_IN_EVENTS
        ]
        trust = self._gateway.settings.trusted_proxies > 0
        for line in forwarding.forwarded(scope, target.prefix, trust=trust).decode("latin-1").splitlines():
            name, _, value = line.partition(": ")
            headers.append([name, value])
        return {
            HTTP_METHOD: scope["method"],
            HTTP_TARGET: (target.path + (b"?" + query if query else b"")).decode("latin-1"),
            HTTP_HEADERS: json.dumps(headers, separators=(",", ":")),
        }

    async def _store(self, exchange: Exchange, payload: bytes, attributes: dict[str, str], keyed: bool) -> bool:
        """False: this event was known already."""
        events = self._gateway.events
        assert events is not None
        limit = events.queue.max_event_bytes
        if limit is not None and len(payload) > limit:
            raise RequestTooLarge(f"the event is {len(payload)} bytes as it is stored; the queue takes {limit} at most")
        if self._storing >= MAX_STORING:
            raise QueueUnavailable(
                f"the queue does not keep up: {MAX_STORING} events wait for it at this gateway; try again in a moment"
            )
        function = exchange.function
        lane = Lane(Kind.INVOCATION, function.namespace, function.name)
        self._storing += 1
        try:
            is_new = await events.accept(Event(exchange.request_id, lane, payload, time.time(), attributes, keyed))
        finally:
            self._storing -= 1
        exchange.forget()
        return is_new


def status_path(namespace: str, function: str, request_id: str) -> str:
    """Where this gateway says what has become of an event."""
    return f"/v1/namespaces/{namespace}/functions/{function}/async/{request_id}"
