"""Waiting for the end of an asynchronous invocation."""

from typing import Any

import pytest

from kappa_cli.api import async_api
from kappa_cli.api.async_api import UNREACHABLE_TIMEOUT, AsyncApi
from kappa_cli.api.client import NOT_FOUND, NOT_REACHED, REFUSED, CallError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


class Reply:
    def __init__(self, status: str) -> None:
        self._status = status

    def json(self) -> Any:
        return {"status": self._status}


def answering(monkeypatch: pytest.MonkeyPatch, *answers: str | CallError) -> None:
    """The gateway answers with these in turn, and then with the last one."""
    left = list(answers)

    def call(*_: Any) -> Reply:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, CallError):
            raise answer
        return Reply(answer)

    monkeypatch.setattr(async_api, "call", call)


def wait(clock: Clock, timeout: float = 1000.0) -> Any:
    return AsyncApi("http://gateway", "hello", None).wait("id", timeout, clock=clock, sleep=clock.sleep)


def test_it_looks_less_and_less_often_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, *["queued"] * 12, "succeeded")
    clock = Clock()
    assert wait(clock) == {"status": "succeeded"}
    assert clock.pauses == sorted(clock.pauses)
    assert (clock.pauses[0], clock.pauses[-1]) == (0.1, 2.0)


@pytest.mark.parametrize("away", [CallError("no", NOT_REACHED), CallError("g answered 503: no", REFUSED)])
def test_a_gateway_that_is_replaced_is_asked_again(monkeypatch: pytest.MonkeyPatch, away: CallError) -> None:
    answering(monkeypatch, "running", away, away, "failed")
    assert wait(Clock()) == {"status": "failed"}


def test_a_gateway_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, CallError("nothing listens", NOT_REACHED))
    clock = Clock()
    with pytest.raises(CallError, match="nothing listens"):
        wait(clock)
    assert UNREACHABLE_TIMEOUT < clock.now < UNREACHABLE_TIMEOUT + 3


def test_an_unknown_invocation_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, CallError("unknown", NOT_FOUND))
    clock = Clock()
    with pytest.raises(CallError, match="unknown"):
        wait(clock)
    assert clock.pauses == []


def test_the_timeout_says_how_it_was_last(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, "running")
    with pytest.raises(CallError, match="it has not ended within 5s: it is running") as caught:
        wait(Clock(), 5.0)
    assert caught.value.exit_code == REFUSED
