"""What the gateway's requests and the agent's answers look like, pure. See `kappa_core.wire` for the contract."""

from __future__ import annotations

import os
import time

from kappa_core import wire
from kappa_runtime.io.http_protocol import Request
from kappa_runtime.worker.invocation import Answer, Caller, Invocation
from kappa_runtime.worker.logs import LogTail

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from typing import Final

INVOKE_PREFIX: Final = b"/2015-03-31/functions/"
INVOKE_SUFFIX: Final = b"/invocations"
READY: Final = wire.READY_PATH.encode()
HEALTH: Final = wire.HEALTH_PATH.encode()
DRAIN: Final = wire.DRAIN_PATH.encode()
KEPT: Final = wire.KEPT_PATH.encode()
SPECIALIZE: Final = wire.SPECIALIZE_PATH.encode()
POOL_INVOKE: Final = wire.INVOKE_PATH.encode()
MAX_WAIT: Final = 60.0
"""Seconds that `READY_PATH?wait=` holds an answer at most."""

REQUEST_ID: Final = wire.REQUEST_ID.lower().encode()
_DEADLINE: Final = wire.DEADLINE_MS.lower().encode()
_ARN: Final = wire.INVOKED_ARN.lower().encode()
_TRACE: Final = wire.TRACE_ID.lower().encode()
_CLIENT_CONTEXT: Final = wire.CLIENT_CONTEXT.lower().encode()
_COGNITO: Final = wire.COGNITO_IDENTITY.lower().encode()
_LOG_TYPE: Final = wire.LOG_TYPE.lower().encode()
ATTEMPT: Final = wire.ATTEMPT.lower().encode()

_HEAD: Final = (
    f"Content-Type: %b\r\n{wire.EXECUTED_VERSION}: $LATEST\r\n{wire.REQUEST_ID}: %b\r\n{wire.DURATION_MS}: %.2f\r\n"
).encode()
_ERROR: Final = f"{wire.FUNCTION_ERROR}: %b\r\n".encode()
_INIT: Final = f"{wire.INIT_DURATION_MS}: %.2f\r\n".encode()
_PHASES: Final = f"{wire.PHASES}: %binit=%.2f,run=%.2f\r\n".encode()
_LOG: Final = f"{wire.LOG_RESULT}: %b\r\n".encode()
PROCESSING: Final = b"HTTP/1.1 102 Processing\r\n\r\n"
REFUSED: Final = f"Content-Type: application/json\r\n{wire.REFUSED}: %b\r\n".encode()


WANTED: Final = frozenset(
    (REQUEST_ID, _DEADLINE, _ARN, _TRACE, _CLIENT_CONTEXT, _COGNITO, _LOG_TYPE, ATTEMPT),
)
"""The headers that are read."""


class BadRequest(Exception):
    """The message is for the caller."""


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


def read_invocation(request: Request, caller: Caller) -> Invocation:
    """An invocation from its HTTP request. Raises `BadRequest`."""
    headers = request.headers
    raw_id = headers.get(REQUEST_ID)
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


def check_invocation(request: Request, request_id: str, caller: Caller) -> None:
    """Whether it can be run; it gets this id. Raises `BadRequest`."""
    if request.headers.setdefault(REQUEST_ID, request_id.encode()) != request_id.encode():
        raise BadRequest(f"{wire.REQUEST_ID}: not the id that was signed")
    read_invocation(request, caller)
    if ATTEMPT in request.headers:
        read_attempt(request.headers[ATTEMPT])


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
