"""One try of an invocation event: a request to a pod like any other, its answer read and judged.

The connection to the pod is kept out of use until the event was seen to, because the agent keeps the answer for so
long (see `wire.ATTEMPT`); the slot is free as soon as the answer is here.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kappa_core import wire
from kappa_core.errors import FunctionNotFound, GatewayTimeout, KappaError, PodLost
from kappa_core.event import Event, Trouble
from kappa_core.metrics import InvocationType, Outcome
from kappa_gateway.connection import Connection
from kappa_gateway.events.kept import hold
from kappa_gateway.events.tries import Tried, Unreadable, error_of
from kappa_gateway.exchange import ClientGone, Exchange, outcome_of
from kappa_gateway.state import FunctionState, PodState

if TYPE_CHECKING:
    from kappa_gateway.gateway import Gateway

POD_STOPPED: Final = "Kappa.PodStopped"
"""The agent's own error for what ran when its pod had to stop: not the function's fault."""
TOO_LARGE: Final = "Function.ResponseSizeTooLarge"

_FUNCTION_ERROR: Final = wire.FUNCTION_ERROR.lower().encode()
_PASSED_ON: Final = tuple(name.lower() for name in (wire.CLIENT_CONTEXT, wire.TRACE_ID, wire.COGNITO_IDENTITY))
_METHOD: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_TARGET: Final = re.compile(r"/[!-~\x80-\xff]*")
_NAME: Final = _METHOD
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})


@dataclass(frozen=True, slots=True)
class Call:
    """What is sent to a pod for an event."""

    head: Callable[[FunctionState], bytes]
    body: bytes
    idempotent: bool = False
    is_head: bool = False


def lambda_call(event: Event, attempt: int) -> Call:
    """Raises `Unreadable`."""
    more = b"%b: %d\r\n" % (wire.ATTEMPT.encode(), attempt)
    for name in _PASSED_ON:
        value = event.attributes.get(name)
        if value:
            more += _line(name, value)
    tail = b"%b\r\n%bContent-Length: %d\r\n\r\n" % (_plain(event.id), more, len(event.payload))
    return Call(lambda function: function.request_head + tail, event.payload)


def web_call(event: Event) -> Call:
    """The request to a web server as it came. Raises `Unreadable`."""
    method, target = event.attributes.get("http.method", "POST"), event.attributes.get("http.target", "/")
    if not _METHOD.fullmatch(method) or not _TARGET.fullmatch(target):
        raise Unreadable(f"{method[:64]!r} {target[:200]!r} is no request line")
    try:
        pairs = [(str(name), str(value)) for name, value in json.loads(event.attributes.get("http.headers", "[]"))]
    except (ValueError, TypeError) as error:
        raise Unreadable(f"its headers are no list of pairs ({error})") from None
    if "http.method" not in event.attributes:
        # the record of another function's end
        pairs = [("content-type", "application/json"), *pairs]
    lines = [_line(name, value) for name, value in pairs if name.lower() != "content-length"]
    if not any(name.lower() == "host" for name, _ in pairs):
        lines.append(_line("host", f"{event.lane.function}.{event.lane.namespace}"))
    lines.append(_line(wire.REQUEST_ID, event.id))
    first = f"{method} {target} HTTP/1.1\r\n".encode("latin-1")
    head = first + b"".join(lines) + b"content-length: %d\r\n\r\n" % len(event.payload)
    return Call(lambda _: head, event.payload, idempotent=method in _IDEMPOTENT, is_head=method == "HEAD")


def _line(name: str, value: str) -> bytes:
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise Unreadable(f"{name[:64]!r}: {value[:64]!r} is no header")
    return f"{name}: {value}\r\n".encode("latin-1")


def _plain(text: str) -> bytes:
    if not text.isascii() or not text.isprintable():
        raise Unreadable(f"{text[:64]!r} is no id")
    return text.encode()


class LeaseGone(ClientGone):
    """Somebody else may have the event by now, so it was not sent to a pod."""


class Attempt(Exchange):
    """`await run()`, then `seen_to` or `abandon`, always. `withdraw` may come while it waits for a slot."""

    __slots__ = ("_connection_kept", "_may_begin", "_number", "_on_place", "_withdrawn")

    def __init__(
        self,
        gateway: "Gateway",
        function: FunctionState,
        event: Event,
        number: int,
        on_place: Callable[[bool], None],
        may_begin: Callable[[], bool],
    ) -> None:
        super().__init__(gateway, function, InvocationType.EVENT, event.id)
        self._number = number
        """Which of the event's attempts this is, from 1."""
        self._on_place = on_place
        """Called with True when it gets a slot, with False when it waits for one (again)."""
        self._may_begin = may_begin
        """Asked when it has its slot: it may have waited long."""
        self._connection_kept: Connection | None = None
        self._withdrawn = False

    async def run(self, call: Call, keep: int) -> Tried:
        """`keep` is how many bytes of an answer are of use. Raises `FunctionNotFound`, `LeaseGone`, `ClientGone` once
        withdrawn."""
        outcome = Outcome.ERROR
        try:
            connection = await self.request(call.head, call.body, idempotent=call.idempotent, is_head=call.is_head)
            body, size = await self._read(connection, keep)
            tried = self._judge(connection, body, size)
            outcome = Outcome(tried.reason) if tried.trouble is not None else Outcome.SUCCESS
        except ClientGone:
            # it left the line: no invocation at all
            self.forget()
            raise
        except FunctionNotFound as error:
            outcome = outcome_of(error)
            raise
        except KappaError as error:
            outcome = outcome_of(error)
            return self._failed(error, outcome)
        except BaseException as error:
            outcome = outcome_of(error)
            raise
        finally:
            self._connection_kept = self.end(outcome, keep_connection=True)
        if self._connection_kept is not None:
            hold(self._connection_kept, self.request_id, self._number)
        return tried

    def seen_to(self) -> None:
        """What follows from the answer is durable: the agent need not keep it."""
        connection, self._connection_kept = self._connection_kept, None
        if connection is not None:
            connection.finish()

    def abandon(self) -> None:
        """Nobody has seen to the answer: the agent is to keep it for whoever asks. Harmless after `seen_to`."""
        connection, self._connection_kept = self._connection_kept, None
        if connection is not None:
            connection.abort(ClientGone())
            connection.finish()

    def withdraw(self) -> None:
        """Leave the line, now or when it would stand there again: then `run` raises `ClientGone`."""
        self._withdrawn = True
        if self._future is not None:
            self.abort()

    async def slot(self, has_slot: bool) -> PodState:
        self._on_place(False)
        if self._withdrawn and not has_slot:
            self.abort()
        pod = await super().slot(has_slot or self._withdrawn)
        if not self._may_begin():
            self.abort()  # gives the slot back
            raise LeaseGone
        self._on_place(True)
        return pod

    # -- inside

    async def _read(self, connection: Connection, keep: int) -> tuple[bytes, int]:
        """The answer's body, its first `keep` bytes, and how long it was."""
        limit = self.gateway.settings.max_response_bytes
        body, size = bytearray(), 0
        while (chunk := await connection.chunk()) is not None:
            size += len(chunk)
            if len(body) < keep:
                body += chunk[: keep - len(body)]
            if size > limit:
                # it is not read to its end, so nothing can follow on this connection
                connection.keep_alive = False
                break
        return bytes(body), size

    def _judge(self, connection: Connection, body: bytes, size: int) -> Tried:
        limit = self.gateway.settings.max_response_bytes
        if size > limit:
            error = {"errorType": TOO_LARGE, "errorMessage": f"the answer is larger than {limit} bytes, the limit"}
            return Tried(Trouble.FUNCTION_ERROR, Outcome.FUNCTION_ERROR, function_error="Unhandled", error=error)
        if connection.pool.pod.pod.protocol == "http":
            return judge_web(connection.status, connection.headers, body, size)
        return judge_lambda(connection.status, connection.headers, body, size)

    def _failed(self, error: KappaError, outcome: Outcome) -> Tried:
        refused = self.function.function is not None and not self.function.max_replicas
        return Tried(
            Trouble.REFUSED if refused else Trouble.UNAVAILABLE,
            outcome.value,
            error={"errorType": error.error_type, "errorMessage": error.message},
            uncertain=isinstance(error, PodLost | GatewayTimeout) and self.function.protocol == "lambda",
        )


