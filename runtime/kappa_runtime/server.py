"""HTTP to the gateway: invocations, readiness and health. See `kappa_core.wire` for the contract."""

from __future__ import annotations

import os
import time

from kappa_core import wire
from kappa_runtime.http_protocol import HttpProtocol, Request
from kappa_runtime.invocation import Answer, Invocation
from kappa_runtime.logs import LogTail

TYPE_CHECKING = False  # `typing` would be loaded for annotations alone
if TYPE_CHECKING:
    from typing import Final

    from kappa_runtime.agent import Agent
    from kappa_runtime.kept import Kept
    from kappa_runtime.readiness import Readiness

_INVOKE_PREFIX: Final = b"/2015-03-31/functions/"
_INVOKE_SUFFIX: Final = b"/invocations"
_READY: Final = wire.READY_PATH.encode()
_HEALTH: Final = wire.HEALTH_PATH.encode()
_DRAIN: Final = wire.DRAIN_PATH.encode()
_KEPT: Final = wire.KEPT_PATH.encode()
MAX_WAIT: Final = 60.0
"""Seconds that `READY_PATH?wait=` holds an answer at most."""

_REQUEST_ID: Final = wire.REQUEST_ID.lower().encode()
_DEADLINE: Final = wire.DEADLINE_MS.lower().encode()
_ARN: Final = wire.INVOKED_ARN.lower().encode()
_TRACE: Final = wire.TRACE_ID.lower().encode()
_CLIENT_CONTEXT: Final = wire.CLIENT_CONTEXT.lower().encode()
_COGNITO: Final = wire.COGNITO_IDENTITY.lower().encode()
_LOG_TYPE: Final = wire.LOG_TYPE.lower().encode()
_ATTEMPT: Final = wire.ATTEMPT.lower().encode()

_HEAD: Final = (
    f"Content-Type: %b\r\n{wire.EXECUTED_VERSION}: $LATEST\r\n{wire.REQUEST_ID}: %b\r\n{wire.DURATION_MS}: %.2f\r\n"
).encode()
_ERROR: Final = f"{wire.FUNCTION_ERROR}: %b\r\n".encode()
_INIT: Final = f"{wire.INIT_DURATION_MS}: %.2f\r\n".encode()
_PHASES: Final = f"{wire.PHASES}: %binit=%.2f,run=%.2f\r\n".encode()
_LOG: Final = f"{wire.LOG_RESULT}: %b\r\n".encode()
_PROCESSING: Final = b"HTTP/1.1 102 Processing\r\n\r\n"
_REFUSED: Final = f"Content-Type: application/json\r\n{wire.REFUSED}: %b\r\n".encode()


class BadRequest(Exception):
    """The message is for the caller."""


