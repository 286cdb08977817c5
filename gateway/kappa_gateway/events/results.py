"""The results of an event's run, as values that `event_run` matches in one place. Pure."""

import json
from dataclasses import dataclass
from typing import Any, Final

from kappa_core import wire
from kappa_core.event import Trouble
from kappa_core.metrics import Outcome

MAX_ERROR_BYTES: Final = 64 * 1024
"""Of a function's error JSON; the text of a longer one is cut. It is kept with the event, in the queue."""
POD_STOPPED: Final = "Kappa.PodStopped"
"""The agent's own error for what ran when its pod had to stop: not the function's fault."""

_FUNCTION_ERROR: Final = wire.FUNCTION_ERROR.lower().encode()


@dataclass(frozen=True, slots=True)
class Result:
    """An attempt was made. Success without `trouble`; else `error` is `{"errorType", "errorMessage", …}`."""

    trouble: Trouble | None = None
    reason: str = ""
    """`Outcome`'s word for the trouble."""
    response: bytes | None = None
    """What the function answered, an error too; None: it did not answer."""
    response_size: int = 0
    """Bytes; more than `response` has where only the beginning was kept."""
    status_code: int = 200
    function_error: str | None = None
    error: dict[str, Any] | None = None
    retry_after: float = 0.0
    """Seconds that a web server asked for."""
    uncertain: bool = False
    """Whether the function may have run, or may run still: its pods must be asked before it is run again."""


@dataclass(frozen=True, slots=True)
class AlreadyEnded:
    """It has a final record: another gateway ended it, or this one did before the queue or the gateway crashed."""


@dataclass(frozen=True, slots=True)
class Expired:
    """It is too old for another attempt."""

    max_age: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class NoFunction:
    """Its function does not exist now; it may be applied again."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """It cannot be run: another version wrote it, or it is broken."""

    reason: str


@dataclass(frozen=True, slots=True)
class SettledElsewhere:
    """A gateway whose lease expired has settled this attempt all the same."""

    delay: float
    """Seconds until the next one is due."""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """It was withdrawn while it waited for a slot: nothing was sent."""


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """Another gateway may hold it by now, and is the one to go on with it."""


NotBegun = NoFunction | Withdrawn | LeaseLost
RunOutcome = Result | AlreadyEnded | Expired | Unreadable | SettledElsewhere | NotBegun


# -- what an answer means


def lambda_result(status: int, headers: list[tuple[bytes, bytes]], body: bytes, size: int) -> Result:
    """The result of an agent's answer, whether it came directly or had been kept. `body` is the first part of `size`
    bytes."""
    function_error = next((value.decode("latin-1") for name, value in headers if name == _FUNCTION_ERROR), None)
    if function_error is not None:
        error = error_of(body, function_error)
        if error.get("errorType") == POD_STOPPED:
            return Result(Trouble.UNAVAILABLE, Outcome.LOST, error=error)
        return Result(
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
        return Result(Trouble.UNAVAILABLE, Outcome.BAD_ANSWER, error=error)
    return Result(response=body, response_size=size)


def web_result(status: int, headers: list[tuple[bytes, bytes]], body: bytes, size: int) -> Result:
    """Of a web server's answer: 2xx and 3xx are success, 429 and 503 ask for patience, all else is its error."""
    if status < 400:
        return Result(response=body, response_size=size, status_code=status)
    is_busy = status == 429 or status == 503
    text = body[:500].decode("utf-8", "replace")
    return Result(
        Trouble.UNAVAILABLE if is_busy else Trouble.FUNCTION_ERROR,
        Outcome.THROTTLED if is_busy else Outcome.FUNCTION_ERROR,
        response=body,
        response_size=size,
        status_code=status,
        function_error=None if is_busy else "Unhandled",
        error={"errorType": f"HTTP{status}", "errorMessage": f"the web server answered {status}: {text}"},
        retry_after=_retry_after(headers) if is_busy else 0.0,
    )


def error_of(body: bytes, function_error: str) -> dict[str, Any]:
    """A function's error as the queue keeps it: its JSON, or its text if it is not a JSON object."""
    if len(body) <= MAX_ERROR_BYTES:
        try:
            found = json.loads(body)
            if isinstance(found, dict):
                return found
        except (ValueError, RecursionError):
            pass
    return {"errorType": function_error, "errorMessage": body[:MAX_ERROR_BYTES].decode("utf-8", "replace")}


def _retry_after(headers: list[tuple[bytes, bytes]]) -> float:
    """`Retry-After` in seconds. Its form as a date is ignored: then only the backoff counts."""
    for name, value in headers:
        if name == b"retry-after" and value.isdigit() and len(value) < 9:
            return float(value)
    return 0.0
