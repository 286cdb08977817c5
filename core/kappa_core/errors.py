"""The one tree of errors.

| error | Lambda's name (`x-amzn-errortype`) | status | retryable | when |
| --- | --- | --- | --- | --- |
| `KappaError` | ServiceException | 500 | yes | the root: catch this for everything below |
| `InvalidRequest` | InvalidParameterValueException | 400 | no | a parameter or header with an invalid value |
| `InvalidRequestContent` | InvalidRequestContentException | 400 | no | a body that must be JSON and is not |
| `RequestTooLarge` | RequestTooLargeException | 413 | no | a body over the limit |
| `FunctionNotFound` | ResourceNotFoundException | 404 | no | no such Function |
| `Throttled` | TooManyRequestsException | 429 | yes, after `retry_after` | too many requests wait, or for too long |
| `FunctionFailed` | by reason, see there | 502 | no | the Function's Ready condition says why |
| `PodLost` | ServiceException | 500 | the caller decides | the connection broke after the request was sent |
| `BadAnswer` | ServiceException | 502 | no | a function URL's answer, or a pod's, cannot be read |
| `GatewayTimeout` | ServiceException | 504 | no | the pod did not answer by the deadline |
| `Unavailable` | ServiceUnavailableException | 503 | yes | this gateway is stopping or not yet synced |
| `QueueUnavailable` | ServiceUnavailableException | 503 | yes | the queue of events cannot be reached |
| `QueueFull` | TooManyRequestsException | 429 | yes, after `retry_after` | that queue has reached its limit |

Each has a message for a person: what is wrong, where, and how to mend it. Names and statuses are those of Lambda's
Invoke API where it has them. A function error is not one of these: it is an answer with `FunctionError`.
"""

import json
from collections.abc import Callable
from typing import Final

from kappa_core.reasons import Reason


class KappaError(Exception):
    """The root of Kappa's errors."""

    status: int = 500
    error_type: str = "ServiceException"
    fault: str = "Service"
    """`User` or `Service`: the `Type` in Lambda's error JSON."""
    retryable: bool = True
    retry_after: float | None = None
    """Seconds for `Retry-After`; None: waiting does not help."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def body(self) -> dict[str, str]:
        """Lambda's error JSON. As in Lambda, only throttling has a `Reason`, and a lower-case `message`."""
        return {"Type": self.fault, "Message": self.message}


class InvalidRequest(KappaError):
    status = 400
    error_type = "InvalidParameterValueException"
    fault = "User"
    retryable = False


class InvalidRequestContent(InvalidRequest):
    error_type = "InvalidRequestContentException"


class RequestTooLarge(InvalidRequest):
    status = 413
    error_type = "RequestTooLargeException"


class FunctionNotFound(InvalidRequest):
    status = 404
    error_type = "ResourceNotFoundException"


class Throttled(KappaError):
    status = 429
    error_type = "TooManyRequestsException"
    fault = "User"

    def __init__(
        self, message: str, *, retry_after: float = 1.0, reason: str = "ConcurrentInvocationLimitExceeded"
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.reason = reason

    def body(self) -> dict[str, str]:
        return {"Type": self.fault, "Reason": self.reason, "message": self.message}


_FAILED_TYPES: Final = {
    Reason.UNKNOWN_RUNTIME: "InvalidRuntimeException",
    Reason.CODE_UNREADABLE: "InvalidZipFileException",
}


class FunctionFailed(KappaError):
    """The Function cannot run. `reason` is its Ready condition's."""

    status = 502
    retryable = False

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.error_type = next(
            (name for key, name in _FAILED_TYPES.items() if key == reason), "ResourceNotReadyException"
        )


class PodLost(KappaError):
    pass


class BadAnswer(KappaError):
    status = 502
    retryable = False


class GatewayTimeout(KappaError):
    status = 504
    retryable = False


class Unavailable(KappaError):
    status = 503
    error_type = "ServiceUnavailableException"
    retry_after = 1.0


class QueueUnavailable(Unavailable):
    """The queue cannot be reached or does not answer in time; the message says which, and how to mend it."""


class QueueFull(Throttled):
    """The queue has reached its limit of bytes or events."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after=10.0, reason="QueueFull")


def encode(error: KappaError) -> bytes:
    """JSON, for another gateway: `{"error": class name, "message": …, "reason": …, "retryAfter": seconds or null}`."""
    return json.dumps(
        {
            "error": type(error).__name__,
            "message": error.message,
            "reason": str(getattr(error, "reason", "")),
            "retryAfter": error.retry_after,
        }
    ).encode()


def decode(body: bytes) -> KappaError:
    """The error that `encode` was given; for what cannot be read, or is unknown here, the root of them."""
    try:
        said = json.loads(body)
        kind, message, reason = said["error"], str(said["message"]), str(said["reason"])
        if kind == Throttled.__name__:
            return Throttled(message, retry_after=float(said["retryAfter"] or 1.0), reason=reason)
        if kind == FunctionFailed.__name__:
            return FunctionFailed(message, reason=reason)
        return _KINDS.get(kind, KappaError)(message)
    except (ValueError, KeyError, TypeError):
        return KappaError("another gateway answered with an error that cannot be read")


_KINDS: Final[dict[str, Callable[[str], KappaError]]] = {
    kind.__name__: kind
    for kind in (
        InvalidRequest,
        InvalidRequestContent,
        RequestTooLarge,
        FunctionNotFound,
        Throttled,
        PodLost,
        BadAnswer,
        GatewayTimeout,
        Unavailable,
    )
}