class AgentProtocol(HttpProtocol):
    WANTED = frozenset((_REQUEST_ID, _DEADLINE, _ARN, _TRACE, _CLIENT_CONTEXT, _COGNITO, _LOG_TYPE, _ATTEMPT))

    def __init__(self, agent: Agent, max_body: int) -> None:
        super().__init__(max_body)
        self._agent = agent
        self._kept: Kept | None = None
        """The event's answer that the last request asked for."""
        agent.connections.add(self)

    def closed(self) -> None:
        self._agent.connections.discard(self)
        if self._kept is not None:
            self._agent.kept.leave(self._kept, self)
        self._agent.changed()
        self._agent.readiness.forget(self)

    def handle(self, request: Request) -> None:
        if self._kept is not None:
            self._handle_next(request)
            return
        path = request.path
        if self._agent.draining and _ATTEMPT not in request.headers and not path.startswith(_KEPT):
            # over the others a gateway says what it has seen to
            request.keep_alive = False
        if path.startswith(_INVOKE_PREFIX) and path.endswith(_INVOKE_SUFFIX):
            if request.method != b"POST":
                self.fail(405, "MethodNotAllowed", "invocations are POST requests")
            elif request.too_large:
                self.fail(413, "RequestTooLarge", f"the event is over {self.max_body} bytes")
            else:
                self.invoke(request)
        elif path == _READY:
            self.answer_ready(request, self._agent.readiness)
        elif path == _HEALTH:
            self.respond_json(200, b'{"status":"ok"}')
        elif path == _DRAIN:
            self._agent.tell_when_drained(self)
        elif path.startswith(_KEPT):
            self._find_kept(request)
        else:
            self.handle_other(request)

    def handle_other(self, request: Request) -> None:
        path = request.path
        self.fail(
            404,
            "NotFound",
            f"the agent has no {path.decode(errors='replace')}: it serves {wire.INVOKE_PATH}, {wire.READY_PATH},"
            f" {wire.HEALTH_PATH} and {wire.KEPT_PATH}",
        )

    def error_body(self, status: int, message: str) -> bytes:
        from kappa_runtime import errors

        return errors.body("RequestTooLarge" if status == 413 else "InvalidRequest", message)

    # invocations

    def invoke(self, request: Request) -> None:
        agent = self._agent
        if _ATTEMPT in request.headers:
            self._invoke_event(request)
            return
        refused = agent.refusal()
        if refused is not None:
            self._refuse_invocation(refused)
            return
        try:
            invocation = read_invocation(request, self)
        except BadRequest as error:
            self.fail(400, "InvalidRequest", str(error))
            return
        if not invocation.arn:
            invocation.arn = agent.arn
        agent.submit(invocation)

    def check_invocation(self, request: Request, request_id: str) -> None:
        """Whether `invoke` will take it; it gets this id. Raises `BadRequest`."""
        if request.headers.setdefault(_REQUEST_ID, request_id.encode()) != request_id.encode():
            raise BadRequest(f"{wire.REQUEST_ID}: not the id that was signed")
        read_invocation(request, self)
        if _ATTEMPT in request.headers:
            read_attempt(request.headers[_ATTEMPT])

    def answer(self, invocation: Invocation, answer: Answer) -> None:
        if self._agent.draining:
            self.close_after()
        self.respond(200, answer_head(invocation, answer), answer.body)

    def _refuse_invocation(self, refused: str) -> None:
        from kappa_runtime import errors

        if refused == wire.REFUSED_BUSY:
            status, message = 429, f"all {self._agent.config.concurrency} slots of this pod are taken; nothing was run"
        else:
            status, message = 503, "this pod is stopping; nothing was run"
        self.respond(status, _REFUSED % refused.encode(), errors.body("Kappa.Refused", message))

    # events, whose answers are kept

    def _invoke_event(self, request: Request) -> None:
        """An attempt that is known already is not run again: it gets the same answer, and takes no slot."""
        agent = self._agent
        try:
            invocation = read_invocation(request, self)
            key = invocation.request_id, read_attempt(request.headers[_ATTEMPT])
        except BadRequest as error:
            self.fail(400, "InvalidRequest", str(error))
            return
        kept = agent.kept.find(key)
        if kept is not None:
            self._hold(kept)
            return
        refused = agent.refusal()
        if refused is not None:
            self._refuse_invocation(refused)
            return
        kept = agent.kept.begin(key)
        self._hold(kept)
        invocation.caller = kept
        if not invocation.arn:
            invocation.arn = agent.arn
        agent.submit(invocation)

    def _find_kept(self, request: Request) -> None:
        """`GET`: the answer, as it was given, once there is one. `DELETE`: it was seen to."""
        request_id, _, attempt = request.path.removeprefix(_KEPT).decode("latin-1").rpartition("/")
        kept = self._agent.kept.find((request_id, int(attempt))) if attempt.isdecimal() and attempt.isascii() else None
        if request.method == b"DELETE":
            forgotten = kept is not None and self._agent.kept.forget(kept)
            self.respond_json(200, b'{"forgotten": true}' if forgotten else b'{"forgotten": false}')
        elif request.method != b"GET":
            self.fail(405, "MethodNotAllowed", f"{wire.KEPT_PATH}REQUEST_ID/ATTEMPT: GET or DELETE")
        elif kept is None:
            self.fail(
                404,
                "NotKept",
                f"nothing is known of attempt {attempt} of {request_id}: it did not run in this pod, or its answer was seen"
                f" to, or is older than {wire.KEPT_SECONDS:.0f} s",
            )
        else:
            if kept.head is None and self.transport is not None:
                self.transport.write(_PROCESSING)
            self._hold(kept)

    def _hold(self, kept: Kept) -> None:
        self._kept = kept
        self._agent.kept.hold(kept, self)

    def _handle_next(self, request: Request) -> None:
        """A gateway uses its connection again once it has seen to the answer that it got over it before."""
        kept, self._kept = self._kept, None
        self.handle(request)
        if kept is not None and self._kept is not kept:
            kept.holders.discard(self)
            self._agent.kept.forget(kept)

    # readiness

    def answer_ready(self, request: Request, readiness: Readiness) -> None:
        try:
            wait = read_wait(request.query)
        except ValueError:
            self.fail(400, "InvalidRequest", f"{wire.READY_PATH}?wait=SECONDS: a number, such as 0.5")
            return
        readiness.answer(self, wait)

    def fail(self, status: int, error_type: str, message: str) -> None:
        from kappa_runtime import errors

        self.respond_json(status, errors.body(error_type, message))