def judge_lambda(status: int, headers: list[tuple[bytes, bytes]], body: bytes, size: int) -> Tried:
    """An agent's answer, as it came or as it was kept."""
    function_error = next((value.decode("latin-1") for name, value in headers if name == _FUNCTION_ERROR), None)
    if function_error is not None:
        error = error_of(body, function_error)
        if error.get("errorType") == POD_STOPPED:
            return Tried(Trouble.UNAVAILABLE, Outcome.LOST, error=error)
        return Tried(
            Trouble.FUNCTION_ERROR,
            Outcome.FUNCTION_ERROR,
            response=body,
            response_size=size,
            function_error=function_error,
            error=error,
        )
    if status != 200:
        text = body[:500].decode("utf-8", "replace")
        error = {"errorType": "ServiceException", "errorMessage": f"the pod answered {status}: {text}"}
        return Tried(Trouble.UNAVAILABLE, Outcome.BAD_ANSWER, error=error)
    return Tried(response=body, response_size=size)


def judge_web(status: int, headers: list[tuple[bytes, bytes]], body: bytes, size: int) -> Tried:
    """A web server's answer: 2xx and 3xx are success, 429 and 503 ask for patience, all else is an error of its own."""
    if status < 400:
        return Tried(response=body, response_size=size, status_code=status)
    text = body[:500].decode("utf-8", "replace")
    error = {"errorType": f"HTTP{status}", "errorMessage": f"the web server answered {status}: {text}"}
    if status == 429 or status == 503:
        return Tried(
            Trouble.UNAVAILABLE,
            Outcome.THROTTLED,
            response=body,
            response_size=size,
            status_code=status,
            error=error,
            retry_after=_retry_after(headers),
        )
    return Tried(
        Trouble.FUNCTION_ERROR,
        Outcome.FUNCTION_ERROR,
        response=body,
        response_size=size,
        status_code=status,
        function_error="Unhandled",
        error=error,
    )


def _retry_after(headers: list[tuple[bytes, bytes]]) -> float:
    """`Retry-After` in seconds; its form as a date is left aside, and the backoff alone counts then."""
    for name, value in headers:
        if name == b"retry-after" and value.isdigit() and len(value) < 9:
            return float(value)
    return 0.0
