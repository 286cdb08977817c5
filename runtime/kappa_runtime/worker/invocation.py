"""One invocation on its way through the agent, and the answer to it."""

from __future__ import annotations

from kappa_runtime.io.loop import TimerHandle
from kappa_runtime.worker.logs import LogTail

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from typing import Protocol
else:
    Protocol = object


class Answer:
    """What the gateway gets. `error` is empty, or what `X-Amz-Function-Error` says."""

    __slots__ = ("body", "content_type", "duration_ms", "error", "init_ms", "log_result", "opening")

    def __init__(
        self,
        body: bytes,
        *,
        content_type: bytes = b"application/json",
        error: bytes = b"",
        duration_ms: float = 0.0,
        init_ms: float | None = None,
        log_result: bytes = b"",
        opening: bytes = b"",
    ) -> None:
        self.body = body
        self.content_type = content_type
        self.error = error
        self.duration_ms = duration_ms
        self.init_ms = init_ms
        """How long the start of the runtime process took, on its first answer."""
        self.log_result = log_result
        self.opening = opening
        """With `init_ms`: the phases before it, as `wire.PHASES` begins."""


UNHANDLED = b"Unhandled"


class Caller(Protocol):
    """Where an answer goes; gone callers are no error."""

    def answer(self, invocation: Invocation, answer: Answer) -> None: ...


class Invocation:
    __slots__ = (
        "arn",
        "caller",
        "client_context",
        "cognito_identity",
        "deadline_ms",
        "event",
        "limit",
        "request_id",
        "started",
        "tail",
        "timer",
        "trace_id",
    )

    def __init__(self, request_id: str, event: bytes, caller: Caller) -> None:
        self.request_id = request_id
        self.event = event
        self.caller = caller
        self.arn = b""
        self.trace_id = b""
        self.client_context = b""
        """JSON on one line, ASCII; empty: none."""
        self.cognito_identity = b""
        self.deadline_ms = 0
        """When the caller gives up, epoch milliseconds; 0: it does not say."""
        self.tail: LogTail | None = None
        self.started = 0.0
        """By `time.perf_counter`, when a runtime process got it."""
        self.limit = 0.0
        """Seconds from `started` until it is ended."""
        self.timer: TimerHandle | None = None
        """While it waits for a runtime process."""
