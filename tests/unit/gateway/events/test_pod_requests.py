"""What is sent to a pod for an event."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_core.event import Event, Kind, Lane
from kappa_gateway.events.pod_requests import UnreadableEvent, lambda_request, web_request
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


def test_a_lambda_request(function):
    request = lambda_request(event(b"[1]", x_amzn_trace_id="Root=1", hops="3", purpose="onSuccess"), 2)
    assert lines(request.head(function)) == [
        "POST /x HTTP/1.1",
        "Host: f",
        "Kappa-Request-Id: id",
        "Kappa-Attempt: 2",
        "x-amzn-trace-id: Root=1",
        "Content-Length: 3",
    ]
    assert request.body == b"[1]"


def test_a_web_request(function):
    headers = json.dumps([["host", "h"], ["x-a", "1"], ["x-a", "2"], ["Content-Length", "999"]])
    request = web_request(web_event(method="PUT", target="/a?b", headers=headers))
    assert lines(request.head(function)) == [
        "PUT /a?b HTTP/1.1",
        "host: h",
        "x-a: 1",
        "x-a: 2",
        "Kappa-Request-Id: id",
        "content-length: 4",
    ]
    assert request.idempotent
    assert not web_request(web_event(method="POST", target="/")).idempotent
    assert web_request(web_event(method="HEAD", target="/")).is_head


def test_a_record_for_a_web_server_is_posted(function):
    head = lines(web_request(event(b"{}", hops="1")).head(function))
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
    with pytest.raises(UnreadableEvent):
        web_request(web_event(**bad))


@given(st.text(), st.text())
def test_nothing_in_an_event_adds_a_header(value, id):
    function = FunctionState("default", "f")
    function.request_head = b"POST /x HTTP/1.1\r\nKappa-Request-Id: "
    try:
        request = lambda_request(event(id=id, x_amzn_trace_id=value), 1)
    except UnreadableEvent:
        return
    assert len(lines(request.head(function))) == (5 if value else 4)