def answer_head(invocation: Invocation, answer: Answer) -> bytes:
    """The header lines of an answer."""
    head = _HEAD % (answer.content_type, invocation.request_id.encode(), answer.duration_ms)
    if answer.error:
        head += _ERROR % answer.error
    if answer.init_ms is not None:
        head += _INIT % answer.init_ms
        head += _PHASES % (answer.opening, answer.init_ms, answer.duration_ms)
    if answer.log_result:
        head += _LOG % answer.log_result
    return head


def read_invocation(request: Request, caller: AgentProtocol) -> Invocation:
    """An invocation from its HTTP request. Raises `BadRequest`."""
    headers = request.headers
    raw_id = headers.get(_REQUEST_ID)
    request_id = raw_id.decode("latin-1") if raw_id else new_request_id()
    if not (len(request_id) <= 128 and request_id.isascii() and request_id.replace("-", "").isalnum()):
        raise BadRequest(f"{wire.REQUEST_ID}: letters, digits and hyphens, at most 128")
    invocation = Invocation(request_id, request.body or b"{}", caller)
    invocation.arn = headers.get(_ARN, b"")
    invocation.trace_id = headers.get(_TRACE) or new_trace_id()
    deadline = headers.get(_DEADLINE)
    if deadline:
        if not deadline.isdigit() or len(deadline) > 15:
            raise BadRequest(f"{wire.DEADLINE_MS}: milliseconds since the epoch")
        invocation.deadline_ms = int(deadline)
    context = headers.get(_CLIENT_CONTEXT)
    if context:
        invocation.client_context = read_client_context(context)
    invocation.cognito_identity = headers.get(_COGNITO, b"")
    if headers.get(_LOG_TYPE) == b"Tail":
        invocation.tail = LogTail()
    return invocation


def read_attempt(value: bytes) -> int:
    """Which attempt, from 1. Raises `BadRequest`."""
    if not value.isdigit() or len(value) > 9 or not int(value):
        raise BadRequest(f"{wire.ATTEMPT}: a whole number from 1")
    return int(value)


def read_wait(query: bytes) -> float:
    """The seconds in `wait=SECONDS`, at most `MAX_WAIT`; 0 where it is absent. Raises `ValueError`."""
    for part in query.split(b"&"):
        name, _, value = part.partition(b"=")
        if name == b"wait":
            wait = float(value)
            if not wait >= 0:
                raise ValueError(f"{wait} is no time to wait")
            return min(wait, MAX_WAIT)
    return 0.0


def read_client_context(value: bytes) -> bytes:
    """Base64 JSON as Lambda's Invoke takes it → JSON on one line, ASCII. Raises `BadRequest`."""
    import binascii
    import json

    try:
        context = json.loads(binascii.a2b_base64(value))
    except ValueError:
        raise BadRequest(f"{wire.CLIENT_CONTEXT}: base64 of a JSON object") from None
    if not isinstance(context, dict):
        raise BadRequest(f"{wire.CLIENT_CONTEXT}: base64 of a JSON object")
    return json.dumps(context, separators=(",", ":")).encode()


def new_request_id() -> str:
    """A random UUID (version 4), for callers that gave no id."""
    bits = bytearray(os.urandom(16))
    bits[6] = bits[6] & 0x0F | 0x40
    bits[8] = bits[8] & 0x3F | 0x80
    text = bits.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def new_trace_id() -> bytes:
    """An X-Ray trace header that is not sampled: functions expect one."""
    text = os.urandom(20).hex()
    return f"Root=1-{int(time.time()):08x}-{text[:24]};Parent={text[24:]};Sampled=0".encode()
