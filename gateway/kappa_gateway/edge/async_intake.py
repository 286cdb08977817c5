"""Asynchronous invocations over HTTP: 202 is answered once the queue has stored the event durably.

`X-Amz-Invocation-Type: Event` on the Lambda API, `Kappa-Invocation-Type: Event` on function URLs. No pod is needed yet,
so an event is accepted even if its function cannot run now or has `maxReplicas: 0`. Free of FastAPI, like the
invocations that wait for an answer.
"""

import json
import re
from typing import Final

from kappa_core import wire
from kappa_core.errors import InvalidRequest
from kappa_core.event import Status, keyed_id
from kappa_core.metrics import InvocationType
from kappa_gateway import json_check
from kappa_gateway.edge import forwarding
from kappa_gateway.edge.answers import JSON
from kappa_gateway.edge.asgi import CLIENT, REQUEST_ID, Headers, Receive, Scope, Send
from kappa_gateway.edge.bodies import Body, BodyMemory
from kappa_gateway.edge.target import Target
from kappa_gateway.edge.url_event import url_event
from kappa_gateway.events.intake import HTTP_HEADERS, HTTP_METHOD, HTTP_TARGET, Intake
from kappa_gateway.invoke.invocation import Invocation
from kappa_gateway.settings import Settings

EVENT: Final = b"Event"
TYPE_HEADER: Final = b"kappa-invocation-type"
"""On function URLs; the Lambda API has its own."""
NO_QUEUE: Final = (
    "this gateway has no queue, so it takes no asynchronous invocations: set KAPPA_GATEWAY_QUEUE_URL "
    "(with the chart: queue.nats.enabled=true, or queue.url), or invoke with RequestResponse"
)

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


class AsyncIntake:
    """Its methods answer the request, or raise a `KappaError`. `intake` None: this gateway has no queue."""

    def __init__(self, intake: Intake | None, bodies: BodyMemory, settings: Settings) -> None:
        self._intake = intake
        self._bodies = bodies
        self._settings = settings

    async def from_lambda_api(self, invocation: Invocation, scope: Scope, receive: Receive, send: Send) -> None:
        """The headers have been checked."""
        keyed = self._identify(invocation, scope)
        headers: Headers = scope["headers"]
        body = self._body(headers, receive)
        try:
            payload = await body.read(is_here=scope[CLIENT].body_is_here)
            if payload:
                json_check.check(payload)
            attributes = {name.decode(): value.decode("latin-1") for name, value in headers if name in _PASSED_ON}
            is_new = await self._store(invocation, payload or b"{}", attributes, keyed)
        finally:
            body.close()
        answer = [(b"x-amzn-requestid", invocation.request_id.encode()), (b"content-length", b"0")]
        if not is_new:
            answer.append(_DUPLICATE)
        await send({"type": "http.response.start", "status": 202, "headers": answer})
        await send({"type": "http.response.body"})

    async def from_url(
        self, invocation: Invocation, scope: Scope, receive: Receive, send: Send, target: Target
    ) -> None:
        keyed = self._identify(invocation, scope)
        body = self._body(scope["headers"], receive)
        try:
            data = await body.read(is_here=scope[CLIENT].body_is_here)
            if invocation.function.protocol == "http":
                payload, attributes = data, self._web_attributes(scope, target)
            else:
                payload = url_event(self._settings, scope, target, data, invocation.request_id)
                trace = forwarding.header(scope["headers"], _TRACE.encode())
                attributes = {_TRACE: trace.decode("latin-1")} if trace else {}
            is_new = await self._store(invocation, payload, attributes, keyed)
        finally:
            body.close()
        function = invocation.function
        said: dict[str, str | bool] = {"requestId": invocation.request_id}
        said.update({"status": Status.QUEUED} if is_new else {"duplicate": True})
        said["statusUrl"] = status_path(function.namespace, function.name, invocation.request_id)
        text = json.dumps(said).encode()
        answer = [
            JSON,
            (b"content-length", b"%d" % len(text)),
            (b"x-amzn-requestid", invocation.request_id.encode()),
        ]
        if not is_new:
            answer.append(_DUPLICATE)
        await send({"type": "http.response.start", "status": 202, "headers": answer})
        await send({"type": "http.response.body", "body": text})

    # -- inside

    def _identify(self, invocation: Invocation, scope: Scope) -> bool:
        """Whether the request has an idempotency key. If so, the key's id becomes the request's, in errors too."""
        invocation.kind = InvocationType.EVENT
        if self._intake is None:
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
        function = invocation.function
        invocation.request_id = scope[REQUEST_ID] = keyed_id(function.namespace, function.name, key.decode())
        return True

    def _body(self, headers: Headers, receive: Receive) -> Body:
        return Body(
            receive,
            headers,
            self._bodies,
            limit=self._settings.event_max_bytes,
            timeout=self._settings.body_timeout,
        )

    def _web_attributes(self, scope: Scope, target: Target) -> dict[str, str]:
        query: bytes = scope["query_string"]
        headers = [
            [name.decode("latin-1"), value.decode("latin-1")]
            for name, value in forwarding.end_to_end(scope["headers"])
            if name not in _NOT_IN_EVENTS
        ]
        trust = self._settings.trusted_proxies > 0
        for line in forwarding.forwarded(scope, target.prefix, trust=trust).decode("latin-1").splitlines():
            name, _, value = line.partition(": ")
            headers.append([name, value])
        return {
            HTTP_METHOD: scope["method"],
            HTTP_TARGET: (target.path + (b"?" + query if query else b"")).decode("latin-1"),
            HTTP_HEADERS: json.dumps(headers, separators=(",", ":")),
        }

    async def _store(self, invocation: Invocation, payload: bytes, attributes: dict[str, str], keyed: bool) -> bool:
        """False: this event was known already."""
        assert self._intake is not None
        is_new = await self._intake.enqueue(
            invocation.function, invocation.request_id, payload, attributes, keyed=keyed
        )
        # from here on it is an event, whose attempts are counted
        invocation.forget()
        return is_new


def status_path(namespace: str, function: str, request_id: str) -> str:
    """Where this gateway says what has become of an event."""
    return f"/v1/namespaces/{namespace}/functions/{function}/async/{request_id}"
