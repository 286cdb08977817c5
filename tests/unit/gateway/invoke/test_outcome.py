"""How an invocation that ended with an error is counted."""

import asyncio

import pytest

from kappa_core import errors
from kappa_core.errors import KappaError
from kappa_core.metrics import Outcome
from kappa_gateway.invoke.outcome import ClientGone, outcome_of


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ClientGone(), Outcome.CANCELLED),
        (asyncio.CancelledError(), Outcome.CANCELLED),
        (errors.Throttled("full"), Outcome.THROTTLED),
        (errors.QueueFull("full"), Outcome.THROTTLED),
        (errors.FunctionFailed("no image", reason="ImagePullFailed"), Outcome.FAILED),
        (errors.GatewayTimeout("late"), Outcome.TIMEOUT),
        (errors.PodLost("lost"), Outcome.LOST),
        (errors.BadAnswer("no HTTP"), Outcome.BAD_ANSWER),
        (errors.InvalidRequest("no"), Outcome.BAD_REQUEST),
        (errors.RequestTooLarge("no"), Outcome.BAD_REQUEST),
        (errors.FunctionNotFound("no"), Outcome.BAD_REQUEST),
        (errors.Unavailable("later"), Outcome.ERROR),
        (KappaError("?"), Outcome.ERROR),
        (RuntimeError("a bug"), Outcome.ERROR),
    ],
)
def test_outcomes(error, outcome):
    assert outcome_of(error) is outcome
