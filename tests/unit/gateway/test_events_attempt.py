"""What is sent to a pod for an event, and what its answer means."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_core.event import Event, Kind, Lane, Trouble
from kappa_gateway.events.attempt import judge_lambda, judge_web, lambda_call, web_call
from kappa_gateway.events.tries import MAX_ERROR_BYTES, Unreadable, error_of
from kappa_gateway.pods.state import FunctionState

LANE = Lane(Kind.INVOCATION, "default", "f")


def event(payload=b"{}", id="id", **attributes):
    return Event(id, LANE, payload, 0.0, {name.replace("_", "-"): value for name, value in attributes.items()})


def web_event(**attributes):
    return Event("id", LANE, b"body", 0.0, {f"http.{name}": value for name, value in attributes.items()})


def lines(head):
    assert head.endswith(b"\r\n\r\n")
    return head[:-4].decode("latin-1").split("\r\n")


@pytest.fixture
def function():
    function = FunctionState("default", "f")
    function.request_head = b"POST /x HTTP/1.1\r\nHost: f\r\nKappa-Request-Id: "
    return function


def test_a_lambda_call(function):
    call = lambda_call(event(b"[1]", x_amzn_trace_id="Root=1", hops="3", purpose="onSuccess"), 2)
    assert lines(call.head(function)) == [
        "POST /x HTTP/1.1",
        "Host: f",
        "Kappa-Request-Id: id",
        "Kappa-Attempt: 2",
        "x-amzn-trace-id: Root=1",
        "Content-Length: 3",
    ]
    assert call.body == b"[1]"


def test_a_web_call(function):
    headers = json.dumps([["host", "h"], ["x-a", "1"], ["x-a", "2"], ["Content-Length", "999"]])
    call = web_call(web_event(method="PUT", target="/a?b", headers=headers))
    assert lines(call.head(function)) == [
        "PUT /a?b HTTP/1.1",
        "host: h",
        "x-a: 1",
        "x-a: 2",
        "Kappa-Request-Id: id",
        "content-length: 4",
    ]
    assert call.idempotent
    assert not web_call(web_event(method="POST", target="/")).idempotent
    assert web_call(web_event(method="HEAD", target="/")).is_head


def test_a_record_for_a_web_server_is_posted(function):
    head = lines(web_call(event(b"{}", hops="1")).head(function))
    assert head[0] == "POST / HTTP/1.1"
    assert "content-type: application/json" in head
    assert "host: f.default" in head


@pytest.mark.parametrize(
    "bad",
    [
        {"method": "GET /\r\nx: y", "target": "/"},
        {"method": "GET", "target": "/ HTTP/1.1\r\nx: y"},
        {"method": "GET", "target": "no-slash"},
        {"method": "GET", "target": "/", "headers": "no json"},
        {"method": "GET", "target": "/", "headers": "5"},
        {"method": "GET", "target": "/", "headers": '{"a": "b"}'},
        {"method": "GET", "target": "/", "headers": '[["x", "1\\r\\ny: 2"]]'},
        {"method": "GET", "target": "/", "headers": '[["x: y", "1"]]'},
        {"method": "GET", "target": "/", "headers": '[["x", "\\u2603"]]'},
    ],
)
def test_what_is_no_request_is_refused(bad):
    with pytest.raises(Unreadable):
        web_call(web_event(**bad))


@given(st.text(), st.text())
def test_nothing_in_an_event_adds_a_header(value, id):
    function = FunctionState("default", "f")
    function.request_head = b"POST /x HTTP/1.1\r\nKappa-Request-Id: "
    try:
        call = lambda_call(event(id=id, x_amzn_trace_id=value), 1)
    except Unreadable:
        return
    assert len(lines(call.head(function))) == (5 if value else 4)


ERROR = (b"x-amz-function-error", b"Unhandled")


def test_an_agents_answer():
    assert judge_lambda(200, [], b"1", 1).trouble is None
    tried = judge_lambda(200, [ERROR], b'{"errorType": "E", "errorMessage": "m", "stackTrace": []}', 9)
    assert tried.trouble is Trouble.FUNCTION_ERROR
    assert tried.error == {"errorType": "E", "errorMessage": "m", "stackTrace": []}
    assert (tried.function_error, tried.response is not None) == ("Unhandled", True)
    assert judge_lambda(502, [], b"oops", 4).trouble is Trouble.UNAVAILABLE


def test_a_pod_that_had_to_stop_is_not_the_functions_fault():
    assert judge_lambda(200, [ERROR], b'{"errorType": "Kappa.PodStopped"}', 9).trouble is Trouble.UNAVAILABLE


@pytest.mark.parametrize("status", [200, 204, 302, 399])
def test_a_web_servers_success(status):
    assert judge_web(status, [], b"", 0).trouble is None


@pytest.mark.parametrize("status", [400, 404, 418, 500, 502, 599])
def test_a_web_servers_error(status):
    tried = judge_web(status, [], b"why", 3)
    assert (tried.trouble, tried.status_code) == (Trouble.FUNCTION_ERROR, status)
    assert "why" in tried.error["errorMessage"]


@pytest.mark.parametrize(
    ("value", "seconds"), [(b"7", 7.0), (b"Fri, 31 Dec 1999 23:59:59 GMT", 0.0), (b"-1", 0.0), (b"9" * 99, 0.0)]
)
def test_a_web_servers_patience(value, seconds):
    tried = judge_web(429, [(b"retry-after", value)], b"", 0)
    assert (tried.trouble, tried.retry_after) == (Trouble.UNAVAILABLE, seconds)
    assert judge_web(503, [], b"", 0).retry_after == 0.0


@given(st.binary())
def test_an_error_is_always_an_object(body):
    assert isinstance(error_of(body, "Unhandled"), dict)


def test_a_huge_or_deep_error_is_kept_as_text():
    for body in (b'{"errorMessage": "%b"}' % (b"x" * MAX_ERROR_BYTES), b"[" * 50_000):
        error = error_of(body, "Unhandled")
        assert error["errorType"] == "Unhandled"
        assert len(error["errorMessage"]) <= MAX_ERROR_BYTES
