"""Errors in Lambda's form, whom they reach, and what of them is a warning."""

import logging
import uuid

import pytest
from gateway_fakes import Call, manifest

from kappa_core import errors
from kappa_core.errors import KappaError
from kappa_gateway.edge.answers import BrokenAnswer, answer_error, log_error, new_request_id, send_error
from kappa_gateway.edge.asgi import REQUEST_ID
from kappa_gateway.invoke.outcome import ClientGone
from kappa_gateway.pods.state import FunctionState


def test_request_ids_are_uuids_and_no_two_are_alike():
    made = [new_request_id() for _ in range(2000)]
    assert len(set(made)) == 2000
    for text in made:
        parsed = uuid.UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 4, uuid.RFC_4122)


@pytest.mark.parametrize(
    ("error", "status", "kind", "retry_after", "closes"),
    [
        (errors.Throttled("full", retry_after=2.2), 429, "TooManyRequestsException", "3", False),
        (errors.FunctionNotFound("no"), 404, "ResourceNotFoundException", None, False),
        (errors.RequestTooLarge("no"), 413, "RequestTooLargeException", None, True),
        (errors.PodLost("lost"), 500, "ServiceException", None, False),
    ],
)
async def test_an_error_in_lambdas_form(error, status, kind, retry_after, closes):
    call = Call("POST", "/")
    await send_error(call.send, error, "id-1")
    assert (call.status, call.headers["x-amzn-errortype"], call.headers["x-amzn-requestid"]) == (status, kind, "id-1")
    assert call.json() == error.body()
    assert int(call.headers["content-length"]) == len(call.body)
    assert call.headers.get("retry-after") == retry_after
    assert (call.headers.get("connection") == "close") is closes


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_answer_to_head_has_the_length_and_no_body(method):
    call = Call(method, "/")
    await answer_error(call.scope, call.send, errors.FunctionNotFound("no"), "id-1", None)
    assert int(call.headers["content-length"]) > 0
    assert bool(call.body) is (method == "GET")


async def test_nobody_is_left_to_be_answered():
    call = Call("GET", "/")
    await answer_error(call.scope, call.send, ClientGone(), "id-1", None)
    assert (call.status, call.client.aborted) == (0, False)


@pytest.mark.parametrize("error", [BrokenAnswer(errors.PodLost("lost")), RuntimeError("a bug")])
async def test_an_answer_that_has_begun_can_only_be_broken_off(error):
    call = Call("GET", "/")
    await call.send({"type": "http.response.start", "status": 200, "headers": []})
    await answer_error(call.scope, call.send, error, "id-1", None)
    assert (call.client.aborted, call.is_complete) == (True, False)


async def test_a_bug_says_where_to_look_and_no_more():
    call = Call("GET", "/")
    call.scope[REQUEST_ID] = "id-of-the-key"
    await answer_error(call.scope, call.send, RuntimeError("secret"), "id-1", None)
    assert call.status == 500
    assert "id-of-the-key" in call.json()["Message"]
    assert b"secret" not in call.body


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (errors.InvalidRequest("no"), logging.DEBUG),
        (errors.Throttled("full"), logging.DEBUG),
        (errors.FunctionFailed("no image", reason="ImagePullFailed"), logging.DEBUG),
        (ClientGone(), logging.DEBUG),
        (errors.PodLost("lost"), logging.WARNING),
        (errors.GatewayTimeout("late"), logging.WARNING),
        (KappaError("?"), logging.WARNING),
    ],
)
def test_what_is_the_platforms_fault_is_a_warning(error, level, caplog):
    function = FunctionState("default", "hello")
    function.apply(manifest())
    with caplog.at_level(logging.DEBUG):
        log_error(error, "id-1", function)
    (record,) = caplog.records
    assert (record.levelno, record.function, record.request_id) == (level, "default/hello", "id-1")
