"""How invocations end that do not end with an answer."""

import asyncio

from kappa_core.errors import (
    BadAnswer,
    FunctionFailed,
    GatewayTimeout,
    InvalidRequest,
    KappaError,
    PodLost,
    Throttled,
)
from kappa_core.metrics import Outcome


class ClientGone(KappaError):
    """The caller closed the connection: no answer can reach it."""

    def __init__(self) -> None:
        super().__init__("the caller closed the connection")


def outcome_of(error: BaseException) -> Outcome:
    """How an invocation that ended with this error is counted."""
    match error:
        case ClientGone() | asyncio.CancelledError():
            return Outcome.CANCELLED
        case Throttled():
            return Outcome.THROTTLED
        case FunctionFailed():
            return Outcome.FAILED
        case GatewayTimeout():
            return Outcome.TIMEOUT
        case PodLost():
            return Outcome.LOST
        case BadAnswer():
            return Outcome.BAD_ANSWER
        case InvalidRequest():
            return Outcome.BAD_REQUEST
        case _:
            return Outcome.ERROR
